"""Explanations: each method against a truth computed another way, and a wrong version that this truth rejects."""

import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers
from tokenizers import ByteLevelBPETokenizer

import llmtutor as lt
from llmtutor import explain
from llmtutor.explain import hooks, reading

TEXT = "Lily gave Tom the red ball because"
OTHER = "Lily gave Tom the red book because"
SIZES = dict(vocab_size=320, hidden_size=40, num_hidden_layers=3, num_attention_heads=4, intermediate_size=56,
             max_position_embeddings=96, initializer_range=0.3, bos_token_id=0, eos_token_id=0, pad_token_id=0)
FEW_KEYS = SIZES | {"num_key_value_heads": 2}
CONFIGS = {
    "GPT2LMHeadModel": transformers.GPT2Config(
        vocab_size=320, n_embd=40, n_layer=3, n_head=4, n_positions=96, initializer_range=0.3, bos_token_id=0, eos_token_id=0),
    "LlamaForCausalLM": transformers.LlamaConfig(**FEW_KEYS),
    "Qwen3ForCausalLM": transformers.Qwen3Config(**FEW_KEYS, head_dim=14),
    "Gemma2ForCausalLM": transformers.Gemma2Config(**FEW_KEYS, head_dim=14, sliding_window=50, query_pre_attn_scalar=14),
    "BertForMaskedLM": transformers.BertConfig(**SIZES),
    "RobertaForMaskedLM": transformers.RobertaConfig(**SIZES | {"pad_token_id": 1}),
    "ModernBertForMaskedLM": transformers.ModernBertConfig(**SIZES, cls_token_id=0, sep_token_id=0),
}
NAMES = list(CONFIGS)


@pytest.fixture(scope="module")
def tokenizer():
    trained = ByteLevelBPETokenizer()
    trained.train_from_iterator([TEXT, OTHER] * 5, vocab_size=310, special_tokens=["<|endoftext|>", "<mask>"])
    return transformers.PreTrainedTokenizerFast(tokenizer_object=trained._tokenizer, mask_token="<mask>")


@pytest.fixture(scope="module")
def built(tokenizer):
    """A random model of each architecture, made when first asked for."""
    made = {}

    def build(name):
        if name not in made:
            torch.manual_seed(1)
            made[name] = SimpleNamespace(model=getattr(transformers, name)(CONFIGS[name]).eval(), tokenizer=tokenizer)
        return made[name]

    return build


class Linear(torch.nn.Module):
    """Logits that are linear in the embeddings: what every token contributes is known exactly."""

    def __init__(self, n_vocab=310, width=6):
        super().__init__()
        torch.manual_seed(3)
        self.embed, self.place = torch.nn.Embedding(n_vocab, width), torch.randn(96, width)
        self.config = SimpleNamespace(is_encoder_decoder=False, vocab_size=n_vocab)

    def get_input_embeddings(self):
        return self.embed

    def forward(self, input_ids=None, inputs_embeds=None, attention_mask=None):
        embeds = self.embed(input_ids) if inputs_embeds is None else inputs_embeds
        total = torch.einsum("btd,td->b", embeds, self.place[: embeds.shape[1]])
        return SimpleNamespace(logits=total[:, None, None] * torch.arange(310.0).expand(1, embeds.shape[1], 310))


@pytest.fixture
def linear(tokenizer):
    """A linear model, and what each token of TEXT contributes to the logit of token 1 against the mean embedding."""
    model = Linear()
    ids = tokenizer(TEXT)["input_ids"]
    embeds = model.embed.weight[ids].detach()
    parts = ((embeds - model.embed.weight.detach().mean(0)) * model.place[: len(ids)]).sum(-1).numpy()
    whole = (embeds * model.place[: len(ids)]).sum(-1).numpy()
    return SimpleNamespace(model=model, tokenizer=tokenizer), parts, whole


def logits(lm, text=TEXT):
    with torch.no_grad():
        return lm.model(torch.tensor([lm.tokenizer(text)["input_ids"]])).logits[0]


def target_of(lm):
    """A target that every architecture has: the last position, token 9."""
    return (-1, 9)


# --- what a method returns ---


