"""What the explorer asks the model: to read another text, to predict with heads removed, to show a head step by step.

The explorer itself knows no model: it calls the methods that `Live.can` names, with plain values, and gets plain values.
"""

from __future__ import annotations

import contextlib

from .attention import attend, capture

MAX_NEW = 24  # tokens that an encoder-decoder writes for a text that is typed
SHOWN = 6  # predicted tokens, with and without the heads


class Live:
    """A model behind the explorer.

    Attributes:
        can: what it can do here, of "read", "predict", "steps".
    """

    def __init__(self, lm, att):
        if not (hasattr(lm, "model") and hasattr(lm, "tokenizer")):
            raise TypeError(f"lm must be what llmtutor.load returns (with .model and .tokenizer); got {type(lm).__name__}")
        self.lm, self.text = lm, None
        self._two_stacks = bool(lm.model.config.is_encoder_decoder)
        self.follow(att)
        runs = self.text is not None
        predicts = runs and lm.model.get_output_embeddings() is not None
        self.can = ["read"] * (lm.tokenizer is not None) + ["predict"] * predicts + ["steps"] * runs

    def follow(self, att):
        """The maps that are shown belong to another text now: predictions and steps are of that text."""
        two = hasattr(att, "cross")
        info = getattr(att.encoder if two else att, "info", None) or {}
        text, pair = (*(info.get("read") or [info.get("text")]), None)[:2]
        written = [number for piece in att.decoder.pieces or [] for number in piece.ids] if two else []  # what its decoder has read
        self.text = text if pair is None and two == self._two_stacks and bool(written) == two else None
        self._written = written, list(att.decoder.tokens) if two else []

    def read(self, text):
        """Read a text; return its maps."""
        return attend(self.lm, text, generate=MAX_NEW if self._two_stacks else 0)

    def _reading(self):
        """Return a function that runs the model once on the text, and the tokens that look and are looked at in each part."""
        import torch

        from .explain.reading import read

        reading = read(self.lm, self.text, wants_target=False)
        if not self._two_stacks:
            return reading.forward, {"self": (reading.tokens, reading.tokens)}
        ids, written = self._written
        inputs = {"input_ids": reading.ids, "attention_mask": torch.ones_like(reading.ids), "use_cache": False,
                  "decoder_input_ids": torch.tensor([ids], device=reading.ids.device)}
        source = reading.tokens
        return (lambda: self.lm.model(**inputs)), {"encoder": (source, source), "decoder": (written, written), "cross": (written, source)}

    def predict(self, at=None, without=(), part="self"):
        """The likeliest tokens after the token `at` (at its place, for models that fill in masks), without some heads too.

        Args:
            at: index of a token; None means the last one.
            without: list of [layer, head].
            part: of an encoder-decoder, whose heads these are, and which token `at` counts: the one that its decoder has read
                last is meant where it looks at the encoder.

        Returns:
            {"after": the token, "filled": whether its own place is predicted, "rows": [{"token", "before", "now"}]}, probabilities from
            0 to 1.
        """
        import torch

        from . import tokens
        from .explain import ablate
        from .explain.reading import quiet

        forward, names = self._reading()
        writes = names["decoder" if self._two_stacks else "self"][0]
        at = len(writes) - 1 if at is None or part == "encoder" else at
        options = {"part": part} if self._two_stacks else {}

        def probabilities(heads):
            removed = ablate(self.lm, heads, **options) if heads else contextlib.nullcontext()  # any model predicts, not all can be ablated
            with torch.no_grad(), quiet(self.lm.model), removed:
                return forward().logits[0, at].float().softmax(-1)

        before = probabilities([])
        now = probabilities([tuple(head) for head in without]) if without else before
        chosen = dict.fromkeys([*before.topk(SHOWN).indices.tolist(), *now.topk(SHOWN).indices.tolist()])
        known = len(self.lm.tokenizer)
        name = {n: tokens.pieces(self.lm.tokenizer, [n])[0].text if n < known else f"token {n}" for n in chosen}
        rows = [{"token": name[n], "before": float(before[n]), "now": float(now[n])} for n in chosen]
        filled = type(self.lm.model).__name__.endswith("ForMaskedLM")
        return {"after": writes[at], "filled": filled, "rows": sorted(rows, key=lambda row: -max(row["before"], row["now"]))}

    def steps(self, part, layer, head, query=None):
        """How one head turns a query into what it passes on: query times key, scale, mask, softmax, values.

        Args:
            part: "self"; of an encoder-decoder "encoder", "decoder" or "cross".
            layer, head: their true numbers.
            query: index of the token that looks; None means the last one.

        Returns:
            plain numbers: the query with its vector, the scale, for each key `k`, `dot` (q·k), `scaled`, `bias` (of positions, where
            a model adds one), `masked` (None where the mask forbids it), `weight`, `v`, and the output, the sum of weight times v.
        """
        import torch
        from transformers import AttentionInterface

        forward, names = self._reading()
        queries, keys = names[part]
        query = len(queries) - 1 if query is None else query
        recorder, found = _Watched([layer]), {}

        def watch(module, q, k, v, mask, scaling=None, **options):
            mixed = capture._capture(module, q, k, v, mask, scaling, **options)
            if recorder.last == (part, layer):
                found.update(q=q, k=k, v=v, mask=mask, scaling=scaling, options=options)
            return mixed

        with capture.capturing(self.lm.model, recorder), torch.no_grad():
            AttentionInterface.register(capture.NAME, watch)  # `capturing` puts its own back when it is entered again
            try:
                forward()
            finally:
                AttentionInterface.register(capture.NAME, capture._capture)
        if not found:
            raise ValueError(f"layer {layer} has no attention that could be shown step by step")
        found["weights"] = torch.from_numpy(recorder.maps(part)[layer])
        return {"layer": layer, "head": head} | _row(found, head, query, queries[query], keys)


