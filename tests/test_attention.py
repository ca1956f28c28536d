"""Attention maps: equal to the library's own, lawful, and clear about what cannot be read."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers
from test_models import save_tiny
from tokenizers import ByteLevelBPETokenizer

import llmtutor as lt
from llmtutor import attention, models
from llmtutor.attention import UINT8_BOUND, Attention, attend

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


@pytest.mark.parametrize("name", ["GPT2LMHeadModel", "Qwen3ForCausalLM", "BertForMaskedLM"])
def test_wrong_ways_to_compute_it_would_be_noticed(built, monkeypatch, name):
    """The comparison above rejects a wrong scale, a missing mask, permuted heads and unshared keys."""
    lm, right = built(name), attention._weights

    def with_scale(query, key, mask, scaling, **options):
        return right(query, key, mask, scaling * 0.9, **options)

    def without_mask(query, key, mask, scaling, **options):
        return right(query, key, None, scaling, **options)

    def with_heads_turned(query, key, mask, scaling, **options):
        return right(query, key, mask, scaling, **options).roll(1, 1)

    wrongs = [with_scale, with_heads_turned] + ([without_mask] if name in CAUSAL else [])
    for wrong in wrongs:
        monkeypatch.setattr(attention, "_weights", wrong)
        monkeypatch.setattr(attention._Recorder, "keep", keep_unchecked)
        assert largest_difference(lm, attend(lm, TEXT)) > 1e-2, wrong.__name__


def keep_unchecked(self, number, weights, mask, whole_rows):
    self.maps[number] = weights[0, self.heads].float().numpy()


def test_the_output_of_the_model_is_the_same_while_we_look(built):
    """Whether a layer is kept (our own sum) or not (the fused kernel), the model computes the same."""
    for name in CONFIGS:
        lm = built(name)
        ids = torch.tensor([lm.tokenizer(TEXT)["input_ids"]])
        with torch.no_grad():
            expected = lm.model(ids).logits
            for layers in ([1], [0, 1, 2]):
                with attention._capturing(lm.model, attention._Recorder(layers, [0], "float32")):
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
        monkeypatch.setattr(attention, "_weights", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            attend(lm, TEXT)
    else:
        attend(lm, TEXT)
    assert state(lm.model) == before
    assert attention._recorder is None and torch.is_grad_enabled()
    lm.model.set_attn_implementation("sdpa")
    lm.model.eval()


def state(model):
    return ([config._attn_implementation for config in attention._configs(model)], [m.training for m in model.modules()],
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
    recorder, shared, bare = attention._Recorder([0], [0], "float32"), SimpleNamespace(layer_idx=0), SimpleNamespace()
    assert [recorder.number(module) for module in (shared, shared, shared, bare)] == [0, 1, 2, 3]


def test_one_byte_a_weight(built):
    lm = built("GPT2LMHeadModel")
    exact, small = attend(lm, TEXT), attend(lm, TEXT, store="uint8")
    assert small.stored.dtype == np.uint8 and small.weights.dtype == np.float32
    assert np.abs(small.weights - exact.weights).max() <= UINT8_BOUND
    assert (small.weights[exact.weights == 0] == 0).all()
    np.testing.assert_array_equal(small[1, 2], small.weights[1, 2])
    # An even row over 1,000 tokens survives; on a linear scale (255 * w) it would be all zeros.
    even = np.full((1, 1, 1, 1000), 1 / 1000)
    assert (attention._to_bytes(even) > 0).all() and not np.rint(255 * even).any()


def test_the_stated_bound_holds_everywhere_and_is_reached():
    weights = np.linspace(0, 1, 200_001, dtype=np.float32)
    error = np.abs(attention._from_bytes(attention._to_bytes(weights)) - weights).max()
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
    assert att.info["text"] == "Lily 今天" and set(att.info["versions"]) == {"torch", "transformers"}
    json.dumps(att.info)


def test_bundled_models_can_be_read():
    assert models.bundled(), "llmtutor/bundled holds no model"
    for name in models.bundled():
        att = lt.attend(lt.load(name), "The weather is nice today. 今天天气真好。")
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
    with pytest.raises(ValueError, match="comes with the explorer"):
        att.save(tmp_path / "map.html")
    with pytest.raises(ValueError, match="must end in .npz, .png"):
        att.save(tmp_path / "map.jpeg2")
    assert list(tmp_path.iterdir()) == []


def test_getting_a_map_in_a_wrong_way():
    att = Attention.from_arrays(maps(1, 1, 2, 2), "ab")
    with pytest.raises(TypeError, match=r"att\[layer, head\]"):
        att[0]
    with pytest.raises(IndexError, match="no head -1"):
        att[0, -1]


# --- bad input ---


@pytest.mark.parametrize("text, options, error, message", [
    ("", {}, ValueError, "text is empty.*文本为空"), (" \n\t", {}, ValueError, "only spaces"), ("a", {"pair": " "}, ValueError, "pair is empty"),
    (None, {}, TypeError, "must be a string.*NoneType"), (b"abc", {}, TypeError, r"decode\('utf-8'\)"), (["a"], {}, TypeError, "got list"),
    ("\udc80", {}, ValueError, "half a character"), ("Tom " * 120, {}, ValueError, "tokens long.*at most 96.*shorten.*缩短"),
    ("Tom " * 100_000, {}, ValueError, r"\d\d\d,\d\d\d tokens long"),
    ("a", {"layers": [3]}, ValueError, "layers must be numbers from 0 to 2"), ("a", {"layers": []}, ValueError, "layers must be"),
    ("a", {"heads": -1}, ValueError, "heads must be numbers from 0 to 3"), ("a", {"store": "int4"}, ValueError, "'float32' or 'uint8'"),
    ("a", {"target": "b"}, ValueError, "target=.*not part"), ("a", {"image": object()}, ValueError, "image=.*not part"),
    ("a", {"generate": 5}, ValueError, "generate=.*not part")])
def test_bad_input(built, text, options, error, message):
    with pytest.raises(error, match=message):
        attend(built("GPT2LMHeadModel"), text, **options)


@pytest.mark.parametrize("text", ["a\x00b", "\u202e</script>\u0301", "שלום", "👩‍🏫", "\ufffe"])
def test_strange_texts_are_read(built, text):
    att = attend(built("GPT2LMHeadModel"), text)
    assert all(token.isprintable() or "\u200d" in token for token in att.tokens)


def test_maps_that_would_fill_the_memory(built, monkeypatch):
    monkeypatch.setattr(attention, "MAX_BYTES", 1000)
    with pytest.raises(ValueError, match="choose some with layers=.*uint8"):
        attend(built("GPT2LMHeadModel"), TEXT)


def test_models_that_cannot_be_read(built, tokenizer):
    with pytest.raises(TypeError, match="what llmtutor.load returns"):
        attend("story-gpt", TEXT)
    small = dict(vocab_size=320, d_model=16, d_ff=16, d_kv=8, num_layers=1, num_heads=2)
    t5 = SimpleNamespace(model=transformers.T5ForConditionalGeneration(transformers.T5Config(**small)), tokenizer=tokenizer)
    with pytest.raises(ValueError, match="encoder-decoder"):
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
    with pytest.raises(ValueError, match="layer 1: attention rows must sum to 1.*NaN"):
        attend(SimpleNamespace(model=model, tokenizer=tokenizer), TEXT)
