"""The report on the models: intervals that cover, readers without a model that are fair, rows that an untrained model fails."""
import random
from types import SimpleNamespace

import pytest
import torch
from conftest import load_benchmark
from test_recipe_bert import Cheat

import llmtutor as lt
from llmtutor import storyworld
from llmtutor.recipes import bert, tasks, texts, translator
from llmtutor.storyworld import pairs, words


@pytest.fixture(scope="module")
def bench():
    return load_benchmark("models")


def cells(line):
    """Of a row: the ability, the model's share, the reader's without a model, the untrained copy's, the verdict."""
    ability, _, _, found, plain, blank, said = line.split(" | ")
    return ability, *(float(cell.split()[0]) for cell in (found, plain, blank)), said


# -- arithmetic --------------------------------------------------------------------------------------------------------------------

def test_the_interval_holds_the_true_share_nineteen_times_in_twenty(bench):
    rng, inside = random.Random(0), 0
    for _ in range(500):
        _, low, high = bench.interval([rng.random() < 0.9 for _ in range(100)])
        inside += low <= 0.9 <= high
    assert 0.92 < inside / 500 < 0.98
    assert bench.interval([True] * 20)[2] == pytest.approx(1) and bench.interval([True] * 20)[1] < 0.9


def test_the_interval_of_a_difference_holds_the_true_one(bench):
    rng, inside, narrow = random.Random(1), 0, 0
    for _ in range(500):
        one, other = (bench.interval([rng.random() < share for _ in range(100)]) for share in (0.95, 0.85))
        found, low, high = bench.difference(one, other)
        inside += low <= 0.1 <= high
        narrow += found - 0.05 <= 0.1 <= found + 0.05
    assert 0.92 < inside / 500 < 0.99 and narrow / 500 < 0.9            # so an interval that is too narrow would be seen


def test_trigrams_are_a_distribution_that_has_learned(bench):
    rng = random.Random(1)
    texts = [[0] + [rng.choice((1, 2)) if i % 2 else 3 for i in range(12)] for _ in range(60)]
    model = bench.Trigrams(texts[:50], size=6)
    for text in ([0, 3, 1], [5, 5, 5], [3]):
        assert sum(model.probability([*text, token], len(text)) for token in range(6)) == pytest.approx(1)
    assert 1.3 < model.perplexity(texts[50:]) < 1.6                     # one choice of two at every other place: 2 ** .5
    assert model.perplexity([[0, 5, 4, 5, 4]]) > 6                      # worse than even where nothing is as it was


def test_a_row_says_whether_the_wanted_number_is_reached(bench):
    one = (0.9, 0.85, 0.94), (0.2, "last mentioned"), 0.1
    wanted = [bench.row("attribute", "en", what, *one).rsplit(" | ", 1)[1] for what in ("seen", "new names", "new templates")]
    assert wanted == ["0.95: not met", "0.85: met", "-"]                # each number belongs to its own texts
    assert bench.verdict((0.95, 0.9, 0.97), 0.95) == "0.95: met"
    assert bench.verdict((0.94, 0.9, 0.97), 0.95) == "0.95: not met (inside the interval)"
    assert bench.verdict((0.80, 0.7, 0.90), 0.95) == "0.95: not met" and bench.verdict((0.8, 0.7, 0.9), None) == "-"
    line = bench.row("entities, F1", "en", "held-out names", (0.5, 0.4, 0.6), (0.3, "nobody"), 0.1, " (two runs)")
    assert line == "entities, F1 (two runs) | en | held-out names | 0.50 [0.40, 0.60] | 0.30 (nobody) | 0.10 | 0.95: not met"
    assert cells(line) == ("entities, F1 (two runs)", 0.5, 0.3, 0.1, "0.95: not met")


# -- story-bert --------------------------------------------------------------------------------------------------------------------

def test_hidden_words_an_untrained_model_fails_and_one_that_knows_passes(bench):
    lm = lt.load("story-bert")
    torch.manual_seed(0)
    untrained = bert.new_bert(lm.tokenizer).eval()
    knows = Cheat(lm.tokenizer, [texts.from_story(storyworld.story(-seed, "en")) for seed in range(7001, 7007)])

    def rows(model):
        return [cells(line) for line in bench.hidden_words(SimpleNamespace(model=model, tokenizer=lm.tokenizer), untrained, "en", 6, 100)]

    bad, good, ours = rows(untrained), rows(knows), rows(lm.model)
    assert [said for *_, said in bad] == ["-", "0.95: not met", "0.90: not met"] and all(share < 0.1 for _, share, *_ in bad)
    assert [said for *_, said in good] == ["-", "0.95: met", "0.90: met"] and good[0][1] == 1
    assert all(share > max(plain, blank) + 0.1 for _, share, plain, blank, _ in ours)
    assert all(plain > 0.3 for _, _, plain, _, _ in ours[:2]), "counts are a baseline that knows something"


