"""Decoding on eight devices: the same tokens, no weights on the move inside the loop."""

import re

import hlo
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small
from jax.sharding import PartitionSpec

from gpg_jax.decoding.automaton import compile_automaton
from gpg_jax.decoding.loop import decode
from gpg_jax.decoding.sampling import Sampling
from gpg_jax.decoding.sharded import compile_decode
from gpg_jax.training.sharding import make_mesh, named, parameter_specs

OPTIONS = dict(
    new_slots=6,
    sampling=Sampling(),
    automaton=compile_automaton((), [b"x"] * 32, stop_tokens=tuple(range(1, 9))),
    bucket=6,
)
PROMPTS = np.random.default_rng(0).integers(3, 32, (8, 5)).astype(np.int32)
LENGTHS = np.array([5, 4, 3, 2, 1, 5, 5, 5], np.int32)
UID = np.arange(16, dtype=np.int32)


def leaves(params, specs):
    """Pairs of a parameter and its partition."""
    partitions = jax.tree.leaves(specs, is_leaf=lambda leaf: isinstance(leaf, PartitionSpec))
    return zip(jax.tree.leaves(params), partitions, strict=True)


def lowered(shape):
    mesh = make_mesh(shape)
    specs = parameter_specs(small.params(), mesh)
    params = jax.device_put(small.params(), named(specs, mesh))
    run = compile_decode(small.policy(), mesh, specs, **OPTIONS)
    return run, (params, PROMPTS, LENGTHS, UID, jax.random.key(3))


@pytest.fixture(scope="module")
def alone():
    return jax.jit(
        lambda params: decode(
            small.policy(), params, PROMPTS, jnp.asarray(LENGTHS), UID, jax.random.key(3), **OPTIONS
        )
    )(small.params())


@pytest.mark.parametrize("shape", [(8, 1, 1), (2, 2, 2)])
def test_a_mesh_draws_the_same_tokens(alone, shape):
    run, arguments = lowered(shape)
    responses = run(*arguments)
    np.testing.assert_array_equal(responses.tokens, alone.tokens)
    np.testing.assert_allclose(responses.log_prob, alone.log_prob, atol=1e-5)


def test_parameters_are_rounded_before_they_are_gathered():
    """Half the bytes on the wire. What is gathered was computed from bfloat16, which a CPU then widens."""
    mesh = make_mesh((1, 8, 1))
    policy, specs = small.policy(dtype=jnp.bfloat16), parameter_specs(small.params(), mesh)
    params = jax.device_put(small.params(), named(specs, mesh))
    with hlo.optimised():
        run = compile_decode(policy, mesh, specs, **OPTIONS)
        text = run.lower(params, PROMPTS, LENGTHS, UID, jax.random.key(3)).compile().as_text()
    gathered = re.findall(r"all-gather\(%?([\w.\-]+)\)", text)
    assert len(gathered) == sum(
        leaf.ndim > 1 and "fsdp" in spec for leaf, spec in leaves(small.params(), specs)
    )
    for name in gathered:
        (called,) = re.findall(rf"%?{re.escape(name)} = .*calls=%?([\w.\-]+)", text)
        assert "bf16[" in hlo.computations(text)[called], name


def test_a_replica_that_is_done_stops(alone):
    run, arguments = lowered((8, 1, 1))
    steps = np.asarray(run(*arguments).steps)
    longest = np.asarray(alone.length).reshape(8, -1).max(axis=1)
    np.testing.assert_array_equal(steps, longest)
    assert steps.min() < steps.max(), "replicas must differ for this test to say anything"


@pytest.mark.parametrize(("shape", "allowed"), [((2, 4, 1), 0), ((2, 2, 2), 1)])
def test_no_weight_moves_inside_the_loop(shape, allowed):
    with hlo.optimised():
        run, arguments = lowered(shape)
        lines = hlo.loop_lines(run.lower(*arguments).compile().as_text())
    moved = hlo.operations(lines, "all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter")
    assert bool(moved) == bool(allowed)
    weights = {tuple(leaf.shape[1:]) for leaf in jax.tree.leaves(small.params()["layers"])}
    replicas = shape[0] * shape[1]
    mine = {len(UID) // replicas, len(LENGTHS) // replicas}
    for line in moved:
        # Tensor parallelism exchanges activations: their first axis is the replica's rows or prompts.
        sizes = [int(size) for size in line.split("[")[1].split("]")[0].split(",")]
        assert sizes[0] in mine and tuple(sizes) not in weights, line
