"""Static figures for print and slides: attention heatmaps, head grids, next-token bars.

Every function takes arrays and strings and returns Matplotlib ``Axes``, so a figure can be
extended afterwards. In a heatmap the row is the query (the token that looks), the column is the
key (the token looked at). Nothing here imports torch or transformers, and the reader's global
Matplotlib settings stay as they were.

Text is drawn with installed fonts only (see ``llmtutor.fonts``). Where no font has a character,
its code point is written instead of an empty box, and ``svg(figure)`` gives a picture whose text
the browser draws with its own fonts.
"""

from __future__ import annotations

import contextlib
import io
import re
import warnings

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import LinearSegmentedColormap, Normalize, PowerNorm
from matplotlib.patches import Rectangle
from matplotlib.text import Text
from matplotlib.ticker import FixedFormatter, FixedLocator

from .fonts import FontHint, cjk_font, columns, families, readable, true_numbers, writable  # noqa: F401  (some for the reader only)

# One hue from white to dark blue: light means little also in a grey print and for colour-blind eyes.
WEIGHTS = LinearSegmentedColormap.from_list("weights", ["#ffffff", "#9ecae1", "#3182bd", "#08306b"])
# Two hues around white, for maps that also have negative numbers (differences, gradients).
SIGNED = LinearSegmentedColormap.from_list("signed", ["#7f3b08", "#f1a340", "#ffffff", "#998ec3", "#2d004b"])
MASKED = "#d9d9d9"  # grey: not a small weight but no weight at all
NAN = "#d95f02"
POINT = 1 / 72  # inches


def heatmap(weights, tokens, *, key_tokens=None, ax=None, title=None, annotate="auto", scale="linear",
            vmax=None, cbar=True):
    """Draw one attention map: which token (row) looks at which token (column), and how much.

    Cells that a causal mask forbids are grey, cells that are NaN carry an orange cross.

    Args:
        weights: (n_queries, n_keys), an array or a tensor.
        tokens: n_queries strings, the tokens that look.
        key_tokens: n_keys strings, the tokens looked at; ``tokens`` where left out.
        ax: Axes to draw into; a new figure of a fitting size where left out.
        title: text above the map.
        annotate: "auto" writes the numbers where the cells are large enough, True always, False never.
        scale: "linear", or "sqrt" to make small weights visible.
        vmax: the weight with the darkest colour; the largest weight where left out.
        cbar: whether to draw the colour bar.

    Returns:
        The Axes; its first image holds the weights.

    Raises:
        ValueError: the shapes do not fit together.
    """
    weights = _array(weights, 2, "(query, key)")
    key_tokens = tokens if key_tokens is None else key_tokens
    _check_tokens(tokens, weights.shape[0], "rows (query)")
    _check_tokens(key_tokens, weights.shape[1], "columns (key)")
    with _style([*tokens, *key_tokens, title or ""]):
        ax = ax if ax is not None else _axes_for(weights.shape, cbar)
        image = _draw_map(ax, weights, _norm(weights, scale, vmax))
        _token_ticks(ax.yaxis, tokens, _inches(ax)[1])
        _token_ticks(ax.xaxis, key_tokens, _inches(ax)[0])
        nan = "    × = NaN" if np.isnan(weights).any() else ""
        ax.set(xlabel="key (looked at)" + nan, ylabel="query (looks)")
        _title(ax, title)
        if annotate is True or (annotate == "auto" and _roomy(ax, weights.shape)):
            _write_numbers(ax, image, weights)
        if cbar:
            ax.figure.colorbar(image, ax=ax, fraction=0.046, pad=0.03)
    return ax


def head_grid(weights, tokens, *, key_tokens=None, layers=None, heads=None, title=None, scale="linear",
              vmax=None, figure=None):
    """Draw every head of every layer as a thumbnail: rows of the grid are layers, columns are heads.

    All thumbnails share one colour scale, so a darker cell is a larger weight anywhere in the grid.
    Token labels stand on the left and the lower edge where there is room.

    Args:
        weights: (n_layers, n_heads, n_queries, n_keys), an array or a tensor.
        tokens: n_queries strings.
        key_tokens: n_keys strings; ``tokens`` where left out.
        layers: the true layer numbers, n_layers of them; 0, 1, 2, ... where left out.
        heads: the true head numbers, n_heads of them.
        title: text above the grid.
        scale, vmax: as in ``heatmap``.
        figure: an empty Matplotlib figure to draw into (its size is set).

    Returns:
        (n_layers, n_heads) array of Axes.

    Raises:
        ValueError: the shapes do not fit together.
    """
    weights = _array(weights, 4, "(layer, head, query, key)")
    n_layers, n_heads, n_queries, n_keys = weights.shape
    key_tokens = tokens if key_tokens is None else key_tokens
    _check_tokens(tokens, n_queries, "queries")
    _check_tokens(key_tokens, n_keys, "keys")
    layers = true_numbers(layers, n_layers, "layers")
    heads = true_numbers(heads, n_heads, "heads")
    with _style([*tokens, *key_tokens, title or ""]):
        axes, labelled = _grid(figure, weights.shape, [*tokens, *key_tokens], title)
        norm = _norm(weights, scale, vmax)
        for (i, j), ax in np.ndenumerate(axes):
            image = _draw_map(ax, weights[i, j], norm)
            ax.set_title(f"L{layers[i]} H{heads[j]}", fontsize=7, pad=2)
            _token_ticks(ax.yaxis, tokens if labelled and j == 0 else [], _inches(ax)[1], size=6)
            _token_ticks(ax.xaxis, key_tokens if labelled and i == n_layers - 1 else [], _inches(ax)[0], size=6)
        _grid_labels(axes, image, title)
    return axes