def test_an_explanation_prints_ranks_and_draws():
    explanation = explain.Explanation("by hand", [0.1, 0.7, -0.001], ["a", "b", "c"], explain.Target(2, 5, "x"))
    assert repr(explanation) == "Explanation('by hand' of x at 2: b 0.70, a 0.10, c 0.00)"
    assert explanation.top(2) == [(1, "b", 0.7), (0, "a", 0.1)] and len(explanation) == 3
    assert np.allclose(explanation.figure().images[0].get_array(), explanation.scores[None])
    axes = explain.compare([explanation, explain.Explanation("2", [4, 0, 0], ["a", "b", "c"])])
    assert axes.images[0].get_array()[1, 0] == 1
    rows = explain.Explanation("lens", np.eye(3), ["a", "b", "c"])
    assert rows.layer(1).top(1) == [(1, "b", 1.0)] and repr(rows) == "Explanation('lens': 3 rows x 3 tokens)"


@pytest.mark.parametrize("scores, tokens, target, message", [
    ([1, 2], ["a"], None, "same text"), ([], [], None, "axes"), ([[[1.0]]], ["a"], None, "axes"),
    ([1, np.nan], ["a", "b"], None, "not finite"), ([1.0], ["a"], explain.Target(4, 0), "position 4")])
def test_an_explanation_refuses_what_does_not_fit(scores, tokens, target, message):
    with pytest.raises(ValueError, match=message):
        explain.Explanation("m", scores, tokens, target)


def test_top_of_rows_says_what_to_do():
    with pytest.raises(ValueError, match=r"explanation.layer\(1\)"):
        explain.Explanation("lens", np.ones((2, 3)), list("abc")).top()
    with pytest.raises(ValueError, match="at least 1"):
        explain.Explanation("m", [1], ["a"]).top(0)


def test_explanations_of_different_texts_are_not_compared():
    with pytest.raises(ValueError, match="same tokens"):
        explain.compare([explain.Explanation("1", [1], ["a"]), explain.Explanation("2", [1], ["b"])])


# --- the target ---


def test_the_default_target_is_the_models_own_choice(built):
    lm = built("GPT2LMHeadModel")
    target = explain.occlusion(lm, TEXT).target
    assert target.position == len(logits(lm)) - 1 and target.token == int(logits(lm)[-1].argmax())


def test_a_masked_model_is_asked_at_its_mask(built):
    lm = built("BertForMaskedLM")
    explanation = explain.occlusion(lm, "Lily<mask>Tom")
    assert lm.tokenizer("Lily<mask>Tom")["input_ids"][explanation.target.position] == lm.tokenizer.mask_token_id
    assert explanation.scores[explanation.target.position] == 0  # the mask itself is special: never erased
    with pytest.raises(ValueError, match="<mask>"):
        explain.occlusion(lm, TEXT)


def test_targets_as_text_and_against(built):
    lm = built("GPT2LMHeadModel")
    ids = [lm.tokenizer(word)["input_ids"] for word in (" red", " ball")]
    assert all(len(one) == 1 for one in ids)
    assert explain.occlusion(lm, TEXT, " red").target.token == ids[0][0]
    whole = explain.occlusion(lm, TEXT, (3, " red", " ball"), output="logit").details["whole"]
    assert whole == pytest.approx(float(logits(lm)[3, ids[0][0]] - logits(lm)[3, ids[1][0]]), abs=1e-4)


@pytest.mark.parametrize("target, error, message", [
    ("red ball", ValueError, "is 3|is 2|one token"), ((99, 1), ValueError, "position"), ((0, 5000), ValueError, "token must be"),
    ((True, 1), ValueError, "position"), (7, TypeError, "target must be")])
def test_bad_targets(built, target, error, message):
    with pytest.raises(error, match=message):
        explain.occlusion(built("GPT2LMHeadModel"), TEXT, target)


def test_bad_input(built):
    lm = built("GPT2LMHeadModel")
    for text, error, message in ((" ", ValueError, "empty"), (5, TypeError, "text"), ("a " * 200, ValueError, "at most 96")):
        with pytest.raises(error, match=message):
            explain.rollout(lm, text)
    with pytest.raises(TypeError, match="llmtutor.load"):
        explain.rollout("gpt2", TEXT)
    for wrong in (dict(output="loss"), dict(baseline="mask")):
        with pytest.raises(ValueError, match="must be"):
            explain.occlusion(lm, TEXT, **wrong)


