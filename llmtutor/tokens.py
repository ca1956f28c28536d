"""Pieces a person can read: what a tokenizer made of a text, shown as characters instead of codes.

A tokenizer cuts text into pieces. Byte-level ones (GPT-2) write `今` as three pieces `ä`, `»`, `Ĭ`; WordPiece (BERT)
marks the inside of a word with `##`; SentencePiece writes a space as `▁`. This module turns all of them into one
form, with the place of every piece in the text.

How pieces are shown
    ``␣`` a space, ``↵`` a new line, ``⇥`` a tab
    ``⟨eos⟩`` a special token
    ``今²⁄₃`` the second of the three pieces that carry the character 今
    ``\\xe4`` a byte that is part of no character, ``\\u200d`` a character that cannot be seen
    ``◌́`` an accent that stands apart from its letter
    ``##ing`` the inside of a word, as WordPiece marks it

It needs the `tokenizers` library only: no torch, no model.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

import regex

SPECIAL = "⟨{}⟩"
_VISIBLE = {" ": "␣", "\n": "↵", "\t": "⇥"}
_SUPERSCRIPT = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")
_SUBSCRIPT = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")
_CHARACTER = regex.compile(r"\X")  # one character as a person counts them (Unicode UAX 29): 👩‍🏫 is one
_WORD = regex.compile(r"(?w).+?\b", regex.DOTALL)  # the word boundaries of UAX 29; a Chinese character is its own word
_UNSEEN = regex.compile(r"[\p{C}\p{Z}\p{Default_Ignorable_Code_Point}]")
_HIDDEN = regex.compile(r"(?![\u200c\u200d])\p{Cf}")  # invisible, except the two joiners that spelling needs
_MARK = regex.compile(r"\p{M}")
_BYTE = regex.compile(r"<0x([0-9A-Fa-f]{2})>")
_BRACKETS = regex.compile(r"<[|｜](.+)[|｜]>|<(.+)>|\[(.+)\]", regex.DOTALL)


@dataclass(frozen=True)
class Piece:
    """One piece of a text, or several pieces grouped into one character or word.

    Attributes:
        text: what to show.
        ids: the numbers the model sees, one for each token in this piece.
        indices: where those tokens stand in the sequence.
        span: ``(start, end)`` so that ``original[start:end]`` is what the piece stands for; None where it stands for
            no text. Pieces that share a character all have the span of that character.
        special: True for tokens such as ⟨eos⟩ that mean something to the model beside the text.
        sequence: 0 for the text, 1 for its pair, None for what the tokenizer put around them.
    """

    text: str
    ids: tuple[int, ...]
    indices: tuple[int, ...]
    span: tuple[int, int] | None
    special: bool = False
    sequence: int | None = 0


def pieces(tokenizer, source, pair: str | None = None) -> list[Piece]:
    """Cut a text into the tokenizer's pieces, or read a list of ids back, in a form people can read.

    Args:
        tokenizer: a tokenizer of `transformers` or of `tokenizers`.
        source: the text, or the ids (any sequence of whole numbers). For ids the spans point into
            ``decode(tokenizer, ids)``.
        pair: a second text, for models that read two (BERT).

    Raises:
        TypeError: the source is neither text nor whole numbers.
        ValueError: broken text, or an id that the tokenizer does not have.
    """
    backend = _backend(tokenizer)
    if not isinstance(source, str):
        if pair is not None:
            raise TypeError("pair goes with a text; the source given is a list of ids")
        ids = _whole_numbers(source)
        return _read(backend, ids, [None if i in _special_ids(backend) else 0 for i in ids], {}, None)
    return pieces_of(tokenizer, encode(tokenizer, source, pair), source, pair)


def encode(tokenizer, text: str, pair: str | None = None, *, target: bool = False):
    """Encode a text as the tokenizer does for its model: nothing cut off, nothing padded.

    Args:
        target: encode as a translation to be written, for tokenizers that treat it in another way.

    Returns:
        a `tokenizers.Encoding` with ``ids``, ``type_ids``, ``sequence_ids`` and ``offsets``; for a tokenizer written in
        Python an object with the same, whose offsets are None.
    """
    for name, value in (("target" if target else "text", text), ("pair", pair)):
        _check_text(name, value, optional=name == "pair")
    backend = _backend(tokenizer)
    if backend is tokenizer:
        return backend.encode(text, pair)
    texts = {"text_target": text} if target else {"text": text, "text_pair": pair}
    found = tokenizer(**texts, truncation=False, padding=False, verbose=False)
    return found.encodings[0] if found.encodings else _plain_encoding(tokenizer, found)


def pieces_of(tokenizer, encoding, text: str, pair: str | None = None) -> list[Piece]:
    """The pieces of a text that `encode` has already encoded."""
    return _read(_backend(tokenizer), encoding.ids, encoding.sequence_ids, {0: text, 1: pair}, encoding.offsets)


def decode(tokenizer, ids) -> str:
    """Return the text that ids stand for, special tokens left out; a byte that fits no character becomes U+FFFD."""
    backend, ids = _backend(tokenizer), _whole_numbers(ids)
    special, style = _special_ids(backend), _Style.of(backend)
    return _Walk([None if i in special else style.content(i) for i in ids], style.separator).text


def characters(parts: list[Piece], text: str, pair: str | None = None) -> list[Piece]:
    """Group pieces so that none cuts a character: the three pieces of `今` become one, and so do those of 👩‍🏫.

    A piece that holds many characters stays as it is.
    """
    return _group(parts, (text, pair), _CHARACTER)


def words(parts: list[Piece], text: str, pair: str | None = None) -> list[Piece]:
    """Group pieces into words, with the spaces around them left out; punctuation and Chinese characters stand alone.

    Where one piece holds several words (`今天` in a Chinese vocabulary) it stays whole: pieces are never split.
    """
    return _group(parts, (text, pair), _WORD)


def show(text: str) -> str:
    """Make every character of a text visible: spaces, new lines, control characters, accents without a letter.

    >>> show("a b\\n")
    'a␣b↵'
    """
    return "".join(map(_show_character, _CHARACTER.findall(text)))


def _show_character(cluster: str) -> str:
    base = cluster[0]
    joined = _UNSEEN.match(base) is None and _MARK.match(base) is None
    if joined and (regex.match(r"\p{S}", base) or not _HIDDEN.search(cluster)):
        return cluster
    return "".join(map(_show_one, cluster))


def _show_one(char: str) -> str:
    if char in _VISIBLE:
        return _VISIBLE[char]
    if _UNSEEN.match(char):
        code = ord(char)
        return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
    return "◌" + char if _MARK.match(char) else char


# --- from vocabulary entries to bytes -----------------------------------------------------------------------------


def _byte_letters() -> dict[str, int]:
    """The letters that byte-level tokenizers write for the 256 bytes: printable ones for themselves, then U+0100 on
    (Radford et al. 2019)."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [b for b in range(256) if b not in plain]
    return {chr(b): b for b in plain} | {chr(0x100 + n): b for n, b in enumerate(others)}


