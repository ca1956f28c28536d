"""Chapter 04: what the notebook builds equals the library or a slow computation by hand, and planted mistakes are seen.

The code under test is that of the notebook: its cells are run here by their ids.
"""

import copy
import json
import math
import runpy
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools"))

import nbfile

NOTEBOOK = ROOT / "notebooks" / "en" / "04-fine-tuning.ipynb"
CELLS = {cell["id"]: cell["source"] for cell in nbfile.read(NOTEBOOK)["cells"] if cell["cell_type"] == "code"}


def run(space, *ids):
    """Runs cells of the notebook in `space`."""
    for id in ids:
        exec(compile(CELLS[id], f"<cell {id}>", "exec"), space)
    return space


@pytest.fixture(scope="module")
def chapter():
    return run({}, *"setup claim task stack tuned fresh fit lora adapt example translating rows tune log-prob dpo dpo-data".split())


# -- reading -------------------------------------------------------------------------------------------------------------


def test_padding_changes_no_result(chapter):
    """A short row gives the same logits alone and beside a long one; counted padding would change the mean."""
    short, long = ([5, 6, 7], 1), ([5, 6, 7, 8, 9, 10, 11, 12], 0)
    net = chapter["fresh"](0, 2, pool=True).eval()
    with torch.no_grad():
        alone, beside = net(*chapter["stack"]([short])[:2]), net(*chapter["stack"]([short, long])[:2])[:1]
        ids, mask, _ = chapter["stack"]([short, long])
        counted = net(ids, torch.ones_like(mask))[:1]
    assert torch.allclose(alone, beside, atol=1e-5)
    assert not torch.allclose(alone, counted, atol=1e-3)


def test_the_stored_results_are_made_by_the_functions_of_the_notebook(chapter):
    """The same rows, the same seed and few steps: the script and the notebook end with the same weights."""
    script = runpy.run_path(str(ROOT / "tools" / "results" / "04.py"))
    rows = chapter["tagged"](12, 10**6)
    assert rows == script["tagged"](12, 10**6, chapter["tokenizer"])
    for pretrained in (True, False):
        ours = chapter["fresh"](3, 6, pretrained=pretrained)
        theirs = script["fresh"](3, 6, pretrained=pretrained)
        chapter["fit"](ours, rows, steps=3)
        script["fit"](theirs, rows, chapter["tokenizer"].pad_token_id, steps=3)
        assert (ours.head.weight - theirs.head.weight).abs().max() < 1e-5
        other = chapter["fit"](chapter["fresh"](4, 6, pretrained=pretrained), rows, steps=3)
        assert (ours.head.weight - other.head.weight).abs().max() > 1e-3


def test_stored_results_hold_five_seeds_at_each_size():
    found = json.loads((ROOT / "notebooks" / "results" / "04.json").read_text(encoding="utf-8"))["results"]
    for test in ("tags known", "tags new", "reviews known"):
        for start in ("pretrained", "scratch"):
            table = found[f"{test} {start}"]
            assert len(table) == len(found["sizes"][test.split()[0]])
            assert all(len(row) == len(found["seeds"]) == 5 and all(0 <= value <= 1 for value in row) for row in table)


# -- LoRA ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["Linear", "Conv1D"])
def test_a_merged_detour_is_the_same_function(chapter, kind):
    """W + alpha / r * B A, transposed for Conv1D, gives what the detour gives; without the scale it does not."""
    torch.manual_seed(0)
    linear = torch.nn.Linear(5, 7) if kind == "Linear" else chapter["Conv1D"](7, 5)
    x = torch.randn(3, 5)
    plain = linear(x).detach()
    detour = chapter["LoRA"](linear, rank=2, alpha=6)
    assert torch.equal(detour(x), plain), "B starts at zero, so nothing changes at first"
    detour.B.data.normal_()
    wanted = detour(x).detach()
    for scale, same in ((3.0, True), (1.0, False), (6.0, False)):
        merged = copy.deepcopy(linear)
        change = scale * (detour.B @ detour.A).detach()
        merged.weight.data += change if kind == "Linear" else change.T
        assert torch.allclose(merged(x), wanted, atol=1e-5) is same


def test_only_detours_and_head_learn(chapter):
    net = chapter["fresh"](0, 6)
    chapter["adapt"](net.encoder)
    learned = {name.split(".")[-1] for name, p in net.encoder.named_parameters() if p.requires_grad}
    assert learned == {"A", "B"} and net.head.weight.requires_grad
    before = {name: p.detach().clone() for name, p in net.encoder.named_parameters() if not p.requires_grad}
    chapter["fit"](net, chapter["tagged"](8, 10**6), steps=2, lr=1e-2)
    assert all(torch.equal(p, before[name]) for name, p in net.encoder.named_parameters() if name in before)


# -- requests --------------------------------------------------------------------------------------------------------------


