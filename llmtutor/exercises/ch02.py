"""Exercises of chapter 02: UTF-8 by hand, attention from an empty cell, heads, positions, layer normalisation.

Arrays are NumPy here, so that a reader needs nothing but the formula; the shapes are those of the notebook.
"""

import numpy as np

from llmtutor.checks import Exercise, Hint, ReaderError, describe

# --- shared -----------------------------------------------------------------------------------------------------------


def _numbers(shape, seed):
    """Fixed numbers whose wrong uses all give different results; the same on every machine."""
    size = int(np.prod(shape))
    return np.sin(np.arange(1, size + 1) * (1.3 + 0.37 * seed) + seed).reshape(shape) * 2


def _array(value, shape):
    """The answer as a float array of this shape, or the hint that says which shape it has."""
    array = np.asarray(value, dtype=float)
    if array.shape != shape:
        return Hint(
            "wrong shape",
            f"Wanted is an array of shape {shape}; yours is {describe(value)}.",
            f"应返回形状为 {shape} 的数组；你返回的是 {describe(value)}。",
        )
    return array


def _near(a, b):
    return np.shape(a) == np.shape(b) and np.allclose(a, b, atol=1e-6)


def _first(array, symptoms, other):
    """The hint of the first wrong result that `array` equals, else the general one."""
    return next((hint for wrong, hint in symptoms if _near(array, wrong)), other)


def softmax(x, axis=-1):
    """Exponentials divided by their sum along one axis."""
    exponentials = np.exp(x - x.max(axis=axis, keepdims=True))
    return exponentials / exponentials.sum(axis=axis, keepdims=True)


# --- 02.1 The three bytes of a character ------------------------------------------------------------------------------


