"""`attend`: read a text, a pair, a translation or an image with a model, and return its attention maps."""

from __future__ import annotations

import hashlib
import inspect

import numpy as np

from llmtutor import tokens as _tokens
from llmtutor.attention import architectures
from llmtutor.attention.capture import STORES, Recorder, capturing, chosen
from llmtutor.attention.maps import Attention, EncoderDecoderAttention

MAX_BYTES = 4 * 2**30  # maps larger than this are refused before any work is done


def attend(lm, text: str | None = None, *, pair: str | None = None, target: str | None = None, image=None, generate: int = 0,
           layers=None, heads=None, store: str = "float32") -> Attention | EncoderDecoderAttention:
    """Read a text or an image with a model and return its attention maps. The model is left exactly as it was.

    Args:
        lm: what `load` returns, or any object with `.model` and `.tokenizer`.
        text: the text to read.
        pair: a second text, for models that read two (BERT).
        target: for an encoder-decoder (T5, Marian), the text that its decoder reads; or let it write one: `generate`.
        image: for an image model (ViT), a PIL image, an array [row, column, colour] or [row, column], or pixel values
            [1, colour, row, column] as the model wants them.
        generate: let the model write up to so many tokens, each time the likeliest; every one of them is read again, so
            that each has its row. `prompt_length` says where they begin.
        layers, heads: the numbers to keep; None keeps all.
        store: "float32" keeps the weights exactly; "uint8" keeps one byte each, off by at most `UINT8_BOUND` (0.004).

    Returns:
        an `Attention` with axes [layer, head, query, key]; for an encoder-decoder an `EncoderDecoderAttention` of three.

    Raises:
        TypeError, ValueError: text that is empty, too long or no text; a layer or head that the model does not have; a
            kind of model that is not supported, with the reason.
    """
    _check_call(lm, text, pair, target, image, generate, store)
    if image is not None:
        return _attend_image(lm, image, layers, heads, store)
    encoding = _tokens.encode(lm.tokenizer, text, pair)
    model = tower(lm.model, "text_model")
    _check_ids(model, encoding.ids)
    if model.config.is_encoder_decoder:
        return _attend_two_stacks(lm, encoding, text, pair, target, int(generate), layers, heads, store)
    sizes = _sizes(model.config, "self")
    kept = chosen("layers", layers, sizes[0]), chosen("heads", heads, sizes[1])
    _check_length(lm, len(encoding.ids) + generate, len(kept[0]) * len(kept[1]), store)
    recorder = Recorder(kept[0], None if heads is None else kept[1], store)
    ids = _run(lm, model, inputs_of(lm, [encoding]), recorder, int(generate))
    info = about(lm, text, pair, store) | _seen(recorder, "self")
    if not generate:
        return _wrap(recorder, "self", layers, _tokens.pieces_of(lm.tokenizer, encoding, text, pair), info | {"read": [text, pair]})
    whole = _tokens.decode(lm.tokenizer, ids)
    info |= {"generated": _tokens.decode(lm.tokenizer, ids[len(encoding.ids):]), "prompt_length": len(encoding.ids),
             "read": [whole, None]}
    return _wrap(recorder, "self", layers, _tokens.pieces(lm.tokenizer, ids), info)


def tower(model, name: str):
    """The part of a two-tower model (CLIP: `text_model` and `vision_model`) that reads a text or an image; else the model."""
    two = hasattr(model, "text_model") and hasattr(model, "vision_model")
    return getattr(model, name) if two else model


def inputs_of(lm, encodings: list, padding_side: str = "right") -> dict:
    """The tensors that a model reads, shorter texts padded; positions are counted without the padding."""
    import torch

    model = tower(lm.model, "text_model")
    device, length = next(lm.model.parameters()).device, max(len(encoding.ids) for encoding in encodings)
    pad = getattr(lm.tokenizer, "pad_token_id", None) or 0

    def row(values, filler):
        gap = [filler] * (length - len(values))
        return gap + list(values) if padding_side == "left" else list(values) + gap

    def tensor(rows):
        return torch.tensor(rows, device=device)

    inputs = {"input_ids": tensor([row(encoding.ids, pad) for encoding in encodings]),
              "attention_mask": tensor([row([1] * len(encoding.ids), 0) for encoding in encodings])}
    if "token_type_ids" in getattr(lm.tokenizer, "model_input_names", ()):
        inputs["token_type_ids"] = tensor([row(encoding.type_ids, 0) for encoding in encodings])
    # RoBERTa and its relatives count places by the padding themselves, from a number of their own.
    own_count = any(hasattr(module, "create_position_ids_from_input_ids") for module in model.modules())
    if padding_side == "left" and not own_count and "position_ids" in inspect.signature(model.forward).parameters:
        inputs["position_ids"] = (inputs["attention_mask"].cumsum(-1) - 1).clamp(min=0)
    return inputs