LETTERS = _byte_letters()


@dataclass(frozen=True)
class _Style:
    """How one tokenizer writes its vocabulary."""

    backend: object
    added: dict
    byte_level: bool
    space: bool  # "▁" stands for a space
    separator: str  # between pieces that do not say themselves where a word begins
    inside: str  # "##" before a piece that continues a word
    end: str  # "</w>" after a piece that ends a word

    @classmethod
    def of(cls, backend) -> _Style:
        if isinstance(backend, _PythonBackend):
            return cls(backend, backend.get_added_tokens_decoder(), **backend.marks())
        decoders, model = _components(backend.decoder), backend.model
        kinds = {part["type"] for part in decoders}
        kinds |= {part["type"] for part in _components(backend.pre_tokenizer) if part["type"] == "ByteLevel"}
        inside = getattr(model, "continuing_subword_prefix", None) or ""
        end = getattr(model, "end_of_word_suffix", None) or ""
        spaced = not end and (bool(inside) or not kinds)  # as `tokenizers` itself decodes them
        return cls(backend, backend.get_added_tokens_decoder(), "ByteLevel" in kinds,
                   "Metaspace" in kinds or any("▁" in str(part.get("pattern")) for part in decoders),
                   " " if spaced else "", inside, end)

    def token(self, index: int) -> str:
        token = self.backend.id_to_token(index)
        if token is None:
            raise ValueError(f"the tokenizer has no token {index}; its ids go from 0 to "
                             f"{self.backend.get_vocab_size() - 1}. Do the ids come from another model?")
        return token

    def content(self, index: int) -> tuple[bytes, bool]:
        """The bytes a token stands for, and whether it continues the word before it."""
        token = self.token(index)
        if index in self.added:
            return token.encode(), False
        if self.byte_level and all(letter in LETTERS for letter in token):
            return bytes(LETTERS[letter] for letter in token), False
        if byte := _BYTE.fullmatch(token):
            return bytes([int(byte[1], 16)]), False
        if self.end and token.endswith(self.end):
            return (token.removesuffix(self.end) + " ").encode(), False
        if self.inside and token.startswith(self.inside) and token != self.inside:
            return token.removeprefix(self.inside).encode(), True
        return (token.replace("▁", " ") if self.space else token).encode(), False

    def show(self, index: int, walked: str) -> str:
        """How a token is shown, given the characters it stands for."""
        if index in self.added and self.added[index].special:
            token = self.token(index)
            match = _BRACKETS.fullmatch(token)
            return SPECIAL.format(show(next(filter(None, match.groups())) if match else token))
        if not walked:
            return SPECIAL.format("empty")
        return (self.inside if self.content(index)[1] else "") + walked


