"""Looks at the machine and says, one line each, what is well and what to do about the rest. Used by `course.py doctor`.

Standard library only, so that it answers before anything is installed.
"""

import json
import os
import platform
import shutil
import subprocess
import sys

import environment

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "msedge")
CJK_FONTS = "wqy|wenquan|notosanscjk|notoserifcjk|noto sans cjk|sourcehan|simhei|msyh|yahei|simsun|pingfang|hiragino|heiti|songti"
MAIN_PACKAGES = ("torch", "transformers", "tokenizers", "jupyterlab", "bertviz", "nbval", "matplotlib", "anywidget", "pytest")


def line(good, what, found, remedy=""):
    """Return one line of the report; `good` is True, False, or None for a thing the course can do without."""
    mark = {True: "ok  ", False: "DO  ", None: "note"}[good]
    return "{}  {}: {}{}".format(mark, what, found, "" if good or not remedy else " -> " + remedy)


def memory_gb():
    """Return the machine's memory in GB, None where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    except (AttributeError, ValueError, OSError):  # Windows has no sysconf
        return None


def machine_lines():
    """Python, cores, memory and disk."""
    version, memory = platform.python_version(), memory_gb()
    free = shutil.disk_usage(str(environment.ROOT)).free / 1e9
    needed = 0.5 if environment.is_ready() else environment.NEEDED_GB
    cores = os.cpu_count() or 1
    return [
        line(sys.version_info >= (3, 11), "Python", version, "install Python 3.11 or newer"),
        line(True, "system", platform.platform()),
        line(True if cores > 1 else None, "processor cores", cores, "the notebooks will be slower than they say"),
        line(None if memory is None or memory < 4 else True, "memory", "unknown" if memory is None else "{:.1f} GB".format(memory),
             "close other programs; a notebook needs up to 1.5 GB"),
        line(free > needed, "free disk", "{:.1f} GB".format(free), "free at least {} GB".format(needed)),
        line(True, "NVIDIA driver", "found" if environment.has_nvidia_driver() else "none, so the CPU build of torch is right"),
    ]  # fmt: skip


def installed_versions(names=MAIN_PACKAGES):
    """Return name -> version in the environment (None when missing), asked of its own Python without loading the packages."""
    code = (
        "import importlib.metadata as m, json, sys\n"
        "def v(n):\n"
        "    try: return m.version(n)\n"
        "    except m.PackageNotFoundError: return None\n"
        "print(json.dumps({n: v(n) for n in sys.argv[1:]}))"
    )
    out = subprocess.run([str(environment.venv_python()), "-c", code, *names], check=True, capture_output=True, text=True)
    return json.loads(out.stdout)


def version_lines(installed, pinned):
    """Compare the versions of the main packages with constraints.txt."""
    lines = []
    for name, version in installed.items():
        exact = pinned.get(environment.requirement_name(name))
        same = version is not None and version.split("+")[0] == exact
        good = True if same else (False if version is None else None)
        wanted = "CI ran {}; `python course.py lab` installs what is missing".format(exact)
        lines.append(line(good, name, version or "missing", wanted))
    return lines


def environment_lines():
    """Is the environment made, and with which versions?"""
    remedy = "`python course.py lab` or `test` makes it (about 2 GB, once)"
    if not environment.venv_python().exists():
        return [line(False, "environment", "not made yet", remedy)]
    ready = environment.is_ready() or environment.is_ready(unpinned=True)
    state = "made" if ready else "unfinished or older than pyproject.toml"
    return [line(ready, "environment", state, remedy)] + version_lines(installed_versions(), environment.read_constraints())


def has_cjk_font():
    """True when a font with Chinese characters is installed: by fontconfig where there is one, else by file name."""
    import re

    if shutil.which("fc-list"):
        return bool(subprocess.run(["fc-list", ":lang=zh"], capture_output=True).stdout.strip())
    home = os.path.expanduser("~")
    folders = ["/System/Library/Fonts", "/Library/Fonts", home + "/Library/Fonts", os.environ.get("WINDIR", "C:/Windows") + "/Fonts"]
    folders += ["/usr/share/fonts", "/usr/local/share/fonts", home + "/.local/share/fonts", home + "/.fonts"]
    names = [name.lower() for folder in folders for _, _, files in os.walk(folder) for name in files]
    return any(re.search(CJK_FONTS, name) for name in names)


def has_network_namespaces():
    """True when a command can be run with only the loopback address, as the tests want it."""
    if not shutil.which("unshare") or not shutil.which("ip"):
        return False
    return subprocess.run(["unshare", "-rn", "sh", "-c", "ip link set lo up"], capture_output=True).returncode == 0


def fault(folder):
    """Return what is amiss with a bundled model, or with an adapter (a change to a model that lies beside it); "" when nothing is."""
    adapter = (folder / "adapter_config.json").exists() and not (folder / "config.json").exists()
    start = "adapter_" if adapter else ""
    weights = folder / (start + "model.safetensors")
    absent = [name for name in (start + "config.json", weights.name) if not (folder / name).exists()]
    if absent:
        return "no {}".format(" and no ".join(absent))
    if adapter:
        try:
            base = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))["base_model_name_or_path"]
        except (ValueError, KeyError, TypeError):
            return "adapter_config.json is damaged"
        if base == folder.name or fault(folder.parent / str(base)):
            return "{}, the model that it changes, is missing or damaged".format(base)
    return "" if is_whole(weights) else "{} is damaged or only half copied".format(weights.name)


def is_whole(weights):
    """True when a safetensors file is as long as its own header says: 8 bytes of length, a table in JSON, then the numbers."""
    with weights.open("rb") as stream:
        size = int.from_bytes(stream.read(8), "little")
        try:
            table = json.loads(stream.read(size)) if size < weights.stat().st_size else {}
            ends = [entry["data_offsets"][1] for name, entry in table.items() if name != "__metadata__"]
        except (ValueError, LookupError, TypeError, AttributeError):  # no such table: other bytes, or a pointer instead of the file
            return False
    return bool(ends) and weights.stat().st_size == 8 + size + max(ends)


def models_line(bundled):
    """One line about the models and adapters in a folder: their names, or what is amiss with which of them."""
    folders = sorted({path.parent for path in bundled.glob("*/*.json")})
    faults = {folder.name: fault(folder) for folder in folders}
    whole = [name for name, amiss in faults.items() if not amiss]
    amiss = ["{}: {}".format(name, amiss) for name, amiss in faults.items() if amiss] or ["llmtutor/bundled is empty"]
    return line(bool(whole) and len(whole) == len(faults), "bundled models", ", ".join(whole) or "none",
                "`git restore llmtutor/bundled`, or clone the repository again; " + "; ".join(amiss))  # fmt: skip


def extras_lines():
    """What the tests and the figures like to have, and the bundled models."""
    browser = os.environ.get("LLMTUTOR_CHROMIUM") or next(filter(None, map(shutil.which, BROWSERS)), None)
    namespaces = "available" if has_network_namespaces() else "not available"
    return [
        line(True if browser else None, "Chromium", browser or "not found", "only the browser tests need it (Debian: apt install chromium)"),
        line(True if has_cjk_font() else None, "font with Chinese characters", "found" if has_cjk_font() else "not found",
             "figures with Chinese need one (Debian: apt install fonts-wqy-microhei)"),
        line(True if namespaces == "available" else None, "network namespaces", namespaces,
             "the tests then cannot cut the network (Linux with util-linux and iproute2 can)"),
        models_line(environment.ROOT / "llmtutor" / "bundled"),
    ]  # fmt: skip


def report():
    """Return all lines of the report."""
    return machine_lines() + environment_lines() + extras_lines()
