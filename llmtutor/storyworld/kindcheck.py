"""Reading the other text kinds back: is every sentence one of this kind, in its place, and true to what was said before?"""
import re
from dataclasses import dataclass, field
from functools import cache

from .kindgrammar import GROUPS, KINDS, LANGUAGES, ORDER, SHOPS
from .kindwords import CHOICES, SLOTS

DIFFERENT = ("A", "B", "C"), ("X", "Y"), ("T", "U")
MISPLACED = "this does not belong here"
_END = re.compile(r"[.?!。？！]”?|\n")


@dataclass
class KindReport:
    """What a check found: `problems` as (sentence, reason), `templates` that were read, `roles` (letter -> entity), the unfinished `rest`."""
    kind: str
    problems: list = field(default_factory=list)
    templates: list = field(default_factory=list)
    roles: dict = field(default_factory=dict)
    rest: str = ""

    @property
    def ok(self):
        return bool(self.templates) and not self.problems


@dataclass
class State:
    """What has been read so far."""
    role: str = ""
    mood: str | None = None                  # of the newest cause
    intent: str | None = None
    style: str | None = None                 # of a dialogue's lines
    themes: set = field(default_factory=set)
    groups: set = field(default_factory=set)
    bound: dict = field(default_factory=dict)     # slot -> entities that it may still be
    fits: dict = field(default_factory=dict)      # slot -> categories that it may have


def check_text(text, lang, kind):
    """Read a text back by the patterns of its kind and judge grammar and self-consistency.

    Args:
        text: The text, for instance one that a model wrote.
        lang: "en" or "zh".
        kind: One of `KINDS`.

    Returns:
        A `KindReport`; `report.ok` is True if something was read and nothing is wrong. What follows the last full stop is
        not judged: it is in `report.rest`.

    Raises:
        ValueError: If the language or the kind is unknown.

    >>> check_text("Tom had a red ball.", "en", "diary").problems
    [('Tom had a red ball.', 'not a sentence of a diary')]
    """
    if lang not in LANGUAGES or kind not in KINDS:
        raise ValueError(f"lang must be one of {LANGUAGES} and kind one of {KINDS}; got {lang!r} and {kind!r}")
    report, state, at = KindReport(kind), State(), 0
    while at < len(text):
        if lang == "en" and at and text[at] == " " and text[at - 1] != "\n":
            at += 1
        readings = _readings(text, at, lang, kind)
        if not readings:
            stop = _END.search(text, at + 1)
            if not stop:
                report.rest = text[at:]
                break
            report.problems.append((text[at:stop.end()].strip(), f"not a sentence of a {kind}"))
            at = stop.end()
            continue
        judged = [(len(found), MISPLACED in found, -end, number, found, after) for number, (template, values, end) in enumerate(readings)
                  for found, after in [_judge(template, values, state)]]
        *_, end, number, problems, state = min(judged, key=lambda entry: entry[:4])
        report.problems += [(text[at:-end].strip(), problem) for problem in problems]
        report.templates.append(readings[number][0].id)
        at = -end
    if not report.rest and report.templates and "" not in ORDER[kind].get(state.role, ()):
        report.problems.append((text[-20:], "the text stops too early"))
    report.roles = {slot: next(iter(entities)) for slot, entities in state.bound.items() if len(entities) == 1}
    return report


@cache
def _readers(lang, kind):
    """All patterns of a kind as (template, regular expression, slots, surface -> entities for each slot)."""
    found = []
    for group in GROUPS.values():
        if group.kind == kind:
            for template in group.seen + group.held:
                regex, slots = "", []
                for literal, slot, form, mark, _ in template.pieces[lang]:
                    if slot:
                        surfaces = _surfaces(slot, form, lang)
                        slots.append((slot, form, surfaces))
                        regex += "(" + "|".join(sorted(map(re.escape, surfaces), key=len, reverse=True)) + ")"
                    elif not mark:
                        regex += re.escape(literal)
                found.append((template, re.compile(regex + (r"(?=[ \n]|$)" if lang == "en" and not template.ends_line else "")), slots))
    return found


@cache
def _surfaces(slot, form, lang):
    surfaces = {}
    for entity in CHOICES[SLOTS[slot]]:
        surfaces.setdefault(entity.forms[lang][form], set()).add(entity)
    return surfaces


def _readings(text, at, lang, kind):
    found = []
    for template, regex, slots in _readers(lang, kind):
        match = regex.match(text, at)
        if match:
            found.append((template, [(slot, form, surface, surfaces[surface]) for (slot, form, surfaces), surface in zip(slots, match.groups())],
                          match.end()))
    return found


def _judge(template, values, state):
    """Judge one reading: its problems, and the state after it."""
    group, problems = template.group, []
    if group.role not in ORDER[group.kind].get(state.role, ()):
        problems.append(MISPLACED if state.role else "a text cannot begin with this")
    if group.theme and group.theme in state.themes:
        problems.append("this was told already, or contradicts what was told")
    if group.after and not state.groups & set(group.after):
        problems.append("nothing was said before that leads to this")
    bound, fits = dict(state.bound), dict(state.fits)
    for slot, form, surface, entities in values:
        if slot in "MW":
            if next(iter(entities)).category != group.mood:
                problems.append(f'"{surface}" does not fit the cause')
            continue
        both = bound.get(slot, entities) & entities
        if not both:
            problems.append(f'"{surface.strip()}" is somebody or something else than before')
        bound[slot] = both or entities
    for slot, categories in group.fits.items():
        fits[slot] = fits.get(slot, categories) & categories
    problems += _misfits(bound, fits) + _moods(group, state)
    style = group.id.rsplit("_", 1)[1] if group.kind == "dialogue" and group.id.endswith(("_play", "_story")) else state.style
    if state.style and style != state.style:
        problems.append("the lines are written in two ways")
    if group.role == "reply" and group.intent != state.intent:
        problems.append("the reply does not fit the question")
    after = State(group.role, group.mood or state.mood, group.intent or state.intent, style, state.themes | ({group.theme} if group.theme else set()),
                  state.groups | {group.id}, bound, fits)
    return problems, after


def _misfits(bound, fits):
    """Entities that cannot stand where they do, or that should be two and are one."""
    problems = []
    for slot, categories in fits.items():
        if slot in bound and not any(entity.category in categories for entity in bound[slot]):
            problems.append(f"this cannot be said of {next(iter(bound[slot])).en}")
    shop, product = bound.get("G"), bound.get("O")
    if shop and product and not {entity.category for entity in shop} & {entity.category for entity in product}:
        if any(entity.category in SHOPS for entity in shop):
            problems.append("this shop does not sell that")
    for slots in DIFFERENT:
        named = [next(iter(bound[slot])) for slot in slots if len(bound.get(slot, ())) == 1]
        if len(set(named)) < len(named):
            problems.append("one cannot be both")
    return problems


def _moods(group, state):
    """Does a feeling, or one more cause, fit the cause before it?"""
    if group.role in ("f", "fb", "verdict") and group.mood != state.mood:
        return ["the feeling does not fit the cause"]
    if group.role == "claim" and state.role == "claim" and group.mood != state.mood:
        return ["two claims contradict each other without a but"]
    if group.role == "last" and group.mood == state.mood:
        return ["but joins two claims that agree"]
    return []
