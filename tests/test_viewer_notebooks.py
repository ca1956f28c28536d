"""The explorer through the life of a notebook, in a real browser with the network cut, in JupyterLab and in Notebook 7.

Live in the first cell of a fresh tab; saved and opened again without a kernel, trusted, with and without the state of widgets,
and untrusted; the page loaded anew while the kernel runs; made a web page by nbconvert, one explorer and two.
"""

import base64
import json
import os
import re
import urllib.request

import nbformat
import numpy as np
import pytest
from nbformat.sign import NotebookNotary
from test_viewer import HOSTILE, attention
from test_viewer_browser import CELL, HEADS, LAYERS, N, assert_row, table

import llmtutor as lt
from llmtutor import viewer

if os.environ.get("LLMTUTOR_REQUIRE_BROWSER", "") in ("", "0"):
    pytest.importorskip("playwright", reason="playwright is not installed: pip install llmtutor[browser-tests]")
import playwright.sync_api as playwright_api  # noqa: E402

from browser import jupyterlab, run_cell  # noqa: E402

expect = playwright_api.expect
KERNEL = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
NO_KERNEL = {"kernelspec": {"name": "none", "display_name": "None", "language": "none"}}  # no machine has one, so none is started
WEIGHTS = np.random.default_rng(0).dirichlet(np.ones(N), size=(len(LAYERS), len(HEADS), N)).astype(np.float32)  # those of CELL
LARGEST = 150_000  # bytes that one explorer of a short text adds to a notebook


class Place:
    """A notebook server in whose folder notebooks are opened."""

    def __init__(self, app, folder, address, pages):
        self.app, self.folder, self.address, self.pages = app, folder, address, pages
        self.write("plain.ipynb", [nbformat.v4.new_code_cell("1")], NO_KERNEL)
        page = self.reopen("plain.ipynb")
        page.wait_for_timeout(3000)
        self.own_errors = set(pages.errors)  # of a notebook that has no explorer (Notebook 7 looks for a setting that it lacks)
        page.close()

    def nothing_failed(self):
        return self.pages.outside == [] and set(self.pages.errors) <= self.own_errors

    def open(self, name):
        return self.pages.open(f"{self.address}/{'doc/tree' if self.app == 'jupyterlab' else 'notebooks'}/{name}")

    def reopen(self, name):
        """Open a notebook whose kernel nobody has, and decline the offer of another."""
        page = self.open(name)
        page.locator("dialog.jp-Dialog button", has_text="No Kernel").click()
        return page

    def write(self, name, cells, metadata=KERNEL, trusted=False):
        notebook = nbformat.v4.new_notebook(cells=cells, metadata=metadata)
        nbformat.write(notebook, self.folder / name)
        if trusted:
            NotebookNotary(data_dir=str(self.folder / ".jupyter" / "data")).sign(notebook)  # what `jupyter trust` does

    def sessions(self):
        """The notebooks that have a kernel."""
        if self.pages.prefix:  # from inside the namespace, where the server is
            page = self.pages.context.new_page()
            page.goto(f"{self.address}/api/sessions")
            text = page.inner_text("body")
            page.close()
        else:
            text = urllib.request.urlopen(f"{self.address}/api/sessions").read()
        return [session["path"] for session in json.loads(text)]


@pytest.fixture(scope="module", params=["jupyterlab", "notebook"])
def place(request, pages, inside, tmp_path_factory):
    if request.param == "notebook" and os.environ.get("LLMTUTOR_REQUIRE_BROWSER", "") in ("", "0"):
        pytest.importorskip("notebook", reason="Notebook 7 is not installed: pip install llmtutor[browser-tests]")
    folder = tmp_path_factory.mktemp(request.param)
    pages.prefix = inside
    with jupyterlab(folder, inside, app=request.param) as address:
        yield Place(request.param, folder, address, pages)


def cell(*views):
    """A cell as it is kept when its kernel is gone: with the output of each explorer."""
    outputs = [nbformat.v4.new_output("display_data", view._repr_mimebundle_()[0]) for view in views]
    return nbformat.v4.new_code_cell("view", outputs=outputs, execution_count=1)


def saved(page, path):
    page.keyboard.press("Control+s")
    for _ in range(200):
        text = path.read_text(encoding="utf-8")
        if '"text/html"' in text and text.rstrip().endswith("}"):  # not while it is being written
            return nbformat.reads(text, as_version=4)
        page.wait_for_timeout(100)
    raise AssertionError("the notebook was not saved")