def _components(part) -> list[dict]:
    """The settings of a tokenizer's decoder or pre-tokenizer, sequences opened up."""
    if part is None:
        return []
    state = json.loads(part.__getstate__())
    return state.get("decoders") or state.get("pretokenizers") or [state]


class _Walk:
    """Walk over the bytes of the pieces, one character at a time.

    Args:
        contents: ``(bytes, continues a word)`` of every piece, None for one that stands for no text.
        separator: what to put before a piece that does not continue a word.

    Attributes:
        text: all characters; spans: per piece ``[start, end)`` in it; shown: per piece what to show.
    """

    def __init__(self, contents, separator: str):
        self.text, self._at = "", 0
        self.spans: list = [None if content is None else (0, 0) for content in contents]
        self.shown = [""] * len(contents)
        run: list[tuple[int, bytes]] = []  # (piece, bytes); a special token ends a run, so no character crosses it
        for number, content in enumerate(contents):
            if content is None:
                self._read(run)
                run = []
                continue
            if separator and not content[1] and (self.text or run):
                run.append((-1, separator.encode()))
            run.append((number, content[0]))
        self._read(run)

    def _read(self, run: list[tuple[int, bytes]]) -> None:
        owner = [piece for piece, data in run for _ in data]
        start, first = 0, len(self.text)
        plain = {piece: "" for piece, _ in run}
        # surrogateescape turns each byte that fits no character into one stand-in (U+DC80 and up) for that byte
        characters = b"".join(data for _, data in run).decode("utf-8", "surrogateescape")
        for place, char in enumerate(characters, first):
            end = start + len(char.encode("utf-8", "surrogateescape"))
            owners = list(dict.fromkeys(owner[start:end]))
            for part, piece in enumerate(owners, 1):
                self._extend(piece, place)
                if "\udc80" <= char <= "\udcff":
                    self._flush(piece, plain, f"\\x{ord(char) - 0xDC00:02x}")
                elif len(owners) > 1:
                    mark = f"{part}".translate(_SUPERSCRIPT) + "⁄" + f"{len(owners)}".translate(_SUBSCRIPT)
                    self._flush(piece, plain, _show_character(char) + mark)
                else:
                    plain[piece] += char
            start = end
        for piece, data in run:
            self._flush(piece, plain, "")
            if not data:
                self.spans[piece] = (first, first)
        self.text += "".join("\ufffd" if "\udc80" <= c <= "\udcff" else c for c in characters)

    def _extend(self, piece: int, place: int) -> None:
        if piece >= 0:
            start, end = self.spans[piece]
            self.spans[piece] = (start if end else place, place + 1)

    def _flush(self, piece: int, plain: dict, after: str) -> None:
        if piece >= 0:
            self.shown[piece] += show(plain[piece]) + after
            plain[piece] = ""


