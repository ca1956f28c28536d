"""Stored results of chapter 01: the perplexity of count models, of the embedding MLP and, for chapter 03, of a recurrent
network and a small Transformer on the very same words.

The count models and the MLP are those that the notebook builds. Every perplexity is per word of the same held-out stories
(`short`, seeds -1 to -100), with the end mark counted as a word.
"""

import math
import re
from collections import Counter, defaultdict

import torch
import torch.nn.functional as F
from torch import nn

from llmtutor import storyworld
from llmtutor.storyworld import words as lexicon

USES = ["llmtutor/storyworld/stories.py", "llmtutor/storyworld/grammar.py", "llmtutor/storyworld/words.py"]
LANGS = ("en", "zh")
STEPS = {600: 1000, 1800: 1500}  # training steps of the MLP by the number of training stories a language
SEEDS, HELD_OUT, CONTEXT = (0, 1, 2), range(-1, -101, -1), 6
KINDS = {"name": lexicon.PEOPLE, "food": lexicon.FOODS, "colour": lexicon.COLOURS, "thing": lexicon.NOUNS,
         "container": lexicon.CONTAINERS, "pet": lexicon.PETS, "job": lexicon.DREAMS}


def words(text, lang):
    """The words and signs of a text; a line end is a sign too."""
    return re.findall(r"\w+|[^\w ]", text) if lang == "en" else storyworld.segment(text)


def corpus(seeds):
    """(lang, words) of the short stories with these seeds, first English, then Chinese."""
    return [(lang, words(storyworld.short(seed, lang).text, lang)) for lang in LANGS for seed in seeds]


def windows(stories, k):
    """Yields (lang, context of k words, next word); before a story and after it stands the mark of its language."""
    for lang, story in stories:
        padded = [f"<{lang}>"] * k + story + [f"<{lang}>"]
        for i in range(k, len(padded)):
            yield lang, tuple(padded[i - k : i]), padded[i]


def count(stories, n):
    """How often each word follows each context of 0 to n - 1 words."""
    counts = defaultdict(Counter)
    for _, context, word in windows(stories, n - 1):
        for j in range(n):
            counts[context[n - 1 - j :]][word] += 1
    return counts


def witten_bell(counts, totals, context, word):
    """Interpolates the share in this context with the shorter contexts (Witten and Bell 1991)."""
    shorter = witten_bell(counts, totals, context[1:], word) if context else 0
    if context not in totals:
        return shorter
    kinds = len(counts[context]) if context else 0
    return (counts[context][word] + kinds * shorter) / (totals[context] + kinds)


def perplexities(losses, langs):
    """{"en": perplexity, "zh": perplexity} from minus log probabilities and the language of each."""
    return {
        lang: round(math.exp(sum(x for x, y in zip(losses, langs, strict=True) if y == lang) / langs.count(lang)), 3)
        for lang in LANGS
    }


def ngrams(train, held):
    """Held-out perplexity of the Witten-Bell n-gram models with n from 1 to 6, in each language."""
    counts, found = count(train, 6), {}
    totals = {context: sum(after.values()) for context, after in counts.items()}
    for n in range(1, 7):
        rows = list(windows(held, n - 1))
        losses = [-math.log(witten_bell(counts, totals, context, word)) for _, context, word in rows]
        found[str(n)] = perplexities(losses, [lang for lang, *_ in rows])
    return found


def tensors(stories, number, k):
    """Contexts [n, k] and next words [n] as word numbers."""
    rows = list(windows(stories, k))
    return torch.tensor([[number[w] for w in c] for _, c, _ in rows]), torch.tensor([number[w] for *_, w in rows])


