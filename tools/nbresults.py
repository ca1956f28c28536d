"""Computes what takes too long for a notebook: `tools/results/NN.py` -> `notebooks/results/NN.json`.

The contract of such a script: a function `compute()` that returns a dictionary of numbers, strings, lists and
dictionaries, and, where it builds on other files of the repository, a list `USES` of their paths. A notebook reads
the outcome with `lt.checks.stored("NN")`, which refuses results whose code has changed since.
"""

import importlib.metadata
import json
import platform
import runpy
import sys
import time
from pathlib import Path


PACKAGES = ("torch", "transformers", "numpy")


def scripts(root: Path) -> list[str]:
    """The chapters that have such a script."""
    return sorted(path.stem for path in (root / "tools" / "results").glob("[0-9][0-9].py"))


def results(root: Path, chapter: str) -> int:
    """Computes the results of one chapter and writes them with versions, time and a hash of the code.

    Says so when the chapter has none.
    """
    script = root / "tools" / "results" / f"{chapter}.py"
    if not script.is_file():
        print(
            f"chapter {chapter} stores no results: there is no tools/results/{chapter}.py (chapters that do: "
            f"{', '.join(scripts(root)) or 'none'})"
        )
        return 0
    sys.path.insert(0, str(root))  # so that scripts find llmtutor, installed or not
    from llmtutor.checks import code_hash

    module = runpy.run_path(str(script))
    uses = list(module.get("USES", []))
    start = time.monotonic()
    found = module["compute"]()
    content = {
        "chapter": chapter,
        "code_hash": code_hash(script, uses, root),
        "results": found,
        "seconds": round(time.monotonic() - start, 1),
        "uses": uses,
        "versions": {"python": platform.python_version()}
        | {name: importlib.metadata.version(name) for name in PACKAGES},
    }
    path = root / "notebooks" / "results" / f"{chapter}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes((json.dumps(content, ensure_ascii=False, indent=1, sort_keys=True) + "\n").encode("utf-8"))
    print(f"wrote notebooks/results/{chapter}.json in {content['seconds']} s")
    return 0


def outdated(root: Path) -> list[str]:
    """The chapters whose stored results were made by other code than today's, or were never made."""
    from llmtutor.checks import stored

    wrong = []
    for chapter in scripts(root):
        try:
            stored(chapter, root)
        except (FileNotFoundError, ValueError):
            wrong.append(chapter)
    return wrong
