"""Explanations that start from attention: the maps themselves, rollout, value-weighted, gradient x attention, value zeroing.

Each of them gives a score to every token that the target's position could look at. They answer different questions, and on
a model that was trained to mislead some of them are misled (see `twins`). In an encoder-decoder they look at cross-attention:
the query is the place of the decoder that writes the target, and the scores are for the tokens of the source.
"""

from __future__ import annotations

import numpy as np

from llmtutor.attention import attend
from llmtutor.attention.capture import chosen

from .explanation import Explanation
from .hooks import parts, record_values, zero_values
from .reading import eager, one_stack, quiet, read


def raw_attention(lm, text: str, target=None, *, layers=None, heads=None) -> Explanation:
    """Score tokens by how much attention the target's position pays to them, averaged over layers and heads.

    Args:
        lm, text, target: as for `read`.
        layers, heads: the numbers to average over; None takes all.
    """
    reading = read(lm, text, target)
    scores = _row(_maps(lm, text, reading, layers, heads).weights.mean((0, 1)), reading)
    return Explanation("attention", scores, reading.tokens, reading.target)


def _maps(lm, text: str, reading, layers=None, heads=None):
    """The maps whose queries make the prediction: of self-attention, or in an encoder-decoder of cross-attention."""
    if reading.answer is None:
        return attend(lm, text, layers=layers, heads=heads)
    att = attend(lm, text, target=reading.target.written).cross  # chosen afterwards: the encoder may have fewer layers and heads
    layers, heads = chosen("layers", layers, len(att.layers)), chosen("heads", heads, len(att.heads))
    return att._with(stored=att.stored[np.ix_(layers, heads)], layers=layers, heads=heads)


def _row(table, reading):
    """The row of the target's position in a table [..., query, key]; the mean of all rows where a whole text is explained."""
    return table.mean(-2) if reading.target.position is None else table[..., reading.target.position, :]


def rollout(lm, text: str, target=None, *, residual: float = 0.5) -> Explanation:
    """Score tokens by attention rollout: how attention, followed through all layers, leads from the target to each token.

    Deep models look at the first token in rollout even if every head looks everywhere alike; so the same sum for such even
    attention is part of the result.

    Args:
        lm, text, target: as for `read`.
        residual: share of the residual connection in each layer.

    Returns:
        scores [token] that sum to 1; details `null` (the scores of even attention under the same mask) and `above_null`
        (scores - null).

    Source: Abnar and Zuidema, "Quantifying Attention Flow in Transformers", ACL 2020. The null is ours.
    """
    one_stack(lm, "rollout", "attention, value-weighted attention, value zeroing or integrated gradients")
    reading, att = read(lm, text, target), attend(lm, text)
    scores = rollout_matrix(att.weights, residual)[reading.target.position]
    null = rollout_matrix(even_attention(att.weights), residual)[reading.target.position]
    details = {"null": null, "above_null": scores - null}
    return Explanation("rollout", scores, reading.tokens, reading.target, details)


def rollout_matrix(weights, residual: float = 0.5) -> np.ndarray:
    """Multiply the attention of all layers, each mixed with the residual connection.

    Args:
        weights: array [layer, head, query, key].
        residual: share of the residual connection, from 0 to 1.

    Returns:
        array [query, key]; rows sum to 1.

    >>> maps = [[[[1, 0], [0.5, 0.5]]], [[[1, 0], [0.5, 0.5]]]]
    >>> rollout_matrix(maps, residual=0)[1]          # half, and half of the other half
    array([0.75, 0.25])
    """
    weights = np.asarray(weights, dtype=np.float64)
    if weights.ndim != 4 or weights.shape[2] != weights.shape[3]:
        raise ValueError(f"weights must have axes [layer, head, query, key] with as many keys as queries; got {weights.shape}")
    if not 0 <= residual <= 1:
        raise ValueError(f"residual must lie between 0 and 1; got {residual}")
    result = np.eye(weights.shape[-1])
    for layer in weights.mean(1):
        mixed = (1 - residual) * layer + residual * np.eye(len(layer))
        result = mixed / mixed.sum(-1, keepdims=True) @ result
    return result


def even_attention(weights) -> np.ndarray:
    """Return maps in which every head looks at all its tokens alike, under the masks seen in `weights`."""
    weights = np.asarray(weights, dtype=np.float64)
    allowed = (weights.max(1, keepdims=True) > 0).astype(np.float64)
    return allowed / allowed.sum(-1, keepdims=True)


def value_weighted(lm, text: str, target=None, *, layers=None) -> Explanation:
    """Score tokens by the length of the vector that attention carries from them, instead of by the weight alone.

    A large weight on a token with a tiny value carries nothing. In each layer the vector from key j is
    sum over heads of weight[head, query, j] * value[head, j] @ output matrix[head]; its lengths are scaled to sum to 1 over
    the keys, then averaged over the layers.

    Args:
        lm, text, target: as for `read`.
        layers: numbers of layers to average over; None takes all.

    Returns:
        scores [token] that sum to 1; details `norms`: array [layer, query, key], the lengths before scaling.

    Source: Kobayashi et al., "Attention is Not Only a Weight: Analyzing Transformers with Vector Norms", EMNLP 2020.
    """
    reading, known = read(lm, text, target), parts(lm.model)
    att = _maps(lm, text, reading, layers)
    values, norms = record_values(lm, reading), []
    for weights, layer in zip(att.weights, att.layers):
        carried = np.einsum("thd,hdm->thm", values[layer].float().cpu().numpy(), known.output_matrix(layer).float().cpu().numpy())
        norms.append(np.linalg.norm(np.einsum("hqk,khm->qkm", weights, carried), axis=-1))
    norms = np.stack(norms)
    scores = _row(norms / norms.sum(-1, keepdims=True), reading).mean(0)
    return Explanation("value-weighted attention", scores, reading.tokens, reading.target, {"norms": norms})


