"""Executes notebooks, measures what they cost, and compares their outputs with nbval while the network is cut."""

import os
import pkgutil
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

import nbfile
import nbnames

TIME_BUDGET, MEMORY_BUDGET, LEAST_SHARE = 90.0, 1.5e9, 0.90
SANITISE = Path(__file__).resolve().parents[1] / "tests" / "nbval_sanitize.cfg"
CUT = [
    "unshare",
    "-rn",
    "sh",
    "-c",
    'ip link set lo up && exec "$@"',
    "sh",
]  # Jupyter needs the loopback, and a fresh namespace has it down
COLOURS = re.compile(r"\x1b\[[0-9;]*m")


@dataclass(frozen=True)
class Cost:
    """What a command took: wall seconds, peak resident bytes, its exit code (None: stopped at the limit), its output."""

    seconds: float
    memory: float
    code: int | None
    output: str

    def line(self) -> str:
        return (
            f"{self.seconds:5.1f} s of {TIME_BUDGET:.0f} s   {self.memory / 1e9:.2f} GB of {MEMORY_BUDGET / 1e9:.1f} GB"
        )


def network_cut() -> list[str]:
    """The words to put before a command so that it runs with only the loopback up; empty where the system forbids it.

    Raises:
        SystemExit: it is forbidden and LLMTUTOR_REQUIRE_NETNS asks for it.
    """
    if shutil.which("unshare") and subprocess.run([*CUT, "true"], capture_output=True).returncode == 0:
        return CUT
    if os.environ.get("LLMTUTOR_REQUIRE_NETNS", "") not in ("", "0"):
        raise SystemExit(
            "the network cannot be cut here (needs Linux with unshare and ip), and LLMTUTOR_REQUIRE_NETNS is set"
        )
    return []


def environment(root: Path) -> dict[str, str]:
    """The environment of a notebook's kernel: our warnings are errors, and settings of the person who runs it do not count."""
    ours = ["__main__", *_modules(root / "llmtutor", "llmtutor")]  # Python matches a module name here only as a whole
    variables = {name: value for name, value in os.environ.items() if name not in ("MPLBACKEND", "PYTHONHASHSEED")}
    return variables | {
        "PYTHONWARNINGS": ",".join(f"error:::{name}" for name in ours),
        "PYTHONIOENCODING": "utf-8",
        "LLMTUTOR_PICTURES": "1",  # committed outputs hold a picture of the explorer, which is small and never compared
        "PYTHONPATH": os.pathsep.join([str(root), variables.get("PYTHONPATH", "")]).rstrip(os.pathsep),
    }


def _modules(folder: Path, name: str) -> list[str]:
    found = [name]
    for module in pkgutil.iter_modules([str(folder)]):
        inner = f"{name}.{module.name}"
        found += _modules(folder / module.name, inner) if module.ispkg else [inner]
    return found


def measure(command: list[str], root: Path, limit: float) -> Cost:
    """Runs a command, or stops it and its children after `limit` seconds; memory is that of all children together."""
    start, peak = time.monotonic(), 0.0
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            command,
            env=environment(root),
            cwd=root,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=os.name == "posix",
        )
        try:
            while (code := _poll(process)) is None and time.monotonic() - start < limit:
                peak = max(peak, _memory_of_children(process.pid))
                time.sleep(0.2)
        finally:
            _stop(process)
        output.seek(0)
        text = COLOURS.sub("", output.read().decode("utf-8", errors="replace"))
    exact = getattr(process, "peak_memory", 0.0)
    if exact <= _own_peak():  # a child begins as a copy of this process, and the system counts that too
        exact = 0.0
    return Cost(time.monotonic() - start, max(peak, exact), code, text)


def _poll(process: subprocess.Popen) -> int | None:
    """Like `process.poll()`; on POSIX the system also says the exact peak of the largest child, which sampling may miss."""
    if os.name != "posix" or process.returncode is not None:
        return process.poll()
    pid, status, usage = os.wait4(process.pid, os.WNOHANG)
    if pid == 0:
        return None
    process.peak_memory = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    process.returncode = os.waitstatus_to_exitcode(status)
    return process.returncode


def _own_peak() -> float:
    """The most memory that this process has had, in bytes; 0 where the system does not say."""
    if os.name != "posix":
        return 0.0
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _memory_of_children(pid: int) -> float:
    """Resident bytes of all children of a process (the kernel and what it starts); shared pages count once for each."""
    total = 0.0
    try:
        for child in psutil.Process(pid).children(recursive=True):
            total += child.memory_info().rss
    except psutil.NoSuchProcess:  # it ended while we looked; the next sample will see what is left
        return total
    return total


def _stop(process: subprocess.Popen) -> None:
    """Ends a process that is still there, with everything it started."""
    if process.returncode is not None:
        return
    children = psutil.Process(process.pid).children(recursive=True) if psutil.pid_exists(process.pid) else []
    for child in [*children, process]:
        try:
            child.send_signal(signal.SIGTERM)
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(children, timeout=5)
    process.wait(timeout=10)


