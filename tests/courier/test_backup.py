"""Backup and restore: what was acknowledged is never lost, what was purged never comes back."""

from __future__ import annotations

import contextlib
import shutil

import pytest

from device_runtime.errors import UsageError
from edgepack.errors import StoreError, WorkspaceError
from edgepack.fleet.overview import overview
from edgepack.registry import Registry
from edgepack.sim.disk import PowerCut
from edgepack.sim.ports import FusedDisk
from edgepack.store.archive import Archive, purge
from edgepack.store.backup import backup, restore
from edgepack.workspace import Workspace
from support.watched import Watched


@pytest.fixture
def home(lab):
    """A device whose rows 1..3 are home."""
    device, stick = lab.accepted(), lab.stick()
    device.rows([1, 2, 3], sync=True)
    device.sync(stick)
    lab.sync(stick)
    return device, stick


def again(lab, device, stick):
    device.sync(stick)
    return lab.sync(stick)


def restored(lab, folder, name="again", **more):
    result = restore(folder, lab.folder / name, **more)
    lab.ws = Workspace(result.root, lab.ws.classes, lab.ws.disk)
    return result


def test_a_restored_workspace_has_everything_and_a_higher_generation(lab, home):
    before = lab.ids()
    with lab.registry() as registry:
        generation = registry.base_generation()
    backup(lab.ws, lab.folder / "backup", clock=lab.clock)
    result = restored(lab, lab.folder / "backup")
    assert lab.ids() == before
    assert result.generation[0] > generation[0]
    assert (lab.ws.root / "edgepack.toml").exists()


def test_a_second_backup_copies_only_what_is_new(lab, home):
    device, stick = home
    first = backup(lab.ws, lab.folder / "backup", clock=lab.clock)
    assert first.first
    assert backup(lab.ws, lab.folder / "backup", clock=lab.clock).copied == 0
    device.rows([4], sync=True)
    again(lab, device, stick)
    second = backup(lab.ws, lab.folder / "backup", clock=lab.clock)
    assert 0 < second.copied <= 3
    assert second.segments > first.segments


def test_with_a_backup_only_what_is_in_it_is_acknowledged(lab, home):
    device, stick = home
    backup(lab.ws, lab.folder / "backup", clock=lab.clock)
    device.rows([4, 5], sync=True)
    again(lab, device, stick)
    device.sync(stick)
    sealed = [info for info in device.journal.sealed() if info.lane == 1]
    acked = device.home.generation().acked
    assert [info.hash in acked for info in sealed] == [True, False]
    backup(lab.ws, lab.folder / "backup", clock=lab.clock)
    again(lab, device, stick)
    device.sync(stick)
    assert sealed[1].hash in device.home.generation().acked


def test_what_came_after_the_backup_comes_again(lab, home):
    device, stick = home
    backup(lab.ws, lab.folder / "backup", clock=lab.clock)
    device.rows([4, 5], sync=True)
    again(lab, device, stick)
    device.sync(stick)
    device.journal.prune(device.home.generation().acked)
    shutil.rmtree(lab.ws.root)
    restored(lab, lab.folder / "backup")
    assert not device.durable <= lab.ids()
    for _ in range(3):
        again(lab, device, stick)
    assert device.durable <= lab.ids()


def test_restore_says_what_an_older_backup_may_have_lost(lab, home):
    device, stick = home
    backup(lab.ws, lab.folder / "older", clock=lab.clock)
    device.rows([4, 5], sync=True)
    again(lab, device, stick)
    backup(lab.ws, lab.folder / "newer", clock=lab.clock)
    again(lab, device, stick)
    device.sync(stick)
    old = lab.ws.root
    result = restored(lab, lab.folder / "older", lost=old)
    assert any("lost for good" in line for line in result.lines)


