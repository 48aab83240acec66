"""The Python tool against snippets that mean harm: each ends soon, says so, and leaves nothing behind."""

from __future__ import annotations

import os
import signal
import sys
import time

import pytest

from gpg_jax.environments.python_tool import SnippetError, python_tool, run_snippet

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the kernel's promises are Linux's")

LIMITS = {"seconds": 3.0, "memory_bytes": 512 * 2**20, "output_bytes": 2000}


def run(snippet, **limits):
    return run_snippet(snippet, **LIMITS | limits)


def refused(snippet, **limits):
    with pytest.raises(SnippetError) as caught:
        run(snippet, **limits)
    return str(caught.value)


def test_it_prints_and_it_answers_with_the_last_expression():
    assert run("print(6 * 7)") == "42"
    assert run("x = 6\nx * 7") == "42"
    assert run("print('a')\nNone") == "a"
    assert (
        run("import math, fractions\nmath.comb(10, 3), fractions.Fraction(1, 3)") == "(120, Fraction(1, 3))"
    )
    assert run("def f(n):\n    return 1 if n < 2 else n * f(n - 1)\nf(20)") == "2432902008176640000"


def test_an_error_is_text_without_this_machines_paths():
    message = refused("x = 1\n1 / 0")
    assert "ZeroDivisionError" in message and "line 2" in message
    assert "gpg_jax" not in message and "/" not in message.replace("1 / 0", "")
    assert "SyntaxError" in refused("x = = 1")
    assert "status 3" in refused("raise SystemExit(3)")


@pytest.mark.parametrize(
    "loop",
    [
        "while True: pass",
        "import time; time.sleep(60)",
        "import signal\n[signal.signal(n, signal.SIG_IGN) for n in (1, 2, 15)]\nwhile True: pass",
        "import threading as t\nt.Thread(target=lambda: all(iter(int, 1))).start()\nt.Event().wait()",
        "import os; os.close(1); os.close(2)\nwhile True: pass",
        "9 ** 9 ** 9",
        "import re; re.match('(a+)+$', 'a' * 60 + 'b')",
    ],
)
def test_an_endless_loop_is_stopped(loop):
    start = time.monotonic()
    assert "stopped after 1 s" in refused(loop, seconds=1.0)
    assert time.monotonic() - start < 10


def test_memory_has_a_bound():
    assert "MemoryError" in refused("x = 'a' * 10**10")
    assert "MemoryError" in refused("x = [0]\nwhile True: x += x")


def test_output_has_a_bound():
    assert "more than 2000 bytes" in refused("while True: print('x' * 1000)")
    assert len(refused("print('x' * 10**7)")) < 2200


@pytest.mark.parametrize(
    "birth",
    [
        "import os\nwhile True: os.fork()",
        "import os; os.execv('/bin/sh', ['sh', '-c', 'echo born'])",
        "import subprocess; subprocess.run(['echo', 'born'])",
        "import os; os.system('echo born') and 1 / 0",
        "import os; os.posix_spawn('/bin/echo', ['echo', 'born'], {})",
        "from multiprocessing import Process as P; P(target=print, args=('born',)).start()",
    ],
)
def test_no_process_is_born(birth):
    message = refused(birth)
    assert "born\n" not in message + "\n" or "Error" in message
    assert "stopped" not in message


@pytest.mark.parametrize(
    "call",
    [
        "import socket; socket.socket().connect(('127.0.0.1', 80))",
        "import socket; socket.socket(socket.AF_UNIX)",
        "import socket; socket.socketpair()",
        "import urllib.request; urllib.request.urlopen('http://127.0.0.1')",
        "import os; os.pidfd_open(1)",
        "import os; os.kill(1, 0)",
        "import os; os.kill(os.getppid(), 9)",
        "import os; os.killpg(0, 9)",
        "import resource; resource.setrlimit(resource.RLIMIT_CPU, (9999, 9999))",
        "import os; os.setsid()",
    ],
)
def test_neither_network_nor_other_processes_can_be_reached(call):
    message = refused(call)
    assert any(word in message for word in ("PermissionError", "URLError", "not permitted", "not allowed"))


@pytest.mark.parametrize("path", ["/etc/passwd", "/proc/self/environ", "/proc/1/cmdline", "/", "/tmp"])
def test_no_file_can_be_read(path):
    look = f"os.listdir({path!r})" if path in ("/", "/tmp") else f"open({path!r}).read()"
    assert "Permission" in refused(f"import os\nprint({look})")


def test_no_file_can_be_written(tmp_path):
    kept = tmp_path / "kept.txt"
    kept.write_text("kept")
    for snippet in (
        f"open({str(tmp_path / 'new.txt')!r}, 'w')",
        f"open({str(kept)!r}, 'w')",
        f"import os; os.remove({str(kept)!r})",
        f"import os; os.rename({str(kept)!r}, {str(tmp_path / 'b')!r})",
        f"import os; os.mkdir({str(tmp_path / 'd')!r})",
        f"import os; os.symlink('/etc', {str(tmp_path / 'l')!r})",
        f"import os; os.chmod({str(kept)!r}, 0)",
        f"import os; os.truncate({str(kept)!r}, 0)",
        f"import shutil; shutil.rmtree({str(tmp_path)!r})",
        "open('/dev/shm/x', 'w')",
    ):
        refused(snippet)
    assert kept.read_text() == "kept" and [path.name for path in tmp_path.iterdir()] == ["kept.txt"]


def test_this_process_is_untouched():
    before = os.getcwd(), signal.getsignal(signal.SIGINT), os.environ.get("PATH")
    run("import os; os.environ['PATH'] = 'x'; os.chdir('/tmp')")
    assert before == (os.getcwd(), signal.getsignal(signal.SIGINT), os.environ.get("PATH"))


def test_what_a_parent_keeps_in_memory_stays_there():
    os.environ["A_SECRET"] = "do not tell"
    try:
        assert "do not tell" not in run("import os; print(dict(os.environ))")
    finally:
        del os.environ["A_SECRET"]


def test_the_kernel_knows_no_way_around():
    for number, name in (
        (41, "socket"),
        (57, "fork"),
        (435, "clone3"),
        (425, "io_uring_setup"),
        (101, "ptrace"),
    ):
        snippet = (
            "import ctypes, os\nlibc = ctypes.CDLL(None, use_errno=True)\n"
            f"result = libc.syscall({number}, 2, 1, 0, 0, 0)\n"
            "print(result, ctypes.get_errno())"
        )
        if os.uname().machine == "x86_64":
            assert run(snippet).startswith("-1 "), name


def test_a_tool_is_made_where_it_works():
    assert python_tool().call("2 + 2") == "4"
