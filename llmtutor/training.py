"""The training loop of notebook 03, which also trains the bundled models: `python -m llmtutor.training story-gpt`.

A run is a pure function of its seed: batch number `step` depends on nothing but `step`, so a run that is interrupted goes on
from its newest checkpoint and ends with the same weights (on the same machine, with the same number of threads or processes).
"""
import argparse
import contextlib
import math
import os
import sys
import time
from pathlib import Path

import torch
from tqdm.auto import tqdm

from . import parallel


def schedule(step, steps, warmup=100, decay=0.4):
    """Give the factor on the learning rate: linear warm-up, a flat part, then a linear decay to 1 % ("trapezoid").

    Args:
        step: Number of the step, from 0.
        steps: Length of the whole run.
        warmup: Steps of the warm-up.
        decay: Share of the run in which the rate falls.

    >>> [round(schedule(step, 1000), 3) for step in (0, 99, 500, 999)]
    [0.01, 1.0, 1.0, 0.012]
    """
    falling = (steps - step) / (decay * steps)
    return min(1.0, (step + 1) / warmup, 0.01 + 0.99 * falling)


def optimizers(model, lr=3e-3, muon_lr=0.02, weight_decay=0.05, extra=()):
    """Make the two optimizers of the bundled models: Muon for the matrices inside the blocks, AdamW for everything else.

    Muon makes the update of a matrix orthogonal, which lets small models learn to look things up much sooner (Jordan et al.,
    "Muon: An optimizer for hidden layers in neural networks", 2024).

    Args:
        model: A causal language model of transformers.
        lr: Learning rate of AdamW.
        muon_lr: Learning rate of Muon.
        weight_decay: Decay of AdamW on matrices; biases and norms are not decayed.
        extra: Further parameters for AdamW (for example auxiliary heads), not decayed.

    Returns:
        A list of two optimizers.
    """
    inside = [p for name, p in model.named_parameters() if p.ndim == 2 and ".h." in name]
    known = {id(p) for p in inside}
    rest = [p for p in model.parameters() if id(p) not in known]
    adam = torch.optim.AdamW([
        {"params": [p for p in rest if p.ndim == 2], "weight_decay": weight_decay},
        {"params": [p for p in rest if p.ndim < 2] + list(extra), "weight_decay": 0.0},
    ], lr=lr, betas=(0.9, 0.98))
    return [Muon(inside, muon_lr), adam]


class Muon(torch.optim.Optimizer):
    """Momentum with orthogonal updates, in float32.

    `torch.optim.Muon` computes in bfloat16, which took seconds a step on the CPUs that we measured; this one takes
    milliseconds, since it works on all matrices of one shape at once.

    Args:
        params: Matrices (2-D parameters). The attention matrix that holds query, key and value side by side is treated as three.
        lr: Learning rate.
        momentum: Decay of the running gradient (Nesterov).
        weight_decay: Decay of the weights, times `lr`.
    """

    def __init__(self, params, lr=0.02, momentum=0.95, weight_decay=0.01):
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self):
        """Update every parameter once from its gradient."""
        for group in self.param_groups:
            shapes = {}
            for p in group["params"]:
                if p.grad is None:
                    continue
                velocity = self.state[p].setdefault("velocity", torch.zeros_like(p))
                velocity.mul_(group["momentum"]).add_(p.grad)
                p.mul_(1 - group["lr"] * group["weight_decay"])
                update = p.grad.add(velocity, alpha=group["momentum"])
                for target, part in zip(_squares(p), _squares(update)):
                    shapes.setdefault(part.shape, []).append((target, part))
            for shape, pairs in shapes.items():
                scale = group["lr"] * max(shape) ** 0.5 / min(shape) ** 0.5
                for (target, _), change in zip(pairs, _orthogonal(torch.stack([part for _, part in pairs]))):
                    target.sub_(change, alpha=scale)


def _squares(matrix):
    """Views of [d, 3 d] or [3 d, d] (query, key, value side by side) as three matrices; any other matrix as it is."""
    rows, columns = matrix.shape
    return matrix.chunk(3, dim=1) if columns == 3 * rows else matrix.chunk(3, dim=0) if rows == 3 * columns else [matrix]


