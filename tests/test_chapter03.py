"""Chapter 03: its proofs reject wrong versions, stored results were made by the notebook's own code, the benchmark is fair."""
import json
import math
import re
import runpy
from pathlib import Path

import pytest
import torch
from conftest import load_benchmark
from torch.nn import functional as F

from llmtutor import checks
from llmtutor.exercises import ch03

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT / "tools" / "results" / "03.py"
CELLS = {cell["id"]: "".join(cell["source"]) for cell in json.loads((ROOT / "notebooks" / "en" / "03-pretraining.ipynb").read_text(encoding="utf-8"))["cells"]
         if cell["cell_type"] == "code"}


@pytest.fixture(scope="module")
def code():
    """What tools/results/03.py defines, and with it the functions of the notebook."""
    return runpy.run_path(str(SCRIPT))


@pytest.fixture(scope="module")
def bench():
    return load_benchmark("training")


def cell(name, until=None, **space):
    """Run one cell of the notebook by itself, or its part before `until`, and return what it defines."""
    space |= {"torch": torch, "F": F, "math": math, "nn": torch.nn}
    exec(compile(CELLS[name].split(until)[0] if until else CELLS[name], name, "exec"), space)
    return space


def tiny(code, d_vocab=20, **options):
    torch.manual_seed(0)
    return code["GPT"](d_vocab, **({"n_layers": 2, "n_heads": 2, "d_model": 8, "context": 16} | options))


# -- the stored results and the notebook ----------------------------------------------------------------------------------------

def test_the_stored_results_come_from_the_notebooks_own_functions():
    parts = dict(re.findall(r"# -- (\w+) -+\n(.*?)(?=\n# --)", SCRIPT.read_text(encoding="utf-8"), re.S))
    assert set(parts) == {"corpus", "stream", "batch", "attention", "block", "model", "loss", "schedule", "train", "pad"}
    assert {name: CELLS[name] for name in parts} == parts


def test_larger_models_have_smaller_losses_for_every_seed():
    stored = checks.stored("03")
    losses = {seed: [run["loss"] for run in sorted(stored["runs"], key=lambda run: run["width"]) if run["seed"] == seed] for seed in (0, 1, 2)}
    assert all(len(row) >= 4 and row == sorted(row, reverse=True) for row in losses.values())
    assert all(0.5 < run["loss"] < math.log(stored["d_vocab"]) for run in stored["runs"])


def test_a_changed_script_makes_the_stored_results_stale(tmp_path):
    for name in ("tools/results/03.py", "notebooks/results/03.json", *json.loads((ROOT / "notebooks/results/03.json").read_text())["uses"]):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    assert checks.stored("03", tmp_path)["runs"]
    (tmp_path / "tools/results/03.py").write_text(SCRIPT.read_text(encoding="utf-8").replace("200", "201", 1), encoding="utf-8")
    with pytest.raises(ValueError, match="other code"):
        checks.stored("03", tmp_path)


def test_the_results_script_runs_in_small(code):
    data = (torch.arange(400) % 7, torch.arange(0, 200, 7), (torch.arange(90) % 7).view(3, 30), 7)
    found = code["compute"](widths=(8,), seeds=(0, 1), steps=2, data=data)
    assert [run["seed"] for run in found["runs"]] == [0, 1] and found["runs"][0]["loss"] != found["runs"][1]["loss"]


# -- losses ---------------------------------------------------------------------------------------------------------------------

def test_mean_surprise_is_cross_entropy_and_a_mean_over_padding_is_not():
    mean_surprise = cell("losses-own")["mean_surprise"]
    logits, targets = torch.randn(6, 9), torch.tensor([3, -100, 5, 0, -100, 8])
    right = F.cross_entropy(logits, targets, ignore_index=-100)
    assert torch.isclose(mean_surprise(logits, targets), right)
    over_all = F.cross_entropy(logits, targets, ignore_index=-100, reduction="sum") / len(targets)
    counted = F.cross_entropy(logits, targets.clamp(min=0))
    assert not torch.isclose(over_all, right) and not torch.isclose(counted, right)


def test_the_loss_is_shifted_and_leaves_padding_out(code):
    model = tiny(code)
    rows = torch.randint(1, 20, (3, 9))
    logits, loss = model(rows[:, :-1]), code["next_token_loss"]
    assert torch.isclose(loss(model, rows), F.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten()))
    assert not torch.isclose(loss(model, rows), F.cross_entropy(logits.flatten(0, 1), rows[:, :-1].flatten()))         # no shift
    padded = torch.cat([rows, torch.full((3, 4), -100)], 1)
    assert torch.isclose(loss(model, padded), loss(model, rows), atol=1e-6)
    assert not torch.isclose(loss(model, padded.clamp(min=0)), loss(model, rows), atol=1e-3)                           # padding counted


