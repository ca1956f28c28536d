"""The explorer's data and page: weights within their bound, tokens never markup, sizes kept, wrong calls explained."""

import base64
import hashlib
import io
import json
import re
import shutil
import subprocess
import time

import numpy as np
import pytest
import traitlets
from PIL import Image

import llmtutor as lt
from llmtutor import viewer
from llmtutor.viewer import from_codes, html, pack, to_codes, unpack

HOSTILE = ["</script>", "<img src=x onerror=alert(1)>", "<!--", "\0", "\u202eabc", "\"'&", "a\nb", "👩‍🏫", "x" * 10_000]


def maps(n_layers=2, n_heads=3, n_queries=7, n_keys=7, causal=True, spread=2.0, seed=0):
    """Softmax of Gaussian scores, as float32 [layer, head, query, key]."""
    scores = np.random.default_rng(seed).standard_normal((n_layers, n_heads, n_queries, n_keys), np.float32) * spread
    if causal:
        scores[..., ~np.tril(np.ones((n_queries, n_keys), bool), n_keys - n_queries)] = -np.inf
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def attention(tokens=tuple("abcdefg"), **options):
    return lt.Attention.from_arrays(maps(n_queries=len(tokens), n_keys=len(tokens), **options), tokens)


def data_of(page):
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)[1])


def sheet_of(page, part=0, unit="tokens"):
    """What a page says of one stack in one unit, and its maps."""
    data = data_of(page)
    sheet = data["parts"][part]["units"][unit]
    return sheet, unpack(viewer._from_text(data["packed"])[slice(*sheet["bytes"])], sheet)


# ---- one byte a weight


@pytest.mark.parametrize("fineness", [255, 80, 56])
def test_no_weight_is_off_by_more_than_stated(fineness):
    weights = np.concatenate([np.linspace(0, 1, 100_003), np.geomspace(1e-9, 1, 50_001)]).astype(np.float32)
    codes = to_codes(weights, fineness)
    error = np.abs(from_codes(codes, fineness) - weights)
    assert error.max() <= viewer.BOUND + 1e-6
    small = weights <= (fineness / 255) ** 2
    fine = (np.sqrt(weights) + 0.5 / fineness) / fineness
    assert np.all(error[small] <= fine[small] + 1e-6)
    assert np.all(np.diff(codes[:100_003].astype(int)) >= 0) and codes[0] == 0
    # Both bounds are tight: three quarters of them would be broken.
    assert error.max() > 0.75 * viewer.BOUND and np.any(error[small] > 0.75 * fine[small])


def test_rows_of_tiny_weights_survive():
    even = np.full((1, 1, 1, 2000), 1 / 2000, np.float32)
    for fineness in (255, 80, 56):
        assert unpack(*pack(even, fineness)).min() > 0.5 / 2000
    linear = np.rint(even * 255)  # the plain byte that the root scale replaces
    assert linear.max() == 0


@pytest.mark.parametrize("shape, causal", [((2, 3, 7, 7), True), ((2, 3, 5, 8), True), ((3, 2, 5, 8), False), ((1, 2, 8, 5), False), ((2, 1, 1, 4), False)])
def test_maps_come_back_in_their_place(shape, causal):
    weights = maps(*shape, causal=causal)
    packed, form = pack(weights)
    assert form["causal"] == causal and form["shape"] == list(shape) and form["nan"] is False
    again = unpack(packed, form)
    assert np.abs(again - weights).max() <= viewer.BOUND
    assert again.shape == weights.shape and np.abs(again[::-1] - weights).max() > 0.1 * (shape[0] > 1)
    if causal:
        assert np.all(again[weights == 0] == 0)
    assert form["whole"] and not pack(weights / 2)[1]["whole"]


