"""The attention explorer: `explore` shows it in a notebook, `html` makes a web page of it that needs nothing else.

Both hand the same data to the same script, ``viewer.js`` and its parts beside this file: tokens as text, and all weights as
one byte each, compressed. The page forbids itself every connection; a browser opens it from a file, with no network.

How a weight becomes a byte is told at `to_codes`: no weight is off by more than ``BOUND``, small ones by far less, and the
explorer shows the error beside each weight.

What needs the model (`explore(att, lm)`) lives in viewer_live.py and reaches the explorer as an object with a few methods;
figures are drawn by viewer_figure.py.
"""

from __future__ import annotations

import base64
import hashlib
import html as _html
import json
import os
import re
import uuid
import zlib
from pathlib import Path

import anywidget
import numpy as np
import traitlets

from .fonts import readable, true_numbers

SCRIPTS = [Path(__file__).with_name(name) for name in ("viewer_data.js", "viewer_words.js", "viewer_panels.js", "viewer.js", "viewer_places.js")]
BUNDLED = Path(__file__).with_name("bundled")
STYLE = Path(__file__).with_name("viewer.css")
BOUND = 0.5 / 127.5  # the largest error of any weight stored as one byte: 0.004
SIGNED_BOUND = 1 - (126.5 / 127) ** 2  # and of any difference of two weights: 0.008
MAX_MB = 12  # of a page or of the data of a widget; Chromium opens so much in well under two seconds
MAX_KEPT = 0.5e6  # bytes of maps that a notebook keeps with an output; of larger ones it keeps the picture
MARK = "llmtutor:explorer"  # comments around the output, by which tools find it
MAX_TOKENS = 4096  # on each side; a browser cannot lay out many more as text
MAX_GROUPED = 12e6  # weights; more are not offered as words, which would take seconds to add up
# Up to so many weights -> how fine small weights are stored. Few weights cost little, so they may be fine.
FINENESS = {500_000: 255, 2_000_000: 80, float("inf"): 56}
THUMB = 48  # cells on each side of a small map, where the small maps are made here
MODES, COMBINES, SHADES, HIDES = ("matrix", "lines", "text"), ("mean", "max"), ("sqrt", "linear"), ("none", "first", "special")
STATE = ("part", "unit", "layer", "heads", "query", "key", "mode", "combine", "shade", "threshold", "hide", "lang")
PARTS, UNITS = ("self", "encoder", "decoder", "cross"), ("tokens", "characters", "words")


# --- what the user calls ------------------------------------------------------------------------------------------


def explore(att, lm=None, *, layer=None, heads=None, query=None, key=None, mode="matrix", part=None, unit="tokens", layers=None,
            names=None, explanations=(), image=None, lang=None, max_mb=MAX_MB):
    """Explore attention maps: all heads at a glance, one in detail, and the text coloured by what a token looks at.

    Args:
        att: an `Attention`: `weights` [layer, head, query, key], `tokens`, and where it has them `key_tokens`, `layers`, `heads`;
            an `EncoderDecoderAttention`; or a difference, as `att.diff(other)` makes it.
        lm: the model, as `load` returns it, for what needs it: typing another text, removing heads, a head step by step.
        layer, heads: true numbers of the layer and of the heads in it to show first; the first ones where left out.
        query: index of the token to pin first, as the one that looks; the last token where neither it nor `key` is given.
        key: index of the token to pin first, as the one looked at.
        mode: "matrix", "lines" (two columns of tokens) or "text" (the text alone).
        part: of an encoder-decoder, what to show first: "encoder", "decoder" or "cross".
        unit: "tokens", "characters" or "words": a word is looked at as much as its tokens together, and looks as they do on
            average.
        layers: keep only these layers, where all of them would be too large.
        names: heads that have a name: ``{"pronoun": [(layer, head, score), ...], ...}`` (the score may be left out), or what
            `explain.find_heads` returned; for an encoder-decoder one such for each part: ``{"cross": {...}}``. Where left out,
            those of the model's card, whose entry "heads" has the same form.
        explanations: list of `explain.Explanation` of the same tokens, shown as tabs beside attention.
        image: for the maps of an image, the picture: a PIL image or an array [row, column, colour].
        lang: "en" or "zh"; where left out, Chinese if a token has Chinese characters.
        max_mb: the largest size of the data in megabytes. What is larger stays in Python, and the explorer asks for each
            head when it is looked at.

    Returns:
        an `Explorer`: as the last line of a cell it is shown. Set and read its `layer`, `heads`, `query`, `key`, `mode`.

    Raises:
        TypeError: `att` is no attention of one text.
        ValueError: numbers that are not there, weights outside 0 to 1, or maps too large; with what to do instead.
    """
    live = None
    if lm is not None:
        from .viewer_live import Live

        live = Live(lm, att)
    options = {"layers": layers, "names": _names_of(lm, names), "explanations": explanations, "image": image, "lang": lang, "max_mb": max_mb}
    return Explorer(*_prepare(att, layer, heads, query, key, mode, part, unit, live=True, **options), live=live, options=options)


