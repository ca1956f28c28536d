"""Chapter 02: its proofs reject wrong versions, its exercises reject wrong answers, its two editions say the same numbers.

Each proof of the notebook is run here from the notebook's own cells: once as it stands, and once with a mistake planted in the
code that it is about. The second run must fail, so that a proof which would accept anything is found.
"""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from llmtutor import checks
from llmtutor.exercises import ch02

ROOT = Path(__file__).resolve().parents[1]
NAME = "02-attention-and-transformer.ipynb"
CELLS = {
    cell["id"]: "".join(cell["source"])
    for cell in json.loads((ROOT / "notebooks" / "en" / NAME).read_text(encoding="utf-8"))["cells"]
    if cell["cell_type"] == "code"
}
PROOF_FAILS = (AssertionError, RuntimeError)


def run(cells, space=None, **mistakes):
    """Executes these cells in one namespace; `mistakes` maps a cell's id (with _ for -) to (right text, wrong text)."""
    import matplotlib

    matplotlib.use("Agg")
    space = {"__name__": "chapter"} if space is None else space
    for id in cells:
        source = CELLS[id]
        right, wrong = mistakes.get(id.replace("-", "_"), ("", ""))
        assert right in source, f"{id} no longer holds {right!r}: plant the mistake elsewhere"
        exec(compile(source.replace(right, wrong) if right else source, f"<{id}>", "exec"), space)
    return space


@pytest.fixture(scope="module")
def loaded():
    """The set-up cell run once; every test works on a copy of its names."""
    return run(["setup"])


ATTENTION = ["attention", "sdpa"]
WRONG_ATTENTION = {
    "unscaled": (" / q.shape[-1] ** 0.5", ""),
    "divided by d": ("** 0.5", "** 1.0"),
    "query and key swapped": ("q @ k.transpose(-2, -1)", "k @ q.transpose(-2, -1)"),
    "softmax over the wrong axis": ("softmax(dim=-1)", "softmax(dim=-2)"),
    "mask inverted": ("~allowed", "allowed"),
    "mask forgotten": ("allowed is not None", "False"),
    "zero for infinity": ('float("-inf")', "0.0"),
}


def _attention_space(loaded):
    import torch

    space = dict(loaded)
    space["q"] = space["k"] = space["v"] = torch.ones(4, 2)
    space["allowed"] = torch.ones(4, 4, dtype=torch.bool).tril()
    return space


def test_own_attention_equals_the_library(loaded):
    run(ATTENTION, _attention_space(loaded))


@pytest.mark.parametrize("mistake", WRONG_ATTENTION, ids=str)
def test_the_proof_rejects_a_wrong_attention(loaded, mistake):
    with pytest.raises(PROOF_FAILS):
        run(ATTENTION, _attention_space(loaded), attention=WRONG_ATTENTION[mistake])


@pytest.mark.parametrize("diagonal", ["tril(-1)", "tril(1)", "triu()"])
def test_the_proof_rejects_an_off_by_one_mask(loaded, diagonal):
    with pytest.raises(PROOF_FAILS):
        run(ATTENTION, _attention_space(loaded), sdpa=("tril()", diagonal))


# --- the tokenizer ----------------------------------------------------------------------------------------------------

BPE = ["gpt2-letters", "bpe-words", "bpe-learn", "bpe-count", "bpe-run", "bpe-encode", "bpe-library", "bpe-equal"]
WRONG_BPE = {
    "merges in the wrong order": ("for pair in merges:", "for pair in merges[::-1]:"),
    "last merges forgotten": ("for pair in merges:", "for pair in merges[:40]:"),
    "merges in alphabetical order": ("for pair in merges:", "for pair in sorted(merges):"),
}


@pytest.mark.parametrize("mistake", [None, *WRONG_BPE], ids=str)
def test_own_bpe_equals_tokenizers_and_a_wrong_one_does_not(loaded, mistake):
    if mistake is None:
        run(BPE, dict(loaded))
    else:
        with pytest.raises(PROOF_FAILS):
            run(BPE, dict(loaded), bpe_encode=WRONG_BPE[mistake])


