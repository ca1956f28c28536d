"""The scaling law in miniature of notebook 03: four sizes, three seeds, the same text for all.

The parts between the lines of dashes stand word for word in the notebook (tests/test_chapter03.py compares them), so what is
stored here was made by the very model and loop that the chapter teaches.
"""
import math
import sys

import torch
from torch import nn
from torch.nn import functional as F
from tqdm.auto import tqdm

import llmtutor as lt

USES = [f"llmtutor/storyworld/{name}.py" for name in ("stories", "world", "grammar", "words", "dice")]
WIDTHS, SEEDS, STEPS, ROWS = (8, 16, 32, 64), (0, 1, 2), 200, 12

# -- corpus ---------------------------------------------------------------------------------------------------------------------
def tell(seeds):                                         # two-person stories, each in both languages
    return [lt.storyworld.short(seed, lang).text for seed in seeds for lang in ("en", "zh")]
# -- stream ---------------------------------------------------------------------------------------------------------------------
def join(documents, end):                                # lists of token numbers -> one long line of them
    joined = torch.tensor([i for ids in documents for i in [end, *ids]] + [end])
    used, stream = joined.unique(return_inverse=True)    # renumbered: 0 .. number of different tokens - 1
    starts = (joined == end).nonzero().flatten()         # every document begins behind an end
    return used, stream, starts
# -- batch ----------------------------------------------------------------------------------------------------------------------
def make_batch(stream, starts, step, size=24, length=128, seed=0):
    dice = torch.Generator().manual_seed(1000 * seed + step)
    starts = starts[starts < len(stream) - length]
    first = starts[torch.randint(len(starts), (size,), generator=dice)]
    return stream[first[:, None] + torch.arange(length + 1)]                       # [size, length + 1]
# -- attention ------------------------------------------------------------------------------------------------------------------
def attention(q, k, v, mask):                            # [batch * head, place, d_head] each, and [place, place]
    scores = torch.baddbmm(mask, q, k.mT, alpha=q.shape[-1] ** -0.5)               # mask + q k / root of d_head
    return scores.softmax(-1) @ v                        # [batch * head, place, d_head]
# -- block ----------------------------------------------------------------------------------------------------------------------
class Block(nn.Module):
    def __init__(self, d_model, n_heads):
        super().__init__()
        self.n_heads, self.attention = n_heads, attention
        self.norm1, self.norm2 = nn.LayerNorm(d_model), nn.LayerNorm(d_model)
        self.qkv, self.out = nn.Linear(d_model, 3 * d_model), nn.Linear(d_model, d_model)
        self.mlp = nn.Sequential(nn.Linear(d_model, 4 * d_model), nn.GELU(), nn.Linear(4 * d_model, d_model))

    def forward(self, x, mask):                          # [batch, place, d_model], the same shape out
        parts = self.qkv(self.norm1(x)).unflatten(-1, (3, self.n_heads, -1))       # [batch, place, 3, head, d_head]
        q, k, v = parts.permute(2, 0, 3, 1, 4).flatten(1, 2)                       # each [batch * head, place, d_head]
        mixed = self.attention(q, k, v, mask).unflatten(0, (len(x), -1))           # [batch, head, place, d_head]
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        return x + self.mlp(self.norm2(x))
# -- model ----------------------------------------------------------------------------------------------------------------------
class GPT(nn.Module):
    def __init__(self, d_vocab, n_layers=2, n_heads=4, d_model=64, context=128, causal=True):
        super().__init__()
        self.token, self.place = nn.Embedding(d_vocab, d_model), nn.Embedding(context, d_model)
        self.blocks = nn.ModuleList(Block(d_model, n_heads) for _ in range(n_layers))
        self.norm, self.head = nn.LayerNorm(d_model), nn.Linear(d_model, d_vocab, bias=False)
        nn.init.normal_(self.token.weight, std=0.02), nn.init.normal_(self.place.weight, std=0.02)
        later = torch.ones(context, context).triu(1).bool() & causal               # what comes later
        self.register_buffer("mask", torch.zeros(context, context).masked_fill(later, -torch.inf), persistent=False)

    def forward(self, ids, logits=True):                 # [batch, place] -> [batch, place, d_vocab]
        x = self.token(ids) + self.place.weight[: ids.shape[1]]
        for block in self.blocks:
            x = block(x, self.mask[: ids.shape[1], : ids.shape[1]])
        return self.head(self.norm(x)) if logits else self.norm(x)
