"""Attention maps with the tokens they belong to: to look at, compare, group, check, export and save.

Nothing here needs torch or transformers, so maps from anywhere else are as welcome as those of `attend`.
"""

from __future__ import annotations

import html
import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np

from llmtutor import tokens as _tokens
from llmtutor.attention.capture import from_bytes


@dataclass(frozen=True, repr=False, eq=False)
class Attention:
    """Attention weights with the tokens they belong to. Make one with `attend`, or with `Attention.from_arrays`.

    Attributes:
        stored: the weights as kept, axes [layer, head, query, key]: float32, or bytes on a square-root scale.
        tokens: what to show for each token that looks (query).
        layers: the true number of each layer on the first axis.
        heads: the true number of each head on the second axis.
        pieces: the tokens with their ids and places in the text (empty for `from_arrays`).
        info: model, revision, text, versions, dtype.
        key_tokens, key_pieces: the tokens looked at, where they are others than those that look (cross-attention).
    """

    stored: np.ndarray
    tokens: list[str]
    layers: list[int]
    heads: list[int]
    pieces: list = field(default_factory=list)
    info: dict = field(default_factory=dict)
    key_tokens: list[str] | None = None
    key_pieces: list | None = None

    def __post_init__(self):
        if self.key_tokens is None:
            object.__setattr__(self, "key_tokens", self.tokens)
            object.__setattr__(self, "key_pieces", self.pieces)

    @classmethod
    def from_arrays(cls, weights, tokens, layers=None, heads=None, info=None, *, key_tokens=None,
                    attention_mask=None) -> Attention:
        """Wrap attention maps from anywhere else.

        Args:
            weights: array [layer, head, query, key], or a list of arrays [head, query, key], one a layer.
            tokens: one string for each token.
            layers, heads: true numbers, where the maps are only some of the model's; 0, 1, 2, ... without them.
            key_tokens: the tokens looked at, where they are others (cross-attention).
            attention_mask: 1 for each token and 0 for each padding; the rows and columns of padding are left out.

        Raises:
            ValueError: the shapes do not fit together, or a token looks at padding.
        """
        array = _to_array(weights)
        _check_shape(array.shape, square=key_tokens is None)
        tokens = [str(token) for token in tokens]
        if key_tokens is not None:
            if attention_mask is not None:
                raise ValueError("attention_mask is for maps of one text; for cross-attention, leave out padding yourself")
            key_tokens = [str(token) for token in key_tokens]
            _check_tokens(key_tokens, array.shape[3], "last axis")
        _check_tokens(tokens, array.shape[2], "last axis" if key_tokens is None else "third axis")
        if attention_mask is not None:
            array, tokens = _without_padding(array, tokens, attention_mask)
        layers = _numbers("layers", layers, array.shape[0])
        heads = _numbers("heads", heads, array.shape[1])
        return cls(array, tokens, layers, heads, [], dict(info or {}), key_tokens, None if key_tokens is None else [])

    @property
    def weights(self) -> np.ndarray:
        """Float32 array [layer, head, query, key]: row = query = the token that looks, column = key = looked at."""
        return self.stored if self.stored.dtype == np.float32 else from_bytes(self.stored)

    @property
    def prompt_length(self) -> int:
        """How many of the tokens were given; those after them were generated."""
        return self.info.get("prompt_length", len(self))

    @property
    def key_heads(self) -> list[int]:
        """For each head the number of the key head it uses; several heads may share one (grouped-query attention)."""
        return self.info.get("key_heads", self.heads)

    def __getitem__(self, place) -> np.ndarray:
        """Return one map [query, key] by its true layer and head numbers: ``att[2, 3]``."""
        if not (isinstance(place, tuple) and len(place) == 2):
            raise TypeError(f"write att[layer, head], such as att[{self.layers[0]}, {self.heads[0]}]; got {place!r}")
        layer, head = _position("layer", place[0], self.layers), _position("head", place[1], self.heads)
        one = self.stored[layer, head]
        return one if one.dtype == np.float32 else from_bytes(one)

    def __len__(self) -> int:
        """The number of tokens that look."""
        return len(self.tokens)

    def __repr__(self) -> str:
        model = f"{self.info['model']!r}, " if "model" in self.info else ""
        keys = f" x {len(self.key_tokens)}" if self.key_tokens is not self.tokens else ""
        return f"Attention({model}{len(self.layers)} layers x {len(self.heads)} heads, {len(self)}{keys} tokens)"

    # --- other views of the same maps ---

    def by(self, unit: str) -> Attention:
        """Return the maps over "words" or "characters" in place of tokens: summed over keys, averaged over queries.

        A word is looked at as much as all its tokens together, and looks as its tokens do on average; so rows still
        sum to what they summed to before. Pieces that hold several words stay whole.
        """
        from llmtutor.attention import compare

        return compare.by(self, unit)

    def diff(self, other: Attention) -> Attention:
        """Return ``self - other`` on the tokens that both have, in the layers and heads that both have.

        A token replaced by another counts as the same place and is shown as ``he→she``. For two models with different
        tokenizers, compare words: ``a.by("words").diff(b.by("words"))``.
        """
        from llmtutor.attention import compare

        return compare.diff(self, other)

    def check(self, attention_mask=None):
        """Report whether the maps obey the laws: row sums, causality, padding; and how much goes to the first token.

        Args:
            attention_mask: 1 for each token and 0 for each padding, for maps from elsewhere; `attend` never pads.
        """
        from llmtutor.attention import report

        return report.check(self, attention_mask)

    def records(self, minimum: float = 0.0) -> list[dict]:
        """Return one dictionary for each weight of at least `minimum`: layer, head, query, key, their tokens, weight."""
        weights = self.weights
        return [{"layer": self.layers[la], "head": self.heads[h], "query": int(q), "key": int(k),
                 "query_token": self.tokens[q], "key_token": self.key_tokens[k], "weight": float(weights[la, h, q, k])}
                for la, h, q, k in np.argwhere(weights >= minimum)]

    def to_frame(self, minimum: float = 0.0):
        """Return `records` as a pandas DataFrame; what was read by which model stands in its ``attrs``.

        Raises:
            ImportError: pandas is not installed; it is not needed for anything else here.
        """
        try:
            import pandas
        except ImportError as error:
            raise ImportError("to_frame needs pandas, which is not installed: `pip install pandas`. att.records() gives the "
                              "same rows as a list of dictionaries / 请先安装 pandas，或改用 att.records()") from error
        columns = ["layer", "head", "query", "key", "query_token", "key_token", "weight"]  # also where no weight is large enough
        frame = pandas.DataFrame(self.records(minimum), columns=columns)
        frame.attrs["llmtutor"] = dict(self.info)
        return frame

    # --- figures and files ---

    def figure(self, layer: int | None = None, head: int | None = None, **options):
        """Draw the map of one head, or a grid of small maps where layer or head is left open.

        Args:
            layer, head: true numbers; None means all.
            options: handed on to `plots.heatmap` or `plots.head_grid`.

        Returns:
            the Matplotlib Axes (for a grid, an array of them).
        """
        from llmtutor import plots

        options.setdefault("key_tokens", self.key_tokens)
        if layer is not None and head is not None:
            options.setdefault("title", f"L{layer} H{head}")
            return plots.heatmap(self[layer, head], self.tokens, **options)
        rows = [layer] if layer is not None else self.layers
        columns = [head] if head is not None else self.heads
        some = np.stack([np.stack([self[row, column] for column in columns]) for row in rows])
        return plots.head_grid(some, self.tokens, layers=rows, heads=columns, **options)

    def save(self, path, **options) -> Path:
        """Save the maps (``.npz``, read back by `Attention.open`), their figure (``.png``, ``.svg``, ``.pdf``), or a page to
        explore them in (``.html``, opens with no network).

        Each of them records the model, its revision, the versions, the dtype and the text.

        Args:
            path: where to; the ending says what.
            options: for figures, the same as for `figure`; for a page, the same as for `explore`.
        """
        path = Path(path)
        if path.suffix == ".npz":
            return self.save_npz(path)
        if path.suffix in (".png", ".svg", ".pdf"):
            self._draw(path, options)
        elif path.suffix in (".html", ".htm"):
            from llmtutor import viewer

            path.write_text(viewer.html(self, **options), encoding="utf-8")
        else:
            raise ValueError(f"a file name must end in .npz, .png, .svg, .pdf or .html; got {path.name!r}")
        return path

    def _draw(self, path: Path, options: dict) -> None:
        import matplotlib.pyplot as plt

        from llmtutor import plots

        figure, about = np.ravel(self.figure(**options))[0].figure, json.dumps(self.info)
        try:
            if path.suffix == ".svg":  # text stays text, so the reader's own fonts draw it
                start, rest = str(plots.svg(figure)).split("<defs", 1)
                path.write_text(f"{start}<desc>{html.escape(about)}</desc>\n <defs{rest}", encoding="utf-8")
            else:
                key = {".png": "Description", ".pdf": "Subject"}[path.suffix]
                figure.savefig(path, bbox_inches="tight", dpi=150, metadata={key: about})
        finally:
            plt.close(figure)

    def save_npz(self, path) -> Path:
        """Save the maps with all that belongs to them, as one compressed file."""
        path = Path(path)
        np.savez_compressed(path, **self._to_file())
        return path

    @classmethod
    def load_npz(cls, path) -> Attention:
        """Read maps that `save_npz` (or `save`) wrote."""
        with np.load(path, allow_pickle=False) as file:
            if "about" not in file:
                raise ValueError(f"{Path(path).name!r} holds no single Attention; it has {sorted(file)}. If it holds the three "
                                 "maps of an encoder-decoder, read it with EncoderDecoderAttention.load_npz.")
            return cls._from_file(file)

    open = load_npz

    def _to_file(self, prefix: str = "") -> dict:
        about = {"tokens": self.tokens, "layers": self.layers, "heads": self.heads, "info": self.info,
                 "pieces": [asdict(piece) for piece in self.pieces]}
        if self.key_tokens is not self.tokens:
            about |= {"key_tokens": self.key_tokens, "key_pieces": [asdict(piece) for piece in self.key_pieces]}
        return {prefix + "stored": self.stored, prefix + "about": json.dumps(about)}

    @classmethod
    def _from_file(cls, file, prefix: str = "") -> Attention:
        about = json.loads(str(file[prefix + "about"]))
        keys = about.get("key_pieces")
        return cls(file[prefix + "stored"], about["tokens"], about["layers"], about["heads"],
                   _read_pieces(about.get("pieces", [])), about["info"], about.get("key_tokens"),
                   None if keys is None else _read_pieces(keys))

    def _with(self, **changes) -> Attention:
        """A copy with some attributes replaced."""
        return replace(self, **changes)