def _read(backend, ids, sequences, texts: dict, offsets) -> list[Piece]:
    """Build the pieces of one encoding: walk over each sequence, then choose the spans that fit its text."""
    style, special = _Style.of(backend), _special_ids(backend)
    spans, shown = [None] * len(ids), [""] * len(ids)
    for sequence in sorted({s for s in sequences if s is not None}):
        walk = _Walk([style.content(i) if s == sequence else None for i, s in zip(ids, sequences, strict=True)],
                     style.separator)
        places = _align(walk.text, texts.get(sequence))
        if places is None and offsets is None:
            found = _search([None if span is None else walk.text[slice(*span)] for span in walk.spans], texts[sequence])
        else:
            found = [None if o is None else tuple(o) for o in offsets or [None] * len(ids)]
        for place, span in enumerate(walk.spans):
            if span is not None:
                shown[place] = walk.shown[place]
                # Where the tokenizer changed the text (lower case, folded accents), only its own offsets are right.
                spans[place] = found[place] if places is None else (places[span[0]], places[span[1]])
    return [Piece(style.show(i, shown[n]), (i,), (n,), spans[n], i in special or sequences[n] is None, sequences[n])
            for n, i in enumerate(ids)]


def _align(walked: str, text: str | None) -> list[int] | range | None:
    """For each place in the walked text, the place in the original; None where the pieces spell something else.

    Some tokenizers put a space before the text, or after a special token; such a space stands for nothing in the text.
    """
    if text is None or walked == text:
        return range(len(walked) + 1)
    if walked == " " + text:
        return [0, *range(len(walked))]
    places, at = [], 0
    for char in walked:
        places.append(at)
        if text[at:at + 1] == char:
            at += 1
        elif char != " ":
            return None
    return [*places, at] if at == len(text) else None


def _search(contents: list[str | None], text: str) -> list[tuple[int, int] | None]:
    """Find pieces in a text one after the other, for tokenizers that do not tell where their pieces stand.

    A piece that cannot be found (an unknown character, a changed one) gets what lies between its neighbours.
    """
    spans: list = [None] * len(contents)
    at, lost = 0, []
    for number, content in enumerate([*contents, None]):
        wanted = "" if content is None else content.strip()
        last = number == len(contents)
        place = len(text) if last else text.find(wanted, at) if wanted else -1
        reachable = place >= 0 and (lost or not text[at:place].strip())
        if not (last or reachable):
            lost += [] if content is None else [number]
            continue
        inner = text[at:place]
        start, end = at + len(inner) - len(inner.lstrip()), place - len(inner) + len(inner.rstrip())
        for missing in lost:
            spans[missing] = (start, max(start, end))
        if not last:
            spans[number], at, lost = (place, place + len(wanted)), place + len(wanted), []
    return spans


def _group(parts: list[Piece], texts, unit) -> list[Piece]:
    """Merge neighbouring pieces until none of them cuts a unit (a character or a word) of the text."""
    ends = [[] if text is None else [m.end() for m in unit.finditer(text) for _ in m.group()] for text in texts]
    groups: list[list[Piece]] = []
    reach, previous = 0, None
    for piece in parts:
        start, end = _core(piece, texts) if unit is _WORD else piece.span or (0, 0)
        if groups and start < end and piece.sequence == previous and start < reach:
            groups[-1].append(piece)
        else:
            groups.append([piece])
            reach = 0
        if start < end:
            reach, previous = max(reach, ends[piece.sequence][end - 1]), piece.sequence
    return [_merge(group, texts, unit) for group in groups]


