"""The files of a run: the tokenizer that a resumed run takes up again, and the model that it leaves behind."""
from pathlib import Path


def resumed_tokenizer(out, fresh, make, kind="AutoTokenizer"):
    """Take the tokenizer of the run in `out`, so that a resumed run keeps its numbers, or make a new one and write it there.

    Args:
        out: Folder of the run.
        fresh: Whether to make a new one in any case.
        make: Function without arguments that makes it.
        kind: Name of the class of transformers that reads it.
    """
    import transformers
    if not fresh and (Path(out) / "tokenizer.json").exists():
        return getattr(transformers, kind).from_pretrained(out)
    tokenizer = make()
    tokenizer.save_pretrained(out)
    return tokenizer


def save(model, tokenizer, out):
    """Write the model in half precision, with its tokenizer and its settings for `generate`, in the layout that transformers' own classes read."""
    tokenizer.save_pretrained(out)
    model.half().save_pretrained(out, safe_serialization=True)
    model.float()
