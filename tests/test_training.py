"""The training loop resumes exactly, the tokenizer keeps characters whole, the bundled model is what its card says."""
import itertools
import json
import re
from pathlib import Path

import pytest
import torch

import llmtutor
from llmtutor import recipes, storyworld, training
from llmtutor.storyworld import words

BUNDLED = Path(llmtutor.__file__).parent / "bundled" / "story-gpt"


@pytest.fixture(scope="module")
def tokenizer():
    return recipes.story_tokenizer(stories=300)


def tiny(tokenizer):
    torch.manual_seed(0)
    wrapped = recipes.WithLabels(recipes.new_gpt(tokenizer, layers=1, heads=2, width=16))
    return wrapped, training.optimizers(wrapped.model, extra=[*wrapped.heads.parameters()])


def run(tokenizer, steps, **options):
    wrapped, opts = tiny(tokenizer)
    batches = recipes.Batches(tokenizer, seed=0, steps=12, size=4, group=3)
    history = training.fit(wrapped, batches, recipes.WithLabels.loss, opts, steps, progress=False, **options)
    return wrapped.state_dict(), history


def test_an_interrupted_run_ends_with_the_same_weights(tokenizer, tmp_path):
    whole, _ = run(tokenizer, 12)
    checkpoint = tmp_path / "run.pt"

    class Stop(Exception):
        pass

    def stop(step, model):
        raise Stop

    with pytest.raises(Stop):
        run(tokenizer, 12, checkpoint=checkpoint, every=0, watch=stop, watch_every=7)
    assert checkpoint.exists()
    assert torch.load(checkpoint, weights_only=True)["state"]["step"] == 6      # saved after each step before the seventh
    resumed, _ = run(tokenizer, 12, checkpoint=checkpoint)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    shorter, _ = run(tokenizer, 11)
    assert not all(torch.equal(whole[name], shorter[name]) for name in whole)


def test_the_loss_falls(tokenizer):
    wrapped, opts = tiny(tokenizer)
    batch = recipes.Batches(tokenizer, seed=0, steps=1000, size=8, group=4)(900)
    before = wrapped.loss(batch, share=0)[0].item()
    training.fit(wrapped, lambda step: batch, recipes.WithLabels.loss, opts, 150, progress=False)
    assert wrapped.loss(batch, share=0)[0].item() < before - 1


def test_a_loss_that_is_not_finite_stops_the_run(tokenizer):
    wrapped, opts = tiny(tokenizer)
    with pytest.raises(FloatingPointError, match="learning rate"):
        training.fit(wrapped, lambda step: None, lambda model, batch: (torch.tensor(float("nan")), 1), opts, 3, progress=False)


def test_batches_depend_on_the_step_alone(tokenizer):
    one, two = (recipes.Batches(tokenizer, seed=0, steps=100, size=4, group=3) for _ in range(2))
    one(0), one(50)
    assert all(torch.equal(a, b) for a, b in zip(one(7), two(7)))
    assert not torch.equal(one(7)[0], one(8)[0])


def test_a_part_of_a_training_goes_on_with_the_one_before_and_is_resumed_alone(tokenizer, tmp_path, monkeypatch):
    wrapped, _ = tiny(tokenizer)
    lengths, fit = [], training.fit
    monkeypatch.setattr(recipes.gpt.training, "fit", lambda *args, **options: lengths.append(args[4]) or fit(*args, **options, progress=False))
    monkeypatch.setattr(recipes.gpt, "_watcher", lambda tokenizer: lambda step, model: {})
    monkeypatch.setattr(recipes.gpt, "write_card", lambda *args, **facts: lengths.append(facts))
    monkeypatch.setattr(recipes.gpt, "Batches", lambda *args, **options: recipes.Batches(*args, size=2, group=2, **options))
    shape = {"layers": 1, "heads": 2, "width": 16}
    recipes.gpt._train(tmp_path / "gpt", 0, [(3, 3e-3, 0.02), (2, 2e-3, 0.01)], True, True, tokenizer, shape)
    assert lengths[:2] == [3, 2] and lengths[2]["steps"] == 5
    first = (tmp_path / "gpt" / "model.safetensors").read_bytes()
    (tmp_path / "gpt-checkpoint-2.pt").unlink()
    recipes.gpt._train(tmp_path / "gpt", 0, [(3, 3e-3, 0.02), (2, 2e-3, 0.01)], False, True, tokenizer, shape)
    assert (tmp_path / "gpt" / "model.safetensors").read_bytes() == first
    assert lengths[5]["tokens"] == lengths[2]["tokens"]
    recipes.gpt._train(tmp_path / "gpt", 0, [(3, 3e-3, 0.02)], True, True, tokenizer, shape)
    assert (tmp_path / "gpt" / "model.safetensors").read_bytes() != first