def utf8_bytes(number):
    """The three UTF-8 bytes of a character whose Unicode number lies between 2048 and 65535: 4 + 6 + 6 bits."""
    return [0b11100000 + number // 4096, 0b10000000 + number // 64 % 64, 0b10000000 + number % 64]


def judge_utf8_bytes(answer):
    """Tries 今, 好 and the euro sign; each slip in the bits gives other bytes."""
    for character in "今好€":
        number = ord(character)
        given = answer(number)
        given = [int(byte) for byte in given]
        if given != list(character.encode("utf-8")):
            return _utf8_hint(given, number)
    return None


def _utf8_hint(given, number):
    right = utf8_bytes(number)
    pure = [number // 4096, number // 64 % 64, number % 64]
    if given == right[::-1]:
        return Hint(
            "wrong order",
            "These are the right bytes, last one first. UTF-8 begins with the highest bits.",
            "字节都对，但次序反了。UTF-8 从最高位开始。",
        )
    if given == pure:
        return Hint(
            "marks are missing",
            "You cut the bits rightly into 4 + 6 + 6, but the marks are missing: 1110 before the first part, 10 before "
            "the others.",
            "你把二进制位正确地切成了 4 + 6 + 6，但缺少标记：第一份前面是 1110，其余前面是 10。",
        )
    if given == [number >> 8, number & 255] or given == [0, number >> 8, number & 255]:
        return Hint(
            "not UTF-8",
            "You cut the number into whole bytes of 8 bits. UTF-8 cuts it into 4 + 6 + 6 and puts marks before the parts.",
            "你把这个数切成了 8 位一份的整字节。UTF-8 切成 4 + 6 + 6，并在各份前面加标记。",
        )
    if len(given) == 3 and given[1:] == right[1:]:
        return Hint(
            "first mark",
            f"The last two bytes are right. The first should be 1110 followed by the highest four bits, {right[0]:08b}; "
            f"yours is {given[0]:b}.",
            f"后两个字节正确。第一个字节应是 1110 加上最高的四位，即 {right[0]:08b}；你的是 {given[0]:b}。",
        )
    return Hint(
        "other bytes",
        f"For the number {number} = {number:016b} wanted are {right}; you returned {given[:4]}. Cut the 16 digits into "
        "4 + 6 + 6.",
        f"对于数 {number} = {number:016b}，应为 {right}；你返回的是 {given[:4]}。请把 16 位切成 4 + 6 + 6。",
    )


# --- 02.2 Scaled scores -----------------------------------------------------------------------------------------------

Q, K = _numbers((3, 4), 1), _numbers((5, 4), 2)  # 3 queries, 5 keys, d = 4: pairwise different sizes


def scaled_scores(q, k):
    """Scores [n, m] of n queries [n, d] and m keys [m, d], divided by the square root of d."""
    return q @ k.T / np.sqrt(q.shape[-1])


def judge_scaled_scores(answer):
    """3 queries and 5 keys of size 4: a transposed table has another shape, a wrong scale other numbers."""
    given = np.asarray(answer(Q.copy(), K.copy()), dtype=float)
    if given.shape == (5, 3):
        return _TRANSPOSED
    array = _array(given, (3, 5))
    if isinstance(array, Hint) or _near(array, scaled_scores(Q, K)):
        return array if isinstance(array, Hint) else None
    symptoms = [
        (Q @ K.T, _UNSCALED),
        (Q @ K.T / 4, _BY_D),
        (Q @ K.T / np.sqrt(5), _BY_KEYS),
        (Q @ K.T / np.sqrt(3), _BY_KEYS),
        (Q @ K.T * 2, _TIMES),
    ]
    return _first(
        array,
        symptoms,
        Hint(
            "other numbers",
            f"The first query and first key should give {scaled_scores(Q, K)[0, 0]:.3f}; you have {array[0, 0]:.3f}. "
            "A score is a dot product divided by the square root of d.",
            f"第一个查询与第一个键应得 {scaled_scores(Q, K)[0, 0]:.3f}，你得到 {array[0, 0]:.3f}。"
            "分数是点积除以 d 的平方根。",
        ),
    )


_TRANSPOSED = Hint(
    "query and key swapped",
    "Your table has a row for each key. Rows belong to the queries (who look), columns to the keys: q @ k.T.",
    "你的表每行是一个键。行应属于查询（看的一方），列属于键：q @ k.T。",
)
_UNSCALED = Hint(
    "not scaled",
    "These are the bare dot products. Divide by the square root of d, the number of entries of a query.",
    "这是没有缩放的点积。请除以 d 的平方根，d 是一个查询有几个数。",
)
_BY_D = Hint(
    "divided by d",
    "You divided by d itself. The standard deviation of a dot product grows like its square root: divide by sqrt(d).",
    "你除以了 d 本身。点积的标准差按 d 的平方根增长：请除以 sqrt(d)。",
)
_BY_KEYS = Hint(
    "scaled by the wrong axis",
    "You took the root of the number of tokens. Wanted is d, the size of one vector: q.shape[-1].",
    "你开方的是词元个数。应该用一个向量的大小 d：q.shape[-1]。",
)
_TIMES = Hint(
    "multiplied instead of divided",
    "Your scores are larger than the dot products: you multiplied by sqrt(d). Divide by it.",
    "你的分数比点积还大：你乘以了 sqrt(d)。应当除以它。",
)


# --- 02.3 The causal mask ---------------------------------------------------------------------------------------------


def causal_mask(n):
    """A boolean table [n, n]: True where query i may look at key j, that is where j <= i."""
    return np.tril(np.ones((n, n), dtype=bool))


def judge_causal_mask(answer):
    """A mask of 5 tokens; whichever diagonal is wrong is named."""
    for n in (5, 1):
        given = np.asarray(answer(n))
        if given.shape != (n, n):
            return _array(given, (n, n))
        if given.dtype != bool and not np.isin(given, (0, 1)).all():
            return Hint(
                "not True and False",
                "The mask should hold True (allowed) and False (forbidden). The -inf comes later, where the scores are.",
                "掩码里应当是 True（许看）和 False（不许看）。-inf 是后面加在分数上的。",
            )
        given = given.astype(bool)
        if not np.array_equal(given, causal_mask(n)):
            return _mask_hint(given, n)
    return None


def _mask_hint(given, n):
    lower = np.tril(np.ones((n, n), dtype=bool))
    if np.array_equal(given, np.tril(lower, -1)):
        return Hint(
            "off by one: itself forbidden",
            "No token may look at itself, and the first may look at nothing: its softmax would divide by 0. Allow the "
            "diagonal.",
            "你不让词元看自己，第一个词元什么都看不到，它的 softmax 会除以 0。对角线应当允许。",
        )
    if np.array_equal(given, np.tril(np.ones((n, n), dtype=bool), 1)):
        return Hint(
            "off by one: sees the next token",
            "Each token sees one token too many: the very one that it has to predict. It would learn to copy.",
            "每个词元多看了一个，而那正是它要预测的词元。这样它只会学会照抄。",
        )
    if np.array_equal(given, ~lower):
        return Hint(
            "inverted",
            "Your True stands where looking is forbidden. Here True means allowed.",
            "你的 True 标在了不许看的地方。这里 True 表示许看。",
        )
    if np.array_equal(given, lower.T):
        return Hint(
            "looks ahead",
            "Your tokens see the future and not the past: the first row is all True. Row i may look at columns 0 to i.",
            "你的词元看得到后面，看不到前面：第一行全是 True。第 i 行应当只看第 0 到 i 列。",
        )
    i, j = np.argwhere(given != lower)[0]
    return Hint(
        "other places",
        f"Row {i}, column {j} is {bool(given[i, j])}. Row i may look at columns 0 to i, itself included, and no further.",
        f"第 {i} 行第 {j} 列是 {bool(given[i, j])}。第 i 行可以看第 0 到 i 列，包括自己，不能更远。",
    )


# --- 02.4 Attention from an empty cell --------------------------------------------------------------------------------

Q6, K6, V6 = _numbers((6, 4), 3), _numbers((6, 4), 4), _numbers((6, 3), 5)


def attention(q, k, v):
    """Causal attention: q and k [n, d], v [n, d_v] -> [n, d_v]."""
    scores = q @ k.T / np.sqrt(q.shape[-1])
    scores = np.where(np.tril(np.ones_like(scores)) > 0, scores, -np.inf)
    return softmax(scores) @ v


def _variant(q, k, v, scale=None, diagonal=0, axis=-1, masked=True, late=False):
    """Attention with one thing done differently; used to recognise slips."""
    scores = q @ k.T / (np.sqrt(q.shape[-1]) if scale is None else scale)
    mask = np.tril(np.ones_like(scores), diagonal) > 0
    if late:
        return np.where(mask, softmax(scores, axis), 0) @ v
    if masked:
        scores = np.where(mask, scores, -1e30 if axis == -1 else -np.inf)
    return softmax(scores, axis) @ v


def _zeros_for_infinity(q, k, v):
    scores = q @ k.T / np.sqrt(q.shape[-1])
    return softmax(np.tril(scores)) @ v


def _swapped(q, k, v):
    return attention(k, q, v)


def _slips(q, k, v):
    """What each typical slip gives on these arrays, with its hint."""
    with np.errstate(all="ignore"):
        return [
            (_variant(q, k, v, scale=1), _NO_SCALE),
            (_variant(q, k, v, scale=q.shape[-1]), _NO_SCALE_D),
            (_swapped(q, k, v), _SWAPPED),
            (_variant(q, k, v, axis=0), _AXIS),
            (_variant(q, k, v, masked=False), _NO_MASK),
            (_variant(q, k, v, diagonal=1), _NEXT),
            (_variant(q, k, v, diagonal=-1)[1:], _ITSELF),
            (_variant(q, k, v, late=True), _LATE),
            (_zeros_for_infinity(q, k, v), _ZERO),
        ]


def judge_attention(answer):
    """Six tokens, d = 4, values of 3: shape first, then each slip by the numbers it gives, then large scores."""
    array = _array(answer(Q6.copy(), K6.copy(), V6.copy()), (6, 3))
    if isinstance(array, Hint):
        return array
    if not np.isfinite(array).all() and _near(array[1:], _slips(Q6, K6, V6)[6][0]):
        return _ITSELF
    if not np.isfinite(array).all():
        return _NAN
    if not _near(array, attention(Q6, K6, V6)):
        if _near(array[1:], _slips(Q6, K6, V6)[6][0]):
            return _ITSELF
        return _first(array, _slips(Q6, K6, V6), _OTHER)
    return _large_scores(answer)


def _large_scores(answer):
    try:
        big = np.asarray(answer(Q6 * 40, K6 * 40, V6.copy()), dtype=float)
    except ReaderError as failure:
        if isinstance(failure.error, ArithmeticError | RuntimeWarning):
            return _OVERFLOW
        raise
    return None if np.allclose(big, attention(Q6 * 40, K6 * 40, V6), atol=1e-6) else _OVERFLOW


_NO_SCALE = Hint(
    "not scaled",
    "Everything is there except the scale: divide the scores by the square root of d before the softmax.",
    "别的都对，只缺缩放：在 softmax 之前把分数除以 d 的平方根。",
)
_NO_SCALE_D = Hint(
    "divided by d",
    "You divided the scores by d itself. It should be the square root of d.",
    "你把分数除以了 d 本身，应当除以 d 的平方根。",
)
_SWAPPED = Hint(
    "query and key swapped",
    "You compare keys with queries: row i of your table is what key i thinks. Rows belong to the queries: q @ k.T.",
    "你把键和查询弄反了：你的第 i 行是第 i 个键的。行应属于查询：q @ k.T。",
)
_AXIS = Hint(
    "softmax over the wrong axis",
    "Your softmax adds up to 1 in each column. Each query shares out its own weight: normalise each row (axis -1).",
    "你的 softmax 让每一列之和为 1。应由每个查询分配自己的权重：对每一行归一化（axis=-1）。",
)
_NO_MASK = Hint(
    "no mask",
    "The first token already knows all values. Row i may look at keys 0 to i only: set later scores to -inf.",
    "第一个词元已经知道了所有的值。第 i 行只许看第 0 到 i 个键：把后面的分数设为 -inf。",
)
_NEXT = Hint(
    "off by one: sees the next token",
    "Each token sees one token too many, the one it has to predict. Allow keys 0 to i in row i, not i + 1.",
    "每个词元多看了一个，就是它要预测的那个。第 i 行只许看第 0 到 i 个键，不含 i + 1。",
)
_ITSELF = Hint(
    "off by one: itself forbidden",
    "Your tokens may not look at themselves, so the first row has nothing to look at. Allow the diagonal.",
    "你的词元不许看自己，于是第一行没有东西可看。对角线应当允许。",
)
_LATE = Hint(
    "masked after the softmax",
    "Your weights are zero in the right places, but the rows no longer add up to 1. Mask the scores before the softmax.",
    "该为零的地方是零，但各行之和不再是 1。应当在 softmax 之前遮住分数。",
)
_ZERO = Hint(
    "masked with zero",
    "You set later scores to 0, but exp(0) = 1 still counts. Set them to -inf, so that exp gives 0.",
    "你把后面的分数设为 0，可是 exp(0) = 1，仍然算数。应设为 -inf，这样 exp 得 0。",
)
_NAN = Hint(
    "not a number",
    "Your result holds nan or inf. Two usual causes: a row with nothing to look at, and 0 * inf when a mask is multiplied.",
    "结果里有 nan 或 inf。常见原因有两个：某一行没有东西可看；用乘法加掩码时出现 0 * inf。",
)
_OVERFLOW = Hint(
    "overflow",
    "Right for small scores, but large ones break it: exp overflows, or a whole row becomes 0. Subtract the maximum of each row, "
    "taken after masking, before exp.",
    "分数小时正确，分数大时却会出错：要么 exp 溢出，要么整行变成 0。取 exp 之前，先减去每一行的最大值，而且要在掩码之后再取这个最大值。",
)
_OTHER = Hint(
    "other numbers",
    "The numbers are not those of the formula. Print step by step for two tokens: scores, scale, mask, softmax of each row, "
    "times v. The first row of the result must equal the first value.",
    "结果与公式不符。请用两个词元一步步打印：分数、缩放、掩码、每行 softmax、乘以 v。结果的第一行必须等于第一个值。",
)


# --- 02.5 Splitting into heads ----------------------------------------------------------------------------------------

X8 = np.arange(5 * 6.0).reshape(5, 6)  # 5 tokens, d_model 6


def split_heads(x, n_heads):
    """[n, d_model] -> [n_heads, n, d_head]; head h holds the numbers h * d_head ... of every token."""
    n, d_model = x.shape
    return x.reshape(n, n_heads, d_model // n_heads).transpose(1, 0, 2)


def judge_split_heads(answer):
    """5 tokens, width 6, 3 heads of 2: every number says where it came from."""
    given = np.asarray(answer(X8.copy(), 3), dtype=float)
    if given.shape == (5, 3, 2):
        return Hint(
            "head axis not in front",
            "Cut rightly, but the axes are (token, head, number). Move the head axis to the front: transpose(1, 0, 2).",
            "切得对，但轴的次序是（词元，头，数）。把头的轴移到最前：transpose(1, 0, 2)。",
        )
    array = _array(given, (3, 5, 2))
    if isinstance(array, Hint) or _near(array, split_heads(X8, 3)):
        return array if isinstance(array, Hint) else None
    symptoms = [
        (
            X8.reshape(3, 5, 2),
            Hint(
                "tokens mixed up",
                "The shape is right, but head 0 now holds pieces of several tokens' other heads: reshape reads row after row. "
                "Cut each token first, then swap the axes.",
                "形状对了，但第 0 个头里混进了其他词元、其他头的数：reshape 是逐行读的。应先把每个词元切开，再交换轴。",
            ),
        ),
        (
            X8.reshape(5, 2, 3).transpose(2, 0, 1),
            Hint(
                "interleaved",
                "You dealt the numbers out like cards: head 0 has numbers 0, 3. It should have neighbours: numbers 0, 1.",
                "你像发牌一样把数轮流分给各头：第 0 个头得到第 0、3 个数。应当是相邻的第 0、1 个数。",
            ),
        ),
    ]
    return _first(
        array,
        symptoms,
        Hint(
            "other numbers",
            f"Head 1 of token 0 should hold {split_heads(X8, 3)[1, 0].tolist()}; yours holds {array[1, 0].tolist()}.",
            f"第 0 个词元的第 1 个头应为 {split_heads(X8, 3)[1, 0].tolist()}；你的是 {array[1, 0].tolist()}。",
        ),
    )


# --- 02.6 Rotary positions --------------------------------------------------------------------------------------------

VECTOR = np.array([1.0, 0.5, -0.5, 2.0])


def rotate(x, place):
    """Turns the pairs (0, 1), (2, 3), ... of a vector [d]: pair i by the angle place * 10000 ** (-2 i / d)."""
    d = len(x)
    angle = place * 10000.0 ** (-np.arange(0, d, 2) / d)
    a, b = x[0::2], x[1::2]
    out = np.empty(d)
    out[0::2] = a * np.cos(angle) - b * np.sin(angle)
    out[1::2] = a * np.sin(angle) + b * np.cos(angle)
    return out


def _one_speed(x, place):
    a, b = x[0::2], x[1::2]
    return np.stack([a * np.cos(place) - b * np.sin(place), a * np.sin(place) + b * np.cos(place)], axis=1).reshape(-1)


def _halves(x, place):
    d = len(x)
    angle = place * 10000.0 ** (-np.arange(0, d, 2) / d)
    a, b = x[: d // 2], x[d // 2 :]
    return np.concatenate([a * np.cos(angle) - b * np.sin(angle), a * np.sin(angle) + b * np.cos(angle)])


def _same_sign(x, place):
    d = len(x)
    angle = place * 10000.0 ** (-np.arange(0, d, 2) / d)
    a, b = x[0::2], x[1::2]
    return np.stack([a * np.cos(angle) + b * np.sin(angle), a * np.sin(angle) + b * np.cos(angle)], axis=1).reshape(-1)


def _overwritten(x, place):
    """The second number of each pair is computed from a first one that was turned already."""
    out = np.array(x)
    angle = place * 10000.0 ** (-np.arange(0, len(x), 2) / len(x))
    out[0::2] = out[0::2] * np.cos(angle) - out[1::2] * np.sin(angle)
    out[1::2] = out[0::2] * np.sin(angle) + out[1::2] * np.cos(angle)
    return out


def _added(x, place):
    return x + rotate(np.tile([0.0, 1.0], len(x) // 2), -place)  # the sinusoidal vector


def judge_rotate(answer):
    """Place 3: numbers first; a turn that does not keep the length is named as such."""
    array = _array(answer(VECTOR.copy(), 3), (4,))
    if isinstance(array, Hint):
        return array
    if _near(array, rotate(VECTOR, 3)):
        return None
    symptoms = [
        (
            rotate(VECTOR, -3),
            Hint(
                "turned backwards",
                "You turned the other way. For a positive angle the new first number is a cos - b sin.",
                "你转反了方向。角度为正时，新的第一个数是 a cos - b sin。",
            ),
        ),
        (
            _one_speed(VECTOR, 3),
            Hint(
                "one speed for all pairs",
                "All pairs turn equally fast. Pair i turns by place * 10000 ** (-2 i / d): later pairs turn more slowly.",
                "所有的对转得一样快。第 i 对应转过 place * 10000 ** (-2 i / d)：越靠后越慢。",
            ),
        ),
        (
            _halves(VECTOR, 3),
            Hint(
                "other pairs",
                "You paired the first half with the second half (some libraries do). Here the pairs are neighbours: x[0::2] "
                "with x[1::2].",
                "你把前一半与后一半配成了对（有些库是这样）。这里要求相邻的两个成对：x[0::2] 与 x[1::2]。",
            ),
        ),
        (
            _overwritten(VECTOR, 3),
            Hint(
                "overwritten while turning",
                "Your second number was computed from a first number that had been turned already. Compute both from the old "
                "pair, in new arrays.",
                "第二个数是用已经转过的第一个数算出来的。两个数都要用原来的那一对来算，结果放进新的数组。",
            ),
        ),
        (
            _added(VECTOR, 3),
            Hint(
                "added instead of turned",
                "You added sines and cosines to the vector: that is the sinusoidal way. Rotary positions turn it.",
                "你把 sin 和 cos 加到了向量上：那是正弦位置的做法。旋转位置编码是转动它。",
            ),
        ),
    ]
    length, wanted = np.linalg.norm(array), np.linalg.norm(VECTOR)
    other = Hint(
        "length changed",
        f"A turn keeps the length of a vector, {wanted:.3f}; yours has {length:.3f}. Check the signs: a cos - b sin, a sin + "
        "b cos.",
        f"转动不改变向量的长度 {wanted:.3f}；你的结果长 {length:.3f}。检查正负号：a cos - b sin，a sin + b cos。",
    )
    if abs(length - wanted) < 1e-6:
        other = Hint(
            "other angle",
            "You did turn the vector, but by other angles. Pair i turns by place * 10000 ** (-2 i / d).",
            "你确实转动了向量，但角度不对。第 i 对应转过 place * 10000 ** (-2 i / d)。",
        )
    return _first(array, symptoms, other)


# --- 02.7 Layer normalisation -----------------------------------------------------------------------------------------

Y = _numbers((3, 5), 6) * 3 + 2


def layer_norm(x):
    """Each row of x [n, d] shifted to mean 0 and scaled to variance 1."""
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)


def judge_layer_norm(answer):
    """3 tokens of 5 numbers, then a token whose numbers are all equal."""
    array = _array(answer(Y.copy()), (3, 5))
    if isinstance(array, Hint):
        return array
    if not _near(array, layer_norm(Y)):
        return _first(array, _norm_slips(Y), _NORM_OTHER)
    try:
        with np.errstate(all="ignore"):
            flat = np.asarray(answer(np.full((2, 5), 3.0)), dtype=float)
    except ReaderError as failure:
        if isinstance(failure.error, ArithmeticError | RuntimeWarning):
            return _NO_EPS
        raise
    return None if np.isfinite(flat).all() else _NO_EPS


def _norm_slips(x):
    centred = x - x.mean(-1, keepdims=True)
    return [
        ((x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5), _NORM_AXIS),
        ((x - x.mean()) / np.sqrt(x.var() + 1e-5), _NORM_ALL),
        (centred / np.sqrt(x.var(-1, ddof=1, keepdims=True) + 1e-5), _NORM_DDOF),
        (centred / (x.var(-1, keepdims=True) + 1e-5), _NORM_ROOT),
        (centred, _NORM_SCALE),
        (x / np.sqrt(x.var(-1, keepdims=True) + 1e-5), _NORM_SHIFT),
    ]


_NORM_AXIS = Hint(
    "normalised over the tokens",
    "Each of your columns has mean 0. A token is normalised for itself: take mean and variance of each row (axis -1).",
    "你的每一列均值为 0。词元应各自归一化：对每一行求均值和方差（axis=-1）。",
)
_NORM_ALL = Hint(
    "one mean for everything",
    "You used one mean and one variance for all tokens. Each row has its own: axis=-1, keepdims=True.",
    "你对所有词元用了同一个均值和方差。每一行各有自己的：axis=-1，keepdims=True。",
)
_NORM_DDOF = Hint(
    "divided by d - 1",
    "Your variance divides by d - 1 (torch.var does so unless told otherwise). Layer normalisation divides by d.",
    "你的方差除以了 d - 1（torch.var 默认如此）。层归一化除以 d。",
)
_NORM_ROOT = Hint(
    "divided by the variance",
    "You divided by the variance. Divide by its square root, the standard deviation.",
    "你除以了方差。应除以它的平方根，即标准差。",
)
_NORM_SCALE = Hint(
    "not scaled",
    "Each row has mean 0, but not variance 1. Divide by the square root of the variance.",
    "每一行均值为 0，但方差不是 1。还要除以方差的平方根。",
)
_NORM_SHIFT = Hint(
    "not shifted",
    "Each row has variance 1, but not mean 0. Subtract the row's mean first.",
    "每一行方差为 1，但均值不是 0。请先减去这一行的均值。",
)
_NO_EPS = Hint(
    "division by zero",
    "A token whose numbers are all equal has variance 0, and you divide by it. Add eps = 1e-5 under the root.",
    "如果一个词元的数全都相等，方差为 0，你就除以了 0。请在根号里加上 eps = 1e-5。",
)
_NORM_OTHER = Hint(
    "other numbers",
    "The rows should have mean 0 and variance 1. Print x.mean(-1) and x.var(-1) of your result, and check that eps stands "
    "under the root.",
    "每一行应当均值为 0、方差为 1。打印结果的 x.mean(-1) 和 x.var(-1)，并检查 eps 是否加在根号里面。",
)


# --- 02.8 Multi-head self-attention -----------------------------------------------------------------------------------

X9 = _numbers((5, 6), 7)
W_Q, W_K, W_V, W_O = (_numbers((6, 6), seed) / 2 for seed in (8, 9, 10, 11))


def multi_head(x, w_q, w_k, w_v, w_o, n_heads):
    """Causal self-attention of x [n, d_model] with n_heads heads and matrices [d_model, d_model] -> [n, d_model]."""
    q, k, v = (split_heads(x @ w, n_heads) for w in (w_q, w_k, w_v))
    heads = np.stack([attention(*one) for one in zip(q, k, v, strict=True)])
    return heads.transpose(1, 0, 2).reshape(x.shape) @ w_o


def _one_head(x, w_q, w_k, w_v, w_o, n_heads):
    return attention(x @ w_q, x @ w_k, x @ w_v) @ w_o


def _no_output(x, w_q, w_k, w_v, w_o, n_heads):
    return multi_head(x, w_q, w_k, w_v, np.eye(len(w_o)), n_heads)


def _model_scale(x, w_q, w_k, w_v, w_o, n_heads):
    return multi_head(x, w_q / np.sqrt(n_heads), w_k, w_v, w_o, n_heads)


def _no_head_scale(x, w_q, w_k, w_v, w_o, n_heads):
    return multi_head(x, w_q * np.sqrt(x.shape[1] // n_heads), w_k, w_v, w_o, n_heads)


def _sees_all(x, w_q, w_k, w_v, w_o, n_heads):
    q, k, v = (split_heads(x @ w, n_heads) for w in (w_q, w_k, w_v))
    heads = softmax(q @ k.transpose(0, 2, 1) / np.sqrt(q.shape[-1])) @ v
    return heads.transpose(1, 0, 2).reshape(x.shape) @ w_o


def _badly_merged(x, w_q, w_k, w_v, w_o, n_heads):
    q, k, v = (split_heads(x @ w, n_heads) for w in (w_q, w_k, w_v))
    return np.stack([attention(*one) for one in zip(q, k, v, strict=True)]).reshape(x.shape) @ w_o


def _transposed_matrices(x, w_q, w_k, w_v, w_o, n_heads):
    return multi_head(x, w_q.T, w_k.T, w_v.T, w_o.T, n_heads)


def judge_multi_head(answer):
    """5 tokens, width 6, 3 heads; every part left out gives other numbers."""
    given = (X9, W_Q, W_K, W_V, W_O)
    array = _array(answer(*[a.copy() for a in given], 3), (5, 6))
    if isinstance(array, Hint) or _near(array, multi_head(*given, 3)):
        return array if isinstance(array, Hint) else None
    return _first(array, [(slip(*given, 3), hint) for slip, hint in _HEAD_SLIPS], _HEAD_OTHER)


_HEAD_SLIPS = [
    (
        _one_head,
        Hint(
            "one head only",
            "These are the numbers of a single head over the whole width. Cut q, k and v into heads before the attention.",
            "这是整个宽度上单个头的结果。做注意力之前，先把 q、k、v 切成多个头。",
        ),
    ),
    (
        _no_output,
        Hint(
            "no output matrix",
            "The heads are right and stand side by side, but nothing mixes them: multiply by w_o at the end.",
            "各个头都对，也并排放好了，但还没有混合：最后要乘以 w_o。",
        ),
    ),
    (
        _model_scale,
        Hint(
            "scaled by d_model",
            "You divided the scores by the root of d_model. A query of a head has d_head numbers: take the root of d_head.",
            "你把分数除以了 d_model 的平方根。一个头的查询只有 d_head 个数：应取 d_head 的平方根。",
        ),
    ),
    (
        _no_head_scale,
        Hint(
            "not scaled",
            "Everything is there except the scale: divide the scores of each head by the square root of d_head.",
            "别的都对，只缺缩放：每个头的分数要除以 d_head 的平方根。",
        ),
    ),
    (
        _sees_all,
        Hint(
            "no mask",
            "Your first token knows what comes later. Mask the later keys in every head.",
            "你的第一个词元知道后面的内容。每个头都要遮住后面的键。",
        ),
    ),
    (
        _badly_merged,
        Hint(
            "heads merged in the wrong order",
            "The heads are right, but reshape alone mixes up tokens: move the head axis back beside the numbers first.",
            "各个头都对，但直接 reshape 会把词元弄乱：先把头的轴移回到数的旁边。",
        ),
    ),
    (
        _transposed_matrices,
        Hint(
            "matrices transposed",
            "You used the transposed matrices. Here a row vector is multiplied from the left: x @ w_q.",
            "你用了转置的矩阵。这里是行向量从左边乘：x @ w_q。",
        ),
    ),
]
_HEAD_OTHER = Hint(
    "other numbers",
    "The numbers are not those of the formula. Test the parts alone: exercise 02.5 for the cutting, 02.4 for each head; then "
    "put the heads side by side, head 0 first.",
    "结果与公式不符。请分别检查各部分：切分用练习 02.5，每个头用练习 02.4；然后把各头并排放好，第 0 个头在最前。",
)

EXERCISES = [
    Exercise(
        "02.1",
        ("The three bytes of a character", "一个字的三个字节"),
        ("a list of three whole numbers from 0 to 255", "由三个 0 到 255 的整数组成的列表"),
        judge_utf8_bytes,
        utf8_bytes,
        {
            "wrong order": lambda number: utf8_bytes(number)[::-1],
            "marks are missing": lambda number: [number // 4096, number // 64 % 64, number % 64],
            "not UTF-8": lambda number: [number >> 8, number & 255],
            "first mark": lambda number: [0b11000000 + number // 4096, *utf8_bytes(number)[1:]],
            "other bytes": lambda number: [0b11100000 + number // 4096, 0b10000000 + number // 64, 0b10000000 + number % 64],
        },
    ),
    Exercise(
        "02.2",
        ("Scaled scores", "缩放后的分数"),
        ("an array of shape [queries, keys]", "形状为 [查询, 键] 的数组"),
        judge_scaled_scores,
        scaled_scores,
        {
            "query and key swapped": lambda q, k: k @ q.T / np.sqrt(q.shape[-1]),
            "not scaled": lambda q, k: q @ k.T,
            "divided by d": lambda q, k: q @ k.T / q.shape[-1],
            "scaled by the wrong axis": lambda q, k: q @ k.T / np.sqrt(len(k)),
            "multiplied instead of divided": lambda q, k: q @ k.T * np.sqrt(q.shape[-1]),
        },
    ),
    Exercise(
        "02.3",
        ("The causal mask", "因果掩码"),
        ("a boolean array of shape [n, n]", "形状为 [n, n] 的布尔数组"),
        judge_causal_mask,
        causal_mask,
        {
            "off by one: itself forbidden": lambda n: np.tril(np.ones((n, n), dtype=bool), -1),
            "off by one: sees the next token": lambda n: np.tril(np.ones((n, n), dtype=bool), 1),
            "inverted": lambda n: ~causal_mask(n),
            "looks ahead": lambda n: causal_mask(n).T,
            "not True and False": lambda n: np.where(causal_mask(n), 0, -np.inf),
        },
    ),
    Exercise(
        "02.4",
        ("Attention from an empty cell", "从空白单元写出注意力"),
        ("an array of shape [n, d_v]", "形状为 [n, d_v] 的数组"),
        judge_attention,
        attention,
        {
            "not scaled": lambda q, k, v: _variant(q, k, v, scale=1),
            "divided by d": lambda q, k, v: _variant(q, k, v, scale=q.shape[-1]),
            "query and key swapped": _swapped,
            "softmax over the wrong axis": lambda q, k, v: _variant(q, k, v, axis=0),
            "no mask": lambda q, k, v: _variant(q, k, v, masked=False),
            "off by one: sees the next token": lambda q, k, v: _variant(q, k, v, diagonal=1),
            "off by one: itself forbidden": lambda q, k, v: _variant(q, k, v, diagonal=-1),
            "masked after the softmax": lambda q, k, v: _variant(q, k, v, late=True),
            "masked with zero": _zeros_for_infinity,
            "overflow": lambda q, k, v: _bare_exp(q, k, v),
        },
    ),
    Exercise(
        "02.5",
        ("Cutting into heads", "切成多个头"),
        ("an array of shape [n_heads, n, d_head]", "形状为 [n_heads, n, d_head] 的数组"),
        judge_split_heads,
        split_heads,
        {
            "head axis not in front": lambda x, n_heads: x.reshape(len(x), n_heads, -1),
            "tokens mixed up": lambda x, n_heads: x.reshape(n_heads, len(x), -1),
            "interleaved": lambda x, n_heads: x.reshape(len(x), -1, n_heads).transpose(2, 0, 1),
            "other numbers": lambda x, n_heads: split_heads(x, n_heads)[::-1],
        },
    ),
    Exercise(
        "02.6",
        ("Positions by turning", "用旋转表示位置"),
        ("an array of shape [d]", "形状为 [d] 的数组"),
        judge_rotate,
        rotate,
        {
            "turned backwards": lambda x, place: rotate(x, -place),
            "one speed for all pairs": _one_speed,
            "other pairs": _halves,
            "overwritten while turning": _overwritten,
            "added instead of turned": _added,
            "length changed": _same_sign,
            "other angle": lambda x, place: rotate(x, place * 2),
        },
    ),
    Exercise(
        "02.7",
        ("Layer normalisation", "层归一化"),
        ("an array of the same shape as x", "与 x 形状相同的数组"),
        judge_layer_norm,
        layer_norm,
        {
            "normalised over the tokens": lambda x: (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5),
            "one mean for everything": lambda x: (x - x.mean()) / np.sqrt(x.var() + 1e-5),
            "divided by d - 1": lambda x: (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, ddof=1, keepdims=True) + 1e-5),
            "divided by the variance": lambda x: (x - x.mean(-1, keepdims=True)) / (x.var(-1, keepdims=True) + 1e-5),
            "not scaled": lambda x: x - x.mean(-1, keepdims=True),
            "not shifted": lambda x: x / np.sqrt(x.var(-1, keepdims=True) + 1e-5),
            "division by zero": lambda x: _no_eps(x),
        },
    ),
    Exercise(
        "02.8",
        ("Multi-head self-attention", "多头自注意力"),
        ("an array of shape [n, d_model]", "形状为 [n, d_model] 的数组"),
        judge_multi_head,
        multi_head,
        {
            "one head only": _one_head,
            "no output matrix": _no_output,
            "scaled by d_model": _model_scale,
            "not scaled": _no_head_scale,
            "no mask": _sees_all,
            "heads merged in the wrong order": _badly_merged,
            "matrices transposed": _transposed_matrices,
        },
    ),
]


def _bare_exp(q, k, v):
    """Right for small scores; exp overflows for large ones."""
    scores = q @ k.T / np.sqrt(q.shape[-1])
    scores = np.where(np.tril(np.ones_like(scores)) > 0, scores, -np.inf)
    with np.errstate(all="ignore"):
        exponentials = np.exp(scores)
        return exponentials / exponentials.sum(-1, keepdims=True) @ v


def _no_eps(x):
    """Right unless all numbers of a token are equal."""
    centred = x - x.mean(-1, keepdims=True)
    with np.errstate(all="ignore"):
        return centred / np.sqrt(x.var(-1, keepdims=True))
