"""Imports run one way only, and importing the package costs nothing: the rules of the package, held by tests."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "llmtutor"
HEAVY = {"torch", "transformers"}
# What each part may import of ours when it is loaded (parts not named here: anything that is not above them).
MAY_IMPORT = {
    "__init__": set(), "tokens": set(), "models": set(), "fonts": set(), "storyworld": set(),
    "attention": {"tokens"}, "plots": {"fonts"}, "viewer": {"plots", "fonts"}, "explain": {"attention", "tokens"},
}
# Parts that must never see torch or transformers, not even inside a function: they take arrays and strings.
NO_TORCH = {"tokens", "fonts", "plots", "viewer", "viewer_figure", "storyworld"}
# Parts that may use them inside functions, but load without them.
LIGHT = {"models", "attention", "explain", "checks", "headview", "viewer_live", "__init__", "__main__"} | NO_TORCH


def imports(source: str, part: str, is_package: bool = False, inside_functions: bool = False) -> set[str]:
    """Full names of the modules that a part's source imports (when it loads, or also inside its functions)."""
    here = ["llmtutor", *part.split(".")] if is_package else ["llmtutor", *part.split(".")[:-1]]
    if part == "__init__":
        here = ["llmtutor"]
    found = set()
    stack = [ast.parse(source)]
    while stack:
        node = stack.pop()
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = here[: len(here) - node.level + 1] if node.level else []
            base = ".".join([*base, *([node.module] if node.module else [])])
            found |= {f"{base}.{alias.name}" for alias in node.names}
        if inside_functions or not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            stack.extend(ast.iter_child_nodes(node))
    return found


def breaches(source: str, part: str, is_package: bool = False) -> list[str]:
    """The rules that the source of one part breaks."""
    top = part.split(".")[0]
    loaded = imports(source, part, is_package)
    anywhere = imports(source, part, is_package, inside_functions=True)
    ours = {name.split(".")[1] for name in loaded if name.startswith("llmtutor.")} - {top, "__version__"}
    wrong = [f"{part} imports {other}" for other in sorted(ours - MAY_IMPORT.get(top, ours))]
    heavy = anywhere if top in NO_TORCH else loaded if top in LIGHT else set()
    return wrong + [f"{part} imports {name}" for name in sorted(heavy) if name.split(".")[0] in HEAVY]


def parts():
    for file in sorted(PACKAGE.rglob("*.py")):
        names = list(file.relative_to(PACKAGE).with_suffix("").parts)
        is_package = names[-1] == "__init__" and len(names) > 1
        yield ".".join(names[:-1] if is_package else names), file, is_package


@pytest.mark.parametrize("part, file, is_package", [pytest.param(*entry, id=entry[0]) for entry in parts()])
def test_rules(part, file, is_package):
    assert breaches(file.read_text(encoding="utf-8"), part, is_package) == []


@pytest.mark.parametrize("part, source, breach", [
    ("tokens", "from llmtutor import models", "tokens imports models"),
    ("tokens", "from . import attention", "tokens imports attention"),
    ("tokens", "if True:\n    import llmtutor.plots", "tokens imports plots"),
    ("models", "from .tokens import pieces", "models imports tokens"),
    ("attention", "from llmtutor import models, tokens", "attention imports models"),
    ("attention", "import torch", "attention imports torch"),
    ("plots", "def draw():\n    import torch.nn", "plots imports torch.nn"),
    ("plots", "try:\n    from transformers import AutoModel\nexcept ImportError: pass", "plots imports transformers.AutoModel"),
    ("storyworld.grammar", "from ..tokens import show", "storyworld.grammar imports tokens"),
    ("__init__", "from .models import load", "__init__ imports models"),
])
def test_a_breach_is_noticed(part, source, breach):
    assert breaches(source, part) == [breach]


@pytest.mark.parametrize("part, source", [
    ("attention", "from llmtutor import tokens as _tokens\ndef figure():\n    from llmtutor import plots\n    import torch"),
    ("plots", "from .fonts import cjk_font\nimport matplotlib"), ("storyworld.grammar", "from .words import NAMES"),
    ("training", "import torch\nfrom llmtutor import storyworld, models"), ("__main__", "from llmtutor import __version__, models")])
def test_what_is_allowed(part, source):
    assert breaches(source, part) == []


def run(code: str):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=PACKAGE.parent, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_what_is_really_loaded():
    """The rules above read the source; this asks a running interpreter, after each part, what has come in."""
    present = {part for part, *_ in parts()} - {"__init__", "__main__"}
    light = sorted(part for part in present if part.split(".")[0] in LIGHT)
    seen = run(f"""
import importlib, json, sys
import llmtutor
seen = {{"llmtutor": sorted({{name.split(".")[0] for name in sys.modules}})}}
for part in {light!r}:
    importlib.import_module("llmtutor." + part)
    seen[part] = sorted({{name.split(".")[0] for name in sys.modules}})
print(json.dumps(seen))""")
    assert len(seen) == len(light) + 1
    assert not {"torch", "transformers", "matplotlib", "numpy"} & set(seen["llmtutor"])
    for part, modules in seen.items():
        assert not HEAVY & set(modules), part


def test_import_takes_no_time():
    code = "import time; t = time.perf_counter(); import llmtutor; print(time.perf_counter() - t)"
    assert min(run(code) for _ in range(5)) < 3 * 0.1  # the budget is 0.1 s


def test_every_name_at_the_top_arrives():
    names = run("""
import json, types, llmtutor as lt
lt.attend, lt.load, lt.Attention, lt.attend_many, lt.bertviz, lt.explore   # a name must not be replaced when its module is imported later
names = [name for name in lt.__all__ if name != "training"]  # which would load torch
kinds = {name: isinstance(getattr(lt, name), types.ModuleType) for name in names}
kinds |= {name + ' again': isinstance(getattr(lt, name), types.ModuleType) for name in names}
print(json.dumps(kinds))""")
    functions = {"__version__", "load", "attend", "attend_many", "Attention", "EncoderDecoderAttention", "bertviz", "explore"}
    assert {"plots", "tokens", "checks", "storyworld", "models", "attention"} <= set(names)
    for name, is_module in names.items():
        assert is_module != (name.removesuffix(" again") in functions), name


def test_a_name_that_is_not_there():
    import llmtutor

    with pytest.raises(AttributeError, match="no attribute 'atend'; it offers .*attend"):
        llmtutor.atend
    assert "attend" in dir(llmtutor)


def test_the_version_is_the_one_that_is_installed():
    import re

    import llmtutor

    project = (PACKAGE.parent / "pyproject.toml").read_text(encoding="utf-8")
    assert re.search(r'^version = "(.+)"', project, re.MULTILINE)[1] == llmtutor.__version__
