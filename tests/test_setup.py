"""The set-up: `course.py`, the environment it makes, the reader's copies, and the files that must agree with each other.

No test installs anything; what pip would say or plan is given to the functions as text.
"""

import ast
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))

import copies
import course
import doctor
import environment
from environment import SetupError

# ---- the command line -----------------------------------------------------------------------------------------------


def call(*words, **options):
    """Run course.py with the Python of the tests and return the finished process."""
    command = [sys.executable, str(ROOT / "course.py"), *words]
    return subprocess.run(command, capture_output=True, text=True, encoding="utf-8", stdin=subprocess.DEVNULL, **options)


def test_bare_call_lists_every_command_on_one_line():
    out = call()
    assert out.returncode == 0
    lines = out.stdout.splitlines()
    for name, (function, text, _) in course.COMMANDS.items():
        assert sum(line.startswith(f"  {name} ") for line in lines) == 1
        assert function.__doc__ and text


@pytest.mark.parametrize(("typed", "meant"), [("tets", "test"), ("LAB", "lab"), ("docter", "doctor"), ("students", "student")])
def test_unknown_command_suggests_the_nearest(typed, meant):
    assert f"did you mean `{meant}`" in course.unknown_command(typed).english
    out = call(typed)
    assert out.returncode == 2 and f"`{meant}`" in out.stderr and "Traceback" not in out.stderr


def test_unknown_command_without_a_near_one_lists_all():
    message = course.unknown_command("xyzzy").english
    assert all(name in message for name in course.COMMANDS)


def test_too_old_python_is_told_so():
    course.check_python((3, 11, 0))
    with pytest.raises(SetupError, match=r"3\.11 or newer is needed, this is 3\.10"):
        course.check_python((3, 10, 13))


@pytest.mark.parametrize("name", ["course.py", "tools/environment.py", "tools/copies.py", "tools/doctor.py"])
def test_what_course_imports_parses_on_python_3_8(name):
    """An old Python must get as far as the message about its age."""
    ast.parse((ROOT / name).read_text(encoding="utf-8"), feature_version=(3, 8))
    with pytest.raises(SyntaxError):  # the check itself can fail
        ast.parse("match x:\n    case 1: pass", feature_version=(3, 8))


def test_options_of_ours_are_taken_and_the_rest_is_handed_on():
    options, extra = course.parse(["lab", "--lang", "zh", "--port", "9000", "--no-browser", "--ServerApp.token=x"])
    assert (options.lang, options.port, options.no_browser, extra) == ("zh", 9000, True, ["--ServerApp.token=x"])
    options, extra = course.parse(["test", "-k", "tokens", "-x", "--unpinned"])
    assert options.unpinned and extra == ["-k", "tokens", "-x"]
    assert course.parse(["results", "06"])[1] == ["06"]


@pytest.mark.parametrize(("lang", "language"), [("zh_CN.UTF-8", "zh"), ("en_US.UTF-8", "en"), ("de_DE", "en"), ("C", "en")])
def test_language_follows_the_system(monkeypatch, lang, language):
    for name in ("LC_ALL", "LC_MESSAGES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LANG", lang)
    assert course.reader_language() == language


def test_a_taken_port_is_refused_and_a_free_one_found():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(SetupError, match=f"port {port} is taken"):
            course.choose_port(port)
        out = call("lab", "--port", str(port))  # said before anything is installed
        assert out.returncode == 2 and f"port {port} is taken" in out.stderr and "Traceback" not in out.stderr
    assert course.choose_port(port) == port
    assert course.port_is_free(course.choose_port())


# ---- the stamp ------------------------------------------------------------------------------------------------------