@pytest.mark.parametrize("method", explain.METHODS)
def test_every_method_has_the_same_inputs_and_leaves_the_model_alone(built, method):
    lm = built("GPT2LMHeadModel")
    before, lm.model.transformer.h[1].training = lm.model.config._attn_implementation, True
    try:
        explanation = explain.METHODS[method](lm, TEXT, (-2, " red"))
        assert lm.model.transformer.h[1].training and not lm.model.training
    finally:
        lm.model.transformer.h[1].training = False
    assert explanation.method == method
    assert explanation.tokens == lt.attend(lm, TEXT).tokens and explanation.scores.shape == (len(explanation.tokens),)
    assert abs(explanation.scores[-1]) < 1e-6, "a later token cannot matter in a decoder"
    assert lm.model.config._attn_implementation == before and n_hooks(lm.model) == 0
    assert all(weight.grad is None for weight in lm.model.parameters())


def n_hooks(model):
    """Hooks of ours that are still on (transformers leaves its own for output_attentions)."""
    every = [hook for module in model.modules() for hook in (*module._forward_hooks.values(), *module._forward_pre_hooks.values())]
    return sum(not getattr(hook, "__module__", "llmtutor").startswith("transformers") for hook in every)


def test_a_forgotten_hook_would_be_counted(built):
    lm = built("GPT2LMHeadModel")
    forgotten = lm.model.transformer.h[0].register_forward_hook(lambda module, inputs, output: None)
    assert n_hooks(lm.model) == 1
    forgotten.remove()


# --- from attention ---

BY_HAND = np.array([[[[1, 0], [0.6, 0.4]]], [[[1, 0], [0.2, 0.8]]]])  # two layers, one head, two tokens


def test_rollout_by_hand():
    # residual half: rows of layer 0 are (1, 0), (.3, .7), of layer 1 (1, 0), (.1, .9); so .1 + .9 * .3 = .37
    assert np.allclose(explain.rollout_matrix(BY_HAND), [[1, 0], [0.37, 0.63]])
    assert np.allclose(explain.rollout_matrix(BY_HAND, residual=1), np.eye(2))
    wrong = np.mean([0.5 * layer[0] + 0.5 * np.eye(2) for layer in BY_HAND], axis=0)  # averaging instead of multiplying
    assert not np.allclose(wrong, [[1, 0], [0.37, 0.63]], atol=0.05)


def test_rollout_multiplies_later_layers_from_the_left():
    first, second = np.array([[1, 0, 0], [1, 0, 0], [0, 0, 1]]), np.array([[1, 0, 0], [0, 1, 0], [0, 1, 0]])
    weights = np.stack([first, second])[:, None].astype(float)
    assert explain.rollout_matrix(weights, residual=0)[2].tolist() == [1, 0, 0]  # 2 looks at 1, which had looked at 0
    assert explain.rollout_matrix(weights[::-1], residual=0)[2].tolist() != [1, 0, 0]  # the other order is another answer


@pytest.mark.parametrize("n_layers, share", [(4, 0.16), (12, 0.71), (24, 0.98)])
def test_even_attention_collapses_to_the_first_token(n_layers, share):
    weights = np.repeat(np.tril(np.ones((32, 32)))[None, None], n_layers, 0)
    assert explain.rollout_matrix(explain.even_attention(weights))[-1, 0] == pytest.approx(share, abs=0.01)


def test_rollout_comes_with_its_null(built):
    lm = built("LlamaForCausalLM")
    explanation = explain.rollout(lm, TEXT)
    assert explanation.scores.sum() == pytest.approx(1) and explanation.details["null"].sum() == pytest.approx(1)
    n = len(explanation)
    even = np.tril(np.ones((n, n))) / np.arange(1, n + 1)[:, None]
    assert np.allclose(explanation.details["null"], np.linalg.matrix_power((even + np.eye(n)) / 2, 3)[-1])
    assert np.allclose(explanation.details["above_null"], explanation.scores - explanation.details["null"])


