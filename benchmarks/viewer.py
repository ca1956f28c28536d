"""The explorer against bertviz in one run: `python course.py bench viewer` measures and writes docs/viewer-benchmark.*.

    python benchmarks/viewer.py [--tokens 16 64 128 256 512] [--bertviz-up-to 128]

Maps of 12 layers x 12 heads, causal, softmax of Gaussian scores with standard deviation 2. Measured are the size of the page,
the time to build it, and the time until Chromium has drawn it (bertviz: until its first line stands in the page), the best of
three. bertviz needs 1 GB of page and 6 GB of memory at 512 tokens, so it stops at 128 unless told otherwise; there it is
run by `lt.bertviz`, as its own page stays blank without network.
"""

import argparse
import json
import shutil
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)  # not the folder of this file

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "msedge")
DRAWN = {"explorer": "() => performance.getEntriesByName('explorer-drawn')[0]?.startTime",
         "bertviz": "() => document.querySelector('svg line') && performance.now()"}


def attention(n, n_layers=12, n_heads=12):
    """Causal maps of n tokens, softmax of Gaussian scores, as an `Attention`."""
    import numpy as np

    import llmtutor as lt

    rng, mask = np.random.default_rng(0), np.where(np.tril(np.ones((n, n), bool)), 0, -np.inf).astype(np.float32)
    weights = np.empty((n_layers, n_heads, n, n), np.float32)
    for layer in weights:  # one layer at a time, so that 2,048 tokens fit
        powers = np.exp(2 * rng.standard_normal((n_heads, n, n), np.float32) + mask)
        layer[:] = powers / powers.sum(-1, keepdims=True)
    return lt.Attention.from_arrays(weights, [f"t{i}" for i in range(n)])


def best(function, times=3):
    """The result and the shortest time of a few calls, in seconds."""
    seconds = []
    for _ in range(times):
        start = time.perf_counter()
        result = function()
        seconds.append(time.perf_counter() - start)
    return result, min(seconds)


def painted(browser, page_text, kind, times=3):
    """Seconds until a page is drawn, counted by the page itself from when it was asked for."""
    if browser is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "page.html"
        path.write_text(page_text, encoding="utf-8")
        seconds = []
        for _ in range(times):
            page = browser.new_page(viewport={"width": 1200, "height": 1000})
            page.goto(path.as_uri())
            seconds.append(page.wait_for_function(DRAWN[kind], timeout=120_000).json_value() / 1000)
            page.close()
    return min(seconds)


def build_bertviz(att):
    """The page that bertviz's head view makes of these maps."""
    import torch
    from bertviz import head_view

    maps = [torch.from_numpy(layer)[None] for layer in att.weights]
    return head_view(maps, att.tokens, html_action="return").data


def measure(n, browser, with_bertviz):
    """One row of the table."""
    import llmtutor as lt
    from llmtutor import viewer

    att = attention(n)
    page, seconds = best(lambda: viewer.html(att, max_mb=30))
    row = {"tokens": n, "explorer": {"MB": len(page.encode()) / 1e6, "build s": seconds, "paint s": painted(browser, page, "explorer")}}
    if with_bertviz:
        page, seconds = best(lambda: build_bertviz(att), times=1)
        row["bertviz"] = {"MB": len(page.encode()) / 1e6, "build s": seconds, "paint s": None}
        if browser is not None:
            row["bertviz"]["paint s"] = painted(browser, lt.bertviz(att, max_mb=1000).html, "bertviz", times=1)
    return row


def live(n, n_heads):
    """What `explore` sends at first, and for one head that is looked at, where all maps are too large for a page."""
    import llmtutor as lt
    from llmtutor import viewer

    att = attention(n, n_layers=12 if n_heads == 12 else 1, n_heads=n_heads)
    view, seconds = best(lambda: lt.explore(att), times=1)
    (packed, _), head = best(lambda: viewer.pack(att.weights[:1, :1], 255, causal=True))
    row = {"tokens": n, "heads": att.weights.shape[0] * n_heads, "fetched": bool(view._sheet.get("lazy")), "sent MB": len(view._packed) / 1e6,
           "build s": seconds, "one head MB": len(packed) / 1e6, "one head s": head}
    view.close()
    return row


def table(rows, lives):
    """The report as Markdown."""
    def cell(value):
        return "–" if value is None else f"{value:.2f}"

    def ratio(row, name):
        ours, theirs = row["explorer"][name], row.get("bertviz", {}).get(name)
        return "–" if not theirs or not ours else f"1 : {theirs / ours:.0f}"

    lines = ["# The explorer against bertviz", "", "Made by `python course.py bench viewer`; do not edit by hand. 12 layers x 12 heads, causal; one run, one "
             "machine. / 由 `python course.py bench viewer` 生成，请勿手改。12 层 x 12 头，因果掩码；同一次运行，同一台机器。", "",
             "| tokens 词元 | MB | bertviz MB | ratio 比 | build s 生成 | bertviz | ratio 比 | first paint s 首次绘制 | bertviz | ratio 比 |", "|---" * 10 + "|"]
    for row in rows:
        cells = [str(row["tokens"])]
        for name in ("MB", "build s", "paint s"):
            cells += [cell(row["explorer"][name]), cell(row.get("bertviz", {}).get(name)), ratio(row, name)]
        lines.append("| " + " | ".join(cells) + " |")
    lines += ["", "Larger maps in a live notebook: heads are fetched when they are looked at. / 更大的图在实时笔记本中按需取用：看哪个头，就取哪个头。", "",
              "| tokens 词元 | heads 头 | fetched 按需 | sent MB 首发 | build s 生成 | one head MB 单头 | one head s |", "|---" * 7 + "|"]
    lines += [f"| {r['tokens']} | {r['heads']} | {'yes 是' if r['fetched'] else 'no 否'} | {r['sent MB']:.2f} | {r['build s']:.2f} | {r['one head MB']:.2f} | "
              f"{r['one head s']:.2f} |" for r in lives]
    return "\n".join(lines) + "\n"


def main(words=None):
    """Measure, print the table and write it as Markdown and JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, nargs="+", default=[16, 64, 128, 256, 512])
    parser.add_argument("--bertviz-up-to", type=int, default=128)
    parser.add_argument("--no-live", action="store_true", help="leave out 1,024 and 2,048 tokens")
    parser.add_argument("--out", type=Path, default=ROOT / "docs", help="folder for the two files (default: docs)")
    options = parser.parse_args(words)
    executable = next((path for name in NAMES if (path := shutil.which(name))), None)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox", "--disable-gpu"]) if executable else None
        rows = []
        for n in options.tokens:
            rows.append(measure(n, browser, n <= options.bertviz_up_to))
            print(rows[-1], flush=True)
    lives = [] if options.no_live else [live(1024, 12), live(2048, 4)]
    text = table(rows, lives)
    (options.out / "viewer-benchmark.md").write_text(text, encoding="utf-8")
    (options.out / "viewer-benchmark.json").write_text(json.dumps({"pages": rows, "live": lives}, indent=1) + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