def test_a_purge_survives_the_restore_of_a_backup_that_has_the_rows(lab, home):
    device, stick = home
    backup(lab.ws, lab.folder / "backup", clock=lab.clock)
    with lab.registry() as registry:
        rows = [row for row in registry.segments() if row.lane == 1]
        purge(lab.ws.disk, lab.ws.root, Archive(lab.ws.archive, lab.ws.disk), registry, rows)
    assert not list(lab.ws.archive.rglob(f"*{rows[0].hash}*"))
    left = lab.ids()
    restored(lab, lab.folder / "backup")
    assert lab.ids() == left
    assert not list(lab.ws.archive.rglob(f"*{rows[0].hash}*"))
    for _ in range(3):
        again(lab, device, stick)
    assert not [item for item in lab.ids() if f"/{rows[0].uid}/" in item]
    assert rows[0].hash in device.home.generation().acked, "the device need not keep it either"


def test_a_registry_row_without_its_file_is_dropped_and_offered_again(lab, home):
    device, stick = home
    backup(lab.ws, lab.folder / "backup", clock=lab.clock)
    for path in (lab.folder / "backup/archive").rglob("*.seg"):
        path.unlink()
    result = restored(lab, lab.folder / "backup")
    assert result.segments == 0
    for _ in range(3):
        again(lab, device, stick)
    assert device.durable <= lab.ids()


def test_versions_go_on_above_what_was_seen(lab, home):
    with lab.registry() as registry:
        registry.draw_version("sim")
    backup(lab.ws, lab.folder / "backup", clock=lab.clock)
    with lab.registry() as registry:
        assert registry.draw_version("sim") == 2
        old = lab.ws.root
    restored(lab, lab.folder / "backup", lost=old)
    with lab.registry() as registry:
        registry.saw_version("sim", 2)  # a device's report does this
        assert registry.draw_version("sim") == 3


@pytest.mark.parametrize("what", ["nothing", "unfinished", "damaged"])
def test_what_is_no_whole_backup_is_refused(lab, home, what):
    folder = lab.folder / "backup"
    if what == "nothing":
        folder.mkdir()
    else:
        backup(lab.ws, folder, clock=lab.clock)
    if what == "unfinished":
        (folder / "backup.json").unlink()
    if what == "damaged":
        (folder / "backup.json").write_text("{")
    with pytest.raises(StoreError):
        restore(folder, lab.folder / "again")


def test_a_backup_inside_the_workspace_is_no_backup(lab):
    (lab.folder / "elsewhere").symlink_to(lab.ws.root)
    inside = (lab.ws.root, lab.ws.root / "out" / "..", lab.folder / "elsewhere")
    for folder in (place / "backup" for place in inside):
        with pytest.raises(UsageError):
            backup(lab.ws, folder, clock=lab.clock)


def test_a_backup_beside_the_workspace_may_be_named_from_inside_it(lab, home):
    made = backup(lab.ws, lab.ws.root / ".." / "backup", clock=lab.clock)
    assert made.folder == (lab.folder / "backup").resolve()


def test_status_says_where_the_newest_backup_is_and_what_it_lacks(lab, home):
    def said():
        with lab.registry() as registry:
            return overview(lab.ws, registry, lab.clock).backup

    assert "no backup" in said()
    backup(lab.ws, lab.folder / "backup", clock=lab.clock)
    assert said().endswith(f", in {(lab.folder / 'backup').resolve()}")
    assert "lacks" not in said()
    home[0].rows([4], sync=True)
    again(lab, *home)
    assert "lacks and no ack lists yet: " in said()


def test_a_restore_that_knows_no_later_purges_says_so(lab, home):
    backup(lab.ws, lab.folder / "backup", clock=lab.clock)
    without = restore(lab.folder / "backup", lab.folder / "one")
    assert [line for line in without.lines if "purge it again" in line]
    with_it = restore(lab.folder / "backup", lab.folder / "two", lost=lab.ws.root)
    assert not [line for line in with_it.lines if "purge it again" in line]


def test_a_restore_overwrites_nothing(lab, home):
    backup(lab.ws, lab.folder / "backup", clock=lab.clock)
    with pytest.raises(WorkspaceError):
        restore(lab.folder / "backup", lab.ws.root)


