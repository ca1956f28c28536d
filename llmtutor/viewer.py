"""The attention explorer: `explore` shows it in a notebook, `html` makes a web page of it that needs nothing else.

Both hand the same data to the same script, ``viewer.js`` beside this file: tokens as text, and all weights as one byte
each, compressed. The page forbids itself every connection; a browser opens it from a file, with no network.

How a weight becomes a byte is told at `to_codes`: no weight is off by more than ``BOUND``, small ones by far less, and the
explorer shows the error beside each weight.
"""

from __future__ import annotations

import base64
import hashlib
import html as _html
import io
import json
import zlib
from pathlib import Path

import anywidget
import numpy as np
import traitlets

from .fonts import readable

SCRIPT, STYLE = (Path(__file__).with_name(name) for name in ("viewer.js", "viewer.css"))
BOUND = 0.5 / 127.5  # the largest error of any weight stored as one byte: 0.004
MAX_MB = 12  # of a page or of the data of a widget; Chromium opens so much in well under two seconds
MAX_TOKENS = 4096  # on each side; a browser cannot lay out many more as text
# Up to so many weights -> how fine small weights are stored. Few weights cost little, so they may be fine.
FINENESS = {500_000: 255, 2_000_000: 80, float("inf"): 56}
MODES, COMBINES, SHADES, HIDES = ("matrix", "lines", "text"), ("mean", "max"), ("sqrt", "linear"), ("none", "first", "special")


# --- what the user calls ------------------------------------------------------------------------------------------


def explore(att, *, layer=None, heads=None, query=None, key=None, mode="matrix", layers=None, lang=None, max_mb=MAX_MB):
    """Explore attention maps: all heads at a glance, one in detail, and the text coloured by what a token looks at.

    Args:
        att: an `Attention`: `weights` [layer, head, query, key], `tokens`, and where it has them `key_tokens`, `layers`, `heads`.
        layer, heads: true numbers of the layer and of the heads in it to show first; the first ones where left out.
        query: index of the token to pin first, as the one that looks; the last token where neither it nor `key` is given.
        key: index of the token to pin first, as the one looked at.
        mode: "matrix", "lines" (two columns of tokens) or "text" (the text alone).
        layers: keep only these layers, where all of them would be too large.
        lang: "en" or "zh"; where left out, Chinese if a token has Chinese characters.
        max_mb: the largest size of the data in megabytes.

    Returns:
        an `Explorer`: as the last line of a cell it is shown. Set and read its `layer`, `heads`, `query`, `key`, `mode`.

    Raises:
        TypeError: `att` is no attention of one text.
        ValueError: numbers that are not there, weights outside 0 to 1, or maps too large; with what to do instead.
    """
    return Explorer(*_prepare(att, layer, heads, query, key, mode, layers, lang, max_mb))


def html(att, *, layer=None, heads=None, query=None, key=None, mode="matrix", layers=None, lang=None, max_mb=MAX_MB) -> str:
    """Return the explorer as a web page that opens with no network and no Jupyter; arguments as for `explore`."""
    about, packed, state = _prepare(att, layer, heads, query, key, mode, layers, lang, max_mb)
    about = about | {"packed": base64.b64encode(packed).decode(), "style": STYLE.read_text(encoding="utf-8"), "state": state}
    data = json.dumps(about, separators=(",", ":")).replace("<", r"\u003c")  # so that no token can end the script element
    script = SCRIPT.read_text(encoding="utf-8") + '\nopenPage(document.getElementById("llmtutor"), document.getElementById("data"));\n'
    style = "body { margin: 0; } @media print { body { color-scheme: light; } }"
    policy = ("default-src 'none'; base-uri 'none'; form-action 'none'; "
              f"script-src '{_hash(script)}'; style-src '{_hash(style)}'")
    title = _html.escape(about["title"])
    return f"""<!doctype html>
<html lang="{'zh-CN' if state['lang'] == 'zh' else 'en'}">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<main id="llmtutor"></main>
<noscript>This page needs JavaScript, and nothing from the network. / 本页需要 JavaScript，但不需要网络。</noscript>
<script type="application/json" id="data">{data}</script>
<script type="module">{script}</script>
</body>
</html>
"""


