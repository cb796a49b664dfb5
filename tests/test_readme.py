"""The README's commands are the ones promised, its examples run, its numbers are the results'."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fastweights.experiments.runner import load_plan, results_of

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_both_commands_are_there_after_a_virtual_environment():
    for command in (
        'pip install -e ".[lab]" && fastweights run retrieval',
        'pip install -e ".[test]" && pytest',
    ):
        assert f"python3 -m venv .venv && . .venv/bin/activate\n{command}\n" in README


@pytest.mark.parametrize("code", re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL))
def test_example_runs(code):
    exec(compile(code, "README.md", "exec"), {})


@pytest.mark.parametrize("name", re.findall(r"<!-- results/(\S+) -->", README))
def test_table_is_what_the_results_say(name):
    plan = load_plan(ROOT / "results" / name)
    section = plan.experiment.section(plan.config, results_of(plan), plan.folder)
    table = section.tables[0]
    lines = ["| " + " | ".join(row) + " |" for row in (table.columns, *table.rows)]
    lines.insert(1, "| " + " | ".join("---" for _ in table.columns) + " |")
    assert f"<!-- results/{name} -->\n\n" + "\n".join(lines) + "\n\n" in README


def test_links_lead_somewhere():
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target
