"""The explorer with a model behind it: other texts, heads removed, a head step by step, maps that come when looked at.

The page talks to a real `Explorer` in the test process, through a model object that does what anywidget's does; one test
does the same in a live JupyterLab.
"""

import json
import os
import re

import nbformat
import numpy as np
import pytest
from test_viewer import maps
from test_viewer_browser import assert_row

import llmtutor as lt
from llmtutor import viewer
from llmtutor.viewer_live import Live

if os.environ.get("LLMTUTOR_REQUIRE_BROWSER", "") in ("", "0"):
    pytest.importorskip("playwright", reason="playwright is not installed: pip install llmtutor[browser-tests]")
import playwright.sync_api as playwright_api  # noqa: E402

from browser import jupyterlab, run_cell  # noqa: E402

TEXT = "Lily has a red ball. She likes the"
expect = playwright_api.expect


@pytest.fixture(scope="module")
def lm():
    """A model of random weights, large enough that a wrong scale or a wrong head shows, with the course's tokenizer."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    story = lt.load("story-gpt")
    config = GPT2Config(vocab_size=len(story.tokenizer), n_embd=32, n_layer=4, n_head=4, n_positions=256, initializer_range=0.3)
    return type(story)(GPT2LMHeadModel(config).eval(), story.tokenizer, story.info)


def tiny_llama(lm):
    """The same for a model in which two heads share one key head."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=len(lm.tokenizer), hidden_size=24, intermediate_size=16, num_hidden_layers=2, num_attention_heads=4,
                         num_key_value_heads=2, initializer_range=0.5, max_position_embeddings=64)
    return type(lm)(LlamaForCausalLM(config).eval(), lm.tokenizer, lm.info)


# ---- what the model is asked


@pytest.mark.parametrize("make, layer, head", [(lambda lm: lm, 2, 3), (tiny_llama, 1, 3)], ids=["gpt", "llama"])
def test_the_steps_end_in_the_weights_of_attend(lm, make, layer, head):
    lm = make(lm)
    att = lt.attend(lm, TEXT)
    steps = Live(lm, att).steps("self", layer, head, 4)
    keys = steps["keys"]
    assert [key["weight"] for key in keys] == pytest.approx(att[layer, head][4].tolist(), abs=1e-6)
    assert [key["masked"] is None for key in keys] == [n > 4 for n in range(len(keys))]
    q = np.array(steps["query"]["vector"])
    assert [key["dot"] for key in keys] == pytest.approx([float(q @ key["k"]) for key in keys], rel=2e-3, abs=2e-3)
    scores = np.array([key["masked"] for key in keys[:5]])
    assert scores == pytest.approx([key["dot"] * steps["scale"] for key in keys[:5]], rel=1e-5)
    powers = np.exp(scores - scores.max())
    assert powers / powers.sum() == pytest.approx([key["weight"] for key in keys[:5]], abs=1e-5)
    assert steps["output"] == pytest.approx(sum(key["weight"] * np.array(key["v"]) for key in keys), rel=2e-3, abs=2e-3)
    other = Live(lm, att).steps("self", layer, head - 1, 4)  # these checks notice another head
    assert [key["weight"] for key in other["keys"]] != pytest.approx(att[layer, head][4].tolist(), abs=1e-2)
    again = lt.attend(lm, TEXT)  # the model is as it was
    assert np.array_equal(again.weights, att.weights)


def tiny_t5(lm):
    """An encoder-decoder of random weights that adds a bias of positions, which the decoder reads with the course's tokenizer."""
    import torch
    from transformers import T5Config, T5ForConditionalGeneration

    torch.manual_seed(0)
    config = T5Config(vocab_size=len(lm.tokenizer), d_model=24, d_kv=8, d_ff=16, num_layers=2, num_heads=3, decoder_start_token_id=0,
                      initializer_factor=1.5)
    return type(lm)(T5ForConditionalGeneration(config).eval(), lm.tokenizer, lm.info)