def _run(lm, model, inputs: dict, recorder: Recorder, generate: int = 0) -> list[int] | None:
    """Run the model with our function in the registry; the maps are in the recorder afterwards. Returns all ids read."""
    import torch

    with capturing(model, recorder), torch.no_grad():
        if generate:
            return _write(model, inputs, generate)
        if getattr(model.config, "use_cache", None) is not None:
            inputs = inputs | {"use_cache": False}
        model(**inputs)
    return None


def _write(model, inputs: dict, n: int) -> list[int]:
    """Let the model write n tokens and read the last one too. Returns the ids that the model (its decoder) has read."""
    import torch
    from transformers import DynamicCache, EncoderDecoderCache

    if not model.can_generate():
        raise ValueError(f"{type(model).__name__} cannot write text; generate= needs a model with a language model head, such as "
                         "a GPT, or a T5 or Marian with a decoder")
    pad = model.generation_config.pad_token_id
    settings = {"do_sample": False, "num_beams": 1, "max_new_tokens": n, "max_length": None, "return_dict_in_generate": True, "use_cache": True,
                "pad_token_id": inputs["input_ids"][0, 0].item() if pad is None else pad}
    if model.config.is_encoder_decoder:  # one that grows: the library's own counts the encoder's layers (T5)
        settings["past_key_values"] = EncoderDecoderCache(DynamicCache(), DynamicCache())
    out = model.generate(**inputs, **settings)
    ids, cache = out.sequences, out.past_key_values
    if cache is None:
        raise ValueError(f"{type(model).__name__} returned no cache, so the rows of the tokens it wrote cannot be told")
    if model.config.is_encoder_decoder:
        # The encoder has been read already, and the cache holds its keys and values: only the length of its output counts.
        states = torch.zeros(1, inputs["input_ids"].shape[1], model.config.hidden_size, device=ids.device, dtype=model.dtype)
        source = {"encoder_outputs": (states,),
                  "attention_mask": inputs["attention_mask"], "decoder_input_ids": ids[:, -1:]}
    else:
        source = {"input_ids": ids[:, -1:], "attention_mask": torch.ones_like(ids)}
    model(**source, past_key_values=cache, use_cache=True)
    return ids[0].tolist()


# --- two stacks ---------------------------------------------------------------------------------------------------


def _attend_two_stacks(lm, encoding, text, pair, target, generate, layers, heads, store) -> EncoderDecoderAttention:
    inputs = inputs_of(lm, [encoding])
    inputs.pop("token_type_ids", None)
    if target is not None:
        answer = _tokens.encode(lm.tokenizer, target, target=True)
        inputs["decoder_input_ids"] = shifted(lm.model, answer.ids)
    n_read = generate + 1 if target is None else inputs["decoder_input_ids"].shape[1]
    _check_two_stacks(lm, layers, heads, len(encoding.ids), n_read, store)
    recorder = Recorder(layers if layers is None else list(np.atleast_1d(layers)), heads, store)
    ids = _run(lm, lm.model, inputs, recorder, generate)
    if target is None:
        start = 1
        decoder_pieces, read = _tokens.pieces(lm.tokenizer, ids), [_tokens.decode(lm.tokenizer, ids), None]
    else:
        ids = inputs["decoder_input_ids"][0].tolist()
        start = len(ids)
        decoder_pieces, read = _decoder_pieces(lm.tokenizer, ids, answer, target)
    pieces = _tokens.pieces_of(lm.tokenizer, encoding, text, pair)
    info = about(lm, text, pair, store) | {"target" if target is not None else "generated": read[0]}
    parts = [_wrap(recorder, "encoder", layers, pieces, info | _seen(recorder, "encoder") | {"read": [text, pair]}),
             _wrap(recorder, "decoder", layers, decoder_pieces, info | _seen(recorder, "decoder")
                   | {"read": read, "prompt_length": start}),
             _wrap(recorder, "cross", layers, decoder_pieces, info | _seen(recorder, "cross")
                   | {"read": read, "read_keys": [text, pair], "prompt_length": start}, pieces)]
    return EncoderDecoderAttention(*parts)


