"""Drive a real browser and a real JupyterLab in tests, both where the network is cut.

`cut_namespace()` opens one network namespace with nothing but the loopback address and gives the words that run a
command inside it. JupyterLab and Chromium both start with these words, so they see each other and nothing else,
while the test itself stays outside and talks to Chromium through a pipe. Where namespaces are forbidden the words
are empty, and Chromium is still told to know no other host. `Pages` notes every request that tries to leave.
"""

import contextlib
import json
import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

from conftest import ROOT, network_cut_prefix

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync",
         "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost"]
PATIENCE = 120_000  # milliseconds; only a broken page on a busy machine waits so long


@contextlib.contextmanager
def cut_namespace():
    """Yield the words that run a command in one shared namespace without network; empty where that is forbidden."""
    prefix = network_cut_prefix()
    if prefix is None:
        yield []
        return
    keeper = subprocess.Popen([*prefix, "sh", "-c", "echo ready; exec cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        keeper.stdout.readline()
        yield ["nsenter", "--target", str(keeper.pid), "--user", "--net", "--preserve-credentials", "--"]
    finally:
        keeper.kill()
        keeper.communicate()


@contextlib.contextmanager
def jupyterlab(folder, inside=(), app="jupyterlab"):
    """Start a JupyterLab server on `folder` and yield its address; settings and signatures stay in the folder.

    With `app="notebook"` it is Notebook 7, whose pages lie under /notebooks instead of /doc/tree.
    """
    home = Path(folder) / ".jupyter"
    (home / "labconfig").mkdir(parents=True)
    # Without this, JupyterLab asks whether to fetch news, above the notebook.
    quiet = {"disabledExtensions": {"@jupyterlab/apputils-extension:announcements": True}}
    (home / "labconfig" / "page_config.json").write_text(json.dumps(quiet), encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JUPYTER_CONFIG_DIR": str(home), "JUPYTER_DATA_DIR": str(home / "data"),
                   "JUPYTER_RUNTIME_DIR": str(home / "run"), "IPYTHONDIR": str(home / "ipython"), "OMP_NUM_THREADS": "1"}
    environment.pop("MPLBACKEND", None)  # the kernel chooses its own
    port = _free_port()
    settings = "LabApp" if app == "jupyterlab" else "JupyterNotebookApp"
    command = [*inside, sys.executable, "-m", app, "--no-browser", "--allow-root", "--ServerApp.ip=127.0.0.1",
               f"--ServerApp.port={port}", "--IdentityProvider.token=", f"--ServerApp.root_dir={folder}",
               f"--{settings}.extension_manager=readonly"]
    log = home / "server.log"
    with log.open("wb") as out:
        server = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, env=environment, cwd=folder)
    try:
        _wait_for("is running at", log, server)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(timeout=30)


def _free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _wait_for(words, log, server, seconds=90):
    deadline = time.monotonic() + seconds
    while words not in log.read_text(encoding="utf-8", errors="replace"):
        if server.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"JupyterLab did not start within {seconds} s:\n" + log.read_text(errors="replace")[-3000:])
        time.sleep(0.2)


class Pages:
    """One Chromium; opens pages that record their errors and every request to another machine."""

    def __init__(self, playwright, executable, inside, folder):
        if inside:
            wrapper = Path(folder) / "chromium-without-network"
            wrapper.write_text(f'#!/bin/sh\nexec {" ".join(inside)} "{executable}" "$@"\n', encoding="utf-8")
            wrapper.chmod(0o755)
            executable = wrapper
        self.browser = playwright.chromium.launch(executable_path=executable, args=FLAGS)
        self.context = self.browser.new_context(viewport={"width": 1200, "height": 1000})
        self.context.set_default_timeout(PATIENCE)
        self.outside = []
        self.errors = []
        self.context.on("request", self._note)
        self.context.on("weberror", lambda event: self.errors.append(str(event.error)))

    def _note(self, request):
        if _leaves_machine(request.url):
            self.outside.append(request.url)

    def open(self, url):
        """Open a fresh tab; what earlier tabs did is forgotten."""
        self.outside.clear()
        self.errors.clear()
        page = self.context.new_page()
        page.goto(url)
        return page

    def close(self):
        self.browser.close()


def _leaves_machine(url):
    parts = urlsplit(url)
    return parts.scheme in ("http", "https", "ws", "wss") and parts.hostname not in ("127.0.0.1", "localhost", "::1")


def run_cell(page, number):
    """Press Shift+Enter in a cell, again if JupyterLab forgot it: it does so while it still connects to the kernel."""
    from playwright.sync_api import expect

    cell = page.locator(".jp-CodeCell").nth(number)
    for _ in range(20):
        cell.locator(".cm-content").click()
        page.keyboard.press("Shift+Enter")
        try:
            expect(cell.locator(".jp-InputPrompt")).not_to_have_text(re.compile(r"\[ ?\]:"), timeout=3000)
        except AssertionError:
            continue
        expect(cell.locator(".jp-InputPrompt")).to_have_text(re.compile(r"\[\d+\]:"), timeout=PATIENCE)
        return
    raise AssertionError("JupyterLab did not run the cell")
