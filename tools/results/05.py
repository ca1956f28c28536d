"""Chapter 05: consistency and diversity of story-gpt's texts under many decoding settings.

For each setting five continuations of each of 40 openings (the first eight tokens of stories that the model has not seen, half of them
Chinese). Intervals: bootstrap over openings.
"""

import torch

import llmtutor as lt

USES = ["llmtutor/bundled/story-gpt/card.json"]  # another model has another card, and these numbers are then out of date
N_NEW, COPIES, OPENINGS = 50, 5, 20

GRID = [{"family": "temperature", "name": f"temperature {t}", "label": f"{t}", "options": {"temperature": t}} for t in (0.3, 0.5, 0.7, 1.0, 1.5)]
for rule, option in (("top-p 0.9", {"top_p": 0.9}), ("min-p 0.1", {"min_p": 0.1})):
    GRID += [{"family": rule, "name": f"{rule}, T {t}", "label": f"{t}", "options": {"temperature": t, **option}} for t in (0.5, 1.0, 1.5)]
GRID += [{"family": "other", "name": name, "label": name, "options": options} for name, options in (
    ("greedy", {"do_sample": False}), ("beam 4", {"do_sample": False, "num_beams": 4}), ("top-k 5", {"top_k": 5}),
    ("penalty 1.3, T 0.5", {"repetition_penalty": 1.3, "temperature": 0.5}))]


def openings(tokenizer):
    """[40, 8] token numbers, English first; the notebook's `prompts[::5]`."""
    seeds = range(1, 5 * OPENINGS + 1, 5)
    return torch.tensor([tokenizer.encode(lt.storyworld.story(-seed, lang).text)[:8] for lang in ("en", "zh") for seed in seeds])


@torch.no_grad()
def texts(model, prompts, end, options):
    """Five continuations of each prompt, as lists of tokens up to the end: [[n_tokens] * 5] * 40."""
    sampled = options.get("do_sample", True)
    copies = COPIES if sampled else 1  # without chance all five are the same
    rows = prompts.repeat_interleave(copies, dim=0)
    torch.manual_seed(0)
    out = model.generate(rows, attention_mask=torch.ones_like(rows), max_new_tokens=N_NEW, pad_token_id=end,
                         **({"do_sample": True, "top_k": 0} | options if sampled else options))
    new = [row.tolist() for row in out[:, prompts.shape[1]:]]
    cut = [row[:row.index(end)] if end in row else row for row in new]
    return [cut[i * copies:(i + 1) * copies] * (COPIES // copies) for i in range(len(prompts))]


def distinct(rows, n=4):
    """Share of different n-grams among all n-grams of several texts; None where they have none."""
    grams = [tuple(row[i:i + n]) for row in rows for i in range(len(row) - n + 1)]
    return len(set(grams)) / len(grams) if grams else None


def consistent(tokenizer, opening, row, lang):
    """True when the story world's checker reads at least two sentences and finds nothing wrong."""
    report = lt.storyworld.check(tokenizer.decode([*opening, *row]), lang)
    return report.ok and len(report.events) > 1


def interval(values, draws=2000):
    """Mean and 95 % bootstrap interval over openings, rounded: [mean, low, high]."""
    values = torch.tensor(values, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    means = values[torch.randint(len(values), (draws, len(values)), generator=generator)].mean(1)
    return [round(float(x), 3) for x in (values.mean(), means.quantile(0.025), means.quantile(0.975))]


def compute():
    """The grid: for each setting its name, family, label, and the two measures as [mean, low, high]."""
    lm = lt.load("story-gpt")
    torch.set_num_threads(1)  # with more threads sums run in another order, and a drawn token may differ
    prompts, grid = openings(lm.tokenizer), []
    for setting in GRID:
        groups = texts(lm.model, prompts, lm.tokenizer.eos_token_id, setting["options"])
        good, varied = [], []
        for i, (opening, rows) in enumerate(zip(prompts.tolist(), groups)):
            judged = [consistent(lm.tokenizer, opening, row, "en" if i < OPENINGS else "zh") for row in rows]
            good.append(sum(judged) / len(judged))
            share = distinct(rows)
            varied += [] if share is None else [share]
        grid.append({key: setting[key] for key in ("family", "name", "label")} | {"consistency": interval(good), "diversity": interval(varied)})
        print(grid[-1], flush=True)
    return {"grid": grid, "texts": len(prompts) * COPIES}