def test_the_comparison_with_the_library_rejects_an_unshifted_loss():
    own, library = CELLS["losses-own"], CELLS["losses-library"]
    wrong = library.replace('"causal": ids[:, 1:]', '"causal": ids')
    assert wrong != library
    exec(own + "\n" + library + "\n" + CELLS["losses-compare"], {"torch": torch})
    with pytest.raises(AssertionError):
        exec(own + "\n" + wrong + "\n" + CELLS["losses-compare"], {"torch": torch})


def test_hidden_places_are_the_ones_asked_for():
    space = cell("masked-hide", used=range(50))
    rows = torch.randint(50, (40, 100))
    inputs, labels = space["hide"](rows, torch.Generator().manual_seed(0))
    asked = labels != -100
    assert torch.equal(labels[asked], rows[asked]) and torch.equal(inputs[~asked], rows[~asked])
    assert 0.22 < asked.float().mean() < 0.28
    hidden = (inputs[asked] == space["MASK"]).float().mean()
    kept = (inputs[asked] == rows[asked]).float().mean()
    assert 0.76 < hidden < 0.84 and 0.07 < kept < 0.15                     # 10 %, and the random tokens that are right by chance


# -- model, batches, schedule, clipping -----------------------------------------------------------------------------------------

def test_the_causal_model_cannot_look_ahead_and_the_other_can(code):
    rows = torch.randint(20, (2, 9))
    changed = rows.clone()
    changed[:, -1] = (changed[:, -1] + 1) % 20
    for causal in (True, False):
        model = tiny(code, causal=causal)
        assert torch.equal(model(rows)[:, :-1], model(changed)[:, :-1]) is causal


def test_places_matter(code):
    model = tiny(code)
    assert not torch.allclose(model(torch.tensor([[1, 2, 3]]))[0, -1], model(torch.tensor([[2, 1, 3]]))[0, -1], atol=1e-6)


def test_batches_begin_at_documents_and_depend_on_the_step_alone(code):
    documents = [[9, 9, 5], [7], [8, 8], [6, 5, 6, 5]] * 9
    used, stream, starts = code["join"](documents, 2)
    assert used.tolist() == [2, 5, 6, 7, 8, 9] and (stream[starts] == 0).all() and len(starts) == len(documents) + 1
    assert torch.equal(used[stream], torch.tensor([i for ids in documents for i in [2, *ids]] + [2]))
    batch = code["make_batch"]
    one = batch(stream, starts, 3, size=5, length=8)
    assert one.shape == (5, 9) and (one[:, 0] == 0).all()
    assert torch.equal(one, batch(stream, starts, 3, size=5, length=8))
    assert not torch.equal(one, batch(stream, starts, 4, size=5, length=8)) and not torch.equal(one, batch(stream, starts, 3, size=5, length=8, seed=1))


def test_rows_are_padded_behind_the_closing_end(code):
    assert code["pad"]([[5], [7, 9]], torch.tensor([2, 5, 7, 9]), 2).tolist() == [[0, 1, 0, -100], [0, 2, 3, 0]]


def test_the_schedule_is_the_librarys_and_others_are_not(code):
    from transformers import get_cosine_schedule_with_warmup
    library = get_cosine_schedule_with_warmup(torch.optim.SGD([torch.zeros(1)], lr=1.0), 30, 200).lr_lambdas[0]

    def distance(schedule):
        return max(abs(schedule(step, 200) - library(step)) for step in range(201))

    own = code["schedule"]
    assert distance(own) < 1e-12
    assert distance(lambda step, steps: own(step + 1, steps)) > 1e-3                                                   # off by one
    assert distance(lambda step, steps: 0.5 * (1 + math.cos(math.pi * step / steps))) > 0.5                            # no warm-up
    assert distance(lambda step, steps: min(1.0, step / 30)) > 0.5                                                     # no decay


def test_clipping_is_the_librarys_and_clipping_by_number_is_not():
    clip = cell("clip", until="\n\nnext_token_loss")["clip"]                  # the rest compares it on the notebook's model
    gradients = [torch.tensor([[3.0, -4.0]]), torch.tensor([12.0])]
    parameters = [torch.nn.Parameter(torch.zeros_like(g)) for g in gradients]
    for p, g in zip(parameters, gradients):
        p.grad = g.clone()
    torch.nn.utils.clip_grad_norm_(parameters, 2.0)
    ours, length = clip(gradients, 2.0)
    assert length == 13 and all(torch.allclose(a, p.grad, atol=1e-6) for a, p in zip(ours, parameters))
    assert not torch.allclose(gradients[1].clamp(-2, 2), parameters[1].grad)
    assert all(torch.equal(a, b) for a, b in zip(clip(gradients, 50.0)[0], gradients))


