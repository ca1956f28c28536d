"""The report on the bundled models: every ability beside a reader without a model and an untrained copy, with 95 % intervals.

    python benchmarks/models.py [--only story-gpt "Named heads of story-gpt" story-bert story-translator] [--runs 1] [--out docs/models-report.md]

`python course.py bench models` prints it and writes `docs/models-report.md`: five to six minutes on one core, half of it for story-bert. A part
that is not measured is taken from the last run. Where a number is wanted, the row says whether the model reaches it.
"""
import argparse
import collections
import json
import math
import re
import sys
import time
from pathlib import Path

import torch

import llmtutor as lt
from llmtutor import storyworld
from llmtutor.recipes import bert, capabilities, gpt, heads, tasks, texts, translator
from llmtutor.storyworld import pairs as paired
from llmtutor.storyworld import words

REPORT = Path(__file__).resolve().parent.parent / "docs" / "models-report.md"
BUNDLED = Path(lt.__file__).resolve().parent / "bundled"
COUNT = 300
LABELS = 200
WANTED = {
    ("attribute", "seen"): 0.95, ("attribute", "new names"): 0.85, ("holder", "seen"): 0.95, ("inside", "seen"): 0.90, ("pronoun", "seen"): 0.90,
    "induction": 0.60, "hidden words, share of the oracle": 0.95, "a name after its first mention": 0.90, "entities, F1": 0.95,
    "sentiment, gain by pretraining": 0.10, "translation, exact": 0.85, "alignment of content words": 0.90, ("pronoun", "head"): 0.90,
}
"""What was aimed at before training, by ability, or by ability and texts; what is not here had no number."""


def interval(hits):
    """Wilson's 95 % interval of a share (Wilson 1927), as (share, low, high)."""
    n, p, z = len(hits), sum(hits) / len(hits), 1.96
    centre, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return p, (centre - half) / (1 + z * z / n), (centre + half) / (1 + z * z / n)


def difference(one, other):
    """The difference of two shares with its 95 % interval, from theirs (Newcombe 1998): each is (share, low, high)."""
    (p, low, high), (q, under, over) = one, other
    return p - q, p - q - math.hypot(p - low, over - q), p - q + math.hypot(high - p, q - under)


def verdict(found, wanted):
    """Whether (share, low, high) reaches the wanted number; "-" where there is none."""
    if wanted is None:
        return "-"
    share, _, high = found
    return f"{wanted:.2f}: " + ("met" if share >= wanted else "not met (inside the interval)" if high >= wanted else "not met")


def row(ability, lang, what, found, plain, blank, note=""):
    """A row of the report: the model's (share, low, high), the reader without a model (a number and its name), the untrained copy, the verdict."""
    (share, low, high), (number, name) = found, plain
    return (f"{ability}{note} | {lang} | {what} | {share:.2f} [{low:.2f}, {high:.2f}] | {number:.2f} ({name}) | {blank:.2f} | "
            + verdict(found, WANTED.get((ability, what), WANTED.get(ability))))


class Trigrams:
    """Counts of one, two and three tokens, mixed by how often the context was seen: the classical baseline (Jelinek and Mercer 1980).

    Args:
        texts: Lists of token ids to count.
        size: Size of the vocabulary.
    """
    FLOOR = 0.01                            # what every token gets, seen or not

    def __init__(self, texts, size):
        self.size, self.counts = size, [collections.Counter() for _ in range(3)]
        self.contexts = [collections.Counter() for _ in range(3)]
        for ids in texts:
            for i in range(1, len(ids)):
                for n in range(3):
                    if i >= n:
                        self.counts[n][tuple(ids[i - n:i + 1])] += 1
                        self.contexts[n][tuple(ids[i - n:i])] += 1

    def probability(self, ids, i):
        """Probability of token `i` after the ones before it; what a context never showed falls back to the shorter ones."""
        total, left = self.FLOOR / self.size, 1.0 - self.FLOOR
        for n in (2, 1, 0):
            context = tuple(ids[max(0, i - n):i])
            seen = self.contexts[n][context] if i >= n else 0
            weight = left if n == 0 else 0.9 * left * seen / (seen + 1)
            if seen:
                total += weight * self.counts[n][tuple(ids[i - n:i + 1])] / seen
                left -= weight
        return total

    def perplexity(self, texts):
        nats = tokens = 0
        for ids in texts:
            nats -= sum(math.log(self.probability(ids, i)) for i in range(1, len(ids)))
            tokens += len(ids) - 1
        return math.exp(nats / tokens)


