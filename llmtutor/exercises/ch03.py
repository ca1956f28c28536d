"""Exercises of chapter 03: the shifted loss, padding, masks, spans, a schedule, clipping, what a training run costs, attention in pieces."""

import numpy as np

from llmtutor.checks import Exercise, Hint, describe

# --- shared -----------------------------------------------------------------------------------------------------------


def _number(value):
    """The answer as one float, or the hint that says what it is instead."""
    if np.ndim(value) != 0 or isinstance(value, str | bool):
        return Hint(
            "not one number",
            f"Wanted is one number; you returned {describe(value)}.",
            f"应返回一个数；你返回的是 {describe(value)}。",
        )
    return float(value)


def _near(a, b):
    return np.shape(a) == np.shape(b) and np.allclose(a, b, rtol=1e-5, atol=1e-9)


def _first(value, symptoms, right, unit=("", "")):
    """None where `value` is `right`, else the hint of the first wrong result that it equals, else the two numbers."""
    if isinstance(value, Hint) or _near(value, right):
        return value if isinstance(value, Hint) else None
    found = next((hint for wrong, hint in symptoms if _near(value, wrong)), None)
    return found or Hint(
        "another number",
        f"The right answer here is {right:.4g}{unit[0]}; yours is {value:.4g}.",
        f"这里的正确答案是 {right:.4g}{unit[1]}，你得到的是 {value:.4g}。",
    )


# --- 03.1 The loss with its shift -------------------------------------------------------------------------------------

IDS = np.array([3, 1, 4, 1, 2])


def _log_p():
    """Log probabilities of shape [5, 5], the same everywhere and all different."""
    logits = 2 * np.sin(np.arange(1, 26) * 1.7).reshape(5, 5)
    return logits - np.log(np.exp(logits).sum(1, keepdims=True))


def next_token_loss(log_p, ids):
    """Mean surprise: row t is judged by token t + 1. `log_p` has shape [n, V], `ids` [n]."""
    return float(-log_p[np.arange(len(ids) - 1), ids[1:]].mean())


def judge_next_token_loss(answer):
    """Every usual slip gives another number on these five tokens."""
    log_p, ids, places = _log_p(), IDS.copy(), np.arange(5)
    right = next_token_loss(log_p, ids)
    symptoms = [
        (_no_shift(log_p, ids), Hint(
            "no shift",
            "You compare row t with token t: the token that the model has just read. It must be judged by token t + 1.",
            "你用第 t 行和第 t 个词元比较，那是模型刚刚读到的词元。应当用第 t + 1 个词元来评判。")),
        (_shift_back(log_p, ids), Hint(
            "shifted the wrong way",
            "You judge row t by token t - 1, which lies in the past. The model predicts what follows.",
            "你用第 t - 1 个词元来评判第 t 行，那是已经过去的词元。模型预测的是后面的内容。")),
        (_wrapped(log_p, ids), Hint(
            "the end wraps around",
            "The last row is judged by the first token (np.roll goes around in a circle). The last row has no target.",
            "最后一行被拿去和第一个词元比较了（np.roll 会绕回开头）。最后一行没有目标。")),
        (-right, Hint("sign", "The loss is negative: a surprise is minus the log probability.", "损失成了负数：惊讶程度是对数概率的相反数。")),
        (right * 4, Hint("sum instead of mean", "This is the sum of the surprises; wanted is their mean.", "这是惊讶程度之和，要的是平均值。")),
        (right * 4 / 5, Hint(
            "divided by n",
            "You divided by n, but n tokens give only n - 1 guesses.",
            "你除以了 n，但 n 个词元只有 n - 1 道题。")),
        (-np.exp(log_p)[places[:-1], ids[1:]].mean(), Hint(
            "probability instead of its log", "`log_p` holds logs already: do not take exp.", "`log_p` 里已经是对数，不要再取 exp。")),
    ]
    return _first(_number(answer(log_p, ids)), symptoms, right)


def _no_shift(log_p, ids):
    return float(-log_p[np.arange(len(ids)), ids].mean())


def _shift_back(log_p, ids):
    return float(-log_p[np.arange(1, len(ids)), ids[:-1]].mean())


def _wrapped(log_p, ids):
    return float(-log_p[np.arange(len(ids)), np.roll(ids, -1)].mean())


