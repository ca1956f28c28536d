"""Telling stories: arcs of events, chosen by a seeded random generator, written out in English or Chinese with their truth."""
from dataclasses import dataclass, field
from typing import NamedTuple

from . import dice, grammar, words
from .words import LANGUAGES, Person, Thing
from .world import Event, World


class Mention(NamedTuple):
    """Characters `start` to `end` of the text speak of `entity`; `form` is "name", "pronoun", "thing", "it", "they" or "word".

    `known` is what the story has told of it so far: of a person ("likes", food), ("dream", ...), ("colour", ...), ("pet", ...) and
    ("mood", "happy" or "sad"), of a thing ("holder", person) or ("inside", container). `bound` is True where the facts, not chance, decide what stands here.
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


BOUND = {"thank": "AB", "eat": "F", "dream_again": "J", "colour_again": "K", "pet_again": "Y", "take_out": "CO", "move": "CO", "give_back": "BO", "refuse": "A", "happy_because": "O", "sad_because": "O",
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

    def __init__(self, lang, rng, new_templates=False):
        self.lang, self.rng, self.new_templates = lang, rng, new_templates
        self.world, self.discourse = World(), Discourse()
        self.text, self.sentences, self.mentions, self.answers, self.linked = "", [], [], [], False

    def tell(self, event):
        """Write `event` if it is possible now; return whether it was told."""
        if self.world.problems(event):
            return False
        draw = self.rng.random
        number, pronoun, link, short = draw(), draw(), draw(), draw()           # the same draws in both languages
        versions = grammar.PATTERNS[event.kind]
        number = int(number * len(versions))
        dice.note(self.rng, len(versions))
        if self.new_templates and event.kind in grammar.NEW_PATTERNS:
            number = len(versions)
        if self.text and self.lang == "en" and not versions[0][0].startswith("\n"):
            self.text += " "
        start = len(self.text)
        self.discourse.next_sentence()
        if event.kind == "give_back" and self.discourse.things() != {event["O"]}:
            number = 1                       # "it" would not be clear
        may = event.kind not in grammar.NO_LINK and self.sentences and not self.linked
        linked = may and link < .3
        if may:
            dice.note(self.rng, .3, linked)
            dice.note(self.rng, len(grammar.LINKS) if linked else 1)
        self.linked = linked                 # never two sentences in a row that begin with "then"
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
        value, after = event.slots.get(slot), ""
        if slot == "P":
            written, kind = grammar.THEY[all(person.female for person in self.world.present())], "they"
        elif isinstance(value, Person):
            may = form != "name" and form != "he" and grammar.subject(event.kind, slot, self.lang) and self.discourse.person(value.female) == {value}
            if may:
                dice.note(self.rng, .6, pronoun)
            kind = "pronoun" if form == "he" or may and pronoun else "name"
            written = grammar.PRONOUNS[self.lang][value.female] if kind == "pronoun" else getattr(value, self.lang)
            if form == "his":
                written, after = (grammar.POSSESSIVE["en"][value.female], "") if kind == "pronoun" and self.lang == "en" else (written, grammar.OF[self.lang])
        elif isinstance(value, Thing):
            if form in ("", "that"):
                alone = value in self.world.things and sum(other.noun is value.noun for other in self.world.things) == 1
                if alone:
                    dice.note(self.rng, .4, short)
                form = f"{form} {'short' if alone and short else 'full'}".strip()
            written, kind = grammar.thing(value, form, self.lang), "it" if form == "it" else "thing"
        else:
            written, kind = grammar.word(value, form, self.lang), "word"
        if capital and self.lang == "en":
            written = written[:1].upper() + written[1:]
        span = (len(self.text), len(self.text) + len(written))
        bound = kind == "pronoun" or slot in BOUND.get(event.kind, "")
        self.mentions.append(Mention(*span, value, kind, self._known(value), bound))
        if slot == grammar.ANSWER_SLOT.get(event.kind):
            self.answers.append(span)
        self.text += written + after
        self.discourse.note(value)

    def _known(self, value):
        if isinstance(value, Person):
            facts, names = self.world.people.get(value), ("likes", "dream", "colour", "pet", "mood")
        elif isinstance(value, Thing):
            facts, names = self.world.things.get(value), ("holder", "inside")
        else:
            return ()
        return tuple((name, found) for name in names if (found := getattr(facts, name))) if facts else ()

    def story(self, seed):
        return Story(self.text, self.lang, seed, self.sentences, self.mentions, self.answers, self.world)


# -- arcs: each yields blocks of events that stay together ------------------------------------------------------------------

def _two(rng, world):
    here = world.present()
    return rng.sample(here, 2)


def _new_thing(rng, world):
    """A thing that the story does not have yet; sometimes of a noun that it has in another colour."""
    while True:
        nouns = [thing.noun for thing in world.things] if world.things and dice.chance(rng, .2) else words.NOUNS
        thing = Thing(rng.choice(words.COLOURS), rng.choice(nouns))
        if thing not in world.things:
            return thing


def _get(rng, world, person):
    """Somebody has or finds a thing: the event and the thing."""
    thing = _new_thing(rng, world)
    if dice.chance(rng, .75):
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
    wish = [Event("want", {"B": receiver, "O": thing})] if dice.chance(rng, .4) else []
    if dice.chance(rng, .5):
        ask = Event("ask", {"B": receiver, "A": giver, "O": thing})
        if dice.chance(rng, .3):
            yield wish + [ask, Event("refuse", {"A": giver}), Event("sad", {"A": receiver})]
            return
        yield wish + [ask] + _gift(rng, giver, receiver, thing, asked=True)
    else:
        yield wish + _gift(rng, giver, receiver, thing)
    others = [person for person in world.present() if person is not receiver]
    if others and dice.chance(rng, .35):
        yield _gift(rng, receiver, rng.choice(others), thing)


def lose(rng, world):
    """Somebody loses a thing, is sad, and it is found."""
    owner, finder = _two(rng, world)
    first, thing = _get(rng, world, owner)
    yield [first]
    yield [Event("lose", {"A": owner, "O": thing}), rng.choice([Event("sad", {"A": owner}), Event("sad_because", {"A": owner, "O": thing})])]
    if dice.chance(rng, .25):
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
    if dice.chance(rng, .35):
        yield [Event("take_out", {"A": rng.choice(world.present()), "O": thing, "C": inside})]


def chain(rng, world):
    """A thing goes from hand to hand."""
    people = world.present()
    first, thing = _get(rng, world, rng.choice(people))
    yield [first]
    holder = first["A"]
    for _ in range(rng.choice((1, 2, 2, 3))):
        receiver = rng.choice([person for person in people if person is not holder])
        yield [Event("give", {"A": holder, "B": receiver, "O": thing})]
        holder = receiver


TRAITS = {"like": ("F", words.FOODS, "eat"), "dream": ("J", words.DREAMS, "dream_again"), "colour": ("K", words.COLOURS, "colour_again"),
          "pet": ("Y", words.PETS, "pet_again")}
"""What can be told of a person: event, slot, words, and the event that speaks of it again."""


def traits(rng, world):
    """Everybody likes, wants or has something else, and later the story speaks of it again, often after two people met."""
    people = rng.sample(world.present(), len(world.present()))
    kind = rng.choice(tuple(TRAITS))
    slot, choices, again = TRAITS[kind]
    values = rng.sample(choices, len(people))
    yield [Event(kind, {"A": person, slot: value}) for person, value in zip(people, values)]
    for i in rng.sample(range(len(people)), rng.randint(1, len(people))):
        recap = Event(again, {"A": people[i], slot: values[i]})
        others = [person for person in people if person is not people[i]]
        if dice.chance(rng, .6) and others:
            pair = [people[i], rng.choice(others)]
            rng.shuffle(pair)
            yield [Event("greet", dict(zip("AB", pair))), recap]
        else:
            yield [recap]


def fun(rng, world):
    yield [Event("together", {})]


ARCS = [share, chain, lose, hide, hide, traits, traits]


def _opening(rng, teller, cast, places=words.PLACES, middle=True):
    if middle and dice.chance(rng, .15):
        _in_the_middle(rng, teller, cast)
        return
    if dice.chance(rng, .4):
        teller.tell(Event("weather_nice" if dice.chance(rng, .6) else "weather_bad", {}))
    elif dice.chance(rng, .3):
        teller.tell(Event("named", {"A": cast[0], "G": words.GENDERS[cast[0].female]}))
    place = rng.choice([p for p in places if teller.world.weather is None or p.outdoors == (teller.world.weather == "nice")])
    time = rng.choice(words.TODAY if teller.world.weather else words.ONCE)
    together = min(len(cast), rng.choice((1, 2, 3)))
    kind = {1: "go", 2: "go_two", 3: "go_three"}[together]
    teller.tell(Event(kind, {"T": time, "L": place} | dict(zip("ABD", cast[:together]))))
    for person in cast[together:]:
        if dice.chance(rng, .5):
            teller.tell(Event("meet", {"A": rng.choice(teller.world.present()), "B": person}))
        else:
            teller.tell(Event("come", {"B": person}))


def _in_the_middle(rng, teller, cast):
    """Begin with an event whose people and things nobody has introduced."""
    a, b = cast[:2]
    if dice.chance(rng, .7):
        events = _gift(rng, a, b, _new_thing(rng, teller.world))
    elif dice.chance(rng, .5):
        events = [Event("lose", {"A": a, "O": _new_thing(rng, teller.world)}), Event("sad", {"A": a})]
    else:
        events = [_get(rng, teller.world, a)[0]]
    for event in events:
        teller.tell(event)


ASKED = {"likes": ("F", "ask_about_food", "ask_about_eater"), "dream": ("J", "ask_about_dream", "ask_about_dreamer"),
         "colour": ("K", "ask_about_colour", "ask_about_colour_fan"), "pet": ("Y", "ask_about_pet", "ask_about_pet_owner")}


def _questions(rng, world):
    """All questions that the story answers, as events."""
    asked = [Event("ask_about_holder", {"O": thing, "A": what.holder}) for thing, what in world.things.items() if what.holder]
    asked += [Event("ask_about_inside", {"O": thing, "C": what.inside}) for thing, what in world.things.items() if what.inside]
    for person, who in world.people.items():
        for trait, (slot, *kinds) in ASKED.items():
            value = getattr(who, trait)
            if value:
                asked += [Event(kind, {"A": person, slot: value}) for kind in kinds]
        if who.mood:
            asked.append(Event("ask_about_" + who.mood, {"A": person}))
    if world.last_gift:
        asked.append(Event("ask_about_giver", dict(zip("ABO", world.last_gift))))
    return rng.sample(asked, min(len(asked), rng.choice((0, 1, 1, 2, 3))))


def _told(rng, lang, cast, places=words.PLACES, new_templates=False, plots=None):
    """Tell one story with the plot of `rng`; what is random in the wording comes from a second generator."""
    teller = Teller(lang, dice.second(rng), new_templates)
    _opening(rng, teller, cast, places)
    world = teller.world
    chosen = rng.sample(ARCS, plots or rng.choice((1, 2, 2))) + [fun] * rng.choice((0, 1, 1)) if len(world.present()) > 1 else [hide]
    arcs = [arc(rng, world) for arc in chosen]
    while arcs:
        arc = rng.choice(arcs)
        block = next(arc, None)
        if block is None or not all([teller.tell(event) for event in block]):
            arcs.remove(arc)
    if dice.chance(rng, .2):
        teller.tell(Event("leave", {"A": rng.choice(world.present())}))
    if dice.chance(rng, .5):
        teller.tell(Event("end", {}))
    for event in _questions(rng, world):
        teller.tell(event)
    return teller


def _begin(kind, seed, lang, new_names):
    """The seeded generator of a text of this kind, its people and its places."""
    if lang not in LANGUAGES:
        raise ValueError(f"lang must be 'en' or 'zh'; got {lang!r}")
    people, places = (words.NEW_PEOPLE, words.NEW_PLACES) if new_names else (words.PEOPLE, words.PLACES)
    return dice.first(f"{kind} {seed}"), people, places


def facts(seed, lang="en", new_names=False, new_templates=False):
    """Tell a list of small facts (who likes, wants or has what) and ask about every one, in another order.

    Half of the lists go on with people who meet, and speak of a fact again. Such lists come early in the training of the bundled
    models: they are the shortest texts in which a name must be looked up. Arguments, result and errors are those of `story`.
    """
    rng, people, _ = _begin("facts", seed, lang, new_names)
    teller = Teller(lang, dice.second(rng), new_templates)
    people = rng.sample(people, rng.choice((2, 3, 3, 4, 5)))
    kind = rng.choice(("have", *TRAITS))
    slot, choices, again = TRAITS.get(kind, ("O", None, None))
    values = rng.sample(choices, len(people)) if choices else [Thing(rng.choice(words.COLOURS), noun) for noun in rng.sample(words.NOUNS, len(people))]
    for person, value in zip(people, values):
        teller.tell(Event(kind, {"A": person, slot: value}))
    if again and dice.chance(rng, .5):
        for _ in range(rng.choice((1, 2, 3))):
            pair = rng.sample(range(len(people)), 2)
            teller.tell(Event("greet", {"A": people[pair[0]], "B": people[pair[1]]}))
            i = rng.choice(pair)
            teller.tell(Event(again, {"A": people[i], slot: values[i]}))
    ask = {"have": ["ask_about_holder"], "like": ASKED["likes"][1:]}.get(kind) or ASKED[kind][1:]
    for i in rng.sample(range(len(people)), len(people)):
        teller.tell(Event(rng.choice(ask), {"A": people[i], slot: values[i]}))
    return teller.story(seed)


def moves(seed, lang="en", new_names=False, new_templates=False):
    """Tell of two or three things that change hands, or are put away and moved, in turn, and ask where each of them ended.

    These are the shortest texts in which a fact must be followed while it changes. Arguments, result and errors are those of `story`.
    """
    rng, people, _ = _begin("moves", seed, lang, new_names)
    teller = Teller(lang, dice.second(rng), new_templates)
    cast = rng.sample(people, rng.choice((2, 3, 3)))
    things = [Thing(rng.choice(words.COLOURS), noun) for noun in rng.sample(words.NOUNS, len(cast))]
    for person, thing in zip(cast, things):
        teller.tell(Event("have", {"A": person, "O": thing}))
    step = rng.choice((_hand_over, _put_elsewhere))
    for _ in range(rng.randint(1, 2 * len(things))):
        teller.tell(step(rng, cast, rng.choice(things), teller.world))
    for thing in rng.sample(things, len(things)):
        what = teller.world.things[thing]
        teller.tell(Event("ask_about_holder", {"O": thing, "A": what.holder}) if what.holder else Event("ask_about_inside", {"O": thing, "C": what.inside}))
    return teller.story(seed)


def _hand_over(rng, cast, thing, world):
    holder = world.things[thing].holder
    return Event("give", {"A": holder, "B": rng.choice([person for person in cast if person is not holder]), "O": thing})


def _put_elsewhere(rng, cast, thing, world):
    what, someone = world.things[thing], rng.choice(cast)
    if what.holder:
        return Event("put", {"A": what.holder, "O": thing, "C": rng.choice(words.CONTAINERS)})
    if dice.chance(rng, .2):
        return Event("take_out", {"A": someone, "O": thing, "C": what.inside})
    return Event("move", {"A": someone, "O": thing, "C": what.inside, "D": rng.choice([c for c in words.CONTAINERS if c is not what.inside])})


def short(seed, lang="en", new_names=False, new_templates=False):
    """Tell a story of two people and one plot, most often a girl and a boy. Arguments, result and errors are those of `story`."""
    rng, people, places = _begin("short", seed, lang, new_names)
    cast = rng.sample(people, 2)
    if dice.chance(rng, .7) and cast[0].female == cast[1].female:
        cast[1] = rng.choice([person for person in people if person.female != cast[0].female])
    return _told(rng, lang, cast, places, new_templates, plots=1).story(seed)


def plain(seed, lang="en"):
    """Tell of one or two people to whom nothing happens that could be asked for, half of the time people of held-out names.

    These texts are the only ones in which training meets `words.NEW_PEOPLE` and `words.NEW_PLACES`: a model can learn that
    Oscar is a boy, but it never has to look up anything of his. Arguments, result and errors are those of `story`.
    """
    rng, *_ = _begin("plain", seed, lang, False)
    teller = Teller(lang, dice.second(rng))
    new = dice.chance(rng, .5)
    cast = rng.sample(words.NEW_PEOPLE if new else words.PEOPLE, rng.choice((1, 2, 2)))
    _opening(rng, teller, cast, words.NEW_PLACES if dice.chance(rng, .5) else words.PLACES, middle=False)
    for kind in rng.sample(PLAIN, rng.randint(3, 5)):
        person = rng.choice(teller.world.present())
        if len(cast) > 1 and dice.chance(rng, .3):
            teller.tell(Event("greet", dict(zip("AB", rng.sample(cast, 2)))))
        teller.tell(Event(kind, {"A": person}))
    if len(cast) > 1 and dice.chance(rng, .5):
        teller.tell(Event("end", {}))
    return teller.story(seed)


PLAIN = ("sing", "tired", "hungry", "drink", "rest", "look", "run")


def story(seed, lang="en", new_names=False, new_templates=False):
    """Tell the story of a seed, with its truth; the same seed tells the same events in both languages.

    Args:
        seed: Any integer. By agreement training uses seeds from 0 up, and tests use negative ones.
        lang: "en" or "zh".
        new_names: Whether people and places are the held-out ones, which the bundled models never met with a fact or a question.
        new_templates: Whether sentences are told in their held-out words where there are such (`grammar.NEW_PATTERNS`).

    Returns:
        A `Story`.

    Raises:
        ValueError: If the language is neither "en" nor "zh".

    >>> story(7).text == story(7).text
    True
    """
    rng, people, places = _begin("story", seed, lang, new_names)
    return _told(rng, lang, rng.sample(people, rng.choice((2, 2, 3, 3, 3))), places, new_templates).story(seed)
