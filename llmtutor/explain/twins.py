"""A task whose truth is known, and two models of equal accuracy, one of which hides where it looks.

Each text is a row of words without meaning, in which one key word is planted; the answer after "?" depends on that word and
on nothing else. The honest twin is trained on the task alone. The deceptive twin is also punished whenever "?" looks at the
key word, in any head of any layer: it learns to send the key by way of other words, so its attention points away from what
it uses. Every method is asked which word matters most, and the planted word is the truth.

The idea is that of Pruthi et al., "Learning to Deceive with Attention-Based Explanations", ACL 2020.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np

from .explanation import Explanation
from .inputs import gradient_x_input, integrated_gradients, occlusion
from .maps import gradient_x_attention, raw_attention, rollout, value_weighted, value_zeroing

N_WORDS = 15  # words before the "?"
KEYS = [f"key{i}" for i in range(8)]
FILLERS = [f"w{i}" for i in range(24)]
ANSWERS = [f"answer{i}" for i in range(8)]  # answer i belongs to key i
VOCABULARY = [*KEYS, *FILLERS, *ANSWERS, "?", "<unk>"]
LAST_PLACE = N_WORDS - 3  # the key stands before this place, so that words remain by which it can be sent


@dataclass(frozen=True, eq=False)
class Twin:
    """A model trained on the planted task: `.model` and `.tokenizer`, as every method takes them.

    Attributes:
        name: "honest", "deceptive" or "untrained".
        accuracy: share of 512 new texts that it answers rightly.
        on_key: attention from "?" to the key word on these texts, mean over layers and heads.
    """

    model: object
    tokenizer: object
    name: str
    accuracy: float
    on_key: float

    def __repr__(self) -> str:
        return f"Twin({self.name!r}: accuracy {self.accuracy:.2f}, attention on the key {self.on_key:.2f})"


def planted_data(n: int, seed: int) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Make texts with a planted key word.

    Args:
        n: number of texts.
        seed: other seeds give other texts.

    Returns:
        texts, the place of the key word in each [n], and its number [n], which is also the number of the answer.

    >>> texts, places, keys = planted_data(3, seed=0)
    >>> all(text.split()[place] == KEYS[key] for text, place, key in zip(texts, places, keys))
    True
    """
    rng = np.random.default_rng([seed, 2020])
    words = rng.integers(0, len(FILLERS), (n, N_WORDS))
    places, keys = rng.integers(0, LAST_PLACE, n), rng.integers(0, len(KEYS), n)
    rows = [[FILLERS[word] for word in row] for row in words]
    for row, place, key in zip(rows, places, keys):
        row[place] = KEYS[key]
    return [" ".join([*row, "?"]) for row in rows], places, keys


@functools.cache
def _tokenizer():
    import tokenizers
    import transformers

    words = tokenizers.models.WordLevel({word: i for i, word in enumerate(VOCABULARY)}, unk_token="<unk>")
    tokenizer = tokenizers.Tokenizer(words)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def _fresh(seed: int):
    import torch
    import transformers

    config = transformers.GPT2Config(vocab_size=len(VOCABULARY), n_positions=N_WORDS + 1, n_embd=64, n_layer=2, n_head=4,
                                     resid_pdrop=0, embd_pdrop=0, attn_pdrop=0, bos_token_id=None, eos_token_id=None)
    config._attn_implementation = "eager"  # the punishment needs the maps
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return transformers.GPT2LMHeadModel(config)


def _ids(texts):
    import torch

    index = {word: i for i, word in enumerate(VOCABULARY)}
    return torch.tensor([[index[word] for word in text.split()] for text in texts])


def train_twins(seed: int = 0, steps: int = 1500, batch: int = 32, penalty: float = 0.3) -> dict[str, Twin]:
    """Train the honest and the deceptive twin from the same first weights; the untrained copy keeps these.

    Args:
        seed: for weights and data.
        steps: the most training steps of each twin; it stops when it answers rightly all the time (a few hundred steps, 2 to 6 s
            on one free core).
        batch: texts a step.
        penalty: weight of the deceptive twin's punishment, summed over heads (with 2.0 some seeds never learned the task).

    Returns:
        a dict with "honest", "deceptive" and "untrained".
    """
    twins = {"untrained": _fresh(seed)}
    for name, weight in (("honest", 0.0), ("deceptive", penalty)):
        twins[name] = _train(_fresh(seed), seed, steps, batch, weight)
    return {name: _twin(name, twins[name], seed) for name in ("honest", "deceptive", "untrained")}