def gradient_x_attention(lm, text: str, target=None, *, output: str = "logprob", queries: str = "target") -> Explanation:
    """Score tokens by attention weight times the gradient of the target with respect to it, where that helps the target.

    Negative products are left out before the sum over layers and heads: in a head that looks at one token only, the gradient
    of that weight is nearly 0 and of either sign, and heads would cancel.

    Args:
        lm, text, target: as for `read`.
        output: the explained number: "logit", "logprob" or "prob".
        queries: "target" counts only what the target's position looks at; "all" counts what every position looks at, which
            also sees information that takes a detour over other tokens.

    Returns:
        scores [token], at least 0; details `products`: array [layer, head, query, key], with their signs.

    Source: Barkan et al., "Grad-SAM: Explaining Transformers via Gradient Self-Attention Maps", CIKM 2021; the positive part
    also in Chefer et al., "Generic Attention-model Explainability", ICCV 2021.
    """
    import torch

    if queries not in ("target", "all"):
        raise ValueError(f"queries must be 'target' or 'all'; got {queries!r}")
    reading = read(lm, text, target)
    with quiet(lm.model), eager(lm.model), torch.enable_grad():
        embeddings = reading.embeddings()[None].requires_grad_()  # makes a graph also where weights are frozen
        result = reading.forward(embeddings, output_attentions=True)
        every = result.attentions if reading.answer is None else result.cross_attentions
        gradients = torch.autograd.grad(reading.number(result.logits, output)[0], every, allow_unused=True)
    # in the last layer only the target's own row can matter; a layer that does not matter at all has no gradient
    products = np.stack([np.zeros(maps.shape[1:]) if gradient is None else (maps * gradient)[0].detach().float().cpu().numpy()
                         for maps, gradient in zip(every, gradients)])
    rows = products.clip(0).sum((0, 1))
    scores = _row(rows, reading) if queries == "target" else rows.sum(0)
    return Explanation(f"gradient x attention{', all rows' if queries == 'all' else ''}", scores, reading.tokens,
                       reading.target, {"products": products})


def value_zeroing(lm, text: str, target=None, *, measure: str = "state", output: str = "logprob") -> Explanation:
    """Score tokens by what changes when their values are set to zero, so that nothing can be read from them.

    Args:
        lm, text, target: as for `read`.
        measure: "state": in each layer by itself, the cosine distance that zeroing key j brings to the state of query i after
            the block; rows scaled to sum to 1, layers multiplied as in rollout (in an encoder-decoder, where the values are
            those of cross-attention, averaged over the layers). "output": zero the token's values in all layers at once and
            take the drop of the target's number.
        output: for measure="output", the explained number: "logit", "logprob" or "prob".

    Returns:
        scores [token]; for "state" details `layers`: array [layer, query, key] of distances, before scaling.

    Source: Mohebbi et al., "Quantifying Context Mixing in Transformers", EACL 2023 ("state"; "output" is ours).
    """
    if measure not in ("state", "output"):
        raise ValueError(f"measure must be 'state' or 'output'; got {measure!r}")
    reading, known = read(lm, text, target), parts(lm.model)
    layers = [layer for layer, module in enumerate(known.output) if module is not None]
    if measure == "output":
        changed, whole = _zeroed(lm, reading, layers, None, output)
        return Explanation("value zeroing, output", whole - changed, reading.tokens, reading.target)
    distances = np.stack([_zeroed(lm, reading, [layer], layer, output) for layer in layers])
    rows = distances / np.maximum(distances.sum(-1, keepdims=True), 1e-30)
    if reading.answer is None:
        rows = rollout_matrix(_whole_rows(rows)[:, None], residual=0)[None]
    scores = _row(rows, reading).mean(0)
    return Explanation("value zeroing", scores, reading.tokens, reading.target, {"layers": distances})


def _zeroed(lm, reading, layers, seen, output):
    """Read the text once for each token, its values zeroed: numbers ([token], whole), or distances [query, key] after a block."""
    import torch

    n_tokens, size, parts_of = reading.ids.shape[1], reading.batch_size(), []
    states: list = []
    block = None if seen is None else parts(lm.model).blocks[seen]
    hook = None if block is None else block.register_forward_hook(
        lambda module, inputs, made: states.append((made[0] if isinstance(made, tuple) else made).float()))
    embeddings = reading.embeddings()
    try:
        with torch.no_grad(), quiet(lm.model):
            whole = reading.score(embeddings[None], output)
            for start in range(0, n_tokens, size):
                positions = list(range(start, min(start + size, n_tokens)))
                with zero_values(lm, layers, positions):
                    parts_of.append(reading.score(embeddings.expand(len(positions), -1, -1), output))
    finally:
        if hook is not None:
            hook.remove()
    if seen is None:
        return torch.cat(parts_of).cpu().numpy(), float(whole[0])
    changed = torch.cat(states[1:]).double()  # [key that was zeroed, query, d_model]; the first pass was the whole text
    distance = 1 - torch.nn.functional.cosine_similarity(changed, states[0].double(), dim=-1)
    return distance.T.clamp(min=0).cpu().numpy()


def _whole_rows(rows: np.ndarray) -> np.ndarray:
    """A query that nothing changes keeps itself: its row becomes the identity's."""
    nothing = rows.sum(-1) < 0.5
    return np.where(nothing[..., None], np.eye(rows.shape[-1]), rows)
