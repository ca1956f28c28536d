"""Exercises of chapter 05: temperature, the nucleus, repeated n-grams, a beam step, cache size, speculation, streaming.

Each judge computes what the typical mistakes would give on the same input and names the one that fits; what fits none
is described by the first place where it differs.
"""

import codecs

import numpy as np

from llmtutor.checks import Exercise, Hint, describe


def _same(value, wanted):
    """True when two numbers, arrays or nested lists are equal up to rounding; False also where they cannot be compared."""
    if isinstance(wanted, list) and any(isinstance(item, str | tuple | list) for item in wanted):
        return len(value) == len(wanted) and all(_same(a, b) for a, b in zip(value, wanted, strict=True))
    if isinstance(wanted, str | set):
        return type(value) is type(wanted) and value == wanted
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
    return Hint(
        "other result",
        f"Wanted {_short(wanted)}; yours is {_short(value)}.",
        f"应得到 {_short(wanted)}，你得到的是 {_short(value)}。",
    )


def _short(value):
    if isinstance(value, list | tuple | set | np.ndarray | float | int | np.number):
        return repr(np.round(value, 4).tolist() if isinstance(value, np.ndarray) else value)[:120]
    return describe(value)


# --- 05.1 Temperature -------------------------------------------------------------------------------------------------

LOGITS = [2.0, 1.0, 0.0, -1.0]


def probabilities(logits, temperature):
    """Softmax of the logits divided by the temperature. `logits` has shape [n_tokens]."""
    z = np.asarray(logits) / temperature
    exponentials = np.exp(z - z.max())
    return exponentials / exponentials.sum()


def _softmax(logits):
    return probabilities(logits, 1.0)


def _times(logits, temperature):
    return probabilities(logits, 1 / temperature)


def _ignored(logits, temperature):
    return _softmax(logits)


def _after(logits, temperature):
    return _softmax(logits) / temperature


def _not_normalised(logits, temperature):
    return np.exp(np.asarray(logits) / temperature)


def _no_shift(logits, temperature):
    with np.errstate(all="ignore"):
        exponentials = np.exp(np.asarray(logits) / temperature)
        return exponentials / exponentials.sum()


TEMPERATURE_MISTAKES = [
    (_times, Hint("multiplied", "A temperature above 1 should flatten; yours sharpens. Divide the logits by it.",
                  "温度大于 1 应使分布变平，你的却变尖了。应当用温度去除 logits。")),
    (_ignored, Hint("temperature is ignored", "Your result is the same for every temperature.", "无论温度是多少，你的结果都一样。")),
    (_after, Hint("divided after the softmax",
                  "Your numbers do not add up to 1: you divided the probabilities. Divide the logits, before the softmax.",
                  "你的数加起来不是 1：你除的是概率。应当在 softmax 之前除 logits。")),
    (_not_normalised, Hint("not normalised", "After exp, divide by the sum, so that the probabilities add up to 1.",
                           "取 exp 之后要除以总和，使概率加起来等于 1。")),
]


def judge_probabilities(answer):
    """A warm case, a cold case, and one so cold that exp overflows without a shift."""
    for temperature in (2.0, 0.5):
        value = answer(np.array(LOGITS), temperature)
        wanted = probabilities(LOGITS, temperature)
        if not _same(value, wanted):
            return _named(value, TEMPERATURE_MISTAKES, LOGITS, temperature) or _other(value, wanted)
    value = answer(np.array(LOGITS), 0.001)
    if not _same(value, probabilities(LOGITS, 0.001)):
        return Hint("overflow", "Fine until the temperature is tiny: then exp overflows. Subtract the largest logit first.",
                    "温度很小时 exp 会溢出。请先减去最大的 logit。")
    return None


# --- 05.2 The nucleus -------------------------------------------------------------------------------------------------

PROBABILITIES = [0.0625, 0.5, 0.1875, 0.25]


