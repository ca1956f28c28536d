"""Exercises of chapter 00: probabilities from logits, reading an attention map, what a text costs in tokens."""

import re

import numpy as np

from llmtutor.checks import Exercise, Hint, ReaderError, describe

# --- 00.1 From logits to the most likely tokens -----------------------------------------------------------------------

TOKENS = [" red", " ball", " cat", "今", " the"]
LOGITS = [1.0, 3.0, 0.5, 2.0, -1.0]


def top_tokens(tokens, logits, k):
    """The k most likely tokens with their probabilities: softmax, then sort. `logits` has shape [n_tokens]."""
    exponentials = np.exp(logits - np.max(logits))
    probabilities = exponentials / exponentials.sum()
    best = np.argsort(-probabilities)[:k]
    return [(tokens[i], float(probabilities[i])) for i in best]


def judge_top_tokens(answer):
    """Reads the pairs first, then their order, then the numbers, last what happens with large logits."""
    pairs = _pairs(answer(list(TOKENS), np.array(LOGITS), 3))
    if isinstance(pairs, Hint):
        return pairs
    hint = _order_hint([token for token, _ in pairs])
    return hint or _softmax_hint(np.array([value for _, value in pairs])) or _overflow_hint(answer)


def _pairs(value):
    """The answer as a list of three (token, float) pairs, or the hint that says why it is not one."""
    items = [tuple(pair) for pair in (value.items() if isinstance(value, dict) else value)]
    if len(items) != 3:
        return Hint(
            "k is ignored",
            f"With k = 3 you returned {len(items)} items; exactly k pairs are wanted.",
            f"k = 3 时你返回了 {len(items)} 项；应当恰好返回 k 对。",
        )
    if all(isinstance(second, str) for _, second in items):
        return Hint(
            "pair is the wrong way round",
            f"Your pairs begin with {describe(items[0][0])}: put the token first, then its probability.",
            f"你的每一对以 {describe(items[0][0])} 开头：应当先放词元，再放概率。",
        )
    if any(token not in TOKENS for token, _ in items):
        return Hint(
            "not a token",
            f"The first item of a pair should be a token of the list; yours has {describe(items[0][0])}. Use "
            "tokens[i], not i.",
            f"每一对的第一项应是列表中的词元，你给出的是 {describe(items[0][0])}。请用 tokens[i]，而不是 i。",
        )
    return [(token, float(probability)) for token, probability in items]


def _order_hint(tokens):
    right = [" ball", "今", " red"]
    if tokens == right:
        return None
    if sorted(tokens) == sorted(right):
        return Hint(
            "ascending order",
            "You found the right three tokens, but the most likely one should come first.",
            "三个词元都找对了，但最可能的那个应当排在最前面。",
        )
    if tokens == TOKENS[:3]:
        return Hint(
            "not sorted",
            "You returned the first k tokens of the list. Sort by probability before you cut.",
            "你返回的是列表中的前 k 个词元。先按概率排序，再截取。",
        )
    stranger = next((token for token in tokens if token not in right), tokens[0])
    return Hint(
        "least likely tokens",
        f"Your tokens are {tokens}, but {stranger!r} is not one of the three largest logits, each counted once. A sort "
        "goes from small to large unless told otherwise.",
        f"你的词元是 {tokens}，但 {stranger!r} 不在最大的三个 logits 之中（每个只算一次）。排序默认从小到大。",
    )


