"""The random choices of the generator, and what they cost: the bound that no model of the texts can beat on average.

A text is a function of the choices that were made for it. The surprise of these choices, minus the log of their probability, is
at least the surprise of the text (several choices may lead to one text), so its mean is an upper bound on the entropy of the texts
(Shannon 1948): a perfect model needs no more nats than that, and somewhat fewer where choices leave no trace.
"""
import contextlib
import math
import random


class Counting(random.Random):
    """A generator with the same draws as `random.Random` that adds up the surprise of every choice in `nats`."""
    nats = 0.0

    def choice(self, options):
        self.nats += math.log(len(options))
        return super().choice(options)

    def sample(self, options, k):
        self.nats += sum(math.log(len(options) - i) for i in range(k))
        return super().sample(options, k)

    def randint(self, low, high):
        self.nats += math.log(high - low + 1)
        return super().randint(low, high)

    def shuffle(self, items):
        self.nats += math.lgamma(len(items) + 1)
        super().shuffle(items)


_kind = random.Random
_made = []


def first(seed):
    """The generator of a text: its plot."""
    return _remembered(_kind(seed))


def second(rng):
    """A generator for the wording, seeded by the plot's, so that both languages draw alike."""
    return _remembered(_kind(rng.random()))


def _remembered(rng):
    if _kind is Counting:
        _made.append(rng)
    return rng


def chance(rng, p):
    """True with probability `p`."""
    hit = rng.random() < p
    if _kind is Counting:
        rng.nats -= math.log(p if hit else 1 - p)
    return hit


def note(rng, options, hit=None):
    """Count a choice among `options` equally likely ones, or (with `hit`) one of probability `options`, that was drawn by hand."""
    if _kind is Counting:
        rng.nats += math.log(options) if hit is None else -math.log(options if hit else 1 - options)


@contextlib.contextmanager
def counted():
    """Count the surprise of what is told inside the block; gives a function that returns the nats so far."""
    global _kind
    _kind = Counting
    _made.clear()
    try:
        yield lambda: sum(rng.nats for rng in _made)
    finally:
        _kind = random.Random
        _made.clear()


def surprise(tell, seed, lang="en"):
    """Nats of the choices behind one text.

    Args:
        tell: `story`, `short`, `facts` or `plain`.
        seed: The text's seed.
        lang: "en" or "zh".

    Returns:
        The text's story and the nats of all choices that were made for it.
    """
    with counted() as nats:
        told = tell(seed, lang)
        return told, nats()
