"""The notebook tool: canonical form, editions, student copies, rules, stored results, and the run with nbval.

Each rule is shown a small notebook that keeps all rules, and then the same notebook with one planted defect that it must reject.
"""

import copy
import json
import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools"))

import nbfile
import nbnames
import nbresults
import nbrules
import nbrun
import nbsync

PROSE = {
    "title": ("# 00 Small\n\nA model guesses the next token.", "# 00 小\n\n模型猜测下一个词元。"),
    "goals": (
        "**You will do** one thing.\n\n**You will learn**\n- a\n- b\n- c\n\n**You need** 20 minutes.",
        "**你将做**一件事。\n\n**你将学到**\n- 甲\n- 乙\n- 丙\n\n**你需要** 20 分钟。",
    ),
    "question": ("## What is likely?\n\n**Before you run it**: guess.", "## 什么最可能？\n\n**运行之前**：先猜。"),
    "figure": (
        "**Figure**: one bar for each of the two tokens; the first is longer.\n\n**Notice** the first.",
        "**图**：两个词元各有一个条形，第一个较长。\n\n**注意**第一个。",
    ),
    "box": ("> **What the text says / what holds.** It guesses.", "> **原文怎么说／事实如何。** 它猜测。"),
    "exercise": (
        "### Exercise {id}\n\nDifficulty: easy, 5 minutes. Write it.",
        "### 练习 {id}\n\n难度：易，5 分钟。写出来。",
    ),
    "solution": ("The solution is folded.", "解答已折叠。"),
    "know": (
        "## What you now know\n\nA little. One limit: it is small.",
        "## 你现在知道了什么\n\n一点点。局限：它很小。",
    ),
    "reading": ("## Further reading\n\n- A. Author, *A book*, 2020.", "## 延伸阅读\n\n- A. Author, *A book*, 2020."),
}
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="


def markdown(name, edition="en", id=None, number=""):
    """A Markdown cell of the sample; the Chinese one remembers which English it translates."""
    english, chinese = (text.replace("{id}", number) for text in PROSE[name])
    metadata = {"en_hash": nbsync.source_hash(english)} if edition == "zh" else {}
    return {
        "cell_type": "markdown",
        "id": id or name,
        "metadata": metadata,
        "source": chinese if edition == "zh" else english,
    }


def code(id, source, text="", tags=(), **outputs):
    found = [{"output_type": "stream", "name": "stdout", "text": text}] if text else []
    if outputs:
        found.append({"output_type": "display_data", "metadata": {}, "data": outputs["data"]})
    return {
        "cell_type": "code",
        "id": id,
        "metadata": {"tags": list(tags)} if tags else {},
        "source": source,
        "outputs": found,
        "execution_count": None,
    }


def exercise(id, name, edition):
    stub = f'def {name}(*values):\n    ...\n\nlt.checks.check("{id}", {name})'
    solved = (
        f'from llmtutor.checks import exercise\n{name} = exercise("{id}").solution\nlt.checks.check("{id}", {name})'
    )
    solution = code(f"solution-{name}", solved, f"Exercise {id}: passed / 练习 {id}：通过\n", ["solution"])
    solution["metadata"]["jupyter"] = {"source_hidden": True}
    folded = markdown("solution", edition, f"fold-{name}")
    folded["metadata"]["tags"] = ["solution"]
    return [
        markdown("exercise", edition, f"exercise-{name}", id),
        code(f"stub-{name}", stub, f"Exercise {id}: not tried yet / 练习 {id}：还没有做\n"),
        folded,
        solution,
    ]


def sample(edition="en"):
    """A notebook that keeps every rule."""
    cells = [
        markdown("title", edition),
        markdown("goals", edition),
        code("setup", "import llmtutor as lt", tags=["setup"]),
        markdown("question", edition),
        code("live", "print(1 + 1)", "2\n", data={"image/png": PIXEL, "text/plain": "<Figure>"}),
        markdown("figure", edition),
        markdown("box", edition),
        *exercise("00.1", "top_tokens", edition),
        *exercise("00.2", "looks_most_at", edition),
        *exercise("00.3", "cost", edition),
        markdown("know", edition),
        markdown("reading", edition),
    ]
    for number, cell in enumerate([cell for cell in cells if cell["cell_type"] == "code"]):
        cell["execution_count"] = number + 1
    return nbfile.normalise({"cells": cells})


