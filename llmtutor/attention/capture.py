"""How the maps are caught: the function that stands in the registry of transformers while a model runs.

transformers looks up the function that computes attention in a registry. For the time of one call the function there
is ours: it sees the query, key, mask and scale of every layer, in every architecture, so that nothing has to be loaded
twice and no second code path is needed.
"""

from __future__ import annotations

import contextlib
import re

import numpy as np

NAME = "llmtutor_capture"  # our name in the registry of transformers
UINT8_BOUND = (2 + 1 / 510) / 510  # largest error of a weight stored as one byte, see `to_bytes`
STORES = {"float32": 4, "uint8": 1}  # bytes a weight
# How the libraries name the attention of a decoder to its encoder: BART and Marian, T5, BERT as a decoder.
_CROSS = re.compile(r"encoder_attn|EncDecAttention|cross_?attn|cross_?attention", re.IGNORECASE)


class Recorder:
    """Keeps the maps of the chosen layers and heads while a model runs, over as many forward passes as it takes.

    Args:
        layers, heads: true numbers to keep; None keeps all.
        store: "float32" or "uint8".

    Attributes:
        steps: (part, layer) -> the maps [batch, head, query, key] of each forward pass; a part is "self" in a model of
            one stack, and "encoder", "decoder" or "cross" in a model of two.
        key_heads: part -> for each head that was kept the number of the key head it shares.
        causal: part -> whether every mask hid the future.
        sinks: whether a part of each row may go to nothing (gpt-oss).
    """

    def __init__(self, layers=None, heads=None, store: str = "float32"):
        self.layers, self.heads, self.store = layers, heads, store
        self.steps: dict[tuple[str, int], list[np.ndarray]] = {}
        self.seen: dict[str, set[int]] = {}
        self.key_heads: dict[str, list[int]] = {}
        self.causal: dict[str, bool] = {}
        self.sinks = False
        self.places: dict[int, tuple[str, int | None]] = {}
        self._now: dict[str, set[int]] = {}

    def begin(self) -> None:
        """A new forward pass: every layer will be called again."""
        self._now = {}

    def place(self, module) -> tuple[str, int]:
        """The part and the true number of a layer; by order of calling where a module is used for the next layer too."""
        part, number = self.places.get(id(module), ("self", None))
        number = getattr(module, "layer_idx", None) if number is None else number
        now = self._now.setdefault(part, set())
        if number is None or number in now:
            number = max(now, default=-1) + 1
        now.add(number)
        self.seen.setdefault(part, set()).add(number)
        return part, number

    def wants(self, number: int) -> bool:
        """Whether the map of a layer is to be kept."""
        return self.layers is None or number in self.layers

    def keep(self, part: str, number: int, weights, mask, groups: int, whole_rows: bool) -> None:
        """Keep the map of one layer, weights [batch, head, query, key], after checking its rows."""
        heads = chosen("heads", self.heads, weights.shape[1])
        self.key_heads[part] = [head // groups for head in heads]
        self.sinks |= not whole_rows
        kept = (weights if self.heads is None else weights[:, heads]).float()
        if not bool(kept.isfinite().all()):
            raise ValueError(f"layer {number}: attention is not a number (NaN). Does the model hold NaN or infinite weights? Look "
                             "for them with [name for name, p in lm.model.named_parameters() if not p.isfinite().all()], or load "
                             "it again / 注意力出现 NaN：模型的权重里是否有 NaN 或无穷大？")
        dead = None
        if mask is not None:
            masked = mask[..., : kept.shape[-1]] < -1e4  # [batch or 1, 1 or head, query, key]
            masked = masked if masked.shape[1] == 1 else masked[:, heads]
            dead = masked.all(-1)  # the rows of padding see nothing; softmax makes them even, we make them 0
            kept = kept.masked_fill(dead[..., None], 0)
            if bool((kept * masked).any()):
                raise ValueError(f"layer {number}: a masked token got attention, so the map cannot be trusted. "
                                 "Please report it, with the name of the model.")
        self._check_rows(number, kept, dead, whole_rows)
        self._note_causality(part, mask, kept.shape)
        array = kept.cpu().numpy()
        self.steps.setdefault((part, number), []).append(to_bytes(array) if self.store == "uint8" else array)

    def _check_rows(self, number: int, kept, dead, whole_rows: bool) -> None:
        rows = kept.sum(-1)
        good = (rows - 1).abs() < 1e-3 if whole_rows else rows < 1 + 1e-3
        if not bool((good if dead is None else good | dead).all()):
            raise ValueError(f"layer {number}: attention rows must sum to 1; got sums from {rows.min():.4f} to "
                             f"{rows.max():.4f}. Please report it, with the name of the model.")

    def _note_causality(self, part: str, mask, shape) -> None:
        n_queries, n_keys = shape[2:]
        if n_queries > 1:
            hidden = mask is not None and bool((mask[..., :n_keys] < -1e4)[..., _future(n_queries, n_keys)].all())
            self.causal[part] = self.causal.get(part, True) and hidden

    def maps(self, part: str = "self") -> dict[int, np.ndarray]:
        """The maps of a part: true layer number -> [batch, head, query, key], the forward passes put under each other."""
        return {layer: _stitch(steps, square=part != "cross")
                for (name, layer), steps in sorted(self.steps.items()) if name == part}


def _future(n_queries: int, n_keys: int):
    import torch

    return torch.ones(n_queries, n_keys, dtype=torch.bool).triu(1 + n_keys - n_queries)


def _stitch(steps: list[np.ndarray], square: bool) -> np.ndarray:
    """Put the rows of each forward pass under those before, each key in its true column.

    A cache may have dropped old keys (sliding window), so a step's keys are the last ones up to its newest query.
    """
    if len(steps) == 1:
        return steps[0]
    n_rows = sum(step.shape[2] for step in steps)
    n_keys = n_rows if square else steps[0].shape[3]
    whole = np.zeros((*steps[0].shape[:2], n_rows, n_keys), steps[0].dtype)
    row = 0
    for step in steps:
        end = row + step.shape[2]
        keys = min(step.shape[3], end if square else n_keys)  # a cache of fixed size has empty places at its end
        first = end - keys if square else 0
        whole[:, :, row:end, first:first + keys] = step[..., :keys]
        row = end
    return whole


# --- the function in the registry ---------------------------------------------------------------------------------

_recorder: Recorder | None = None  # the one at work; the registry knows functions, not objects


def _capture(module, query, key, value, attention_mask, scaling=None, dropout=0.0, **options):
    """Compute attention as transformers asks for it, and keep the weights of the chosen layers.

    Args:
        query: [batch, head, query, d_head]; key, value: [batch, key head, key, d_head], with as many or fewer heads.
        attention_mask: [batch, 1, query, key] to be added to the scores (0 or a very negative number), or None.

    Returns:
        the mixed values [batch, query, head, d_head] and the weights [batch, head, query, key].
    """
    part, number = _recorder.place(module)
    exact = _recorder.wants(number) or any(options.get(name) is not None for name in ("softcap", "s_aux"))
    if not exact:  # the fused kernel is faster and never builds the map; the mask already says what is causal
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        options["is_causal"] = False
        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout, scaling, **options)
    groups = query.shape[1] // key.shape[1]  # query heads that share one key head
    weights = attention_weights(query, key.repeat_interleave(groups, 1), attention_mask, scaling, **options)
    if _recorder.wants(number):
        _recorder.keep(part, number, weights, attention_mask, groups, whole_rows=options.get("s_aux") is None)
    mixed = weights.to(value.dtype) @ value.repeat_interleave(groups, 1)
    return mixed.transpose(1, 2).contiguous(), weights


