"""Attention maps of a text: who looks at whom, in every layer and head.

`attend` runs the model once and keeps the attention weights. It asks the model itself: transformers looks up the
function that computes attention in a registry, and for the time of one call the function there is ours. It sees the
query, key, mask and scale of every layer, in every architecture, so nothing has to be loaded twice.

Torch and transformers are imported only by `attend`: an `Attention` made from other people's arrays needs neither.
"""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from llmtutor import tokens as _tokens

CAPTURE = "llmtutor_capture"  # our name in the registry of transformers
MAX_BYTES = 4 * 2**30  # maps larger than this are refused before any work is done
UINT8_BOUND = (2 + 1 / 510) / 510  # largest error of a weight stored as one byte, see `_to_bytes`
_STORES = {"float32": 4, "uint8": 1}


@dataclass(frozen=True, repr=False, eq=False)
class Attention:
    """Attention weights with the tokens they belong to. Make one with `attend`, or with `Attention.from_arrays`.

    Attributes:
        stored: the weights as kept, axes [layer, head, query, key]: float32, or bytes on a square-root scale.
        tokens: what to show for each token.
        layers: the true number of each layer on the first axis.
        heads: the true number of each head on the second axis.
        pieces: the tokens with their ids and places in the text (empty for `from_arrays`).
        info: model, revision, text, versions, dtype.
    """

    stored: np.ndarray
    tokens: list[str]
    layers: list[int]
    heads: list[int]
    pieces: list = field(default_factory=list)
    info: dict = field(default_factory=dict)

    @classmethod
    def from_arrays(cls, weights, tokens, layers=None, heads=None, info=None) -> Attention:
        """Wrap attention maps from anywhere else.

        Args:
            weights: array [layer, head, query, key], or a list of arrays [head, query, key], one a layer.
            tokens: one string for each token.
            layers, heads: true numbers, where the maps are only some of the model's; 0, 1, 2, ... without them.

        Raises:
            ValueError: the shapes do not fit together.
        """
        array = _to_array(weights)
        _check_shape(array.shape)
        tokens = [str(token) for token in tokens]
        if len(tokens) != array.shape[3]:
            raise ValueError(f"weights are for {array.shape[3]} tokens (their last axis); got {len(tokens)} tokens. "
                             "Did you leave out the special tokens?")
        layers = _numbers("layers", layers, array.shape[0])
        heads = _numbers("heads", heads, array.shape[1])
        return cls(array, tokens, layers, heads, [], dict(info or {}))

    @property
    def weights(self) -> np.ndarray:
        """Float32 array [layer, head, query, key]: row = query = the token that looks, column = key = looked at."""
        return self.stored if self.stored.dtype == np.float32 else _from_bytes(self.stored)

    def __getitem__(self, place) -> np.ndarray:
        """Return one map [query, key] by its true layer and head numbers: ``att[2, 3]``."""
        if not (isinstance(place, tuple) and len(place) == 2):
            raise TypeError(f"write att[layer, head], such as att[{self.layers[0]}, {self.heads[0]}]; got {place!r}")
        layer, head = _position("layer", place[0], self.layers), _position("head", place[1], self.heads)
        chosen = self.stored[layer, head]
        return chosen if chosen.dtype == np.float32 else _from_bytes(chosen)

    def __len__(self) -> int:
        """The number of tokens."""
        return len(self.tokens)

    def __repr__(self) -> str:
        model = f"{self.info['model']!r}, " if "model" in self.info else ""
        return f"Attention({model}{len(self.layers)} layers x {len(self.heads)} heads, {len(self)} tokens)"

    def figure(self, layer: int | None = None, head: int | None = None, **options):
        """Draw the map of one head, or a grid of small maps where layer or head is left open.

        Args:
            layer, head: true numbers; None means all.
            options: handed on to `plots.heatmap` or `plots.head_grid`.

        Returns:
            the Matplotlib Axes (for a grid, an array of them).
        """
        from llmtutor import plots

        if layer is not None and head is not None:
            options.setdefault("title", f"L{layer} H{head}")
            return plots.heatmap(self[layer, head], self.tokens, **options)
        rows = [layer] if layer is not None else self.layers
        columns = [head] if head is not None else self.heads
        chosen = np.stack([np.stack([self[row, column] for column in columns]) for row in rows])
        return plots.head_grid(chosen, self.tokens, layers=rows, heads=columns, **options)

    def save(self, path, **options) -> Path:
        """Save the maps (``.npz``, read back by `Attention.open`) or their figure (``.png``, ``.svg``, ``.pdf``).

        Args:
            path: where to; the ending says what.
            options: for figures, the same as for `figure`.
        """
        path = Path(path)
        if path.suffix == ".npz":
            np.savez_compressed(path, stored=self.stored, about=json.dumps(
                {"tokens": self.tokens, "layers": self.layers, "heads": self.heads, "info": self.info}))
        elif path.suffix in (".png", ".svg", ".pdf"):
            self._draw(path, options)
        elif path.suffix in (".html", ".htm"):
            raise ValueError("saving as .html comes with the explorer, which is not part of this version; "
                             "save as .svg or .png, or use llmtutor.bertviz in a notebook")
        else:
            raise ValueError(f"a file name must end in .npz, .png, .svg or .pdf; got {path.name!r}")
        return path

    def _draw(self, path: Path, options: dict) -> None:
        import matplotlib.pyplot as plt

        from llmtutor import plots

        figure = np.ravel(self.figure(**options))[0].figure
        try:
            if path.suffix == ".svg":  # text stays text, so the reader's own fonts draw it
                path.write_text(plots.svg(figure), encoding="utf-8")
            else:
                figure.savefig(path, bbox_inches="tight", dpi=150)
        finally:
            plt.close(figure)

    @classmethod
    def open(cls, path) -> Attention:
        """Read maps that `save` wrote as ``.npz``."""
        with np.load(path, allow_pickle=False) as file:
            about = json.loads(str(file["about"]))
            return cls(file["stored"], about["tokens"], about["layers"], about["heads"], [], about["info"])


