"""Naming heads and judging explanations: planted heads are found, impostors fail their control, and scores have a known best."""

from itertools import combinations
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from test_explain import TEXT, built, linear, tokenizer  # noqa: F401  (fixtures)

import llmtutor as lt
from llmtutor import explain
from llmtutor.explain import heads, reading, twins

# --- heads with planted maps ---


@pytest.fixture
def planted(built, monkeypatch):  # noqa: F811
    """A GPT-2 whose maps are replaced: L0 H1 looks one back, L0 H2 at the first, L1 H0 copies, L1 H3 keeps one fixed distance."""
    lm = built("GPT2LMHeadModel")

    def maps(lm, ids, type_ids):
        n = len(ids)
        found = np.repeat(np.tril(np.ones((n, n)) / np.arange(1, n + 1)[:, None])[None, None], 3, 0).repeat(4, 1)

        def look(layer, head, at):
            found[layer, head] = 0
            found[layer, head, np.arange(n), at] = 1

        look(0, 1, np.maximum(np.arange(n) - 1, 0))
        look(0, 2, np.zeros(n, int))
        earlier = [next((j for j in range(i - 1, -1, -1) if ids[j] == ids[i]), None) for i in range(n)]
        look(1, 0, [i if j is None else j + 1 for i, j in enumerate(earlier)])
        look(1, 1, [i if j is None else j for i, j in enumerate(earlier)])
        look(1, 3, np.maximum(np.arange(n) - 23, 0))
        return found, [0, 1, 2]

    monkeypatch.setattr(heads, "_maps", maps)
    return lm


@pytest.mark.parametrize("kind, place", [("previous", (0, 1)), ("first", (0, 2)), ("induction", (1, 0)), ("duplicate", (1, 1))])
def test_planted_heads_are_found(planted, kind, place):
    (row,) = explain.find_heads(planted, kind, top=1, n=16)
    assert (row.layer, row.head) == place and row.score == 1 and row.control < 0.2 and row.n == 8
    assert np.isfinite(row.effect) and np.isfinite(row.random_effect)
    assert repr(row).startswith(f"{kind} L{place[0]} H{place[1]}: 1.00 ({heads.KINDS[kind]} 0.")


def test_a_head_that_only_counts_positions_is_no_induction_head(planted):
    """Its score is low when distances are random, and its control is as high as its score; with one distance it would pass."""
    score, control = explain.head_scores(planted, "induction", n=40)
    assert score[1, 3] < 0.2 and score[1, 3] == pytest.approx(control[1, 3], abs=1e-9)
    assert score[1, 0] - control[1, 0] > 0.8
    fixed = heads._Probe(list(range(24)) * 2, None, [(24 + j, [j + 1]) for j in range(23)], [(24 + j, [j + 1]) for j in range(23)],
                         [*range(24), *range(30, 54)])
    score, control, _ = heads._scores(planted, [fixed])
    assert score[1, 3] == 1 and control[1, 3] == 1, "only the control tells it from a true one"


def test_distances_and_places_are_random(built):  # noqa: F811
    lm, rng = built("GPT2LMHeadModel"), np.random.default_rng(0)
    probes = [heads._random_probe(lm, "induction", 48, rng, None) for _ in range(30)]
    assert len({probe.pairs[0][0] - probe.pairs[0][1][0] for probe in probes}) > 10
    for probe in probes:
        for query, (key,) in probe.pairs:
            assert probe.ids[query + 1] == probe.ids[key] and probe.control_ids[query + 1] != probe.control_ids[key]
        assert len(set(probe.control_ids)) == 48 and lm.tokenizer.mask_token_id not in probe.ids
    for probe in (heads._random_probe(lm, "previous", 48, rng, None) for _ in range(5)):
        assert all(keys == [query - 1] for query, keys in probe.pairs)
        assert all(keys[0] < query - 1 for query, keys in probe.control_pairs)


