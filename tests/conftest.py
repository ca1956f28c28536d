"""Fixtures that every test may use: a browser, a cut network, and figures without a screen.

A machine may lack Chromium or forbid network namespaces. A test that needs them is then skipped with the reason; under
`LLMTUTOR_REQUIRE_BROWSER=1` or `LLMTUTOR_REQUIRE_NETNS=1`, which `.ci/run` sets, it fails instead.
"""

import functools
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


@pytest.fixture(autouse=True)
def close_figures():
    """Close the figures that a test left open, when it used Matplotlib at all."""
    yield
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")
