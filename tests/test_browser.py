"""bertviz in a real browser with the network cut: live JupyterLab, re-opened, untrusted, exported, two on one page."""

import json
import os
import shutil
from pathlib import Path

import nbformat
import numpy as np
import pytest
from nbformat.sign import NotebookNotary
from conftest import skip_or_fail

from llmtutor.headview import bertviz

REQUIRED = os.environ.get("LLMTUTOR_REQUIRE_BROWSER", "") not in ("", "0")
if not REQUIRED:  # where the environment says that these tests must run, a missing package is an error below
    for package in ("playwright", "xstatic.pkg.d3", "xstatic.pkg.jquery"):
        pytest.importorskip(package, reason=f"{package} is not installed: pip install llmtutor[browser-tests]")
import playwright.sync_api as playwright_api  # noqa: E402
from xstatic.pkg import d3, jquery  # noqa: E402

from browser import jupyterlab  # noqa: E402

TOKENS = ["Lily", "喜欢", "今", "👩‍🏫", "</script>", "<!--<script>", "שלום", "a\nb", "\"'&"]
LAYERS, HEADS, LENGTH = 2, 3, len(TOKENS)

CELL = f"""
import numpy as np
import llmtutor as lt
tokens = {TOKENS!r}
weights = np.tril(np.random.default_rng(0).random(({LAYERS}, {HEADS}, {LENGTH}, {LENGTH})))
att = lt.Attention.from_arrays(weights / weights.sum(-1, keepdims=True), tokens)
lt.bertviz(att)
"""


class Attention:
    """The least that `bertviz` asks of an attention object."""

    def __init__(self, seed=0):
        weights = np.tril(np.random.default_rng(seed).random((LAYERS, HEADS, LENGTH, LENGTH)))
        self.weights = (weights / weights.sum(-1, keepdims=True)).astype("float32")
        self.tokens = TOKENS


@pytest.fixture(scope="module")
def lab(inside, tmp_path_factory):
    """A JupyterLab whose notebook `live.ipynb` has two bertviz cells that nobody has run yet."""
    folder = tmp_path_factory.mktemp("lab")
    cells = [nbformat.v4.new_code_cell(CELL.strip()), nbformat.v4.new_code_cell('lt.bertviz(att, "model")')]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), folder / "live.ipynb")
    with jupyterlab(folder, inside) as address:
        yield folder, address


def lines(page, view=0):
    """Count the attention lines of a view that are really visible."""
    page.locator(".llmtutor-bertviz svg line").first.wait_for(state="attached")
    return page.locator(".llmtutor-bertviz").nth(view).evaluate(
        """host => [...host.querySelectorAll("svg line")].filter(
            line => line.checkVisibility() && +line.getAttribute("stroke-opacity") > 0).length""")


def words(page, view=0):
    """The tokens that a head view shows on its left."""
    return page.locator(".llmtutor-bertviz").nth(view).locator("#left text").all_text_contents()


VISIBLE_LINES = HEADS * LENGTH * (LENGTH + 1) // 2  # one for each weight that a causal mask allows
SHOWN = [token.replace("\n", "↵") for token in TOKENS]


def assert_head_and_model(page):
    """A head view and then a model view are live, complete, and have hidden their pictures."""
    assert lines(page, 0) == VISIBLE_LINES
    assert words(page, 0) == SHOWN
    assert lines(page, 1) == LAYERS * VISIBLE_LINES
    assert not page.locator(".llmtutor-bertviz img").first.is_visible()
    assert not page.locator(".llmtutor-bertviz img").last.is_visible()


def test_network_is_cut(pages, inside):
    if not inside:
        skip_or_fail("network namespaces are not available (needs Linux with unshare and ip)", "LLMTUTOR_REQUIRE_NETNS")
    page = pages.open("about:blank")
    with pytest.raises(playwright_api.Error, match="ERR_INTERNET_DISCONNECTED|ERR_ADDRESS_UNREACHABLE|ERR_NAME_NOT_RESOLVED"):
        page.goto("http://192.0.2.1/")  # an address that is reserved for documentation
    assert pages.outside == ["http://192.0.2.1/"]  # and such a request does not pass unnoticed
    page.close()