def shifted(model, ids: list[int]):
    """What the decoder reads for a target: a start token, and the target without its last token."""
    import torch

    labels = torch.tensor([ids], device=next(model.parameters()).device)
    if hasattr(model, "prepare_decoder_input_ids_from_labels"):
        return model.prepare_decoder_input_ids_from_labels(labels=labels)
    start = getattr(model.generation_config, "decoder_start_token_id", None) if model.can_generate() else None
    start = model.config.decoder_start_token_id if start is None else start
    if start is None:
        raise ValueError(f"the configuration of {type(model).__name__} names no decoder_start_token_id, so the decoder cannot "
                         "begin; set model.config.decoder_start_token_id")
    return torch.cat([labels.new_tensor([[start]]), labels[:, :-1]], 1)


def _decoder_pieces(tokenizer, ids: list[int], answer, target: str) -> tuple[list, list]:
    """The pieces that the decoder reads, with their places in the target where it reads the target one later."""
    if ids[1:] != answer.ids[:-1]:
        return _tokens.pieces(tokenizer, ids), [_tokens.decode(tokenizer, ids), None]
    start = _tokens.pieces(tokenizer, ids[:1])[0]
    first = _tokens.Piece(start.text, start.ids, (0,), None, True, None)
    rest = _tokens.pieces_of(tokenizer, answer, target)[:-1]
    return [first, *(_tokens.Piece(p.text, p.ids, (n,), p.span, p.special, p.sequence) for n, p in enumerate(rest, 1))], [target, None]


def _check_two_stacks(lm, layers, heads, n_source: int, n_target: int, store: str) -> None:
    """Refuse layers, heads and lengths that no part can have, before any work is done."""
    config = lm.model.config
    sizes = {part: _sizes(config, part) for part in ("encoder", "decoder")}
    most = max(size[0] for size in sizes.values())
    chosen("layers", layers, most)
    n_maps = sum(len([n for n in chosen("layers", layers, most) if n < size[0]]) * len(chosen("heads", heads, size[1]))
                 for size in sizes.values())
    _check_length(lm, max(n_source, n_target), n_maps, store)


# --- images -------------------------------------------------------------------------------------------------------


def _attend_image(lm, image, layers, heads, store) -> Attention:
    model = tower(lm.model, "vision_model")
    pixels = _pixels(lm, model, image)
    sizes = _sizes(model.config, "self")
    kept = chosen("layers", layers, sizes[0])
    recorder = Recorder(kept, heads, store)
    _run(lm, model, {"pixel_values": pixels}, recorder)
    maps = recorder.maps()
    _check_maps(maps, [] if layers is None else kept, recorder)
    n_tokens = next(iter(maps.values())).shape[2]
    names, grid = _patch_names(model.config, pixels.shape[2:], n_tokens)
    pieces = [_tokens.Piece(name, (), (n,), None, not name.startswith("r"), None) for n, name in enumerate(names)]
    digest = hashlib.sha256(pixels.cpu().numpy().tobytes()).hexdigest()
    info = about(lm, None, None, store) | _seen(recorder, "self") | {"image": list(pixels.shape[2:]), "sha256": digest, "grid": grid}
    return _wrap(recorder, "self", layers, pieces, info)


def _patch_names(config, size, n_tokens: int) -> tuple[list[str], list[int]]:
    """Names of the tokens of an image, ``r0c2`` for the patch in row 0 and column 2, with what the model puts before them."""
    patch = getattr(config, "patch_size", None)
    patch = [patch] * 2 if isinstance(patch, int) else list(patch or [1, 1])
    rows, columns = size[0] // patch[0], size[1] // patch[1]
    before = n_tokens - rows * columns
    if before < 0:
        raise ValueError(f"the model made {n_tokens} tokens of {rows} x {columns} patches, so a token is not a patch and the map "
                         "cannot be named")
    names = [_tokens.SPECIAL.format("CLS" if n == 0 else f"extra {n}") for n in range(before)]
    return names + [f"r{row}c{column}" for row in range(rows) for column in range(columns)], [rows, columns]