def test_a_character_costs_three_pieces_only_without_its_language(loaded):
    space = run([*BPE, "cost-zh"], dict(loaded))
    space["merges"] = space["learn"](dict.fromkeys(re.findall(space["WORD"], "".join(space["stories"]["zh"][:30])), 1), 200)
    with pytest.raises(AssertionError):  # learned from Chinese, the same program no longer pays three
        run(["cost-zh"], space)


# --- scale, order, positions ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mistake", [None, ("dots / d ** 0.5", "dots / d"), ("dots / d ** 0.5", "dots")], ids=str)
def test_variance_of_scores(loaded, mistake):
    if mistake is None:
        run(["scale"], dict(loaded))
    else:
        with pytest.raises(AssertionError):
            run(["scale"], dict(loaded), scale=mistake)


WRONG_ROTARY = {
    "query not turned": ("rotary-proof", ("rotate(query.expand(60, 64), t)", "query.expand(60, 64)")),
    "key turned the other way": ("rotary-proof", ("rotate(key.expand(60, 64), t)", "rotate(key.expand(60, 64), -t)")),
    "position added": ("rotary", ("pairs * torch.polar(torch.ones_like(angle), angle)", "pairs + torch.polar(torch.ones_like(angle), angle)")),
    "no turn at all": ("rotary", ("[..., None] * theta", "[..., None] * theta * 0")),
    "not linear in the place": ("rotary", ("[..., None] * theta", "[..., None] ** 2 * theta")),
}


@pytest.mark.parametrize("mistake", [None, *WRONG_ROTARY], ids=str)
def test_rotary_scores_depend_on_distance_only(loaded, mistake):
    if mistake is None:
        run(["rotary", "rotary-try", "rotary-proof"], dict(loaded))
    else:
        cell, change = WRONG_ROTARY[mistake]
        with pytest.raises(AssertionError):
            run(["rotary", "rotary-try", "rotary-proof"], dict(loaded), **{cell.replace("-", "_"): change})


@pytest.mark.parametrize("mistake", [None, ("10000 **", "1000 **"), ("angle.sin(), angle.cos()", "angle.cos(), angle.sin()")], ids=str)
def test_sinusoidal_positions(loaded, mistake):
    if mistake is None:
        run(["sinus"], dict(loaded))
    else:
        with pytest.raises(AssertionError):
            run(["sinus"], dict(loaded), sinus=mistake)


# --- heads, layer norm, the GPT ---------------------------------------------------------------------------------------

WRONG_HEADS = {
    "heads interleaved": ("x.unflatten(-1, (n_heads, -1)).transpose(-3, -2)", "x.unflatten(-1, (-1, n_heads)).movedim(-1, -3)"),
    "merged without moving the axis": ("x.transpose(-3, -2).flatten(-2)", "x.reshape(*x.shape[:-3], x.shape[-2], -1)"),
    "mask forgotten": ("split(v, n_heads), allowed)", "split(v, n_heads))"),
}


@pytest.mark.parametrize("mistake", [None, *WRONG_HEADS], ids=str)
def test_own_heads_equal_the_library(loaded, mistake):
    space = run(ATTENTION, _attention_space(loaded))
    if mistake is None:
        run(["heads", "heads-library"], space)
    else:
        with pytest.raises(PROOF_FAILS):
            run(["heads", "heads-library"], space, heads=WRONG_HEADS[mistake])


@pytest.mark.parametrize("mistake", [None, ("mean(-1, keepdim=True)", "mean(0, keepdim=True)"), (".sqrt()", ""), ("** 2).mean(-1", "** 2 * 12 / 11).mean(-1")], ids=str)
def test_own_layer_norm_equals_the_library(loaded, mistake):
    if mistake is None:
        run(["layer-norm"], dict(loaded))
    else:
        with pytest.raises(AssertionError):
            run(["layer-norm"], dict(loaded), layer_norm=mistake)