def test_adamw_is_the_librarys_and_its_usual_mistakes_are_not():
    gradients = torch.randn(6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * torch.tensor([1, 1000, 0.01, 1])
    theta = torch.nn.Parameter(torch.ones(4, dtype=torch.float64))
    adam = torch.optim.AdamW([theta], lr=0.1, betas=(0.9, 0.98), weight_decay=0.01)
    for theta.grad in gradients:
        adam.step()

    def distance(right, wrong):
        assert right in CELLS["adam-own"]
        space = {"torch": torch}
        exec(CELLS["adam-own"].replace(right, wrong), space)
        return (space["adamw"](torch.ones(4, dtype=torch.float64), gradients, 0.1)[-1] - theta).abs().max()

    assert distance("theta", "theta") < 1e-12
    assert distance("v_hat.sqrt()", "v_hat") > 1e-3 and distance(" + decay * theta", "") > 1e-3
    assert distance("m / (1 - betas[0] ** s)", "m") > 1e-3 and distance("betas[1] * v + (1 - betas[1]) * g**2", "g**2") > 1e-3


def test_words_are_counted_as_chapter_01_counts_them():
    import llmtutor as lt
    source = CELLS["contest"].split("\n\nchapter01")[0]
    space = {"lt": lt}
    exec(source, space)
    theirs = runpy.run_path(str(ROOT / "tools" / "results" / "01.py"))["words"]
    for lang in ("en", "zh"):
        texts = [lt.storyworld.short(seed, lang).text for seed in range(-20, 0)]
        assert all(space["n_words"](text) == len(theirs(text, lang)) + 1 for text in texts)
        assert any(space["n_words"](text) != len(text.split()) + 1 for text in texts)                                   # signs count, too


def test_the_loop_learns_and_watches(code):
    stream = torch.arange(600) % 6
    seen = []
    model = tiny(code, d_vocab=6, context=32)
    curve = code["train"](model, lambda step: code["make_batch"](stream, torch.arange(0, 500, 6), step, 4, 32), 60, 0.02, watch=lambda step, _: seen.append(step))
    assert seen == list(range(1, 61)) and len(curve) == 60 and curve[-1] < 0.3 < 1.5 < curve[0]


# -- exercises: what the issue names --------------------------------------------------------------------------------------------

@pytest.mark.parametrize("id, symptom", [("03.1", "no shift"), ("03.2", "padding counts"), ("03.2", "mean of means"), ("03.4", "later spans slip"), ("03.6", "each number by itself")])
def test_the_typical_mistakes_are_named(id, symptom):
    task = checks.exercise(id)
    result = checks.examine(task, task.wrong[symptom])
    assert result.status == "fail" and result.hint.symptom == symptom


def test_exercise_schedule_is_the_librarys():
    from transformers import get_linear_schedule_with_warmup
    library = get_linear_schedule_with_warmup(torch.optim.SGD([torch.zeros(1)], lr=1.0), 7, 40).lr_lambdas[0]
    assert all(abs(ch03.linear_schedule(step, 40, 7) - library(step)) < 1e-12 for step in range(50))
    assert any(abs(ch03._jump(step, 40, 7) - library(step)) > 0.1 for step in range(50))


# -- the loss with a backward pass by hand ------------------------------------------------------------------------------------------

SLIPS = {
    "padding counts": ("(targets >= 0).to", "(targets >= -100).to"),
    "sum, not mean": ("[:, None] / n", "[:, None] / 1"),
    "logits for p": ("log_p.exp_()", "log_p"),
    "the right token is pushed down": ("right, -asked)", "right, asked)"),
    "only the last piece is learned from": ("sum(to_head)", "to_head[-1]"),
    "the mean of a piece, not of the batch": ("piece(h, head, t, n)", "piece(h, head, t, (t >= 0).sum())"),
    "what comes from above is lost": ("above * to_hidden, above * to_head", "to_hidden, to_head"),
}


def plant(slip, source, space):
    """Run code in `space`, with a slip planted where one is given as (right, wrong)."""
    if slip:
        assert slip[0] in source
        source = source.replace(*slip)
    exec(source, space)
    return space


def head_loss(slip, space):
    """The loss that the two cells define, with the slip of this name or none."""
    return plant(SLIPS.get(slip), CELLS["lean-piece"] + "\n\n" + CELLS["lean-head"], space)["HeadLoss"].apply


def space_of_the_checks(code):
    """What the notebook's checks of the two sections need, in small."""
    test = torch.randint(20, (100, 17), generator=torch.Generator().manual_seed(1))
    test[::3, 3:] = -100
    return {**code, "test": test, "used": range(20), "model": tiny(code)}


@pytest.mark.parametrize("slip", [None, *SLIPS])
def test_the_backward_pass_by_hand_is_the_librarys(slip):
    torch.manual_seed(0)
    hidden, head, targets = torch.randn(1300, 6, dtype=torch.float64) * 20, torch.randn(9, 6, dtype=torch.float64), torch.randint(9, (1300,))
    targets[::7] = -100                                                                     # and some p are 0 in float32

    def run(loss):
        copies = [hidden.clone().requires_grad_(), head.clone().requires_grad_()]
        value = loss(*copies, targets)
        (3 * value).backward()
        return value.detach(), *(copy.grad for copy in copies)

    wanted = run(lambda hidden, head, targets: F.cross_entropy(hidden @ head.T, targets, ignore_index=-100))
    found = run(head_loss(slip, {"torch": torch}))
    assert all(map(torch.allclose, found, wanted)) == (slip is None)


def test_only_the_lean_loss_keeps_no_table_of_logits():
    hidden, head, targets = torch.randn(1024, 4, requires_grad=True), torch.randn(3000, 4, requires_grad=True), torch.arange(1024)

    def largest(loss):
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda kept: sizes.append(kept.numel()) or kept, lambda kept: kept):
            loss(hidden, head, targets)
        return max(sizes)

    assert largest(head_loss(None, {"torch": torch})) == head.numel()
    assert largest(lambda hidden, head, targets: F.cross_entropy(hidden @ head.T, targets)) == 1024 * 3000


