"""Every architecture that must work: equal to the library's eager attention; and what does not work says so."""

import importlib.util
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import ROOT

from llmtutor.attention import Attention, EncoderDecoderAttention, attend, capture
from llmtutor.attention.architectures import REASONS

_spec = importlib.util.spec_from_file_location("architectures", ROOT / "docs" / "architectures.py")
table = sys.modules["architectures"] = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(table)
REQUIRED = [title for title, row in table.ARCHITECTURES.items() if row.required]
WRITERS = ["GPT-2", "Llama", "Mistral, sliding window", "Gemma 2, soft cap", "LFM2, hybrid", "gpt-oss, learned sink", "T5", "Marian", "BART"]


@pytest.fixture(scope="module")
def built():
    """A random model of each architecture, made when first asked for; one that never stops writing."""
    made, tokenizer = {}, table.make_tokenizer()

    def build(title):
        if title not in made:
            made[title] = table.build(table.ARCHITECTURES[title], tokenizer)
            if made[title].model.can_generate():
                made[title].model.generation_config.eos_token_id = None
        return made[title]

    return build


def difference(lm, title, att):
    return table.largest_difference(table.ARCHITECTURES[title], lm, att)


# --- equal to the library ---


def test_the_twelve_are_there():
    assert REQUIRED == ["GPT-2", "Llama", "Qwen3", "Mistral, sliding window", "Gemma 2, soft cap", "GPT-NeoX", "BERT", "RoBERTa",
                        "ModernBERT", "T5", "Marian", "ViT"]


@pytest.mark.parametrize("title", [*REQUIRED, "BART", "gpt-oss, learned sink", "LFM2, hybrid", "CLIP, text", "CLIP, image", "DeiT"])
def test_equals_eager(built, title):
    row, lm = table.ARCHITECTURES[title], built(title)
    att = table.call(row, lm)
    assert difference(lm, title, att) < 1e-5
    for part in table.parts(att).values():
        # The weights are far from even, so a map that missed the scale or the mask would not pass.
        assert row.reads == "image" or np.abs(part.weights - 1 / len(part.key_tokens)).max() > 0.4
        assert part.check().ok, part.check()


@pytest.mark.parametrize("title", REQUIRED)
def test_wrong_ways_to_compute_it_would_be_noticed(built, monkeypatch, title):
    """The comparison rejects a wrong scale, permuted heads and, where there is a mask, leaving it out."""
    row, lm, right = table.ARCHITECTURES[title], built(title), capture.attention_weights
    masked = []

    def scaled(query, key, mask, scaling, **options):
        return right(query * 0.9, key, mask, scaling, **options)

    def turned(query, key, mask, scaling, **options):
        return right(query, key, mask, scaling, **options).roll(1, 1)

    def unmasked(query, key, mask, scaling, **options):
        masked.append(mask is not None and bool((mask < -1e4).any()))
        return right(query, key, None, scaling, **options)

    monkeypatch.setattr(capture._Page, "_check", lambda *_: None)
    for wrong in (scaled, turned, unmasked):
        monkeypatch.setattr(capture, "attention_weights", wrong)
        large = difference(lm, title, table.call(row, lm)) > 1e-3
        assert large if wrong is not unmasked else large == any(masked), wrong.__name__
    assert any(masked) == (title not in ("BERT", "RoBERTa", "ViT"))