# --- 03.2 A mean without the padding ----------------------------------------------------------------------------------

LENGTHS = np.array([4, 1, 2])


def _surprise():
    """Surprises of shape [3 texts, 5 places]; the padding holds large numbers that must not count."""
    values = 1 + np.abs(np.sin(np.arange(15) * 0.9)).reshape(3, 5)
    return np.where(np.arange(5) < LENGTHS[:, None], values, 9.0)


def mean_without_padding(surprise, lengths):
    """Mean over real tokens. `surprise` has shape [text, place]; text i has lengths[i] tokens."""
    real = np.arange(surprise.shape[1]) < np.asarray(lengths)[:, None]
    return float(surprise[real].mean())


def judge_mean_without_padding(answer):
    """Texts of 4, 1 and 2 tokens, so that every wrong weight shows."""
    surprise, right = _surprise(), mean_without_padding(_surprise(), LENGTHS)
    symptoms = [
        (surprise.mean(), Hint(
            "padding counts",
            "This is the mean over all places, padding included. Only the first lengths[i] places of text i are real.",
            "这是所有位置的平均，把填充也算进去了。第 i 篇只有前 lengths[i] 个位置是真的。")),
        (_mean_of_means(surprise, LENGTHS), Hint(
            "mean of means",
            "You averaged each text and then the texts: a token of a short text now weighs more than one of a long text.",
            "你先对每篇求平均，再对各篇求平均：这样短文本里的一个词元比长文本里的分量更大。")),
        (_zero_counts(surprise, LENGTHS), Hint(
            "padding counts as zero",
            "You set the padding to 0 but divide by all places: then long padding makes the loss look good.",
            "你把填充设成了 0，却仍然除以全部位置数：这样填充越多，损失看起来越好。")),
        (right * 7 / 3, Hint("divided by the texts", "You divided by the number of texts, not of tokens.", "你除以的是文本数，不是词元数。")),
        (surprise[np.arange(5) <= LENGTHS[:, None]].mean(), Hint(
            "one place too many",
            "One place of padding in each text still counts: places 0 .. lengths[i] - 1 are real.",
            "每篇还多算了一个填充的位置：真正的位置是 0 到 lengths[i] - 1。")),
    ]
    return _first(_number(answer(surprise, LENGTHS.copy())), symptoms, right)


def _mean_of_means(surprise, lengths):
    return float(np.mean([row[:n].mean() for row, n in zip(surprise, lengths, strict=True)]))


def _zero_counts(surprise, lengths):
    return float(np.where(np.arange(surprise.shape[1]) < np.asarray(lengths)[:, None], surprise, 0).mean())


# --- 03.3 Inputs and labels of a masked model -------------------------------------------------------------------------

TEXT, CHOSEN, MASK_ID = np.array([7, 3, 9, 3, 5]), np.array([False, True, False, False, True]), 99


def hide_tokens(ids, chosen, mask_id):
    """(inputs, labels), both of shape [n]: chosen tokens masked in the one, -100 for the others in the other."""
    return np.where(chosen, mask_id, ids), np.where(chosen, ids, -100)


def judge_hide_tokens(answer):
    """Looks at the reader's text first, then at the labels, then at the inputs."""
    ids = TEXT.copy()
    inputs, labels = (np.asarray(part) for part in answer(ids, CHOSEN.copy(), MASK_ID))
    right_inputs, right_labels = hide_tokens(TEXT, CHOSEN, MASK_ID)
    if not np.array_equal(ids, TEXT):
        return Hint(
            "changes the text",
            "After your function ran, `ids` itself held the mask: the text is lost. Work on a copy.",
            "你的函数运行之后，`ids` 本身被改成了掩码，原文丢失了。请在副本上修改。",
        )
    if np.array_equal(inputs, right_labels) and np.array_equal(labels, right_inputs):
        return Hint("the wrong way round", "Inputs come first, labels second.", "应当先返回输入，再返回标签。")
    if np.array_equal(labels, TEXT):
        return Hint(
            "every token is asked",
            "Your labels hold every token. Then the model is also paid for copying what it can see: others must be -100.",
            "你的标签包含了所有词元。这样模型照抄看得见的词元也能得分：其余位置应为 -100。",
        )
    return _hidden_hint(inputs, labels, right_inputs, right_labels)


