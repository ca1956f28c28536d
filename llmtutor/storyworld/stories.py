"""Telling stories: arcs of events, chosen by a seeded random generator, written out in English or Chinese with their truth."""
import random
from dataclasses import dataclass, field

from . import grammar, words
from .words import LANGUAGES, Person, Thing
from .world import Event, World


@dataclass(frozen=True)
class Mention:
    """Characters `start` to `end` of the text speak of `entity`; `form` is "name", "pronoun", "thing", "it", "they" or "word".

    `known` is what the story has told of it so far: of a person ("likes", food) and ("mood", "happy" or "sad"), of a thing
    ("holder", person) or ("inside", container). `bound` is True where the facts, not chance, decide what stands here.
    """
    start: int
    end: int
    entity: object
    form: str
    known: tuple = ()
    bound: bool = False


@dataclass
class Story:
    """A text and its truth.

    Attributes:
        text: The story, followed by its questions and answers, one a line.
        lang: "en" or "zh".
        seed: The seed that tells it again.
        sentences: For each sentence (start, end, event), in characters of `text`.
        mentions: Every span that speaks of a person, a thing or another word of the lexicon, in order.
        answers: For each question (start, end) of its answer word, in characters of `text`.
        world: What is true at the end.
    """
    text: str
    lang: str
    seed: object
    sentences: list = field(default_factory=list)
    mentions: list = field(default_factory=list)
    answers: list = field(default_factory=list)
    world: World = field(default_factory=World)


BOUND = {"thank": "AB", "eat": "F", "take_out": "CO", "move": "CO", "give_back": "BO", "refuse": "A", "happy_because": "O", "sad_because": "O",
         "want": "O", "ask": "AO", "give": "O", "give_asked": "O", "give_unneeded": "O", "lose": "O", "put": "O", "find_lost": "O"}
"""Slots whose word follows from the facts told before."""


class Discourse:
    """Remembers who and what was spoken of, so that a pronoun can be used, and read, without doubt.

    The rule of this world: "he" is the only male person of this sentence so far, or if there is none, of the sentence before
    it; "she" likewise; so is "it" for things.
    """

    def __init__(self):
        self.last, self.this = [], []        # entities of the sentence before, and of this one

    def next_sentence(self):
        self.last, self.this = self.this, []

    def note(self, entity):
        self.this.append(entity)

    def person(self, female):
        """All persons whom a pronoun of this gender could mean here; it is clear when there is exactly one."""
        here = _persons(self.this, female)
        return here or _persons(self.last, female)

    def things(self):
        """All things that "it" could mean here."""
        return _things(self.this) or _things(self.last)


def _things(entities):
    return {entity for entity in entities if isinstance(entity, Thing)}


def _persons(entities, female):
    return {entity for entity in entities if isinstance(entity, Person) and entity.female == female}


