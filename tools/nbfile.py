"""Notebooks as plain dictionaries: read, write in one canonical form, and normalise before a commit.

The canonical form has sorted keys, one-space indent, LF, no widget state, no timings, nothing of the machine it ran on. Text that
the format stores as a list of lines is one string here. What cannot be repaired without the author is left for `nbrules`.
"""

import hashlib
import json
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
EDITIONS = ("en", "zh")
KEPT_CELL_METADATA = ("tags", "jupyter", "slideshow", "en_hash")
WIDGET_MIME = "application/vnd.jupyter.widget-view+json"
EXPLORER = "<!-- llmtutor:explorer -->"  # how the HTML of the attention explorer begins; a picture stands beside it
NOTEBOOK_METADATA = {  # GitHub and nbconvert colour the code by language_info; a version in it would differ between machines
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {
        "file_extension": ".py",
        "mimetype": "text/x-python",
        "name": "python",
        "pygments_lexer": "ipython3",
    },
}


def notebooks(root: Path, edition: str, chosen: list[str] = ()) -> list[Path]:
    """The notebooks of one edition in order; `chosen` narrows them to names that begin so ("00", "03-pretraining").

    Raises:
        SystemExit: a chosen notebook does not exist.
    """
    everything = sorted((root / "notebooks" / edition).glob("[0-9]*.ipynb"))
    for name in chosen:
        if not any(path.name.startswith(name) for path in everything):
            raise SystemExit(
                f"there is no notebook {name!r} in notebooks/{edition}; found: "
                f"{', '.join(p.name for p in everything) or 'none'}"
            )
    return [path for path in everything if not chosen or any(path.name.startswith(name) for name in chosen)]


def read(path: Path) -> dict:
    """The notebook as a dictionary, every multi-line text joined to one string."""
    notebook = json.loads(path.read_text(encoding="utf-8"))
    for cell in notebook["cells"]:
        cell["source"] = _joined(cell["source"])
        for output in cell.get("outputs", []):
            if "text" in output:
                output["text"] = _joined(output["text"])
            for mime, value in output.get("data", {}).items():
                output["data"][mime] = value if mime.endswith("json") else _joined(value)
    return notebook


def write(path: Path, notebook: dict) -> None:
    """Writes the canonical form; the same content always gives the same bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(dumps(notebook).encode("utf-8"))


def dumps(notebook: dict) -> str:
    """The text of a notebook file: texts split into lines as Jupyter stores them, keys sorted."""
    stored = json.loads(json.dumps(notebook))  # a copy, so that the caller's notebook keeps its joined texts
    for cell in stored["cells"]:
        cell["source"] = cell["source"].splitlines(keepends=True)
        for output in cell.get("outputs", []):
            if "text" in output:
                output["text"] = output["text"].splitlines(keepends=True)
            for mime, value in output.get("data", {}).items():
                if isinstance(value, str) and not mime.endswith("json"):
                    output["data"][mime] = value.splitlines(keepends=True)
    return json.dumps(stored, ensure_ascii=False, indent=1, sort_keys=True) + "\n"


def normalise(notebook: dict) -> dict:
    """The notebook without what changes from run to run or from machine to machine; doing it twice changes nothing more."""
    cells = [_normal_cell(cell) for cell in notebook["cells"]]
    _give_ids(cells)
    return {"cells": cells, "metadata": json.loads(json.dumps(NOTEBOOK_METADATA)), "nbformat": 4, "nbformat_minor": 5}


def tags(cell: dict) -> list[str]:
    """The cell's tags, an empty list where it has none."""
    return cell["metadata"].get("tags", [])


def _joined(text: str | list[str]) -> str:
    return text if isinstance(text, str) else "".join(text)


def _normal_cell(cell: dict) -> dict:
    metadata = {key: value for key, value in cell.get("metadata", {}).items() if key in KEPT_CELL_METADATA and value}
    if "jupyter" in metadata:
        metadata["jupyter"] = {
            key: value for key, value in metadata["jupyter"].items() if key == "source_hidden" and value
        }
    normal = {
        "cell_type": cell["cell_type"],
        "metadata": {key: value for key, value in metadata.items() if value},
        "source": cell["source"].replace("\r\n", "\n").rstrip(),
    }
    normal |= {key: cell[key] for key in ("id", "attachments") if cell.get(key)}
    if cell["cell_type"] == "code":
        normal["execution_count"] = cell.get("execution_count")
        normal["outputs"] = _normal_outputs(cell)
    return normal


def _normal_outputs(cell: dict) -> list[dict]:
    """Outputs without widget views, times and display ids; neighbouring pieces of one stream become one."""
    outputs = []
    for output in cell.get("outputs", []):
        output = {key: value for key, value in output.items() if key != "transient"}
        if "data" in output:
            output["data"] = {mime: value for mime, value in output["data"].items() if not _is_live(mime, value)}
            output["metadata"] = {
                mime: value for mime, value in output.get("metadata", {}).items() if mime in output["data"]
            }
            if not output["data"]:
                continue
        if output["output_type"] == "execute_result":
            output["execution_count"] = cell.get("execution_count")
        if output["output_type"] == "error":  # the places in a traceback are paths of this machine; what went wrong stays
            output["traceback"] = [f"{output['ename']}: {output['evalue']}"]
        last = outputs[-1] if outputs else {}
        if output["output_type"] == "stream" and output["name"] == last.get("name"):
            last["text"] += output["text"]
        else:
            outputs.append(output)
    return outputs


def _is_live(mime: str, value) -> bool:
    """True for what needs a kernel or holds the whole explorer; what is committed is the picture beside it."""
    return mime == WIDGET_MIME or (mime == "text/html" and "".join(value).startswith(EXPLORER))


def _give_ids(cells: list[dict]) -> None:
    """Keeps every id; a missing or repeated one is made from the cell's text, so that everybody gets the same."""
    taken = {cell["id"] for cell in cells if cell.get("id")}
    seen = set()
    for cell in cells:
        if not cell.get("id") or cell["id"] in seen:
            cell["id"] = _new_id(cell, taken)
            taken.add(cell["id"])
        seen.add(cell["id"])


def _new_id(cell: dict, taken: set[str]) -> str:
    number = 0
    while True:
        text = f"{cell['cell_type']}\0{cell['source']}\0{number}"
        candidate = "c" + hashlib.sha256(text.encode("utf-8")).hexdigest()[:8]
        if candidate not in taken:
            return candidate
        number += 1