@dataclass(frozen=True, repr=False, eq=False)
class EncoderDecoderAttention:
    """The maps of a model of two stacks: `encoder` and `decoder` look at themselves, `cross` from decoder to encoder.

    In `decoder` and `cross` a row is the token that the decoder reads, and it predicts the next one.
    """

    encoder: Attention
    decoder: Attention
    cross: Attention

    @property
    def info(self) -> dict:
        """Model, revision, text, target, versions, dtype."""
        return self.cross.info

    @property
    def prompt_length(self) -> int:
        """How many of the decoder's tokens were given; those after them were generated."""
        return self.decoder.prompt_length

    def __repr__(self) -> str:
        return f"EncoderDecoderAttention(\n  encoder={self.encoder},\n  decoder={self.decoder},\n  cross={self.cross})"

    def by(self, unit: str) -> EncoderDecoderAttention:
        """The three maps over "words" or "characters"; see `Attention.by`."""
        return EncoderDecoderAttention(self.encoder.by(unit), self.decoder.by(unit), self.cross.by(unit))

    def check(self) -> dict:
        """A report on each part; see `Attention.check`."""
        return {name: getattr(self, name).check() for name in ("encoder", "decoder", "cross")}

    def save_npz(self, path) -> Path:
        """Save the three maps in one compressed file."""
        path, parts = Path(path), {}
        for name in ("encoder", "decoder", "cross"):
            parts |= getattr(self, name)._to_file(name + "_")
        np.savez_compressed(path, **parts)
        return path

    @classmethod
    def load_npz(cls, path) -> EncoderDecoderAttention:
        """Read what `save_npz` wrote."""
        with np.load(path, allow_pickle=False) as file:
            if "cross_about" not in file:
                raise ValueError(f"{Path(path).name!r} does not hold three maps; read it with Attention.load_npz")
            return cls(*(Attention._from_file(file, name + "_") for name in ("encoder", "decoder", "cross")))