def _pixels(lm, model, image):
    """The image as the model wants it: by the model's own processor, else scaled to [-1, 1] in the configured size."""
    import torch

    parameter = next(model.parameters())
    if getattr(image, "ndim", None) == 4:
        pixels = torch.as_tensor(image)
    else:
        picture = _picture(image)
        processor = getattr(lm, "processor", None)
        if processor is not None:
            pixels = processor(images=picture, return_tensors="pt")["pixel_values"]
        else:
            size = getattr(model.config, "image_size", None) or 224
            height, width = [size] * 2 if isinstance(size, int) else size
            array = np.asarray(picture.resize((width, height)), np.float32) / 127.5 - 1
            pixels = torch.tensor(array).permute(2, 0, 1)[None]
    if pixels.ndim != 4 or len(pixels) != 1:
        raise ValueError(f"attend reads one image; got pixel values of shape {tuple(pixels.shape)}, wanted [1, colour, row, column]")
    return pixels.to(parameter.device, parameter.dtype)


def _picture(image):
    from PIL import Image

    if isinstance(image, Image.Image):
        return image.convert("RGB")
    array = np.asarray(image)
    if array.dtype.kind not in "fiub" or array.ndim not in (2, 3) or 0 in array.shape or (array.ndim == 3 and array.shape[2] not in (3, 4)):
        raise ValueError(f"image must be a PIL image or an array [row, column, colour] of numbers; got {type(image).__name__} of "
                         f"shape {array.shape}. For a file: PIL.Image.open(path).")
    if array.dtype.kind == "f":
        if not (np.isfinite(array).all() and array.min() >= 0 and array.max() <= 1):
            raise ValueError("an image of decimal numbers must lie between 0 and 1; for 0 to 255 use whole numbers (uint8)")
        array = np.rint(array * 255)
    return Image.fromarray(array.astype(np.uint8)).convert("RGB")


# --- putting together ---------------------------------------------------------------------------------------------


def _wrap(recorder: Recorder, part: str, layers, pieces: list, info: dict, key_pieces: list | None = None) -> Attention:
    maps = recorder.maps(part)
    wanted = [] if layers is None or part in ("encoder", "decoder", "cross") else recorder.layers
    if not maps and part in ("encoder", "decoder", "cross") and layers is not None:
        raise ValueError(f"the {part} has no layer {layers}; it has {sorted(recorder.seen.get(part, ()))}")
    _check_maps(maps, wanted, recorder, part)
    stored = recorder.stacked(part)
    heads = list(range(stored.shape[1])) if recorder.heads is None else chosen("heads", recorder.heads, 10**6)
    return Attention(stored, [piece.text for piece in pieces], list(maps), heads, pieces, info,
                     None if key_pieces is None else [piece.text for piece in key_pieces], key_pieces)


def _seen(recorder: Recorder, part: str) -> dict:
    """What the model itself showed while it ran: its part, whether it is causal, shared key heads, a sink."""
    one_by_one = any(len(steps) > 1 for (name, _), steps in recorder.steps.items() if name == part)
    causal = None if part == "cross" else recorder.causal.get(part, one_by_one)
    seen = {"part": part, "causal": causal, "key_heads": recorder.key_heads.get(part, [])}
    return seen | ({"sinks": True} if recorder.sinks else {})


def about(lm, text, pair, store: str) -> dict:
    """What every export records."""
    import torch
    import transformers

    import llmtutor

    info = getattr(lm, "info", None)
    return {"model": getattr(info, "name", type(lm.model).__name__), "revision": getattr(info, "revision", None),
            "architecture": type(lm.model).__name__, "text": text, "pair": pair, "store": store,
            "dtype": str(lm.model.dtype).removeprefix("torch."),
            "versions": {"llmtutor": llmtutor.__version__, "torch": torch.__version__, "transformers": transformers.__version__}}


# --- checks of what callers hand in -------------------------------------------------------------------------------


def _check_call(lm, text, pair, target, image, generate, store) -> None:
    if not (hasattr(lm, "model") and hasattr(lm, "tokenizer")):
        raise TypeError(f"lm must be what llmtutor.load returns (with .model and .tokenizer); got {type(lm).__name__}")
    if reason := architectures.why_not(lm.model):
        raise ValueError(reason)
    if store not in STORES:
        raise ValueError(f"store must be 'float32' or 'uint8'; got {store!r}")
    name = type(lm.model).__name__
    if text is None and image is None:
        raise TypeError("text must be a string (str), or give image=...; got neither (NoneType)")
    if text is not None and image is not None:
        raise TypeError("give a text or image=, not both: one cannot look at the other here")
    if image is not None and (pair is not None or target is not None or generate):
        raise ValueError("pair=, target= and generate= go with a text, not with an image")
    reads_images = tower(lm.model, "vision_model").main_input_name == "pixel_values"
    if image is not None and not reads_images:
        raise ValueError(f"{name} reads text, not images; leave out image=")
    if text is not None and reads_images and tower(lm.model, "text_model") is lm.model:
        raise ValueError(f"{name} reads images, not text; write attend(lm, image=...)")
    if isinstance(generate, bool) or not isinstance(generate, int | np.integer) or generate < 0:
        raise ValueError(f"generate must be a number of tokens, 0 or more; got {generate!r}")
    _check_target(lm.model, target, generate, text)
    for label, value in (("text", text), ("pair", pair), ("target", target)):
        if isinstance(value, str) and not value.strip():
            raise ValueError(f"{label} is empty (or only spaces), so there is nothing to look at; write at least one word "
                             "/ 文本为空，请至少写一个词")