def test_first_call_in_a_fresh_tab_then_reopened_and_untrusted(pages, lab):
    """The life of a notebook: run live, saved, opened again, sent to somebody who has not trusted it."""
    folder, address = lab
    page = pages.open(f"{address}/doc/tree/live.ipynb")
    _run_first_cell(page)
    assert lines(page) == VISIBLE_LINES and words(page) == SHOWN
    page.keyboard.press("Shift+Enter")
    page.locator(".llmtutor-bertviz").nth(1).locator("svg line").first.wait_for(state="attached")
    assert_head_and_model(page)
    page.locator("#layer").first.select_option("1")
    assert lines(page) == VISIBLE_LINES
    leaked = page.evaluate("['d3', 'jQuery', '$', 'requirejs', 'smallD3', 'start'].filter(name => name in window)")
    assert leaked == []
    page.keyboard.press("Control+s")
    page.wait_for_function("() => !document.querySelector('.jp-mod-dirty')")
    saved = _wait_until_saved(page, folder / "live.ipynb")
    assert pages.outside == [] and pages.errors == []
    page.close()

    # No kernel of this machine speaks such a language, so JupyterLab starts none.
    saved.metadata = {"kernelspec": {"name": "none", "display_name": "None", "language": "none"}}
    nbformat.write(saved, folder / "again.ipynb")
    NotebookNotary(data_dir=str(folder / ".jupyter" / "data")).sign(saved)  # what `jupyter trust` does
    page = pages.open(f"{address}/doc/tree/again.ipynb")
    assert_head_and_model(page)
    sessions = page.evaluate("fetch('/api/sessions').then(answer => answer.json())")
    assert "again.ipynb" not in [session["path"] for session in sessions]
    assert pages.outside == [] and pages.errors == []
    page.close()

    saved.cells[0].outputs[0].data["text/html"] += " "  # any change breaks the signature
    nbformat.write(saved, folder / "stranger.ipynb")
    page = pages.open(f"{address}/doc/tree/stranger.ipynb")
    picture = page.locator(".jp-OutputArea-output img").first
    picture.wait_for(state="visible")
    assert picture.evaluate("image => image.complete && image.naturalWidth") > 100
    assert page.locator("svg line").count() == 0
    assert "Layer:" not in page.locator(".jp-OutputArea-output").first.inner_text()
    assert pages.outside == []
    page.close()


def _run_first_cell(page):
    """Press Shift+Enter in the first cell, again if JupyterLab forgot it: it does so while it still connects to the kernel."""
    prompt = page.locator(".jp-CodeCell .jp-InputPrompt").first
    for _ in range(20):
        page.locator(".jp-CodeCell .cm-content").first.click()
        page.keyboard.press("Shift+Enter")
        try:
            playwright_api.expect(prompt).not_to_have_text("[ ]:", timeout=3000)
            return
        except AssertionError:
            continue
    raise AssertionError("JupyterLab did not run the first cell")


def _wait_until_saved(page, path):
    """Read the notebook once its file holds both outputs."""
    for _ in range(100):
        notebook = nbformat.read(path, as_version=4)
        if all(cell.outputs for cell in notebook.cells[:2]):  # Shift+Enter added an empty third cell
            return notebook
        page.wait_for_timeout(100)
    raise AssertionError("JupyterLab did not save the outputs")


def notebook_with(*views):
    cells = [nbformat.v4.new_code_cell("", outputs=[nbformat.v4.new_output(
        "display_data", {"text/html": view.html, "text/plain": repr(view)})]) for view in views]
    return nbformat.v4.new_notebook(cells=cells)


def test_exported_html_from_a_file(pages, tmp_path):
    from nbconvert import HTMLExporter
    notebook = notebook_with(bertviz(Attention()), bertviz(Attention(), "model"))
    body, _ = HTMLExporter(template_name="lab").from_notebook_node(notebook)
    (tmp_path / "export.html").write_text(body, encoding="utf-8")
    page = pages.open((tmp_path / "export.html").as_uri())
    assert_head_and_model(page)
    # nbconvert's own page asks for require.js and MathJax; the view must not ask for anything.
    assert [url for url in pages.outside if "require" not in url and "mathjax" not in url.lower()] == []
    page.close()


def test_saved_page_twice_the_same_view(pages, tmp_path):
    view = bertviz(Attention())
    page_path = tmp_path / "two.html"
    page_path.write_text(f'<meta charset="utf-8">{view.html}{view.html}', encoding="utf-8")
    page = pages.open(page_path.as_uri())
    for number in (0, 1):
        assert lines(page, number) == VISIBLE_LINES and words(page, number) == SHOWN
    assert page.locator("#layer option").count() == 2 * LAYERS
    before = weights_of(page, 1)
    page.locator("#layer").first.select_option("1")
    assert weights_of(page, 0) != before and weights_of(page, 1) == before  # the first view moved, the second did not
    page.evaluate("document.querySelector('.llmtutor-bertviz').remove()")
    page.locator("#layer").first.select_option("1")
    assert lines(page, 0) == VISIBLE_LINES
    assert pages.outside == [] and pages.errors == []
    page.close()