def _hidden_hint(inputs, labels, right_inputs, right_labels):
    if np.array_equal(inputs, right_inputs) and np.array_equal(labels, right_labels):
        return None
    if np.array_equal(inputs, np.where(CHOSEN, TEXT, MASK_ID)):
        return Hint(
            "the others are hidden",
            "You masked the tokens that were not chosen. True in `chosen` means: hide this one.",
            "你遮住的是没有被选中的词元。`chosen` 里的 True 表示遮住这一个。",
        )
    if MASK_ID in labels:
        return Hint(
            "the label is the mask",
            "Your labels hold the mask itself, so the model would learn to answer [MASK]. Take the labels from the true text.",
            "你的标签里是掩码本身，模型会学着回答 [MASK]。标签要取自原文。",
        )
    if np.array_equal(inputs, TEXT):
        return Hint("nothing is hidden", "The inputs still show the chosen tokens.", "输入里仍然看得见被选中的词元。")
    return Hint(
        "other arrays",
        f"Wanted: inputs {right_inputs.tolist()}, labels {right_labels.tolist()}; yours: {inputs.tolist()}, {labels.tolist()}."[:300],
        f"应为：输入 {right_inputs.tolist()}，标签 {right_labels.tolist()}；你的是 {inputs.tolist()}，{labels.tolist()}。"[:300],
    )


def _hides_in_place(ids, chosen, mask_id):
    labels = np.where(chosen, ids, -100)
    ids[chosen] = mask_id
    return ids, labels


def _label_is_mask(ids, chosen, mask_id):
    inputs = np.where(chosen, mask_id, ids)
    return inputs, np.where(chosen, inputs, -100)


# --- 03.4 Span corruption ---------------------------------------------------------------------------------------------

WORDS, SPANS = ["Tom", "gave", "Lily", "the", "red", "ball", "."], [(0, 2), (3, 5)]
# The first span is longer than one word, so an answer that shortens the list in place takes the wrong words for the second.


def corrupt(words, spans):
    """(input, target) as lists of strings: each span replaced by its sentinel, and the sentinels with what they stand for."""
    kept, target, end = [], [], 0
    for i, (start, stop) in enumerate(spans):
        kept += [*words[end:start], f"<{i}>"]
        target += [f"<{i}>", *words[start:stop]]
        end = stop
    return kept + words[end:], [*target, f"<{len(spans)}>"]


def judge_corrupt(answer):
    """Two spans of two words, the first at the very beginning; the wrong results are compared one by one."""
    given = answer(list(WORDS), list(SPANS))
    kept, target = (list(part) for part in given)
    right = corrupt(WORDS, SPANS)
    if (kept, target) == right:
        return _no_spans(answer)
    if (target, kept) == right:
        return Hint("the wrong way round", "The input comes first, the target second.", "应当先返回输入，再返回目标。")
    if kept == corrupt_each_word(WORDS, SPANS)[0]:
        return Hint(
            "a sentinel for each word",
            "You put a sentinel for every hidden word. One stands for a whole span: that is what makes the target hard and short.",
            "你给每个被挖掉的词都放了一个哨兵。一个哨兵代表整个片段，这样才又短又有难度。",
        )
    if kept == right[0] and target == right[1][:-1]:
        return Hint(
            "no closing sentinel",
            "The target should end with one more sentinel, here <2>: it tells the decoder to stop.",
            "目标末尾还应有一个哨兵，这里是 <2>：它告诉解码器到此为止。",
        )
    if kept == corrupt_in_place(WORDS, SPANS)[0]:
        return Hint(
            "later spans slip",
            "You replaced the first span in place; after that the list is shorter, and the numbers of the second span point elsewhere. "
            "Build a new list, or replace from the right.",
            "你直接在原列表里替换了第一个片段；列表从此变短，第二个片段的下标就指到别处去了。请另建一个新列表，或者从右往左替换。",
        )
    return _corrupt_hint(kept, target, right)