class Teller:
    """Writes events as sentences of one language and keeps the truth beside them."""

    def __init__(self, lang, rng):
        self.lang, self.rng = lang, rng
        self.world, self.discourse = World(), Discourse()
        self.text, self.sentences, self.mentions, self.answers = "", [], [], []

    def tell(self, event):
        """Write `event` if it is possible now; return whether it was told."""
        if self.world.problems(event):
            return False
        number, pronoun, link, short = (self.rng.random() for _ in range(4))    # the same draws in both languages
        versions = grammar.PATTERNS[event.kind]
        number = int(number * len(versions))
        if self.text and self.lang == "en" and not versions[0][0].startswith("\n"):
            self.text += " "
        start = len(self.text)
        self.discourse.next_sentence()
        if event.kind == "give_back" and self.discourse.things() != {event["O"]}:
            number = 1                       # "it" would not be clear
        linked = event.kind not in grammar.NO_LINK and self.sentences and link < .3
        if linked:
            self.text += grammar.LINKS[int(link / .3 * len(grammar.LINKS))][LANGUAGES.index(self.lang)]
        for i, piece in enumerate(grammar.parts(event.kind, number, self.lang)):
            if isinstance(piece, str):
                self.text += piece
            else:
                self._write(event, *piece, pronoun < .6, short < .4, capital=i == 0 and not linked)
        if event.kind in ("ask_about_happy", "ask_about_sad"):
            self.answers.append((self.text.rindex(" " if self.lang == "en" else "：") + 1, len(self.text) - 1))
        self.sentences.append((start, len(self.text), event))
        self.world.apply(event)
        return True

    def _write(self, event, slot, form, pronoun, short, capital):
        value = event.slots.get(slot)
        if slot == "P":
            written, kind = grammar.THEY[all(person.female for person in self.world.present())], "they"
        elif isinstance(value, Person):
            may = grammar.subject(event.kind, slot, self.lang) and pronoun and self.discourse.person(value.female) == {value}
            kind = "pronoun" if form == "he" or (may and form != "name") else "name"
            written = grammar.PRONOUNS[self.lang][value.female] if kind == "pronoun" else getattr(value, self.lang)
        elif isinstance(value, Thing):
            alone = sum(other.noun is value.noun for other in self.world.things) == 1 and value in self.world.things
            if form in ("", "that"):
                form = f"{form} {'short' if short and alone else 'full'}".strip()
            written, kind = grammar.thing(value, form, self.lang), "it" if form == "it" else "thing"
        else:
            written, kind = grammar.word(value, form, self.lang), "word"
        if capital and self.lang == "en":
            written = written[:1].upper() + written[1:]
        span = (len(self.text), len(self.text) + len(written))
        bound = kind == "pronoun" or slot in BOUND.get(event.kind, "")
        self.mentions.append(Mention(*span, value, kind, tuple(self._known(value)), bound))
        if slot == grammar.ANSWER_SLOT.get(event.kind):
            self.answers.append(span)
        self.text += written
        self.discourse.note(value)

    def _known(self, value):
        facts = self.world.people.get(value) if isinstance(value, Person) else self.world.things.get(value) if isinstance(value, Thing) else None
        return [(name, getattr(facts, name)) for name in ("likes", "mood", "holder", "inside") if getattr(facts, name, None)]

    def story(self, seed):
        return Story(self.text, self.lang, seed, self.sentences, self.mentions, self.answers, self.world)


# -- arcs: each yields blocks of events that stay together ------------------------------------------------------------------

def _two(rng, world):
    here = world.present()
    return rng.sample(here, 2)


def _new_thing(rng, world):
    """A thing that the story does not have yet; sometimes of a noun that it has in another colour."""
    while True:
        nouns = [thing.noun for thing in world.things] if world.things and rng.random() < .2 else words.NOUNS
        thing = Thing(rng.choice(words.COLOURS), rng.choice(nouns))
        if thing not in world.things:
            return thing


def _get(rng, world, person):
    """Somebody has or finds a thing: the event and the thing."""
    thing = _new_thing(rng, world)
    if rng.random() < .75:
        return Event("have", {"A": person, "O": thing}), thing
    return Event("find", {"A": person, "O": thing, "S": rng.choice(words.SPOTS)}), thing


def _gift(rng, giver, receiver, thing, asked=False):
    kinds = ["give"] if asked or giver.female == receiver.female else ["give", "give_asked", "give_asked", "give_unneeded"]
    gift = Event(rng.choice(kinds), {"A": giver, "B": receiver, "O": thing})
    after = rng.choice([[], [Event("thank", {"A": giver, "B": receiver})], [Event("happy", {"A": receiver})],
                        [Event("happy_because", {"A": receiver, "O": thing})]])
    return [gift] + after


def share(rng, world):
    """Somebody has a thing, somebody else wants it, and gets it or does not."""
    giver, receiver = _two(rng, world)
    first, thing = _get(rng, world, giver)
    yield [first]
    wish = [Event("want", {"B": receiver, "O": thing})] if rng.random() < .4 else []
    if rng.random() < .5:
        ask = Event("ask", {"B": receiver, "A": giver, "O": thing})
        if rng.random() < .3:
            yield wish + [ask, Event("refuse", {"A": giver}), Event("sad", {"A": receiver})]
            return
        yield wish + [ask] + _gift(rng, giver, receiver, thing, asked=True)
    else:
        yield wish + _gift(rng, giver, receiver, thing)
    others = [person for person in world.present() if person is not receiver]
    if others and rng.random() < .35:
        yield _gift(rng, receiver, rng.choice(others), thing)


