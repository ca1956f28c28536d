"""The README's code for one's own model runs as printed, against a hub on the loopback address, and is the same in both languages."""
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hub import serve

ROOT = Path(__file__).resolve().parent.parent
PAGES = {"README.md": "## Use it on your own model", "README.zh.md": "## 用在自己的模型上"}


def code(page):
    section = (ROOT / page).read_text(encoding="utf-8").split(PAGES[page])[1].split("\n## ")[0]
    return re.search(r"```python\n(.*?)```", section, re.S).group(1)


def bare(source):
    return [line.split("#")[0].rstrip() for line in source.splitlines()]


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory):
    """A tiny GPT-2 with the bundled tokenizer, as the hub would hold it."""
    from transformers import GPT2Config, GPT2LMHeadModel, GPT2Tokenizer
    folder = tmp_path_factory.mktemp("gpt2")
    tokenizer = GPT2Tokenizer.from_pretrained(ROOT / "llmtutor" / "bundled" / "story-gpt")
    tokenizer.save_pretrained(folder)
    GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), n_embd=16, n_layer=2, n_head=2, n_positions=128, bos_token_id=0,
                               eos_token_id=0)).save_pretrained(folder)
    return folder


def test_both_pages_hold_the_same_code():
    assert bare(code("README.md")) == bare(code("README.zh.md"))


def run(source, hub, folder):
    environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(folder), "PYTHONPATH": str(ROOT), "MPLBACKEND": "agg", "HF_HUB_OFFLINE": "0"}
    return subprocess.run([sys.executable, "-c", source], cwd=folder, env=environment, capture_output=True, text=True, encoding="utf-8", timeout=300)


def test_the_code_runs_as_printed(gpt2, tmp_path):
    with serve({"gpt2": gpt2}) as hub:
        done = run(code("README.md") + "\nprint(written.prompt_length, len(written.tokens))", hub, tmp_path)
        assert done.returncode == 0, done.stderr
        assert hub.requests and (tmp_path / "cat.npz").exists()
        assert "tired" in done.stdout and "→" in done.stdout
        start, length = map(int, done.stdout.split()[-2:])
        assert length == start + 5
        broken = run(code("README.md").replace("layers=[0, 1]", "layers=[0, 9]"), hub, tmp_path)
        assert broken.returncode == 1 and "9" in broken.stderr.splitlines()[-1]
