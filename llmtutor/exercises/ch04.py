"""Exercises of chapter 04: pooling, LoRA's size and merge, labels of an instruction, recall, the DPO loss, when to stop.

Each judge computes what the typical mistakes would give on the same input and names the one that fits.
"""

import numpy as np

from llmtutor.checks import Exercise, Hint, describe


def _same(value, wanted):
    """True when two numbers, arrays or nested lists are equal up to rounding; False also where they cannot be compared."""
    try:
        value, wanted = np.asarray(value, dtype=float), np.asarray(wanted, dtype=float)
    except (TypeError, ValueError):
        return False
    return value.shape == wanted.shape and bool(np.allclose(value, wanted, rtol=1e-6, atol=1e-9))


def _judge(value, solution, mistakes, *arguments):
    """None when `value` is right on these arguments, else the hint of the first mistake that gives exactly this value."""
    wanted = solution(*arguments)
    if _same(value, wanted):
        return None
    for mistake, hint in mistakes:
        if _same(value, mistake(*arguments)):
            return hint
    return Hint(
        "other result",
        f"Wanted {_short(wanted)}; yours is {_short(value)}.",
        f"应得到 {_short(wanted)}，你得到的是 {_short(value)}。",
    )


def _short(value):
    if isinstance(value, list | tuple | float | int | np.ndarray | np.number):
        if not _numbers(value):
            return describe(value)
        array = np.asarray(value)
        return repr(array.tolist() if array.dtype.kind == "i" else np.round(array.astype(float), 4).tolist())[:120]
    return describe(value)


def _numbers(value):
    try:
        np.asarray(value, dtype=float)
    except (TypeError, ValueError):
        return False
    return True


# --- 04.1 The mean of a text --------------------------------------------------------------------------------------------

HIDDEN = np.array([[[1.0, 2.0], [3.0, 6.0], [9.0, 9.0], [9.0, 9.0]], [[2.0, 0.0], [4.0, 4.0], [0.0, 2.0], [2.0, 2.0]]])
MASK = np.array([[1, 1, 0, 0], [1, 1, 1, 1]])


def pooled(hidden, mask):
    """The mean vector of the real tokens of each text: `hidden` [B, n, d] and `mask` [B, n] give [B, d]."""
    return (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdims=True)


def _with_padding(hidden, mask):
    return hidden.mean(1)


def _sum_only(hidden, mask):
    return (hidden * mask[..., None]).sum(1)


def _divides_by_length(hidden, mask):
    return (hidden * mask[..., None]).mean(1)


def _over_texts(hidden, mask):
    return (hidden * mask[..., None]).sum((0, 1)) / mask.sum()


POOL_MISTAKES = [
    (_with_padding, Hint("padding is counted", "The first text has two tokens, but your mean also holds its two places of padding. Use the mask.",
                         "第一段文本只有两个词元，你的平均值却把两个填充位置也算了进去。请使用掩码。")),
    (_sum_only, Hint("sum instead of mean", "Your vectors are sums. Divide each by the number of its real tokens.",
                     "你得到的是总和。请把每个除以它真正的词元数。")),
    (_divides_by_length, Hint("divided by the padded length", "The padding is left out of the sum, but you still divide by its places, too. Divide by "
                              "mask.sum(1).", "求和时去掉了填充，相除时却仍把填充位置算在内。应除以 mask.sum(1)。")),
    (_over_texts, Hint("texts are mixed", "You have one vector for all texts together; wanted is one for each text.",
                       "你把所有文本合成了一个向量；应当每段文本一个。")),
]


def judge_pooled(answer):
    """Two texts, one of them padded."""
    return _judge(answer(HIDDEN.copy(), MASK.copy()), pooled, POOL_MISTAKES, HIDDEN, MASK)


# --- 04.2 How many numbers does LoRA train? -------------------------------------------------------------------------------

SHAPES = [(384, 128), (128, 128), (512, 128)]


def lora_size(shapes, rank):
    """Trainable numbers of LoRA at matrices of these shapes (out, in)."""
    return sum(rank * (rows + columns) for rows, columns in shapes)


def _full_size(shapes, rank):
    return sum(rows * columns for rows, columns in shapes)


def _a_only(shapes, rank):
    return sum(rank * columns for _, columns in shapes)


def _b_only(shapes, rank):
    return sum(rank * rows for rows, _ in shapes)


def _product(shapes, rank):
    return sum(rank * rows * columns for rows, columns in shapes)


