"""bertviz without network: the right data, stable output, safe text, a size that does not freeze the tab."""

import base64
import io
import json
import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from llmtutor import headview
from llmtutor.headview import bertviz

TOKENS = ["Lily", "今", "</script>", "<!--", "\"'&", "a\nb", "</w>"]


class Attention:
    """The least that `bertviz` asks of an attention object; sizes are pairwise different."""

    def __init__(self, n_layers=2, n_heads=3, tokens=TOKENS, **numbers):
        n = len(tokens)
        weights = np.tril(np.random.default_rng(0).random((n_layers, n_heads, n, n)))
        self.weights = (weights / weights.sum(-1, keepdims=True)).astype("float32")
        self.tokens = tokens
        self.__dict__.update(numbers)


def params(view):
    """Read the data that the view's script holds, as a JSON reader would."""
    start = view.html.index("const params = ") + len("const params = ")
    text = view.html[start:].replace(r"<\!--", "<!--")
    return json.JSONDecoder().raw_decode(text)[0]


def picture(view):
    data = re.search(r'<img alt="[^"]+" src="data:image/png;base64,([^"]+)"', view.html).group(1)
    return Image.open(io.BytesIO(base64.b64decode(data)))


@pytest.mark.parametrize("kind", ["head", "model"])
def test_weights_arrive_with_four_digits_at_their_place(kind):
    att = Attention()
    (part,) = params(bertviz(att, kind))["attention"]
    np.testing.assert_allclose(part["attn"], att.weights, rtol=5.1e-4)
    assert np.abs(np.array(part["attn"]) - att.weights).max() > 0  # they are rounded
    assert part["left_text"] == part["right_text"] == ["Lily", "今", "</script>", "<!--", "\"'&", "a↵b", "</w>"]


def test_rounding_keeps_small_weights_and_shortens_whole_ones():
    assert headview._short([[0.123456, 1.0], [0.0, 0.000012345]]) == [[0.1235, 1], [0, 1.234e-05]]
    assert json.dumps(headview._short([1.0, 0.0])) == "[1, 0]"


def test_true_numbers_of_layers_and_heads_are_shown():
    att = Attention(layers=[4, 9], heads=[1, 5, 7])
    head = params(bertviz(att, layer=9, heads=[7]))
    assert (head["include_layers"], head["layer"], head["heads"]) == ([4, 9], 9, [2])
    assert len(head["attention"][0]["attn"]) == 2  # the other layer can still be chosen
    model = params(bertviz(att, "model", layer=9, heads=[7, 1]))
    assert (model["include_layers"], model["include_heads"]) == ([9], [7, 1])
    np.testing.assert_allclose(model["attention"][0]["attn"], att.weights[1:, [2, 0]], rtol=5.1e-4)
    assert model["total_heads"] == 2


@pytest.mark.parametrize("kind", ["head", "model"])
def test_nothing_points_to_the_network_and_tokens_cannot_end_the_script(kind):
    html = bertviz(Attention(), kind).html
    scripts = re.findall(r"<script.*?</script>", html, re.DOTALL)
    assert len(scripts) == 1 and html.lower().count("</script") == 1 and html.count("<!--") == 2
    assert "<script src" not in html
    # bertviz names its CDN in a call that our `requirejs` ignores; no other address is in the output.
    assert set(re.findall(r"https?://([^/\"' ]+)", scripts[0])) <= {"cdnjs.cloudflare.com", "github.com", "www.w3.org"}


@pytest.mark.parametrize("kind", ["head", "model"])
def test_the_same_attention_gives_the_same_output(kind):
    first, second = bertviz(Attention(), kind), bertviz(Attention(), kind)
    assert first.html == second.html and repr(first) == repr(second)
    assert repr(first) == f"bertviz {kind} view: 2 layers, 3 heads, 7 x 7 tokens"
    other = bertviz(Attention(tokens=TOKENS[::-1]), kind)
    ids = [re.findall(r"bertviz-[0-9a-f]{12}", view.html) for view in (first, other)]
    assert set(ids[0]).isdisjoint(ids[1]) and len(set(ids[0])) == 1 and len(ids[0]) == 2