def test_rollout_refuses_wrong_shapes():
    for weights, residual, message in ((np.ones((2, 3, 3)), 0.5, "axes"), (BY_HAND, 2, "between 0 and 1")):
        with pytest.raises(ValueError, match=message):
            explain.rollout_matrix(weights, residual)


def attention_outputs(lm, text=TEXT):
    """What the attention of each layer adds, before any norm, without the bias of the output matrix: [layer][token, d_model]."""
    found, known = [], hooks.parts(lm.model)
    handles = [module.register_forward_hook(lambda module, inputs, output: found.append(
        (output - (0 if module.bias is None else module.bias))[0].detach())) for module in known.output]
    logits(lm, text)
    for handle in handles:
        handle.remove()
    return found


@pytest.mark.parametrize("name", ["GPT2LMHeadModel", "Qwen3ForCausalLM", "BertForMaskedLM", "ModernBertForMaskedLM"])
def test_value_weighted_vectors_sum_to_what_attention_adds(built, name):
    lm = built(name)
    norms = explain.value_weighted(lm, TEXT, target_of(lm)).details["norms"]
    values = hooks.record_values(lm, reading.read(lm, TEXT, target_of(lm)))
    known, att = hooks.parts(lm.model), lt.attend(lm, TEXT)
    for layer, output in enumerate(attention_outputs(lm)):
        vectors = torch.einsum("hqk,khd,hdm->qkm", torch.tensor(att.weights[layer]), values[layer], known.output_matrix(layer))
        assert torch.allclose(vectors.sum(1), output, atol=2e-4)
        assert np.allclose(norms[layer], vectors.norm(dim=-1).numpy(), atol=1e-4)
        turned = torch.einsum("hqk,khd,hdm->qkm", torch.tensor(att.weights[layer]).roll(1, 0), values[layer], known.output_matrix(layer))
        assert not torch.allclose(turned.sum(1), output, atol=1e-2)  # heads in the wrong order are noticed


def test_gradient_x_attention_equals_finite_differences(built):
    """Nudge one attention weight in the model and see the target move."""
    lm, layer, head, query, key, size = built("GPT2LMHeadModel"), 1, 2, 6, 3, 1e-2
    target = (6, 9)
    product = explain.gradient_x_attention(lm, TEXT, target, output="logit").details["products"][layer, head, query, key]
    weight = lt.attend(lm, TEXT)[layer, head][query, key]
    numbers = []
    for step in (size, -size):
        def nudge(module, inputs, step=step):
            mixed = inputs[0].clone()
            value = values[key, head]
            mixed[0, query, head * 10:(head + 1) * 10] += step * value
            return (mixed,)

        values = hooks.record_values(lm, reading.read(lm, TEXT))[layer]
        handle = lm.model.transformer.h[layer].attn.c_proj.register_forward_pre_hook(nudge)
        numbers.append(float(logits(lm)[6, 9]))
        handle.remove()
    assert product == pytest.approx(weight * (numbers[0] - numbers[1]) / (2 * size), rel=0.03, abs=1e-5)
    assert abs(product) > 1e-4
    with pytest.raises(ValueError, match="queries"):
        explain.gradient_x_attention(lm, TEXT, queries="some")


def without_value(lm, layers, position):
    """The brute-force way to zero a value: attention weights as they are, one column of keys taken out of the mix."""
    known = hooks.parts(lm.model)

    def hook(module, inputs, output):
        output = output.clone()
        output[:, position, -40:] = 0
        return output

    handles = [known.value[layer].register_forward_hook(hook) for layer in layers]
    result = logits(lm)
    for handle in handles:
        handle.remove()
    return result


@pytest.mark.parametrize("name", ["GPT2LMHeadModel", "BertForMaskedLM", "ModernBertForMaskedLM"])
def test_value_zeroing_equals_one_token_at_a_time(built, name):
    lm, target = built(name), (5, 9)
    explanation = explain.value_zeroing(lm, TEXT, target, measure="output", output="logit")
    whole = logits(lm)[5, 9]
    brute = [float(whole - without_value(lm, [0, 1, 2], i)[5, 9]) for i in range(len(explanation))]
    assert np.allclose(explanation.scores, brute, atol=1e-4) and np.abs(brute).max() > 0.01
    only_last = [float(whole - without_value(lm, [2], i)[5, 9]) for i in range(len(explanation))]
    assert not np.allclose(explanation.scores, only_last, atol=1e-3)


