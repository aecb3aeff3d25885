"""The page in a real browser, where Chromium is installed: no error, pictures decoded, the slider colours the cells.

A script added at the page's end does what a person does and writes what it finds into the page, which the browser
then prints.
"""

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from adaptive_ft.analysis.report.page import page
from adaptive_ft.analysis.report.sections import Told
from tests.analysis.report.conftest import shares_of

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium here (Debian: apt-get install chromium)")

HAND = """<script>
const cells = [...document.querySelectorAll("[data-map] .cell")];
const look = () => ({
  epoch: document.querySelector("[data-map] output").textContent,
  shares: cells.map((cell) => Number(cell.style.getPropertyValue("--t"))),
  title: cells[1].textContent,
  readout: document.querySelector(".readout").textContent,
});
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
  found.wide = document.documentElement.scrollWidth - document.documentElement.clientWidth;
  found.fills = [...new Set(cells.map((cell) => getComputedStyle(cell).fill))].length;
  const told = document.createElement("pre");
  told.id = "found";
  told.textContent = JSON.stringify(found);
  document.body.append(told);
});
</script></body>"""

Open = Callable[..., tuple[dict[str, Any], str]]


@pytest.fixture
def browse(tmp_path: Path) -> Open:
    """Open a page, with an address's end and a size of the window; what the script found, and the browser's console."""

    def open_page(html: str, end: str = "", window: str = "1200,900") -> tuple[dict[str, Any], str]:
        (tmp_path / "page.html").write_text(html, encoding="utf-8")
        assert BROWSER is not None
        options = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run")
        done = subprocess.run(
            [BROWSER, *options, f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={window}",
             "--enable-logging=stderr", "--dump-dom", f"{(tmp_path / 'page.html').as_uri()}{end}"],
            capture_output=True, text=True, timeout=120, check=True,
        )  # fmt: skip
        told = re.search(r'<pre id="found">(.*?)</pre>', done.stdout, re.DOTALL)
        console = "\n".join(line for line in done.stderr.splitlines() if "CONSOLE" in line)
        return (json.loads(unescape(told[1])) if told else {}), console

    return open_page


def test_the_slider_moves_the_map_and_nothing_goes_wrong(told: Told, browse: Open) -> None:
    html = page([told], 4, {"made": "today"}).replace("</body>", HAND)
    found, console = browse(html)
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


def test_an_address_opens_the_page_at_an_epoch_and_a_phone_need_not_scroll_sideways(told: Told, browse: Open) -> None:
    html = page([told, told], 4, {"made": "today"}).replace("</body>", HAND)
    found, console = browse(html, "#epoch=2", "500,900")
    assert console == ""
    assert found["atFirst"]["epoch"] == "2"
    assert found["wide"] <= 0
    assert len(found["flat"]) == 8
    assert max(found["flat"]) < 0.02


def test_the_console_is_really_read(told: Told, browse: Open) -> None:
    """A page with an error, and one that would fetch something, are both found out."""
    html = page([told], 0, {"made": "today"})
    _, console = browse(html.replace("</body>", "<script>nothing.here();</script></body>"))
    assert "nothing is not defined" in console
    _, console = browse(html.replace("</body>", '<img src="other.png"></body>'))
    assert "Content Security Policy" in console