class _Watched(capture.Recorder):
    """A recorder that remembers the layer it was last asked about."""

    last = None

    def place(self, module):
        self.last = super().place(module)
        return self.last


def _row(found, head, query, looks, tokens):
    """The numbers of one row of one head, from the tensors of its layer [batch, head, token, d_head]."""
    q = found["q"][0, head, query].float()
    shared = found["q"].shape[1] // found["k"].shape[1]  # query heads that share one key head
    k, v = (found[name][0, head // shared].float() for name in ("k", "v"))
    scale = q.shape[-1] ** -0.5 if found["scaling"] is None else float(found["scaling"])
    dots, weights = k @ q, found["weights"][0, head, query].float()
    scores = dots * scale
    cap, bias = found["options"].get("softcap"), found["options"].get("position_bias")
    scores = (scores / cap).tanh() * cap if cap else scores
    bias = dots * 0 if bias is None else bias.expand(*bias.shape[:1], found["q"].shape[1], -1, -1)[0, head, query].float()
    mask = dots * 0 if found["mask"] is None else _at(found["mask"], head, query)[:len(dots)].float()
    masked = scores + bias + mask
    keys = [{"token": token, "k": _short(k[n]), "dot": float(dots[n]), "scaled": float(scores[n]), "bias": float(bias[n]),
             "masked": float(masked[n]) if mask[n] > -1e4 else None, "weight": float(weights[n]), "v": _short(v[n])}
            for n, token in enumerate(tokens)]
    return {"query": {"token": looks, "index": query, "vector": _short(q)}, "scale": scale, "keys": keys, "output": _short(weights @ v)}


def _at(mask, head, query):
    """The row of a mask [batch, head, query, key] in which one head or one query may stand for all."""
    return mask[0, min(head, mask.shape[1] - 1), min(query, mask.shape[2] - 1)]


def _short(vector):
    return [float(f"{x:.6g}") for x in vector.tolist()]