def _softmax_hint(values):
    """Compares with every quantity that a half-finished softmax gives. `values` has shape [3]."""
    logits = np.array(LOGITS)
    best = np.sort(logits)[::-1][:3]
    exponentials = np.exp(best)
    everything = np.exp(logits).sum()
    if np.allclose(values, exponentials / everything, atol=1e-4):
        return None
    if np.allclose(values, best, atol=1e-4):
        return Hint(
            "logits instead of probabilities",
            "These numbers are the logits themselves. Probabilities lie between 0 and 1: apply softmax.",
            "这些数就是 logits 本身。概率应在 0 和 1 之间：请使用 softmax。",
        )
    if np.allclose(values, exponentials / exponentials.sum(), atol=1e-4):
        return Hint(
            "normalised after the cut",
            "Your k probabilities add up to 1. All tokens of the vocabulary must share the 1: normalise first, cut "
            "afterwards.",
            "你的 k 个概率之和为 1。但应由词表中的所有词元共同分享这个 1：先归一化，再截取。",
        )
    if np.allclose(values, best / logits.sum(), atol=1e-4):
        return Hint(
            "exp is missing",
            "You divided the logits by their sum. A logit may be negative, a probability may not: take exp first.",
            "你用 logits 除以了它们的和。logit 可以为负，概率不可以：先取 exp。",
        )
    if np.any(values > 1):
        return Hint(
            "not normalised",
            f"Your largest value is {values.max():.2f}, more than 1. After exp, divide by the sum over all tokens.",
            f"你的最大值是 {values.max():.2f}，大于 1。取 exp 之后，还要除以所有词元的总和。",
        )
    return Hint(
        "other numbers",
        f"' ball' should have probability {exponentials[0] / everything:.3f}; yours is {values[0]:.3f}. Softmax is "
        "exp(logit) / sum of all exp(logit).",
        f"' ball' 的概率应为 {exponentials[0] / everything:.3f}，你得到 {values[0]:.3f}。softmax 等于 exp(logit) 除以所有 "
        "exp(logit) 之和。",
    )


def _overflow_hint(answer):
    hint = Hint(
        "overflow",
        "Fine with small logits, but with logits near 1000 exp overflows. Softmax does not change when you "
        "subtract the largest logit from all: do that first.",
        "logits 较小时没有问题，但接近 1000 时 exp 会溢出。所有 logits 减去最大值后 softmax 不变：请先做这一步。",
    )
    try:
        pairs = _pairs(answer(list(TOKENS), np.array(LOGITS) + 1000, 3))
    except ReaderError as failure:  # plain Python says OverflowError, or divides infinity by infinity
        if isinstance(failure.error, ArithmeticError | RuntimeWarning):
            return hint
        raise
    if isinstance(pairs, Hint):
        return pairs
    return None if all(0 < probability < 1 for _, probability in pairs) else hint


def _no_softmax(tokens, logits, k):
    return [(tokens[i], logits[i]) for i in np.argsort(-logits)[:k]]


def _no_normalisation(tokens, logits, k):
    return [(tokens[i], np.exp(logits[i])) for i in np.argsort(-logits)[:k]]


def _no_exp(tokens, logits, k):
    return [(tokens[i], logits[i] / logits.sum()) for i in np.argsort(-logits)[:k]]


def _cut_first(tokens, logits, k):
    best = np.argsort(-logits)[:k]
    exponentials = np.exp(logits[best] - logits.max())
    return list(zip([tokens[i] for i in best], exponentials / exponentials.sum(), strict=True))


def _no_shift(tokens, logits, k):
    with np.errstate(all="ignore"):
        probabilities = np.exp(logits) / np.exp(logits).sum()
    return [(tokens[i], probabilities[i]) for i in np.argsort(-logits)[:k]]


def _smallest_first(tokens, logits, k):
    return top_tokens(tokens, logits, k)[::-1]


def _cut_smallest(tokens, logits, k):
    return top_tokens(tokens, logits, len(tokens))[::-1][:k]


def _all_tokens(tokens, logits, k):
    return top_tokens(tokens, logits, len(tokens))


def _indices(tokens, logits, k):
    return [(int(i), 0.5) for i in np.argsort(-logits)[:k]]


# --- 00.2 Reading one row of an attention map -------------------------------------------------------------------------

STORY = ["Lily", " found", " the", " ball", " because", " she", " looked"]


def _map():
    """A causal attention map of shape [7 queries, 7 keys] whose row 5 (' she') looks most at itself, then at 'Lily'."""
    weights = np.tril(np.full((7, 7), 0.02)) + np.diag([0.98, 0.5, 0.5, 0.5, 0.5, 0.5, 0.45])
    weights[5, 0] += 0.3
    weights[6, 3] += 0.35
    weights[6, 5] += 0.3  # so that column 5 has its own winner
    return weights / weights.sum(axis=1, keepdims=True)


def looks_most_at(weights, tokens, query):
    """The token that position `query` looks at most, itself not counted. `weights` has shape [query, key]."""
    row = weights[query].copy()
    row[query] = -1
    return tokens[int(np.argmax(row))]


