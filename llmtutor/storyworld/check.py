"""Reading a text back: is it grammatical in this world, and does it agree with itself?"""
import re
from dataclasses import dataclass, field

from . import grammar
from .stories import Discourse, _persons, _things
from .words import Noun, Person, Thing
from .world import Event, World

ENDS = {"en": re.compile(r"\n?[^\n]*?Answer: [^.\n]*\.|\n?[^.\n]*\.”?(?: said \w+\.)?"), "zh": re.compile(r"\n?[^\n。？]*？答：[^。\n]*。|\n?[^。\n]*。”?")}


@dataclass
class Report:
    """What a check found: `problems` as (sentence, reason), `events` that were read, the `rest` after the last full stop."""
    problems: list = field(default_factory=list)
    events: list = field(default_factory=list)
    rest: str = ""
    world: World = field(default_factory=World)

    @property
    def ok(self):
        return bool(self.events) and not self.problems


def sentences(text, lang):
    """Split a text of the world into sentences, and what is left after the last full stop."""
    found, end = [], 0
    for match in ENDS[lang].finditer(text):
        if match.start() != end and text[end:match.start()].strip():
            break
        found.append(match.group())
        end = match.end()
    return [s if s.startswith("\n") else s.strip() for s in found], text[end:]


def check(text, lang="en"):
    """Read a text sentence by sentence and report every one that is not of this world or contradicts what was told before.

    Args:
        text: A story, for instance one that a model wrote.
        lang: "en" or "zh".

    Returns:
        A `Report`; `report.ok` is True if at least one sentence was read and none has a problem. An unfinished last
        sentence is not judged: it is in `report.rest`.

    Raises:
        ValueError: If the language is neither "en" nor "zh".

    >>> check("Tom had a red ball. He lost the ball. He was sad.").ok
    True
    >>> check("Tom had a red ball. She lost the ball.").problems
    [('She lost the ball.', 'nobody here is "she"')]
    """
    if lang not in ENDS:
        raise ValueError(f"lang must be 'en' or 'zh'; got {lang!r}")
    report, discourse = Report(), Discourse()
    told, report.rest = sentences(text, lang)
    for sentence in told:
        discourse.next_sentence()
        readings = list(_readings(sentence, lang))
        if not readings:
            report.problems.append((sentence, "not a sentence of this world"))
            continue
        results = [_understand(kind, found, report.world, discourse, lang) for kind, found in readings]
        event, problems, entities = min(results, key=lambda result: len(result[1]))
        for entity in entities:
            discourse.note(entity)
        report.problems += [(sentence.strip(), problem) for problem in problems]
        if event and not problems:
            report.world.apply(event)
            report.events.append(event)
    return report


def _readings(sentence, lang):
    for kind, regex, slots in grammar.readers(lang):
        match = regex.fullmatch(sentence)
        if match:
            yield kind, [(slot, text, choices[text]) for (slot, _, choices), text in zip(slots, match.groups())]


def _understand(kind, found, world, discourse, lang):
    """Give every slot its meaning: (event or None, problems, entities in order)."""
    values, problems, entities = {}, [], []
    for slot, text, meaning in found:
        if slot == "P":
            if text != grammar.THEY[all(person.female for person in world.present())]:
                problems.append(f"{text} is the wrong word for these people")
            continue
        value, problem = _meaning(text, meaning, world, discourse, entities)
        if problem:
            problems.append(problem)
        elif values.setdefault(slot, value) is not value and values[slot] != value:
            problems.append(f'"{text}" is somebody or something else')
        entities.append(value)
    if problems:
        return None, problems, [entity for entity in entities if entity is not None]
    event = Event(kind, values)
    return event, world.problems(event), entities


def _meaning(text, meaning, world, discourse, entities):
    """Resolve a pronoun, "it" or a noun without its colour: (value, problem)."""
    if isinstance(meaning, Noun):
        fits = [thing for thing in world.things if thing.noun is meaning]
        return (fits[0], None) if len(fits) == 1 else (None, f'"{text}" is not one known thing')
    if type(meaning) is not tuple:
        return meaning, None
    if meaning[0] == "it":
        fits = _things(entities) or discourse.things()
        return (fits.pop(), None) if len(fits) == 1 else (None, f'it is not clear what "{text}" is')
    fits = _persons(entities, meaning[1]) or discourse.person(meaning[1])
    if len(fits) == 1:
        return fits.pop(), None
    return None, f'nobody here is "{text.lower()}"' if not fits else f'"{text.lower()}" may be {len(fits)} persons'
