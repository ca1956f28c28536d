"""Keeps the reader's copies of the notebooks in `my/`, so that an update of the course never touches a reader's work.

Used by `course.py lab`; standard library only. The rules, for each notebook of the course:

- no copy yet: copy it;
- the course's notebook is as it was when copied: leave the copy alone;
- it changed, and the reader edited nothing (ran it at most): refresh the copy;
- both changed: keep the reader's, and put the new one beside it as `NAME.new.ipynb`.
"""

import hashlib
import json
import shutil
from pathlib import Path

LANGUAGES = ("en", "zh")
RECORD = ".copies.json"


def file_hash(path):
    """Return a hash of the file that does not depend on the line ends of the checkout."""
    return hashlib.sha256(path.read_bytes().replace(b"\r\n", b"\n")).hexdigest()


def written_hash(path):
    """Return a hash of what a reader writes in a notebook: types, sources and attachments of the cells, not their outputs.

    A file that is no notebook (any more) counts by its bytes, so that it is never taken for an untouched one.
    """
    try:
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        written = [[cell["cell_type"], "".join(cell["source"]), cell.get("attachments")] for cell in cells]
    except (ValueError, KeyError, TypeError):
        return file_hash(path)
    return hashlib.sha256(json.dumps(written, sort_keys=True).encode("utf-8")).hexdigest()


def load_record(mine):
    """Return what is known of earlier copies: name -> hashes of the course's notebook at that time."""
    try:
        return json.loads((mine / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def free_name(target, record, mine):
    """Return where a new edition beside an edited copy may go: `NAME.new.ipynb`, numbered where the reader edited that too."""
    for number in ["", *range(2, 1000)]:
        path = target.with_name("{}.new{}.ipynb".format(target.stem, number))
        known = record.get(path.relative_to(mine).as_posix())
        if not path.exists() or (known and known["written"] == written_hash(path)):
            return path
    raise RuntimeError("1000 editions lie beside {}: delete some".format(target))


def update_copies(notebooks, mine):
    """Bring `mine` up to date by the rules above.

    Args:
        notebooks: folder of the course with `en/*.ipynb` and `zh/*.ipynb`.
        mine: folder of the copies; made when missing.

    Returns:
        (written, messages): the copies that were written, and one line for each notebook that both sides changed.
    """
    record, before = load_record(mine), json.dumps(load_record(mine))
    written, messages = [], []

    def put(source, target):
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(str(source), str(target))
        written.append(target)
        record[target.relative_to(mine).as_posix()] = {"course": file_hash(source), "written": written_hash(source)}

    for source in sorted(path for language in LANGUAGES for path in (notebooks / language).glob("*.ipynb")):
        target = mine / source.parent.name / source.name
        known = record.get(target.relative_to(mine).as_posix(), {})
        if not target.exists():
            put(source, target)
        elif known.get("course") != file_hash(source):
            mine_now = written_hash(target)
            if mine_now in (known.get("written"), written_hash(source)):
                put(source, target)
            else:
                beside = free_name(target, record, mine)
                put(source, beside)
                # Remember the new edition for the old name too, so that it is announced once and not at every start.
                record[target.relative_to(mine).as_posix()] = record[beside.relative_to(mine).as_posix()]
                messages.append(
                    "{0} was updated and you edited your copy: yours is kept, the new one is {1} / "
                    "课程更新了 {0}，而你改过自己的副本：保留你的，新版另存为 {1}".format(source.name, Path(mine.name, source.parent.name, beside.name))
                )
    if json.dumps(record) != before:
        mine.mkdir(parents=True, exist_ok=True)
        (mine / RECORD).write_text(json.dumps(record, indent=1, sort_keys=True), encoding="utf-8")
    return written, messages