def _corrupt_hint(kept, target, right):
    if kept == _same_sentinel(WORDS, SPANS)[0]:
        return Hint(
            "one sentinel for all",
            "Both spans have the same sentinel, so nobody can tell which words belong where. Number them.",
            "两个片段用了同一个哨兵，分不清哪些词属于哪里。请给它们编号。",
        )
    if not any(word.startswith("<") for word in kept):
        return Hint("no sentinel in the input", "The hidden spans have left no trace in the input.", "被挖掉的片段在输入里没有留下任何标记。")
    return Hint(
        "other lists",
        f"Wanted: {right[0]} and {right[1]}; yours: {kept} and {target}."[:400],
        f"应为：{right[0]} 和 {right[1]}；你的是 {kept} 和 {target}。"[:400],
    )


def _no_spans(answer):
    """With no span nothing is missing: the input is the text, the target only the closing sentinel."""
    if [list(part) for part in answer(list(WORDS), [])] == [WORDS, ["<0>"]]:
        return None
    return Hint(
        "fails without spans",
        "Right with two spans; with an empty list of spans the input should be the whole text and the target ['<0>'].",
        "有两个片段时是对的；片段列表为空时，输入应是整段文本，目标应是 ['<0>']。",
    )


def corrupt_each_word(words, spans):
    """The wrong version with one sentinel a word."""
    return corrupt(words, [(i, i + 1) for start, stop in spans for i in range(start, stop)])


def corrupt_in_place(words, spans):
    """The wrong version that shortens the list from the left, so that every later (start, end) is wrong."""
    kept, target = list(words), []
    for i, (start, stop) in enumerate(spans):
        target += [f"<{i}>", *kept[start:stop]]
        kept[start:stop] = [f"<{i}>"]
    return kept, [*target, f"<{len(spans)}>"]


def _same_sentinel(words, spans):
    kept, target = corrupt(words, spans)
    return [["<0>" if w.startswith("<") else w for w in part] for part in (kept, target)]


def _no_sentinel(words, spans):
    kept, target = corrupt(words, spans)
    return [w for w in kept if not w.startswith("<")], target


# --- 03.5 Warm-up and linear decay ------------------------------------------------------------------------------------


def linear_schedule(step, steps, warmup):
    """The factor on the learning rate; equal to `get_linear_schedule_with_warmup` of transformers."""
    if step < warmup:
        return step / warmup
    return max(0.0, (steps - step) / (steps - warmup))


def judge_linear_schedule(answer):
    """Asks at six steps of a run of 100 with 20 of warm-up; the symptoms are tried in the order of the run."""
    steps = (0, 10, 20, 60, 100, 130)
    given = [_number(answer(step, 100, 20)) for step in steps]
    wrong = next((value for value in given if isinstance(value, Hint)), None)
    if wrong or np.allclose(given, [linear_schedule(step, 100, 20) for step in steps]):
        return wrong
    return _schedule_hint(dict(zip(steps, given, strict=True)))


def _schedule_hint(at):
    if at[0] > 0.9:
        return Hint("no warm-up", f"At step 0 your factor is {at[0]:.2f}; with a warm-up it begins at 0.", f"第 0 步你的系数是 {at[0]:.2f}；有预热时应从 0 开始。")
    if at[130] < 0:
        return Hint("negative at the end", "Behind the last step your factor is negative: the model would climb. Keep it at 0.", "过了最后一步，你的系数变成负数：模型会往上爬。请让它停在 0。")
    if np.isclose(at[10], 0.55):
        return Hint("counts from one", "At step 0 your factor is not 0: wanted is step / warmup, not (step + 1) / warmup.", "第 0 步你的系数不是 0：要的是 step / warmup，而不是 (step + 1) / warmup。")
    if np.isclose(at[20], 0.8):
        return Hint(
            "jump after the warm-up",
            "At step = warmup your factor jumps from 1 to 0.8: the way down is steps - warmup long and begins at 1.",
            "在 step = warmup 处，你的系数从 1 跳到 0.8：下降的全程长 steps - warmup，从 1 开始。",
        )
    if np.isclose(at[100], 1) or np.isclose(at[60], 1):
        return Hint("no decay", "After the warm-up your factor stays at 1; it should fall to 0 at step = steps.", "预热之后你的系数一直是 1；到 step = steps 时应降为 0。")
    return Hint(
        "another curve",
        f"Of 100 steps with 20 of warm-up, step 60 should have the factor 0.5; yours is {at[60]:.3f}.",
        f"共 100 步、预热 20 步时，第 60 步的系数应为 0.5，你得到 {at[60]:.3f}。",
    )