@pytest.fixture
def made(tmp_path):
    """A pretended repository with an environment that is ready: (root, venv)."""
    root, venv = tmp_path / "course", tmp_path / "course" / ".venv"
    environment.venv_python(venv).parent.mkdir(parents=True)
    environment.venv_python(venv).write_text("")
    (venv / "pyvenv.cfg").write_text("home = somewhere\nversion = 3.12.1\n")
    for name in ("pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, root / name)
    stamp(root, venv)
    return root, venv


def stamp(root, venv):
    text = json.dumps({"fingerprint": environment.fingerprint(root, venv)})
    (venv / environment.STAMP.name).write_text(text)


def test_a_fitting_stamp_means_nothing_to_do(made):
    assert environment.is_ready(*made)
    assert not environment.is_ready(*made, unpinned=True)


def test_line_ends_do_not_count(made):
    root, _ = made
    path = root / "constraints.txt"
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert environment.is_ready(*made)


@pytest.mark.parametrize("change", ["pyproject", "constraints", "python", "recipe", "no stamp", "broken stamp", "no python"])
def test_any_change_makes_the_stamp_unfit(made, change, monkeypatch):
    root, venv = made
    if change in ("pyproject", "constraints"):
        path = root / {"pyproject": "pyproject.toml", "constraints": "constraints.txt"}[change]
        path.write_text(path.read_text(encoding="utf-8") + "# changed\n", encoding="utf-8")
    elif change == "python":
        (venv / "pyvenv.cfg").write_text("version = 3.13.0\n")
    elif change == "recipe":
        monkeypatch.setattr(environment, "RECIPE", environment.RECIPE + 1)
    elif change == "no python":
        environment.venv_python(venv).unlink()
    elif change == "broken stamp":
        (venv / environment.STAMP.name).write_text("{")
    else:
        (venv / environment.STAMP.name).unlink()
    assert not environment.is_ready(root, venv)


def test_half_installed_packages_are_removed_and_whole_ones_kept(tmp_path):
    for name in ("whole-1.0.dist-info", "cut-1.0.dist-info", "~ld", "whole"):
        (tmp_path / name).mkdir()
    (tmp_path / "whole-1.0.dist-info" / "RECORD").write_text("")
    (tmp_path / "cut-1.0.dist-info" / "METADATA").write_text("")
    environment.remove_half_installed(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["whole", "whole-1.0.dist-info"]


def test_the_repository_is_linked_by_a_path_that_any_python_can_read(monkeypatch, tmp_path):
    root = tmp_path / "课程 course"
    packages = root / ".venv" / ("Lib/site-packages" if os.name == "nt" else "lib/python3.11/site-packages")
    packages.mkdir(parents=True)
    monkeypatch.setattr(environment, "VENV", root / ".venv")
    environment.link_project(root)
    text = (packages / "llmtutor-course.pth").read_text(encoding="ascii").strip()
    assert not Path(text).is_absolute() and (packages / text).resolve() == root.resolve()


# ---- what can go wrong ----------------------------------------------------------------------------------------------


def test_a_full_disk_is_told_before_anything_is_installed(tmp_path):
    environment.check_disk(tmp_path, 3.0, usage=lambda _: SimpleNamespace(free=3.1e9))
    with pytest.raises(SetupError, match=r"has 1\.2 GB free, and the set-up needs 3\.0 GB"):
        environment.check_disk(tmp_path, 3.0, usage=lambda _: SimpleNamespace(free=1.2e9))


@pytest.mark.parametrize(
    ("log", "words"),
    [
        ("ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device", "disk is full"),
        ("WARNING: Retrying ... NewConnectionError('Failed to establish')\nERROR: No matching distribution found for torch", "network"),
        ("urllib3.exceptions.ReadTimeoutError: HTTPSConnectionPool: Read timed out.", "network"),
        ("ERROR: No matching distribution found for torch==2.13.0", "another Python"),
        ("Collecting x\nERROR: ResolutionImpossible", "ResolutionImpossible"),
        ("", "pip said nothing"),
    ],
)
def test_what_pip_says_becomes_one_line_with_the_remedy(log, words):
    error = environment.explain_failure(log)
    assert words in error.english
    assert "\n" not in error.english + error.chinese
    assert re.search("[\u4e00-\u9fff]", error.chinese)


def plan(*packages):
    """What `pip install --dry-run --report` writes, as far as we read it."""
    return {"install": [{"metadata": {"name": name, "version": version}} for name, version in packages]}


@pytest.mark.parametrize("culprit", [("nvidia-cudnn-cu13", "9.1"), ("cuda-bindings", "13.0"), ("triton", "3.5"), ("torch", "2.13.0+cu130")])
def test_a_plan_with_cuda_is_refused(culprit):
    with pytest.raises(SetupError, match="LLMTUTOR_TORCH_INDEX.*--allow-cuda"):
        environment.refuse_cuda(environment.cuda_packages(plan(("torch", "2.13.0"), ("sympy", "1.14"), culprit)))


def test_a_plan_without_cuda_passes():
    assert environment.cuda_packages(plan(("torch", "2.13.0+cpu"), ("sympy", "1.14"), ("networkx", "3.6"))) == []
    environment.refuse_cuda(environment.cuda_packages({"install": []}))


@pytest.mark.parametrize(
    ("line", "stops"),
    [
        ("Collecting nvidia-cudnn-cu13==9.24.0.43 (from torch<3,>=2.9)", True),
        ("Collecting cuda-bindings<14,>=13.0.3 (from torch<3,>=2.9)", True),
        ("  Downloading torch-2.13.0-cp311-cp311-manylinux_2_28_x86_64.whl (887.9 MB)", True),
        ("  Downloading torch-2.13.0-cp311-cp311-manylinux_2_28_x86_64.whl (1.1 GB)", True),
        ("  Downloading torch-2.13.0-cp311-cp311-manylinux_2_28_x86_64.whl (190.5 MB)", False),
        ("  Downloading torch-2.13.0-cp311-cp311-manylinux_2_28_x86_64.whl.metadata (30 kB)", False),
        ("Collecting networkx>=2.5.1 (from torch==2.13.0)", False),
    ],
)
def test_pip_is_stopped_at_the_first_sign_of_cuda(line, stops):
    assert bool(environment.cuda_in_line(line)) == stops


def test_a_command_is_ended_when_the_watch_raises(monkeypatch, tmp_path):
    monkeypatch.setattr(environment, "LOG", tmp_path / "log")
    slow = "import time; print('Collecting nvidia-cublas', flush=True); time.sleep(60); print('Collecting too-late')"
    with pytest.raises(SetupError, match="nvidia-cublas.*--allow-cuda"):
        environment.run_logged([sys.executable, "-c", slow], "looking", environment.watch_for_cuda)
    logged = (tmp_path / "log").read_text(encoding="utf-8").splitlines()
    assert logged[-1] == "Collecting nvidia-cublas"


@pytest.fixture
def torch_steps(monkeypatch, tmp_path):
    """Record what `install_torch` would run on Linux without an NVIDIA driver; pip's plan can be set with `.plan`."""
    steps = SimpleNamespace(commands=[], plan=plan(("torch", "2.13.0+cpu")), index_answers=False)

    def run_logged(command, label, watch=None):
        steps.commands.append(list(map(str, command)))
        if "--report" in command:
            Path(command[command.index("--report") + 1]).write_text(json.dumps(steps.plan))

    monkeypatch.setattr(environment, "run_logged", run_logged)
    monkeypatch.setattr(environment, "VENV", tmp_path)
    monkeypatch.setattr(environment, "has_nvidia_driver", lambda: False)
    monkeypatch.setattr(environment, "answers", lambda index: steps.index_answers)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.delenv("LLMTUTOR_TORCH_INDEX", raising=False)
    return steps


def test_torch_comes_from_the_cpu_index_where_it_answers(torch_steps):
    torch_steps.index_answers = True
    environment.install_torch("", unpinned=False, allow_cuda=False)
    (command,) = torch_steps.commands
    assert command[command.index("--index-url") + 1] == environment.TORCH_CPU_INDEX
    assert command[-1] == "torch==" + environment.read_constraints()["torch"]


def test_torch_comes_from_the_configured_index_after_a_look_at_the_plan(torch_steps):
    environment.install_torch("", unpinned=False, allow_cuda=False)
    look, install = torch_steps.commands
    assert "--dry-run" in look and "--dry-run" not in install and "--index-url" not in install


def test_cuda_never_gets_installed_by_accident(torch_steps):
    torch_steps.plan = plan(("torch", "2.13.0"), ("nvidia-nccl-cu13", "2.28"))
    with pytest.raises(SetupError):
        environment.install_torch("", unpinned=False, allow_cuda=False)
    assert all("--dry-run" in command for command in torch_steps.commands)
    torch_steps.commands.clear()
    environment.install_torch("", unpinned=False, allow_cuda=True)
    assert "--dry-run" not in torch_steps.commands[0]


def test_the_torch_index_can_be_named(torch_steps, monkeypatch):
    monkeypatch.setenv("LLMTUTOR_TORCH_INDEX", "https://mirror.invalid/cpu")
    environment.install_torch("", unpinned=True, allow_cuda=False)
    (command,) = torch_steps.commands
    assert command[command.index("--index-url") + 1] == "https://mirror.invalid/cpu"
    assert command[-1].startswith("torch>=")


def test_an_index_that_is_not_there_does_not_answer():
    with socket.socket() as closed:  # bound but not listening: connections are refused
        closed.bind(("127.0.0.1", 0))
        assert not environment.answers(f"http://127.0.0.1:{closed.getsockname()[1]}", timeout=2)
    assert not environment.answers("no address")


# ---- the reader's copies --------------------------------------------------------------------------------------------


def write_notebook(path, *sources, output="1", execution=1):
    cells = [
        {"id": f"c{i}", "cell_type": "code", "source": source, "outputs": [output], "execution_count": execution, "metadata": {}}
        for i, source in enumerate(sources)
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}), encoding="utf-8")


