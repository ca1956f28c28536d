"""Attention maps: equal to the library's own, lawful, and clear about what cannot be read."""

import copy
import json
import sys
from types import SimpleNamespace
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
import transformers
from test_models import save_tiny
from tokenizers import ByteLevelBPETokenizer

import llmtutor as lt
from llmtutor import models, tokens
from llmtutor.attention import UINT8_BOUND, Attention, attend, attend_many, capture, reading, survey

TEXT = "Lily gave Tom 今天 the red ball because he asked."
# Pairwise different sizes, so that swapped axes show; weights large enough that a wrong scale or mask shows.
SIZES = dict(vocab_size=320, hidden_size=40, num_hidden_layers=3, num_attention_heads=4, intermediate_size=56,
             max_position_embeddings=96, initializer_range=0.5, bos_token_id=0, eos_token_id=0, pad_token_id=0)
FEW_KEYS = SIZES | {"num_key_value_heads": 2}
CONFIGS = {
    "GPT2LMHeadModel": transformers.GPT2Config(
        vocab_size=320, n_embd=40, n_layer=3, n_head=4, n_positions=96, initializer_range=0.5, bos_token_id=0, eos_token_id=0),
    "LlamaForCausalLM": transformers.LlamaConfig(**FEW_KEYS),
    "Qwen3ForCausalLM": transformers.Qwen3Config(**FEW_KEYS, head_dim=14),
    "MistralForCausalLM": transformers.MistralConfig(**FEW_KEYS, sliding_window=5),
    "Gemma2ForCausalLM": transformers.Gemma2Config(**FEW_KEYS, head_dim=14, sliding_window=5),
    "BertForMaskedLM": transformers.BertConfig(**SIZES),
    "RobertaForMaskedLM": transformers.RobertaConfig(**SIZES),
    "AlbertForMaskedLM": transformers.AlbertConfig(**SIZES, embedding_size=24),  # one module, used for every layer
    "Lfm2ForCausalLM": transformers.Lfm2Config(**FEW_KEYS, layer_types=["conv", "full_attention", "conv"]),
}
CAUSAL = [name for name in CONFIGS if name.endswith("CausalLM") or name.startswith("GPT2")]


@pytest.fixture(scope="module")
def tokenizer():
    trained = ByteLevelBPETokenizer()
    trained.train_from_iterator([TEXT] * 5, vocab_size=300, special_tokens=["<|endoftext|>"])
    return transformers.PreTrainedTokenizerFast(tokenizer_object=trained._tokenizer)


@pytest.fixture(scope="module")
def built(tokenizer):
    """A random model of each architecture, made when first asked for."""
    made = {}

    def build(name):
        if name not in made:
            torch.manual_seed(1)
            model = getattr(transformers, name)(CONFIGS[name]).eval()
            made[name] = SimpleNamespace(model=model, tokenizer=tokenizer)
        return made[name]

    return build


def eager(lm, att):
    """The library's own maps, by a second way: its eager attention. Returns layer -> [head, query, key]."""
    before = lm.model.config._attn_implementation
    lm.model.set_attn_implementation("eager")
    ids = torch.tensor([[piece.ids[0] for piece in att.pieces]])
    with torch.no_grad():
        maps = lm.model(ids, output_attentions=True).attentions
    lm.model.set_attn_implementation(before)
    assert len(maps) == len(att.layers)
    return {layer: one[0].numpy() for layer, one in zip(att.layers, maps)}


def largest_difference(lm, att):
    reference = eager(lm, att)
    return max(np.abs(att[layer, head] - reference[layer][head]).max() for layer in att.layers for head in att.heads)


# --- equal to the library ---


@pytest.mark.parametrize("name", CONFIGS)
def test_equals_the_library(built, name):
    lm = built(name)
    att = attend(lm, TEXT)
    assert att.weights.dtype == np.float32
    assert att.weights.shape == (len(att.layers), 4, len(att), len(att))
    assert largest_difference(lm, att) < 1e-5
    # The weights are far from even, so a map that missed the scale or the mask would not pass.
    assert np.abs(att.weights - 1 / len(att)).max() > 0.5


def test_the_output_of_the_model_is_the_same_while_we_look(built):
    """Whether a layer is kept (our own sum) or not (the fused kernel), the model computes the same."""
    for name in CONFIGS:
        lm = built(name)
        ids = torch.tensor([lm.tokenizer(TEXT)["input_ids"]])
        with torch.no_grad():
            expected = lm.model(ids).logits
            for layers in ([1], [0, 1, 2]):
                with capture.capturing(lm.model, capture.Recorder(layers, [0])):
                    found = lm.model(ids).logits
                torch.testing.assert_close(found, expected, atol=2e-4, rtol=1e-4)


