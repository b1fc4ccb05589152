"""The report opens anywhere: one file, no request, no error, wide and narrow, light and dark."""

from __future__ import annotations

import math
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from edgepack import svg
from edgepack.learn.drift import CHANGED_MUCH
from edgepack.learn.returned import Slice, of_table
from edgepack.report.figures import drift_by_column, drift_over_time
from edgepack.report.page import EVENTS, write_report
from support.learnworld import World, nature

VOID = {"meta", "link", "line", "rect", "circle", "polyline", "polygon", "br"}
SHOTS = Path("build/report")


EVIL = "\"'><script>alert(1)</script>\x1b[2J\u202e" + '" onload="alert(2)'


class Balance(HTMLParser):
    """Every element is closed where it should be."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []

    def handle_starttag(self, tag, attrs):
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.attributes += attrs

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag


@pytest.fixture
def page(returned: World) -> Path:
    evil = returned.device("press-2")
    frame = nature(5, 300, 9, first=70)
    frame["site"] = EVIL
    ids = evil.predict(frame)
    evil.label(ids[:9], [EVIL] * 9)
    evil.open().append_event("alarm", {"text": f"<img src=x onerror=alert(1)>{EVIL}"})
    evil.open().append_event(EVIL, {})
    returned.registry.alarm("fork", "", "x", EVIL, 0)
    evil.come_home()
    returned.catch_up()
    out = returned.folder / "report.html"
    result = write_report(returned.ws, returned.registry, returned.clock, out)
    assert result["bytes"] == out.stat().st_size < 8_000_000
    assert result["same_rows"]["auc"].keys() == {"1"}
    return out


def test_the_page_is_whole_escaped_and_loads_nothing(page: Path) -> None:
    text = page.read_text()
    parser = Balance()
    parser.feed(text)
    assert parser.open == []
    assert "<script" not in text
    assert "<img" not in text
    assert not [k for k, _ in parser.attributes if k.startswith("on")]
    assert not set(text) & set("\x1b\x00\u202e")
    addresses = [v for k, v in parser.attributes if k in ("src", "href", "srcset", "data") and v]
    assert all(v.startswith(("#", "data:")) for v in addresses)
    assert "url(" not in text
    assert "@import" not in text
    for words in ("What to do next", "press-1", "Quality of pump", "Drift of pump", "temp",
                  "parity", "all hold", "press-2", "alert(1)"):  # fmt: skip
        assert words in text


def test_every_plot_has_a_name_and_its_numbers(page: Path) -> None:
    text = page.read_text()
    plots = len(re.findall(r"<svg ", text))
    assert plots == len(re.findall(r'role="img" aria-label="[^"]+"', text)) > 10
    assert text.count("<table>") == text.count("<table><caption>")
    assert "Drift by device" in text
    assert "press-2: site" in text
    assert text.count("<figure>") == text.count("<summary>The numbers</summary>")


def test_a_plot_of_drift_shows_what_is_judged(returned: World) -> None:
    (found,) = of_table(returned.view, returned.refs(), Slice()).values()
    temp = next(c for c in found.columns if c.name == "temp")
    usual = replace(temp, rhythm=temp.psi - temp.noise - 0.05)  # moved, as days of training do
    shown = drift_by_column(replace(found, columns=(usual,), answers=()))
    assert usual.psi > CHANGED_MUCH
    assert usual.words == "within its rhythm"
    assert "<title>temp: 0.05 (" in shown.plots[0]
    (row,) = shown.table.rows
    assert dict(zip(shown.table.columns, row, strict=True))["beyond"] == "0.0500"
    few = replace(found, columns=(replace(temp, n=20),), answers=())
    assert "? temp" in drift_by_column(few).plots[0]
    months = drift_over_time([("2024-01", replace(found, columns=(usual,))), ("2024-02", found)])
    assert months is not None
    cells = next(row for row in months.table.rows if row[0] == "temp")
    assert cells[1:] == ["0.050", f"{temp.excess:.3f}"]


def test_a_device_that_lies_about_time_does_not_flood_the_page(returned: World) -> None:
    liar = returned.device("press-9")
    frame = nature(5, 400, 9, first=70)
    years = np.arange(400).astype("datetime64[Y]").astype("datetime64[us]")
    liar.predict(frame.assign(taken=years))
    liar.open().append_event("clock", {"jump": -(2**62)})
    liar.come_home()
    returned.catch_up()
    out = returned.folder / "report.html"
    write_report(returned.ws, returned.registry, returned.clock, out)
    assert out.stat().st_size < 1_000_000


def test_the_newest_events_come_first_and_are_the_ones_that_are_kept(world: World) -> None:
    device = world.device()
    for visit in range(4):
        for number in range(EVENTS // 3):
            device.open().append_event("alarm", {"text": f"visit {visit} event {number}"})
        device.come_home()
        world.catch_up()
    out = world.folder / "report.html"
    write_report(world.ws, world.registry, world.clock, out)
    shown = re.findall(r"visit (\d) event (\d+)", out.read_text())
    said = [(int(visit), int(number)) for visit, number in shown]
    assert said == sorted(said, reverse=True)
    assert said[0] == (3, EVENTS // 3 - 1)
    assert {visit for visit, _ in said} == {1, 2, 3}


def test_a_report_of_nothing_is_still_a_report(tmp_path) -> None:
    world = World(tmp_path)
    out = tmp_path / "report.html"
    write_report(world.ws, world.registry, world.clock, out)
    assert "No device is enrolled yet" in out.read_text()


@pytest.mark.system
@pytest.mark.parametrize(("width", "dark"), [(1280, False), (390, True)])
def test_chromium_shows_it_without_an_error_or_a_request(
    page: Path, tmp_path, width: int, dark: bool
) -> None:
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("no chromium here: make system-deps installs it")
    SHOTS.mkdir(parents=True, exist_ok=True)
    shot = SHOTS.absolute() / f"report-{width}{'-dark' if dark else ''}.png"
    shot.unlink(missing_ok=True)
    log = tmp_path / "net.json"
    done = subprocess.run(
        [
            chromium, "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
            f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={width},3000",
            "--enable-logging=stderr", "--v=0", f"--log-net-log={log}",
            "--disable-background-networking", "--disable-component-update", "--no-first-run",
            *(["--blink-settings=preferredColorScheme=0"] if dark else []),
            f"--screenshot={shot}", page.as_uri(),
        ],
        capture_output=True, text=True, timeout=250, check=False,
    )  # fmt: skip
    assert shot.stat().st_size > 20_000
    assert "CONSOLE" not in done.stderr
    mine = [  # the browser's own housekeeping has no page as its initiator
        line
        for line in log.read_text(errors="replace").splitlines()
        if re.search(r'"initiator":"(file|null)', line) and '"url":"http' in line
    ]
    assert mine == []


def test_ticks_are_round_and_inside() -> None:
    assert svg._ticks(0, 1, 5) == [0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert svg._ticks(0.61, 0.74, 5) == [0.625, 0.65, 0.675, 0.7, 0.725]
    for low, high in ((0, 1e-9), (-1e9, 1e9), (5, 5 + 1e-6)):
        ticks = svg._ticks(low, high, 5)
        assert 2 <= len(ticks) <= 8
        assert all(low - 1e-12 <= t <= high + 1e-12 * abs(high) for t in ticks)


@pytest.mark.parametrize("width", [svg.WIDE, svg.NARROW])
def test_a_slanted_label_stays_inside_its_plot(width: int) -> None:
    names = [f"{-i}0.06 to {i}0.94" for i in range(12)]
    picture = svg.bars(names, [("x", [1.0] * 12, 1)], title="t", height=220, width=width)
    slanted = re.findall(r"translate\(([\d.]+) ([\d.]+)\) rotate\(-28\).*?>([^<]*)</text>", picture)
    assert slanted
    for x, y, text in slanted:
        long = 5.9 * len(text)  # pixels of a font of 10, wide letters
        assert float(y) + long * math.sin(math.radians(28)) < 220
        assert float(x) - long * math.cos(math.radians(28)) > 0


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 0.0, -5.0, 1e300])
def test_odd_values_do_not_break_a_plot(value: float) -> None:
    line = [svg.Line("x", [svg.Point(0, 1.0), svg.Point(1, value)])]
    assert "nan" not in svg.lines(line, ["a", "b"], title="t")
    assert svg.intervals([("x", 1.0, 0.5, 2.0)], title="t")
    assert svg.bars([], [], title="t")
    assert svg.heat([], [], [], title="t")
