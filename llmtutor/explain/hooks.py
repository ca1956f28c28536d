"""Reaching into a model: remove heads, record what flows where, and put recorded values into another run.

All of it is done with hooks, which are taken off again when the `with` block ends, also after an error. Several blocks may
stand inside one another. Inside them everything else works as usual: `attend`, `generate`, every method of `explain`.

A hook needs to know what the parts of a model are called. `FAMILIES` lists the names; for another architecture add a line.
Where its query, key and value are one interleaved matrix (GPT-NeoX), `value` is None, and the methods that need the values
say so; ablation and patching work. In a model of two stacks, heads are named within one part: "cross" (from the decoder to the
encoder), "encoder" or "decoder".
"""

from __future__ import annotations

import contextlib
import functools
from dataclasses import dataclass, field

from .reading import one_stack, quiet, read

SITES = ("block", "attention", "mlp", "heads")
PARTS = ("cross", "encoder", "decoder")


@dataclass(frozen=True)
class Family:
    """What the parts of an architecture are called, as paths of attributes.

    Attributes:
        name: for people.
        blocks: the list of blocks, seen from the base model.
        output: the matrix that mixes the heads into the residual stream, seen from a block.
        value: the matrix that makes the values (or query, key, value side by side), seen from a block; None if interleaved.
        mlp: the feed-forward part (its last matrix, where a norm follows), seen from a block.
        part: "self", or in a model of two stacks "encoder", "decoder" or "cross".
    """

    name: str
    blocks: str
    output: str
    value: str | None
    mlp: str
    part: str = "self"


FAMILIES = [
    Family("GPT-2", "h", "attn.c_proj", "attn.c_attn", "mlp"),
    Family("Llama, Qwen3, Mistral, Gemma 2", "layers", "self_attn.o_proj", "self_attn.v_proj", "mlp"),
    Family("BERT, RoBERTa", "encoder.layer", "attention.output.dense", "attention.self.value", "output.dense"),
    Family("ModernBERT", "layers", "attn.Wo", "attn.Wqkv", "mlp"),
    Family("GPT-NeoX", "layers", "attention.dense", None, "mlp"),
    Family("Marian, BART", "decoder.layers", "encoder_attn.out_proj", "encoder_attn.v_proj", "fc2", "cross"),
    Family("Marian, BART", "encoder.layers", "self_attn.out_proj", "self_attn.v_proj", "fc2", "encoder"),
    Family("Marian, BART", "decoder.layers", "self_attn.out_proj", "self_attn.v_proj", "fc2", "decoder"),
    Family("T5", "decoder.block", "layer.1.EncDecAttention.o", "layer.1.EncDecAttention.v", "layer.2.DenseReluDense.wo", "cross"),
    Family("T5", "encoder.block", "layer.0.SelfAttention.o", "layer.0.SelfAttention.v", "layer.1.DenseReluDense.wo", "encoder"),
    Family("T5", "decoder.block", "layer.0.SelfAttention.o", "layer.0.SelfAttention.v", "layer.2.DenseReluDense.wo", "decoder"),
]