def assert_works(explorer, page):
    """It shows CELL's maps, and the reader can change head and token."""
    expect(explorer.locator(".heading h2")).to_have_text("L9 H5")
    assert_row(page, WEIGHTS[1, 1, 2])
    explorer.locator("select.head").select_option("7")
    assert_row(page, WEIGHTS[1, 2, 2])
    explorer.locator(".token").nth(4).click()
    assert_row(page, WEIGHTS[1, 2, 4])
    with pytest.raises(AssertionError):  # this check notices another head
        assert_row(page, WEIGHTS[1, 1, 4])


# ---- live, loaded anew, opened again


def test_first_cell_of_a_fresh_tab_then_opened_again(place):
    """What Python sets is shown, what the reader does Python reads; saved, it works without a kernel where it is trusted."""
    sources = [CELL.strip(), "view.layer = 4", "print('state', view.layer, view.heads, view.query, view.mode)", "view.close()"]
    place.write("live.ipynb", [nbformat.v4.new_code_cell(source) for source in sources])
    page = place.open("live.ipynb")
    run_cell(page, 0)
    explorer = page.locator(".explorer").first
    assert_works(explorer, page)
    run_cell(page, 1)
    expect(explorer.locator(".heading h2")).to_have_text("L4 H7")
    explorer.locator("button[data-mode=lines]").click()
    run_cell(page, 2)
    expect(page.locator(".jp-OutputArea-output", has_text="state 4 [7] 4 lines")).to_be_visible()
    assert page.locator(".explorer").count() == 1 and not page.locator(".jp-OutputArea-output img").is_visible()
    kept = saved(page, place.folder / "live.ipynb")
    assert place.nothing_failed()

    page.reload()  # the kernel still runs: the same object answers, with the state that it has
    expect(page.locator(".explorer .heading h2").first).to_have_text("L4 H7")
    expect(page.locator("button[data-mode=lines]").first).to_have_attribute("aria-pressed", "true")
    page.locator("select.head").select_option("5")
    run_cell(page, 2)
    expect(page.locator(".jp-OutputArea-output", has_text="state 4 [5] 4 lines")).to_be_visible()
    run_cell(page, 3)  # closed in Python, it goes on by itself, with what was shown
    page.wait_for_function("() => globalThis.llmtutorExplorers.size === 0")
    expect(page.locator(".explorer .heading h2")).to_have_text("L4 H5")
    page.locator("select.head").select_option("7")
    expect(page.locator(".explorer .heading h2")).to_have_text("L4 H7")
    assert place.nothing_failed()
    page.close()

    assert len(json.dumps(kept)) < LARGEST and "widgets" not in kept.metadata
    place.write("again.ipynb", [kept.cells[0]], NO_KERNEL, trusted=True)
    page = place.reopen("again.ipynb")
    assert_works(page.locator(".explorer"), page)
    expect(page.locator(".jp-OutputArea-output img")).to_be_hidden()
    assert place.nothing_failed() and "again.ipynb" not in place.sessions()
    page.close()

    kept.cells[0].outputs[0].data["text/html"] += " "  # any change breaks the signature
    place.write("stranger.ipynb", [kept.cells[0]], NO_KERNEL)
    page = place.reopen("stranger.ipynb")
    picture = page.locator(".jp-OutputArea-output img").first
    picture.wait_for(state="visible")
    assert picture.evaluate("image => image.complete && image.naturalWidth") > 300
    assert page.locator(".explorer").count() == 0 and place.pages.outside == []
    page.close()


def test_the_state_of_widgets_changes_nothing(place):
    """A notebook may keep the state of its widgets; it wakes nobody, and what needs the model says so."""
    lm = lt.load("story-gpt")
    view = lt.explore(lt.attend(lm, "Lily has a red ball."), lm, lang="en", layer=1, heads=[2])
    from ipywidgets import Widget

    state = {"application/vnd.jupyter.widget-state+json": Widget.get_manager_state()}
    place.write("state.ipynb", [cell(view)], NO_KERNEL | {"widgets": state}, trusted=True)
    view.close()
    page = place.reopen("state.ipynb")
    expect(page.locator(".explorer .heading h2")).to_contain_text("L1 H2")
    expect(page.locator(".asleep")).to_contain_text("needs Python: run the cell")
    page.wait_for_timeout(1500)  # long after the state was read
    assert page.locator("textarea").is_hidden() and page.locator(".explorer").count() == 1
    page.locator("select.head").select_option("3")
    expect(page.locator(".heading h2")).to_contain_text("L1 H3")
    assert place.nothing_failed()
    page.close()


# ---- a web page made of a notebook


def converted(views, path):
    from nbconvert import HTMLExporter

    notebook = nbformat.v4.new_notebook(cells=[cell(*views)], metadata=KERNEL)
    path.write_text(HTMLExporter(template_name="lab").from_notebook_node(notebook)[0], encoding="utf-8")
    return path


