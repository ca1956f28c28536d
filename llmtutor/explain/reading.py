"""The same start for every method: a text becomes embeddings, and the model's answer becomes one number."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

from llmtutor import tokens as _tokens

from .explanation import Target

OUTPUTS = ("logit", "logprob", "prob")
_CELLS = 2**24  # logits that one forward pass may make at once: 64 MiB in float32


@dataclass(frozen=True, eq=False)
class Reading:
    """A text that is ready to be read with a model, as often as a method needs.

    Attributes:
        model: the model of transformers.
        ids: tensor [1, token].
        type_ids: tensor [1, token] for models that read pairs, else None.
        pieces: the tokens with their places in the text.
        target: the prediction that is explained.
        free: positions that a method may erase: no special tokens (their scores are 0 where tokens are erased).
    """

    model: object
    ids: object
    type_ids: object
    pieces: list
    target: Target | None
    free: list[int]

    @property
    def tokens(self) -> list[str]:
        """What to show for each token."""
        return [piece.text for piece in self.pieces]

    def embeddings(self):
        """Return the input embeddings of the text, tensor [token, d_model], outside of any graph."""
        return self.model.get_input_embeddings()(self.ids)[0].detach()

    def baseline(self, kind="mean"):
        """Return what an erased token is replaced by, tensor [d_model].

        Args:
            kind: "mean" is the mean of all embeddings, which is no word; "zero" is the zero vector; a whole number is the
                id of a token, such as the mask of BERT.
        """
        matrix = self.model.get_input_embeddings().weight.detach()
        if kind == "mean":
            return matrix.mean(0)
        if kind == "zero":
            return matrix.new_zeros(matrix.shape[1])
        if isinstance(kind, int) and not isinstance(kind, bool) and 0 <= kind < len(matrix):
            return matrix[kind]
        raise ValueError(f"baseline must be 'mean', 'zero' or the id of a token below {len(matrix)}; got {kind!r}")

    def forward(self, embeddings=None, **options):
        """Run the model once on the text, or on a batch of embeddings [batch, token, d_model], and return its output."""
        import torch

        n_rows = 1 if embeddings is None else len(embeddings)
        inputs = {"input_ids": self.ids} if embeddings is None else {"inputs_embeds": embeddings}
        inputs["attention_mask"] = torch.ones(n_rows, self.ids.shape[1], dtype=torch.long, device=self.ids.device)
        if self.type_ids is not None:
            inputs["token_type_ids"] = self.type_ids.expand(n_rows, -1)
        if getattr(self.model.config, "use_cache", None) is not None:
            inputs["use_cache"] = False
        return self.model(**inputs, **options)

    def number(self, logits, output: str = "logprob"):
        """Turn logits [batch, token, d_vocab] into the one number that is explained, tensor [batch].

        Args:
            output: "logprob" (natural logarithm of the probability), "prob", or "logit" (which also holds a constant that the
                softmax ignores and a gradient does not).
        """
        if output not in OUTPUTS:
            raise ValueError(f"output must be one of {', '.join(OUTPUTS)}; got {output!r}")
        if logits.ndim != 3:
            raise ValueError(f"{type(self.model).__name__} gives no logits for each token (shape {tuple(logits.shape)}); "
                             "explain needs a language model, such as ...ForCausalLM or ...ForMaskedLM")
        row = logits[:, self.target.position].float()
        row = row if output == "logit" else row.log_softmax(-1) if output == "logprob" else row.softmax(-1)
        score = row[:, self.target.token]
        return score if self.target.against is None else score - row[:, self.target.against]

    def score(self, embeddings=None, output: str = "logprob"):
        """Read the text, or a batch of embeddings [batch, token, d_model], and return its scores, tensor [batch]."""
        return self.number(self.forward(embeddings).logits, output)

    def erased(self, keep, output: str = "logprob", baseline="mean"):
        """Return the scores of the text with some tokens erased.

        Args:
            keep: boolean tensor [variant, token], False where a token is replaced by the baseline.

        Returns:
            tensor [variant].
        """
        import torch

        whole, nothing = self.embeddings(), self.baseline(baseline)
        with torch.no_grad():
            return torch.cat([self.score(torch.where(part[..., None], whole, nothing), output)
                              for part in keep.split(self.batch_size())])

    def batch_size(self) -> int:
        """How many variants of this text may be read at once."""
        config = self.model.config
        size = getattr(config, "vocab_size", None) or config.get_text_config().vocab_size
        return max(1, min(64, _CELLS // (self.ids.shape[1] * size)))


def read(lm, text: str, target=None, *, wants_target: bool = True) -> Reading:
    """Prepare a text for a model and settle which prediction is meant.

    Args:
        lm: what `load` returns, or any object with `.model` and `.tokenizer`.
        text: the text to read.
        target: None for the model's own first choice after the last token (at the mask, for models such as BERT); a
            candidate (text of one token, or its id as `(position, id)`); `(position, candidate)`;
            `(position, candidate, other candidate)` for the difference of two; or a `Target`.

    Raises:
        TypeError, ValueError: what is no text or no model, a position or token that is not there.
    """
    import torch

    model, tokenizer = _check_lm(lm)
    if isinstance(text, str) and not text.strip():
        raise ValueError("text is empty (or only spaces), so there is nothing to explain; write at least one word "
                         "/ 文本为空，请至少写一个词")
    encoding = _tokens.encode(tokenizer, text)
    pieces = _tokens.pieces(tokenizer, text)
    _check_length(model, len(encoding.ids))
    device = next(model.parameters()).device
    ids = torch.tensor([encoding.ids], device=device)
    types = torch.tensor([encoding.type_ids], device=device) if "token_type_ids" in tokenizer.model_input_names else None
    free = [i for i, piece in enumerate(pieces) if not piece.special]
    if not free:
        raise ValueError("there are only special tokens in this text, so there is nothing to explain")
    reading = Reading(model, ids, types, pieces, None, free)
    if not wants_target:
        return reading
    return Reading(model, ids, types, pieces, _settle(reading, tokenizer, target), free)


def _settle(reading: Reading, tokenizer, target) -> Target:
    """Turn what the caller wrote as target into a `Target`."""
    import torch

    if isinstance(target, Target):
        parts = (target.position, target.token, target.against)
    elif target is None or isinstance(target, str):
        parts = (None, target, None)
    elif isinstance(target, tuple | list) and len(target) in (2, 3):
        parts = (*target, None)[:3]
    else:
        raise TypeError("target must be a token's text, (position, token) or (position, token, other token); got "
                        f"{target!r}")
    position = _position(reading, tokenizer, parts[0])
    token, against = (_token(tokenizer, reading.model, part) for part in parts[1:])
    if token is None:
        with torch.no_grad(), quiet(reading.model):
            token = int(reading.forward().logits[0, position].argmax())
    return Target(position, token, _name(tokenizer, token), against)


def _name(tokenizer, token: int) -> str:
    """What to show for a candidate; its number where the model has more tokens than its tokenizer (padded matrices)."""
    return _tokens.pieces(tokenizer, [token])[0].text if token < len(tokenizer) else f"token {token}"


def _position(reading: Reading, tokenizer, position) -> int:
    n_tokens = reading.ids.shape[1]
    if position is None:
        masks = (reading.ids[0] == getattr(tokenizer, "mask_token_id", None)).nonzero() if getattr(
            tokenizer, "mask_token_id", None) is not None else []
        if len(masks):
            return int(masks[0])
        if type(reading.model).__name__.endswith("ForMaskedLM"):
            raise ValueError(f"{type(reading.model).__name__} predicts a masked token, and there is none in the text; write "
                             f"{getattr(tokenizer, 'mask_token', None) or 'the mask token'} into it, or name a position: "
                             "target=(position, token)")
        return n_tokens - 1
    if isinstance(position, bool) or not isinstance(position, int) or not -n_tokens <= position < n_tokens:
        raise ValueError(f"position must be a whole number below {n_tokens}, the number of tokens; got {position!r}")
    return position % n_tokens


def _token(tokenizer, model, token) -> int | None:
    """The id of a candidate, given as id or text; None stays None."""
    if token is None:
        return None
    if isinstance(token, str):
        ids = tokenizer(token, add_special_tokens=False)["input_ids"]
        if len(ids) != 1:
            raise ValueError(f"a target is one token, and {token!r} is {len(ids)}; give its first token, and mind the space "
                             "before a word (' red' and 'red' are different tokens)")
        return ids[0]
    n_tokens = model.get_input_embeddings().weight.shape[0]
    if isinstance(token, bool) or not isinstance(token, int) or not 0 <= token < n_tokens:
        raise ValueError(f"a token must be text or an id below {n_tokens}; got {token!r}")
    return token


@contextlib.contextmanager
def quiet(model):
    """Switch a model to evaluation (dropout off) and put every module back as it was."""
    training = [module for module in model.modules() if module.training]
    try:
        for module in training:
            module.training = False
        yield
    finally:
        for module in training:
            module.training = True


@contextlib.contextmanager
def eager(model):
    """Let a model compute attention step by step, so that its maps are part of the graph; put back what was there."""
    before = model.config._attn_implementation
    try:
        model.set_attn_implementation("eager")
        yield
    finally:
        model.set_attn_implementation(before)


def _check_lm(lm):
    if not (hasattr(lm, "model") and hasattr(lm, "tokenizer")):
        raise TypeError(f"lm must be what llmtutor.load returns (with .model and .tokenizer); got {type(lm).__name__}")
    if lm.model.config.is_encoder_decoder:
        raise ValueError(f"{type(lm.model).__name__} is an encoder-decoder, which explain does not read; use a decoder-only "
                         "(GPT) or encoder-only (BERT) model")
    return lm.model, lm.tokenizer


def _check_length(model, n_tokens: int) -> None:
    if n_tokens == 0:
        raise ValueError("the tokenizer made no tokens of this text, so there is nothing to explain")
    context = getattr(model.config, "max_position_embeddings", None)
    if context is not None and n_tokens > context:
        raise ValueError(f"the text is {n_tokens:,} tokens long, and the model can read at most {context:,}; shorten the "
                         f"text / 文本有 {n_tokens:,} 个词元，模型最多读 {context:,} 个，请缩短文本")
