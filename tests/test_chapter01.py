"""Chapter 01: every proof of the notebook fails on a wrong version of what it proves, in the very cell that holds the proof."""

import sys
from pathlib import Path

import matplotlib
import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools"))

import nbfile

from llmtutor import checks
from llmtutor.exercises import ch01

CELLS = {cell["id"]: cell["source"] for cell in nbfile.read(ROOT / "notebooks" / "en" / "01-neural-networks.ipynb")["cells"] if cell["cell_type"] == "code"}
POINTS = ["setup", "neuron", "neuron-guess", "loss", "gradient", "nudge"]
RING = [*POINTS, "ring", "lines", "collapse", "mlp", "backward", "mlp-proof"]
DESCENT = [*POINTS, "descent", "descent-run", "descent-figure"]
COUNTS = ["corpus", "stories", "windows", "vocabulary", "bigram", "bigram-look", "perplexity", "smoothing", "ngram", "ngram-run", "ngram-proof"]


@pytest.fixture(autouse=True)
def quiet():
    """No windows, and the number type that other tests expect afterwards."""
    import torch

    matplotlib.use("Agg")
    before, threads = torch.get_default_dtype(), torch.get_num_threads()
    yield
    torch.set_default_dtype(before)
    torch.set_num_threads(threads)


def run(ids, change=None, space=None):
    """Executes these cells in order; `change` is (cell, old, new). Returns the namespace, or (cell, error) where a proof failed."""
    space = {"__name__": "notebook"} if space is None else dict(space)
    for id in ids:
        source = CELLS[id]
        if change and change[0] == id:
            assert change[1] in source, f"cell {id} no longer holds {change[1]!r}"
            source = source.replace(change[1], change[2])
        try:
            exec(compile(source, id, "exec"), space)
        except AssertionError as error:
            return id, str(error)
    return space


def fails_in(cell, outcome):
    return isinstance(outcome, tuple) and outcome[0] == cell


@pytest.fixture(scope="module")
def language():
    """The namespace when all counting is done, before anything is trained."""
    space = run([*POINTS, *COUNTS, "softmax-gradient", "train"])
    assert isinstance(space, dict), space
    return space


def test_the_proofs_about_points_hold():
    assert isinstance(run([*DESCENT, *RING[len(POINTS):], "boundary", "batch", "init"]), dict)


@pytest.mark.parametrize(
    "cells, proof, change",
    [
        (POINTS, "loss", ("loss", "y * p.log()", "y * p.log2()")),
        (POINTS, "loss", ("loss", ".mean()", ".sum()")),
        (POINTS, "gradient", ("gradient", "X.T @ (p - y)", "X.T @ (y - p)")),
        (POINTS, "gradient", ("gradient", "(p - y) / len(X)", "(p - y)")),
        (POINTS, "nudge", ("nudge", "/ (2 * h)", "/ h")),
        (POINTS, "nudge", ("nudge", "(f(w + s) - f(w - s)) / (2 * h)", "(f(w + s) - f(w)) / h")),
        (DESCENT, "descent-figure", ("descent", "w - rate", "w + rate")),
        (RING, "collapse", ("collapse", "(B @ A).T", "(A.T @ B.T) * 2")),
        (RING, "collapse", ("collapse", "torch.tanh(X @ A.T)", "(X @ A.T)")),
        (RING, "mlp-proof", ("backward", "(1 - H ** 2)", "1")),
        (RING, "mlp-proof", ("backward", "(1 - H ** 2)", "(1 - H)")),
        (RING, "mlp-proof", ("backward", "delta[:, None] * w2 *", "delta[:, None] *")),
        (RING, "mlp-proof", ("backward", "D.sum(0)", "D.mean(0)")),
        (RING, "mlp-proof", ("backward", "- y) / len(X)", "- y)")),
        (RING, "mlp-proof", ("mlp-proof", "nudged = slopes(", "nudged = -slopes(")),
        ([*RING, "boundary"], "boundary", ("boundary", "q - .5 * gradient", "q")),
        ([*POINTS, "batch"], "batch", ("batch", "(64, 64, 2).mean(1)", "(64, 64, 2).mean(1) * 2")),
        ([*RING, "batch", "init"], "init", ("init", "(2 / n) ** .5", "(1 / n) ** .5")),
        ([*RING, "batch", "init"], "init", ("init", "torch.ones(8, 2)", "torch.randn(8, 2)")),
        ([*POINTS, "ring", "overfit", "fit", "overfit-figure"], "overfit-figure", ("fit", "weight_decay=decay", "weight_decay=0")),
        ([*POINTS, "ring", "overfit", "fit", "overfit-figure"], "overfit-figure", ("fit", "weight_decay=decay", "weight_decay=20 * decay")),
    ],
)
def test_a_wrong_version_fails_in_its_proof(cells, proof, change):
    assert fails_in(proof, run(cells, change))


def _hint(id, answer):
    return checks.examine(checks.exercise(id), answer).hint


def _late(right):
    """The right answer with only its last number off."""
    wrong = np.array(right, dtype=float)
    wrong.flat[-1] += 0.25
    return wrong