def perplexities(lm, untrained):
    """Rows on perplexity per token: model, trigrams of 4,000 texts, and the untrained copy."""
    for lang in words.LANGUAGES:
        def encode(seeds):
            return [[lm.tokenizer.bos_token_id] + lm.tokenizer(storyworld.story(seed, lang).text)["input_ids"] for seed in seeds]
        counted = Trigrams(encode(range(2 ** 40, 2 ** 40 + 4000)), len(lm.tokenizer))
        stories = [storyworld.story(-seed, lang) for seed in range(3001, 3301)]
        ours, blank = (gpt.measure(model, lm.tokenizer, stories)["ppl"] for model in (lm.model, untrained))
        best, plain = gpt.bound(lm.tokenizer, lang, range(-3300, -3000)), counted.perplexity(encode(range(-3300, -3000)))
        yield (f"perplexity per token (the generator's choices give {best:.2f}) | {lang} | fresh stories | {ours:.2f} | {plain:.2f} (trigrams) | "
               f"{blank:.0f} | -")


def abilities(lm, untrained):
    """Rows on the tests of `capabilities`."""
    for test in capabilities.TESTS:
        for lang in words.LANGUAGES:
            for split, options in gpt.SPLITS.items():
                items = capabilities.items(test, lang, COUNT, seed=-2, **options)
                hits, guesses = capabilities.score(lm.model, lm.tokenizer, items)
                blank, _ = capabilities.score(untrained, lm.tokenizer, items)
                yield row(test, lang, split.replace("_", " "), interval(hits), (sum(guesses) / len(guesses), "last mentioned"), sum(blank) / len(blank))


def inductions(lm, untrained):
    count, control = capabilities.induction(lm.model, lm.tokenizer)
    blank, _ = capabilities.induction(untrained, lm.tokenizer)
    yield (f"induction | both | random words, said twice | {count:.2f} | {control:.2f} (not repeated) | {blank:.2f} | "
           + verdict((count, 0, count), WANTED["induction"]))


def story_gpt(runs=1):
    lm = lt.load("story-gpt")
    torch.manual_seed(0)
    untrained = type(lm.model)(lm.model.config).eval()
    for part in (perplexities, abilities, inductions):
        yield from part(lm, untrained)


def named_heads(runs=1):
    lm = lt.load("story-gpt")
    done = set()                                                            # the best of a kind comes first; of it a number was wanted
    for found in heads.named_heads(lm.model, lm.tokenizer):
        kind, score = (found["kind"], found["lang"]), found["score"]
        found["wanted"] = verdict((score, 0, score), None if kind in done else WANTED.get((found["kind"], "head")))
        done.add(kind)
        yield ("{lang} | {kind} | L{layer} H{head} | {score:.2f} | {control:.2f} ({control_kind}) | {effect:+.2f} | {random_effect:+.2f} "
               "| {n} | {wanted}").format(**found)


# -- story-bert --------------------------------------------------------------------------------------------------------------------