def _counts_from_one(step, steps, warmup):
    return (step + 1) / warmup if step < warmup else linear_schedule(step, steps, warmup)


def _jump(step, steps, warmup):
    return step / warmup if step < warmup else max(0.0, 1 - step / steps)


# --- 03.6 Gradient clipping -------------------------------------------------------------------------------------------


def _gradients():
    return [np.array([[3.0, 0.0], [0.0, -4.0]]), np.array([12.0])]  # lengths 5 and 12, together 13


def clip_gradients(gradients, most):
    """New arrays: all times one factor, so that the length of all numbers together is at most `most`."""
    length = np.sqrt(sum((g**2).sum() for g in gradients))
    return [g * min(1.0, most / length) for g in gradients]


def judge_clip_gradients(answer):
    """A long gradient of length 13, then a short one that must stay as it is."""
    gradients = _gradients()
    clipped = _flat(answer(gradients, 2.0))
    if not np.array_equal(_flat(gradients), _flat(_gradients())):
        return Hint("changes the gradients", "Your function changed the arrays it was given; return new ones.", "你的函数改动了传入的数组；请返回新的数组。")
    symptoms = [
        (_flat([np.clip(g, -2, 2) for g in gradients]), Hint(
            "each number by itself",
            "You cut every number off at 2. That changes the direction: large and small numbers become equal. Multiply all by one factor.",
            "你把每个数都截在 2 以内。这样方向变了：大的和小的变得一样。应当全部乘以同一个系数。")),
        (_flat(_each_array(gradients, 2.0)), Hint(
            "each array by itself",
            "Each array has length 2 now. The limit holds for all numbers together, or the direction changes.",
            "现在每个数组的长度都是 2。限制是对所有数合起来说的，否则方向会变。")),
        (_flat(_no_root(gradients, 2.0)), Hint(
            "no square root", "You divided by the sum of the squares; the length is its square root.", "你除以的是平方和；长度是它的平方根。")),
        (_flat(gradients), Hint("nothing is clipped", "A gradient of length 13 came back unchanged with most = 2.", "most = 2 时，长度为 13 的梯度原样返回了。")),
    ]
    found = next((hint for wrong, hint in symptoms if _near(clipped, wrong)), None)
    if found or not _near(clipped, _flat(clip_gradients(gradients, 2.0))):
        return found or _clip_hint(clipped)
    return None if _near(_flat(answer(_gradients(), 50.0)), _flat(_gradients())) else Hint(
        "a short gradient is stretched",
        "With most = 50 a gradient of length 13 must stay as it is; yours became longer. The factor is never more than 1.",
        "most = 50 时，长度为 13 的梯度应保持不变，你的却变长了。系数永远不超过 1。",
    )


def _flat(arrays):
    return np.concatenate([np.ravel(np.asarray(array, dtype=float)) for array in arrays])


def _clip_hint(clipped):
    length = np.sqrt((clipped**2).sum())
    return Hint(
        "another length",
        f"After clipping the length should be 2; yours is {length:.3f}.",
        f"裁剪之后长度应为 2，你得到 {length:.3f}。",
    )


def _each_array(gradients, most):
    return [g * min(1.0, most / np.sqrt((g**2).sum())) for g in gradients]


def _no_root(gradients, most):
    return [g * min(1.0, most / sum((h**2).sum() for h in gradients)) for g in gradients]


def _always_scaled(gradients, most):
    length = np.sqrt(sum((g**2).sum() for g in gradients))
    return [g * most / length for g in gradients]


# --- 03.7 How many days? ----------------------------------------------------------------------------------------------

RUN = (7e9, 1.4e11, 64, 3e14, 0.4)


def training_days(n, d, n_gpus, flops, use):
    """6 n d operations, divided by what the cards do in a day."""
    return 6 * n * d / (n_gpus * flops * use) / 86_400


