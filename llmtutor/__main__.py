"""LLM Tutor without a notebook: `python -m llmtutor models | doctor | explore`."""

from __future__ import annotations

import argparse
import platform
import sys
from importlib import metadata
from pathlib import Path

from llmtutor import __version__, models

_PACKAGES = ("torch", "transformers", "tokenizers", "numpy", "matplotlib", "jupyterlab", "bertviz", "anywidget", "nbval")


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return the exit status: 0 done, 1 it could not be done, 2 a mistake in the command line."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a Windows pipe may not know Chinese
    options = _parser().parse_args(arguments)
    try:
        return options.run(options)
    except (ValueError, TypeError, LookupError, OSError) as error:
        print(f"llmtutor: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m llmtutor", description="Look inside language models.")
    parser.add_argument("--version", action="version", version=f"llmtutor {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    listing = commands.add_parser("models", help="list the models that load with no network / 列出可用模型")
    listing.set_defaults(run=list_models)

    doctor_ = commands.add_parser("doctor", help="check that everything needed is here / 检查环境")
    doctor_.set_defaults(run=doctor)

    explore_ = commands.add_parser("explore", help="write the attention maps of a text to a file / 画出一句话的注意力图")
    explore_.add_argument("text", help="the text to read, in quotes")
    explore_.add_argument("--model", default="story-gpt", help="bundled model, folder or Hub name (default: %(default)s)")
    explore_.add_argument("--layer", type=int, help="only this layer (0 is the first)")
    explore_.add_argument("--head", type=int, help="only this head (0 is the first)")
    explore_.add_argument("-o", "--output", default="map.html", type=Path,
                          help="a file ending in .html, .svg, .png, .pdf or .npz (default: %(default)s)")
    explore_.set_defaults(run=explore)
    return parser


def list_models(_options) -> int:
    """Print bundled and downloaded models with the size of their files."""
    groups = (("bundled", {name: models.BUNDLED / name for name in models.bundled()}),
              ("downloaded", {name: models.cached_folder(name) for name in models.cached()}))
    for kind, folders in groups:
        for name, folder in folders.items():
            size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
            print(f"{kind:10}  {name:40} {size / 1e6:9.1f} MB")
    if not any(folders for _, folders in groups):
        print("no models: the folder llmtutor/bundled is empty")
    return 0


def doctor(_options) -> int:
    """Print one line for each thing that is needed; return 1 if something essential is broken."""
    lines = [(sys.version_info >= (3, 11), f"Python {platform.python_version()} (3.11 or newer is needed)")]
    lines += [_package(name) for name in _PACKAGES]
    lines += [_loads(name) for name in models.bundled()] or [(False, "no bundled model: get the folder llmtutor/bundled")]
    for good, line in lines:
        print(f"{'ok' if good else 'BROKEN':6}  {line}")
    print(f"{'note':6}  {_fonts()}")
    return 0 if all(good for good, _ in lines) else 1


def _package(name: str) -> tuple[bool, str]:
    try:
        version = metadata.version(name)
    except metadata.PackageNotFoundError:
        return False, f"{name} is missing: run `python course.py lab` once, or pip install {name}"
    if name != "torch":
        return True, f"{name} {version}"
    try:
        import torch
    except (ImportError, OSError) as error:  # OSError: a library of the system that torch needs is missing
        return False, f"torch {version} cannot be imported: {error}"
    return True, f"torch {version}, {torch.get_num_threads()} threads, GPU: {'yes' if torch.cuda.is_available() else 'no'}"


def _loads(name: str) -> tuple[bool, str]:
    try:
        return True, f"bundled model: {models.load(name)}"
    except Exception as error:  # whatever it is, the doctor must go on and say it
        return False, f"bundled model {name!r} does not load: {type(error).__name__}: {error}"


def _fonts() -> str:
    try:
        from llmtutor import plots
    except ImportError as error:
        return f"figures cannot be drawn: {error}"
    found = plots.cjk_font()
    return f"Chinese in figures: {found or 'no font found; save figures as SVG, or install a Chinese font'}"


def explore(options) -> int:
    """Read a text with a model and write its attention maps to a file."""
    from llmtutor.attention import attend

    output, place = options.output, {"layer": options.layer, "head": options.head}
    if output.suffix not in (".html", ".htm", ".svg", ".png", ".pdf", ".npz"):
        raise ValueError(f"the output must end in .html, .svg, .png, .pdf or .npz; got {output.name!r}")
    if not output.resolve().parent.is_dir():
        raise ValueError(f"the folder {str(output.parent)!r} does not exist; make it first")
    layers, heads = ([number] if number is not None else None for number in place.values())
    att = attend(models.load(options.model), options.text, layers=layers, heads=heads)
    if output.suffix in (".html", ".htm"):
        from llmtutor import viewer
        output.write_text(viewer.html(att), encoding="utf-8")        # one page to explore, with no network
    else:
        att.save(output, **({} if output.suffix == ".npz" else place))
    print(f"{att} -> {output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
