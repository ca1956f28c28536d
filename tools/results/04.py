"""What pretraining buys: `story-bert` with its pretrained and with fresh weights, 50, 200 and 1,000 labels, five seeds, equal steps.

The functions are those that notebook 04 teaches; `tests/test_chapter04.py` holds the two together.
"""

import random
import sys
from pathlib import Path

import numpy as np
import torch
import transformers
from torch import nn

from llmtutor import storyworld
from llmtutor.recipes import tasks

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "llmtutor" / "bundled" / "story-bert"
SIZES = {"tags": [50, 200, 1000], "reviews": [50, 200, 1000]}
SEEDS, STEPS, BATCH, TESTS = (0, 1, 2, 3, 4), 100, 8, 200
TYPES = ("", "person", "place", "container", "food", "thing")


def tagged(count, seed, tokenizer, names="seen"):
    """Sentences with the entity type of each token (-100 at the tokens that are no text), as (ids, tags)."""
    rows = []
    for text in tasks.sentences("en", count, seed, names=names):
        encoding = tokenizer(text.text, return_offsets_mapping=True)
        inside = {place: TYPES.index(kind) for start, end, kind in text.entities for place in range(start, end)}
        tags = [inside.get(end - 1, 0) if end else -100 for _, end in encoding["offset_mapping"]]
        rows.append((encoding["input_ids"], tags))
    return rows


def reviews(count, seed, tokenizer):
    """Reviews without a word for a feeling, and whether they are good (1) or bad (0), as (ids, label)."""
    rows, step = [], 1 if seed > 0 else -1
    while len(rows) < count:
        text = storyworld.text(seed, kind="review")
        if text.sentiment and not text.explicit:
            rows.append((tokenizer(text.text)["input_ids"], int(text.sentiment == "good")))
        seed += step
    return rows


class Tuned(nn.Module):
    """An encoder with a new linear head, on every token (`pool=False`) or on the mean of all tokens (`pool=True`)."""

    def __init__(self, encoder, classes, pool=False):
        super().__init__()
        self.encoder, self.pool = encoder, pool
        self.head = nn.Linear(encoder.config.hidden_size, classes)

    def forward(self, ids, mask):
        hidden = self.encoder(input_ids=ids, attention_mask=mask).last_hidden_state
        if self.pool:
            hidden = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        return self.head(hidden)


def fresh(seed, classes, pool=False, pretrained=True, folder=FOLDER):
    """A new head, drawn from the seed, on the pretrained encoder, or on one whose weights are drawn anew, too."""
    torch.manual_seed(seed)
    if pretrained:
        level = transformers.logging.get_verbosity()
        transformers.logging.set_verbosity_error()  # says that the head of pretraining is left out, which is meant
        encoder = transformers.AutoModel.from_pretrained(folder, dtype=torch.float32)
        transformers.logging.set_verbosity(level)
    else:
        encoder = transformers.AutoModel.from_config(transformers.AutoConfig.from_pretrained(folder), dtype=torch.float32)
    return Tuned(encoder, classes, pool)


def stack(rows, pad):
    """Rows as tensors of one length: ids, mask, and labels with -100 where there is nothing to say."""
    longest = max(len(ids) for ids, _ in rows)
    ids = torch.tensor([ids + [pad] * (longest - len(ids)) for ids, _ in rows])
    mask = torch.tensor([[1] * len(ids) + [0] * (longest - len(ids)) for ids, _ in rows])
    return ids, mask, torch.tensor([y + [-100] * (longest - len(y)) if isinstance(y, list) else y for _, y in rows])


def fit(net, rows, pad, steps=STEPS, lr=3e-3, size=BATCH, seed=0):
    """Trains what is not frozen: AdamW, warm-up, linear decay; gives the loss of every step."""
    draw, weights = random.Random(seed), [p for p in net.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=lr, weight_decay=0.01)
    warm = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda s: min((s + 1) / 20, (steps - s) / steps))
    losses = []
    for _ in range(steps):
        ids, mask, y = stack(draw.sample(rows, size), pad)
        loss = nn.functional.cross_entropy(net(ids, mask).flatten(0, -2), y.flatten())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        warm.step()
        losses.append(loss.item())
    return losses


@torch.no_grad()
def right(net, rows, pad):
    """Share of rows where every label is right: for a sentence all tags, for a review its one label."""
    hits = []
    for start in range(0, len(rows), 50):
        ids, mask, y = stack(rows[start : start + 50], pad)
        same = (net(ids, mask).argmax(-1) == y) | (y == -100)
        hits += same.reshape(len(y), -1).all(-1).tolist()
    return float(np.mean(hits))


def compute(seeds=SEEDS, steps=STEPS, tests=TESTS):
    """Accuracy [size][seed] for each start ("pretrained", "scratch") on each test, on texts that no run has seen."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(FOLDER)
    pad, found = tokenizer.pad_token_id, {"seeds": list(seeds), "steps": steps, "sizes": SIZES}
    plans = {  # how labels are made, tests, classes, learning rate
        "tags": (tagged, {"known": tagged(tests, -1, tokenizer), "new": tagged(tests, -1, tokenizer, "held-out")}, len(TYPES), 3e-3),
        "reviews": (reviews, {"known": reviews(tests, -1, tokenizer)}, 2, 2e-3),
    }
    for name, (make, exams, classes, lr) in plans.items():
        for start in ("pretrained", "scratch"):
            table = {exam: [[] for _ in SIZES[name]] for exam in exams}
            for row, size in enumerate(SIZES[name]):
                for seed in seeds:
                    net = fresh(seed, classes, make is reviews, start == "pretrained")
                    fit(net, make(size, 10**6 + 10**5 * seed, tokenizer), pad, steps, lr, seed=seed)
                    for exam, rows in exams.items():
                        table[exam][row].append(round(right(net, rows, pad), 4))
                print(name, start, size, {exam: rows[row] for exam, rows in table.items()}, file=sys.stderr, flush=True)
            found |= {f"{name} {exam} {start}": values for exam, values in table.items()}
    return found
