"""What a causal model of the story world can do, each ability on texts made for it, beside a reader without a model.

Every test is a list of `Item`s: a text up to the word that must follow, the word, and what a simple reader would say.
"""
import random
from typing import NamedTuple

import torch

from .. import storyworld
from ..storyworld import words
from ..storyworld.stories import ASKED, TRAITS, Teller, Thing
from ..storyworld.world import Event


class Item(NamedTuple):
    """A test: after `prompt` comes `answer`; `guess` is what the simple reader says; all are texts."""
    prompt: str
    answer: str
    guess: str


def _item(teller, start, end, entity, seen):
    """The item whose answer is text[start:end]; `seen` are the candidates in the order of their mentions, of which the simple reader names the last."""
    text, lang = teller.text, teller.lang
    word = getattr(entity, lang)
    start = end - len(word)                                             # "the bag" and "a dog" are asked for as "bag" and "dog"
    return Item(text[:start].rstrip(" "), text[start:end], getattr(seen[-1], lang))


def _seen(teller, candidates):
    """Every candidate that the text before the questions mentions by name, in order."""
    end = next(start for start, _, event in teller.sentences if event.kind.startswith("ask_about"))
    return [m.entity for m in teller.mentions if m.end <= end and m.form in ("name", "word") and m.entity in candidates]


def _scene(rng, lang, people, count, new_templates=False):
    teller = Teller(lang, random.Random(rng.random()), new_templates)
    cast = rng.sample(people, count)
    teller.tell(Event("go_two", dict(zip("AB", cast)) | {"L": rng.choice(words.PLACES), "T": rng.choice(words.ONCE)}))
    for person in cast[2:]:
        teller.tell(Event("come", {"B": person}))
    return teller, cast


def attribute(rng, lang, people, new_templates=False):
    """Three to five people, one fact each; a question about one of them."""
    teller = Teller(lang, random.Random(rng.random()), new_templates)
    trait = rng.choice(list(TRAITS))
    slot, choices, _ = TRAITS[trait]
    cast = rng.sample(people, rng.choice((3, 4, 5)))
    values = rng.sample(choices, len(cast))
    for person, value in zip(cast, values):
        teller.tell(Event(trait, {"A": person, slot: value}))
    number = rng.randrange(len(cast))
    kinds = ASKED.get(trait) or ASKED["likes"]
    teller.tell(Event(kinds[1], {"A": cast[number], slot: values[number]}))
    return _item(teller, *teller.answers[-1], values[number], _seen(teller, choices))


def holder(rng, lang, people, new_templates=False):
    """Three people, two things that change hands two or three times each, in turn; who has one of them at last?"""
    teller, cast = _scene(rng, lang, people, 3, new_templates)
    things = [Thing(rng.choice(words.COLOURS), noun) for noun in rng.sample(words.NOUNS, 2)]
    owners = rng.sample(cast, 2)
    for thing, person in zip(things, owners):
        teller.tell(Event("have", {"A": person, "O": thing}))
    for number in rng.sample([0, 0, 1, 1] + [rng.randrange(2)], 5):
        receiver = rng.choice([person for person in cast if person is not owners[number]])
        teller.tell(Event("give", {"A": owners[number], "B": receiver, "O": things[number]}))
        owners[number] = receiver
    teller.tell(Event("greet", dict(zip("AB", rng.sample(cast, 2)))))
    number = rng.randrange(2)
    teller.tell(Event("ask_about_holder", {"O": things[number], "A": owners[number]}))
    return _item(teller, *teller.answers[-1], owners[number], _seen(teller, people))


def inside(rng, lang, people, new_templates=False):
    """Two things that are put away and moved, in turn; where is one of them at last?"""
    teller, cast = _scene(rng, lang, people, 2, new_templates)
    things = [Thing(rng.choice(words.COLOURS), noun) for noun in rng.sample(words.NOUNS, 2)]
    for thing in things:
        teller.tell(Event("have", {"A": rng.choice(cast), "O": thing}))
    where = [None, None]
    for number in rng.sample([0, 0, 1, 1], 4):
        new = rng.choice([c for c in words.CONTAINERS if c not in where])
        thing, old = things[number], where[number]
        who = rng.choice(cast) if old else teller.world.things[thing].holder
        teller.tell(Event("move", {"A": who, "O": thing, "C": old, "D": new}) if old else Event("put", {"A": who, "O": thing, "C": new}))
        where[number] = new
    number = rng.randrange(2)
    teller.tell(Event("ask_about_inside", {"O": things[number], "C": where[number]}))
    return _item(teller, *teller.answers[-1], where[number], _seen(teller, words.CONTAINERS))