def weights_of(page, view):
    return page.locator(".llmtutor-bertviz").nth(view).locator("svg line").evaluate_all(
        "lines => lines.map(line => line.getAttribute('stroke-opacity'))")


def test_a_script_that_fails_leaves_the_picture_and_says_so(pages, tmp_path):
    broken = bertviz(Attention()).html.replace("d3.select(", "d3.choose(")
    (tmp_path / "broken.html").write_text(f'<meta charset="utf-8">{broken}', encoding="utf-8")
    page = pages.open((tmp_path / "broken.html").as_uri())
    assert page.locator(".llmtutor-bertviz img").is_visible()
    assert "could not start" in page.locator(".llmtutor-bertviz").inner_text()
    page.close()


# ---- The small d3 and jQuery draw what the real ones draw

# The drawing as plain data: each shape with its attributes, its style and the colour that is really painted.
DRAWING = """live => [...live.querySelectorAll("svg, svg *")].map(shape => [
    shape.tagName, shape.parentNode.tagName, shape.children.length ? "" : shape.textContent,
    [...shape.attributes].filter(a => !["style", "fill"].includes(a.name)).map(a => a.name + "=" + a.value).sort().join(" "),
    shape.style.opacity, getComputedStyle(shape).fill, getComputedStyle(shape).cursor])"""

# What a reader does: hover, leave, click, double click, another layer. Events are sent to the same shapes in both pages.
ACTIONS = {
    "head": [("mouseover", "#left g g", 3), ("mouseover", "#right g g", 5), ("mouseleave", "#right", 0), ("click", "svg > g:last-of-type rect", 1),
             ("dblclick", "svg > g:last-of-type rect", 2), ("dblclick", "svg > g:last-of-type rect", 2), ("layer", "#layer", 0)],
    "model": [("click", "rect[style*='opacity: 0']", 2), ("mouseover", ".detail g", 4), ("mouseleave", ".detail g", 4),
              ("click", "rect[style*='opacity: 0']", 5), ("click", "rect[style*='opacity: 0']", 5)],
}


def act(page, action):
    kind, where, which = action
    if kind == "layer":
        page.locator(where).select_option("1")
    else:
        page.evaluate("""([kind, where, which]) => document.querySelectorAll(".llmtutor-bertviz " + where)[which]
            .dispatchEvent(new MouseEvent(kind, {bubbles: kind != "mouseleave"}))""", [kind, where, which])


@pytest.mark.parametrize("kind", ["head", "model"])
def test_small_d3_and_jquery_equal_the_real_ones(pages, tmp_path, kind):
    small = bertviz(Attention(), kind).html
    # The same page, with the real libraries in place of the two functions that imitate them.
    real = small.replace("run(smallJquery(live), smallD3(live))", "run(window.jQuery, window.d3)")
    assert real != small
    for name, source in (("d3.js", d3), ("jquery.min.js", jquery)):
        shutil.copy(Path(source.BASE_DIR) / name, tmp_path)
    libraries = """<script src="d3.js"></script><script src="jquery.min.js"></script>
        <script>d3.schemeCategory10 = d3.scale.category10().range();</script>"""
    (tmp_path / "small.html").write_text(f'<meta charset="utf-8">{small}', encoding="utf-8")
    (tmp_path / "real.html").write_text(f'<meta charset="utf-8">{libraries}{real}', encoding="utf-8")
    ours, theirs = (pages.open((tmp_path / name).as_uri()) for name in ("small.html", "real.html"))
    seen = []
    for action in [None, *ACTIONS[kind]]:
        if action:
            act(ours, action), act(theirs, action)
        drawing, wanted = (page.locator(".llmtutor-bertviz").evaluate(DRAWING) for page in (ours, theirs))
        assert len(wanted) > LAYERS * HEADS * LENGTH
        assert drawing == wanted, f"after {action}"
        seen.append(json.dumps(drawing))
    assert len(set(seen)) >= len(seen) - 2  # the actions did change the drawing (some of them undo another)
    assert pages.errors == []
    ours.close(), theirs.close()