@pytest.mark.parametrize("part", ["encoder", "decoder", "cross"])
@pytest.mark.parametrize("make", [lambda lm: lt.load("story-translator"), tiny_t5], ids=["marian", "t5"])
def test_the_steps_of_each_stack(lm, make, part):
    lm = make(lm)
    att = lt.attend(lm, TEXT, target="Tom saw the ball.")
    layer, head = getattr(att, part).layers[-1], 1
    row = getattr(att, part)[layer, head][2]
    live = Live(lm, att)
    steps = live.steps(part, layer, head, 2)
    assert [key["weight"] for key in steps["keys"]] == pytest.approx(row.tolist(), abs=1e-5)
    assert [key["token"] for key in steps["keys"]] == getattr(att, part).key_tokens and steps["query"]["token"] == getattr(att, part).tokens[2]
    seen = [key for key in steps["keys"] if key["masked"] is not None]
    assert len(seen) == (3 if part == "decoder" else len(row))
    powers = np.exp(np.array([key["masked"] for key in seen]) - max(key["masked"] for key in seen))
    assert powers / powers.sum() == pytest.approx([key["weight"] for key in seen], abs=1e-4)
    dots = [float(np.dot(steps["query"]["vector"], key["k"])) for key in seen]
    assert [key["dot"] for key in seen] == pytest.approx(dots, rel=2e-3, abs=2e-3)
    other = live.steps(part, layer, 0, 2)  # these checks notice another head
    assert [key["weight"] for key in other["keys"]] != pytest.approx(row.tolist(), abs=1e-3)


@pytest.mark.parametrize("part", ["encoder", "decoder", "cross"])
def test_heads_of_each_stack_are_removed(part):
    import torch

    lm = lt.load("story-translator")
    att = lt.attend(lm, TEXT, generate=4)
    live = Live(lm, att)
    written = torch.tensor([[number for piece in att.decoder.pieces for number in piece.ids]])
    source = torch.tensor([lm.tokenizer(TEXT)["input_ids"]])
    with torch.no_grad(), lt.explain.ablate(lm, [(0, 1), (1, 2)], part=part):
        true = lm.model(input_ids=source, decoder_input_ids=written).logits[0, -1].softmax(-1)
    answer = live.predict(1 if part == "encoder" else None, [[0, 1], [1, 2]], part)
    nows = [row["now"] for row in answer["rows"]]
    assert answer["after"] == att.decoder.tokens[-1] and sorted(nows, reverse=True)[:6] == pytest.approx(true.topk(6).values.tolist(), abs=1e-5)
    for other in {"encoder", "decoder", "cross"} - {part}:
        assert [row["now"] for row in live.predict(None, [[0, 1], [1, 2]], other)["rows"]] != pytest.approx(nows, abs=1e-3)


def test_predictions_with_and_without_heads(lm):
    import torch

    live = Live(lm, lt.attend(lm, TEXT))
    ids = torch.tensor([lm.tokenizer.encode(TEXT)])
    with torch.no_grad():
        whole = lm.model(ids).logits[0, -1].softmax(-1)
        with lt.explain.ablate(lm, [(0, 1), (3, 2)]):
            without = lm.model(ids).logits[0, -1].softmax(-1)
    answer = live.predict(None, [[0, 1], [3, 2]])
    befores, nows = ([row[name] for row in answer["rows"]] for name in ("before", "now"))
    assert sorted(befores, reverse=True)[:6] == pytest.approx(whole.topk(6).values.tolist(), abs=1e-6)
    assert sorted(nows, reverse=True)[:6] == pytest.approx(without.topk(6).values.tolist(), abs=1e-6)
    assert nows != pytest.approx(befores, abs=1e-4)
    same = live.predict(None, [])["rows"]
    assert all(row["before"] == row["now"] for row in same) and len(same) == 6


def test_what_each_model_can(lm):
    assert Live(lm, lt.attend(lm, TEXT)).can == ["read", "predict", "steps"]
    translator = lt.load("story-translator")
    live = Live(translator, lt.attend(translator, "Lily has a ball.", generate=4))
    assert live.can == ["read", "predict", "steps"] and live.read("Tom has a hat.").cross.info["text"] == "Tom has a hat."
    with pytest.raises(TypeError, match="what llmtutor.load returns"):
        lt.explore(lt.attend(lm, TEXT), "story-gpt")
    view = lt.explore(lt.attend(lm, TEXT))
    with pytest.raises(Exception, match="only where the explorer has the model"):
        view.ablated = [(0, 1)]
    view.close()


# ---- a page with Python behind it