def as_page(notebook, edition="en", **values):
    return nbrules.Page(notebook["cells"], edition, "00", **values)


def cell_of(notebook, id):
    return next(cell for cell in notebook["cells"] if cell["id"] == id)


def plant(id, /, **changes):
    """A function that changes one cell of a notebook."""
    return lambda notebook: cell_of(notebook, id).update(changes)


def drop(id):
    return lambda notebook: notebook["cells"].remove(cell_of(notebook, id))


def replace(id, old, new):
    def change(notebook):
        cell = cell_of(notebook, id)
        assert old in cell["source"]
        cell["source"] = cell["source"].replace(old, new)

    return change


def stdout(id, text):
    return plant(id, outputs=[{"output_type": "stream", "name": "stdout", "text": text}])


def tag(id, *names):
    return lambda notebook: cell_of(notebook, id)["metadata"].update(tags=list(names))


DEFECTS = [
    ("title", replace("title", "# 00", "# 01")),
    ("title", replace("title", "\n\nA model guesses the next token.", "")),
    ("title", drop("title")),
    ("goals", drop("goals")),
    ("goals", replace("goals", "- c\n", "")),
    ("goals", replace("goals", "20 minutes", "time")),
    ("goals", replace("goals", "**You will learn**", "**Content**")),
    ("setup", tag("setup")),
    ("setup", tag("live", "setup")),
    ("setup", replace("live", "print(1 + 1)", "lm = lt.load(MODEL)")),
    ("sections", replace("question", "likely?", "likely")),
    ("sections", replace("question", "**Before you run it**: guess.", "Run it.")),
    ("sections", replace("figure", "**Notice** the first.", "")),
    ("exercises", replace("exercise-cost", "### Exercise 00.3", "### Task 00.3")),
    ("exercises", replace("exercise-cost", "00.3", "00.4")),
    ("exercises", replace("exercise-cost", "Difficulty: easy", "Easy")),
    ("exercises", replace("exercise-cost", "5 minutes", "short")),
    ("stubs", tag("solution-cost")),
    ("stubs", plant("fold-cost", source="Solution: count the tokens.", metadata={})),
    ("stubs", stdout("stub-cost", "Exercise 00.3: passed\n")),
    ("stubs", drop("solution-cost")),
    ("stubs", plant("solution-cost", metadata={"tags": ["solution"]})),
    ("stubs", stdout("solution-cost", "Exercise 00.3: not yet\n")),
    ("stubs", replace("stub-cost", '"00.3"', '"00.2"')),
    ("no_names_from_exercises", replace("stub-cost", "    ...", "    return top_tokens(values)")),
    ("ending", drop("know")),
    ("ending", replace("know", "One limit: it is small.", "")),
    ("ending", replace("reading", "2020", "some year")),
    ("ending", drop("reading")),
    ("box", drop("box")),
    ("box", replace("box", "> ", "")),
    ("short_code", replace("live", "print(1 + 1)", "\n".join(["x = 1"] * 16))),
    (
        "short_code",
        lambda notebook: [
            cell.update(source="\n".join(["x = 1"] * 9)) for cell in notebook["cells"] if cell["cell_type"] == "code"
        ],
    ),
    ("prose_between_code", drop("question")),
    ("figures_described", replace("figure", "**Figure**", "**Bars**")),
    ("figures_described", plant("figure", source="A figure.")),
    ("ids", plant("box", id="title")),
    ("ids", plant("box", id="not allowed")),
    ("ids", plant("box", id="")),
    ("counts", plant("live", execution_count=None)),
    ("counts", plant("live", execution_count=9)),
    ("clean_outputs", plant("live", outputs=[{"output_type": "stream", "name": "stderr", "text": "a warning"}])),
    (
        "clean_outputs",
        plant("live", outputs=[{"output_type": "error", "ename": "ValueError", "evalue": "", "traceback": []}]),
    ),
    ("clean_outputs", stdout("live", "<object at 0x7f00aa11bb22>")),
    ("no_machine_paths", stdout("live", "saved in /" + "home/anna/x")),
    ("no_machine_paths", replace("live", "print(1 + 1)", "open('/" + "tmp/x')")),
    ("no_machine_paths", replace("box", "It guesses.", "See C:\\" + "Users\\anna.")),
    ("no_skips", replace("live", "print(1 + 1)", "# NBVAL_SKIP\nprint(1 + 1)")),
    ("no_skips", tag("live", "nbval-ignore-output")),
]


