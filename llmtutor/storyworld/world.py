"""What is true at each point of a story, and the rules that make an event possible.

The generator and the checker share this class: the generator asks `World.problems(event)` before it tells an event, the
checker asks the same question of an event that it has read in a text. So a text passes the checker exactly when the
generator could have told it.
"""
from dataclasses import dataclass, field

from .words import TODAY, Person, Thing


@dataclass(slots=True)
class Event:
    """One thing that happens. `kind` names the rule below; `slots` maps slot letters to words of the lexicon."""
    kind: str
    slots: dict

    def __getitem__(self, slot):
        return self.slots[slot]


@dataclass(slots=True)
class Who:
    """What is known of one person: in the scene or gone, mood ("happy", "sad" or None), favourite food, dream, colour, and pet."""
    present: bool = True
    mood: str | None = None
    likes: object = None
    dream: object = None
    colour: object = None
    pet: object = None


@dataclass(slots=True)
class What:
    """What is known of one thing: who holds it, which container it lies in, whose it is, who lost it."""
    holder: Person | None = None
    inside: object = None
    owner: Person | None = None
    loser: Person | None = None


@dataclass
class World:
    """The facts of a story so far. `apply` changes them; `problems` says what an event would contradict."""
    people: dict = field(default_factory=dict)
    things: dict = field(default_factory=dict)
    weather: str | None = None
    place: object = None
    last_gift: tuple | None = None          # (giver, receiver, thing) of the newest gift
    last_request: tuple | None = None       # (who asked, who was asked, thing) while it is open
    ended: bool = False
    events: int = 0

    def present(self):
        return [person for person, who in self.people.items() if who.present]

    def problems(self, event):
        """List what is wrong with `event` now, as English sentences; an empty list means that it may happen."""
        found = list(self._unknown(event))
        rule = getattr(self, "_may_" + event.kind, None)
        if rule and not found:
            found += [problem for holds, problem in rule(event) if not holds]
        if self.ended and not event.kind.startswith("ask_about"):
            found.append("everybody has gone home already")
        return found

    def apply(self, event):
        """Make `event` true. Callers check `problems` first."""
        change = getattr(self, "_do_" + event.kind, None)
        if change:
            change(**event.slots)
        if event.kind.startswith("ask_about"):
            self.ended = True
        elif not event.kind.startswith("weather"):
            self.events += 1

    # -- who and what may be spoken of ------------------------------------------------------------------------------

    def _unknown(self, event):
        """Words that the text uses before it has introduced them. A first sentence may start in the middle."""
        kind, people = event.kind, []
        new, either = MUST_BE_NEW.get(kind, ""), MAY_BE_NEW.get(kind, "")
        for slot, value in event.slots.items():
            if isinstance(value, Person):
                known = self.people
                if value in people:
                    yield "one person cannot be both"
                people.append(value)
            elif isinstance(value, Thing):
                known = self.things
            else:
                continue
            if value in known:
                if slot in new:
                    yield f"{_name(value)} is introduced twice"
                elif known is self.people and not known[value].present and not kind.startswith("ask_about"):
                    yield f"{_name(value)} has gone home"
            elif slot not in new and slot not in either and not (self.events == 0 and kind in MAY_OPEN):
                yield f"{_name(value)} has not been introduced"

    def _who(self, person):
        return self.people.setdefault(person, Who())

    def _what(self, thing):
        return self.things.setdefault(thing, What())

    def holds(self, person, thing):
        """True unless the story says that somebody else or nobody has `thing` (an opening may leave it open)."""
        known = self.things.get(thing)
        return known is None or known.holder is person

    # -- rules: pairs (holds, what to say if not) ------------------------------------------------------------------

    def _may_weather_nice(self, e):
        yield self.weather != "bad", "the weather was bad"

    def _may_weather_bad(self, e):
        yield self.weather != "nice", "the weather was nice"

    def _may_go(self, e):
        yield self.place in (None, e["L"]), "they are somewhere else already"
        yield self.weather is None or e["L"].outdoors == (self.weather == "nice"), "nobody goes there in this weather"
        yield self.weather is None or e["T"] in TODAY, "the weather is today's"

    _may_go_two = _may_go_three = _may_go

    def _may_named(self, e):
        yield e["A"].female == (e["G"].en == "girl"), f"{e['A'].en} is a {'girl' if e['A'].female else 'boy'}"

    def _may_meet(self, e):
        yield self.place is not None, "nobody knows where 'there' is"

    def _may_come(self, e):
        yield self.place is not None, "nobody knows where"

    def _may_want(self, e):
        yield self.things[e["O"]].holder not in (None, e["B"]), "nobody else has it"

    def _may_ask(self, e):
        yield self.holds(e["A"], e["O"]), f"{e['A'].en} does not have it"

    def _may_refuse(self, e):
        yield self.last_request is not None and self.last_request[1] is e["A"], "nobody asked for anything"

    def _may_give(self, e):
        yield self.holds(e["A"], e["O"]), f"{e['A'].en} does not have it"

    def _may_give_asked(self, e):
        yield from self._may_give(e)
        yield e["A"].female != e["B"].female, "it is not clear who the pronoun is"

    def _may_give_unneeded(self, e):
        yield from self._may_give_asked(e)
        yield not (self.last_request and self.last_request[:2] == (e["B"], e["A"])), "the reason is that somebody asked"

    def _may_thank(self, e):
        yield self.last_gift is not None and self.last_gift[:2] == (e["A"], e["B"]), "there was no such gift"

    def _may_happy(self, e):
        yield not self.events or self._mood(e["A"]) == "happy", f"{e['A'].en} has no reason to be happy"

    def _may_happy_because(self, e):
        yield from self._may_happy(e)
        yield self.holds(e["A"], e["O"]), f"{e['A'].en} does not have it"

    def _may_sad(self, e):
        yield not self.events or self._mood(e["A"]) == "sad", f"{e['A'].en} has no reason to be sad"

    def _may_sad_because(self, e):
        yield not self.events or self.things[e["O"]].loser is e["A"], f"{e['A'].en} did not lose it"

    def _may_lose(self, e):
        yield self.holds(e["A"], e["O"]), f"{e['A'].en} does not have it"

    def _may_find_lost(self, e):
        yield self.things[e["O"]].loser is not None, "it was not lost"

    def _may_give_back(self, e):
        yield from self._may_give(e)
        yield self.things[e["O"]].owner is e["B"], f"it is not {e['B'].en}'s"

    def _may_put(self, e):
        yield self.holds(e["A"], e["O"]), f"{e['A'].en} does not have it"

    def _may_take_out(self, e):
        yield self.things[e["O"]].inside is e["C"], f"it is not in the {e['C'].en}"

    def _may_move(self, e):
        yield from self._may_take_out(e)
        yield e["C"] is not e["D"], "it is there already"

    def _may_like(self, e):
        who = self.people.get(e["A"], Who())
        yield who.likes is None, f"what {e['A'].en} likes was told already"

    def _may_eat(self, e):
        yield not self.events or self.people[e["A"]].likes is e["F"], f"{e['A'].en} does not like that"

    def _told_of(self, e, trait, slot):
        yield getattr(self.people.get(e["A"], Who()), trait) is e[slot], f"that is not what was told of {e['A'].en}"

    def _new_of(self, e, trait):
        yield getattr(self.people.get(e["A"], Who()), trait) is None, f"that was told of {e['A'].en} already"

    def _may_dream(self, e):
        yield from self._new_of(e, "dream")

    def _may_colour(self, e):
        yield from self._new_of(e, "colour")

    def _may_pet(self, e):
        yield from self._new_of(e, "pet")

    def _may_dream_again(self, e):
        yield from self._told_of(e, "dream", "J")

    def _may_colour_again(self, e):
        yield from self._told_of(e, "colour", "K")

    def _may_pet_again(self, e):
        yield from self._told_of(e, "pet", "Y")

    _may_ask_about_dream = _may_ask_about_dreamer = _may_dream_again
    _may_ask_about_colour = _may_ask_about_colour_fan = _may_colour_again
    _may_ask_about_pet = _may_ask_about_pet_owner = _may_pet_again

    def _may_together(self, e):
        yield len(self.present()) > 1, "only one person is there"

    _may_end = _may_together

    def _may_leave(self, e):
        yield len(self.present()) > 1, "nobody would be left"

    def _may_ask_about_holder(self, e):
        yield self.things[e["O"]].holder is e["A"], f"{e['A'].en} does not have it"

    def _may_ask_about_inside(self, e):
        yield self.things[e["O"]].inside is e["C"], f"it is not in the {e['C'].en}"

    def _may_ask_about_food(self, e):
        yield self.people[e["A"]].likes is e["F"], f"{e['A'].en} does not like that"

    _may_ask_about_eater = _may_ask_about_food

    def _may_ask_about_giver(self, e):
        yield self.last_gift == (e["A"], e["B"], e["O"]), "that is not the newest gift"

    def _may_ask_about_happy(self, e):
        yield self._mood(e["A"]) == "happy", f"{e['A'].en} is not happy"

    def _may_ask_about_sad(self, e):
        yield self._mood(e["A"]) == "sad", f"{e['A'].en} is not sad"

    def _mood(self, person):
        return self.people.get(person, Who()).mood

    # -- changes ---------------------------------------------------------------------------------------------------

    def _do_weather_nice(self):
        self.weather = "nice"

    def _do_weather_bad(self):
        self.weather = "bad"

    def _do_named(self, A, G):
        self._who(A)

    def _do_go(self, A, L, T=None):
        self._who(A)
        self.place = L

    def _do_go_two(self, A, B, L, T=None):
        self._do_go(A, L)
        self._who(B)

    def _do_go_three(self, A, B, D, L, T=None):
        self._do_go_two(A, B, L)
        self._who(D)

    def _do_meet(self, A, B):
        self._who(A)
        self._who(B)

    def _do_come(self, B):
        self._who(B)

    def _do_have(self, A, O, S=None):
        self._who(A)
        thing = self._what(O)
        thing.holder = thing.owner = A

    _do_find = _do_have

    def _do_ask(self, B, A, O):
        self._who(A)
        self._who(B)
        thing = self._what(O)
        thing.holder = A
        thing.owner = thing.owner or A
        self.last_request = (B, A, O)

    def _do_refuse(self, A):
        self._who(self.last_request[0]).mood = "sad"
        self.last_request = None

    def _do_give(self, A, B, O):
        self._who(A)
        self._who(B).mood = "happy"
        thing = self._what(O)
        thing.holder = thing.owner = B
        thing.inside = thing.loser = None
        self.last_gift, self.last_request = (A, B, O), None

    _do_give_asked = _do_give_unneeded = _do_give_back = _do_give

    def _do_lose(self, A, O):
        self._who(A).mood = "sad"
        thing = self._what(O)
        thing.holder, thing.owner, thing.loser = None, A, A

    _do_sad_because = _do_lose

    def _do_happy_because(self, A, O):
        self._who(A).mood = "happy"
        thing = self._what(O)
        thing.holder = A
        thing.owner = thing.owner or A

    def _do_find_lost(self, B, O, S=None):
        self._who(B)
        thing = self._what(O)
        thing.holder = B
        if thing.loser is B:
            self._who(B).mood = "happy"
        thing.loser = None

    def _do_put(self, A, O, C):
        self._who(A)
        thing = self._what(O)
        thing.holder, thing.inside = None, C
        thing.owner = thing.owner or A

    def _do_take_out(self, A, O, C):
        self._who(A)
        thing = self._what(O)
        thing.holder, thing.inside = A, None

    def _do_move(self, A, O, C, D):
        self._who(A)
        self._what(O).inside = D

    def _do_like(self, A, F):
        self._who(A).likes = F

    _do_eat = _do_like

    def _do_dream(self, A, J):
        self._who(A).dream = J

    def _do_colour(self, A, K):
        self._who(A).colour = K

    def _do_pet(self, A, Y):
        self._who(A).pet = Y

    def _do_leave(self, A):
        self._who(A).present = False

    def _do_end(self):
        self.ended = True


def _name(value):
    return value.en if isinstance(value, Person) else f"the {value.colour.en} {value.noun.en}"


MUST_BE_NEW = {"named": "A", "go_two": "B", "go_three": "BD", "meet": "B", "come": "B", "have": "O", "find": "O"}
MAY_BE_NEW = {"like": "A", "dream": "A", "colour": "A", "pet": "A", "have": "A", "go": "A", "go_two": "A", "go_three": "A"}
"""Slots that an event introduces: a person or thing that must be, or may be, new in the story."""

MAY_OPEN = {"dream", "colour", "pet", "give", "give_asked", "give_unneeded", "lose", "put", "like", "eat", "have", "find", "happy_because", "sad_because"}
"""Events with which a text may begin in the middle of things, so that nobody needs an introduction."""