def attend(lm, text: str, *, pair: str | None = None, target=None, image=None, generate: int = 0,
           layers=None, heads=None, store: str = "float32") -> Attention:
    """Read a text with a model and return its attention maps. The model is left exactly as it was.

    Args:
        lm: what `load` returns, or any object with `.model` and `.tokenizer`.
        text: the text to read.
        pair: a second text, for models that read two (BERT).
        layers, heads: the numbers to keep; None keeps all.
        store: "float32" keeps the weights exactly; "uint8" keeps one byte each, off by at most `UINT8_BOUND` (0.004).
        target, image, generate: for encoder-decoder models, image models and generated text; not in this version.

    Returns:
        an `Attention` with axes [layer, head, query, key].

    Raises:
        TypeError, ValueError: text that is empty, too long or no text; a layer or head that the model does not have; a
            kind of model that is not supported.
    """
    _refuse_unsupported(lm, target, image, generate)
    if store not in _STORES:
        raise ValueError(f"store must be 'float32' or 'uint8'; got {store!r}")
    for name, value in (("text", text), ("pair", pair)):
        if isinstance(value, str) and not value.strip():
            raise ValueError(f"{name} is empty (or only spaces), so there is nothing to look at; write at least one word "
                             "/ 文本为空，请至少写一个词")
    encoding = _tokens.encode(lm.tokenizer, text, pair)
    config = lm.model.config.get_text_config()
    chosen = _chosen("layers", layers, config.num_hidden_layers)
    heads = _chosen("heads", heads, config.num_attention_heads)
    _check_length(lm, len(encoding.ids), len(chosen) * len(heads), store)
    _check_ids(lm.model, encoding.ids)
    recorder = _Recorder(chosen, heads, store)
    _run(lm, encoding, recorder)
    maps = recorder.maps
    _check_maps(maps, [] if layers is None else chosen, recorder.seen)
    pieces = _tokens.pieces(lm.tokenizer, text, pair)
    return Attention(np.stack([maps[n] for n in sorted(maps)]), [piece.text for piece in pieces], sorted(maps), heads,
                     pieces, _about(lm, text, pair, store))


