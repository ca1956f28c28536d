"""The notebook tool of the course; `python course.py` calls it, and authors may call it directly.

English notebooks are edited in Jupyter; then `run`, `sync`, translate the Chinese prose, `sync --accept`, `test`.
"""

import argparse
import sys
from pathlib import Path

import nbfile
import nbresults
import nbrules
import nbrun
import nbsync


def main(arguments: list[str] | None = None) -> int:
    """Runs one command; returns 0 when all is well."""
    for stream in (sys.stdout, sys.stderr):  # Windows consoles and pipes do not use UTF-8 by themselves
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(encoding="utf-8", errors="replace")
    options = _parser().parse_args(arguments)
    options.root = options.root.resolve()
    return options.command(options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="notebook.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--root", type=Path, default=nbfile.ROOT, help="folder of the course (default: this repository)"
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, function, text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text)
        sub.set_defaults(command=function)
        return sub

    sub = command(
        "normalise",
        _normalise,
        "strip what changes from run to run, then list the problems that only an author can repair",
    )
    sub.add_argument("chosen", nargs="*", metavar="NN")
    sub = command("run", _run, "execute notebooks in place and normalise them; prints time and memory")
    sub.add_argument("chosen", nargs="*", metavar="NN")
    sub.add_argument("--edition", default="en", choices=nbfile.EDITIONS)
    sub = command(
        "sync",
        _sync,
        "copy code and outputs from notebooks/en to notebooks/zh; list the Chinese prose that is missing or behind",
    )
    sub.add_argument("chosen", nargs="*", metavar="NN")
    sub.add_argument(
        "--accept",
        action="append",
        default=[],
        metavar="ID|all",
        help="mark Chinese cells as reviewed against today's English",
    )
    sub.add_argument("--check", action="store_true", help="write nothing; exit 1 when the editions differ")
    sub = command("student", _student, "write copies without solutions")
    sub.add_argument("--to", type=Path, help="target folder (default: build/student)")
    sub = command("results", _results, "compute the stored results of a chapter")
    sub.add_argument("chapter", metavar="NN")
    command(
        "test",
        lambda options: nbrun.test(options.root),
        "run all notebooks with the network cut and compare their outputs",
    )
    command("rules", _rules, "print the rules that every notebook keeps")
    command(
        "execute", lambda options: nbrun.execute(options.path), "run one notebook file in this process (used by `run`)"
    ).add_argument("path", type=Path)
    return parser


def _normalise(options: argparse.Namespace) -> int:
    problems = 0
    for english in nbfile.notebooks(options.root, "en", options.chosen):
        for path in (english, options.root / "notebooks" / "zh" / english.name):
            if path.is_file():
                nbfile.write(path, nbfile.normalise(nbfile.read(path)))
                problems += _print_problems(path, nbrules.FILE)
    return 1 if problems else 0


def _print_problems(path: Path, rules: list) -> int:
    found = [problem for rule in rules for problem in rule(nbrules.page(path))]
    for problem in found:
        print(f"notebooks/{path.parent.name}/{path.name}: {problem}")
    return len(found)


def _run(options: argparse.Namespace) -> int:
    failed = nbrun.run(options.root, options.chosen, options.edition)
    problems = sum(
        _print_problems(path, nbrules.FILE) for path in nbfile.notebooks(options.root, options.edition, options.chosen)
    )
    return 1 if failed or problems else 0


def _sync(options: argparse.Namespace) -> int:
    reports = nbsync.sync(options.root, options.chosen, options.accept, options.check)
    for line in [line for report in reports for line in report.lines()]:
        print(line)
    clean = all(report.clean for report in reports)
    print(f"editions: {sum(report.clean for report in reports)} of {len(reports)} notebooks in step")
    return 1 if options.check and not clean else 0


def _student(options: argparse.Namespace) -> int:
    target = options.to or options.root / "build" / "student"
    written = nbsync.student(options.root, target)
    print(f"wrote {len(written)} notebooks without solutions to {target}")
    return 0


def _results(options: argparse.Namespace) -> int:
    return nbresults.results(options.root, options.chapter.zfill(2))


def _rules(options: argparse.Namespace) -> int:
    for rule in nbrules.RULES:
        print(f"{rule.__name__:24} {rule.__doc__.partition(chr(10))[0]}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
