"""The program that runs a snippet of Python that nobody trusts: it gives up every right first, for good.

It is started as a script, in a process of its own (`environments.python_tool`), reads the snippet from its
standard input and runs it. Linux keeps the promises, not Python:

    Landlock   files: those of Python's own library may be read, nothing may be written or made
    seccomp    no sockets, no processes, no other programs, no signals to others, no new name spaces
    rlimits    memory, processor time, size of files, open files

A kernel that cannot keep one of them ends the program before the snippet is read. Landlock needs Linux 5.13.
"""

from __future__ import annotations

import ast
import ctypes
import os
import platform
import resource
import struct
import sys
import sysconfig
import traceback

REFUSED = 97
"""Exit status: the kernel has no such confinement."""

_NAME = "<snippet>"
_ALLOW, _ERRNO, _KILL = 0x7FFF0000, 0x00050000, 0x80000000
_EPERM, _ENOSYS = 1, 38
_LOAD, _EQUAL, _GREATER_EQUAL, _SET, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT = 0, 4, 16
_CLONE_THREAD, _X32 = 0x00010000, 0x40000000

# name -> number on x86_64 and on aarch64, None where the machine has no such call
_FORBIDDEN = {
    "socket": (41, 198),
    "socketpair": (53, 199),
    "connect": (42, 203),
    "bind": (49, 200),
    "listen": (50, 201),
    "accept": (43, 202),
    "accept4": (288, 242),
    "sendto": (44, 206),
    "sendmsg": (46, 211),
    "sendmmsg": (307, 269),
    "fork": (57, None),
    "vfork": (58, None),
    "execve": (59, 221),
    "execveat": (322, 281),
    "kill": (62, 129),
    "tkill": (200, 130),
    "tgkill": (234, 131),
    "pidfd_send_signal": (424, 424),
    "pidfd_open": (434, 434),
    "pidfd_getfd": (438, 438),
    "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "process_madvise": (440, 440),
    "kcmp": (312, 272),
    "unshare": (272, 97),
    "setns": (308, 268),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "open_tree": (428, 428),
    "bpf": (321, 280),
    "userfaultfd": (323, 282),
    "perf_event_open": (298, 241),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "keyctl": (250, 219),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "kexec_load": (246, 104),
    "reboot": (169, 142),
    "setrlimit": (160, 164),
    "prlimit64": (302, 261),
    "setpriority": (141, 140),
    "sched_setscheduler": (144, 119),
    "setsid": (112, 157),
    "setpgid": (109, 154),
    "chmod": (90, None),
    "fchmod": (91, 52),
    "fchmodat": (268, 53),
    "chown": (92, None),
    "fchown": (93, 55),
    "fchownat": (260, 54),
    "lchown": (94, None),
    "utimensat": (280, 88),
    "setxattr": (188, 5),
    "lsetxattr": (189, 6),
    "fsetxattr": (190, 7),
    "memfd_create": (319, 279),
    "shmget": (29, 194),
    "shmat": (30, 196),
    "msgget": (68, 186),
    "semget": (64, 190),
    "mq_open": (240, 180),
}
_CLONE, _CLONE3 = (56, 220), (435, 435)
_LANDLOCK_CREATE, _LANDLOCK_ADD, _LANDLOCK_RESTRICT = 444, 445, 446
_READ = 0b1101  # of Landlock's rights to files: execute (to map libraries), read a file, read a folder
_RIGHTS_BY_VERSION = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}
_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _PR_SET_DUMPABLE, _FILTER = 38, 22, 4, 2

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        sys.stderr.write(f"this kernel cannot confine a snippet: {what}: {os.strerror(number)}\n")
        sys.exit(REFUSED)
    return result