@pytest.mark.parametrize("edition", nbfile.EDITIONS)
@pytest.mark.parametrize("rule", nbrules.RULES, ids=lambda rule: rule.__name__)
def test_a_good_notebook_keeps_every_rule(rule, edition):
    assert rule(as_page(sample(edition), edition)) == []


@pytest.mark.parametrize(
    ("name", "spoil"), DEFECTS, ids=[f"{name}-{number}" for number, (name, _) in enumerate(DEFECTS)]
)
def test_each_rule_rejects_its_planted_defect(name, spoil):
    notebook = sample()
    spoil(notebook)
    assert getattr(nbrules, name)(as_page(notebook)) != []


@pytest.mark.parametrize(
    ("name", "spoil"),
    [
        ("sections", replace("figure", "**注意**第一个", "注意力在第一个")),
        ("sections", replace("question", "**运行之前**：先猜。", "运行。")),
        ("exercises", replace("exercise-cost", "5 分钟", "不久")),
        ("ending", replace("know", "局限", "特点")),
        ("box", replace("box", "原文怎么说／事实如何", "原文")),
    ],
)
def test_the_chinese_rules_reject_planted_defects_too(name, spoil):
    notebook = sample("zh")
    spoil(notebook)
    assert getattr(nbrules, name)(as_page(notebook, "zh")) != []


def test_every_rule_has_a_planted_defect():
    assert {name for name, _ in DEFECTS} | {"small"} == {rule.__name__ for rule in nbrules.RULES}
    assert nbrules.small(as_page(sample(), size=1_000_001)) and not nbrules.small(as_page(sample(), size=999_999))


def test_the_chinese_words_are_needed_in_the_chinese_edition():
    failing = {rule.__name__ for rule in nbrules.SKELETON if rule(as_page(sample("en"), "zh"))}
    assert {"goals", "sections", "exercises", "ending", "box", "figures_described"} <= failing


def test_a_chapter_other_than_00_needs_five_exercises():
    notebook = json.loads(json.dumps(sample()).replace("00.", "03."))
    problems = nbrules.exercises(nbrules.Page(notebook["cells"], "en", "03"))
    assert problems == ["3 exercises, at least 5 are wanted (headings '### Exercise 03.1')"]


def test_paths_in_pictures_and_addresses_of_web_pages_are_no_machine_paths():
    notebook = sample()
    cell_of(notebook, "live")["outputs"] = [
        {
            "output_type": "display_data",
            "metadata": {},
            "data": {
                "image/png": "AA/" + "tmp/AAAA",
                "text/html": "<img src='data:image/png;base64,AA+/" + "home/AAAA'> https://example.org/home/anna",
            },
        }
    ]
    assert nbrules.no_machine_paths(as_page(notebook)) == []