def _orthogonal(matrices):
    """`orthogonal`, of which every process that trains the model does its share."""
    rank, world = parallel.place()
    if world == 1:
        return orthogonal(matrices)
    result = torch.zeros_like(matrices)
    if rank < len(matrices):
        result[rank::world] = orthogonal(matrices[rank::world])
    parallel.add_up([result])
    return result


def orthogonal(matrices, steps=5):
    """Move the singular values of matrices close to 1 by five Newton-Schulz steps (constants of Jordan et al. 2024).

    Args:
        matrices: Tensor of shape [n, rows, columns].

    Returns:
        Tensor of the same shape; singular values between about 0.7 and 1.2.
    """
    x = matrices / (matrices.norm(dim=(1, 2), keepdim=True) + 1e-7)
    tall = x.shape[1] > x.shape[2]
    x = x.mT if tall else x
    for _ in range(steps):
        gram = x @ x.mT
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x.mT if tall else x


class HeadLoss(torch.autograd.Function):
    """The weighted cross-entropy of an output layer, whose gradients are computed at once, piece by piece.

    `HeadLoss.apply(hidden, weight, target, weights)` is the sum of `weights * F.cross_entropy(hidden @ weight.T, target, reduction="none")`.
    The scores of all words never exist together, and the columns are padded to a multiple of 16, which products of matrices like
    (compare Wijmans et al., "Cut your losses in large-vocabulary language models", 2025).

    Shapes: hidden [n, width], weight [vocabulary, width], target and weights [n]. There are gradients for `hidden` and `weight`.
    """
    rows = 512

    @staticmethod
    def forward(ctx, hidden, weight, target, weights):
        """Compute the loss and, since it is a plain sum over rows, both gradients."""
        words = len(weight)
        padded = torch.nn.functional.pad(weight, (0, 0, 0, -words % 16))
        to_hidden, to_weight, total = torch.empty_like(hidden), torch.zeros_like(padded), hidden.new_zeros(())
        for piece, x, goal, share in zip(*(tensor.split(HeadLoss.rows) for tensor in (to_hidden, hidden, target[:, None], weights[:, None]))):
            scores = x @ padded.T
            scores[:, words:] = -math.inf
            scores -= scores.amax(1, keepdim=True)
            right = scores.gather(1, goal)
            odds = scores.exp_()
            sums = odds.sum(1, keepdim=True)
            total += (share * (sums.log() - right)).sum()
            odds *= share / sums
            odds.scatter_add_(1, goal, -share)
            torch.mm(odds, padded, out=piece)
            to_weight.addmm_(odds.T, x)
        ctx.save_for_backward(to_hidden, to_weight[:words])
        return total

    @staticmethod
    def backward(ctx, gradient):
        """Hand on the gradients that `forward` has computed."""
        to_hidden, to_weight = ctx.saved_tensors
        return gradient * to_hidden, gradient * to_weight, None, None