def test_a_missing_archived_segment_stops_the_backup(lab, home):
    next(lab.ws.archive.rglob("*.seg")).unlink()
    with pytest.raises(StoreError, match="missing"):
        backup(lab.ws, lab.folder / "backup", clock=lab.clock)
    with Registry.open(lab.ws.registry) as registry:
        assert registry.get("backup_at") == ""


def test_an_interrupted_restore_leaves_nothing_and_can_be_repeated(lab, home, monkeypatch):
    backup(lab.ws, lab.folder / "backup", clock=lab.clock)

    def pressed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Registry, "raise_generation", pressed)
        restore(lab.folder / "backup", lab.folder / "again")
    assert [path.name for path in lab.folder.iterdir() if "again" in path.name] == []
    assert restored(lab, lab.folder / "backup").segments > 0


def test_a_restore_that_is_cut_off_leaves_no_workspace(lab, home):
    """Half a restore with the old generation would acknowledge what devices had to offer again."""
    folder = lab.folder / "backup"
    backup(lab.ws, folder, clock=lab.clock)
    whole, fuse = False, 0
    while not whole:
        disk, root = FusedDisk(), lab.folder / f"cut-{fuse}"
        disk.fuse = fuse
        try:
            restore(folder, root, disk=disk)
            whole = True
        except PowerCut:
            if (root / "edgepack.toml").exists():
                with Registry.open(root / "registry.sqlite") as registry:
                    assert registry.base_generation()[0] > 1
        fuse += 1
    assert fuse > 10


@pytest.mark.parametrize("backup_is_there", [True, False])
def test_what_was_purged_leaves_the_backup_too(lab, home, backup_is_there):
    folder = lab.folder / "backup"
    backup(lab.ws, folder, clock=lab.clock)
    there = folder if backup_is_there else folder.rename(lab.folder / "in-the-safe")
    with lab.registry() as registry:
        purge(
            lab.ws.disk,
            lab.ws.root,
            Archive(lab.ws.archive, lab.ws.disk),
            registry,
            registry.segments(),
        )
    there.rename(folder) if there != folder else None
    if not backup_is_there:
        assert list(folder.glob("archive/*/*.seg")), "it could not be reached"
        backup(lab.ws, folder, clock=lab.clock)
    assert not list(folder.glob("archive/*/*.seg"))
    restored(lab, folder)
    assert lab.ids() == set()


def test_a_purge_that_is_cut_off_is_finished_by_the_next_one(lab, home):
    disk = FusedDisk()
    ws = Workspace(lab.ws.root, lab.ws.classes, disk)
    for fuse in range(8):
        with lab.registry() as registry:
            rows = registry.segments()
            disk.fuse = fuse
            with contextlib.suppress(PowerCut):
                purge(disk, ws.root, Archive(ws.archive, disk), registry, rows)
            disk.fuse = None
    with lab.registry() as registry:
        purge(disk, ws.root, Archive(ws.archive, disk), registry, registry.segments())
        assert not registry.segments()
    assert not list(Archive(ws.archive, disk).paths()), "nothing of it lies in the archive"
    assert again(lab, *home).tally.rows == 0


def test_a_sync_says_what_waits_for_a_backup(lab, home):
    device, stick = home
    backup(lab.ws, lab.folder / "backup", clock=lab.clock)
    device.rows([4], sync=True)
    assert any("after the next: edgepack backup" in line for line in again(lab, *home).lines)
    backup(lab.ws, lab.folder / "backup", clock=lab.clock)
    assert not [line for line in lab.sync(stick).lines if "backup" in line]


def test_a_backup_counts_every_byte_whether_it_is_copied_or_there_already(lab, home):
    (lab.ws.root / "candidates").mkdir(exist_ok=True)
    (lab.ws.root / "candidates" / "large").write_bytes(bytes(3 << 20))
    totals = []
    for _ in range(2):
        seen = Watched()
        backup(lab.ws, lab.folder / "backup", clock=lab.clock, progress=seen)
        assert seen.whole() == {"copying": "bytes"}
        totals.append(seen.parts[0][2])
    assert totals[0] == totals[1] > 3 << 20
    seen = Watched()
    restored(lab, lab.folder / "backup", progress=seen)
    assert seen.whole() == {"copying": "bytes"}