@pytest.mark.parametrize("title", ["T5", "Marian", "ViT", "Llama", "ModernBERT"])
def test_the_output_of_the_model_is_the_same_while_we_look(built, title):
    """Whether a layer is kept (our own sum) or not (the fused kernel), the model computes the same."""
    row, lm = table.ARCHITECTURES[title], built(title)
    ids = torch.tensor([lm.tokenizer(table.TEXT)["input_ids"]])
    inputs = {"pixel_values": torch.tensor(table.image(row))} if row.reads == "image" else {"input_ids": ids}
    inputs |= {"decoder_input_ids": ids[:, :5]} if row.reads == "pair" else {}
    with torch.no_grad():
        expected = lm.model(**inputs).logits
        for layers in (None, [1]):
            with capture.capturing(lm.model, capture.Recorder(layers)):
                torch.testing.assert_close(lm.model(**inputs).logits, expected, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("title", ["T5", "ViT", "GPT-2"])
def test_the_model_is_left_as_it_was_also_after_an_exception(built, monkeypatch, title):
    row, lm = table.ARCHITECTURES[title], built(title)

    def state():
        return ([config._attn_implementation for config in capture.configs(lm.model)], [m.training for m in lm.model.modules()],
                [p.sum().item() for p in lm.model.parameters()], len(lm.model._forward_pre_hooks),
                lm.model.generation_config.to_json_string() if lm.model.can_generate() else None)

    before = state()
    table.call(row, lm)
    if row.reads == "text":
        attend(lm, table.TEXT, generate=2)
    assert state() == before
    monkeypatch.setattr(capture, "attention_weights", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        table.call(row, lm)
    assert state() == before and capture._recorder is None


# --- two stacks ---


def test_the_three_maps_of_a_translator(built, tmp_path):
    lm = built("Marian")
    att = attend(lm, table.TEXT, target=table.TARGET)
    n, m = len(att.encoder), len(att.decoder)
    assert n != m and [part.weights.shape for part in (att.encoder, att.decoder, att.cross)] == [
        (2, 4, n, n), (3, 5, m, m), (3, 5, m, n)]
    assert att.cross.tokens == att.decoder.tokens and att.cross.key_tokens == att.encoder.tokens
    assert (att.encoder.check().future > 0, att.decoder.check().future, att.cross.check().future) == (True, 0, None)
    assert att.info["target"] == table.TARGET and att.info["text"] == table.TEXT
    assert att.decoder.pieces[1].span == (0, 2) and att.decoder.pieces[0].special
    again = EncoderDecoderAttention.load_npz(att.save_npz(tmp_path / "three.npz"))
    np.testing.assert_array_equal(again.cross.weights, att.cross.weights)
    assert (again.cross.key_pieces, again.cross.info) == (att.cross.key_pieces, att.cross.info)
    with pytest.raises(ValueError, match="EncoderDecoderAttention.load_npz"):
        Attention.load_npz(tmp_path / "three.npz")
    words = att.by("words").cross
    np.testing.assert_allclose(words.weights.sum(-1), 1, atol=1e-5)
    assert "gave" in words.tokens and "asked" in words.key_tokens
    assert att.cross.figure(layer=2, head=4).images[0].get_array().shape == (m, n)


def test_layers_that_only_one_stack_has(built):
    lm = built("Marian")
    with pytest.raises(ValueError, match=r"the encoder has no layer \[2\]; it has \[0, 1\]"):
        attend(lm, table.TEXT, target=table.TARGET, layers=[2])
    with pytest.raises(ValueError, match="layers must be numbers from 0 to 2"):
        attend(lm, table.TEXT, target=table.TARGET, layers=[3])
    some = attend(lm, table.TEXT, target=table.TARGET, layers=1, heads=[3, 0])
    assert (some.cross.layers, some.cross.heads) == ([1], [0, 3])


@pytest.mark.parametrize("options, message", [
    ({}, "is an encoder-decoder: give target=.*got neither"), ({"target": "a", "generate": 3}, "got both"),
    ({"target": " "}, "target is empty"), ({"generate": -1}, "0 or more"), ({"generate": 1.5}, "0 or more"),
    ({"generate": 500}, "501 tokens long, and the model can read at most 96")])
def test_what_a_translator_needs(built, options, message):
    with pytest.raises(ValueError, match=message):
        attend(built("Marian"), "Lily", **options)


# --- written text ---


@pytest.mark.parametrize("title", WRITERS)
def test_written_tokens_have_the_rows_that_one_pass_gives(built, title):
    """Stitched over the steps of the cache; and the model writes the same as when nobody looks."""
    lm = built(title)
    att = attend(lm, table.TEXT, generate=7)
    one = getattr(att, "decoder", att)
    ids = torch.tensor([lm.tokenizer(table.TEXT)["input_ids"]])
    alone = lm.model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=7, do_sample=False, num_beams=1, pad_token_id=0) \
        if title != "T5" else None  # the library's own cache fails for a T5 whose stacks differ in length
    assert len(one) == att.prompt_length + 7 and (alone is None or [p.ids[0] for p in one.pieces] == alone[0].tolist())
    assert difference(lm, title, att) < 1e-4  # a cache and one pass round in different ways
    assert one.info["causal"] and one.check().ok
    assert one.info["generated"] if title not in ("T5", "Marian", "BART") else att.prompt_length == 1


def test_a_wrong_place_in_the_stitching_would_be_noticed(built, monkeypatch):
    """With a sliding window a step has fewer keys: put at the start and not at the end they would be wrong."""
    lm, right = built("Mistral, sliding window"), capture._stitch
    monkeypatch.setattr(capture, "_stitch", lambda steps, square: right(
        [steps[0], *(np.pad(s, [(0, 0)] * 3 + [(0, max(0, 12 - s.shape[3]))]) for s in steps[1:])], square))
    assert difference(lm, "Mistral, sliding window", attend(lm, table.TEXT, generate=7)) > 1e-2


def test_models_that_cannot_write(built):
    with pytest.raises(ValueError, match="BertForMaskedLM cannot write text"):
        attend(built("BERT"), table.TEXT, generate=2)
    with pytest.raises(ValueError, match="target= is for encoder-decoder models"):
        attend(built("GPT-2"), table.TEXT, target="a")


# --- images ---


def test_patches_have_names_by_row_and_column(built):
    lm, pixels = built("ViT"), table.image(table.ARCHITECTURES["ViT"])
    att = attend(lm, image=pixels)
    assert att.tokens == ["⟨CLS⟩", "r0c0", "r0c1", "r1c0", "r1c1", "r2c0", "r2c1"]
    assert att.info["grid"] == [3, 2] and len(att.info["sha256"]) == 64 and att.info["text"] is None
    with pytest.raises(ValueError, match="no places in a text"):
        att.by("words")
    changed = pixels.copy()
    changed[:, :, 8:16, 8:16] += 1  # the patch r1c1
    others = [0, 1, 2, 3, 5, 6]  # in the first layer they see the change only in their column 4; the shares of the rest stay
    first, second = (attend(lm, image=one, layers=0).weights[0].astype(float) for one in (pixels, changed))
    rest = [one[:, others][..., others] / one[:, others][..., others].sum(-1, keepdims=True) for one in (first, second)]
    np.testing.assert_allclose(rest[0], rest[1], atol=1e-4)
    assert np.abs(first - second)[:, others, 4].max() > 0.1 and np.abs(first - second)[:, 4].max() > 0.1


def test_pictures_and_arrays(built):
    from PIL import Image

    lm = built("ViT")
    array = np.random.default_rng(1).integers(0, 256, (24, 16, 3), dtype=np.uint8)
    first = attend(lm, image=array).weights
    for same in (Image.fromarray(array), array / 255.0, np.dstack([array, np.full((24, 16), 255, np.uint8)])):
        np.testing.assert_allclose(attend(lm, image=same).weights, first, atol=1e-6)
    assert attend(lm, image=array[:, :, 0]).weights.shape == first.shape
    with pytest.raises(ValueError, match="between 0 and 1"):
        attend(lm, image=array * 1.0)


@pytest.mark.parametrize("title, arguments, options, error, message", [
    ("ViT", ("a cat",), {}, ValueError, "reads images, not text.*image="), ("GPT-2", (), {}, TypeError, "text must be a string"),
    ("GPT-2", (), {"image": np.zeros((4, 4))}, ValueError, "reads text, not images"),
    ("ViT", ("a",), {"image": np.zeros((4, 4))}, TypeError, "not both"),
    ("ViT", (), {"image": np.zeros((4, 4)), "generate": 2}, ValueError, "go with a text"),
    ("ViT", (), {"image": "cat.png"}, ValueError, "PIL.Image.open"), ("ViT", (), {"image": np.zeros((4, 4, 7))}, ValueError, "colour"),
    ("ViT", (), {"image": np.zeros((2, 3, 24, 16))}, ValueError, "reads one image")])
def test_images_that_cannot_be_read(built, title, arguments, options, error, message):
    with pytest.raises(error, match=message):
        attend(built(title), *arguments, **options)


# --- shared key heads, hybrids, sinks, and what does not work ---


def test_shared_key_heads_are_labelled(built):
    assert table.call(table.ARCHITECTURES["Llama"], built("Llama")).key_heads == [0, 0, 1, 1]
    assert attend(built("Llama"), table.TEXT, heads=[1, 2]).key_heads == [0, 1]
    assert attend(built("GPT-2"), table.TEXT).key_heads == [0, 1, 2, 3]


def test_layers_of_a_hybrid_keep_their_numbers_and_a_sink_is_explained(built):
    assert attend(built("LFM2, hybrid"), table.TEXT).layers == [1]
    report = attend(built("gpt-oss, learned sink"), table.TEXT).check()
    assert report.ok and report.rows[0] < 0.9 and "learned sink" in str(report) and "汇" in str(report)


@pytest.mark.parametrize("title", ["DeBERTa v2", "Longformer", "FNet", "BLOOM", "Mamba", "Swin, windows", "Whisper", "LLaVA"])
def test_the_sentence_in_the_table_is_the_one_that_attend_says(built, title):
    written = (ROOT / "docs" / "architectures.md").read_text(encoding="utf-8")
    with pytest.raises(ValueError) as caught:
        table.call(table.ARCHITECTURES[title], built(title))
    english, _, chinese = str(caught.value).partition(" / ")
    assert f"| {english} | {chinese} |" in written and english and chinese


def test_the_table_is_complete_and_every_reason_in_two_languages():
    written = (ROOT / "docs" / "architectures.md").read_text(encoding="utf-8")
    rows = [line for line in written.splitlines() if line.startswith("|")][2:]
    assert [row.split("|")[1].strip() for row in rows] == list(table.ARCHITECTURES)
    for title in REQUIRED:
        assert next(row for row in rows if row.startswith(f"| {title} |")).split("|")[3].strip() == "yes / 是"
    assert all(english.isascii() and not chinese.isascii() for english, chinese in REASONS.values())


def test_a_map_that_is_off_does_not_get_into_the_table(monkeypatch):
    monkeypatch.setattr(table, "largest_difference", lambda *_: 2e-5)
    with pytest.raises(AssertionError, match="GPT-2: off by 2e-05"):
        table.try_one(table.ARCHITECTURES["GPT-2"], table.make_tokenizer())


def test_a_model_without_registered_attention_is_refused_before_any_work():
    bare = SimpleNamespace(config=SimpleNamespace(model_type="new"), _can_set_attn_implementation=lambda: False)
    with pytest.raises(ValueError, match="in its own way"):
        attend(SimpleNamespace(model=bare, tokenizer=None), "a")