class Explorer(anywidget.AnyWidget):
    """The explorer in a notebook; what a reader does in it can be read here, and what is set here is shown there.

    Attributes:
        layer: the true number of the layer shown.
        heads: true numbers of the heads shown, of that layer.
        query, key: index of the pinned token as the one that looks, or as the one looked at; at most one is not None.
        mode: "matrix", "lines" or "text".
        combine: how several heads are shown: their "mean" or their "max".
        shade: "sqrt" shows small weights, "linear" shows them as small as they are.
        threshold: weights below it are not drawn.
        hide: "none", or hide the "first" or the first and all "special" tokens as keys and scale the rest of each row to 1.
        lang: "en" or "zh".
    """

    _esm = SCRIPT
    _about = traitlets.Dict().tag(sync=True)
    _packed = traitlets.Bytes().tag(sync=True)
    layer = traitlets.Int().tag(sync=True)
    heads = traitlets.List(traitlets.Int()).tag(sync=True)
    query = traitlets.Int(None, allow_none=True).tag(sync=True)
    key = traitlets.Int(None, allow_none=True).tag(sync=True)
    mode = traitlets.Enum(MODES, "matrix").tag(sync=True)
    combine = traitlets.Enum(COMBINES, "mean").tag(sync=True)
    shade = traitlets.Enum(SHADES, "sqrt").tag(sync=True)
    threshold = traitlets.Float(0.0, min=0.0, max=1.0).tag(sync=True)
    hide = traitlets.Enum(HIDES, "none").tag(sync=True)
    lang = traitlets.Enum(("en", "zh"), "en").tag(sync=True)

    def __init__(self, about, packed, state):
        self._known = about["layers"], about["heads"], len(about["tokens"]), len(about["key_tokens"] or about["tokens"])
        self._title = about["title"]
        self._picture = None
        super().__init__(_about=about | {"style": STYLE.read_text(encoding="utf-8")}, _packed=packed, **state)

    def __repr__(self):
        layers, heads, n_queries, n_keys = self._known
        return f"Explorer({len(layers)} layers x {len(heads)} heads, {n_queries} x {n_keys} tokens)"

    @traitlets.validate("layer")
    def _check_layer(self, proposal):
        return _one_of("layer", proposal["value"], self._known[0], traitlets.TraitError)

    @traitlets.validate("heads")
    def _check_heads(self, proposal):
        if not proposal["value"]:
            raise traitlets.TraitError(f"heads must name at least one of {self._known[1]}; got an empty list")
        return [_one_of("head", head, self._known[1], traitlets.TraitError) for head in dict.fromkeys(proposal["value"])]

    @traitlets.validate("query", "key")
    def _check_token(self, proposal):
        name, number = proposal["trait"].name, proposal["value"]
        return _index(name, number, self._known[2 if name == "query" else 3], traitlets.TraitError)

    @traitlets.observe("query", "key")
    def _pin_one(self, change):
        if change["new"] is not None:
            setattr(self, "key" if change["name"] == "query" else "query", None)

    def _repr_mimebundle_(self, **options):
        """The live view, and beside it a picture for places that run no scripts: GitHub, print, an untrusted notebook."""
        bundle = super()._repr_mimebundle_(**options)
        data, metadata = bundle if isinstance(bundle, tuple) else (bundle, {})
        return {**data, "text/plain": repr(self), "image/png": base64.b64encode(self.picture()).decode()}, metadata

    def picture(self) -> bytes:
        """Draw what is shown now, the chosen heads of the chosen layer, as a PNG."""
        state = self.layer, tuple(self.heads), self.combine, self.shade
        if self._picture is None or self._picture[0] != state:
            self._picture = state, _draw(self._about, self._packed, *state, self._title)
        return self._picture[1]


# --- what both share ----------------------------------------------------------------------------------------------