GPT = ["heads", "self-attention", "block", "gpt", "load", "equal"]
WRONG_GPT = {
    "unscaled": {"attention": WRONG_ATTENTION["unscaled"]},
    "query and key swapped": {"attention": WRONG_ATTENTION["query and key swapped"]},
    "mask sees the next token": {"self_attention": (".tril()", ".tril(1)")},
    "no residual around attention": {"block": ("x = x + self.attention", "x = self.attention")},
    "norm after, not before": {"block": ("x + self.attention(self.norm1(x))", "self.norm1(x + self.attention(x))")},
    "other activation": {"block": ('nn.GELU("tanh")', "nn.ReLU()")},
    "exact GELU": {"block": ('nn.GELU("tanh")', "nn.GELU()")},
    "no positions": {"gpt": (" + self.place(torch.arange(ids.shape[1]))", "")},
    "no last norm": {"gpt": ("self.unembed(self.norm(self.blocks(x)))", "self.unembed(self.blocks(x))")},
    "matrices not transposed": {"load": ("weight.T if", "weight if")},
}


@pytest.fixture(scope="module")
def stories():
    from llmtutor import storyworld

    return {lang: [storyworld.story(-1, lang).text] for lang in ("en", "zh")}


@pytest.mark.parametrize("mistake", [None, *WRONG_GPT], ids=str)
def test_own_gpt_equals_the_library_and_a_wrong_one_does_not(loaded, stories, mistake):
    space = _attention_space(loaded) | {"fresh": stories}
    if mistake is None:
        run(["attention", *GPT], space)
        import torch

        ids = space["ids_of"](stories["en"][0])
        later = ids.clone()
        later[0, -1] = 5
        with torch.no_grad():
            assert torch.allclose(space["gpt"](ids)[0, :-1], space["gpt"](later)[0, :-1], atol=1e-4)
    else:
        with pytest.raises(PROOF_FAILS):
            run(["attention", *GPT], space, **WRONG_GPT[mistake])


# --- exercises --------------------------------------------------------------------------------------------------------


def test_the_mistakes_that_the_chapter_warns_of_are_among_the_wrong_answers():
    known = {symptom for task in ch02.EXERCISES for symptom in task.wrong}
    assert {"not scaled", "query and key swapped", "softmax over the wrong axis", "off by one: itself forbidden",
            "off by one: sees the next token"} <= known
    assert len(ch02.EXERCISES) >= 6 and all(len(task.wrong) >= 3 for task in ch02.EXERCISES)


def test_answers_written_with_torch_pass():
    import torch

    def attention(q, k, v):
        q, k, v = (torch.as_tensor(part) for part in (q, k, v))
        return torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)

    def mask(n):
        return torch.ones(n, n).tril()

    assert checks.examine(checks.exercise("02.4"), attention).status == "pass"
    assert checks.examine(checks.exercise("02.3"), mask).status == "pass"
    norm = lambda x: torch.nn.functional.layer_norm(torch.as_tensor(x), x.shape[-1:])  # noqa: E731
    assert checks.examine(checks.exercise("02.7"), norm).status == "pass"


@pytest.mark.parametrize("when", ["whole table", "before the mask"])
def test_a_maximum_of_the_wrong_things_is_named(when):
    """Nothing overflows there: whole rows become 0. The hint must say what to subtract."""
    def attention(q, k, v):
        scores = q @ k.T / np.sqrt(q.shape[-1])
        scores = scores - (scores.max() if when == "whole table" else scores.max(-1, keepdims=True))
        weights = np.exp(np.where(np.tril(np.ones_like(scores)) > 0, scores, -np.inf))
        with np.errstate(all="ignore"):
            return weights / weights.sum(-1, keepdims=True) @ v

    hint = checks.examine(checks.exercise("02.4"), attention).hint
    assert hint.symptom == "overflow" and "after masking" in hint.en and "掩码之后" in hint.zh


