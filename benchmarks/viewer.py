"""The explorer against bertviz in one run: `python course.py bench viewer` measures and writes docs/viewer-benchmark.*.

    python benchmarks/viewer.py [--tokens 16 64 128 256 512] [--bertviz-up-to 128] [--no-live] [--out docs]

Maps of 12 layers x 12 heads, causal, softmax of Gaussian scores with standard deviation 2. Measured are the size of the page,
the time to build it, the time until Chromium has drawn it (bertviz: until its first line stands in the page), the best of three,
and the script time of a change of head and of a hover, the median of eleven. bertviz needs 1 GB of page and 6 GB of memory at
512 tokens, so it stops at 128 unless told otherwise, and its pages above 64 tokens (100,000 lines at once) are not opened; what is opened is made by
`lt.bertviz`, as bertviz's own page stays blank without network.
"""

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)  # not the folder of this file

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "msedge")
DRAWN = {"explorer": "() => performance.getEntriesByName('explorer-drawn')[0]?.startTime",
         "bertviz": "() => document.querySelector('svg line') && performance.now()"}
OPENED_UP_TO = 64  # tokens of a bertviz page that a browser is asked to open; `lt.bertviz` refuses 128 (196,608 lines at once)
MEASURES = ("MB", "build s", "paint s")
SAID = {"MB": "page 页面, MB", "build s": "build 生成, s", "paint s": "first paint 首次绘制, s", "head ms": "head change 换头, ms",
        "hover ms": "hover 悬停, ms"}
# What the explorer promises: (tokens, measure, at most).
GOALS = [(128, "MB", 0.9), (512, "MB", 9), (128, "build s", 0.5), (512, "build s", 3), (128, "paint s", 0.5), (512, "paint s", 1.5),
         (512, "head ms", 16), (512, "hover ms", 16)]

# The script time of each head change and of each hover, in milliseconds.
CHANGES = """async () => {
    const select = document.getElementById("llmtutor").shadowRoot.querySelector("select.head"), times = [];
    for (let head = 1; head < 12; head++) {
        await new Promise(done => requestAnimationFrame(() => setTimeout(done)));  // the change before has been painted
        const start = performance.now();
        select.value = head;
        select.dispatchEvent(new Event("change"));
        times.push(performance.now() - start);
    }
    return times; }"""
HOVERS = """async () => {
    const canvas = document.getElementById("llmtutor").shadowRoot.querySelector(".overlay"), box = canvas.getBoundingClientRect();
    const frame = window.requestAnimationFrame, times = [];
    window.requestAnimationFrame = act => frame(() => { const start = performance.now(); act(); times.push(performance.now() - start); });
    for (let i = 0; i < 11; i++) {
        canvas.dispatchEvent(new PointerEvent("pointermove", {clientX: box.left + 200 + 8 * i, clientY: box.top + 300 + 20 * i}));
        await new Promise(done => frame(() => setTimeout(done)));
    }
    window.requestAnimationFrame = frame;
    return times; }"""


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


def opened(browser, page_text, kind, times=3):
    """What a page says of itself: seconds until it is drawn; of the explorer also milliseconds of a head change and of a hover."""
    if browser is None:
        return {}
    with tempfile.TemporaryDirectory() as folder:
        path, found = Path(folder) / "page.html", []
        path.write_text(page_text, encoding="utf-8")
        for _ in range(times):
            page = browser.new_page(viewport={"width": 1200, "height": 1000})
            page.goto(path.as_uri())
            found.append({"paint s": page.wait_for_function(DRAWN[kind], timeout=120_000).json_value() / 1000})
            if kind == "explorer":
                found[-1] |= {name: statistics.median(page.evaluate(script)) for name, script in (("head ms", CHANGES), ("hover ms", HOVERS))}
            page.close()
    return {name: min(one[name] for one in found) for name in found[0]}


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
    row = {"tokens": n, "explorer": {"MB": len(page.encode()) / 1e6, "build s": seconds} | opened(browser, page, "explorer")}
    if with_bertviz:
        page, seconds = best(lambda: build_bertviz(att), times=1)
        row["bertviz"] = {"MB": len(page) / 1e6, "build s": seconds}
        del page
        if n <= OPENED_UP_TO:
            row["bertviz"] |= opened(browser, lt.bertviz(att, max_mb=1000).html, "bertviz", times=1)
    return row


def live(n, n_layers, n_heads):
    """What `explore` sends at first, and for one head that is looked at, where all maps are too large for a page."""
    import llmtutor as lt
    from llmtutor import viewer

    att = attention(n, n_layers=n_layers, n_heads=n_heads)
    view, seconds = best(lambda: lt.explore(att), times=1)
    (packed, _), head = best(lambda: viewer.pack(att.weights[:1, :1], 255, causal=True))
    row = {"tokens": n, "heads": n_layers * n_heads, "fetched": bool(view._sheet.get("lazy")), "sent MB": len(view._packed) / 1e6,
           "build s": seconds, "one head MB": len(packed) / 1e6, "one head s": head}
    view.close()
    return row


