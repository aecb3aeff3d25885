"""The page in a real browser, where Chromium is installed: no error, pictures decoded, the slider colours the cells,
on a desk in the light and on a phone in the dark.

A script added at the page's end does what a person does and writes what it finds into the page, which the browser
then prints.
"""

import base64
import hashlib
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from html import unescape
from math import nan
from pathlib import Path
from typing import Any

import pytest

from adaptive_ft.analysis.report.page import page
from adaptive_ft.analysis.report.sections import Told
from tests.analysis.report.conftest import shares_of

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium here (Debian: apt-get install chromium)")

HAND = """
const cells = [...document.querySelectorAll("[data-map] .cell")];
const look = () => ({
  epoch: document.querySelector("[data-map] output").textContent,
  shares: cells.map((cell) => Number(cell.style.getPropertyValue("--t"))),
  title: cells[1].textContent,
  readout: document.querySelector(".readout").textContent,
  unknown: document.querySelectorAll(".cell.unknown").length,
});
const READ = ["h1", ".lead", ".note", ".badge", ".question", ".prediction", ".foot", "a", "code", ".chart text"];
const brightness = (colour) => {
  const [red, green, blue] = colour.match(/[\\d.]+/g).map((part) => {
    const share = Number(part) / 255;
    return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
};
const ground = (element) => {
  const colour = getComputedStyle(element).backgroundColor;
  return colour === "rgba(0, 0, 0, 0)" ? ground(element.parentElement) : colour;
};
const contrast = (element) => {
  const style = getComputedStyle(element);
  const ink = brightness(element instanceof SVGElement ? style.fill : style.color);
  const [low, high] = [ink, brightness(ground(element))].sort((one, other) => one - other);
  return (high + 0.05) / (low + 0.05);
};
const slider = document.querySelector("input[type=range]");
const found = { atFirst: look() };
cells[1].dispatchEvent(new PointerEvent("pointerover", { bubbles: true }));
slider.value = 0;
slider.dispatchEvent(new Event("input", { bubbles: true }));
found.moved = look();
document.querySelector("input[value=train]").click();
found.switched = look();
addEventListener("load", () => {
  found.pictures = [...document.images].map((image) => image.naturalWidth);
  found.flat = [...document.querySelectorAll(".picture")].map((box) => {
    const [width, height] = getComputedStyle(box).aspectRatio.split("/").map(Number);
    return Math.abs((box.clientWidth / box.clientHeight) * (height / width) - 1);
  });
  found.unknown = Object.fromEntries(["atFirst", "moved", "switched"].map((when) => [when, found[when].unknown]));
  found.dark = matchMedia("(prefers-color-scheme: dark)").matches;
  found.wide = document.documentElement.scrollWidth - document.documentElement.clientWidth;
  found.window = [innerWidth, innerHeight];
  found.contrasts = Object.fromEntries(READ.map((words) => [words, contrast(document.querySelector(words))]));
  found.fills = [...new Set(cells.map((cell) => getComputedStyle(cell).fill))].length;
  const told = top.document.createElement("pre");
  told.id = "found";
  told.textContent = JSON.stringify(found);
  top.document.body.append(told);
});
"""

READABLE = 4.5
"""The contrast of text that WCAG 2 asks for at level AA."""
Open = Callable[..., tuple[dict[str, Any], str]]
PHONE = (360, 740)


def with_script(html: str, script: str) -> str:
    """The page with one more script at its end, which its policy is told to let pass."""
    allowed = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    html = html.replace("script-src ", f"script-src 'sha256-{allowed}' ", 1)
    return html.replace("</body>", f"<script>{script}</script></body>")


@pytest.fixture
def browse(tmp_path: Path) -> Open:
    """Open a page, with an address's end, on a phone or in the dark; what the script found, and the browser's console.

    A window is never narrower than 500 pixels, so the phone is a frame in one.
    """

    def open_page(html: str, end: str = "", phone: bool = False, dark: bool = False) -> tuple[dict[str, Any], str]:
        assert BROWSER is not None
        opened = tmp_path / "page.html"
        opened.write_text(html, encoding="utf-8")
        address = f"{opened.as_uri()}{end}"
        if phone:
            width, height = PHONE
            frame = (
                f'<body><iframe src="{address}" width="{width}" height="{height}" style="border: 0"></iframe></body>'
            )
            (tmp_path / "phone.html").write_text(frame, encoding="utf-8")
            address = (tmp_path / "phone.html").as_uri()
        options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
        options += ["--allow-file-access-from-files", "--enable-logging=stderr", "--dump-dom", "--window-size=1200,900"]
        options += ["--force-dark-mode"] if dark else []
        done = subprocess.run(
            [BROWSER, *options, f"--user-data-dir={tmp_path / 'profile'}", address],
            capture_output=True, text=True, timeout=120, check=True,
        )  # fmt: skip
        told = re.search(r'<pre id="found">(.*?)</pre>', done.stdout, re.DOTALL)
        console = "\n".join(line for line in done.stderr.splitlines() if "CONSOLE" in line)
        return (json.loads(unescape(told[1])) if told else {}), console

    return open_page


def test_the_slider_moves_the_map_and_nothing_goes_wrong(told: Told, browse: Open) -> None:
    found, console = browse(with_script(page([told], 4, {"made": "today"}), HAND))
    assert console == ""
    assert found["pictures"] == [8] * 4
    assert found["fills"] > 1  # the browser knows how to mix the colours
    live = range(7)
    for moment, epoch, split in (("atFirst", 3, "val"), ("moved", 1, "val"), ("switched", 1, "train")):
        assert found[moment]["epoch"] == str(epoch)
        assert found[moment]["shares"] == [shares_of(epoch, split)[place] for place in live]
    assert found["moved"]["title"] == "layer.0.attention.head.1: 15.0 %"
    assert found["moved"]["readout"] == "layer.0.attention.head.1: 15.0 %"
    assert found["switched"]["readout"] == "layer.0.attention.head.1: 20.0 %"
    assert not found["dark"]
    assert min(found["contrasts"].values()) >= READABLE, found["contrasts"]


def test_a_dark_phone_opens_at_an_epoch_reads_well_and_need_not_scroll_sideways(told: Told, browse: Open) -> None:
    """Two runs, of which the second has a share that is no number in its first epoch: its map goes on without it."""
    shares = {**told.run.usage["val"], 1: (nan, *shares_of(1, "val")[1:])}
    other = replace(told, run=replace(told.run, usage={**told.run.usage, "val": shares}))
    found, console = browse(
        with_script(page([other, told], 4, {"made": "today"}), HAND), "#epoch=2", phone=True, dark=True
    )
    assert console == ""
    assert found["window"][0] == PHONE[0]
    assert found["dark"]
    assert min(found["contrasts"].values()) >= READABLE, found["contrasts"]
    assert found["atFirst"]["epoch"] == "2"
    assert found["unknown"] == {"atFirst": 0, "moved": 1, "switched": 0}
    assert found["wide"] <= 0
    assert found["pictures"] == [8] * 8
    assert len(found["flat"]) == 8
    assert max(found["flat"]) < 0.02


def test_a_script_that_is_not_the_page_s_own_and_an_address_are_refused(told: Told, browse: Open) -> None:
    html = page([told], 0, {"made": "today"})
    found, console = browse(html.replace("</body>", f'<script>{HAND}</script><img src="other.png"></body>'))
    assert found == {}
    assert console.count("Content Security Policy") == 2


def test_the_console_is_really_read(told: Told, browse: Open) -> None:
    _, console = browse(with_script(page([told], 0, {"made": "today"}), "nothing.here();"))
    assert "nothing is not defined" in console
