"""The benchmark of attention maps: it measures what it says, and a missed goal is told."""

import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import ROOT, load_benchmark

FILE = ROOT / "benchmarks" / "attention.py"
FOUND = {"forward": {"seconds": 2.0, "cpu": 2.0, "mib": 100, "result_mib": 3}, "all": {"seconds": 3.0, "cpu": 2.5, "mib": 300, "result_mib": 144}}


@pytest.fixture(scope="module")
def bench():
    return load_benchmark("attention")


def test_goals_and_verdicts(bench):
    assert [(case, met) for case, _, _, met in bench.verdicts(FOUND)] == [("all", True), ("all", True)]
    slow = FOUND | {"all": {"seconds": 3.3, "cpu": 3, "mib": 351, "result_mib": 144}}
    assert [(came, met) for _, _, came, met in bench.verdicts(slow)] == [("1.65 x", False), ("351 MiB", False)]
    text = bench.report(slow, 3, 1)
    assert "| NO / 否 |" in text and "| 3.30 | 1.65 x | 1.50 x | 351 | 144 |" in text and "TransformerLens was not installed" in text
    assert set(bench.GOALS) <= set(bench.CASES) and all(bench.beside(case) == base for case, (base, *_) in bench.GOALS.items())


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere the size of a process is only looked at now and then")
def test_the_peak_is_what_the_block_adds():
    code = ("import importlib.util, sys, numpy as np\n"
            f"spec = importlib.util.spec_from_file_location('bench', {str(FILE)!r})\n"
            "bench = importlib.util.module_from_spec(spec); spec.loader.exec_module(bench)\n"
            "before = np.ones(2**23)\n"  # 64 MiB that were there already
            "passing = np.ones(2**24); del passing\n"  # a peak of 128 MiB that is over
            "with bench.Peak() as peak:\n    for _ in range(3): block = np.ones(2**22); del block\n"  # 32 MiB, three times
            "print(peak.mib)")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert 30 < float(done.stdout) < 40, done.stdout


def test_the_text_has_exactly_so_many_tokens(bench):
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(ROOT / "llmtutor" / "bundled" / "story-gpt")
    for n in (100, 1024):
        assert len(tokenizer(bench.text_of(tokenizer, n))["input_ids"]) == n


def test_sizes_of_results(bench):
    array = np.zeros((3, 4), np.float32)
    assert bench.n_bytes(array) == bench.n_bytes(SimpleNamespace(stored=array)) == 48
    assert bench.n_bytes((array, array)) == bench.n_bytes({"a": array, "b": array}) == 96


def test_a_case_that_fails_is_named(bench, monkeypatch):
    monkeypatch.setattr(bench.subprocess, "run", lambda *_, **__: SimpleNamespace(returncode=1, stderr="no memory", stdout=""))
    with pytest.raises(RuntimeError, match="the case 'all' failed.*\n*no memory"):
        list(bench.measure(["all"], 1, 1))