def judge_training_days(answer):
    """One run whose wrong versions all give other numbers."""
    right, use = training_days(*RUN), RUN[-1]
    symptoms = [
        (right / 3, Hint("forward only", "2 N D counts the forward pass alone; the backward pass costs twice as much again: 6 N D.", "2ND 只算了前向传播；反向传播还要两倍：一共 6ND。")),
        (right * use, Hint("use is left out", "You took the cards' full speed. They reach only the share `use` of it.", "你按显卡的全速来算，实际只能达到其中的比例 `use`。")),
        (right * use**2, Hint("use the wrong way", "Cards that reach 40 % need longer, not shorter: divide by `use`.", "只达到 40% 的显卡需要更久，而不是更短：应当除以 `use`。")),
        (right * 86_400, Hint("seconds", "These are seconds; a day has 86,400 of them.", "这是秒数；一天有 86,400 秒。")),
        (right * 24, Hint("hours", "These are hours; wanted are days.", "这是小时数；要的是天数。")),
        (right * RUN[2], Hint("one card", "These are the days of one card; n_gpus work side by side.", "这是一块卡的天数；有 n_gpus 块卡同时工作。")),
        (right * RUN[2] ** 2, Hint("more cards take longer", "With your formula more cards take longer: divide by n_gpus.", "按你的公式，卡越多越慢：应当除以 n_gpus。")),
    ]
    return _first(_number(answer(*RUN)), symptoms, right, (" days", " 天"))


# --- 03.8 Attention in pieces -----------------------------------------------------------------------------------------


def _vectors():
    """Queries, keys and values of 7 tokens, shape [7, 3] each."""
    return 2 * np.sin(np.arange(1, 64) * 1.3).reshape(3, 7, 3)


def attend_here(q, k, v, start):
    """What the exercise hands in: the queries of the places start, start + 1, ... attend to keys of the places 0, 1, ..."""
    ahead = np.arange(len(k)) > start + np.arange(len(q))[:, None]  # [queries, keys]
    weights = np.exp(np.where(ahead, -np.inf, q @ k.T / np.sqrt(q.shape[-1])))
    return weights / weights.sum(1, keepdims=True) @ v


def _in_pieces(q, k, v, pieces, attend, keys=lambda start, end: slice(end), begin=lambda start, end: start):
    """Each piece of the queries takes the keys `keys` and says that it starts at `begin`; right as they are, wrong versions change them."""
    parts, start = [], 0
    for part in np.array_split(q, pieces):
        end = start + len(part)
        seen = keys(start, end)
        parts.append(attend(part, k[seen], v[seen], begin(start, end)))
        start = end
    return np.concatenate(parts)


def attend_in_pieces(q, k, v, pieces, attend):
    """Causal attention of q, k, v [n, d]: each piece of the queries takes the keys up to its own end."""
    return _in_pieces(q, k, v, pieces, attend)


