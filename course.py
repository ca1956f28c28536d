"""The one entry to the course: `python course.py lab` opens it, `python course.py test` tests it, a bare call lists the rest.

Needs Python 3.11 or newer and nothing else; makes its own environment in `.venv` on the first call. The file must parse on
old Pythons (3.8), so that they are told what is wrong instead of showing a syntax error.
"""

import argparse
import difflib
import locale
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT / "tools"))

import copies
import doctor as doctor_report
import environment
from environment import SetupError, say

OLDEST = (3, 11)


def check_python(version=sys.version_info):
    """Raise `SetupError` where Python is older than the course needs."""
    if tuple(version[:2]) < OLDEST:
        raise SetupError(
            "Python 3.11 or newer is needed, this is {}.{}: install one (python.org, conda, uv, apt) and call the course with "
            "it, for example `python3.12 course.py lab`".format(*version[:2]),
            "需要 Python 3.11 或更新版本，当前为 {}.{}：请安装后再运行，例如 python3.12 course.py lab".format(*version[:2]),
        )


def run(*command, **options):
    """Run a command in the repository with the environment's Python and return its exit status.

    Ctrl-C reaches the command itself (JupyterLab asks before it stops); here we only wait for it to end.
    """
    child = subprocess.Popen([str(environment.venv_python()), *map(str, command)], cwd=str(ROOT), **options)
    while True:
        try:
            return child.wait()
        except KeyboardInterrupt:
            continue
        except SystemExit:  # told to end by a signal: take the command along
            child.terminate()
            raise


def prepare(options):
    """Make the environment, unless it is there: `--unpinned` without the exact versions, `--allow-cuda` with CUDA."""
    unpinned = options.unpinned or os.environ.get("LLMTUTOR_UNPINNED", "") not in ("", "0")
    environment.prepare(unpinned=unpinned, allow_cuda=options.allow_cuda)


# ---- lab ------------------------------------------------------------------------------------------------------------


def reader_language():
    """Return 'zh' where the system speaks Chinese, else 'en'."""
    names = [os.environ.get(name, "") for name in ("LC_ALL", "LC_MESSAGES", "LANG")] + [locale.getlocale()[0] or ""]
    first = next((name for name in names if name), "")
    return "zh" if first.lower().startswith(("zh", "chinese")) else "en"


def port_is_free(port):
    """True when nothing listens on this port of the loopback address."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        if os.name != "nt":  # as Jupyter does: a port that was closed a moment ago is free; on Windows this would steal it
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", port))
        except (OSError, OverflowError):
            return False
    return True


def choose_port(wanted=None):
    """Return the port for JupyterLab: the wanted one, or the first free one from 8888 on."""
    if wanted is not None:
        if not port_is_free(wanted):
            raise SetupError(
                "port {0} is taken (another JupyterLab?): leave --port out and a free one is found".format(wanted),
                "端口 {0} 已被占用（也许另一个 JupyterLab 在运行）：去掉 --port 即可自动选择空闲端口".format(wanted),
            )
        return wanted
    free = next((port for port in range(8888, 8988) if port_is_free(port)), None)
    if free is None:
        raise SetupError("ports 8888 to 8987 are all taken: name another with --port", "端口 8888–8987 均被占用：请用 --port 指定")
    return free


def lab(options, extra):
    """Open JupyterLab on the reader's copies of the notebooks (in my/)."""
    port = choose_port(options.port)
    prepare(options)
    written, messages = copies.update_copies(ROOT / "notebooks", ROOT / "my")
    for message in messages:
        say("note: " + message)
    language = options.lang or reader_language()
    first = ROOT / "my" / language / "00-start-here.ipynb"
    if not first.exists():
        raise SetupError("notebooks/{}/00-start-here.ipynb is missing: clone the repository again".format(language), "笔记本缺失：请重新克隆仓库")
    if written:  # a notebook that is not trusted shows no bertviz view and no widget
        run("-m", "jupyter", "trust", *written, stdout=subprocess.DEVNULL)
    words = ["--port={}".format(port), "--ServerApp.port_retries=0", "--ServerApp.root_dir={}".format(ROOT)]
    if options.no_browser:
        words.append("--no-browser")
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        words.append("--allow-root")  # in a container there is nobody else
    say("JupyterLab opens on {} (stop it with Ctrl-C). Your copies of the notebooks lie in my/.".format(first.relative_to(ROOT)))
    return run("-m", "jupyterlab", first, *words, *extra)


# ---- the other commands ---------------------------------------------------------------------------------------------


def test(options, extra):
    """Run every test, then every notebook; with further words, only pytest with these words."""
    started = time.monotonic()
    prepare(options)
    ready = time.monotonic()
    say("== tests" + (" (" + " ".join(extra) + "; the notebooks are left out)" if extra else ""))
    failed = run("-m", "pytest", *extra) != 0
    if not extra:
        say("== notebooks")
        failed = run(ROOT / "tools" / "notebook.py", "test") != 0 or failed
    times = "{:.0f} s, and {:.0f} s for the environment".format(time.monotonic() - ready, ready - started)
    say("== {}: {}".format("FAILED" if failed else "all passed", times))
    return int(failed)


