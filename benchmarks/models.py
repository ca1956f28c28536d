"""The report on the bundled models: every ability beside a reader without a model and an untrained copy, with 95 % intervals.

`python course.py bench models` prints it and writes `docs/models-report.md`. It takes some minutes on two cores.
"""
import collections
import math
import sys
import time
from pathlib import Path

import torch

import llmtutor as lt
from llmtutor import storyworld
from llmtutor.recipes import capabilities, gpt, heads, translator
from llmtutor.storyworld import words

REPORT = Path(__file__).resolve().parent.parent / "docs" / "models-report.md"
COUNT = 300


def interval(hits):
    """Wilson's 95 % interval of a share (Wilson 1927), as (share, low, high)."""
    n, p, z = len(hits), sum(hits) / len(hits), 1.96
    centre, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return p, (centre - half) / (1 + z * z / n), (centre + half) / (1 + z * z / n)


def shown(hits):
    return "{:.2f} [{:.2f}, {:.2f}]".format(*interval(hits))


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
        best = gpt.bound(lm.tokenizer, lang, range(-3300, -3000))
        yield f"perplexity per token (the generator's choices give {best:.2f}) | {lang} | fresh stories | {ours:.2f} | {counted.perplexity(encode(range(-3300, -3000))):.2f} (trigrams) | {blank:.0f}"


def abilities(lm, untrained):
    """Rows on the tests of `capabilities`."""
    for test in capabilities.TESTS:
        for lang in words.LANGUAGES:
            for split, options in gpt.SPLITS.items():
                items = capabilities.items(test, lang, COUNT, seed=-2, **options)
                hits, guesses = capabilities.score(lm.model, lm.tokenizer, items)
                blank, _ = capabilities.score(untrained, lm.tokenizer, items)
                yield f"{test} | {lang} | {split.replace('_', ' ')} | {shown(hits)} | {sum(guesses) / len(guesses):.2f} (last mentioned) | {sum(blank) / len(blank):.2f}"


def inductions(lm, untrained):
    count, control = capabilities.induction(lm.model, lm.tokenizer)
    blank, _ = capabilities.induction(untrained, lm.tokenizer)
    yield f"induction | both | random words, said twice | {count:.2f} | {control:.2f} (not repeated) | {blank:.2f}"


def story_gpt():
    lm = lt.load("story-gpt")
    torch.manual_seed(0)
    untrained = type(lm.model)(lm.model.config).eval()
    for part in (perplexities, abilities, inductions):
        yield from part(lm, untrained)


def named_heads():
    lm = lt.load("story-gpt")
    return heads.named_heads(lm.model, lm.tokenizer)


def story_translator(count=150):
    """Rows on the translator: exact match, and the alignment of the head that the card names."""
    import json
    lm = lt.load("story-translator")
    card = json.loads((Path(lt.__file__).parent / "bundled" / "story-translator" / "card.json").read_text(encoding="utf-8"))
    for target in words.LANGUAGES:
        for name, length in (("one sentence", 1), ("three sentences", 3)):
            pairs = translator.held_out(range(-60001, -60001 - count, -1), length)
            hits = translator.exact(lm.model, lm.tokenizer, pairs, target)
            yield f"translation to {target}, exact | {name} | {translator.share(hits):.2f} | "
            if length == 3:
                head = tuple(card["measured"][target]["alignment_content"]["head"])
                for content, what in ((True, "content words"), (False, "all words")):
                    found = translator.aligned(lm.model, lm.tokenizer, pairs, target, content=content)[head]
                    diagonal = card["measured"][target]["alignment_content" if content else "alignment"]["diagonal"]
                    yield f"alignment by L{head[0]} H{head[1]}, to {target}, {what} | {name} | {translator.share(found):.2f} | {diagonal:.2f} (relative place)"


TABLES = {
    "story-gpt": ("ability | language | texts | story-gpt | without a model | untrained copy", story_gpt),
    "Named heads of story-gpt": (
        "language | kind | head | score | control | loss when removed | loss when another is removed | items",
        lambda: ("{lang} | {kind} | L{layer} H{head} | {score:.2f} | {control:.2f} ({control_kind}) | {effect:+.2f} | {random_effect:+.2f} | {n}".format(**row)
                 for row in named_heads())),
    "story-translator": ("ability | texts | story-translator | without a model", story_translator),
}


def main():
    began, lines = time.monotonic(), ["# Report on the bundled models", "", "Made by `python course.py bench models`. Intervals: 95 % (Wilson)."]
    for title, (columns, rows) in TABLES.items():
        lines += ["", f"## {title}", "", f"| {columns} |", "|---" * (columns.count("|") + 1) + "|"]
        print("\n".join(lines[-4:]))
        for row in rows():
            lines.append(f"| {row} |")
            print(lines[-1], flush=True)
    REPORT.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"{time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    sys.exit(main())
