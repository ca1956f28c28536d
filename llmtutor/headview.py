"""bertviz's head view and model view, drawn with no network.

bertviz loads require.js, d3 and jQuery from the web, so offline, and in a fresh JupyterLab tab even online, its
output stays blank. Here bertviz itself still prepares the data and its own script still draws; only the few d3 and
jQuery functions that the script uses come from ``headview.js`` beside this file. Each output carries all it needs
(about 25 kB of script), so cells may be run, moved and deleted in any order.

In the same output lies a static picture for places that run no scripts: an untrusted notebook, GitHub, print.
"""

from __future__ import annotations

import base64
import hashlib
import html
import io
import json
import re
from pathlib import Path

import numpy as np

from .fonts import readable, true_numbers

RUNTIME = Path(__file__).with_name("headview.js")
MARK = "llmtutor:bertviz"  # comments around the output, by which the notebook tests find it
# Chromium drew 83,000 lines in 7 s and 147,000 in 37 s on two busy cores.
MAX_LINES = 100_000


class View:
    """A bertviz view that shows itself as the output of a notebook cell.

    Attributes:
        kind: "head" or "model".
        html: the output, a piece of HTML that needs nothing else.
    """

    def __init__(self, kind, html, size):
        self.kind = kind
        self.html = html
        self._size = size

    def __repr__(self):
        n_layers, n_heads, n_queries, n_keys = self._size
        return f"bertviz {self.kind} view: {n_layers} layers, {n_heads} heads, {n_queries} x {n_keys} tokens"

    def _repr_html_(self):
        return self.html

    def save(self, path):
        """Write the view as a web page that opens without Jupyter and without network."""
        page = f'<!DOCTYPE html>\n<meta charset="utf-8">\n<title>{self!r}</title>\n{self.html}\n'
        Path(path).write_text(page, encoding="utf-8")


def bertviz(att, view="head", *, layer=None, heads=None, max_mb=10):
    """Show attention as lines from the tokens that look (left) to the tokens looked at (right).

    The head view draws all heads of one layer, each head in a colour: hover over a token, click on a
    colour, choose a layer. The model view draws every head of every layer small: click on one to enlarge it.

    Args:
        att: an ``Attention``: ``weights`` (layer, head, query, key), ``tokens``, and where it has them the
            true numbers ``layers`` and ``heads``.
        view: "head" or "model".
        layer: a true layer number. Head view: the layer shown first; model view: the only layer shown.
        heads: a list of true head numbers. Head view: the heads switched on at first; model view: the heads shown.
        max_mb: the largest output in megabytes; a larger one makes the notebook slow to open and to save.

    Returns:
        A ``View``. As the last line of a cell it is shown; elsewhere use ``display(...)``.

    Raises:
        ValueError: wrong shapes or numbers, NaN weights, or an output too large to draw.

    Source: Vig (2019), "A Multiscale Visualization of Attention in the Transformer Model", ACL demonstrations.
    """
    if view not in ("head", "model"):
        raise ValueError(f'view must be "head" or "model"; got {view!r}.')
    weights, tokens, layers, numbers = _read(att)
    layer_at = None if layer is None else _position(layer, layers, "layer")
    heads_at = None if heads is None else [_position(head, numbers, "head") for head in heads]
    if heads_at == []:
        raise ValueError(f"heads must name at least one head of {numbers}; got an empty list. Leave it out to see all.")
    if view == "model":
        rows = slice(None) if layer_at is None else [layer_at]
        columns = slice(None) if heads_at is None else heads_at
        weights = weights[rows][:, columns]
        layers, numbers = np.array(layers)[rows].tolist(), np.array(numbers)[columns].tolist()
    _check_size(weights, view, max_mb)
    root, params, (before, after) = _ask_bertviz(weights, tokens, view)
    params["include_layers"] = layers
    if view == "head":
        params["layer"], params["heads"] = layers[layer_at or 0], heads_at
    else:
        params["include_heads"] = numbers
    picture = _picture(weights, tokens, layers, numbers, layer_at or 0 if view == "head" else None)
    page = _page(root, before + json.dumps(params, separators=(",", ":")) + after, picture)
    return View(view, page, weights.shape)


def _read(att):
    """Return checked weights, tokens as short visible strings, layer numbers and head numbers."""
    weights, tokens = np.asarray(att.weights), list(att.tokens)
    if weights.ndim != 4 or 0 in weights.shape:
        raise ValueError(f"weights must have 4 axes (layer, head, query, key), none empty; got {weights.shape}. "
                         f"Did you drop the layer or the head axis?")
    n_layers, n_heads, n_queries, n_keys = weights.shape
    if not n_queries == n_keys == len(tokens):
        raise ValueError(f"wanted one token for each query and each key; got weights with {n_queries} queries and "
                         f"{n_keys} keys, and {len(tokens)} tokens. Do the weights belong to another text?")
    if not np.isfinite(weights).all():
        bad = np.argwhere(~np.isfinite(weights))[0]
        raise ValueError(f"weights must be finite; layer {bad[0]}, head {bad[1]} is not. "
                         f"See where with lt.plots.heatmap(att.weights[{bad[0]}, {bad[1]}], att.tokens).")
    layers = true_numbers(getattr(att, "layers", None), n_layers, "layers")
    heads = true_numbers(getattr(att, "heads", None), n_heads, "heads")
    return weights, [readable(token, width=12) for token in tokens], layers, heads