def sources(path):
    return [cell["source"] for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]]


@pytest.fixture
def desk(tmp_path):
    """A course with one notebook in two languages, copied once: (course's folder, reader's folder, English copy)."""
    course_folder, mine = tmp_path / "notebooks", tmp_path / "my"
    for language in ("en", "zh"):
        write_notebook(course_folder / language / "00-a.ipynb", "old", "exercise")
    written, messages = copies.update_copies(course_folder, mine)
    assert len(written) == 2 and not messages
    return course_folder, mine, mine / "en" / "00-a.ipynb"


def test_a_second_start_copies_nothing(desk):
    course_folder, mine, copy = desk
    before = copy.stat().st_mtime_ns
    assert copies.update_copies(course_folder, mine) == ([], [])
    assert copy.stat().st_mtime_ns == before


def test_a_missing_copy_comes_back(desk):
    course_folder, mine, copy = desk
    copy.unlink()
    assert copies.update_copies(course_folder, mine) == ([copy], [])


def test_the_readers_work_survives_when_the_course_stays(desk):
    course_folder, mine, copy = desk
    write_notebook(copy, "old", "my answer")
    assert copies.update_copies(course_folder, mine) == ([], [])
    assert sources(copy) == ["old", "my answer"]


def test_an_unedited_copy_is_refreshed_even_after_it_was_run(desk):
    course_folder, mine, copy = desk
    write_notebook(copy, "old", "exercise", output="other numbers", execution=7)
    write_notebook(course_folder / "en" / "00-a.ipynb", "new", "exercise")
    assert copies.update_copies(course_folder, mine) == ([copy], [])
    assert sources(copy) == ["new", "exercise"]