def nucleus(p, share):
    """The fewest tokens whose probabilities together reach `share`, likeliest first. `p` has shape [n_tokens]."""
    order = np.argsort(-np.asarray(p))
    before = np.cumsum(np.asarray(p)[order]) - np.asarray(p)[order]
    return [int(i) for i in order[before < share]]


def _too_few(p, share):
    order = np.argsort(-np.asarray(p))
    return [int(i) for i in order[np.cumsum(np.asarray(p)[order]) <= share]]


def _one_more(p, share):
    order = np.argsort(-np.asarray(p))
    before = np.cumsum(np.asarray(p)[order]) - np.asarray(p)[order]
    return [int(i) for i in order[before <= share]]


def _unsorted(p, share):
    before = np.cumsum(p) - np.asarray(p)
    return [int(i) for i in np.flatnonzero(before < share)]


def _from_below(p, share):
    order = np.argsort(p)
    before = np.cumsum(np.asarray(p)[order]) - np.asarray(p)[order]
    return [int(i) for i in order[before < share]]


def _threshold(p, share):
    return [int(i) for i in np.argsort(-np.asarray(p)) if p[i] >= 1 - share]


NUCLEUS_MISTAKES = [
    (_threshold, Hint("threshold on each token", "You compared each probability with a threshold. The nucleus is about their sum.",
                      "你是拿每个概率与一个门槛比。核看的是概率之和。")),
    (_too_few, Hint("one too few", "The token that carries the sum across the border belongs to the nucleus: look at the sum of all before it.",
                    "使总和跨过界限的那个词元也属于核：要看排在它前面的概率之和。")),
    (_one_more, Hint("one too many", "When the tokens so far reach the share exactly, no further one is needed.",
                     "前面的词元恰好达到所需的份额时，就不再需要下一个。")),
    (_unsorted, Hint("not sorted", "You took the tokens in the order of the vocabulary. Sort by probability first.",
                     "你是按词表次序取的。应先按概率排序。")),
    (_from_below, Hint("least likely first", "Your nucleus begins with the least likely token. Sort from large to small.",
                       "你的核从最不可能的词元开始。应从大到小排序。")),
]


def judge_nucleus(answer):
    """A share between two sums, one that is met exactly (all numbers are exact in binary), and one so small that one token is left."""
    for share in (0.9, 0.75, 0.1):
        value = answer(np.array(PROBABILITIES), share)
        wanted = nucleus(PROBABILITIES, share)
        if not _same([int(i) for i in value], wanted):
            return _named(list(value), NUCLEUS_MISTAKES, PROBABILITIES, share) or _other(list(value), wanted)
    return None


# --- 05.3 No n-gram twice ---------------------------------------------------------------------------------------------

IDS = [4, 7, 2, 9, 4, 7, 5, 1, 4, 7]


def banned(ids, n):
    """The tokens that would complete an n-gram that `ids` holds already, as a set."""
    last = tuple(ids[len(ids) - n + 1:])
    return {ids[i + n - 1] for i in range(len(ids) - n + 1) if tuple(ids[i:i + n - 1]) == last}


def _longer(ids, n):
    return banned(ids, n + 1)


def _shorter(ids, n):
    return banned(ids, n - 1)


def _latest_only(ids, n):
    found = [ids[i + n - 1] for i in range(len(ids) - n + 1) if tuple(ids[i:i + n - 1]) == tuple(ids[len(ids) - n + 1:])]
    return set(found[-1:])


def _first_only(ids, n):
    found = [ids[i + n - 1] for i in range(len(ids) - n + 1) if tuple(ids[i:i + n - 1]) == tuple(ids[len(ids) - n + 1:])]
    return set(found[:1])


def _everything(ids, n):
    return set(ids)


def _one_token(ids, n):
    return {ids[i + 1] for i in range(len(ids) - 1) if ids[i] == ids[-1]}


def _last_place_left_out(ids, n):
    return {ids[i + n - 1] for i in range(len(ids) - n) if ids[i:i + n - 1] == ids[len(ids) - n + 1:]}