def test_nan_comes_back_where_it_was():
    weights = maps(2, 3, 5, 5)
    weights[1, 2, 3, 0] = weights[0, 1, 4, 4] = np.nan
    packed, form = pack(weights)
    assert form["nan"] and form["causal"]
    assert np.argwhere(np.isnan(unpack(packed, form))).tolist() == [[0, 1, 4, 4], [1, 2, 3, 0]]
    weights[0, 0, 0, 3] = np.nan  # a NaN that looks ahead: then it is not causal, and must not vanish
    packed, form = pack(weights)
    assert not form["causal"] and np.isnan(unpack(packed, form)).sum() == 3


def test_a_single_weight_on_the_future_is_not_lost():
    weights = maps(1, 2, 6, 6)
    weights[0, 1, 2, 4] = 1e-7
    assert not pack(weights)[1]["causal"]


def test_bytes_are_not_rounded_twice():
    stored = np.rint(255 * np.sqrt(maps(2, 3, 6, 6))).astype(np.uint8)
    packed, form = pack(stored)
    np.testing.assert_allclose(unpack(packed, form), np.square(stored / 255, dtype=np.float32), atol=1e-6)
    assert form["fineness"] == 255


@pytest.mark.parametrize("wrong, words", [(-0.1, "-0.1 to"), (1.5, "to 1.5"), (np.inf, "to inf")])
def test_what_is_no_weight_is_refused(wrong, words):
    weights = maps(3, 2, 4, 4)
    weights[2, 1, 3, 1] = wrong
    with pytest.raises(ValueError, match="position 2 on the layer axis.*" + words):
        pack(weights)


@pytest.mark.parametrize("n, megabytes, seconds", [(128, 0.9, 0.5), (512, 9, 3)])
def test_size_and_time_of_a_page(n, megabytes, seconds):
    att = attention([f"t{i}" for i in range(n)], n_layers=12, n_heads=12)
    html(attention())  # what is loaded once
    start = time.perf_counter()
    page = html(att)
    assert time.perf_counter() - start < 3 * seconds
    assert len(page.encode()) / 1e6 <= megabytes


# ---- the page


def test_the_page_allows_its_own_script_and_nothing_else():
    page = html(attention())
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', page)[1]
    assert policy.startswith("default-src 'none'") and "unsafe" not in policy and "http" not in policy
    script = re.search(r'<script type="module">(.*?)</script>', page, re.DOTALL)[1]
    style = re.search(r"<style>(.*?)</style>", page, re.DOTALL)[1]
    for kind, source in (("script", script), ("style", style)):
        digest = base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy
    assert viewer._without_comments(viewer.script()) in script
    assert not re.findall(r"https?:|//[a-z]+\.", page.replace("http://www.w3.org/2000/svg", ""))  # that one is a name, no address


def test_the_script_never_makes_markup_of_text():
    source = viewer.script()
    for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "fetch(", "XMLHttpRequest", "WebSocket", "import "):
        assert word not in source


def test_hostile_tokens_stay_text():
    page = html(attention(HOSTILE))
    assert page.lower().count("<script") == 2 and page.lower().count("</script>") == 2 and "<img" not in page and "<!--" not in page
    assert "\0" not in page and "\u202e" not in page
    tokens = sheet_of(page)[0]["tokens"]
    assert tokens[:2] == ["</script>", "<img src=x onerror=alert(1)>"] and tokens[3] == "\\u0000" and tokens[4] == "\\u202eabc"
    assert tokens[7] == "👩‍🏫" and len(tokens[8]) == 40 and tokens[8].endswith("…")
    att = lt.Attention.from_arrays(maps(), tuple("abcdefg"), info={"text": "<b>&</title>", "model": '"x"'})
    assert "<title>&quot;x&quot; · &lt;b&gt;&amp;&lt;/title&gt;</title>" in html(att)


