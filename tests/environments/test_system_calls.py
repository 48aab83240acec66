"""The filter of system calls on both machines, run by a small interpreter of classic BPF."""

from __future__ import annotations

import re
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpg_jax.environments.system_calls import ALLOWED, ARCHITECTURES, call_filter

ALLOW, REFUSE, KILL = 0x7FFF0000, 0x00050001, 0x80000000
MACHINES = list(ARCHITECTURES)
PROGRAMS = {machine: call_filter(machine) for machine in MACHINES}


def answer(machine, number, arguments=(), architecture=None):
    """What the filter says to a call: struct seccomp_data is number, architecture, address, six arguments."""
    values = [*arguments, *[0] * (6 - len(arguments))]
    data = struct.pack("=IIQ6Q", number, architecture or ARCHITECTURES[machine], 0, *values)
    steps = list(struct.iter_unpack("=HBBI", PROGRAMS[machine]))
    at, held = 0, 0
    while True:
        code, if_true, if_false, value = steps[at]
        at += 1
        if code == 0x20:
            held = struct.unpack_from("=I", data, value)[0]
        elif code == 0x15:
            at += if_true if held == value else if_false
        elif code == 0x45:
            at += if_true if held & value else if_false
        else:
            assert code == 0x06
            return value


def number(machine, name):
    return ALLOWED[name][MACHINES.index(machine)]


def numbers(machine):
    return {number(machine, name) for name in ALLOWED} - {None}


@pytest.fixture(params=MACHINES)
def machine(request):
    return request.param


def test_unlisted_calls_are_refused(machine):
    assert all(answer(machine, n) == REFUSE for n in range(1024) if n not in numbers(machine))


@given(
    machine=st.sampled_from(MACHINES),
    number=st.integers(0, 2**32 - 1),
    arguments=st.lists(st.integers(0, 2**64 - 1), max_size=6),
)
def test_no_argument_opens_an_unlisted_call(machine, number, arguments):
    if number not in numbers(machine):
        assert answer(machine, number, arguments) == REFUSE


def test_calls_of_x32_are_refused():
    assert all(answer("x86_64", n | 0x40000000) == REFUSE for n in range(1024))


def test_other_architectures_are_killed(machine):
    others = {0x40000003, 0x40000028, *ARCHITECTURES.values()} - {ARCHITECTURES[machine]}
    assert all(answer(machine, n, architecture=other) == KILL for other in others for n in range(512))


def test_an_unknown_machine_is_named():
    with pytest.raises(ValueError, match="not on i686"):
        call_filter("i686")


# name -> arguments that pass, arguments that do not
CASES = {
    "openat": (
        [(0, 0, 0o2000000), (0, 0, 0o2204000)],  # O_CLOEXEC; a folder on x86_64
        [(0, 0, bits) for bits in (1, 2, 0o100, 0o1000, 0o20000, 0o10000000, 0o20200000, 0o2000001)],
    ),
    "fcntl": (
        [(1, n) for n in (0, 1, 2, 3, 1030)],
        [(1, n) for n in (4, 6, 8, 10, 15, 1024, 1026, 1031, 1033)],
    ),
    "ioctl": ([(1, 0x5401)], [(1, n) for n in (0x5412, 0x5452, 0x8901, 0x8902, 0x5402)]),
    "madvise": ([(0, 0, 4), (0, 0, 14)], [(0, 0, 12), (0, 0, 100)]),
    "futex": ([(0, 128), (0, 393)], [(0, 0), (0, 1), (0, 6), (0, 134), (0, 140)]),
    "sched_getaffinity": ([(0,)], [(1,), (2**32 - 1,)]),
    "prlimit64": ([(0, 7, 0, 2**40)], [(1, 7, 0, 1), (0, 7, 1, 0), (0, 7, 2**32, 0)]),
}


@pytest.mark.parametrize("name", CASES)
def test_arguments_are_looked_at(machine, name):
    passing, failing = CASES[name]
    assert {answer(machine, number(machine, name), case) for case in passing} == {ALLOW}
    assert {answer(machine, number(machine, name), case) for case in failing} == {REFUSE}


def test_calls_without_a_rule_pass_whatever_their_arguments(machine):
    free = numbers(machine) - {number(machine, name) for name in [*CASES, "open"]}
    assert {answer(machine, number, [2**64 - 1] * 6) for number in free} == {ALLOW}


def test_open_is_looked_at_too():
    assert answer("x86_64", 2, (0, 0o2000000)) == ALLOW
    assert answer("x86_64", 2, (0, 0o101)) == REFUSE


@pytest.mark.parametrize(
    ("machine", "header", "pattern"),
    [
        ("x86_64", "/usr/include/x86_64-linux-gnu/asm/unistd_64.h", r"__NR_(\w+) (\d+)"),
        ("aarch64", "/usr/include/asm-generic/unistd.h", r"__NR(?:3264)?_(\w+) (\d+)"),
    ],
)
def test_numbers_are_those_of_the_kernels_headers(machine, header, pattern):
    if not Path(header).exists():
        pytest.skip("the kernel's headers are not installed")
    known = {name: int(n) for name, n in re.findall(rf"#define {pattern}\b", Path(header).read_text())}
    names = {"newfstatat": "fstatat"} if machine == "aarch64" else {}  # its older name
    for name in ALLOWED:
        if number(machine, name) is not None:
            assert known[names.get(name, name)] == number(machine, name), name
