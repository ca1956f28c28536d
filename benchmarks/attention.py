"""Time and memory of attention maps, beside the plain forward pass and the library's own way: `python course.py bench attention`.

    python benchmarks/attention.py [--repeats 5] [--threads 2] [--write]

A model of the shape of GPT-2 small without vocabulary head (12 layers x 12 heads, width 768, random weights) reads a text. Each
case runs in a process of its own, because only so its peak of memory is its own: first the model and a short warm-up, then the
case, timed several times, of which the fastest counts. Memory is what the peak adds to the loaded model, result included.
With `--write` the table goes to docs/attention-benchmark.md.
"""

import argparse
import gc
import importlib.util
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)  # this file is called attention.py, too
REPORT = ROOT / "docs" / "attention-benchmark.md"
MIB = 2**20

# name -> (tokens, function of the model, what it is in English and Chinese)
CASES = {
    "forward": (1024, "plain fused forward pass, no maps", "普通前向计算，不取注意力图"),
    "all": (1024, 'attend, all 144 maps, store="uint8"', "attend，全部 144 张图，每个权重一字节"),
    "exact": (1024, 'attend, all 144 maps, store="float32"', "attend，全部 144 张图，float32"),
    "one layer": (1024, "attend, the 12 maps of one layer, float32", "attend，一层的 12 张图，float32"),
    "eager": (1024, "the library's own: eager, output_attentions=True", "transformers 自带：eager，output_attentions=True"),
    "transformer_lens": (1024, "TransformerLens, run_with_cache of the patterns", "TransformerLens，run_with_cache 只存注意力"),
    "long forward": (4096, "plain fused forward pass, no maps", "普通前向计算，不取注意力图"),
    "long": (4096, 'attend, heads 0 and 1 of every layer, store="uint8"', "attend，每层的第 0、1 头，每个权重一字节"),
}
# case -> (beside which, at most so many times its time, at most so many MiB)
GOALS = {"all": ("forward", 1.6, 350), "one layer": ("forward", 1.15, None), "long": ("long forward", None, 2048)}


# --- one case, in a process of its own ------------------------------------------------------------------------------


def random_model():
    """A model of the shape of GPT-2 small with random weights, and a tokenizer."""
    from types import SimpleNamespace

    import torch
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(ROOT / "llmtutor" / "bundled" / "story-gpt")
    config = transformers.GPT2Config(vocab_size=len(tokenizer), n_positions=4096, bos_token_id=None, eos_token_id=None)
    torch.manual_seed(0)
    return SimpleNamespace(model=transformers.GPT2Model(config).eval(), tokenizer=tokenizer)