def _run(lm, encoding, recorder: _Recorder) -> None:
    """One forward pass with our function in the registry; the maps are in the recorder afterwards."""
    import torch

    device = next(lm.model.parameters()).device
    inputs = {"input_ids": torch.tensor([encoding.ids], device=device),
              "attention_mask": torch.ones(1, len(encoding.ids), dtype=torch.long, device=device)}
    if "token_type_ids" in lm.tokenizer.model_input_names:
        inputs["token_type_ids"] = torch.tensor([encoding.type_ids], device=device)
    if getattr(lm.model.config, "use_cache", None) is not None:
        inputs["use_cache"] = False
    with _capturing(lm.model, recorder), torch.no_grad():
        lm.model(**inputs)


# --- the function in the registry ---------------------------------------------------------------------------------


class _Recorder:
    """Keeps the maps of the chosen layers and heads during one forward pass.

    Args:
        layers, heads: true numbers to keep.
        store: "float32" or "uint8".
    """

    def __init__(self, layers: list[int], heads: list[int], store: str):
        self.layers, self.heads, self.store = layers, heads, store
        self.seen: set[int] = set()
        self.maps: dict[int, np.ndarray] = {}

    def number(self, module) -> int:
        """The layer's true number; by order of calling where a module has none, or is used again for the next layer."""
        number = getattr(module, "layer_idx", None)
        if number is None or number in self.seen:
            number = max(self.seen, default=-1) + 1
        self.seen.add(number)
        return number

    def keep(self, number: int, weights, mask, whole_rows: bool) -> None:
        """Keep the map of one layer, weights [1, head, query, key], after checking its rows."""
        kept = weights[0, self.heads].float()
        rows = kept.sum(-1)
        if whole_rows and not bool(((rows - 1).abs() < 1e-3).all()):
            raise ValueError(f"layer {number}: attention rows must sum to 1; got sums from {rows.min():.4f} to "
                             f"{rows.max():.4f}. Does the model hold NaN or infinite weights?")
        if mask is not None:
            masked = mask[0] < -1e4  # [1 or head, query, key]
            if bool((kept * (masked if len(masked) == 1 else masked[self.heads])).any()):
                raise ValueError(f"layer {number}: a masked token got attention, so the map cannot be trusted. "
                                 "Please report it, with the name of the model.")
        array = kept.cpu().numpy()
        self.maps[number] = _to_bytes(array) if self.store == "uint8" else array


_recorder: _Recorder | None = None  # the one at work; the registry knows functions, not objects


def _capture(module, query, key, value, attention_mask, scaling=None, dropout=0.0, **options):
    """Compute attention as transformers asks for it, and keep the weights of the chosen layers.

    Args:
        query: [batch, head, query, d_head]; key, value: [batch, key head, key, d_head], with as many or fewer heads.
        attention_mask: [batch, 1, query, key] to be added to the scores (0 or a very negative number), or None.

    Returns:
        the mixed values [batch, query, head, d_head] and the weights [batch, head, query, key].
    """
    number = _recorder.number(module)
    exact = number in _recorder.layers or any(options.get(name) is not None for name in ("softcap", "s_aux"))
    if not exact:  # the fused kernel is faster and never builds the map; the mask already says what is causal
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        options["is_causal"] = False
        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout, scaling, **options)
    groups = query.shape[1] // key.shape[1]  # query heads that share one key head
    weights = _weights(query, key.repeat_interleave(groups, 1), attention_mask, scaling, **options)
    if number in _recorder.layers:
        _recorder.keep(number, weights, attention_mask, whole_rows=options.get("s_aux") is None)
    mixed = weights.to(value.dtype) @ value.repeat_interleave(groups, 1)
    return mixed.transpose(1, 2).contiguous(), weights