def _prepare(att, layer, heads, query, key, mode, layers, lang, max_mb):
    """Check everything; return what to tell the script, the packed weights, and the state to begin with."""
    weights, tokens, key_tokens, numbers = _read(att)
    kept = numbers["layers"] if layers is None else [_one_of("layer", one, numbers["layers"]) for one in _several("layers", layers)]
    weights = weights if layers is None else weights[[numbers["layers"].index(one) for one in kept]]
    _check_size(weights, kept, max_mb)
    packed, form = pack(weights)
    _check_packed(len(packed), kept, max_mb)
    state = {"layer": kept[0] if layer is None else _one_of("layer", layer, kept),
             "heads": [_one_of("head", one, numbers["heads"]) for one in _several("heads", heads)] if heads is not None else numbers["heads"][:1],
             "query": _index("query", query, len(tokens)), "key": _index("key", key, weights.shape[3]),
             "mode": _one_of("mode", mode, MODES), "lang": _language(lang, [*tokens, *(key_tokens or [])])}
    if query is not None and key is not None:
        raise ValueError(f"only one token can be pinned; got query={query} and key={key}. Leave one of them out.")
    if query is None and key is None:
        state["query"] = len(tokens) - 1
    special = [i for i, piece in enumerate(getattr(att, "key_pieces", None) or []) if piece.special]
    about = {"tokens": tokens, "key_tokens": key_tokens, "layers": kept, "heads": numbers["heads"], "special": special,
             "title": _title(att, kept, numbers["heads"]), **form}
    return about, packed, state


def _read(att):
    """Return checked weights, the tokens of both sides as short visible text (None: the same), and the true numbers."""
    if hasattr(att, "cross") and hasattr(att, "encoder"):
        raise TypeError("the explorer shows one stack at a time; got an encoder-decoder attention. "
                        "Choose att.encoder, att.decoder or att.cross. / 请选择 att.encoder、att.decoder 或 att.cross。")
    missing = [name for name in ("weights", "tokens") if not hasattr(att, name)]
    if missing:
        raise TypeError(f"wanted an Attention; got {type(att).__name__}, which has no {' and no '.join(missing)}. Make one with "
                        "lt.attend(lm, text), or from arrays with lt.Attention.from_arrays(weights, tokens).")
    stored = getattr(att, "stored", None)  # weights that are bytes already need no second rounding
    weights = stored if isinstance(stored, np.ndarray) and stored.dtype == np.uint8 else np.asarray(att.weights)
    if weights.ndim != 4 or 0 in weights.shape:
        raise ValueError(f"weights must have 4 axes (layer, head, query, key), none of them empty; got {weights.shape}. "
                         "Did you drop the layer or the head axis?")
    if weights.dtype.kind not in "fu":
        raise ValueError(f"weights must be floating-point numbers from 0 to 1; got {weights.dtype}.")
    tokens, others = att.tokens, getattr(att, "key_tokens", None)
    others = None if others is None or others is tokens else others
    for what, some, wanted in (("tokens", tokens, weights.shape[2]), ("key_tokens", tokens if others is None else others, weights.shape[3])):
        if some is None or isinstance(some, str) or len(some) != wanted:
            got = "none" if some is None else f"{len(some)}"
            raise ValueError(f"wanted {wanted} {what}, one for each {'query' if what == 'tokens' else 'key'} of the weights "
                             f"{weights.shape}; got {got}. Do they belong to another text?")
        if wanted > MAX_TOKENS:
            raise ValueError(f"the explorer shows up to {MAX_TOKENS:,} tokens on each side; got {wanted:,}. Read a shorter part of the "
                             f"text, or look at words: att.by('words'). / 浏览器最多显示 {MAX_TOKENS:,} 个词元，请缩短文本。")
    numbers = {what: _numbers(att, what, n) for what, n in zip(("layers", "heads"), weights.shape)}
    shown = [[readable(str(token), width=40) for token in some] for some in (tokens, others or [])]
    return weights, shown[0], None if others is None else shown[1], numbers


def _numbers(att, what, wanted):
    numbers = getattr(att, what, None)
    numbers = list(range(wanted)) if numbers is None else [int(number) for number in numbers]
    if len(numbers) != wanted:
        raise ValueError(f"weights have {wanted} {what}; got {len(numbers)} numbers for them: {numbers}. Give one for each.")
    return numbers


def _several(what, values):
    values = list(values) if np.iterable(values) and not isinstance(values, str) else [values]
    if not values:
        raise ValueError(f"{what} must name at least one; got an empty list. Leave it out to see all.")
    return list(dict.fromkeys(values))