def told_again(rng, teller, trait, cast):
    """Tell a fact of a girl and a fact of a boy, let them meet, and tell one of the facts again with "her" or "his" for the name.

    Returns:
        Whom the pronoun means, a dict from person to the value of the fact, and the two in the order in which they meet.
    """
    slot, choices, again = TRAITS[trait]
    values = dict(zip(cast, rng.sample(choices, 2)))
    for person in rng.sample(cast, 2):
        teller.tell(Event(trait, {"A": person, slot: values[person]}))
    pair = rng.sample(cast, 2)
    teller.tell(Event("greet", dict(zip("AB", pair))))
    draws = iter([rng.random(), 0.0, rng.random(), rng.random()])
    teller.rng.random = lambda: next(draws)                             # always a pronoun where one is clear
    who = rng.choice(pair)
    teller.tell(Event(again, {"A": who, slot: values[who]}))
    return who, values, pair


def pronoun(rng, lang, people, new_templates=False):
    """A girl and a boy, one fact each; they meet, and the next sentence says "her" or "his": the next content word is the test.

    The simple reader takes the pronoun for the person who was named last.
    """
    teller, trait = Teller(lang, random.Random(rng.random()), new_templates), rng.choice(list(TRAITS))
    girl, boy = (rng.choice([person for person in people if person.female is female]) for female in (True, False))
    who, values, pair = told_again(rng, teller, trait, rng.sample([girl, boy], 2))
    mention = next(m for m in reversed(teller.mentions) if m.entity is values[who])
    return _item(teller, mention.start, mention.end, values[who], [values[pair[1]]])


TESTS = {"attribute": attribute, "holder": holder, "inside": inside, "pronoun": pronoun}
"""The tests of abilities; each gives one item for (generator, language, people)."""


def items(test, lang, count=200, new_names=False, new_templates=False, seed=-1):
    """Make the items of a test; the same seed gives the same ones.

    >>> items("attribute", "en", 1)[0].answer in items("attribute", "en", 1)[0].prompt.lower() + items("attribute", "en", 1)[0].answer
    True
    """
    rng = random.Random(f"{test} {seed} {new_names} {new_templates}")
    people = words.NEW_PEOPLE if new_names else words.PEOPLE
    return [TESTS[test](rng, lang, people, new_templates) for _ in range(count)]


@torch.no_grad()
def score(model, tokenizer, tests, batch=50):
    """Right or wrong for every item: is the first token of the answer the likeliest of all tokens?

    Args:
        model: A causal language model.
        tokenizer: Its tokenizer.
        tests: List of `Item`.
        batch: Number of items in one forward pass.

    Returns:
        Two lists of bool: the model's hits and those of the simple reader.
    """
    model.eval()
    rows = []
    for item in tests:
        whole = tokenizer(item.prompt + ("" if item.prompt[-1] in "：，。" or not item.answer.isascii() else " ") + item.answer)["input_ids"]
        start = next(i for i, (a, b) in enumerate(zip(whole + [None], tokenizer(item.prompt)["input_ids"] + [None])) if a != b)
        rows.append(([tokenizer.bos_token_id] + whole[:start], whole[start]))
    order = sorted(range(len(rows)), key=lambda i: len(rows[i][0]))
    hits = [False] * len(rows)
    for begin in range(0, len(rows), batch):
        chosen = order[begin:begin + batch]
        length = max(len(rows[i][0]) for i in chosen)
        ids = torch.tensor([rows[i][0] + [tokenizer.pad_token_id] * (length - len(rows[i][0])) for i in chosen])
        logits = model(ids, attention_mask=torch.ones_like(ids)).logits          # causal: what is padded on the right is not seen
        for row, i in enumerate(chosen):
            hits[i] = logits[row, len(rows[i][0]) - 1].argmax().item() == rows[i][1]
    return hits, [item.guess.lower() == item.answer.lower() for item in tests]


@torch.no_grad()
def induction(model, tokenizer, count=100, length=24, seed=-1):
    """Accuracy on the second saying of a list of random words of the world, and on a list that is not repeated (the control)."""
    model.eval()
    rng = random.Random(f"induction {seed}")
    vocabulary = range(257, len(tokenizer))
    lists = [rng.sample(vocabulary, 2 * length) for _ in range(count)]
    result = []
    for again in (True, False):
        ids = torch.tensor([[tokenizer.bos_token_id] + chosen[:length] + (chosen[:length] if again else chosen[length:]) for chosen in lists])
        best = model(ids).logits.argmax(-1)
        result.append((best[:, length + 1:-1] == ids[:, length + 2:]).float().mean().item())
    return tuple(result)