def test_things_move_in_the_later_parts_only(tokenizer, monkeypatch):
    told = []
    monkeypatch.setattr(recipes.gpt.storyworld, "moves", lambda seed, lang: told.append(seed) or recipes.gpt.storyworld.facts(seed, lang))
    for part in (0, 1):
        assert not told
        batches = recipes.Batches(tokenizer, seed=0, steps=1000, size=8, group=8, part=part)
        for step in (0, 300, 900):
            batches(step)
    assert told


def test_orthogonal_moves_singular_values_to_one():
    torch.manual_seed(0)
    for shape in ((3, 20, 20), (2, 12, 30), (2, 30, 12)):
        values = torch.linalg.svdvals(training.orthogonal(torch.randn(shape)))
        assert values.shape == (shape[0], min(shape[1:])) and values.min() > 0.3 and values.max() < 1.4
        assert torch.linalg.svdvals(torch.randn(shape)).max() > 1.4          # the input is far from it


def test_schedule_warms_up_stays_and_falls():
    rates = [training.schedule(step, 1000) for step in range(1000)]
    assert rates[0] < 0.02 and rates[99] == rates[500] == 1 and rates[-1] < 0.02
    assert all(a <= b for a, b in zip(rates[:100], rates[1:100])) and all(a >= b for a, b in zip(rates[600:], rates[601:]))


@pytest.mark.parametrize("lang", words.LANGUAGES)
def test_words_of_the_world_are_tokens(tokenizer, lang):
    """No Chinese token cuts a word; two words share one only where together they are part of a third (笑了 of 笑了笑)."""
    shared = total = 0
    for seed in range(-1, -21, -1):
        told = storyworld.story(seed, lang).text
        ids = tokenizer(told)["input_ids"]
        pieces = [tokenizer.decode([i]) for i in ids]
        assert "".join(pieces) == told and not any("\ufffd" in piece for piece in pieces)
        wanted = storyworld.segment(told) if lang == "zh" else re.findall(r"'s| ?[A-Za-z]+|\s|[^A-Za-z\s]+", told)
        shared, total = shared + len(wanted) - len(pieces), total + len(wanted)
        ends = [set(itertools.accumulate(map(len, cut))) for cut in (pieces, wanted)]
        assert ends[0] <= ends[1], told
    assert 0 <= shared < 0.01 * total


def test_merges_never_join_parts_of_two_characters():
    merges = recipes.learn_merges({"今天": 5, "天气": 5, "今今今": 2, " ball": 3}, 100)
    for left, right in merges:
        joined = left + right
        assert recipes.tokenizer._whole(joined) or len(joined) < recipes.tokenizer._length(joined[0]), (left, right)
    assert ("今".encode(), "天".encode()) in merges
    assert recipes.tokenizer._may_join("今".encode(), b"a") and not recipes.tokenizer._may_join("今".encode()[:2], "天".encode())


def test_document_labels_say_who_the_text_speaks_of_and_what_is_known(tokenizer):
    told = storyworld.story(-5)
    ids, weights, *labels = recipes.document(told, tokenizer)
    assert {len(column) for column in labels} == {len(ids)} == {len(weights)}
    offsets = tokenizer(told.text, return_offsets_mapping=True)["offset_mapping"]
    labels = dict(zip(recipes.gpt.LABELS, labels))
    for mention in told.mentions:
        place = next(i for i, (start, end) in enumerate(offsets) if end == mention.end)
        if mention.form in ("name", "pronoun"):
            assert labels["person"][place] == recipes.gpt.LABELS["person"][mention.entity]
        for name, value in mention.known:
            assert labels[name][place] == recipes.gpt.LABELS[name][value]
    assert any(mention.known for mention in told.mentions)
    assert max(weights) == (10 if told.answers else 5)


def test_the_bundled_model_keeps_what_its_card_says():
    """Re-measure a small part of the card. A model with shuffled output rows must fail the same limits."""
    card = json.loads((BUNDLED / "card.json").read_text(encoding="utf-8"))
    lm = llmtutor.load("story-gpt")
    stories = {lang: [storyworld.story(-seed, lang) for seed in range(2001, 2061)] for lang in words.LANGUAGES}
    for lang in words.LANGUAGES:
        found, said = recipes.measure(lm.model, lm.tokenizer, stories[lang]), card["measured"][lang]
        assert found["ppl"] == pytest.approx(said["ppl"], rel=0.1)
        assert found["answers"] > max(said["answers"] - 0.1, said["answers_last"] + 0.1)
        assert found["pronouns"] > said["pronouns"] - 0.1                              # about 100 pronouns: 0.03 is one standard error
        assert said["pass_at_temperature_0.5_top_p_0.8"] >= 0.9
    with torch.no_grad():
        lm.model.lm_head.weight.copy_(lm.model.lm_head.weight.roll(1, 0))
    assert recipes.measure(lm.model, lm.tokenizer, stories["en"])["ppl"] > 10 * card["measured"]["en"]["ppl"]


