"""The program that runs a snippet of Python that nobody trusts: it gives up every right first, for good.

It is started as a script, in a process of its own (`environments.python_tool`), reads the snippet from its
standard input and runs it. Linux keeps the promises, not Python:

    Landlock       files: those of Python's own library and the system's may be read, none written or made
    seccomp        only calls that compute, read and print (`environments.system_calls`): no threads, no
                   processes, no other programs, no sockets, no signals to others, no change to any file
    capabilities   none, whoever started the program
    rlimits        memory, processor time, size of files, open files, no core dump

A kernel that cannot keep one of them ends the program before the snippet runs; Landlock must be of version 3
(Linux 6.2), the first that keeps a file from being emptied. What stays open: a snippet can ask whether a path
exists, how large and how old it is and whose, for neither Landlock nor a filter of numbers can tell such a
question from an import's, and it can read the clock and the machine's name, memory and load.
"""

from __future__ import annotations

import ast
import ctypes
import os
import resource
import signal
import struct
import sys
import sysconfig
import traceback

REFUSED = 97
"""Exit status: this machine has no such confinement."""

_NAME = "<snippet>"
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # the same on every machine
_VERSION_OF_TRUNCATE, _VERSION_OF_DEVICES = 3, 5
_READ = 0b1100  # of Landlock's rights: read a file, read a folder
_NETWORK = 0b11  # bind, connect
_SCOPES = 0b11  # abstract sockets, signals
_CAPABILITY_VERSION = 0x20080522
_PR_SET_NO_NEW_PRIVS, _PR_SET_DUMPABLE, _PR_SET_PDEATHSIG = 38, 4, 1
_PR_SET_SECCOMP, _FILTER = 22, 2

_libc = ctypes.CDLL(None, use_errno=True)


def _refuse(reason: str) -> None:
    sys.stderr.write(f"a snippet cannot be confined here: {reason}\n")
    sys.exit(REFUSED)


def _check(result: int, what: str) -> int:
    if result < 0:
        _refuse(f"{what}: {os.strerror(ctypes.get_errno())}")
    return result


def _limit(memory_bytes: int, seconds: int) -> None:
    for limit, value in {
        resource.RLIMIT_AS: memory_bytes,
        resource.RLIMIT_CPU: seconds,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_NOFILE: 64,
        resource.RLIMIT_NPROC: 0,
        resource.RLIMIT_CORE: 0,
    }.items():
        try:
            resource.setrlimit(limit, (value, value))
        except ValueError:
            _refuse(f"a limit of {value} is above this process's own of {resource.getrlimit(limit)[1]}")


def _confine_files() -> None:
    """Landlock: folders of the library are readable, all else is closed."""
    ruleset = _ruleset()
    for folder in _library():
        place = os.open(folder, os.O_PATH | os.O_CLOEXEC)
        rule = struct.pack("=Qi", _READ, place)
        _check(_libc.syscall(_ADD_RULE, ruleset, 1, rule, 0), "Landlock")
        os.close(place)
    _check(_libc.syscall(_RESTRICT_SELF, ruleset, 0), "Landlock")
    os.close(ruleset)


def _ruleset() -> int:
    """Landlock's ruleset against every right to files and, where the kernel has them, to network and signals.

    Those two are a second wall behind the filter of calls. They came with version 6, which some kernels name
    without having both, so the kernel is asked instead of its version.
    """
    version = _check(_libc.syscall(_CREATE_RULESET, None, 0, 1), "Landlock")
    if version < _VERSION_OF_TRUNCATE:
        _refuse(f"its Landlock is version {version}, and {_VERSION_OF_TRUNCATE} (Linux 6.2) is the least")
    files = (1 << (16 if version >= _VERSION_OF_DEVICES else 15)) - 1
    attribute = struct.pack("=QQQ", files, _NETWORK, _SCOPES)
    ruleset = _libc.syscall(_CREATE_RULESET, attribute, len(attribute), 0)
    if ruleset < 0:
        ruleset = _libc.syscall(_CREATE_RULESET, attribute, 8, 0)
    return _check(ruleset, "Landlock")


def _library() -> list[str]:
    """Folders of Python's own library, of what is installed beside it, and of the system's."""
    names = ("stdlib", "platstdlib", "purelib", "platlib")
    folders = {sysconfig.get_path(name) for name in names} | {"/lib", "/lib64", "/usr/lib", "/usr/lib64"}
    return sorted(folder for folder in folders if folder and os.path.isdir(folder))


def _drop_capabilities() -> None:
    """None is effective, permitted or inheritable; the bounding set is idle, as nothing can be executed."""
    header = struct.pack("=Ii", _CAPABILITY_VERSION, 0)
    _check(_libc.capset(header, bytes(24)), "capabilities")


def _confine_calls(program: bytes) -> None:
    buffer = ctypes.create_string_buffer(program, len(program))
    handle = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(buffer))
    _check(_libc.prctl(_PR_SET_SECCOMP, _FILTER, handle, 0, 0), "seccomp")


def confine(memory_bytes: int, seconds: int, program: bytes) -> None:
    """Gives up every right of this process, for good.

    Args:
      memory_bytes: address space.
      seconds: processor time.
      program: the filter of system calls, from `system_calls.call_filter`.
    """
    _limit(memory_bytes, seconds)
    _check(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no new privileges")
    _check(_libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0), "not dumpable")
    _check(_libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0), "an end with its parent")
    _confine_files()
    _drop_capabilities()
    _confine_calls(program)


def run(snippet: str) -> None:
    """Runs a snippet, and prints the value of its last statement where that is an expression."""
    tree = ast.parse(snippet, _NAME)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    names = {"__name__": "__main__"}
    exec(compile(tree, _NAME, "exec"), names)
    if isinstance(last, ast.Expr):
        value = eval(compile(ast.Expression(last.value), _NAME, "eval"), names)
        if value is not None:
            print(value)


def _message(error: BaseException) -> str:
    """The error with its line of the snippet, and nothing of where this program lies."""
    text = "".join(traceback.format_exception_only(error)).strip()
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == _NAME]
    return f"line {lines[-1]}: {text}" if lines else text


def main() -> None:
    """Reads a snippet, gives up every right, runs it."""
    snippet = sys.stdin.read()
    os.close(0)
    confine(int(sys.argv[1]), int(sys.argv[2]), bytes.fromhex(sys.argv[3]))
    del sys.argv[1:]
    try:
        run(snippet)
    except SystemExit:
        raise
    except BaseException as error:
        print(_message(error))
        sys.exit(1)


if __name__ == "__main__":
    main()
