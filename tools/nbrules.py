"""The rules that hold for every notebook; each is a function of one `Page` that returns problems, an empty list when it holds.

The first line of each docstring is the rule as `python tools/notebook.py rules` prints it;
`tests/test_notebook_tools.py` plants a defect for each and sees it rejected.
"""

import re
import statistics
from dataclasses import dataclass
from pathlib import Path

import nbfile
import nbnames

MAX_LINES, MAX_MEDIAN, MAX_BYTES = 15, 8, 1_000_000
WORDS = {  # what the skeleton is made of, as regular expressions, in each edition
    "en": {
        "do": r"you will do",
        "learn": r"you will learn",
        "need": r"you (will )?need",
        "minutes": r"\d+[ -]min",
        "exercise": r"### Exercise",
        "difficulty": r"difficulty",
        "know": r"^## What you now know",
        "limit": r"\blimit",
        "reading": r"^## Further reading",
        "box": r"What the text says / what holds",
        "predict": r"before you run",
        "notice": r"\bnotice\b",
        "figure": r"\bfigure\b",
        "fixed": r"set-?up|exercises|self-?test",
    },
    "zh": {
        "do": r"你将做",
        "learn": r"你将学到",
        "need": r"你(将)?需要",
        "minutes": r"\d+ ?分钟",
        "exercise": r"### 练习",
        "difficulty": r"难度",
        "know": r"^## 你现在知道了什么",
        "limit": r"局限",
        "reading": r"^## 延伸阅读",
        "box": r"原文怎么说／事实如何",
        "predict": r"运行之前",
        "notice": r"注意(?!力)",  # the word for attention begins with the word for notice
        "figure": r"图",
        "fixed": r"准备|练习|自测",
    },
}
PATHS = re.compile(r"(?<![\w.])/(?:work|root|tmp|home|Users|private/var|mnt|opt/conda)/[\w.-]+|\b[A-Z]:\\\\?Users\\")
ADDRESS = re.compile(r"\bat 0x[0-9a-fA-F]{6,}")
EMBEDDED = re.compile(r"base64,[A-Za-z0-9+/=\s]+")
FIGURE_MIMES = ("image/png", "image/svg+xml", "image/jpeg")


@dataclass(frozen=True)
class Page:
    """One notebook as the rules see it: its cells, its edition ("en" or "zh"), its chapter ("00"), and its size in bytes."""

    cells: list[dict]
    edition: str
    chapter: str
    size: int = 0

    def has(self, word: str, text: str) -> bool:
        """True when `text` contains the skeleton's word in this edition."""
        return bool(re.search(WORDS[self.edition][word], text, re.IGNORECASE | re.MULTILINE))

    @property
    def code(self) -> list[dict]:
        return [cell for cell in self.cells if cell["cell_type"] == "code"]

    @property
    def prose(self) -> list[dict]:
        return [cell for cell in self.cells if cell["cell_type"] == "markdown"]

    def sections(self, mark: str = "## ") -> list[list[dict]]:
        """The cells under each heading of this level, heading cell first."""
        found = []
        for cell in self.cells:
            if cell["cell_type"] == "markdown" and cell["source"].startswith(mark):
                found.append([cell])
            elif found and cell["cell_type"] == "markdown" and re.match(r"#{1,2} ", cell["source"]):
                found.append([])  # a higher heading ends an exercise
            elif found:
                found[-1].append(cell)
        return [cells for cells in found if cells and cells[0]["source"].startswith(mark)]

    def exercises(self) -> dict[str, list[dict]]:
        """The cells of each exercise by its id, heading cell first."""
        found = {}
        for cells in self.sections("### "):
            match = re.match(WORDS[self.edition]["exercise"] + r" ?(\d\d\.\d+)", cells[0]["source"])
            if match:
                found[match.group(1)] = cells
        return found


def page(path: Path) -> Page:
    """Reads a notebook for the rules; its folder names the edition, its first two characters the chapter."""
    return Page(nbfile.read(path)["cells"], path.parent.name, path.name[:2], path.stat().st_size)


