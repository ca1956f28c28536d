"""Write `docs/samples.md`: 40 texts of every kind in both languages, so that a reader can judge the story world's language.

    python docs/samples.py            # write it again
"""
from pathlib import Path

from llmtutor import storyworld

COUNT = 40
HERE = Path(__file__).resolve().parent


def told():
    """Every kind with a function of (seed, language) that gives a text; tests and samples use negative seeds."""
    for tell in (storyworld.story, storyworld.short, storyworld.facts, storyworld.moves, storyworld.plain):
        yield tell.__name__, lambda seed, lang, tell=tell: tell(seed, lang).text
    for kind in storyworld.KINDS:
        yield kind, lambda seed, lang, kind=kind: storyworld.text(seed, lang, kind).text


def main():
    lines = ["# Samples of the story world", "", f"Made by `python docs/samples.py`: the texts of seeds -5001 to -{5000 + COUNT}, nothing chosen. / 由脚本生成，未经挑选。"]
    for kind, tell in told():
        for lang in ("en", "zh"):
            lines += ["", f"## {kind}, {lang}", ""]
            lines += [f"{-seed}. {tell(seed, lang)}".replace("\n", "<br>") for seed in range(-5001, -5001 - COUNT, -1)]
    (HERE / "samples.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
