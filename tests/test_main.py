"""The package without a notebook: `python -m llmtutor models | doctor | explore`."""

import subprocess
import sys

import numpy as np
import pytest
from test_models import save_tiny

from llmtutor import Attention, __main__, models


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("main") / "tiny")


@pytest.fixture
def one_bundled(tiny, monkeypatch):
    """A package whose only bundled model is the tiny one, on a machine that has downloaded nothing."""
    monkeypatch.setattr(models, "BUNDLED", tiny.parent)
    monkeypatch.setattr(models, "cached", list)


def test_models_lists_names_and_sizes(one_bundled, tiny, capsys):
    assert __main__.main(["models"]) == 0
    kind, name, size, unit = capsys.readouterr().out.split()
    assert (kind, name, unit) == ("bundled", "tiny", "MB")
    assert float(size) == pytest.approx(sum(file.stat().st_size for file in tiny.iterdir()) / 1e6, abs=0.05)


def test_models_says_when_there_are_none(one_bundled, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(models, "BUNDLED", tmp_path)
    assert __main__.main(["models"]) == 0
    assert "no models" in capsys.readouterr().out


def test_doctor_finds_all_well(one_bundled, capsys):
    assert __main__.main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert "ok      bundled model: LanguageModel('tiny'" in out and "threads" in out and "BROKEN" not in out


def test_doctor_finds_what_is_broken(one_bundled, tiny, tmp_path, monkeypatch, capsys):
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text("{}", encoding="utf-8")
    monkeypatch.setattr(models, "BUNDLED", tmp_path)
    monkeypatch.setattr(__main__, "_PACKAGES", ("numpy", "a-package-that-is-not-there"))
    assert __main__.main(["doctor"]) == 1
    out = capsys.readouterr().out
    assert "BROKEN  a-package-that-is-not-there is missing" in out and "BROKEN  bundled model 'broken'" in out


def test_doctor_misses_the_bundled_models(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(models, "BUNDLED", tmp_path)
    assert __main__.main(["doctor"]) == 1
    assert "no bundled model" in capsys.readouterr().out


@pytest.mark.parametrize("ending, start", [("html", b"<!doctype html>"), ("svg", b"<?xml"), ("png", b"\x89PNG"), ("pdf", b"%PDF")])
def test_explore_writes_a_picture(tiny, tmp_path, capsys, ending, start):
    output = tmp_path / f"map.{ending}"
    assert __main__.main(["explore", "Lily 今天 <b>&", "--model", str(tiny), "-o", str(output)]) == 0
    assert output.read_bytes().startswith(start)
    assert "2 layers x 3 heads" in capsys.readouterr().out
    if ending == "html":
        page = output.read_text(encoding="utf-8")
        assert "<b>" not in page and "content-security-policy" in page.lower()
        assert "http://" not in page.replace("http://www.w3.org/", ""), "the page must load nothing"


def test_explore_one_head(tiny, tmp_path):
    output = tmp_path / "maps.npz"
    arguments = ["explore", "Lily 今天", "--model", str(tiny), "-o", str(output)]
    assert __main__.main([*arguments, "--layer", "1", "--head", "2"]) == 0
    att = Attention.open(output)
    assert (att.layers, att.heads) == ([1], [2])
    np.testing.assert_allclose(att.weights.sum(-1), 1, atol=1e-5)


@pytest.mark.parametrize("changes, message", [
    (["-o", "map.gif"], "must end in .html"), (["-o", "no/such/folder/map.svg"], "does not exist"), (["--layer", "7"], "0 to 1"),
    (["--model", "./nowhere"], "no folder"), (["--model", ""], "needs a name")])
def test_errors_are_one_line_and_no_traceback(tiny, capsys, changes, message):
    assert __main__.main(["explore", "Lily", "--model", str(tiny), *changes]) == 1
    error = capsys.readouterr().err
    assert error.startswith("llmtutor: ") and message in error and error.count("\n") == 1 and "Traceback" not in error


def test_empty_text(tiny, capsys):
    assert __main__.main(["explore", "", "--model", str(tiny)]) == 1
    assert "text is empty" in capsys.readouterr().err


def test_help_and_unknown_commands():
    def run(*words):
        return subprocess.run([sys.executable, "-m", "llmtutor", *words], capture_output=True, text=True, encoding="utf-8",
                              env={**__import__("os").environ, "PYTHONIOENCODING": "utf-8"}, timeout=60)

    assert all(word in run("--help").stdout for word in ("models", "doctor", "explore"))
    wrong = run("explor")
    assert wrong.returncode == 2 and "invalid choice" in wrong.stderr and "Traceback" not in wrong.stderr
