"""What `story-bert` can do: filling in words beside an oracle and baselines, and small tasks that it is fine-tuned for.

Everything here reads `texts.Text`, so a new kind of text needs nothing but a place in `texts.SOURCES`.
"""
import collections
import random
from typing import NamedTuple

import numpy as np
import torch

from .. import storyworld
from ..storyworld import kinds
from . import texts
from .texts import encode


# -- numbers with their uncertainty ------------------------------------------------------------------------------------------------

class Share(NamedTuple):
    """A mean with its 95 % interval."""
    mean: float
    low: float
    high: float


def share(groups, over=None, draws=1000):
    """Mean of hits, or ratio of two means, with a bootstrap interval over groups (hits of one text hang together).

    Args:
        groups: List of lists of numbers: one list for each text.
        over: The same for the denominator, or None for the plain mean.
        draws: Number of bootstrap draws.

    Returns:
        A `Share`, or None if there is no hit to count.

    >>> share([[1, 1], [1]])
    Share(mean=1.0, low=1.0, high=1.0)
    """
    tops = np.array([sum(group) for group in groups], float)
    bottoms = np.array([sum(group) for group in over] if over else [len(group) for group in groups], float)
    if not bottoms.sum():
        return None
    drawn = np.random.default_rng(0).integers(0, len(tops), (draws, len(tops)))
    ratios = tops[drawn].sum(1) / np.maximum(bottoms[drawn].sum(1), 1e-9)
    return Share(*(float(x) for x in (tops.sum() / bottoms.sum(), *np.quantile(ratios, [0.025, 0.975]))))


# -- filling in: blanks, baselines, oracle -------------------------------------------------------------------------------------------

class Blank(NamedTuple):
    """One word of a text that is to be guessed: its number in `units`, its span, whether it is a name said before, and whether other
    words decide it."""
    number: int
    start: int
    end: int
    name: bool
    sure: bool


def blanks(text, rng, count=12):
    """Choose at most `count` words of a text, punctuation left out; a name or decided word has the same chance as any other."""
    names = set(texts.again(text.names))
    sure = set().union(*(range(*span) for span in text.sure))
    found = [Blank(number, start, end, (start, end) in names, start in sure)
             for number, (start, end) in enumerate(texts.units(text)) if text.text[start:end].isalnum()]
    return sorted(rng.sample(found, min(count, len(found))))


class Counts:
    """Counts of words between their neighbours, from training texts: two readers without a model, and the order in which the oracle tries.

    Args:
        read: Texts to count.
    """

    def __init__(self, read):
        self.tables = [collections.defaultdict(collections.Counter) for _ in range(4)]
        for text in read:
            row = self.row(text)
            for number in range(2, len(row) - 2):
                for table, key in zip(self.tables, self._keys(row, number)):
                    table[key][row[number]] += 1

    @staticmethod
    def row(text):
        """The words of a text between two marks at each end."""
        return ["^", "^", *(text.text[start:end] for start, end in texts.units(text)), "$", "$"]

    @staticmethod
    def _keys(row, number):
        return tuple(row[number - 2:number] + row[number + 1:number + 3]), (row[number - 1], row[number + 1]), row[number - 1], None

    def frequent(self):
        """The most frequent word that is no punctuation."""
        return next(word for word, _ in self.tables[3][None].most_common() if word.isalnum())

    def ranked(self, row, number, tables=slice(0, 3)):
        """Words for one place, the likeliest first: those seen between the same four neighbours, then two, then after the same one.

        Args:
            row: From `row`.
            number: Place in `row`.
            tables: Which counts to use.

        Yields:
            Words, each once.
        """
        seen = set()
        for table, key in list(zip(self.tables, self._keys(row, number)))[tables]:
            for word, _ in table[key].most_common() if key in table else ():
                if word not in seen and word.isalnum():
                    seen.add(word)
                    yield word


def neighbours(counts, text, blank):
    """Guess of a reader that knows only how often each word stood between the two words beside the blank."""
    row = counts.row(text)
    return next(counts.ranked(row, blank.number + 2, slice(1, 3)), counts.frequent())