def _weights(query, key, mask, scaling, *, position_bias=None, softcap=None, s_aux=None, **_):
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
def _capturing(model, recorder: _Recorder):
    """Switch a model to our attention function and to evaluation; put back exactly what was there."""
    global _recorder
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import eager_mask

    AttentionInterface.register(CAPTURE, _capture)
    AttentionMaskInterface.register(CAPTURE, eager_mask)
    before = [(config, config._attn_implementation) for config in _configs(model)]
    training = [module for module in model.modules() if module.training]
    if not model._can_set_attn_implementation():
        raise ValueError(f"{type(model).__name__} computes attention in its own way and not through the registry of "
                         "transformers, so its maps cannot be captured")
    outer, _recorder = _recorder, recorder
    try:
        model.set_attn_implementation(CAPTURE)
        model.eval()
        yield
    finally:
        _recorder = outer
        for config, implementation in before:  # outer configurations first: setting one also sets those inside it
            config._attn_implementation = implementation
        for module in training:
            module.training = True


def _configs(model) -> list:
    """All configurations in a model, from the outside in, each once."""
    found = []
    queue = [model.config, *(m.config for m in model.modules() if hasattr(m, "_can_set_attn_implementation"))]
    while queue:
        config = queue.pop(0)
        if config is not None and all(config is not other for other in found):
            found.append(config)
            queue += [getattr(config, name, None) for name in config.sub_configs]
    return found


# --- one byte a weight --------------------------------------------------------------------------------------------


def _to_bytes(weights: np.ndarray) -> np.ndarray:
    """Store weights in [0, 1] as round(255 * sqrt(w)).

    The square root keeps small weights apart: on a linear scale every weight of an even row over more than 510 tokens
    would become 0. The root is off by at most 1/510, so the weight is off by at most (2 sqrt(w) + 1/510) / 510; 0
    stays exactly 0.
    """
    return np.rint(255 * np.sqrt(weights)).astype(np.uint8)


def _from_bytes(stored: np.ndarray) -> np.ndarray:
    return np.square(stored.astype(np.float32) / np.float32(255))


# --- checks of what callers hand in -------------------------------------------------------------------------------


def _refuse_unsupported(lm, target, image, generate) -> None:
    if not (hasattr(lm, "model") and hasattr(lm, "tokenizer")):
        raise TypeError(f"lm must be what llmtutor.load returns (with .model and .tokenizer); got {type(lm).__name__}")
    later = [name for name, value in (("target", target), ("image", image), ("generate", generate or None))
             if value is not None]
    if later:
        raise ValueError(f"attend(..., {later[0]}=...) is not part of this version; it reads text with decoder-only and "
                         "encoder-only models")
    if lm.model.config.is_encoder_decoder:
        raise ValueError(f"{type(lm.model).__name__} is an encoder-decoder, which attend does not read in this version; "
                         "use a decoder-only (GPT) or encoder-only (BERT) model")


def _check_length(lm, n_tokens: int, n_maps: int, store: str) -> None:
    if n_tokens == 0:
        raise ValueError("the tokenizer made no tokens of this text, so there is nothing to look at")
    context = getattr(getattr(lm, "info", None), "context", None)
    if context is None:
        context = getattr(lm.model.config.get_text_config(), "max_position_embeddings", None)
    if context is not None and n_tokens > context:
        raise ValueError(f"the text is {n_tokens:,} tokens long, and the model can read at most {context:,}; shorten the "
                         f"text, or read it in parts / 文本有 {n_tokens:,} 个词元，模型最多读 {context:,} 个，请缩短文本")
    size = n_maps * n_tokens**2 * _STORES[store]
    if size > MAX_BYTES:
        raise ValueError(f"the maps of {n_tokens:,} tokens would take {size / 2**30:.1f} GiB, more than "
                         f"{MAX_BYTES / 2**30:.0f}; choose some with layers=[...] and heads=[...], use store='uint8', "
                         "or shorten the text")