def test_the_notebooks_check_of_the_lean_loss_rejects_a_wrong_gradient(code):
    space = space_of_the_checks(code)
    for cell_id in ("lean-piece", "lean-head", "lean-loss", "lean-check"):
        exec(CELLS[cell_id], space)
    for slip in SLIPS:
        head_loss(slip, space)
        if slip != "what comes from above is lost":                   # there is nothing above this loss
            with pytest.raises(AssertionError):
                exec(CELLS["lean-check"], space)


# -- attention by halves --------------------------------------------------------------------------------------------------------

HALVES_SLIPS = {
    "the late half sees itself only": ("attention(q[:, half:], k, v, mask[half:])", "attention(q[:, half:], k[:, half:], v[:, half:], mask[half:, half:])"),
    "the late half has the mask of the early one": ("mask[half:])", "mask[:len(q[0]) - half])"),
    "the early half sees what comes": ("k[:, :half], v[:, :half], mask[:half, :half]", "k, v, 0 * mask[half:half + half].nan_to_num(neginf=0)"),
    "halves in the wrong order": ("[early, late]", "[late, early]"),
}


@pytest.mark.parametrize("n", [1, 2, 7, 16])
@pytest.mark.parametrize("slip", [None, *HALVES_SLIPS])
def test_attention_by_halves_is_attention(code, slip, n):
    space = plant(HALVES_SLIPS.get(slip), CELLS["halves"], dict(code))
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 6, n, 4, dtype=torch.float64)
    mask = torch.zeros(n, n, dtype=torch.float64).masked_fill(torch.ones(n, n).triu(1).bool(), -math.inf)
    wanted = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    assert torch.allclose(code["attention"](q, k, v, mask), wanted)
    try:
        same = torch.allclose(space["attention_by_halves"](q, k, v, mask), wanted)
    except RuntimeError:                                              # a slip whose shapes do not fit is noticed, too
        same = False
    assert same if slip is None else not same or n == 1               # one token has only one half


def test_attention_by_halves_computes_a_quarter_fewer_scores(code):
    computed = []
    space = {**code, "attention": lambda q, k, v, mask: computed.append(q.shape[1] * k.shape[1]) or code["attention"](q, k, v, mask)}
    exec(CELLS["halves"], space)
    space["attention_by_halves"](*torch.randn(3, 6, 16, 4), torch.zeros(16, 16))
    assert sum(computed) == 3 * 16 * 16 // 4 and len(computed) == 2


