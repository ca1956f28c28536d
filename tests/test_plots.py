"""Figures: the right cells at the right place, text that can be read in both languages, errors that help."""

import re
import subprocess
import sys
import warnings

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest

from llmtutor import fonts, plots

pytestmark = [
    pytest.mark.filterwarnings("error:Glyph .* missing"),
    pytest.mark.filterwarnings("error::llmtutor.fonts.FontHint"),
]

ENGLISH = "Lily gave Tom the ball".split()
CHINESE = list("莉莉把球给了他。")
HOSTILE = ["$x$", "$", "a\nb", "</script>", "שלום", "👩‍🏫", "a" * 300, "   ", "\x00", "\u202eevil", "é", "<b>", "\ud800"]

needs_cjk = pytest.mark.skipif(fonts.cjk_font() is None, reason="no installed font can draw Chinese")


def causal(*shape, seed=0):
    """Random attention with a causal mask: rows sum to 1, the future is exactly 0."""
    weights = np.tril(np.random.default_rng(seed).random(shape) + 0.01)
    return weights / weights.sum(-1, keepdims=True)


def draw(figure, dpi=40):
    """Render a figure as pixels, which raises the warnings about missing glyphs."""
    figure.set_dpi(dpi)
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())[..., :3]


def labels(axis):
    return [text.get_text() for text in axis.get_ticklabels()]


@pytest.fixture
def no_cjk(monkeypatch):
    """Hide every Chinese font, as on a bare machine."""
    monkeypatch.setattr(fonts, "cjk_font", lambda: None)
    monkeypatch.setattr(plots, "cjk_font", lambda: None)
    fonts._hint.cache_clear()
    yield
    fonts._hint.cache_clear()


# ---- heatmap

def test_heatmap_rows_are_queries_and_columns_are_keys():
    weights = causal(5, 5)
    ax = plots.heatmap(weights, ENGLISH, title="L0 H1")
    shown = ax.images[0].get_array()
    for query in range(5):
        for key in range(query + 1):
            assert shown[query, key] == weights[query, key]
    assert labels(ax.yaxis) == labels(ax.xaxis) == ENGLISH
    assert ax.yaxis_inverted()  # the first token stands on top
    assert "query" in ax.get_ylabel() and "key" in ax.get_xlabel()


def test_heatmap_numbers_stand_in_their_cells_and_contrast():
    weights = causal(5, 5)
    ax = plots.heatmap(weights, ENGLISH)
    written = {tuple(map(int, text.get_position())): text for text in ax.texts}
    assert len(written) == 15  # the masked cells stay empty
    for (key, query), text in written.items():
        assert text.get_text() == f"{weights[query, key]:.2f}"
        background = np.array(ax.images[0].cmap(ax.images[0].norm(weights[query, key]))[:3])
        ink = np.array(matplotlib.colors.to_rgb(text.get_color()))
        assert abs(background @ [0.299, 0.587, 0.114] - ink @ [0.299, 0.587, 0.114]) > 0.45
    assert not plots.heatmap(causal(60, 60), ["x"] * 60).texts  # no room for numbers
    assert len(plots.heatmap(weights, ENGLISH, annotate=False).texts) == 0


def test_only_a_causal_mask_is_grey():
    masked = plots.heatmap(causal(5, 5), ENGLISH).images[0].get_array()
    assert masked.mask.sum() == 10 and masked.mask[0, 1] and not masked.mask[1, 0]
    both_ways = causal(5, 5)
    both_ways[0, 4] = 0.1
    assert not np.any(plots.heatmap(both_ways, ENGLISH).images[0].get_array().mask)
    grey = matplotlib.colors.to_rgb(plots.MASKED)
    assert np.abs(np.array(plots.WEIGHTS(0.0)[:3]) - grey).min() > 0.1  # "no weight" is not "a small weight"


def test_generation_has_more_keys_than_queries():
    weights = causal(5, 5)[3:]  # the last two queries
    mask = plots.heatmap(weights, ENGLISH[3:], key_tokens=ENGLISH).images[0].get_array().mask
    assert mask.tolist() == [[False] * 4 + [True], [False] * 5]


