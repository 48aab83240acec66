"""Checkpoints: whole, on any mesh, verified, and a way back from every damage."""

import functools
import gc
import os
import shutil
import signal
import subprocess
import sys
import textwrap

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gpg_jax.training import checkpoints as ck
from gpg_jax.training.sharding import make_mesh, state_shardings
from gpg_jax.training.state import TrainState, create_state
from gpg_jax.types import Method

HOST = {"cursor": {"epoch": 2, "index": [3, 4]}, "note": "ü"}
OPTIMIZER = optax.adamw(1e-3)


def method(needs: frozenset[str] = frozenset({"reference"})) -> Method:
    state = {"mean": jnp.float32(0.5), "count": jnp.int32(3)}
    return Method(objective=None, shape=None, keep=None, state=state, needs=needs)


def make_state(seed: int = 0) -> TrainState:
    """Of a few of a transformer's parameters, by their names, which say where they lie."""
    draw = np.random.default_rng(seed)
    sizes = {"embedding": (32, 16), "norm": (16,), "layers": {"query": (3, 16, 16)}}
    params = jax.tree.map(
        lambda size: jnp.asarray(draw.normal(size=size), jnp.float32),
        sizes,
        is_leaf=lambda size: isinstance(size, tuple),
    )
    state = create_state(params, method(), OPTIMIZER, jax.random.key(7))
    return state.replace(update=jnp.int32(seed), rollout=jnp.int32(seed))


def placed(state: TrainState, mesh_shape: tuple[int, ...]):
    mesh = make_mesh(mesh_shape)
    shardings = state_shardings(state, OPTIMIZER, mesh)
    return jax.device_put(state, shardings), ck.template(state, shardings)


@functools.cache
def like():
    return placed(make_state(), (8, 1, 1))[1]


def save_all(directory, steps, **options):
    with ck.open_checkpoints(directory, **options) as checkpoints:
        for step in steps:
            ck.save(checkpoints, step, make_state(step), HOST, score=float(step == 2)).result()
        return [known.step for known in checkpoints.checkpoints]


def restore(directory, wanted=None):
    said: list[str] = []
    with ck.open_checkpoints(directory) as checkpoints:
        return ck.restore(checkpoints, like() if wanted is None else wanted, said.append), said


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    """A folder of three checkpoints, to be copied before it is damaged."""
    directory = tmp_path_factory.mktemp("three")
    save_all(directory, [1, 2, 3], keep_latest=3)
    return directory


def assert_same(one, other):
    chex.assert_trees_all_equal(one.replace(key=None), other.replace(key=None))
    assert jnp.array_equal(jax.random.key_data(one.key), jax.random.key_data(other.key))
    assert one.key.dtype == other.key.dtype


def data_files(directory, step):
    files = [path for path in (directory / str(step) / "state").rglob("d/*") if path.is_file()]
    return sorted(files, key=lambda path: path.stat().st_size)


def test_everything_comes_back_on_another_mesh(tmp_path):
    saved, _ = placed(make_state(5), (2, 2, 2))
    with ck.open_checkpoints(tmp_path) as checkpoints:
        ck.save(checkpoints, 5, saved, HOST, score=0.0)
    _, other = placed(make_state(), (4, 1, 2))
    found, said = restore(tmp_path, other)
    assert (found.step, found.host, found.damaged, said) == (5, HOST, {}, [])
    assert_same(found.state, saved)
    assert found.state.params["embedding"].sharding == other.params["embedding"].sharding


def test_what_is_not_asked_for_stays_on_the_disk(tmp_path):
    """Some fields of a state are read without the others, whatever these are."""
    state = make_state(1)
    with ck.open_checkpoints(tmp_path) as kept:
        ck.save(kept, 1, state, {}, score=None)
    places = jax.tree.map(lambda leaf: leaf.sharding, state.params)
    like = {"params": ck.template(state.params, places)}
    with ck.open_checkpoints(tmp_path) as kept:
        found = ck.restore(kept, like, pytest.fail, part=True)
        assert list(found.state) == ["params"]
        chex.assert_trees_all_equal(found.state["params"], state.params)
        with pytest.raises(ValueError, match=r"optimizer/.* is not in this run"):
            ck.restore(kept, like, pytest.fail)


