"""What every method of `explain` returns: one score for each token, and the prediction that the scores are about."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np


def require_finite(what: str, numbers: np.ndarray) -> None:
    """Refuse numbers of which some are NaN or infinite, and say where that comes from."""
    if not np.isfinite(numbers).all():
        raise ValueError(f"{what}: {int((~np.isfinite(numbers)).sum())} of {numbers.size} scores are not finite. Does the model hold NaN or "
                         "infinite weights? [name for name, p in lm.model.named_parameters() if not p.isfinite().all()] lists them / "
                         "得分中有 NaN 或无穷大：模型的权重里是否有 NaN 或无穷大？")


@dataclass(frozen=True)
class Target:
    """The prediction that is explained: the score of one candidate token at one position.

    Attributes:
        position: index of the token at which the model predicts (a decoder predicts the token after it).
        token: id of the candidate token.
        text: the candidate as a reader sees it.
        against: id of a second candidate; the explained number is then the difference of the two, None without it.
        written: for an encoder-decoder the text that its decoder writes; `position` then counts the tokens of that text, and
            with `position` and `token` None the whole text is explained.
    """

    position: int | None
    token: int | None
    text: str = ""
    against: int | None = None
    written: str | None = None

    def __str__(self) -> str:
        return repr(self.written) if self.position is None else f"{self.text or self.token} at {self.position}"


@dataclass(frozen=True, repr=False, eq=False)
class Explanation:
    """Scores for the tokens of a text: how much each one matters for the target, as one method sees it.

    Attributes:
        method: name of the method.
        scores: float array [token], or [layer, token] for methods that look at each layer.
        tokens: what to show for each token.
        target: the prediction that is explained; None where there is none.
        details: what else the method found out (rollout's null, the completeness gap, ...); see each method.

    Raises:
        ValueError: scores that do not fit the tokens, or that are not finite numbers.

    >>> Explanation("by hand", [0.1, 0.7, -0.2], ["a", "b", "c"])
    Explanation('by hand': b 0.70, a 0.10, c -0.20)
    """

    method: str
    scores: np.ndarray
    tokens: list[str]
    target: Target | None = None
    details: dict = field(default_factory=dict)

    def __post_init__(self):
        scores = np.array(self.scores, dtype=np.float64)  # a copy, so that nobody changes it from outside
        tokens = [str(token) for token in self.tokens]
        if scores.ndim not in (1, 2) or scores.shape[-1] != len(tokens) or scores.size == 0:
            raise ValueError(f"scores must have axes [token] or [layer, token], with {len(tokens)} tokens on the last; got "
                             f"shape {scores.shape}. Do scores and tokens belong to the same text?")
        require_finite(self.method, scores)
        if self.target is not None and self.target.written is None and not 0 <= self.target.position < len(tokens):
            raise ValueError(f"the target stands at position {self.target.position}, and there are {len(tokens)} tokens")
        object.__setattr__(self, "scores", scores)
        object.__setattr__(self, "tokens", tokens)

    def __len__(self) -> int:
        """The number of tokens."""
        return len(self.tokens)

    def top(self, k: int = 3) -> list[tuple[int, str, float]]:
        """Return the k tokens with the largest scores as (position, token, score); of equal ones the earlier first.

        Raises:
            ValueError: k is not positive, or there is a row of scores for each layer.
        """
        if self.scores.ndim != 1:
            raise ValueError(f"there are {len(self.scores)} rows of scores, one a layer; choose one first: "
                             f"explanation.layer({len(self.scores) - 1}).top()")
        if k < 1:
            raise ValueError(f"k must be at least 1; got {k}")
        order = np.argsort(-self.scores, kind="stable")[:k]
        return [(int(i), self.tokens[i], float(self.scores[i])) for i in order]

    def layer(self, row: int) -> Explanation:
        """Return the scores of one row of a [layer, token] explanation as an explanation of its own."""
        if self.scores.ndim != 2:
            raise ValueError(f"{self.method} has one score a token and no layers to choose from")
        if not 0 <= row < len(self.scores):
            raise IndexError(f"there is no row {row}; there are rows 0 to {len(self.scores) - 1}")
        return Explanation(f"{self.method}, row {row}", self.scores[row], self.tokens, self.target, self.details)

    def __repr__(self) -> str:
        about = f" of {self.target}" if self.target else ""
        if self.scores.ndim == 2:
            return f"Explanation({self.method!r}{about}: {len(self.scores)} rows x {len(self)} tokens)"
        shown = ", ".join(f"{token} {_rounded(score)}" for _, token, score in self.top(3))
        return f"Explanation({self.method!r}{about}: {shown})"

    def figure(self, **options):
        """Draw the scores as a strip of coloured cells (or one row a layer), blue above 0 and red below.

        Args:
            options: handed on to `plots.heatmap`.

        Returns:
            the Matplotlib Axes.
        """
        from llmtutor import plots

        rows = np.atleast_2d(self.scores)
        names = [self.method] if self.scores.ndim == 1 else [f"row {i}" for i in range(len(rows))]
        options.setdefault("title", f"{self.method}: {self.target}" if self.target else self.method)
        axes = plots.heatmap(rows, names, key_tokens=self.tokens, **options)
        axes.set(xlabel="", ylabel="")
        return axes


def compare(explanations, **options):
    """Draw several explanations of one text below one another, each divided by its largest size so that they share colours.

    Args:
        explanations: list of `Explanation` with one score a token, of the same tokens.
        options: handed on to `plots.heatmap`.

    Returns:
        the Matplotlib Axes.

    Raises:
        ValueError: explanations of different texts, or with a row for each layer.
    """
    from llmtutor import plots

    explanations = list(explanations)
    if not explanations or any(one.scores.ndim != 1 or one.tokens != explanations[0].tokens for one in explanations):
        raise ValueError("compare needs explanations of the same tokens with one score a token; got "
                         f"{[(one.method, one.scores.shape) for one in explanations]}")
    rows = np.stack([one.scores / max(np.abs(one.scores).max(), 1e-30) for one in explanations])
    axes = plots.heatmap(rows, [one.method for one in explanations], key_tokens=explanations[0].tokens, **options)
    axes.set(xlabel="", ylabel="")
    return axes


def _rounded(score: float) -> str:
    """Two decimals, and no minus sign before a zero."""
    return f"{round(score, 2) + 0.0:.2f}"
