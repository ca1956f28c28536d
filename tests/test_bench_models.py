"""The arithmetic of the report on the models: intervals that cover, n-grams that are a distribution."""
import random

import pytest
from conftest import load_benchmark


@pytest.fixture(scope="module")
def bench():
    return load_benchmark("models")


def test_the_interval_holds_the_true_share_nineteen_times_in_twenty(bench):
    rng, inside = random.Random(0), 0
    for _ in range(500):
        _, low, high = bench.interval([rng.random() < 0.9 for _ in range(100)])
        inside += low <= 0.9 <= high
    assert 0.92 < inside / 500 < 0.98
    assert bench.interval([True] * 20)[2] == pytest.approx(1) and bench.interval([True] * 20)[1] < 0.9


def test_trigrams_are_a_distribution_that_has_learned(bench):
    rng = random.Random(1)
    texts = [[0] + [rng.choice((1, 2)) if i % 2 else 3 for i in range(12)] for _ in range(60)]
    model = bench.Trigrams(texts[:50], size=6)
    for text in ([0, 3, 1], [5, 5, 5], [3]):
        assert sum(model.probability([*text, token], len(text)) for token in range(6)) == pytest.approx(1)
    assert 1.3 < model.perplexity(texts[50:]) < 1.6                     # one choice of two at every other place: 2 ** .5
    assert model.perplexity([[0, 5, 4, 5, 4]]) > 6                      # worse than even where nothing is as it was