BANNED_MISTAKES = [
    (_one_token, Hint("one token only", "You looked at the last token only. The last n - 1 tokens must agree, all of them.",
                      "你只看了最后一个词元。最后 n - 1 个词元必须全部相同。")),
    (_last_place_left_out, Hint("last place left out", "Your search stops one place too early: n tokens may also end where the text ends.",
                                "你的查找早停了一步：n 个词元也可以正好在文本末尾结束。")),
    (_longer, Hint("context too long", "An n-gram is n - 1 tokens of context and one more; you compared n tokens.",
                   "n 元组由 n - 1 个前文词元加上下一个组成；你比较了 n 个。")),
    (_shorter, Hint("context too short", "An n-gram is n - 1 tokens of context and one more; you compared n - 2 tokens.",
                    "n 元组由 n - 1 个前文词元加上下一个组成；你只比较了 n - 2 个。")),
    (_latest_only, Hint("only the latest", "The context has occurred more than once, followed by different tokens: ban all of them.",
                        "这段前文出现过不止一次，后面接的词元各不相同，应全部禁止。")),
    (_first_only, Hint("only the first", "You stopped at the first occurrence of the context. Look at all of them.",
                       "你在前文第一次出现时就停下了。应查看每一次出现。")),
    (_everything, Hint("everything seen", "You banned every token that has occurred. Only those that complete a known n-gram are banned.",
                       "你禁止了所有出现过的词元。只应禁止会凑成已有 n 元组的那些。")),
]


def judge_banned(answer):
    """Three tokens in a row, two, a context that is new, one whose last token stands elsewhere too, and one at the very end."""
    for ids, n in ((IDS, 3), (IDS + [2, 3, 2], 2), (IDS + [8], 3), ([4, 7, 2, 9, 7, 3, 4, 7], 3), ([5, 5, 5], 3)):
        value = answer(list(ids), n)
        wanted = banned(ids, n)
        value = {int(i) for i in value}
        if value != wanted:
            return _named(value, BANNED_MISTAKES, ids, n) or _other(value, wanted)
    return None


# --- 05.4 One step of beam search -------------------------------------------------------------------------------------

SCORES = [-1.0, -1.5]
LOGP = [[-2.0, -3.0, -0.5], [-0.25, -2.5, -0.75]]