def fit(model, batch, loss, opts, steps, *, clip=1.0, checkpoint=None, every=300.0, watch=None, watch_every=500, progress=True):
    """Train `model` for `steps` steps; go on from `checkpoint` if it exists.

    Where several processes train together (`parallel.launch`) the loss of each stands for its part of the batch; losses and gradients
    are added up. The first process draws the bar and writes the checkpoints.

    Args:
        model: Any module; it is trained in place.
        batch: Function of the step number that returns the batch for it. It must depend on nothing else.
        loss: Function of (model, batch) that returns a scalar tensor and the number of tokens it stands for.
        opts: List of optimizers over disjoint parameters.
        steps: Number of steps of the whole run.
        clip: Largest norm of the gradient of the parameters that the optimizers hold.
        checkpoint: File that holds the state of the run, or None. It is replaced atomically.
        every: Seconds between two checkpoints.
        watch: Function of (step, model) that returns a dict of numbers to be shown and kept; called every `watch_every` steps.
        watch_every: Steps between two calls of `watch`.
        progress: Whether to draw a progress bar.

    Returns:
        The history: a list of dicts with step, loss, tokens, seconds and what `watch` returned.

    Raises:
        FloatingPointError: If the loss is not finite; the checkpoint before it is kept.
    """
    state = _resume(checkpoint, model, opts)
    rates = [[group["lr"] for group in opt.param_groups] for opt in opts] if not state["rates"] else state["rates"]
    state["rates"] = rates
    parameters = [p for opt in opts for group in opt.param_groups for p in group["params"]]
    model.train()
    first = parallel.place()[0] == 0
    bar = tqdm(total=steps, initial=state["step"], disable=not (progress and first), unit="step", dynamic_ncols=True)
    began, saved, mean = time.monotonic() - state["seconds"], time.monotonic(), None
    with contextlib.closing(bar):
        for step in range(state["step"], steps):
            for opt, base in zip(opts, rates):
                for group, rate in zip(opt.param_groups, base):
                    group["lr"] = rate * schedule(step, steps)
            value, tokens = loss(model, batch(step))
            total = value.detach().clone()
            parallel.add_up([total])
            if not math.isfinite(total.item()):
                raise FloatingPointError(f"the loss became {total.item()} at step {step}; lower the learning rate and resume")
            for opt in opts:
                opt.zero_grad(set_to_none=True)
            value.backward()
            parallel.add_up([p.grad for p in parameters if p.grad is not None])
            torch.nn.utils.clip_grad_norm_(parameters, clip)
            for opt in opts:
                opt.step()
            mean = total.item() if mean is None else 0.95 * mean + 0.05 * total.item()
            state["tokens"] += tokens
            state["step"], state["seconds"] = step + 1, time.monotonic() - began
            bar.update()
            bar.set_postfix_str(f"loss {mean:.3f}, {state['tokens'] / state['seconds']:,.0f} tokens/s", refresh=False)
            if watch and ((step + 1) % watch_every == 0 or step + 1 == steps):
                row = {"step": step + 1, "loss": mean, "tokens": state["tokens"], "seconds": state["seconds"]}
                state["history"].append(row | watch(step + 1, model))
                if first:
                    bar.write("  ".join(f"{key} {number:.4g}" for key, number in state["history"][-1].items()))
                model.train()
            if checkpoint and first and (time.monotonic() - saved > every or step + 1 == steps):
                _save(checkpoint, model, opts, state)
                saved = time.monotonic()
    return state["history"]


def _save(checkpoint, model, opts, state):
    checkpoint = Path(checkpoint)
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    new = checkpoint.with_suffix(".new")
    torch.save({"state": state, "model": model.state_dict(), "opts": [opt.state_dict() for opt in opts]}, new)
    os.replace(new, checkpoint)


def _resume(checkpoint, model, opts):
    if checkpoint is None or not Path(checkpoint).exists():
        return {"step": 0, "tokens": 0, "seconds": 0.0, "history": [], "rates": None}
    saved = torch.load(checkpoint, weights_only=True)
    model.load_state_dict(saved["model"])
    for opt, opt_state in zip(opts, saved["opts"]):
        opt.load_state_dict(opt_state)
    return saved["state"]


def main(argv=None):
    """Train one of the bundled models from the command line."""
    from . import recipes
    parser = argparse.ArgumentParser(prog="python -m llmtutor.training", description="Train a bundled model from its seed.")
    parser.add_argument("model", choices=sorted(recipes.RECIPES))
    parser.add_argument("--out", type=Path, help="folder for the model (default: build/NAME; the bundled one is replaced only by --out)")
    parser.add_argument("--steps", type=int, help="length of the run (default: the recipe's)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default 2, as for the bundled model); story-gpt and story-gpt-mini use as many processes instead")
    parser.add_argument("--fresh", action="store_true", help="do not go on from a checkpoint of an earlier run")
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    out = options.out or Path("build") / options.model
    try:
        recipes.RECIPES[options.model](out, seed=options.seed, steps=options.steps, fresh=options.fresh)
    except KeyboardInterrupt:
        print("\nInterrupted. The same command goes on from the newest checkpoint.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
