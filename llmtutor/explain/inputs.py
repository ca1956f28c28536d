"""Explanations that start from the input: erase a token, or follow the gradient back to its embedding.

They treat the model as one function of its input embeddings and need to know nothing about its inside.
"""

from __future__ import annotations

from .explanation import Explanation
from .reading import quiet, read


def occlusion(lm, text: str, target=None, *, output: str = "logprob", baseline="mean") -> Explanation:
    """Score tokens by how much the target's number falls when they are erased, one at a time.

    Args:
        lm, text, target: as for `read`.
        output: the explained number: "logit", "logprob" or "prob".
        baseline: what an erased token becomes: "mean" (of all embeddings), "zero", or a token's id.

    Returns:
        scores [token] (special tokens are not erased and score 0); details `whole`: the number for the whole text.

    Source: Zeiler and Fergus, "Visualizing and Understanding Convolutional Networks", ECCV 2014; for text Li et al.,
    "Understanding Neural Networks through Representation Erasure", 2016.
    """
    import numpy as np
    import torch

    reading = read(lm, text, target)
    keep = torch.ones(len(reading.free) + 1, reading.ids.shape[1], dtype=torch.bool, device=reading.ids.device)
    keep[range(1, len(keep)), reading.free] = False
    with quiet(lm.model):
        numbers = reading.erased(keep, output, baseline).cpu().numpy()
    scores = np.zeros(reading.ids.shape[1])
    scores[reading.free] = numbers[0] - numbers[1:]
    return Explanation("occlusion", scores, reading.tokens, reading.target, {"whole": float(numbers[0])})


def gradient_x_input(lm, text: str, target=None, *, output: str = "logprob") -> Explanation:
    """Score tokens by the gradient of the target's number with respect to their embedding, times the embedding.

    It says how the number would change if the embedding shrank a little: fast, and only true nearby.

    Args:
        lm, text, target: as for `read`.
        output: the explained number: "logit", "logprob" or "prob".

    Source: Simonyan et al., "Deep Inside Convolutional Networks", 2014; Shrikumar et al., "Not Just a Black Box", 2016.
    """
    import torch

    reading = read(lm, text, target)
    with quiet(lm.model), torch.enable_grad():
        embeddings = reading.embeddings()[None].requires_grad_()
        (gradient,) = torch.autograd.grad(reading.score(embeddings, output)[0], embeddings)
    scores = (gradient * embeddings).detach().sum(-1)[0]
    return Explanation("gradient x input", scores.float().cpu().numpy(), reading.tokens, reading.target)


def integrated_gradients(lm, text: str, target=None, *, output: str = "logprob", baseline="mean", steps: int = 50) -> Explanation:
    """Score tokens by their gradient, averaged along the straight way from an erased text to the whole one (Captum).

    The scores should sum to the difference between the two ends (completeness). What is missing tells how well the way
    was followed; more steps bring it closer to 0.

    Args:
        lm, text, target: as for `read`.
        output: the explained number: "logit", "logprob" or "prob".
        baseline: what the tokens are at the start: "mean" (of all embeddings), "zero", or a token's id. Special tokens are
            there from the start and score 0.
        steps: points on the way.

    Returns:
        scores [token]; details `gap` (sum of the scores - difference), `difference` (whole - erased) and `whole`.

    Raises:
        ImportError: Captum is not installed.

    Source: Sundararajan et al., "Axiomatic Attribution for Deep Networks", ICML 2017.
    """
    import torch

    try:
        from captum.attr import IntegratedGradients
    except ImportError as error:
        raise ImportError("integrated gradients are computed by Captum, which is not installed; install it with "
                          "`pip install 'llmtutor[explain]'` or `pip install captum` / 请先安装 Captum") from error

    if steps < 1:
        raise ValueError(f"steps must be at least 1; got {steps}")
    reading = read(lm, text, target)
    whole = reading.embeddings()[None]
    start = whole.clone()
    start[:, reading.free] = reading.baseline(baseline)
    with quiet(lm.model), torch.enable_grad():
        attributed = IntegratedGradients(lambda embeddings: reading.score(embeddings, output)).attribute(
            whole, baselines=start, n_steps=steps, internal_batch_size=reading.batch_size())
    with quiet(lm.model), torch.no_grad():
        ends = [float(reading.score(end, output)[0]) for end in (start, whole)]
    scores = attributed.detach().sum(-1)[0].double().cpu().numpy()
    details = {"gap": float(scores.sum() - (ends[1] - ends[0])), "difference": ends[1] - ends[0], "whole": ends[1]}
    return Explanation("integrated gradients", scores, reading.tokens, reading.target, details)
