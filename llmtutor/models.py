"""Load a language model: one that comes with the course, one in a folder, or one from the Hugging Face Hub.

An adapter (a small change to another model, chapter 04) is loaded like a model: the model that it names, changed.

The names that come with the course always mean the bundled model, whether or not the network answers. A Hub model that
was downloaded once is read from the cache from then on, so it loads as fast offline; name a `revision` to get another
version. Weights are read from safetensors files only, because a pickled file can run any program when it is opened, and
code that a model brings with it is never run.
"""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import json
import os
import re
import threading
from dataclasses import dataclass, field, replace
from pathlib import Path

BUNDLED = Path(__file__).parent / "bundled"
ADAPTER = "adapter_config.json"  # a folder that holds this one and no config.json is an adapter: a small change to another model
HUB_SECONDS = 3.5  # how long the Hub may take to answer before we say that it cannot be reached
_PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".h5", ".msgpack")
_HUB_NAME = re.compile(r"[\w][\w.-]*(/[\w][\w.-]*)?", re.ASCII)
_WEIGHTS = re.compile(r"model\.safetensors|model\.safetensors\.index\.json|model-\d+-of-\d+\.safetensors")
_SMALL_FILES = (".json", ".txt", ".model", ".spm", ".jinja")


class LoadError(ValueError):
    """A model cannot be loaded; the message says what was looked for and what to do."""


@dataclass(frozen=True)
class ModelInfo:
    """What is known about a loaded model. Sizes are None where its configuration does not say.

    Attributes:
        name: the name it was loaded by.
        kind: "bundled", "folder" or "hub".
        architecture: the class in `transformers`, such as "GPT2LMHeadModel".
        n_layers, n_heads: attention layers, and heads in each of them (query heads, where keys have fewer).
        d_model, d_head, d_vocab: width of the residual stream, of one head, and number of tokens in the vocabulary.
        n_params: number of weights, shared ones counted once.
        context: the most tokens that the model can read, None where there is no fixed limit.
        revision: the exact version (commit) of a Hub model.
        path: the folder the model was read from.
    """

    name: str
    kind: str
    architecture: str
    n_layers: int | None
    n_heads: int | None
    d_model: int | None
    d_head: int | None
    d_vocab: int | None
    n_params: int
    context: int | None
    revision: str | None = None
    path: str = field(default="", repr=False)  # differs between machines, so it stays out of printed outputs


@dataclass(frozen=True, repr=False)
class LanguageModel:
    """A model with its tokenizer: `.model` (a `transformers` model, ready to use), `.tokenizer`, `.info`.

    A model that reads images has a `.processor`, which makes pixel values of them, and may have no tokenizer.
    """

    model: object
    tokenizer: object
    info: ModelInfo
    processor: object = None

    def __repr__(self):
        i = self.info
        return (f"LanguageModel({i.name!r}: {i.architecture}, {i.n_layers} layers x {i.n_heads} heads, "
                f"{i.n_params:,} parameters)")


def load(name: str | os.PathLike, *, revision: str | None = None) -> LanguageModel:
    """Load a model and its tokenizer, ready to use: in float32, with dropout off.

    Args:
        name: a bundled model ("story-gpt"), a folder ("./my-model"), or a Hub name ("gpt2", "bert-base-chinese").
        revision: for a Hub model, the branch, tag or commit; without it the main branch, as first downloaded.

    Raises:
        LoadError: nothing of this name, no weights in it, pickled weights, or the Hub cannot be reached.
    """
    text = os.fspath(name) if isinstance(name, str | os.PathLike) else name
    if not isinstance(text, str) or not text.strip():
        raise LoadError(f"a model needs a name, a folder or a Hub id; got {name!r}. {_what_is_here()}")
    if text in bundled() and isinstance(name, str):
        kind, folder = "bundled", BUNDLED / text
    elif Path(text).expanduser().is_dir():
        kind, folder = "folder", Path(text).expanduser()
    elif _HUB_NAME.fullmatch(text):
        kind, folder = "hub", cached_folder(text, revision) or _download(text, revision)
    else:
        raise LoadError(f"there is no folder {text!r}, and it cannot be a Hub name either. {_suggest(text)}")
    if kind != "hub" and revision is not None:
        raise LoadError(f"revision={revision!r} is for models of the Hub; {text!r} is a {kind} model. Leave it out.")
    return _read_folder(folder, text, kind)


def bundled() -> list[str]:
    """Return the names of the models that come with the course."""
    return sorted({config.parent.name for file in ("config.json", ADAPTER) for config in BUNDLED.glob(f"*/{file}")})


