"""story-translator: its batches, its measures (each seen to reject a wrong answer), and the bundled model against its card."""
import copy
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import llmtutor
from llmtutor import storyworld, training
from llmtutor.recipes import translator
from llmtutor.storyworld import pairs, words

BUNDLED = Path(llmtutor.__file__).parent / "bundled" / "story-translator"


@pytest.fixture(scope="module")
def tokenizer():
    return translator.translator_tokenizer(300)


@pytest.fixture(scope="module")
def some():
    return translator.held_out(range(-1, -31, -1), 2)


def tiny(tokenizer):
    torch.manual_seed(0)
    model = translator.new_translator(tokenizer, layers=1, heads=2, width=16)
    model.generation_config.max_length = 12
    return model


def test_the_first_token_names_the_language_and_targets_end(tokenizer):
    batch = translator.encode(tokenizer, [("Tom was sad.", "汤姆很难过。", "zh"), ("莉莉有一个红色的球。", "Lily had a red ball.", "en")])
    assert tokenizer.convert_ids_to_tokens(batch["input_ids"][:, 0].tolist()) == ["<zh>", "<en>"]
    for row, target in zip(batch["labels"], ("汤姆很难过。", "Lily had a red ball.")):
        kept = row[row != translator.IGNORED]
        assert kept[-1] == tokenizer.eos_token_id and tokenizer.decode(kept[:-1]) == target
    assert batch["attention_mask"].sum() == (batch["input_ids"] != tokenizer.pad_token_id).sum() < batch["input_ids"].numel()


def test_batches_depend_on_the_step_alone_and_hold_both_directions(tokenizer):
    one, two = (translator.PairBatches(tokenizer, seed=0, size=16, group=3) for _ in range(2))
    one(0), one(50)
    assert all(torch.equal(a, b) for a, b in zip(one(7).values(), two(7).values()))
    assert one(7)["labels"].shape != one(8)["labels"].shape or not torch.equal(one(7)["labels"], one(8)["labels"])
    first = [int(i) for step in range(12) for i in one(step)["input_ids"][:, 0]]
    to_english = sum(tokenizer.convert_ids_to_tokens([i]) == ["<en>"] for i in first) / len(first)
    assert 0.4 < to_english < 0.6


def test_muon_gets_the_matrices_inside_the_layers_and_adamw_the_rest(tokenizer):
    model = tiny(tokenizer)
    muon, adam = translator.split_optimizers(model)
    inside = [p for group in muon.param_groups for p in group["params"]]
    everything = inside + [p for group in adam.param_groups for p in group["params"]]
    trained = [p for p in model.parameters() if p.requires_grad]
    assert {id(p) for p in everything} == {id(p) for p in trained} and len(everything) == len(trained)
    assert len(inside) == 6 + 10 and model.get_input_embeddings().weight.shape not in [p.shape for p in inside]
    assert len(translator.split_optimizers(model, muon_lr=0)) == 1


def test_the_loss_falls_and_a_run_resumes_with_the_same_weights(tokenizer, tmp_path):
    def run(steps, **options):
        model = tiny(tokenizer)
        training.fit(model, translator.PairBatches(tokenizer, 0, size=8, group=2), translator.translation_loss,
                     translator.split_optimizers(model), steps, progress=False, **options)
        return model

    class Stop(Exception):
        pass

    def stop(step, model):
        raise Stop

    whole = run(8)
    with pytest.raises(Stop):
        run(8, checkpoint=tmp_path / "run.pt", every=0, watch=stop, watch_every=5)
    resumed = run(8, checkpoint=tmp_path / "run.pt")
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters()))
    batch = translator.PairBatches(tokenizer, 0, size=16, group=2)(0)
    before, model = translator.translation_loss(whole, batch)[0].item(), whole
    training.fit(model, lambda step: batch, translator.translation_loss, translator.split_optimizers(model), 60, progress=False)
    assert translator.translation_loss(model, batch)[0].item() < before - 1


def test_the_saved_folder_is_read_by_the_auto_classes_and_generates(tokenizer, tmp_path):
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer
    model = tiny(tokenizer)
    translator.save(model, tokenizer, tmp_path)
    again, its_tokenizer = AutoModelForSeq2SeqLM.from_pretrained(tmp_path, dtype=torch.float32), AutoTokenizer.from_pretrained(tmp_path)
    assert llmtutor.load(tmp_path).info.architecture == "MarianMTModel"
    source = its_tokenizer("<zh>Tom was happy.", return_tensors="pt")
    assert source["input_ids"].tolist() == tokenizer("<zh>Tom was happy.", return_tensors="pt")["input_ids"].tolist()
    written = again.generate(**source)
    assert written[0, 0] == again.config.decoder_start_token_id and written.shape[1] <= 12
    assert its_tokenizer.batch_decode(written, skip_special_tokens=True) == translator.translate(again, its_tokenizer, ["Tom was happy."], "zh")
    assert AutoModelForSeq2SeqLM.from_pretrained(tmp_path, dtype="auto").dtype == torch.float16
    with pytest.raises(ValueError, match="'en' or 'zh'"):
        translator.translate(again, its_tokenizer, ["Tom was happy."], "fr")


def test_exact_match_counts_references_and_nothing_else(monkeypatch, some):
    for target in words.LANGUAGES:
        monkeypatch.setattr(translator, "translate", lambda model, tokenizer, texts, lang: [pair.text(lang) for pair in some])
        assert translator.share(translator.exact(None, None, some, target)) == 1
        monkeypatch.setattr(translator, "translate", lambda model, tokenizer, texts, lang: [pair.text(lang)[:-1] for pair in some])
        assert translator.share(translator.exact(None, None, some, target)) == 0
        monkeypatch.setattr(translator, "translate", lambda model, tokenizer, texts, lang: [pair.text(lang) for pair in some[1:] + some[:1]])
        assert translator.share(translator.exact(None, None, some, target)) < 0.2