def _one_of(what, value, known, error=ValueError):
    if isinstance(value, bool) or value not in known:
        raise error(f"{what} must be one of {list(known)}; got {value!r}.")
    return value if isinstance(value, str) else int(value)


def _index(what, value, n, error=ValueError):
    if value is None:
        return None
    if isinstance(value, bool) or value not in range(-n, n):
        raise error(f"{what} must be the index of a token, from 0 to {n - 1} (negative counts from the end); got {value!r}.")
    return int(value) % n


def _language(lang, tokens):
    if lang is None:
        return "zh" if any("\u4e00" <= char <= "\u9fff" for token in tokens for char in token) else "en"
    return _one_of("lang", lang, ("en", "zh"))


def _title(att, layers, heads):
    info = getattr(att, "info", None) or {}
    text = readable(str(info.get("text") or ""), width=60)
    return " · ".join(part for part in (str(info.get("model") or ""), text) if part) or "Attention"


def _hash(source):
    """The name by which a content-security policy allows one script or style and no other."""
    return "sha256-" + base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()


# --- size ---------------------------------------------------------------------------------------------------------


def _check_size(weights, layers, max_mb):
    """Refuse what is far too large before it is packed: the first map tells how well the others will compress."""
    if weights.size > 40e6:
        expected = len(pack(weights[:1, :1], fineness=56)[0]) * weights.shape[0] * weights.shape[1]
        if expected > 1.5 * max_mb * 0.75e6:
            _check_packed(expected, layers, max_mb, about="about ")


def _check_packed(n_bytes, layers, max_mb, about=""):
    """Refuse what is too large for a page or a notebook; say the size, and how many layers would fit."""
    megabytes = n_bytes * 4 / 3 / 1e6  # base64, as a page and as a notebook hold it
    if megabytes <= max_mb:
        return
    fitting = max(1, int(len(layers) * max_mb / megabytes))
    smaller = f"fewer layers: layers={layers[:fitting]}, " if fitting < len(layers) else ""
    raise ValueError(f"these maps need {about}{megabytes:.1f} MB, above max_mb={max_mb}. Take {smaller}a shorter text, or "
                     f"lt.attend(..., layers=[...], heads=[...]); or allow it with max_mb={int(megabytes) + 1}. / "
                     f"数据过大（{megabytes:.1f} MB）：请减少层、头或词元，或设置 max_mb={int(megabytes) + 1}。")


# --- one byte a weight --------------------------------------------------------------------------------------------


def to_codes(weights, fineness):
    """Turn weights in [0, 1] into bytes, fineness c of 1 to 255: round(c sqrt(w)) up to sqrt(w) = c / 255, then linear.

    A code step in the lower part is 2 sqrt(w) / c wide, and 1 / 127.5 in the upper part, the same where they meet. So no
    weight is off by more than half of that, ``BOUND``; and below the meeting point by no more than (sqrt(w) + 1 / 2c) / c.
    With c = 255 all is root. A smaller c spends fewer codes on the many small weights, so they compress better.
    """
    root = np.sqrt(weights, dtype=np.float32)
    edge = fineness / 255
    if fineness == 255:
        return np.rint(255 * root).astype(np.uint8)
    return np.rint(np.where(root <= edge, fineness * root, fineness * edge + 127.5 * (weights - edge * edge))).astype(np.uint8)


def from_codes(codes, fineness):
    """Read back what `to_codes` wrote, as float32; the script does the same."""
    codes, edge = np.asarray(codes, np.float32), fineness / 255
    joint = fineness * edge
    return np.where(codes <= joint, np.square(codes / fineness), edge * edge + (codes - joint) / 127.5).astype(np.float32)


