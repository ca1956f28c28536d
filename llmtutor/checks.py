"""Checks that a notebook calls: exercises, claims about a model, and results that took long to compute.

An exercise check tells the reader what is wrong by its symptom ("your probabilities add up to 8.4"), never just "wrong".
The exercises of chapter NN live in `llmtutor/exercises/chNN.py`, one `Exercise` each. Everything printed here can end up
in a notebook's output, and both editions of the course share their outputs, so every message carries both languages.
"""

from __future__ import annotations

import contextlib
import dis
import hashlib
import importlib
import io
import inspect
import json
import pkgutil
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Exercise", "Hint", "ReaderError", "Result", "check", "claim", "describe", "exercise", "exercises", "stored"]

ROOT = Path(__file__).resolve().parents[1]
OPCODES_OF_A_STUB = {"RESUME", "NOP", "POP_TOP", "LOAD_CONST", "LOAD_SMALL_INT", "RETURN_VALUE", "RETURN_CONST"}


@dataclass(frozen=True)
class Hint:
    """What a reader can see is wrong, in both languages; `symptom` is a short English name for it."""

    symptom: str
    en: str
    zh: str


@dataclass(frozen=True)
class Exercise:
    """One exercise: how to judge an answer, what is right, and which wrong answers are expected.

    Attributes:
        id: chapter and number, for instance "00.1".
        title: the title in English and in Chinese.
        returns: what the reader's function must return, in English and in Chinese.
        judge: called with the reader's function (calls are guarded); returns None when right, else a `Hint`.
        solution: a right answer.
        wrong: typical wrong answers by the symptom that `judge` must report for each; at least three.
    """

    id: str
    title: tuple[str, str]
    returns: tuple[str, str]
    judge: Callable[[Callable], Hint | None]
    solution: Callable
    wrong: dict[str, Callable]


@dataclass(frozen=True, repr=False)
class Result:
    """What a check found: `status` is "not tried", "pass" or "fail"; a failure carries its `hint`."""

    id: str
    status: str
    hint: Hint | None = None

    def __repr__(self) -> str:
        symptom = f" ({self.hint.symptom})" if self.hint else ""
        return f"<exercise {self.id}: {self.status}{symptom}>"

    def _ipython_display_(self) -> None:
        """Shows nothing in a notebook: `check` has printed the message already."""

    @property
    def message(self) -> str:
        """The text that `check` prints, English first."""
        if self.status == "pass":
            return f"Exercise {self.id}: passed / 练习 {self.id}：通过"
        if self.hint is None:
            return f"Exercise {self.id}: not tried yet / 练习 {self.id}：还没有做"
        return f"Exercise {self.id}: not yet / 练习 {self.id}：还不对\n  {self.hint.en}\n  {self.hint.zh}"


def check(id: str, answer: Any) -> Result:
    """Says whether `answer` solves exercise `id`, and if not, what to look at.

    A stub that nobody has filled in is "not tried yet". A reader's mistake never raises: not a wrong type, not an
    exception inside the answer. What the answer prints while it is being checked is hidden.

    Args:
        id: the number in the exercise's heading, for instance "00.1".
        answer: the reader's function itself, not its result.

    Raises:
        ValueError: there is no exercise with this id.
    """
    result = examine(exercise(id), answer)
    print(result.message)
    return result


def examine(task: Exercise, answer: Any) -> Result:
    """The silent part of `check`: judges `answer` against `task`."""
    if answer is None or answer is Ellipsis:
        return Result(task.id, "not tried")
    if not callable(answer):
        return Result(task.id, "fail", _not_a_function(task, answer))
    try:
        hint = task.judge(_Trial(answer, task))
    except _NotTried:
        return Result(task.id, "not tried")
    except ReaderError as error:
        hint = error.hint
    except Exception:  # the judge stumbled over what the answer returned: that is the reader's symptom, not our crash
        hint = _unreadable(task)
    return Result(task.id, "fail" if hint else "pass", hint)


class _NotTried(Exception):
    """The reader's function is still the stub, wholly or in part."""