def test_gpt_oss_leaves_part_of_each_row_to_nothing(tokenizer):
    torch.manual_seed(1)
    config = transformers.GptOssConfig(**FEW_KEYS, head_dim=14, num_local_experts=2, num_experts_per_tok=1,
                                       rope_parameters={"rope_type": "default", "rope_theta": 10000.0})
    lm = SimpleNamespace(model=transformers.GptOssForCausalLM(config).eval(), tokenizer=tokenizer)
    att = attend(lm, TEXT)
    assert largest_difference(lm, att) < 1e-5
    assert att.weights.sum(-1).min() < 0.9 and att.weights.sum(-1).max() < 1 + 1e-5


# --- laws ---


@pytest.mark.parametrize("name", CONFIGS)
def test_rows_sum_to_one_and_the_future_is_exactly_zero(built, name):
    weights = attend(built(name), TEXT).weights
    np.testing.assert_allclose(weights.sum(-1), 1, atol=1e-5)
    future = np.triu(np.ones(weights.shape[2:], bool), 1)
    assert (weights[:, :, future] == 0).all() == (name in CAUSAL)


@pytest.mark.parametrize("name", ["GPT2LMHeadModel", "LlamaForCausalLM"])
def test_a_later_token_changes_no_earlier_row(built, name):
    first, second = (attend(built(name), TEXT + end) for end in (" Tom", " Lily gave"))
    n = len(attend(built(name), TEXT))
    np.testing.assert_allclose(first.weights[:, :, :n, :n], second.weights[:, :, :n, :n], atol=1e-6)
    assert first.tokens[n:] != second.tokens[n:]


