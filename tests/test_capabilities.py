"""The tests of abilities ask fair questions, and a reader who knows the answer or none gets the score that is due."""
import math
import re

import pytest
import torch

from llmtutor import recipes, storyworld
from llmtutor.recipes import capabilities
from llmtutor.storyworld import dice, words

CASES = [(test, lang) for test in capabilities.TESTS for lang in words.LANGUAGES]


@pytest.fixture(scope="module")
def tokenizer():
    return recipes.story_tokenizer(stories=300)


def completed(item, lang, test):
    """The item's text with its answer, ended as the world ends it."""
    inside = "里" if test == "inside" and lang == "zh" else ""
    return item.prompt + (" " if lang == "en" else "") + item.answer + inside + (". " if lang == "en" else "。")


@pytest.mark.parametrize("options", [{}, {"new_names": True, "new_templates": True}])
@pytest.mark.parametrize("test, lang", [case for case in CASES if case[0] != "pronoun"])
def test_answers_are_true_and_other_answers_are_not(test, lang, options):
    items = capabilities.items(test, lang, 60, **options)
    wrong = 0
    for item, other in zip(items, items[1:]):
        assert storyworld.check(completed(item, lang, test), lang).ok, completed(item, lang, test)
        if other.answer != item.answer:
            wrong += not storyworld.check(completed(item._replace(answer=other.answer), lang, test), lang).ok
    assert wrong > 20


@pytest.mark.parametrize("lang", words.LANGUAGES)
def test_the_pronoun_decides_the_next_word(lang):
    """Reading the text by hand: the one of that gender, and the word that was told of that person."""
    forms = {"en": ({"she", "her"}, {"he", "his"}), "zh": ({"她"}, {"他"})}[lang]
    for item in capabilities.items("pronoun", lang, 80):
        last = re.split(r"[.。] ?", item.prompt)[-1].lower()
        found = [bool(set(re.findall(r"[a-z]+|[她他]", last)) & form) for form in forms]
        assert found.count(True) == 1, item
        first = [s for s in re.split(r"[.。] ?", item.prompt) if s][:2]
        person = next(p for p in words.PEOPLE if p.female is found[0] and any(getattr(p, lang) in s for s in first))
        assert any(getattr(person, lang) in s and item.answer in s for s in first), item


@pytest.mark.parametrize("test, lang", CASES)
def test_the_simple_reader_is_far_from_perfect(test, lang):
    items = capabilities.items(test, lang, 300)
    right = sum(item.guess.lower() == item.answer.lower() for item in items) / len(items)
    assert 0.1 < right < 0.6
    assert items == capabilities.items(test, lang, 300) != capabilities.items(test, lang, 300, seed=-9)


class Reader(torch.nn.Module):
    """A model that knows every text it was given: it puts the next token first, or, if `wrong`, another."""

    def __init__(self, texts, tokenizer, wrong=False):
        super().__init__()
        self.known = [[tokenizer.bos_token_id] + tokenizer(text)["input_ids"] for text in texts]
        self.size, self.wrong = len(tokenizer), wrong

    def forward(self, ids, attention_mask=None):
        logits = torch.zeros(*ids.shape, self.size)
        for row, line in enumerate(ids.tolist()):
            for known in self.known:
                for i in range(len(line) - 1, -1, -1):
                    if line[:i + 1] == known[:i + 1] and i + 1 < len(known):
                        logits[row, i, known[i + 1] - self.wrong] = 1
                        break
        return type("Out", (), {"logits": logits})


@pytest.mark.parametrize("test, lang", CASES)
def test_the_score_of_one_who_knows_is_one_and_of_one_who_does_not_is_zero(test, lang, tokenizer):
    items = capabilities.items(test, lang, 12)
    texts = [completed(item, lang, test) for item in items]
    hits, guesses = capabilities.score(Reader(texts, tokenizer), tokenizer, items, batch=5)
    assert all(hits) and len(hits) == len(guesses) == 12
    assert not any(capabilities.score(Reader(texts, tokenizer, wrong=True), tokenizer, items)[0])


class Copier(torch.nn.Module):
    """Looks for the newest earlier place of the token it reads and says what followed it there."""

    def __init__(self, size):
        super().__init__()
        self.size = size

    def forward(self, ids):
        logits = torch.zeros(*ids.shape, self.size)
        for row, line in enumerate(ids.tolist()):
            for i, token in enumerate(line):
                earlier = [j for j in range(i) if line[j] == token]
                logits[row, i, line[earlier[-1] + 1] if earlier else 0] = 1
        return type("Out", (), {"logits": logits})


def test_induction_is_one_for_a_copier_and_its_control_is_nothing(tokenizer):
    assert capabilities.induction(Copier(len(tokenizer)), tokenizer, count=5) == (1.0, 0.0)


def test_the_surprise_of_a_text_counts_its_choices():
    rng = dice.Counting(1)
    rng.choice("abcd"), rng.sample(range(5), 2), rng.randint(1, 3)
    assert rng.nats == pytest.approx(math.log(4 * 5 * 4 * 3))
    for tell in (storyworld.story, storyworld.short, storyworld.facts, storyworld.plain):
        for lang in words.LANGUAGES:
            told, nats = dice.surprise(tell, -7, lang)
            assert told.text == tell(-7, lang).text and 5 < nats < 200
    assert dice.surprise(storyworld.story, -8)[1] == dice.surprise(storyworld.story, -8)[1]


def test_chance_counts_what_it_drew():
    with dice.counted() as nats:
        rng = dice.first("x")
        drawn = [dice.chance(rng, .1) for _ in range(200)]
        said = nats()
    assert said == pytest.approx(-sum(math.log(.1 if hit else .9) for hit in drawn))
    assert 5 < sum(drawn) < 40
    with dice.counted() as nats:
        assert nats() == 0
    assert type(dice.first("x")) is not dice.Counting