def oracle(counts, text, blank):
    """Guess of a reader that knows the rules of the world: the likeliest word with which the whole text still passes the checker.

    "Likeliest" is by counts between four, two or one neighbouring words. The rules say what is possible and the counts what is
    usual; a reader that knew the exact chances of the generator's choices could do slightly better, so this is an estimate from below.
    """
    row = counts.row(text)
    for word in counts.ranked(row, blank.number + 2):
        if storyworld.check(text.text[:blank.start] + word + text.text[blank.end:], text.lang).ok:
            return word
    return counts.frequent()


def decided(text, blank):
    """True if the text would break its own rules with any of its other people in the place of this name."""
    others = {text.text[start:end] for start, end, _ in text.names} - {text.text[blank.start:blank.end]}
    return not any(storyworld.check(text.text[:blank.start] + other + text.text[blank.end:], text.lang).ok for other in others)


@torch.no_grad()
def fill(model, tokenizer, read, wanted, batch=48):
    """Hide one word at a time and see whether the model puts it back: every piece of it must be the likeliest.

    Args:
        model: A masked language model.
        tokenizer: Its tokenizer.
        read: List of `Text`.
        wanted: For each text the list of its `Blank`s.
        batch: Rows in one forward pass.

    Returns:
        For each text a list of bool.
    """
    model.eval()
    rows = []
    for number, (text, chosen) in enumerate(zip(read, wanted)):
        ids, found = encode(text, tokenizer)
        places = {span: positions for positions, _, span in found}
        for at, blank in enumerate(chosen):
            positions = places.get((blank.start, blank.end), [])
            hidden = [tokenizer.mask_token_id if i in positions else token for i, token in enumerate(ids)]
            rows.append((number, at, hidden, positions, [ids[i] for i in positions]))
    hits = [[False] * len(chosen) for chosen in wanted]
    rows.sort(key=lambda row: len(row[2]))
    for begin in range(0, len(rows), batch):
        part = rows[begin:begin + batch]
        length = max(len(row[2]) for row in part)
        ids = torch.tensor([row[2] + [tokenizer.pad_token_id] * (length - len(row[2])) for row in part])
        best = model(ids, attention_mask=(ids != tokenizer.pad_token_id).long()).logits.argmax(-1)
        for guess, (number, at, _, positions, right) in zip(best, part):
            hits[number][at] = bool(positions) and [int(guess[i]) for i in positions] == right
    return hits


def measure(model, tokenizer, stories, counts, check=True, seed=0):
    """Measure filling in on texts of one language that the model has not seen.

    Args:
        model: A masked language model.
        tokenizer: Its tokenizer.
        stories: List of `storyworld.Story`.
        counts: `Counts` of training texts of the same language.
        check: Whether to ask the oracle, too (about 10 ms a word).
        seed: Seed of the choice of words.

    Returns:
        Dict of `Share`: `words` (one hidden word at a time, punctuation left out), `sure` (words that the text decides), `names`
        (a name after its first mention); the same for the baselines: `frequent`, `neighbours`, `names_neighbours`; and with
        `check` for the oracle: `oracle`, `names_oracle`, `of_oracle` (the model's share of it), `names_of_oracle`, and
        `names_decided` (the model on the names that nobody else in the text could replace).
    """
    rng = random.Random(f"blanks {seed}")
    read = [texts.from_story(told) for told in stories]
    own = [{span for _, _, span in encode(text, tokenizer)[1]} for text in read]      # words that share no piece with others
    wanted = [[blank for blank in blanks(text, rng) if (blank.start, blank.end) in spans] for text, spans in zip(read, own)]
    hits = fill(model, tokenizer, read, wanted)

    def guesses(guess):
        return [[guess(text, blank) == text.text[blank.start:blank.end] for blank in chosen] for text, chosen in zip(read, wanted)]

    def only(rows, keep):
        return [[hit for hit, blank in zip(row, chosen) if keep(blank)] for row, chosen in zip(rows, wanted)]

    beside = guesses(lambda text, blank: neighbours(counts, text, blank))
    found = {"words": share(hits), "sure": share(only(hits, lambda b: b.sure)), "names": share(only(hits, lambda b: b.name)),
             "frequent": share(guesses(lambda text, blank: counts.frequent())), "neighbours": share(beside),
             "names_neighbours": share(only(beside, lambda b: b.name))}
    if check:
        best = guesses(lambda text, blank: oracle(counts, text, blank))
        names, best_names = only(hits, lambda b: b.name), only(best, lambda b: b.name)
        clear = [[hit for hit, blank in zip(row, chosen) if blank.name and decided(text, blank)] for text, row, chosen in zip(read, hits, wanted)]
        found |= {"oracle": share(best), "of_oracle": share(hits, best), "names_oracle": share(best_names),
                  "names_of_oracle": share(names, best_names), "names_decided": share(clear)}
    return {name: value for name, value in found.items() if value}