SIZE_MISTAKES = [
    (_full_size, Hint("counts the frozen weights", "That is the size of the frozen matrices. LoRA trains only A [rank, in] and B [out, rank].",
                      "这是被冻结的矩阵的大小。LoRA 只训练 A [rank, in] 和 B [out, rank]。")),
    (_a_only, Hint("B is missing", "You counted A [rank, in] only. B [out, rank] is trained, too.", "你只数了 A [rank, in]，B [out, rank] 也要训练。")),
    (_b_only, Hint("A is missing", "You counted B [out, rank] only. A [rank, in] is trained, too.", "你只数了 B [out, rank]，A [rank, in] 也要训练。")),
    (_product, Hint("product instead of sum", "rank * out * in is more than the whole matrix. Count A and B each, then add.",
                    "rank * out * in 比整个矩阵还大。请分别数 A 和 B，再相加。")),
]


def judge_lora_size(answer):
    """Three matrices, two ranks."""
    for rank in (8, 2):
        hint = _judge(answer(list(SHAPES), rank), lora_size, SIZE_MISTAKES, SHAPES, rank)
        if hint:
            return hint
    return None


# --- 04.3 Merge an adapter ------------------------------------------------------------------------------------------------

WEIGHT = np.arange(12, dtype=float).reshape(3, 4) / 4
DOWN = np.array([[1.0, 0.0, 2.0, -1.0], [0.5, 1.0, 0.0, 1.0]])
UP = np.array([[1.0, 2.0], [0.0, -1.0], [3.0, 1.0]])


def merged(weight, down, up, alpha):
    """The one matrix that does what the frozen `weight` [out, in] and its adapter do together: `down` [r, in], `up` [out, r]."""
    return weight + alpha / len(down) * up @ down


def _unscaled(weight, down, up, alpha):
    return weight + up @ down


def _no_rank(weight, down, up, alpha):
    return weight + alpha * up @ down


def _adapter_only(weight, down, up, alpha):
    return alpha / len(down) * up @ down


def _divides_by_width(weight, down, up, alpha):
    return weight + alpha / weight.shape[1] * up @ down


MERGE_MISTAKES = [
    (_unscaled, Hint("scale is missing", "The product must be multiplied by alpha / r before it is added.", "乘积要先乘以 alpha / r，再加上去。")),
    (_no_rank, Hint("not divided by the rank", "You multiplied by alpha; the scale is alpha / r, and r is the number of rows of `down`.",
                    "你乘的是 alpha；系数应为 alpha / r，r 是 down 的行数。")),
    (_adapter_only, Hint("weight is missing", "That is the change alone. Add the frozen weight.", "这只是改变量。请加上被冻结的权重。")),
    (_divides_by_width, Hint("divided by the width", "You divided by the width of the matrix. The scale is alpha / r, r is the number of rows of `down`.",
                             "你除以了矩阵的宽度。系数应为 alpha / r，r 是 down 的行数。")),
]


def judge_merged(answer):
    """A matrix that is not square, so that a wrong order of the factors cannot even be multiplied."""
    return _judge(answer(WEIGHT.copy(), DOWN.copy(), UP.copy(), 6.0), merged, MERGE_MISTAKES, WEIGHT, DOWN, UP, 6.0)


# --- 04.4 Learn from the reply only ---------------------------------------------------------------------------------------

REQUEST, REPLY, END = [5, 6, 7], [8, 9], 0


def labelled(request, reply, end):
    """Token numbers and labels of one example; a label of -100 is left out of the loss."""
    return [*request, *reply, end], [-100] * len(request) + [*reply, end]


def _everything(request, reply, end):
    ids = [*request, *reply, end]
    return ids, list(ids)


def _zeros(request, reply, end):
    return [*request, *reply, end], [0] * len(request) + [*reply, end]


def _no_end(request, reply, end):
    return [*request, *reply], [-100] * len(request) + [*reply]


def _shifted(request, reply, end):
    return [*request, *reply, end], [-100] * (len(request) - 1) + [*reply, end, -100]


def _minus_one(request, reply, end):
    return [*request, *reply, end], [-1] * len(request) + [*reply, end]


def _end_ignored(request, reply, end):
    return [*request, *reply, end], [-100] * len(request) + [*reply, -100]


def _reply_labels(request, reply, end):
    return [*request, *reply, end], [*reply, end]