def bars(labels, probabilities, *, ax=None, title=None):
    """Draw next-token probabilities as horizontal bars, the largest on top, with percentages.

    Args:
        labels: n strings, the candidate tokens.
        probabilities: n numbers between 0 and 1, in any order; they may sum to less than 1 (top k).
        ax: Axes to draw into; a new figure of a fitting size where left out.
        title: text above the bars.

    Returns:
        The Axes.

    Raises:
        ValueError: lengths differ, or a number is no probability.
    """
    probabilities = _array(probabilities, 1, "(label,)")
    _check_tokens(labels, len(probabilities), "probabilities")
    if not (np.all(probabilities >= 0) and np.all(probabilities <= 1) and probabilities.sum() <= 1 + 1e-3):
        raise ValueError(
            f"probabilities must lie between 0 and 1 and sum to at most 1; got numbers from {probabilities.min():.3g} "
            f"to {probabilities.max():.3g} with sum {probabilities.sum():.3g}. Did you pass logits? Apply softmax first."
        )
    order = np.argsort(-probabilities, kind="stable")
    values, labels = probabilities[order], [labels[i] for i in order]
    with _style([*labels, title or ""]):
        if ax is None:
            _, ax = plt.subplots(figsize=(5.5, 0.9 + 0.3 * len(values)), layout="constrained")
        rows = np.arange(len(values))
        ax.barh(rows, values, color="#3182bd", height=0.75)
        for row, value in zip(rows, values):
            ax.text(value, row, f" {value:.1%}", va="center", fontsize=9)
        ax.set(xlim=(0, values[0] * 1.2 or 1), ylim=(len(values) - 0.5, -0.5), xlabel="probability")
        ax.spines[["top", "right"]].set_visible(False)
        _token_ticks(ax.yaxis, labels, 1e9, size=10)
        _title(ax, title)
    return ax


class Svg(str):
    """SVG source that a notebook shows as a picture; a plain string otherwise."""

    def _repr_svg_(self):
        return str(self)

    def __repr__(self):
        return "<SVG picture>"


def svg(figure):
    """Return a figure as SVG whose text stays text, so that the reader's own fonts draw it.

    Use it where Matplotlib finds no Chinese font, and wherever text should be searchable.

    Args:
        figure: a Matplotlib figure, or Axes (one or an array) of it.

    Returns:
        A string of SVG source which Jupyter shows as a picture.
    """
    figure = figure if hasattr(figure, "savefig") else np.ravel(figure)[0].figure
    settings = {"svg.fonttype": "none", "svg.hashsalt": "llmtutor"}
    out = io.StringIO()
    with _live_text(figure), matplotlib.rc_context(settings), warnings.catch_warnings():
        # Matplotlib lacks the glyph, but only measures with it: the browser will draw it.
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        figure.savefig(out, format="svg", bbox_inches="tight", metadata={"Date": None})
    return Svg(_with_system_fonts(out.getvalue()))


# What the reader's system may call its Chinese and emoji fonts. In an SVG, naming an absent one costs nothing.
_SYSTEM_FONTS = ["PingFang SC", "Hiragino Sans GB", "Microsoft YaHei", "Noto Sans CJK SC", "Noto Sans SC",
                 "Source Han Sans SC", "WenQuanYi Micro Hei", "Apple Color Emoji", "Segoe UI Emoji", "Noto Color Emoji"]


def _with_system_fonts(source):
    """Append the usual system fonts to every font list of an SVG."""
    extra = ", ".join(f"'{name}'" for name in _SYSTEM_FONTS) + ", sans-serif"
    return re.sub(r"(font(?:-family)?: [^;\"]*'DejaVu Sans'[^;\"]*)", rf"\1, {extra}", source)


