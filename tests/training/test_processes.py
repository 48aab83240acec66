"""Several processes: one does, all know; a judge that wavers and a disk that fails on one stop nobody."""

import json
import os
import shutil
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from experiments import records
from gpg_jax.environments.rewards import Failure, Judged
from gpg_jax.training import collect, processes

ROOT = Path(__file__).parents[2]


def start(*arguments: str, devices: int = 2, **variables: str) -> subprocess.Popen:
    """A process on this host with its own devices."""
    forced = {"XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}", "JAX_PLATFORMS": "cpu"}
    return subprocess.Popen(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=os.environ | forced | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def test_alone_nothing_is_sent(monkeypatch):
    monkeypatch.setattr(processes, "multihost_utils", None)
    assert processes.is_first() and processes.from_first(lambda: b"x") == b"x"
    assert processes.on_first(lambda: 3) == 3 and processes.together(lambda: 4) == 4
    assert processes.agreed(True) and not processes.agreed(False)
    with pytest.raises(KeyError):
        processes.from_first(lambda: {}["no"])


def test_a_verdict_survives_the_way():
    judged = Judged(
        outcome=np.array([1, 0, 0.1], np.float32),
        reward=np.array([1e-45, -3.4028235e38, 1 / 3], np.float32),
        parts={"a": np.array([0.7, 0, -0.0], np.float32)},
        failed=np.array([False, True, False]),
        failures=(Failure(1, "a", "ValueError: ü", "\udcff\n"),),
    )
    again = collect._unpack(collect._pack(judged))
    for one, two in zip((*judged[:2], judged.failed), (*again[:2], again.failed), strict=True):
        assert one.dtype == two.dtype and one.tobytes() == two.tobytes()
    assert again.parts["a"].tobytes() == judged.parts["a"].tobytes() and again.failures == judged.failures


CODE = """
    import json, sys
    import jax
    process, port, folder = int(sys.argv[2]), sys.argv[3], sys.argv[1]
    jax.distributed.initialize(f"127.0.0.1:{port}", 2, process)
    import jax.numpy as jnp, numpy as np
    from jax.sharding import NamedSharding, PartitionSpec as Spec
    from gpg_jax.environments.rewards import judge
    from gpg_jax.training import checkpoints as ck, processes
    from gpg_jax.training.collect import judged_once

    def attempt(act):
        try:
            return act()
        except Exception as error:
            return f"{type(error).__name__}: {error}"

    def fail(on, error):
        if process == on:
            raise error
        return "fine"

    found = {"first": processes.is_first(), "devices": jax.device_count()}
    found["sizes"] = [processes.from_first(lambda n=n: bytes([process + 7]) * n) == bytes([7]) * n
                      for n in (0, 1, 2, 1000)]
    found["done"] = processes.on_first(lambda: 5)
    found["agreed"] = [processes.agreed(process == 1), processes.agreed(False)]
    found["sentence"] = attempt(lambda: processes.on_first(lambda: fail(0, ValueError("wrong"))))
    found["broken"] = attempt(lambda: processes.on_first(lambda: fail(0, KeyError("bug"))))
    found["other"] = attempt(lambda: processes.together(lambda: fail(1, ValueError("here"))))
    found["both"] = processes.together(lambda: "fine")
    verdict = judged_once(lambda ids, owners: judge(lambda text, owner: process + 0.5, ids, owners))
    found["judged"] = verdict(["a", "b"], [None, None]).outcome.tolist()

    mesh = jax.make_mesh((4,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    place = {"w": NamedSharding(mesh, Spec("x"))}
    make = jax.jit(lambda scale: {"w": scale * jnp.arange(8.0)}, out_shardings=place)
    with ck.open_checkpoints(folder + "/checkpoints", keep_latest=3) as kept:
        for step in (1, 2, 3):
            ck.save(kept, step, make(step), {"step": step}, score=0.0).result()
    like = ck.template({"w": jax.ShapeDtypeStruct((8,), jnp.float32)}, place)
    read, calls = ck._read_own, []

    def read_badly(error):
        def own(path, like, part):
            calls.append(path.name)
            if process == 1 and path.name == "3":
                raise error
            return read(path, like, part)
        return own

    said = []
    with ck.open_checkpoints(folder + "/checkpoints", keep_latest=3) as kept:
        ck._read_own = read_badly(MemoryError("full"))
        found["memory"] = attempt(lambda: ck.restore(kept, like, said.append))
        ck._read_own = read_badly(ValueError("DATA_LOSS: on one"))
        restored = ck.restore(kept, like, said.append)
        found["restored"] = [restored.step, restored.host, *restored.damaged]
        found["values"] = [shard.data.tolist() for shard in restored.state["w"].addressable_shards]
        ck.set_aside(kept, restored.damaged)
        found["left"] = [known.step for known in kept.checkpoints]
    found["calls"] = calls
    processes.agreed(False)  # neither leaves before the other
    print(json.dumps(found), flush=True)
"""


def test_two_processes_agree(tmp_path):
    """Process 1 judges otherwise, runs out of memory, and cannot read a checkpoint that process 0 can."""
    port, script = free_port(), tmp_path / "both.py"
    script.write_text(textwrap.dedent(CODE))
    children = [start(str(script), str(tmp_path), str(process), str(port)) for process in (0, 1)]
    said = [child.communicate(timeout=300)[0] for child in children]
    assert [child.returncode for child in children] == [0, 0], said
    first, second = (json.loads(text.splitlines()[-1]) for text in said)
    for found in (first, second):
        assert found["devices"] == 4 and all(found["sizes"]) and found["agreed"] == [True, False]
        assert found["sentence"] == "ValueError: wrong" and found["both"] == "fine"
        assert found["judged"] == [0.5, 0.5]
        assert found["restored"] == [2, {"step": 2}, 3] and found["left"] == [1, 2]
        assert found["calls"] == ["3", "3", "2"]
    assert (first["first"], first["done"], second["first"], second["done"]) == (True, 5, False, None)
    assert first["broken"] == "KeyError: 'bug'"
    assert second["broken"] == "RuntimeError: the first process failed: 'bug'"
    assert first["other"].startswith("RuntimeError: another process has failed")
    assert second["other"] == "ValueError: here" and second["memory"] == "MemoryError: full"
    assert first["memory"].startswith("RuntimeError: another process has failed")
    assert first["values"] + second["values"] == [[0, 2], [4, 6], [8, 10], [12, 14]]
    assert sorted(path.name for path in (tmp_path / "checkpoints.damaged").iterdir()) == ["3.0"]


def train(*flags: str, cache: Path, devices: int = 2) -> subprocess.Popen:
    """The command; programs that were compiled before are taken from a cache."""
    kept = {"JAX_COMPILATION_CACHE_DIR": str(cache), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    return start("-m", "experiments.train", *flags, devices=devices, **kept)


def train_as_two(*flags: str, cache: Path) -> tuple[list[int], list[str]]:
    """Exit codes of the two processes, and what each said; gloo, which connects them, says something too."""
    joined = [*flags, "--distributed", f"--coordinator=127.0.0.1:{free_port()}", "--processes=2"]
    children = [train(*joined, f"--process={index}", cache=cache) for index in (0, 1)]
    said = [child.communicate(timeout=600)[0].splitlines() for child in children]
    own = ["\n".join(line for line in lines if not line.startswith("[Gloo]")) for lines in said]
    return [child.returncode for child in children], own


def small_task(folder: Path) -> list[str]:
    """Two letters backwards, some words held out; dynamic sampling in three iterations."""
    rows = [{"question": f"{a}{b}>", "answer": f"{b}{a}"} for a in "abcde" for b in "abcde"]
    for name, part in (("train", rows[:20]), ("held_out", rows[20:])):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    task = [f"--config.task.{name}={folder / name}.jsonl" for name in ("train", "held_out")]
    sizes = ["--config.schedule.steps=3", "--config.schedule.prompts=8", "--config.schedule.group=4"]
    saved = ["--config.checkpoint.every=2", "--config.output.rollouts=2", "--config.evaluation.batch=8"]
    return ["--config=configs/smoke.py:dapo", "--config.task.name=files", *task, *sizes, *saved]


def untimed(path: Path) -> list[dict]:
    return [{k: v for k, v in line.items() if "second" not in k} for line in records.read(path)]


@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path):
    """Four devices of one process or of two, which then start again after iteration 2."""
    flags, cache, one, two = small_task(tmp_path), tmp_path / "cache", tmp_path / "one", tmp_path / "two"
    child = train(*flags, f"--workdir={one}", cache=cache, devices=4)
    said, _ = child.communicate()
    assert child.returncode == 0, said
    whole = untimed(one / "metrics.jsonl")
    assert [line["step"] for line in whole] == [0, 1, 2, 3, 3] and whole[1]["generations"] > 1
    for begins in ("schedule", "resuming after iteration 2"):
        codes, (first, second) = train_as_two(*flags, f"--workdir={two}", cache=cache)
        assert codes == [0, 0], (first, second)
        assert begins in first and "\nheld-out accuracy: " in first and second == ""
        for expected, found in zip(whole, untimed(two / "metrics.jsonl"), strict=True):
            assert found.keys() == expected.keys()
            np.testing.assert_allclose(list(found.values()), list(expected.values()), rtol=1e-5, atol=1e-5)
        for name in ("transcripts.jsonl", "evaluations.jsonl"):
            assert (one / name).read_bytes() == (two / name).read_bytes()
        shutil.rmtree(two / "checkpoints" / "3")
    codes, said = train_as_two(*flags, f"--workdir={two}", "--config.seed=1", cache=cache)
    assert codes == [2, 2] and all("belongs to another run: seed was 0 and is 1" in text for text in said)