def test_what_is_donated_after_the_call_is_saved_as_it_was(tmp_path):
    state = make_state(1)
    kept = jax.tree.map(jnp.copy, state)
    move = jax.jit(lambda tree: jax.tree.map(lambda leaf: leaf + 1, tree), donate_argnums=0)
    with ck.open_checkpoints(tmp_path) as checkpoints:
        ck.save(checkpoints, 1, state, HOST, score=0.0)
        jax.block_until_ready(move(state.params))
    assert_same(restore(tmp_path)[0].state, kept)


def test_keeps_the_latest_and_the_best(tmp_path):
    assert save_all(tmp_path, [1, 2, 3, 4, 5], keep_latest=2, keep_best=1) == [2, 4, 5]


def test_nothing_saved_is_none(tmp_path):
    assert restore(tmp_path) == (None, [])


def _truncate(directory):
    path = data_files(directory, 3)[-1]
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _flip_bits(directory):
    """Four bytes inside the largest array, which orbax reads without a word."""
    path = data_files(directory, 3)[-1]
    raw = bytearray(path.read_bytes())
    at = len(raw) // 2
    raw[at : at + 4] = bytes(byte ^ 0xFF for byte in raw[at : at + 4])
    path.write_bytes(bytes(raw))


def _alter_record(directory):
    path = directory / "3" / "_CHECKPOINT_METADATA"
    path.write_text(path.read_text().replace("epoch", "epoch2"))


def _stray_directory(directory):
    (directory / "77").mkdir()


def _no_metadata(directory):
    (directory / "3" / "_CHECKPOINT_METADATA").write_text("{")


def _lose_a_file(directory):
    data_files(directory, 3)[-1].unlink()


def _lose_the_index(directory):
    for path in (directory / "3" / "state").rglob("manifest.ocdbt"):
        path.write_bytes(b"nonsense")


def _break_metadata(directory):
    (directory / "3" / "state" / "_METADATA").write_text("{")


@pytest.mark.parametrize(
    "damage, step, back",
    [
        (_truncate, 3, 2),
        (_flip_bits, 3, 2),
        (_alter_record, 3, 2),
        (_no_metadata, 3, 2),
        (_lose_a_file, 3, 2),
        (_lose_the_index, 3, 2),
        (_break_metadata, 3, 2),
        (_stray_directory, 77, 3),
    ],
)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_walks_back_over_damage_and_says_so(tmp_path, three, damage, step, back):
    directory = tmp_path / "checkpoints"
    shutil.copytree(three, directory)
    damage(directory)
    found, said = restore(directory)
    gc.collect()  # orbax hears of the first array that fails, and drops the errors of the others
    assert found.step == back and list(found.damaged) == [step]
    assert len(said) == 1 and f"checkpoint {step}" in said[0] and "damaged" in said[0]
    assert_same(found.state, make_state(back))
    with ck.open_checkpoints(directory) as checkpoints:
        ck.set_aside(checkpoints, found.damaged)
        assert step not in [known.step for known in checkpoints.checkpoints]
        ck.save(checkpoints, step, make_state(step), HOST, score=0.0)
    assert restore(directory)[0].step == step
    assert (tmp_path / "checkpoints.damaged" / f"{step}.0").exists()


def test_only_damaged_ones_do_not_start_again_in_silence(tmp_path):
    save_all(tmp_path, [3])
    _flip_bits(tmp_path)
    with pytest.raises(
        ValueError, match=r"is sound \(3: the bits of .* are not .*\); .* move that folder away"
    ):
        restore(tmp_path)


