"""Exercises of chapter 06: rollout, the induction score, patching shares, selectivity, removal by the mean, comprehensiveness, alignment.

Each judge computes what the typical mistakes would give on the same input and names the one that fits; what fits none
is described by the value that was wanted.
"""

import numpy as np

from llmtutor.checks import Exercise, Hint, describe


def _same(value, wanted):
    """True when numbers or arrays are equal up to rounding; False also where shapes differ."""
    if np.shape(value) != np.shape(wanted):
        return False
    return bool(np.allclose(np.asarray(value, dtype=float), np.asarray(wanted, dtype=float), rtol=1e-6, atol=1e-9))


def _named(value, mistakes, *arguments):
    """The hint of the first mistake that gives exactly `value` on these arguments, or None."""
    for mistake, hint in mistakes:
        if _same(value, mistake(*arguments)):
            return hint
    return None


def _other(value, wanted):
    return Hint("other result", f"Wanted {_short(wanted)}; yours is {_short(value)}.", f"应得到 {_short(wanted)}，你得到的是 {_short(value)}。")


def _short(value):
    if isinstance(value, list | tuple | np.ndarray | float | int | np.number):
        return repr(np.round(value, 4).tolist())[:120]
    return describe(value)


def _wrong(mistakes, **more):
    return {hint.symptom: mistake for mistake, hint in mistakes} | {name.replace("_", " "): answer for name, answer in more.items()}


def _maps(*shape, seed=0):
    """Causal maps with random weights; rows sum to 1."""
    weights = np.tril(np.random.default_rng(seed).random(shape) + 0.05)
    return weights / weights.sum(-1, keepdims=True)


# --- 06.1 Rollout -----------------------------------------------------------------------------------------------------


def rollout(weights):
    """Attention followed through all layers: mean over heads, half residual, later layers from the left. [query, key]"""
    result = np.eye(weights.shape[-1])
    for layer in weights.mean(1):
        result = (0.5 * layer + 0.5 * np.eye(len(layer))) @ result
    return result


def _no_residual(weights):
    result = np.eye(weights.shape[-1])
    for layer in weights.mean(1):
        result = layer @ result
    return result


def _wrong_order(weights):
    return rollout(weights[::-1])


def _mean_of_layers(weights):
    return weights.mean((0, 1))


def _not_halved(weights):
    result = np.eye(weights.shape[-1])
    for layer in weights.mean(1):
        result = (layer + np.eye(len(layer))) @ result
    return result


def _elementwise(weights):
    result = np.ones(weights.shape[2:])
    for layer in weights.mean(1):
        result = result * (0.5 * layer + 0.5 * np.eye(len(layer)))
    return result


def _sum_of_heads(weights):
    return rollout(weights.sum(1, keepdims=True))


def _first_head(weights):
    return rollout(weights[:, :1])


ROLLOUT_MISTAKES = [
    (_sum_of_heads, Hint("heads not averaged", "You added the heads up. Take their mean first, so that each row still adds up to 1.",
                         "你把各个头加了起来。应先取平均，使每一行之和仍为 1。")),
    (_first_head, Hint("first head only", "You followed the first head only. Take the mean over all heads of a layer.",
                       "你只追了第一个头。应取一层所有头的平均。")),
    (_no_residual, Hint("no residual", "You multiplied the maps alone. Half of each state comes straight from below: mix with the identity.",
                        "你只把注意力图相乘了。每个状态有一半直接来自下面：要与单位矩阵混合。")),
    (_wrong_order, Hint("wrong order", "The layers are multiplied the other way round: a later layer stands to the left, new @ result.",
                        "各层相乘的次序反了：后面的层在左边，即 新的一层 @ 结果。")),
    (_mean_of_layers, Hint("mean over layers", "You averaged the layers. Following attention means multiplying their matrices.",
                           "你把各层取了平均。沿着注意力追下去，是把各层的矩阵相乘。")),
    (_not_halved, Hint("not halved", "Your rows add up to more than 1: map and identity count one half each.",
                       "你的行加起来大于 1：注意力图和单位矩阵各占一半。")),
    (_elementwise, Hint("element by element", "You multiplied cell by cell (*). A path over another token needs the matrix product (@).",
                        "你用的是逐元素相乘（*）。经过另一个词元的路径需要矩阵乘法（@）。")),
]


