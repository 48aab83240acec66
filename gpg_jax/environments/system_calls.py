"""The system calls that an untrusted snippet may make, as a seccomp filter: all others fail with EPERM.

The list is what computing and printing need: memory, reading files, time, handlers of one's own signals. No
call on it reaches another process, makes a thread, a pipe or a socket, or changes a file (but for the time of
its last reading); where a call does more than one thing, a rule looks at its arguments. Calls that came to
Linux later are refused because they are not listed, and so are those of the x32 interface, whose numbers have
a bit of their own.
"""

from __future__ import annotations

import errno
import struct

_ALLOW, _KILL, _REFUSE = 0x7FFF0000, 0x80000000, 0x00050000 | errno.EPERM
_LOAD, _EQUAL, _ANY_BIT, _RETURN = 0x20, 0x15, 0x45, 0x06
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16  # offsets in the kernel's seccomp_data

ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
"""The kernel's audit number by machine, in the order of the columns of `ALLOWED`."""

ALLOWED: dict[str, tuple[int | None, int | None]] = {
    # output, to the pipe that was there at the start: no other file can be open for writing
    "write": (1, 64),
    "writev": (20, 66),
    # modules and their data are read; Landlock says of which folders
    "open": (2, None),
    "openat": (257, 56),
    "read": (0, 63),
    "readv": (19, 65),
    "pread64": (17, 67),
    "preadv": (295, 69),
    "lseek": (8, 62),
    "getdents64": (217, 61),
    "close": (3, 57),
    "close_range": (436, 436),
    # an import looks whether a file is there, and how old it is
    "stat": (4, None),
    "fstat": (5, 80),
    "lstat": (6, None),
    "newfstatat": (262, 79),
    "statx": (332, 291),
    "access": (21, None),
    "faccessat": (269, 48),
    "faccessat2": (439, 439),
    "readlink": (89, None),
    "readlinkat": (267, 78),
    "getcwd": (79, 17),
    # open files: numbers and flags of one's own
    "dup": (32, 23),
    "dup2": (33, None),
    "dup3": (292, 24),
    "fcntl": (72, 25),
    "ioctl": (16, 29),
    # memory; the limit on address space bounds it
    "brk": (12, 214),
    "mmap": (9, 222),
    "mprotect": (10, 226),
    "mremap": (25, 216),
    "munmap": (11, 215),
    "madvise": (28, 233),
    # locks
    "futex": (202, 98),
    "sched_yield": (24, 124),
    # handlers and timers of one's own signals; none can be sent
    "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139),
    "sigaltstack": (131, 132),
    "restart_syscall": (219, 128),
    "getitimer": (36, 102),
    "setitimer": (38, 103),
    "alarm": (37, None),
    # time, and how much of it was used
    "clock_gettime": (228, 113),
    "clock_getres": (229, 114),
    "clock_nanosleep": (230, 115),
    "nanosleep": (35, 101),
    "gettimeofday": (96, 169),
    "time": (201, None),
    "times": (100, 153),
    "getrusage": (98, 165),
    # questions about oneself and the machine
    "getpid": (39, 172),
    "gettid": (186, 178),
    "getppid": (110, 173),
    "getuid": (102, 174),
    "geteuid": (107, 175),
    "getgid": (104, 176),
    "getegid": (108, 177),
    "getcpu": (309, 168),
    "sched_getaffinity": (204, 123),
    "prlimit64": (302, 261),
    "uname": (63, 160),
    "sysinfo": (99, 179),
    "getrandom": (318, 278),
    # the end
    "exit": (60, 93),
    "exit_group": (231, 94),
}
"""Numbers of the calls on x86_64 and on aarch64, None where the machine has no such call."""


def _step(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    """One instruction; the last two say how many to skip after a comparison."""
    return struct.pack("=HBBI", code, if_true, if_false, value)


def _answer(action: int) -> bytes:
    return _step(_RETURN, action)


def _load(argument: int, half: int = 0) -> bytes:
    """The lower or upper 32 bits of an argument; both machines keep the lower first."""
    return _step(_LOAD, _ARGUMENTS + 8 * argument + 4 * half)


def _one_of(argument: int, *values: int, half: int = 0) -> bytes:
    tests = [_step(_EQUAL, value, len(values) - i) for i, value in enumerate(values)]
    return b"".join([_load(argument, half), *tests, _answer(_REFUSE)])


def _without(argument: int, bits: int) -> bytes:
    return _load(argument) + _step(_ANY_BIT, bits, 0, 1) + _answer(_REFUSE)


def _null(argument: int) -> bytes:
    """Unlike commands and flags, of which the kernel itself reads 32 bits, a pointer has two halves."""
    return _one_of(argument, 0) + _one_of(argument, 0, half=1)


# O_WRONLY, O_RDWR, O_CREAT, O_TRUNC, O_TMPFILE; O_ASYNC, which sends signals; O_PATH
_NOT_TO_READ = 0o1 | 0o2 | 0o100 | 0o1000 | 0o20000000 | 0o20000 | 0o10000000

# each falls through where it holds and refuses the call where it does not
_RULES = {
    "open": _without(1, _NOT_TO_READ),
    "openat": _without(2, _NOT_TO_READ),
    # F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_DUPFD_CLOEXEC: not F_SETOWN and F_SETSIG, which aim signals
    "fcntl": _one_of(1, 0, 1, 2, 3, 1030),
    # TCGETS and TIOCGWINSZ (is this a terminal, how wide), FIOCLEX
    "ioctl": _one_of(1, 0x5401, 0x5413, 0x5451),
    # DONTNEED, FREE, HUGEPAGE, NOHUGEPAGE: not MERGEABLE, whose timing tells what others keep in memory
    "madvise": _one_of(2, 4, 8, 14, 15),
    # WAIT, WAKE, WAIT_BITSET with either clock, WAKE_BITSET, all within the process: no change of priorities
    "futex": _one_of(1, 128, 129, 137, 393, 138),
    "sched_getaffinity": _one_of(0, 0),  # of the caller
    "prlimit64": _one_of(0, 0) + _null(2),  # reads the caller's limits, sets none
}


def call_filter(machine: str) -> bytes:
    """The filter as a classic BPF program, 8 bytes an instruction.

    A call made for another architecture than the machine's (32-bit calls of x86_64) ends the process.

    Args:
      machine: as `platform.machine()` has it.

    Raises:
      ValueError: the numbers of this machine's calls are not known here.
    """
    if machine not in ARCHITECTURES:
        raise ValueError(f"a snippet can be confined on {' and '.join(ARCHITECTURES)}, not on {machine}")
    column = list(ARCHITECTURES).index(machine)
    program = [_step(_LOAD, _ARCHITECTURE), _step(_EQUAL, ARCHITECTURES[machine], 1), _answer(_KILL)]
    program += [_step(_LOAD, _NUMBER)]
    for name, numbers in ALLOWED.items():
        number = numbers[column]
        if number is not None:
            body = _RULES.get(name, b"") + _answer(_ALLOW)
            program += [_step(_EQUAL, number, 0, len(body) // 8), body]
    return b"".join([*program, _answer(_REFUSE)])