def execute(path: Path) -> None:
    """Runs one notebook top to bottom in a fresh kernel and writes it back; `run` calls this in a process of its own.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell failed; the notebook is left as it was.
    """
    import nbclient
    import nbformat

    notebook = nbformat.from_dict(nbfile.normalise(nbfile.read(path)))
    client = nbclient.NotebookClient(
        notebook,
        timeout=int(3 * TIME_BUDGET),
        kernel_name="python3",
        record_timing=False,
        coalesce_streams=True,
        resources={"metadata": {"path": str(path.parent)}},
        store_widget_state=False,
    )
    client.execute()
    nbfile.write(path, nbfile.normalise(notebook))


def run(root: Path, chosen: list[str], edition: str) -> int:
    """Executes notebooks in place and prints what each costs; returns the number that failed."""
    failed = 0
    for path in nbfile.notebooks(root, edition, chosen):
        command = [sys.executable, str(Path(__file__).with_name("notebook.py")), "execute", str(path)]
        cost = measure(command, root, limit=4 * TIME_BUDGET)
        failed += cost.code != 0
        print(f"{path.name:32} {'done  ' if cost.code == 0 else 'FAILED'} {cost.line()}", flush=True)
        if cost.code != 0:
            print(cost.output)
    return failed


def test(root: Path) -> int:
    """Compares every English notebook with a fresh run, network cut, and prints cost and coverage; returns 0 when all is well."""
    paths = nbfile.notebooks(root, "en")
    if not paths:
        print("there are no notebooks in notebooks/en yet")
        print("notebooks: 0 passed, 0 failed")
        return 0
    cut = network_cut()
    print(
        "notebooks run with the network cut"
        if cut
        else "notebooks run with the network NOT cut: network namespaces are not available here"
    )
    failed = sum(not _passes(path, root, cut) for path in paths)
    covered = _print_share(paths)
    print(
        f"notebooks: {len(paths) - failed} passed, {failed} failed"
        + ("" if covered else "; too few cells are compared")
    )
    return 1 if failed or not covered else 0


def _passes(path: Path, root: Path, cut: list[str]) -> bool:
    """Runs nbval over one notebook and prints one line, and nbval's report where it fails."""
    pytest = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "--color=no",
        "-p",
        "no:cacheprovider",
        "-o",
        "addopts=",
        "-o",
        "filterwarnings=",
        f"--rootdir={path.parent}",
    ]
    nbval = [
        "--nbval",
        "--nbval-current-env",
        "--nbval-sanitize-with",
        str(SANITISE),
        f"--nbval-cell-timeout={3 * TIME_BUDGET}",
    ]
    cost = measure([*cut, *pytest, *nbval, str(path)], root, limit=3 * TIME_BUDGET)
    reasons = {
        "outputs differ or a cell failed": cost.code not in (0, None),
        f"took more than three times its budget of {TIME_BUDGET:.0f} s": cost.code is None
        or cost.seconds > 3 * TIME_BUDGET,
        f"took more than {MEMORY_BUDGET / 1e9:.1f} GB of memory": cost.memory > MEMORY_BUDGET,
    }
    wrong = [reason for reason, holds in reasons.items() if holds]
    slow = "   (over its time budget)" if TIME_BUDGET < cost.seconds else ""
    print(f"{path.name:32} {'FAILED' if wrong else 'passed'} {cost.line()}{slow}", flush=True)
    if wrong:
        print(f"  {'; '.join(wrong)}\n{cost.output}")
    return not wrong


def _print_share(paths: list[Path]) -> bool:
    """Prints how many cells are held to something; True when the share is above 90 %."""
    kinds = [kind for path in paths for cell in nbfile.read(path)["cells"] if (kind := coverage(cell))]
    held, counted = sum(kind == "held" for kind in kinds), sum(kind != "picture" for kind in kinds)
    share = held / counted if counted else 1.0
    print(
        f"compared or asserted: {held} of {counted} cells with an output or a claim, {share:.0%} (more than "
        f"{LEAST_SHARE:.0%} wanted); "
        f"not counted: {kinds.count('picture')} cells with nothing but a picture"
    )
    return share > LEAST_SHARE


def coverage(cell: dict) -> str | None:
    """How a cell is tested.

    "held": compared, or asserts a claim; "loose": neither; "picture": only a picture; None: nothing to test.
    """
    if cell["cell_type"] != "code":
        return None
    if nbnames.claims(cell["source"]):
        return "held"
    if not cell["outputs"]:
        return None
    ignored = "nbval-ignore-output" in nbfile.tags(cell) or re.search(
        r"^\s*#+\s*NBVAL_(IGNORE_OUTPUT|SKIP)", cell["source"], re.MULTILINE
    )
    texts = [text for output in cell["outputs"] for text in _compared(output)]
    if not texts:
        return "picture"
    counted = cell["execution_count"] is not None and not ignored
    return "held" if counted and any(re.search(r"\w", _without_sanitised(text)) for text in texts) else "loose"


def _compared(output: dict) -> list[str]:
    """The texts of an output that nbval compares and that say something; the label of a figure does not."""
    data = output.get("data", {})
    picture = any(mime.startswith("image/") for mime in data)
    texts = [output["text"]] if "text" in output else []
    return texts + [
        str(value)
        for mime, value in data.items()
        if not mime.startswith("image/") and not (picture and mime == "text/plain")
    ]


def _without_sanitised(text: str) -> str:
    """The text with everything removed that the sanitise file hides from the comparison."""
    for pattern in re.findall(r"^regex: (.*)$\n^replace: ", SANITISE.read_text(encoding="ascii"), flags=re.MULTILINE):
        text = re.sub(pattern, "", text)
    return text