def judge_rollout(answer):
    """Three layers and two heads, so that order and the mean over heads show."""
    weights = _maps(3, 2, 5, 5)
    value = answer(weights.copy())
    if not _same(value, rollout(weights)):
        return _named(value, ROLLOUT_MISTAKES, weights) or _other(value, rollout(weights))
    return None


# --- 06.2 Induction score ---------------------------------------------------------------------------------------------

WORDS = ["red", "ball", "dog", "red", "ball", "cat", "red", "dog"]


def induction_score(weights, tokens):
    """Mean weight on the token after the latest earlier copy, over the queries that have one. `weights`: [query, key]."""
    found = []
    for query, token in enumerate(tokens):
        earlier = [i for i in range(query) if tokens[i] == token]
        if earlier:
            found.append(weights[query, earlier[-1] + 1])
    return float(np.mean(found))


def _places(weights, tokens, step, which, everyone=False):
    found = []
    for query, token in enumerate(tokens):
        earlier = [i for i in range(query) if tokens[i] == token]
        if earlier:
            found.append(weights[query, earlier[which] + step])
        elif everyone:
            found.append(0.0)
    return float(np.mean(found))


def _duplicate(weights, tokens):
    return _places(weights, tokens, 0, -1)


def _first_copy(weights, tokens):
    return _places(weights, tokens, 1, 0)


def _all_queries(weights, tokens):
    return _places(weights, tokens, 1, -1, everyone=True)


def _as_columns(weights, tokens):
    return _places(weights.T, tokens, 1, -1)


def _next_to(weights, tokens):
    return _places(weights, tokens, -1, -1)


def _every_copy(weights, tokens):
    found = []
    for query, token in enumerate(tokens):
        found += [weights[query, i + 1] for i in range(query) if tokens[i] == token]
    return float(np.mean(found))


INDUCTION_MISTAKES = [
    (_every_copy, Hint("all copies", "Only the latest copy counts; you averaged over all of them.", "只看最近的一次；你把先前各次都平均进去了。")),
    (_duplicate, Hint("looks at the copy", "That is the duplicate score. Induction looks at what came after the copy: one place further.",
                      "这是“重复”的得分。归纳看的是副本后面的那个词元：再往后一个位置。")),
    (_first_copy, Hint("first copy", "Where a token came twice before, you took its first copy; wanted is the latest.",
                       "当同一词元先前出现过两次时，你取了第一次；应取最近的一次。")),
    (_all_queries, Hint("counts queries without a copy", "Tokens that come for the first time cannot be judged; leave them out of the mean.",
                        "第一次出现的词元无从判断，不应计入平均。")),
    (_as_columns, Hint("column instead of row", "You read weights[key, query]. The row is the token that looks.",
                       "你读的是 weights[key, query]。行是正在看的词元。")),
    (_next_to, Hint("token before the copy", "You took what came before the copy; wanted is what came after it.",
                    "你取的是副本前面的词元；应取它后面的。")),
]


def judge_induction(answer):
    """A list with one token that comes three times."""
    weights = _maps(8, 8, seed=1)
    value, wanted = answer(weights.copy(), list(WORDS)), induction_score(weights, WORDS)
    if not _same(value, wanted):
        return _named(value, INDUCTION_MISTAKES, weights, WORDS) or _other(value, wanted)
    return None


# --- 06.3 What comes back ---------------------------------------------------------------------------------------------


def share_back(clean, corrupt, patched):
    """0 where patching changes nothing, 1 where the clean number is back. All three are logit differences."""
    return (patched - corrupt) / (clean - corrupt)


SHARE_MISTAKES = [
    (lambda clean, corrupt, patched: patched - corrupt,
     Hint("not divided", "You gave the difference itself. Divide by how far apart the two texts are, so that 1 means all.",
          "你给的是差值本身。还要除以两段文本相差多少，使 1 表示完全回来。")),
    (lambda clean, corrupt, patched: patched / clean,
     Hint("corrupt is not zero", "The corrupted text has a number of its own: measure from there, not from 0.",
          "改动过的文本自己也有一个数：要从那里量起，而不是从 0。")),
    (lambda clean, corrupt, patched: (clean - patched) / (clean - corrupt),
     Hint("what is missing", "You computed the share that is still missing: 0 and 1 are exchanged.", "你算的是还差多少：0 和 1 颠倒了。")),
    (lambda clean, corrupt, patched: (patched - corrupt) / (corrupt - clean),
     Hint("sign", "A patch that helps gets a negative share from you. Divide by clean minus corrupt.", "有帮助的修补在你这里是负的。应除以 clean 减 corrupt。")),
    (lambda clean, corrupt, patched: min(1.0, max(0.0, share_back(clean, corrupt, patched))),
     Hint("cut off", "Right between 0 and 1, but a patch can also overshoot or harm. Do not cut the number off.",
          "在 0 和 1 之间是对的，但修补也可能过头或帮倒忙。不要截断。")),
]