def _confine_files() -> None:
    """Landlock: folders of Python's library are readable, all else is closed."""
    version = _check(_libc.syscall(_LANDLOCK_CREATE, None, 0, 1), "Landlock")
    rights = (1 << _RIGHTS_BY_VERSION.get(version, 16)) - 1
    attribute = struct.pack("Q", rights)
    ruleset = _check(_libc.syscall(_LANDLOCK_CREATE, attribute, len(attribute), 0), "Landlock")
    for folder in _library():
        place = os.open(folder, os.O_PATH | os.O_CLOEXEC)
        rule = struct.pack("=Qi", _READ & rights, place)
        _check(_libc.syscall(_LANDLOCK_ADD, ruleset, 1, rule, 0), "Landlock")
        os.close(place)
    _check(_libc.syscall(_LANDLOCK_RESTRICT, ruleset, 0), "Landlock")
    os.close(ruleset)


def _library() -> list[str]:
    """Folders of Python's own library, of what is installed beside it, and of the system's."""
    names = ("stdlib", "platstdlib", "purelib", "platlib")
    folders = {sysconfig.get_path(name) for name in names} | {"/lib", "/lib64", "/usr/lib", "/usr/lib64"}
    return sorted(folder for folder in folders if folder and os.path.isdir(folder))


def _program(machine: int, architecture: int) -> bytes:
    """The filter: forbidden calls fail with EPERM, threads are allowed, any other architecture is killed."""

    def step(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
        return struct.pack("HBBI", code, if_true, if_false, value)

    def answer(value: int) -> bytes:
        return step(_RETURN, value)

    program = [step(_LOAD, _ARCHITECTURE), step(_EQUAL, architecture, 1, 0), answer(_KILL)]
    program += [step(_LOAD, _NUMBER), step(_GREATER_EQUAL, _X32, 0, 1), answer(_KILL)]
    program += [step(_EQUAL, _CLONE3[machine], 0, 1), answer(_ERRNO | _ENOSYS)]  # its flags cannot be read
    program += [step(_EQUAL, _CLONE[machine], 0, 4), step(_LOAD, _FIRST_ARGUMENT)]
    program += [step(_SET, _CLONE_THREAD, 0, 1), answer(_ALLOW), answer(_ERRNO | _EPERM)]
    for numbers in _FORBIDDEN.values():
        if numbers[machine] is not None:
            program += [step(_EQUAL, numbers[machine], 0, 1), answer(_ERRNO | _EPERM)]
    return b"".join([*program, answer(_ALLOW)])


def _confine_calls() -> None:
    machines = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
    if platform.machine() not in machines:
        sys.stderr.write(f"a snippet cannot be confined on {platform.machine()}\n")
        sys.exit(REFUSED)
    program = _program(*machines[platform.machine()])
    buffer = ctypes.create_string_buffer(program, len(program))
    handle = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(buffer))
    _check(_libc.prctl(_PR_SET_SECCOMP, _FILTER, handle, 0, 0), "seccomp")


def confine(memory_bytes: int, seconds: int) -> None:
    """Gives up every right of this process, for good.

    Args:
      memory_bytes: address space.
      seconds: processor time.
    """
    for limit, value in {
        resource.RLIMIT_AS: memory_bytes,
        resource.RLIMIT_CPU: seconds,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_NOFILE: 64,
        resource.RLIMIT_CORE: 0,
    }.items():
        resource.setrlimit(limit, (value, value))
    _check(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no new privileges")
    _check(_libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0), "not dumpable")
    _confine_files()
    _confine_calls()


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


def _message(error: Exception) -> str:
    """The error with its line of the snippet, and nothing of where this program lies."""
    text = "".join(traceback.format_exception_only(error)).strip()
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == _NAME]
    return f"line {lines[-1]}: {text}" if lines else text


def main() -> None:
    """Reads a snippet, gives up every right, runs it."""
    snippet = sys.stdin.read()
    os.close(0)
    confine(int(sys.argv[1]), int(sys.argv[2]))
    del sys.argv[1:]
    try:
        run(snippet)
    except Exception as error:
        print(_message(error))
        sys.exit(1)


if __name__ == "__main__":
    main()
