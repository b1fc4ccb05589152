"""The registry: versions are drawn once, spans are exact, alarms do not repeat."""

from __future__ import annotations

import sqlite3
from dataclasses import replace

import pytest

from edgepack.cli.screen import as_failure
from edgepack.database import database_error
from edgepack.errors import DeviceUnknownError, StoreError
from edgepack.fleet.overview import declared_records
from edgepack.registry import (
    BundleRow,
    DeviceRow,
    HoleRow,
    PlanRow,
    Registry,
    ReportRow,
    SegmentRow,
    Tombstone,
)
from edgepack.spans import subtract


@pytest.fixture
def registry(tmp_path):
    with Registry.open(tmp_path / "registry.sqlite") as opened:
        yield opened


def segment(digest="h1", uid="u1", first=1, last=10, serial=1, **more):
    values = {
        "hash": digest, "device": "d", "epoch": "e", "lane": 1, "number": 1, "uid": uid,
        "first": first, "last": last, "previous": "", "bundle_name": "n", "bundle_version": 1,
        "bundle_digest": "x", "boot": "b", "created_wall": 0, "bytes": 10, "salvage": False,
        "rows": last - first + 1, "serial": serial, "imported": 0, "path": "p",
    }  # fmt: skip
    return SegmentRow(**(values | more))


def test_every_commit_is_synced(registry):
    assert registry._db.execute("PRAGMA synchronous").fetchone()[0] == 2


def test_versions_are_drawn_once_and_above_what_was_seen(registry):
    assert [registry.draw_version("a") for _ in range(3)] == [1, 2, 3]
    registry.saw_version("a", 10)
    registry.saw_version("a", 4)
    assert registry.draw_version("a") == 11
    assert registry.draw_version("b") == 1


def test_one_version_has_one_digest(registry):
    row = BundleRow("a", 3, "digest", 1, 0, "out/a-3.edgepack", "1", 0)
    registry.add_bundle(row)
    registry.add_bundle(row)
    with pytest.raises(StoreError):
        registry.add_bundle(BundleRow("a", 3, "other", 1, 0, "out/a-3.edgepack", "1", 0))
    assert registry.draw_version("a") == 4


def test_a_failed_transaction_leaves_nothing(registry):
    with pytest.raises(RuntimeError), registry.commit():
        registry.add_segment(segment(), [(1, 10)])
        registry.set("key", "value")
        raise RuntimeError
    assert registry.segments() == []
    assert registry.get("key") == ""


def test_a_full_disk_undoes_the_transaction_and_the_next_one_holds(registry):
    pages = registry._db.execute("PRAGMA page_count").fetchone()[0]
    registry._db.execute(f"PRAGMA max_page_count={pages}")
    with pytest.raises(sqlite3.Error) as raised, registry.commit():
        registry.set("a", "kept?")
        registry.set("b", "x" * 100_000)
    assert database_error(raised.value).code == "machine.disk_full"
    registry._db.execute("PRAGMA max_page_count=1000000")
    assert registry.get("a") == ""
    with registry.commit():
        registry.set("b", "x" * 100_000)
    assert len(registry.get("b")) == 100_000


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (sqlite3.SQLITE_BUSY_SNAPSHOT, "machine.busy"),
        (sqlite3.SQLITE_READONLY_DIRECTORY, "machine.permission"),
        (sqlite3.SQLITE_IOERR_READ, "machine.failed"),
        (sqlite3.SQLITE_CORRUPT_INDEX, "store.failed"),
    ],
)
def test_what_sqlite_says_is_an_error_of_the_tree(number, code):
    error = sqlite3.OperationalError("as SQLite puts it")
    error.sqlite_errorcode = number
    assert as_failure(error).code == code


