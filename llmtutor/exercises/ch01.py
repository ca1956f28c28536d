"""Exercises of chapter 01: a layer, a loss, two gradients, a step, a bigram model and its perplexity."""

import math

import numpy as np

from llmtutor.checks import Exercise, Hint, ReaderError, describe


def _numbers(value, shape):
    """The answer as an array of this shape, or the hint that says which shape came instead."""
    array = np.asarray(value, dtype=float)
    if array.shape == shape:
        return array
    return Hint(
        "wrong shape",
        f"Wanted is an array of shape {list(shape)}; yours has shape {list(array.shape)}. Write the shape beside each line.",
        f"需要形状为 {list(shape)} 的数组，你的形状是 {list(array.shape)}。请在每一行旁边写上形状。",
    )


def _same(a, b, tolerance=1e-6):
    return np.shape(a) == np.shape(b) and np.allclose(a, b, atol=tolerance, rtol=0)


def _first_match(given, symptoms):
    """The hint of the first wrong result that equals the given one, or None."""
    return next((hint for wrong, hint in symptoms if _same(given, wrong)), None)


# --- 01.1 A layer -----------------------------------------------------------------------------------------------------

LAYER_X = np.array([[1.0, 2.0], [3.0, -1.0], [0.5, 4.0]])
LAYER_W = np.array([[0.5, -1.0], [2.0, 0.25]])
LAYER_B = np.array([1.0, -2.0])


def layer(x, w, b):
    """All examples through all neurons: [n, inputs] with w [neurons, inputs] and b [neurons] gives [n, neurons]."""
    return x @ w.T + b


def judge_layer(answer):
    """Uses as many inputs as neurons, so that a missing transpose raises no error, and then other sizes."""
    given = _numbers(answer(LAYER_X.copy(), LAYER_W.copy(), LAYER_B.copy()), (3, 2))
    if isinstance(given, Hint):
        return given
    right = layer(LAYER_X, LAYER_W, LAYER_B)
    hint = _first_match(
        given,
        [
            (LAYER_X @ LAYER_W + LAYER_B, _TRANSPOSE),
            (LAYER_X @ LAYER_W.T, _NO_BIAS),
            (np.maximum(right, 0), _ACTIVATED),
            (np.tanh(right), _ACTIVATED),
            (1 / (1 + np.exp(-right)), _ACTIVATED),
            (right - 2 * LAYER_B, _MINUS_BIAS),
        ],
    )
    if hint or not _same(given, right):
        return hint or _other(given, right)
    x, w, b = np.arange(8.0).reshape(2, 4), np.arange(12.0).reshape(3, 4), np.ones(3)
    wide = _numbers(answer(x, w, b), (2, 3))
    return wide if isinstance(wide, Hint) else None if _same(wide, layer(x, w, b)) else _other(wide, layer(x, w, b))


def _other(given, wanted):
    """The hint that names the first number of the answer that differs, by its place where there are several."""
    given, wanted = np.asarray(given, dtype=float), np.asarray(wanted, dtype=float)
    place = tuple(np.argwhere(~np.isclose(given, wanted, atol=1e-6, rtol=0))[0]) if given.ndim else ()
    digits = 4 if f"{given[place]:.4f}" != f"{wanted[place]:.4f}" else 8
    want, have = f"{wanted[place]:.{digits}f}", f"{given[place]:.{digits}f}"
    where = {
        0: ("Your number", "这个数"),
        1: ("Number {} (counted from 0)", "第 {} 个数（从 0 数起）"),
        2: ("Row {}, column {} (counted from 0)", "第 {} 行第 {} 列（从 0 数起）"),
    }[len(place)]
    en, zh = (text.format(*place) for text in where)
    return Hint(
        "other numbers",
        f"{en} should be {want}; yours is {have}. Work this one out on paper.",
        f"{zh}应为 {want}，你得到 {have}。先在纸上把它算出来。",
    )


