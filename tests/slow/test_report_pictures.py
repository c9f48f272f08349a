"""The page of a report in a browser, wide and narrow, light and dark: nothing hangs over the edge, and it is dark
where it should be. It needs chromium."""

from __future__ import annotations

import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from hf_distill.evaluation.report import Reported, write_comparison, write_report
from tests import reports

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.draws,
    pytest.mark.skipif(BROWSER is None, reason="there is no chromium on this machine"),
]

WIDTHS = {"wide": 1400, "narrow": 390}
BETWEEN = {"just_a_table": 980, "no_table": 950}
"""On either side of the width below which rows of tables become blocks."""

HEIGHT = 2000
LONG = "recipes/of_a_very_long_name_without_any_place_to_break_it_" + "x" * 60

FRAME = """<!DOCTYPE html><style>html, body {{ margin: 0; overflow: hidden; }}
iframe {{ border: 0; width: {width}px; height: {height}px; }}</style>
<iframe src="{name}/report.html"></iframe><p id="found"></p>
<script>
window.onload = () => {{
  const page = document.querySelector("iframe").contentDocument;
  if ("{opened}") for (const each of page.querySelectorAll("details")) each.open = true;
  const root = page.documentElement, inside = page.querySelectorAll("body *");
  const beyond = [...inside].filter(each => each.closest(".picture") === null
    && each.getBoundingClientRect().right > root.clientWidth + 0.5);
  document.querySelector("#found").textContent = "found " + root.scrollWidth + " of " + root.clientWidth
    + ", beyond: " + beyond.map(each => each.tagName).join(" ") + ".";
}};
</script>"""
"""A page of the test's own around the report, which may not run scripts itself."""


class _Silent(SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        return None


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """A folder with two reports, and where it is served."""
    folder = tmp_path_factory.mktemp("site")
    tags = ("O", *(f"{place}-{kind}" for kind in ("PER", "ORG", "LOC", "MISC", "EVENT", "DATE") for place in "BI"))
    text = "a warm, funny and engaging film <b>about</b> the long way home " * 4 + "w" * 120
    remarks = ["All on sst2, validation: 872 rows."]
    write_report(folder / "one", reports.three(), "accuracy", reports.findings(tags, text), remarks)
    runs = [Reported(name, reports.three(), "accuracy", remarks, reports.findings()) for name in ("a", LONG)]
    write_comparison(folder / "many", runs)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Silent, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield folder, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def browse(profile: Path, url: str, *flags: str) -> str:
    """Opens an address, and gives what the browser prints."""
    command = [str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run"]
    command += [f"--user-data-dir={profile}", "--virtual-time-budget=10000", *flags, url]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=180).stdout


def framed(folder: Path, name: str, width: int) -> str:
    """The name of a page that shows a report so wide, and says how much of it there is."""
    page = f"{name}_{width}.html"
    opened = "yes" if name == "many" else ""
    (folder / page).write_text(FRAME.format(name=name, width=width, height=HEIGHT, opened=opened), encoding="utf-8")
    return page


@pytest.mark.parametrize("width", [*WIDTHS.values(), *BETWEEN.values()], ids=[*WIDTHS, *BETWEEN])
@pytest.mark.parametrize("name", ["one", "many"])
def test_nothing_hangs_over_the_edge(site: tuple[Path, str], tmp_path: Path, name: str, width: int) -> None:
    folder, address = site
    shown = browse(tmp_path, f"{address}/{framed(folder, name, width)}", "--dump-dom", "--window-size=1500,2100")
    found = re.search(r"found (\d+) of (\d+), beyond: ([^.]*)\.", shown)
    assert found is not None
    assert int(found[2]) == width
    assert int(found[1]) <= width
    assert found[3] == ""


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS)
def test_the_page_is_light_or_dark_and_its_pictures_are_light(
    site: tuple[Path, str], tmp_path: Path, width: int, scheme: str
) -> None:
    folder, address = site
    picture = tmp_path / f"{width}_{scheme}.png"
    flags = [f"--window-size={max(width, 500)},{HEIGHT}", f"--screenshot={picture}"]
    flags.append(f"--blink-settings=preferredColorScheme={0 if scheme == 'dark' else 1}")
    browse(tmp_path / "profile", f"{address}/{framed(folder, 'one', width)}", *flags)
    grey = imread(picture)[:HEIGHT, :width, :3].mean(axis=2)
    paper = float(np.median(grey[:, :6]))
    assert (paper < 0.2) if scheme == "dark" else (paper > 0.95)
    rows = grey[:, 20 : width - 20]
    assert (np.abs(rows - paper) > 0.5).any(axis=1).mean() > 0.25, "there is little on the page"
    assert (rows.mean(axis=1) > 0.8).any(), "the pictures have a light ground"