def _check_target(model, target, generate, text) -> None:
    two, name = tower(model, "text_model").config.is_encoder_decoder, type(model).__name__
    if two and text is not None and (target is None) == (not generate):
        raise ValueError(f"{name} is an encoder-decoder: give target='...', the text that its decoder reads, or generate=N to let "
                         f"it write one; got {'both' if generate else 'neither'}")
    if target is not None and not two:
        raise ValueError(f"target= is for encoder-decoder models; {name} is none. To read two texts use pair=")


def _sizes(config, part: str) -> tuple[int, int]:
    """Number of layers and heads of one part of a model, under the names that its configuration uses."""
    config = config.get_text_config() if part == "self" else config
    inner = getattr(config, part, None)
    if inner is not None and hasattr(inner, "num_hidden_layers"):  # a configuration of its own for each stack
        return inner.num_hidden_layers, inner.num_attention_heads
    names = {"encoder": ("encoder_layers", "num_layers"), "decoder": ("decoder_layers", "num_decoder_layers")}.get(part, ())
    layers = next((getattr(config, n) for n in (*names, "num_hidden_layers") if getattr(config, n, None) is not None), None)
    heads = next((getattr(config, n) for n in (f"{part}_attention_heads", "num_attention_heads", "num_heads")
                  if getattr(config, n, None) is not None), None)
    if not isinstance(layers, int) or not isinstance(heads, int):
        raise ValueError(f"the configuration of this model ({config.model_type}) names no single number of layers and heads, so "
                         "they cannot be numbered")
    return layers, heads


def _check_length(lm, n_tokens: int, n_maps: int, store: str) -> None:
    if n_tokens == 0:
        raise ValueError("the tokenizer made no tokens of this text, so there is nothing to look at")
    context = getattr(getattr(lm, "info", None), "context", None)
    if context is None:
        context = getattr(tower(lm.model, "text_model").config.get_text_config(), "max_position_embeddings", None)
    if context is not None and n_tokens > context:
        raise ValueError(f"the text is {n_tokens:,} tokens long, and the model can read at most {context:,}; shorten the "
                         f"text, or read it in parts / 文本有 {n_tokens:,} 个词元，模型最多读 {context:,} 个，请缩短文本")
    size = n_maps * n_tokens**2 * STORES[store]
    if size > MAX_BYTES:
        raise ValueError(f"the maps of {n_tokens:,} tokens would take {size / 2**30:.1f} GiB, more than "
                         f"{MAX_BYTES / 2**30:.0f}; choose some with layers=[...] and heads=[...], use store='uint8', "
                         "or shorten the text")


def _check_ids(model, ids: list[int]) -> None:
    n_embeddings = model.get_input_embeddings().weight.shape[0]
    if ids and max(ids) >= n_embeddings:
        raise ValueError(f"the tokenizer made token {max(ids)}, and the model knows only {n_embeddings}. Do tokenizer and "
                         "model belong together?")


def _check_maps(maps: dict, wanted: list[int], recorder: Recorder, part: str = "self") -> None:
    missing = [layer for layer in wanted if layer not in maps]
    if missing or not maps:
        raise ValueError(f"there is no attention in layer {missing or 'any'}: in a hybrid model only some layers have it, "
                         f"here {sorted(recorder.seen.get(part, ()))}")
    shapes = {array.shape for array in maps.values()}
    if len(shapes) > 1:
        raise ValueError(f"the layers have maps of different shapes {sorted(shapes)}; choose layers that agree: "
                         "layers=[...]")
    if (shape := shapes.pop())[0] != 1:
        raise ValueError(f"the model read {shape[0]} parts at once in place of one text or image; its maps cannot be put together")