@pytest.mark.parametrize(
    ("later", "expected"),
    [
        ("print(answer)", {"answer"}),
        ("answer = 2\nprint(answer)", set()),
        ("answer = answer + 1", {"answer"}),
        ("answer += 1", {"answer"}),
        ("def f(answer):\n    return answer", set()),
        ("def f():\n    return answer", {"answer"}),
        ("for answer in [1]:\n    print(answer)", set()),
        ("x = [answer for answer in [1]]", set()),
        ("import numpy as np\nnp.ones(2)", set()),
        ("np.ones(2)", set()),
        ("helper.x", {"helper"}),
        ("%matplotlib inline\nprint(answer)", {"answer"}),
    ],
)
def test_names_borrowed_from_an_exercise(later, expected):
    sources = ["import numpy as np", "import numpy as np\nimport helper\ndef answer(): ...", later]
    cells = [code(str(number), source) for number, source in enumerate(sources)]
    assert {name for _, name, _ in nbnames.borrowed(cells, [None, "00.1", None])} == expected


# --- canonical form ---------------------------------------------------------------------------------------------------


def messy():
    """A notebook as JupyterLab and nbconvert leave it: widget state, times, ids missing, stream in pieces."""
    widget = {"output_type": "display_data", "metadata": {}, "data": {nbfile.WIDGET_MIME: {"model_id": "1"}}}
    both = {
        "output_type": "execute_result",
        "execution_count": 7,
        "metadata": {},
        "data": {nbfile.WIDGET_MIME: {}, "text/html": ["<b>\n", "x</b>"]},
    }
    pieces = [{"output_type": "stream", "name": "stdout", "text": text} for text in (["a\n"], "b\n")]
    cells = [
        {
            "cell_type": "code",
            "metadata": {"execution": {"t": 1}, "tags": [], "scrolled": True},
            "source": ["x = 1\n", "x\n"],
            "execution_count": 3,
            "outputs": [widget, *pieces, both],
        },
        {"cell_type": "markdown", "metadata": {}, "source": "same", "id": "keep-me"},
        {"cell_type": "markdown", "metadata": {}, "source": "same", "id": "keep-me"},
        {"cell_type": "markdown", "metadata": {}, "source": "same"},
    ]
    return {
        "cells": cells,
        "metadata": {"widgets": {"x": 1}, "language_info": {"version": "3.11.7"}},
        "nbformat": 4,
        "nbformat_minor": 4,
    }


def write_messy(tmp_path):
    path = tmp_path / "notebooks" / "en" / "00-messy.ipynb"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(messy()), encoding="utf-8")
    return path


def test_normalise_strips_what_changes_and_keeps_ids(tmp_path):
    path = write_messy(tmp_path)
    notebook = nbfile.normalise(nbfile.read(path))
    nbformat.validate(nbformat.from_dict(notebook))
    text = nbfile.dumps(notebook)
    assert "widget" not in text and "3.11.7" not in text and "scrolled" not in text and '"t"' not in text
    first, *prose = notebook["cells"]
    assert [output["output_type"] for output in first["outputs"]] == ["stream", "execute_result"]
    assert first["outputs"][0]["text"] == "a\nb\n" and first["outputs"][1]["data"] == {"text/html": "<b>\nx</b>"}
    assert first["outputs"][1]["execution_count"] == 3
    assert prose[0]["id"] == "keep-me" and len({cell["id"] for cell in notebook["cells"]}) == 4


def test_normalise_is_idempotent_deterministic_and_readable_by_nbformat(tmp_path):
    path = write_messy(tmp_path)
    once = nbfile.dumps(nbfile.normalise(nbfile.read(path)))
    assert nbfile.dumps(nbfile.normalise(nbfile.read(path))) == once  # the ids that it makes are the same everywhere
    path.write_bytes(once.encode("utf-8"))
    assert nbfile.dumps(nbfile.normalise(nbfile.read(path))) == once
    assert nbfile.dumps(nbfile.normalise(json.loads(json.dumps(sample())))) == nbfile.dumps(sample())
    assert (
        "\r" not in once
        and once.endswith("}\n")
        and json.loads(once) == json.loads(nbformat.writes(nbformat.read(path, 4)))
    )


