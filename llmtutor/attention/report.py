"""Whether maps obey the laws of attention, said in a few lines."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from llmtutor.attention.capture import UINT8_BOUND

TOLERANCE = 1e-3


@dataclass(frozen=True, repr=False)
class Report:
    """What `Attention.check` found.

    Attributes:
        rows: smallest and largest sum of a row.
        future: the largest weight on a later token; None where rows and columns are different tokens.
        padding: the largest weight that a token gives to padding; None where there is no padding.
        sink_share: the weight on the first token, averaged over the rows from the second on, layers and heads.
        problems: what is wrong, one sentence each, English and Chinese; empty when all is well.
        lines: the report, one sentence each, English and Chinese.
    """

    rows: tuple[float, float]
    future: float | None
    padding: float | None
    sink_share: float
    problems: list[str]
    lines: list[str]

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems

    def __repr__(self) -> str:
        return "\n".join(self.lines + [f"PROBLEM / 问题: {problem}" for problem in self.problems])


def check(att, attention_mask=None) -> Report:
    """Look at sums, causality, padding and the first token; see `Attention.check`."""
    lines, problems = [], []
    real = _real(att, attention_mask)
    weights = att.weights[:, :, real] if att.key_tokens is att.tokens else att.weights
    rows = _rows(att, weights, lines, problems)
    future = _future(att, lines, problems) if att.key_tokens is att.tokens else None
    padding = _padding(weights[..., ~real], lines, problems)
    first = int(np.argmax(real))
    later = weights[:, :, 1:] if att.key_tokens is att.tokens and weights.shape[2] > 1 else weights
    sink = float(later[..., first].mean())
    n = int(real.sum())
    even = float((1 / np.arange(2, n + 1)).mean()) if future == 0 and n > 1 else 1 / n
    lines.append(f"first token: {sink:.2f} of the weight on average; even attention would give {even:.2f} / "
                 f"第一个词元：平均得到 {sink:.2f} 的权重；若均匀分配则为 {even:.2f}")
    return Report(rows, future, padding, sink, problems, lines)


def _real(att, attention_mask) -> np.ndarray:
    """Which of the keys are tokens and not padding."""
    n = len(att.key_tokens)
    real = np.ones(n, bool) if attention_mask is None else np.ravel(np.asarray(attention_mask)).astype(bool)
    if len(real) != n or not real.any():
        raise ValueError(f"attention_mask must have one entry for each of the {n} tokens looked at, not all 0; got {len(real)} "
                         f"entries, {int(real.sum())} of them 1")
    return real


def _rows(att, weights, lines, problems) -> tuple[float, float]:
    sums = weights.sum(-1)
    low, high = float(sums.min()), float(sums.max())
    span = f"{low:.4f} … {high:.4f}"
    bound = UINT8_BOUND * weights.shape[3] if att.stored.dtype == np.uint8 else TOLERANCE
    if not np.isfinite(sums).all():
        problems.append("some weights are not numbers (NaN) / 有些权重不是数字（NaN）")
        lines.append("rows: no sum / 各行：无法求和")
    elif "difference_of" in att.info:
        lines.append(f"rows: a difference of maps, so not 1 but about 0 where all tokens have a partner ({span}) / "
                     f"各行：这是两张图之差，词元都对齐时约为 0，而不是 1（{span}）")
    elif weights.min() < 0:
        problems.append(f"a weight is negative ({weights.min():.4f}): are these scores before the softmax? / "
                        f"有负的权重（{weights.min():.4f}）：这是 softmax 之前的分数吗？")
        lines.append(f"rows: sums {span} / 各行之和：{span}")
    elif att.info.get("sinks") and high < 1 + bound:
        lines.append(f"rows: sums {span}, below 1 because this model has a learned sink: a part of each row goes to nothing / "
                     f"各行之和：{span}，小于 1，因为模型有一个学到的“汇”，每行的一部分不给任何词元")
    elif abs(low - 1) <= bound and abs(high - 1) <= bound:
        why = " up to the rounding of one byte a weight" if bound > TOLERANCE else ""
        zh = "（每个权重存一个字节，有舍入）" if bound > TOLERANCE else ""
        lines.append(f"rows: sum to 1{why} ({span}) / 各行之和为 1{zh}（{span}）")
    else:
        problems.append(f"rows must sum to 1; got {span}. Were rows or columns cut away, or the axes turned? / "
                        f"各行之和应为 1，实为 {span}。是否删去了行或列，或者弄反了坐标轴？")
        lines.append(f"rows: sums {span} / 各行之和：{span}")
    return low, high


def _future(att, lines, problems) -> float:
    largest = float(np.abs(np.triu(att.weights, 1)).max())
    if largest == 0:
        lines.append("causal: no token looks at a later one / 因果：没有词元看后面的词元")
    elif att.info.get("causal"):
        problems.append(f"the model is causal, but a token gives {largest:.4f} to a later one / "
                        f"模型是因果的，却有词元把 {largest:.4f} 的权重给了后面的词元")
    else:
        lines.append(f"both directions: tokens look at later ones too, with up to {largest:.2f} / "
                     f"双向：词元也看后面的词元，权重最大 {largest:.2f}")
    return largest


def _padding(weights, lines, problems) -> float | None:
    if not weights.size:
        lines.append("padding: none / 填充：没有")
        return None
    largest = float(weights.max())
    if largest > 0:
        problems.append(f"padding gets attention, up to {largest:.4f}. Was the attention_mask handed to the model? / "
                        f"填充得到了注意力，最大 {largest:.4f}。是否把 attention_mask 传给了模型？")
    else:
        lines.append("padding: gets no attention / 填充：没有得到注意力")
    return largest