@dataclass(frozen=True, eq=False)
class Parts:
    """The parts of one model: `blocks`, and for each block `output`, `value` and `mlp` (None where a block has none)."""

    family: Family
    blocks: list
    output: list
    value: list
    mlp: list
    n_heads: int

    def d_head(self, layer: int) -> int:
        """Width of one head."""
        weight = self.output[layer].weight  # Conv1D keeps [in, out], Linear [out, in]
        return (weight.shape[0] if _is_conv1d(self.output[layer]) else weight.shape[1]) // self.n_heads

    def output_matrix(self, layer: int):
        """The output matrix of each head, tensor [head, d_head, d_model]."""
        module = self.output[layer]
        weight = module.weight.detach() if _is_conv1d(module) else module.weight.detach().T
        return weight.reshape(self.n_heads, self.d_head(layer), -1)

    def values(self, layer: int, made):
        """Read the values out of what the value matrix made: [batch, token, head, d_head], shared ones repeated."""
        d_head = self.d_head(layer)
        part = made[..., -self.n_heads * d_head:].unflatten(-1, (-1, d_head))  # the last third, where query, key and value are side by side
        return part.repeat_interleave(self.n_heads // part.shape[2], 2)


def parts(model, part: str | None = None) -> Parts:
    """Find the parts of a model by the names in `FAMILIES`.

    Args:
        part: for a model of two stacks "cross" (None means this), "encoder" or "decoder"; for others None.

    Raises:
        ValueError: the model is of no family in the list, or has no such part.
    """
    base = model.base_model if hasattr(model, "base_model") else model
    two = model.config.is_encoder_decoder
    if part is not None and (part not in PARTS or not two):
        raise ValueError(f"part must be one of {', '.join(PARTS)}, in a model of two stacks; got {part!r} for {type(model).__name__}")
    part = (part or "cross") if two else "self"
    for family in FAMILIES:
        if family.part != part:
            continue
        blocks = list(_reach(base, family.blocks) or [])
        output = [_reach(block, family.output) for block in blocks]
        if any(module is not None for module in output):
            value = [_reach(block, family.value) if family.value else None for block in blocks]
            mlp = [_reach(block, family.mlp) for block in blocks]
            return Parts(family, blocks, output, value, mlp, _n_heads(model.config, part))
    known = "; ".join(dict.fromkeys(family.name for family in FAMILIES))
    raise ValueError(f"ablation, patching, value zeroing and the logit lens know the parts of these families: {known}. "
                     f"{type(model).__name__} is none of them. Add a line to llmtutor.explain.FAMILIES that says what its "
                     "parts are called, or use a method that needs no parts: rollout, gradient x attention, gradient x "
                     "input, integrated gradients, occlusion")


def _n_heads(config, part: str) -> int:
    stack = "encoder" if part == "encoder" else "decoder"
    own = getattr(config, f"{stack}_attention_heads", None) if part != "self" else None
    return own or config.get_text_config().num_attention_heads


def _reach(module, path: str):
    """The attribute at the end of a path of names, or None."""
    return functools.reduce(lambda found, name: getattr(found, name, None), path.split("."), module)


def _is_conv1d(module) -> bool:
    return type(module).__name__ == "Conv1D"


@contextlib.contextmanager
def _hooked(hooks):
    """Put hooks on (pairs of a function that puts one on, and the hook) and take all of them off again."""
    with contextlib.ExitStack() as stack:
        for put_on, hook in hooks:
            stack.callback(put_on(hook).remove)
        yield


# --- ablation -----------------------------------------------------------------------------------------------------


def ablate(lm, heads, how: str = "zero", reference=None, part: str | None = None):
    """Remove heads for the length of a `with` block: what they would add to the residual stream becomes 0, or its mean.

    Args:
        lm: what `load` returns.
        heads: list of (layer, head), several at once; [] removes nothing.
        how: "zero", or "mean": what the head adds on average over the tokens of the reference texts (a head that always adds
            the same is then not missed, which "zero" would punish).
        reference: list of texts, for "mean".
        part: in a model of two stacks, whose heads: "cross" (None means this), "encoder" or "decoder".

    Raises:
        ValueError: a head that is not there; "mean" without texts; an architecture that is not known.

    >>> import llmtutor as lt
    >>> lm = lt.load("story-gpt")
    >>> with ablate(lm, [(0, 1), (2, 3)]):
    ...     att = lt.attend(lm, "Lily has a red ball.")
    """
    if how not in ("zero", "mean"):
        raise ValueError(f"how must be 'zero' or 'mean'; got {how!r}")
    if how == "mean" and not reference:
        raise ValueError("how='mean' needs reference=[...], texts over which the mean is taken")
    if how == "mean":
        one_stack(lm, "mean ablation", "how='zero'")
    known = parts(lm.model, part)
    by_layer = _by_layer(known, heads)
    means = head_means(lm, reference) if how == "mean" else {}
    hooks = [(known.output[layer].register_forward_pre_hook, _remover(chosen, known.d_head(layer), means.get(layer)))
             for layer, chosen in by_layer.items()]
    return _hooked(hooks)


def _remover(heads: list[int], d_head: int, means):
    def hook(module, inputs):
        mixed = inputs[0].clone()
        for head in heads:
            mixed[..., head * d_head:(head + 1) * d_head] = 0 if means is None else means[head].to(mixed)
        return (mixed, *inputs[1:])

    return hook


def head_means(lm, texts) -> dict:
    """Return what each head mixes on average over all tokens of some texts: layer -> tensor [head, d_head]."""
    known = parts(lm.model)
    recordings = [record(lm, text, sites=("heads",)) for text in texts]
    means = {}
    for layer, module in enumerate(known.output):
        if module is not None:
            import torch

            rows = torch.cat([recording.states["heads", layer] for recording in recordings])
            means[layer] = rows.mean(0).reshape(known.n_heads, -1)
    return means


def _by_layer(known: Parts, heads) -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    layers = [layer for layer, module in enumerate(known.output) if module is not None]
    for place in heads:
        if not (isinstance(place, tuple | list) and len(place) == 2):
            raise ValueError(f"heads must be a list of (layer, head), such as [(0, 1), (2, 3)]; got {place!r} in it")
        layer, head = int(place[0]), int(place[1])
        if layer not in layers or not 0 <= head < known.n_heads:
            raise ValueError(f"there is no head {head} in layer {layer}; layers with attention are {layers}, heads 0 to "
                             f"{known.n_heads - 1}")
        found.setdefault(layer, []).append(head)
    return found


# --- recording and patching ---------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Recording:
    """What flowed through a model while it read a text.

    Attributes:
        tokens: the tokens of the text.
        states: (site, layer) -> tensor [token, width]. Sites: "block" is the residual stream after a block, "attention" and
            "mlp" what these parts add to it, "heads" the mixed values of all heads side by side, before the output matrix.
    """

    tokens: list[str]
    states: dict = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"Recording({len(self.tokens)} tokens, {len(self.states)} states)"


@dataclass(frozen=True)
class Place:
    """Where to patch: a site and a layer; all tokens and heads, or only some.

    Attributes:
        site: "block", "attention", "mlp" or "heads".
        layer: number of the layer.
        positions: list of token positions, None for all.
        heads: for the site "heads", list of heads, None for all.
    """

    site: str
    layer: int
    positions: tuple | list | None = None
    heads: tuple | list | None = None


def record(lm, text: str, sites=SITES) -> Recording:
    """Read a text once and keep what flows through every site of every layer."""
    import torch

    one_stack(lm, "recording", "ablate, occlusion or value zeroing")
    known, reading, states = parts(lm.model), read(lm, text, wants_target=False), {}
    hooks = []
    for site in sites:
        for layer in range(len(known.blocks)):
            module = _module(known, site, layer, required=False)
            if module is not None:
                hooks.append(_on(module, site, _keeper(states, site, layer)))
    with torch.no_grad(), quiet(lm.model), _hooked(hooks):
        reading.forward()
    return Recording(reading.tokens, states)


def patch(lm, recording: Recording, places):
    """Put recorded states into whatever the model reads inside the `with` block.

    Args:
        lm: what `load` returns.
        recording: what `record` kept of another text with as many tokens.
        places: list of `Place`, several at once.

    Raises:
        ValueError: a place that is not there or was not recorded; when the model reads, a text of another length.
    """
    one_stack(lm, "patching", "ablate, occlusion or value zeroing")
    known = parts(lm.model)
    hooks = []
    for place in places:
        module = _module(known, place.site, place.layer)
        if (place.site, place.layer) not in recording.states:
            raise ValueError(f"the recording holds nothing of site {place.site!r} in layer {place.layer}; record it with "
                             f"record(lm, text, sites=[{place.site!r}])")
        hooks.append(_on(module, place.site, _patcher(recording.states[place.site, place.layer], place, known)))
    return _hooked(hooks)


def _module(known: Parts, site: str, layer: int, required: bool = True):
    if site not in SITES:
        raise ValueError(f"site must be one of {', '.join(SITES)}; got {site!r}")
    modules = {"block": known.blocks, "attention": known.output, "mlp": known.mlp, "heads": known.output}[site]
    module = modules[layer] if 0 <= layer < len(modules) else None
    if module is None and required:
        raise ValueError(f"there is no {site!r} in layer {layer}; layers are 0 to {len(modules) - 1}")
    return module


def _on(module, site: str, change):
    """A hook that hands one tensor to `change`: what goes into the output matrix, or what comes out of a part."""
    if site == "heads":
        return module.register_forward_pre_hook, lambda module, inputs: (change(inputs[0]), *inputs[1:])

    def hook(module, inputs, output):
        if isinstance(output, tuple):
            return (change(output[0]), *output[1:])
        return change(output)

    return module.register_forward_hook, hook


def _keeper(states: dict, site: str, layer: int):
    def keep(state):
        states[site, layer] = state[0].detach().clone()
        return state

    return keep


def _patcher(kept, place: Place, known: Parts):
    rows = slice(None) if place.positions is None else list(place.positions)
    if place.heads is not None and place.site != "heads":
        raise ValueError(f"heads can be chosen at site 'heads' only; got site {place.site!r}")

    def change(state):
        if state.shape[1:] != kept.shape:
            raise ValueError(f"the recording has {kept.shape[0]} tokens, and the model now reads {state.shape[1]}; patch "
                             "between texts with as many tokens")
        state = state.clone()
        if place.heads is None:
            state[:, rows] = kept[rows].to(state)
        else:
            d_head = known.d_head(place.layer)
            for head in place.heads:
                columns = slice(head * d_head, (head + 1) * d_head)
                state[:, rows, columns] = kept[rows, columns].to(state)
        return state

    return change


# --- values -------------------------------------------------------------------------------------------------------


def zero_values(lm, layers, positions):
    """Within the block, set the values of one token to 0 in each row of a batch, in the layers named.

    Args:
        layers: layer numbers.
        positions: for each row of the batch, the position of its token.
    """
    known = parts(lm.model)

    def hook(layer):
        width = known.n_heads * known.d_head(layer)  # GPT-2 and ModernBERT have query, key and value side by side: the values are the last

        def zero(module, inputs, output):
            changed = output.clone()
            for row, position in enumerate(positions):
                changed[row, position, -width:] = 0
            return changed

        return zero

    return _hooked([(_value(known, layer).register_forward_hook, hook(layer)) for layer in layers])


def record_values(lm, reading) -> dict:
    """Return the values of every layer while a text is read: layer -> tensor [token, head, d_head]."""
    import torch

    known, found = parts(lm.model), {}

    def hook(layer):
        def keep(module, inputs, output):
            found[layer] = known.values(layer, output.detach())[0]  # in a model of two stacks those of cross-attention

        return keep

    layers = [layer for layer, module in enumerate(known.output) if module is not None]
    hooks = [(_value(known, layer).register_forward_hook, hook(layer)) for layer in layers]
    with torch.no_grad(), quiet(lm.model), _hooked(hooks):
        reading.forward()
    return found


def _value(known: Parts, layer: int):
    if known.value[layer] is None:
        raise ValueError(f"layer {layer} has no value matrix of its own ({known.family.name}: query, key and value are one "
                         "matrix, interleaved), so values cannot be weighed or set to zero; use occlusion or gradients")
    return known.value[layer]
