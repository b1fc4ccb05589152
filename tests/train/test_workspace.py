from __future__ import annotations

from dataclasses import fields

import pytest

from device_runtime.errors import BusyError, UsageError
from device_runtime.policy import Policy
from edgepack.classes import RANGES, read_classes
from edgepack.errors import KeyringError, WorkspaceError
from edgepack.workspace import Workspace, ask_passphrase


def test_a_workspace_is_found_from_any_folder_inside(tmp_path):
    ws = Workspace.create(tmp_path / "ws")
    assert Workspace.find(ws.out).root == ws.root
    assert ws.classes["field"].policy.quota_bytes == 2 << 30


def test_no_workspace_is_one_line(tmp_path):
    with pytest.raises(WorkspaceError, match="not inside a workspace"):
        Workspace.find(tmp_path)


def test_a_workspace_inside_another_is_refused(tmp_path):
    ws = Workspace.create(tmp_path / "ws")
    with pytest.raises(WorkspaceError, match="inside the workspace"):
        Workspace.create(ws.root / "bundles" / "inner")


def test_what_lies_inside_is_judged_without_links_and_dots(tmp_path, monkeypatch):
    ws = Workspace.create(tmp_path / "ws")
    monkeypatch.chdir(ws.out)
    assert Workspace.create("../../beside").root == tmp_path / "beside"
    (tmp_path / "link").symlink_to(ws.out)
    with pytest.raises(WorkspaceError, match="inside the workspace"):
        Workspace.create(tmp_path / "link" / "inner")


def test_a_workspace_that_is_not_there_is_not_the_one_around_it(tmp_path, monkeypatch):
    monkeypatch.chdir(Workspace.create(tmp_path / "ws").root)
    for typed in ("nowhere", "../nowhere"):
        with pytest.raises(WorkspaceError, match="there is no folder"):
            Workspace.find(typed)


def test_a_folder_with_files_is_refused(tmp_path):
    (tmp_path / "letter.txt").write_text("keep me")
    with pytest.raises(WorkspaceError, match="not empty"):
        Workspace.create(tmp_path)
    with pytest.raises(WorkspaceError, match="is a file"):
        Workspace.create(tmp_path / "letter.txt")


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("format = 1", "at least one"),
        ("format = 2\n[class.field]", "format must be 1"),
        ("format = 1\n[class.field]\nquota = 3", "unknown fields: quota"),
        ('format = 1\n[class.field]\nquota_bytes = "much"', "not a size"),
        ('format = 1\n[class.field]\nquota_bytes = "1 MiB"', "must be 34,603,008 to"),
        ("format = 1\n[class.field]\nquota_bytes = 0", "1 MiB more than reserve_bytes"),
        ('format = 1\n[class.field]\nstrict = "yes"', "strict must be a bool"),
        ('format = 1\n[class.field]\ndurability = "never"', "durability must be"),
        ('format = 1\n[class.field]\nrecipients = ["00"]', "unknown fields: recipients"),
        ("format = 1\nextra = 1\n[class.Field]", "unknown key extra"),
        ("format = 1\n[class.field]\nquota_bytes = -1", "more than reserve_bytes), not -1"),
        ('format = 1\n[class.field]\nquota_bytes = "1.2.3 GiB"', "not a size such as 512 MiB"),
        (f'format = 1\n[class.field]\nquota_bytes = "{"9" * 400}"', "not a size such as"),
        ("format = 1\n[class.field]\nreserve_bytes = -99", "reserve_bytes must be 65,536 to"),
        ("format = 1\n[class.field]\nsegment_bytes = 16", "must be 65,536 to 134,217,728, not 16"),
        ('format = 1\n[class.field]\nsegment_bytes = "1 GiB"', "segment_bytes must be"),
        ("format = 1\n[class.field]\nsegment_seconds = 0", "segment_seconds must be 1 to"),
        ("format = 1\n[class.field]\ngroup_ms = -5", "group_ms must be 1 to 3,600,000, not -5"),
        ("format = 1\n[class.field]\nmax_attempts = 0", "max_attempts must be 1 to"),
        ("format = 1\n[class.field]\nmax_bundle_bytes = 5_000_000_000", "to 4,294,967,295, not"),
        ("format = 1\n[class.field]\npsi_cold = nan", "(no less than psi_cooling), not nan"),
        ("format = 1\n[class.field]\nselftest_factor = inf", "selftest_factor must be"),
        ("format = 1\n[class.field]\npsi_cooling = 0.5", "psi_cold must be 0.5 to 1,000 (no less"),
        ("format = 1\n[class.field]\ncold_days = 30", "cold_days must be 60 to"),
        ('format = 1\n[class.field]\noperators = "ai.onnx:*"', "operators must be a list of texts"),
        ("format = ", "not valid TOML"),
    ],
)
def test_mistakes_in_edgepack_toml_are_named(tmp_path, text, named):
    ws = Workspace.create(tmp_path / "ws")
    (ws.root / "edgepack.toml").write_text(text)
    with pytest.raises(WorkspaceError, match=r"edgepack\.toml") as caught:
        Workspace.find(ws.root)
    assert named in caught.value.what


