"""The texts that `story-bert` reads, whatever generator they come from: one shape, `Text`, and one list, `SOURCES`."""
import re
import string
from dataclasses import dataclass, field

import numpy as np

from .. import storyworld
from ..storyworld import kinds, words
from ..storyworld.words import Person, Thing
from .tokenizer import CONTEXT


@dataclass
class Text:
    """What the model reads.

    Attributes:
        text: The characters.
        lang: "en" or "zh".
        names: (start, end, person) of every name, in order.
        entities: (start, end, type) of every name, place, thing, ... in order.
        sure: (start, end) of the words that other words of the text decide (answers, a colour told before, a repeated name, ...).
        sentences: (start, end) of every sentence; empty if the source does not know them.
        segment: Function that cuts Chinese text of this source into words.
    """
    text: str
    lang: str
    names: list = field(default_factory=list)
    entities: list = field(default_factory=list)
    sure: list = field(default_factory=list)
    sentences: list = field(default_factory=list)
    segment: object = storyworld.segment


TYPES = {**dict.fromkeys(words.PLACES + words.NEW_PLACES, "place"), **dict.fromkeys(words.CONTAINERS, "container"), **dict.fromkeys(words.FOODS, "food")}
"""The type of every word that is an entity beside people and things."""


def from_story(told):
    """Read a `storyworld.Story` as a `Text`."""
    names = [(m.start, m.end, m.entity) for m in told.mentions if m.form == "name"]
    found = [_entity(told, mention) for mention in told.mentions]
    sure = [_bare(told, m) for m in told.mentions if m.bound] + list(told.answers) + again(names)
    return Text(told.text, told.lang, names, [entity for entity in found if entity], sure, [(start, end) for start, end, _ in told.sentences])


def from_kind(written):
    """Read a text of `storyworld.kinds` as a `Text`: what was named before is `sure`, and so are its pronouns and its words for feelings."""
    names = [(start, end, who) for start, end, kind, who in written.spans if kind == "person"]
    named = [(start, end, (kind, value)) for start, end, kind, value in written.spans]
    sure = again(named) + [span[:2] for span in written.pronouns] + _feelings(written)
    return Text(written.text, written.lang, names, [span[:3] for span in written.spans], sure, [span[:2] for span in written.sentences], kinds.segment)


def _feelings(written):
    """(start, end) of every word for a feeling of a text of `storyworld.kinds`; what happened decides it."""
    found = []
    for start, end, _, slots in written.sentences:
        for letter, value in slots:
            word = getattr(value, written.lang)
            if letter in "MW" and word in written.text[start:end]:
                place = written.text.rindex(word, start, end)
                found.append((place, place + len(word)))
    return found


def _entity(told, mention):
    """(start, end, type) of a mention without its article, measure word and colour, or None if it is no entity."""
    if mention.form == "name":
        return mention.start, mention.end, "person"
    if mention.form == "thing":
        return mention.end - len(getattr(mention.entity.noun, told.lang)), mention.end, "thing"
    kind = TYPES.get(mention.entity) if not isinstance(mention.entity, Person | Thing) else None
    return (mention.end - len(getattr(mention.entity, told.lang)), mention.end, kind) if kind else None


def _bare(told, mention):
    """(start, end) of a mention; of a thing without its article or measure word."""
    if mention.form != "thing":
        return mention.start, mention.end
    colour, noun = getattr(mention.entity.colour, told.lang), getattr(mention.entity.noun, told.lang)
    longest = f"{colour} {noun}" if told.lang == "en" else f"{colour}的{noun}"
    written = longest if told.text.endswith(longest, mention.start, mention.end) else noun
    return mention.end - len(written), mention.end


def again(names):
    """Return the spans of (start, end, who) whose `who` stood in the text before."""
    seen = set()
    return [(start, end) for start, end, who in names if who in seen or seen.add(who)]


SOURCES = {
    "facts": (lambda seed, lang: from_story(storyworld.facts(seed, lang)), 0.35, 0.10),
    "short": (lambda seed, lang: from_story(storyworld.short(seed, lang)), 0.25, 0.10),
    "story": (lambda seed, lang: from_story(storyworld.story(seed, lang)), 0.20, 0.38),
    "plain": (lambda seed, lang: from_story(storyworld.plain(seed, lang)), 0.05, 0.07),
    "kinds": (lambda seed, lang: from_kind(kinds.text(seed, lang)), 0.10, 0.25),
    "review": (lambda seed, lang: from_kind(kinds.text(seed, lang, kind="review")), 0.05, 0.10),
}
"""All texts that the model reads: a function of (seed, lang), its share in the first 15 % of the run, its share afterwards."""


def disguise(text, rng):
    """Give everybody in a text a made-up name, so that the model learns to treat a word that it never saw as a name.

    Args:
        text: A `Text`.
        rng: A `random.Random`.

    Returns:
        A new `Text` with all spans moved to fit.
    """
    people = list(dict.fromkeys(who for _, _, who in text.names))
    return rename(text, {who: _made_up(rng, text.lang) for who in people})