def test_in_an_encoder_a_later_token_does_change_earlier_rows(built):
    first, second = (attend(built("BertForMaskedLM"), TEXT + end).weights for end in (" Tom", " gave"))
    assert np.abs(first[:, :, 0] - second[:, :, 0]).max() > 1e-3


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("name", ["GPT2LMHeadModel", "BertForMaskedLM"])
def test_the_model_is_left_as_it_was(built, monkeypatch, name, fails):
    lm = built(name)
    parts = list(lm.model.modules())
    lm.model.set_attn_implementation("eager")
    for number, part in enumerate(parts):
        part.training = number % 2 == 0  # a mixture, as when some layers are frozen
    before = state(lm.model)
    if fails:
        monkeypatch.setattr(capture, "attention_weights", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            attend(lm, TEXT)
    else:
        attend(lm, TEXT)
    assert state(lm.model) == before
    assert capture._recorder is None and torch.is_grad_enabled()
    lm.model.set_attn_implementation("sdpa")
    lm.model.eval()


def state(model):
    return ([config._attn_implementation for config in capture.configs(model)], [m.training for m in model.modules()],
            [(p.requires_grad, p.grad is None, p.sum().item()) for p in model.parameters()])


def test_dropout_is_off_while_we_look(built):
    lm = built("GPT2LMHeadModel")
    lm.model.train()
    first, second = attend(lm, TEXT), attend(lm, TEXT)
    lm.model.eval()
    np.testing.assert_array_equal(first.weights, second.weights)


# --- choosing and storing ---


@pytest.mark.parametrize("name", ["GPT2LMHeadModel", "Qwen3ForCausalLM", "Gemma2ForCausalLM"])
def test_chosen_layers_and_heads(built, name):
    lm = built(name)
    everything, some = attend(lm, TEXT), attend(lm, TEXT, layers=[2, 0], heads=3)
    assert (some.layers, some.heads) == ([0, 2], [3])
    assert some.weights.shape[:2] == (2, 1)
    np.testing.assert_allclose(some[2, 3], everything[2, 3], atol=1e-5)
    with pytest.raises(IndexError, match=r"no layer 1 here; there are \[0, 2\]"):
        some[1, 3]


def test_layer_numbers_are_true_where_only_some_layers_have_attention(built):
    lm = built("Lfm2ForCausalLM")
    assert attend(lm, TEXT).layers == [1]
    with pytest.raises(ValueError, match=r"no attention in layer \[0\].*hybrid.*here \[1\]"):
        attend(lm, TEXT, layers=[0, 1])


def test_a_module_used_again_counts_as_the_next_layer():
    recorder, shared, bare = capture.Recorder([0], [0]), SimpleNamespace(layer_idx=0), SimpleNamespace()
    assert [recorder.place(module)[1] for module in (shared, shared, shared, bare)] == [0, 1, 2, 3]
    recorder.begin()
    assert recorder.place(shared) == ("self", 0)


def test_one_byte_a_weight(built):
    lm = built("GPT2LMHeadModel")
    exact, small = attend(lm, TEXT), attend(lm, TEXT, store="uint8")
    assert small.stored.dtype == np.uint8 and small.weights.dtype == np.float32
    assert np.abs(small.weights - exact.weights).max() <= UINT8_BOUND
    assert (small.weights[exact.weights == 0] == 0).all()
    np.testing.assert_array_equal(small[1, 2], small.weights[1, 2])
    # An even row over 1,000 tokens survives; on a linear scale (255 * w) it would be all zeros.
    even = np.full((1, 1, 1, 1000), 1 / 1000)
    assert (capture.to_bytes(even) > 0).all() and not np.rint(255 * even).any()


def test_the_stated_bound_holds_everywhere_and_is_reached():
    weights = np.linspace(0, 1, 200_001, dtype=np.float32)
    error = np.abs(capture.from_bytes(capture.to_bytes(weights)) - weights).max()
    assert 0.98 * UINT8_BOUND < error <= UINT8_BOUND


def test_two_texts_for_an_encoder(built):
    lm = built("BertForMaskedLM")
    att = attend(lm, "Lily gave", pair="Tom asked")
    assert {piece.sequence for piece in att.pieces} == {0, 1}
    assert att.info["pair"] == "Tom asked"


def test_the_whole_way_from_a_folder(tmp_path):
    lm = lt.load(save_tiny(tmp_path / "tiny"))
    att = lt.attend(lm, "Lily 今天")
    assert att.tokens == [piece.text for piece in att.pieces] and "今" in att.tokens
    assert att.info["text"] == "Lily 今天" and set(att.info["versions"]) == {"llmtutor", "torch", "transformers"}
    json.dumps(att.info)


def test_bundled_models_can_be_read():
    assert models.bundled(), "llmtutor/bundled holds no model"
    for name in models.bundled():
        lm = lt.load(name)
        target = "今天天气真好。" if lm.model.config.is_encoder_decoder else None
        whole = lt.attend(lm, "The weather is nice today. 今天天气真好。", target=target)
        for att in (whole.encoder, whole.decoder, whole.cross) if target else (whole,):
            np.testing.assert_allclose(att.weights.sum(-1), 1, atol=1e-5)
            assert repr(att).startswith(f"Attention({name!r}, {len(att.layers)} layers")


# --- the Attention object ---


def maps(*shape):
    return np.random.default_rng(0).dirichlet(np.ones(shape[-1]), shape[:-1]).astype(np.float32)


def test_from_arrays_takes_arrays_tensors_and_lists():
    weights = maps(2, 3, 5, 5)
    for given in (weights, torch.tensor(weights, requires_grad=True), list(weights), list(torch.tensor(weights))):
        att = Attention.from_arrays(given, "abcde")
        np.testing.assert_array_equal(att.weights, weights)
        assert (att.tokens, att.layers, att.heads) == (list("abcde"), [0, 1], [0, 1, 2])
    assert repr(att) == "Attention(2 layers x 3 heads, 5 tokens)" and len(att) == 5


def test_true_numbers_of_layers_and_heads():
    weights = maps(2, 3, 5, 5)
    att = Attention.from_arrays(weights, "abcde", layers=[4, 9], heads=[1, 2, 7])
    np.testing.assert_array_equal(att[9, 7], weights[1, 2])


@pytest.mark.parametrize("shape, tokens, options, message", [
    ((3, 5, 5), "abcde", {}, r"must have 4 axes \(layer, head, query, key\); got \(3, 5, 5\). Did you drop the layer axis\?"),
    ((5, 5), "abcde", {}, r"weights\[None, None\]"), ((2, 1, 3, 5, 5), "abcde", {}, "batch axis"),
    ((2, 3, 5, 4), "abcd", {}, "as many queries as keys"), ((2, 0, 5, 5), "abcde", {}, "at least one"),
    ((2, 3, 5, 5), "abc", {}, "for 5 tokens.*got 3 tokens"), ((2, 3, 5, 5), "abcde", {"layers": [1]}, "name each of the 2 layers"),
    ((2, 3, 5, 5), "abcde", {"heads": [1, 1, 2]}, "name each of the 3 heads")])
def test_shapes_that_do_not_fit(shape, tokens, options, message):
    with pytest.raises(ValueError, match=message):
        Attention.from_arrays(np.zeros(shape), tokens, **options)


def test_arrays_that_are_no_numbers():
    with pytest.raises(ValueError, match="must be numbers"):
        Attention.from_arrays(np.full((1, 1, 2, 2), "x"), "ab")
    with pytest.raises(ValueError, match="same shape"):
        Attention.from_arrays([np.zeros((1, 2, 2)), np.zeros((1, 3, 3))], "ab")


def test_figures():
    att = Attention.from_arrays(maps(2, 3, 5, 5), ["Lily", "␣今", "今²⁄₃", "</script>", "$x$"], layers=[4, 9])
    one = att.figure(layer=9, head=2)
    np.testing.assert_allclose(one.images[0].get_array(), att[9, 2])
    assert one.get_title() == "L9 H2"
    assert att.figure().shape == (2, 3) and att.figure(layer=9).shape == (1, 3) and att.figure(head=1).shape == (2, 1)
    np.testing.assert_allclose(att.figure(layer=9)[0, 1].images[0].get_array(), att[9, 1])


def test_save_and_open(tmp_path):
    att = Attention.from_arrays(maps(2, 3, 5, 5), ["Lily", "␣今", "今²⁄₃", "</script>", "$x$"], layers=[4, 9], info={"text": "今"})
    again = Attention.open(att.save(tmp_path / "maps.npz"))
    np.testing.assert_array_equal(again.weights, att.weights)
    assert (again.tokens, again.layers, again.heads, again.info) == (att.tokens, [4, 9], [0, 1, 2], {"text": "今"})
    assert att.save(tmp_path / "map.png", layer=4, head=0).read_bytes().startswith(b"\x89PNG")
    drawn = att.save(tmp_path / "map.svg").read_text(encoding="utf-8")
    assert "<svg" in drawn and "</script>" not in drawn


def test_save_as_something_else(tmp_path):
    att = Attention.from_arrays(maps(1, 1, 2, 2), "ab")
    with pytest.raises(ValueError, match="must end in .npz, .png"):
        att.save(tmp_path / "map.jpeg2")
    assert list(tmp_path.iterdir()) == []
    att.save(tmp_path / "map.html")
    assert (tmp_path / "map.html").read_text(encoding="utf-8").startswith("<!doctype html>")


def test_getting_a_map_in_a_wrong_way():
    att = Attention.from_arrays(maps(1, 1, 2, 2), "ab")
    with pytest.raises(TypeError, match=r"att\[layer, head\]"):
        att[0]
    with pytest.raises(IndexError, match="no head -1"):
        att[0, -1]


# --- bad input ---


@pytest.mark.parametrize("text, options, error, message", [
    ("", {}, ValueError, "text is empty.*文本为空"), (" \n\t", {}, ValueError, "only spaces"), ("a", {"pair": " "}, ValueError, "pair is empty"),
    (None, {}, TypeError, "must be a string.*NoneType"), (b"abc", {}, TypeError, r"decode\('utf-8'\)"), (["a", "b"], {}, TypeError, "got list. That is a batch of 2; give one text, or use attend_many"),
    ("\udc80", {}, ValueError, "half a character"), ("Tom " * 120, {}, ValueError, "tokens long.*at most 96.*shorten.*缩短"),
    ("Tom " * 100_000, {}, ValueError, r"\d\d\d,\d\d\d tokens long"),
    ("a", {"layers": [3]}, ValueError, "layers must be numbers from 0 to 2"), ("a", {"layers": []}, ValueError, "layers must be"),
    ("a", {"heads": -1}, ValueError, "heads must be numbers from 0 to 3"), ("a", {"store": "int4"}, ValueError, "'float32' or 'uint8'"),
    ("a", {"target": "b"}, ValueError, "target= is for encoder-decoder"), ("a", {"image": object()}, TypeError, "not both"),
    ("a", {"generate": -5}, ValueError, "0 or more")])
def test_bad_input(built, text, options, error, message):
    with pytest.raises(error, match=message):
        attend(built("GPT2LMHeadModel"), text, **options)


@pytest.mark.parametrize("text", ["a\x00b", "\u202e</script>\u0301", "שלום", "👩‍🏫", "\ufffe"])
def test_strange_texts_are_read(built, text):
    att = attend(built("GPT2LMHeadModel"), text)
    assert all(token.isprintable() or "\u200d" in token for token in att.tokens)


def test_a_tokenizer_written_in_python_that_tells_no_places(built):
    from test_tokens import Plain

    lm = SimpleNamespace(model=built("GPT2LMHeadModel").model, tokenizer=Plain(["▁the", "▁red", "▁ba", "ll"]))
    lm.tokenizer.words = ["</s>", "<unk>", "▁the", "▁red", "▁ball"]
    att = attend(lm, "the red 龘 ball")
    assert len(att) == 5 and [piece.span for piece in att.pieces][:4] == [(0, 3), (4, 7), (8, 9), (10, 14)]
    assert att.by("words").tokens[:2] == ["the", "red"] and att.check().ok


# --- large maps are computed in blocks ---


@pytest.mark.parametrize("name", ["GPT2LMHeadModel", "MistralForCausalLM", "Gemma2ForCausalLM", "BertForMaskedLM"])
@pytest.mark.parametrize("options", [{}, {"heads": [1, 3], "layers": [0, 2]}, {"store": "uint8"}])
def test_blocks_change_nothing(built, monkeypatch, name, options):
    """Cut into blocks of one head and three queries, of which the last is shorter; the maps and what the model makes of them stay."""
    lm = built(name)
    whole, cuts = attend(lm, TEXT, **options), []
    right = capture._blocks
    monkeypatch.setattr(capture, "ROWS", 3)
    monkeypatch.setattr(capture, "CELLS", 3 * len(whole))
    monkeypatch.setattr(capture, "_blocks", lambda shape: cuts.append(list(right(shape))) or cuts[-1])
    cut = attend(lm, TEXT, **options)
    assert len(cuts[0]) == 4 * -(-len(whole) // 3) and cuts[0][0] == (slice(0, 1), slice(0, 3))
    np.testing.assert_allclose(cut.weights, whole.weights, atol=UINT8_BOUND if options.get("store") else 1e-5)
    monkeypatch.setattr(capture.Sight, "reach", lambda self, rows: max(1, rows.stop - 1))  # a key too few
    assert np.abs(attend(lm, TEXT, **options).weights - whole.weights).max() > 1e-2


def test_what_a_mask_lets_be_seen():
    low = torch.finfo(torch.float32).min
    causal = torch.full((1, 1, 4, 4), low).triu(1)
    sight = capture.Sight(causal, 4, 4)
    assert sight.causal and sight.only_causal and sight.dead is None and [sight.reach(slice(n, n + 1)) for n in range(4)] == [1, 2, 3, 4]
    padded = causal.clone()
    padded[..., 0] = low
    sight = capture.Sight(padded, 4, 4)
    assert sight.causal and not sight.only_causal and sight.dead[0, 0].tolist() == [True, False, False, False] and sight.reach(slice(1, 2)) == 4
    biased = causal.clone()
    biased[..., 2, 1] = -0.5
    assert capture.Sight(biased, 4, 4).causal and not capture.Sight(biased, 4, 4).only_causal
    window = causal.clone()
    window[..., 3, 0] = low
    assert capture.Sight(window, 4, 4).causal and not capture.Sight(window, 4, 4).only_causal
    for mask in (None, torch.zeros(1, 1, 4, 4)):
        assert not capture.Sight(mask, 4, 4).causal and capture.Sight(mask, 4, 4).reach(slice(0, 1)) == 4


def test_maps_of_all_layers_lie_side_by_side(built):
    """So nothing is copied in the end; where a layer has no map the others are put together."""
    att = attend(built("GPT2LMHeadModel"), TEXT, store="uint8")
    assert att.stored.base is not None and att.stored.flags.c_contiguous and att.stored.base.nbytes == att.stored.nbytes
    assert attend(built("Lfm2ForCausalLM"), TEXT).weights.shape[0] == 1


@pytest.mark.parametrize("damage, message", [
    (lambda w: w * 0.9, "rows must sum to 1; got sums from 0.9"), (lambda w: w.roll(1, -1), "a masked token got attention"),
    (lambda w: w * float("nan"), "not a number")])
def test_wrong_maps_are_not_kept(built, monkeypatch, damage, message):
    right = capture.attention_weights
    monkeypatch.setattr(capture, "attention_weights", lambda *a, **k: damage(right(*a, **k)))
    with pytest.raises(ValueError, match=message):
        attend(built("GPT2LMHeadModel"), TEXT)


def test_maps_that_would_fill_the_memory(built, monkeypatch):
    monkeypatch.setattr(reading, "MAX_BYTES", 1000)
    with pytest.raises(ValueError, match="choose some with layers=.*uint8"):
        attend(built("GPT2LMHeadModel"), TEXT)


def test_models_that_cannot_be_read(built, tokenizer):
    with pytest.raises(TypeError, match="what llmtutor.load returns"):
        attend("story-gpt", TEXT)
    small = dict(vocab_size=320, d_model=16, d_ff=16, d_kv=8, num_layers=1, num_heads=2)
    t5 = SimpleNamespace(model=transformers.T5ForConditionalGeneration(transformers.T5Config(**small)), tokenizer=tokenizer)
    with pytest.raises(ValueError, match="encoder-decoder: give target="):
        attend(t5, TEXT)
    bloom = transformers.BloomConfig(vocab_size=320, hidden_size=16, n_layer=1, n_head=2)
    with pytest.raises(ValueError, match="in its own way"):
        attend(SimpleNamespace(model=transformers.BloomForCausalLM(bloom), tokenizer=tokenizer), TEXT)


def test_a_tokenizer_of_another_model(built):
    foreign = ByteLevelBPETokenizer()
    foreign.train_from_iterator([" ".join(f"{n}{n + 1}" for n in range(10, 90))] * 5, vocab_size=330)
    lm = SimpleNamespace(model=built("GPT2LMHeadModel").model,
                         tokenizer=transformers.PreTrainedTokenizerFast(tokenizer_object=foreign._tokenizer))
    assert foreign.get_vocab_size() == 330
    with pytest.raises(ValueError, match="made token 329.*knows only 320"):
        attend(lm, foreign.decode([foreign.get_vocab_size() - 1]))


def test_a_model_with_broken_weights(built, tokenizer):
    model = transformers.GPT2LMHeadModel(CONFIGS["GPT2LMHeadModel"])
    model.transformer.h[1].attn.c_attn.weight.data[0, 0] = float("nan")
    with pytest.raises(ValueError, match="layer 1: attention is not a number.*NaN.*named_parameters.*权重"):
        attend(SimpleNamespace(model=model, tokenizer=tokenizer), TEXT)
    with pytest.raises(ValueError, match="layer 1: attention is not a number"):  # the fused kernel makes ordinary numbers of it
        attend(SimpleNamespace(model=model, tokenizer=tokenizer), TEXT, layers=[2])


# --- words, differences, checks, exports ---


def test_words_sum_over_keys_and_average_over_queries(built):
    lm = built("GPT2LMHeadModel")
    text = "Lily asked 龘"
    att = attend(lm, text)
    words = att.by("words")
    groups = tokens.words(att.pieces, text)
    assert words.tokens == [group.text for group in groups] and len(words) < len(att)
    for q, row in enumerate(groups):
        for k, column in enumerate(groups):
            expected = att.weights[:, :, list(row.indices)].mean(2)[..., list(column.indices)].sum(-1)
            np.testing.assert_allclose(words.weights[:, :, q, k], expected, atol=1e-6)
    np.testing.assert_allclose(words.weights.sum(-1), 1, atol=1e-5)
    assert "龘" in att.by("characters").tokens and words.by("words").tokens == words.tokens
    assert words.info["unit"] == "words" and words.info["text"] == text
    with pytest.raises(ValueError, match="'words' or 'characters'; got 'sentences'"):
        att.by("sentences")
    with pytest.raises(ValueError, match="attend instead of from_arrays"):
        Attention.from_arrays(maps(1, 1, 2, 2), "ab").by("words")


def test_words_of_a_pair_and_of_written_text(built):
    both = attend(built("BertForMaskedLM"), "Lily gave", pair="Tom asked").by("words")
    assert {piece.sequence for piece in both.pieces} == {0, 1} and "Tom" in both.tokens
    lm = built("GPT2LMHeadModel")
    written = attend(lm, "Lily gave", generate=3)
    words = written.by("words")
    assert 0 < words.prompt_length <= written.prompt_length and sum(len(p.ids) for p in words.pieces) == len(written)


def test_difference_on_aligned_tokens(built):
    lm = built("GPT2LMHeadModel")
    he, she = attend(lm, "Lily gave Tom the ball because he"), attend(lm, "Lily gave Tom the ball because asked")
    same = he.diff(he)
    assert not same.weights.any() and same.check().ok and "difference" in str(same.check())
    n = len(he.by("words"))
    change = he.by("words").diff(she.by("words"))
    assert change.tokens[-1] == "he→asked" and len(change) == n
    np.testing.assert_allclose(change.weights, he.by("words").weights - she.by("words").weights)
    np.testing.assert_allclose(change.weights[0, :, :-1], 0, atol=1e-6)
    assert np.abs(change.weights[:, :, -1]).max() > 1e-3
    assert [about["text"] for about in change.info["difference_of"]] == [he.info["text"], she.info["text"]]
    longer = he.diff(attend(lm, "Then Lily gave Tom the ball because he"))
    assert longer.tokens[-1] == he.tokens[-1] and longer.info["left_out"]
    other = attend(built("BertForMaskedLM"), "Lily gave Tom the ball because he", layers=[1, 2])
    assert he.diff(other).layers == [1, 2]


def test_differences_that_make_no_sense():
    one, two = Attention.from_arrays(maps(1, 1, 2, 2), "ab"), Attention.from_arrays(maps(1, 1, 3, 3), "xyz")
    with pytest.raises(ValueError, match="no token in common"):
        one.diff(two)
    with pytest.raises(ValueError, match="no layer or no head in common"):
        one.diff(Attention.from_arrays(maps(1, 1, 2, 2), "ab", layers=[3]))
    with pytest.raises(ValueError, match="cross-attention and the other is not"):
        one.diff(Attention.from_arrays(maps(1, 1, 2, 3), "ab", key_tokens="abc"))


def test_a_check_says_what_is_well(built):
    report = attend(built("GPT2LMHeadModel"), TEXT).check()
    assert report.ok and report.future == 0 and report.padding is None and "sum to 1" in str(report) and "因果" in str(report)
    both = attend(built("BertForMaskedLM"), TEXT).check()
    assert both.ok and both.future > 0.1 and "双向" in str(both)
    small = attend(built("GPT2LMHeadModel"), TEXT, store="uint8").check()
    assert small.ok and "one byte" in str(small)
    sink = np.zeros((1, 1, 4, 4), np.float32)
    sink[..., 0] = 1
    assert Attention.from_arrays(sink, "abcd").check().sink_share == 1


@pytest.mark.parametrize("wrong, message", [
    (lambda w: w * 0.9, "rows must sum to 1"), (lambda w: w.swapaxes(-1, -2), "axes turned"), (lambda w: np.log(w + 0.1), "before the softmax"),
    (lambda w: np.where(np.eye(4, dtype=bool), np.nan, w), "NaN")])
def test_a_check_notices(wrong, message):
    right = maps(2, 3, 4, 4)
    assert Attention.from_arrays(right, "abcd").check().ok
    report = Attention.from_arrays(wrong(right), "abcd").check()
    assert not report.ok and message in str(report) and "问题" in str(report)


def test_a_check_notices_the_future_and_padding():
    ahead = Attention.from_arrays(maps(1, 1, 4, 4), "abcd", info={"causal": True}).check()
    assert "to a later one" in ahead.problems[0]
    leaking = Attention.from_arrays(maps(1, 1, 4, 4), "abcd").check([1, 1, 1, 0])
    assert any("padding gets attention" in problem for problem in leaking.problems)
    clean = np.zeros((1, 1, 4, 4), np.float32)
    clean[..., :3] = maps(1, 1, 4, 3)
    assert Attention.from_arrays(clean, "abcd").check([1, 1, 1, 0]).ok
    with pytest.raises(ValueError, match="one entry for each of the 4"):
        ahead_of = Attention.from_arrays(clean, "abcd")
        ahead_of.check([1, 1])


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", ["GPT2LMHeadModel", "LlamaForCausalLM", "MistralForCausalLM", "BertForMaskedLM", "RobertaForMaskedLM"])
def test_padding_changes_nothing(built, name, side):
    lm = built(name)
    texts = ["Lily gave Tom", TEXT, "the red ball because"]
    encodings = [tokens.encode(lm.tokenizer, text) for text in texts]
    layers, batch = survey.read_batch(lm, encodings, None, None, side)
    assert layers == [0, 1, 2]
    for text, found in zip(texts, batch, strict=True):
        np.testing.assert_allclose(found, attend(lm, text).weights, atol=2e-5)


def test_padding_that_is_not_masked_would_be_noticed(built, monkeypatch):
    lm, right = built("GPT2LMHeadModel"), reading.inputs_of
    encodings = [tokens.encode(lm.tokenizer, text) for text in ("Lily gave Tom", TEXT)]
    expected = attend(lm, "Lily gave Tom").weights

    def unmasked(*arguments):
        inputs = right(*arguments)
        return inputs | {"attention_mask": torch.ones_like(inputs["attention_mask"])}

    monkeypatch.setattr(reading, "inputs_of", unmasked)
    _, batch = survey.read_batch(lm, encodings, None, None, "left")
    assert np.abs(batch[0] - expected).max() > 1e-2


def test_maps_from_a_padded_batch_of_ones_own():
    real = maps(2, 3, 3, 3)
    padded = np.zeros((2, 3, 5, 5), np.float32)
    padded[:, :, 2:, 2:] = real
    padded[:, :, :2] = 0.2  # left padding: the rows of the padding are even
    att = Attention.from_arrays(padded, ["-", "-", "a", "b", "c"], attention_mask=[0, 0, 1, 1, 1])
    np.testing.assert_array_equal(att.weights, real)
    assert att.tokens == ["a", "b", "c"]
    with pytest.raises(ValueError, match="tokens look at padding.*attention_mask handed to the model"):
        Attention.from_arrays(maps(1, 1, 3, 3), "abc", attention_mask=[0, 1, 1])
    with pytest.raises(ValueError, match="one entry for each of the 3"):
        Attention.from_arrays(maps(1, 1, 3, 3), "abc", attention_mask=[1, 1])


def test_records_and_a_frame(built, monkeypatch):
    att = attend(built("GPT2LMHeadModel"), "Lily gave", layers=2, heads=[1, 3])
    rows = att.records()
    assert len(rows) == att.weights.size
    assert all(att[row["layer"], row["head"]][row["query"], row["key"]] == np.float32(row["weight"]) for row in rows)
    assert rows[-1]["query_token"] == att.tokens[-1]
    assert {row["weight"] >= 0.5 for row in att.records(0.5)} == {True}
    monkeypatch.setitem(sys.modules, "pandas", None)  # as if it were not installed
    with pytest.raises(ImportError, match="pip install pandas.*att.records"):
        att.to_frame()


def test_a_frame_of_pandas(built):
    import pandas

    att = attend(built("GPT2LMHeadModel"), "Lily gave 今", layers=2, heads=[1, 3])
    frame = att.to_frame()
    assert isinstance(frame, pandas.DataFrame) and frame.to_dict("records") == att.records()
    assert frame.attrs["llmtutor"]["text"] == "Lily gave 今" and frame.attrs["llmtutor"]["model"]
    sums = frame.groupby(["layer", "head", "query"])["weight"].sum()
    assert len(sums) == 2 * len(att) and np.allclose(sums, 1, atol=1e-5)
    assert not np.allclose(frame.groupby(["layer", "head", "key"])["weight"].sum(), 1, atol=1e-2), "rows, not columns, sum to 1"
    nothing = att.to_frame(minimum=2)
    assert len(nothing) == 0 and list(nothing.columns) == list(frame.columns)


def test_every_export_records_where_it_comes_from(built, tmp_path):
    from PIL import Image

    att = attend(built("GPT2LMHeadModel"), "Lily 今 <b>", layers=0, heads=0)
    wanted = {"model", "revision", "versions", "dtype", "text"}
    assert wanted <= set(att.info)
    again = Attention.load_npz(att.save(tmp_path / "a.npz"))
    assert (again.info, again.pieces) == (att.info, att.pieces)
    np.testing.assert_array_equal(again.by("words").weights, att.by("words").weights)
    png = json.loads(Image.open(att.save(tmp_path / "a.png", layer=0, head=0)).text["Description"])
    svg = ElementTree.parse(att.save(tmp_path / "a.svg", layer=0, head=0)).getroot()
    written = json.loads(svg.find("{http://www.w3.org/2000/svg}desc").text)
    assert png == written == att.info
    assert b"Lily" in att.save(tmp_path / "a.pdf", layer=0, head=0).read_bytes()


# --- many texts ---


def test_statistics_of_every_head(built):
    lm = built("LlamaForCausalLM")
    texts = [TEXT, "Lily gave Tom", "the red ball because", "he asked", "Tom 今天"]
    found = attend_many(lm, (text for text in texts), batch_size=2, progress=False)
    each = {name: [] for name in found.mean}
    for text in texts:
        weights = attend(lm, text).weights
        n = weights.shape[-1]
        each["first"].append(weights[:, :, 1:, 0].mean(-1))
        each["previous"].append(np.stack([weights[:, :, i, i - 1] for i in range(1, n)]).mean(0))
        each["self"].append(np.stack([weights[:, :, i, i] for i in range(n)]).mean(0))
        each["largest"].append(weights.max(-1).mean(-1))
        each["distance"].append(sum(weights[:, :, q, k] * abs(q - k) for q in range(n) for k in range(n)) / n)
        each["entropy"].append(-(weights * np.log2(np.maximum(weights, 1e-30))).sum(-1).mean(-1))
    for name, values in each.items():
        values = np.array(values)
        np.testing.assert_allclose(found.mean[name], values.mean(0), atol=2e-4, err_msg=name)
        half = 2.776 * values.std(0, ddof=1) / 5**0.5  # t with 4 degrees of freedom
        np.testing.assert_allclose(found.high[name] - found.mean[name], half, atol=5e-4, rtol=0.01, err_msg=name)
    assert found.n_texts == 5 and len(found.records()) == 3 * 4 * 6 and found.info["n_texts"] == 5
    layer, head, value = found.top("previous", 1)[0]
    assert value == found.mean["previous"].max() == found.mean["previous"][layer, head]
    again = attend_many(lm, texts, layers=[1], heads=[2], batch_size=3, progress=False)
    np.testing.assert_allclose(again.mean["first"][0, 0], found.mean["first"][1, 2], atol=1e-5)
    assert again.info["texts_sha256"] == found.info["texts_sha256"]
    assert np.isnan(attend_many(lm, [TEXT], progress=False).low["first"]).all()


def test_the_confidence_interval_covers_what_it_claims():
    chance, covered = np.random.default_rng(0), []
    for _ in range(2000):
        running = survey._Running()
        for value in chance.normal(3.0, 2.0, 8):
            running.add(np.array([value]))
        covered.append(abs(running.mean[0] - 3) <= running.half_width(0.95)[0])
    assert 0.935 < np.mean(covered) < 0.965  # with 1.96 in place of Student's 2.36 it is about 0.91


@pytest.mark.parametrize("texts, options, error, message", [
    ("one text", {}, TypeError, "for one text use attend"), ([], {}, ValueError, "texts is empty"),
    (["Lily gave", None], {}, TypeError, r"texts\[1\]: text must be a string"), (["Lily gave", ["a"]], {}, TypeError, r"texts\[1\]"),
    (["Lily gave", "a"], {}, ValueError, r"texts\[1\] is a single token"), (["Tom " * 120], {}, ValueError, r"texts\[0\]: .*at most 96"),
    (["Lily gave"], {"confidence": 95}, ValueError, "between 0 and 1"), (["Lily gave"], {"heads": 9}, ValueError, "from 0 to 3")])
def test_texts_that_cannot_be_measured(built, texts, options, error, message):
    with pytest.raises(error, match=message):
        attend_many(built("GPT2LMHeadModel"), texts, progress=False, **options)


def test_the_bar_shows_only_when_wanted(built, capsys):
    attend_many(built("GPT2LMHeadModel"), ["Lily gave"], progress=False)
    assert capsys.readouterr().err == ""
    attend_many(built("GPT2LMHeadModel"), ["Lily gave"])
    assert "1/1" in capsys.readouterr().err


# --- tokenizers of other kinds ---


def test_special_tokens_added_or_not(built):
    """A tokenizer that puts tokens around the text, and the same one without: each map has the tokens that the model read."""
    from tokenizers import processors

    lm = built("GPT2LMHeadModel")
    around = copy.deepcopy(lm.tokenizer)
    around.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<|endoftext|> $A <|endoftext|>", special_tokens=[("<|endoftext|>", 0)])
    with_them, without = attend(SimpleNamespace(model=lm.model, tokenizer=around), "Lily gave"), attend(lm, "Lily gave")
    assert with_them.tokens == ["⟨endoftext⟩", *without.tokens, "⟨endoftext⟩"]
    assert [piece.special for piece in with_them.pieces] == [True, *[False] * len(without), True]
    np.testing.assert_array_equal([piece.span for piece in with_them.pieces[1:-1]], [piece.span for piece in without.pieces])


def test_a_hundred_thousand_tokens_where_the_model_has_no_limit(built, tokenizer):
    t5 = transformers.T5EncoderModel(transformers.T5Config(vocab_size=320, d_model=16, d_ff=16, d_kv=8, num_layers=1, num_heads=2))
    with pytest.raises(ValueError, match=r"maps of \d\d\d,\d\d\d tokens would take .* GiB.*choose some"):
        attend(SimpleNamespace(model=t5, tokenizer=tokenizer), "a" * 100_000)