class Pointer:
    """A stand-in for a model: head 0 looks at the true counterpart of each word (moved by `off`), head 1 at the first token."""

    config = SimpleNamespace(_attn_implementation="sdpa")

    def __init__(self, tokenizer, some, target, off):
        self.tokenizer, self.some, self.target, self.off = tokenizer, list(some), target, off

    def eval(self):
        return self

    def set_attn_implementation(self, name):
        self.config._attn_implementation = name

    def __call__(self, input_ids, attention_mask, labels, **_):
        maps = torch.zeros(len(input_ids), 2, labels.shape[1], input_ids.shape[1])
        maps[:, 1, :, 0] = 1
        for row in range(len(input_ids)):
            for at, right in translator._truth(self.tokenizer, self.some.pop(0), self.target):
                maps[row, 0, at, (min(right) + self.off) % int(attention_mask[row].sum())] = 1
        return SimpleNamespace(cross_attentions=[maps])


@pytest.mark.parametrize("target", words.LANGUAGES)
def test_alignment_accuracy_is_one_for_the_truth_and_falls_when_it_is_moved(tokenizer, some, target):
    right, wrong = (translator.aligned(Pointer(tokenizer, some, target, off), tokenizer, some, target, size=8) for off in (0, 3))
    assert translator.share(right[0, 0]) == 1 and translator.share(right[0, 1]) == 0
    assert translator.share(wrong[0, 0]) < 0.1 < translator.share(right["diagonal"]) < 0.6
    assert Pointer.config._attn_implementation == "sdpa"


def test_truth_points_at_the_tokens_of_the_counterpart(tokenizer):
    en, zh = "Tom had a red kite.", "汤姆有一只红色的风筝。"
    pair = pairs.Pair(en, zh, tuple(storyworld.check(en).events), (((0, len(en)), (0, len(zh))),))
    source = tokenizer.convert_ids_to_tokens(tokenizer("<zh>" + en)["input_ids"])
    target = [tokenizer.decode([i]) for i in tokenizer(zh)["input_ids"]]
    found = {target[at]: [source[i] for i in sorted(right)] for at, right in translator._truth(tokenizer, pair, "zh")}
    content = translator._truth(tokenizer, pair, "zh", content=True)
    assert [target[at] for at, _ in content] == ["汤姆", "红色", "风筝"]
    assert found["红色"] == ["Ġred"] and found["一"] == ["Ġa"] and found["风筝"] == ["Ġkite"]


def test_the_interval_holds_the_share_and_narrows(some):
    few, many = [(1, 1), (0, 1)] * 10, [(1, 1), (0, 1)] * 300
    for counts in (few, many):
        low, high = translator.interval(counts)
        assert low <= translator.share(counts) <= high
    assert translator.interval(few)[1] - translator.interval(few)[0] > 3 * (translator.interval(many)[1] - translator.interval(many)[0])


def test_the_recipe_writes_model_and_card(tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(translator, "COUNT", 6)
    monkeypatch.setattr(translator, "translator_tokenizer", lambda: tokenizer)
    model = tiny(tokenizer)
    monkeypatch.setattr(translator, "new_translator", lambda *_: copy.deepcopy(model))
    out = tmp_path / "story-translator"
    translator.story_translator(out, steps=2, fresh=True)
    card, readme = json.loads((out / "card.json").read_text(encoding="utf-8")), (out / "README.md").read_text(encoding="utf-8")
    for target in words.LANGUAGES:
        assert card["measured"][target]["single"]["exact"] == 0 and len(card["samples"][f"to {target}"]) == 20
        assert {"head", "accuracy", "interval", "diagonal"} <= set(card["measured"][target]["alignment"])
    assert "No alignment labels" in readme and "训练中没有使用任何词对齐标签" in readme
    before = (out / "model.safetensors").read_bytes()
    translator.story_translator(out, steps=2)                   # goes on from the finished checkpoint: nothing changes
    assert (out / "model.safetensors").read_bytes() == before


def test_the_bundled_model_keeps_what_its_card_says():
    """Re-measure a small part of the card. A model with shuffled embedding rows must fail the same limits."""
    card = json.loads((BUNDLED / "card.json").read_text(encoding="utf-8"))
    lm = llmtutor.load("story-translator")
    single, window = (translator.held_out(range(-50001, -50061, -1), n) for n in (1, 3))
    for target in words.LANGUAGES:
        said = card["measured"][target]
        head, untrained = said["alignment_content"], said["alignment_content_untrained"]
        assert said["single"]["exact"] >= 0.85 and said["windows"]["exact"] >= 0.85 and head["accuracy"] >= 0.85
        assert head["accuracy"] > 0.2 + max(head["diagonal"], untrained["accuracy"])
        assert translator.share(translator.exact(lm.model, lm.tokenizer, single, target)) > said["single"]["exact"] - 0.1
        found = translator.aligned(lm.model, lm.tokenizer, window, target, content=True)[tuple(head["head"])]
        assert translator.share(found) > head["accuracy"] - 0.05
    with torch.no_grad():
        lm.model.get_input_embeddings().weight.copy_(lm.model.get_input_embeddings().weight.roll(1, 0))
        lm.model.generation_config.max_length = 60
    assert translator.share(translator.exact(lm.model, lm.tokenizer, single, "zh")) < 0.2
