"""Snippets that mean harm to processes, files and the network: each fails and leaves nothing behind.

An attack counts as repelled where the kernel said that it is not permitted, not merely where it failed, and
where its victim (a process or a file of this test) is as it was.
"""

from __future__ import annotations

import os
import platform
import select
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from gpg_jax.environments import confined, python_tool, system_calls
from gpg_jax.environments.python_tool import SnippetError, run_snippet

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the kernel's promises are Linux's")

LIMITS = {"seconds": 8.0, "memory_bytes": 512 * 2**20, "output_bytes": 2000}
EPERM = "-1 1"


def run(snippet, **limits):
    return run_snippet(snippet, **LIMITS | limits)


def refused(snippet, **limits):
    with pytest.raises(SnippetError) as caught:
        run(snippet, **limits)
    return str(caught.value)


def raw(call, arguments="", before=""):
    """What a system call answers and the error it leaves, made past Python and the C library."""
    column = list(system_calls.ARCHITECTURES).index(platform.machine())
    if call[column] is None:
        pytest.skip(f"no such call on {platform.machine()}")
    return run(
        f"import ctypes, os\nlibc = ctypes.CDLL(None, use_errno=True)\nlong = ctypes.c_long\n{before}\n"
        f"result = libc.syscall({call[column]}, {arguments})\nprint(result, ctypes.get_errno())"
    )


@pytest.fixture
def victim():
    """Another process of this user, as the one that trains is."""
    with subprocess.Popen(["sleep", "60"]) as process:
        yield process
        process.kill()


@pytest.fixture
def kept(tmp_path):
    path = tmp_path / "kept.txt"
    path.write_text("kept")
    os.utime(path, (1e9, 1e9))
    yield path
    state = path.stat()
    assert path.read_text() == "kept" and state.st_mode & 0o777 == 0o644 and state.st_mtime == 1e9
    assert [path.name for path in tmp_path.iterdir()] == ["kept.txt"]


@pytest.mark.parametrize(
    "birth",
    [
        "import os\nwhile True: os.fork() or print('born')",
        "import os; os.execv('/bin/sh', ['sh', '-c', 'echo born'])",
        "import os; os.posix_spawn('/bin/echo', ['echo', 'born'], {})",
        "import subprocess; subprocess.run(['/bin/echo', 'born'])",
        "from multiprocessing import Process as P; P(target=print, args=('born',)).start()",
    ],
)
def test_no_process_is_born(birth):
    message = refused(birth)
    assert "PermissionError: [Errno 1] Operation not permitted" in message and "born\n" not in message


def test_no_shell_is_born():
    """A shell would print, and end with 0; the C library says -1 or, as of a missing shell, 127 * 256."""
    assert run("import os; os.system('echo born')") in ("-1", "32512")


def test_no_thread_is_born():
    snippet = """
import threading, time
threading.stack_size(32768)
born = 0
try:
    while born < 2000:
        threading.Thread(target=time.sleep, args=(5,), daemon=True).start()
        born += 1
except RuntimeError as error:
    print(born, error)
"""
    assert run(snippet) == "0 can't start new thread"


WAYS_AROUND = {
    "fork": ((57, None), ""),
    "vfork": ((58, None), ""),
    "clone for a process": ((56, 220), "17, 0, 0, 0, 0"),
    "clone for a thread": ((56, 220), "0x50f00, 0, 0, 0, 0"),
    "clone3": ((435, 435), "ctypes.create_string_buffer(88), long(88)"),
    "execve": ((59, 221), "b'/bin/true', None, None"),
    "execveat": ((322, 281), "-100, b'/bin/true', None, None, 0"),
    "unshare": ((272, 97), "0"),
    "ptrace": ((101, 117), "0, 0, 0, 0"),
    "io_uring_setup": ((425, 425), "1, 0"),
    "bpf": ((321, 280), "0, 0, 0"),
    "userfaultfd": ((323, 282), "1"),
    "memfd_create": ((319, 279), "b'x', 0"),
    "socket": ((41, 198), "2, 1, 0"),
    "pipe2": ((293, 59), "ctypes.create_string_buffer(8), 0"),
    "clock_settime": ((227, 112), "0, None"),
    "delete_module": ((176, 106), "b'no such module', 0"),
    "kexec_file_load": ((320, 294), "-1, -1, long(0), b'', long(0)"),
    "setns": ((308, 268), "-1, 0"),
    "capset": ((126, 91), "None, None"),
    "prctl": ((157, 167), "15, b'renamed'"),
}