_TRANSPOSE = Hint(
    "transpose is missing",
    "You multiplied by w instead of w.T. Here both fit because w is square; but row j of w holds the weights of neuron j.",
    "你乘的是 w 而不是 w.T。这里 w 是方阵，两种都能乘；但 w 的第 j 行才是第 j 个神经元的权重。",
)
_NO_BIAS = Hint(
    "bias is missing",
    "With all inputs 0 your layer gives 0. Add b: broadcasting adds it to every row.",
    "输入全为 0 时，你的层给出 0。请加上 b：广播会把它加到每一行。",
)
_ACTIVATED = Hint(
    "activation too early",
    "Your numbers went through an activation function already. Wanted is the weighted sum with its bias, nothing more.",
    "你的数已经过了激活函数。这里只要带偏置的加权和。",
)
_MINUS_BIAS = Hint(
    "bias is subtracted",
    "You subtracted the bias; it is added.",
    "你减去了偏置，应当加上。",
)

# --- 01.2 Cross-entropy from logits -----------------------------------------------------------------------------------

LOGITS = np.array([[2.0, 0.0, -1.0, 0.5], [0.0, 1.0, 3.0, -2.0], [1.0, 1.0, 1.0, 1.0]])
TARGETS = np.array([0, 1, 3])


def cross_entropy(logits, targets):
    """Mean of minus log softmax at the right class: logits [n, classes], targets [n] give one number."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return float(-log_p[np.arange(len(targets)), targets].mean())


def judge_cross_entropy(answer):
    """One number for three examples; each slip gives another; large logits come last."""
    given = answer(LOGITS.copy(), TARGETS.copy())
    if np.size(given) != 1:
        return Hint(
            "not one number",
            f"Wanted is one number, the mean over the examples; you returned {describe(given)}.",
            f"需要的是一个数，即对样本的平均；你返回的是 {describe(given)}。",
        )
    given = float(np.reshape(given, ()))
    p = np.exp(LOGITS) / np.exp(LOGITS).sum(1, keepdims=True)
    own = p[np.arange(3), TARGETS]
    columns = (np.exp(LOGITS) / np.exp(LOGITS).sum(0))[np.arange(3), TARGETS]
    hint = _first_match(
        given,
        [
            (np.log(own).mean(), _SIGN),
            (-np.log(own).sum(), _SUMMED),
            (-np.log2(own).mean(), _BITS),
            (-np.log(columns).mean(), _WRONG_AXIS),
            (-own.mean(), _NO_LOG),
            (1 - own.mean(), _NO_LOG),
            (-LOGITS[np.arange(3), TARGETS].mean(), _NO_SOFTMAX),
            (-np.log(own.mean()), _LOG_OF_MEAN),
        ],
    )
    if hint or not math.isclose(given, cross_entropy(LOGITS, TARGETS), abs_tol=1e-6):
        return hint or _other(given, cross_entropy(LOGITS, TARGETS))
    return _overflow(lambda: answer(LOGITS + 1000, TARGETS.copy()), given)


def _overflow(again, wanted):
    try:
        value = float(np.reshape(again(), ()))
    except ReaderError as failure:
        if not isinstance(failure.error, ArithmeticError | RuntimeWarning | ValueError):
            raise
        value = math.nan
    return None if math.isclose(value, wanted, abs_tol=1e-6) else _TOO_LARGE


_SIGN = Hint("minus is missing", "Your loss is negative. A log of a probability is below 0: put a minus before it.", "你的损失是负数。概率的对数小于 0，前面要加负号。")
_SUMMED = Hint("sum instead of mean", "Twice the examples would double your loss. Take the mean, not the sum.", "样本多一倍，你的损失就大一倍。请取平均，不要求和。")
_BITS = Hint("log to base 2", "These are bits (log2). Losses in this course use the natural logarithm.", "这是以 2 为底的对数（比特）。本课程的损失用自然对数。")
_WRONG_AXIS = Hint("softmax over the wrong axis", "Your softmax adds up to 1 over the examples. It must add up to 1 over the classes: axis 1.", "你的 softmax 在样本方向上加起来是 1。应当在类别方向（第 1 轴）上加起来是 1。")
_NO_LOG = Hint("log is missing", "You averaged the probabilities themselves. A confident mistake must cost much more: take the log of each first.", "你直接平均了概率。又肯定又错，代价应当大得多：先对每一个取对数。")
_NO_SOFTMAX = Hint("softmax is missing", "You used the logits as if they were log probabilities. Softmax first: the other classes count too.", "你把 logit 当成了对数概率。先做 softmax，其他类别也要算进去。")
_LOG_OF_MEAN = Hint("log of the mean", "You averaged first and took the log then. The log comes first, for each example.", "你先平均再取对数。应当先对每个样本取对数，再平均。")
_TOO_LARGE = Hint("overflow", "Right for small logits, but with logits near 1000 exp overflows. Subtract each row's largest logit first.", "logit 小的时候是对的，接近 1000 时 exp 会溢出。先减去每行最大的 logit。")

# --- 01.3 Finite differences ------------------------------------------------------------------------------------------


def slopes(f, w):
    """Central differences: the slope of f along each of the numbers w [d]; gives [d]."""
    h, found = 1e-4, np.zeros_like(w)
    for j in range(len(w)):
        step = np.zeros_like(w)
        step[j] = h
        found[j] = (f(w + step) - f(w - step)) / (2 * h)
    return found


def _bowl(w):
    return float(w[0] ** 3 + 2 * w[1] ** 2 + w[0] * w[1] + 5 * w[2] ** 2)


POINT = np.array([1.0, -2.0, 3.0])
POINT_SLOPES = np.array([3 * 1 + -2.0, 4 * -2.0 + 1.0, 30.0])


def judge_slopes(answer):
    """A curved function, so that a one-sided difference is seen; then whether w came back as it was."""
    w = POINT.copy()
    given = _numbers(answer(_bowl, w), (3,))
    if isinstance(given, Hint):
        return given
    if not np.array_equal(w, POINT):
        return Hint("changes the input", "After your function ran, w had other numbers in it. Nudge a copy.", "你的函数运行之后，w 里的数变了。请在副本上推。")
    if _same(given, POINT_SLOPES, 5e-7):  # six decimals
        return None
    if _is_one_sided(given):
        return Hint("one-sided difference", "You nudge one way only, and on a curve that is off by about h. Nudge both ways, w + h and w - h, and divide by 2h.", "你只往一边推，遇到弯曲的函数就会差出大约 h 那么多。要向两边推，w + h 和 w - h，再除以 2h。")
    for factor, hint in ((2, _HALF), (-1, _BACKWARDS), (0.5, _HALF)):
        if _same(given, factor * POINT_SLOPES, 1e-3 * abs(factor)):
            return hint
    if _same(given, np.full(3, POINT_SLOPES.sum()), 1e-2):
        return Hint("all at once", "All your slopes are equal: you nudged every number together. Nudge one at a time.", "你的斜率全都相等：你把所有的数一起推了。应当一次只推一个。")
    if _same(given, POINT_SLOPES, 0.1):
        return Hint("h is too large or too small", "Nearly right. If you nudge both ways and divide by 2h, then your h is too large (the curve shows) or too small (digits get lost): take h near 1e-4 or 1e-5.", "差一点。如果你已经向两边推并除以 2h，那就是 h 太大（弯曲看得出来）或太小（有效数字丢了）：h 取 1e-4 或 1e-5 左右。")
    if np.all(np.abs(given) < 0.1 * np.abs(POINT_SLOPES)):
        return Hint("not divided by the step", "Your numbers are tiny: that is the change of f. A slope is the change divided by how far you moved.", "你的数非常小：那是 f 的变化量。斜率是变化量除以移动的距离。")
    return _other(given, POINT_SLOPES)


_HALF = Hint("wrong distance", "Off by a factor of 2. From w - h to w + h the distance is 2h, not h.", "差了一个因子 2。从 w - h 到 w + h 的距离是 2h，不是 h。")
_BACKWARDS = Hint("sign is turned", "Right size, wrong sign: f(w + h) - f(w - h), in this order.", "大小对了，符号反了：应当是 f(w + h) - f(w - h)。")


def _is_one_sided(given):
    """Whether the answer is a forward or backward difference: along the last number _bowl is 5 w^2, so that one is off by 5 h."""
    h = (given[2] - POINT_SLOPES[2]) / 5
    return abs(h) > 1e-7 and _same(given, _one_sided(_bowl, POINT, h), 1e-7 + 0.01 * abs(h))


def _one_sided(f, w, h=1e-4):
    return np.array([(f(w + h * e) - f(w)) / h for e in np.eye(len(w))])


def _two_sided(f, w, h):
    return np.array([(f(w + h * e) - f(w - h * e)) / (2 * h) for e in np.eye(len(w))])


def _together(f, w, h=1e-4):
    return np.full(len(w), (f(w + h) - f(w - h)) / (2 * h))


def _spoils(f, w):
    found = slopes(f, w)
    w += 1e-4
    return found


# --- 01.4 One step with weight decay ----------------------------------------------------------------------------------


def step(w, gradient, rate, decay):
    """One step of gradient descent with weight decay; all arrays [d]."""
    return w - rate * (gradient + decay * w)


STEP = np.array([2.0, -1.0, 4.0]), np.array([0.5, 1.0, -2.0]), 0.1, 0.3


def judge_step(answer):
    """Every slip in the one line gives other numbers."""
    w, gradient, rate, decay = STEP
    kept = w.copy()
    given = _numbers(answer(kept, gradient.copy(), rate, decay), (3,))
    if isinstance(given, Hint):
        return given
    if not np.array_equal(kept, w):
        return Hint("changes the input", "Your function changed w itself (`-=` works in place). Return a new array.", "你的函数改动了 w 本身（`-=` 是就地修改）。请返回一个新数组。")
    if _same(given, step(*STEP)):
        return None
    return _first_match(
        given,
        [
            (w + rate * (gradient + decay * w), _UPHILL),
            (w - rate * gradient, _NO_DECAY),
            (w - rate * gradient - decay * w, _DECAY_UNSCALED),
            (w - rate * (gradient - decay * w), _GROWS),
            (w - (gradient + decay * w), _NO_RATE),
            (w - rate * (gradient + decay), _CONSTANT_PULL),
            (-rate * (gradient + decay * w), _ONLY_CHANGE),
        ],
    ) or _other(given, step(*STEP))


_UPHILL = Hint("uphill", "You added the gradient. It points uphill; a step goes against it.", "你加上了梯度。梯度指向上坡，应当朝反方向走。")
_NO_DECAY = Hint("decay is ignored", "A plain step: `decay` has no effect. It adds decay * w to the gradient.", "这是普通的一步，`decay` 没有起作用。它应当给梯度加上 decay * w。")
_DECAY_UNSCALED = Hint("decay without rate", "The pull towards 0 should be scaled by the learning rate as well: rate * (gradient + decay * w).", "朝 0 的拉力也要乘学习率：rate * (gradient + decay * w)。")
_GROWS = Hint("decay grows the weights", "Your decay pushes the weights away from 0; check its sign.", "你的衰减把权重推离了 0，请检查符号。")
_NO_RATE = Hint("rate is ignored", "You took the whole gradient as a step. Multiply by the learning rate.", "你把整个梯度当作一步。请乘上学习率。")
_CONSTANT_PULL = Hint("decay does not look at w", "Your decay is the same for large and small weights. It is decay times w.", "你的衰减对大权重和小权重一样。应当是 decay 乘以 w。")
_ONLY_CHANGE = Hint("change instead of new weights", "You returned the change. Wanted are the new weights: w plus the change.", "你返回的是变化量。需要的是新的权重：w 加上变化量。")

# --- 01.5 Backpropagation by hand -------------------------------------------------------------------------------------

BACK_X = np.array([[1.0, -2.0], [0.5, 1.0], [-1.0, 3.0]])
BACK_Y = np.array([1.0, -1.0, 2.0])
BACK_W1 = np.array([[0.5, -1.0], [1.0, 0.5]])
BACK_W2 = np.array([1.5, -0.5])


def gradients(x, y, w1, w2):
    """Gradients of mean (relu(x w1.T) w2 - y)^2: x [n, d], y [n], w1 [m, d], w2 [m] give ([m, d], [m])."""
    before = x @ w1.T  # [n, m]
    hidden = np.maximum(before, 0)
    delta = 2 * (hidden @ w2 - y) / len(y)  # [n]
    back = delta[:, None] * w2 * (before > 0)  # [n, m]
    return back.T @ x, hidden.T @ delta


def _gradients(x, y, w1, w2, gate=True, mean=True, two=True, w2_used=True, sign=1):
    before = x @ w1.T
    hidden = np.maximum(before, 0)
    delta = sign * (2 if two else 1) * (hidden @ w2 - y) / (len(y) if mean else 1)
    back = delta[:, None] * (w2 if w2_used else 1) * ((before > 0) if gate else 1)
    return back.T @ x, hidden.T @ delta


def judge_gradients(answer):
    """Two arrays; each forgotten factor is recognised by computing it forgotten."""
    inputs = BACK_X, BACK_Y, BACK_W1, BACK_W2
    given = answer(*(array.copy() for array in inputs))
    if not isinstance(given, tuple | list) or len(given) != 2:
        return Hint("not two gradients", f"Wanted are two arrays, (gradient of w1, gradient of w2); you returned {describe(given)}.", f"需要两个数组（w1 的梯度，w2 的梯度），你返回的是 {describe(given)}。")
    shapes = [np.shape(each) for each in given]
    if shapes != [(2, 2), (2,)]:
        return Hint("wrong shape", f"A gradient has the shape of its parameter, [2, 2] and [2]; yours have {list(map(list, shapes))}.", f"梯度的形状与参数相同，应为 [2, 2] 和 [2]，你的是 {list(map(list, shapes))}。")
    wanted = gradients(*inputs)
    if all(_same(a, b) for a, b in zip(given, wanted, strict=True)):
        return None
    if _same(given[0], wanted[0].T) and _same(given[1], wanted[1]):
        return Hint("transposed", "The gradient of w1 lies on its side: row j must belong to neuron j.", "w1 的梯度放倒了：第 j 行应当属于第 j 个神经元。")
    for options, hint in _FORGOTTEN:
        if all(_same(a, b) for a, b in zip(given, _gradients(*inputs, **options), strict=True)):
            return hint
    return Hint("other numbers", f"w2 is {'right' if _same(given[1], wanted[1]) else 'wrong'}, w1 is {'right' if _same(given[0], wanted[0]) else 'wrong'}. Compare with finite differences, one number at a time.", f"w2 的梯度{'对' if _same(given[1], wanted[1]) else '不对'}，w1 的梯度{'对' if _same(given[0], wanted[0]) else '不对'}。用有限差分逐个核对。")


_FORGOTTEN = [
    ({"gate": False}, Hint("ReLU lets nothing back where it was 0", "w2 is right, w1 is not: where a ReLU gave 0, no gradient flows back. Multiply by (before > 0).", "w2 对了，w1 不对：ReLU 输出为 0 的地方，梯度传不回去。请乘上 (before > 0)。")),
    ({"mean": False}, Hint("mean is missing", "Your gradients are n times too large: the loss is a mean over the examples.", "你的梯度大了 n 倍：损失是对样本的平均。")),
    ({"two": False}, Hint("factor 2 is missing", "Half of the right size: the square brings a factor 2.", "只有应有的一半：平方求导会带来因子 2。")),
    ({"w2_used": False}, Hint("w2 is missing on the way back", "w2 is right, w1 is not: on the way back the error passes through w2.", "w2 对了，w1 不对：误差往回传时要经过 w2。")),
    ({"sign": -1}, Hint("sign is turned", "Right size, wrong sign: the error is prediction minus target.", "大小对了，符号反了：误差是预测减目标。")),
]

# --- 01.6 A smoothed bigram model -------------------------------------------------------------------------------------

SEQUENCE, WORDS = [0, 1, 2, 0, 1, 0, 2, 1, 0, 1], 4


def bigram_table(sequence, n_words, gamma):
    """p[v, w], the smoothed share of w among the words that follow v; every row adds up to 1."""
    counts = np.zeros((n_words, n_words))
    for v, w in zip(sequence, sequence[1:], strict=False):
        counts[v, w] += 1
    return (counts + gamma) / (counts + gamma).sum(axis=1, keepdims=True)


def judge_bigram_table(answer):
    """Word 3 never occurs, so that a missing gamma divides by 0; rows and columns differ."""
    given = _numbers(answer(list(SEQUENCE), WORDS, 0.5), (WORDS, WORDS))
    if isinstance(given, Hint):
        return given
    counts = np.zeros((WORDS, WORDS))
    np.add.at(counts, (SEQUENCE[:-1], SEQUENCE[1:]), 1)
    right = bigram_table(SEQUENCE, WORDS, 0.5)
    if _same(given, right):
        return None
    if np.isnan(given).any() or _same(given, counts / np.maximum(counts.sum(1, keepdims=True), 1)):
        return Hint("no smoothing", "The row of a word that never occurred is 0 or nan: gamma is not used. Add it to every count.", "没出现过的词那一行是 0 或 nan：gamma 没有用上。请把它加到每个计数上。")
    soft = counts + 0.5
    return _first_match(
        given,
        [
            (counts, Hint("counts instead of shares", "These are counts. Divide each row by its sum.", "这是计数。请把每一行除以该行的和。")),
            (soft, Hint("counts instead of shares", "These are counts. Divide each row by its sum.", "这是计数。请把每一行除以该行的和。")),
            (soft / soft.sum(0), Hint("columns add up to 1", "Your columns add up to 1. After each word something must come: rows add up to 1.", "你的列加起来是 1。每个词后面总要来点什么：应当是行加起来等于 1。")),
            (soft / soft.sum(), Hint("whole table adds up to 1", "Your whole table adds up to 1: that is how likely a pair is. Wanted is how likely w is once v is there: divide each row.", "你的整张表加起来是 1：那是词对的概率。需要的是已知 v 时 w 的概率：每一行各自归一化。")),
            (bigram_table(SEQUENCE[::-1], WORDS, 0.5), Hint("backwards", "You counted which word came before. Row v should hold what follows v.", "你数的是前面来的词。第 v 行应当是 v 后面来的词。")),
            ((counts + 0.5) / (counts.sum(1, keepdims=True) + 0.5), Hint("denominator too small", "Your rows add up to more than 1: with gamma added to each of n_words counts, the sum grows by gamma * n_words.", "你的行加起来大于 1：n_words 个计数各加 gamma，总和要增加 gamma * n_words。")),
            (_last_word_counted(SEQUENCE, WORDS, 0.5), Hint("last word counted", "You divided by how often v occurs. The last word of the sequence occurs, but nothing follows it: count only places that have a follower.", "你除的是 v 出现的次数。序列的最后一个词也算出现，可是它后面没有词：只数后面还有词的位置。")),
            (_one_more(SEQUENCE, WORDS, 0.5), Hint("one word too many", "You divided by gamma * (n_words + 1), as NLTK does with its word for the unknown. Here there are n_words words, and each row adds up to 1.", "分母里用了 gamma * (n_words + 1)，NLTK 要留一个给生词，才这样算。这里只有 n_words 个词，每一行之和应为 1。")),
            (bigram_table(SEQUENCE, WORDS, 1), Hint("gamma is ignored", "You added 1 whatever gamma is; use the argument.", "不管 gamma 是多少，你都加了 1；请使用参数 gamma。")),
        ],
    ) or _other(given, right)


def _counts(sequence, n_words):
    counts = np.zeros((n_words, n_words))
    np.add.at(counts, (sequence[:-1], sequence[1:]), 1)
    return counts


def _unsmoothed(sequence, n_words, gamma):
    counts = _counts(sequence, n_words)
    return counts / np.maximum(counts.sum(1, keepdims=True), 1)


def _columns(sequence, n_words, gamma):
    soft = _counts(sequence, n_words) + gamma
    return soft / soft.sum(0)


def _jointly(sequence, n_words, gamma):
    soft = _counts(sequence, n_words) + gamma
    return soft / soft.sum()


def _small_denominator(sequence, n_words, gamma):
    counts = _counts(sequence, n_words)
    return (counts + gamma) / (counts.sum(1, keepdims=True) + gamma)


def _last_word_counted(sequence, n_words, gamma):
    return (_counts(sequence, n_words) + gamma) / (np.bincount(sequence, minlength=n_words)[:, None] + gamma * n_words)


def _one_more(sequence, n_words, gamma):
    counts = _counts(sequence, n_words)
    return (counts + gamma) / (counts.sum(1, keepdims=True) + gamma * (n_words + 1))


# --- 01.7 Perplexity --------------------------------------------------------------------------------------------------

CHANCES = np.array([0.5, 0.1, 0.9, 0.25])


def perplexity(probabilities):
    """exp of the mean of minus log p, for the probabilities [n] that a model gave to the words that came."""
    return float(np.exp(-np.log(probabilities).mean()))


def judge_perplexity(answer):
    """Four probabilities first, then 5,000 of them, whose product is too small for a float."""
    given = answer(CHANCES.copy())
    if np.size(given) != 1:
        return Hint("not one number", f"Wanted is one number; you returned {describe(given)}.", f"需要一个数，你返回的是 {describe(given)}。")
    given, right = float(np.reshape(given, ())), perplexity(CHANCES)
    loss = -np.log(CHANCES).mean()
    hint = _first_match(
        given,
        [
            (loss, Hint("loss instead of perplexity", "This is the loss. Perplexity is exp of it.", "这是损失。困惑度是它的指数。")),
            ((1 / CHANCES).mean(), Hint("mean of 1/p", "You averaged 1/p. One unlikely word then decides everything: average the logs, then exp.", "你平均的是 1/p，一个罕见的词就会左右一切。应当先平均对数，再取指数。")),
            (1 / CHANCES.mean(), Hint("mean of p", "You averaged the probabilities. Take the log of each first.", "你平均了概率。应当先各自取对数。")),
            (np.exp(loss * 4), Hint("sum instead of mean", "A longer text would be more perplexing just for being long: take the mean, not the sum.", "文本长一点，你的困惑度就变大。请取平均，不要求和。")),
            (2**loss, Hint("two bases", "You took natural logs but raised 2 to them. Base e with log, or base 2 with log2.", "你取的是自然对数，却用 2 来还原。要么 log 配 e，要么 log2 配 2。")),
            (1 / right, Hint("minus is missing", "Below 1: a model cannot hesitate between less than one word. There is a minus before the mean.", "结果小于 1：模型不可能在不到一个词之间犹豫。平均值前面有个负号。")),
        ],
    )
    if hint or not math.isclose(given, right, rel_tol=1e-6):
        return hint or _other(given, right)
    return _underflow(answer)


def _underflow(answer):
    try:
        value = float(np.reshape(answer(np.full(5000, 0.25)), ()))
    except ReaderError as failure:
        if not isinstance(failure.error, ArithmeticError | RuntimeWarning):
            raise
        value = math.inf
    return None if math.isclose(value, 4, rel_tol=1e-6) else Hint("underflow", "Right for 4 words, but for 5,000 the product of the probabilities becomes 0. Add logs instead of multiplying.", "4 个词时对了，5000 个词时概率的乘积会变成 0。用对数相加代替相乘。")


def _product(probabilities):
    with np.errstate(all="ignore"):
        return np.prod(probabilities) ** (-1 / len(probabilities))


def _naive_cross_entropy(logits, targets):
    with np.errstate(all="ignore"):
        p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        return -np.log(p[np.arange(len(targets)), targets]).mean()


def _log_p(logits, axis=1):
    return logits - np.log(np.exp(logits).sum(axis, keepdims=True))


def _at(table, targets):
    return table[np.arange(len(targets)), targets]


EXERCISES = [
    Exercise(
        "01.1",
        ("One layer of neurons", "一层神经元"),
        ("an array of shape [n, neurons]", "形状为 [n, neurons] 的数组"),
        judge_layer,
        layer,
        {
            "transpose is missing": lambda x, w, b: x @ w + b,
            "bias is missing": lambda x, w, b: x @ w.T,
            "activation too early": lambda x, w, b: np.maximum(x @ w.T + b, 0),
            "bias is subtracted": lambda x, w, b: x @ w.T - b,
            "wrong shape": lambda x, w, b: w @ x.T + b[:, None],
        },
    ),
    Exercise(
        "01.2",
        ("Cross-entropy from logits", "由 logit 求交叉熵"),
        ("one number, the mean loss", "一个数，即平均损失"),
        judge_cross_entropy,
        cross_entropy,
        {
            "minus is missing": lambda z, t: _at(_log_p(z), t).mean(),
            "sum instead of mean": lambda z, t: -_at(_log_p(z), t).sum(),
            "log to base 2": lambda z, t: -_at(_log_p(z), t).mean() / math.log(2),
            "softmax over the wrong axis": lambda z, t: -_at(_log_p(z, 0), t).mean(),
            "log is missing": lambda z, t: -np.exp(_at(_log_p(z), t)).mean(),
            "softmax is missing": lambda z, t: -_at(z, t).mean(),
            "log of the mean": lambda z, t: -np.log(np.exp(_at(_log_p(z), t)).mean()),
            "not one number": lambda z, t: -_at(_log_p(z), t),
            "overflow": _naive_cross_entropy,
        },
    ),
    Exercise(
        "01.3",
        ("A gradient by nudging", "推一推，求梯度"),
        ("an array of shape [d], one slope for each number of w", "形状为 [d] 的数组，w 的每个数对应一个斜率"),
        judge_slopes,
        slopes,
        {
            "one-sided difference": _one_sided,
            "h is too large or too small": lambda f, w: _two_sided(f, w, 1e-3),
            "wrong distance": lambda f, w: 2 * slopes(f, w),
            "sign is turned": lambda f, w: -slopes(f, w),
            "all at once": _together,
            "not divided by the step": lambda f, w: slopes(f, w) * 2e-4,
            "changes the input": _spoils,
        },
    ),
    Exercise(
        "01.4",
        ("One step downhill, with weight decay", "带权重衰减的一步下坡"),
        ("an array of shape [d], the new weights", "形状为 [d] 的数组，即新的权重"),
        judge_step,
        step,
        {
            "uphill": lambda w, g, r, d: w + r * (g + d * w),
            "decay is ignored": lambda w, g, r, d: w - r * g,
            "decay without rate": lambda w, g, r, d: w - r * g - d * w,
            "decay grows the weights": lambda w, g, r, d: w - r * (g - d * w),
            "rate is ignored": lambda w, g, r, d: w - (g + d * w),
            "decay does not look at w": lambda w, g, r, d: w - r * (g + d),
            "change instead of new weights": lambda w, g, r, d: -r * (g + d * w),
        },
    ),
    Exercise(
        "01.5",
        ("Backpropagation by hand", "亲手做一次反向传播"),
        ("two arrays, of the shapes of w1 and w2", "两个数组，形状与 w1 和 w2 相同"),
        judge_gradients,
        gradients,
        {hint.symptom: lambda x, y, a, b, o=options: _gradients(x, y, a, b, **o) for options, hint in _FORGOTTEN}
        | {
            "transposed": lambda x, y, a, b: (gradients(x, y, a, b)[0].T, gradients(x, y, a, b)[1]),
            "not two gradients": lambda x, y, a, b: gradients(x, y, a, b)[0],
        },
    ),
    Exercise(
        "01.6",
        ("A smoothed bigram model", "平滑的二元语法模型"),
        ("an array of shape [n_words, n_words] whose rows add up to 1", "形状为 [n_words, n_words] 的数组，每行之和为 1"),
        judge_bigram_table,
        bigram_table,
        {
            "no smoothing": _unsmoothed,
            "counts instead of shares": lambda s, n, gamma: _counts(s, n) + gamma,
            "columns add up to 1": _columns,
            "whole table adds up to 1": _jointly,
            "backwards": lambda s, n, gamma: bigram_table(s[::-1], n, gamma),
            "denominator too small": _small_denominator,
            "last word counted": _last_word_counted,
            "one word too many": _one_more,
            "gamma is ignored": lambda s, n, gamma: bigram_table(s, n, 1),
        },
    ),
    Exercise(
        "01.7",
        ("Perplexity", "困惑度"),
        ("one number, at least 1", "一个不小于 1 的数"),
        judge_perplexity,
        perplexity,
        {
            "loss instead of perplexity": lambda p: -np.log(p).mean(),
            "mean of 1/p": lambda p: (1 / p).mean(),
            "mean of p": lambda p: 1 / p.mean(),
            "sum instead of mean": lambda p: np.exp(-np.log(p).sum()),
            "two bases": lambda p: 2 ** -np.log(p).mean(),
            "minus is missing": lambda p: np.exp(np.log(p).mean()),
            "underflow": _product,
        },
    ),
]
