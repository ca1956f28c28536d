"""Sentence pairs of the story world in English and Chinese, with the words of each that mean the same.

The same seed tells the same events in both languages, so sentence k of one is the translation of sentence k of the other.
Names, pronouns and things align by their slot in the pattern; the other words by the small dictionary `LEXICON`.
"""
import re
from dataclasses import dataclass
from functools import cache, cached_property

from . import grammar, words
from .stories import story
from .words import Person, Thing, segment

LEXICON = """
weather = 天气 | nice = 好 | bad = 不好 | today = 今天 | sunny = 阳光很好 | warm = 暖和 | raining = 下雨了 | very = 很 | cold = 冷
once = 从前 | there was = 有 | named = 叫 | and = 和 | went to = 去了 | went home = 回家了 | there = 在那里 | was there = 在那里
met = 遇见了 | saw = 看见了 | came = 来了 | too = 也 | had = 有了/有 | has = 有 | have = 有 | brought = 带来了 | found = 捡到了/找到了
wanted = 想要 | liked = 喜欢吃/喜欢 | likes = 喜欢吃/喜欢 | like = 喜欢吃/喜欢 | very much = 非常 | asked + for = 想要/要 | but = 可是
said no = 不同意 | gave = 给了 | gave + to = 给了 | gave + back to = 还给了 | because = 因为 | did not need = 不需要 | could not find = 找不到
thank you = 谢谢你 | said = 说 | thanked = 道谢 | happy = 高兴 | sad = 难过 | smiled = 笑了 | laughed = 笑了 | cried = 哭了 | lost = 弄丢了
put = 放进了 | in = 里 | took = 拿出了 | out of = 从 | from = 从 | moved + to = 移到了 | ate = 吃了 | some = 一些 | they = 他们/她们 | all = 都
played = 玩 | together = 一起 | sang = 唱了 | a song = 一首歌 | talked = 聊了 | for a long time = 很久 | at last = 最后 | then = 然后
later = 后来 | soon = 不久 | question = 问 | answer = 答 | who = 谁 | what = 什么 | where + is = 在哪里 | now = 现在 | or = 还是
under = 下面 | bench = 长椅 | on = 上 | table = 桌子 | on + ground = 地上 | near + wall = 墙边 | this = 今天 | one = 一天 | one day = 有一天
morning = 早上 | afternoon = 下午 | wanted to be = 想当 | what + wanted to be = 想当 | want to be = 想当 | wants to be = 想当 | dream = 梦想
to be = 当 | favourite = 最喜欢的/最喜欢 | colour = 颜色 | which = 什么 | best = 最 | at home = 家里
clever = 聪明 | waved to = 挥了挥手 | talked to = 聊了一会儿 | smiled at = 笑了笑 | sat down = 坐下了 | next to = 旁边 | tired = 累了 | hungry = 饿了
drank = 喝了 | water = 水 | rested = 休息了 | for a while = 一会儿 | looked at = 看了看 | clouds = 天上的云 | ran = 跑得 | fast = 快
liked to eat = 喜欢吃 | in now = 现在 | what is = 在哪里
"""
"""What the words of the patterns mean: `english = chinese`, `/` between alternatives, `+` between parts that stand apart and share one word."""

NO_COUNTERPART = {
    "en": set("a an the is was were it does did do to of".split()),
    "zh": set("把 了 的 很 向 对 和 在 里 从 吃 真 都 那 一 是".split()) | {word.measure for word in words.NOUNS + words.PETS},
}
"""Words of grammar that the other language does not need. They stay unaligned where the dictionary does not pair them."""