# -- fine-tuning -----------------------------------------------------------------------------------------------------------------------

def task_model(kind, folder, labels, pretrained=True, seed=0):
    """Load the encoder of a folder under a new head.

    Args:
        kind: "TokenClassification", "SequenceClassification" or "QuestionAnswering".
        folder: Folder of `story-bert`.
        labels: Number of classes (not used for question answering).
        pretrained: False draws all weights anew: the model from scratch.
        seed: Seed of whatever is drawn.

    Returns:
        A model of transformers.
    """
    import transformers
    torch.manual_seed(seed)
    maker = getattr(transformers, f"AutoModelFor{kind}")
    options = {} if kind == "QuestionAnswering" else {"num_labels": labels}
    config = transformers.AutoConfig.from_pretrained(folder, classifier_pooling="mean", dtype="float32", **options)
    level = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()                 # "newly initialized" is what we want
    try:
        return maker.from_pretrained(folder, config=config, dtype=torch.float32) if pretrained else maker.from_config(config)
    finally:
        transformers.logging.set_verbosity(level)


def finetune(model, rows, pad, steps=200, lr=1e-3, size=16, seed=0):
    """Train a model with a new head on few examples: AdamW, warm-up, linear decay to nothing.

    Args:
        model: From `task_model`; trained in place.
        rows: List of dicts: `input_ids` (list) and the labels as the model's `forward` names them (a list as long, or a number).
        pad: Number of the padding token.
        steps, lr, size, seed: Length, highest learning rate, batch size, seed of the order.

    Returns:
        The model.
    """
    rng = random.Random(f"finetune {seed}")
    model.train()
    opt = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.01)
    for step in range(steps):
        for group in opt.param_groups:
            group["lr"] = lr * min((step + 1) / 20, (steps - step) / (steps - 20) if steps > 20 else 1.0)
        loss = model(**padded(rng.sample(rows, min(size, len(rows))), pad)).loss
        opt.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        opt.step()
    return model.eval()


def padded(rows, pad):
    """Turn rows into tensors of one length: ids with the padding token, lists of labels with -100, and the attention mask."""
    length = max(len(row["input_ids"]) for row in rows)
    result = {"attention_mask": torch.tensor([[1] * len(row["input_ids"]) + [0] * (length - len(row["input_ids"])) for row in rows])}
    for key, first in rows[0].items():
        fill_in = pad if key == "input_ids" else -100
        result[key] = torch.tensor([row[key] + [fill_in] * (length - len(row[key])) if isinstance(first, list) else row[key] for row in rows])
    return result


@torch.no_grad()
def logits(model, rows, pad, size=64):
    """The outputs of a model for rows, in their order: a list of tensors, cut to the length of the row where there is one for each token."""
    result = []
    for begin in range(0, len(rows), size):
        part = rows[begin:begin + size]
        inputs = padded([{"input_ids": row["input_ids"]} for row in part], pad)
        out = model(**inputs).logits
        result += [each[:len(row["input_ids"])] if out.ndim == 3 else each for each, row in zip(out, part)]
    return result