@pytest.mark.parametrize("name", WAYS_AROUND)
def test_the_kernel_knows_no_way_around(name):
    """Without the filter they succeed or fail otherwise: clone3 with EINVAL, io_uring_setup with EFAULT."""
    call, arguments = WAYS_AROUND[name]
    assert raw(call, arguments) == EPERM


def test_calls_of_another_architecture_kill():
    if platform.machine() != "x86_64":
        pytest.skip("only x86_64 takes calls of another architecture in the same process")
    # push rbx; mov eax, 20 (getpid, of 32 bits); int 0x80; pop rbx; ret
    snippet = (
        "import ctypes, mmap\nspace = mmap.mmap(-1, 4096, prot=7)\n"
        "space.write(bytes.fromhex('53b814000000cd805bc3'))\n"
        "call = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(space)))\n"
        "print('answered', call())"
    )
    message = refused(snippet)
    assert "answered" not in message and message.startswith("the snippet ended with status -")
    assert raw((0x40000027, None)) == EPERM  # getpid of x32


@pytest.mark.parametrize(
    "call",
    [
        "import socket; socket.socket().connect(('127.0.0.1', 80))",
        "import socket; socket.socket(socket.AF_UNIX)",
        "import socket; socket.socketpair()",
        "import os; os.pidfd_open(os.getppid())",
        "import os; os.kill(os.getppid(), 0)",
        "import os; os.killpg(0, 9)",
        "import resource; resource.setrlimit(resource.RLIMIT_CPU, (9999, 9999))",
        "import os; os.setsid()",
    ],
)
def test_neither_network_nor_other_processes_can_be_reached(call):
    message = refused(call)
    assert "Operation not permitted" in message or "not allowed to raise maximum limit" in message


def test_no_signal_can_be_aimed_through_a_file(victim):
    """The kernel sends the signal F_SETSIG to the process F_SETOWN when this process's output is read."""
    snippet = f"""
import fcntl, os, time
def attempt(*command):
    try:
        fcntl.fcntl(1, *command)
        print("done", flush=True)
    except PermissionError as error:
        print(error.errno, flush=True)
attempt(fcntl.F_SETOWN, {victim.pid})
attempt(15, bytes(4) + ({victim.pid}).to_bytes(4, "little"))
attempt(10, 9)
attempt(fcntl.F_SETFL, os.O_WRONLY | os.O_ASYNC)
for _ in range(5):
    print("read this", flush=True)
    time.sleep(0.1)
"""
    assert run(snippet).splitlines() == ["1"] * 4 + ["read this"] * 5
    assert victim.poll() is None


STEERING = {
    "kill": ((62, 129), "{pid}, 9"),
    "tkill": ((200, 130), "{pid}, 9"),
    "tgkill": ((234, 131), "{pid}, {pid}, 9"),
    "sched_setaffinity": ((203, 122), "{pid}, long(8), (1).to_bytes(8, 'little')"),
    "sched_setattr": ((314, 274), "{pid}, ctypes.create_string_buffer(bytes([48]) + bytes(47)), 0"),
    "sched_setparam": ((142, 118), "{pid}, bytes(4)"),
    "sched_setscheduler": ((144, 119), "{pid}, 3, bytes(4)"),
    "setpriority": ((141, 140), "0, {pid}, 19"),
    "ioprio_set": ((251, 30), "1, {pid}, 0x6000"),
    "prlimit64": ((302, 261), "{pid}, 1, bytes(16), None"),
    "migrate_pages": ((256, 238), "{pid}, long(64), bytes(8), bytes(8)"),
    "process_vm_readv": ((310, 270), "{pid}, None, long(0), None, long(0), long(0)"),
    "pidfd_open": ((434, 434), "{pid}, 0"),
}