# --- checks of what callers hand in -------------------------------------------------------------------------------


def _read_pieces(pieces: list[dict]) -> list:
    lists = ("ids", "indices", "span")  # JSON has no tuples
    return [_tokens.Piece(**{key: tuple(value) if key in lists and value is not None else value
                             for key, value in piece.items()}) for piece in pieces]


def _position(name: str, number, numbers: list[int]) -> int:
    if number not in numbers:
        raise IndexError(f"there is no {name} {number} here; there are {numbers}")
    return numbers.index(number)


def _numbers(name: str, numbers, n: int) -> list[int]:
    numbers = list(range(n)) if numbers is None else [int(number) for number in numbers]
    if len(numbers) != n or len(set(numbers)) != n:
        raise ValueError(f"{name} must name each of the {n} {name} of weights once; got {numbers}")
    return numbers


def _check_tokens(tokens: list[str], n: int, axis: str) -> None:
    if len(tokens) != n:
        raise ValueError(f"weights are for {n} tokens (their {axis}); got {len(tokens)} tokens. "
                         "Did you leave out the special tokens?")


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


def _check_shape(shape: tuple[int, ...], square: bool) -> None:
    hint = ""
    if len(shape) == 3:
        hint = " Did you drop the layer axis?"
    elif len(shape) == 2:
        hint = " For a single map, write weights[None, None]."
    elif len(shape) == 5:
        hint = " Did you keep the batch axis? Take one text: [maps[0] for maps in attentions]."
    if len(shape) != 4:
        raise ValueError(f"weights must have 4 axes (layer, head, query, key); got {shape}.{hint}")
    if 0 in shape or (square and shape[2] != shape[3]):
        raise ValueError(f"weights must have as many queries as keys, and at least one of each axis (layer, head, query, "
                         f"key); got {shape}. For cross-attention, give key_tokens as well.")


def _without_padding(array: np.ndarray, tokens: list[str], attention_mask) -> tuple[np.ndarray, list[str]]:
    real = np.ravel(_to_array(attention_mask)).astype(bool)
    if len(real) != len(tokens) or not real.any():
        raise ValueError(f"attention_mask must have one entry for each of the {len(tokens)} tokens, not all 0; got {len(real)} "
                         f"entries, {int(real.sum())} of them 1")
    leaked = array[:, :, real][..., ~real]
    if leaked.size and leaked.max() > 1e-6:
        raise ValueError(f"tokens look at padding, with weights up to {leaked.max():.4f}. Was the attention_mask handed to the "
                         "model as well?")
    return array[:, :, real][..., real], [token for token, keep in zip(tokens, real, strict=True) if keep]