def judge_looks_most_at(answer):
    """Asks for ' she' (row 5) and ' looked' (row 6); every wrong reading of the map gives another token."""
    weights = _map()
    given = answer(weights, list(STORY), 5)
    if isinstance(given, int | np.integer) and 0 <= given < len(STORY):
        return Hint(
            "index instead of token",
            f"You returned the position {int(given)}; wanted is the token there: tokens[{int(given)}].",
            f"你返回的是位置 {int(given)}；需要的是那里的词元：tokens[{int(given)}]。",
        )
    if not isinstance(given, str):
        return Hint(
            "weight instead of token",
            f"You returned {describe(given)}; wanted is a token, a string of the list. argmax gives the place of "
            "the maximum, max its value.",
            f"你返回的是 {describe(given)}；需要的是列表中的词元（字符串）。argmax 给出最大值的位置，max 给出最大值本身。",
        )
    if not np.array_equal(weights, _map()):
        return Hint(
            "changes the map",
            "After your function ran, the attention map had other numbers in it. Change a copy: weights[query].copy().",
            "你的函数运行之后，注意力图中的数变了。请在副本上修改：weights[query].copy()。",
        )
    return _reading_hint(given, answer(_map(), list(STORY), 6))


def _reading_hint(she, looked):
    if (she, looked) == ("Lily", " ball"):
        return None
    if (she, looked) == (" she", " looked"):
        return Hint(
            "counts itself",
            "You answered ' she' for ' she': a token's own place is the largest here. Leave position `query` out "
            "before you look for the maximum.",
            "对 ' she' 你回答了 ' she'：这里每个词元自己的权重最大。找最大值之前先排除位置 query。",
        )
    if she == " looked":
        return Hint(
            "column instead of row",
            "' looked' comes after ' she', and this model cannot look ahead. You read a column (who looks at it); "
            "row `query` says where it looks.",
            "' looked' 在 ' she' 之后，而这个模型看不到后面。你读的是列（谁在看它）；第 query 行才是它在看谁。",
        )
    if (she, looked) == ("Lily", "Lily"):
        return Hint(
            "query is ignored",
            "You gave the same token for two different queries. Does your answer use `query`?",
            "对两个不同的 query 你给出了同一个词元。你的答案用到 query 了吗？",
        )
    place, given = (5, she) if she != "Lily" else (6, looked)
    return Hint(
        "not the largest weight",
        f"For {STORY[place]!r} you answered {given!r}, whose weight is not the largest of the other places in row {place}. "
        "Print that row beside the tokens, and check argmax against argmin.",
        f"对 {STORY[place]!r} 你回答了 {given!r}，但在第 {place} 行的其他位置中，它的权重不是最大的。"
        "把这一行和词元并排打印出来，并检查 argmax 是否写成了 argmin。",
    )


def _column(weights, tokens, query):
    return looks_most_at(weights.T, tokens, query)


def _place(weights, tokens, query):
    return int(np.argmax(weights[query, :query]))


def _weight(weights, tokens, query):
    return weights[query, :query].max()


def _itself(weights, tokens, query):
    return tokens[int(np.argmax(weights[query]))]


def _in_place(weights, tokens, query):
    weights[query, query] = 0
    return tokens[int(np.argmax(weights[query]))]


def _least(weights, tokens, query):
    return tokens[int(np.argmin(weights[query, 1:query])) + 1]


def _last_row_only(weights, tokens, query):
    return looks_most_at(weights, tokens, 5)


# --- 00.3 Tokens per character ----------------------------------------------------------------------------------------

ENGLISH = "The cat sat on the mat."
CHINESE = "今天天气真好"


def encode(text):
    """A small stand-in for GPT-2's tokenizer: one token for an English word or sign, one for each byte of anything else."""
    pieces = re.findall(r" ?[A-Za-z]+|[\x00-\x7f]|[^\x00-\x7f]+", text)
    return [piece for run in pieces for piece in ([run] if run.isascii() else run.encode("utf-8"))]


def tokens_per_character(encode, text):
    """How many tokens one character costs on average; `encode(text)` gives the list of tokens."""
    return len(encode(text)) / len(text)