def judge_attend_in_pieces(answer):
    """7 tokens in 3 pieces: 33 of 49 scores are enough; the sizes of every call are noted."""
    sizes = []

    def attend(q, k, v, start):
        sizes.append((len(q), len(k)))
        return attend_here(q, k, v, start)

    given = (*_vectors(), 3)
    value = np.asarray(answer(*given, attend), dtype=float)
    if value.shape != (7, 3):
        lost = Hint(
            "rows are lost",
            "7 queries in 3 pieces came back as 6 rows: 7 cannot be divided by 3, and what is left over belongs to a piece, too.",
            "7 个查询分成 3 块，却只返回了 6 行：7 不能被 3 整除，余下的也要归到某一块里。")
        return lost if value.shape == (6, 3) else Hint(
            "wrong shape",
            f"Wanted is an array of shape (7, 3), one row a query; yours is {describe(value)}.",
            f"应返回形状为 (7, 3) 的数组，每个查询一行；你返回的是 {describe(value)}。")
    symptoms = [
        (_own_keys, Hint(
            "own keys only",
            "Each piece sees only its own keys. A query may look at everything before it, also at the keys of earlier pieces.",
            "每一块只看得到自己的键。查询可以看它前面的一切，也包括前面各块的键。")),
        (_no_start, Hint(
            "start is always 0",
            "You tell attend that every piece begins at place 0, so later queries see too little. Give the place where the piece begins.",
            "你每次都告诉 attend 这一块从位置 0 开始，所以后面的查询看到的太少。要给出这一块真正开始的位置。")),
        (_looks_ahead, Hint(
            "looks ahead",
            "Queries see keys that come after them: start must be the place where the piece begins, not where it ends.",
            "查询看到了它后面的键：start 应该是这一块开始的位置，而不是结束的位置。")),
        (_one_short, Hint(
            "one key short",
            "The last query of a piece does not see its own key. The slice k[:end] ends *before* place `end`.",
            "每一块的最后一个查询看不到自己的键。切片 k[:end] 到 `end` *之前*为止。")),
        (_backwards, Hint("wrong order", "The pieces are joined from back to front.", "各块拼接的先后反了。")),
    ]
    found = next((hint for wrong, hint in symptoms if _near(value, wrong(*given, attend_here))), None)
    if found or not _near(value, attend_in_pieces(*given, attend_here)):
        return found or Hint(
            "other numbers",
            "The numbers are not those of causal attention. Call attend once for each piece: its queries, the keys and values up to its end, its start.",
            "结果不是因果注意力的结果。对每一块调用一次 attend：给它这一块的查询、到这一块末尾为止的键和值，以及开始的位置。",
        )
    computed, enough, end = 0, 0, 0
    for queries, keys in sorted(sizes, key=lambda size: size[1]):
        end += queries
        computed, enough = computed + queries * keys, enough + queries * end
    if len(sizes) != 3:
        return Hint(
            "another number of pieces",
            f"The result is right, but attend was called {len(sizes)} times; wanted are 3 pieces.",
            f"结果是对的，但 attend 被调用了 {len(sizes)} 次；应分成 3 块。",
        )
    return None if computed <= enough else Hint(
        "too many scores",
        f"The result is right, but {computed} scores were computed where {enough} are enough. Leave out the keys that lie behind the end of a piece.",
        f"结果是对的，但一共算了 {computed} 个分数，其实 {enough} 个就够了。每一块末尾之后的键应当省去。",
    )


def _own_keys(*given):
    return _in_pieces(*given, keys=slice, begin=lambda start, end: 0)


def _no_start(*given):
    return _in_pieces(*given, begin=lambda start, end: 0)


def _looks_ahead(*given):
    return _in_pieces(*given, begin=lambda start, end: end)


def _one_short(*given):
    return _in_pieces(*given, keys=lambda start, end: slice(end - 1))


def _backwards(q, k, v, pieces, attend):
    ends = np.cumsum([len(part) for part in np.array_split(q, pieces)])
    return np.concatenate([attend(q[a:b], k[:b], v[:b], a) for a, b in zip([0, *ends], ends)][::-1])


def _rest_lost(q, k, v, pieces, attend):
    size = len(q) // pieces
    return np.concatenate([attend(q[a : a + size], k[: a + size], v[: a + size], a) for a in range(0, size * pieces, size)])