def cached() -> list[str]:
    """Return the names of the Hub models that were downloaded before and load with no network."""
    names = (folder.name.removeprefix("models--").replace("--", "/") for folder in _hub_cache().glob("models--*"))
    return sorted(name for name in names if cached_folder(name))


# --- reading a folder ---------------------------------------------------------------------------------------------


def _read_folder(folder: Path, name: str, kind: str) -> LanguageModel:
    config_file = folder / "config.json"
    if (folder / ADAPTER).is_file() and not config_file.is_file():
        return _read_adapter(folder, name, kind)
    if not config_file.is_file():
        raise LoadError(f"{name!r} has no config.json, so it is no saved model. Save one there with "
                        "model.save_pretrained(folder) and tokenizer.save_pretrained(folder).")
    _require_safetensors(folder, name)
    _require_tokenizer(folder, name)
    import torch
    import transformers

    model_class = _model_class(transformers, config_file, name)
    with _no_progress_bar():
        try:
            model = model_class.from_pretrained(folder, dtype=torch.float32, use_safetensors=True, local_files_only=True)
            tokenizer = processor = None
            if _has_tokenizer(folder):
                tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
            if _reads_images(folder, name):
                processor = transformers.AutoImageProcessor.from_pretrained(folder, local_files_only=True)
        except Exception as error:  # a damaged file fails in many ways: name the model and keep the cause
            raise LoadError(f"{name!r} could not be read: {type(error).__name__}: {_first_line(error)}. Is a file "
                            "damaged or only half copied? Save or download the model again.") from error
    return LanguageModel(model.eval(), tokenizer, _describe(model, tokenizer, folder, name, kind), processor)


def _require_safetensors(folder: Path, name: str) -> None:
    index = folder / "model.safetensors.index.json"
    if (folder / "model.safetensors").is_file():
        return
    if index.is_file():
        wanted = sorted(set(_read_json(index, name).get("weight_map", {}).values()))
        if missing := [file for file in wanted if not (folder / file).is_file()]:
            raise LoadError(f"{name!r} lacks {len(missing)} of its {len(wanted)} weight files, such as {missing[0]!r}. "
                            "Copy or download the model again.")
        return
    _refuse_pickled([file.name for file in folder.iterdir()], name)
    raise LoadError(f"{name!r} has a config.json but no weights: model.safetensors is missing. Save them with "
                    "model.save_pretrained(folder).")


def _refuse_pickled(files: list[str], name: str) -> None:
    if pickled := sorted(file for file in files if file.endswith(_PICKLED)):
        raise LoadError(f"{name!r} has its weights only as {pickled[0]!r}. Such files can run any program when they are "
                        "opened, so only safetensors are read. If you trust where they come from, load them with "
                        "transformers once and call model.save_pretrained(folder): that writes model.safetensors.")


def _has_tokenizer(folder: Path) -> bool:
    known = ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "vocab.json", "spiece.model", "tokenizer.model", "source.spm")
    return any((folder / file).is_file() for file in known)


def _reads_images(folder: Path, name: str) -> bool:
    file = folder / "preprocessor_config.json"  # models that read sound have one as well
    return file.is_file() and bool({"image_processor_type", "image_mean"} & set(_read_json(file, name)))


def _require_tokenizer(folder: Path, name: str) -> None:
    if not (_has_tokenizer(folder) or _reads_images(folder, name)):
        raise LoadError(f"{name!r} has weights but no tokenizer, so it cannot read text. Save one beside them with "
                        "tokenizer.save_pretrained(folder).")


def _model_class(transformers, config_file: Path, name: str):
    architectures = _read_json(config_file, name).get("architectures") or []
    if not architectures:
        raise LoadError(f"the config.json of {name!r} names no architecture. Add a line such as "
                        '"architectures": ["GPT2LMHeadModel"].')
    found = getattr(transformers, str(architectures[0]), None)
    if not (isinstance(found, type) and issubclass(found, transformers.PreTrainedModel)):
        raise LoadError(f"{name!r} is a {architectures[0]!r}, which transformers {transformers.__version__} does not "
                        "have. Code that comes with a model is never run here; try a newer transformers.")
    return found