def attention_weights(query, key, mask, scaling, *, position_bias=None, softcap=None, s_aux=None, **_):
    """softmax(scale * query @ key + mask) in float32, with the additions that some architectures make.

    Args:
        position_bias: added to the scores (T5); softcap: scores bent into (-softcap, softcap) (Gemma 2);
        s_aux: one score a head for looking at nothing (gpt-oss), so that rows sum to less than 1.
    """
    scores = query @ key.transpose(-1, -2) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    if softcap is not None:
        scores = (scores / softcap).tanh() * softcap
    if position_bias is not None:
        scores = scores + position_bias
    if mask is not None:
        scores = scores + mask[..., : scores.shape[-1]]
    scores = scores.float()
    if s_aux is None:
        return scores.softmax(-1)
    nothing = s_aux.float().reshape(1, -1, 1, 1)
    # softmax over the scores and "nothing" together: subtract a joint maximum, then divide by the joint sum
    top = scores.amax(-1, keepdim=True).maximum(nothing)
    powers = (scores - top).exp()
    return powers / (powers.sum(-1, keepdim=True) + (nothing - top).exp())


@contextlib.contextmanager
def capturing(model, recorder: Recorder):
    """Switch a model to our attention function and to evaluation; put back exactly what was there."""
    global _recorder
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import eager_mask

    AttentionInterface.register(NAME, _capture)
    AttentionMaskInterface.register(NAME, eager_mask)
    before = [(config, config._attn_implementation) for config in configs(model)]
    training = [module for module in model.modules() if module.training]
    recorder.places = _places(model)
    outer, _recorder = _recorder, recorder
    hook = model.register_forward_pre_hook(lambda *_: recorder.begin())
    try:
        model.set_attn_implementation(NAME)
        model.eval()
        yield recorder
    finally:
        hook.remove()
        _recorder = outer
        for config, implementation in before:  # outer configurations first: setting one also sets those inside it
            config._attn_implementation = implementation
        for module in training:
            module.training = True