def test_the_effect_is_the_growth_of_the_loss(built):  # noqa: F811
    lm = built("GPT2LMHeadModel")
    probes = heads._probes(lm, "induction", None, 4, 48, 3, None)[1::2]
    (row,) = explain.find_heads(lm, "induction", top=1, n=4, seed=3)

    def loss():
        losses = []
        for probe in probes:
            with torch.no_grad():
                chances = lm.model(torch.tensor([probe.ids])).logits[0].log_softmax(-1)
            losses += [-float(chances[i, probe.ids[i + 1]]) for i in probe.losses]
        return np.mean(losses)

    clean, weight = loss(), lm.model.transformer.h[row.layer].attn.c_proj.weight
    kept, rows = weight.detach().clone(), slice(row.head * 10, (row.head + 1) * 10)
    weight.data[rows] = 0
    brute = loss() - clean
    weight.data.copy_(kept)
    assert row.effect == pytest.approx(brute, abs=1e-4) and abs(brute) > 1e-4
    assert row.random_effect != pytest.approx(brute, abs=1e-4)


def test_heads_are_scored_on_the_half_that_did_not_choose_them(built, monkeypatch):  # noqa: F811
    lm, asked = built("GPT2LMHeadModel"), []
    right = heads._scores
    monkeypatch.setattr(heads, "_scores", lambda lm, probes: asked.append([tuple(p.ids) for p in probes]) or right(lm, probes))
    explain.find_heads(lm, "previous", n=6, top=1)
    chosen_on, scored_on = asked
    assert len(chosen_on) == len(scored_on) == 3 and not set(chosen_on) & set(scored_on)


# --- pronouns and answers ---

STORY = "Tom met Lily. She ran. He sat."
MENTIONS = [(0, 3, "Tom", "name"), (8, 12, "Lily", "name"), (14, 17, "Lily", "pronoun"), (23, 25, "Tom", "pronoun")]


def test_pronoun_items():
    items = explain.pronoun_items(STORY, MENTIONS)
    assert [(STORY[slice(*item.at)], [STORY[slice(*span)] for span in item.to], [STORY[slice(*span)] for span in item.others])
            for item in items] == [("She", ["Lily"], ["Tom"]), ("He", ["Tom"], ["Lily"])]
    assert explain.pronoun_items(STORY, [SimpleNamespace(start=s, end=e, entity=x, form=f) for s, e, x, f in MENTIONS]) == items
    assert explain.pronoun_items(STORY, MENTIONS[:1] + MENTIONS[3:]) == []  # with one person there is nothing to mistake


@pytest.mark.parametrize("lang", ["en", "zh"])
def test_items_of_the_story_world(lang):
    stories = [lt.storyworld.story(seed, lang) for seed in range(-12, 0)]
    items = [item for story in stories for item in explain.pronoun_items(story.text, story.mentions)]
    pronouns = {"en": {"he", "she", "him", "her", "his"}, "zh": {"他", "她"}}[lang]
    assert len(items) > 10 and {item.text[slice(*item.at)].lower() for item in items} <= pronouns
    facts = [lt.storyworld.facts(seed, lang) for seed in range(-12, 0)]
    bound = [item for story in facts for item in explain.binding_items(story.text, story.answers, story.mentions)]
    assert len(bound) > 10
    for item in bound:
        answer = item.text[slice(*item.at)].lower()
        assert item.text.lower().endswith(answer)
        assert all(item.text[slice(*span)].lower().endswith(answer) for span in item.to), answer
        assert not any(item.text[slice(*span)].lower().endswith(answer) for span in item.others), answer


def test_pronoun_scores_are_the_share_of_pairs_won(built, monkeypatch):  # noqa: F811
    lm, items = built("GPT2LMHeadModel"), explain.pronoun_items(STORY, MENTIONS)

    def maps(lm, ids, type_ids):
        found = np.full((3, 4, len(ids), len(ids)), 0.01)  # all alike: half of the pairs
        read = reading.read(lm, STORY, wants_target=False)
        she, he, tom, lily = (heads._covering(read, span) for span in ((14, 17), (23, 25), (0, 3), (8, 12)))
        found[1, 2, she[-1], lily[-1]] = found[1, 2, he[-1], tom[0]] = 0.9  # always right
        found[0, 0, she[-1], tom[0]] = found[0, 0, he[-1], lily[0]] = 0.9  # always wrong
        found[2, 3, [she[-1], he[-1]], lily[0]] = 0.9  # always the nearer name
        same = len(tom) == len(lily)
        return found if same else found * 0 + np.where(found > 0.5, found, 0), [0, 1, 2]

    monkeypatch.setattr(heads, "_maps", maps)
    score, control = explain.head_scores(lm, "pronoun", items)
    assert (score[1, 2], score[0, 0], score[2, 3], score[1, 1]) == (1, 0, 0.5, 0.5)
    assert (control == 0.5).all()  # the nearer name is right for "She" and wrong for "He"
    (row,) = explain.find_heads(lm, "pronoun", items * 2, top=1)
    assert (row.layer, row.head) == (1, 2)


