"""Keeps the Chinese edition in step with the English one, and makes copies for students.

English is the source of truth. A Chinese notebook has the same cells in the same order; code and outputs are copied,
prose is written by people. Each Chinese Markdown cell remembers, as `metadata.en_hash`, which English text it was last
reviewed against.
"""

import copy
import hashlib
import re
from dataclasses import dataclass, field
from pathlib import Path

import nbfile

CHINESE = re.compile(r"[\u3400-\u9fff]")
NOT_PROSE = re.compile(r"```.*?```|`[^`]*`|\$\$.*?\$\$|\$[^$]*\$|<[^>]+>|\]\([^)]*\)", re.DOTALL)


@dataclass
class Report:
    """What a comparison of one notebook's editions found; every list holds cell ids."""

    name: str
    drift: list[str] = field(default_factory=list)  # code, outputs, order or tags differ
    untranslated: list[str] = field(default_factory=list)
    stale: list[str] = field(default_factory=list)  # the English text has changed since the Chinese was reviewed
    refused: list[str] = field(default_factory=list)  # --accept asked for cells that hold no Chinese

    @property
    def clean(self) -> bool:
        return not (self.drift or self.untranslated or self.stale)

    def lines(self) -> list[str]:
        """One line for each kind of difference, with what to do."""
        remedies = {
            "drift": "differs from the English edition: run `python course.py sync`",
            "untranslated": "has no Chinese yet: write it in notebooks/zh, then `sync --accept ID`",
            "stale": "English changed since the review: revise the Chinese, then `sync --accept ID`",
            "refused": "not accepted: it holds no Chinese text",
        }
        return [
            f"{self.name}: {kind} {', '.join(ids)} ({remedy})"
            for kind, remedy in remedies.items()
            if (ids := getattr(self, kind))
        ]


def source_hash(source: str) -> str:
    """The hash that a translation remembers of the English text."""
    return hashlib.sha256(source.encode("utf-8")).hexdigest()[:12]


def needs_translation(source: str) -> bool:
    """False for a cell that is only formulas, code, tags or pictures, which both editions share."""
    return bool(re.search(r"[A-Za-z]{2,}", NOT_PROSE.sub("", source)))


def follow(english: dict, chinese: dict) -> dict:
    """A Chinese notebook with the English one's cells, order, code and outputs; the Chinese prose is kept."""
    prose = {cell["id"]: cell for cell in chinese["cells"] if cell["cell_type"] == "markdown"}
    result = copy.deepcopy(english)
    for cell in result["cells"]:
        if cell["cell_type"] != "markdown" or not needs_translation(cell["source"]):
            continue
        known = prose.get(cell["id"])
        cell["metadata"]["en_hash"] = known["metadata"].get("en_hash", "none") if known else "none"
        if known:
            cell["source"] = known["source"]
    return result


def compare(name: str, english: dict, chinese: dict) -> Report:
    """What keeps the two editions apart."""
    report = Report(name)
    wanted = follow(english, chinese)
    want, have = ({cell["id"]: cell for cell in notebook["cells"]} for notebook in (wanted, chinese))
    report.drift = [id for id in dict.fromkeys([*want, *have]) if want.get(id) != have.get(id)]
    if not report.drift and list(want) != list(have):
        report.drift = ["(order of cells)"]
    for source, cell in zip(english["cells"], wanted["cells"], strict=True):
        if "en_hash" not in cell["metadata"]:
            continue
        if not CHINESE.search(cell["source"]):
            report.untranslated.append(cell["id"])
        elif cell["metadata"]["en_hash"] != source_hash(source["source"]):
            report.stale.append(cell["id"])
    return report


def accept(english: dict, chinese: dict, ids: list[str]) -> list[str]:
    """Marks Chinese cells (`["all"]` for all) as reviewed against today's English.

    Returns the ids refused for holding no Chinese.
    """
    sources = {cell["id"]: cell["source"] for cell in english["cells"]}
    cells = {cell["id"]: cell for cell in chinese["cells"] if "en_hash" in cell["metadata"]}
    chosen = list(cells) if ids == ["all"] else [id for id in ids if id in cells]
    refused = [id for id in chosen if not CHINESE.search(cells[id]["source"])]
    for id in chosen:
        if id not in refused:
            cells[id]["metadata"]["en_hash"] = source_hash(sources[id])
    return refused


def sync(root: Path, chosen: list[str] = (), accepted: list[str] = (), check_only: bool = False) -> list[Report]:
    """Brings notebooks/zh in step with notebooks/en (or only compares them) and reports what people must still do.

    Raises:
        SystemExit: an accepted id names no Chinese Markdown cell.
    """
    reports = []
    for path in nbfile.notebooks(root, "en", chosen):
        other = root / "notebooks" / "zh" / path.name
        english = nbfile.read(path) if check_only else nbfile.normalise(nbfile.read(path))
        chinese = nbfile.read(other) if other.is_file() else {"cells": []}
        refused = []
        if not check_only:
            chinese = nbfile.normalise(follow(english, chinese))
            refused = accept(english, chinese, list(accepted))
            nbfile.write(path, english)
            nbfile.write(other, chinese)
        report = compare(path.name, english, chinese)
        report.refused = refused
        reports.append(report)
    for orphan in {p.name for p in nbfile.notebooks(root, "zh")} - {p.name for p in nbfile.notebooks(root, "en")}:
        reports.append(Report(orphan, drift=["(no such notebook in notebooks/en)"]))
    if unknown := _unknown_ids(root, accepted):
        raise SystemExit(f"no Chinese Markdown cell has the id {', '.join(unknown)}")
    return reports


def _unknown_ids(root: Path, ids: list[str]) -> list[str]:
    known = {
        cell["id"]
        for path in nbfile.notebooks(root, "zh")
        for cell in nbfile.read(path)["cells"]
        if "en_hash" in cell["metadata"]
    }
    return [id for id in ids if id != "all" and id not in known]


def without_solutions(notebook: dict) -> dict:
    """A copy without the cells tagged `solution` (code, outputs, and the prose that introduces it), counts 1..n again."""
    result = copy.deepcopy(notebook)
    result["cells"] = [cell for cell in result["cells"] if "solution" not in nbfile.tags(cell)]
    count = 0
    for cell in result["cells"]:
        if cell["cell_type"] == "code":
            count += 1
            cell["execution_count"] = count
    return nbfile.normalise(result)


def student(root: Path, target: Path) -> list[Path]:
    """Writes copies of all notebooks without solutions to `target`/en and `target`/zh; returns their paths."""
    written = []
    for edition in nbfile.EDITIONS:
        for path in nbfile.notebooks(root, edition):
            copy_path = target / edition / path.name
            nbfile.write(copy_path, without_solutions(nbfile.read(path)))
            written.append(copy_path)
    return written