def test_when_both_changed_the_reader_keeps_theirs_and_finds_the_new_one_beside_it(desk):
    course_folder, mine, copy = desk
    write_notebook(copy, "old", "my answer")
    write_notebook(course_folder / "en" / "00-a.ipynb", "new", "exercise")
    written, (message,) = copies.update_copies(course_folder, mine)
    beside = mine / "en" / "00-a.new.ipynb"
    assert written == [beside] and "00-a.new.ipynb" in message and "课程" in message
    assert sources(copy) == ["old", "my answer"] and sources(beside) == ["new", "exercise"]
    assert copies.update_copies(course_folder, mine) == ([], []), "announced once, not at every start"


def test_work_in_the_new_edition_is_kept_too(desk):
    course_folder, mine, copy = desk
    write_notebook(copy, "old", "my answer")
    write_notebook(course_folder / "en" / "00-a.ipynb", "new", "exercise")
    copies.update_copies(course_folder, mine)
    beside = mine / "en" / "00-a.new.ipynb"
    write_notebook(beside, "new", "my second answer")
    write_notebook(course_folder / "en" / "00-a.ipynb", "newest", "exercise")
    written, _ = copies.update_copies(course_folder, mine)
    assert written == [mine / "en" / "00-a.new2.ipynb"]
    assert sources(beside) == ["new", "my second answer"] and sources(copy) == ["old", "my answer"]


