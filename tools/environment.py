"""Makes the course's own environment, `.venv`, once: pinned versions, the CPU build of torch where there is no GPU.

Used by `course.py`; standard library only. The file must parse on old Pythons (3.8), because `course.py` imports it before
it can say that Python is too old. What is done is written in `prepare`, from top to bottom.
"""

import hashlib
import json
import os
import queue
import re
import shutil
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
STAMP = VENV / "llmtutor.json"  # written last: an interrupted set-up leaves none
LOG = VENV / "install.log"
RECIPE = 1  # raise it when the steps below change in a way that old environments need
TORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"
NEEDED_GB = 3.0  # measured: 1.7 GB installed, and room for what is downloaded and unpacked on the way


class SetupError(Exception):
    """Something the reader can put right: an English and a Chinese sentence, each with the remedy."""

    def __init__(self, english, chinese):
        super().__init__(english)
        self.english, self.chinese = english, chinese


def say(text=""):
    """Print one line at once, also where the output is a file or a pipe."""
    print(text, flush=True)


# ---- what the environment should be ---------------------------------------------------------------------------------


def read_project(root=ROOT):
    """Return the requirements of pyproject.toml: the required ones and those of all extras, as a list of strings."""
    import tomllib  # Python 3.11; not at the top, so that older Pythons get as far as the message about their age

    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return project["dependencies"] + [line for extra in project["optional-dependencies"].values() for line in extra]


def requirement_name(requirement):
    """Return the normalised name in a requirement: `XStatic-D3>=3.5,<4` -> `xstatic-d3`."""
    return re.sub(r"[-_.]+", "-", re.match(r"[A-Za-z0-9._-]+", requirement.strip()).group()).lower()