def judge_share(answer):
    """A usual case, and one that overshoots."""
    for numbers in ((6.0, -4.0, 3.5), (6.0, -4.0, 7.0)):
        value, wanted = answer(*numbers), share_back(*numbers)
        if not _same(value, wanted):
            return _named(value, SHARE_MISTAKES, *numbers) or _other(value, wanted)
    return None


# --- 06.4 Selectivity -------------------------------------------------------------------------------------------------


def selectivity(predicted, labels, control_predicted, control_labels):
    """Accuracy on the task minus accuracy on the control task (Hewitt and Liang 2019)."""
    return float(np.mean(predicted == labels) - np.mean(control_predicted == control_labels))


def _task_only(predicted, labels, control_predicted, control_labels):
    return float(np.mean(predicted == labels))


def _ratio(predicted, labels, control_predicted, control_labels):
    return float(np.mean(predicted == labels) / np.mean(control_predicted == control_labels))


def _reversed(predicted, labels, control_predicted, control_labels):
    return -selectivity(predicted, labels, control_predicted, control_labels)


def _against_labels(predicted, labels, control_predicted, control_labels):
    return float(np.mean(predicted == labels) - np.mean(control_predicted == labels))


def _counts(predicted, labels, control_predicted, control_labels):
    return float(np.sum(predicted == labels) - np.sum(control_predicted == control_labels))


SELECTIVITY_MISTAKES = [
    (_task_only, Hint("no control", "That is the accuracy on the task alone. Take the accuracy on the control task off.", "这只是任务的准确率。还要减去对照任务的准确率。")),
    (_ratio, Hint("divided", "You divided the two accuracies; selectivity is their difference.", "你把两个准确率相除了；选择性是两者之差。")),
    (_reversed, Hint("reversed", "Yours is negative where the probe is better on the task: task minus control.", "探针在任务上更好时你得到负数：应为任务减对照。")),
    (_against_labels, Hint("wrong labels", "The control probe must be compared with the control labels, not with the task's.",
                           "对照探针要与对照标签比较，而不是与任务的标签。")),
    (_counts, Hint("counts", "You subtracted numbers of hits; an accuracy is a share, so use the mean.", "你相减的是命中的个数；准确率是比例，请用平均。")),
]


def judge_selectivity(answer):
    """Eleven of twelve right on the task, seven on the control."""
    rng = np.random.default_rng(0)
    labels, control_labels = rng.integers(0, 3, 12), rng.integers(0, 3, 12)
    predicted, control_predicted = labels.copy(), control_labels.copy()
    predicted[:1], control_predicted[:5] = (predicted[:1] + 1) % 3, (control_predicted[:5] + 1) % 3
    arguments = predicted, labels, control_predicted, control_labels
    value, wanted = answer(*(part.copy() for part in arguments)), selectivity(*arguments)
    if not _same(value, wanted):
        return _named(value, SELECTIVITY_MISTAKES, *arguments) or _other(value, wanted)
    return None


# --- 06.5 Removing by the mean ----------------------------------------------------------------------------------------


def mean_ablated(z, head, reference):
    """What the heads mix, [token, head, d_head], with one head replaced by its mean over reference tokens [n, head, d_head]."""
    changed = z.copy()
    changed[:, head] = reference[:, head].mean(0)
    return changed


def _zeroed(z, head, reference):
    changed = z.copy()
    changed[:, head] = 0
    return changed


def _own_mean(z, head, reference):
    return mean_ablated(z, head, z)


def _over_heads(z, head, reference):
    changed = z.copy()
    changed[:, head] = reference.mean((0, 1))
    return changed


def _one_number(z, head, reference):
    changed = z.copy()
    changed[:, head] = reference[:, head].mean()
    return changed


def _every_head(z, head, reference):
    return np.broadcast_to(reference.mean(0), z.shape).copy()


