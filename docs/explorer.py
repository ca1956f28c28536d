"""Make the screenshots of the explorer: `python docs/explorer.py`. Needs Chromium and `pip install llmtutor[browser-tests]`.

Six states: each language in each theme, several heads with the attention sink hidden, and a narrow window. The head
shown is the one whose last token looks most at one that is neither itself nor the first.
"""
import shutil
import tempfile
from pathlib import Path

import numpy as np
from playwright.sync_api import sync_playwright

import llmtutor as lt
from llmtutor import viewer

ENGLISH = "One day, Lily and Tom went to the park. Tom had a red ball. He gave it to Lily"
CHINESE = "有一天，莉莉和汤姆去了公园。汤姆有一个红球。他把球给了莉莉"
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "msedge")
# name -> text, theme, width of the window, what is shown
PICTURES = {
    "explorer-en-light": (ENGLISH, "light", 1200, {"mode": "matrix"}),
    "explorer-en-dark": (ENGLISH, "dark", 1200, {"mode": "lines"}),
    "explorer-zh-light": (CHINESE, "light", 1200, {"mode": "lines"}),
    "explorer-zh-dark": (CHINESE, "dark", 1200, {"mode": "matrix"}),
    "explorer-several-heads": (ENGLISH, "light", 1200, {"mode": "matrix", "heads": "all", "hide": "first"}),
    "explorer-narrow": (CHINESE, "light", 600, {"mode": "text"}),
}


def main():
    lm = lt.load("story-gpt")
    maps = {text: lt.attend(lm, text) for text in (ENGLISH, CHINESE)}
    executable = next(path for name in NAMES if (path := shutil.which(name)))
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox", "--disable-gpu"])
        for name, (text, theme, width, shown) in PICTURES.items():
            att, page_path = maps[text], Path(folder) / f"{name}.html"
            layer, head = (int(i) for i in np.unravel_index(att.weights[:, :, -1, 1:-1].max(-1).argmax(), att.stored.shape[:2]))
            heads = att.heads if shown.get("heads") == "all" else [att.heads[head]]
            page_path.write_text(viewer.html(att, layer=att.layers[layer], heads=heads, mode=shown["mode"]), encoding="utf-8")
            page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=theme)
            page.goto(page_path.as_uri())
            page.locator(".token.active").first.wait_for()
            if "hide" in shown:
                page.locator("select").filter(has=page.locator("option[value=first]")).select_option(shown["hide"])
            page.screenshot(path=Path(__file__).with_name(f"{name}.png"), full_page=True)
            page.close()
        browser.close()


if __name__ == "__main__":
    main()