@dataclass(frozen=True)
class Pair:
    """A window of one story in both languages.

    Attributes:
        en: The English text.
        zh: The Chinese text.
        events: The events that both tell, one for each sentence.
        sentences: For each sentence ((en_start, en_end), (zh_start, zh_end)), in characters.
        seed: The seed of the story.
    """
    en: str
    zh: str
    events: tuple
    sentences: tuple
    seed: object = None

    def text(self, lang):
        return self.en if lang == "en" else self.zh

    @cached_property
    def alignment(self):
        """List of ((en_start, en_end), (zh_start, zh_end)): the words that mean the same, in characters, in English order.

        One word may stand in two pairs ("moved ... to" is 移到了). "a red ball" is "a" = 一个, "red" = 红色, "ball" = 球; "the"
        is 那个 where Chinese says so, otherwise unaligned, like 的, 把, 了 alone, and the articles of places.
        """
        found = []
        for ((en_from, en_to), (zh_from, zh_to)), event in zip(self.sentences, self.events):
            for en, zh in align(self.en[en_from:en_to], self.zh[zh_from:zh_to], event):
                found.append(((en[0] + en_from, en[1] + en_from), (zh[0] + zh_from, zh[1] + zh_from)))
        return sorted(found)

    @property
    def unaligned(self):
        """The words without a counterpart: {"en": spans, "zh": spans}, in characters."""
        return {lang: [span for span in cut(self.text(lang), lang) if not _covered(span, [pair[side] for pair in self.alignment])]
                for side, lang in enumerate(words.LANGUAGES)}


def pairs(seed, lengths=(1, 2, 3, 4), tell=story, **options):
    """List every window of the story of a seed as a pair.

    Args:
        seed: The seed of the story; by agreement negative in tests.
        lengths: How many consecutive sentences a window may have.
        tell: `storyworld.story` or another teller of the world that tells the same events in both languages.
        options: Handed on to `tell`, for instance `new_names=True`.

    Returns:
        List of `Pair`, by place in the story, then by length.

    Raises:
        ValueError: If a length is not a positive integer.
    """
    if not lengths or any(not isinstance(n, int) or n < 1 for n in lengths):
        raise ValueError(f"lengths must be positive numbers of sentences, such as (1, 2); got {lengths!r}")
    en, zh = (tell(seed, lang, **options) for lang in words.LANGUAGES)
    count = len(en.sentences)
    return [window(en, zh, first, n) for first in range(count) for n in sorted(lengths) if first + n <= count]


def window(en, zh, first, n):
    """Cut sentences `first` to `first + n - 1` out of a story that was told in both languages."""
    texts, spans = [], []
    for told in (en, zh):
        part = told.sentences[first:first + n]
        text = told.text[part[0][0]:part[-1][1]]
        skip = part[0][0] + len(text) - len(text.lstrip())       # a question begins on a new line, a text does not
        texts.append(text.lstrip())
        spans.append([(max(start - skip, 0), end - skip) for start, end, _ in part])
    events = tuple(event for *_, event in en.sentences[first:first + n])
    return Pair(*texts, events, tuple(zip(*spans)), en.seed)


def references(pair, lang):
    """All texts of language `lang` that are right for the pair: its own, and the other "they" where the source leaves it open.

    English "they" does not say whether all are female. Where the window speaks of a boy who has not left, only 他们 is
    right; otherwise nobody can know, and 他们 and 她们 both count.
    """
    gone = {event["A"] for event in pair.events if event.kind == "leave"}
    people = {value for event in pair.events for value in event.slots.values() if isinstance(value, Person)}
    if lang == "en" or any(not person.female for person in people - gone):
        return {pair.text(lang)}
    return {pair.zh, re.sub("[他她]们", "他们", pair.zh), re.sub("[他她]们", "她们", pair.zh)}


def cut(text, lang):
    """Spans of the words of a text, without punctuation."""
    if lang == "en":
        return [match.span() for match in re.finditer(r"[A-Za-z]+(?:'s)?", text)]
    spans, start = [], 0
    for word in segment(text):
        if re.match(r"\w", word):
            spans.append((start, start + len(word)))
        start += len(word)
    return spans


def _covered(span, spans):
    return any(start <= span[0] and span[1] <= end for start, end in spans)


# -- aligning one sentence ---------------------------------------------------------------------------------------------------