def text_of(tokenizer, n_tokens):
    """A text of exactly so many tokens, from stories put together."""
    from llmtutor import storyworld

    text = " ".join(storyworld.story(seed, "en").text for seed in range(n_tokens // 40))
    for _, end in tokenizer(text, return_offsets_mapping=True)["offset_mapping"][n_tokens - 1:]:
        if len(tokenizer(text[:end])["input_ids"]) == n_tokens:  # cut where the last token stays what it is
            return text[:end]
    raise ValueError(f"the stories cannot be cut to {n_tokens} tokens")


def work(case, lm, text):
    """A function that does the case once and returns its result."""
    import torch

    import llmtutor as lt

    ids = torch.tensor([lm.tokenizer(text)["input_ids"]])
    if case == "transformer_lens":
        return lens(lm, ids)
    if case == "eager":
        lm.model.set_attn_implementation("eager")

    def library(**options):
        with torch.no_grad():
            out = lm.model(ids, use_cache=False, **options)
        return out.attentions if options else out.last_hidden_state

    return {"forward": library, "long forward": library, "eager": lambda: library(output_attentions=True),
            "all": lambda: lt.attend(lm, text, store="uint8"), "exact": lambda: lt.attend(lm, text),
            "one layer": lambda: lt.attend(lm, text, layers=[5]),
            "long": lambda: lt.attend(lm, text, heads=[0, 1], store="uint8")}[case]


def lens(lm, ids):
    """The same shape in TransformerLens, with the patterns of all layers cached."""
    from transformer_lens import HookedTransformer, HookedTransformerConfig

    sizes = HookedTransformerConfig(n_layers=12, n_heads=12, d_model=768, d_head=64, d_mlp=3072, n_ctx=1024, act_fn="gelu_new",
                                    d_vocab=len(lm.tokenizer), normalization_type="LN")
    lm.model, model = None, HookedTransformer(sizes).eval()
    return lambda: model.run_with_cache(ids, names_filter=lambda name: name.endswith("hook_pattern"), return_type=None)[1]


class Peak:
    """The largest memory of this process while a block runs, in MiB above what it was at its start."""

    def __enter__(self):
        gc.collect()
        self.start, self.largest, self.done = resident(), 0, threading.Event()
        # Linux can reset its own high-water mark, which misses nothing; elsewhere look every 2 ms.
        self.exact = reset_high_water()
        self.thread = None if self.exact else threading.Thread(target=self._look, daemon=True)
        if self.thread:
            self.thread.start()
        return self

    def _look(self):
        while not self.done.wait(0.002):
            self.largest = max(self.largest, resident())

    def __exit__(self, *_):
        self.done.set()
        if self.thread:
            self.thread.join()
        largest = status("VmHWM") if self.exact else max(self.largest, resident())
        self.mib = (largest - self.start) / MIB


def status(field):
    """A size from /proc/self/status, in bytes."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field + ":"))
    return int(line.split()[1]) * 1024


def reset_high_water():
    """Set the high-water mark of this process back; False where the system does not let it."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return status("VmHWM") <= resident() + 4 * MIB


def resident():
    """Memory of this process now, in bytes."""
    if Path("/proc/self/status").exists():
        return status("VmRSS")
    import resource  # macOS: only the peak is told, in bytes

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def run_case(case, repeats, threads):
    """Measure one case: its memory in the first run, its time in the fastest of some more. Returns a dict of numbers."""
    import torch

    torch.set_num_threads(threads)
    lm = random_model()
    text = text_of(lm.tokenizer, CASES[case][0])
    if case != "transformer_lens":
        work(case, lm, text[:200])()  # code and buffers that the first call of all needs
    once = work(case, lm, text)
    with Peak() as peak:
        result = once()
    size = n_bytes(result)
    del result
    seconds, cpu = [], []
    for _ in range(repeats):
        start, used = time.perf_counter(), time.process_time()
        once()
        seconds.append(time.perf_counter() - start)
        cpu.append(time.process_time() - used)
    return {"seconds": min(seconds), "cpu": min(cpu), "mib": peak.mib, "result_mib": size / MIB}


def n_bytes(result):
    """The size of a result: an array or tensor, an `Attention`, a tuple of tensors, or a cache of them."""
    result = getattr(result, "stored", result)
    if hasattr(result, "nbytes"):
        return result.nbytes
    return sum(map(n_bytes, result if isinstance(result, tuple) else result.values()))


# --- all cases ------------------------------------------------------------------------------------------------------


def measure(cases, repeats, threads):
    """Run each case in a fresh process; yields (case, numbers)."""
    for case in cases:
        words = [sys.executable, str(Path(__file__).resolve()), "--case", case, "--repeats", str(repeats), "--threads", str(threads)]
        done = subprocess.run(words, capture_output=True, text=True, encoding="utf-8", cwd=ROOT,
                              env={**os.environ, "OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"})
        if done.returncode != 0:
            raise RuntimeError(f"the case {case!r} failed:\n{done.stderr[-2000:]}")
        yield case, json.loads(done.stdout.splitlines()[-1])


def beside(case):
    """The plain forward pass of as many tokens."""
    return "forward" if CASES[case][0] == 1024 else "long forward"


def verdicts(found):
    """For each goal (case, what was wanted, what came, whether it is met)."""
    for case, (base, times, mib) in GOALS.items():
        if case not in found or base not in found:
            continue
        if times is not None:
            ratio = found[case]["seconds"] / found[base]["seconds"]
            yield case, f"at most {times} x the time", f"{ratio:.2f} x", ratio <= times
        if mib is not None:
            yield case, f"at most {mib:,} MiB", f"{found[case]['mib']:,.0f} MiB", found[case]["mib"] <= mib


def row(case, numbers, found):
    """One line of the table."""
    tokens, english, chinese = CASES[case]
    base = found.get(beside(case))
    ratio, cpu = (f"{numbers[key] / base[key]:.2f} x" if base else "-" for key in ("seconds", "cpu"))
    return (f"| {english} / {chinese} | {tokens:,} | {numbers['seconds']:.2f} | {ratio} | {cpu} | {numbers['mib']:,.0f} | "
            f"{numbers['result_mib']:,.0f} |")


def report(found, repeats, threads):
    """The report as Markdown."""
    import torch
    import transformers

    lines = [
        "# Attention maps: time and memory / 注意力图：时间与内存", "",
        "Made by `python benchmarks/attention.py --write`; do not edit by hand. / 由该命令生成，请勿手改。", "",
        f"GPT-2-small shape (12 layers x 12 heads, width 768), no vocabulary head, random weights; {threads} CPU thread(s); torch "
        f"{torch.__version__}, transformers {transformers.__version__}. Each case in a process of its own; time: the fastest of {repeats}, and beside the "
        "plain forward pass (wall clock, processor time); memory: the peak above the loaded model, result included.", "",
        f"GPT-2 small 的形状（12 层 × 12 头，宽度 768），无词表输出层，随机权重；{threads} 个 CPU 线程。每种情形单独一个进程；时间取 {repeats} 次中最快的，"
        "并与普通前向计算相比（实际时间、处理器时间）；内存为超出已加载模型的峰值，包括结果本身。", "",
        "| case / 情形 | tokens 词元 | s 秒 | time 时间比 | processor 处理器 | MiB 内存 | result, MiB 结果 |", "|---|---|---|---|---|---|---|"]
    lines += [row(case, numbers, found) for case, numbers in found.items()]
    if "transformer_lens" not in found:
        lines += ["", "TransformerLens was not installed when this was made. / 生成本表时未安装 TransformerLens。"]
    lines += ["", "| goal / 目标 | wanted / 要求 | measured / 实测 | met / 达到 |", "|---|---|---|---|"]
    lines += [f"| {CASES[case][1]} | {wanted} | {came} | {'yes / 是' if met else 'NO / 否'} |" for case, wanted, came, met in verdicts(found)]
    return "\n".join(lines) + "\n"


def main(words=None):
    """Measure all cases, print the table; exit with 1 where a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5, help="runs of which the fastest counts")
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--case", choices=CASES, help="measure only this one, here, and print its numbers as JSON")
    parser.add_argument("--write", action="store_true", help=f"write {REPORT.relative_to(ROOT)}")
    options = parser.parse_args(words)
    if options.case:
        print(json.dumps(run_case(options.case, options.repeats, options.threads)))
        return 0
    cases = [case for case in CASES if case != "transformer_lens" or importlib.util.find_spec("transformer_lens")]
    found = {}
    for case, numbers in measure(cases, options.repeats, options.threads):
        found[case] = numbers
        print(row(case, numbers, found), flush=True)
    text = report(found, options.repeats, options.threads)
    print("\n" + text)
    if options.write:
        REPORT.write_text(text, encoding="utf-8")
    return int(not all(met for *_, met in verdicts(found)))


if __name__ == "__main__":
    sys.exit(main())