# -- names, places, things: token classification --------------------------------------------------------------------------------------------

WORLDS = {
    "story": lambda seed, lang, new: texts.from_story(storyworld.story(seed, lang, new_names=new)),
    "kinds": lambda seed, lang, new: texts.from_kind(kinds.text(seed, lang, new_names=new)),
}
"""Where labelled sentences come from: functions of (seed, language, whether people, places and organisations are the held-out ones)."""


def sentences(lang, count, first, world="story", names="seen"):
    """Single sentences with their entities, one from each text.

    Args:
        lang: "en" or "zh".
        count: How many.
        first: Seed of the first text; the next ones are farther from 0 (training from 10**6 up, tests negative).
        world: One of `WORLDS`.
        names: "seen", "held-out" or "made-up", as for `ner`.

    Returns:
        List of `Text`.
    """
    rng, found, seed = random.Random(f"sentences {first}"), [], first
    while len(found) < count:
        text = WORLDS[world](seed, lang, names == "held-out")
        if names == "made-up":
            text = texts.disguise(text, rng)
        seed += 1 if first > 0 else -1
        one = texts.excerpt(text, rng.randrange(len(text.sentences)))
        if one.entities:
            found.append(one)
    return found


def _tags(text, tokenizer, classes):
    """A row for `finetune`: ids and one class for each token: 0 outside, odd at the beginning of an entity, even inside it."""
    encoding = tokenizer(text.text, return_offsets_mapping=True, truncation=True)
    labels, begun = [], set()
    for start, end in encoding["offset_mapping"]:
        entity = next((entity for entity in text.entities if entity[0] <= start < entity[1]), None) if start < end else None
        labels.append(-100 if start == end else 0 if entity is None else 2 * classes.index(entity[2]) + 1 + (entity in begun))
        begun.add(entity)
    return {"input_ids": encoding["input_ids"], "labels": labels}, encoding["offset_mapping"]


