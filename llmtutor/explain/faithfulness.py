"""Does an explanation tell the truth about the model? Erase what it names, keep only what it names, and see."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .explanation import Explanation
from .reading import quiet, read, require_finite

EXHAUSTIVE = 12  # tokens up to which every subset is tried: 4,096 of them


@dataclass(frozen=True)
class Faithfulness:
    """How faithful an explanation is, beside chance and beside the best that any ranking could reach.

    Attributes:
        method: the explanation's method.
        comprehensiveness: fall of the number when the top k tokens are erased, averaged over k. High is good.
        sufficiency: fall of the number when only the top k tokens are kept, averaged over k. Low is good.
        random: the two for random orders, (comprehensiveness, sufficiency), means over the orders.
        best: the best two possible, each k by itself, from every subset; None for longer texts.
        ks: the numbers of tokens.
    """

    method: str
    comprehensiveness: float
    sufficiency: float
    random: tuple[float, float]
    best: tuple[float, float] | None
    ks: tuple[int, ...]

    def __repr__(self) -> str:
        best = f", best {self.best[0]:.2f} / {self.best[1]:.2f}" if self.best else ""
        return (f"Faithfulness({self.method!r}: comprehensiveness {self.comprehensiveness:.2f}, sufficiency "
                f"{self.sufficiency:.2f}; random {self.random[0]:.2f} / {self.random[1]:.2f}{best})")


def faithfulness(lm, text: str, explanation: Explanation, target=None, *, ks=None, output: str = "prob", baseline="mean",
                 n_random: int = 20, seed: int = 0) -> Faithfulness:
    """Measure comprehensiveness and sufficiency of an explanation.

    Args:
        lm, text: as for `read`; the text that the explanation is about.
        explanation: one score a token; tokens are taken from the largest score down, special tokens never.
        target: as for `read`; the explanation's own target where left out.
        ks: numbers of tokens to erase or keep; without them 5, 10, 20 and 50 % of the tokens (at least 1).
        output: the explained number; the paper uses "prob".
        baseline: what an erased token becomes, see `occlusion`.
        n_random: random orders to compare with.
        seed: for the random orders.

    Raises:
        ValueError: the explanation is of another text; a k that is not there.

    Source: DeYoung et al., "ERASER: A Benchmark to Evaluate Rationalized NLP Models", ACL 2020.
    """
    reading = read(lm, text, wants_target=False)
    if explanation.scores.ndim != 1 or explanation.tokens != reading.tokens:
        raise ValueError(f"the explanation must have one score for each of the {len(reading.tokens)} tokens of this text; got "
                         f"scores {explanation.scores.shape}. Is it of another text?")
    reading = read(lm, text, explanation.target if target is None else target)
    free = np.array(reading.free)
    if ks is None:
        ks = sorted({max(1, round(len(free) * share)) for share in (0.05, 0.1, 0.2, 0.5)})
    if not ks or min(ks) < 1 or max(ks) > len(free):
        raise ValueError(f"ks must lie between 1 and {len(free)}, the number of tokens that can be erased; got {ks}")
    own = free[np.argsort(-explanation.scores[free], kind="stable")]
    rng = np.random.default_rng(seed)
    orders = [own, *(rng.permutation(free) for _ in range(n_random))]
    chosen = [order[:k] for order in orders for k in ks]
    falls = _falls(reading, chosen, output, baseline).reshape(2, len(orders), len(ks)).mean(-1)
    best = _best(reading, ks, output, baseline) if len(free) <= EXHAUSTIVE else None
    random = (float(falls[0, 1:].mean()), float(falls[1, 1:].mean())) if n_random else (float("nan"),) * 2
    return Faithfulness(explanation.method, float(falls[0, 0]), float(falls[1, 0]), random, best, tuple(int(k) for k in ks))


def _falls(reading, chosen, output: str, baseline) -> np.ndarray:
    """Falls of the number, array [2, set]: when each set of positions is erased, and when only it is kept."""
    import torch

    n_tokens = reading.ids.shape[1]
    erased = torch.ones(len(chosen), n_tokens, dtype=torch.bool)
    kept = torch.ones(len(chosen), n_tokens, dtype=torch.bool)
    kept[:, reading.free] = False
    for row, positions in enumerate(chosen):
        erased[row, list(positions)] = False
        kept[row, list(positions)] = True
    keep = torch.cat([torch.ones(1, n_tokens, dtype=torch.bool), erased, kept]).to(reading.ids.device)
    with quiet(reading.model):
        numbers = reading.erased(keep, output, baseline).double().cpu().numpy()
    require_finite("faithfulness", numbers)
    return (numbers[0] - numbers[1:]).reshape(2, len(chosen))


def _best(reading, ks, output: str, baseline) -> tuple[float, float]:
    """The highest comprehensiveness and the lowest sufficiency, over every subset of each size."""
    from itertools import combinations

    highest, lowest = [], []
    for k in ks:
        falls = _falls(reading, list(combinations(reading.free, k)), output, baseline)
        highest.append(falls[0].max())
        lowest.append(falls[1].min())
    return float(np.mean(highest)), float(np.mean(lowest))
