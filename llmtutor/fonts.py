"""Fonts for figures: find installed ones that can write Chinese, and say so where there is none.

Matplotlib draws an empty box for a character that its fonts lack. So every text goes through
``families`` (which installed fonts to use) and ``writable`` (code points instead of boxes).
"""

from __future__ import annotations

import functools
import unicodedata
import warnings

from matplotlib import font_manager
from matplotlib.ft2font import FT2Font

# Comes with Matplotlib itself, so it is always there.
BASE = "DejaVu Sans"
CJK = ["Noto Sans CJK SC", "Noto Sans SC", "Source Han Sans SC", "Source Han Sans CN", "Noto Sans CJK JP", "PingFang SC",
       "Hiragino Sans GB", "Heiti SC", "STHeiti", "Songti SC", "Microsoft YaHei", "SimHei", "SimSun", "DengXian",
       "WenQuanYi Micro Hei", "WenQuanYi Zen Hei", "Droid Sans Fallback", "Arial Unicode MS"]
# One-colour fonts with emoji outlines; Matplotlib cannot draw colour bitmaps.
EMOJI = ["Noto Emoji", "Symbola", "Segoe UI Emoji", "Segoe UI Symbol", "Apple Symbols"]

HINT = (
    "No installed font can draw Chinese, so figures show code points (U+4ECA) instead. Install one and restart the kernel: "
    "Debian/Ubuntu `sudo apt install fonts-wqy-microhei`, Fedora `sudo dnf install google-noto-sans-cjk-fonts`, "
    "macOS and Windows have one (PingFang, Microsoft YaHei) unless it was removed. "
    "Or show the figure with your browser's fonts: `lt.plots.svg(figure)`. / "
    "没有找到能显示中文的字体，图中以码位（U+4ECA）代替。请安装后重启内核："
    "Debian/Ubuntu 用 `sudo apt install fonts-wqy-microhei`，Fedora 用 `sudo dnf install google-noto-sans-cjk-fonts`，"
    "macOS 和 Windows 自带（苹方、微软雅黑）。也可以用浏览器的字体显示：`lt.plots.svg(figure)`。"
)


class FontHint(UserWarning):
    """Says that Chinese cannot be drawn on this machine, and what to do."""


def cjk_font():
    """Return the name of an installed font that can draw Chinese, or None.

    Only fonts that are really there are looked at: naming an absent one makes Matplotlib log a line per text.
    """
    return _first(tuple(CJK), "今爱语")


def families(texts):
    """Return the installed font families to draw these texts with, best first.

    Warns once a session, with ``FontHint``, where Chinese is wanted and no font has it.
    """
    font = cjk_font()
    if font is None and any(_is_cjk(char) for text in texts for char in text):
        _hint()
    return [name for name in (BASE, font, _emoji_font()) if name]


def writable(text):
    """Return the text with each character that no font here can draw replaced by its code point.

    An emoji joined of several characters becomes one piece, for instance ``U+1F469+1F3EB``.
    """
    drawable = frozenset().union(*(_characters(name) for name in (BASE, cjk_font(), _emoji_font()) if name))
    out, open_run = [], False
    for char in text:
        if unicodedata.category(char) == "Mn" and ord(char) >= 0xFE00 or char == "\u200d":
            continue  # variation selectors and joiners only matter to the font that is missing
        missing = ord(char) not in drawable
        out.append(f"{'+' if open_run else 'U+'}{ord(char):04X}" if missing else char)
        open_run = missing
    return "".join(out)


def true_numbers(numbers, wanted, what):
    """Return the numbers under which layers or heads are shown: 0, 1, 2, ... where none are given.

    Args:
        numbers: One for each of them, or None.
        wanted: How many there are.
        what: "layers" or "heads", for the error.

    Raises:
        ValueError: There are more or fewer numbers than layers or heads.
    """
    numbers = list(range(wanted)) if numbers is None else [int(number) for number in numbers]
    if len(numbers) != wanted:
        raise ValueError(f"weights have {wanted} {what}; got {len(numbers)} numbers for them: {numbers}. "
                         f"Give one for each, or leave `{what}` out.")
    return numbers


def readable(text, width=18):
    """Return a token as one short visible line: no line breaks or control characters, long tokens cut with an ellipsis.

    Args:
        text: the token.
        width: columns at most; a Chinese character counts as two.
    """
    text = text if text.strip(" ") else "␣" * len(text)
    text = "".join({"\n": "↵", "\t": "⇥", "\r": "␍"}.get(char) or _visible(char) for char in text)
    if columns(text) <= width:
        return text
    while columns(text) > width - 1:
        text = text[: min(len(text) - 1, width)]
    return text + "…"


def columns(text):
    """Return how many columns of a terminal a text takes: 2 for each Chinese character, 1 for most others."""
    return sum(2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text)


def _visible(char):
    """Escape what has no shape of its own, such as NUL or a direction mark; keep the joiner inside an emoji."""
    unseen = unicodedata.category(char) in ("Cc", "Cs", "Cf", "Co", "Zl", "Zp") and char != "\u200d"
    return f"\\u{ord(char):04x}" if unseen else char


def _is_cjk(char):
    return "\u2e80" <= char <= "\u9fff" or "\uf900" <= char <= "\uffef" or "\U00020000" <= char <= "\U0003ffff"


def _emoji_font():
    return _first(tuple(EMOJI), "🏫")


@functools.cache
def _first(names, sample):
    """Return the first installed family among the names that has all characters of the sample."""
    installed = {font.name for font in font_manager.fontManager.ttflist}
    if not installed & set(names):
        _look_again()
        installed = {font.name for font in font_manager.fontManager.ttflist}
    wanted = {ord(char) for char in sample}
    return next((name for name in names if name in installed and wanted <= _characters(name)), None)


@functools.cache
def _look_again():
    """Add fonts that were installed after Matplotlib had written its cached list."""
    known = {font.fname for font in font_manager.fontManager.ttflist}
    for path in font_manager.findSystemFonts():
        if path not in known:
            try:
                font_manager.fontManager.addfont(path)
            except (OSError, RuntimeError, ValueError):
                continue  # a colour bitmap font or a broken file: of no use to Matplotlib


@functools.cache
def _characters(name):
    """Return the code points that an installed family can draw."""
    path = font_manager.findfont(font_manager.FontProperties(family=name), fallback_to_default=False)
    return frozenset(FT2Font(path).get_charmap())


@functools.cache
def _hint():
    # The frames between: families, _style, contextlib, the plot function; then the reader's line.
    warnings.warn(HINT, FontHint, stacklevel=6)