def test_only_the_reply_is_learned(chapter):
    for text, read in (("Here.", " Here."), ("这里。", "这里。")):                 # an English reply begins with a space, as its pieces do
        ids, labels = chapter["labelled"]("Please answer: Where?\n", text)
        reply = [*chapter["writer"].tokenizer(read)["input_ids"], chapter["end"]]
        assert ids[-len(reply):] == labels[-len(reply):] == reply
        assert set(labels[:-len(reply)]) == {-100} and len(ids) == len(labels)


def test_the_requests_are_those_of_the_bundled_adapter(chapter):
    """`story-gpt-instruct` was trained on, and is scored by, what the notebook shows; another seed gives another request."""
    from llmtutor.recipes import instruct

    for task in instruct.TASKS:
        for lang in ("en", "zh"):
            for seed in (-1, -2, -3):
                theirs, (asked, replies) = instruct.TASKS[task](seed, lang, True), chapter["TASKS"][task](seed, lang, True)
                assert (theirs.prompt, theirs.replies) == (chapter["request"](task, asked, lang), replies)
                assert chapter["labelled"](theirs.prompt, min(replies)) == instruct.row(chapter["writer"].tokenizer, theirs.prompt, min(replies))
            assert instruct.TASKS[task](-1, lang, True) != instruct.TASKS[task](-4, lang, True)


@pytest.mark.parametrize("task", ["continue", "answer", "translate"])
@pytest.mark.parametrize("lang", ["en", "zh"])
def test_examples_are_answerable_and_speak_of_held_out_people(chapter, task, lang):
    from llmtutor.storyworld.words import NEW_PEOPLE, PEOPLE

    for seed in range(-12, 0):
        asked, replies = chapter["TASKS"][task](seed, lang, True)
        assert asked and replies and all(replies) and "\n" not in asked
        text = asked + min(replies)
        names = {getattr(person, lang) for person in PEOPLE}
        if lang == "zh":
            assert not any(name in text for name in names if len(name) > 1 and not any(name in getattr(p, "zh") for p in NEW_PEOPLE))


# -- preferences -------------------------------------------------------------------------------------------------------------


def test_log_prob_is_the_sum_over_the_reply(chapter):
    """A slow loop over tokens agrees; a sum that includes the request does not."""
    rows = [chapter["labelled"]("Where is Tom?\n", "Tom is at home."), chapter["labelled"]("今天\n", "好。")]
    model = chapter["writer"].model
    with torch.no_grad():
        ours = chapter["log_prob"](model, rows)
        for value, (ids, labels) in zip(ours, rows, strict=True):
            logs = model(torch.tensor([ids])).logits[0].log_softmax(-1)
            every = [logs[t, ids[t + 1]].item() for t in range(len(ids) - 1)]
            slow = sum(log for t, log in enumerate(every) if labels[t + 1] != -100)
            assert value.item() == pytest.approx(slow, abs=1e-3)
            assert value.item() != pytest.approx(sum(every), abs=1e-1)


def test_dpo_has_the_gradient_of_the_paper(chapter):
    """dL / d log pi(chosen) = -beta * sigmoid(-m); a loss without the reference has another one."""
    numbers = [torch.tensor([value], requires_grad=True) for value in (-4.0, -6.0, -5.0, -5.5)]
    loss, margin = chapter["dpo"](*numbers, beta=0.5)
    loss.backward()
    weight = 0.5 / (1 + math.exp(margin.item()))
    assert margin.item() == pytest.approx(0.5 * ((-4 + 5) - (-6 + 5.5)))
    assert [n.grad.item() for n in numbers[:2]] == pytest.approx([-weight, weight])
    without, _ = chapter["dpo"](numbers[0], numbers[1], torch.zeros(1), torch.zeros(1), beta=0.5)
    assert abs(without.item() - loss.item()) > 0.01


@pytest.mark.parametrize("wrong", ["nn.functional.logsigmoid(margin.mean())", "nn.functional.logsigmoid(margin).sum()", "nn.functional.logsigmoid(margin)[0]"])
def test_the_check_of_the_loss_sees_a_wrong_mean(chapter, wrong):
    """The cell asserts that its loss is the formula's; the loss of the mean margin, the sum and the first pair alone must fail there."""
    right = "nn.functional.logsigmoid(margin).mean()"
    assert CELLS["dpo"].count(right) == 1
    with pytest.raises(AssertionError):
        exec(CELLS["dpo"].replace(right, wrong), {"nn": torch.nn, "torch": torch, "np": chapter["np"]})


def test_the_true_reward_prefers_the_chosen_reply(chapter):
    """Every chosen reply passes; a rejected one fails, except for defects that the checker of requests cannot see."""
    pairs = chapter["preferences"](range(-40, 0))
    chosen = [chapter["true_reward"](lang, pair.prompt, pair.chosen) for lang, pair in pairs]
    rejected = [chapter["true_reward"](lang, pair.prompt, pair.rejected) for lang, pair in pairs]
    assert min(chosen) == 1
    assert sum(rejected) / len(rejected) < 0.1