def test_the_page_holds_weights_numbers_and_state():
    att = lt.Attention.from_arrays(maps(2, 3, 5, 8, causal=False), list("abcde"), layers=[4, 9], heads=[1, 5, 7], key_tokens=list("ABCDEFGH"))
    page = html(att, layer=9, heads=[7, 1], key=-1, mode="lines")
    sheet, weights = sheet_of(page)
    assert (sheet["layers"], sheet["heads"], sheet["tokens"], sheet["key_tokens"]) == ([4, 9], [1, 5, 7], list("abcde"), list("ABCDEFGH"))
    assert data_of(page)["state"] == {"part": "self", "unit": "tokens", "layer": 9, "heads": [7, 1], "query": None, "key": 7, "mode": "lines",
                                      "lang": "en"}
    assert np.abs(weights - att.weights).max() <= viewer.BOUND
    assert html(att) == html(att)  # the same again, byte for byte


def test_only_some_layers():
    att = lt.Attention.from_arrays(maps(3, 2, 4, 4), "abcd", layers=[2, 5, 6])
    page = html(att, layers=[6, 2])
    sheet, weights = sheet_of(page)
    assert sheet["layers"] == [6, 2] and data_of(page)["state"]["layer"] == 6
    assert np.abs(weights - att.weights[[2, 0]]).max() <= viewer.BOUND


@pytest.mark.parametrize("tokens, lang, wanted", [("ab", None, "en"), ("a今", None, "zh"), ("a今", "en", "en"), ("ab", "zh", "zh")])
def test_language(tokens, lang, wanted):
    page = html(attention(tokens), lang=lang)
    assert data_of(page)["state"]["lang"] == wanted
    assert ('<html lang="zh-CN">' in page) == (wanted == "zh")


def test_save_as_a_page(tmp_path):
    att = attention("今天好")
    assert att.save(tmp_path / "map.html", layer=1).read_text(encoding="utf-8") == html(att, layer=1)


def test_both_languages_say_everything():
    source = viewer.script()
    english, chinese = re.search(r"const WORDS = {\n  en: {(.*?)\n  },\n  zh: {(.*?)\n  },\n};", source, re.DOTALL).groups()
    keys = [re.findall(r"(?:^|[,{] |\n +)(\w+): (?=[\"`({])", part) for part in (english, chinese)]
    assert len(keys[0]) > 40 and keys[0] == keys[1]


# ---- wrong calls


@pytest.mark.parametrize("options, words", [
    ({"layer": 2}, ["layer", "[0, 1]", "2"]), ({"heads": [0, 3]}, ["head", "[0, 1, 2]", "3"]), ({"heads": []}, ["at least one"]),
    ({"layers": []}, ["at least one"]), ({"layers": [7]}, ["layer", "7"]), ({"layers": [1], "layer": 0}, ["[1]", "0"]),
    ({"query": 7}, ["query", "0 to 6", "7"]), ({"key": -8}, ["key", "-8"]), ({"query": 1, "key": 2}, ["only one"]), ({"query": "a"}, ["query", "'a'"]),
    ({"mode": "grid"}, ["mode", "matrix", "grid"]), ({"lang": "fr"}, ["lang", "'fr'"])])
def test_wrong_choices_are_explained(options, words):
    for function in (html, viewer.explore):
        with pytest.raises(ValueError) as error:
            function(attention(), **options)
        assert all(word in str(error.value) for word in words), error.value


class Thing:
    def __init__(self, **attributes):
        self.__dict__.update(attributes)


@pytest.mark.parametrize("att, error, words", [
    ("a text", TypeError, "wanted an Attention; got str"), (np.zeros((1, 1, 2, 2)), TypeError, "no weights and no tokens"),
    (Thing(weights=maps()), TypeError, "no tokens"), (Thing(weights=maps(), tokens=None), ValueError, "7 tokens.*got none"),
    (Thing(weights=maps(), tokens=list("abc")), ValueError, "7 tokens.*got 3"), (Thing(weights=maps(), tokens="abcdefg"), ValueError, "got 7"),
    (Thing(weights=maps()[0], tokens=list("abcdefg")), ValueError, "4 axes.*drop"), (Thing(weights=maps(), tokens=list("abcdefg"), layers=[3]), ValueError, "2 layers"),
    (Thing(weights=np.zeros((1, 1, 2, 2), complex), tokens=list("ab")), ValueError, "floating-point numbers.*complex"),
    (Thing(encoder=1, decoder=1, cross=1), TypeError, "wanted an Attention; got int")])