def test_without_the_record_nothing_of_the_readers_is_overwritten(desk):
    course_folder, mine, copy = desk
    write_notebook(copy, "old", "my answer")
    (mine / copies.RECORD).unlink()
    written, messages = copies.update_copies(course_folder, mine)
    assert copy not in written and len(messages) == 1
    assert sources(copy) == ["old", "my answer"]


def test_a_damaged_copy_counts_as_the_readers(desk):
    course_folder, mine, copy = desk
    copy.write_text("{ not a notebook", encoding="utf-8")
    write_notebook(course_folder / "en" / "00-a.ipynb", "new", "exercise")
    copies.update_copies(course_folder, mine)
    assert copy.read_text(encoding="utf-8") == "{ not a notebook"
    (mine / copies.RECORD).unlink()
    copies.update_copies(course_folder, mine)
    assert copy.read_text(encoding="utf-8") == "{ not a notebook"


# ---- files that must agree ------------------------------------------------------------------------------------------

CONDA_NAMES = {"pytorch": "torch"}
NOT_FOR_CONDA = {"playwright"}  # browser tests; they run from course.py


def differences(requirements, conda_text):
    """Return how environment.yml and the requirements of pyproject.toml differ, as a set of lines."""
    lines = re.findall(r"^\s*- ([A-Za-z][\w.-]*)\s*((?:[<>=!~].*)?)$", conda_text, re.M)
    conda = {CONDA_NAMES.get(name, environment.requirement_name(name)): limits for name, limits in lines}
    wanted = {environment.requirement_name(line): re.sub(r"^[\w.-]+", "", line) for line in requirements}
    wanted = {name: limits for name, limits in wanted.items() if name not in NOT_FOR_CONDA}
    for name in ("conda-forge", "nodefaults", "pip", "python"):
        conda.pop(name, None)
    return {*wanted.items()} ^ {*conda.items()}