def _made_up(rng, lang):
    """A name of random letters or characters. Half of the Chinese characters are of the world, half any of 20,000."""
    if lang == "zh":
        return "".join(rng.choice(CHARACTERS) if rng.random() < 0.5 else chr(rng.randrange(0x4E00, 0x9FA6)) for _ in range(rng.choice((2, 2, 3))))
    name = "".join(rng.choice(CONSONANTS) + rng.choice("aeiou") for _ in range(rng.randint(1, 3))) + rng.choice(["", rng.choice(CONSONANTS)])
    return (name if rng.random() < 0.7 else rng.choice("aeiou") + name).capitalize()


CHARACTERS = "".join(sorted(set("".join(words.LEXICON - {person.zh for person in words.NEW_PEOPLE}))))
CONSONANTS = "".join(letter for letter in string.ascii_lowercase if letter not in "aeiou")


def rename(text, new):
    """Write other names into a text.

    Args:
        text: A `Text`.
        new: Dict from person (as in `text.names`) to the new name; who is not in it keeps the old one.

    Returns:
        A new `Text` with all spans moved to fit.
    """
    pieces, starts, moved, end = [], [], [], 0
    for start, stop, who in text.names:
        pieces += [text.text[end:start], new.get(who, text.text[start:stop])]
        starts.append(start)
        moved.append(len(pieces[-1]) - (stop - start))
        end = stop
    before = np.concatenate([[0], np.cumsum(moved)]).astype(int)      # how far everything after the i-th name moves

    def spans(old):
        return [(*(int(place + before[np.searchsorted(starts, place)]) for place in span[:2]), *span[2:]) for span in old]

    return Text("".join(pieces) + text.text[end:], text.lang, spans(text.names), spans(text.entities), spans(text.sure), spans(text.sentences), text.segment)


def excerpt(text, first, count=1):
    """Cut `count` sentences out of a text, from number `first` on, so that a sentence stands alone; spans move to fit."""
    chosen = text.sentences[first:first + count]
    start, end = chosen[0][0], chosen[-1][1]
    while start < end and text.text[start].isspace():
        start += 1

    def inside(spans):
        return [(max(a, start) - start, b - start, *rest) for a, b, *rest in spans if start < b <= end]

    return Text(text.text[start:end], text.lang, inside(text.names), inside(text.entities), inside(text.sure), inside(text.sentences), text.segment)


ENGLISH = re.compile(r"'s|[A-Za-z]+|\d+|[^\sA-Za-z\d]")


def units(text):
    """Cut a text into the words that are masked as a whole: list of (start, end), in characters; a name is always one word."""
    cuts, end = [], 0
    for start, stop, _ in [*text.names, (len(text.text), len(text.text), None)]:
        cuts += _words(text, end, start)
        cuts += [(start, stop)] if stop > start else []
        end = stop
    return cuts


def _words(text, start, end):
    if text.lang == "en":
        return [match.span() for match in ENGLISH.finditer(text.text, start, end)]
    found = []
    for word in text.segment(text.text[start:end]):
        if not word.isspace():
            found.append((start, start + len(word)))
        start += len(word)
    return found


QUESTION = re.compile("\n(?=Question:|问：)")


def encode(text, tokenizer, pair=False, weight=3.0):
    """Encode a text with the words to guess.

    Args:
        text: A `Text`.
        tokenizer: The tokenizer.
        pair: Whether the questions below a story become the second text of a pair.
        weight: How much sooner a word that the rest of the text decides is masked than any other.

    Returns:
        ids (list of int, cut at the context), and the words as a list of (positions in ids, weight, span); a word that shares a piece with
        the next one is left out.
    """
    encoding = tokenizer(text.text, return_offsets_mapping=True, truncation=True, max_length=CONTEXT - 1)
    ids, offsets = list(encoding["input_ids"]), list(encoding["offset_mapping"])
    asked = QUESTION.search(text.text) if pair else None
    if asked:
        place = next((i for i, (start, end) in enumerate(offsets) if start == asked.start() and end > start), None)
        if place is not None:
            ids[place:place + 1] = [tokenizer.sep_token_id] * 2            # the line break
            offsets[place:place + 1] = [(0, 0)] * 2
    where = {start: (start, end) for start, end in units(text)}
    found, shared, current = {}, set(), None
    for position, (start, end) in enumerate(offsets):
        current = where.get(start, current) if start < end else None
        if current and start < current[1]:
            found.setdefault(current, []).append(position)
            if end > current[1]:                                           # a piece of two words: hiding it would hide both
                shared.add(current)
    sure = set().union(*(range(*span) for span in text.sure))
    return ids, [(positions, weight if span[0] in sure else 1.0, span) for span, positions in found.items() if span not in shared]