def test_pronoun_and_binding_heads_of_the_bundled_model():
    lm = lt.load("story-gpt")
    stories = [lt.storyworld.short(seed) for seed in range(-16, 0)]
    items = [item for story in stories for item in explain.pronoun_items(story.text, story.mentions)][:16]
    (row,) = explain.find_heads(lm, "pronoun", items, top=1)
    assert 0 <= row.score <= 1 and 0 <= row.control <= 1 and np.isfinite(row.effect)
    facts = [lt.storyworld.facts(seed) for seed in range(-8, 0)]
    bound = [item for story in facts for item in explain.binding_items(story.text, story.answers, story.mentions)][:12]
    (best,) = explain.find_heads(lm, "binding", bound, top=1)
    assert 0 <= best.score <= 1 and (best.kind, best.n) == ("binding", 6)
    assert explain.table([row, best]).count("\n") == 3 and "nearest name" in explain.table([row])


@pytest.mark.parametrize("kind, options, message", [
    ("copying", {}, "kind must be"), ("pronoun", {}, "at least two items"), ("first", {"items": [1, 2]}, "leave items out"),
    ("first", {"n": 1}, "n must be"), ("pronoun", {"items": [explain.Item(" ", (0, 1), ((0, 1),), ())] * 2}, "empty"),
    ("pronoun", {"items": [explain.Item("ab", (5, 6), ((0, 1),), ((1, 2),))] * 2}, "no token at characters")])
def test_bad_calls(built, kind, options, message):  # noqa: F811
    with pytest.raises(ValueError, match=message):
        explain.find_heads(built("GPT2LMHeadModel"), kind, **options)


def test_a_masked_model_has_scores_and_no_effect(built):  # noqa: F811
    (row,) = explain.find_heads(built("BertForMaskedLM"), "previous", top=1, n=4)
    assert np.isnan(row.effect) and 0 <= row.score <= 1


# --- faithfulness ---

SHORT = "Lily gave Tom the red"


def test_faithfulness_on_a_linear_model(linear):  # noqa: F811
    lm, parts, _ = linear
    parts = parts[: len(lm.tokenizer(SHORT)["input_ids"])]
    assert 4 <= len(parts) <= 12
    right = explain.occlusion(lm, SHORT, (0, 1), output="logit")
    assert np.allclose(right.scores, parts, atol=1e-4)
    found = explain.faithfulness(lm, SHORT, right, ks=[1, 3], output="logit")
    largest = np.sort(parts)[::-1]
    erased = np.mean([largest[:k].sum() for k in (1, 3)])  # erasing k tokens takes their parts away
    kept = np.mean([parts.sum() - largest[:k].sum() for k in (1, 3)])
    assert found.comprehensiveness == pytest.approx(erased, abs=1e-3) and found.sufficiency == pytest.approx(kept, abs=1e-3)
    assert found.best == pytest.approx((erased, kept), abs=1e-3), "in a linear model the truth is the best there is"
    assert found.random[0] < erased and found.random[1] > kept
    upside_down = explain.Explanation("wrong", -right.scores, right.tokens, right.target)
    wrong = explain.faithfulness(lm, SHORT, upside_down, ks=[1, 3], output="logit")
    assert wrong.comprehensiveness < found.random[0] and wrong.sufficiency > found.random[1]
    assert repr(found).startswith("Faithfulness('occlusion': comprehensiveness ")