def test_choosing_a_notebook_that_is_not_there_says_what_is(tmp_path):
    write_messy(tmp_path)
    with pytest.raises(SystemExit, match="there is no notebook '07'.*00-messy.ipynb"):
        nbfile.notebooks(tmp_path, "en", ["07"])


# --- editions ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def course(tmp_path):
    """A course of one notebook in both editions, in step."""
    for edition in nbfile.EDITIONS:
        nbfile.write(tmp_path / "notebooks" / edition / "00-small.ipynb", sample(edition))
    return tmp_path


def edit(course, edition, change):
    path = course / "notebooks" / edition / "00-small.ipynb"
    notebook = nbfile.read(path)
    change(notebook)
    nbfile.write(path, notebook)


def report(course, **options):
    return nbsync.sync(course, **options)[0]


def test_editions_in_step_are_clean_and_sync_changes_nothing(course):
    path = course / "notebooks" / "zh" / "00-small.ipynb"
    before = path.read_bytes()
    assert report(course, check_only=True).clean and report(course).clean and path.read_bytes() == before


@pytest.mark.parametrize(
    "change",
    [
        replace("live", "1 + 1", "2 + 2"),
        stdout("live", "4\n"),
        tag("live", "other"),
        drop("live"),
        lambda notebook: notebook["cells"].reverse(),
    ],
    ids=["code", "output", "tags", "missing cell", "order"],
)
@pytest.mark.parametrize("edition", nbfile.EDITIONS)
def test_drift_is_seen_and_repaired(course, edition, change):
    edit(course, edition, change)
    assert report(course, check_only=True).drift
    assert report(course).clean and report(course, check_only=True).clean
    english, chinese = (
        nbfile.read(course / "notebooks" / name / "00-small.ipynb")["cells"] for name in nbfile.EDITIONS
    )
    assert [cell["id"] for cell in english] == [cell["id"] for cell in chinese]
    assert [cell for cell in english if cell["cell_type"] == "code"] == [
        cell for cell in chinese if cell["cell_type"] == "code"
    ]


def test_changed_english_makes_the_chinese_stale_until_accepted(course):
    edit(course, "en", replace("box", "It guesses.", "It guesses well."))
    assert report(course).stale == ["box"] and report(course).stale == ["box"]
    assert "原文" in cell_of(nbfile.read(course / "notebooks" / "zh" / "00-small.ipynb"), "box")["source"]
    assert report(course, accepted=["box"]).clean and report(course, check_only=True).clean


def test_new_prose_is_untranslated_and_cannot_be_accepted_in_english(course):
    new = {"cell_type": "markdown", "id": "new", "metadata": {}, "source": "A new sentence."}
    edit(course, "en", lambda notebook: notebook["cells"].append(new))
    assert report(course).untranslated == ["new"]
    refused = report(course, accepted=["all"])
    assert (
        refused.refused == ["new"]
        and refused.untranslated == ["new"]
        and "holds no Chinese" in "\n".join(refused.lines())
    )
    edit(course, "zh", plant("new", source="一个新句子。"))
    assert report(course).stale == ["new"] and report(course, accepted=["new"]).clean


def test_a_missing_edition_an_orphan_and_an_unknown_id_are_reported(course):
    (course / "notebooks" / "zh" / "00-small.ipynb").rename(course / "notebooks" / "zh" / "09-alone.ipynb")
    reports = nbsync.sync(course, check_only=True)
    assert [one.name for one in reports if one.drift] == ["00-small.ipynb", "09-alone.ipynb"]
    with pytest.raises(SystemExit, match="nowhere"):
        nbsync.sync(course, accepted=["nowhere"])


@pytest.mark.parametrize(
    ("source", "needed"),
    [("$$a = b_{ij}$$", False), ("`code_only`", False), ("---", False), ("A word", True), ("See `x` now", True)],
)
def test_only_prose_needs_translation(source, needed):
    assert nbsync.needs_translation(source) is needed