TOO_SHORT = Hint("not equally long", "Your two lists are not equally long. Every token has a label; those of the request are -100.",
                 "你的两个列表不一样长。每个词元都要有标签，请求部分的标签是 -100。")


def _swapped(request, reply, end):
    return [*request, *reply, end], [*request] + [-100] * (len(reply) + 1)


LABEL_MISTAKES = [
    (_everything, Hint("learns the request", "The labels repeat the request, so the model would learn to write requests. Put -100 there.",
                       "标签里有请求的词元，模型就会去学写请求。请把这些位置填成 -100。")),
    (_zeros, Hint("0 is a token", "0 is the number of a token (here even of the end), so it would be learned. What is to be ignored gets -100.",
                  "0 是一个词元的编号（这里还正好是结束词元），会被学进去。要忽略的位置应填 -100。")),
    (_no_end, Hint("never stops", "Without the end token the model never learns to stop. Put `end` at the end of both lists.",
                   "没有结束词元，模型就学不会停下来。请在两个列表末尾都加上 end。")),
    (_minus_one, Hint("-1 is not ignored", "`cross_entropy` leaves out -100, not -1.", "cross_entropy 略过的是 -100，不是 -1。")),
    (_end_ignored, Hint("end is ignored", "The end token is part of what is learned; with -100 there the model never learns to stop.",
                        "结束词元也要学；填成 -100，模型就学不会停下来。")),
    (_shifted, Hint("shifted twice", "Your labels are moved by one place. The library moves them itself: ids and labels stand side by side.",
                    "你的标签错开了一位。库会自己错位：编号与标签应一一对齐。")),
    (_swapped, Hint("wrong part ignored", "You ignore the reply and learn the request; it should be the other way round.",
                    "你忽略了回复，学的是请求；应当反过来。")),
]


def _joined(pair):
    ids, labels = pair
    return [list(map(int, ids)), list(map(int, labels))]


def judge_labelled(answer):
    """Lengths differ between request and reply, so that mixed-up halves show."""
    value = _joined(answer(list(REQUEST), list(REPLY), END))
    if len(value[0]) != len(value[1]):
        return TOO_SHORT
    return _judge(
        value, lambda *a: _joined(labelled(*a)), [(lambda *a, m=m: _joined(m(*a)), hint) for m, hint in LABEL_MISTAKES], REQUEST, REPLY, END
    )


# --- 04.5 Read a confusion matrix -----------------------------------------------------------------------------------------

CONFUSION = np.array([[8, 2, 0], [1, 3, 6], [0, 1, 19]])


def recalls(confusion):
    """Share of each true class (row) that was found. `confusion` has shape [true, said]."""
    return np.diag(confusion) / confusion.sum(1)


def _precision(confusion):
    return np.diag(confusion) / confusion.sum(0)


def _of_everything(confusion):
    return np.diag(confusion) / confusion.sum()


def _accuracy(confusion):
    return np.trace(confusion) / confusion.sum()


def _missed(confusion):
    return 1 - recalls(confusion)


RECALL_MISTAKES = [
    (_precision, Hint("columns instead of rows", "You divided by the columns: of those called so, how many are right (precision). Recall divides by the rows.",
                      "你除以了列的和：那是“被这样叫的里面有多少叫对了”（精确率）。召回率应除以行的和。")),
    (_of_everything, Hint("divided by all texts", "Your numbers add up to the accuracy. Divide each by the sum of its own row.",
                          "你的几个数加起来是准确率。每个数应除以自己那一行的和。")),
    (_accuracy, Hint("one number for all", "That is the accuracy. Wanted is one number for each class.", "这是准确率。应当每个类别一个数。")),
    (_missed, Hint("share that was missed", "Your numbers are the shares that were missed. Recall is the share that was found.",
                   "你给出的是漏掉的比例。召回率是找到的比例。")),
]


def judge_recalls(answer):
    """A matrix whose row and column sums all differ."""
    return _judge(answer(CONFUSION.copy()), recalls, RECALL_MISTAKES, CONFUSION)


# --- 04.6 The loss of DPO -------------------------------------------------------------------------------------------------

LOGS = [(-4.0, -6.0, -5.0, -5.5, 0.5), (-9.0, -6.0, -8.0, -7.0, 0.5)]      # a pair that is told apart rightly, and one that is not


def preference_loss(chosen, rejected, ref_chosen, ref_rejected, beta):
    """DPO's loss of one pair, from log probabilities of both replies under the model and under the reference."""
    return float(np.log1p(np.exp(-beta * ((chosen - ref_chosen) - (rejected - ref_rejected)))))


