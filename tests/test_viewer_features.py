"""What the explorer can do beside one map, on saved pages in a real browser: heads by name, words, two stacks, figures to
take away, other explanations, what a model wrote, differences, images."""

import io
import os
import re
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image
from test_viewer import maps, sheet_of
from test_viewer_browser import assert_row, pixel, table

import llmtutor as lt
from llmtutor import viewer
from llmtutor.explain import Explanation, HeadRow, Target
from llmtutor.tokens import Piece

if os.environ.get("LLMTUTOR_REQUIRE_BROWSER", "") in ("", "0"):
    pytest.importorskip("playwright", reason="playwright is not installed: pip install llmtutor[browser-tests]")
import playwright.sync_api as playwright_api  # noqa: E402

TOKENS = ["One", " day", ",", " Lily", " saw", " Tom", "。"]
N = len(TOKENS)
NAMES = {"pronoun": [[4, 5, 0.91], [9, 1, 0.5]], "my own kind": [[9, 7]]}


@pytest.fixture(scope="module")
def att():
    return lt.Attention.from_arrays(maps(2, 3, N, N), TOKENS, layers=[4, 9], heads=[1, 5, 7], info={"model": "tiny", "text": "One day, Lily saw Tom。"})


def pieces_of(text, cuts):
    """Pieces that cut a text at these places."""
    ends = [*cuts, len(text)]
    return [Piece(text[start:end], (n,), (n,), (start, end)) for n, (start, end) in enumerate(zip([0, *ends], ends))]


def placed(text="unbelievable red balls", cuts=(2, 8, 12, 16, 20), seed=0):
    """Maps that know where their tokens stand: un believ able _red _bal ls."""
    pieces = pieces_of(text, cuts)
    n = len(pieces)
    att = lt.Attention.from_arrays(maps(2, 3, n, n, seed=seed), [piece.text for piece in pieces], info={"text": text, "read": [text, None]})
    return att._with(pieces=pieces, key_pieces=pieces)


# ---- heads by name and in order


def test_named_heads_are_offered_and_shown(show, att):
    page = show(att, names=NAMES)
    assert page.locator("select.sort option").all_inner_texts() == ["by number", "by entropy (bits), lowest first", "by share on the first token", "pronoun",
                                                                    "my own kind"]
    page.locator("select.sort").select_option("kind:pronoun")
    assert page.locator("select.found option").all_inner_texts()[1:] == ["L4 H5 · 0.91", "L9 H1 · 0.50"]
    page.locator("select.found").select_option("4,5")
    assert page.locator(".heading h2").inner_text() == "L4 H5 · pronoun"
    assert_row(page, att[4, 5][N - 1])
    page.locator("select.layer").select_option("9")
    assert page.locator(".heading h2").inner_text() == "L9 H5" and page.locator("select.found").input_value() == ""


