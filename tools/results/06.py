"""Chapter 06: an induction head emerging during training, over seeds, beside two controls.

A tiny attention-only Transformer learns to go on in texts of random tokens that repeat themselves. `random` draws the distance of the
repeat anew for each text, `fixed` always takes the same one, which a model can learn by counting positions. Every model is tested on
both. The classes and functions here are those of the notebook's cells; a test holds them equal.
"""

import torch

SEEDS, STEPS, EVERY = 3, 200, 20
RANDOM, FIXED = (8, 17), (16, 17)
RUNS = {"2 layers, random": (2, RANDOM), "1 layer, random": (1, RANDOM), "1 layer, fixed": (1, FIXED)}

N_TOKENS, LENGTH = 32, 32


class Tiny(torch.nn.Module):
    def __init__(self, n_layers, d=64, heads=2):
        super().__init__()
        self.token, self.place = torch.nn.Embedding(N_TOKENS, d), torch.nn.Embedding(LENGTH, d)
        self.norms = torch.nn.ModuleList(torch.nn.LayerNorm(d) for _ in range(n_layers))
        self.layers = torch.nn.ModuleList(torch.nn.MultiheadAttention(d, heads, batch_first=True) for _ in range(n_layers))
        self.out = torch.nn.Linear(d, N_TOKENS)

    def forward(self, ids):                              # [text, token]
        x, maps, future = self.token(ids) + self.place.weight, [], torch.ones(LENGTH, LENGTH).triu(1).bool()
        for norm, layer in zip(self.norms, self.layers):
            h = norm(x)
            added, weights = layer(h, h, h, attn_mask=future, average_attn_weights=False)
            x, maps = x + added, [*maps, weights]        # weights: [text, head, query, key]
        return self.out(x), maps


def repeating(n, distances, generator):
    p = torch.randint(*distances, (n, 1), generator=generator)               # the distance of the repeat
    words = torch.randint(N_TOKENS, (n, LENGTH), generator=generator)
    ids = words.gather(1, torch.arange(LENGTH) % p)                          # token i is token i - p again
    return ids, p, torch.arange(LENGTH - 1) >= p                             # and where that can be foreseen


@torch.no_grad()
def examine(model, distances):
    ids, p, again = repeating(256, distances, torch.Generator().manual_seed(99))
    logits, maps = model(ids)
    right = (logits[:, :-1].argmax(-1) == ids[:, 1:])[again].float().mean().item()
    follower = (torch.arange(LENGTH) - p + 1).clamp(min=0)                   # what followed the same token last time
    looks = maps[-1].gather(-1, follower[:, None, :, None].expand(-1, 2, -1, 1))[:, :, :-1, 0]
    return right, max(looks[:, head][again].mean().item() for head in range(2))


@torch.no_grad()
def all_followers(model, distances):                     # like `examine`, but over all earlier copies together
    ids, p, again = repeating(256, distances, torch.Generator().manual_seed(99))
    after_copy = torch.zeros(len(ids), LENGTH, LENGTH)   # [text, query, key]: does the key follow an earlier copy of the query's token?
    after_copy[:, :, 1:] = (ids[:, :, None] == ids[:, None, :-1]).float().tril(-1)
    looks = (model(ids)[1][-1] * after_copy[:, None]).sum(-1)[:, :, :-1]
    return max(looks[:, head][again].mean().item() for head in range(2))


def train(n_layers, distances, seed, steps=200, every=20):
    torch.manual_seed(seed)
    model, generator, history = Tiny(n_layers), torch.Generator().manual_seed(seed), []
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for step in range(steps + 1):
        if step % every == 0:
            history.append(examine(model, distances))
        ids, _, again = repeating(64, distances, generator)
        logits = model(ids)[0][:, :-1]
        loss = torch.nn.functional.cross_entropy(logits[again], ids[:, 1:][again])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model, history


def compute():
    """For each kind of run, one a seed: its history (share right, induction score), the test on random distances, and what looks at followers.

    `followers` holds for random and fixed distances the best head's weight on what followed the copy one repeat back, and any copy.
    """
    found = {}
    for name, (n_layers, distances) in RUNS.items():
        runs = []
        for seed in range(SEEDS):
            model, history = train(n_layers, distances, seed, STEPS, EVERY)
            followers = {kind: _rounded([examine(model, d)[1], all_followers(model, d)]) for kind, d in (("random", RANDOM), ("fixed", FIXED))}
            runs.append({"history": _rounded(history), "random": _rounded(examine(model, RANDOM)), "followers": followers})
        found[name] = runs
    return {"induction": found, "every": EVERY}


def _rounded(numbers):
    return round(numbers, 3) if isinstance(numbers, float) else [_rounded(number) for number in numbers]