@pytest.mark.parametrize("d", [2, 8])
def test_the_reference_solutions_agree_with_the_library(d):
    import torch

    q, k, v = (ch02._numbers((7, d), seed) for seed in (20, 21, 22))
    theirs = torch.nn.functional.scaled_dot_product_attention(*map(torch.as_tensor, (q, k, v)), is_causal=True).numpy()
    assert np.allclose(ch02.attention(q, k, v), theirs)
    assert not np.allclose(ch02.attention(k, q, v), theirs)
    x, weights = ch02._numbers((7, 2 * d), 23), [ch02._numbers((2 * d, 2 * d), seed) for seed in (24, 25, 26, 27)]
    library = torch.nn.MultiheadAttention(2 * d, 2, bias=False, batch_first=True, dtype=torch.float64)
    library.in_proj_weight.data = torch.as_tensor(np.concatenate([w.T for w in weights[:3]]))
    library.out_proj.weight.data = torch.as_tensor(weights[3].T.copy())
    inputs = torch.as_tensor(x)[None]
    theirs = library(inputs, inputs, inputs, attn_mask=torch.ones(7, 7, dtype=torch.bool).triu(1))[0][0].detach().numpy()
    assert np.allclose(ch02.multi_head(x, *weights, 2), theirs)
    assert ch02.utf8_bytes(ord("今")) == list("今".encode())
    assert np.isclose(ch02.rotate(q[0], 12) @ ch02.rotate(k[0], 10), ch02.rotate(q[0], 102) @ ch02.rotate(k[0], 100))


# --- the pages --------------------------------------------------------------------------------------------------------


def test_both_editions_quote_the_same_numbers():
    """A number in the English prose stands in the Chinese one too (numbers of four digits and more may have commas)."""
    def numbers(edition, id):
        cells = json.loads((ROOT / "notebooks" / edition / NAME).read_text(encoding="utf-8"))["cells"]
        text = next("".join(cell["source"]) for cell in cells if cell["id"] == id)
        return {number.replace(",", "") for number in re.findall(r"\d[\d,]*\d|\d", re.sub(r"\$[^$]*\$|`[^`]*`", "", text))}

    ids = [cell["id"] for cell in json.loads((ROOT / "notebooks" / "en" / NAME).read_text(encoding="utf-8"))["cells"]
           if cell["cell_type"] == "markdown" and cell["id"].endswith("notice")]
    assert len(ids) > 15
    for id in ids:
        assert numbers("en", id) == numbers("zh", id), id


def test_the_chapter_runs_on_another_model(tmp_path, capsys):
    """One line is changed, MODEL: a GPT-2 of another shape with random weights. What is said of story-gpt alone is then not checked."""
    import torch
    import transformers

    torch.manual_seed(0)
    tokenizer = transformers.AutoTokenizer.from_pretrained(ROOT / "llmtutor" / "bundled" / "story-gpt")
    config = transformers.GPT2Config(vocab_size=len(tokenizer), n_embd=48, n_layer=3, n_head=3, n_positions=256, initializer_range=0.2,
                                     bos_token_id=0, eos_token_id=0)
    for part in (transformers.GPT2LMHeadModel(config), tokenizer):
        part.save_pretrained(tmp_path)
    apart = ("lstm", "chain", "box", "memory", "time", "ex")  # about recurrent nets, cost and exercises: they use no MODEL
    space = run([id for id in CELLS if not re.sub(r"\d*-.*", "", id).startswith(apart) or id == "explorer"],
                setup=('MODEL = "story-gpt"', f"MODEL = {str(tmp_path)!r}"))
    out = capsys.readouterr().out
    assert out.count("not checked") > 3
    assert max(space["differences"]) < 1e-4 and space["att"].weights.shape[:2] == (3, 3)