def html(att, *, layer=None, heads=None, query=None, key=None, mode="matrix", part=None, unit="tokens", layers=None, names=None,
         explanations=(), image=None, lang=None, max_mb=MAX_MB) -> str:
    """Return the explorer as a web page that opens with no network and no Jupyter; arguments as for `explore`."""
    about, packed, state, _ = _prepare(att, layer, heads, query, key, mode, part, unit, layers=layers, names=names,
                                       explanations=explanations, image=image, lang=lang, max_mb=max_mb)
    data = _as_data(about | {"packed": _as_text(packed), "style": STYLE.read_text(encoding="utf-8"), "state": state})
    program = _without_comments(script()) + '\nopenPage(document.getElementById("llmtutor"), document.getElementById("data"));\n'
    style = "body { margin: 0; } @media print { body { color-scheme: light; } }"
    policy = ("default-src 'none'; base-uri 'none'; form-action 'none'; "
              f"script-src '{_hash(program)}'; style-src '{_hash(style)}'")
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
<script type="module">{program}</script>
</body>
</html>
"""


def output(about, picture, alt) -> str:
    """Return the explorer as the output of a notebook cell: a picture, and a script that puts the explorer in its place.

    Nothing else is needed, so it works in a notebook that is opened again without a kernel, if it is trusted, and in a page that
    nbconvert makes. The script of each output is compressed, 40 kB. Where scripts may not run, the picture stays.

    Args:
        about: what the script is told; it draws where "packed" is among it or where a kernel answers.
        picture: a PNG.
        alt: the picture in words.
    """
    program = re.sub(r"^export default .*|^export (?=async |function |class |const )", "", _without_comments(script()), flags=re.MULTILINE)
    packed = base64.b64encode(zlib.compress(f'"use strict";\n{program}\nreturn openOutput;'.encode(), 9)).decode()
    tag = "llmtutor-explorer-" + hashlib.sha256(program.encode()).hexdigest()[:8]  # outputs of other versions have other elements
    return f"""<!-- {MARK} -->