def test_environment_yml_says_what_pyproject_says():
    text = (ROOT / "environment.yml").read_text(encoding="utf-8")
    assert differences(environment.read_project(), text) == set()
    assert "- python>=3.11" in text and "requires-python = \">=3.11\"" in (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert "- -e ." in text  # the package itself


@pytest.mark.parametrize("drift", ["range", "missing", "extra", "pip section"])
def test_a_planted_drift_is_found(drift):
    text = (ROOT / "environment.yml").read_text(encoding="utf-8")
    planted = {
        "range": text.replace("transformers>=5", "transformers>=4"),
        "missing": re.sub(r"^.*- tqdm.*\n", "", text, flags=re.M),
        "extra": text.replace("  - pip\n", "  - pip\n  - scipy>=1\n"),
        "pip section": text.replace("bertviz>=1", "bertviz>=0"),
    }[drift]
    assert planted != text
    assert differences(environment.read_project(), planted)


def outside_range(version, requirement):
    """True when an exact version does not fit a requirement."""
    from packaging.requirements import Requirement

    return version not in Requirement(requirement).specifier


def test_constraints_pin_every_requirement_inside_its_range():
    pinned = environment.read_constraints()
    for requirement in environment.read_project():
        name = environment.requirement_name(requirement)
        assert name in pinned, f"{name} is in pyproject.toml and not in constraints.txt: run `python course.py freeze`"
        assert not outside_range(pinned[name], requirement), f"constraints.txt has {name} {pinned[name]}, pyproject {requirement}"
    assert outside_range("6.0", "transformers>=5,<6")
    assert "llmtutor" not in pinned and "pip" not in pinned


def test_constraints_hold_names_and_exact_versions_only():
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        assert line.startswith("#") or re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+", line), line
    assert not re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+", "torch==2.13.0+cpu")


def test_ranges_have_both_ends():
    for requirement in environment.read_project():
        if requirement.startswith("regex"):
            continue  # its versions are dates: there is no next major one
        assert re.fullmatch(r"[A-Za-z0-9._-]+>=[\d.]+,<\d+", requirement), requirement


def imported_distributions(*folders):
    """Return distribution -> file for every third-party module that the Python files in these folders import."""
    owners, found = metadata.packages_distributions(), {}
    for path in (path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names = [node.module]
            for name in {name.split(".")[0] for name in names} - sys.stdlib_module_names:
                found.update({environment.requirement_name(owner): path.name for owner in owners.get(name, [])})
    return found


def test_what_the_package_imports_is_declared():
    declared = {environment.requirement_name(line) for line in environment.read_project()}
    used = imported_distributions("llmtutor")
    assert {"torch", "transformers", "numpy"} <= used.keys()
    undeclared = {name: where for name, where in used.items() if name not in declared}
    assert not undeclared, f"add to pyproject.toml and environment.yml: {undeclared}"


def test_what_tools_and_tests_import_gets_installed():
    pinned = environment.read_constraints()
    missing = {name: where for name, where in imported_distributions("tools", "tests").items() if name not in pinned}
    assert not missing, f"not installed by course.py: {missing}"


# Put together from pieces, so that this file does not contain what it looks for.
FOLDERS = "|".join(["work", "root", "tmp", "opt", r"home/\w+", r"Users/\w+"])
MACHINE = re.compile(rf"(?<![\w.~>-])(?:/(?:{FOLDERS})/|file:///\w|[A-Z]:\\Users)")
HOSTS = re.compile("|".join(["pypi" + r"\.org", "files\\." + "pythonhosted", r"registry\." + "npmjs", r"deb\." + r"debian\.org"]))
TEXT = {".py", ".toml", ".txt", ".yml", ".yaml", ".md", ".cff", ".ipynb", ".json", ".js", ".css", ".cfg", ".ini", ".sh", ""}


def repository_files():
    """The files of the repository as git sees them (tracked, or new and not ignored); every file where there is no git."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, encoding="utf-8"
    ) if shutil.which("git") else None  # fmt: skip
    if listed is not None and listed.returncode == 0:
        return [ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]
    ours = [path for path in ROOT.iterdir() if not path.name.startswith(".") and path.name not in ("my", "build", "dist")]
    ours += [ROOT / ".ci", ROOT / ".github"]
    files = [file for path in ours for file in ([path] if path.is_file() else path.rglob("*"))]
    return [path for path in files if path.is_file() and "__pycache__" not in path.parts]


def leaks(text):
    """Return the machine paths and registry hosts in a text."""
    return MACHINE.findall(text) + HOSTS.findall(text)


def test_no_machine_path_and_no_registry_host_is_committed():
    vocabularies = {"tokenizer.json", "vocab.json"}  # pieces of words, any of which may look like anything
    files = [path for path in repository_files() if path.suffix in TEXT and path.name not in vocabularies]
    assert ROOT / "course.py" in files and len(files) > 15
    found = {str(path.relative_to(ROOT)): hits for path in files if (hits := leaks(path.read_text(encoding="utf-8", errors="replace")))}
    assert not found


def test_the_search_for_leaks_finds_them():
    assert leaks("see /" + "work/main") and leaks("--index-url https://pypi" + ".org/simple") and leaks("/" + "tmp/x")
    assert not leaks("https://download.pytorch.org/whl/cpu, notebooks/work/home.ipynb and huggingface.co")


def test_the_version_is_the_same_everywhere():
    places = {"pyproject.toml": r'^version = "(.+)"$', "llmtutor/__init__.py": r'^__version__ = "(.+)"$', "CITATION.cff": r"^version: (.+)$"}
    versions = {name: re.search(pattern, (ROOT / name).read_text(encoding="utf-8"), re.M).group(1) for name, pattern in places.items()}
    assert len(set(versions.values())) == 1, versions
    assert f"## {versions['pyproject.toml']}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_ci_and_workflows_say_the_same_words_as_the_readme_will():
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert "course.py test" in script and "LLMTUTOR_REQUIRE_BROWSER=1" in script and "LLMTUTOR_REQUIRE_NETNS=1" in script
    workflows = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / ".github" / "workflows").glob("*.yml")}
    assert set(workflows) == {"ci.yml", "weekly.yml"}
    assert all("python course.py test" in text for text in workflows.values())
    assert all(system in workflows["ci.yml"] for system in ("ubuntu", "macos", "windows"))
    assert "--unpinned" in workflows["weekly.yml"] and "--unpinned" not in workflows["ci.yml"]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no executable bit")
def test_ci_script_is_executable_and_parses():
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert subprocess.run(["bash", "-n", str(script)], capture_output=True).returncode == 0


# ---- doctor ---------------------------------------------------------------------------------------------------------


def test_doctor_names_the_remedy_for_each_thing_amiss():
    good, note, bad = doctor.version_lines({"torch": "2.13.0+cpu", "nbval": "0.9", "pytest": None}, {"torch": "2.13.0", "nbval": "0.11.0", "pytest": "9"})
    assert good.startswith("ok") and "->" not in good
    assert note.startswith("note") and "CI ran 0.11.0" in note
    assert bad.startswith("DO") and "missing" in bad


def test_doctor_runs_without_an_environment(monkeypatch, tmp_path):
    monkeypatch.setattr(environment, "venv_python", lambda venv=None: tmp_path / "python")
    lines = doctor.report()
    assert any(text.startswith("DO") and "not made yet" in text for text in lines)
    assert all(re.match(r"(ok  |DO  |note)  \S", text) for text in lines)


@pytest.fixture
def bundled(tmp_path):
    """A folder with a model and an adapter of it, small and whole."""
    table = json.dumps({"__metadata__": {"format": "pt"}, "weight": {"dtype": "U8", "shape": [5], "data_offsets": [0, 5]}}).encode()
    weights = len(table).to_bytes(8, "little") + table + bytes(5)
    for name, start, config in (("base", "", {}), ("change", "adapter_", {"base_model_name_or_path": "base"})):
        (tmp_path / name).mkdir()
        (tmp_path / name / (start + "config.json")).write_text(json.dumps(config))
        (tmp_path / name / "card.json").write_text("{}")
        (tmp_path / name / (start + "model.safetensors")).write_bytes(weights)
    return tmp_path


def test_doctor_lists_every_bundled_model_and_the_adapter():
    names = sorted(folder.name for folder in (ROOT / "llmtutor" / "bundled").iterdir())
    assert "story-gpt-instruct" in names
    assert doctor.models_line(ROOT / "llmtutor" / "bundled") == "ok    bundled models: " + ", ".join(names)


@pytest.mark.parametrize(
    ("file", "change", "said"),
    [
        ("change/adapter_model.safetensors", None, "change: no adapter_model.safetensors"),
        ("change/adapter_model.safetensors", lambda data: data[:-1], "change: adapter_model.safetensors is damaged or only half copied"),
        ("change/adapter_model.safetensors", lambda data: data[:20], "change: adapter_model.safetensors is damaged or only half copied"),
        ("change/adapter_model.safetensors", lambda data: b"", "change: adapter_model.safetensors is damaged or only half copied"),
        ("change/adapter_model.safetensors", lambda data: b"version https://git-lfs", "change: adapter_model.safetensors is damaged"),
        ("change/adapter_config.json", None, "change: no config.json and no model.safetensors"),
        ("change/adapter_config.json", lambda data: b"{}", "change: adapter_config.json is damaged"),
        ("change/adapter_config.json", lambda data: data[:-2], "change: adapter_config.json is damaged"),
        ("change/adapter_config.json", lambda data: data.replace(b"base\"}", b"change\"}"), "change: change, the model that it changes, is missing"),
        ("base/model.safetensors", None, "base: no model.safetensors; change: base, the model that it changes, is missing or damaged"),
        ("base/model.safetensors", lambda data: data + b"0", "base: model.safetensors is damaged"),
        ("base/config.json", None, "base: no config.json"),
    ],
)
def test_doctor_reports_a_broken_model_or_adapter(bundled, file, change, said):
    assert doctor.models_line(bundled) == "ok    bundled models: base, change"
    data = (bundled / file).read_bytes()
    (bundled / file).unlink()
    if change:
        (bundled / file).write_bytes(change(data))
    line = doctor.models_line(bundled)
    assert line.startswith("DO") and said in line and "git restore llmtutor/bundled" in line


def test_doctor_misses_the_bundled_models(tmp_path):
    assert doctor.models_line(tmp_path).startswith("DO    bundled models: none -> ") and "is empty" in doctor.models_line(tmp_path)
