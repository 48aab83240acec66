"""The Python tool: what snippets may count on, the limits it keeps, and when it refuses to be made."""

from __future__ import annotations

import signal
import sys
import time

import pytest

from gpg_jax.environments import python_tool
from gpg_jax.environments.python_tool import SnippetError, run_snippet

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the kernel's promises are Linux's")

LIMITS = {"seconds": 8.0, "memory_bytes": 512 * 2**20, "output_bytes": 2000}


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
    assert refused("raise BaseException('bare')") == "line 1: BaseException: bare"


def test_the_standard_library_works():
    snippet = """
import collections, datetime, decimal, itertools, json, math, random, re, statistics, threading, time
print(math.isqrt(10**20), sum(itertools.islice(itertools.count(), 5)), re.findall("[a-c]+", "abxc"))
print(json.loads('{"a": [1]}')["a"], datetime.date(2024, 2, 29) + datetime.timedelta(366))
print(decimal.Decimal(1) / 7, statistics.median([3, 1, 2]), collections.Counter("aab").most_common(1))
print(random.Random(0).randint(1, 10**6), random.random() < 1, time.sleep(0.01), time.time() > 1e9)
print(threading.Lock().acquire(timeout=0.1), datetime.datetime.now().year > 2000)
import signal
signal.signal(signal.SIGALRM, lambda *_: print("rang"))
signal.setitimer(signal.ITIMER_REAL, 0.01)
time.sleep(0.1)
"""
    assert run(snippet).splitlines() == [
        "10000000000 10 ['ab', 'c']",
        "[1] 2025-03-01",
        "0.1428571428571428571428571429 2 [('a', 2)]",
        "885441 True None True",
        "True True",
        "rang",
    ]


@pytest.mark.parametrize(
    ("package", "snippet", "answer"),
    [
        ("numpy", "import numpy as n\nn.linalg.solve(n.eye(200) * 2, n.ones(200)).sum()", "100.0"),
        ("sympy", "import sympy as s\nx = s.Symbol('x')\ns.integrate(2 * x, x), s.factorint(91)", "(x**2, "),
    ],
)
def test_numerical_packages_work(package, snippet, answer):
    pytest.importorskip(package)
    assert answer in run(snippet, seconds=30.0, memory_bytes=2**30)


def test_sets_print_in_the_same_order_in_every_call():
    snippet = "print({f'word{i}' for i in range(50)})"
    assert run(snippet) == run(snippet)


def test_what_a_parent_keeps_in_memory_stays_there(monkeypatch):
    monkeypatch.setenv("A_SECRET", "do not tell")
    assert "do not tell" not in run("import os; print(dict(os.environ))")


@pytest.mark.parametrize(
    "loop",
    [
        "while True: pass",
        "import time; time.sleep(60)",
        "import signal\n[signal.signal(n, signal.SIG_IGN) for n in (1, 2, 15)]\nwhile True: pass",
        "import os; os.close(1); os.close(2)\nwhile True: pass",
        "9 ** 9 ** 9",
        "import re; re.match('(a+)+$', 'a' * 60 + 'b')",
    ],
)
def test_an_endless_loop_is_stopped(loop):
    start = time.monotonic()
    assert "stopped after 1 s" in refused(loop, seconds=1.0)
    assert time.monotonic() - start < 10


def test_processor_time_has_a_bound_that_no_handler_moves():
    """The kernel kills after int(seconds) + 1 s of it, were the wall clock not watched."""
    process = python_tool._start(0.0, LIMITS["memory_bytes"])
    loop = b"import signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True: pass"
    process.communicate(loop, timeout=60)
    assert process.returncode == -signal.SIGKILL


def test_memory_has_a_bound():
    assert "MemoryError" in refused("x = 'a' * 10**10")
    assert "MemoryError" in refused("x = [0]\nwhile True: x += x")


def test_output_has_a_bound():
    assert "more than 2000 bytes" in refused("while True: print('x' * 1000)")
    assert len(refused("print('x' * 10**7)")) < 2200


def test_a_tool_is_made_where_it_works():
    assert python_tool.python_tool().call("2 + 2") == "4"


def test_a_machine_that_cannot_confine_is_refused(monkeypatch):
    monkeypatch.setattr(python_tool.platform, "machine", lambda: "riscv64")
    with pytest.raises(ValueError, match="x86_64 and aarch64, not on riscv64"):
        python_tool.python_tool()


def test_a_kernel_that_takes_no_filter_is_refused(monkeypatch):
    monkeypatch.setattr(python_tool, "call_filter", lambda machine: b"")
    with pytest.raises(ValueError, match="a snippet cannot be confined here: seccomp: Invalid argument"):
        python_tool.python_tool()


def test_other_systems_are_refused(monkeypatch):
    monkeypatch.setattr(python_tool.sys, "platform", "darwin")
    with pytest.raises(ValueError, match="needs Linux"):
        python_tool.python_tool()
