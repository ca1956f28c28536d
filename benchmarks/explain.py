"""The scoreboard of explanation methods: `python course.py bench explain` trains the twins and writes docs/explain-scoreboard.*.

    python benchmarks/explain.py [--seeds 5] [--texts 100]

For each seed an honest and a deceptive twin are trained from the same first weights (see llmtutor.explain.twins), and every
method is asked, on new texts, which word matters most. Beside them stand a random choice and the untrained copy.
"""

import argparse
import json
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)  # this file is called explain.py, too

MODELS = ("honest", "deceptive", "untrained")


def measure(seeds, n_texts):
    """Train and score for each seed; yields the list of runs after each, so that an interrupted run leaves what it has."""
    from llmtutor import explain

    runs = []
    for seed in range(seeds):
        start = time.monotonic()
        twins = explain.train_twins(seed)
        trained = time.monotonic() - start
        run = {"seed": seed, "accuracy": {name: round(twins[name].accuracy, 4) for name in MODELS},
               "attention_on_key": {name: round(twins[name].on_key, 4) for name in MODELS},
               "hits": {name: explain.score_methods(twins[name], n_texts, seed) for name in MODELS},
               "seconds": {"training": round(trained), "scoring": round(time.monotonic() - start - trained)}}
        runs.append(run)
        print(f"seed {seed}: {twins['honest']}, {twins['deceptive']}, {run['seconds']}", flush=True)
        yield runs


def cell(values):
    """Mean and range of the seeds: `0.95 (0.90-1.00)`."""
    return f"{sum(values) / len(values):.2f} ({min(values):.2f}-{max(values):.2f})"


def board(runs, n_texts):
    """The scoreboard as Markdown."""
    methods = list(runs[0]["hits"]["honest"])
    lines = [
        "# Scoreboard of explanation methods", "",
        "Made by `python course.py bench explain`; do not edit by hand.", "",
        "In each text one planted word decides the answer. Share of texts in which a method gives its largest score to that "
        f"word: mean and range over {len(runs)} seeds, {n_texts} texts each, 15 words a text. The deceptive twin answers as well as "
        "the honest one, and was trained never to look at the word from the place of the answer. The untrained copy knows nothing: "
        "what scores high there sees the place or the look of a word, not its use.", "",
        "在每段文本中，只有一个植入的词决定答案。表中为各方法把最高分给予该词的比例：" f"{len(runs)} 个随机种子的均值与范围，每个种子 {n_texts} 段文本，"
        "每段 15 个词。“欺骗”模型与“诚实”模型同样准确，但训练时禁止从作答位置看这个词。未训练的模型什么也不知道：若某方法在它上面得分也高，"
        "说明该方法反映的只是词的位置或外形，而不是词的作用。", "",
        "| method 方法 | honest 诚实 | deceptive 欺骗 | untrained 未训练 |", "|---|---|---|---|"]
    lines += ["| " + " | ".join([method, *(cell([run["hits"][name][method] for run in runs]) for name in MODELS)]) + " |"
              for method in methods]
    for title, key in (("*accuracy 准确率*", "accuracy"), ("*attention on the word 对该词的注意力*", "attention_on_key")):
        lines.append("| " + " | ".join([title, *(cell([run[key][name] for run in runs]) for name in MODELS)]) + " |")
    return "\n".join(lines) + "\n"


def main(words=None):
    """Measure, print the scoreboard and write it as Markdown and JSON."""
    import torch
    import transformers

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--texts", type=int, default=100, help="new texts for each seed")
    parser.add_argument("--out", type=Path, default=ROOT / "docs", help="folder for the two files (default: docs)")
    options = parser.parse_args(words)
    torch.set_num_threads(1)  # with more threads sums run in another order, and numbers differ a little
    about = {"torch": torch.__version__, "transformers": transformers.__version__, "texts": options.texts}
    for runs in measure(options.seeds, options.texts):
        text = board(runs, options.texts)
        (options.out / "explain-scoreboard.md").write_text(text, encoding="utf-8")
        result = json.dumps({"about": about, "runs": runs}, indent=1)
        (options.out / "explain-scoreboard.json").write_text(result + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