def _describe(model, tokenizer, folder: Path, name: str, kind: str) -> ModelInfo:
    config = model.config.get_text_config()
    n_heads, d_model = getattr(config, "num_attention_heads", None), getattr(config, "hidden_size", None)
    d_head = getattr(config, "head_dim", None) or (d_model // n_heads if n_heads and d_model else None)
    return ModelInfo(
        name=name, kind=kind, architecture=type(model).__name__,
        n_layers=getattr(config, "num_hidden_layers", None), n_heads=n_heads, d_model=d_model, d_head=d_head,
        d_vocab=getattr(config, "vocab_size", None), n_params=sum(p.numel() for p in model.parameters()),
        context=_context(config, tokenizer), revision=folder.name if kind == "hub" else None, path=str(folder.resolve()),
    )


def _context(config, tokenizer) -> int | None:
    """The smaller of what model and tokenizer allow: RoBERTa has 514 places of which text may use 512."""
    limits = [getattr(config, "max_position_embeddings", None), getattr(tokenizer, "model_max_length", None)]
    limits = [limit for limit in limits if isinstance(limit, int) and 0 < limit < 10**9]
    return min(limits, default=None)


@contextlib.contextmanager
def _no_progress_bar():
    """Silence the "Loading weights" bar while a model loads; warnings still show."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _read_json(file: Path, name: str) -> dict:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise LoadError(f"{file.name} of {name!r} is not valid JSON ({error}). Copy or download it again.") from error
    if not isinstance(content, dict):
        raise LoadError(f"{file.name} of {name!r} must hold a JSON object; got {type(content).__name__}.")
    return content


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or ["no message"])[0].rstrip(".")


# --- adapters -----------------------------------------------------------------------------------------------------


def _read_adapter(folder: Path, name: str, kind: str) -> LanguageModel:
    """Load the model that a LoRA adapter (as `peft` saves it) names, and add the adapter's change to its weights (chapter 04)."""
    config, file = _read_json(folder / ADAPTER, name), folder / "adapter_model.safetensors"
    unusual = [key for key in ("use_dora", "use_rslora", "modules_to_save", "rank_pattern", "alpha_pattern", "lora_bias") if config.get(key)]
    if config.get("peft_type") != "LORA" or unusual:
        raise LoadError(f"{name!r} is an adapter of the kind {', '.join([str(config.get('peft_type')), *unusual])}; only plain LoRA is read here. "
                        "Load it with peft, call merge_and_unload() and save the whole model.")
    if not file.is_file():
        _refuse_pickled([file.name for file in folder.iterdir()], name)
        raise LoadError(f"{name!r} has an {ADAPTER} but no adapter_model.safetensors. Copy or save the adapter again.")
    base = config.get("base_model_name_or_path")
    if not base or base == name:
        raise LoadError(f"the {ADAPTER} of {name!r} does not say which model it changes. Set base_model_name_or_path to its name.")
    lm = load(base)
    _merge(lm.model, file, config, name)
    return LanguageModel(lm.model, lm.tokenizer, replace(lm.info, name=name, kind=kind, revision=None, path=str(folder.resolve())), lm.processor)


def _merge(model, file: Path, config: dict, name: str) -> None:
    """Add alpha / r * B A to each weight that the adapter has a pair (A, B) for, in place."""
    import torch
    from safetensors.torch import load_file

    ends, start = (".lora_A.weight", ".lora_B.weight"), "base_model.model."
    try:
        parts = load_file(file)
        places = sorted({key.removesuffix(end) for key in parts for end in ends if key.endswith(end)})
        if not places or {place + end for place in places for end in ends} != set(parts):
            raise ValueError("it must hold one A and one B for each matrix and nothing else")
        with torch.no_grad():
            for place in places:
                down, up = (parts[place + end].float() for end in ends)  # [r, in] and [out, r]
                change = config["lora_alpha"] / config["r"] * (up @ down)
                model.get_submodule(place.removeprefix(start)).weight += change.T if config.get("fan_in_fan_out") else change
    except Exception as error:  # a damaged file, or another base than the one it was made for
        raise LoadError(f"the adapter {name!r} does not fit {config['base_model_name_or_path']!r}: {type(error).__name__}: {_first_line(error)}. "
                        "Was it made for another model, or is its file damaged?") from error


# --- the Hub ------------------------------------------------------------------------------------------------------


def _hub_cache() -> Path:
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def cached_folder(name: str, revision: str | None = None) -> Path | None:
    """The folder of a model in the cache, if all of it is there; no network is asked."""
    home = _hub_cache() / ("models--" + name.replace("/", "--"))
    reference = home / "refs" / (revision or "main")
    commit = reference.read_text(encoding="utf-8").strip() if reference.is_file() else revision or ""
    folder = home / "snapshots" / commit
    if not commit or not (folder / "config.json").is_file():
        return None
    try:
        _require_safetensors(folder, name)
        _require_tokenizer(folder, name)
    except LoadError:
        return None  # an interrupted download: ask the Hub for the rest
    return folder


def _download(name: str, revision: str | None) -> Path:
    from huggingface_hub import hf_hub_download

    listing = _ask_hub(name, revision)
    files = [entry.rfilename for entry in listing.siblings or []]
    if "config.json" not in files:
        raise LoadError(f"{name!r} on the Hub has no config.json, so transformers cannot load it. {_what_is_here()}")
    wanted = [f for f in files if "/" not in f and (f.endswith(_SMALL_FILES) or _WEIGHTS.fullmatch(f))]
    if not any(file.endswith(".safetensors") for file in wanted):
        _refuse_pickled(files, name)
        raise LoadError(f"{name!r} on the Hub has no safetensors weights. {_what_is_here()}")
    for file in wanted:
        try:
            saved = Path(hf_hub_download(name, file, revision=revision))
        except Exception as error:  # the network can break at any place; what has arrived stays in the cache
            _refuse_locked(error, name)
            raise LoadError(f"the download of {file!r} of {name!r} broke off: {type(error).__name__}: "
                            f"{_first_line(error)}. Load it again to go on from there.") from error
        _check_hash(saved, name)
    return saved.parent


def _ask_hub(name: str, revision: str | None):
    """Ask the Hub for a model's files, and decide within seconds whether it can be reached at all."""
    from huggingface_hub import HfApi, constants, errors

    if constants.HF_HUB_OFFLINE:
        raise LoadError(f"{name!r} is not on this machine, and HF_HUB_OFFLINE forbids the network. {_suggest(name)}")
    answer = {}

    def ask():
        try:
            answer["info"] = HfApi().model_info(name, revision=revision, timeout=HUB_SECONDS)
        except Exception as error:  # handed over to the thread that waits
            answer["error"] = error

    # In a thread of its own, because looking up a host's address can hang for a minute and takes no time limit.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(HUB_SECONDS)
    if "info" in answer:
        return answer["info"]
    error = answer.get("error", f"no answer within {HUB_SECONDS} s")
    _refuse_locked(error, name)
    if isinstance(error, errors.RevisionNotFoundError):
        raise LoadError(f"{name!r} has no revision {revision!r} on the Hub.") from error
    if isinstance(error, errors.RepositoryNotFoundError):
        raise LoadError(f"the Hub has no model {name!r} that you may read. {_suggest(name)}") from error
    reason = error if isinstance(error, str) else f"{type(error).__name__}: {_first_line(error)}"
    raise LoadError(f"{name!r} is not on this machine, and the Hub cannot be reached ({reason}). {_suggest(name)} "
                    "With a mirror of the Hub, set HF_ENDPOINT to its address and start again."
                    ) from (None if isinstance(error, str) else error)


def _refuse_locked(error, name: str) -> None:
    """Say how to get at a model that the Hub does not give to everyone; with any other error do nothing."""
    from huggingface_hub import errors

    if not isinstance(error, BaseException):
        return
    while error.__cause__ is not None and not isinstance(error, errors.HfHubHTTPError):
        error = error.__cause__  # the Hub library wraps the refusal of a file in "cannot find it"
    if isinstance(error, errors.GatedRepoError):
        raise LoadError(f"{name!r} is gated: accept its licence on the Hub and log in with `hf auth login`, then load it again / "
                        "此模型需要授权：请先在 Hub 网页上接受许可，再用 `hf auth login` 登录") from error
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status in (401, 403) and not isinstance(error, errors.RepositoryNotFoundError):
        raise LoadError(f"the Hub (or the mirror in HF_ENDPOINT) refuses {name!r} with status {status}. Log in with `hf auth login`, "
                        "or check that your token may read it / 没有权限：请用 `hf auth login` 登录，或检查令牌的权限") from error


def _check_hash(saved: Path, name: str) -> None:
    """Compare a large file with the SHA-256 that is its name in the cache; the Hub library compares sizes only."""
    blob = saved.resolve()
    if not re.fullmatch(r"[0-9a-f]{64}", blob.name):
        return  # small files, and Windows without links, keep no hash beside them
    with blob.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found != blob.name:
        saved.unlink()
        blob.unlink()
        raise LoadError(f"{saved.name!r} of {name!r} arrived damaged (its SHA-256 differs) and was deleted. "
                        "Load it again; if that repeats, the mirror or proxy is at fault.")


def _what_is_here() -> str:
    here = f"Bundled: {', '.join(bundled()) or 'none'}."
    return here + (f" Downloaded before: {', '.join(names)}." if (names := cached()) else " Nothing was downloaded before.")


def _suggest(name: str) -> str:
    near = difflib.get_close_matches(name.lower(), [*bundled(), *cached()], n=1, cutoff=0.6)
    return (f"Did you mean {near[0]!r}? " if near else "") + _what_is_here()