def _no_reference(chosen, rejected, ref_chosen, ref_rejected, beta):
    return preference_loss(chosen, rejected, 0.0, 0.0, beta)


def _wrong_way(chosen, rejected, ref_chosen, ref_rejected, beta):
    return preference_loss(rejected, chosen, ref_rejected, ref_chosen, beta)


def _no_beta(chosen, rejected, ref_chosen, ref_rejected, beta):
    return preference_loss(chosen, rejected, ref_chosen, ref_rejected, 1.0)


def _no_log(chosen, rejected, ref_chosen, ref_rejected, beta):
    return float(np.exp(-preference_loss(chosen, rejected, ref_chosen, ref_rejected, beta)))


def _no_minus(chosen, rejected, ref_chosen, ref_rejected, beta):
    return -preference_loss(chosen, rejected, ref_chosen, ref_rejected, beta)


def _size_only(chosen, rejected, ref_chosen, ref_rejected, beta):
    return float(np.log1p(np.exp(-abs(beta * ((chosen - ref_chosen) - (rejected - ref_rejected))))))


DPO_MISTAKES = [
    (_size_only, Hint("size of the margin", "Right where the pair is told apart rightly. Where it is not, the margin is negative and the loss larger than 0.69; do not take its size.",
                      "排对的那一对算得对。排错的那一对间隔是负的，损失大于 0.69；不要取绝对值。")),
    (_no_reference, Hint("reference is missing", "Without the reference nothing holds the model back. Subtract its log probabilities.",
                         "没有参考模型，就没有什么能拉住模型。请减去参考模型的对数概率。")),
    (_wrong_way, Hint("wrong way round", "Your loss falls when the *rejected* reply becomes likelier. It is chosen minus rejected.",
                      "你的损失在*被拒绝*的回复变得更可能时下降。应是“选中的”减“被拒的”。")),
    (_no_beta, Hint("beta is ignored", "Multiply the difference by beta before the sigmoid.", "在 sigmoid 之前要把差乘以 beta。")),
    (_no_log, Hint("probability instead of loss", "That is the sigmoid, the probability that the pair is ordered rightly. The loss is minus its log.",
                   "这是 sigmoid，即排对次序的概率。损失是它的对数的相反数。")),
    (_no_minus, Hint("sign", "A loss that is to be made small must be minus the log of the probability.", "要使损失变小，它应是概率对数的相反数。")),
]


def judge_preference_loss(answer):
    """Two pairs where all four numbers matter, one with a negative margin."""
    return next((hint for logs in LOGS if (hint := _judge(answer(*logs), preference_loss, DPO_MISTAKES, *logs))), None)


# --- 04.7 When to stop ------------------------------------------------------------------------------------------------------

CURVES = [  # a small bump and a plateau; a better value after a bump; a run that ends before a better value; a tie; a better value far behind;
    # one that never rises
    ([1.0, 0.7, 0.72, 0.6, 0.65, 0.64, 0.63, 0.5, 0.9], 3),
    ([1.0, 0.8, 0.9, 0.7, 0.75, 0.6, 0.65, 0.66], 2),
    ([1.0, 0.9, 0.95, 0.5, 0.7, 0.8, 0.4], 2),
    ([2.0, 1.0, 1.0, 1.0, 1.0, 0.5], 3),
    ([1.0, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.4], 2),
    ([3.0, 2.0, 1.0], 3),
]


def stop_at(losses, patience):
    """The measurement to keep: the best so far when, for the first time, `patience` measurements in a row brought nothing better."""
    best = 0
    for now, loss in enumerate(losses):
        if loss < losses[best]:
            best = now
        elif now - best >= patience:
            return best
    return best


def _against_previous(losses, patience):
    best, wait = 0, 0
    for now in range(1, len(losses)):
        best = now if losses[now] < losses[best] else best
        wait = wait + 1 if losses[now] >= losses[now - 1] else 0
        if wait >= patience:
            break
    return best


def _never_reset(losses, patience):
    best, wait = 0, 0
    for now, loss in enumerate(losses):
        best, wait = (now, wait) if loss < losses[best] else (best, wait + (now > 0))
        if wait >= patience:
            break
    return best


def _too_early(losses, patience):
    return stop_at(losses, patience - 1)


def _too_late(losses, patience):
    return stop_at(losses, patience + 1)