def test_two_in_a_page_of_nbconvert(pages, tmp_path):
    first = lt.explore(lt.Attention.from_arrays(WEIGHTS, list("abcdefg"), layers=LAYERS, heads=HEADS), layer=9, heads=[5], query=2, lang="en")
    other = lt.explore(attention(HOSTILE), lang="zh")
    page = pages.open(converted([first, other], tmp_path / "two.html").as_uri())
    expect(page.locator(".explorer")).to_have_count(2)
    one, two = page.locator(".explorer").nth(0), page.locator(".explorer").nth(1)
    before = two.inner_text()
    assert table(page)[0]  # rows of both
    one.locator("select.head").select_option("7")
    one.locator(".token").nth(4).click()
    expect(one.locator(".heading h2")).to_have_text("L9 H7")
    shown = one.locator(".below tbody tr").evaluate_all("rows => rows.map(row => row.children[2].textContent)")
    weights = [float(text.split(" ± ")[0]) for text in shown]
    assert weights == pytest.approx(sorted(WEIGHTS[1, 2, 4], reverse=True), abs=0.005)
    assert weights != pytest.approx(sorted(WEIGHTS[1, 1, 4], reverse=True), abs=0.005)
    assert two.inner_text() == before and two.locator(".token").all_text_contents()[:3] == HOSTILE[:3]
    assert page.locator(".jp-OutputArea-output img:visible, iframe, object").count() == 0
    # nbconvert's own page asks for require.js and MathJax; the explorer must not ask for anything.
    assert [url for url in pages.outside if "require" not in url and "mathjax" not in url.lower()] == []
    page.close()
    first.close(), other.close()


def test_without_scripts_the_page_shows_the_picture(pages, tmp_path):
    view = lt.explore(attention(), lang="en")
    path = converted([view], tmp_path / "still.html")
    context = pages.browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(path.as_uri())
    picture = page.locator("img[alt*='layer 0, head 0']")
    assert picture.is_visible() and picture.bounding_box()["width"] > 300
    assert page.locator(".explorer").count() == 0
    context.close()
    view.close()


def test_a_script_that_fails_leaves_the_picture_and_says_so(pages, tmp_path):
    view = lt.explore(attention(), lang="en")
    whole = view._output()
    state = json.dumps({"name": "x", "packed": "", "state": {"lang": "zh"}})
    broken = [re.sub('"packed":"[^"]*"', '"packed":"3:00000"', whole), whole.replace('atob("', 'atob("?'),
              viewer.output(json.loads(state), view.picture(), "map")]
    (tmp_path / "broken.html").write_text(f'<meta charset="utf-8">{"".join(broken)}', encoding="utf-8")
    page = pages.open((tmp_path / "broken.html").as_uri())
    for number, words in enumerate(("The explorer could not start", "The explorer could not start", "浏览器视图无法启动")):
        expect(page.locator("body > div").nth(number)).to_contain_text(words)
        expect(page.locator("img").nth(number)).to_be_visible()
    assert page.locator(".explorer").count() == 0 and pages.errors == []
    page.close()
    view.close()


# ---- the size of what is kept


def test_what_a_notebook_keeps_stays_small():
    def kept(view):
        data, _ = view._repr_mimebundle_()
        view.close()
        return data

    short = kept(lt.explore(attention()))
    assert len(json.dumps(short)) < LARGEST
    large = attention([f"t{n}" for n in range(160)], n_layers=12, n_heads=12)
    whole = lt.explore(large)
    assert len(whole._packed) > viewer.MAX_KEPT
    data = kept(whole)
    assert len(json.dumps(data)) < 3 * LARGEST and "\"packed\"" not in data["text/html"]
    lazy = kept(lt.explore(attention(), max_mb=0.0001))
    assert "\"packed\"" not in lazy["text/html"] and "\"packed\"" in short["text/html"]


def test_pictures_alone_where_they_are_asked_for(monkeypatch):
    view = lt.explore(attention())
    assert set(view._repr_mimebundle_()[0]) == {"text/plain", "image/png", "text/html"}
    monkeypatch.setenv("LLMTUTOR_PICTURES", "1")
    assert set(view._repr_mimebundle_()[0]) == {"text/plain", "image/png"}
    view.close()


def test_hostile_tokens_stay_inside_the_script():
    view = lt.explore(attention(HOSTILE))
    text = view._repr_mimebundle_()[0]["text/html"]
    assert text.count("<script>") == text.count("</script>") == 1 and "<img onerror" not in text
    alt = re.search(r'<img alt="([^"]*)" src="data:image/png;base64,([^"]*)"', text)
    assert base64.b64decode(alt[2]) == view.picture() and "layer" in alt[1]
    view.close()