def doctor(options, extra):
    """Say what this machine has and lacks; installs nothing."""
    lines = doctor_report.report()
    for text in lines:
        say(text)
    amiss = any(text.startswith("DO") for text in lines)
    if environment.is_ready() or environment.is_ready(unpinned=True):
        say("== the package (python -m llmtutor doctor)")
        amiss = run("-m", "llmtutor", "doctor") != 0 or amiss
    return int(amiss)


def notebook_tool(options, extra):
    """Call tools/notebook.py in the environment."""
    prepare(options)
    return run(ROOT / "tools" / "notebook.py", options.command, *extra)


def bench(options, extra):
    """Run the benchmarks, all or the named ones; what follows the names, from the first word with a dash, is handed on to them."""
    scripts = sorted((ROOT / "benchmarks").glob("*.py"))
    first = next((i for i, word in enumerate(extra) if word.startswith("-")), len(extra))
    names, words = extra[:first], extra[first:]
    chosen = [path for path in scripts if not names or path.stem in names]
    if not chosen:
        say("no such benchmark; there are: " + (", ".join(path.stem for path in scripts) or "none yet"))
        return int(bool(names))
    prepare(options)
    codes = []
    for path in chosen:
        say("== " + path.name)
        codes.append(run(path, *words))
    return int(any(codes))


def freeze(options, extra):
    """Write constraints.txt anew from the environment (made with --unpinned, and tested)."""
    prepare(options)
    (ROOT / "constraints.txt").write_text(environment.freeze(), encoding="utf-8", newline="\n")
    say("constraints.txt is written; the next call makes the environment fit it")
    return 0


COMMANDS = {
    "lab": (lab, "open the course in JupyterLab  / 打开课程", "[--lang en|zh] [--port N] [--no-browser] [words for jupyter]"),
    "test": (test, "run every test and every notebook  / 运行全部测试", "[words for pytest]"),
    "doctor": (doctor, "what this machine has and lacks  / 检查本机环境", ""),
    "sync": (notebook_tool, "carry code and outputs from notebooks/en to notebooks/zh  / 同步中文版", ""),
    "student": (notebook_tool, "write copies without solutions, for a class  / 生成无答案版", ""),
    "results": (notebook_tool, "compute notebooks/results/NN.json again  / 重新计算预存结果", "NN"),
    "bench": (bench, "measure speed, memory and size  / 基准测试", "[NAME ...]"),
    "freeze": (freeze, "write constraints.txt from the environment  / 更新版本锁定", ""),
}


def help_text():
    """Return the list of commands, one line each."""
    lines = ["usage: python course.py COMMAND", ""]
    lines += ["  {:<8} {}{}".format(name, text, "   " + words if words else "") for name, (_, text, words) in COMMANDS.items()]
    lines += [
        "",
        "Every command makes the environment (.venv) when it is missing; these words steer that:",
        "  --unpinned    the newest versions that pyproject.toml allows, instead of constraints.txt",
        "  --allow-cuda  a CUDA build of torch although no NVIDIA driver is found",
        "  LLMTUTOR_TORCH_INDEX=URL  where torch comes from (a mirror of {})".format(environment.TORCH_CPU_INDEX),
    ]
    return "\n".join(lines)


def unknown_command(name):
    """Return the error for an unknown command, with the nearest one."""
    near = difflib.get_close_matches(name.lower(), COMMANDS, n=1, cutoff=0.5)
    hint = "did you mean `{}`?".format(near[0]) if near else "the commands are " + ", ".join(COMMANDS)
    hint_zh = "你是想用 {} 吗？".format(near[0]) if near else "可用命令：" + "、".join(COMMANDS)
    return SetupError("there is no command `{}`: {}".format(name, hint), "没有命令 {}:{}".format(name, hint_zh))


def parse(words):
    """Split the words of the command line into our options and what is handed on."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, usage="python course.py COMMAND ...")
    parser.add_argument("command")
    parser.add_argument("--unpinned", action="store_true")
    parser.add_argument("--allow-cuda", action="store_true")
    if words[0] == "lab":
        parser.add_argument("--lang", choices=copies.LANGUAGES)
        parser.add_argument("--port", type=int)
        parser.add_argument("--no-browser", action="store_true")
    return parser.parse_known_args(words)


def main(words):
    """Run the command that `words` name and return the exit status."""
    if hasattr(sys.stdout, "reconfigure"):  # an old Windows console cannot print Chinese: show ? instead of failing
        sys.stdout.reconfigure(errors="replace")
        sys.stderr.reconfigure(errors="replace")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that an interrupted set-up ends its pip, too
    try:
        check_python()
        if not words or words[0] in ("help", "-h", "--help"):
            say(help_text())
            return 0
        if words[0] not in COMMANDS:
            raise unknown_command(words[0])
        options, extra = parse(words)
        return COMMANDS[options.command][0](options, extra)
    except SetupError as error:
        print("error: {}\n错误：{}".format(error.english, error.chinese), file=sys.stderr, flush=True)
        return 2
    except KeyboardInterrupt:
        print("\nstopped; run the same command again to go on / 已中断，再次运行同一命令即可继续", file=sys.stderr, flush=True)
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
