"""Processes that train together reach what one alone reaches, and the loss by hand is the library's."""
import multiprocessing.connection
import time

import pytest
import torch
from torch.nn import functional as F

from llmtutor import parallel, recipes, training


def train(tokenizer, folder, fault=None):
    """Six steps of a tiny model; the first process writes its weights, each the tokens that it counted."""
    rank, world = parallel.place()
    if fault == "no sum":
        parallel.add_up = lambda tensors: None
    if fault == "own batches":
        parallel.gather = lambda value: [value] * world
    torch.manual_seed(0)
    wrapped = recipes.WithLabels(recipes.new_gpt(tokenizer, layers=1, heads=2, width=16))
    opts = training.optimizers(wrapped.model, extra=[*wrapped.heads.parameters()])
    batches = recipes.Batches(tokenizer, seed=0, steps=12, size=5, group=2)
    history = training.fit(wrapped, batches, recipes.WithLabels.loss, opts, 6, progress=False, watch=lambda step, model: {}, watch_every=6,
                           checkpoint=folder / "run.pt")
    torch.save(history, folder / f"history-{rank}.pt")


@pytest.fixture(scope="module")
def tokenizer():
    return recipes.story_tokenizer(stories=300)


@pytest.fixture(scope="module")
def alone(tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    train(tokenizer, folder)
    return torch.load(folder / "run.pt", weights_only=True)


def furthest(tokenizer, folder, alone, fault=None):
    parallel.launch(train, (tokenizer, folder, fault), 2)
    state = torch.load(folder / "run.pt", weights_only=True)
    return max((state["model"][name] - alone["model"][name]).abs().max().item() for name in alone["model"]), state


def test_two_processes_learn_what_one_learns(tokenizer, alone, tmp_path):
    distance, state = furthest(tokenizer, tmp_path, alone)
    assert distance < 1e-5
    histories = [torch.load(tmp_path / f"history-{rank}.pt", weights_only=True) for rank in (0, 1)]
    for (row,) in histories:
        assert row["tokens"] == alone["state"]["tokens"] and row["loss"] == pytest.approx(alone["state"]["history"][0]["loss"], abs=1e-3)


@pytest.mark.parametrize("fault", ("no sum", "own batches"))
def test_a_faulty_exchange_is_noticed(tokenizer, alone, tmp_path, fault):
    distance, _ = furthest(tokenizer, tmp_path, alone, fault)
    assert distance > 1e-3


def test_the_recipes_train_with_as_many_processes_as_threads_are_allowed(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    monkeypatch.setattr(parallel, "launch", lambda function, arguments, processes: calls.append((function, arguments[0], processes)))
    recipes.gpt.story_gpt_mini(tmp_path / "mini", steps=2)
    assert calls == [(recipes.gpt._train, tmp_path / "mini", 3)]


def explode():
    if parallel.place()[0] == 1:
        raise ValueError("the second one fails")
    parallel.add_up([torch.ones(1)])


@pytest.mark.parametrize("late", [0, 4], ids=["at once", "noticed late"])
def test_if_one_fails_all_stop(late, monkeypatch):
    """Also where the launcher looks so late that the others would have failed for want of the first."""
    wait = multiprocessing.connection.wait
    monkeypatch.setattr(multiprocessing.connection, "wait", lambda *given, **named: time.sleep(late) or wait(*given, **named))
    with pytest.raises(torch.multiprocessing.ProcessRaisedException, match="the second one fails"):
        parallel.launch(explode, (), 2)


def test_alone_nothing_is_exchanged():
    one = torch.ones(3)
    parallel.add_up([one])
    assert one.tolist() == [1, 1, 1] and parallel.gather("it") == ["it"] and parallel.place() == (0, 1)
    seen = []
    parallel.launch(seen.append, (5,), 1)
    assert seen == [5]


def both(words, rows, loss):
    torch.manual_seed(1)
    hidden, weight = torch.randn(rows, 8, requires_grad=True), torch.randn(words, 8, requires_grad=True)
    target, weights = torch.randint(words, (rows,)), torch.rand(rows)
    value = loss(hidden, weight, target, weights)
    (3 * value).backward()
    return value.detach(), hidden.grad, weight.grad


@pytest.mark.parametrize("words, rows", ((2305, 700), (48, 1), (7, 513)))
def test_the_loss_by_hand_is_the_librarys(words, rows):
    library = both(words, rows, lambda hidden, weight, target, weights: (weights * F.cross_entropy(hidden @ weight.T, target, reduction="none")).sum())
    for ours, theirs in zip(both(words, rows, training.HeadLoss.apply), library):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    without = both(words, rows, lambda hidden, weight, target, weights: training.HeadLoss.apply(hidden, weight, target, torch.ones_like(weights)))
    assert not torch.allclose(without[0], library[0], rtol=1e-4)


def test_scores_that_would_overflow_are_no_trouble():
    hidden, weight = torch.full((2, 4), 100.0, requires_grad=True), torch.full((5, 4), 100.0, requires_grad=True)
    loss = training.HeadLoss.apply(hidden, weight, torch.tensor([0, 4]), torch.ones(2))
    loss.backward()
    assert loss.item() == pytest.approx(2 * torch.tensor(5.0).log().item()) and torch.isfinite(weight.grad).all()
