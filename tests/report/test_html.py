"""The report: whole, honest about failures, readable without network, in a browser and a phone."""

from __future__ import annotations

import base64
import html
import json
import re
import shutil
import subprocess
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import jinja2
import pytest

from fastweights.report.figures import ARM_STYLES, new_figure
from fastweights.report.html import Chapter, write_figures, write_report
from fastweights.report.section import Claim, Picture, Section, Table

VOID = {"meta", "link", "img", "br"}


class Page(HTMLParser):
    """Every element with its attributes, and a complaint about every tag out of balance."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.wrong: list[str] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        self.wrong += [f"<{tag}> is never closed" for tag in self.open]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        if len(set(names)) < len(names):
            self.wrong.append(f"<{tag}> has an attribute twice: {names}")
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.wrong.append(f"</{tag}> at {self.getpos()} closes nothing")

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] not in ("script", "style"):
            self.words.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def picture() -> Picture:
    figure = new_figure()
    figure.add_subplot().plot([0, 1], [1, 2], color=ARM_STYLES[0][0], label="fast & slow")
    return Picture("curve", figure, alt='A line; "up" & <right>.', caption="A line.")


def section(title: str = "One & <two>", numbers: Sequence[str] = ("9", "10", "never")) -> Section:
    return Section(
        title=title,
        intro="What <script>alert(1)</script> it is.",
        claims=[Claim("error of <LSTM>", "1.85", "8.78 [8.49, 8.94]", 3, "higher error")],
        tables=[Table("Numbers & words.", ("name", "updates"), [(f"n{x}", x) for x in numbers])],
        pictures=[picture()],
        notes=["A note."],
        chosen="other seeds",
    )


def chapter(name: str = "run", **more: Any) -> Chapter:
    values: dict[str, Any] = {
        "section": section(),
        "command": "fastweights run retrieval --set 'hidden_sizes=[20, 50]'",
        "settings": {"updates": 4000, "arms": ["lstm"]},
        "environments": [{"commit": "abc", "processor": "<a processor>"}],
        "failures": {},
    }
    return Chapter(name=name, **{**values, **more})


def page_of(folder: Path, *chapters: Chapter) -> tuple[str, Page]:
    write_report(folder / "report.html", chapters)
    text = (folder / "report.html").read_text(encoding="utf-8")
    return text, Page(text)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_the_page_is_in_balance_and_shows_text_as_text(tmp_path: Path, count: int) -> None:
    text, page = page_of(tmp_path, *[chapter() for _ in range(count)])
    assert page.wrong == []
    assert page.elements[0] == ("html", {"lang": "en"})
    assert len(page.all("script")) == 1
    words = " ".join(page.words)
    for shown in ("One & <two>", "What <script>alert(1)</script> it is.", "<a processor>"):
        assert words.count(shown) >= (count > 0), shown
    assert text.startswith("<!doctype html>")


def test_everything_handed_over_is_on_the_page(tmp_path: Path) -> None:
    failures = {"lstm-r50-seed2": "FloatingPointError: the loss is nan", "gru": "not finished"}
    _, page = page_of(tmp_path, chapter(failures=failures))
    words = " ".join(page.words)
    for text in (
        "error of <LSTM>",
        "8.78 [8.49, 8.94]",
        "higher error",
        "Numbers & words.",
        "n10",
        "A note.",
        "A line.",
        "other seeds",
        "fastweights run retrieval --set 'hidden_sizes=[20, 50]'",
        "updates = 4000",
        "commit: abc",
        "2 of its runs did not finish",
        "lstm-r50-seed2",
        "FloatingPointError: the loss is nan",
    ):
        assert text in words, text


def test_figures_are_inside_the_page_and_have_words(tmp_path: Path) -> None:
    _, page = page_of(tmp_path, chapter())
    (image,) = page.all("img")
    assert image["alt"] == 'A line; "up" & <right>.'
    kind, _, data = (image["src"] or "").partition(",")
    assert kind == "data:image/svg+xml;base64"
    assert ElementTree.fromstring(base64.b64decode(data)).tag.endswith("svg")


def test_nothing_comes_from_the_network(tmp_path: Path) -> None:
    text, page = page_of(tmp_path, chapter(), chapter())
    for tag, attributes in page.elements:
        for name in ("src", "href", "srcset", "action", "poster", "data"):
            if value := attributes.get(name):
                assert value.startswith(("data:", "#")), (tag, name, value)
    assert not re.search(r"https?://|@import|url\(", text)


def test_chapters_of_the_same_name_have_anchors_of_their_own(tmp_path: Path) -> None:
    one, two = chapter("a run"), chapter("a run", section=section("Two"))
    _, page = page_of(tmp_path, one, two)
    anchors = [attributes["id"] for _, attributes in page.elements if attributes.get("id")]
    assert len(anchors) == len(set(anchors)) == 2
    assert all(not re.search(r"\s", anchor or "") for anchor in anchors)
    assert [a["href"] for a in page.all("a")] == [f"#{anchor}" for anchor in anchors]
    assert " ".join(page.words).count("a run") >= 2


def test_the_page_is_whole_or_absent(tmp_path: Path) -> None:
    page_of(tmp_path, chapter())
    before = (tmp_path / "report.html").read_bytes()
    with pytest.raises(jinja2.UndefinedError):
        write_report(tmp_path / "report.html", [chapter(), None])  # type: ignore[list-item]
    assert (tmp_path / "report.html").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]


def test_the_same_run_gives_the_same_bytes(tmp_path: Path) -> None:
    one, _ = page_of(tmp_path, chapter())
    other, _ = page_of(tmp_path, chapter())
    assert one == other


def test_figures_as_files(tmp_path: Path) -> None:
    write_figures(tmp_path / "figures", section())
    assert [p.name for p in (tmp_path / "figures").iterdir()] == ["curve.png"]
    assert (tmp_path / "figures" / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_arms_can_be_told_apart() -> None:
    assert len(set(ARM_STYLES)) == len(ARM_STYLES) >= 32


BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)
QUIETLY = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)

# Loads the report into a frame as wide as a phone, sorts a table in it, and says what it found.
PHONE = """<!doctype html><title>phone</title>
<iframe style="width: 390px; height: 800px; border: 0" srcdoc="{page}"></iframe><pre></pre>
<script>
onload = () => {{
  const page = document.querySelector("iframe").contentDocument;
  const table = page.querySelectorAll("table")[1];
  const cells = () => [...table.tBodies[0].rows].map((row) => row.cells[1].textContent);
  const head = table.querySelectorAll("th")[1];
  const found = {{
    width: page.documentElement.scrollWidth,
    font: parseFloat(getComputedStyle(page.querySelector("td")).fontSize),
    image: page.querySelector("img").naturalWidth,
    before: cells(),
  }};
  head.querySelector("button").click();
  found.up = cells();
  found.order = head.getAttribute("aria-sort");
  head.querySelector("button").click();
  found.down = cells();
  document.querySelector("pre").textContent = JSON.stringify(found);
  console.log("the end");
}};
</script>
"""


@pytest.mark.skipif(not BROWSER, reason="no Chromium on this machine")
def test_in_a_browser_on_a_phone(tmp_path: Path) -> None:
    long = section(numbers=("10", "9", "never", "1,000", "99.5 [99, 100]", "-2"))
    text, _ = page_of(tmp_path, chapter(section=long, failures={"x" * 90: "y" * 90}))
    (tmp_path / "phone.html").write_text(PHONE.format(page=html.escape(text)), encoding="utf-8")
    process = subprocess.run(
        [
            BROWSER,
            *QUIETLY,
            f"--user-data-dir={tmp_path / 'user'}",
            "--enable-logging=stderr",
            "--dump-dom",
            (tmp_path / "phone.html").as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    told = [line for line in process.stderr.splitlines() if ":CONSOLE" in line]
    assert len(told) == 1, told  # no error before it, and it came to the end
    assert "the end" in told[0]
    matched = re.search(r"<pre>({.*?})</pre>", process.stdout)
    assert matched, process.stdout[-500:]
    found = json.loads(html.unescape(matched[1]))
    assert found["width"] <= 390
    assert found["font"] >= 13
    assert found["image"] > 300
    assert found["before"] == ["10", "9", "never", "1,000", "99.5 [99, 100]", "-2"]
    assert found["up"] == ["-2", "9", "10", "99.5 [99, 100]", "1,000", "never"]
    assert found["down"] == found["up"][::-1]
    assert found["order"] == "ascending"