class Kernel:
    """Stands between a page and an `Explorer`: what the page saves or sends arrives there, and what it answers goes back."""

    def __init__(self, view):
        self.view, self.sent, self.asked = view, [], []
        view.send = lambda content, buffers=None: self.sent.append((content, buffers or []))

    def state(self):
        names = ("_about", "part", "unit", "layer", "heads", "query", "key", "mode", "combine", "shade", "threshold", "hide", "tab", "ablated", "lang")
        return {name: getattr(self.view, name) for name in names} | {"_packed": viewer._as_text(self.view._packed)}

    def __call__(self, text):
        told = json.loads(text)
        if "state" in told:
            with self.view.hold_trait_notifications():
                for name, value in told["state"].items():
                    setattr(self.view, name, value)
            return "{}"
        before = self.view._packed
        self.asked.append(told["message"]["ask"])
        self.view._answer(None, told["message"], [])
        content, buffers = self.sent.pop()
        answer = {"content": content, "buffers": [viewer._as_text(part) for part in buffers]}
        return json.dumps(answer | ({"state": self.state()} if self.view._packed is not before else {}))


HARNESS = """
const bytes = (text) => { const all = fromBase85(text); return new DataView(all.buffer, all.byteOffset, all.byteLength); };
window.openView = async (state) => {
  const traits = { ...state, _packed: bytes(state._packed) }, heard = [], changed = {};
  const fire = (event, ...words) => { for (const [name, act] of [...heard]) if (name === event) act(...words); };
  const model = {
    get: (name) => traits[name],
    set(name, value) { changed[name] = value; if (JSON.stringify(traits[name]) !== JSON.stringify(value)) { traits[name] = value; fire(`change:${name}`); } },
    save_changes() { window.toKernel(JSON.stringify({ state: changed })); for (const name in changed) delete changed[name]; },
    on: (event, act) => heard.push([event, act]),
    off: (event, act) => { const at = heard.findIndex(([name, other]) => name === event && other === act); if (at >= 0) heard.splice(at, 1); },
    async send(message) {
      const answer = JSON.parse(await window.toKernel(JSON.stringify({ message })));
      for (const [name, value] of Object.entries(answer.state || {})) if (name !== "_packed") traits[name] = value;
      if (answer.state) { traits._packed = bytes(answer.state._packed); fire("change:_packed"); }
      fire("msg:custom", answer.content, answer.buffers.map(bytes));
    },
  };
  window.heard = heard;
  window.closeView = await render({ model, el: document.body.appendChild(document.createElement("div")) });
};
"""


@pytest.fixture
def talk(pages, tmp_path, request):
    """A function that opens an `Explorer` in a page that can ask it; afterwards nothing may have failed."""
    opened = []

    def talk(view):
        path = tmp_path / "live.html"
        path.write_text(f'<!doctype html><meta charset="utf-8"><body><script type="module">{viewer.script()}{HARNESS}</script>', encoding="utf-8")
        page, kernel = pages.open(path.as_uri()), Kernel(view)
        opened.append((page, view))
        page.expose_function("toKernel", kernel)
        page.wait_for_function("() => Boolean(window.openView)")
        page.evaluate("state => window.openView(state)", kernel.state())
        page.locator(".explorer").wait_for()
        return page, kernel

    yield talk
    for page, view in opened:
        if folder := os.environ.get("LLMTUTOR_SCREENSHOTS"):
            page.screenshot(path=f"{folder}/{request.node.name}.png", full_page=True)
        page.close()
        view.close()
    assert pages.errors == [] and pages.outside == []


def numbers(page):
    rows = page.locator(".predictions tbody tr").evaluate_all("rows => rows.map(row => [...row.children].map(cell => cell.textContent))")
    return [[row[0].strip("\u2068\u2069"), *(float(cell.replace("−", "-")) for cell in row[1:-1])] for row in rows]


def test_typing_another_text(talk, lm):
    page, kernel = talk(lt.explore(lt.attend(lm, TEXT), lm, layer=1, heads=[2], lang="en"))
    box = page.locator("textarea")
    assert box.input_value() == TEXT
    box.fill("Tom saw a blue hat.")
    other = lt.attend(lm, "Tom saw a blue hat.")
    expect(page.locator(".token")).to_have_text(other.tokens)
    assert_row(page, other[1, 2][-1])
    assert (kernel.view.layer, kernel.view.heads, kernel.view.query) == (1, [2], len(other) - 1)
    assert page.evaluate("document.activeElement.shadowRoot.activeElement.tagName") == "TEXTAREA"  # and who types goes on typing
    page.keyboard.press("End")
    page.keyboard.type(" He")
    expect(page.locator(".token")).to_have_count(len(other) + 1)
    box.fill("ball " * 300)
    expect(page.locator(".typing .note")).to_contain_text("tokens long")
    expect(page.locator(".token")).to_have_count(len(other) + 1)