def _wrapped(error):
    """As orbax raises what its readers raise."""
    try:
        raise KeyError("incompatible handler") from error
    except KeyError as outer:
        return outer


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("no memory"),
        jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: of a device"),
        PermissionError(13, "denied"),
        OSError(5, "input/output error"),
        ValueError("PERMISSION_DENIED: of tensorstore"),
    ],
)
@pytest.mark.parametrize("wrap", [_wrapped, lambda error: error])
def test_what_is_no_fault_of_the_files_is_raised_and_nothing_is_set_aside(tmp_path, monkeypatch, error, wrap):
    directory = tmp_path / "checkpoints"
    with ck.open_checkpoints(directory) as checkpoints:
        ck.save(checkpoints, 1, {"w": jnp.ones(8)}, HOST, score=0.0)
    place = jax.sharding.SingleDeviceSharding(jax.devices()[0])

    def load(*_):
        raise wrap(error)

    with ck.open_checkpoints(directory) as checkpoints:
        monkeypatch.setattr(ck.ocp, "load_checkpointables", load)
        with pytest.raises(type(error)) as raised:
            ck.restore(checkpoints, ck.template({"w": jnp.ones(8)}, {"w": place}), pytest.fail)
    assert raised.value is error
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoints"] and (directory / "1").is_dir()


def test_a_misfit_is_named(tmp_path):
    save_all(tmp_path, [1])
    short = like().replace(params={**like().params, "norm": jax.ShapeDtypeStruct((8,), jnp.float32)})
    with pytest.raises(ValueError, match=r"params/norm is float32\[16\] and this run needs float32\[8\]"):
        restore(tmp_path, short)
    more = like().replace(params={**like().params, "head": jax.ShapeDtypeStruct((8,), jnp.float32)})
    with pytest.raises(ValueError, match=r"params/head \(float32\[8\]\) is missing"):
        restore(tmp_path, more)
    with pytest.raises(ValueError, match=r"reference/embedding .* is not in this run"):
        restore(tmp_path, like().replace(reference=None))


def test_a_state_that_was_not_measured_is_never_the_best(tmp_path):
    with ck.open_checkpoints(tmp_path, keep_latest=1) as checkpoints:
        for step, score in enumerate((None, 0.5, None, None), 1):
            ck.save(checkpoints, step, make_state(step), HOST, score=score).result()
        assert [known.step for known in checkpoints.checkpoints] == [2, 4]
        assert ck.best_step(checkpoints) == 2


def test_a_step_is_saved_once_and_needs_a_score(tmp_path):
    save_all(tmp_path, [1])
    with ck.open_checkpoints(tmp_path) as checkpoints:
        with pytest.raises(ValueError, match="checkpoint 1 exists"):
            ck.save(checkpoints, 1, make_state(), HOST, score=0.0)
        with pytest.raises(ValueError, match="has the score nan"):
            ck.save(checkpoints, 2, make_state(), HOST, score=np.nan)


def test_bad_folders_and_counts(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="checkpoints cannot be kept in"):
        ck.open_checkpoints(tmp_path / "file" / "inside")
    with pytest.raises(ValueError, match="keep_latest=0"):
        ck.open_checkpoints(tmp_path, keep_latest=0)


def test_a_kill_while_saving_leaves_the_one_before(tmp_path):
    """The process dies with the second checkpoint half written."""
    code = f"""
        import os, signal
        import jax.numpy as jnp
        from gpg_jax.training import checkpoints as ck
        checkpoints = ck.open_checkpoints({str(tmp_path)!r})
        ck.save(checkpoints, 1, {{"w": jnp.ones(8)}}, {{}}, score=0.0).result()
        ck.save(checkpoints, 2, {{"w": jnp.ones(4_000_000)}}, {{}}, score=0.0)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    child = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], env=dict(os.environ), check=False)
    assert child.returncode == -signal.SIGKILL
    assert any("tmp" in path.name for path in tmp_path.iterdir())
    place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    found, said = restore(tmp_path, ck.template({"w": jnp.ones(8)}, {"w": place}))
    assert found.step == 1 and said == []
    assert not any("tmp" in path.name for path in tmp_path.iterdir())