def test_value_zeroing_by_state(built):
    lm = built("GPT2LMHeadModel")
    explanation = explain.value_zeroing(lm, TEXT)
    distances = explanation.details["layers"]
    assert distances.shape == (3, len(explanation), len(explanation)) and explanation.scores.sum() == pytest.approx(1)
    assert np.allclose(np.triu(distances, 1), 0, atol=1e-6)  # zeroing a later token changes nothing in a decoder
    clean = explain.record(lm, TEXT).states["block", 0].double()
    with hooks.zero_values(lm, [0], [2]):
        changed = explain.record(lm, TEXT).states["block", 0].double()
    brute = 1 - torch.nn.functional.cosine_similarity(clean, changed)
    assert np.allclose(distances[0, :, 2], brute, atol=1e-6) and brute.max() > 1e-3
    with pytest.raises(ValueError, match="measure"):
        explain.value_zeroing(lm, TEXT, measure="distance")


# --- from the input ---


def test_occlusion_gradients_and_integrated_gradients_on_a_linear_model(linear):
    lm, parts, whole = linear
    target = (0, 1)  # token 1 has weight 1
    assert np.allclose(explain.occlusion(lm, TEXT, target, output="logit").scores, parts, atol=1e-4)
    assert np.allclose(explain.integrated_gradients(lm, TEXT, target, output="logit", steps=3).scores, parts, atol=1e-4)
    assert np.allclose(explain.gradient_x_input(lm, TEXT, target, output="logit").scores, whole, atol=1e-4)
    assert not np.allclose(parts, whole, atol=1e-2)  # the baseline is seen
    zero = explain.occlusion(lm, TEXT, target, output="logit", baseline="zero")
    assert np.allclose(zero.scores, whole, atol=1e-4)


@pytest.mark.parametrize("name", ["GPT2LMHeadModel", "LlamaForCausalLM", "BertForMaskedLM"])
def test_integrated_gradients_are_complete(built, name):
    lm = built(name)
    fine, coarse = (explain.integrated_gradients(lm, TEXT, target_of(lm), steps=steps) for steps in (200, 1))
    assert abs(fine.details["gap"]) < 0.03 * max(1, abs(fine.details["difference"]))
    assert abs(fine.details["difference"]) > 0.1
    assert abs(coarse.details["gap"]) > 3 * abs(fine.details["gap"])  # one step is no integral, and the gap says so
    wrong = explain.gradient_x_input(lm, TEXT, target_of(lm)).scores
    assert abs(wrong.sum() - fine.details["difference"]) > 0.05


def test_without_captum_the_error_says_what_to_do(built, monkeypatch):
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    with pytest.raises(ImportError, match=r"llmtutor\[explain\]"):
        explain.integrated_gradients(built("GPT2LMHeadModel"), TEXT)


# --- through the layers ---


@pytest.mark.parametrize("name", NAMES)
def test_the_last_row_of_the_lens_is_the_model(built, name):
    lm = built(name)
    lens = explain.logit_lens(lm, TEXT, target_of(lm), output="logit")
    assert lens.scores.shape == (4, len(lens)) and np.array_equal(lens.scores[-1], logits(lm)[:, 9].double().numpy())
    assert np.abs(lens.scores[-2] - lens.scores[-1]).max() > 1e-2
    assert np.array_equal(lens.details["top"][-1], logits(lm).argmax(-1).numpy())


def test_the_lens_applies_the_last_norm(built):
    lm = built("GPT2LMHeadModel")
    lens = explain.logit_lens(lm, TEXT, target_of(lm), output="logit")
    ids = torch.tensor([lm.tokenizer(TEXT)["input_ids"]])
    with torch.no_grad():
        states = lm.model(ids, output_hidden_states=True).hidden_states
        for row in (0, 1, 2):
            right = lm.model.lm_head(lm.model.transformer.ln_f(states[row]))[0, :, 9]
            assert np.allclose(lens.scores[row], right, atol=1e-4)
            assert not np.allclose(lm.model.lm_head(states[row])[0, :, 9], right, atol=1e-2)  # without the norm


