"""The numbers in the documents are those of the results."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

from fastweights.lab.sweep import runs_in

ROOT = Path(__file__).parent.parent
TABLES = runpy.run_path(str(ROOT / "docs" / "tables.py"))


@pytest.mark.parametrize("page", TABLES["documents"](), ids=lambda page: page.name)
def test_the_tables_are_what_the_results_say(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert TABLES["fill"](text) == text, "run `python docs/tables.py`"


def test_every_result_is_shown_somewhere() -> None:
    shown = "".join(page.read_text(encoding="utf-8") for page in TABLES["documents"]())
    for folder in (ROOT / "results").iterdir():
        if (folder / "experiment.json").exists():
            assert f"<!-- results/{folder.name}" in shown, folder.name
    for example in (ROOT / "examples").glob("*_report.py"):
        name = example.stem.removesuffix("_report").replace("_", "-")
        assert f"<!-- results/{name}.json -->" in shown, name
    for file in (ROOT / "results").glob("bench-*.json"):
        assert f"<!-- results/{file.name}" in shown, file.name


def test_the_ledger_has_every_claim_with_how_its_settings_were_chosen() -> None:
    page = (ROOT / "docs" / "ledger.md").read_text(encoding="utf-8")
    assert TABLES["fill"](page.split("## ")[0]) == page
    for folder in runs_in(ROOT / "results"):
        section = TABLES["_section"](folder.name)
        for claim in section.claims:
            assert claim.claim.replace("|", "\\|") in page, claim.claim
        assert section.chosen != "–", folder.name


@pytest.mark.parametrize("page", ["README.md", "docs/mnist-deblurring.md"])
def test_a_changed_number_is_found_and_put_right(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    marker = TABLES["MARKER"].search(text)
    assert marker is not None
    row = marker[0].splitlines()[-1]
    assert TABLES["fill"](text.replace(row, row.replace("5", "6"))) == text