def align(en, zh, event):
    """Pair the words of one sentence with those of its translation.

    Args:
        en, zh: The sentence in both languages, as `storyworld.story` writes it.
        event: What it tells.

    Returns:
        List of ((en_start, en_end), (zh_start, zh_end)), in characters.

    Raises:
        ValueError: If a text does not tell the event, or a word could be paired in two ways.

    >>> from llmtutor.storyworld import check
    >>> en, zh = "Tom had a red ball.", "汤姆有一个红色的球。"
    >>> [(en[a:b], zh[c:d]) for (a, b), (c, d) in align(en, zh, check(en).events[0])]
    [('Tom', '汤姆'), ('had', '有'), ('a', '一个'), ('red', '红色'), ('ball', '球')]
    """
    slots, free = {}, []
    for side, (text, lang) in enumerate(((en, "en"), (zh, "zh"))):
        filled, literal = _slots(text, event.kind, lang)
        free.append(literal)
        for slot, span in filled:
            slots.setdefault(slot, ([], []))[side].append(span)
    found = []
    for slot, (here, there) in slots.items():
        if not here:                                  # {P}: English has it as a plain word
            free[1] += there
            continue
        for number in range(max(len(here), len(there)) if there else 0):
            pair = here[min(number, len(here) - 1)], there[min(number, len(there) - 1)]
            found += _inside(en, zh, *pair, event.slots[slot])
    return sorted(found + _by_lexicon(en, zh, *free))


@cache
def _by_kind(lang):
    readers = {}
    for kind, regex, slots in grammar.readers(lang):
        readers.setdefault(kind, []).append((regex, [slot for slot, *_ in slots]))
    return readers


def _slots(text, kind, lang):
    """Find the slots of a sentence: (slot, span) for each, and the spans of the text between them."""
    for shift, written in ((0, text), (-1, "\n" + text)):         # the first line of a window has lost its line break
        for regex, slots in _by_kind(lang).get(kind, ()):
            match = regex.fullmatch(written)
            if match:
                spans = [(match.start(i + 1) + shift, match.end(i + 1) + shift) for i in range(len(slots))]
                edges = [0] + [edge for span in spans for edge in span] + [len(text)]
                return list(zip(slots, spans)), list(zip(edges[::2], edges[1::2]))
    raise ValueError(f"{text!r} is not a sentence of the kind {kind!r} in {lang!r}")


def _inside(en, zh, here, there, value):
    """Pair the words inside one slot."""
    if isinstance(value, Person) or zh[slice(*there)] == grammar.IT["zh"]:
        return [((here[0], here[1] + 2 * en.startswith("'s", here[1])), there)]
    known = [(value.colour.en, value.colour.zh), (value.noun.en, value.noun.zh)] if isinstance(value, Thing) else [(value.en.lower(), value.zh)]
    found, at, to = [], here[0], there[0]
    for word, meaning in known:
        if word in en[at:here[1]].lower() and meaning in zh[to:there[1]]:
            at, to = en.lower().index(word, at), zh.index(meaning, to)
            found.append(((at, at + len(word)), (to, to + len(meaning))))
            at, to = at + len(word), to + len(meaning)
    first, second = found[0] if found else (here, there)
    article, measure = re.search(r"\b(an?|the) $", en[:first[0]], re.I), re.fullmatch(r"[一那]\w", zh[there[0]:second[0]])
    if article and measure:
        found.insert(0, (article.span(1), (there[0], second[0])))
    if len(found) == 1 and " " in known[0][0]:              # "under a bench": its words, where the dictionary knows them all
        fine = _by_lexicon(en, zh, [here], [there])
        left = [text[slice(*span)].lower() in NO_COUNTERPART[lang] or _covered(span, [pair[side] for pair in fine])
                for side, (text, lang, slot) in enumerate(((en, "en", here), (zh, "zh", there))) for span in _words(text, lang, [slot])]
        return fine if fine and all(left) else found
    return found or [(here, there)]


@cache
def lexicon():
    """The dictionary as a list of (English parts, Chinese phrase), the longest first."""
    entries = []
    for entry in re.split(r"[|\n]", LEXICON.strip()):
        en, zh = entry.split("=")
        entries += [(tuple(part.strip() for part in en.split("+")), phrase.strip()) for phrase in zh.split("/")]
    return sorted(entries, key=lambda entry: (-sum(len(part.split()) for part in entry[0]), -len(entry[1]), entry))


@cache
def _segments(phrase):
    return segment(phrase)


def _words(text, lang, spans):
    """The words inside the given spans of a text."""
    if lang == "en":                                        # a word that goes on after a slot ("Tom's") belongs to the slot
        return [(a, b) for a, b in cut(text, lang) if _covered((a, b), spans)]
    return [(start + a, start + b) for start, end in spans for a, b in cut(text[start:end], lang)]