def _in_place(z, head, reference):
    z[:, head] = reference[:, head].mean(0)
    return z


MEAN_MISTAKES = [
    (_zeroed, Hint("zero", "The head's place is 0. Put its mean over the reference tokens there.", "这个头的位置是 0。应放上它在参考词元上的平均值。")),
    (_own_mean, Hint("mean of the same text", "You took the mean over z itself; it would still tell something about this text. Use `reference`.",
                     "你取的是 z 自己的平均，其中仍有这段文本的信息。请用 reference。")),
    (_over_heads, Hint("mean over heads too", "You averaged over all heads. Each head has a mean of its own.", "你把所有的头都平均了。每个头有自己的平均值。")),
    (_one_number, Hint("one number", "The mean is a vector of length d_head: average over tokens only, axis 0.", "平均值是长度为 d_head 的向量：只在词元上平均，即第 0 轴。")),
    (_every_head, Hint("every head", "All heads were replaced; only one was to be.", "所有的头都被换掉了；只应换一个。")),
]


def judge_mean(answer):
    """Numbers first, then whether the input was left as it was."""
    rng = np.random.default_rng(5)
    z, reference = rng.normal(size=(4, 3, 2)), rng.normal(size=(6, 3, 2)) + 1
    given = z.copy()
    value, wanted = answer(given, 1, reference.copy()), mean_ablated(z, 1, reference)
    if not _same(value, wanted):
        return _named(value, MEAN_MISTAKES, z, 1, reference) or _other(value, wanted)
    if not _same(given, z):
        return Hint("changes the input", "After your function ran, z had other numbers in it. Change a copy.", "你的函数运行之后，z 里的数变了。请在副本上修改。")
    return None


# --- 06.6 Comprehensiveness -------------------------------------------------------------------------------------------

CHANCES = np.array([0.05, 0.02, 0.30, 0.10, 0.25])


def _model(erased):
    """A stand-in for a model: the answer's probability with some positions erased. 2 and 4 stand in for each other."""
    return 0.9 - float(CHANCES[list(erased)].sum()) - 0.15 * (2 in erased and 4 in erased)


def comprehensiveness(probability, scores, k):
    """How far the answer's probability falls when the k positions with the largest scores are erased."""
    top = np.argsort(-np.asarray(scores))[:k].tolist()
    return probability([]) - probability(top)


def _lowest(probability, scores, k):
    return probability([]) - probability(np.argsort(scores)[:k].tolist())


def _size(probability, scores, k):
    return probability([]) - probability(np.argsort(-np.abs(scores))[:k].tolist())


def _kept(probability, scores, k):
    return probability([]) - probability(np.argsort(-np.asarray(scores))[k:].tolist())


def _not_a_fall(probability, scores, k):
    return probability(np.argsort(-np.asarray(scores))[:k].tolist())


def _k_is_one(probability, scores, k):
    return comprehensiveness(probability, scores, 1)


def _one_by_one(probability, scores, k):
    return sum(probability([]) - probability([place]) for place in np.argsort(-np.asarray(scores))[:k].tolist())


COMPREHENSIVENESS_MISTAKES = [
    (_one_by_one, Hint("single falls added", "You erased the positions one by one and added the falls. Erase the k positions together: two tokens that stand in "
                       "for each other cost little one at a time.", "你一次擦掉一个，再把下降相加。应把 k 个位置一起擦掉：互为备份的两个词元，单独擦掉几乎没有损失。")),
    (_lowest, Hint("least important erased", "You erased the positions with the smallest scores: argsort goes from small to large.",
                   "你擦掉的是分数最小的位置：argsort 是从小到大排的。")),
    (_size, Hint("large negative scores erased", "A negative score speaks against the answer; take the largest scores, not the largest sizes.",
                 "负分表示不支持这个答案；应取最大的分数，而不是最大的绝对值。")),
    (_kept, Hint("kept instead of erased", "You erased all the others: that is sufficiency. Erase the top k.", "你擦掉的是其余的位置：那是“充分性”。应擦掉前 k 个。")),
    (_not_a_fall, Hint("not a difference", "That is the probability that is left. Wanted is how far it fell.", "这是剩下的概率。要的是下降了多少。")),
    (_k_is_one, Hint("k is ignored", "Only one position is erased, whatever k says.", "不管 k 是多少，你只擦掉了一个位置。")),
]