@pytest.mark.parametrize("name", STEERING)
def test_no_process_can_be_steered(name, victim):
    before = _steered(victim.pid)
    call, arguments = STEERING[name]
    assert raw(call, arguments.format(pid=victim.pid)) == EPERM
    assert victim.poll() is None and _steered(victim.pid) == before


def _steered(pid):
    limits = Path(f"/proc/{pid}/limits").read_text()
    return os.sched_getaffinity(pid), os.getpriority(os.PRIO_PROCESS, pid), os.sched_getscheduler(pid), limits


def test_its_own_limits_can_be_read_and_not_set():
    assert raw((302, 261), "0, 7, None, ctypes.create_string_buffer(16)") == "0 0"
    assert raw((302, 261), "0, 7, bytes(16), None") == EPERM
    assert run("import resource; resource.getrlimit(resource.RLIMIT_NPROC)") == "(0, 0)"


@pytest.mark.parametrize("path", ["/etc/passwd", "/proc/self/environ", "/proc/1/cmdline", "/", "/tmp"])
def test_no_file_can_be_read(path):
    look = f"os.listdir({path!r})" if path in ("/", "/tmp") else f"open({path!r}).read()"
    assert "PermissionError" in refused(f"import os\nprint({look})")


@pytest.mark.parametrize("link", ["cwd", "exe", "fd/0", "root"])
def test_the_parents_links_cannot_be_read(link):
    assert "PermissionError" in refused(f"import os\nprint(os.readlink(f'/proc/{{os.getppid()}}/{link}'))")


@pytest.mark.parametrize(
    "change",
    [
        "open(folder + '/new.txt', 'w')",
        "open(kept, 'w')",
        "open(kept, 'a')",
        "open(kept, 'r+')",
        "os.open(folder, os.O_RDWR | os.O_TMPFILE)",
        "os.open(kept, os.O_PATH)",
        "os.remove(kept)",
        "os.rename(kept, folder + '/b')",
        "os.link(kept, folder + '/l')",
        "os.mkdir(folder + '/d')",
        "os.mkfifo(folder + '/f')",
        "os.symlink('/etc', folder + '/l')",
        "os.chmod(kept, 0)",
        "os.chown(kept, os.getuid(), os.getgid())",
        "os.utime(kept, (0, 0))",
        "os.setxattr(kept, 'user.x', b'x')",
        "os.truncate(kept, 0)",
        "open('/dev/shm/gpg_jax_test', 'w')",
        "open('/dev/null', 'w')",
    ],
)
def test_no_file_can_be_changed(change, kept):
    message = refused(f"import os\nkept, folder = {str(kept)!r}, {str(kept.parent)!r}\n{change}")
    assert "PermissionError: [Errno 1]" in message