def test_nan_is_crossed_out_and_named():
    weights = causal(5, 5)
    weights[2, 1] = np.nan
    ax = plots.heatmap(weights, ENGLISH)
    (crosses,) = ax.lines
    assert crosses.get_xydata().tolist() == [[1.0, 2.0]]
    assert "NaN" in ax.get_xlabel() and "NaN" not in plots.heatmap(causal(5, 5), ENGLISH).get_xlabel()


def test_colours_grow_darker_with_the_weight_and_print_in_grey():
    greys = plots.WEIGHTS(np.linspace(0, 1, 64))[:, :3] @ [0.299, 0.587, 0.114]
    assert np.all(np.diff(greys) < 0)
    linear = plots.heatmap(causal(5, 5), ENGLISH).images[0]
    root = plots.heatmap(causal(5, 5), ENGLISH, scale="sqrt").images[0]
    assert root.norm(0.04) == pytest.approx(0.2) and linear.norm(0.04) == pytest.approx(0.04)
    assert plots.heatmap(causal(5, 5) / 4, ENGLISH, vmax=1).images[0].norm.vmax == 1


def test_negative_weights_get_two_hues_around_zero():
    image = plots.heatmap(causal(5, 5) - 0.5, ENGLISH).images[0]
    assert image.norm(0) == 0.5 and image.cmap.name == plots.SIGNED.name


def test_given_axes_are_used_and_settings_stay():
    before = dict(matplotlib.rcParams)
    figure, (left, right) = plt.subplots(1, 2)
    assert plots.heatmap(causal(5, 5), ENGLISH, ax=left) is left
    assert plots.bars(ENGLISH, [0.1] * 5, ax=right) is right
    assert plt.get_fignums() == [figure.number]
    assert dict(matplotlib.rcParams) == before


def test_tensors_are_accepted():
    torch = pytest.importorskip("torch")
    weights = torch.tensor(causal(5, 5), dtype=torch.bfloat16, requires_grad=True)
    assert plots.heatmap(weights, ENGLISH).images[0].get_array().shape == (5, 5)


# ---- head grid

def test_head_grid_puts_layers_in_rows_and_heads_in_columns():
    weights = causal(2, 3, 5, 5)
    axes = plots.head_grid(weights, ENGLISH, layers=[4, 7], title="story-gpt")
    assert axes.shape == (2, 3)
    for (layer, head), ax in np.ndenumerate(axes):
        assert ax.get_title() == f"L{[4, 7][layer]} H{head}"
        np.testing.assert_array_equal(ax.images[0].get_array().filled(0), weights[layer, head])
        assert ax.images[0].norm is axes[0, 0].images[0].norm  # one scale for all
    assert labels(axes[0, 0].yaxis) == ENGLISH and labels(axes[0, 1].yaxis) == []
    assert labels(axes[1, 2].xaxis) == ENGLISH and labels(axes[0, 2].xaxis) == []


def test_head_grid_without_room_drops_the_token_labels():
    axes = plots.head_grid(causal(1, 2, 60, 60), ["x"] * 60)
    assert labels(axes[0, 0].yaxis) == []
    assert axes[0, 0].figure.get_figwidth() < 16


def test_head_grid_into_a_given_figure():
    figure = matplotlib.figure.Figure()
    axes = plots.head_grid(causal(2, 2, 5, 5), ENGLISH, figure=figure)
    assert axes[0, 0].figure is figure and plt.get_fignums() == []


# ---- bars

def test_bars_are_sorted_with_percentages():
    ax = plots.bars(["a", "b", "c"], [0.1, 0.7, 0.15], title="next token")
    assert labels(ax.yaxis) == ["b", "c", "a"]
    assert [bar.get_width() for bar in ax.patches] == [0.7, 0.15, 0.1]
    assert [text.get_text().strip() for text in ax.texts] == ["70.0%", "15.0%", "10.0%"]
    assert ax.yaxis_inverted()  # the largest on top


