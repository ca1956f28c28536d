"""Maps over words instead of tokens, and the difference of two maps."""

from __future__ import annotations

import difflib

import numpy as np

from llmtutor import tokens as _tokens

UNITS = {"words": _tokens.words, "characters": _tokens.characters}


def by(att, unit: str):
    """The maps over words or characters; see `Attention.by`."""
    if unit not in UNITS:
        raise ValueError(f"unit must be 'words' or 'characters'; got {unit!r}")
    if not (att.pieces and att.key_pieces):
        raise ValueError(f"these maps do not know where their tokens stand in the text, so there are no {unit}; make them with "
                         "attend instead of from_arrays, and group before taking a difference")
    queries = _group(att.pieces, att.info.get("read"), unit)
    keys = queries if att.key_pieces is att.pieces else _group(att.key_pieces, att.info.get("read_keys"), unit)
    weights = att.weights @ _members(keys).T  # looked at: as much as all parts together
    share = _members(queries)
    weights = (share / share.sum(1, keepdims=True)) @ weights  # looks: as the parts do on average
    info = att.info | {"unit": unit, "store": "float32"}
    if "prompt_length" in info:
        info["prompt_length"] = sum(group.indices[-1] < att.prompt_length for group in queries)
    names = [group.text for group in queries]
    cross = {} if keys is queries else {"key_tokens": [group.text for group in keys], "key_pieces": _renumber(keys)}
    cross = cross or {"key_tokens": None, "key_pieces": None}
    return att._with(stored=weights.astype(np.float32), tokens=names, pieces=_renumber(queries), info=info, **cross)


def _group(pieces: list, texts, unit: str) -> list:
    if texts is None or unit not in UNITS or any(piece.span is None and not piece.special for piece in pieces):
        raise ValueError(f"these tokens have no places in a text, so they cannot be put together to {unit} (a tokenizer without "
                         "offsets, or the patches of an image)")
    return UNITS[unit](pieces, *texts)


def _members(groups: list) -> np.ndarray:
    """Matrix [group, token] with 1 where the token belongs to the group."""
    table = np.zeros((len(groups), sum(len(group.indices) for group in groups)), np.float32)
    for row, group in enumerate(groups):
        table[row, list(group.indices)] = 1
    return table


def _renumber(groups: list) -> list:
    """Groups as pieces of their own: each is one place of the new maps."""
    return [_tokens.Piece(g.text, g.ids, (n,), g.span, g.special, g.sequence) for n, g in enumerate(groups)]


def diff(first, second):
    """The difference on aligned tokens; see `Attention.diff`."""
    layers = [number for number in first.layers if number in second.layers]
    heads = [number for number in first.heads if number in second.heads]
    if not layers or not heads:
        raise ValueError(f"the two have no layer or no head in common: layers {first.layers} and {second.layers}, heads "
                         f"{first.heads} and {second.heads}")
    rows, names, left_out = align(first.tokens, second.tokens)
    cross = first.key_tokens is not first.tokens
    if cross != (second.key_tokens is not second.tokens):
        raise ValueError("one of the two is cross-attention and the other is not; compare like with like")
    columns, key_names, keys_left_out = align(first.key_tokens, second.key_tokens) if cross else (rows, None, [])
    parts = [_cut(att, layers, heads, [pair[n] for pair in rows], [pair[n] for pair in columns])
             for n, att in enumerate((first, second))]
    info = {"model": f"{first.info.get('model', 'maps')} - {second.info.get('model', 'maps')}",
            "difference_of": [first.info, second.info], "left_out": left_out + keys_left_out}
    return type(first)(parts[0] - parts[1], names, layers, heads, [], info, key_names, [] if cross else None)


def _cut(att, layers: list[int], heads: list[int], rows: list[int], columns: list[int]) -> np.ndarray:
    axes = [att.layers.index(n) for n in layers], [att.heads.index(n) for n in heads], rows, columns
    return att.weights[np.ix_(*axes)]


def align(first: list[str], second: list[str]) -> tuple[list[tuple[int, int]], list[str], list[str]]:
    """Pair the tokens of two texts in order: equal ones, and runs of the same length where one replaced the other.

    Returns:
        pairs of places, a name for each pair, and the tokens of either that have no partner.

    >>> align(["she", "asked"], ["he", "asked", "twice"])
    ([(0, 0), (1, 1)], ['she→he', 'asked'], ['twice'])
    """
    pairs, names, left_out = [], [], []
    for kind, a, a_end, b, b_end in difflib.SequenceMatcher(None, first, second, autojunk=False).get_opcodes():
        if kind == "equal" or a_end - a == b_end - b:
            pairs += zip(range(a, a_end), range(b, b_end))
            names += [x if x == y else f"{x}→{y}" for x, y in zip(first[a:a_end], second[b:b_end])]
        else:
            left_out += first[a:a_end] + second[b:b_end]
    if not pairs:
        raise ValueError("the two have no token in common, so there is nothing to compare; for two tokenizers, compare words: "
                         'a.by("words").diff(b.by("words"))')
    return pairs, names, left_out
