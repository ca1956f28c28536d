"""Tokens a second of several ways to write the same text: `python course.py bench generation` writes docs/generation.md and .json.

    python benchmarks/generation.py [--tokens 120] [--repeats 5] [--threads N]

One text at a time, greedy, with story-gpt. The ways "own" are those of notebook 05, run from its cells: with and without its cache, and
speculative with story-gpt-mini as the draft. Beside them stand the library's `generate`, its assisted generation with the same draft, and
a bare loop over the library's model with the library's cache. The ways take turns, so that a busy moment of the machine hits all of them.
"""

import argparse
import json
import platform
import statistics
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:1] = [str(ROOT), str(ROOT / "tools")]

PROMPTS = ["The weather is nice today", "今天天气真好", "One day, Tom and Lily", "有一天，汤姆和莉莉"]
CELLS = ("held", "forward", "plain", "spec")
WAYS = {
    "generate": "library: `generate`, cached / 库：`generate`，有缓存",
    "bare": "library's model and cache in a bare loop / 库的模型与缓存，最简循环",
    "own": "own loop with own cache / 自写循环与缓存",
    "uncached": "own loop without a cache / 自写循环，无缓存",
    "speculative": "own speculative, draft story-gpt-mini / 自写推测解码",
    "assisted": "library: `generate` with the draft as assistant / 库：带草稿的 `generate`",
}


def ways(n_new):
    """The six functions from a list of token numbers to the longer list, and the acceptance count of the own speculation."""
    import nbfile
    import torch

    import llmtutor as lt

    model, draft = lt.load("story-gpt").model, lt.load("story-gpt-mini").model
    notebook = nbfile.read(ROOT / "notebooks" / "en" / "05-generation.ipynb")
    space = {"torch": torch, "model": model, "draft": draft}
    for cell in notebook["cells"]:
        if cell["id"] in CELLS:
            exec(cell["source"], space)
    stood = []

    def library(ids, **options):
        rows = torch.tensor([ids])  # no end token, because the own loops do not stop either
        return model.generate(rows, attention_mask=torch.ones_like(rows), do_sample=False, max_new_tokens=n_new, eos_token_id=None,
                              pad_token_id=0, **options)[0].tolist()

    @torch.no_grad()
    def bare(ids):
        text, cache = list(ids), None
        for _ in range(n_new):
            new = torch.tensor([text if cache is None else text[-1:]])
            out = model(new, past_key_values=cache, use_cache=True, attention_mask=torch.ones(1, len(text), dtype=torch.long))
            cache = out.past_key_values
            text.append(int(out.logits[0, -1].argmax()))
        return text

    def uncached(ids):
        text = list(ids)
        for _ in range(n_new):
            text.append(int(space["forward"](torch.tensor([text]), {}, model)[0, -1].argmax()))
        return text

    def speculative(ids):
        text, numbers = space["speculate"](ids, n_new)
        stood.extend(numbers)
        return text

    return {"generate": library, "bare": bare, "own": lambda ids: space["plain"](ids, n_new), "uncached": uncached,
            "speculative": speculative, "assisted": lambda ids: library(ids, assistant_model=draft)}, stood


def measure(n_new, repeats):
    """Seconds of each way for each repeat over all prompts, whether all wrote the same, and how many guesses stood a pass."""
    import llmtutor as lt

    functions, stood = ways(n_new)
    tokenizer = lt.load("story-gpt").tokenizer
    prompts = [tokenizer.encode(prompt) for prompt in PROMPTS]
    wanted = [functions["generate"](ids) for ids in prompts]
    same = {name: [write(ids) for ids in prompts] == wanted for name, write in functions.items()}  # also warms up
    seconds = {name: [] for name in functions}
    for _ in range(repeats):
        for name, write in functions.items():
            start = time.perf_counter()
            for ids in prompts:
                write(ids)
            seconds[name].append(time.perf_counter() - start)
    return seconds, same, stood


def report(seconds, same, stood, n_new, about):
    """The table as Markdown: tokens a second (median and range), and the ratio to `generate` of the same repeat."""
    total = n_new * len(PROMPTS)
    lines = ["# Speed of generation", "", "Made by `python course.py bench generation`; do not edit by hand.", "",
             f"{about['parameters']:,} parameters, {len(PROMPTS)} prompts, {n_new} new tokens each, one text at a time, greedy; {about['threads']} thread(s), "
             f"{about['repeats']} repeats, in turn. Ratio: to `generate` in the same repeat; median and range.", "",
             f"{about['parameters']:,} 个参数，{len(PROMPTS)} 个提示词，各写 {n_new} 个词元，一次一段，贪心；{about['threads']} 线程，轮流重复 {about['repeats']} 次。"
             "比值是与同一轮 `generate` 相比；只列中位数与范围。", "",
             "| way 方式 | tokens/s: median (range) 中位数（范围） | ratio to `generate` 与之比 | same text 文本相同 |", "|---|---|---|---|"]
    for name, took in seconds.items():
        speed = sorted(total / s for s in took)
        ratio = sorted(base / s for base, s in zip(seconds["generate"], took, strict=True))
        lines.append(f"| {WAYS[name]} | {statistics.median(speed):.0f} ({speed[0]:.0f}-{speed[-1]:.0f}) | {statistics.median(ratio):.2f} "
                     f"({ratio[0]:.2f}-{ratio[-1]:.2f}) | {'yes 是' if same[name] else 'no 否'} |")
    rate = sum(stood) / (4 * len(stood))
    lines += ["", f"Own speculation, four guesses ahead: {rate:.0%} of the guesses stood, {sum(stood) / len(stood) + 1:.2f} tokens for each pass of the large model.",
              f"自写推测解码，每次猜四个：{rate:.0%} 的猜测留下，大模型每读一次得到 {sum(stood) / len(stood) + 1:.2f} 个词元。"]
    return "\n".join(lines) + "\n"


def main(words=None):
    """Measure, print the table and write it as Markdown and JSON."""
    import torch
    import transformers

    import llmtutor as lt

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=120, help="new tokens for each prompt (at most about 240)")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, default=ROOT / "docs", help="folder for the two files (default: docs)")
    options = parser.parse_args(words)
    if options.tokens < 1 or options.repeats < 1:
        parser.error("--tokens and --repeats must be at least 1")
    torch.set_num_threads(options.threads)
    about = {"torch": torch.__version__.split("+")[0], "transformers": transformers.__version__, "python": platform.python_version(),
             "threads": options.threads, "repeats": options.repeats, "tokens": options.tokens, "parameters": lt.load("story-gpt").info.n_params}
    seconds, same, stood = measure(options.tokens, options.repeats)
    text = report(seconds, same, stood, options.tokens, about)
    (options.out / "generation.md").write_text(text, encoding="utf-8")
    result = {"about": about, "seconds": seconds, "same": same, "guesses_that_stood": stood[:len(stood) // (options.repeats + 1)]}
    (options.out / "generation.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