def pack(weights, fineness=None):
    """Compress maps [layer, head, query, key] into bytes that `unpack` and the script read.

    A causal map keeps only its lower triangle. If any weight is NaN, one bit for each weight follows the codes.

    Args:
        weights: floats from 0 to 1, or bytes on a square-root scale as `attend(..., store="uint8")` keeps them.
        fineness: see `to_codes`; chosen by the number of weights where left out.

    Returns:
        the bytes (zlib), and what is needed to read them: shape, causal, nan, whole, fineness.

    Raises:
        ValueError: a weight below 0 or above 1.
    """
    n_layers, n_heads, n_queries, n_keys = weights.shape
    allowed = np.tril(np.ones((n_queries, n_keys), bool), n_keys - n_queries)
    causal = n_keys >= n_queries > 1 and not any(np.any(layer[:, ~allowed]) for layer in weights)
    places = np.flatnonzero(allowed) if causal else None
    stored = weights.dtype == np.uint8
    count = n_layers * n_heads * (n_queries * n_keys if places is None else len(places))
    if fineness is None:
        fineness = 255 if stored else next(fine for most, fine in FINENESS.items() if count <= most)
    # Huffman alone is as small as weights allow, which are mostly noise; runs of zeros are what RLE adds.
    packer, marks, any_nan = zlib.compressobj(6, zlib.DEFLATED, 15, 9, zlib.Z_RLE), [], False
    parts, whole = [], True  # whether all rows sum to 1, so that the rest of a row is known from one weight
    for number, layer in enumerate(weights):
        flat = layer.reshape(n_heads, -1) if places is None else layer.reshape(n_heads, -1)[:, places]
        whole = whole and not stored and bool(np.all(np.abs(layer.sum(-1) - 1) < 1e-3))
        nan = np.isnan(flat) if not stored else np.zeros(flat.shape, bool)
        any_nan |= bool(nan.any())
        marks.append(np.packbits(nan))
        parts.append(packer.compress((flat if stored else to_codes(_in_range(flat, nan, number), fineness)).tobytes()))
    if any_nan:
        parts += [packer.compress(mark.tobytes()) for mark in marks]
    form = {"shape": list(weights.shape), "causal": bool(causal), "nan": any_nan, "whole": whole, "fineness": fineness}
    return b"".join([*parts, packer.flush()]), form


def _in_range(weights, nan, number):
    if nan.any():
        weights = np.where(nan, 0, weights)
    low, high = weights.min(), weights.max()
    if low < 0 or high > 1 + 1e-3:
        raise ValueError(f"the explorer shows weights from 0 to 1; position {number} on the layer axis has {low:.4g} to {high:.4g}. Are these "
                         "scores before the softmax, or a difference? Draw those with att.figure(layer=..., head=...).")
    return np.minimum(weights, 1)


def unpack(packed, form):
    """Read what `pack` wrote: float32 [layer, head, query, key] with NaN where it was."""
    n_layers, n_heads, n_queries, n_keys = form["shape"]
    raw = np.frombuffer(zlib.decompress(packed), np.uint8)
    allowed = np.tril(np.ones((n_queries, n_keys), bool), n_keys - n_queries)
    places = np.flatnonzero(allowed) if form["causal"] else np.arange(n_queries * n_keys)
    count = n_layers * n_heads * len(places)
    values = from_codes(raw[:count], form["fineness"]).reshape(n_layers, -1)
    if form["nan"]:
        bits = np.unpackbits(raw[count:].reshape(n_layers, -1), axis=1)[:, :values.shape[1]].astype(bool)
        values[bits] = np.nan
    weights = np.zeros((n_layers, n_heads, n_queries * n_keys), np.float32)
    weights[..., places] = values.reshape(n_layers, n_heads, -1)
    return weights.reshape(form["shape"])


# --- the picture --------------------------------------------------------------------------------------------------


def _draw(about, packed, layer, heads, combine, shade, title):
    """Draw the map of some heads of one layer, as a PNG."""
    from matplotlib.figure import Figure

    from . import plots

    rows = unpack(packed, about)[about["layers"].index(layer)][[about["heads"].index(head) for head in heads]]
    weights = rows.mean(0) if combine == "mean" else rows.max(0)
    side = float(np.clip(0.3 * max(weights.shape), 3.5, 8))
    figure = Figure(figsize=(side + 1.5, side), layout="constrained")  # not through pyplot, which would show it a second time
    name = f"L{layer} " + " ".join(f"H{head}" for head in heads) + (f" ({combine})" if len(heads) > 1 else "")
    plots.heatmap(weights, about["tokens"], key_tokens=about["key_tokens"], ax=figure.add_subplot(),
                  title=readable(f"{name} · {title}", width=70), scale=shade)
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=90, metadata={"Software": None})
    return out.getvalue()
