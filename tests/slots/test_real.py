"""Install, load, answer: real signed bundles, real models, the real self-test, on the real disk."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from device_runtime.errors import (
    AdmissionError,
    DigestMismatchError,
    FormatError,
    IncompatibleError,
    ModelLoadError,
    RevokedError,
    SelfTestError,
    VerificationError,
)
from device_runtime.home import Home
from device_runtime.slots import install as installer
from device_runtime.slots import slot
from device_runtime.slots.install import downgrade, install
from support import realbundle, trustsim


@pytest.fixture
def base(tmp_path) -> trustsim.Base:
    return trustsim.Base.at(tmp_path / "ws")


@pytest.fixture
def home(base, tmp_path) -> Home:
    return realbundle.new_home(base, tmp_path / "home")


def put(home: Home, file: Path, **kwargs):
    with home.lock():
        return install(home, file, **kwargs)


def runs(home: Home, rows: int = 0) -> float:
    """Start, answer, and return the slope of the model that runs."""
    with home.lock():
        started = slot.begin_load(home)
        answer = realbundle.ask(started.slot)
        started.first_result()
        started.ripen(rows)
        started.close()
    return answer


def test_install_load_and_answer(base, home):
    first = put(home, realbundle.sound(base))
    assert first.outcome == "installed"
    assert runs(home, 1000) == 1.0
    second = put(home, realbundle.sound(base, 2.0))
    assert second.version == first.version + 1
    assert runs(home) == 2.0
    states = {s.version: s.state for s in home.generation().slots}
    assert states == {first.version: "good", second.version: "trial"}


def test_a_damaged_copy_of_the_installed_bundle_is_named_when_it_is_installed_by_hand(base, home):
    """A visit of a stick only asks what is new; a person who names a file asks about that file."""
    file = realbundle.sound(base)
    put(home, file)
    assert runs(home, 1000) == 1.0
    data = bytearray(file.read_bytes())
    data[data.find(realbundle.model(1.0)[:200]) + 150] ^= 1
    file.write_bytes(data)
    assert put(home, file).outcome == "already"
    with pytest.raises(DigestMismatchError):
        put(home, file, whole=True)
    assert runs(home) == 1.0


def test_a_model_that_answers_otherwise_here_is_rejected_and_the_old_one_runs_on(base, home):
    put(home, realbundle.sound(base))
    assert runs(home, 1000) == 1.0
    bad = realbundle.publish(base, realbundle.files(realbundle.model(3.0), shift=1e-3))
    with pytest.raises(SelfTestError, match="answered differently"):
        put(home, bad)
    assert put(home, bad).outcome == "rejected-before"
    assert runs(home) == 1.0
    with pytest.raises(SelfTestError):
        put(home, bad, retry=True)


def test_a_graph_that_hides_operators_is_refused_before_it_is_loaded(base, home):
    files = realbundle.files(realbundle.model(), operators=("ai.onnx:Mul",))
    with pytest.raises(AdmissionError):
        put(home, realbundle.publish(base, files))
    assert home.generation().slots == ()


def test_a_payload_that_is_no_model_is_refused_and_remembered(base, home):
    file = realbundle.publish(base, realbundle.files(b"not a model" * 10, test=b""))
    with pytest.raises(AdmissionError):
        put(home, file)
    assert put(home, file).outcome == "rejected-before"


@pytest.mark.parametrize(
    ("changes", "error", "says"),
    [
        ({"peak_rss_bytes": 1 << 50}, AdmissionError, "memory"),
        ({"min_onnxruntime": "99.1"}, IncompatibleError, "onnxruntime 99.1"),
        ({"operators": ("evil:Op",)}, AdmissionError, "evil"),
        ({"opsets": {"ai.onnx": 999}}, AdmissionError, "999"),
        ({"ir_version": 999}, AdmissionError, "999"),
    ],
)
def test_what_this_device_cannot_run_is_refused_before_a_byte_is_copied(
    base, home, changes, error, says
):
    file = realbundle.publish(base, realbundle.files(realbundle.model(), **changes))
    steps = installer.Steps(copy=lambda *_: pytest.fail("copied"))
    with pytest.raises(error, match=says):
        put(home, file, steps=steps)
    assert home.generation().rejected == frozenset()


def test_the_ram_of_the_class_counts(base, tmp_path):
    home = realbundle.new_home(base, tmp_path / "small", ram_bytes=100 << 20)
    with pytest.raises(AdmissionError, match="100 MiB"):
        put(home, realbundle.sound(base))


def test_no_room_says_how_much_is_missing(base, home, monkeypatch):
    monkeypatch.setattr(home.disk, "free_bytes", lambda path: 5 << 20, raising=False)
    with pytest.raises(AdmissionError, match=r"5\.0 MiB are free"):
        put(home, realbundle.sound(base))


def test_a_bundle_for_another_class_or_name_is_refused(base, tmp_path):
    home = realbundle.new_home(base, tmp_path / "other")
    file = base.publish("other", model=b"x")
    with pytest.raises(IncompatibleError, match="other"):
        put(home, file)


def test_rotated_keys_never_disable_an_installed_slot(base, home):
    put(home, realbundle.sound(base))
    assert runs(home, 1000) == 1.0
    base.rotate("targets")
    base.rotate("root")
    second = put(home, realbundle.sound(base, 2.0))
    assert runs(home) == 2.0
    with home.lock():
        for _ in range(3):
            started = slot.begin_load(home)
            started.failed(ModelLoadError("it does not open"))
    assert runs(home) == 1.0
    assert second.digest in home.generation().rejected


def test_a_flipped_byte_in_a_slot_never_runs(base, home):
    put(home, realbundle.sound(base))
    assert runs(home, 1000) == 1.0
    newer = put(home, realbundle.sound(base, 2.0))
    assert runs(home, 1000) == 2.0
    path = home.slot_dir(newer.digest) / "model.onnx"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert runs(home) == 1.0
    assert home.generation().slot(newer.digest).state == "suspended"


def test_loading_a_slot_does_not_import_the_tuf_client(base, home):
    import subprocess

    put(home, realbundle.sound(base))
    code = (
        "import sys\nfrom pathlib import Path\n"
        "from device_runtime.clock import SystemClock\nfrom device_runtime.disk import RealDisk\n"
        "from device_runtime.home import open_home\n"
        "from device_runtime.slots.slot import begin_load\n"
        "home = open_home(Path(sys.argv[1]), disk=RealDisk(), clock=SystemClock())\n"
        "with home.lock():\n    begin_load(home).close()\n"
        "heavy = {'tuf', 'securesystemslib', 'numpy', 'onnxruntime'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(home.root)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_a_signed_downgrade_acts_once_and_the_stick_does_not_bring_the_bad_one_back(base, home):
    first = put(home, realbundle.sound(base))
    assert runs(home, 1000) == 1.0
    file = realbundle.sound(base, 2.0)
    second = put(home, file)
    assert runs(home, 1000) == 2.0
    token = realbundle.token(base, first.version)
    with home.lock():
        assert downgrade(home, token)
        assert not downgrade(home, token)
    assert runs(home) == 1.0
    assert home.generation().trusted_version == second.version
    assert put(home, file).outcome == "rejected-before"
    assert put(home, realbundle.sound(base, 3.0)).outcome == "installed"
    with home.lock():
        assert not downgrade(home, token)
    assert runs(home) == 3.0


def test_a_downgrade_token_that_was_touched_is_refused(base, home):
    first = put(home, realbundle.sound(base))
    runs(home, 1000)
    put(home, realbundle.sound(base, 2.0))
    data = realbundle.token(base, first.version)
    with home.lock(), pytest.raises((FormatError, VerificationError)):
        downgrade(home, data.replace(b'"issued":', b'"issued":1', 1))
    with home.lock():  # another order, which does not concern this device
        assert not downgrade(home, data.replace(b'"version":2', b'"version":3', 1))


def test_a_revoked_bundle_is_passed_over_and_never_installed_again(base, home):
    put(home, realbundle.sound(base))
    assert runs(home, 1000) == 1.0
    file = realbundle.sound(base, 2.0)
    second = put(home, file)
    assert runs(home, 1000) == 2.0
    realbundle.revoke(base, second.digest)
    bad = realbundle.publish(base, realbundle.files(realbundle.model(3.0), shift=1e-3))
    with pytest.raises(SelfTestError):
        put(home, bad)
    assert runs(home) == 1.0
    with pytest.raises(RevokedError):
        put(home, file)


def test_a_stopped_bundle_never_runs(base, home):
    first = put(home, realbundle.sound(base))
    assert runs(home, 1000) == 1.0
    realbundle.revoke(base, first.digest, stop=True)
    bad = realbundle.publish(base, realbundle.files(realbundle.model(3.0), shift=1e-3))
    with pytest.raises(SelfTestError):
        put(home, bad)
    with pytest.raises(RevokedError, match="stopped"):
        runs(home)