def test_what_is_no_attention_is_explained(att, error, words):
    with pytest.raises(error, match=words):
        viewer.explore(att)


def test_a_text_of_100_000_tokens_is_refused_at_once():
    n = 100_000
    att = Thing(weights=np.broadcast_to(np.float32(0), (1, 1, n, n)), tokens=["x"] * n)
    start = time.perf_counter()
    with pytest.raises(ValueError, match=r"up to 4,096 tokens.*got 100,000.*words"):
        html(att)
    assert time.perf_counter() - start < 3


def test_too_large_is_said_with_a_smaller_choice():
    att = attention([f"t{i}" for i in range(60)], n_layers=8, n_heads=8)
    with pytest.raises(ValueError, match=r"need ([\d.]+) MB, above max_mb=0\.05.*layers=\[0.*max_mb=1.*过大") as error:
        html(att, max_mb=0.05)
    said = float(re.search(r"need ([\d.]+) MB", str(error.value))[1])
    assert said == pytest.approx(len(data_of(html(att))["packed"]) / 1e6, abs=0.06)
    some = json.loads(re.search(r"layers=(\[[\d, ]+\])", str(error.value))[1])
    assert 1 < len(some) < 8 and html(att, layers=some[:-1], max_mb=0.05)  # its advice helps


def test_far_too_large_is_said_before_it_is_packed(monkeypatch):
    one = maps(1, 1, 1000, 1000)
    att = Thing(weights=np.broadcast_to(one, (12, 12, 1000, 1000)), tokens=["x"] * 1000)
    seen = []
    monkeypatch.setattr(viewer, "pack", lambda weights, *a, real=pack, **k: seen.append(weights.shape) or real(weights, *a, **k))
    with pytest.raises(ValueError, match=r"need about \d\d\.\d MB"):
        html(att)
    assert seen == [(1, 1, 1000, 1000)]


def test_too_large_for_a_widget_stays_here(monkeypatch):
    att = attention([f"t{i}" for i in range(60)])
    view = lt.explore(att, max_mb=0.01)
    sheet = view._sheet
    assert sheet["lazy"] and sheet["small"] == [48, 48] and len(view._packed) < 20_000
    whole = pack(att.weights, 255)[1]
    assert np.allclose(sheet["entropy"], whole["entropy"], atol=1e-3) and sheet["sink"] == whole["sink"] and sheet["causal"]
    sent = []
    monkeypatch.setattr(view, "send", lambda content, buffers: sent.append((content, buffers)), raising=False)
    view._answer(None, {"id": "7", "ask": "maps", "part": "self", "unit": "tokens", "at": [1, 2], "causal": True}, [])
    (content, buffers), = sent
    assert content["id"] == "7" and np.abs(unpack(buffers[0], content)[0, 0] - att[1, 2]).max() <= viewer.BOUND
    view._answer(None, {"id": "8", "ask": "maps", "part": "self", "unit": "tokens", "at": [9, 9], "causal": True}, [])
    assert "error" in sent[1][0]  # said in the view, not in a log
    view.close()


def test_differences_keep_their_signs_and_their_bound():
    difference = maps(2, 3, 7, 7) - maps(2, 3, 7, 7, seed=1)
    packed, form = pack(difference, signed=True)
    error = np.abs(unpack(packed, form) - difference)
    assert error.max() <= viewer.SIGNED_BOUND and form["fineness"] == 0 and form["causal"]
    assert np.array_equal(np.sign(unpack(packed, form))[np.abs(difference) > 1e-4], np.sign(difference)[np.abs(difference) > 1e-4])
    ends = np.linspace(-1, 1, 40_001, dtype=np.float32)
    assert 0.75 * viewer.SIGNED_BOUND < np.abs(from_codes(viewer.to_signed_codes(ends), 0) - ends).max() <= viewer.SIGNED_BOUND + 1e-6