def test_a_lens_that_missed_the_model_would_be_noticed(built, monkeypatch):
    from llmtutor.explain import lens

    right = lens._finish
    monkeypatch.setattr(lens, "_finish", lambda reading, block, state: right(reading, block, state * 1.01))
    with pytest.raises(AssertionError, match="model itself"):
        explain.logit_lens(built("BertForMaskedLM"), TEXT, (0, 9))


@pytest.mark.parametrize("name", ["GPT2LMHeadModel", "Qwen3ForCausalLM", "BertForMaskedLM", "ModernBertForMaskedLM"])
def test_patching_everything_gives_the_clean_run(built, name):
    lm = built(name)
    clean, corrupt = logits(lm, TEXT), logits(lm, OTHER)
    assert not torch.allclose(clean, corrupt, atol=1e-2) and len(clean) == len(corrupt)
    recording = explain.record(lm, TEXT)
    with explain.patch(lm, recording, [explain.Place("block", 0)]):
        assert torch.allclose(logits(lm, OTHER), clean, atol=1e-5)
    with explain.patch(lm, recording, [explain.Place("block", 0, positions=[0])]):  # same token there: nothing changes
        assert torch.allclose(logits(lm, OTHER), corrupt, atol=1e-5) or name.endswith("MaskedLM")
    with explain.patch(lm, recording, [explain.Place(site, i) for i in range(3) for site in ("attention", "mlp")]):
        mixed = logits(lm, OTHER)  # all but the embeddings is clean: neither the one nor the other
    assert not torch.allclose(mixed, corrupt, atol=1e-2)
    heads = [explain.Place("heads", 1, heads=[head]) for head in range(4)]
    with explain.patch(lm, recording, heads):
        by_head = logits(lm, OTHER)
    with explain.patch(lm, recording, [explain.Place("heads", 1)]):
        assert torch.allclose(logits(lm, OTHER), by_head, atol=1e-6)
    assert torch.equal(logits(lm, OTHER), corrupt) and n_hooks(lm.model) == 0


def test_activation_patching_of_a_decoder(built):
    lm = built("GPT2LMHeadModel")
    place = next(i for i, (a, b) in enumerate(zip(*(lm.tokenizer(t)["input_ids"] for t in (TEXT, OTHER)))) if a != b)
    grid = explain.activation_patching(lm, TEXT, OTHER, (-1, 9), output="logit")
    assert grid.scores.shape == (3, len(grid)) and np.allclose(grid.scores[:, :place], 0, atol=1e-5)
    assert grid.scores[-1, -1] == pytest.approx(1, abs=1e-4)  # after the last block, the last token alone decides
    assert np.allclose(grid.scores[-1, :-1], 0, atol=1e-5)
    shares = explain.patch_heads(lm, TEXT, OTHER, (-1, 9), output="logit")
    assert shares.shape == (3, 4) and np.isfinite(shares).all()
    with pytest.raises(ValueError, match="nothing to bring back"):
        explain.activation_patching(lm, TEXT, TEXT, (-1, 9))
    with pytest.raises(ValueError, match="as many tokens"):
        explain.activation_patching(lm, TEXT, TEXT + TEXT, (0, 9))


# --- removing heads ---


@pytest.mark.parametrize("name", NAMES)
def test_ablating_heads_equals_zeroing_their_slice_of_the_output_matrix(built, name):
    lm = built(name)
    before, known = logits(lm), hooks.parts(lm.model)
    with explain.ablate(lm, [(0, 1), (2, 3)]):
        ablated = logits(lm)

    def zeroed(places):
        kept = {layer: known.output[layer].weight.detach().clone() for layer in (0, 2)}
        for layer, head in places:
            columns = slice(head * known.d_head(layer), (head + 1) * known.d_head(layer))
            weight = known.output[layer].weight.data
            (weight if hooks._is_conv1d(known.output[layer]) else weight.T)[columns] = 0
        result = logits(lm)
        for layer, weight in kept.items():
            known.output[layer].weight.data.copy_(weight)
        return result

    assert torch.allclose(ablated, zeroed([(0, 1), (2, 3)]), atol=1e-5)
    assert not torch.allclose(ablated, zeroed([(0, 0), (2, 3)]), atol=1e-2)  # another head is another result
    assert torch.equal(logits(lm), before)