def title(page: Page) -> list[str]:
    """The first cell is a title `# NN ...` with the chapter's number, and below it the claim of the chapter as a sentence."""
    first = page.cells[0] if page.cells else {"cell_type": "", "source": ""}
    heading, _, rest = first["source"].partition("\n")
    if first["cell_type"] != "markdown" or not re.match(rf"# {page.chapter}\b", heading):
        return [f"the first cell should begin with '# {page.chapter} ...', it begins with {heading[:40]!r}"]
    return [] if re.search(r"[.。]", rest) else ["the title cell has no claim: write one full sentence under the title"]


def goals(page: Page) -> list[str]:
    """Before the first code stands a cell with You will do / learn / need: 3-5 bullet points to learn, minutes, prerequisites."""
    for cell in page.cells:
        text = cell["source"]
        if cell["cell_type"] == "code":
            break
        if all(page.has(word, text) for word in ("do", "learn", "need")):
            learn = re.split(WORDS[page.edition]["learn"], text, flags=re.IGNORECASE)[1]
            learn = re.split(WORDS[page.edition]["need"], learn, flags=re.IGNORECASE)[0]
            bullets = len(re.findall(r"^[-*] |^\d\. ", learn, re.MULTILINE))
            problems = (
                [] if 3 <= bullets <= 5 else [f"'You will learn' should have 3-5 bullet points, it has {bullets}"]
            )
            return problems + (
                [] if page.has("minutes", text) else ["the goals do not say how many minutes the chapter takes"]
            )
    return ["no cell before the first code holds 'You will do', 'You will learn' and 'You need'"]


def setup(page: Page) -> list[str]:
    """There is one cell tagged `setup`: the first code cell; where a model is loaded it holds the line MODEL = "..."."""
    places = [number for number, cell in enumerate(page.code) if "setup" in nbfile.tags(cell)]
    if places != [0]:
        return [f"exactly the first code cell should carry the tag 'setup'; tagged code cells: {places}"]
    loads = any("lt.load(" in cell["source"] for cell in page.code)
    return (
        ['the setup cell should hold the one line to swap the model: MODEL = "..."']
        if loads and not re.search(r"^MODEL = \"", page.code[0]["source"], re.MULTILINE)
        else []
    )


def sections(page: Page) -> list[str]:
    """A section with code is headed by a question and holds a prediction ("Before you run it") and a "Notice"."""
    problems = []
    for heading, *cells in page.sections():
        name = heading["source"].partition("\n")[0]
        exercise_cells = [id(cell) for cells_ in page.exercises().values() for cell in cells_]
        taught = [
            c
            for c in cells
            if c["cell_type"] == "code" and id(c) not in exercise_cells and "setup" not in nbfile.tags(c)
        ]
        if not taught or page.has("fixed", name):
            continue
        text = "\n".join(cell["source"] for cell in [heading, *cells] if cell["cell_type"] == "markdown")
        problems += (
            []
            if name.rstrip().endswith(("?", "？"))
            else [f"the heading {name!r} of a section with code should be a question"]
        )
        problems += [
            f"the section {name!r} has no '{label}'"
            for word, label in (("predict", "Before you run it"), ("notice", "Notice"))
            if not page.has(word, text)
        ]
    return problems


def exercises(page: Page) -> list[str]:
    """There are at least 5 exercises (3 in chapter 00), numbered NN.1, NN.2, ..., each with difficulty and minutes."""
    found = page.exercises()
    least = 3 if page.chapter == "00" else 5
    problems = (
        []
        if len(found) >= least
        else [f"{len(found)} exercises, at least {least} are wanted (headings '### Exercise {page.chapter}.1')"]
    )
    wanted = [f"{page.chapter}.{number + 1}" for number in range(len(found))]
    problems += [] if list(found) == wanted else [f"exercises are numbered {list(found)}, wanted {wanted}"]
    for id, cells in found.items():
        text = "\n".join(cell["source"] for cell in cells if cell["cell_type"] == "markdown")
        problems += [
            f"exercise {id} does not state its {word}" for word in ("difficulty", "minutes") if not page.has(word, text)
        ]
    return problems