@contextlib.contextmanager
def _live_text(figure):
    """Within the context, show the true characters also where no installed font has them."""
    formatters = [axis.get_major_formatter() for ax in figure.axes for axis in (ax.xaxis, ax.yaxis)]
    formatters = [formatter for formatter in formatters if isinstance(formatter, TokenFormatter)]
    texts = [(text, text.get_text()) for text in figure.findobj(Text) if hasattr(text, "live")]
    for formatter in formatters:
        formatter.seq = formatter.live
    for text, _ in texts:
        text.set_text(text.live)
    yield
    for formatter in formatters:
        formatter.seq = formatter.shown
    for text, shown in texts:
        text.set_text(shown)


class TokenFormatter(FixedFormatter):
    """Tick labels made of tokens: ``shown`` can be drawn by the installed fonts, ``live`` are the true characters."""

    def __init__(self, tokens):
        self.live = [readable(token) for token in tokens]
        self.shown = [writable(text) for text in self.live]
        super().__init__(self.shown)


@contextlib.contextmanager
def _style(texts):
    """Use installed fonts that can write these texts; give the reader's settings back afterwards."""
    family = families([readable(text) for text in texts])
    with matplotlib.rc_context({"font.family": family, "text.usetex": False, "axes.unicode_minus": False}):
        yield


def _array(values, n_axes, names):
    """Return a float array; a tensor is detached and moved to the CPU without importing torch."""
    if hasattr(values, "detach"):
        values = values.detach().cpu().float()  # float: numpy knows no bfloat16
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"wanted numbers with axes {names}; got {type(values).__name__}: {error}. "
                         f"Pass an array whose rows have equal length.") from None
    if array.ndim != n_axes or 0 in array.shape:
        many = "axis" if n_axes == 1 else "axes"
        raise ValueError(f"wanted {n_axes} {many} {names}, none of them empty; got shape {array.shape}. "
                         + _remedy(array.ndim, n_axes))
    return array


def _remedy(got, wanted):
    if wanted == 2 and got == 4:
        return "Choose one layer and one head, as in weights[layer, head], or use head_grid."
    if wanted == 4 and got == 5:
        return "Drop the batch axis: weights[:, 0]."
    if wanted == 4 and got < 4:
        return "Keep the layer and head axes, as in weights[None, None], or use heatmap for one map."
    return "Check which axes you selected."


def _check_tokens(tokens, wanted, what):
    if isinstance(tokens, str):
        raise ValueError(f"wanted a list of {wanted} token strings for the {what}; got one string. Split it into tokens first.")
    if len(tokens) != wanted:
        raise ValueError(f"wanted one token for each of the {wanted} {what}; got {len(tokens)} tokens. "
                         f"Did special tokens get lost, or do the weights belong to another text?")
    for token in tokens:
        if not isinstance(token, str):
            raise ValueError(f"tokens must be strings; got {type(token).__name__} {token!r}. Decode the ids into tokens first.")


def _norm(weights, scale, vmax):
    """Map weights to colours: from 0 to the largest, or around 0 where some are negative."""
    if scale not in ("linear", "sqrt"):
        raise ValueError(f'scale must be "linear" or "sqrt"; got {scale!r}.')
    finite = weights[np.isfinite(weights)]
    top = vmax or (np.abs(finite).max() if finite.size else 0) or 1.0
    if finite.size and finite.min() < 0:
        if scale == "sqrt":
            raise ValueError('scale="sqrt" needs weights of at least 0; got negative numbers. Use scale="linear".')
        return Normalize(-top, top)
    return PowerNorm(0.5, 0, top) if scale == "sqrt" else Normalize(0, top)


def _causal_mask(weights):
    """Mark the cells right of the diagonal, (n_queries, n_keys), if all of them are exactly 0."""
    n_queries, n_keys = weights.shape
    future = np.triu(np.ones(weights.shape, dtype=bool), k=1 + n_keys - n_queries)
    is_causal = n_keys >= n_queries > 1 and np.all(weights[future] == 0)
    return future if is_causal else np.zeros_like(future)


def _draw_map(ax, weights, norm):
    """Draw one map as an image, masked cells grey and NaN cells crossed out."""
    nan = np.isnan(weights)
    cmap = (SIGNED if norm.vmin < 0 else WEIGHTS).with_extremes(bad=MASKED)
    hidden = _causal_mask(weights) | nan
    image = ax.imshow(np.ma.array(weights, mask=hidden), cmap=cmap, norm=norm, aspect="equal", interpolation="nearest")
    for row, column in np.argwhere(nan):
        ax.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, facecolor="white", edgecolor=NAN, linewidth=0.8))
    rows, columns = np.nonzero(nan)
    size = max(1.5, min(9, 0.5 * _inches(ax)[0] / POINT / weights.shape[1]))
    ax.plot(columns, rows, "x", color=NAN, markersize=size, scalex=False, scaley=False)
    return image