def test_student_copies_have_no_solutions(course, tmp_path):
    written = nbsync.student(course, tmp_path / "copies")
    assert [path.parent.name for path in written] == ["en", "zh"]
    for path in written:
        assert "solution" not in path.read_text(encoding="utf-8")
        page = nbrules.page(path)
        assert len(page.exercises()) == 3 and nbrules.counts(page) == [] and nbrules.ids(page) == []


# --- stored results ---------------------------------------------------------------------------------------------------


def test_results_are_computed_stored_and_refused_when_the_code_changes(tmp_path, capsys):
    from llmtutor.checks import stored

    script = tmp_path / "tools" / "results" / "03.py"
    script.parent.mkdir(parents=True)
    (tmp_path / "part.py").write_text("x = 1\n", encoding="utf-8")
    script.write_text("USES = ['part.py']\ndef compute():\n    return {'loss': [1.5, 1.25]}\n", encoding="utf-8")
    assert nbresults.results(tmp_path, "04") == 0 and "chapter 04 stores no results" in capsys.readouterr().out
    with pytest.raises(FileNotFoundError, match="course.py results 03"):
        stored("03", tmp_path)
    assert nbresults.outdated(tmp_path) == ["03"]
    nbresults.results(tmp_path, "03")
    assert stored("03", tmp_path) == {"loss": [1.5, 1.25]} and nbresults.outdated(tmp_path) == []
    content = json.loads((tmp_path / "notebooks" / "results" / "03.json").read_text(encoding="utf-8"))
    assert set(content["versions"]) == {"python", "torch", "transformers", "numpy"} and content["seconds"] >= 0
    (tmp_path / "part.py").write_text("x = 2\n", encoding="utf-8")
    with pytest.raises(ValueError, match="other code"):
        stored("03", tmp_path)
    assert nbresults.outdated(tmp_path) == ["03"]


# --- running ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cell", "kind"),
    [
        (code("a", "print(2)", "2\n"), "held"),
        (code("a", "x = 2"), None),
        (code("a", "assert x"), "held"),
        (code("a", "lt.checks.claim(x, 'y')", "z"), "held"),
        (code("a", "f()", data={"image/png": PIXEL, "text/plain": "<Figure>"}), "picture"),
        (code("a", "# NBVAL_IGNORE_OUTPUT\nprint(2)", "2\n"), "loose"),
        (code("a", "print(2)", "2\n", tags=["nbval-ignore-output"]), "loose"),
        (code("a", "print(t)", "12.3 s\n"), "loose"),
        (code("a", "print(t)", "loss 2.1 after 12.3 s\n"), "held"),
        (markdown("title"), None),
    ],
)
def test_coverage_of_a_cell(cell, kind):
    if cell["cell_type"] == "code":
        cell["execution_count"] = 1
    assert nbrun.coverage(cell) == kind


def test_a_cell_without_a_count_is_not_compared():
    assert nbrun.coverage(code("a", "print(2)", "2\n")) == "loose"


def test_measure_adds_up_the_memory_of_all_descendants_and_stops_at_the_limit(tmp_path):
    hungry = "x = bytearray(300_000_000); import time; time.sleep(1)"
    pair = f"import subprocess, sys; [p.wait() for p in [subprocess.Popen([sys.executable, '-c', {hungry!r}]) for _ in 'ab']]"
    kernel = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {pair!r}])"
    ballast = bytearray(b"x") * 900_000_000  # what this process itself holds must not be counted
    cost = nbrun.measure([sys.executable, "-c", kernel], tmp_path, limit=60)
    del ballast
    assert cost.code == 0 and 0.6e9 < cost.memory < 0.8e9  # both together
    cost = nbrun.measure(
        [sys.executable, "-c", "print('begun', flush=True); import time; time.sleep(60)"], tmp_path, limit=1
    )
    assert cost.code is None and cost.seconds < 15 and cost.output.strip() == "begun"


