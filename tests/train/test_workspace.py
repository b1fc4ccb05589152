from __future__ import annotations

import pytest

from device_runtime.errors import BusyError, UsageError
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
        ('format = 1\n[class.field]\nquota_bytes = "1 MiB"', "must be at least 34,603,008"),
        ("format = 1\n[class.field]\nquota_bytes = 0", "1 MiB more than reserve_bytes"),
        ('format = 1\n[class.field]\nstrict = "yes"', "strict must be a bool"),
        ('format = 1\n[class.field]\ndurability = "never"', "durability must be"),
        ('format = 1\n[class.field]\nrecipients = ["00"]', "unknown fields: recipients"),
        ("format = 1\nextra = 1\n[class.Field]", "unknown key extra"),
        ("format = ", "not valid TOML"),
    ],
)
def test_mistakes_in_edgepack_toml_are_named(tmp_path, text, named):
    ws = Workspace.create(tmp_path / "ws")
    (ws.root / "edgepack.toml").write_text(text)
    with pytest.raises(WorkspaceError, match=r"edgepack\.toml") as caught:
        Workspace.find(ws.root)
    assert named in caught.value.what


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
