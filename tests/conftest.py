"""Fixtures that every test may use: a browser, a cut network, and figures without a screen.

A machine may lack Chromium or forbid network namespaces. A test that needs them is then skipped with the reason; under
`LLMTUTOR_REQUIRE_BROWSER=1` or `LLMTUTOR_REQUIRE_NETNS=1`, which `.ci/run` sets, it fails instead.
"""

import functools
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

os.environ["MPLBACKEND"] = "Agg"  # before matplotlib is imported, here or in a subprocess

import pytest

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:  # `pytest` alone, without `python -m`, does not add the working directory
    sys.path.insert(0, str(ROOT))

BROWSER_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "msedge")


def load_benchmark(name: str):
    """The module of benchmarks/`name`.py, which is in no package; what it puts first on the path is taken off again."""
    spec = importlib.util.spec_from_file_location(f"bench_{name}", ROOT / "benchmarks" / f"{name}.py")
    module, first = importlib.util.module_from_spec(spec), sys.path[0]
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path[0] = first
    return module


def skip_or_fail(reason: str, variable: str) -> None:
    """Skip the test that is running, or fail it when the environment variable says that the thing must be there."""
    if os.environ.get(variable, "") not in ("", "0"):
        pytest.fail(f"{reason} ({variable} is set, so this may not be skipped)", pytrace=False)
    pytest.skip(reason)


def find_chromium() -> str | None:
    """Return the path of a Chromium-like browser: `LLMTUTOR_CHROMIUM` first, then the usual names on PATH."""
    named = os.environ.get("LLMTUTOR_CHROMIUM")
    return named or next((path for name in BROWSER_NAMES if (path := shutil.which(name))), None)


@functools.cache
def network_cut_prefix() -> tuple[str, ...] | None:
    """Return the words to put before a command to run it with only the loopback address, or None where that is forbidden."""
    if not (sys.platform == "linux" and shutil.which("unshare") and shutil.which("ip")):
        return None
    # A fresh namespace has its loopback down, and Jupyter talks to its kernels over it: so bring it up inside.
    prefix = ("unshare", "-rn", "sh", "-c", 'ip link set lo up && exec "$@"', "sh")
    try:
        return prefix if subprocess.run([*prefix, "true"], capture_output=True, timeout=20).returncode == 0 else None
    except subprocess.TimeoutExpired:
        return None


@pytest.fixture(scope="session")
def root() -> Path:
    """The folder of the repository."""
    return ROOT


@pytest.fixture
def chromium() -> str:
    """The path of Chromium (start it with `--no-sandbox` as root); the test is skipped, or fails, where there is none."""
    path = find_chromium()
    if path is None or not Path(path).exists():
        skip_or_fail(f"Chromium was not found (looked for {path or ', '.join(BROWSER_NAMES)})", "LLMTUTOR_REQUIRE_BROWSER")
    return path


@pytest.fixture
def cut_network():
    """A function `cut_network(command) -> command` that wraps a list of words so that it runs with only the loopback up.

    Example: `subprocess.run(cut_network([sys.executable, "-c", "..."]), check=True)`.
    """
    prefix = network_cut_prefix()
    if prefix is None:
        skip_or_fail("network namespaces are not available (needs Linux with unshare and ip)", "LLMTUTOR_REQUIRE_NETNS")
    return lambda command: [*prefix, *map(str, command)]


@pytest.fixture(scope="module")
def inside():
    """The words that run a command in one network namespace that all tests of a file share; none where that is forbidden."""
    from browser import cut_namespace

    with cut_namespace() as words:
        yield words


@pytest.fixture(scope="module")
def pages(inside, tmp_path_factory):
    """A Chromium without network, see `browser.Pages`."""
    from browser import PATIENCE, Pages
    from playwright.sync_api import expect, sync_playwright

    executable = find_chromium()
    if executable is None:
        skip_or_fail("Chromium was not found", "LLMTUTOR_REQUIRE_BROWSER")
    expect.set_options(timeout=PATIENCE)  # a busy machine is slow; what is wrong stays wrong
    with sync_playwright() as playwright:
        pages = Pages(playwright, executable, inside, tmp_path_factory.mktemp("browser"))
        yield pages
        pages.close()


@pytest.fixture
def show(pages, tmp_path, request):
    """A function that opens the saved page of an attention; afterwards nothing may have failed or left the machine.

    `LLMTUTOR_SCREENSHOTS=FOLDER` keeps a picture of each page as the test leaves it.
    """
    from llmtutor.viewer import html

    opened = []

    def show(att, **options):
        path = tmp_path / f"map{len(opened)}.html"
        path.write_text(html(att, **options), encoding="utf-8")
        page = pages.open(path.as_uri())
        page.locator(".explorer").wait_for()
        opened.append(page)
        return page

    yield show
    for number, page in enumerate(opened):
        if folder := os.environ.get("LLMTUTOR_SCREENSHOTS"):
            page.screenshot(path=Path(folder) / f"{request.node.name}-{number}.png", full_page=True)
        page.close()
    assert pages.errors == [] and pages.outside == []


@pytest.fixture(autouse=True)
def close_figures():
    """Close the figures that a test left open, when it used Matplotlib at all."""
    yield
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")
