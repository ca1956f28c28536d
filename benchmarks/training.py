"""How fast the course's own GPT trains beside the library's: `python course.py bench training`, tokens a second in one run.

    python benchmarks/training.py [--steps 8] [--rounds 7] [--nanogpt PATH]

All models have the same shape (4 layers, width 128, 4 heads, vocabulary 2,048) and read the same batches (32 x 128 tokens); a step is
forward, loss, backward and AdamW in float32. Rounds take turns, so that a busy machine slows all alike; the ratio of a round is
compared with the other ratios, not the speed of one minute with that of another. The course's GPT is the one of notebook 03, with
that notebook's `lean_loss`, which never holds a table of all logits, and `attention_by_halves`, which leaves out half of what the mask
throws away; what each brings is seen beside the same GPT without it. The others have their own loss and attention.

`--nanogpt PATH` names a checkout of nanoGPT (the folder that holds its model.py); nothing of it is contained here. Its model is
measured, but no ratio is asked of it: more than half of its step are the same matrix products as in ours, and what ours gains comes
mostly from memory that need not be fetched again, which depends on the machine and its C library.
"""
import argparse
import functools
import importlib.util
import json
import runpy
import statistics
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

SHAPE = {"vocabulary": 2048, "layers": 4, "heads": 4, "width": 128, "context": 128}
BATCH, LENGTH = 32, 128
PLAIN_LOSS, PLAIN_ATTENTION = "course, PyTorch's loss", "course, all scores"
WANTED = {"transformers GPT-2": 1.2}                     # the course's GPT reaches at least this times the speed of that one


@functools.cache
def chapter():
    """What notebook 03 defines: the GPT, both ways to attend, both losses."""
    code = runpy.run_path(str(ROOT / "tools" / "results" / "03.py"))
    notebook = json.loads((ROOT / "notebooks" / "en" / "03-pretraining.ipynb").read_text(encoding="utf-8"))
    for cell in notebook["cells"]:
        if cell["id"] in ("lean-piece", "lean-head", "lean-loss", "halves", "halves-switch"):
            exec(compile("".join(cell["source"]), cell["id"], "exec"), code)
    return code


def course(shape, loss="lean_loss", attention="attention_by_halves"):
    """The GPT of notebook 03 with one of its two ways to attend, and one of its two losses, a function of (model, rows)."""
    code = chapter()
    model = code["GPT"](shape["vocabulary"], shape["layers"], shape["heads"], shape["width"], shape["context"])
    code["switch"](model, code[attention])
    return model, code[loss]