# ---- text

@needs_cjk
@pytest.mark.parametrize("tokens", [ENGLISH, CHINESE, ENGLISH + CHINESE, (ENGLISH + CHINESE) * 5])
def test_english_and_chinese_are_drawn_with_real_glyphs(tokens):
    n = len(tokens)
    for ax in (plots.heatmap(causal(n, n), tokens, title="注意力"), plots.bars(tokens, [1 / n] * n, title="下一个词元"),
               plots.head_grid(causal(1, 2, n, n), tokens, title="注意力头")[0, 0]):
        draw(ax.figure)
        assert all(label in tokens for label in labels(ax.yaxis))


@needs_cjk
def test_given_axes_with_another_font_still_show_chinese():
    _, ax = plt.subplots()
    labels(ax.xaxis)  # makes the ticks, and they keep the font of this moment
    plots.heatmap(causal(8, 8), CHINESE, ax=ax, title="注意力")
    draw(ax.figure)


def test_a_missing_glyph_would_be_noticed():
    """The check of this file: Matplotlib's own label in a font without Chinese is an error here."""
    _, ax = plt.subplots()
    ax.set_title("今", family="DejaVu Sans")
    with pytest.raises(UserWarning, match="Glyph"):
        draw(ax.figure)


def test_hostile_tokens_are_drawn_as_text():
    n = len(HOSTILE)
    for ax in (plots.heatmap(causal(n, n), HOSTILE, title="$x$ 100%_{"), plots.bars(HOSTILE, [1 / n] * n),
               plots.head_grid(causal(1, 1, n, n), HOSTILE)[0, 0]):
        draw(ax.figure)
        shown = labels(ax.yaxis)
        assert shown[:4] == ["$x$", "$", "a↵b", "</script>"]
        assert all(not text.get_parse_math() for text in ax.get_yticklabels())
        assert "U+1F469+1F3EB" in shown or "👩‍🏫" in shown
        assert "a" * 17 + "…" in shown and "␣␣␣" in shown and r"\u0000" in shown and r"\u202eevil" in shown
    with pytest.raises(ValueError, match="mathtext|Parse|parse"):  # the same title as a formula would fail
        plt.figure().suptitle("$x_{$").figure.canvas.draw()


def test_many_tokens_are_thinned_so_that_labels_do_not_overlap():
    ax = plots.heatmap(causal(200, 200), [f"t{i}" for i in range(200)])
    draw(ax.figure)
    boxes = [text.get_window_extent() for text in ax.get_yticklabels()]
    assert 40 < len(boxes) < 200 and labels(ax.yaxis)[1] == f"t{int(ax.get_yticks()[1])}"
    tops = sorted(box.y0 for box in boxes)
    assert min(np.diff(tops)) >= 0.75 * min(box.height for box in boxes)


def test_readable_cuts_by_width():
    assert fonts.readable("ordinary") == "ordinary"
    assert fonts.readable("今" * 20) == "今" * 8 + "…"
    assert fonts.readable("x" * 100_000) == "x" * 17 + "…"


def test_writable_names_what_no_font_has(no_cjk):
    assert fonts.writable("a今天b") == "aU+4ECA+5929b"
    assert fonts.writable("plain ↵ …") == "plain ↵ …"


def test_without_a_chinese_font_one_hint_and_no_boxes(no_cjk):
    with pytest.warns(fonts.FontHint) as caught:
        ax = plots.bars(CHINESE, [0.1] * 8)
        draw(ax.figure)
        draw(plots.bars(CHINESE, [0.1] * 8).figure)
    assert len(caught) == 1  # said once
    said = str(caught[0].message)
    assert "apt install" in said and "plots.svg" in said and "中文" in said
    assert caught[0].filename == __file__  # it points to the reader's line
    assert labels(ax.yaxis)[0] == "U+8389"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fonts._hint.cache_clear()
        plots.bars(ENGLISH, [0.1] * 5)  # English needs no hint