def _check_ids(model, ids: list[int]) -> None:
    n_embeddings = model.get_input_embeddings().weight.shape[0]
    if max(ids) >= n_embeddings:
        raise ValueError(f"the tokenizer made token {max(ids)}, and the model knows only {n_embeddings}. Do tokenizer and "
                         "model belong together?")


def _check_maps(maps: dict, wanted: list[int], seen: set[int]) -> None:
    missing = [layer for layer in wanted if layer not in maps]
    if missing or not maps:
        raise ValueError(f"there is no attention in layer {missing or 'any'}: in a hybrid model only some layers have it, "
                         f"here {sorted(seen)}")
    shapes = {array.shape for array in maps.values()}
    if len(shapes) > 1:
        raise ValueError(f"the layers have maps of different shapes {sorted(shapes)}; choose layers that agree: "
                         "layers=[...]")


def _chosen(name: str, wanted, n: int) -> list[int]:
    """The numbers to keep, sorted; all of them for None."""
    if wanted is None:
        return list(range(n))
    numbers = sorted({int(number) for number in np.atleast_1d(wanted)})
    if not numbers or numbers[0] < 0 or numbers[-1] >= n:
        raise ValueError(f"{name} must be numbers from 0 to {n - 1}; got {wanted!r}")
    return numbers


def _position(name: str, number, numbers: list[int]) -> int:
    if number not in numbers:
        raise IndexError(f"there is no {name} {number} here; there are {numbers}")
    return numbers.index(number)


def _numbers(name: str, numbers, n: int) -> list[int]:
    numbers = list(range(n)) if numbers is None else [int(number) for number in numbers]
    if len(numbers) != n or len(set(numbers)) != n:
        raise ValueError(f"{name} must name each of the {n} {name} of weights once; got {numbers}")
    return numbers


def _to_array(weights) -> np.ndarray:
    if hasattr(weights, "detach"):  # a torch tensor
        weights = weights.detach().float().cpu().numpy()
    elif isinstance(weights, list | tuple):
        parts = [_to_array(part) if hasattr(part, "shape") else part for part in weights]
        shapes = [np.shape(part) for part in parts]
        if len(set(shapes)) > 1:
            raise ValueError(f"all layers must have maps of the same shape; got {shapes}")
        weights = np.array(parts)
    array = np.asarray(weights)
    if array.dtype.kind not in "fiub":
        raise ValueError(f"weights must be numbers; got {array.dtype}")
    return array.astype(np.float32)


def _check_shape(shape: tuple[int, ...]) -> None:
    hint = ""
    if len(shape) == 3:
        hint = " Did you drop the layer axis?"
    elif len(shape) == 2:
        hint = " For a single map, write weights[None, None]."
    elif len(shape) == 5:
        hint = " Did you keep the batch axis? Take one text: [maps[0] for maps in attentions]."
    if len(shape) != 4:
        raise ValueError(f"weights must have 4 axes (layer, head, query, key); got {shape}.{hint}")
    if 0 in shape or shape[2] != shape[3]:
        raise ValueError(f"weights must have as many queries as keys, and at least one of each axis (layer, head, query, "
                         f"key); got {shape}")


def _about(lm, text: str, pair: str | None, store: str) -> dict:
    import torch
    import transformers

    info = getattr(lm, "info", None)
    return {"model": getattr(info, "name", type(lm.model).__name__), "revision": getattr(info, "revision", None),
            "text": text, "pair": pair, "store": store, "dtype": str(lm.model.dtype).removeprefix("torch."),
            "versions": {"torch": torch.__version__, "transformers": transformers.__version__}}