class ReaderError(Exception):
    """The reader's function did not come back with a value; `hint` says why, `error` is the exception if there was one."""

    def __init__(self, hint: Hint, error: BaseException | None = None):
        super().__init__(hint.en)
        self.hint = hint
        self.error = error


class _Trial:
    """The reader's function with a guard around each call: prints hidden, exceptions and missing values turned into hints."""

    def __init__(self, answer: Callable, task: Exercise):
        self.answer = answer
        self.task = task

    def __call__(self, *arguments: Any) -> Any:
        printed = io.StringIO()
        try:
            with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
                value = self.answer(*arguments)
        except NotImplementedError:
            raise _NotTried from None
        except (Exception, SystemExit) as error:  # KeyboardInterrupt passes: a reader stops an endless loop with it
            if "'ellipsis'" in _text_of(error):
                raise _NotTried from None
            raise ReaderError(_exception_hint(error, self.answer, self.task), error) from None
        return self._value(value, printed.getvalue())

    def _value(self, value: Any, printed: str) -> Any:
        unfinished = isinstance(value, list | tuple) and any(item is Ellipsis for item in value)
        if value is Ellipsis or unfinished or (value is None and is_stub(self.answer)):
            raise _NotTried
        if value is None and printed.strip():
            raise ReaderError(
                Hint(
                    "prints instead of returning",
                    "Your function prints its result but returns nothing. Write `return` instead of `print`.",
                    "你的函数打印了结果，却没有返回任何值。请用 `return` 代替 `print`。",
                )
            )
        if value is None:
            raise ReaderError(
                Hint(
                    "returns nothing",
                    "Your function came to its end without `return`, so its result is None.",
                    "你的函数运行到末尾也没有遇到 `return`，所以结果是 None。",
                )
            )
        return value


def is_stub(function: Callable) -> bool:
    """True when the body holds nothing but `...`, `pass`, a docstring or `return None`."""
    code = getattr(function, "__code__", None)
    if code is None:
        return False
    return all(
        step.opname in OPCODES_OF_A_STUB
        and (step.argval is Ellipsis or step.argval is None or isinstance(step.argval, str | int))
        for step in dis.get_instructions(code)
    )


def describe(value: Any) -> str:
    """A short, safe description of any value, for hints: its type and, where it has one, its shape or length."""
    name = type(value).__name__
    try:
        if isinstance(value, bool | int | float | str):
            return f"{name} {value!r}"[:60]
        if hasattr(value, "shape"):
            return f"{name} of shape {tuple(value.shape)}"
        return f"{name} of length {len(value)}"
    except Exception:  # a reader's own class may do anything here; the type alone is still true
        return name


def _text_of(error: BaseException) -> str:
    """The exception's one-line text, shortened; safe even where its own `__str__` fails."""
    return traceback.format_exception_only(error)[-1].strip()[:200]


def _exception_hint(error: BaseException, answer: Callable, task: Exercise) -> Hint:
    """Names the exception and the reader's line; a call that did not even start is a wrong parameter list."""
    file = getattr(getattr(answer, "__code__", None), "co_filename", None)
    lines = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    if not lines and isinstance(error, TypeError):
        wanted = inspect.signature(task.solution)
        names = ", ".join(wanted.parameters)
        return Hint(
            "wrong parameters",
            f"Your function cannot be called as the check calls it: it must take ({names}). Python says: "
            f"{_text_of(error)}",
            f"检查无法调用你的函数：它的参数应为 ({names})。Python 的说法：{_text_of(error)}",
        )
    where_en = f" on line {lines[-1].lineno} (`{lines[-1].line}`)" if lines else ""
    where_zh = f"第 {lines[-1].lineno} 行（`{lines[-1].line}`）" if lines else ""
    return Hint(
        f"raises {type(error).__name__}",
        f"Your code stopped{where_en} with {_text_of(error)}",
        f"你的代码在运行时出错：{where_zh}{_text_of(error)}",
    )


def _not_a_function(task: Exercise, answer: Any) -> Hint:
    return Hint(
        "not a function",
        f'The check needs your function itself, not its result: check("{task.id}", {task.solution.__name__}). '
        f"It got: {describe(answer)}.",
        f'检查需要函数本身，而不是它的结果：check("{task.id}", {task.solution.__name__})。现在得到的是：{describe(answer)}。',
    )


