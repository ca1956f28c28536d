"""How the maps are caught: the function that stands in the registry of transformers while a model runs.

transformers looks up the function that computes attention in a registry. For the time of one call the function there
is ours: it sees the query, key, mask and scale of every layer, in every architecture, so that nothing has to be loaded
twice and no second code path is needed.
"""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass

import numpy as np

NAME = "llmtutor_capture"  # our name in the registry of transformers
UINT8_BOUND = (2 + 1 / 510) / 510  # largest error of a weight stored as one byte, see `to_bytes`
STORES = {"float32": 4, "uint8": 1}  # bytes a weight
CELLS, ROWS = 2**20, 256  # weights that are computed at once (4 MiB), and queries
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
        self._sights: dict[int, Sight] = {}
        self._rooms: dict[str, list] = {}

    def begin(self) -> None:
        """A new forward pass: every layer will be called again."""
        self._now, self._sights = {}, {}

    def sight(self, mask, n_queries: int, n_keys: int) -> Sight:
        """What a mask lets be seen; layers that share a mask share the answer."""
        known = self._sights.get(id(mask))  # the mask is kept with the answer, so no other one can have its id
        if known is None or known.n_keys != n_keys:
            known = self._sights[id(mask)] = Sight(mask, n_queries, n_keys)
        return known

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

    def start(self, part: str, number: int, shape, groups: int, whole_rows: bool, sight: Sight) -> _Page:
        """Make room for the map of one layer, shape [batch, head, query, key]; its blocks are written by `_Page.write`."""
        heads = chosen("heads", self.heads, shape[1])
        self.key_heads[part] = [head // groups for head in heads]
        self.sinks |= not whole_rows
        if shape[2] > 1:
            self.causal[part] = self.causal.get(part, True) and sight.causal
        array = self._room(part, (shape[0], len(heads), *shape[2:]))
        self.steps.setdefault((part, number), []).append(array)
        return _Page(number, array, heads, whole_rows)

    def _room(self, part: str, shape) -> np.ndarray:
        """Zeros for one map; where all layers are known beforehand, side by side, so that nothing is copied in the end."""
        dtype = np.dtype(self.store)
        if self.layers is None:
            return np.zeros(shape, dtype)
        rooms = self._rooms.setdefault(part, [np.zeros((len(self.layers), *shape), dtype), 0])
        rooms[1] += 1
        fits = rooms[1] <= len(self.layers) and rooms[0].shape[1:] == shape  # a later pass (generation) has other shapes
        return rooms[0][rooms[1] - 1] if fits else np.zeros(shape, dtype)

    def maps(self, part: str = "self") -> dict[int, np.ndarray]:
        """The maps of a part: true layer number -> [batch, head, query, key], the forward passes put under each other."""
        return {layer: _stitch(steps, square=part != "cross")
                for (name, layer), steps in sorted(self.steps.items()) if name == part}

    def stacked(self, part: str = "self") -> np.ndarray:
        """The maps of the first text of a batch as one array [layer, head, query, key], without a copy where they lie side by side."""
        maps = [array[0] for array in self.maps(part).values()]
        if part in self._rooms:
            room = self._rooms[part][0][: len(maps), 0]
            if all(one.shape == slot.shape and one.ctypes.data == slot.ctypes.data for one, slot in zip(maps, room)):
                return room
        return np.stack(maps)


@dataclass(frozen=True, eq=False)
class _Page:
    """The room for one map: its layer, array [batch, kept head, query, key], the heads to keep, whether rows sum to 1."""

    number: int
    array: np.ndarray
    heads: list[int]
    whole_rows: bool

    def write(self, weights, hidden, dead, heads: slice, rows: slice) -> None:
        """Check a block of the map, weights [batch, head, query, key], and write it down. The weights are used up.

        Args:
            hidden: boolean [batch or 1, head or 1, query, key], or None; dead: boolean [batch or 1, head or 1, query], or None.
            heads, rows: which heads and queries of the map these are; the keys are the first ones.
        """
        import torch

        kept = [head for head in self.heads if heads.start <= head < heads.stop]
        if not kept:
            return
        block = weights.detach().clone() if weights.requires_grad else weights
        if len(kept) < weights.shape[1]:
            numbers = [head - heads.start for head in kept]
            block = block[:, numbers]
            hidden, dead = (one if one is None or one.shape[1] == 1 else one[:, numbers] for one in (hidden, dead))
        if dead is not None:  # the rows of padding see nothing; softmax makes them even, we make them 0
            block.masked_fill_(dead[..., None], 0)
        self._check(block, hidden, dead)
        if self.array.dtype == np.uint8:
            block = block.sqrt_().mul_(255).round_()
        first = self.heads.index(kept[0])
        torch.from_numpy(self.array)[:, first:first + len(kept), rows, : block.shape[3]].copy_(block)

    def _check(self, block, hidden, dead) -> None:
        sums = block.sum(-1)
        _require_finite(self.number, sums)
        if hidden is not None and bool((block * hidden).any()):
            raise ValueError(f"layer {self.number}: a masked token got attention, so the map cannot be trusted. "
                             "Please report it, with the name of the model.")
        good = (sums - 1).abs() < 1e-3 if self.whole_rows else sums < 1 + 1e-3
        if not bool((good if dead is None else good | dead).all()):
            raise ValueError(f"layer {self.number}: attention rows must sum to 1; got sums from {sums.min():.4f} to "
                             f"{sums.max():.4f}. Please report it, with the name of the model.")


class Sight:
    """What a mask lets the queries see, looked up once for all layers that share the mask.

    Args:
        mask: [batch, 1 or head, query, key], to be added to the scores (0 or a very negative number), or None.
        n_queries, n_keys: sizes of the map; the mask may have more keys (a cache of fixed size).

    Attributes:
        hidden: boolean, in the shape of the mask: keys that a query must not see; None without a mask.
        dead: boolean [batch, 1 or head, query]: queries that see nothing (padding); None where there is none.
        causal: whether all later keys are hidden from every query.
        only_causal: whether nothing else is hidden, and nothing else added to the scores.
    """

    def __init__(self, mask, n_queries: int, n_keys: int):
        self.mask, self.n_keys, self.hidden, self.dead, self.causal, self.only_causal = mask, n_keys, None, None, False, False
        if mask is None:
            return
        mask = mask[..., :n_keys]
        self.hidden = mask < -1e4
        dead = self.hidden.all(-1)
        self.dead = dead if bool(dead.any()) else None
        if self.hidden.shape[2] == n_queries > 1:
            future = _future(n_queries, n_keys).to(mask.device)
            self.causal = bool((self.hidden | ~future).all())
            self.only_causal = (self.causal and n_queries == n_keys and bool((self.hidden == future).all())
                                and not bool(mask.masked_fill(future, 0).any()))

    def reach(self, rows: slice) -> int:
        """How many keys, from the first, hold all that some queries see."""
        if not self.causal or self.dead is not None:
            return self.n_keys
        seen = (~self.hidden[:, :, rows]).flatten(0, 2).any(0)
        return int(seen.nonzero().max()) + 1


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
    shape = *query.shape[:3], key.shape[2]
    sight = _recorder.sight(attention_mask, *shape[2:])
    wanted = _recorder.wants(number)
    if not (wanted or any(options.get(name) is not None for name in ("softcap", "s_aux"))):
        _require_finite(number, query, key)  # the fused kernel would hide it
        return _fused(module, query, key, value, attention_mask, scaling, dropout, sight, options)
    groups = query.shape[1] // key.shape[1]  # query heads that share one key head
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    page = _recorder.start(part, number, shape, groups, options.get("s_aux") is None, sight) if wanted else None
    mixed = query.new_empty(*query.shape[:3], value.shape[3])
    for heads, rows in _blocks(shape):
        keys = slice(0, sight.reach(rows))
        mask = _cut(attention_mask, heads, rows, keys)
        extra = options | {"position_bias": _cut(options.get("position_bias"), heads, rows, keys)}
        extra["s_aux"] = None if options.get("s_aux") is None else options["s_aux"][heads]
        weights = attention_weights(query[:, heads, rows], key[:, heads, keys], mask, scaling, **extra)
        mixed[:, heads, rows] = weights.to(value.dtype) @ value[:, heads, keys]
        if wanted:
            page.write(weights, _cut(sight.hidden, heads, rows, keys), _cut(sight.dead, heads, rows), heads, rows)
    return mixed.transpose(1, 2).contiguous(), None


def _require_finite(number: int, *tensors) -> None:
    import torch

    if not all(bool(tensor.sum(dtype=torch.float32).isfinite()) for tensor in tensors):
        raise ValueError(f"layer {number}: attention is not a number (NaN). Does the model hold NaN or infinite weights? Look "
                         "for them with [name for name, p in lm.model.named_parameters() if not p.isfinite().all()], or load "
                         "it again / 注意力出现 NaN：模型的权重里是否有 NaN 或无穷大？")


def _fused(module, query, key, value, mask, scaling, dropout, sight: Sight, options):
    """The library's fused kernel, which never builds the map; told that a mask is only causal, it skips what is hidden."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    mask = None if sight.only_causal else mask
    return sdpa_attention_forward(module, query, key, value, mask, dropout, scaling, **options | {"is_causal": sight.only_causal})


def _blocks(shape):
    """Cut a map [batch, head, query, key] into blocks of some heads and queries that fit into the cache of the processor."""
    batch, n_heads, n_queries, n_keys = shape
    n_rows = max(1, min(n_queries, ROWS, CELLS // (batch * n_keys)))
    some = max(1, min(n_heads, CELLS // (batch * n_rows * n_keys)))
    for head in range(0, n_heads, some):
        for row in range(0, n_queries, n_rows):
            yield slice(head, min(head + some, n_heads)), slice(row, min(row + n_rows, n_queries))


def _cut(tensor, heads: slice, rows: slice, keys: slice | None = None):
    """The block of a mask or a bias; an axis of length 1 holds for all."""
    if tensor is None:
        return None
    tensor = tensor if tensor.shape[1] == 1 else tensor[:, heads]
    tensor = tensor if tensor.shape[2] == 1 else tensor[:, :, rows]
    return tensor if keys is None else tensor[..., keys]


def attention_weights(query, key, mask, scaling, *, position_bias=None, softcap=None, s_aux=None, **_):
    """softmax(scale * query @ key + mask) in float32, with the additions that some architectures make.

    Args:
        position_bias: added to the scores (T5); softcap: scores bent into (-softcap, softcap) (Gemma 2);
        s_aux: one score a head for looking at nothing (gpt-oss), so that rows sum to less than 1.
    """
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    scores = query @ key.transpose(-1, -2) * scaling
    if softcap is not None:
        scores = (scores / softcap).tanh() * softcap
    if position_bias is not None:
        scores = scores + position_bias
    if mask is not None:
        scores = scores + mask
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