def test_a_purge_cuts_exactly_its_range(registry):
    registry.add_segment(segment(), [(1, 10)])
    registry.add_segment(segment("h2", serial=2, last=20), [(11, 20)])
    registry.bury([Tombstone("h1", "d", "e", "u1", 8, 12)])
    assert registry.spans("h1") == [(1, 7)]
    assert registry.spans("h2") == [(13, 20)]
    registry.bury([Tombstone("h1", "d", "e", "u1", 1, 7)])
    assert registry.segment("h1").state == "purged"
    assert {row.hash for row in registry.acknowledged("d", backed_only=False)} == {"h1", "h2"}
    assert subtract([(1, 20)], registry.buried("d", "e", "u1")) == [(13, 20)]


def test_acks_of_a_workspace_with_backup_list_what_is_in_it(registry):
    registry.add_segment(segment(), [(1, 10)])
    registry.add_segment(segment("h2", "u2", serial=2), [(1, 10)])
    registry.mark_backed(["h2"])
    assert [r.hash for r in registry.acknowledged("d", backed_only=True)] == ["h2"]
    registry.mark_backed(["h1"])
    assert [r.hash for r in registry.acknowledged("d", backed_only=True)] == ["h1"]


def test_devices_are_found_by_name_id_and_beginning_of_id(registry):
    row = DeviceRow("ab" * 16, "press-1", "field", "n", "k", "accepted", b"e", b"m", "w", 0, 0)
    registry.put_device(row)
    for text in ("press-1", "ab" * 16, "ab" * 4):
        assert registry.device(text) == row
    for text in ("abab", "press", ""):
        with pytest.raises(DeviceUnknownError):
            registry.device(text)


def test_an_alarm_is_raised_once(registry):
    assert registry.alarm("fork", "d", "e", "text", 1)
    assert not registry.alarm("fork", "d", "e", "again", 2)
    assert [alarm.text for alarm in registry.alarms("d")] == ["text"]


def test_an_older_report_never_replaces_a_newer_one(registry):
    assert registry.put_report(ReportRow("d", "e", 5, {"n": 5}, 1))
    assert not registry.put_report(ReportRow("d", "e", 4, {"n": 4}, 2))
    assert not registry.put_report(ReportRow("d", "e", 5, {"n": 6}, 2))
    assert registry.put_report(ReportRow("d", "f", 1, {"n": 1}, 3))
    assert [row.body["n"] for row in registry.reports("d")] == [1, 5]


def test_two_raises_never_give_one_generation(registry):
    first = registry.raise_generation(4)
    second = registry.raise_generation(4)
    assert first[0] == second[0] == 5
    assert first != second


def test_plans_keep_the_newest_kit(registry):
    registry.put_plan(PlanRow("press-1", "field", "n", "", 0))
    registry.put_plan(PlanRow("press-1", "field", "n", "kit", 0))
    assert registry.plan("press-1").kit_id == "kit"
    assert len(registry.plans()) == 1


def test_what_is_no_registry_is_refused(tmp_path):
    path = tmp_path / "registry.sqlite"
    path.write_bytes(b"not a database at all" * 100)
    with pytest.raises(StoreError):
        Registry.open(path)
    newer = tmp_path / "newer.sqlite"
    connection = sqlite3.connect(newer)
    connection.execute("PRAGMA user_version=99")
    connection.close()
    with pytest.raises(StoreError, match="newer"):
        Registry.open(newer)


def test_rows_that_came_home_are_not_lost_where_one_hole_stands_for_many_segments(registry):
    """Segments 1 to 3 came home by a stick, 2 was named lost before: 4 to 6 are lost."""

    def hole(first, last, uid="", upto=0):
        named = f"{uid}/{first}"
        return HoleRow("d1", "e1", uid, first, last, 1, 1, "", "evicted", "h9", -1, upto, named)

    with registry.commit():
        for number in (1, 2, 3):
            row = segment(f"h{number}", f"u{number}", number * 10, number * 10 + 9, number)
            registry.add_segment(
                replace(row, device="d1", epoch="e1", lane=1), [(row.first, row.last)]
            )
        other = segment("h4", "u4", 40, 49, 4)
        registry.add_segment(replace(other, device="d1", epoch="e1", lane=0), [(40, 49)])
        registry.add_hole(hole(20, 29, uid="u2"))
        registry.add_hole(hole(10, 69, upto=6))
    assert declared_records(registry, "d1") == (30, 30)