def lose(rng, world):
    """Somebody loses a thing, is sad, and it is found."""
    owner, finder = _two(rng, world)
    first, thing = _get(rng, world, owner)
    yield [first]
    yield [Event("lose", {"A": owner, "O": thing}), rng.choice([Event("sad", {"A": owner}), Event("sad_because", {"A": owner, "O": thing})])]
    if rng.random() < .25:
        finder = owner
    found = [Event("find_lost", {"B": finder, "O": thing, "S": rng.choice(words.SPOTS)})]
    if finder is not owner:
        found.append(Event("give_back", {"A": finder, "B": owner, "O": thing}))
    yield found + [rng.choice([Event("happy", {"A": owner}), Event("happy_because", {"A": owner, "O": thing}),
                               Event("thank", {"A": finder, "B": owner})])]


def hide(rng, world):
    """A thing goes into a container, from there into others, and perhaps out again."""
    first, thing = _get(rng, world, rng.choice(world.present()))
    owner = first["A"]
    yield [first]
    inside, *others = rng.sample(words.CONTAINERS, 3)
    yield [Event("put", {"A": owner, "O": thing, "C": inside})]
    for other in others[:rng.choice((0, 1, 1, 2))]:
        yield [Event("move", {"A": rng.choice(world.present()), "O": thing, "C": inside, "D": other})]
        inside = other
    if rng.random() < .35:
        yield [Event("take_out", {"A": rng.choice(world.present()), "O": thing, "C": inside})]


def food(rng, world):
    """Everybody likes something else, and later eats what he or she likes."""
    people = rng.sample(world.present(), len(world.present()))
    foods = rng.sample(words.FOODS, len(people))
    yield [Event("like", {"A": person, "F": what}) for person, what in zip(people, foods)]
    for i in rng.sample(range(len(people)), rng.randint(1, len(people))):
        yield [Event("eat", {"A": people[i], "F": foods[i]})]


def fun(rng, world):
    yield [Event("together", {})]


ARCS = [share, share, lose, hide, hide, food]


def _opening(rng, teller, cast):
    weather = rng.random()
    if rng.random() < .15:
        _in_the_middle(rng, teller, cast)
        return
    if weather < .4:
        teller.tell(Event("weather_nice" if weather < .25 else "weather_bad", {}))
    elif weather < .6:
        teller.tell(Event("named", {"A": cast[0], "G": words.GENDERS[cast[0].female]}))
    place = rng.choice([p for p in words.PLACES if teller.world.weather is None or p.outdoors == (teller.world.weather == "nice")])
    time = rng.choice(words.TODAY if teller.world.weather else words.ONCE)
    together = rng.choice((1, 2, len(cast)))
    kind = {1: "go", 2: "go_two", 3: "go_three"}[together]
    teller.tell(Event(kind, {"T": time, "L": place} | dict(zip("ABD", cast[:together]))))
    for person in cast[together:]:
        if rng.random() < .5:
            teller.tell(Event("meet", {"A": rng.choice(teller.world.present()), "B": person}))
        else:
            teller.tell(Event("come", {"B": person}))


def _in_the_middle(rng, teller, cast):
    """Begin with an event whose people and things nobody has introduced."""
    a, b = cast[:2]
    if rng.random() < .7:
        events = _gift(rng, a, b, _new_thing(rng, teller.world))
    elif rng.random() < .5:
        events = [Event("lose", {"A": a, "O": _new_thing(rng, teller.world)}), Event("sad", {"A": a})]
    else:
        events = [_get(rng, teller.world, a)[0]]
    for event in events:
        teller.tell(event)