def test_entropy_and_first_share():
    weights = maps(2, 3, 7, 7)
    form = pack(weights)[1]
    true = -(weights * np.log2(np.where(weights > 0, weights, 1))).sum(-1)[:, :, 1:].mean(-1)
    assert np.allclose(form["entropy"], true, atol=0.01) and np.allclose(form["sink"], weights[:, :, 1:, 0].mean(-1), atol=1e-4)
    assert not np.allclose(form["entropy"], true[:, ::-1], atol=0.01)


def test_the_page_of_one_head_holds_that_head_only(tmp_path):
    from llmtutor.__main__ import main

    text = "Lily has a red ball."
    att = lt.attend(lt.load("story-gpt"), text)
    layer = int(np.abs(att.weights[:, 1] - att.weights[:, 2]).max((-1, -2)).argmax())  # where two heads differ most
    assert main(["explore", text, "--layer", str(layer), "--head", "1", "-o", str(tmp_path / "one.html")]) == 0
    sheet, weights = sheet_of((tmp_path / "one.html").read_text(encoding="utf-8"))
    assert (sheet["layers"], sheet["heads"], weights.shape[:2]) == ([layer], [1], (1, 1))
    assert np.abs(weights[0, 0] - att[layer, 1]).max() <= viewer.BOUND < np.abs(weights[0, 0] - att[layer, 2]).max()


# ---- the widget


def test_the_widget_is_stable_and_has_a_picture():
    att = attention()
    first, second = lt.explore(att), lt.explore(att)
    assert repr(first) == repr(second) == "Explorer(2 layers x 3 heads, 7 x 7 tokens)"
    data, _ = first._repr_mimebundle_()
    assert data["text/plain"] == repr(first) and first._about["name"] in data["text/html"] and first._about["name"] != second._about["name"]
    assert "application/vnd.jupyter.widget-view+json" not in data  # it would be an error where the kernel is gone
    picture = Image.open(io.BytesIO(base64.b64decode(data["image/png"])))
    assert picture.width > 300 and len(np.unique(np.asarray(picture))) > 50
    assert second.picture() == first.picture()
    second.layer = 1
    assert second.picture() != first.picture()
    assert np.abs(unpack(first._packed, first._sheet) - att.weights).max() <= viewer.BOUND
    first.close(), second.close()


def test_python_sets_and_reads_the_state():
    view = lt.explore(attention(), layer=1, heads=2, query=-2)
    assert (view.layer, view.heads, view.query, view.key, view.mode, view.hide) == (1, [2], 5, None, "matrix", "none")
    view.key = 3
    assert (view.query, view.key) == (None, 3)  # one token is pinned, as the one or as the other
    view.query = -1
    assert (view.query, view.key) == (6, None)
    view.query = None
    assert view.query is view.key is None
    view.heads = [0, 2, 0]
    assert view.heads == [0, 2]
    for name, wrong, words in (("layer", 2, "one of"), ("heads", [], "at least one"), ("heads", [3], "one of"), ("query", 7, "0 to 6"),
                               ("key", -8, "0 to 6"), ("mode", "grid", "mode"), ("threshold", 2.0, "threshold")):
        with pytest.raises(traitlets.TraitError, match=words):
            setattr(view, name, wrong)
    assert (view.layer, view.heads, view.mode) == (1, [0, 2], "matrix")
    view.close()


def test_decoding_and_geometry_under_node(root):
    node = shutil.which("node")
    if node is None:
        pytest.skip("Node is not installed; test_viewer_browser.py runs the same code in Chromium")
    done = subprocess.run([node, "--test", str(root / "tests" / "viewer.test.mjs")], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and "# pass 16" in done.stdout, done.stdout + done.stderr