def _spans(tags, offsets, classes):
    """Read tags back as a set of (start, end, type)."""
    found, current = [], None
    for tag, (start, end) in zip(tags, offsets):
        if tag == 0 or start == end:
            current = None
        elif tag % 2 or current is None or current[2] != classes[(tag - 1) // 2]:
            current = [start, end, classes[(tag - 1) // 2]]
            found.append(current)
        else:
            current[1] = end
    return {tuple(span) for span in found}


def ner(folder, lang, labels=50, seeds=(0, 1, 2), steps=200, names="held-out", world="story"):
    """F1 of entity spans (type and both ends right) after fine-tuning on few labelled sentences, pretrained and from scratch.

    Args:
        folder: Folder of `story-bert`.
        lang: "en" or "zh".
        labels: Labelled sentences to learn from; their people and places are the usual ones.
        seeds: One run each: other sentences, other new weights, another order.
        steps: Steps of every run.
        names: Who is in the test: "seen", "held-out" (no label ever spoke of them; pretraining met them in plain texts alone, the
            organisations nowhere) or "made-up" (people with names of letters drawn at random).
        world: "story" (person, place, container, food, thing) or "kinds" (person, place, thing, organisation, time).

    Returns:
        Dict with `pretrained` and `scratch`: a `Share` over the test sentences of all seeds.

    Raises:
        ValueError: If `names` or `world` is unknown.
    """
    from transformers import AutoTokenizer
    if names not in ("seen", "held-out", "made-up") or world not in WORLDS:
        raise ValueError(f"names must be seen, held-out or made-up, and world one of {', '.join(WORLDS)}; got {names!r} and {world!r}")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    test, train = sentences(lang, 300, -5000, world, names), sentences(lang, labels * len(seeds), 10 ** 6, world)
    classes = sorted({kind for text in train + test for _, _, kind in text.entities})
    result = {}
    for name in ("pretrained", "scratch"):
        right, total = [], []
        for number, seed in enumerate(seeds):
            rows = [_tags(text, tokenizer, classes)[0] for text in train[number * labels:(number + 1) * labels]]
            model = task_model("TokenClassification", folder, 2 * len(classes) + 1, name == "pretrained", seed)
            finetune(model, rows, tokenizer.pad_token_id, steps, seed=seed)
            tests = [_tags(text, tokenizer, classes) for text in test]
            for (_, offsets), text, out in zip(tests, test, logits(model, [row for row, _ in tests], tokenizer.pad_token_id)):
                said, true = _spans(out.argmax(-1).tolist(), offsets, classes), set(text.entities)
                right.append([2 * len(said & true)])
                total.append([len(said) + len(true)])
        result[name] = share(right, total)
    return result


# -- what a text says as a whole: sequence classification -------------------------------------------------------------------------------

def classify(folder, train, test, seeds=(0, 1, 2, 3, 4), labels=200, steps=200):
    """Accuracy after fine-tuning on few labelled texts, pretrained and from scratch, and the difference.

    Args:
        folder: Folder of `story-bert`.
        train: List of (text, label), at least `labels` for each seed; labels are any strings.
        test: The same, for the test.
        seeds: One run each.
        labels: Texts that each run learns from.
        steps: Steps of every run.

    Returns:
        Dict of `Share`: `pretrained`, `scratch`, `gain` (over the seeds), `frequent` (always the label that is most frequent in training).

    Raises:
        ValueError: If there are too few texts to learn from.
    """
    from transformers import AutoTokenizer
    if len(train) < labels * len(seeds):
        raise ValueError(f"{len(seeds)} runs with {labels} labels each need {labels * len(seeds)} texts; got {len(train)}")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    classes = sorted({label for _, label in train})

    def rows(part):
        return [{"input_ids": tokenizer(text, truncation=True)["input_ids"], "labels": classes.index(label)} for text, label in part]

    hits, tests = {"pretrained": [], "scratch": []}, rows(test)
    for name, runs in hits.items():
        for number, seed in enumerate(seeds):
            model = task_model("SequenceClassification", folder, len(classes), name == "pretrained", seed)
            finetune(model, rows(train[number * labels:(number + 1) * labels]), tokenizer.pad_token_id, steps, lr=5e-4, seed=seed)
            runs.append([int(out.argmax()) == row["labels"] for out, row in zip(logits(model, tests, tokenizer.pad_token_id), tests)])
    usual = collections.Counter(label for _, label in train).most_common(1)[0][0]
    gains = [[sum(a) / len(a) - sum(b) / len(b)] for a, b in zip(hits["pretrained"], hits["scratch"])]
    return {name: share(list(map(list, zip(*runs)))) for name, runs in hits.items()} | {
        "gain": share(gains), "frequent": share([[label == usual] for _, label in test])}


def review(seed, lang):
    """A review of the story world and whether it is "good" or "bad", or None where it is neither."""
    written = kinds.text(seed, lang, kind="review")
    return (written.text, written.sentiment) if written.sentiment else None


def hard_review(seed, lang):
    """The same, but None for every review with a word for a feeling: what happened has to be understood."""
    written = kinds.text(seed, lang, kind="review")
    return (written.text, written.sentiment) if written.sentiment and not written.explicit else None


def sentiment(folder, lang, reviews=review, seeds=(0, 1, 2, 3, 4), labels=200, tests=500):
    """Sentiment of reviews: pretrained, from scratch, and the gain.

    Args:
        folder: Folder of `story-bert`.
        lang: "en" or "zh".
        reviews: `review`, `hard_review` or another function of (seed, lang) that gives a text with its label, or None to pass over a seed.
        seeds, labels: As for `classify`.
        tests: Number of texts to test on (negative seeds).
    """
    def take(count, seed, step):
        found = []
        while len(found) < count:
            one = reviews(seed, lang)
            found += [one] if one else []
            seed += step
        return found

    return classify(folder, take(labels * len(seeds), 10 ** 6, 1), take(tests, -1, -1), seeds, labels)
