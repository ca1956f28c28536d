"""Naming heads: which head looks at the token before, at a repeated token, at what followed it, at the name of a pronoun?

A score alone proves nothing. So each kind comes with a control that a head of another kind would also pass, the head is
chosen on one half of the items and scored on the other, and the cost of removing it stands beside the cost of removing
another head of its layer.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from llmtutor import tokens as _tokens

from .hooks import ablate, parts
from .reading import eager, one_stack, quiet, read, require_finite

KINDS = {  # kind -> its control
    "previous": "another earlier token", "first": "another token", "duplicate": "no repeat", "induction": "no repeat",
    "pronoun": "nearest name", "binding": "nearest name",
}


@dataclass(frozen=True)
class Item:
    """A text in which a head should look from one place to another. All spans are (start, end) in characters.

    Attributes:
        text: the text.
        at: for "pronoun" the pronoun (its last token looks); for "binding" the answer (the token before it looks).
        to: spans of what should be looked at, such as the name that the pronoun stands for.
        others: spans of what might be looked at instead, such as the other names.
        loss: the span whose tokens the model must predict when a head is removed; where left out, all text after the pronoun,
            or the answer.
    """

    text: str
    at: tuple[int, int]
    to: tuple
    others: tuple
    loss: tuple[int, int] | None = None


@dataclass(frozen=True)
class HeadRow:
    """One head of one kind.

    Attributes:
        kind: see `find_heads`.
        layer, head: its true numbers.
        score: attention on the right token, from 0 to 1; for "pronoun" and "binding" the share of (right, other) pairs in
            which the right one gets more (0.5 is chance).
        control: the same for the control that `control_kind` names.
        effect: how much the model's loss grows when the head is removed, in nats a token; NaN for models that predict no next
            token.
        random_effect: the same for other heads of that layer (mean over up to three); NaN where there is none.
        n: items that the numbers come from; none of them was used to choose the head.
        control_kind: what the control is.
    """

    kind: str
    layer: int
    head: int
    score: float
    control: float
    effect: float
    random_effect: float
    n: int
    control_kind: str

    def __repr__(self) -> str:
        return (f"{self.kind} L{self.layer} H{self.head}: {self.score:.2f} ({self.control_kind} {self.control:.2f}), removed "
                f"{self.effect:+.2f}, another head removed {self.random_effect:+.2f}, n={self.n}")


@dataclass(frozen=True, eq=False)
class _Probe:
    """One sequence with the places to look at: pairs and control pairs are lists of (query, [keys])."""

    ids: list[int]
    type_ids: list[int] | None
    pairs: list
    control_pairs: list
    control_ids: list[int] | None = None  # another sequence for the control; None: the same
    losses: list[int] = field(default_factory=list)  # positions whose next token is predicted
    versus: bool = False  # pairs[0] against each of the control pairs, as for pronouns


def find_heads(lm, kind: str, items=None, *, top: int = 3, n: int = 24, length: int = 48, seed: int = 0,
               vocabulary=None) -> list[HeadRow]:
    """Find the heads that do most of one kind of looking.

    Kinds, and what each one is held against:
        previous    the token before; control: a random earlier token
        first       the first token ("sink"); control: a random other token
        duplicate   an earlier token that is the same; control: the same places in a text without repeat
        induction   the token that followed the same token earlier; control: the same places in a text without repeat
        pronoun     from a pronoun to its name, against other names; control: always the nearer name
        binding     from before an answer to the value in the facts, against other values; control: always the nearer value

    The first four read random tokens: a stretch, something else, and the stretch again, each of random length. Were the
    distance fixed, a head that only counts positions would pass as an induction head.

    Args:
        lm: what `load` returns.
        kind: one of the above.
        items: list of `Item` for "pronoun" and "binding"; for the others None.
        top: number of heads to return, best first.
        n, length: for random tokens, the number of sequences and their length in tokens.
        seed: for everything random.
        vocabulary: ids to draw random tokens from; without it all that are not special.

    Returns:
        a list of `HeadRow`.

    Raises:
        ValueError: an unknown kind; items missing, too few, or with a span that holds no token.
    """
    probes = _probes(lm, kind, items, n, length, seed, vocabulary)
    chosen_on, scored_on = probes[::2], probes[1::2]
    score, control, layers = _scores(lm, chosen_on)
    order = np.argsort(-(score - control), axis=None, kind="stable")[:top]
    score, control, _ = _scores(lm, scored_on)
    rng, clean, rows = np.random.default_rng(seed), _loss(lm, scored_on), []
    for row, head in zip(*np.unravel_index(order, score.shape)):
        others = [other for other in range(score.shape[1]) if other != head]
        others = rng.permutation(others)[:3] if others else []
        effect, *rest = [_loss_without(lm, scored_on, layers[row], int(one)) - clean for one in (head, *others)]
        rows.append(HeadRow(kind, layers[row], int(head), float(score[row, head]), float(control[row, head]), effect,
                            float(np.mean(rest)) if rest else float("nan"), len(scored_on), KINDS[kind]))
    return rows


def head_scores(lm, kind: str, items=None, *, n: int = 24, length: int = 48, seed: int = 0, vocabulary=None):
    """Return score and control of every head over all items, two arrays [layer, head]; arguments as for `find_heads`."""
    return _scores(lm, _probes(lm, kind, items, n, length, seed, vocabulary))[:2]


def table(rows) -> str:
    """Write rows as a Markdown table."""
    lines = ["| kind | head | score | control | removed | another removed | n |", "|---|---|---|---|---|---|---|"]
    lines += [f"| {row.kind} | L{row.layer} H{row.head} | {row.score:.2f} | {row.control:.2f} ({row.control_kind}) | "
              f"{row.effect:+.2f} | {row.random_effect:+.2f} | {row.n} |" for row in rows]
    return "\n".join(lines)


# --- items --------------------------------------------------------------------------------------------------------


def pronoun_items(text: str, mentions) -> list[Item]:
    """Make an item of each pronoun that could mean several people.

    Args:
        text: the text.
        mentions: for each mention an object with `start`, `end`, `entity` and `form` ("name" or "pronoun" matter), such as
            those of the story world, or a tuple of the four.

    Returns:
        a list of `Item`: from the pronoun to the latest name of its entity, against the latest name of each other entity.
    """
    items, latest = [], {}
    for start, end, entity, form in sorted(map(_plain, mentions), key=lambda mention: mention[0]):
        if form == "pronoun" and entity in latest and len(latest) > 1:
            others = tuple(span for other, span in latest.items() if other != entity)
            items.append(Item(text, (start, end), (latest[entity],), others))
        elif form == "name":
            latest[entity] = (start, end)
    return items


def binding_items(text: str, answers, mentions) -> list[Item]:
    """Make an item of each answer whose value was told before the questions, with other values to mistake it for.

    Args:
        text: facts, then questions with their answers.
        answers: spans of the answers.
        mentions: as for `pronoun_items`, of any form; the answer's own mention says what its value is.

    Returns:
        a list of `Item`: from before the answer to every mention of its value in the facts, against mentions of other values
        of the same type. Each text ends with its answer.
    """
    mentions, answers = [_plain(mention) for mention in mentions], [tuple(answer) for answer in answers]
    first, items = min((start for start, _ in answers), default=0), []
    for start, end in answers:
        values = [entity for begin, stop, entity, _ in mentions if begin < end and stop > start]
        if not values:
            continue
        told = [(begin, stop, entity) for begin, stop, entity, form in mentions
                if stop <= first and type(entity) is type(values[0]) and form not in ("pronoun", "it", "they")]
        to = tuple((begin, stop) for begin, stop, entity in told if entity == values[0])
        others = tuple((begin, stop) for begin, stop, entity in told if entity != values[0])
        if to and others:
            items.append(Item(text[:end], (start, end), to, others))
    return items


def _plain(mention) -> tuple:
    if hasattr(mention, "start"):
        return mention.start, mention.end, mention.entity, mention.form
    return tuple(mention)


# --- from kinds to places in sequences ----------------------------------------------------------------------------


def _probes(lm, kind, items, n, length, seed, vocabulary) -> list[_Probe]:
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}; got {kind!r}")
    one_stack(lm, "the head finder", "attend(lm, text, target=...).cross")
    if kind not in ("pronoun", "binding"):
        if items is not None:
            raise ValueError(f"{kind!r} is measured on random tokens; leave items out")
        if n < 2 or length < 12:
            raise ValueError(f"n must be at least 2 and length at least 12; got {n} and {length}")
        rng = np.random.default_rng(seed)
        return [_random_probe(lm, kind, length, rng, vocabulary) for _ in range(n)]
    if items is None or len(items) < 2:
        raise ValueError(f"{kind!r} needs at least two items, because heads are chosen on one half and scored on the other; "
                         f"got {0 if items is None else len(items)}. pronoun_items and binding_items make them")
    return [_text_probe(lm, kind, item) for item in items]


def _random_probe(lm, kind: str, length: int, rng, vocabulary) -> _Probe:
    """A stretch of random tokens that comes twice, with random lengths before and between."""
    before, after, free = _frame(lm, vocabulary)
    size = int(rng.integers(length // 4, length * 3 // 8 + 1))
    lead = int(rng.integers(0, length - 2 * size + 1))
    ids = rng.choice(free, length + size, replace=length + size > len(free)).tolist()
    fresh, ids = ids[length:], ids[:length]
    first, second = lead, length - size  # where the stretch stands
    ids[second:] = ids[first:first + size]
    plain = [*ids[:second], *fresh]
    shift = len(before)
    repeat = range(size - 1)  # the last one has no successor to look up
    if kind in ("previous", "first"):
        queries = range(2, length)
        pairs = [(i, [i - 1 if kind == "previous" else -shift]) for i in queries]
        control = [(i, [int(rng.integers(0, i - 1) if kind == "previous" else rng.integers(1, i))]) for i in queries]
    else:
        step = int(kind == "induction")
        pairs = control = [(second + j, [first + j + step]) for j in repeat]
    move = lambda pairs: [(query + shift, [key + shift for key in keys]) for query, keys in pairs]  # noqa: E731
    other = None if kind in ("previous", "first") else [*before, *plain, *after]
    return _Probe([*before, *ids, *after], None, move(pairs), move(control), other, [second + j + shift for j in repeat])


def _frame(lm, vocabulary):
    """Special tokens that the tokenizer puts before and after a text, and the ids to draw from."""
    pieces = _tokens.pieces(lm.tokenizer, "a")
    special = [piece.special for piece in pieces]
    inner = special.index(False)
    before = [piece.ids[0] for piece in pieces[:inner]]
    after = [piece.ids[0] for piece in pieces[inner:] if piece.special]
    if vocabulary is None:
        n_tokens = min(lm.model.get_input_embeddings().weight.shape[0], len(lm.tokenizer))
        vocabulary = [i for i in range(n_tokens) if i not in set(lm.tokenizer.all_special_ids)]
    return before, after, np.array(list(vocabulary))


def _text_probe(lm, kind: str, item: Item) -> _Probe:
    reading = read(lm, item.text, wants_target=False)
    looks = _covering(reading, item.at)
    query = looks[-1] if kind == "pronoun" else looks[0] - 1
    if query < 0:
        raise ValueError(f"there is no token before the answer {item.text[slice(*item.at)]!r}")
    span = item.loss or (item.at if kind == "binding" else (item.at[1], len(item.text)))
    losses = [i - 1 for i in _covering(reading, span, required=False) if i > 0]
    keys = [key for span in item.to for key in _covering(reading, span)]
    others = [(query, _covering(reading, span)) for span in item.others]
    types = None if reading.type_ids is None else reading.type_ids[0].tolist()
    return _Probe(reading.ids[0].tolist(), types, [(query, keys)], others, None, losses, versus=True)


def _covering(reading, span, required: bool = True) -> list[int]:
    """Positions of the tokens that stand for a span of characters."""
    found = [i for i, piece in enumerate(reading.pieces) if piece.span and piece.span[0] < span[1] and piece.span[1] > span[0]]
    if required and not found:
        raise ValueError(f"there is no token at characters {tuple(span)} of the text")
    return found


# --- measuring ----------------------------------------------------------------------------------------------------


def _scores(lm, probes):
    """Score and control of every head, arrays [layer, head], and the true layer numbers."""
    scores, controls, layers = [], [], None
    for probe in probes:
        maps, layers = _maps(lm, probe.ids, probe.type_ids)
        found = _mass(maps, probe.pairs)  # [layer, head, pair]
        if probe.versus:
            other = _mass(maps, probe.control_pairs)
            scores.append(((found > other) + 0.5 * (found == other)).mean(-1))
            query, keys = probe.pairs[0]
            nearer = [min(abs(query - key) for key in keys) < min(abs(query - key) for key in theirs)
                      for _, theirs in probe.control_pairs]
            controls.append(np.full(maps.shape[:2], np.mean(nearer)))
        else:
            scores.append(found.mean(-1))
            same = maps if probe.control_ids is None else _maps(lm, probe.control_ids, None)[0]
            controls.append(_mass(same, probe.control_pairs).mean(-1))
    require_finite("the head finder", np.array(scores))
    return np.mean(scores, axis=0), np.mean(controls, axis=0), layers


def _mass(maps, pairs) -> np.ndarray:
    """Attention from each query to its keys together, array [layer, head, pair]."""
    return np.stack([maps[:, :, query, keys].sum(-1) for query, keys in pairs], axis=-1)


def _maps(lm, ids, type_ids):
    """The library's own maps of a list of ids, array [layer, head, query, key], and the true layer numbers."""
    import torch

    with torch.no_grad(), quiet(lm.model), eager(lm.model):
        found = lm.model(**_inputs(lm, ids, type_ids), output_attentions=True).attentions
    layers = [layer for layer, module in enumerate(parts(lm.model).output) if module is not None]
    return np.stack([one[0].float().cpu().numpy() for one in found]), layers


def _inputs(lm, ids, type_ids) -> dict:
    import torch

    device = next(lm.model.parameters()).device
    inputs = {"input_ids": torch.tensor([ids], device=device),
              "attention_mask": torch.ones(1, len(ids), dtype=torch.long, device=device)}
    if type_ids is not None:
        inputs["token_type_ids"] = torch.tensor([type_ids], device=device)
    return inputs


def _loss(lm, probes) -> float:
    """Mean loss of the next tokens at the probes' places, in nats a token; NaN where the model predicts no next token."""
    import torch

    if type(lm.model).__name__.endswith("ForMaskedLM"):
        return float("nan")
    total, count = 0.0, 0
    with torch.no_grad(), quiet(lm.model):
        for probe in probes:
            if probe.losses:
                logits = lm.model(**_inputs(lm, probe.ids, probe.type_ids)).logits[0, probe.losses].float()
                right = torch.tensor([probe.ids[i + 1] for i in probe.losses], device=logits.device)
                total += float(torch.nn.functional.cross_entropy(logits, right, reduction="sum"))
                count += len(probe.losses)
    return total / count if count else float("nan")


def _loss_without(lm, probes, layer: int, head: int) -> float:
    with ablate(lm, [(layer, head)]):
        return _loss(lm, probes)