@pytest.mark.parametrize("by", ["entropy", "sink"])
def test_heads_in_order_of_what_was_measured(show, att, by):
    page = show(att)
    page.locator("select.sort").select_option(by)
    shown = [re.match(r"L(\d+) H(\d+) · ([\d.]+)", text).groups() for text in page.locator("select.found option").all_inner_texts()[1:]]
    logs = np.log2(np.where(att.weights > 0, att.weights, 1))
    true = -(att.weights * logs).sum(-1)[:, :, 1:].mean(-1) if by == "entropy" else att.weights[:, :, 1:, 0].mean(-1)
    order = np.argsort(true.ravel() if by == "entropy" else -true.ravel(), kind="stable")
    assert [(int(layer), int(head)) for layer, head, _ in shown] == [(att.layers[i // 3], att.heads[i % 3]) for i in order]
    assert [float(value) for *_, value in shown] == pytest.approx((true if by == "entropy" else 100 * true).ravel()[order], abs=0.6 if by == "sink" else 0.01)
    page.locator("select.found").focus()
    page.keyboard.press("ArrowDown")
    layer, head, _ = shown[[f"{la},{h}" for la, h, _ in shown].index(page.locator("select.found").input_value())]
    assert page.locator(".heading h2").inner_text() == f"L{layer} H{head}"


def test_names_in_chinese(show, att):
    page = show(att, names=NAMES, lang="zh", layer=4, heads=5)
    assert page.locator(".heading h2").inner_text() == "L4 H5 · 代词"
    assert page.locator("select.sort option").all_inner_texts()[3] == "代词"


def test_names_from_rows_and_from_a_card(att, tmp_path, monkeypatch):
    row = HeadRow("induction", 9, 7, 0.8, 0.1, 0.2, 0.0, 12, "no repeat")
    assert sheet_of(viewer.html(att, names=[row]))[0]["names"] == {"induction": [[9, 7, 0.8]]}
    assert sheet_of(viewer.html(att, names={"a": [(3, 1), (4, 2)]}))[0]["names"] == {}  # of heads that are not here
    folder = tmp_path / "bundled" / "tiny"
    folder.mkdir(parents=True)
    (folder / "card.json").write_text('{"heads": {"previous": [[4, 1, 0.7]]}}')
    monkeypatch.setattr(viewer, "BUNDLED", tmp_path / "bundled")
    assert sheet_of(viewer.html(att))[0]["names"] == {"previous": [[4, 1, 0.7]]}
    assert sheet_of(viewer.html(att, names={}))[0]["names"] == {}
    for wrong in ({"a": [4, 1]}, {"a": [("x", 1)]}, ["pronoun"]):
        with pytest.raises(ValueError, match="names"):
            viewer.html(att, names=wrong)


# ---- words


def test_words_add_keys_and_average_queries(show):
    att = placed()
    page = show(att, query=4)
    assert page.locator("select.unit option").all_inner_texts() == ["tokens", "words"]
    page.locator("select.unit").select_option("words")
    playwright_api.expect(page.locator(".token")).to_have_text(att.by("words").tokens)
    weights = att[0, 0]
    row = np.add.reduceat((weights[4] + weights[5]) / 2, [0, 3, 4])  # the word of the pinned token is pinned
    assert_row(page, row)
    with pytest.raises(AssertionError):
        assert_row(page, np.add.reduceat(weights[4] + weights[5], [0, 3, 4]))
    assert "those of a query's tokens averaged" in page.locator(".sink").inner_text()
    page.locator("select.unit").select_option("tokens")
    playwright_api.expect(page.locator(".token")).to_have_count(6)
    assert_row(page, weights[4][:5])


def test_words_can_be_asked_for(show):
    page = show(placed(), unit="words", lang="zh")
    assert page.locator("select.unit").input_value() == "words" and "平均" in page.locator(".sink").inner_text()
    with pytest.raises(ValueError, match="cannot be shown as words"):
        viewer.html(lt.Attention.from_arrays(maps(), "abcdefg"), unit="words")


# ---- two stacks


def two_stacks():
    source, target = pieces_of("今天很好 。", (1, 2, 3, 4)), pieces_of("to day is fine", (3, 6, 9))
    names = [piece.text for piece in source], [piece.text for piece in target]
    n, m = len(source), len(target)
    parts = [lt.Attention.from_arrays(maps(2, 3, n, n, causal=False, seed=1), names[0]), lt.Attention.from_arrays(maps(3, 3, m, m, seed=2), names[1]),
             lt.Attention.from_arrays(maps(3, 3, m, n, causal=False, seed=3), names[1], key_tokens=names[0])]
    return lt.EncoderDecoderAttention(*parts)


def test_encoder_decoder_and_cross_attention_in_one_view(show):
    att = two_stacks()
    page = show(att, lang="en", layer=2, heads=[2])
    assert page.locator("select.part").input_value() == "cross"
    assert page.locator(".strip").count() == 2 and page.locator(".heading h2").inner_text().startswith("cross-attention")
    assert_row(page, att.cross[2, 2][-1])
    page.locator("select.part").select_option("encoder")  # it has no third layer
    playwright_api.expect(page.locator(".heading h2")).to_have_text("encoder · L0 H2")
    assert page.locator(".strip").count() == 1
    assert page.locator("select.layer option").all_inner_texts() == ["0", "1"]
    assert_row(page, att.encoder[0, 2][-1])
    page.locator("select.part").select_option("decoder")
    playwright_api.expect(page.locator(".token")).to_have_text(att.decoder.tokens)
    assert_row(page, att.decoder[0, 2][-1])
    page.locator("select.part").select_option("cross")
    playwright_api.expect(page.locator(".strip")).to_have_count(2)
    page.locator("button[data-mode=lines]").click()
    page.locator(".strip").nth(1).locator(".token").nth(4).click()
    assert [index for index, *_ in sorted(table(page))] == list(range(len(att.cross.tokens)))


def test_parts_from_python():
    view = lt.explore(two_stacks(), part="encoder", layer=1)
    assert (view.part, view.layer, view.query) == ("encoder", 1, 4)
    view.layer = 1
    view.part = "cross"
    assert (view.layer, view.query, repr(view)) == (1, 3, "Explorer(3 layers x 3 heads, 4 x 5 tokens)")
    view.layer = 2
    view.part = "encoder"
    assert view.layer == 0
    with pytest.raises(Exception, match="part must be one of"):
        view.part = "self"
    with pytest.raises(ValueError, match="part must be one of.*'cross'.*got 'self'"):
        viewer.html(two_stacks(), part="self")
    view.close()


# ---- figures


def save(page, kind):
    page.locator("select.format").select_option(kind)
    with page.expect_download() as waiting:
        page.locator("button.save").click()
    return waiting.value


SVG = "{http://www.w3.org/2000/svg}"


@pytest.mark.parametrize("mode", ["matrix", "lines", "text"])
def test_figure_as_svg(show, att, mode):
    page = show(att, layer=9, heads=5, query=3, mode=mode)
    page.locator("input[type=range]").fill("0.1")
    for size, width in (("paper", "3.5in"), ("slide", "1280")):
        download = save(page, f"svg {size}")
        assert download.suggested_filename == f"attention-self-L9-H5-{size}.svg"
        drawing = ElementTree.parse(download.path()).getroot()
        assert drawing.get("width") == width
        words = re.sub(r"[\u2068\u2069]|(?<= ) ", "", " ".join(text.text for text in drawing.iter(f"{SVG}text")))
        for word in ("tiny · One day", "L9 H5", "(3)", "below 0.10"):
            assert word in words
        assert all(words.count(token.strip()) >= 1 for token in TOKENS)
        fills = {shape.get("fill") for shape in drawing.iter(f"{SVG}rect")}
        assert len(fills) > 3 or mode == "lines"
        if mode == "lines":
            assert len(list(drawing.iter(f"{SVG}path"))) == (att[9, 5][3] >= 0.1).sum()


def test_figure_as_png_has_the_colours_of_the_weights(show, att):
    page = show(att, layer=9, heads=5, lang="zh")
    sizes = {}
    for size in ("paper", "slide"):
        sizes[size] = Image.open(io.BytesIO(save(page, f"png {size}").path().read_bytes())).convert("RGB")
    assert sizes["paper"].width == 1050 and sizes["slide"].size == (1920, 1080)
    seen = {colour for _, colour in sizes["slide"].getcolors(1 << 24)}
    place = page.locator("canvas.base").evaluate("canvas => [parseFloat(canvas.style.width), parseFloat(canvas.style.height)]")
    for query, key in ((6, 6), (5, 1), (3, 0)):
        x, y = place[0] - 2 - (N - key - 0.5) * 44 - 18, place[1] - 2 - (N - query - 0.5) * 44 - 18
        colour = tuple(pixel(page, "canvas.base", x, y))
        assert colour in seen, (query, key)


def test_figure_from_python(tmp_path):
    view = lt.explore(lt.Attention.from_arrays(maps(2, 3, N, N), TOKENS, info={"model": "tiny"}), layer=1, heads=[2, 0], query=3, lang="en")
    view.hide, view.threshold, view.combine = "first", 0.05, "max"
    for mode in ("matrix", "lines", "text"):
        view.mode = mode
        for size, width in (("paper", 1050), ("slide", 1919)):
            figure = view.figure(tmp_path / f"{mode}-{size}.png", size)
            assert abs(Image.open(tmp_path / f"{mode}-{size}.png").width - width) <= 1
        text = view.figure(tmp_path / f"{mode}.svg")._supxlabel.get_text()
        for word in ("tiny", "layer 1, heads 2, 0 (maximum)", "what  Lily (3) looks at", "hidden: One"):
            assert word in text.replace("\n", " "), text
    view.mode = "matrix"
    shown = np.asarray(view.figure().axes[0].images[0].get_array().filled(0))
    maps_ = maps(2, 3, N, N)[1, [2, 0]]
    maps_[..., 0] = 0
    wanted = (maps_ / np.maximum(maps_.sum(-1, keepdims=True), 1e-9)).max(0)
    assert shown == pytest.approx(np.where(wanted < 0.05, 0, wanted), abs=1e-6)
    for wrong, words in (({"size": "poster"}, "paper"), ({"path": "x.gif"}, "x.gif")):
        with pytest.raises(ValueError, match=words):
            view.figure(**wrong)
    assert figure.get_figwidth() == pytest.approx(13.33)
    view.close()


# ---- other explanations


def test_explanations_are_tabs_on_the_same_tokens(show, att):
    scores = np.array([0.1, -0.4, 0, 0.8, 0.2, 0, 0])
    first = Explanation("integrated gradients", scores, att.tokens, Target(6, 12, "ball"))
    page = show(att, explanations=[first, Explanation("rollout", np.stack([scores, scores[::-1]]), att.tokens)])
    tabs = page.locator("[role=tab]")
    assert tabs.all_inner_texts() == ["Attention", "integrated gradients", "rollout"]
    assert "chapter 06" in page.locator(".explanations").inner_text()
    tabs.nth(1).click()
    colours = page.locator(".token").evaluate_all("tokens => tokens.map(token => token.style.backgroundColor)")
    said = page.locator(".explanations").inner_text().replace("\u2068", "").replace("\u2069", "")
    assert "Scores of integrated gradients for “ball” at 6" in said and "0.80" in said
    assert colours[3] == "rgb(8, 48, 107)" and colours[2] == colours[5] == "rgb(255, 255, 255)"
    red, _, blue = map(int, re.findall(r"\d+", colours[1]))
    assert red > blue  # against it: orange
    page.keyboard.press("ArrowRight")
    assert tabs.nth(2).get_attribute("aria-selected") == "true"
    assert page.locator(".token").nth(3).evaluate("token => token.style.backgroundColor") == "rgb(8, 48, 107)"
    page.locator("select.layer").select_option("9")  # the second row of scores
    assert page.locator(".token").nth(3).evaluate("token => token.style.backgroundColor") == "rgb(8, 48, 107)"
    assert page.locator(".token").nth(5).evaluate("token => token.style.backgroundColor") != "rgb(255, 255, 255)"
    tabs.nth(0).click()
    assert "rgb(8, 48, 107)" not in page.locator(".token").nth(3).evaluate("token => token.style.backgroundColor")


def test_explanations_of_other_tokens_are_refused(att):
    with pytest.raises(ValueError, match="rollout explains other tokens"):
        viewer.html(att, explanations=[Explanation("rollout", [1, 2], ["a", "b"])])
    with pytest.raises(ValueError, match="list of Explanation"):
        viewer.html(att, explanations=[[0.1] * N])


# ---- what the model wrote


def test_stepping_through_what_was_written(show):
    att = lt.Attention.from_arrays(maps(1, 2, N, N), TOKENS, info={"prompt_length": 4})
    page = show(att)
    assert "wrote 3 tokens" in page.locator(".written").inner_text()
    on, back = page.locator(".writing button").nth(1), page.locator(".writing button").nth(0)
    on.click()
    assert re.sub("[\u2068\u2069]", "", page.locator(".written").inner_text()) == "Token 1 of 3: “ saw” (4), written from “ Lily” (3)."
    assert_row(page, att[0, 0][3][:4])
    classes = page.locator(".token").evaluate_all("tokens => tokens.map(token => [...token.classList].filter(name => name != 'token').join(' '))")
    assert [("generated" in name, "later" in name) for name in classes] == [(i >= 4, i >= 4) for i in range(N)]
    on.click(), on.click(), on.click()
    assert "Token 3 of 3" in page.locator(".written").inner_text()
    back.click()
    assert_row(page, att[0, 0][4][:5])
    page.locator(".token").nth(1).click()
    assert "wrote 3 tokens" in page.locator(".written").inner_text() and page.locator(".token.later").count() == 0
    assert show(lt.Attention.from_arrays(maps(1, 2, N, N), TOKENS)).locator(".writing").is_hidden()


# ---- differences


def test_a_difference_has_signs_and_two_hues(show, att):
    other = lt.Attention.from_arrays(maps(2, 3, N, N, seed=5), TOKENS, layers=[4, 9], heads=[1, 5, 7])
    difference = att.diff(other)
    page = show(difference, layer=9, heads=7)
    row = difference[9, 7][N - 1]
    shown = table(page)
    for index, weight, error in shown:
        assert abs(weight - row[index]) <= error <= 0.02
    sizes = [abs(weight) for _, weight, _ in shown]
    assert sizes == sorted(sizes, reverse=True)
    assert min(weight for _, weight, _ in shown) < 0 < max(weight for _, weight, _ in shown)
    assert page.locator("select:has(option[value=special])").filter(visible=True).count() == 0  # nothing to scale to 1
    assert "orange where the second" in page.locator(".sink").inner_text()
    colours = page.locator(".token").evaluate_all("tokens => tokens.map(token => token.style.backgroundColor.match(/\\d+/g).map(Number))")
    for index, (red, _, blue) in enumerate(colours):
        if abs(row[index]) > 0.05:
            assert (blue > red) == (row[index] > 0)
    page.locator("select.sort").select_option("size")
    top = page.locator("select.found option").all_inner_texts()[1]
    sizes = np.abs(difference.weights).sum(-1)[:, :, 1:].mean(-1)
    layer, head = np.unravel_index(sizes.argmax(), sizes.shape)
    assert top.startswith(f"L{difference.layers[layer]} H{difference.heads[head]} ")
    assert "-" in page.locator(".legend").inner_text().split()[0]


def test_a_negative_weight_that_is_no_difference_is_refused(att):
    with pytest.raises(ValueError, match="from 0 to 1.*att.diff"):
        viewer.html(lt.Attention.from_arrays(att.weights - 0.1, TOKENS))


# ---- images


def image_maps(rows=2, columns=3):
    tokens = ["⟨CLS⟩", *(f"r{r}c{c}" for r in range(rows) for c in range(columns))]
    return lt.Attention.from_arrays(maps(2, 2, len(tokens), len(tokens), causal=False), tokens, info={"grid": [rows, columns]})


def test_patches_lie_over_the_image(show):
    att = image_maps()
    picture = np.zeros((20, 30, 3), np.uint8)
    picture[:10, :10], picture[10:, 20:] = (255, 0, 0), (0, 255, 0)
    page = show(att, image=picture, query=0)
    page.locator(".unpin").click()
    plain = [pixel(page, ".vision", 32 + 64 * c, 32 + 64 * r) for r in range(2) for c in range(3)]
    assert plain[0][0] > 200 > 60 > plain[0][1] and plain[5][1] > 200 > 60 > plain[5][0]
    page.locator(".vision").click(position={"x": 32 + 64 * 2, "y": 32 + 64})  # row 1, column 2: token 6
    assert_row(page, att[0, 0][6])
    assert page.locator(".vision").evaluate("canvas => [parseFloat(canvas.style.width), parseFloat(canvas.style.height)]") == [192, 128]
    covered = [pixel(page, ".vision", 32 + 64 * c, 40 + 64 * r) for r in range(2) for c in range(3)]
    assert covered != plain
    inner = [np.mean(colour) for colour in covered[1:5]]  # black patches: the veil alone, dark where the weight is large
    assert [int(i) for i in np.argsort(inner)] == [int(i) for i in np.argsort(-att[0, 0][6][2:6])]
    with pytest.raises(ValueError, match="no patches"):
        viewer.html(lt.Attention.from_arrays(maps(), "abcdefg"), image=picture)


def test_patches_without_an_image_in_the_dark(show):
    page = show(image_maps(3, 2), lang="zh")
    page.emulate_media(color_scheme="dark")
    assert page.locator(".vision").is_visible()
    playwright_api.expect(page.locator(".explorer")).to_have_css("background-color", "rgb(22, 27, 34)")