def judge_tokens_per_character(answer):
    """English costs 7/23 and Chinese 18/6 with the stand-in tokenizer; each slip gives another pair of numbers."""
    given = float(answer(encode, ENGLISH)), float(answer(encode, CHINESE))
    if np.allclose(given, (7 / 23, 3), atol=1e-3):
        return None
    symptoms = {
        (7 / 23, 1): _BYTES,
        (23 / 7, 1 / 3): _INVERTED,
        (7, 18): _UNDIVIDED,
        (7 / 6, 18): _WORDS,
        (0, 3): _FLOOR,
        (7 / 18, 3): _SPACES,
    }
    for numbers, hint in symptoms.items():
        if np.allclose(given, numbers, atol=1e-2):
            return hint
    return Hint(
        "other numbers",
        f"For {ENGLISH!r}, 7 tokens and 23 characters, you returned {given[0]:.3f}; wanted is tokens divided by "
        f"characters, {7 / 23:.3f}.",
        f"{ENGLISH!r} 有 7 个词元、23 个字符，你返回 {given[0]:.3f}；应为词元数除以字符数，即 {7 / 23:.3f}。",
    )


_BYTES = Hint(
    "bytes instead of characters",
    "Both languages come out cheap, Chinese at exactly 1. You divided by bytes: a Chinese character has 3 bytes "
    "but is one character, len('今') = 1.",
    "两种语言看起来都很便宜，中文恰好是 1。你除以的是字节数：一个汉字有 3 个字节，却只是一个字符，len('今') = 1。",
)
_INVERTED = Hint(
    "upside down",
    "You computed characters per token, so that Chinese looks cheaper than English. Wanted is tokens per character.",
    "你算的是每个词元有多少字符，于是中文看起来比英文便宜。需要的是每个字符花多少词元。",
)
_UNDIVIDED = Hint(
    "not divided",
    "You returned the number of tokens. A longer text has more of them: divide by the number of characters to "
    "compare texts.",
    "你返回的是词元总数。文本越长，词元越多：除以字符数才能比较不同的文本。",
)
_WORDS = Hint(
    "words instead of characters",
    "You divided by text.split(), the number of words. Chinese has no spaces, so the whole sentence counts as one "
    "word: divide by characters.",
    "你除以了 text.split() 的长度，即单词数。中文没有空格，整句话只算一个词：请除以字符数。",
)
_FLOOR = Hint(
    "whole-number division",
    "English came out as 0: `//` drops what follows the decimal point. Use `/`.",
    "英文的结果是 0：`//` 会丢掉小数部分。请用 `/`。",
)
_SPACES = Hint(
    "spaces left out",
    "Chinese is right but English is too high: a space is a character too.",
    "中文对了，英文偏高：空格也是字符。",
)

EXERCISES = [
    Exercise(
        "00.1",
        ("From logits to the most likely tokens", "从 logits 到最可能的词元"),
        ("a list of k pairs (token, probability), most likely first", "由 k 对（词元，概率）组成的列表，最可能的在前"),
        judge_top_tokens,
        top_tokens,
        {
            "logits instead of probabilities": _no_softmax,
            "not normalised": _no_normalisation,
            "exp is missing": _no_exp,
            "normalised after the cut": _cut_first,
            "overflow": _no_shift,
            "ascending order": _smallest_first,
            "least likely tokens": _cut_smallest,
            "k is ignored": _all_tokens,
            "not a token": _indices,
        },
    ),
    Exercise(
        "00.2",
        ("Where does a token look?", "一个词元在看哪里？"),
        ("one token, a string from the list", "一个词元，即列表中的一个字符串"),
        judge_looks_most_at,
        looks_most_at,
        {
            "column instead of row": _column,
            "index instead of token": _place,
            "weight instead of token": _weight,
            "counts itself": _itself,
            "changes the map": _in_place,
            "not the largest weight": _least,
            "query is ignored": _last_row_only,
        },
    ),
    Exercise(
        "00.3",
        ("What does a character cost?", "一个字符要花多少词元？"),
        ("one number: tokens divided by characters", "一个数：词元数除以字符数"),
        judge_tokens_per_character,
        tokens_per_character,
        {
            "bytes instead of characters": lambda encode, text: len(encode(text)) / len(text.encode("utf-8")),
            "upside down": lambda encode, text: len(text) / len(encode(text)),
            "not divided": lambda encode, text: len(encode(text)),
            "words instead of characters": lambda encode, text: len(encode(text)) / len(text.split()),
            "whole-number division": lambda encode, text: len(encode(text)) // len(text),
            "spaces left out": lambda encode, text: len(encode(text)) / len(text.replace(" ", "")),
        },
    ),
]
