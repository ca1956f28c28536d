"""Every head measured over many texts, one pass, in the memory of one batch."""

from __future__ import annotations

import hashlib
import itertools
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from llmtutor import tokens as _tokens
from llmtutor.attention import architectures, reading
from llmtutor.attention.capture import Recorder, chosen


def _entropy(weights):
    return -(weights * np.log2(np.where(weights > 0, weights, 1))).sum(-1).mean(-1)


def _first(weights):
    return weights[:, 1:, 0].mean(-1)


def _previous(weights):
    return np.diagonal(weights, -1, 1, 2).mean(-1)


def _own(weights):
    return np.diagonal(weights, 0, 1, 2).mean(-1)


def _distance(weights):
    places = np.arange(weights.shape[-1])
    return (weights * np.abs(places[:, None] - places)).sum(-1).mean(-1)


def _largest(weights):
    return weights.max(-1).mean(-1)


# name -> what it computes from the maps [head, query, key] of one text, a number for each head
STATISTICS = {"entropy": _entropy, "first": _first, "previous": _previous, "self": _own, "distance": _distance,
              "largest": _largest}


@dataclass(frozen=True, repr=False)
class HeadStatistics:
    """What every head does on average over texts. Made by `attend_many`.

    Attributes:
        mean: name of the statistic -> array [layer, head], each text counted once.
        low, high: the ends of the confidence interval of that mean, texts taken as a random sample; NaN for one text.
        layers, heads: true numbers.
        n_texts: how many texts were read.
        info: model, revision, versions, dtype, and a SHA-256 of the texts.

    The statistics: "entropy" of a row in bits; weight on the "first" token and on the "previous" one (rows from the second
    on), and on the token it"self"; "distance" to what is looked at in tokens; the "largest" weight of a row.
    """

    mean: dict[str, np.ndarray]
    low: dict[str, np.ndarray]
    high: dict[str, np.ndarray]
    layers: list[int]
    heads: list[int]
    n_texts: int
    info: dict

    def __repr__(self) -> str:
        return (f"HeadStatistics({self.info['model']!r}, {len(self.layers)} layers x {len(self.heads)} heads, "
                f"{self.n_texts} texts: {', '.join(self.mean)})")

    def top(self, name: str, n: int = 5) -> list[tuple[int, int, float]]:
        """The heads with the highest mean: (layer, head, mean), highest first."""
        if name not in self.mean:
            raise KeyError(f"there is no statistic {name!r}; there are {', '.join(self.mean)}")
        places = np.argsort(-self.mean[name], axis=None, kind="stable")[:n]
        return [(self.layers[p // len(self.heads)], self.heads[p % len(self.heads)], float(self.mean[name].flat[p]))
                for p in places]

    def records(self) -> list[dict]:
        """One dictionary for each layer, head and statistic: mean, low, high."""
        return [{"layer": layer, "head": head, "statistic": name, "mean": float(self.mean[name][i, j]),
                 "low": float(self.low[name][i, j]), "high": float(self.high[name][i, j])}
                for name in self.mean for i, layer in enumerate(self.layers) for j, head in enumerate(self.heads)]


class _Running:
    """Mean and variance of arrays that come one after the other (Welford 1962), so that none is kept."""

    def __init__(self):
        self.n, self.mean, self._squares = 0, 0.0, 0.0

    def add(self, value: np.ndarray) -> None:
        self.n += 1
        step = value - self.mean
        self.mean = self.mean + step / self.n
        self._squares = self._squares + step * (value - self.mean)

    def half_width(self, confidence: float) -> np.ndarray:
        if self.n < 2:
            return np.full_like(self.mean, np.nan)
        return student(confidence, self.n - 1) * np.sqrt(self._squares / (self.n - 1) / self.n)


def student(confidence: float, freedom: int) -> float:
    """The two-sided quantile of Student's t distribution, exact for 1 and 2 degrees of freedom, else by the expansion of
    Fisher and Cornish (1960), which is off by less than 1% at 95%.

    >>> [round(student(0.95, n), 2) for n in (1, 2, 5, 30)]
    [12.71, 4.3, 2.57, 2.04]
    """
    if freedom == 1:
        return float(np.tan(np.pi * confidence / 2))
    if freedom == 2:
        return float(np.sqrt(2 / (1 - confidence**2)) * confidence)
    z, n = NormalDist().inv_cdf((1 + confidence) / 2), freedom
    terms = [(z**3 + z) / 4, (5 * z**5 + 16 * z**3 + 3 * z) / 96, (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
             (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160]
    return z + sum(term / n**power for power, term in enumerate(terms, 1))


def attend_many(lm, texts, *, layers=None, heads=None, batch_size: int = 8, confidence: float = 0.95,
                progress: bool = True) -> HeadStatistics:
    """Measure every head over many texts, and give the mean of each measure with its confidence interval.

    Texts are read in batches and padded where they are shorter; padding is masked, and left out of what is measured. No map
    is kept, so the memory does not grow with the number of texts.

    Args:
        lm: what `load` returns, decoder or encoder.
        texts: any number of texts, also from a generator. Those of a single token are refused: they have no attention.
        layers, heads: the numbers to measure; None measures all.
        batch_size: how many texts are read at once.
        confidence: of the interval, such as 0.95.
        progress: show a bar.

    Raises:
        TypeError, ValueError: no texts, or one that cannot be read; the message says which one.
    """
    from tqdm import tqdm

    if isinstance(texts, str):
        raise TypeError("texts must be several texts, such as a list; for one text use attend")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, such as 0.95; got {confidence!r}")
    if reason := architectures.why_not(lm.model):
        raise ValueError(reason)
    model = reading.tower(lm.model, "text_model")
    if model.config.is_encoder_decoder or model.main_input_name == "pixel_values":
        raise ValueError(f"attend_many reads texts with decoder-only and encoder-only models; {type(lm.model).__name__} is neither")
    n_layers, n_heads = reading._sizes(model.config, "self")
    layers, heads = chosen("layers", layers, n_layers), chosen("heads", heads, n_heads)
    running, digest, seen = {name: _Running() for name in STATISTICS}, hashlib.sha256(), layers
    total = len(texts) if hasattr(texts, "__len__") else None
    with tqdm(total=total, unit="text", disable=not progress) as bar:
        for start, batch in _batches(texts, batch_size):
            encodings = [_encode(lm, model, text, start + n, layers, heads) for n, text in enumerate(batch)]
            seen, maps = read_batch(lm, encodings, layers, heads)
            for text, weights in zip(batch, maps, strict=True):  # weights [layer, head, query, key]
                digest.update(text.encode() + b"\0")
                for name, measure in STATISTICS.items():
                    running[name].add(np.stack([measure(one) for one in weights.astype(np.float64)]))
            bar.update(len(batch))
    n_texts = running["entropy"].n
    if not n_texts:
        raise ValueError("texts is empty, so there is nothing to measure")
    mean = {name: one.mean for name, one in running.items()}
    half = {name: one.half_width(confidence) for name, one in running.items()}
    info = reading.about(lm, None, None, "float32") | {"texts_sha256": digest.hexdigest(), "n_texts": n_texts, "confidence": confidence}
    return HeadStatistics(mean, {name: mean[name] - half[name] for name in mean}, {name: mean[name] + half[name] for name in mean},
                          seen, heads, n_texts, info)


def read_batch(lm, encodings: list, layers=None, heads=None, padding_side: str | None = None) -> tuple[list[int], list[np.ndarray]]:
    """Read several encoded texts at once.

    Returns:
        the true layer numbers, and for each text its maps [layer, head, query, key] without the padding.
    """
    side = padding_side or getattr(lm.tokenizer, "padding_side", "right")
    recorder = Recorder(layers, heads)
    model = reading.tower(lm.model, "text_model")
    reading._run(lm, model, reading.inputs_of(lm, encodings, side), recorder)
    maps = recorder.maps()
    if not maps:
        raise ValueError(f"there is no attention in the layers chosen; the model has it in {sorted(recorder.seen.get('self', ()))}")
    length = max(len(encoding.ids) for encoding in encodings)
    out = []
    for n, encoding in enumerate(encodings):
        first = length - len(encoding.ids) if side == "left" else 0
        real = slice(first, first + len(encoding.ids))
        out.append(np.stack([one[n][:, real, real] for one in maps.values()]))
    return list(maps), out


def _batches(texts, size: int):
    texts, start = iter(texts), 0
    while batch := list(itertools.islice(texts, size)):
        yield start, batch
        start += len(batch)


def _encode(lm, model, text, number: int, layers, heads):
    try:
        encoding = _tokens.encode(lm.tokenizer, text)
        reading._check_ids(model, encoding.ids)
        reading._check_length(lm, len(encoding.ids), len(layers) * len(heads), "float32")
    except (TypeError, ValueError) as error:
        raise type(error)(f"texts[{number}]: {error}") from error
    if len(encoding.ids) < 2:
        raise ValueError(f"texts[{number}] is a single token ({text!r}), so it has no attention to measure; leave it out")
    return encoding