def _by_lexicon(en, zh, en_free, zh_free):
    en_words, zh_words = _words(en, "en", en_free), _words(zh, "zh", sorted(zh_free))
    found, low = [], en.lower()
    for parts, phrase in lexicon():
        if phrase not in zh or parts[0] not in low:
            continue
        here = [_places(low, en_words, part.split(), " ") for part in parts]
        there = _places(zh, zh_words, _segments(phrase), "")
        if not there or not all(here):
            continue
        if any(len(places) != len(there) for places in here):
            raise ValueError(f"“{' … '.join(parts)}” and “{phrase}” do not pair one to one in {en!r} / {zh!r}; add a longer phrase to pairs.LEXICON")
        for number, span in enumerate(there):
            found += [(places[number], span) for places in here]
        taken = [span for places in here for span in places]
        en_words = [span for span in en_words if not _covered(span, taken)]
        zh_words = [span for span in zh_words if not _covered(span, there)]
    return found


def _places(text, free, phrase, space):
    """Spans where the words of a phrase stand side by side among the free words."""
    spans = []
    for i in range(len(free) - len(phrase) + 1):
        run = free[i:i + len(phrase)]
        if text[run[0][0]:run[-1][1]] == space.join(phrase) and [text[slice(*span)] for span in run] == phrase:
            spans.append((run[0][0], run[-1][1]))
    return spans


# -- checking an alignment ---------------------------------------------------------------------------------------------------

@cache
def dictionary():
    """All pairs (English in lower case, Chinese) that an alignment may hold: `LEXICON` and the words of the world."""
    known = {(part, phrase) for parts, phrase in lexicon() for part in parts}
    for entries in vars(words).values():
        for entry in entries if isinstance(entries, list) else ():
            known.add((entry.en.lower(), entry.zh))
            if isinstance(entry, Person):
                known |= {(f"{entry.en.lower()}'s", entry.zh + of) for of in ("", "的")}
            known |= {(article, which + entry.measure) for article, which in (("a", "一"), ("an", "一"), ("the", "那")) if getattr(entry, "measure", "")}
    known |= {(gender.en, gender.zh) for gender in words.GENDERS.values()} | {(grammar.IT["en"], grammar.IT["zh"])}
    for forms, of in ((grammar.PRONOUNS, ""), (grammar.POSSESSIVE, "的")):
        known |= {(forms["en"][female], grammar.PRONOUNS["zh"][female] + end) for female in (True, False) for end in ("", of)}
    return known


@cache
def content():
    """The part of `dictionary` that names somebody or something: names, pronouns, nouns, colours, places; no verbs, no grammar."""
    return {(en, zh) for en, zh in dictionary() - {(part, phrase) for parts, phrase in lexicon() for part in parts} if en not in ("a", "an", "the")}


def problems(en, zh, alignment):
    """List what is wrong with a word alignment, as English sentences: cut words, spans that overlap, words that do not mean the same."""
    found = []
    for side, (text, lang) in enumerate(((en, "en"), (zh, "zh"))):
        spans = sorted({pair[side] for pair in alignment})
        inside = cut(text, lang)
        starts, ends = {start for start, _ in inside}, {end for _, end in inside}
        found += [f"{text[slice(*span)]!r} at {span} is not made of whole words" for span in spans if span[0] not in starts or span[1] not in ends]
        found += [f"{text[slice(*a)]!r} and {text[slice(*b)]!r} overlap" for a, b in zip(spans, spans[1:]) if b[0] < a[1]]
    for here, there in alignment:
        if (en[slice(*here)].lower(), zh[slice(*there)]) not in dictionary():
            found.append(f"{en[slice(*here)]!r} does not mean {zh[slice(*there)]!r}")
    return found


def missing(pair):
    """Words of a pair that have no counterpart and are not listed in `NO_COUNTERPART`: a list of (lang, word)."""
    return [(lang, pair.text(lang)[start:end]) for lang, spans in pair.unaligned.items() for start, end in spans
            if pair.text(lang)[start:end].lower() not in NO_COUNTERPART[lang]]


def coverage(some):
    """Share of the content words of some pairs, both languages together, that are aligned."""
    content = lost = 0
    for pair in some:
        content += sum(pair.text(lang)[a:b].lower() not in NO_COUNTERPART[lang] for lang in words.LANGUAGES for a, b in cut(pair.text(lang), lang))
        lost += len(missing(pair))
    return 1 - lost / content