def _tie_is_better(losses, patience):
    best = 0
    for now, loss in enumerate(losses):
        if loss <= losses[best]:
            best = now
        elif now - best >= patience:
            break
    return best


def _looks_ahead(losses, patience):
    return int(np.argmin(losses))


def _first_rise(losses, patience):
    return next((i for i in range(len(losses) - 1) if losses[i + 1] > losses[i]), len(losses) - 1)


def _where_it_stops(losses, patience):
    return stop_at(losses, patience) + patience


def _last(losses, patience):
    return len(losses) - 1


STOP_MISTAKES = [
    (_against_previous, Hint("compares with the one before", "You compare with the measurement before. A value can fall and still be no better than the best.",
                             "你是与前一次相比。一个值可以下降，却仍不比最好的更好。")),
    (_first_rise, Hint("no patience", "You stop at the first rise. Only `patience` measurements in a row without anything better end the run.",
                       "你在第一次上升时就停了。连续 patience 次没有更好，才结束。")),
    (_too_early, Hint("one too early", "One too early: `patience` measurements in a row without anything better must have been seen.",
                      "早了一次：要连续看到 patience 次没有更好，才停。")),
    (_never_reset, Hint("count goes on", "Your count goes on after a better value. Begin again at 0.", "出现更好的值之后，你的计数没有清零。请从 0 重新数起。")),
    (_too_late, Hint("one too late", "One too late: as soon as `patience` measurements in a row brought nothing better, stop.",
                     "晚了一次：一旦连续 patience 次没有更好，就停。")),
    (_looks_ahead, Hint("looks ahead", "The best of all comes after training should have stopped; whoever stops early never sees it.",
                        "全部之中最好的出现在应当停止之后；提前停下来的人看不到它。")),
    (_tie_is_better, Hint("a tie is not better", "A value equal to the best is not better.", "与最好的一样，不算更好。")),
    (_where_it_stops, Hint("keeps the last", "That is where training stops. Keep the best measurement before it.",
                           "这是训练停下的地方。应当保留它之前最好的那一次。")),
    (_last, Hint("never stops", "You went to the end of the list. With this patience the run ends earlier.", "你走到了列表末尾。按这个耐心值，训练应当更早结束。")),
]


def judge_stop_at(answer):
    """Six curves; a mistake is named only if it gives the same place on all of them."""
    said = [answer(list(losses), patience) for losses, patience in CURVES]
    for value, (losses, patience) in zip(said, CURVES):
        if not _same(value, stop_at(losses, patience)):
            known = (hint for mistake, hint in STOP_MISTAKES if all(_same(v, mistake(*curve)) for v, curve in zip(said, CURVES)))
            return next(known, None) or _judge(value, stop_at, [], losses, patience)
    return None


# --- the list ---------------------------------------------------------------------------------------------------------------


def _wrong(mistakes):
    return {hint.symptom: mistake for mistake, hint in mistakes}


EXERCISES = [
    Exercise("04.1", ("The mean of a text", "一段文本的平均"), ("an array of shape [B, d]", "形状为 [B, d] 的数组"), judge_pooled, pooled,
             _wrong(POOL_MISTAKES)),
    Exercise("04.2", ("How much does LoRA train?", "LoRA 训练多少个数？"), ("one number", "一个数"), judge_lora_size, lora_size, _wrong(SIZE_MISTAKES)),
    Exercise("04.3", ("Merge an adapter", "合并适配器"), ("an array of shape [out, in]", "形状为 [out, in] 的数组"), judge_merged, merged,
             _wrong(MERGE_MISTAKES)),
    Exercise("04.4", ("Learn from the reply only", "只从回复中学"), ("two lists of numbers, equally long", "两个一样长的整数列表"), judge_labelled, labelled,
             _wrong(LABEL_MISTAKES) | {TOO_SHORT.symptom: _reply_labels}),
    Exercise("04.5", ("Read a confusion matrix", "读混淆矩阵"), ("an array of shape [n_classes]", "形状为 [n_classes] 的数组"), judge_recalls, recalls,
             _wrong(RECALL_MISTAKES)),
    Exercise("04.6", ("The loss of DPO", "DPO 的损失"), ("one number", "一个数"), judge_preference_loss, preference_loss, _wrong(DPO_MISTAKES)),
    Exercise("04.7", ("When to stop", "何时停止"), ("one number, the place in the list", "一个数，即在列表中的位置"), judge_stop_at, stop_at,
             _wrong(STOP_MISTAKES)),
]