def _position(number, numbers, what):
    if number not in numbers:
        raise ValueError(f"{what} must be one of {numbers}; got {number!r}.")
    return numbers.index(number)


def _check_size(weights, view, max_mb):
    """Refuse, with advice, what would freeze the tab or be dropped on the way to it."""
    n_layers, n_heads, n_queries, n_keys = weights.shape
    zeros = np.count_nonzero(weights == 0)
    megabytes = (8 * (weights.size - zeros) + 2 * zeros) / 1e6
    lines = weights.size if view == "model" else weights.size // n_layers
    if megabytes <= max_mb and lines <= MAX_LINES:
        return
    shape = f"{n_layers} layers x {n_heads} heads x {n_queries} x {n_keys} tokens"
    reason = (f"about {megabytes:.1f} MB of output, above max_mb={max_mb}" if megabytes > max_mb
              else f"{lines:,} lines to draw at once, above {MAX_LINES:,}")
    raise ValueError(
        f"The {view} view of {shape} needs {reason}. Use fewer tokens, or fewer maps: lt.attend(..., layers=[...], heads=[...])"
        f'{", or layer=... and heads=[...] here" if view == "model" else ""}; or draw it with att.figure(). / '
        f"输出过大。请减少词元，或只取部分层和头；也可以用 att.figure() 画静态图。")


def _ask_bertviz(weights, tokens, view):
    """Let bertviz prepare its view; return its HTML, its parameters, and its script before and after them."""
    import bertviz as package
    import torch

    maps = [torch.from_numpy(np.array(layer, dtype=np.float64))[None] for layer in weights]
    options = {"prettify_tokens": False, "html_action": "return"}
    if view == "head":
        source = package.head_view(maps, tokens, **options).data
    else:
        source = package.model_view(maps, tokens, display_mode="light", **options).data
    script = Path(package.__file__).with_name(f"{view}_view.js").read_text(encoding="utf-8")
    before, _, after = script.partition("PYTHON_PARAMS")  # a comment names the marker again: bertviz embeds all twice
    start = source.index(before) + len(before)
    params, _ = json.JSONDecoder().raw_decode(source, start)
    for part in params["attention"]:
        part["attn"] = _short(part["attn"])
    root = re.search(r'<div id="bertviz-.*</div>', source[:start], re.DOTALL).group()
    return _with_stable_id(root, params) + ((before, after),)


def _short(weights):
    """Round nested lists of weights to 4 significant digits, the whole numbers 0 and 1 without a point."""
    if isinstance(weights, list):
        return [_short(weight) for weight in weights]
    weight = float(f"{weights:.4g}")
    return int(weight) if weight in (0, 1) else weight


def _with_stable_id(root, params):
    """Replace bertviz's random element id by one made of the content, so that a notebook runs to the same output."""
    random_id = params["root_div_id"]
    digest = hashlib.sha256(json.dumps(params["attention"]).encode()).hexdigest()[:12]
    params["root_div_id"] = f"bertviz-{digest}"
    return root.replace(random_id, params["root_div_id"]), params


def _picture(weights, tokens, layers, heads, only=None):
    """Draw the maps (of layer position ``only``) as a PNG; return it as a data URI."""
    from matplotlib.figure import Figure

    from . import plots
    if only is not None:
        weights, layers = weights[[only]], [layers[only]]
    figure = Figure()  # not through pyplot, which would show it a second time
    plots.head_grid(weights, tokens, layers=layers, heads=heads, figure=figure)
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=min(90, 900 / figure.get_figwidth()), metadata={"Software": None})
    return "data:image/png;base64," + base64.b64encode(out.getvalue()).decode()


def _page(root, script, picture):
    """Put the picture, the runtime and bertviz's script into one element."""
    script = script.replace("</", r"<\/").replace("<!--", r"<\!--")  # a token such as </script> must not end the script
    root = json.dumps(re.sub(r"\s+", " ", root)).replace("</", r"<\/")
    return f"""<!-- {MARK} -->
<div class="llmtutor-bertviz">
<img alt="{html.escape('Attention weights of each head, as heatmaps: row = query, column = key')}" src="{picture}" style="max-width: 100%">
<script>
(function () {{
const host = document.currentScript.parentElement;
{RUNTIME.read_text(encoding="utf-8")}
start(host, {root}, function (require, requirejs) {{
{script}
}});
}})();
</script>
</div>
<!-- /{MARK} -->"""