def stubs(page: Page) -> list[str]:
    """Each exercise has a stub whose check says "not tried yet", then a folded, executed solution that passes."""
    problems = []
    for id, cells in page.exercises().items():
        code = [cell for cell in cells if cell["cell_type"] == "code"]
        solutions = [cell for cell in code if "solution" in nbfile.tags(cell)]
        open_cells = [cell for cell in code if cell not in solutions]
        if not any(_says(cell, id, "not tried yet") for cell in open_cells):
            problems.append(f"exercise {id}: no stub cell calls check(\"{id}\", ...) and shows 'not tried yet'")
        if not any(_says(cell, id, "passed") for cell in solutions):
            problems.append(f"exercise {id}: no cell tagged 'solution' calls check(\"{id}\", ...) and shows 'passed'")
        if not all(cell["metadata"].get("jupyter", {}).get("source_hidden") for cell in solutions):
            problems.append(f"exercise {id}: its solution is not folded (metadata.jupyter.source_hidden)")
        leaks = [cell for cell in cells if re.match("Solution|参考答案", cell["source"]) and "solution" not in nbfile.tags(cell)]
        if leaks:
            problems.append(f"exercise {id}: tag 'solution' is missing on the prose of its solution, so a student copy shows it")
    return problems


def _says(cell: dict, id: str, words: str) -> bool:
    printed = "".join(output.get("text", "") for output in cell["outputs"])
    return f'check("{id}"' in cell["source"] and f"{id}: {words}" in printed


def no_names_from_exercises(page: Page) -> list[str]:
    """No cell after an exercise uses a name that the exercise defines: a reader's answer must not change the chapter."""
    inside = {
        id(cell): name for name, cells in page.exercises().items() for cell in cells if cell["cell_type"] == "code"
    }
    return [
        f"cell {cell['id']} uses {name!r}, which exercise {exercise} defines"
        for cell, name, exercise in nbnames.borrowed(page.code, [inside.get(id(cell)) for cell in page.code])
    ]


def ending(page: Page) -> list[str]:
    """The chapter closes with "What you now know" (one honest limit) and "Further reading" (full citations with year)."""
    problems = []
    for word, needs, what in (
        ("know", WORDS[page.edition]["limit"], "an honest limit"),
        ("reading", r"\b(19|20)\d\d\b", "citations with their year"),
    ):
        texts = [
            "\n".join(c["source"] for c in cells if c["cell_type"] == "markdown")
            for cells in page.sections()
            if page.has(word, cells[0]["source"])
        ]
        name = WORDS[page.edition][word].lstrip("^")
        if not texts:
            problems.append(f"the section '{name}' is missing")
        elif not re.search(needs, texts[0], re.IGNORECASE):
            problems.append(f"the section '{name}' has no {what}")
    return problems


def box(page: Page) -> list[str]:
    """One quoted box "What the text says / what holds" puts a sentence of the source text to the test."""
    boxes = [
        cell
        for cell in page.prose
        if page.has("box", cell["source"]) and re.search(r"^>", cell["source"], re.MULTILINE)
    ]
    return (
        []
        if len(boxes) == 1
        else [f"there should be one quoted box '{WORDS[page.edition]['box']}', there are {len(boxes)}"]
    )


def short_code(page: Page) -> list[str]:
    """A code cell has at most 15 lines; the median is at most 8."""
    lengths = {cell["id"]: len(cell["source"].splitlines()) for cell in page.code}
    problems = [
        f"cell {id} has {length} lines, at most {MAX_LINES} are wanted"
        for id, length in lengths.items()
        if length > MAX_LINES
    ]
    median = statistics.median(lengths.values()) if lengths else 0
    return problems + (
        [f"the median length of a code cell is {median}, at most {MAX_MEDIAN} is wanted"] if median > MAX_MEDIAN else []
    )


def prose_between_code(page: Page) -> list[str]:
    """Between two code cells stands at least a sentence."""
    return [
        f"cell {cell['id']} follows a code cell without a sentence between"
        for before, cell in zip(page.cells, page.cells[1:], strict=False)
        if before["cell_type"] != "markdown" and cell["cell_type"] != "markdown"
    ]