def configs(model) -> list:
    """All configurations in a model, from the outside in, each once."""
    found = []
    queue = [model.config, *(m.config for m in model.modules() if hasattr(m, "_can_set_attn_implementation"))]
    while queue:
        config = queue.pop(0)
        if config is not None and all(config is not other for other in found):
            found.append(config)
            queue += [getattr(config, name, None) for name in config.sub_configs]
    return found


def _places(model) -> dict[int, tuple[str, int | None]]:
    """For each module, by its path in the model, the part it belongs to and its layer: the first number of the path."""
    return {id(module): _place(path.split("."), model.config.is_encoder_decoder) for path, module in model.named_modules()}


def _place(path: list[str], two_stacks: bool) -> tuple[str, int | None]:
    number = next((int(word) for word in path if word.isdecimal()), None)
    if not two_stacks:
        return "self", number
    if any(_CROSS.fullmatch(word) for word in path):
        return "cross", number
    stack = next((word for word in path if word in ("encoder", "decoder")), "decoder")
    return stack, number


def chosen(name: str, wanted, n: int) -> list[int]:
    """The numbers to keep, sorted; all of them for None."""
    if wanted is None:
        return list(range(n))
    numbers = sorted({int(number) for number in np.atleast_1d(wanted)})
    if not numbers or numbers[0] < 0 or numbers[-1] >= n:
        raise ValueError(f"{name} must be numbers from 0 to {n - 1}; got {wanted!r}")
    return numbers


# --- one byte a weight --------------------------------------------------------------------------------------------


def to_bytes(weights: np.ndarray) -> np.ndarray:
    """Store weights in [0, 1] as round(255 * sqrt(w)).

    The square root keeps small weights apart: on a linear scale every weight of an even row over more than 510 tokens
    would become 0. The root is off by at most 1/510, so the weight is off by at most (2 sqrt(w) + 1/510) / 510; 0
    stays exactly 0.
    """
    return np.rint(255 * np.sqrt(weights)).astype(np.uint8)


def from_bytes(stored: np.ndarray) -> np.ndarray:
    """Read back what `to_bytes` wrote, as float32."""
    return np.square(stored.astype(np.float32) / np.float32(255))