def library(shape):
    """The GPT-2 class of transformers in the same shape, with its own loss, without dropout, with fused attention."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(vocab_size=shape["vocabulary"], n_layer=shape["layers"], n_head=shape["heads"], n_embd=shape["width"],
                        n_positions=shape["context"], resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, tie_word_embeddings=False,
                        attn_implementation="sdpa", bos_token_id=0, eos_token_id=0)
    model = GPT2LMHeadModel(config)
    model.loss_type = "ForCausalLM"                      # the class does not say so, and the library would warn
    return model, lambda model, rows: model(rows[:, :-1], labels=rows[:, :-1]).loss


def nanogpt(shape, path):
    """The model of a nanoGPT checkout in the same shape, with its own loss.

    Raises:
        FileNotFoundError: There is no model.py in `path`.
    """
    file = Path(path) / "model.py"
    if not file.is_file():
        raise FileNotFoundError(f"--nanogpt wants a checkout of nanoGPT, the folder that holds model.py; there is none in {path}")
    spec = importlib.util.spec_from_file_location("nanogpt_model", file)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module                      # its dataclass looks itself up there
    spec.loader.exec_module(module)
    config = module.GPTConfig(block_size=shape["context"], vocab_size=shape["vocabulary"], n_layer=shape["layers"], n_head=shape["heads"],
                              n_embd=shape["width"], dropout=0.0, bias=True)
    return module.GPT(config), lambda model, rows: model(rows[:, :-1], rows[:, 1:].contiguous())[1]


def models(shape, path=None):
    """All models by name, each as (model, loss, optimizer), with equal optimizers."""
    import torch

    torch.manual_seed(0)
    found = {"course": course(shape), PLAIN_LOSS: course(shape, loss="next_token_loss"), PLAIN_ATTENTION: course(shape, attention="attention"),
             "transformers GPT-2": library(shape)}
    if path:
        found["nanoGPT"] = nanogpt(shape, path)
    return {name: (model.train(), loss, torch.optim.AdamW(model.parameters(), lr=1e-3)) for name, (model, loss) in found.items()}


def attention_seconds(shape, batch=BATCH, length=LENGTH, repeats=60):
    """Seconds of attention alone in one layer, forward and backward: the least of `repeats` calls, by name, the library's among them."""
    import torch
    from torch.nn.functional import scaled_dot_product_attention

    code, n = chapter(), batch * shape["heads"]
    mask = torch.zeros(length, length).masked_fill(torch.ones(length, length).triu(1).bool(), -torch.inf)
    q, k, v, above = torch.randn(4, n, length, shape["width"] // shape["heads"], generator=torch.Generator().manual_seed(0))
    ways = {name: lambda *qkv, how=code[name]: how(*qkv, mask) for name in ("attention", "attention_by_halves")}
    ways["scaled_dot_product_attention"] = lambda *qkv: scaled_dot_product_attention(*(x[None] for x in qkv), is_causal=True)[0]
    found = dict.fromkeys(ways, float("inf"))
    for _ in range(repeats):
        for name, way in ways.items():
            parts = [x.clone().requires_grad_() for x in (q, k, v)]
            start = time.perf_counter()
            way(*parts).backward(above)
            found[name] = min(found[name], time.perf_counter() - start)
    return found


def parameters(model):
    return sum(p.numel() for p in model.parameters())


def seconds(model, loss, adam, batches):
    """Wall time of one training step for each batch, and the last loss."""
    start = time.perf_counter()
    for rows in batches:
        adam.zero_grad(set_to_none=True)
        value = loss(model, rows)
        value.backward()
        adam.step()
    return time.perf_counter() - start, value.item()


def measure(found, steps, rounds, batch=BATCH, length=LENGTH, vocabulary=SHAPE["vocabulary"]):
    """Tokens a second of every model in every round; within a round the models take turns, in an order that alternates.

    Returns:
        Dict from name to a list of speeds, one a round.
    """
    import torch

    generator = torch.Generator().manual_seed(0)
    batches = [torch.randint(vocabulary, (batch, length + 1), generator=generator) for _ in range(steps)]
    for model, loss, adam in found.values():             # allocations and first-time choices are not what we measure
        seconds(model, loss, adam, batches[:2])
    speeds = {name: [] for name in found}
    for round_ in range(rounds):
        for name in list(found) if round_ % 2 == 0 else reversed(list(found)):
            speeds[name].append(steps * batch * length / seconds(*found[name], batches)[0])
    return speeds


def ratios(speeds, name="course"):
    """For every other model: the median, least and largest ratio of `name`'s speed to its speed in the same round."""
    found = {}
    for other in speeds:
        if other != name:
            each = [a / b for a, b in zip(speeds[name], speeds[other], strict=True)]
            found[other] = (statistics.median(each), min(each), max(each))
    return found


def report(speeds, counts):
    """The table that is printed."""
    lines = [f"{name:22} {statistics.median(each):9,.0f} tokens/s   {counts[name]:,} parameters" for name, each in speeds.items()]
    for other, (middle, least, largest) in ratios(speeds).items():
        verdict = f", {WANTED[other]} wanted: {'reached' if middle >= WANTED[other] else 'NOT reached'}" if other in WANTED else ""
        lines.append(f"course / {other}: {middle:.2f} ({least:.2f} to {largest:.2f} over the rounds){verdict}")
    return "\n".join(lines)


def main(words=None):
    """Measure and print; returns 1 when the ratio that is wanted was not reached."""
    import torch

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=8, help="training steps in each round (default 8)")
    parser.add_argument("--rounds", type=int, default=7, help="rounds (default 7)")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default 2)")
    parser.add_argument("--nanogpt", metavar="PATH", help="a checkout of nanoGPT, measured, too")
    options = parser.parse_args(words)
    torch.set_num_threads(options.threads)
    found = models(SHAPE, options.nanogpt)
    print(f"{options.threads} threads, torch {torch.__version__}, {options.rounds} rounds of {options.steps} steps of {BATCH} x {LENGTH} tokens")
    speeds = measure(found, options.steps, options.rounds)
    for name, least in attention_seconds(SHAPE).items():
        print(f"attention alone, one layer, forward and backward, {name}: {1000 * least:.1f} ms")
    print(report(speeds, {name: parameters(model) for name, (model, _, _) in found.items()}))
    return int(any(ratios(speeds)[other][0] < least for other, least in WANTED.items()))


if __name__ == "__main__":
    sys.path[0] = str(ROOT)                              # instead of this folder, whose files are named like other modules
    sys.exit(main())