def figures_described(page: Page) -> list[str]:
    """The Markdown cell after each figure describes it (its alt text), with the word "figure" in it."""
    problems = []
    for cell, after in zip(page.cells, [*page.cells[1:], {"cell_type": "", "source": ""}], strict=True):
        if has_figure(cell) and not (
            after["cell_type"] == "markdown"
            and page.has("figure", after["source"])
            and len(after["source"]) >= 40 // (1 + (page.edition == "zh"))
        ):
            problems.append(
                f"the figure of cell {cell['id']} is not followed by a Markdown cell that describes it ('Figure: ...')"
            )
    return problems


def has_figure(cell: dict) -> bool:
    """True for a code cell that shows a picture."""
    data = [output.get("data", {}) for output in cell.get("outputs", [])]
    return any(mime in item for item in data for mime in FIGURE_MIMES) or any(
        "<img" in item.get("text/html", "") for item in data
    )


def ids(page: Page) -> list[str]:
    """Every cell has an id of its own, in the form that Jupyter allows."""
    names = [cell.get("id", "") for cell in page.cells]
    return [
        f"cell {number} has the id {name!r}: missing, repeated or not allowed"
        for number, name in enumerate(names)
        if names.count(name) > 1 or not re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", name)
    ]


def counts(page: Page) -> list[str]:
    """Execution counts run 1..n: the notebook was run once, from top to bottom, and every cell is compared by nbval."""
    found = [cell["execution_count"] for cell in page.code]
    return (
        []
        if found == list(range(1, len(found) + 1))
        else [f"execution counts are {found}: run `python tools/notebook.py run {page.chapter}`"]
    )


def clean_outputs(page: Page) -> list[str]:
    """No output holds stderr text, an error (unless the cell is tagged "raises-exception"), or an object's address."""
    problems = []
    for cell in page.code:
        for output in cell["outputs"]:
            meant = output["output_type"] == "error" and "raises-exception" in nbfile.tags(cell)
            if not meant and (output.get("name") == "stderr" or output["output_type"] == "error"):
                problems.append(
                    f"cell {cell['id']} shows {output.get('name') or output.get('ename')}: "
                    f"{output.get('text', '')[:80]!r}"
                )
            if ADDRESS.search(_text(output)):
                problems.append(
                    f"cell {cell['id']} shows the address of an object: {ADDRESS.search(_text(output)).group()}"
                )
    return problems


def no_machine_paths(page: Page) -> list[str]:
    """No cell and no output names a path of the machine it was made on."""
    texts = [
        (cell["id"], text) for cell in page.cells for text in [cell["source"], *map(_text, cell.get("outputs", []))]
    ]
    return [
        f"cell {id} holds the machine path {match.group()!r}"
        for id, text in texts
        if (match := PATHS.search(EMBEDDED.sub("", text)))
    ]


def _text(output: dict) -> str:
    """All text of an output; pictures are left out, because base64 may look like anything."""
    data = [
        value
        for mime, value in output.get("data", {}).items()
        if not mime.startswith("image/") and isinstance(value, str)
    ]
    return "\n".join([output.get("text", ""), *data, *output.get("traceback", [])])


def no_skips(page: Page) -> list[str]:
    """No cell is skipped by nbval; one whose output is not compared asserts its claim instead."""
    problems = []
    for cell in page.code:
        marks = {"nbval-skip", "nbval-ignore-output"} & set(nbfile.tags(cell))
        marks |= {
            match.lower().replace("_", "-")
            for match in re.findall(r"^\s*#+\s*(NBVAL_SKIP|NBVAL_IGNORE_OUTPUT)\s*$", cell["source"], re.MULTILINE)
        }
        if "nbval-skip" in marks or (marks and not nbnames.claims(cell["source"])):
            problems.append(f"cell {cell['id']} is marked {sorted(marks)} and asserts nothing")
    return problems


def small(page: Page) -> list[str]:
    """The file stays under 1 MB."""
    return (
        []
        if page.size < MAX_BYTES
        else [f"the file has {page.size / 1e6:.2f} MB, it must stay under {MAX_BYTES / 1e6:.0f} MB"]
    )


SKELETON = [
    title,
    goals,
    setup,
    sections,
    exercises,
    stubs,
    no_names_from_exercises,
    ending,
    box,
    short_code,
    prose_between_code,
    figures_described,
]
FILE = [ids, counts, clean_outputs, no_machine_paths, no_skips, small]
RULES = SKELETON + FILE