def mlp(train, held, seed, steps):
    """Held-out perplexity of the embedding MLP (after Bengio et al. 2003), and what its word vectors know, in each language."""
    vocab = ["<en>", "<zh>", *sorted({word for _, story in train for word in story})]
    number = {word: i for i, word in enumerate(vocab)}
    x, y = tensors(train, number, CONTEXT)
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Embedding(len(vocab), 24), nn.Flatten(), nn.Linear(24 * CONTEXT, 128), nn.GELU(),
                          nn.Linear(128, len(vocab)))
    nn.init.normal_(model[0].weight, std=0.02)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.005, fused=True)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.02, steps)
    for _ in range(steps):
        batch = torch.randint(len(x), (256,))
        loss = F.cross_entropy(model(x[batch]), y[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        x, y = tensors(held, number, CONTEXT)
        losses = F.cross_entropy(model(x), y, reduction="none")
    found = perplexities(losses.tolist(), [lang for lang, *_ in windows(held, CONTEXT)])
    return found | {"vectors": knowledge(model[0].weight.detach(), number)}


class Reader(nn.Module):
    """A next-word model that reads a story from its beginning: an LSTM, or two causal Transformer blocks; both about 180,000 parameters."""

    def __init__(self, d_vocab, kind, d_model=64):
        super().__init__()
        self.kind, self.word, self.place = kind, nn.Embedding(d_vocab, d_model), nn.Embedding(256, d_model)
        block = nn.TransformerEncoderLayer(d_model, 4, 4 * d_model, dropout=0.0, activation="gelu", batch_first=True, norm_first=True)
        self.body = (nn.LSTM(d_model, 2 * d_model, batch_first=True) if kind == "recurrent" else
                     nn.TransformerEncoder(block, 2, nn.LayerNorm(d_model), enable_nested_tensor=False))
        self.unembed = nn.Linear(2 * d_model if kind == "recurrent" else d_model, d_vocab)
        nn.init.normal_(self.word.weight, std=0.02), nn.init.normal_(self.place.weight, std=0.02)

    def forward(self, ids):
        """Word numbers [stories, n] -> logits [stories, n, d_vocab]."""
        x, n = self.word(ids), ids.shape[1]
        if self.kind == "recurrent":
            return self.unembed(self.body(x)[0])
        return self.unembed(self.body(x + self.place.weight[:n], mask=nn.Transformer.generate_square_subsequent_mask(n), is_causal=True))


def rows(stories, number):
    """Stories as word numbers [stories, longest + 2] between their marks, -100 behind the end."""
    each = [torch.tensor([number[word] for word in [f"<{lang}>", *story, f"<{lang}>"]]) for lang, story in stories]
    return nn.utils.rnn.pad_sequence(each, batch_first=True, padding_value=-100)


def surprises(model, x):
    """Minus log probability of every word behind the first mark, [stories, n - 1]; 0 where there is none."""
    return F.cross_entropy(model(x[:, :-1].clamp(min=0)).mT, x[:, 1:], ignore_index=-100, reduction="none")


def reader(train, held, seed, kind, steps=800):
    """Held-out perplexity in each language of a `Reader` after `steps` batches of 16 stories.

    Rate and number of steps were chosen on the stories with the seeds -101 to -150.
    """
    vocab = ["<en>", "<zh>", *sorted({word for _, story in train for word in story})]
    number = {word: i for i, word in enumerate(vocab)}
    texts = rows(train, number)
    torch.manual_seed(seed)
    model = Reader(len(vocab), kind)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.004)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.02, steps)
    for _ in range(steps):
        batch = texts[torch.randint(len(texts), (16,))]
        batch = batch[:, : int((batch != -100).any(0).sum())]
        loss = surprises(model, batch).sum() / (batch[:, 1:] != -100).sum()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        losses = surprises(model, x := rows(held, number))
    real = x[:, 1:] != -100
    return perplexities(losses[real].tolist(), [lang for (lang, _), own in zip(held, real, strict=True) for _ in range(own.sum())])


def knowledge(vectors, number):
    """Shares of words whose nearest neighbour by cosine is of the same kind, of names: of the same gender, and is the translation."""
    found, both = {}, []
    for lang in LANGS:
        known = [(number[getattr(entry, lang)], kind) for kind, entries in KINDS.items() for entry in entries]
        kinds = [kind for _, kind in known]
        both.append(F.normalize(vectors[[i for i, _ in known]], dim=1))
        near = _nearest(both[-1])
        found[f"kind {lang}"] = round(sum(kinds[i] == kinds[j] for i, j in enumerate(near)) / len(near), 3)
        people = _nearest(F.normalize(vectors[[number[getattr(person, lang)] for person in lexicon.PEOPLE]], dim=1))
        same = sum(lexicon.PEOPLE[i].female == lexicon.PEOPLE[j].female for i, j in enumerate(people))
        found[f"gender {lang}"] = round(same / len(people), 3)
    right = (both[0] @ both[1].T).argmax(1) == torch.arange(len(both[0]))
    return found | {"translation": round(right.double().mean().item(), 3)}


def _nearest(unit):
    return (unit @ unit.T - 2 * torch.eye(len(unit))).argmax(1).tolist()


def compute():
    """Perplexities by number of training stories in each language: n-gram models of order 1 to 6, the MLP and the readers by seed."""
    held, found = corpus(HELD_OUT), {"ngram": {}, "mlp": {}, "recurrent": {}, "transformer": {}}
    for size, steps in STEPS.items():
        train = corpus(range(size))
        found["ngram"][str(size)] = ngrams(train, held)
        found["mlp"][str(size)] = {str(seed): mlp(train, held, seed, steps) for seed in SEEDS}
    for kind in ("recurrent", "transformer"):
        found[kind]["600"] = {str(seed): reader(corpus(range(600)), held, seed, kind) for seed in SEEDS}
    return found