def hidden_words(lm, untrained, lang, stories=150, counted=1500):
    """Rows on filling in, beside counts of the two neighbouring words."""
    counts = tasks.Counts([tell(seed, lang) for tell, _, _ in texts.SOURCES.values() for seed in range(counted)])
    fresh = [storyworld.story(-seed, lang) for seed in range(7001, 7001 + stories)]
    found = tasks.measure(lm.model, lm.tokenizer, fresh, counts)
    blank = tasks.measure(untrained, lm.tokenizer, fresh[:50], counts, check=False)
    oracle, plain, what = found["oracle"].mean, "counts of both neighbours", "fresh stories"
    yield row("hidden words", lang, what, found["words"], (found["neighbours"].mean, plain), blank["words"].mean, f" (oracle {oracle:.2f})")
    yield row("hidden words, share of the oracle", lang, what, found["of_oracle"], (found["neighbours"].mean / oracle, plain),
              blank["words"].mean / oracle)
    yield row("a name after its first mention", lang, what, found["names"], (found["names_neighbours"].mean, plain), blank["names"].mean,
              f" (oracle {found['names_oracle'].mean:.2f})")


def looked_up(lang, labels=LABELS):
    """F1 of a reader who knows the labelled sentences by heart and tags what stood in them, the longest first: a `tasks.Share`."""
    known = {text.text[start:end]: kind for text in tasks.sentences(lang, labels, 10 ** 6) for start, end, kind in text.entities}
    border = r"\b" if lang == "en" else ""
    pattern = re.compile(border + "(?:" + "|".join(map(re.escape, sorted(known, key=len, reverse=True))) + ")" + border)
    right, total = [], []
    for text in tasks.sentences(lang, 300, -5000, names="held-out"):
        said, true = {(*match.span(), known[match[0]]) for match in pattern.finditer(text.text)}, set(text.entities)
        right.append([2 * len(said & true)])
        total.append([len(said) + len(true)])
    return tasks.share(right, total)


def fine_tuned(folder, lang, runs=1, labels=LABELS):
    """Rows on two tasks learned from few labels; the untrained copy learns from the same labels in as many steps."""
    seeds, what = range(runs), f"{labels} labels, {runs} run{'s' * (runs > 1)}"
    found, plain = tasks.ner(folder, lang, labels, seeds), (looked_up(lang, labels).mean, "looked up in the labels")
    yield row("entities, F1", lang, f"held-out names, {what}", found["pretrained"], plain, found["scratch"].mean)
    found = tasks.sentiment(folder, lang, seeds=seeds, labels=labels)
    usual = (found["frequent"].mean, "most frequent label")
    yield row("sentiment of a review", lang, what, found["pretrained"], usual, found["scratch"].mean)
    yield row("sentiment, gain by pretraining", lang, what, difference(found["pretrained"], found["scratch"]), (0.0, "no gain"), 0.0)


def story_bert(runs=1):
    lm = lt.load("story-bert")
    torch.manual_seed(0)
    untrained = bert.new_bert(lm.tokenizer).eval()
    for lang in words.LANGUAGES:
        yield from hidden_words(lm, untrained, lang)
        yield from fine_tuned(BUNDLED / "story-bert", lang, runs)


# -- story-translator --------------------------------------------------------------------------------------------------------------

class Memory:
    """A translator without a model: it knows the sentences of some stories with their translations, and nothing else.

    Args:
        stories: How many stories it has read.
        target: The language to write.
    """

    def __init__(self, stories, target):
        self.known, self.target = {}, target
        self.side = 1 - words.LANGUAGES.index(target)                   # of the source
        for seed in range(2 ** 40, 2 ** 40 + stories):
            for one in paired.pairs(seed, (1,)):
                self.known[one.text(words.LANGUAGES[self.side])] = one.text(target)

    def translate(self, pair):
        """The translation, with nothing in the place of a sentence that it has never read; lines break where they did."""
        source, written, before = pair.text(words.LANGUAGES[self.side]), "", 0
        for start, end in (spans[self.side] for spans in pair.sentences):
            gap = source[before:start] or (" " if self.target == "en" and before else "")
            written, before = written + (gap if self.target == "en" else gap.strip(" ")) + self.known.get(source[start:end], ""), end
        return written