def test_the_best_is_the_best_of_all_subsets(built):  # noqa: F811
    lm = built("GPT2LMHeadModel")
    explanation = explain.occlusion(lm, SHORT)
    found = explain.faithfulness(lm, SHORT, explanation, ks=[2])
    read = reading.read(lm, SHORT, explanation.target)

    def chance(replaced):
        embeddings = read.embeddings().clone()
        embeddings[list(replaced)] = lm.model.transformer.wte.weight.detach().mean(0)
        with torch.no_grad():
            return float(lm.model(inputs_embeds=embeddings[None]).logits[0, -1].softmax(-1)[explanation.target.token])

    places = range(len(explanation))
    whole = chance([])
    erased = {pair: whole - chance(pair) for pair in combinations(places, 2)}
    kept = {pair: whole - chance(set(places) - set(pair)) for pair in combinations(places, 2)}
    assert found.best == pytest.approx((max(erased.values()), min(kept.values())), abs=1e-5)
    own = tuple(sorted(place for place, *_ in explanation.top(2)))
    assert found.comprehensiveness == pytest.approx(erased[own], abs=1e-5) and found.sufficiency == pytest.approx(kept[own], abs=1e-5)
    assert found.comprehensiveness <= found.best[0] + 1e-6 and found.sufficiency >= found.best[1] - 1e-6


def test_longer_texts_have_no_best_and_bad_calls_are_refused(built):  # noqa: F811
    lm = built("GPT2LMHeadModel")
    text = TEXT + " " + TEXT
    explanation = explain.gradient_x_input(lm, text)
    assert explain.faithfulness(lm, text, explanation, n_random=2).best is None
    with pytest.raises(ValueError, match="another text"):
        explain.faithfulness(lm, TEXT, explanation)
    with pytest.raises(ValueError, match="ks must"):
        explain.faithfulness(lm, text, explanation, ks=[0])
    with pytest.raises(ValueError, match="another text"):
        explain.faithfulness(lm, TEXT, explain.logit_lens(lm, TEXT))


# --- the truth test ---


def test_the_planted_word_decides_and_nothing_else_does():
    texts, places, keys = explain.planted_data(200, seed=4)
    for text, place, key in zip(texts, places, keys):
        words = text.split()
        assert len(words) == twins.N_WORDS + 1 and words[-1] == "?" and words[place] == twins.KEYS[key]
        assert sum(word in twins.KEYS for word in words) == 1 and place < twins.LAST_PLACE
    assert set(keys) == set(range(8)) and explain.planted_data(200, seed=4)[0] == texts != explain.planted_data(200, seed=5)[0]


@pytest.fixture(scope="module")
def trained():
    return explain.train_twins(0)


def test_twins_are_equally_right_and_look_at_opposite_places(trained):
    honest, deceptive, untrained = (trained[name] for name in ("honest", "deceptive", "untrained"))
    assert honest.accuracy > 0.98 and deceptive.accuracy > 0.98 and untrained.accuracy < 0.3
    assert honest.on_key > 0.3 and deceptive.on_key < 0.02
    texts, places, _ = explain.planted_data(1, 9)
    att = lt.attend(honest, texts[0])
    assert att.weights.shape == (2, 4, 16, 16) and att.weights[:, :, -1, places[0]].mean() > 0.2


def test_attention_is_misled_and_erasing_is_not(trained):
    methods = {name: twins.SCORED[name] for name in ("attention", "gradient x attention", "occlusion", "integrated gradients")}
    honest, deceptive = (explain.score_methods(trained[name], 15, methods=methods) for name in ("honest", "deceptive"))
    assert honest["attention"] > 0.9 and deceptive["attention"] < 0.2 and deceptive["gradient x attention"] < 0.2
    assert min(honest["occlusion"], deceptive["occlusion"], honest["integrated gradients"]) > 0.8
    untrained = explain.score_methods(trained["untrained"], 40, methods={"occlusion": explain.occlusion})
    assert untrained["occlusion"] < 0.4 and untrained["random"] < 0.3


def test_a_perfect_and_a_blind_method_get_1_and_0(trained):
    def cheat(lm, text, target):
        place = next(i for i, word in enumerate(text.split()) if word in twins.KEYS)
        return explain.Explanation("cheat", np.eye(16)[place], text.split())

    def blind(lm, text, target):
        return explain.Explanation("blind", np.eye(16)[twins.LAST_PLACE], text.split())

    scores = explain.score_methods(trained["honest"], 20, methods={"cheat": cheat, "blind": blind})
    assert scores["cheat"] == 1 and scores["blind"] == 0


def test_every_scored_method_runs_on_a_twin(trained):
    scores = explain.score_methods(trained["honest"], 2)
    assert set(scores) == {*twins.SCORED, "random"} and all(0 <= value <= 1 for value in scores.values())