CHANGES = {
    "chmod": ((90, None), "path, 0"),
    "fchmodat": ((268, 53), "-100, path, 0"),
    "fchmodat2": ((452, 452), "-100, path, 0, 0"),
    "utime": ((132, None), "path, None"),
    "utimes": ((235, None), "path, None"),
    "futimesat": ((261, None), "-100, path, None"),
    "utimensat": ((280, 88), "-100, path, None, 0"),
    "truncate": ((76, 45), "path, long(0)"),
    "creat": ((85, None), "path, 0o644"),
    "open to write": ((2, None), "path, 1"),
    "openat to write": ((257, 56), "-100, path, 1"),
    "openat to empty": ((257, 56), "-100, path, 0o1000"),
    "openat2 to write": ((437, 437), "-100, path, (2).to_bytes(24, 'little'), long(24)"),
    "mknodat": ((259, 33), "-100, path + b'2', 0o100644, 0"),
    "setxattrat": ((463, 463), "-100, path, 0, b'user.x', None, long(0)"),
    "file_setattr": ((469, 469), "-100, path, bytes(24), long(24), 0"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_no_call_changes_a_file(name, kept):
    call, arguments = CHANGES[name]
    assert raw(call, arguments, before=f"path = {os.fsencode(kept)!r}") == EPERM


@pytest.fixture
def without_filter(monkeypatch):
    """A filter that allows every call: what is refused now, something else refuses."""
    monkeypatch.setattr(
        python_tool, "call_filter", lambda machine: struct.pack("=HBBI", 0x06, 0, 0, 0x7FFF0000)
    )


@pytest.mark.parametrize(
    "change",
    [
        "open(folder + '/new.txt', 'w')",
        "open(kept, 'a')",
        "os.remove(kept)",
        "os.rename(kept, folder + '/b')",
        "os.mkdir(folder + '/d')",
        "os.symlink('/etc', folder + '/l')",
        "os.truncate(kept, 0)",
        "open(os.__file__, 'a')",
    ],
)
def test_landlock_alone_keeps_files(change, kept, without_filter):
    message = refused(f"import os\nkept, folder = {str(kept)!r}, {str(kept.parent)!r}\n{change}")
    assert "PermissionError: [Errno 13]" in message


def test_landlock_alone_keeps_signals_and_ports(victim, without_filter):
    if confined._libc.syscall(444, None, 0, 1) < 7:
        pytest.skip("this kernel's Landlock may lack them")
    assert "[Errno 1]" in refused(f"import os; os.kill({victim.pid}, 9)")
    assert "[Errno 13]" in refused("import socket; socket.socket().connect(('127.0.0.1', 9))")
    assert victim.poll() is None


def _line(process):
    """The first line of a process, which must come within a minute."""
    assert select.select([process.stdout], [], [], 60)[0]
    return process.stdout.readline().decode().strip()


def test_it_has_no_capability_and_its_filter_stands():
    process = python_tool._start(30.0, LIMITS["memory_bytes"])
    process.stdin.write(b"import time\nprint('here', flush=True)\ntime.sleep(60)")
    process.stdin.close()
    try:
        assert _line(process) == "here"
        status = dict(
            line.split(":\t", 1) for line in Path(f"/proc/{process.pid}/status").read_text().splitlines()
        )
    finally:
        process.kill()
        process.stdout.close()
        process.wait()
    assert [int(status[name], 16) for name in ("CapEff", "CapPrm", "CapInh", "CapAmb")] == [0] * 4
    assert (status["NoNewPrivs"], status["Seccomp"], status["Threads"]) == ("1", "2", "1")


def test_it_ends_with_the_process_that_started_it():
    parent = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import time\nfrom gpg_jax.environments.python_tool import _start\n"
            "process = _start(60.0, 2**29)\n"
            "process.stdin.write(b'import time; print(1, flush=True); time.sleep(60)')\n"
            "process.stdin.close()\nprocess.stdout.readline()\n"
            "print(process.pid, flush=True)\ntime.sleep(60)",
        ],
        stdout=subprocess.PIPE,
        cwd=Path(confined.__file__).parents[2],
    )
    try:
        pid = int(_line(parent))
    finally:
        parent.kill()
        parent.communicate()
    assert _comes_true(lambda: _is_gone(pid))


def _is_gone(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


def _comes_true(condition: Callable[[], bool]):
    until = time.monotonic() + 30
    while not condition() and time.monotonic() < until:
        time.sleep(0.05)
    return condition()


def test_an_old_landlock_is_refused(monkeypatch, capsys):
    class Kernel:
        def syscall(self, *arguments):
            return 2

    monkeypatch.setattr(confined, "_libc", Kernel())
    with pytest.raises(SystemExit) as caught:
        confined._ruleset()
    assert caught.value.code == confined.REFUSED
    assert "Landlock is version 2, and 3 (Linux 6.2) is the least" in capsys.readouterr().err