def test_svg_holds_live_text_also_without_a_font(no_cjk):
    fonts._hint.cache_clear()
    with pytest.warns(fonts.FontHint):
        ax = plots.heatmap(causal(8, 8), CHINESE, title="注意力 </title>")
    picture = plots.svg(ax)
    for text in [*CHINESE, "注意力"]:
        assert f">{text}" in picture
    assert "U+8389" not in picture
    assert "</title>" not in picture.split("</metadata>")[1]
    styles = re.findall(r"font[^\"]*DejaVu Sans[^\"]*", picture)
    assert styles and all("Microsoft YaHei" in style and "sans-serif" in style for style in styles)
    assert picture._repr_svg_() == picture and len(repr(picture)) < 50
    assert labels(ax.yaxis)[0] == "U+8389"  # the figure itself is as before
    assert plots.svg(ax).count("莉") == picture.count("莉") > 0


def test_cjk_font_is_an_installed_family_that_has_the_characters():
    name = plots.cjk_font()
    installed = {font.name for font in matplotlib.font_manager.fontManager.ttflist}
    assert name is None or (name in installed and ord("爱") in fonts._characters(name))
    assert fonts._first(("No Such Font", "DejaVu Sans"), "今") is None  # installed, but without Chinese
    assert fonts._first(("No Such Font", "DejaVu Sans"), "a") == "DejaVu Sans"


def test_absent_families_are_not_named(caplog):
    draw(plots.heatmap(causal(8, 8), CHINESE).figure)
    assert [record for record in caplog.records if "findfont" in record.message] == []


# ---- errors

@pytest.mark.parametrize("call, words", [
    (lambda: plots.heatmap(causal(2, 3, 5, 5), ENGLISH), ["2 axes", "(2, 3, 5, 5)", "weights[layer, head]"]),
    (lambda: plots.heatmap(causal(5, 5), ENGLISH[:4]), ["5 rows", "4 tokens"]),
    (lambda: plots.heatmap(causal(5, 5), ENGLISH, key_tokens=ENGLISH * 2), ["5 columns", "10 tokens"]),
    (lambda: plots.heatmap(causal(5, 5), "Lily "), ["list of 5", "Split"]),
    (lambda: plots.heatmap(causal(5, 5), [1, 2, 3, 4, 5]), ["strings", "int"]),
    (lambda: plots.heatmap(causal(5, 5), ENGLISH, scale="log"), ["sqrt", "'log'"]),
    (lambda: plots.heatmap(causal(5, 5) - 1, ENGLISH, scale="sqrt"), ["negative"]),
    (lambda: plots.heatmap([[1, 2], [3]], ["a", "b"]), ["(query, key)", "equal length"]),
    (lambda: plots.heatmap(np.zeros((0, 0)), []), ["empty", "(0, 0)"]),
    (lambda: plots.head_grid(causal(5, 5), ENGLISH), ["4 axes", "(5, 5)", "heatmap"]),
    (lambda: plots.head_grid(causal(2, 1, 3, 5, 5), ENGLISH), ["batch"]),
    (lambda: plots.head_grid(causal(2, 3, 5, 5), ENGLISH, layers=[1]), ["2 layers", "[1]"]),
    (lambda: plots.bars(["a", "b"], [0.5]), ["1 probabilities", "2 tokens"]),
    (lambda: plots.bars(["a", "b"], [3.1, -2.0]), ["logits", "softmax"]),
    (lambda: plots.bars(["a", "b"], [0.9, 0.9]), ["sum"]),
    (lambda: plots.bars(["a"], [np.nan]), ["between 0 and 1"]),
])
def test_errors_say_what_was_wanted_what_came_and_what_to_do(call, words):
    with pytest.raises(ValueError) as error:
        call()
    for word in words:
        assert word in str(error.value)


def test_plots_load_neither_torch_nor_transformers(root):
    code = "import sys, llmtutor.plots; print(sorted({'torch', 'transformers'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert done.stdout.strip() == "[]"