<div>
<img alt="{_html.escape(alt)}" src="data:image/png;base64,{base64.b64encode(picture).decode()}" style="max-width: 100%">
<script>
(async (host) => {{
  try {{
    const bytes = Uint8Array.from(atob("{packed}"), (char) => char.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
    new Function(await new Response(stream).text())()(host, "{tag}", {_as_data(about)});
  }} catch (error) {{
    host.append(`The explorer could not start / 浏览器视图无法启动: ${{error.message}}`);
  }}
}})(document.currentScript.parentElement);
</script>
</div>
<!-- /{MARK} -->"""


def _as_data(about) -> str:
    """JSON for a script, in which no token can end the script element."""
    return json.dumps(about, separators=(",", ":")).replace("<", r"\u003c")


LETTERS = bytes.maketrans(b"<&", b",.")  # of the 85 digits those that mean something in a page


def _as_text(data: bytes) -> str:
    """Bytes as text: how many, a colon, and four bytes in five characters, a fifteenth less than base64."""
    return f"{len(data)}:" + base64.b85encode(data, pad=True).translate(LETTERS).decode()


def _from_text(text: str) -> bytes:
    """The bytes that `_as_text` wrote."""
    length, digits = text.split(":")
    return base64.b85decode(digits.encode().translate(bytes.maketrans(b",.", b"<&")))[:int(length)]


def script() -> str:
    """The front end: one module, written in several files."""
    return "\n".join(path.read_text(encoding="utf-8") for path in SCRIPTS)


def _without_comments(program: str) -> str:
    """The program without indents and without lines that are only comments: a fifth of a saved page that holds little else."""
    program = re.sub(r"^\s*/\*.*?\*/\s*$", "", program, flags=re.DOTALL | re.MULTILINE)
    lines = (line.strip() for line in program.splitlines())
    return "\n".join(line for line in lines if line and not line.startswith("//"))


class Explorer(anywidget.AnyWidget):
    """The explorer in a notebook; what a reader does in it can be read here, and what is set here is shown there.

    Attributes:
        part: "self"; of an encoder-decoder "encoder", "decoder" or "cross".
        unit: "tokens", "characters" or "words".
        layer: the true number of the layer shown.
        heads: true numbers of the heads shown, of that layer.
        query, key: index of the pinned token as the one that looks, or as the one looked at; at most one is not None.
        mode: "matrix", "lines" or "text".
        combine: how several heads are shown: their "mean" or their "max".
        shade: "sqrt" shows small weights, "linear" shows them as small as they are.
        threshold: weights below it are not drawn.
        hide: "none", or hide the "first" or the first and all "special" tokens as keys and scale the rest of each row to 1.
        tab: which of the explanations colours the text, counted from 1; 0 is attention.
        ablated: the heads that are removed from the model, as (layer, head); of an encoder-decoder those of `part`.
        lang: "en" or "zh".
    """

    _esm = script()
    _about = traitlets.Dict().tag(sync=True)
    _packed = traitlets.Bytes().tag(sync=True)
    part = traitlets.Enum(PARTS, "self").tag(sync=True)
    unit = traitlets.Enum(UNITS, "tokens").tag(sync=True)
    layer = traitlets.Int().tag(sync=True)
    heads = traitlets.List(traitlets.Int()).tag(sync=True)
    query = traitlets.Int(None, allow_none=True).tag(sync=True)
    key = traitlets.Int(None, allow_none=True).tag(sync=True)
    mode = traitlets.Enum(MODES, "matrix").tag(sync=True)
    combine = traitlets.Enum(COMBINES, "mean").tag(sync=True)
    shade = traitlets.Enum(SHADES, "sqrt").tag(sync=True)
    threshold = traitlets.Float(0.0, min=0.0, max=1.0).tag(sync=True)
    hide = traitlets.Enum(HIDES, "none").tag(sync=True)
    tab = traitlets.Int(0).tag(sync=True)
    ablated = traitlets.List().tag(sync=True)
    lang = traitlets.Enum(("en", "zh"), "en").tag(sync=True)

    def __init__(self, about, packed, state, maps, live=None, options=None):
        self._maps, self._live, self._options = maps, live, options or {}
        self._picture = None
        about = about | {"style": STYLE.read_text(encoding="utf-8"), "live": live.can if live else [], "name": uuid.uuid4().hex}
        super().__init__(_about=about, _packed=packed, **state)
        self.on_msg(self._answer)

    def __repr__(self):
        sheet = self._sheet
        size = f"{len(sheet['tokens'])} x {len(sheet['key_tokens'] or sheet['tokens'])} tokens"
        return f"Explorer({len(sheet['layers'])} layers x {len(sheet['heads'])} heads, {size})"

    @property
    def _sheet(self):
        """What is known of the maps shown: their tokens, layers, heads."""
        units = next(part["units"] for part in self._about["parts"] if part["name"] == self.part)
        return units.get(self.unit) or units["tokens"]

    @traitlets.validate("part")
    def _check_part(self, proposal):
        return _one_of("part", proposal["value"], [part["name"] for part in self._about["parts"]], traitlets.TraitError)

    @traitlets.validate("layer")
    def _check_layer(self, proposal):
        return _one_of("layer", proposal["value"], self._sheet["layers"], traitlets.TraitError)

    @traitlets.validate("heads")
    def _check_heads(self, proposal):
        known = self._sheet["heads"]
        if not proposal["value"]:
            raise traitlets.TraitError(f"heads must name at least one of {known}; got an empty list")
        return [_one_of("head", head, known, traitlets.TraitError) for head in dict.fromkeys(proposal["value"])]

    @traitlets.validate("query", "key")
    def _check_token(self, proposal):
        name, sheet = proposal["trait"].name, self._sheet
        tokens = sheet["tokens"] if name == "query" else sheet["key_tokens"] or sheet["tokens"]
        return _index(name, proposal["value"], len(tokens), traitlets.TraitError)

    @traitlets.validate("tab")
    def _check_tab(self, proposal):
        return _one_of("tab", proposal["value"], range(1 + len(self._about.get("explanations", []))), traitlets.TraitError)

    @traitlets.validate("ablated")
    def _check_ablated(self, proposal):
        if proposal["value"] and "predict" not in self._about["live"]:
            raise traitlets.TraitError("heads can be removed only where the explorer has the model: lt.explore(att, lm)")
        return [[int(layer), int(head)] for layer, head in proposal["value"]]

    @traitlets.observe("query", "key")
    def _pin_one(self, change):
        if change["new"] is not None:
            setattr(self, "key" if change["name"] == "query" else "query", None)

    @traitlets.observe("part", "unit")
    def _fit(self, change):
        """Other maps may have other layers, heads and tokens: keep what they have, too."""
        if "parts" not in self._about:
            return
        sheet = self._sheet
        with self.hold_trait_notifications():
            if change["name"] == "part":
                self.ablated = []
            if self.layer not in sheet["layers"]:
                self.layer = sheet["layers"][0]
            self.heads = [head for head in self.heads if head in sheet["heads"]] or sheet["heads"][:1]
            if (self.query or 0) >= len(sheet["tokens"]) or (self.key or 0) >= len(sheet["key_tokens"] or sheet["tokens"]):
                self.query, self.key = len(sheet["tokens"]) - 1, None

    def show(self, att):
        """Show other maps in the same explorer, with the same layer and heads where they have them."""
        options = self._options | {"explanations": (), "image": None}
        about, packed, state, maps = _prepare(att, None, None, None, None, self.mode, None, "tokens", live=True, **options)
        self._maps, self._picture = maps, None
        if self._live:
            self._live.follow(att)
        first = about["parts"][0]["units"]["tokens"] if state["part"] != "cross" else about["parts"][-1]["units"]["tokens"]
        state["layer"] = self.layer if self.layer in first["layers"] else state["layer"]
        state["heads"] = [head for head in self.heads if head in first["heads"]] or state["heads"]
        with self.hold_trait_notifications(), self.hold_sync():
            self._about = about | {name: self._about[name] for name in ("style", "live", "name")}
            for name, value in ({"tab": 0} | state | {"lang": self.lang}).items():
                setattr(self, name, value)
            self._packed = packed

    def _answer(self, _widget, message, _buffers):
        """Answer what the view asks for: the map of a head that it does not have yet, or something of the model."""
        reply, buffers = {"id": message.get("id")}, []
        try:
            if message["ask"] == "maps":
                (row, head), causal = message["at"], message["causal"]
                packed, form = pack(self._maps[message["part"], message["unit"]][row, head][None, None], 255, causal=causal)
                reply |= form
                buffers = [packed]
            elif message["ask"] == "read":
                self.show(self._live.read(message["text"]))
            elif message["ask"] != "awake":  # which only wants to know whether we are
                reply |= getattr(self._live, message["ask"])(**message["details"])
        except Exception as error:  # whatever it is, the reader must see it in the view, not in a log
            reply["error"] = f"{type(error).__name__}: {error}"
        self.send(reply, buffers)

    def _repr_mimebundle_(self, **options):
        """The explorer as HTML that finds this object where the kernel answers, and a picture for places that run no scripts.

        No widget view is handed out: a notebook that is opened again without its kernel would show an error in its place. With
        LLMTUTOR_PICTURES=1 there is nothing but the picture, for notebooks that are kept under version control.
        """
        bundle = {"text/plain": repr(self), "image/png": base64.b64encode(self.picture()).decode()}
        if os.environ.get("LLMTUTOR_PICTURES", "") in ("", "0"):
            bundle["text/html"] = self._output()
        return bundle, {}

    def _output(self):
        """The output of a cell; it keeps the maps, unless they are large or come head by head."""
        from . import viewer_figure

        kept = len(self._packed) <= MAX_KEPT and not any(part["units"]["tokens"].get("lazy") for part in self._about["parts"])
        state = {name: getattr(self, name) for name in STATE}
        about = self._about | {"state": state} if kept else {"name": self._about["name"], "state": state}
        return output(about | ({"packed": _as_text(self._packed)} if kept else {}), self.picture(), viewer_figure.caption(self._scene()))

    def picture(self) -> bytes:
        """Draw what is shown now, the chosen heads of the chosen layer, as a PNG."""
        from . import viewer_figure

        state = self.part, self.unit, self.layer, tuple(self.heads), self.combine, self.shade
        if self._picture is None or self._picture[0] != state:
            self._picture = state, viewer_figure.picture(self._scene())
        return self._picture[1]

    def figure(self, path=None, size="paper"):
        """Draw the exact state as a figure with a caption that names model, layer, head and text.

        Args:
            path: where to save it (.png, .svg or .pdf); it is not saved where left out.
            size: "paper" (a column 3.5 inches wide, small print) or "slide" (13.3 x 7.5 inches, large print).

        Returns:
            the Matplotlib Figure.
        """
        from . import viewer_figure

        return viewer_figure.figure(self._scene(), path, size)

    def _scene(self):
        """All that a figure of the state needs, as plain values."""
        sheet = self._sheet
        state = {name: getattr(self, name) for name in STATE}
        rows = [sheet["heads"].index(head) for head in self.heads]
        unit = self.unit if sheet is not self._units["tokens"] else "tokens"
        maps = np.stack([self._maps[self.part, unit][sheet["layers"].index(self.layer), row] for row in rows])
        return state | {"maps": _floats(maps), "sheet": sheet, "title": self._about["title"]}

    @property
    def _units(self):
        return next(part["units"] for part in self._about["parts"] if part["name"] == self.part)


# --- what both share ----------------------------------------------------------------------------------------------


def _prepare(att, layer, heads, query, key, mode, part, unit, *, layers=None, names=None, explanations=(), image=None, lang=None,
             max_mb=MAX_MB, live=False):
    """Check everything; return what to tell the script, the packed weights, the state to begin with, and the maps."""
    stacks = _stacks(att)
    several = len(stacks) > 1
    part = _one_of("part", part or ("cross" if several else "self"), list(stacks))
    parts, chunks, maps, used = [], [], {}, 0
    for name, stack in stacks.items():
        named = _card_names(att) if names is None else names
        units, budget = _units(stack, layers, (named.get(name) or {}) if several and isinstance(named, dict) else named), max_mb
        found = {}
        for kind, (sheet, weights) in units:
            fits = kind == "tokens" or (used * 5 / 4 / 1e6 < max_mb / 2 and not found["tokens"].get("lazy"))
            if not fits:
                continue
            packed, sheet = _pack_sheet(weights, sheet, budget, live)
            sheet["bytes"] = [used, used + len(packed)]
            used += len(packed)
            chunks.append(packed)
            found[kind] = sheet
            maps[name, kind] = weights
        parts.append({"name": name, "units": found})
    if not any(one["units"]["tokens"].get("lazy") for one in parts):
        _check_packed(used, parts[0]["units"]["tokens"]["layers"], max_mb)
    units = next(one["units"] for one in parts if one["name"] == part)
    if _one_of("unit", unit, UNITS) not in units and not _placed(stacks[part]):
        raise ValueError(f"these maps cannot be shown as {unit}; there are {', '.join(units)}. {unit.capitalize()} need maps that attend made "
                         "(they know where their tokens stand in the text).")
    sheet = units.get(unit) or units["tokens"]  # where every token is a word, the words are the tokens
    tokens = sheet["tokens"], sheet["key_tokens"] or sheet["tokens"]
    state = {"part": part, "unit": unit, "layer": sheet["layers"][0] if layer is None else _one_of("layer", layer, sheet["layers"]),
             "heads": [_one_of("head", one, sheet["heads"]) for one in _several("heads", heads)] if heads is not None else sheet["heads"][:1],
             "query": _index("query", query, len(tokens[0])), "key": _index("key", key, len(tokens[1])),
             "mode": _one_of("mode", mode, MODES), "lang": _language(lang, [*tokens[0], *tokens[1]])}
    if query is not None and key is not None:
        raise ValueError(f"only one token can be pinned; got query={query} and key={key}. Leave one of them out.")
    if query is None and key is None:
        state["query"] = len(tokens[0]) - 1
    about = {"title": _title(stacks[part]), "text": _text(stacks[part]), "parts": parts}
    if explanations := list(explanations):
        about["explanations"] = [_explanation(one, list(stacks.values())[0]) for one in explanations]
    if image is not None:
        chunk, about["image"] = _pixels(image, parts[0]["units"]["tokens"])
        about["image"]["bytes"] = [used, used + len(chunk)]
        chunks.append(chunk)
    return about, b"".join(chunks), state, maps


def _stacks(att):
    """The attention, or the three of an encoder-decoder, by name."""
    if hasattr(att, "cross") and hasattr(att, "encoder"):
        return {name: getattr(att, name) for name in ("encoder", "decoder", "cross")}
    return {"self": att}


def _units(att, layers, names):
    """Yield the maps over tokens, then over characters and words where these differ: (unit, (sheet, weights))."""
    read = _read(att)
    yield "tokens", _sheet(att, *read, layers, names)
    if not _placed(att) or read[0].size > MAX_GROUPED:
        return
    seen = {(len(read[1]), read[0].shape[3])}
    for unit in ("characters", "words"):
        grouped = att.by(unit)
        size = len(grouped.tokens), grouped.stored.shape[3]
        if size not in seen:
            seen.add(size)
            sheet, weights = _sheet(grouped, *_read(grouped), layers, names)
            sheet["first"] = _starts(att.pieces, grouped.pieces)
            sheet["key_first"] = sheet["first"] if grouped.key_pieces is grouped.pieces else _starts(att.key_pieces, grouped.key_pieces)
            yield unit, (sheet, weights)


def _placed(att):
    """Whether the tokens are known to stand in a text, so that they can be put together to words."""
    pieces = [*(getattr(att, "pieces", None) or []), *(getattr(att, "key_pieces", None) or [])]
    return bool(pieces) and att.info.get("read") is not None and all(piece.special or piece.span for piece in pieces)


def _starts(pieces, groups):
    """For each group the index of its first token."""
    counts = np.cumsum([0] + [max(1, len(group.ids)) for group in groups])
    width = np.cumsum([0] + [max(1, len(piece.ids)) for piece in pieces])
    return [int(np.searchsorted(width, start)) for start in counts[:-1]]


def _sheet(att, weights, tokens, key_tokens, numbers, layers, names):
    """What is known of one stack in one unit, and its weights, of the layers that are kept."""
    kept = numbers["layers"] if layers is None else [_one_of("layer", one, numbers["layers"]) for one in _several("layers", layers)]
    weights = weights if layers is None else weights[[numbers["layers"].index(one) for one in kept]]
    special = [i for i, piece in enumerate(getattr(att, "key_pieces", None) or []) if piece.special]
    info = getattr(att, "info", None) or {}
    prompt = info.get("prompt_length", len(tokens))
    sheet = {"tokens": tokens, "key_tokens": key_tokens, "layers": kept, "heads": numbers["heads"], "special": special,
             "names": _named(names, kept, numbers["heads"]), "signed": "difference_of" in info}
    return sheet | ({"prompt": prompt} if prompt < len(tokens) else {}) | ({"grid": info["grid"]} if "grid" in info else {}), weights


def _pack_sheet(weights, sheet, max_mb, live):
    """The packed maps of a sheet, or its small maps alone where all would be too large and can be asked for."""
    signed, most = sheet["signed"], max_mb * 0.75e6
    expected = _expected_bytes(weights, signed) if weights.size > 40e6 else 0
    later = live and not signed
    if expected > most * (1 if later else 1.5) and not later:
        _check_packed(expected, sheet["layers"], max_mb, about="about ")
    packed, form = (b"", {}) if expected > most and later else pack(weights, signed=signed)
    if later and max(expected, len(packed)) > most:
        needed = max(expected, len(packed)) / 1e6
        packed, form = small_maps(weights)
        form["megabytes"] = round(needed, 1)
    return packed, sheet | form


def _read(att):
    """Return checked weights, the tokens of both sides as short visible text (None: the same), and the true numbers."""
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
    numbers = {what: true_numbers(getattr(att, what, None), n, what) for what, n in zip(("layers", "heads"), weights.shape)}
    shown = [[readable(str(token), width=40) for token in some] for some in (tokens, others or [])]
    return weights, shown[0], None if others is None else shown[1], numbers


# --- explanations and images --------------------------------------------------------------------------------------


def _explanation(one, att):
    """An `Explanation` as plain values, after checking that it is about these tokens."""
    if not all(hasattr(one, name) for name in ("method", "scores", "tokens")):
        raise ValueError(f"explanations must be a list of Explanation, as the functions of llmtutor.explain return; got {type(one).__name__} in it")
    if list(one.tokens) != list(att.tokens):
        raise ValueError(f"{one.method} explains other tokens than the maps show: {list(one.tokens)[:6]} ... and {list(att.tokens)[:6]} ...; "
                         "explain the same text")
    scores = np.asarray(one.scores, np.float64)
    target = getattr(one, "target", None)
    at = getattr(target, "position", None)  # None: a whole text that a decoder writes
    target = "" if target is None else str(target) if at is None else str(target.text or target.token)
    rows = [[float(f"{x:.5g}") for x in row] for row in np.atleast_2d(scores)]
    return {"method": readable(str(one.method), width=40), "target": readable(target, width=40), "at": at,
            "scores": rows if scores.ndim == 2 else rows[0]}


def _pixels(image, sheet):
    """The colours of an image, row by row and compressed, and its size: at most 256 on each side."""
    from PIL import Image

    if "grid" not in sheet:
        raise ValueError("image= goes with the maps of an image, which attend(lm, image=...) makes; these maps have no patches")
    if not isinstance(image, Image.Image):
        array = np.asarray(image)
        if array.ndim not in (2, 3) or array.dtype.kind not in "fiu":
            raise ValueError(f"image must be a PIL image or an array [row, column, colour]; got {type(image).__name__} of shape {array.shape}")
        image = Image.fromarray((np.rint(array * 255) if array.dtype.kind == "f" else array).astype(np.uint8))
    image = image.convert("RGB")
    rows, columns = sheet["grid"]
    side = 256 / max(rows, columns)  # the model reads the image squeezed into its patches
    image = image.resize((round(columns * side), round(rows * side)))
    return zlib.compress(image.tobytes(), 9), {"width": image.width, "height": image.height}


# --- heads with names ---------------------------------------------------------------------------------------------


def _names_of(lm, names):
    """The names given, else those in the card of the model's folder, else None."""
    if names is not None or lm is None:
        return names
    return _card_heads(Path(getattr(getattr(lm, "info", None), "path", "") or "nowhere"))


def _card_names(att):
    """The names in the card of the bundled model that made these maps; {} where there is none."""
    model = str((getattr(att, "info", None) or {}).get("model") or "")
    folder = BUNDLED / model
    return (_card_heads(folder) or {}) if model.replace("-", "").replace("_", "").isalnum() else {}


def _card_heads(folder):
    card = folder / "card.json"
    return json.loads(card.read_text(encoding="utf-8")).get("heads") if card.is_file() else None


def _named(names, layers, heads):
    """Check names and keep those of layers and heads that are here: kind -> list of [layer, head, score or None]."""
    if not names:
        return {}
    if not isinstance(names, dict):  # what find_heads returns
        rows, names = list(names), {}
        for row in rows:
            if not all(hasattr(row, name) for name in ("kind", "layer", "head", "score")):
                raise ValueError(f"names must be {{kind: [(layer, head, score), ...]}} or a list of HeadRow; got {row!r} in a list")
            names.setdefault(row.kind, []).append((row.layer, row.head, row.score))
    kept = {}
    for kind, rows in names.items():
        for row in rows:
            if not (isinstance(row, list | tuple) and len(row) in (2, 3) and all(isinstance(n, int | np.integer) for n in row[:2])):
                raise ValueError(f"names[{kind!r}] must be a list of (layer, head) or (layer, head, score); got {row!r} in it")
        found = [[int(row[0]), int(row[1]), round(float(row[2]), 4) if len(row) == 3 else None] for row in rows
                 if row[0] in layers and row[1] in heads]
        if found:
            kept[str(kind)] = found
    return kept


# --- small checks -------------------------------------------------------------------------------------------------


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


def _text(att):
    return str((getattr(att, "info", None) or {}).get("text") or "")


def _title(att):
    info = getattr(att, "info", None) or {}
    parts = str(info.get("model") or ""), readable(_text(att), width=60)
    return " · ".join(part for part in parts if part) or "Attention"


def _hash(source):
    """The name by which a content-security policy allows one script or style and no other."""
    return "sha256-" + base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()


# --- size ---------------------------------------------------------------------------------------------------------


def _expected_bytes(weights, signed):
    """About how many bytes maps will need, without packing them all: the first map tells how well the others will compress."""
    return len(pack(weights[:1, :1], 0 if signed else 56, signed)[0]) * weights.shape[0] * weights.shape[1]


def _check_packed(n_bytes, layers, max_mb, about=""):
    """Refuse what is too large for a page or a notebook; say the size, and how many layers would fit."""
    megabytes = n_bytes * 5 / 4 / 1e6  # as text, four bytes in five characters
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
    """Read back what `to_codes` wrote, as float32; the script does the same. Fineness 0: what `to_signed_codes` wrote."""
    codes = np.asarray(codes, np.float32)
    if not fineness:
        root = (codes - 128) / 127
        return np.sign(root) * np.square(root)
    edge = fineness / 255
    joint = fineness * edge
    return np.where(codes <= joint, np.square(codes / fineness), edge * edge + (codes - joint) / 127.5).astype(np.float32)


def to_signed_codes(differences):
    """Turn differences in [-1, 1] into bytes 1 to 255, 128 for none: the root of their size; off by at most ``SIGNED_BOUND``."""
    return (128 + np.rint(127 * np.sign(differences) * np.sqrt(np.abs(differences)))).astype(np.uint8)


def _floats(weights):
    return from_codes(weights, 255) if weights.dtype == np.uint8 else weights


def pack(weights, fineness=None, signed=False, causal=None):
    """Compress maps [layer, head, query, key] into bytes that `unpack` and the script read.

    A causal map keeps only its lower triangle. If any weight is NaN, one bit for each weight follows the codes.

    Args:
        weights: floats from 0 to 1, or bytes on a square-root scale as `attend(..., store="uint8")` keeps them; floats from -1
            to 1 where `signed`.
        fineness: see `to_codes`; chosen by the number of weights where left out.
        causal: whether to keep the lower triangle only; found out where left out.

    Returns:
        the bytes (zlib), and what is needed to read them (shape, causal, nan, whole, fineness: 0 where signed) with two numbers
        for each head: its mean entropy in bits, and the mean share of its first key.

    Raises:
        ValueError: a weight below 0 or above 1.
    """
    n_layers, n_heads, n_queries, n_keys = weights.shape
    stored = weights.dtype == np.uint8
    form = {"shape": list(weights.shape), "causal": is_causal(weights) if causal is None else causal}
    places = _places(form)
    if fineness is None:
        count = n_layers * n_heads * len(places)
        fineness = 0 if signed else 255 if stored else next(fine for most, fine in FINENESS.items() if count <= most)
    # Huffman alone is as small as weights allow, which are mostly noise; runs of zeros are what RLE adds.
    packer, marks, parts, rows = zlib.compressobj(6, zlib.DEFLATED, 15, 9, zlib.Z_RLE), [], [], []
    for number, layer in enumerate(weights):
        codes, nan, about = _layer(layer, number, fineness, form["causal"], places)
        parts.append(packer.compress(codes.tobytes()))
        marks.append(np.packbits(nan))
        rows.append(about)
    form |= _together(rows) | {"fineness": fineness}
    if form["nan"]:
        parts += [packer.compress(mark.tobytes()) for mark in marks]
    return b"".join([*parts, packer.flush()]), form


def is_causal(weights):
    """Whether no token looks at a later one, in maps [layer, head, query, key]."""
    n_queries, n_keys = weights.shape[2:]
    allowed = np.tril(np.ones((n_queries, n_keys), bool), n_keys - n_queries)
    return bool(n_keys >= n_queries > 1 and not any(np.any(layer[:, ~allowed]) for layer in weights))


def _places(form):
    """Which weights of a map are kept: all, or its lower triangle."""
    n_queries, n_keys = form["shape"][2:]
    return np.flatnonzero(np.tril(np.ones((n_queries, n_keys), bool), n_keys - n_queries)) if form["causal"] else np.arange(n_queries * n_keys)


def _layer(layer, number, fineness, causal, places):
    """The codes of one layer [head, place], where they are NaN, and what is told about its heads."""
    flat = layer.reshape(len(layer), -1)
    flat = flat[:, places] if len(places) < flat.shape[1] else flat
    stored = layer.dtype == np.uint8
    nan = np.zeros(flat.shape, bool) if stored else np.isnan(flat)
    codes = flat if stored else _codes(flat, nan, number, fineness)
    # In a causal map of one text the first query has no choice: means are taken from the second on.
    first = int(causal and layer.shape[1] == layer.shape[2] > 1)
    whole = not stored and fineness > 0 and bool(np.all(np.abs(layer.sum(-1) - 1) < 1e-3))
    return codes, nan, {"nan": bool(nan.any()), "whole": whole, "entropy": _entropies(codes, fineness, layer.shape[1] - first),
                        "sink": _sinks(layer, first)}


def _together(rows):
    """What is told about all layers; whole: all rows sum to 1, so that the rest of a row is known from one weight."""
    return {"nan": any(row["nan"] for row in rows), "whole": all(row["whole"] for row in rows),
            "entropy": [row["entropy"] for row in rows], "sink": [row["sink"] for row in rows]}


def _codes(weights, nan, number, fineness):
    if nan.any():
        weights = np.where(nan, 0, weights)
    low, high = weights.min(), weights.max()
    if low < (0 if fineness else -1 - 1e-3) or high > 1 + 1e-3:
        raise ValueError(f"the explorer shows weights from 0 to 1; position {number} on the layer axis has {low:.4g} to {high:.4g}. Are these "
                         "scores before the softmax? Draw those with att.figure(layer=..., head=...). Differences are shown when "
                         "att.diff(other) made them.")
    return to_codes(np.minimum(weights, 1), fineness) if fineness else to_signed_codes(np.clip(weights, -1, 1))


def _entropies(codes, fineness, n_rows):
    """Mean entropy of the rows of each head in bits, from how often each code occurs; of differences, their mean size in a row."""
    sizes = np.abs(from_codes(np.arange(256), fineness))
    terms = -sizes * np.log2(np.where(sizes > 0, sizes, 1)) if fineness else sizes
    return [round(float(np.bincount(head, minlength=256) @ terms) / n_rows, 4) for head in codes]


def _sinks(layer, first):
    return [round(float(np.nanmean(_floats(head[first:, 0]))) if not np.isnan(head[first:, 0]).all() else 0.0, 4) for head in layer]


def unpack(packed, form):
    """Read what `pack` wrote: float32 [layer, head, query, key] with NaN where it was."""
    n_layers, n_heads, n_queries, n_keys = form["shape"]
    raw = np.frombuffer(zlib.decompress(packed), np.uint8)
    places = _places(form)
    count = n_layers * n_heads * len(places)
    values = from_codes(raw[:count], form["fineness"]).reshape(n_layers, -1)
    if form["nan"]:
        bits = np.unpackbits(raw[count:].reshape(n_layers, -1), axis=1)[:, :values.shape[1]].astype(bool)
        values[bits] = np.nan
    weights = np.zeros((n_layers, n_heads, n_queries * n_keys), np.float32)
    weights[..., places] = values.reshape(n_layers, n_heads, -1)
    return weights.reshape(form["shape"])


def small_maps(weights):
    """Pack the small maps alone, each cell the largest weight in it; the maps themselves are asked for head by head.

    Returns:
        the bytes (zlib) of the codes [layer, head, row, column], fineness 255, and the form of the whole maps.
    """
    n_layers, n_heads, n_queries, n_keys = weights.shape
    rows, columns = min(THUMB, n_queries), min(THUMB, n_keys)
    tops, lefts = (np.ceil(np.arange(few) * many / few).astype(int) for few, many in ((rows, n_queries), (columns, n_keys)))
    form = {"shape": list(weights.shape), "causal": is_causal(weights)}
    places, parts, about = _places(form), [], []
    for number, layer in enumerate(weights):
        about.append(_layer(layer, number, 255, form["causal"], places)[2])
        cells = np.maximum.reduceat(np.maximum.reduceat(np.nan_to_num(_floats(layer)), tops, axis=1), lefts, axis=2)
        parts.append(to_codes(np.minimum(cells, 1), 255).tobytes())
    return zlib.compress(b"".join(parts), 6), form | _together(about) | {"fineness": 255, "small": [rows, columns], "lazy": True}