def _core(piece: Piece, texts) -> tuple[int, int]:
    """The span of a piece without the spaces at its ends."""
    if piece.span is None:
        return 0, 0
    start, end = piece.span
    inner = texts[piece.sequence][start:end]
    return start + len(inner) - len(inner.lstrip()), end - len(inner) + len(inner.rstrip())


def _merge(group: list[Piece], texts, unit) -> Piece:
    first, text = group[0], texts[group[0].sequence or 0]
    cores = [_core(piece, texts) if unit is _WORD else piece.span or (0, 0) for piece in group]
    if len(group) == 1 and (unit is _CHARACTER or first.special or cores[0][0] >= cores[0][1]):
        return first
    span = min(core[0] for core in cores), max(core[1] for core in cores)
    return Piece(show(text[slice(*span)]), tuple(i for piece in group for i in piece.ids),
                 tuple(n for piece in group for n in piece.indices), span, False, first.sequence)


# --- what callers hand in -----------------------------------------------------------------------------------------


class _PythonBackend:
    """A tokenizer written in Python (Marian, some Japanese ones), seen as the `tokenizers` library shows its own."""

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer
        self.id_to_token, self.get_vocab_size = tokenizer.convert_ids_to_tokens, tokenizer.__len__

    def get_added_tokens_decoder(self) -> dict:
        return self.tokenizer.added_tokens_decoder

    def marks(self) -> dict:
        """How this tokenizer writes its vocabulary, judged by the vocabulary."""
        vocabulary = self.tokenizer.get_vocab()
        inside = "##" if any(token.startswith("##") and token != "##" for token in vocabulary) else ""
        return {"byte_level": False, "space": any("▁" in token for token in vocabulary), "separator": " " if inside else "",
                "inside": inside, "end": ""}


@dataclass(frozen=True)
class _PlainEncoding:
    ids: list[int]
    type_ids: list[int]
    sequence_ids: list[int | None]
    offsets: None = None


def _plain_encoding(tokenizer, found) -> _PlainEncoding:
    ids = list(found["input_ids"])
    types = list(found.get("token_type_ids", [0] * len(ids)))
    around = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}  # an unknown token stands for text
    return _PlainEncoding(ids, types, [None if i in around else t for i, t in zip(ids, types, strict=True)])


def _backend(tokenizer):
    backend = getattr(tokenizer, "backend_tokenizer", tokenizer)
    if hasattr(backend, "id_to_token"):
        return backend
    if hasattr(tokenizer, "convert_ids_to_tokens") and hasattr(tokenizer, "added_tokens_decoder"):
        return _PythonBackend(tokenizer)
    raise TypeError("tokenizer must be one of transformers or of the `tokenizers` library; got "
                    f"{type(tokenizer).__name__}. Load it with transformers.AutoTokenizer.")


def _special_ids(backend) -> set[int]:
    return {i for i, token in backend.get_added_tokens_decoder().items() if token.special}


def _whole_numbers(ids) -> list[int]:
    ids = ids.tolist() if hasattr(ids, "tolist") else ids if isinstance(ids, bytes) else list(ids)
    if isinstance(ids, bytes) or not all(isinstance(i, int) and not isinstance(i, bool) and i >= 0 for i in ids):
        raise TypeError(f"ids must be one row of whole numbers from 0 on; got {ids!r:.80}. "
                        "For a batch, take one row: ids[0].")
    return ids


def _check_text(name: str, value, optional: bool) -> None:
    if optional and value is None:
        return
    if not isinstance(value, str):
        hint = "For bytes, decode them first: text.decode('utf-8')."
        if isinstance(value, list | tuple):
            hint = f"That is a batch of {len(value)}; give one text, or use attend_many for all of them."
        raise TypeError(f"{name} must be a string (str); got {type(value).__name__}. {hint}")
    for place, char in enumerate(value):
        if "\ud800" <= char <= "\udfff":
            raise ValueError(f"{name} holds half a character (a lone surrogate, U+{ord(char):04X}) at position {place}; "
                             "no tokenizer can encode it. Read the file with encoding='utf-8', or remove it.")
