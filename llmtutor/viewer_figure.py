"""Figures of what the explorer shows, for print and slides: the same heads, threshold, hidden keys and pinned token.

A scene is what `Explorer` hands over as plain values: its state, `maps` [head, query, key], `sheet` (tokens, heads, names)
and `title`. Differences are always shaded linearly here.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch, Rectangle
from matplotlib.path import Path as Curve
from PIL import Image

from . import plots
from .fonts import readable, writable

SIZES = {"paper": (3.5, 3.9, 7), "slide": (13.33, 7.5, 16)}  # width and height in inches, size of the letters in points
WORDS = {
    "en": {"layer": "layer", "head": "head", "heads": "heads", "mean": "average", "max": "maximum",
           "hidden": "hidden: {}; rest of each row scaled to 1",
           "query": "what {} ({}) looks at", "key": "who looks at {} ({})", "below": "below {:.2f} not drawn", "looks": "query (looks)",
           "looked": "key (looked at)", "parts": {"encoder": "encoder", "decoder": "decoder", "cross": "cross-attention"},
           "units": {"characters": "characters", "words": "words"}},
    "zh": {"layer": "层", "head": "头", "heads": "头", "mean": "平均", "max": "最大", "hidden": "已隐藏：{}；每行其余权重放大到和为 1",
           "query": "{}（{}）在看谁", "key": "谁在看 {}（{}）", "below": "小于 {:.2f} 的不画", "looks": "查询（在看）", "looked": "键（被看）",
           "parts": {"encoder": "编码器", "decoder": "解码器", "cross": "交叉注意力"}, "units": {"characters": "字符", "words": "词"}},
}


def combined(scene):
    """The map that the explorer shows, [query, key]: hidden keys taken out head by head, then the heads put together."""
    maps, hidden = scene["maps"], hidden_keys(scene)
    if hidden:
        maps = maps.copy()
        maps[..., hidden] = 0
        rest = maps.sum(-1, keepdims=True)
        maps = np.divide(maps, rest, out=np.zeros_like(maps), where=rest > 0)
    if scene["combine"] == "mean" or len(maps) == 1:
        return maps.mean(0)
    return np.take_along_axis(maps, np.abs(maps).argmax(0)[None], 0)[0]


def hidden_keys(scene):
    """The keys that the sink control hides."""
    sheet = scene["sheet"]
    if scene["hide"] == "none" or sheet["signed"]:
        return []
    return sorted({0, *(sheet["special"] if scene["hide"] == "special" else [])})


def caption(scene):
    """Model and text in the first line; layer, heads and what was chosen in the second."""
    words, sheet = WORDS[scene["lang"]], scene["sheet"]
    numbers = ", ".join(map(str, scene["heads"]))
    several = f" ({words[scene['combine']]})" if len(scene["heads"]) > 1 else ""
    one = [scene["layer"], *scene["heads"]]  # a head has a name only where it is shown alone
    named = [kind for kind, rows in sheet["names"].items() if one in [row[:2] for row in rows]]
    place = f"{words['layer']} {scene['layer']}, {words['heads' if several else 'head']} {numbers}{several}"
    parts = [words["parts"].get(scene["part"], ""), place, *named, words["units"].get(scene["unit"], "")]
    keys = sheet["key_tokens"] or sheet["tokens"]
    if scene["query"] is not None:
        parts.append(words["query"].format(readable(sheet["tokens"][scene["query"]]), scene["query"]))
    if scene["key"] is not None:
        parts.append(words["key"].format(readable(keys[scene["key"]]), scene["key"]))
    if scene["threshold"]:
        parts.append(words["below"].format(scene["threshold"]))
    if hidden_keys(scene):
        parts.append(words["hidden"].format(" ".join(keys[key] for key in hidden_keys(scene))))
    return f"{scene['title']}\n" + " · ".join(part for part in parts if part)


def picture(scene) -> bytes:
    """The map as a PNG, for the notebook."""
    sheet, weights = scene["sheet"], combined(scene | {"hide": "none"})
    side = float(np.clip(0.3 * max(weights.shape), 3.5, 8))
    figure = Figure(figsize=(side + 1.5, side), layout="constrained")  # not through pyplot, which would show it a second time
    name = f"L{scene['layer']} " + " ".join(f"H{head}" for head in scene["heads"]) + (f" ({scene['combine']})" if len(scene["heads"]) > 1 else "")
    plots.heatmap(weights, sheet["tokens"], key_tokens=sheet["key_tokens"], ax=figure.add_subplot(),
                  title=readable(f"{name} · {scene['title']}", width=70), scale=_scale(scene))
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=90, metadata={"Software": None})
    small = io.BytesIO()  # a notebook keeps it: 128 colours are half as many bytes
    Image.open(out).convert("RGB").quantize(128, method=Image.Quantize.MEDIANCUT).save(small, format="png", optimize=True)
    return small.getvalue()


def figure(scene, path=None, size="paper"):
    """Draw a scene at the size of a column of print or of a slide; see `Explorer.figure`."""
    if size not in SIZES:
        raise ValueError(f"size must be 'paper' or 'slide'; got {size!r}")
    if path is not None and Path(path).suffix not in (".png", ".svg", ".pdf"):
        raise ValueError(f"a figure must end in .png, .svg or .pdf; got {Path(path).name!r}")
    width, height, points = SIZES[size]
    sheet, text = scene["sheet"], caption(scene)
    made = Figure(figsize=(width, height), layout="constrained")
    with plots._style([text, *sheet["tokens"], *(sheet["key_tokens"] or [])]):
        axes = made.add_subplot()
        {"matrix": _matrix, "lines": _lines, "text": _text}[scene["mode"]](axes, scene, _drawn(scene), points)
        made.supxlabel(_wrapped(text, width, points), fontsize=points, x=0.02, ha="left")
        for small in made.axes[1:]:
            small.tick_params(labelsize=points)
        if path is not None:
            _save(made, Path(path), text)
    return made


def _save(made, path, text):
    if path.suffix == ".svg":  # text stays text, so the reader's own fonts draw it
        path.write_text(str(plots.svg(made)), encoding="utf-8")
    else:
        made.savefig(path, dpi=300 if made.get_figwidth() < 5 else 144, metadata={{".png": "Description", ".pdf": "Subject"}[path.suffix]: text})


def _scale(scene):
    return "linear" if scene["sheet"]["signed"] else scene["shade"]


def _drawn(scene):
    """The weights with those below the threshold taken out."""
    weights = combined(scene)
    return np.where(np.abs(weights) < scene["threshold"], 0, weights) if scene["threshold"] else weights


def _wrapped(text, width, points):
    """Break a caption into lines of the width of the figure; a Chinese character takes two places."""
    room, lines = int(width * 72 / points * 1.75), []
    for line in text.split("\n"):
        now, used = "", 0
        for char in line:
            used += 2 if char > "\u2e7f" else 1
            if used > room:
                cut = now.rfind(" ") + 1 if " " in now[len(now) // 2:] else len(now)
                lines.append(now[:cut])
                now, used = now[cut:], sum(2 if one > "\u2e7f" else 1 for one in now[cut:]) + 1
            now += char
        lines.append(now)
    return "\n".join(writable(line.strip()) for line in lines)


def _matrix(axes, scene, weights, points):
    sheet = scene["sheet"]
    plots.heatmap(weights, sheet["tokens"], key_tokens=sheet["key_tokens"], ax=axes, scale=_scale(scene))
    axes.set(xlabel=WORDS[scene["lang"]]["looked"], ylabel=WORDS[scene["lang"]]["looks"])
    axes.xaxis.label.set_fontsize(points), axes.yaxis.label.set_fontsize(points)
    n_queries, n_keys = weights.shape
    for key in hidden_keys(scene):
        axes.add_patch(Rectangle((key - 0.5, -0.5), 1, n_queries, facecolor="white", edgecolor="#8b949e", hatch="////", linewidth=0))
    if scene["query"] is not None:
        axes.add_patch(Rectangle((-0.5, scene["query"] - 0.5), n_keys, 1, fill=False, edgecolor="#c2410c", linewidth=1.5))
    if scene["key"] is not None:
        axes.add_patch(Rectangle((scene["key"] - 0.5, -0.5), 1, n_queries, fill=False, edgecolor="#c2410c", linewidth=1.5))


def _row(scene, weights):
    """The weights of the pinned token, or None."""
    return weights[scene["query"]] if scene["query"] is not None else weights[:, scene["key"]] if scene["key"] is not None else None


def _colours(scene, weights):
    norm = plots._norm(weights, _scale(scene), None)
    return norm, plots.SIGNED if norm.vmin < 0 else plots.WEIGHTS


def _lines(axes, scene, weights, points):
    sheet, words = scene["sheet"], WORDS[scene["lang"]]
    columns = sheet["tokens"], sheet["key_tokens"] or sheet["tokens"]
    norm, cmap = _colours(scene, weights)
    top = np.nanmax(np.abs(weights)) or 1
    for query, key in np.argwhere(np.nan_to_num(np.abs(weights)) >= max(0.02 * top, scene["threshold"])):
        if scene["query"] not in (None, query) or scene["key"] not in (None, key):
            continue
        weight = weights[query, key]
        curve = Curve([(0, query), (0.5, query), (0.5, key), (1, key)], [Curve.MOVETO, Curve.CURVE4, Curve.CURVE4, Curve.CURVE4])
        axes.add_patch(PathPatch(curve, fill=False, edgecolor=cmap(norm(weight)) if sheet["signed"] else "#c2410c",
                                 linewidth=0.3 + 2.5 * abs(weight) / top, alpha=float(min(1, 0.15 + 0.85 * abs(weight) / top))))
    row = _row(scene, weights)
    for side, tokens in enumerate(columns):
        pinned = scene["key" if side else "query"]
        shaded = row if row is not None and pinned is None else None
        for place, token in enumerate(tokens):
            box = {"facecolor": cmap(norm(shaded[place])) if shaded is not None else "none",
                   "edgecolor": "#c2410c" if place == pinned else "none", "pad": 1}
            axes.text(1.04 if side else -0.04, place, writable(readable(token)), ha="left" if side else "right", va="center",
                      fontsize=min(points, 72 * 6 / len(tokens)), bbox=box, color=_ink(box["facecolor"]))
        axes.text(side, -1, words["looked" if side else "looks"], ha="left" if side else "right", va="bottom", fontsize=points)
    axes.set(xlim=(-0.7, 1.7), ylim=(max(map(len, columns)) - 0.3, -1.6))
    axes.set_axis_off()


def _ink(colour):
    """Black or white, whichever can be read on a colour."""
    if isinstance(colour, str):
        return "black"
    return "black" if 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2] > 0.5 else "white"


def _text(axes, scene, weights, points):
    """The tokens of the side that is looked at, line by line, each on the colour of its weight."""
    sheet, row = scene["sheet"], _row(scene, weights)
    norm, cmap = _colours(scene, weights)
    tokens = sheet["tokens"] if scene["key"] is not None else sheet["key_tokens"] or sheet["tokens"]
    axes.set(xlim=(0, 1), ylim=(1, 0))
    axes.set_axis_off()
    figure, points = axes.figure, 1.6 * points
    per_line, x, y = figure.get_figwidth() * 72 * 0.92, 0.0, 0.06
    for place, token in enumerate(tokens):
        shown = writable(readable(token, width=40))
        width = sum(1.0 if char > "\u2e7f" else 0.62 for char in shown) * points
        if x and x + width > per_line:
            x, y = 0.0, y + 2.1 * points / 72 / figure.get_figheight()
        colour = "none" if row is None else cmap(norm(row[place]))
        pinned = place == (scene["query"] if scene["key"] is None else scene["key"]) and sheet["key_tokens"] is None
        axes.text(x / (per_line / 0.98), y, shown, fontsize=points, va="center", color=_ink(colour),
                  bbox={"facecolor": colour, "edgecolor": "#c2410c" if pinned else "none", "pad": 2})
        x += width + 0.6 * points