def judge_comprehensiveness(answer):
    """Scores with a large negative one, k = 2."""
    scores = np.array([0.1, -3.0, 2.0, 0.3, 1.0])
    value, wanted = answer(_model, scores.copy(), 2), comprehensiveness(_model, scores, 2)
    if not _same(value, wanted):
        return _named(value, COMPREHENSIVENESS_MISTAKES, _model, scores, 2) or _other(value, wanted)
    return None


# --- 06.7 Alignment ---------------------------------------------------------------------------------------------------


def alignment_accuracy(weights, truth):
    """Share of target tokens in `truth` (target -> set of right sources) whose largest weight is on a right source."""
    return float(np.mean([int(weights[target].argmax()) in right for target, right in truth.items()]))


def _by_column(weights, truth):
    return float(np.mean([int(weights[:, target].argmax()) in right for target, right in truth.items()]))


def _over_all_rows(weights, truth):
    return float(np.sum([int(weights[target].argmax()) in right for target, right in truth.items()]) / len(weights))


def _mass(weights, truth):
    return float(np.mean([weights[target, sorted(right)].sum() for target, right in truth.items()]))


def _one_source(weights, truth):
    return float(np.mean([int(weights[target].argmax()) == min(right) for target, right in truth.items()]))


def _shifted(weights, truth):
    return float(np.mean([int(weights[min(target + 1, len(weights) - 1)].argmax()) in right for target, right in truth.items()]))


ALIGNMENT_MISTAKES = [
    (_by_column, Hint("column instead of row", "You read columns. The row is the target token that looks.", "你读的是列。行才是正在看的目标词元。")),
    (_over_all_rows, Hint("divided by all rows", "Target tokens without a counterpart are not in `truth` and must not count.", "没有对应词的目标词元不在 truth 中，不应计入。")),
    (_mass, Hint("weights instead of hits", "You averaged weights. Wanted: is the largest weight of the row on a right source, yes or no?",
                 "你平均的是权重。要问的是：这一行最大的权重在不在对的源词元上？")),
    (_one_source, Hint("only one source counts", "A word may have several right source tokens: ask whether argmax is in the set.",
                       "一个词可以对应多个源词元：要问 argmax 在不在集合里。")),
    (_shifted, Hint("off by one", "You read the row after the target token's own.", "你读的是目标词元后面的那一行。")),
]


def judge_alignment(answer):
    """Six target and six source tokens, so that rows and columns can be mixed up."""
    weights = np.full((6, 6), 0.05)
    for target, source in enumerate([3, 5, 1, 2, 0, 4]):
        weights[target, source] = 0.7
    truth = {0: {1}, 1: {0, 4}, 2: {1, 3}, 3: {1, 2}, 4: {0, 3}}
    value, wanted = answer(weights.copy(), dict(truth)), alignment_accuracy(weights, truth)
    if not _same(value, wanted):
        return _named(value, ALIGNMENT_MISTAKES, weights, truth) or _other(value, wanted)
    return None


EXERCISES = [
    Exercise("06.1", ("Rollout", "注意力展开"), ("an array [query, key]", "形状为 [query, key] 的数组"), judge_rollout, rollout, _wrong(ROLLOUT_MISTAKES)),
    Exercise("06.2", ("The induction score", "归纳得分"), ("one number", "一个数"), judge_induction, induction_score, _wrong(INDUCTION_MISTAKES)),
    Exercise("06.3", ("What comes back", "回来了多少"), ("one number", "一个数"), judge_share, share_back, _wrong(SHARE_MISTAKES)),
    Exercise("06.4", ("Selectivity", "选择性"), ("one number", "一个数"), judge_selectivity, selectivity, _wrong(SELECTIVITY_MISTAKES)),
    Exercise("06.5", ("Removing by the mean", "用平均值去掉一个头"), ("an array [token, head, d_head]", "形状为 [token, head, d_head] 的数组"),
             judge_mean, mean_ablated, _wrong(MEAN_MISTAKES, changes_the_input=_in_place)),
    Exercise("06.6", ("Comprehensiveness", "全面性"), ("one number", "一个数"), judge_comprehensiveness, comprehensiveness,
             _wrong(COMPREHENSIVENESS_MISTAKES)),
    Exercise("06.7", ("Alignment", "对齐"), ("one number", "一个数"), judge_alignment, alignment_accuracy, _wrong(ALIGNMENT_MISTAKES)),
]