def test_a_static_picture_lies_beside_the_script():
    head, model = picture(bertviz(Attention())), picture(bertviz(Attention(), "model"))
    assert head.width > 300 and model.height > 1.5 * head.height  # one layer, all layers
    other = picture(bertviz(Attention(), layer=1))
    assert other.tobytes() != head.tobytes()


def test_the_script_part_is_small():
    view = bertviz(Attention())
    without_picture = re.sub(r'src="data:[^"]+"', "", view.html)
    assert len(without_picture) < 30_000


def test_html_is_the_output_of_the_cell():
    view = bertviz(Attention())
    assert view._repr_html_() == view.html
    assert view.html.startswith(f"<!-- {headview.MARK} -->") and view.html.endswith(f"<!-- /{headview.MARK} -->")


def test_save_writes_a_page_in_utf8(tmp_path):
    bertviz(Attention()).save(tmp_path / "view.html")
    text = (tmp_path / "view.html").read_text(encoding="utf-8")
    assert text.startswith("<!DOCTYPE html>") and 'charset="utf-8"' in text and "交互" in text


def test_too_large_an_output_is_refused_before_it_is_made(monkeypatch):
    monkeypatch.setattr(headview, "_ask_bertviz", lambda *_: pytest.fail("bertviz was asked all the same"))
    att = Attention(12, 12, ["x"] * 90)
    with pytest.raises(ValueError, match=r"about 5\.9 MB of output, above max_mb=1") as error:
        bertviz(att, max_mb=1)
    assert "layers=[...]" in str(error.value) and "att.figure()" in str(error.value) and "词元" in str(error.value)
    with pytest.raises(ValueError, match="1,166,400 lines to draw at once"):
        bertviz(att, "model")


def test_the_estimate_of_the_size_is_close():
    att = Attention(4, 8, ["x"] * 50)
    size = len(re.sub(r'src="data:[^"]+"', "", bertviz(att).html)) / 1e6
    with pytest.raises(ValueError) as error:
        bertviz(att, max_mb=0.1)
    estimate = float(re.search(r"about ([\d.]+) MB", str(error.value)).group(1))
    assert estimate == pytest.approx(size, abs=0.1)


def test_a_layer_alone_fits_where_all_do_not():
    att = Attention(6, 8, ["x"] * 50)
    with pytest.raises(ValueError, match="lines"):
        bertviz(att, "model")
    assert "2 heads" in repr(bertviz(att, "model", layer=5, heads=[0, 7]))


@pytest.mark.parametrize("call, words", [
    (lambda: bertviz(Attention(), "neuron"), ['"head" or "model"', "neuron"]),
    (lambda: bertviz(Attention(), layer=2), ["layer", "[0, 1]", "2"]),
    (lambda: bertviz(Attention(), heads=[0, 3]), ["head", "[0, 1, 2]", "3"]),
    (lambda: bertviz(Attention(), heads=[]), ["at least one head"]),
    (lambda: bertviz(Attention(layers=[1])), ["2 layers", "[1]"]),
])
def test_wrong_choices_are_explained(call, words):
    with pytest.raises(ValueError) as error:
        call()
    for word in words:
        assert word in str(error.value)


def test_wrong_weights_are_explained():
    att = Attention()
    att.weights = att.weights[0]
    with pytest.raises(ValueError, match=r"4 axes \(layer, head, query, key\).*\(3, 7, 7\).*drop"):
        bertviz(att)
    att = Attention()
    att.tokens = att.tokens[:-1]
    with pytest.raises(ValueError, match="7 queries.*6 tokens"):
        bertviz(att)
    att = Attention()
    att.weights[1, 2, 3, 0] = np.nan
    with pytest.raises(ValueError, match="finite; layer 1, head 2"):
        bertviz(att)


def test_loading_the_module_needs_no_torch(root):
    code = "import sys, llmtutor.headview; print(sorted({'torch', 'bertviz', 'transformers'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert done.stdout.strip() == "[]"
