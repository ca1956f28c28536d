"""The real notebooks, file by file: every rule of tools/nbrules.py, editions in step, exercises registered, results up to date.

That the notebooks run and show what is stored in them is tested by `python tools/notebook.py test`, with nbval.
"""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools"))

import nbfile
import nbresults
import nbrules
import nbsync

from llmtutor import checks

FILES = [path for edition in nbfile.EDITIONS for path in nbfile.notebooks(ROOT, edition)]
ENGLISH = [path for path in FILES if path.parent.name == "en"]


def name(value):
    return f"{value.parent.name}/{value.name}" if isinstance(value, Path) else value.__name__


def test_both_editions_hold_the_same_notebooks():
    english, chinese = ({path.name for path in FILES if path.parent.name == edition} for edition in nbfile.EDITIONS)
    if not english and not chinese:
        pytest.skip("no notebook has been written yet, in either edition")
    assert english and english == chinese


@pytest.mark.parametrize("rule", nbrules.RULES, ids=name)
@pytest.mark.parametrize("path", FILES, ids=name)
def test_rule(path, rule):
    assert rule(nbrules.page(path)) == []


@pytest.mark.parametrize("path", FILES, ids=name)
def test_file_is_in_canonical_form(path):
    canonical = nbfile.dumps(nbfile.normalise(nbfile.read(path))).encode("utf-8")
    assert path.read_bytes().replace(b"\r\n", b"\n") == canonical, "run `python tools/notebook.py normalise`"


@pytest.mark.parametrize("path", ENGLISH, ids=name)
def test_chinese_edition_is_in_step(path):
    report = nbsync.sync(ROOT, [path.name], check_only=True)[0]
    assert report.clean, "\n".join(report.lines())


@pytest.mark.parametrize("path", ENGLISH, ids=name)
def test_exercises_of_the_notebook_are_the_registered_ones(path):
    assert list(nbrules.page(path).exercises()) == [task.id for task in checks.exercises(path.name[:2])]


@pytest.mark.parametrize("path", ENGLISH, ids=name)
def test_solution_cells_define_what_the_check_accepts(path):
    """Runs each solution cell by itself: it needs at most NumPy and the package, so a reader can start anywhere."""
    import numpy

    import llmtutor

    for id, cells in nbrules.page(path).exercises().items():
        for cell in cells:
            if cell["cell_type"] == "code" and "solution" in nbfile.tags(cell):
                space = {"lt": llmtutor, "np": numpy, "__name__": "solution"}
                exec(compile(cell["source"], f"<solution {id}>", "exec"), space)
                answers = [value for value in space.values() if getattr(value, "__module__", None) == "solution"]
                assert any(checks.examine(checks.exercise(id), answer).status == "pass" for answer in answers)


def test_the_glossary_has_one_translation_for_each_term():
    text = (ROOT / "notebooks" / "GLOSSARY.md").read_text(encoding="utf-8")
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ") and "| English |" not in line]
    assert len(rows) >= 80 and all(len(row) == 4 and all(row) for row in rows)
    assert all(len({row[column] for row in rows}) == len(rows) for column in range(4))


def test_stored_results_were_made_by_the_code_of_today():
    assert nbresults.outdated(ROOT) == []