def _questions(rng, world):
    """All questions that the story answers, as events."""
    asked = [Event("ask_about_holder", {"O": thing, "A": what.holder}) for thing, what in world.things.items() if what.holder]
    asked += [Event("ask_about_inside", {"O": thing, "C": what.inside}) for thing, what in world.things.items() if what.inside]
    for person, who in world.people.items():
        if who.likes:
            asked += [Event(kind, {"A": person, "F": who.likes}) for kind in ("ask_about_food", "ask_about_eater")]
        if who.mood:
            asked.append(Event("ask_about_" + who.mood, {"A": person}))
    if world.last_gift:
        asked.append(Event("ask_about_giver", dict(zip("ABO", world.last_gift))))
    return rng.sample(asked, min(len(asked), rng.choice((0, 1, 1, 2, 3))))


def _told(rng, lang, cast=None, plots=None):
    """Tell one story with the plot of `rng`; what is random in the wording comes from a second generator."""
    teller = Teller(lang, random.Random(rng.random()))
    _opening(rng, teller, cast or rng.sample(words.PEOPLE, rng.choice((2, 2, 3, 3))))
    world = teller.world
    chosen = rng.sample(ARCS, plots or rng.choice((1, 2, 2))) + [fun] * rng.choice((0, 1, 1)) if len(world.present()) > 1 else [hide]
    arcs = [arc(rng, world) for arc in chosen]
    while arcs:
        arc = rng.choice(arcs)
        block = next(arc, None)
        if block is None or not all([teller.tell(event) for event in block]):
            arcs.remove(arc)
    if rng.random() < .2:
        teller.tell(Event("leave", {"A": rng.choice(world.present())}))
    if rng.random() < .5:
        teller.tell(Event("end", {}))
    for event in _questions(rng, world):
        teller.tell(event)
    return teller


def facts(seed, lang="en"):
    """Tell a list of small facts (who likes what, who has what) and ask about every one, in another order.

    Such lists come early in the training of the bundled models: they are the shortest texts in which a name must be
    looked up. Arguments, result and errors are those of `story`.
    """
    if lang not in LANGUAGES:
        raise ValueError(f"lang must be 'en' or 'zh'; got {lang!r}")
    rng = random.Random(f"facts {seed}")
    teller = Teller(lang, random.Random(rng.random()))
    people = rng.sample(words.PEOPLE, rng.choice((2, 3, 3, 4, 5)))
    if rng.random() < .5:
        told = [("like", "F", food) for food in rng.sample(words.FOODS, len(people))]
        ask = ["ask_about_food", "ask_about_eater"]
    else:
        told = [("have", "O", Thing(rng.choice(words.COLOURS), noun)) for noun in rng.sample(words.NOUNS, len(people))]
        ask = ["ask_about_holder"]
    for person, (kind, slot, value) in zip(people, told):
        teller.tell(Event(kind, {"A": person, slot: value}))
    for i in rng.sample(range(len(people)), len(people)):
        teller.tell(Event(rng.choice(ask), {"A": people[i], told[i][1]: told[i][2]}))
    return teller.story(seed)


def short(seed, lang="en"):
    """Tell a story of two people and one plot, most often a girl and a boy. Arguments, result and errors are those of `story`."""
    if lang not in LANGUAGES:
        raise ValueError(f"lang must be 'en' or 'zh'; got {lang!r}")
    rng = random.Random(f"short {seed}")
    cast = rng.sample(words.PEOPLE, 2)
    if rng.random() < .7 and cast[0].female == cast[1].female:
        cast[1] = rng.choice([person for person in words.PEOPLE if person.female != cast[0].female])
    return _told(rng, lang, cast, plots=1).story(seed)


def story(seed, lang="en"):
    """Tell the story of a seed, with its truth; the same seed tells the same events in both languages.

    Args:
        seed: Any integer. By agreement training uses seeds from 0 up, and tests use negative ones.
        lang: "en" or "zh".

    Returns:
        A `Story`.

    Raises:
        ValueError: If the language is neither "en" nor "zh".

    >>> story(7).text == story(7).text
    True
    """
    if lang not in LANGUAGES:
        raise ValueError(f"lang must be 'en' or 'zh'; got {lang!r}")
    rng = random.Random(f"story {seed}")
    return _told(rng, lang).story(seed)
