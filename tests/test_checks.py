"""Exercise checks and claims: stubs, right answers, typical wrong answers, and answers that nobody expected."""

import re
import subprocess
import sys

import numpy as np
import pytest

from llmtutor import checks
from llmtutor.checks import Exercise, Hint, Result, check, claim, examine, is_stub
from llmtutor.exercises import ch00

ALL = checks.exercises()
WRONG = [(task, symptom, answer) for task in ALL for symptom, answer in task.wrong.items()]
CHINESE = re.compile(r"[\u4e00-\u9fff]")


def by_id(task):
    return task.id if isinstance(task, Exercise) else ""


# --- every registered exercise ----------------------------------------------------------------------------------------


def test_ids_are_unique_and_chapter_00_has_its_three():
    ids = [task.id for task in ALL]
    assert len(set(ids)) == len(ids) and {"00.1", "00.2", "00.3"} <= set(ids)
    assert all(re.fullmatch(r"\d\d\.\d+", id) for id in ids)


@pytest.mark.parametrize("task", ALL, ids=by_id)
def test_the_solution_passes(task):
    result = examine(task, task.solution)
    assert result.status == "pass", result.message


@pytest.mark.parametrize("task", ALL, ids=by_id)
def test_a_stub_is_not_tried_yet(task):
    names = ", ".join(f"a{number}" for number in range(len(checks.inspect.signature(task.solution).parameters)))
    bodies = [
        "...",
        "pass",
        "return ...",
        "raise NotImplementedError",
        "'''What to do.'''\n    ...",
        "x = ...\n    return x",
        "x = ...\n    return x + 1",
        "return None",
        "x = ...\n    return x.sum()",
        "return [..., ...]",
    ]
    for body in bodies:
        space = {}
        exec(f"def stub({names}):\n    {body}", space)
        assert examine(task, space["stub"]) == Result(task.id, "not tried"), body
    assert examine(task, None).status == examine(task, ...).status == "not tried"


@pytest.mark.parametrize(
    ("task", "symptom", "answer"), WRONG, ids=[f"{task.id} {symptom}" for task, symptom, _ in WRONG]
)
def test_a_typical_wrong_answer_gets_its_own_hint(task, symptom, answer):
    result = examine(task, answer)
    assert result.status == "fail" and result.hint.symptom == symptom, result.message
    assert CHINESE.search(result.hint.zh) and not CHINESE.search(re.sub("今", "", result.hint.en))
    assert len(result.hint.en) > 30 and result.hint.en.lower() not in ("wrong", "incorrect")


@pytest.mark.parametrize("task", ALL, ids=by_id)
def test_hints_of_an_exercise_differ_in_both_languages(task):
    hints = [examine(task, answer).hint for answer in task.wrong.values()]
    assert len(hints) >= 3
    assert len({hint.en for hint in hints}) == len({hint.zh for hint in hints}) == len(hints)
    assert all(CHINESE.search(text[1]) for text in (task.title, task.returns))


class Hostile:
    """An answer's value on which everything fails."""

    def __getattribute__(self, name):
        raise RuntimeError("no")

    def __repr__(self):
        raise RuntimeError("no repr")

    def __len__(self):
        raise RuntimeError("no length")


def endless(*values):
    return endless(*values)


def leaves(*values):
    sys.exit("bye")


def generates(*values):
    yield 1


async def asynchronous(*values):
    return 1


STRANGE = [
    lambda *v: Hostile(),
    lambda *v: float("nan"),
    lambda *v: "text",
    lambda *v: {},
    lambda *v: [],
    lambda *v: np.zeros((2, 3, 4)),
    lambda *v: b"x",
    lambda *v: [(1, 2, 3)],
    lambda *v: [("a", "b")] * 3,
    lambda *v: [(" ball", None)] * 3,
    lambda *v: object,
    lambda *v: True,
    lambda *v: 10**400,
    lambda *v: np.array([]),
    lambda *v: 1j,
    generates,
    asynchronous,
    leaves,
    endless,
    lambda *v: 1 / 0,
    lambda: 1,
    lambda *v: v[99],
    dict,
    3,
    "text",
    [1, 2],
    Hostile(),
]


@pytest.mark.filterwarnings("ignore:coroutine")
@pytest.mark.parametrize("task", ALL, ids=by_id)
@pytest.mark.parametrize("number", range(len(STRANGE)))
def test_no_answer_makes_a_check_raise(task, number, capsys):
    result = check(task.id, STRANGE[number])
    assert result.status == "fail" and "Exercise" in capsys.readouterr().out
    assert len(result.message) < 1500


def test_right_answers_written_in_other_ways_pass():
    def plain(tokens, logits, k):
        import math

        big = max(logits)
        total = sum(math.exp(x - big) for x in logits)
        pairs = [(t, math.exp(x - big) / total) for t, x in zip(tokens, logits, strict=True)]
        return sorted(pairs, key=lambda pair: -pair[1])[:k]

    def as_dictionary(tokens, logits, k):
        return dict(plain(tokens, logits, k))

    for answer in (plain, as_dictionary, lambda *v: iter(plain(*v)), lambda *v: [list(pair) for pair in plain(*v)]):
        assert examine(checks.exercise("00.1"), answer).status == "pass"
    assert (
        examine(checks.exercise("00.2"), lambda w, t, q: max((x, t[i]) for i, x in enumerate(w[q]) if i != q)[1]).status
        == "pass"
    )