EXERCISES = [
    Exercise(
        "03.1",
        ("The loss with its shift", "带错位的损失"),
        ("one number, the mean surprise", "一个数，即平均惊讶程度"),
        judge_next_token_loss,
        next_token_loss,
        {
            "no shift": _no_shift,
            "shifted the wrong way": _shift_back,
            "the end wraps around": _wrapped,
            "sum instead of mean": lambda log_p, ids: next_token_loss(log_p, ids) * (len(ids) - 1),
            "sign": lambda log_p, ids: -next_token_loss(log_p, ids),
            "divided by n": lambda log_p, ids: next_token_loss(log_p, ids) * (len(ids) - 1) / len(ids),
            "not one number": lambda log_p, ids: -log_p[np.arange(len(ids) - 1), ids[1:]],
        },
    ),
    Exercise(
        "03.2",
        ("A mean without the padding", "不算填充的平均"),
        ("one number, the mean over real tokens", "一个数，即真正的词元的平均"),
        judge_mean_without_padding,
        mean_without_padding,
        {
            "padding counts": lambda surprise, lengths: surprise.mean(),
            "mean of means": _mean_of_means,
            "padding counts as zero": _zero_counts,
            "divided by the texts": lambda s, lengths: mean_without_padding(s, lengths) * sum(lengths) / len(lengths),
            "one place too many": lambda s, lengths: s[np.arange(s.shape[1]) <= lengths[:, None]].mean(),
        },
    ),
    Exercise(
        "03.3",
        ("Inputs and labels of a masked model", "掩码模型的输入与标签"),
        ("a pair of arrays: inputs and labels", "一对数组：输入和标签"),
        judge_hide_tokens,
        hide_tokens,
        {
            "changes the text": _hides_in_place,
            "every token is asked": lambda ids, chosen, mask_id: (np.where(chosen, mask_id, ids), ids),
            "the wrong way round": lambda ids, chosen, mask_id: hide_tokens(ids, chosen, mask_id)[::-1],
            "the others are hidden": lambda ids, chosen, mask_id: hide_tokens(ids, ~chosen, mask_id),
            "the label is the mask": _label_is_mask,
            "nothing is hidden": lambda ids, chosen, mask_id: (ids, np.where(chosen, ids, -100)),
        },
    ),
    Exercise(
        "03.4",
        ("Span corruption", "片段破坏"),
        ("a pair of lists of strings: input and target", "一对字符串列表：输入和目标"),
        judge_corrupt,
        corrupt,
        {
            "no closing sentinel": lambda words, spans: (corrupt(words, spans)[0], corrupt(words, spans)[1][:-1]),
            "a sentinel for each word": corrupt_each_word,
            "one sentinel for all": _same_sentinel,
            "no sentinel in the input": _no_sentinel,
            "later spans slip": corrupt_in_place,
            "the wrong way round": lambda words, spans: corrupt(words, spans)[::-1],
        },
    ),
    Exercise(
        "03.5",
        ("Warm-up and linear decay", "预热与线性衰减"),
        ("one number between 0 and 1", "0 到 1 之间的一个数"),
        judge_linear_schedule,
        linear_schedule,
        {
            "no warm-up": lambda step, steps, warmup: max(0.0, 1 - step / steps),
            "negative at the end": lambda step, steps, warmup: min(step / warmup, (steps - step) / (steps - warmup)),
            "counts from one": _counts_from_one,
            "jump after the warm-up": _jump,
            "no decay": lambda step, steps, warmup: min(1.0, step / warmup),
        },
    ),
    Exercise(
        "03.6",
        ("Gradient clipping", "梯度裁剪"),
        ("a list of arrays of the same shapes", "形状相同的数组列表"),
        judge_clip_gradients,
        clip_gradients,
        {
            "each number by itself": lambda gradients, most: [np.clip(g, -most, most) for g in gradients],
            "each array by itself": _each_array,
            "no square root": _no_root,
            "a short gradient is stretched": _always_scaled,
            "nothing is clipped": lambda gradients, most: [g.copy() for g in gradients],
        },
    ),
    Exercise(
        "03.7",
        ("How many days?", "要训练多少天？"),
        ("one number, in days", "一个数，单位是天"),
        judge_training_days,
        training_days,
        {
            "forward only": lambda n, d, n_gpus, flops, use: training_days(n, d, n_gpus, flops, use) / 3,
            "use is left out": lambda n, d, n_gpus, flops, use: training_days(n, d, n_gpus, flops, 1),
            "use the wrong way": lambda n, d, n_gpus, flops, use: 6 * n * d * use / (n_gpus * flops) / 86_400,
            "hours": lambda n, d, n_gpus, flops, use: training_days(n, d, n_gpus, flops, use) * 24,
            "seconds": lambda n, d, n_gpus, flops, use: 6 * n * d / (n_gpus * flops * use),
            "one card": lambda n, d, n_gpus, flops, use: training_days(n, d, 1, flops, use),
        },
    ),
    Exercise(
        "03.8",
        ("Attention in pieces", "分块算注意力"),
        ("an array of shape [n, d]", "形状为 [n, d] 的数组"),
        judge_attend_in_pieces,
        attend_in_pieces,
        {
            "own keys only": _own_keys,
            "start is always 0": _no_start,
            "looks ahead": _looks_ahead,
            "one key short": _one_short,
            "wrong order": _backwards,
            "rows are lost": _rest_lost,
            "too many scores": lambda *given: _in_pieces(*given, keys=lambda start, end: slice(None)),
            "another number of pieces": lambda q, k, v, pieces, attend: attend(q, k, v, 0),
            "other numbers": lambda q, k, v, pieces, attend: v.copy(),
        },
    ),
]
