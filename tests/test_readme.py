"""The README's commands are the ones promised, and the examples of every document run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def examples(page: Path) -> list[str]:
    """Each stands alone, but those of a tutorial, which are one program."""
    found = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    return ["".join(found)] if page.stem.startswith("tutorial") else found


EXAMPLES = [
    pytest.param(page.name, code, id=f"{page.stem}-{i}")
    for page in PAGES
    for i, code in enumerate(examples(page))
]


def test_both_commands_are_there_after_a_virtual_environment() -> None:
    for command in (
        'pip install -e ".[lab]" && fastweights run retrieval',
        'pip install -e ".[test]" && pytest -n auto',
    ):
        assert f"python3 -m venv .venv && . .venv/bin/activate\n{command}\n" in README


@pytest.mark.parametrize(("page", "code"), EXAMPLES)
def test_example_runs(
    page: str, code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # it may draw
    exec(compile(code, page, "exec"), {})


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!http)([^)#]+)(?:#[^)]*)?\)", page.read_text("utf-8")):
        assert (page.parent / target).exists(), target
