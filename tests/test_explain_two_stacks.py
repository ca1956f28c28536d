"""Explanations of encoder-decoders: what the source contributes to a token, or to the whole text, that the decoder writes."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers
from tokenizers import ByteLevelBPETokenizer

import llmtutor as lt
from llmtutor import explain
from llmtutor.explain import hooks, reading

TEXT, WRITTEN = "Lily gave Tom the red ball", "Tom asked"
SIZES = dict(vocab_size=320, d_model=40, encoder_layers=2, decoder_layers=3, encoder_attention_heads=2, decoder_attention_heads=4,
             encoder_ffn_dim=56, decoder_ffn_dim=56, max_position_embeddings=96, init_std=0.3, pad_token_id=0, eos_token_id=0,
             decoder_start_token_id=0, forced_eos_token_id=None, bos_token_id=None)
CONFIGS = {
    "MarianMTModel": transformers.MarianConfig(**SIZES, decoder_vocab_size=320, scale_embedding=True),
    "BartForConditionalGeneration": transformers.BartConfig(**SIZES, scale_embedding=True),
    "T5ForConditionalGeneration": transformers.T5Config(vocab_size=320, d_model=40, d_ff=56, d_kv=10, num_layers=2, num_decoder_layers=3,
                                                        num_heads=4, initializer_factor=3.0, pad_token_id=0, decoder_start_token_id=0),
}
ONE_STACK = {"rollout": explain.rollout, "logit lens": explain.logit_lens, "activation patching": lambda lm, *a: explain.activation_patching(lm, TEXT, TEXT),
             "head finder": lambda lm, *a: explain.find_heads(lm, "previous"), "recording": lambda lm, *a: explain.record(lm, TEXT),
             "patching": lambda lm, *a: explain.patch(lm, None, [])}


@pytest.fixture(scope="module")
def built():
    trained, made = ByteLevelBPETokenizer(), {}
    trained.train_from_iterator([TEXT, WRITTEN] * 5, vocab_size=310, special_tokens=["</s>"])
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=trained._tokenizer)

    def build(name):
        if name not in made:
            torch.manual_seed(2)
            made[name] = SimpleNamespace(model=getattr(transformers, name)(CONFIGS[name]).eval(), tokenizer=tokenizer)
        return made[name]

    return build


def logprobs(lm, text=TEXT):
    """By another way: the library reads the labels, and tells the chance of each token that is written, tensor [token]."""
    ids, labels = (torch.tensor([lm.tokenizer(one)["input_ids"]]) for one in (text, WRITTEN))
    with torch.no_grad():
        logits = lm.model(input_ids=ids, labels=labels).logits
    return logits.log_softmax(-1)[0, range(labels.shape[1]), labels[0]]


@pytest.mark.parametrize("name", CONFIGS)
def test_the_number_that_is_explained_is_the_models_own(built, name):
    lm = built(name)
    right = logprobs(lm)
    one = explain.occlusion(lm, TEXT, (WRITTEN, 1))
    whole = explain.occlusion(lm, TEXT, WRITTEN)
    # Read from embeddings, so a factor that the encoder puts on them (Marian, BART) would show.
    assert one.details["whole"] == pytest.approx(float(right[1]), abs=1e-4)
    assert whole.details["whole"] == pytest.approx(float(right.sum()), abs=1e-4)
    assert len(one) == len(lm.tokenizer(TEXT)["input_ids"]) and one.target.written == WRITTEN
    assert explain.occlusion(lm, TEXT, WRITTEN, output="prob").details["whole"] == pytest.approx(float(right.sum().exp()), rel=1e-3)
    token = lm.tokenizer(WRITTEN)["input_ids"][1]
    assert (one.target.position, one.target.token) == (1, token) and explain.occlusion(lm, TEXT, one.target).scores.tolist() == one.scores.tolist()
    assert str(whole.target) == repr(WRITTEN)
    against = explain.occlusion(lm, TEXT, (WRITTEN, 1, 9)).details["whole"]
    assert against != pytest.approx(one.details["whole"], abs=1e-3)


def test_embeddings_that_miss_the_factor_of_the_encoder_would_be_noticed(built):
    lm = built("MarianMTModel")
    found = reading.read(lm, TEXT, (WRITTEN, 1))
    with torch.no_grad():
        right = found.score(found.embeddings()[None])
        missed = lm.model(inputs_embeds=found.embeddings()[None], decoder_input_ids=torch.tensor([[0, *found.answer[:-1].tolist()]])).logits
    assert float(right[0]) == pytest.approx(float(logprobs(lm)[1]), abs=1e-4)
    assert abs(float(found.number(missed)[0] - right[0])) > 1e-2


@pytest.mark.parametrize("name", CONFIGS)
def test_the_methods_see_only_the_source_and_leave_the_model_alone(built, name):
    lm = built(name)
    before = lm.model.config._attn_implementation
    for method, call in explain.METHODS.items():
        if method == "rollout":
            continue
        for target in (WRITTEN, (WRITTEN, 1)):
            found = call(lm, TEXT, target)
            assert len(found) == len(lm.tokenizer(TEXT)["input_ids"]) and found.scores.any() and found.method == method
    assert lm.model.config._attn_implementation == before
    every = [hook for module in lm.model.modules() for hook in (*module._forward_hooks.values(), *module._forward_pre_hooks.values())]
    assert not [hook for hook in every if not getattr(hook, "__module__", "llmtutor").startswith("transformers")]


def test_attention_is_the_row_of_the_place_that_writes(built):
    lm = built("MarianMTModel")
    cross = lt.attend(lm, TEXT, target=WRITTEN).cross.weights
    found = explain.raw_attention(lm, TEXT, (WRITTEN, 1), layers=[2], heads=[3])
    np.testing.assert_allclose(found.scores, cross[2, 3, 1], atol=1e-6)
    assert not np.allclose(found.scores, cross[2, 3, 0], atol=1e-3)  # another row
    np.testing.assert_allclose(explain.raw_attention(lm, TEXT, WRITTEN).scores, cross.mean((0, 1, 2)), atol=1e-6)


@pytest.mark.parametrize("name", CONFIGS)
def test_value_weighted_vectors_sum_to_what_cross_attention_adds(built, name):
    lm = built(name)
    target, known = (WRITTEN, 1), hooks.parts(lm.model)
    values = hooks.record_values(lm, reading.read(lm, TEXT, target))
    cross, outputs = lt.attend(lm, TEXT, target=WRITTEN).cross.weights, []
    handles = [module.register_forward_hook(lambda module, inputs, output: outputs.append(
        (output - (0 if module.bias is None else module.bias))[0].detach())) for module in known.output]
    logprobs(lm)
    for handle in handles:
        handle.remove()
    norms = explain.value_weighted(lm, TEXT, target).details["norms"]
    for layer, output in enumerate(outputs):
        vectors = torch.einsum("hqk,khd,hdm->qkm", torch.tensor(cross[layer]), values[layer], known.output_matrix(layer))
        assert torch.allclose(vectors.sum(1), output, atol=2e-3)
        assert np.allclose(norms[layer], vectors.norm(dim=-1).numpy(), atol=1e-3)


def test_value_zeroing_equals_one_token_at_a_time(built):
    lm = built("MarianMTModel")
    found = explain.value_zeroing(lm, TEXT, (WRITTEN, 1), measure="output")

    def without(place):
        def hook(module, inputs, output):
            output = output.clone()
            output[:, place] = 0
            return output

        handles = [layer.encoder_attn.v_proj.register_forward_hook(hook) for layer in lm.model.model.decoder.layers]
        number = float(logprobs(lm)[1])
        for handle in handles:
            handle.remove()
        return number

    brute = [float(logprobs(lm)[1]) - without(place) for place in range(len(found))]
    assert np.allclose(found.scores, brute, atol=1e-4) and np.abs(brute).max() > 1e-2


def test_gradients_are_complete_and_equal_finite_differences(built):
    lm = built("MarianMTModel")
    fine = explain.integrated_gradients(lm, TEXT, WRITTEN, steps=100)
    assert abs(fine.details["gap"]) < 0.05 * max(1, abs(fine.details["difference"])) and abs(fine.details["difference"]) > 0.1
    found = reading.read(lm, TEXT, WRITTEN)
    embeddings, place, size = found.embeddings(), 2, 1e-2
    ends = []
    for step in (1 + size, 1 - size):
        scaled = embeddings.clone()
        scaled[place] *= step
        with torch.no_grad():
            ends.append(float(found.score(scaled[None])[0]))
    assert explain.gradient_x_input(lm, TEXT, WRITTEN).scores[place] == pytest.approx((ends[0] - ends[1]) / (2 * size), rel=0.03, abs=2e-3)


@pytest.mark.parametrize("part, path, head", [("cross", "model.decoder.layers.1.encoder_attn", 3), ("encoder", "model.encoder.layers.1.self_attn", 1),
                                              ("decoder", "model.decoder.layers.1.self_attn", 3)])
def test_ablation_in_each_part_equals_zeroing_the_output_matrix(built, part, path, head):
    lm = built("MarianMTModel")
    weight, d_head, clean = lm.model.get_submodule(path).out_proj.weight, 20 if part == "encoder" else 10, logprobs(lm)
    kept = weight.detach().clone()
    weight.data[:, head * d_head:(head + 1) * d_head] = 0
    brute = logprobs(lm)
    weight.data.copy_(kept)
    with explain.ablate(lm, [(1, head)], part=part):
        assert torch.allclose(logprobs(lm), brute, atol=1e-5)
    assert not torch.allclose(brute, clean, atol=1e-4) and torch.equal(logprobs(lm), clean)
    if part == "cross":
        with explain.ablate(lm, [(1, head)]):
            assert torch.allclose(logprobs(lm), brute, atol=1e-5)


def test_faithfulness_of_a_translation(built):
    lm = built("MarianMTModel")
    found = explain.faithfulness(lm, TEXT, explain.occlusion(lm, TEXT, WRITTEN), output="logprob", n_random=3)
    assert np.isfinite([found.comprehensiveness, found.sufficiency, *found.random]).all()
    if found.best:
        assert found.comprehensiveness <= found.best[0] + 1e-6


# --- what does not apply, and bad targets ---


@pytest.mark.parametrize("name", ONE_STACK)
def test_methods_for_one_stack_say_why_they_do_not_apply(built, name):
    with pytest.raises(ValueError, match=rf"{name} follows one stack.*cross-attention.*Use .*不适用"):
        ONE_STACK[name](built("MarianMTModel"), TEXT, WRITTEN)


@pytest.mark.parametrize("target, message", [
    (None, "give target=.*the text that its decoder writes.*译文"), ((3, "a"), "give target="), (" ", "give target="), ((WRITTEN, 99), "below"),
    ((WRITTEN, True), "below"), ((WRITTEN, 0, 5000), "token must be"), ("Tom " * 200, "at most 96")])
def test_bad_targets(built, target, message):
    with pytest.raises(ValueError, match=message):
        explain.occlusion(built("MarianMTModel"), TEXT, target)


def test_parts_that_are_not_there(built):
    lm = built("MarianMTModel")
    for heads, options, message in (([(3, 0)], {}, "no head 0 in layer 3"), ([(0, 2)], {"part": "encoder"}, "no head 2"),
                                    ([(0, 0)], {"part": "self"}, "part must be one of"), ([(0, 0)], {"how": "mean", "reference": [TEXT]}, "how='zero'")):
        with pytest.raises(ValueError, match=message):
            explain.ablate(lm, heads, **options)
    one = SimpleNamespace(model=transformers.GPT2LMHeadModel(transformers.GPT2Config(vocab_size=320, n_embd=16, n_layer=1, n_head=2)), tokenizer=lm.tokenizer)
    with pytest.raises(ValueError, match="in a model of two stacks"):
        explain.ablate(one, [(0, 0)], part="cross")