def test_ablation_nests_and_ends_after_an_error(built):
    lm = built("LlamaForCausalLM")
    before = logits(lm)
    with explain.ablate(lm, [(0, 1), (2, 3)]):
        both = logits(lm)
    with pytest.raises(RuntimeError, match="on purpose"), explain.ablate(lm, [(0, 1)]):
        with explain.ablate(lm, [(2, 3)]):
            assert torch.equal(logits(lm), both)
            inside = lt.attend(lm, TEXT).weights
            raise RuntimeError("on purpose")
    assert torch.equal(logits(lm), before) and n_hooks(lm.model) == 0
    assert not np.allclose(inside[1:], lt.attend(lm, TEXT).weights[1:], atol=1e-3)  # attend sees the model without the head


def test_a_hook_that_cannot_be_put_on_takes_off_the_others(built):
    lm = built("GPT2LMHeadModel")
    with pytest.raises(TypeError), hooks._hooked([(lm.model.transformer.h[0].register_forward_hook, print), (None, None)]):
        raise AssertionError("not reached")
    assert n_hooks(lm.model) == 0


def test_mean_ablation(built):
    lm, known = built("GPT2LMHeadModel"), hooks.parts(built("GPT2LMHeadModel").model)
    texts = [TEXT, "the red book"]
    rows = torch.cat([explain.record(lm, text).states["heads", 1] for text in texts])
    mean = rows.mean(0)[20:30]  # head 2 of width 10, over all tokens and not over means of texts
    means = explain.head_means(lm, texts)
    assert torch.allclose(means[1][2], mean, atol=1e-6)
    seen = []
    with explain.ablate(lm, [(1, 2)], how="mean", reference=texts):
        handle = known.output[1].register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0][0]))
        logits(lm)
        handle.remove()
    assert torch.allclose(seen[0][:, 20:30], mean.expand(len(seen[0]), -1), atol=1e-6)
    assert torch.allclose(seen[0][:, :20], explain.record(lm, TEXT).states["heads", 1][:, :20], atol=1e-6)


@pytest.mark.parametrize("heads, options, message", [
    ([(3, 0)], {}, "no head 0 in layer 3"), ([(0, 4)], {}, "no head 4"), ([2], {}, r"list of \(layer, head\)"),
    ([(0, 0)], {"how": "noise"}, "how must be"), ([(0, 0)], {"how": "mean"}, "reference")])
def test_bad_heads(built, heads, options, message):
    with pytest.raises(ValueError, match=message):
        explain.ablate(built("GPT2LMHeadModel"), heads, **options)


def test_bad_places(built):
    lm = built("GPT2LMHeadModel")
    recording = explain.record(lm, TEXT, sites=["block"])
    for place, message in ((explain.Place("block", 9), "no 'block' in layer 9"), (explain.Place("mlp", 0), "holds nothing"),
                           (explain.Place("value", 0), "site must be"), (explain.Place("block", 0, heads=[1]), "site 'heads' only")):
        with pytest.raises(ValueError, match=message):
            explain.patch(lm, recording, [place])
    with explain.patch(lm, recording, [explain.Place("block", 0)]), pytest.raises(ValueError, match="as many tokens"):
        logits(lm, "red")


def test_an_unknown_architecture_is_named_and_can_be_added(tokenizer, monkeypatch):
    config = transformers.OPTConfig(vocab_size=320, hidden_size=40, num_hidden_layers=2, num_attention_heads=4, ffn_dim=56,
                                    max_position_embeddings=96, word_embed_proj_dim=40, init_std=0.3)
    lm = SimpleNamespace(model=transformers.OPTForCausalLM(config).eval(), tokenizer=tokenizer)
    with pytest.raises(ValueError, match="OPTForCausalLM is none of them.*FAMILIES.*occlusion"):
        explain.ablate(lm, [(0, 0)])
    assert explain.occlusion(lm, TEXT).scores.any()
    monkeypatch.setattr(hooks, "FAMILIES", [explain.Family("OPT", "decoder.layers", "self_attn.out_proj", "self_attn.v_proj", "fc2")])
    with explain.ablate(lm, [(0, 0)]):
        changed = logits(lm)
    assert not torch.allclose(changed, logits(lm), atol=1e-3)