def translations(lm, untrained, target, head, count=150, stories=1000):
    """Rows on one direction: exact match, and the alignment of one cross-attention head, which was chosen on other stories."""
    memory = Memory(stories, target)
    for what, length in (("one sentence", 1), ("three sentences", 3)):
        pairs = translator.held_out(range(-60001, -60001 - count, -1), length)
        ours, blank = ([hit for hit, _ in translator.exact(model, lm.tokenizer, pairs, target)] for model in (lm.model, untrained))
        plain = sum(memory.translate(pair) in paired.references(pair, target) for pair in pairs) / len(pairs)
        yield row("translation, exact", f"to {target}", what, interval(ours), (plain, "memory of translated sentences"), sum(blank) / len(blank))
    for ability, content in (("alignment of content words", True), ("alignment of all words", False)):
        found, blank = (translator.aligned(model, lm.tokenizer, pairs, target, content) for model in (lm.model, untrained))
        plain = translator.share(blank.pop("diagonal"))
        yield row(ability, f"to {target}", what, (translator.share(found[head]), *translator.interval(found[head])), (plain, "relative place"),
                  max(map(translator.share, blank.values())), f" by L{head[0]} H{head[1]}")


def untrained_translator(tokenizer):
    """An untrained copy; it stops after 64 tokens, more than any reference has, since it would hardly ever stop by itself."""
    torch.manual_seed(1)
    model = translator.new_translator(tokenizer).eval()
    model.generation_config.max_length = 64
    return model


def story_translator(runs=1):
    lm = lt.load("story-translator")
    card = json.loads((BUNDLED / "story-translator" / "card.json").read_text(encoding="utf-8"))
    untrained = untrained_translator(lm.tokenizer)
    for target in words.LANGUAGES:
        yield from translations(lm, untrained, target, tuple(card["measured"][target]["alignment_content"]["head"]))


# -- the report --------------------------------------------------------------------------------------------------------------------

COLUMNS = "ability | language | texts | {} | without a model | untrained copy | wanted"
TABLES = {
    "story-gpt": (COLUMNS.format("story-gpt"), story_gpt),
    "Named heads of story-gpt": ("language | kind | head | score | control | loss when removed | loss when another is removed | items | wanted", named_heads),
    "story-bert": (COLUMNS.format("story-bert"), story_bert),
    "story-translator": (COLUMNS.format("story-translator"), story_translator),
}
ABOUT = """# Report on the bundled models

Made by `python course.py bench models`; do not edit by hand. Intervals: 95 % (Wilson; where several words of a text count, drawn over texts).
The untrained copy of story-bert learns a task from the same labels in as many steps; of an untrained translator the best head is shown."""


def last_report(file):
    """The parts of a report that was written before: a dict from title to text."""
    parts = file.read_text(encoding="utf-8").split("\n## ")[1:] if file.exists() else []
    return {part.split("\n")[0]: part.split("\n", 1)[1].strip() for part in parts}


def main(given=None):
    """Measure the parts that are asked for, print them and write the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=TABLES, default=list(TABLES), metavar="PART", help=", ".join(TABLES))
    parser.add_argument("--runs", type=int, default=1, help="fine-tuning runs of story-bert; each takes about two minutes")
    parser.add_argument("--out", type=Path, default=REPORT)
    options = parser.parse_args(given)
    began, parts = time.monotonic(), last_report(options.out)
    for title in options.only:
        columns, measured = TABLES[title]
        lines = [f"| {columns} |", "|---" * (columns.count("|") + 1) + "|"]
        print(f"\n## {title}\n\n" + "\n".join(lines))
        for line in measured(runs=options.runs):
            lines.append(f"| {line} |")
            print(lines[-1], flush=True)
        parts[title] = "\n".join(lines)
        options.out.write_text("\n\n".join([ABOUT, *(f"## {name}\n\n{parts[name]}" for name in TABLES if name in parts)]) + "\n", encoding="utf-8")
    print(f"{time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    sys.exit(main())
