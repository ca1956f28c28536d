"""The same start for every method: a text becomes embeddings, and the model's answer becomes one number."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

from llmtutor import tokens as _tokens
from llmtutor.attention.reading import shifted

from .explanation import Target, require_finite

__all__ = ["OUTPUTS", "Reading", "eager", "one_stack", "quiet", "read", "require_finite"]

OUTPUTS = ("logit", "logprob", "prob")
MAX_TOKENS = 2**14  # for models without a limit: most methods read the text once for each of its tokens
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
        answer: for an encoder-decoder, tensor [token]: what the decoder writes; it reads the same one token later.
    """

    model: object
    ids: object
    type_ids: object
    pieces: list
    target: Target | None
    free: list[int]
    answer: object = None

    @property
    def tokens(self) -> list[str]:
        """What to show for each token."""
        return [piece.text for piece in self.pieces]

    def embeddings(self):
        """Return the input embeddings of the text, tensor [token, d_model], outside of any graph."""
        return self._embedding()(self.ids)[0].detach()

    def _embedding(self):
        """The module that makes embeddings of the text's ids; in an encoder-decoder that of the encoder."""
        two = self.model.config.is_encoder_decoder
        return (self.model.get_encoder() if two else self.model).get_input_embeddings()

    def baseline(self, kind="mean"):
        """Return what an erased token is replaced by, tensor [d_model].

        Args:
            kind: "mean" is the mean of all embeddings, which is no word; "zero" is the zero vector; a whole number is the
                id of a token, such as the mask of BERT.
        """
        module = self._embedding()
        matrix = module.weight.detach() * float(getattr(module, "embed_scale", 1))  # some modules multiply what they look up
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
        inputs = {"attention_mask": torch.ones(n_rows, self.ids.shape[1], dtype=torch.long, device=self.ids.device)}
        if self.type_ids is not None:
            inputs["token_type_ids"] = self.type_ids.expand(n_rows, -1)
        if getattr(self.model.config, "use_cache", None) is not None:
            inputs["use_cache"] = False
        if self.model.config.is_encoder_decoder:
            inputs["input_ids"] = self.ids.expand(n_rows, -1)
            inputs["decoder_input_ids"] = shifted(self.model, self.answer.tolist()).expand(n_rows, -1)
            with _in_place_of(self._embedding(), embeddings):
                return self.model(**inputs, **options)
        inputs |= {"input_ids": self.ids} if embeddings is None else {"inputs_embeds": embeddings}
        return self.model(**inputs, **options)

    def number(self, logits, output: str = "logprob"):
        """Turn logits [batch, token, d_vocab] into the one number that is explained, tensor [batch].

        Args:
            output: "logprob" (natural logarithm of the probability), "prob", or "logit" (which also holds a constant that the
                softmax ignores and a gradient does not). For a whole text "logprob" and "logit" are sums over its tokens, and
                "prob" is a product.
        """
        if output not in OUTPUTS:
            raise ValueError(f"output must be one of {', '.join(OUTPUTS)}; got {output!r}")
        if logits.ndim != 3:
            raise ValueError(f"{type(self.model).__name__} gives no logits for each token (shape {tuple(logits.shape)}); "
                             "explain needs a language model, such as ...ForCausalLM or ...ForMaskedLM")
        if self.target.position is None:
            rows = logits.float() if output == "logit" else logits.float().log_softmax(-1)
            total = rows.gather(-1, self.answer.expand(len(rows), -1)[..., None])[..., 0].sum(-1)
            return total.exp() if output == "prob" else total
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
        length = max(self.ids.shape[1], 0 if self.answer is None else len(self.answer))
        return max(1, min(64, _CELLS // (length * size)))


@contextlib.contextmanager
def _in_place_of(module, embeddings):
    """Let the first call of an embedding module return these embeddings: the encoder reads before the decoder does.

    Handing them over as `inputs_embeds` would leave out what some encoders do to them (Marian multiplies by a constant), and
    encoder and decoder may share the module.
    """
    if embeddings is None:
        yield
        return
    left = [embeddings]
    handle = module.register_forward_hook(lambda module, inputs, made: left.pop() if left else made)
    try:
        yield
    finally:
        handle.remove()


def read(lm, text: str, target=None, *, wants_target: bool = True) -> Reading:
    """Prepare a text for a model and settle which prediction is meant.

    Args:
        lm: what `load` returns, or any object with `.model` and `.tokenizer`.
        text: the text to read.
        target: None for the model's own first choice after the last token (at the mask, for models such as BERT); a
            candidate (text of one token, or its id as `(position, id)`); `(position, candidate)`;
            `(position, candidate, other candidate)` for the difference of two; or a `Target`. For an encoder-decoder the text
            that its decoder writes: all of it; or `(text, number)` for one of its tokens, given those before it, or
            `(text, number, other candidate)`.

    Raises:
        TypeError, ValueError: what is no text or no model, a position or token that is not there.
    """
    import torch

    model, tokenizer = _check_lm(lm)
    if isinstance(text, str) and not text.strip():
        raise ValueError("text is empty (or only spaces), so there is nothing to explain; write at least one word "
                         "/ 文本为空，请至少写一个词")
    _check_weights(model)
    encoding = _tokens.encode(tokenizer, text)
    _check_length(model, len(encoding.ids))
    pieces = _tokens.pieces_of(tokenizer, encoding, text)
    device = next(model.parameters()).device
    ids = torch.tensor([encoding.ids], device=device)
    two = model.config.is_encoder_decoder
    names = getattr(tokenizer, "model_input_names", ())
    types = torch.tensor([encoding.type_ids], device=device) if "token_type_ids" in names and not two else None
    free = [i for i, piece in enumerate(pieces) if not piece.special]
    if not free:
        raise ValueError("there are only special tokens in this text, so there is nothing to explain")
    reading = Reading(model, ids, types, pieces, None, free)
    if not wants_target:
        return reading
    if two:
        target, answer = _settle_written(model, tokenizer, target)
        return Reading(model, ids, types, pieces, target, free, torch.tensor(answer, device=device))
    return Reading(model, ids, types, pieces, _settle(reading, tokenizer, target), free)


def _settle_written(model, tokenizer, target) -> tuple[Target, list[int]]:
    """The `Target` of an encoder-decoder, and the ids that its decoder writes."""
    if isinstance(target, Target):
        parts = (target.written, target.position, target.against)
    else:
        parts = (*target, None, None)[:3] if isinstance(target, tuple | list) and len(target) in (1, 2, 3) else (target, None, None)
    written, position, against = parts
    if not isinstance(written, str) or not written.strip():
        raise ValueError(f"{type(model).__name__} is an encoder-decoder: give target='...', the text that its decoder writes, to explain "
                         f"all of it, or target=('...', k) for its token k; got {target!r} / 这是编码器—解码器模型：请用 target='...' "
                         "给出译文（解释整段），或用 target=('...', k) 指定其中第 k 个词元")
    ids = _tokens.encode(tokenizer, written, target=True).ids
    _check_length(model, len(ids))
    if position is None:
        return Target(None, None, written=written), ids
    if isinstance(position, bool) or not isinstance(position, int) or not -len(ids) <= position < len(ids):
        raise ValueError(f"the number of a token of {written!r} must be a whole number below {len(ids)}; got {position!r}")
    token = ids[position]
    return Target(position % len(ids), token, _name(tokenizer, token), _token(tokenizer, model, against), written), ids


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
        _tokens.encode(tokenizer, token)  # refuses half characters with a reason
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
    return lm.model, lm.tokenizer


def _check_weights(model) -> None:
    """Refuse weights that are NaN or infinite: a fused attention kernel can turn them into ordinary numbers that mean nothing."""
    import torch

    broken = [name for name, weight in model.named_parameters() if not bool(weight.detach().sum(dtype=torch.float32).isfinite())]
    if broken:
        raise ValueError(f"{type(model).__name__} holds weights that are not finite (NaN or infinite), such as {broken[0]!r}, so nothing can be "
                         "explained; [name for name, p in lm.model.named_parameters() if not p.isfinite().all()] lists them; load the model "
                         "again / 模型的权重里有 NaN 或无穷大，无法解释；请重新加载模型")


def one_stack(lm, what: str, instead: str) -> None:
    """Refuse a model of two stacks, with the reason.

    Args:
        what: the method.
        instead: what works for such a model.
    """
    if hasattr(lm, "model") and lm.model.config.is_encoder_decoder:
        raise ValueError(f"{what} follows one stack of layers from the first token to the prediction, and {type(lm.model).__name__} has two "
                         f"(encoder and decoder, joined by cross-attention), so it does not apply. Use {instead} / "
                         f"此方法要求模型只有一个层栈，而 {type(lm.model).__name__} 有编码器和解码器两个，因此不适用")


def _check_length(model, n_tokens: int) -> None:
    if n_tokens == 0:
        raise ValueError("the tokenizer made no tokens of this text, so there is nothing to explain")
    context = getattr(model.config, "max_position_embeddings", None) or MAX_TOKENS  # T5 has no limit of its own
    if n_tokens > context:
        raise ValueError(f"the text is {n_tokens:,} tokens long, and the model can read at most {context:,}; shorten the "
                         f"text / 文本有 {n_tokens:,} 个词元，最多 {context:,} 个，请缩短文本")