def test_interleaved_values_are_refused(tokenizer):
    config = transformers.GPTNeoXConfig(**SIZES)
    lm = SimpleNamespace(model=transformers.GPTNeoXForCausalLM(config).eval(), tokenizer=tokenizer)
    with pytest.raises(ValueError, match="interleaved.*occlusion"):
        explain.value_zeroing(lm, TEXT)
    with explain.ablate(lm, [(1, 2)]):
        changed = logits(lm)
    assert not torch.allclose(changed, logits(lm), atol=1e-4)


def test_bad_logits_are_named(built):
    config = transformers.GPT2Config(vocab_size=320, n_embd=40, n_layer=1, n_head=4, n_positions=96, pad_token_id=0)
    lm = SimpleNamespace(model=transformers.GPT2ForSequenceClassification(config).eval(), tokenizer=built("GPT2LMHeadModel").tokenizer)
    with pytest.raises(ValueError, match="no logits for each token"):
        explain.occlusion(lm, TEXT, (0, 1))


@pytest.mark.parametrize("name", ["logit lens", "patching", "heads", "faithfulness", "the head finder", *explain.METHODS])
def test_broken_weights_are_told_and_no_scores_are_made_of_them(tokenizer, name):
    """Also where a NaN would only have changed an order."""
    model = transformers.GPT2LMHeadModel(CONFIGS["GPT2LMHeadModel"]).eval()
    lm = SimpleNamespace(model=model, tokenizer=tokenizer)
    fine = explain.occlusion(lm, TEXT, target_of(lm))
    model.transformer.h[1].attn.c_attn.weight.data[0, 0] = float("nan")
    call = {"logit lens": lambda: explain.logit_lens(lm, TEXT), "patching": lambda: explain.patch_heads(lm, TEXT, OTHER, target_of(lm)),
            "heads": lambda: explain.head_scores(lm, "previous", n=2), "the head finder": lambda: explain.find_heads(lm, "induction", n=2),
            "faithfulness": lambda: explain.faithfulness(lm, TEXT, fine)}.get(name, lambda: explain.METHODS[name](lm, TEXT, target_of(lm)))
    with pytest.raises(ValueError, match="(not finite|not a number).*NaN.*named_parameters.*权重"):
        call()


@pytest.mark.parametrize("text, error, message", [
    (["Lily", "Tom"], TypeError, "batch of 2"), ("Lily \udc80", ValueError, "half a character"), ("Tom " * 100_000, ValueError, r"\d\d\d,\d\d\d tokens long")])
def test_texts_that_cannot_be_explained(built, text, error, message):
    with pytest.raises(error, match=message):
        explain.occlusion(built("GPT2LMHeadModel"), text)


@pytest.mark.parametrize("text", ["שלום \u200f", "a\u200b\u200d", "\u202eLily\u0301"])
def test_right_to_left_and_zero_width_text_is_explained(built, text):
    found = explain.occlusion(built("GPT2LMHeadModel"), text)
    assert len(found) == len(built("GPT2LMHeadModel").tokenizer(text)["input_ids"]) and found.scores.any()


def test_a_candidate_that_is_half_a_character(built):
    with pytest.raises(ValueError, match="half a character"):
        explain.occlusion(built("GPT2LMHeadModel"), TEXT, "\udc80")


def test_a_hundred_thousand_tokens_where_the_model_has_no_limit(tokenizer):
    config = transformers.T5Config(vocab_size=320, d_model=16, d_ff=16, d_kv=8, num_layers=1, num_heads=2, decoder_start_token_id=0)
    lm = SimpleNamespace(model=transformers.T5ForConditionalGeneration(config), tokenizer=tokenizer)
    with pytest.raises(ValueError, match=r"\d\d\d,\d\d\d tokens long.*at most 16,384"):
        explain.occlusion(lm, "a" * 100_000, "Tom")


def test_importing_is_cheap():
    code = "import sys, llmtutor.explain; print([m for m in ('torch', 'transformers', 'captum', 'matplotlib') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr
