"""What a code cell defines, uses and claims, read from its syntax tree without running it."""

import ast
import re
from collections.abc import Iterator


def tree(source: str) -> ast.Module:
    """The cell's syntax tree; lines that only IPython understands (`%magic`, `!command`) count as empty."""
    return ast.parse(re.sub(r"^(\s*)[%!].*$", r"\1pass", source, flags=re.MULTILINE))


def claims(source: str) -> bool:
    """True when the cell holds something to the truth: an `assert` or a call of `claim`."""
    for node in ast.walk(tree(source)):
        if isinstance(node, ast.Assert):
            return True
        if isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) == "claim":
            return True
    return False


def borrowed(cells: list[dict], exercises: list[str | None]) -> Iterator[tuple[dict, str, str]]:
    """Yields (cell, name, exercise) where a cell uses a name that an earlier exercise defines.

    `exercises[i]` is the exercise that cell i belongs to, or None.
    """
    owner: dict[str, str] = {}
    imported: set[str] = (
        set()
    )  # a name that the chapter imported before means the same after an exercise imports it again
    for cell, exercise in zip(cells, exercises, strict=True):
        used, bound, imports = uses_and_bindings(cell["source"])
        for name in sorted(used):
            if name in owner and owner[name] != exercise:
                yield cell, name, owner[name]
        for name in bound:
            if exercise is None:
                owner.pop(name, None)
            elif not (name in imports and name in imported):
                owner[name] = exercise
        if exercise is None:
            imported |= imports


def uses_and_bindings(source: str) -> tuple[set[str], set[str], set[str]]:
    """The names a cell needs from earlier cells, the names it binds at top level, and those of them that are imports."""
    used, bound, imports = set(), set(), set()
    for statement in tree(source).body:
        nodes = list(ast.walk(statement))
        stored = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
        loaded = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
        if isinstance(statement, ast.AugAssign):
            loaded |= stored
        brought = {
            (alias.asname or alias.name).split(".")[0]
            for node in nodes
            if isinstance(node, ast.Import | ast.ImportFrom)
            for alias in node.names
        }
        defined = {
            node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        }
        parameters = {node.arg for node in nodes if isinstance(node, ast.arg)}
        # In `x = x + 1` the x on the right comes from before; the variable of a loop or of a function is its own.
        own = (parameters | brought | defined | stored) - _targets(statement)
        used |= loaded - bound - own
        if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            bound.add(statement.name)
        else:
            bound |= stored | brought | defined
        imports |= brought & bound
    return used, bound, imports


def _targets(statement: ast.stmt) -> set[str]:
    """The names on the left of an assignment, an empty set for any other statement."""
    left = (
        statement.targets
        if isinstance(statement, ast.Assign)
        else [statement.target]
        if isinstance(statement, ast.AugAssign | ast.AnnAssign)
        else []
    )
    return {node.id for target in left for node in ast.walk(target) if isinstance(node, ast.Name)}