@pytest.mark.parametrize(
    "id, answer, place",
    [
        ("01.1", lambda x, w, b: _late(ch01.layer(x, w, b)), "Row 2, column 1"),
        ("01.1", lambda x, w, b: ch01.layer(x, w, b) if len(x) == 3 else _late(ch01.layer(x, w, b)), "Row 1, column 2"),
        ("01.2", lambda z, t: ch01.cross_entropy(z, t) + 0.25, "Your number"),
        ("01.3", lambda f, w: _late(ch01.slopes(f, w)), "Number 2"),
        ("01.4", lambda w, g, r, d: _late(ch01.step(w, g, r, d)), "Number 2"),
        ("01.6", lambda s, n, gamma: _late(ch01.bigram_table(s, n, gamma)), "Row 3, column 3"),
    ],
)
def test_the_hint_names_the_number_that_is_wrong(id, answer, place):
    hint = _hint(id, answer)
    want, have = (float(hint.en.split(word)[1].split()[0].rstrip(";.")) for word in ("should be ", "yours is "))
    assert hint.symptom == "other numbers" and hint.en.startswith(place) and have - want == pytest.approx(0.25)


@pytest.mark.parametrize("h", [1e-2, 1e-3, -1e-4, 1e-6])
def test_a_one_sided_difference_is_told_from_a_poor_step(h):
    assert _hint("01.3", lambda f, w: ch01._one_sided(f, w, h)).symptom == "one-sided difference"
    assert checks.examine(checks.exercise("01.3"), lambda f, w: ch01._two_sided(f, w, 1e-5)).status == "pass"


@pytest.mark.parametrize("h", [1e-1, 1e-2, 1e-3, 1e-12])
def test_two_sided_with_a_poor_step_is_not_called_one_sided(h):
    assert _hint("01.3", lambda f, w: ch01._two_sided(f, w, h)).symptom == "h is too large or too small"


def test_a_sigmoid_is_an_activation_too():
    assert _hint("01.1", lambda x, w, b: 1 / (1 + np.exp(-ch01.layer(x, w, b)))).symptom == "activation too early"


def test_a_neuron_without_a_bend_does_not_separate_the_ring():
    linear = ("mlp", "H = torch.tanh(X @ W1.T + b1) ", "H = X @ W1.T + b1 ")
    assert fails_in("boundary", run([*RING[:-1], "boundary"], linear))


@pytest.mark.parametrize(
    "cells, proof, change",
    [
        (["windows", "vocabulary"], "vocabulary", ("vocabulary", "for _, story in train for word", "for _, story in train[:20] for word")),
        (["smoothing"], "smoothing", ("smoothing", "gamma * (len(vocab) + 1)", "gamma * len(vocab)")),
        (["smoothing"], "smoothing", ("smoothing", "[word] + gamma) /", "[word]) /")),
        (["ngram", "ngram-run", "ngram-proof"], "ngram-proof", ("ngram", "kinds * shorter)", "shorter)")),
        (["ngram", "ngram-run", "ngram-proof"], "ngram-proof", ("ngram", "(totals[context] + kinds)", "totals[context]")),
        (["ngram", "ngram-run", "ngram-proof"], "ngram-proof", ("ngram", "context[1:], word) if", "context[:-1], word) if")),
        (["softmax-gradient"], "softmax-gradient", ("softmax-gradient", "/ len(target)", "")),
        (["softmax-gradient"], "softmax-gradient", ("softmax-gradient", "Z.softmax(1)", "Z.softmax(0)")),
        (["neural-bigram"], "neural-bigram", ("neural-bigram", "400, .1, 512", "3, .1, 64")),
    ],
)
def test_a_wrong_language_model_fails_in_its_proof(language, cells, proof, change):
    assert fails_in(proof, run(cells, change, language))


def _table(space, mlp):
    """The table as the notebook has it, from the stored results, with other numbers for the MLP where given."""
    stored = checks.stored("01")
    rows = {f"{n}-gram": stored["ngram"]["600"][n] for n in "123456"}
    return space | {"table": rows | {"neural bigram": rows["2-gram"], "embedding MLP": mlp(stored)}}


def test_the_table_refuses_an_mlp_that_does_not_win(language):
    good = _table(language, lambda stored: stored["mlp"]["600"]["0"])
    bad = _table(language, lambda stored: stored["ngram"]["600"]["4"])
    assert isinstance(run(["table", "table-claims", "luck"], space=good), dict)
    assert fails_in("table-claims", run(["table", "table-claims"], space=bad))
    assert fails_in("luck", run(["table", "luck"], space=bad))


def test_counts_that_differ_from_the_stored_ones_are_seen(language):
    space = _table(language, lambda stored: stored["mlp"]["600"]["0"])
    space["table"]["3-gram"] = {"en": 4.0, "zh": 4.0}
    assert fails_in("luck", run(["table", "luck"], space=space))


def _untrained(space):
    """The namespace with the MLP as it was born: what follows in the notebook, without the learning."""
    space = _table(space, lambda stored: stored["mlp"]["600"]["0"]) | {"learn": lambda model, *_: model.eval(), "stored": checks.stored("01")}
    space = run(["neural-bigram"], ("neural-bigram", "gap < .05", "True"), space)
    return run(["embedding"], None, space)


def test_untrained_vectors_have_no_geometry(language):
    space = _untrained(language)
    assert fails_in("geometry-run", run(["geometry", "geometry-run"], space=space))


def test_an_untrained_network_writes_nothing_that_holds_together(language):
    space = _untrained(language)
    assert fails_in("judge-writing", run(["write", "write-mlp", "judge-writing"], space=space))


def test_without_training_repetition_shows_nothing(language):
    space = _untrained(language)
    assert fails_in("repeat", run(["repeat"], space=space))