def test_every_mistake_of_every_class_is_named_at_once(tmp_path):
    ws = Workspace.create(tmp_path / "ws")
    text = "format = 1\n[class.a]\ngroup_ms = 0\nthreads = 0\n[class.b]\nmax_queue = 0\n"
    (ws.root / "edgepack.toml").write_text(text)
    with pytest.raises(WorkspaceError) as caught:
        Workspace.find(ws.root)
    assert caught.value.what.endswith(
        "edgepack.toml: [class.a] threads must be 1 to 1,024, not 0; "
        "[class.a] group_ms must be 1 to 3,600,000, not 0; [class.b] max_queue must be 1 to "
        "4,096, not 0"
    )


def test_every_number_of_a_policy_has_its_range(tmp_path):
    policy = Policy("field")
    numbers = [
        item.name for item in fields(Policy) if type(getattr(policy, item.name)) in (int, float)
    ]
    assert list(RANGES) == numbers
    assert all(low <= getattr(policy, name) <= high for name, (low, high) in RANGES.items())
    edges = "".join(
        f"{name} = {low}\n" for name, (low, _) in RANGES.items() if name != "quota_bytes"
    )
    config = tmp_path / "edgepack.toml"
    config.write_text(f"format = 1\n[class.field]\n{edges}quota_bytes = 1_114_112\n")
    assert read_classes(config)["field"].policy.reserve_bytes == 65_536


def test_which_recipe_must_be_clear(tmp_path):
    ws = Workspace.create(tmp_path / "ws")
    with pytest.raises(UsageError, match="none"):
        ws.recipe_folder()
    for name in ("one", "two"):
        (ws.recipes / name).mkdir()
        (ws.recipes / name / "bundle.toml").write_text("")
    with pytest.raises(UsageError, match="one, two"):
        ws.recipe_folder()
    with pytest.raises(UsageError, match="no recipe three"):
        ws.recipe_folder("three")
    assert ws.recipe_folder("two").name == "two"


def test_two_commands_do_not_change_a_workspace_at_once(tmp_path):
    ws = Workspace.create(tmp_path / "ws")
    with ws.lock(), pytest.raises(BusyError), ws.lock():
        pass


def test_without_terminal_or_variable_there_is_no_passphrase(monkeypatch):
    monkeypatch.delenv("EDGEPACK_PASSPHRASE", raising=False)
    with pytest.raises(KeyringError, match="no passphrase"):
        ask_passphrase("?")
    monkeypatch.setenv("EDGEPACK_PASSPHRASE", "")
    with pytest.raises(KeyringError, match="empty"):
        ask_passphrase("?")