# -- loss -----------------------------------------------------------------------------------------------------------------------
def next_token_loss(model, rows):                        # rows: [batch, place + 1]; -100 marks padding
    inputs, targets = rows[:, :-1].clamp(min=0), rows[:, 1:]
    return F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten(), ignore_index=-100)
# -- schedule -------------------------------------------------------------------------------------------------------------------
def schedule(step, steps, warmup=30):                    # a factor between 0 and 1
    if step < warmup:
        return step / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))
# -- train ----------------------------------------------------------------------------------------------------------------------
def train(model, batch, steps, lr, loss=next_token_loss, watch=lambda step, model: None):
    adam = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.98), weight_decay=0.01)
    curve, bar = [], tqdm(total=steps * batch(0).numel(), unit=" tokens", unit_scale=True)
    for step in range(steps):
        adam.param_groups[0]["lr"] = lr * schedule(step, steps)
        value = loss(model, rows := batch(step))         # one number: the mean over the batch
        adam.zero_grad()
        value.backward()                                 # the gradient of every parameter
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adam.step()
        curve.append(value.item())
        bar.set_postfix(loss=f"{curve[-1]:.2f}")
        bar.update(rows.numel())                         # the bar counts tokens, and tokens a second
        watch(step + 1, model)
    return curve
# -- pad ------------------------------------------------------------------------------------------------------------------------
def pad(documents, used, end):                           # one row a document, -100 behind its end
    rows = [torch.searchsorted(used, torch.tensor([end, *ids, end])) for ids in documents]
    return nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=-100)
# -------------------------------------------------------------------------------------------------------------------------------


def corpus(n_texts=4000, n_held_out=100):
    """The stream to learn from, where its documents start, the rows to measure on, and the number of different tokens."""
    tokenizer = lt.load("story-gpt").tokenizer
    end = tokenizer.eos_token_id
    used, stream, starts = join(tokenizer(tell(range(n_texts)))["input_ids"], end)
    return stream, starts, pad(tokenizer(tell(range(-1, -n_held_out - 1, -1)))["input_ids"], used, end), len(used)


def one(width, seed, stream, starts, rows, d_vocab, steps=STEPS):
    """Train one model and measure it: its parameters, its loss on held-out texts in nats a token, its last losses in training."""
    torch.manual_seed(seed)
    model = GPT(d_vocab, d_model=width)
    curve = train(model, lambda step: make_batch(stream, starts, step, ROWS, seed=seed), steps, 0.04 / width**0.5)
    with torch.no_grad():
        loss = next_token_loss(model, rows).item()
    return sum(p.numel() for p in model.parameters()), loss, sum(curve[-20:]) / 20


def compute(widths=WIDTHS, seeds=SEEDS, steps=STEPS, data=None):
    """All sizes and seeds. Returns what the notebook reads: one run a (width, seed), and what was trained on."""
    torch.set_num_threads(1)
    data = data or corpus()
    runs = []
    for width in widths:
        for seed in seeds:
            parameters, loss, last = one(width, seed, *data, steps)
            runs.append({"width": width, "seed": seed, "parameters": parameters, "loss": round(loss, 4), "last": round(last, 4)})
            print(runs[-1], file=sys.stderr, flush=True)
    return {"runs": runs, "steps": steps, "rows": ROWS, "tokens": steps * ROWS * 128, "d_vocab": data[3], "n_texts": len(data[1]) - 1}