def test_removing_heads_changes_the_predictions(talk, lm):
    att = lt.attend(lm, TEXT)
    page, kernel = talk(lt.explore(att, lm, layer=3, heads=[2], lang="en"))
    expect(page.locator(".predictions tbody tr")).to_have_count(6)
    whole = Live(lm, att).predict()["rows"]
    assert numbers(page) == [[row["token"], pytest.approx(row["before"], abs=6e-4)] for row in whole]
    page.locator(".remove").click()
    expect(page.locator(".predictions thead th")).to_have_count(4)
    rows = Live(lm, att).predict(None, [[3, 2]])["rows"]
    assert numbers(page) == [[row["token"], *(pytest.approx(x, abs=6e-4) for x in (row["before"], row["now"], row["now"] - row["before"]))] for row in rows]
    assert kernel.view.ablated == [[3, 2]] and "Removed: L3 H2" in page.locator(".ablation").inner_text()
    page.locator("select.layer").select_option("0")
    page.locator(".remove").click()
    expect(page.locator(".ablation")).to_contain_text("Removed: L3 H2, L0 H2")
    page.locator(".token").nth(2).click()
    expect(page.locator(".predictions caption")).to_contain_text(att.tokens[2].strip())
    page.locator(".restore").click()
    expect(page.locator(".predictions thead th")).to_have_count(2)
    assert kernel.view.ablated == []


def test_one_head_step_by_step(talk, lm):
    att = lt.attend(lm, TEXT)
    page, kernel = talk(lt.explore(att, lm, layer=2, heads=[1], query=4, lang="zh"))
    page.locator(".steps summary").click()
    rows = page.locator(".steps tbody tr")
    expect(rows).to_have_count(len(att))
    assert [float(x) for x in page.locator(".steps .weight").all_inner_texts()] == pytest.approx(att[2, 1][4].tolist(), abs=6e-4)
    assert rows.evaluate_all("rows => rows.map(row => row.className)") == ["" if n <= 4 else "shut" for n in range(len(att))]
    assert "−∞" in rows.nth(5).inner_text() and "掩码" in page.locator(".steps thead").inner_text()
    vector = page.locator(".steps .vector").first
    drawn = []
    for theme in ("light", "dark", "light"):  # the answer is drawn again, without another question
        page.emulate_media(color_scheme=theme)
        expect(page.locator(".explorer")).to_have_attribute("data-theme", theme)
        drawn.append(vector.evaluate("canvas => canvas.toDataURL()"))
    assert drawn[0] == drawn[2] != drawn[1] and kernel.asked.count("steps") == 1
    page.locator(".token").nth(6).click()
    expect(page.locator(".steps tbody tr.shut")).to_have_count(len(att) - 7)
    page.locator("select.head").select_option("0")
    expect(page.locator(".steps .note")).to_contain_text("L2 H0")
    assert [float(x) for x in page.locator(".steps .weight").all_inner_texts()] == pytest.approx(att[2, 0][6].tolist(), abs=6e-4)


def test_an_encoder_decoder_in_the_page(talk):
    lm = lt.load("story-translator")
    att = lt.attend(lm, "Lily has a red ball.", target="莉莉有一个红球。")
    page, kernel = talk(lt.explore(att, lm, layer=1, heads=[2], query=3, lang="en"))
    live = Live(lm, att)
    expect(page.locator(".predictions caption")).to_contain_text(att.decoder.tokens[3])
    page.locator(".steps summary").click()
    expect(page.locator(".steps tbody tr")).to_have_count(len(att.encoder.tokens))
    weights = [float(x) for x in page.locator(".steps .weight").all_inner_texts()]
    assert weights == pytest.approx(att.cross[1, 2][3].tolist(), abs=6e-4) != pytest.approx(att.cross[1, 1][3].tolist(), abs=6e-4)
    page.locator(".remove").click()
    expect(page.locator(".predictions thead th")).to_have_count(4)
    rows = live.predict(3, [[1, 2]], "cross")["rows"]
    assert numbers(page) == [[row["token"], *(pytest.approx(x, abs=6e-4) for x in (row["before"], row["now"], row["now"] - row["before"]))] for row in rows]
    page.locator("select.part").select_option("encoder")  # other heads: those that were removed are back
    expect(page.locator(".predictions thead th")).to_have_count(2)
    assert kernel.view.ablated == [] and kernel.view.part == "encoder"
    expect(page.locator(".predictions caption")).to_contain_text(att.decoder.tokens[-1])
    expect(page.locator(".steps tbody tr")).to_have_count(len(att.encoder.tokens))


