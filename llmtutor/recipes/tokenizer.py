"""The tokenizer of the bundled models: byte-level pieces whose merges never cut through two characters."""
import collections
import functools
import re

from .. import storyworld
from ..storyworld import kinds
from ..tokens import LETTERS

END = "<|endoftext|>"
CONTEXT = 256


def learn_merges(counts, size):
    """Learn byte-pair merges from words, never across the bytes of two unfinished characters.

    Plain byte-pair encoding (Sennrich et al. 2016) may join the last byte of one Chinese character to the first of the next;
    then no token is a character. Here two pieces are joined only inside one character, or when both are whole characters.

    Args:
        counts: Dict from word to its count.
        size: Largest number of merges.

    Returns:
        List of pairs of byte strings, most frequent first.
    """
    pieces = {word: [bytes([b]) for b in word.encode()] for word in counts}
    pairs, places, merges = collections.Counter(), collections.defaultdict(set), []
    for word in counts:
        _count(word, pieces[word], counts[word], pairs, places)
    while pairs and len(merges) < size:
        best = max(pairs, key=lambda pair: (pairs[pair], pair))
        merges.append(best)
        for word in list(places[best]):
            _count(word, pieces[word], -counts[word], pairs, places)
            pieces[word] = _join(pieces[word], best)
            _count(word, pieces[word], counts[word], pairs, places)
    return merges


def _count(word, parts, times, pairs, places):
    """Add (or, with negative `times`, take away) the pairs of one word that may be joined."""
    for pair in zip(parts, parts[1:]):
        if _may_join(*pair):
            pairs[pair] += times
            if times > 0:
                places[pair].add(word)
            else:
                places[pair].discard(word)
                if not pairs[pair]:
                    del pairs[pair]


@functools.cache
def _may_join(left, right):
    """True if both byte strings are whole characters, or `left` begins one character that `right` continues."""
    whole = [_whole(part) for part in (left, right)]
    return all(whole) or not whole[0] and right[0] & 0xC0 == 0x80 and len(left + right) <= _length(left[0])


def _whole(part):
    try:
        part.decode()
    except UnicodeDecodeError:
        return False
    return True


def _length(first):
    return 1 if first < 0x80 else 2 if first < 0xE0 else 3 if first < 0xF0 else 4


def _join(parts, pair):
    result = []
    for part in parts:
        if result and (result[-1], part) == pair:
            result[-1] += part
        else:
            result.append(part)
    return result


def story_tokenizer(stories=6000, merges=2048):
    """Train the byte-level tokenizer of the bundled models and return it as transformers' `GPT2Tokenizer`.

    English words count with the space before them, as in GPT-2. Chinese has no spaces, so its words are cut by the story
    world's lexicon before they are counted: no token spans two words.
    """
    from transformers import GPT2Tokenizer
    counts = collections.Counter()
    split = re.compile(r"'s| ?[A-Za-z]+|\s+|[^A-Za-z\s]+")
    for seed in range(stories):
        for tell in (storyworld.story, storyworld.facts, storyworld.plain):
            counts.update(split.findall(tell(seed, "en").text))
            counts.update(storyworld.segment(tell(seed, "zh").text))
        counts.update(split.findall(storyworld.text(seed, "en").text))
        counts.update(kinds.segment(storyworld.text(seed, "zh").text))
    letters = {byte: letter for letter, byte in LETTERS.items()}
    learned = [tuple("".join(letters[b] for b in part) for part in pair) for pair in learn_merges(counts, merges)]
    vocabulary = [letters[b] for b in range(256)] + ["".join(pair) for pair in learned]
    vocabulary = {token: number for number, token in enumerate([END, *dict.fromkeys(vocabulary)])}
    return GPT2Tokenizer(vocab=vocabulary, merges=learned, unk_token=END, bos_token=END, eos_token=END, pad_token=END,
                         model_max_length=CONTEXT)