def _write_numbers(ax, image, weights):
    """Write each weight into its cell, light on dark and dark on light."""
    size = min(9, 0.30 * _inches(ax)[0] / POINT / weights.shape[1])
    for (row, column), value in np.ma.ndenumerate(image.get_array(), compressed=True):
        red, green, blue, _ = image.cmap(image.norm(value))
        luminance = 0.299 * red + 0.587 * green + 0.114 * blue
        ax.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=size,
                color="black" if luminance > 0.5 else "white")


def _roomy(ax, shape):
    """Whether numbers of a readable size fit into the cells."""
    width, height = _inches(ax)
    return width / shape[1] >= 0.29 and height / shape[0] >= 0.22


def _inches(ax):
    """Width and height of the axes in inches."""
    figure = ax.figure.get_figure(root=True) if hasattr(ax.figure, "get_figure") else ax.figure
    box = ax.get_position(original=True)
    return box.width * figure.get_figwidth(), box.height * figure.get_figheight()


def _axes_for(shape, cbar):
    """Make a figure in which each cell of a (n_queries, n_keys) map has a readable size."""
    cell = float(np.clip(9 / max(shape), 0.15, 0.5))
    height, width = (float(np.clip(cell * n, 1.2, 9)) for n in shape)
    _, ax = plt.subplots(figsize=(width + 1.4 + cbar, height + 1.2), layout="constrained")
    # A first guess of the inner box, which decides the size of text; the layout engine refines it when drawing.
    ax.set_position([0, 0, width / (width + 1.4 + cbar), height / (height + 1.2)])
    ax.set_in_layout(True)
    return ax


def _token_ticks(axis, tokens, inches, size=9.0):
    """Label an axis with tokens: smaller where they are many, every second (third, ...) where they are too many."""
    pitch = inches / max(1, len(tokens)) / POINT  # points from one token to the next
    size = max(5.0, min(size, pitch * 0.85))
    step = int(np.ceil(size * 1.05 / pitch))
    positions = list(range(0, len(tokens), step))
    axis.set_major_locator(FixedLocator(positions))
    axis.set_major_formatter(TokenFormatter([tokens[i] for i in positions]))
    axis.set_tick_params(length=0 if size < 7 else 2, labelsize=size)
    longest = max((columns(text) for text in axis.get_major_formatter().shown), default=0)
    upright = axis.axis_name == "x" and longest * 0.65 * size > pitch * step
    for label in axis.get_ticklabels():
        # Given axes may have labels in another font; and a token such as $x$ is text, not a formula.
        label.set(family=matplotlib.rcParams["font.family"], parse_math=False)
        if upright:
            label.set(rotation=90)


def _title(ax, title):
    if title:
        family = matplotlib.rcParams["font.family"]
        text = ax.set_title(writable(title), fontsize=11, family=family, parse_math=False)
        text.live = title


def _grid(figure, shape, tokens, title):
    """Lay out the thumbnails; return their Axes (n_layers, n_heads) and whether the tokens have room."""
    n_layers, n_heads, n_queries, n_keys = shape
    cell = float(np.clip(13 / n_heads, 0.7, 1.6))
    labelled = max(n_queries, n_keys) * 0.075 <= cell
    longest = max(columns(writable(readable(token))) for token in tokens) if labelled else 0
    margin = 0.35 + longest * 0.65 * 6 * POINT
    left, bottom, right, top = margin, margin, 0.9, 0.55 if title else 0.25
    width = left + n_heads * cell + right
    height = bottom + n_layers * (cell + 0.17) + top
    figure = plt.figure() if figure is None else figure
    figure.set_size_inches(width, height)
    axes = figure.subplots(n_layers, n_heads, squeeze=False, gridspec_kw=dict(
        left=left / width, right=1 - right / width, bottom=bottom / height, top=1 - top / height,
        wspace=0.06, hspace=0.22))
    return axes, labelled


def _grid_labels(axes, image, title):
    """Name both axes of all thumbnails once, and add the shared colour bar."""
    figure = axes[0, 0].figure
    width, height = figure.get_size_inches()
    figure.supylabel("query (looks)", fontsize=8, x=0.08 / width, ha="left")
    figure.supxlabel("key (looked at)", fontsize=8, y=0.05 / height, va="bottom")
    if title:
        text = figure.suptitle(writable(title), fontsize=11, y=1 - 0.08 / height, va="top", parse_math=False)
        text.live = title
    bar_height = min(0.8, 2.5 / height)
    colour_axes = figure.add_axes([1 - 0.7 / width, 0.5 - bar_height / 2, 0.12 / width, bar_height])
    figure.colorbar(image, cax=colour_axes).ax.tick_params(labelsize=7)