def test_maps_come_when_they_are_looked_at(talk):
    weights = maps(3, 4, 40, 40)
    weights[2, 3, 30, 7] = np.nan
    att = lt.Attention.from_arrays(weights, [f"t{n}" for n in range(40)])
    view = lt.explore(att, max_mb=0.01)
    assert len(view._packed) < 20_000 and view._sheet["lazy"]
    page, kernel = talk(view)
    expect(page.locator("tbody tr").first).to_be_visible()
    assert_row(page, att[0, 0][39])
    assert kernel.asked == ["maps"] and "stay in Python" in page.locator(".below").inner_text()
    page.locator("select.layer").select_option("2")
    page.locator("select.head").select_option("1")
    expect(page.locator(".detail.waiting")).to_have_count(0)
    assert_row(page, att[2, 1][39])
    asked = len(kernel.asked)
    page.locator("select.layer").select_option("0")
    page.locator("select.head").select_option("0")
    expect(page.locator(".detail.waiting")).to_have_count(0)
    assert kernel.asked[asked:] in ([], ["maps"])  # L0 H0 is there already; L0 H1 was passed on the way
    page.locator("select.head").select_option("all")
    expect(page.locator(".detail.waiting")).to_have_count(0)
    assert_row(page, att.weights[0, :, 39].mean(0))
    page.locator("select.layer").select_option("2")
    page.locator("select.head").select_option("3")
    page.locator(".token").nth(30).click()
    expect(page.locator("tbody")).to_contain_text("NaN")
    assert kernel.asked.count("maps") == len(kernel.asked) <= 12
    with pytest.raises(ValueError, match=r"need .*MB, above max_mb=0.01"):  # a page has nobody to ask
        viewer.html(att, max_mb=0.01)


def test_nothing_is_left_after_closing(talk, lm):
    page, _ = talk(lt.explore(lt.attend(lm, TEXT), lm))
    assert page.evaluate("window.heard.length") > 5
    page.locator("textarea").fill("Tom has a hat.")
    expect(page.locator(".token")).to_have_count(len(lt.attend(lm, "Tom has a hat.")))
    before = page.evaluate("window.heard.length")
    page.evaluate("window.closeView()")
    page.wait_for_function("window.heard.length === 0")
    assert before > 5 and page.locator(".explorer").count() == 0
    page.emulate_media(color_scheme="dark")  # nobody listens any more


# ---- a live JupyterLab

CELL = f"""
import llmtutor as lt
from llmtutor import viewer
lm = lt.load("story-gpt")
view = lt.explore(lt.attend(lm, {TEXT!r}), lm, layer=3, heads=[2], lang="en")
view
"""


def test_live_in_jupyterlab(pages, inside, tmp_path):
    lm = lt.load("story-gpt")
    cells = [nbformat.v4.new_code_cell(source) for source in (CELL.strip(), "print('state', view.ablated, len(view._sheet['tokens']))")]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), tmp_path / "live.ipynb")
    with jupyterlab(tmp_path, inside) as address:
        page = pages.open(f"{address}/doc/tree/live.ipynb")
        run_cell(page, 0)
        expect(page.locator(".predictions tbody tr")).to_have_count(6)
        page.locator(".remove").click()
        expect(page.locator(".predictions thead th")).to_have_count(4)
        page.locator("textarea").fill("Tom saw a blue hat.")
        other = lt.attend(lm, "Tom saw a blue hat.")
        expect(page.locator(".token")).to_have_text(other.tokens)
        assert_row(page, other[3, 2][-1])
        run_cell(page, 1)
        expect(page.locator(".jp-OutputArea-output", has_text=re.compile(rf"state \[\[3, 2\]\] {len(other)}"))).to_be_visible()
        assert pages.outside == [] and pages.errors == []
        page.close()
