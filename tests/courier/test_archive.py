"""An archived segment that rots or goes missing is noticed, and comes back from a stick."""

from __future__ import annotations

import shutil

import pytest

from edgepack.errors import StoreError
from edgepack.store.archive import Archive
from edgepack.store.backup import backup
from edgepack.store.upkeep import check


@pytest.fixture
def imported(lab):
    """(device, a stick as it was before the import, the newest archived file)."""
    device, stick = lab.accepted(), lab.stick()
    device.rows(list(range(50)), sync=True)
    device.sync(stick)
    copied = lab.folder / "copied"
    shutil.copytree(stick, copied)
    lab.sync(stick)
    with lab.registry() as registry:
        row = max(registry.segments(), key=lambda row: row.rows)
    return device, copied, lab.ws.archive / row.path


def checked(lab):
    with lab.registry() as registry:
        return check(lab.ws, registry, Archive(lab.ws.archive, lab.ws.disk)).problems


@pytest.mark.parametrize("place", [0.1, 0.5, 0.9])
def test_one_flipped_bit_in_the_archive_is_found_and_never_backed_up(lab, imported, place):
    _, _, path = imported
    data = bytearray(path.read_bytes())
    data[int(len(data) * place)] ^= 1
    path.write_bytes(data)
    assert any("damaged" in problem for problem in checked(lab))
    with pytest.raises(StoreError, match="damaged"):
        backup(lab.ws, lab.folder / "backup", clock=lab.clock)
    with lab.registry() as registry:
        assert registry.get("backup_at") == "", "nothing is acknowledged as backed up"


def test_a_missing_file_is_put_back_by_a_stick_that_still_carries_it(lab, imported):
    _, copied, path = imported
    data, ids = path.read_bytes(), lab.ids()
    path.unlink()
    assert any("cannot be read" in problem for problem in checked(lab))
    assert not [line for line in lab.sync(copied, dry_run=True).lines if "ALARM" in line]
    assert not path.exists()
    result = lab.sync(copied)
    assert any("put back" in line for line in result.lines)
    assert path.read_bytes() == data
    assert lab.ids() == ids
    backup(lab.ws, lab.folder / "backup", clock=lab.clock)