@pytest.mark.parametrize("lang", words.LANGUAGES)
def test_sampled_continuations_pass_the_checker(lang):
    lm = llmtutor.load("story-gpt")
    share, judged = recipes.judge(lm.model, lm.tokenizer, lang, temperature=0.5, top_p=0.8)
    assert len(judged) == 40 and share >= 0.85, [j for j in judged if j["problems"]]     # the card's 100 samples: at least 0.9
    hot, _ = recipes.judge(lm.model, lm.tokenizer, lang, temperature=5.0, count=5)
    assert hot < 0.5                                                                     # so the check can fail


def test_the_mini_model_is_smaller_worse_and_speaks_in_the_same_tokens():
    cards = [json.loads((BUNDLED.with_name(name) / "card.json").read_text(encoding="utf-8")) for name in ("story-gpt-mini", "story-gpt")]
    mini, whole = (llmtutor.load(card["name"]) for card in cards)
    assert cards[0]["parameters"] < 0.35 * cards[1]["parameters"] and not cards[0]["labels"]
    assert mini.tokenizer.get_vocab() == whole.tokenizer.get_vocab()
    for lang in words.LANGUAGES:
        stories = [storyworld.story(-seed, lang) for seed in range(2001, 2041)]
        small, large = (recipes.measure(lm.model, lm.tokenizer, stories)["ppl"] for lm in (mini, whole))
        assert small == pytest.approx(cards[0]["measured"][lang]["ppl"], rel=0.1) and large < small < 2 * large


def test_the_classes_of_the_source_text_read_the_bundled_model():
    from transformers import GPT2LMHeadModel, GPT2Tokenizer
    model, plain = GPT2LMHeadModel.from_pretrained(BUNDLED), GPT2Tokenizer.from_pretrained(BUNDLED)
    ids = plain("今天天气真好")["input_ids"]
    assert [plain.decode([i]) for i in ids] == ["今天", "天气", "真", "好"]
    assert model.dtype == torch.float16 and model.config.vocab_size == len(plain)
    lm = llmtutor.load("story-gpt")
    assert all(torch.equal(ours, theirs.float()) for ours, theirs in zip(lm.model.parameters(), model.parameters(), strict=True))


def test_the_command_line_refuses_an_unknown_model(capsys):
    with pytest.raises(SystemExit):
        training.main(["story-gtp"])
    assert "story-gpt" in capsys.readouterr().err


def test_the_card_to_read_says_what_was_measured():
    """The README of the bundled model is made from its numbers: nobody has written into it by hand."""
    numbers = [json.loads((BUNDLED / name).read_text(encoding="utf-8")) for name in ("card.json", "seeds.json") if (BUNDLED / name).exists()]
    assert (BUNDLED / "README.md").read_text(encoding="utf-8") == recipes.gpt._readme(*numbers)


def test_the_spread_over_seeds_stands_in_the_card(tmp_path):
    card = json.loads((BUNDLED / "card.json").read_text(encoding="utf-8"))
    for seed, ppl in ((0, 2.0), (1, 2.25), (2, 1.75)):
        card["seed"], card["measured"]["en"]["ppl"] = seed, ppl
        (tmp_path / str(seed)).mkdir()
        (tmp_path / str(seed) / "card.json").write_text(json.dumps(card), encoding="utf-8")
    recipes.gpt.write_spread(tmp_path / "0", [tmp_path / "1"])
    recipes.gpt.write_spread(tmp_path / "0", [tmp_path / "2"])            # the seed that stands there is kept
    readme = (tmp_path / "0" / "README.md").read_text(encoding="utf-8")
    assert "| perplexity per token / 每词元困惑度 | 2.00 / 2.25 / 1.75 | 0.50 | " in readme and "3 seeds (0, 1, 2;" in readme
    assert [row["seed"] for row in json.loads((tmp_path / "0" / "seeds.json").read_text(encoding="utf-8"))] == [0, 1, 2]
    with pytest.raises(ValueError, match="a seed of its own.*0, 1, 2, 1"):
        recipes.gpt.write_spread(tmp_path / "0", [tmp_path / "1"])
    (tmp_path / "2" / "card.json").write_text(json.dumps(card | {"steps": 10}), encoding="utf-8")
    with pytest.raises(ValueError, match="differs from seed 0 in steps"):
        recipes.gpt.write_spread(tmp_path / "0", [tmp_path / "2"])
    other = json.loads((tmp_path / "0" / "card.json").read_text(encoding="utf-8")) | {"tokens": 5}
    (tmp_path / "0" / "card.json").write_text(json.dumps(other), encoding="utf-8")
    recipes.gpt.write_spread(tmp_path / "0", [tmp_path / "1"])            # another model: the old seeds are no longer its own
    assert [row["seed"] for row in json.loads((tmp_path / "0" / "seeds.json").read_text(encoding="utf-8"))] == [0, 1]