def test_tasks_from_few_labels_an_untrained_model_fails(bench, tmp_path, monkeypatch):
    tokenizer = lt.load("story-bert").tokenizer
    torch.manual_seed(0)
    bert.save(bert.new_bert(tokenizer, layers=1, heads=2, width=16, inner=24), tokenizer, tmp_path)
    learn = tasks.finetune
    monkeypatch.setattr(tasks, "finetune", lambda model, rows, pad, steps=200, **options: learn(model, rows, pad, min(steps, 5), **options))
    bad = [cells(line) for line in bench.fine_tuned(tmp_path, "en", labels=20)]
    assert [ability for ability, *_ in bad] == ["entities, F1", "sentiment of a review", "sentiment, gain by pretraining"]
    assert bad[0][-1] == "0.95: not met" and bad[2][-1].startswith("0.10: not met") and bad[1][-1] == "-"


@pytest.mark.parametrize(("pretrained", "said"), [(0.97, ["0.95: met", "-", "0.10: met"]), (0.80, ["0.95: not met", "-", "0.10: not met"])])
def test_a_gain_is_over_the_untrained_copy(bench, monkeypatch, pretrained, said):
    def share(mean):
        return tasks.Share(mean, mean - 0.01, mean + 0.01)

    found = {"pretrained": share(pretrained), "scratch": share(0.8), "frequent": share(0.5)}
    monkeypatch.setattr(tasks, "ner", lambda *_: found)
    monkeypatch.setattr(tasks, "sentiment", lambda *_, **options: found)
    rows = [cells(line) for line in bench.fine_tuned("a folder", "zh", runs=2)]
    assert [row[-1] for row in rows] == said and [row[1] for row in rows] == pytest.approx([pretrained, pretrained, pretrained - 0.8])
    assert [row[3] for row in rows] == [0.8, 0.8, 0.0]


@pytest.mark.parametrize("lang", words.LANGUAGES)
def test_the_reader_of_labels_finds_what_was_labelled_and_no_new_name(bench, monkeypatch, lang):
    assert 0.3 < bench.looked_up(lang).mean < 0.8
    assert bench.looked_up(lang, labels=2).mean < bench.looked_up(lang).mean - 0.2
    seen = tasks.sentences(lang, 200, 10 ** 6)
    monkeypatch.setattr(tasks, "sentences", lambda *_, **options: seen)
    assert bench.looked_up(lang).mean > 0.95


# -- story-translator --------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("target", words.LANGUAGES)
def test_translations_an_untrained_model_fails(bench, target):
    lm = lt.load("story-translator")
    untrained = bench.untrained_translator(lm.tokenizer)
    ours = [cells(line) for line in bench.translations(lm, untrained, target, (1, 2), count=12, stories=60)]
    wrong = SimpleNamespace(model=untrained, tokenizer=lm.tokenizer)
    bad = [cells(line) for line in bench.translations(wrong, untrained, target, (1, 2), count=12, stories=60)]
    assert [said for *_, said in ours] == ["0.85: met"] * 2 + ["0.90: met", "-"]
    assert [said for *_, said in bad] == ["0.85: not met"] * 2 + ["0.90: not met", "-"]
    assert all(share > max(plain, blank) + 0.3 for _, share, plain, blank, _ in ours)


@pytest.mark.parametrize("target", words.LANGUAGES)
def test_the_memory_knows_what_it_has_read_and_nothing_else(bench, target):
    memory = bench.Memory(20, target)
    read = [pair for seed in range(2 ** 40, 2 ** 40 + 20) for pair in pairs.pairs(seed, (1, 3))]
    right = [memory.translate(pair).split() == pair.text(target).split() for pair in read]
    assert sum(right) / len(right) > 0.9                                # a sentence may have been read with another "they"
    new = translator.held_out(range(-60, 0), 1)
    few, many = ([reader.translate(pair) in pairs.references(pair, target) for pair in new] for reader in (bench.Memory(1, target), bench.Memory(60, target)))
    assert sum(few) < sum(many) < 0.9 * len(new)


# -- the report --------------------------------------------------------------------------------------------------------------------

def test_a_part_that_is_not_measured_stays(bench, tmp_path, monkeypatch, capsys):
    def part(name):
        return "ability | share", lambda runs: [f"{name} {value} | {runs}"]

    value, file = 1, tmp_path / "report.md"
    monkeypatch.setattr(bench, "TABLES", {"one": part("a"), "two parts": part("b")})
    bench.main(["--out", str(file)])
    first = file.read_text(encoding="utf-8")
    assert "## one\n\n| ability | share |\n|---|---|\n| a 1 | 1 |\n\n## two parts\n\n" in first and first.endswith("| b 1 | 1 |\n")
    value = 2
    bench.main(["--out", str(file), "--only", "two parts", "--runs", "3"])
    assert file.read_text(encoding="utf-8") == first.replace("| b 1 | 1 |", "| b 2 | 3 |")
    assert "b 2" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        bench.main(["--only", "three"])