def test_an_error_is_shown_only_where_it_is_meant_and_without_paths():
    notebook = sample("en")
    error = {"output_type": "error", "ename": "ValueError", "evalue": "no", "traceback": ["File /" + "home/anna/x, line 1", "ValueError: no"]}
    cell_of(notebook, "live").update(outputs=[error])
    assert nbrules.clean_outputs(as_page(notebook, "en"))
    tag("live", "raises-exception")(notebook)
    assert not nbrules.clean_outputs(as_page(notebook, "en"))
    assert nbfile._normal_outputs(cell_of(notebook, "live"))[0]["traceback"] == ["ValueError: no"]


def test_a_network_that_cannot_be_cut_is_said_or_refused(monkeypatch):
    monkeypatch.setattr(nbrun.shutil, "which", lambda name: None)
    monkeypatch.delenv("LLMTUTOR_REQUIRE_NETNS", raising=False)
    assert nbrun.network_cut() == []
    monkeypatch.setenv("LLMTUTOR_REQUIRE_NETNS", "1")
    with pytest.raises(SystemExit, match="cannot be cut"):
        nbrun.network_cut()


def tool(course, *words):
    """Calls the tool as a person does; the package comes from this repository unless the course has its own."""
    command = [sys.executable, str(ROOT / "tools" / "notebook.py"), "--root", str(course), *words]
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=300,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )


def test_a_course_without_notebooks_passes_with_a_message(tmp_path):
    done = tool(tmp_path, "test")
    assert done.returncode == 0 and done.stdout.splitlines()[-1] == "notebooks: 0 passed, 0 failed"


def test_run_writes_what_test_accepts(course):
    edit(course, "en", stdout("live", "an old output\n"))
    ran = tool(course, "run", "00")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    notebook = nbfile.read(course / "notebooks" / "en" / "00-small.ipynb")
    assert cell_of(notebook, "live")["outputs"][0]["text"] == "2\n" and nbrules.stubs(as_page(notebook)) == []
    tested = tool(course, "test")
    assert tested.returncode == 0, tested.stdout + tested.stderr
    assert tested.stdout.splitlines()[-1] == "notebooks: 1 passed, 0 failed" and "7 of 7 cells" in tested.stdout


BAD_CELLS = {
    "differs": code("differs", "print(3)", "2\n"),
    "warns": code(
        "warns",
        "import contextlib, io\nfrom llmtutor import noisy\nwith contextlib.redirect_stderr(io.StringIO()):\n    "
        "noisy.hello()",
    ),
    "stderr": code("stderr", "import sys\nprint('careful', file=sys.stderr)"),
    "false": code("false", "assert 1 == 2"),
    "reaches": code("reaches", "import socket\nsocket.create_connection(('192.0.2.1', 80), timeout=1)"),
    "unreached": code(
        "unreached",
        "try:\n    socket.create_connection(('192.0.2.1', 80), timeout=3)\nexcept OSError as e:\n    "
        "print(type(e), e.errno)",
        "<class 'OSError'> 101\n",
    ),
    "fine": code("fine", "print(5)", "5\n"),
}


def test_nbval_finds_every_planted_fault(tmp_path):
    cells = [copy.deepcopy(cell) for cell in BAD_CELLS.values()]
    for number, cell in enumerate(cells):
        cell["execution_count"] = number + 1
    nbfile.write(tmp_path / "notebooks" / "en" / "00-bad.ipynb", nbfile.normalise({"cells": cells}))
    (tmp_path / "llmtutor").mkdir()
    (tmp_path / "llmtutor" / "__init__.py").write_text("", encoding="utf-8")
    (tmp_path / "llmtutor" / "noisy.py").write_text(
        "import warnings\ndef hello():\n    warnings.warn('ours')\n", encoding="utf-8"
    )
    done = tool(tmp_path, "test")
    assert done.returncode == 1 and done.stdout.splitlines()[-1] == "notebooks: 0 passed, 1 failed"
    failed = {name for number, name in enumerate(BAD_CELLS) if f"::Cell {number} -" in done.stdout}
    wanted = {"differs", "warns", "stderr", "false", "reaches"} | (set() if nbrun.network_cut() else {"unreached"})
    assert failed == wanted, done.stdout