def _train(model, seed: int, steps: int, batch: int, penalty: float):
    """Train until 25 steps in a row are answered rightly (and hardly look at the key, if that is punished)."""
    import torch

    texts, places, keys = planted_data(steps * batch, seed=3 * seed)
    ids, places, answers = _ids(texts), torch.tensor(places), torch.tensor(keys) + VOCABULARY.index(ANSWERS[0])
    optimizer, right = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.01), []
    model.train()
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * min(1, (step + 1) / 50)
        rows = slice(step * batch, (step + 1) * batch)
        result = model(ids[rows], output_attentions=True, use_cache=False)
        on_key = _on_key(result.attentions, places[rows])  # [layer, head, text]
        loss = torch.nn.functional.cross_entropy(result.logits[:, -1], answers[rows])
        loss = loss - penalty * (1 - on_key).clamp(min=1e-6).log().sum((0, 1)).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        hidden = penalty == 0 or float(on_key.detach().mean()) < 0.01
        right.append(hidden and bool((result.logits[:, -1].argmax(-1) == answers[rows]).all()))
        if len(right) >= 25 and all(right[-25:]):
            break
    return model.eval()


def _on_key(attentions, places):
    """Attention from the last token to the key, tensor [layer, head, text]."""
    import torch

    rows = torch.stack(attentions)[:, :, :, -1]  # [layer, text, head, key]
    chosen = places[None, :, None, None].expand(*rows.shape[:3], 1)
    return rows.gather(-1, chosen)[..., 0].transpose(1, 2)


def _twin(name: str, model, seed: int) -> Twin:
    import torch

    model.eval()
    texts, places, keys = planted_data(512, seed=3 * seed + 1)
    with torch.no_grad():
        result = model(_ids(texts), output_attentions=True, use_cache=False)
    right = result.logits[:, -1].argmax(-1) == torch.tensor(keys) + VOCABULARY.index(ANSWERS[0])
    return Twin(model, _tokenizer(), name, float(right.float().mean()), float(_on_key(result.attentions, torch.tensor(places)).mean()))


def above_null(lm, text: str, target=None) -> Explanation:
    """Rollout with the score of even attention taken off."""
    found = rollout(lm, text, target)
    return Explanation("rollout above null", found.details["above_null"], found.tokens, found.target)


SCORED = {
    "attention": raw_attention,
    "value-weighted attention": value_weighted,
    "gradient x attention": gradient_x_attention,
    "gradient x attention, all rows": functools.partial(gradient_x_attention, queries="all"),
    "rollout": rollout,
    "rollout above null": above_null,
    "gradient x input": gradient_x_input,
    "integrated gradients": integrated_gradients,
    "occlusion": occlusion,
    "value zeroing": value_zeroing,
    "value zeroing, output": functools.partial(value_zeroing, measure="output"),
}
"""The methods of the scoreboard."""


def score_methods(lm, n: int = 100, seed: int = 0, methods=None) -> dict[str, float]:
    """Ask every method which word matters most, and compare with the planted one.

    Args:
        lm: a `Twin`, or any model with the tokenizer of one.
        n: number of new texts.
        seed: for the texts (and for the random choice).
        methods: name -> method; without it all of `SCORED`.

    Returns:
        name -> share of texts in which the word with the largest score is the planted one ("?" itself is not counted), and
        "random" for a random choice.
    """
    texts, places, keys = planted_data(n, seed=3 * seed + 2)
    methods = SCORED if methods is None else methods
    hits = {name: 0 for name in methods}
    for text, place, key in zip(texts, places, keys):
        target = (N_WORDS, VOCABULARY.index(ANSWERS[key]))
        for name, method in methods.items():
            hits[name] += int(method(lm, text, target).scores[:N_WORDS].argmax() == place)
    chance = np.random.default_rng([seed, 7]).integers(0, N_WORDS, n) == places
    return {name: count / n for name, count in hits.items()} | {"random": float(chance.mean())}