def beam_step(scores, logp, k):
    """The k best (beam, token, score) among all continuations. `scores` has shape [n_beams], `logp` [n_beams, n_tokens]."""
    total = np.asarray(scores)[:, None] + np.asarray(logp)
    best = np.argsort(-total, axis=None)[:k]
    return [(int(i // total.shape[1]), int(i % total.shape[1]), float(total.flat[i])) for i in best]


def _no_history(scores, logp, k):
    return beam_step(np.zeros(len(scores)), logp, k)


def _multiplied(scores, logp, k):
    total = np.asarray(scores)[:, None] * np.asarray(logp)
    best = np.argsort(-total, axis=None)[:k]
    return [(int(i // total.shape[1]), int(i % total.shape[1]), float(total.flat[i])) for i in best]


def _one_each(scores, logp, k):
    total = np.asarray(scores)[:, None] + np.asarray(logp)
    rows = [(beam, int(row.argmax()), float(row.max())) for beam, row in enumerate(total)]
    return sorted(rows, key=lambda row: -row[2])[:k]


def _wrong_divisor(scores, logp, k):
    total = np.asarray(scores)[:, None] + np.asarray(logp)
    best = np.argsort(-total, axis=None)[:k]
    return [(int(i // len(scores)), int(i % len(scores)), float(total.flat[i])) for i in best]


def _worst(scores, logp, k):
    total = np.asarray(scores)[:, None] + np.asarray(logp)
    return beam_step(scores, logp, total.size)[::-1][:k]


BEAM_MISTAKES = [
    (_no_history, Hint("scores are forgotten", "You compared the new log probabilities alone. Add each beam's score so far.",
                       "你只比较了新的对数概率。还要加上每条束到目前为止的得分。")),
    (_multiplied, Hint("multiplied", "Log probabilities are added, not multiplied.", "对数概率应当相加，而不是相乘。")),
    (_one_each, Hint("one from each beam", "You took the best of each beam. The k best of *all* continuations may come from one beam.",
                     "你从每条束里各取了一个。*全部*续写里最好的 k 个，可能来自同一条束。")),
    (_wrong_divisor, Hint("wrong divisor", "In the flattened table a row has n_tokens places: divide by n_tokens, not by n_beams.",
                          "展平之后每行有 n_tokens 个位置：应除以 n_tokens，而不是 n_beams。")),
    (_worst, Hint("the worst", "You kept the smallest scores. Log probabilities are negative: the best are nearest to 0.",
                  "你留下的是最小的得分。对数概率是负数，越接近 0 越好。")),
]


def judge_beam_step(answer):
    """Two beams of three tokens: the three best come from both, then a case in which one beam takes both places."""
    for scores, k in ((SCORES, 3), (SCORES, 2), ([-5.0, -0.5], 2)):
        value = [tuple(item) for item in answer(np.array(scores), np.array(LOGP), k)]
        wanted = beam_step(scores, LOGP, k)
        if not _same(value, wanted):
            return _named(value, BEAM_MISTAKES, scores, LOGP, k) or _other(value, wanted)
    return None


# --- 05.5 How large is the cache? -------------------------------------------------------------------------------------


def cache_gigabytes(n_layers, n_kv_heads, d_head, n_tokens, n_texts, bytes_each):
    """Size of a KV cache in units of 10^9 bytes."""
    return 2 * n_layers * n_kv_heads * d_head * n_tokens * n_texts * bytes_each / 1e9


def _keys_only(n_layers, n_kv_heads, d_head, n_tokens, n_texts, bytes_each):
    return cache_gigabytes(n_layers, n_kv_heads, d_head, n_tokens, n_texts, bytes_each) / 2


def _one_text(n_layers, n_kv_heads, d_head, n_tokens, n_texts, bytes_each):
    return cache_gigabytes(n_layers, n_kv_heads, d_head, n_tokens, 1, bytes_each)


def _one_layer(n_layers, n_kv_heads, d_head, n_tokens, n_texts, bytes_each):
    return cache_gigabytes(1, n_kv_heads, d_head, n_tokens, n_texts, bytes_each)


def _the_map(n_layers, n_kv_heads, d_head, n_tokens, n_texts, bytes_each):
    return n_layers * n_kv_heads * n_tokens**2 * n_texts * bytes_each / 1e9


def _numbers(n_layers, n_kv_heads, d_head, n_tokens, n_texts, bytes_each):
    return cache_gigabytes(n_layers, n_kv_heads, d_head, n_tokens, n_texts, 1)


def _in_bytes(n_layers, n_kv_heads, d_head, n_tokens, n_texts, bytes_each):
    return cache_gigabytes(n_layers, n_kv_heads, d_head, n_tokens, n_texts, bytes_each) * 1e9


CACHE_MISTAKES = [
    (_keys_only, Hint("keys or values only", "Half of what is wanted: keys *and* values are kept.", "只有应得的一半：键*和*值都要存。")),
    (_one_text, Hint("one text only", "Each text of the batch has its own cache.", "批次里的每段文本各有一份缓存。")),
    (_one_layer, Hint("one layer only", "Each layer keeps its own keys and values.", "每一层都要存自己的键和值。")),
    (_the_map, Hint("the attention map", "You computed the size of the attention map, tokens times tokens. The cache holds vectors, one a token.",
                    "你算的是注意力图的大小（词元数的平方）。缓存里存的是向量，每个词元一个。")),
    (_numbers, Hint("numbers instead of bytes", "You counted numbers. Each takes `bytes_each` bytes.", "你数的是数的个数，每个数占 `bytes_each` 个字节。")),
    (_in_bytes, Hint("bytes instead of gigabytes", "Your result is in bytes. Divide by 10^9.", "你的结果以字节为单位，应再除以 10^9。")),
]


def judge_cache(answer):
    """Two sizes with pairwise different numbers."""
    for sizes in ((3, 2, 5, 7, 11, 4), (32, 8, 128, 4096, 16, 2)):
        value = answer(*sizes)
        if not _same(value, cache_gigabytes(*sizes)):
            return _named(value, CACHE_MISTAKES, *sizes) or _other(value, cache_gigabytes(*sizes))
    return None


# --- 05.6 Which guesses stand? ----------------------------------------------------------------------------------------


def stand(guess, own):
    """The tokens that a pass of the large model adds: guesses up to the first mistake, then the large model's own token."""
    right = next((i for i in range(len(guess)) if guess[i] != own[i]), len(guess))
    return list(own[:right + 1])


def _no_own(guess, own):
    return stand(guess, own)[:-1]


def _any_match(guess, own):
    return [mine for its, mine in zip(guess, own, strict=False) if its == mine] + [own[-1]]


def _keeps_mistake(guess, own):
    return list(guess[:len(stand(guess, own))])


def _no_bonus(guess, own):
    return stand(guess, own)[:len(guess)]


def _all_own(guess, own):
    return list(own)


STAND_MISTAKES = [
    (_no_bonus, Hint("no free token", "When all guesses stand, the large model has computed one more token: take it.",
                     "猜测全部留下时，大模型还多算出了一个词元：应当取用。")),
    (_no_own, Hint("own token is missing", "After the guesses that stand comes one token of the large model: a correction, or a free one.",
                   "留下的猜测后面还要加上大模型自己的一个词元：不是更正，就是白得的。")),
    (_any_match, Hint("goes on after a mistake", "What comes after the first mistake was guessed from a wrong text. Stop there.",
                      "第一个错误之后的猜测，是接着错误的文本写的。到那里就该停下。")),
    (_keeps_mistake, Hint("keeps the mistake", "At the first disagreement take the large model's token, not the guess.",
                          "第一处不一致时，应取大模型的词元，而不是猜的那个。")),
    (_all_own, Hint("takes all", "The large model's later tokens answer to wrong guesses. Keep those up to the first disagreement only.",
                    "大模型后面的词元是对错误猜测的回应。只能留到第一处不一致为止。")),
]


def judge_stand(answer):
    """A mistake in the middle with a later match, none right, all right."""
    for guess, own in (([5, 8, 3, 9], [5, 6, 3, 9, 2]), ([1, 2, 3], [4, 5, 6, 7]), ([1, 2, 3], [1, 2, 3, 4])):
        value = [int(i) for i in answer(list(guess), list(own))]
        if value != stand(guess, own):
            return _named(value, STAND_MISTAKES, guess, own) or _other(value, stand(guess, own))
    return None


# --- 05.7 Never half a character --------------------------------------------------------------------------------------

CHUNKS = [b"Hi ", b"\xe5\xa4", b"\xa7", b"\xe8\xb1\xa1!", b"\xe3", b"\x80\x82",
          b"Hi \xe5", b"\xa4\xa7\xe8", b"\xb1", b"\xa1!"]  # the last four: whole characters and a begun one in one chunk


def visible(chunks):
    """What can be shown after each chunk of UTF-8 bytes: new text only, "" while a character is not complete."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    return [decoder.decode(chunk) for chunk in chunks]


def _replace(chunks):
    return [chunk.decode("utf-8", errors="replace") for chunk in chunks]


def _drop(chunks):
    return [chunk.decode("utf-8", errors="ignore") for chunk in chunks]


def _all_at_end(chunks):
    return [""] * (len(chunks) - 1) + [b"".join(chunks).decode("utf-8")]


def _repeats(chunks):
    so_far = [b"".join(chunks[:i + 1]) for i in range(len(chunks))]
    return [text.decode("utf-8", errors="ignore") for text in so_far]


def _joined(chunks):
    return [text for text in visible(chunks) if text]


def _waits(chunks):
    kept, shown = b"", []
    for chunk in chunks:
        kept += chunk
        try:
            shown.append(kept.decode("utf-8"))
            kept = b""
        except UnicodeDecodeError:
            shown.append("")
    return shown


VISIBLE_MISTAKES = [
    (_waits, Hint("waits too long", "A chunk can end inside a character and still hold whole ones before it. Show these; keep only the unfinished bytes.",
                  "一块的末尾可能断在某个字中间，而前面已有完整的字。完整的先显示，只留下未完成的字节。")),
    (_replace, Hint("broken characters", "Your text holds �: a chunk was decoded although a character was not complete. Keep its bytes for the next chunk.",
                    "你的文本里有 �：字符还不完整就解码了。应把这些字节留到下一块再用。")),
    (_drop, Hint("characters are lost", "A character is missing: its bytes were thrown away, unfinished, instead of kept.",
                 "“大”不见了：未完成字符的字节被丢弃了，而不是留下来。")),
    (_all_at_end, Hint("all at the end", "Nothing is shown before the last chunk. Show what is complete at once.",
                       "直到最后一块才显示。应当把已经完整的部分立即显示出来。")),
    (_repeats, Hint("shows it again", "Each item holds the whole text so far. Give only what is new.",
                    "每一项都是到目前为止的全文。只应给出新增的部分。")),
    (_joined, Hint("an item is missing", 'One item for each chunk is wanted, "" where nothing can be shown yet.',
                   "每一块都要对应一项，暂时没有可显示的就给空字符串。")),
]


def judge_visible(answer):
    """Chinese characters cut at every place, alone and behind whole ones."""
    value = [item if isinstance(item, str) else str(item) for item in answer(list(CHUNKS))]
    if value != visible(CHUNKS):
        return _named(value, VISIBLE_MISTAKES, CHUNKS) or _other(value, visible(CHUNKS))
    return None


# --- the list ---------------------------------------------------------------------------------------------------------


def _wrong(mistakes, **more):
    return {hint.symptom: mistake for mistake, hint in mistakes} | {name.replace("_", " "): answer for name, answer in more.items()}


EXERCISES = [
    Exercise("05.1", ("Temperature", "温度"), ("probabilities, shape [n_tokens]", "概率，形状 [n_tokens]"), judge_probabilities,
             probabilities, _wrong(TEMPERATURE_MISTAKES, overflow=_no_shift)),
    Exercise("05.2", ("The nucleus", "核"), ("a list of token numbers", "词元编号的列表"), judge_nucleus, nucleus, _wrong(NUCLEUS_MISTAKES)),
    Exercise("05.3", ("Nothing twice", "不说第二遍"), ("a set of token numbers", "词元编号的集合"), judge_banned, banned, _wrong(BANNED_MISTAKES)),
    Exercise("05.4", ("One step of beam search", "束搜索的一步"), ("a list of (beam, token, score)", "由 (束, 词元, 得分) 组成的列表"),
             judge_beam_step, beam_step, _wrong(BEAM_MISTAKES)),
    Exercise("05.5", ("How large is the cache?", "缓存有多大？"), ("one number", "一个数"), judge_cache, cache_gigabytes, _wrong(CACHE_MISTAKES)),
    Exercise("05.6", ("Which guesses stand?", "哪些猜测留下？"), ("a list of token numbers", "词元编号的列表"), judge_stand, stand,
             _wrong(STAND_MISTAKES)),
    Exercise("05.7", ("Never half a character", "不显示半个字"), ("a list of strings", "字符串列表"), judge_visible, visible,
             _wrong(VISIBLE_MISTAKES)),
]