@pytest.mark.parametrize("slip", HALVES_SLIPS)
def test_the_notebooks_check_of_the_halves_rejects_wrong_ones(code, slip):
    space = space_of_the_checks(code)
    for cell_id in ("lean-piece", "lean-head", "lean-loss", "lean-check", "halves", "halves-switch", "halves-check"):
        exec(CELLS[cell_id], space)
    plant(HALVES_SLIPS[slip], CELLS["halves"], space)
    with pytest.raises(AssertionError):
        exec(CELLS["halves-check"], space)


def test_the_claim_about_the_masked_model_is_rejected_where_halves_change_nothing(code):
    import llmtutor as lt

    space = {**code, "lt": lt, "MODEL": "story-gpt", "filler": tiny(code, causal=False), "masked_batch": lambda step: torch.randint(20, (2, 4, 16))}
    exec(CELLS["halves-switch"], space)
    space["attention_by_halves"] = space["attention"]
    with pytest.raises(AssertionError, match="guesses worse"):
        exec(CELLS["halves-wrong"], space)


# -- the benchmark --------------------------------------------------------------------------------------------------------------

SMALL = {"vocabulary": 32, "layers": 1, "heads": 2, "width": 8, "context": 8}


def test_the_benchmarks_models_have_the_same_shape_and_all_learn(bench):
    found = bench.models(SMALL)
    assert len({bench.parameters(model) for model, *_ in found.values()}) == 1 and len(found) == 4
    ways = {name: (model.blocks[0].attention.__name__, loss.__name__) for name, (model, loss, _) in found.items() if name.startswith("course")}
    assert ways == {"course": ("attention_by_halves", "lean_loss"), bench.PLAIN_LOSS: ("attention_by_halves", "next_token_loss"),
                    bench.PLAIN_ATTENTION: ("attention", "lean_loss")}
    rows = torch.arange(36).view(4, 9) % 4
    for model, loss, adam in found.values():
        _, first = bench.seconds(model, loss, adam, [rows])
        _, last = bench.seconds(model, loss, adam, [rows] * 200)
        assert last < first - 1


def test_speeds_are_compared_within_a_round(bench):
    speeds = bench.measure(bench.models(SMALL), steps=2, rounds=3, batch=2, length=8, vocabulary=32)
    assert {len(each) for each in speeds.values()} == {3} and len(speeds) == 4 and min(map(min, speeds.values())) > 0
    made_up = {"course": [10.0, 20.0, 30.0], "other": [5.0, 10.0, 30.0]}                     # a machine whose speed changes threefold
    assert bench.ratios(made_up) == {"other": (2.0, 1.0, 2.0)}
    (asked,) = bench.WANTED
    assert "wanted: reached" in bench.report({"course": [12.1], asked: [10.0]}, {"course": 1, asked: 1})
    assert "NOT reached" in bench.report({"course": [11.9], asked: [10.0]}, {"course": 1, asked: 1})
    assert "reached" not in bench.report({"course": [11.0], bench.PLAIN_LOSS: [10.0]}, {"course": 1, bench.PLAIN_LOSS: 1})     # itself: nothing was wanted


def test_attention_is_timed_alone_in_three_ways(bench):
    found = bench.attention_seconds(SMALL, batch=2, length=8, repeats=2)
    assert list(found) == ["attention", "attention_by_halves", "scaled_dot_product_attention"] and all(0 < least < 60 for least in found.values())


def test_nanogpt_is_taken_from_the_folder_given(bench, tmp_path):
    with pytest.raises(FileNotFoundError, match="model.py"):
        bench.models(SMALL, tmp_path)
    (tmp_path / "model.py").write_text(STANDIN)
    found = bench.models(SMALL, tmp_path)
    assert list(found) == ["course", bench.PLAIN_LOSS, bench.PLAIN_ATTENTION, "transformers GPT-2", "nanoGPT"]
    model, loss, adam = found["nanoGPT"]
    assert bench.seconds(model, loss, adam, [torch.randint(32, (2, 9))])[1] == pytest.approx(math.log(32), abs=1.5)


STANDIN = '''
from dataclasses import dataclass
import torch
from torch.nn import functional as F

@dataclass
class GPTConfig:
    block_size: int
    vocab_size: int
    n_layer: int
    n_head: int
    n_embd: int
    dropout: float
    bias: bool

class GPT(torch.nn.Module):
    def __init__(self, config):
        super().__init__()
        self.table = torch.nn.Embedding(config.vocab_size, config.vocab_size)

    def forward(self, ids, targets):
        logits = self.table(ids)
        return logits, F.cross_entropy(logits.flatten(0, 1), targets.flatten())
'''
"""A model with the interface of nanoGPT's, written for this test."""
