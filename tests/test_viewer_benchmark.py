"""The benchmark of the explorer: it measures what it says, and a missed goal is told."""

import json

import numpy as np
import pytest
from conftest import load_benchmark

OURS = {"MB": 0.8, "build s": 0.3, "paint s": 0.4, "head ms": 9.0, "hover ms": 1.0}
ROWS = [{"tokens": 128, "explorer": OURS, "bertviz": {"MB": 64.0, "build s": 3.0}},
        {"tokens": 512, "explorer": {"MB": 8.0, "build s": 3.1, "paint s": 1.2, "head ms": 9.0}}]


@pytest.fixture(scope="module")
def bench():
    return load_benchmark("viewer")


def test_goals_and_ratios(bench):
    told = {(n, name): (value, met) for n, name, _, value, met in bench.verdicts(ROWS)}
    assert told[128, "MB"] == (0.8, True) and told[512, "build s"] == (3.1, False) and told[512, "hover ms"] == (None, False)
    assert [bench.ratio(row, "MB") for row in ROWS] == ["80 x", "–"] and bench.ratio(ROWS[0], "paint s") == "–"
    text = bench.report(ROWS, [])
    assert "| build 生成, s | 512 | 3 | 3.10 | NO / 否 |" in text and "| hover 悬停, ms | 512 | 16 | – | – |" in text
    widths = {line.count("|") for line in text.splitlines() if line.startswith("| 128 |")}
    assert widths == {13}


def test_maps_are_what_the_report_says(bench):
    weights = bench.attention(40, 2, 3).weights
    assert weights.shape == (2, 3, 40, 40) and np.allclose(weights.sum(-1), 1, atol=1e-5)
    assert not np.triu(weights[0, 0], 1).any() and np.ptp(np.log(weights[1, 2, 39])) > 4  # scores of deviation 2 differ by so much


def test_a_small_run_in_the_browser(bench, chromium, monkeypatch, tmp_path):
    monkeypatch.setenv("LLMTUTOR_CHROMIUM", chromium)
    assert bench.main(["--tokens", "16", "--no-live", "--out", str(tmp_path)]) == 0
    row = json.loads((tmp_path / "viewer-benchmark.json").read_text())["pages"][0]
    assert set(row["explorer"]) == set(OURS) and row["explorer"]["MB"] < row["bertviz"]["MB"] / 5
    assert all(0 < value < 60_000 for value in [*row["explorer"].values(), *row["bertviz"].values()])
    assert "| 16 |" in (tmp_path / "viewer-benchmark.md").read_text(encoding="utf-8")


def test_what_a_live_view_sends(bench):
    row = bench.live(300, 12, 12)
    assert not row["fetched"] and row["sent MB"] > 1 and row["one head MB"] < row["sent MB"] / 50