def _unreadable(task: Exercise) -> Hint:
    return Hint(
        "unexpected kind of result",
        f"The check cannot read what your function returned. Wanted: {task.returns[0]}.",
        f"检查读不懂你的函数返回的内容。应返回：{task.returns[1]}。",
    )


def exercises(chapter: str | None = None) -> list[Exercise]:
    """All registered exercises, in order, or those of one chapter ("00")."""
    from llmtutor import exercises as folder  # imported here: the chapters import this module

    names = sorted(module.name for module in pkgutil.iter_modules(folder.__path__) if module.name.startswith("ch"))
    wanted = [name for name in names if chapter is None or name == f"ch{chapter}"]
    return [task for name in wanted for task in importlib.import_module(f"llmtutor.exercises.{name}").EXERCISES]


def exercise(id: str) -> Exercise:
    """The exercise with this id.

    Raises:
        ValueError: there is none; the message lists the chapter's exercises.
    """
    known = exercises(str(id).split(".")[0]) or exercises()
    for task in known:
        if task.id == id:
            return task
    raise ValueError(
        f"there is no exercise {id!r}. Known here: {', '.join(task.id for task in known)}. "
        "The id is the number in the exercise's heading."
    )


def claim(condition: Any, text: str | tuple[str, str], model: Any = "story-gpt", made_about: str = "story-gpt") -> None:
    """Holds a sentence of the course to the truth: fails when it is false for the model it was made about.

    Args:
        condition: True or False, or a function that gives it (called only when the claim is checked).
        text: the claim, as one string or as (English, Chinese).
        model: the model in use, by name or as loaded; with another model the claim is not checked, and says so.
        made_about: the model that the claim is about.

    Raises:
        AssertionError: the claim is false.
        ValueError: `condition` is not one truth value.
    """
    name = getattr(getattr(model, "info", None), "name", model)
    if name != made_about:
        print(f"not checked: made about {made_about} / 未检验：此结论针对 {made_about}")
        return
    en, zh = (text, None) if isinstance(text, str) else text
    if not _truth(condition() if callable(condition) else condition):
        raise AssertionError(f"claim is false: {en}" + (f" / 结论不成立：{zh}" if zh else " / 结论不成立"))
    print(f"claim holds: {en} / 结论成立：{zh}" if zh else f"claim holds / 结论成立: {en}")


def _truth(condition: Any) -> bool:
    """A Python bool from a bool or a one-element boolean array; anything else is refused (a NaN would count as true)."""
    value = condition
    if getattr(condition, "shape", None) == ():
        value = condition.item()
    if not isinstance(value, bool):
        raise ValueError(
            f"a claim needs one True or False; got {describe(condition)}. Did you forget a comparison, or `.all()`?"
        )
    return value


def code_hash(script: Path, uses: list[str] | tuple[str, ...] = (), root: Path = ROOT) -> str:
    """A short hash of a result script and of the files it names, the same on every system (line ends do not count)."""
    digest = hashlib.sha256()
    for path in [script, *(root / name for name in uses)]:
        digest.update(path.read_text(encoding="utf-8").replace("\r\n", "\n").encode("utf-8") + b"\0")
    return digest.hexdigest()[:16]


def stored(chapter: str, root: Path = ROOT) -> dict:
    """The results that `python course.py results NN` computed for this chapter, as a dictionary.

    Raises:
        FileNotFoundError: nothing has been computed yet.
        ValueError: the code has changed since.
    """
    path = root / "notebooks" / "results" / f"{chapter}.json"
    remedy = f"Run `python course.py results {chapter}`."
    if not path.is_file():
        raise FileNotFoundError(
            f"there are no stored results for chapter {chapter} (notebooks/results/{chapter}.json). {remedy}"
        )
    content = json.loads(path.read_text(encoding="utf-8"))
    script = root / "tools" / "results" / f"{chapter}.py"
    if script.is_file() and code_hash(script, content["uses"], root) != content["code_hash"]:
        raise ValueError(
            f"notebooks/results/{chapter}.json was made by other code than tools/results/{chapter}.py holds now. "
            f"{remedy}"
        )
    return content["results"]