def verdicts(rows):
    """Each goal with what was measured: (tokens, measure, at most, measured or None, met)."""
    found = {row["tokens"]: row["explorer"] for row in rows}
    values = [found.get(n, {}).get(name) for n, name, _ in GOALS]
    return [(*goal, value, value is not None and value <= goal[2]) for goal, value in zip(GOALS, values)]


def cell(value):
    """A number for the table; what was not measured is a dash."""
    return "–" if value is None else f"{value:.0f}" if value >= 100 else f"{value:.2f}"


def ratio(row, name):
    """How many times more bertviz needs."""
    ours, theirs = row["explorer"].get(name), row.get("bertviz", {}).get(name)
    return "–" if not theirs or not ours else f"{theirs / ours:.0f} x"


def report(rows, lives):
    """The tables as Markdown, in both languages."""
    lines = ["# The explorer against bertviz / 注意力浏览器与 bertviz 对比", "", "Made by `python course.py bench viewer`; do not edit by hand. "
             "/ 由该命令生成，请勿手改。", "",
             "12 layers x 12 heads, causal, softmax of Gaussian scores with standard deviation 2; one run, one machine, one thread of "
             "Python, headless Chromium. The explorer keeps a weight as one byte (no weight is off by more than 0.004), bertviz as decimal text.",
             "", "12 层 × 12 头，因果掩码，标准差为 2 的高斯分数取 softmax；同一次运行、同一台机器，Python 单线程，无界面 Chromium。"
             "本浏览器每个权重存一个字节（误差不超过 0.004），bertviz 存为十进制文本。", "",
             "| tokens 词元 | MB | bertviz | ratio 比 | build 生成, s | bertviz | ratio 比 | first paint 首次绘制, s | bertviz | ratio 比 "
             "| head change 换头, ms | hover 悬停, ms |", "|---" * 12 + "|"]
    for row in rows:
        cells = [str(row["tokens"])]
        for name in MEASURES:
            cells += [cell(row["explorer"].get(name)), cell(row.get("bertviz", {}).get(name)), ratio(row, name)]
        lines.append("| " + " | ".join([*cells, *(cell(row["explorer"].get(name)) for name in ("head ms", "hover ms"))]) + " |")
    lines += ["", "| goal 目标 | tokens 词元 | at most 至多 | measured 实测 | met 达到 |", "|---" * 5 + "|"]
    lines += [f"| {SAID[name]} | {n} | {most} | {cell(value)} | {'–' if value is None else 'yes / 是' if met else 'NO / 否'} |"
              for n, name, most, value, met in verdicts(rows)]
    if lives:
        lines += ["", "Larger maps in a live notebook: where all would be too large for a page, heads are fetched when they are looked at. / "
                  "更大的图：整页放不下时，看哪个头，就取哪个头。", "",
                  "| tokens 词元 | heads 头 | fetched 按需 | sent first 首发, MB | made 生成, s | one head 单头, MB | one head, s |", "|---" * 7 + "|"]
    for one in lives:
        numbers = (one[name] for name in ("sent MB", "build s", "one head MB", "one head s"))
        lines.append(f"| {one['tokens']:,} | {one['heads']} | {'yes / 是' if one['fetched'] else 'no / 否'} | " + " | ".join(map(cell, numbers)) + " |")
    return "\n".join(lines) + "\n"


def main(words=None):
    """Measure, print the table and write it as Markdown and JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, nargs="+", default=[16, 64, 128, 256, 512])
    parser.add_argument("--bertviz-up-to", type=int, default=128, metavar="N",
                        help="more tokens are not given to bertviz (512: 1 GB, 6 GB of memory)")
    parser.add_argument("--no-live", action="store_true", help="leave out 1,024 and 2,048 tokens")
    parser.add_argument("--out", type=Path, default=ROOT / "docs", help="folder for the two files (default: docs)")
    options = parser.parse_args(words)
    options.out.mkdir(parents=True, exist_ok=True)
    executable = os.environ.get("LLMTUTOR_CHROMIUM") or next((path for name in NAMES if (path := shutil.which(name))), None)
    from playwright.sync_api import sync_playwright

    import torch

    torch.set_num_threads(1)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox", "--disable-gpu"]) if executable else None
        rows = []
        for n in options.tokens:
            rows.append(measure(n, browser, n <= options.bertviz_up_to))
            print(rows[-1], flush=True)
    lives = [] if options.no_live else [live(1024, 12, 12), live(2048, 1, 4)]
    text = report(rows, lives)
    (options.out / "viewer-benchmark.md").write_text(text, encoding="utf-8")
    (options.out / "viewer-benchmark.json").write_text(json.dumps({"pages": rows, "live": lives}, indent=1) + "\n", encoding="utf-8")
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
