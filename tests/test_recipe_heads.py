"""The heads that a card names: looked for in the right texts, named only where they beat what they are held against."""
import pytest
import torch

from llmtutor import recipes
from llmtutor.recipes import heads


def test_items_are_of_both_kinds():
    for lang in ("en", "zh"):
        items = heads.items(lang, 8)
        assert {kind: len(found) for kind, found in items.items()} == {"pronoun": 8, "binding": 8}
        for item in items["binding"]:
            assert item.text[slice(*item.at)].lower().split()[-1] in item.text[slice(*item.to[0])].lower()
        for item in items["pronoun"]:
            assert item.text[slice(*item.at)].lower() in ("he", "she", "her", "his", "him", "他", "她")
            assert item.text[slice(*item.to[0])] not in [item.text[slice(*span)] for span in item.others]


def row(kind, layer, head, score, control=0.1):
    return {"lang": "both", "kind": kind, "layer": layer, "head": head, "score": score, "control": control, "effect": 0.5,
            "random_effect": 0.0, "n": 10, "control_kind": "no repeat"}


@pytest.mark.parametrize("score, control, named", [(0.9, 0.1, True), (0.25, 0.1, False), (0.9, 0.85, False)])
def test_a_head_is_named_only_when_it_beats_its_control(score, control, named):
    assert heads.best([row("induction", 1, 2, score, control)]) == ({"induction": [[1, 2, score]]} if named else {})


@pytest.mark.parametrize("score, named", [(0.9, True), (0.6, False)])
def test_a_pronoun_head_is_named_only_when_it_is_right(score, named):
    assert bool(heads.best([row("pronoun", 0, 1, score, control=0.5)])) is named


def test_the_best_comes_first_and_none_comes_twice():
    rows = [row("pronoun", 0, 1, 0.8), row("pronoun", 2, 3, 0.95), row("pronoun", 0, 1, 0.85)]
    assert heads.best(rows) == {"pronoun": [[2, 3, 0.95], [0, 1, 0.85]]}
    assert "L2 H3" in heads.table(rows)


def test_an_untrained_model_has_rows_for_every_kind_and_no_head_of_induction():
    tokenizer = recipes.story_tokenizer(stories=300)
    torch.manual_seed(0)
    rows = heads.named_heads(recipes.new_gpt(tokenizer, layers=2, heads=2, width=16).eval(), tokenizer, top=1, count=6)
    assert {(r["kind"], r["lang"]) for r in rows} == {
        *((kind, "both") for kind in ("previous", "first", "duplicate", "induction")), *((kind, lang) for kind in ("pronoun", "binding") for lang in ("en", "zh"))}
    assert "induction" not in heads.best(rows)