def read_constraints(root=ROOT):
    """Return constraints.txt as a dict from normalised name to exact version."""
    lines = (root / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pairs = [line.split("==") for line in lines if line.strip() and not line.startswith("#")]
    return {requirement_name(name): version.strip() for name, version in pairs}


def venv_python(venv=VENV):
    """Return the path of the environment's Python on this system."""
    return venv / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def venv_version(venv=VENV):
    """Return the Python version that the environment was made with, '' where there is none."""
    config = venv / "pyvenv.cfg"
    found = re.search(r"^version(?:_info)?\s*=\s*(\S+)", config.read_text(encoding="utf-8"), re.M) if config.exists() else None
    return found.group(1) if found else ""


def fingerprint(root=ROOT, venv=VENV, unpinned=False):
    """Return the hash that the stamp must hold: the two files, the environment's Python, our recipe, pinned or not."""
    digest = hashlib.sha256()
    for name in ("pyproject.toml", "constraints.txt"):
        # Windows checkouts may have other line ends; they are no reason to install anything.
        digest.update((root / name).read_bytes().replace(b"\r\n", b"\n"))
    digest.update(repr((venv_version(venv), RECIPE, bool(unpinned))).encode())
    return digest.hexdigest()


def is_ready(root=ROOT, venv=VENV, unpinned=False):
    """True when the stamp fits, so that nothing needs to be done. Costs a few milliseconds."""
    try:
        stamp = json.loads((venv / STAMP.name).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return venv_python(venv).exists() and stamp.get("fingerprint") == fingerprint(root, venv, unpinned)


# ---- before anything is installed -----------------------------------------------------------------------------------


def check_disk(folder, needed_gb=NEEDED_GB, usage=shutil.disk_usage):
    """Raise `SetupError` when the disk that holds `folder` has less than `needed_gb` free."""
    free_gb = usage(str(folder)).free / 1e9
    if free_gb < needed_gb:
        raise SetupError(
            "the disk that holds {} has {:.1f} GB free, and the set-up needs {:.1f} GB: free some space, or move the "
            "course to another disk, then run the same command again".format(folder, free_gb, needed_gb),
            "{} 所在磁盘只剩 {:.1f} GB，安装需要 {:.1f} GB：请腾出空间或把课程移到别的磁盘，再运行同一命令".format(
                folder, free_gb, needed_gb
            ),
        )


def has_nvidia_driver():
    """True where an NVIDIA driver answers, so that a CUDA build of torch is of use."""
    return Path("/proc/driver/nvidia/version").exists() or shutil.which("nvidia-smi") is not None


def answers(index, timeout=4):
    """True when a package index answers for torch within `timeout` seconds."""
    try:
        with urllib.request.urlopen(index.rstrip("/") + "/torch/", timeout=timeout) as reply:
            return reply.status == 200
    except (OSError, ValueError):  # URLError and timeouts are OSErrors; ValueError: not a URL
        return False


def cuda_packages(report):
    """Return the names in a pip report (`pip install --dry-run --report`) that belong to a CUDA build of torch."""
    found = []
    for item in report.get("install", []):
        name, version = item["metadata"]["name"].lower(), item["metadata"]["version"]
        if name.startswith(("nvidia", "cuda")) or name == "triton" or (name == "torch" and "+cu" in version):
            found.append(name)
    return sorted(found)


def cuda_in_line(line):
    """Return the first sign of a CUDA build in a line that pip prints, '' where there is none.

    Some versions of pip and some indexes fetch whole files to learn what they need; this stops them before the large ones:
    a CUDA package is named, or a torch of more than 400 MB (the CPU build has about 200).
    """
    named = re.match(r"\s*Collecting ((?:nvidia|cuda|triton)[\w-]*)", line)
    if named:
        return named.group(1)
    large = re.match(r"\s*Downloading \S*(torch-\S+\.whl) \(([\d.]+) (MB|GB)\)", line)
    return large.group(1) if large and (large.group(3) == "GB" or float(large.group(2)) > 400) else ""


def refuse_cuda(found):
    """Raise `SetupError` when CUDA packages were found in what pip would do: gigabytes must never arrive by accident."""
    if found:
        raise SetupError(
            "this machine has no NVIDIA driver, yet pip would fetch a CUDA build of torch ({}, ...), several GB. Set "
            "LLMTUTOR_TORCH_INDEX to a mirror of {} and run the same command again, or add --allow-cuda to take "
            "it".format(found[0], TORCH_CPU_INDEX),
            "本机没有 NVIDIA 驱动，但 pip 将下载数 GB 的 CUDA 版 torch。请把 LLMTUTOR_TORCH_INDEX 设为 {} 的镜像后重试，"
            "或加 --allow-cuda 接受下载".format(TORCH_CPU_INDEX),
        )


def watch_for_cuda(line):
    """Stop pip at the first line that tells of a CUDA build."""
    refuse_cuda([sign for sign in [cuda_in_line(line)] if sign])


# ---- running pip ----------------------------------------------------------------------------------------------------


def explain_failure(log):
    """Return the `SetupError` that fits what pip printed."""
    if re.search(r"No space left on device|Errno 28|WinError 112|not enough space", log):
        return SetupError(
            "the disk is full: free about {:.0f} GB (pip also needs room in the folder for temporary files), then run the "
            "same command again; it goes on where it stopped".format(NEEDED_GB),
            "磁盘已满：请腾出约 {:.0f} GB（临时文件夹也需要空间），再运行同一命令，会接着安装".format(NEEDED_GB),
        )
    network = r"NewConnectionError|NameResolutionError|name resolution|ConnectTimeout|ReadTimeout|Read timed out|ProxyError"
    if re.search(network + r"|Network is unreachable|Connection refused|ConnectionResetError|getaddrinfo failed", log):
        return SetupError(
            "no package index could be reached, and the first run needs the network once: check the connection, or name a "
            "mirror (PIP_INDEX_URL for packages, LLMTUTOR_TORCH_INDEX for torch), then run the same command again",
            "连不上软件包源，首次运行需要联网：请检查网络，或指定镜像（PIP_INDEX_URL 用于软件包，LLMTUTOR_TORCH_INDEX 用于 "
            "torch），再运行同一命令",
        )
    errors = [line for line in log.splitlines() if line.startswith("ERROR")]
    last = (errors or log.strip().splitlines() or ["pip said nothing"])[-1]
    advice = ""
    if "No matching distribution found for torch" in log:
        advice = " (no build of torch for this system and Python: try another Python from 3.11 on, or conda with environment.yml)"
    return SetupError(
        "pip failed: {}{}; its whole output is in {}".format(last, advice, LOG),
        "pip 失败，完整输出见 {}".format(LOG),
    )


def show_progress(label, started, detail):
    """Redraw the one line that tells what is going on, where the output is a terminal."""
    width = shutil.get_terminal_size().columns - 1
    text = "{}  {:.0f} s  {}".format(label, time.monotonic() - started, detail)
    print("\r" + text[:width].ljust(width), end="", flush=True)


def run_logged(command, label, watch=lambda line: None):
    """Run a command, its output going to the log and condensed to one line; raise where it fails.

    `watch` sees each line as it comes; when it raises, the command is ended.
    """
    say(label)
    started, lines, told = time.monotonic(), [], time.monotonic()
    child = subprocess.Popen(
        [str(word) for word in command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=dict(os.environ, PYTHONIOENCODING="utf-8", PIP_PROGRESS_BAR="off", PIP_DISABLE_PIP_VERSION_CHECK="1"),
    )
    arrived = queue.Queue()  # a thread reads, so that the seconds go on while a long download prints nothing
    threading.Thread(target=lambda: [arrived.put(line) for line in child.stdout] + [arrived.put(None)], daemon=True).start()
    try:
        while True:
            try:
                line = arrived.get(timeout=0.5)
                if line is None:
                    break
                lines.append(line.decode("utf-8", "replace").rstrip())
                watch(lines[-1])
            except queue.Empty:
                if not sys.stdout.isatty() and time.monotonic() - told > 20:
                    told = time.monotonic()
                    say("      {:.0f} s  {}".format(told - started, condense(lines)))
            if sys.stdout.isatty():
                show_progress("     ", started, condense(lines))
        code = child.wait()
    finally:
        if child.poll() is None:  # interrupted: leave no pip behind
            child.terminate()
            child.wait()
        if sys.stdout.isatty():
            print("\r" + " " * (shutil.get_terminal_size().columns - 1) + "\r", end="")
        with LOG.open("a", encoding="utf-8") as log:
            log.write("$ " + " ".join(map(str, command)) + "\n" + "\n".join(lines) + "\n")
    if code:
        raise explain_failure("\n".join(lines))
    say("      done in {:.0f} s".format(time.monotonic() - started))


def condense(lines):
    """Return the few words of pip's output that a reader wants to see: what it is doing now."""
    verbs = ("Collecting", "Downloading", "Using cached", "Building", "Installing collected packages")
    said = [line.strip() for line in lines[-200:] if line.strip().startswith(verbs)]
    if not said:
        return ""
    if said[-1].startswith("Installing"):
        return "installing {} packages".format(said[-1].count(",") + 1)
    return said[-1].split(" (from")[0]


def pip(*words):
    """Return the command that runs pip inside the environment."""
    return [venv_python(), "-m", "pip", *words]


# ---- the steps ------------------------------------------------------------------------------------------------------


def make_venv():
    """Make `.venv`, or keep one whose pip still runs; clear what an interrupted installation left half done."""
    if venv_python().exists() and subprocess.run([str(w) for w in pip("--version")], capture_output=True).returncode == 0:
        remove_half_installed(site_packages())
        return
    made = subprocess.run([sys.executable, "-m", "venv", "--clear", str(VENV)], capture_output=True)
    if made.returncode:
        said = (made.stdout + made.stderr).decode("utf-8", "replace")
        if "No space" in said:
            raise explain_failure(said)
        raise SetupError(
            "Python could not make a virtual environment; on Debian and Ubuntu `apt install python3-venv` adds the missing "
            "part, elsewhere use the Python of python.org ({})".format((said.strip().splitlines() or ["no message"])[-1]),
            "Python 无法创建虚拟环境：Debian/Ubuntu 请 apt install python3-venv，其他系统请用 python.org 的 Python",
        )


def site_packages():
    """Return the folder of the environment's installed packages."""
    if os.name == "nt":
        return VENV / "Lib" / "site-packages"
    return next((VENV / "lib").glob("python3.*/site-packages"))


def remove_half_installed(folder):
    """Remove what tells pip that a package is there although its installation was cut: the next step then installs it anew."""
    for path in folder.iterdir():
        if path.name.startswith("~") or (path.suffix == ".dist-info" and not (path / "RECORD").exists()):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def install_torch(step, unpinned, allow_cuda):
    """Install torch, and on a machine without an NVIDIA driver its CPU build from wherever it can be had."""
    wanted = next(line for line in read_project() if requirement_name(line) == "torch")
    if not unpinned:
        wanted = "torch==" + read_constraints()["torch"]
    index = os.environ.get("LLMTUTOR_TORCH_INDEX", "")
    if not index and sys.platform == "linux" and not has_nvidia_driver() and not allow_cuda and answers(TORCH_CPU_INDEX):
        index = TORCH_CPU_INDEX
    if index:  # such an index has torch only: what torch itself needs comes with the rest
        run_logged(pip("install", "--no-deps", "--index-url", index, wanted), step + "torch from " + index)
        return
    command = pip("install", *constraint_words(unpinned), wanted)
    if sys.platform == "linux" and not has_nvidia_driver() and not allow_cuda:
        report = VENV / "torch-plan.json"
        look = command + ["--dry-run", "--report", report]
        run_logged(look, step + "torch: which build would come? (nothing is installed yet)", watch_for_cuda)
        refuse_cuda(cuda_packages(json.loads(report.read_text(encoding="utf-8"))))
    run_logged(command, step + "torch from the configured package index (about 200 MB)")


def constraint_words(unpinned):
    """Return the words that hold pip to the exact versions, none when new versions are to be tried."""
    return [] if unpinned else ["-c", ROOT / "constraints.txt"]


def install_rest(step, unpinned):
    """Install everything else that pyproject.toml lists, holding torch at the build that is there."""
    found = "import importlib.metadata as m; print(m.version('torch'))"
    torch_version = subprocess.run([str(venv_python()), "-c", found], check=True, capture_output=True, text=True).stdout.strip()
    others = [line for line in read_project() if requirement_name(line) != "torch"]
    words = pip("install", *constraint_words(unpinned), "torch==" + torch_version, *others)
    run_logged(words, step + "JupyterLab, transformers and {} more, with what they need".format(len(others) - 2))


def link_project(root=ROOT):
    """Make the repository importable in the environment, and keep JupyterLab from asking the network for news.

    A `.pth` file instead of an editable install: nothing is built, so nothing is fetched. Its path is relative, hence
    plain ASCII wherever the repository lies, which old Pythons on Windows need.
    """
    relative = os.path.relpath(str(root), str(site_packages()))
    (site_packages() / "llmtutor-course.pth").write_text(relative.replace("\\", "/") + "\n", encoding="ascii")
    settings = VENV / "share" / "jupyter" / "lab" / "settings"
    settings.mkdir(parents=True, exist_ok=True)
    quiet = {"@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": False}}
    (settings / "overrides.json").write_text(json.dumps(quiet, indent=2), encoding="utf-8")


def verify(step):
    """Check that the packages fit together and that the large ones load; raise `SetupError` where they do not."""
    code = "import torch, transformers, jupyterlab, matplotlib, anywidget; print(torch.ones(2).sum().item())"
    run_logged(pip("check"), step + "do the versions fit together, and do the packages load?")
    run_logged([venv_python(), "-c", code], step + "loading torch, transformers and JupyterLab")


def prepare(unpinned=False, allow_cuda=False):
    """Make the environment when the stamp does not fit; return True when something was done.

    May be interrupted at any point and run again: pip skips what is installed, and the stamp is written last.

    Raises:
        SetupError: the disk is full, no index answers, a CUDA build would come by accident, pip failed.
    """
    if is_ready(unpinned=unpinned):
        return False
    started = time.monotonic()
    check_disk(ROOT, NEEDED_GB if not venv_python().exists() else 0.5)
    say("Making the environment in .venv, once; it may be interrupted and run again. / 正在创建环境（仅一次，可中断后重来）。")
    STAMP.unlink(missing_ok=True)
    say("[1/4] virtual environment with Python {}.{}".format(*sys.version_info[:2]))
    make_venv()
    install_torch("[2/4] ", unpinned, allow_cuda)
    install_rest("[3/4] ", unpinned)
    link_project()
    verify("[4/4] ")
    seconds = round(time.monotonic() - started)
    stamp = {"fingerprint": fingerprint(unpinned=unpinned), "seconds": seconds, "unpinned": bool(unpinned)}
    STAMP.write_text(json.dumps(stamp, indent=2), encoding="utf-8")
    say("The environment is ready after {} s. / 环境已就绪，用时 {} 秒。".format(seconds, seconds))
    return True


def freeze():
    """Return the text of constraints.txt for what is installed now: exact versions, no builds, no paths."""
    code = "import importlib.metadata as m; print('\\n'.join(d.name + '==' + d.version for d in m.distributions()))"
    out = subprocess.run([str(venv_python()), "-c", code], check=True, capture_output=True, text=True).stdout
    pinned = {line.split("+")[0] for line in out.split() if requirement_name(line) not in ("llmtutor", "pip")}
    head = (
        "# The exact versions that CI ran, for everything that `course.py` installs. Made by `python course.py freeze` from an\n"
        "# environment that passed the tests (see CONTRIBUTING.md). torch stands without the name of its build: course.py chooses it.\n"
    )
    return head + "\n".join(sorted(pinned, key=str.lower)) + "\n"
