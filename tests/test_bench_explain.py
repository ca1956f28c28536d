"""The scoreboard: questions whose truth is known, hits that a knowing method gets and a blind one does not, pages that say it."""

import json
import re

import numpy as np
import pytest
from conftest import load_benchmark

import llmtutor as lt
from llmtutor import explain, storyworld


@pytest.fixture(scope="module")
def bench():
    return load_benchmark("explain")


def spelled(lm, question, positions):
    tokens = [piece.text for piece in lt.tokens.pieces(lm.tokenizer, question.text)]
    return "".join(tokens[n] for n in sorted(positions)).replace("␣", "")


def knowing(questions):
    """A method that knows the truth of some questions."""
    truth = {(question.text, question.target): question.right for question in questions}
    return lambda lm, text, target: explain.Explanation("knows", np.isin(np.arange(400), list(truth[text, target])), ["x"] * 400)


@pytest.mark.parametrize("lang", ["en", "zh"])
@pytest.mark.parametrize("place", ["pronoun", "word"])
def test_scenes_ask_whom_the_pronoun_means(bench, lang, place):
    lm = lt.load("story-gpt")
    questions, right = bench.coreference(lm, lang, 12, place)
    assert questions == bench.coreference(lm, lang, 12, place)[0] and len(questions) == 12
    for question in questions:
        end = question.text[len(lm.tokenizer.bos_token):]
        border = r"\b" if lang == "en" else ""  # "Li" is no part of "Lily"
        names = [person for person in storyworld.words.PEOPLE if re.search(border + getattr(person, lang) + border, end)]
        who = [person for person in names if not spelled(lm, question, question.right).replace(getattr(person, lang), "")]
        assert len(names) == 2 and names[0].female != names[1].female and len(who) == 1
        sentence = end[max(end.rfind(". "), end.rfind("。"), end.rfind("\n")) + 1:].strip() if place == "word" else end[-4:]
        pronouns = (("She", "Her", "she", "her", "她"), ("He", "His", "he", "his", "他"))
        assert [word for word in pronouns[not who[0].female] if word in sentence], (sentence, who)
        assert question.right < set(question.allowed), "the names of the other one count as well"
    plain = [question.plain for question in questions]
    assert 2 <= sum(plain) <= 10, "the name mentioned last is no answer"
    assert (right is None) == (place == "pronoun")
    hits = bench.ask(lm, [[question] for question in questions], {"knows": knowing(questions)})
    assert sum(hit for hit, _ in hits["knows"]) == 12 and 0 < sum(hit for hit, _ in hits["random"]) < 12


def test_translations_ask_for_the_counterpart(bench):
    lm = lt.load("story-translator")
    groups = bench.alignment(lm, "zh", 4)
    questions = [question for group in groups for question in group]
    ids = [lm.tokenizer(question.target[0])["input_ids"][question.target[1]] for question in questions]
    names = {person.zh: person.en for person in storyworld.words.PEOPLE}
    named = [(names[lm.tokenizer.decode([n])], question) for n, question in zip(ids, questions) if lm.tokenizer.decode([n]) in names]
    assert named and len(questions) > 10
    for name, question in named:
        assert name in spelled(lm, question, question.right)
        assert 0 not in question.allowed, "the token that names the language is no word"
    hits = bench.ask(lm, groups, {"knows": knowing(questions)} | {name: method for name, method in bench.methods(lm, (1, 0)).items() if name.startswith("attention")})
    shares = {name: sum(hit for hit, _ in counts) / sum(n for _, n in counts) for name, counts in hits.items()}
    assert shares["knows"] == 1 and shares["random"] < 0.5 and {"attention", "attention of L1 H0", "without a model"} < set(shares)


def test_methods_for_one_stack_are_left_out_for_a_translator(bench):
    one, two = (set(bench.methods(lt.load(name))) for name in ("story-gpt", "story-translator"))
    assert one - two == {"rollout", "rollout above null", "gradient x attention, all rows"} and not two - one
    with pytest.raises(ValueError, match="two"):
        explain.rollout(lt.load("story-translator"), "<zh>Lily ran.", "莉莉跑了。")


def test_a_tie_is_half_a_hit(bench):
    question = bench.Question("", None, [1, 2], {2}, True)
    assert [bench._hit(scores, question) for scores in ([9, 0, 1], [9, 1, 0], [9, 1, 1])] == [1, 0, 0.5]


def test_the_untrained_copy_is_another_model(bench):
    lm = lt.load("story-gpt")
    with bench.untrained_copy(lm) as fresh:
        assert type(fresh.model) is type(lm.model)
        assert not np.allclose(*(model.get_input_embeddings().weight.detach().numpy() for model in (fresh.model, lm.model)))


def test_the_board(bench):
    assert bench.cell([0.5, 1.0]) == "0.75 (0.50-1.00)"
    runs = [{"hits": {name: {"attention": value, "random": 0.0} for name in bench.MODELS},
             "accuracy": dict.fromkeys(bench.MODELS, value), "attention_on_key": dict.fromkeys(bench.MODELS, value)}
            for value in (0.2, 0.4)]
    part = {"labels": {"to zh": {"questions": 9, "trained": {"attention": [0.5, 0.4, 0.6], "only here": [1, 1, 1]}, "untrained": {"attention": [0.1, 0, 0.2]}}}}
    text = bench.board({"runs": runs, "about": {"texts": 7}, "alignment": part})
    assert "| attention | 0.30 (0.20-0.40) | 0.30 (0.20-0.40) | 0.30 (0.20-0.40) |" in text and "2 seeds, 7 texts" in text
    assert "| attention | 0.50 (0.40-0.60) | 0.10 (0.00-0.20) |" in text and "| only here | 1.00 (1.00-1.00) | - |" in text
    assert "代词" in bench.board({"coreference": {"labels": {}}})


def test_a_part_that_is_not_measured_stays(bench, tmp_path, monkeypatch, capsys):
    kept = {"about": {"texts": 7}, "alignment": {"labels": {"to zh": {"questions": 9, "trained": {"a": [1, 1, 1]}, "untrained": {"a": [0, 0, 0]}}}}}
    (tmp_path / "explain-scoreboard.json").write_text(json.dumps(kept), encoding="utf-8")
    monkeypatch.setattr(bench, "measure_coreference", lambda scenes: {"labels": {}, "scenes": scenes})
    bench.main(["--only", "coreference", "--scenes", "3", "--out", str(tmp_path)])
    found = json.loads((tmp_path / "explain-scoreboard.json").read_text(encoding="utf-8"))
    assert found["alignment"] == kept["alignment"] and found["coreference"]["scenes"] == 3 and found["about"]["texts"] == 7
    assert "1.00 (1.00-1.00)" in (tmp_path / "explain-scoreboard.md").read_text(encoding="utf-8") and "Scoreboard" in capsys.readouterr().out