def test_attention_in_pieces_may_be_computed_in_any_order():
    def back_to_front(q, k, v, pieces, attend):
        ends = [0, 2, 4, 7]                                       # another way to cut 7 into 3
        parts = [attend(q[a:b], k[:b], v[:b], a) for a, b in reversed([*zip(ends, ends[1:])])]
        return np.concatenate(parts[::-1])

    def a_key_too_many(q, k, v, pieces, attend):
        ends = [0, 3, 5, 7]
        return np.concatenate([attend(q[a:b], k[: b + 1], v[: b + 1], a) for a, b in zip(ends, ends[1:])])

    assert examine(checks.exercise("03.8"), back_to_front).status == "pass"
    assert examine(checks.exercise("03.8"), a_key_too_many).hint.symptom == "too many scores"


# --- what a reader sees -----------------------------------------------------------------------------------------------


def test_messages_of_the_three_states(capsys):
    check("00.3", ...)
    check("00.3", ch00.tokens_per_character)
    check("00.3", lambda encode, text: len(text) / len(encode(text)))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "Exercise 00.3: not tried yet / 练习 00.3：还没有做"
    assert lines[1] == "Exercise 00.3: passed / 练习 00.3：通过"
    assert lines[2] == "Exercise 00.3: not yet / 练习 00.3：还不对" and len(lines) == 5


def test_an_exception_is_named_with_the_readers_line():
    result = examine(checks.exercise("00.3"), _divides_by_zero)
    assert result.hint.symptom == "raises ZeroDivisionError"
    for text in (result.hint.en, result.hint.zh):
        assert (
            "return len(text) / nothing" in text
            and "ZeroDivisionError" in text
            and str(_divides_by_zero.__code__.co_firstlineno + 2) in text
        )


def _divides_by_zero(encode, text):
    nothing = 0
    return len(text) / nothing


@pytest.mark.parametrize(
    ("answer", "symptom"),
    [
        (lambda encode: 1, "wrong parameters"),
        (lambda encode, text: print("0.3"), "prints instead of returning"),
        (7 / 23, "not a function"),
    ],
)
def test_symptoms_common_to_all_exercises(answer, symptom):
    assert examine(checks.exercise("00.3"), answer).hint.symptom == symptom


def test_a_forgotten_return_is_not_taken_for_a_stub():
    def forgot(encode, text):
        len(encode(text)) / len(text)

    assert examine(checks.exercise("00.3"), forgot).hint.symptom == "returns nothing"
    assert not is_stub(forgot) and is_stub(lambda: ...) and not is_stub(lambda: 1 + len("x")) and not is_stub(print)


def test_prints_inside_an_answer_are_hidden(capsys):
    def chatty(encode, text):
        print("debug")
        return len(encode(text)) / len(text)

    assert check("00.3", chatty).status == "pass" and "debug" not in capsys.readouterr().out


def test_interrupting_an_endless_answer_still_works():
    def interrupted(encode, text):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        check("00.3", interrupted)


def test_result_has_a_stable_repr_and_shows_nothing_twice():
    assert repr(Result("00.1", "pass")) == "<exercise 00.1: pass>"
    assert repr(Result("00.1", "fail", Hint("overflow", "a", "b"))) == "<exercise 00.1: fail (overflow)>"
    from IPython.core.formatters import DisplayFormatter

    assert DisplayFormatter().format(Result("00.1", "pass")) == ({}, {})


def test_an_unknown_exercise_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"no exercise '00.9'.*00.1, 00.2, 00.3"):
        check("00.9", print)
    with pytest.raises(ValueError, match="00.1"):
        check("77.1", print)


# --- claims -----------------------------------------------------------------------------------------------------------


class Loaded:
    """A model as `lt.load` returns it, as far as a claim looks."""

    def __init__(self, name):
        self.info = type("Info", (), {"name": name})()


@pytest.mark.parametrize("condition", [True, np.bool_(True), np.array(True), lambda: True, 3 < 4])
def test_a_true_claim_is_printed_in_both_languages(condition, capsys):
    claim(condition, ("rows add up to 1", "每行之和为 1"), model="story-gpt")
    assert capsys.readouterr().out == "claim holds: rows add up to 1 / 结论成立：每行之和为 1\n"


def test_a_claim_of_numbers_needs_no_second_language(capsys):
    claim(True, "max |difference| = 0.0")
    assert capsys.readouterr().out == "claim holds / 结论成立: max |difference| = 0.0\n"


@pytest.mark.parametrize("condition", [False, np.bool_(False), lambda: False])
def test_a_false_claim_fails_with_its_text(condition):
    with pytest.raises(AssertionError, match="rows add up to 1.*每行之和为 1"):
        claim(condition, ("rows add up to 1", "每行之和为 1"), model=Loaded("story-gpt"))


@pytest.mark.parametrize("model", ["gpt2", Loaded("gpt2"), "./my-model"])
def test_a_claim_about_another_model_is_not_checked_and_says_so(model, capsys):
    claim(False, "x", model=model)
    claim(lambda: 1 / 0, "x", model=model)
    assert capsys.readouterr().out == "not checked: made about story-gpt / 未检验：此结论针对 story-gpt\n" * 2
    claim(True, "x", model="gpt2", made_about="gpt2")


@pytest.mark.parametrize("condition", [float("nan"), 0.3, "yes", None, np.array([True, False]), [], 1])
def test_a_claim_needs_one_truth_value(condition):
    with pytest.raises(ValueError, match="one True or False"):
        claim(condition, "x")


def test_checks_load_no_heavy_library():
    heavy = "torch", "transformers", "matplotlib", "numpy"
    code = f"import sys; import llmtutor.checks; print(*[name for name in {heavy} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == ""
