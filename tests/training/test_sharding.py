"""Meshes and rules: every array has a place, and what does not fit is refused with a sentence."""

import jax
import numpy as np
import optax
import pytest
import small
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as Spec

from gpg_jax.algorithms import ALGORITHMS
from gpg_jax.decoding.sharded import decode_specs
from gpg_jax.training.sharding import make_mesh, parameter_specs, row_shards, state_shardings
from gpg_jax.training.state import create_critic_state, create_state

SHAPES = jax.eval_shape(small.policy().init, jax.random.key(0))


def test_parameters_lie_by_their_names():
    specs = parameter_specs(SHAPES, make_mesh((2, 2, 2)))
    assert specs["embedding"] == Spec("tensor", "fsdp")
    assert specs["layers"]["attention"]["query"] == Spec(None, "fsdp", "tensor")
    assert specs["layers"]["mlp"]["down"] == Spec(None, "tensor", "fsdp")
    assert specs["layers"]["mlp_norm"] == specs["norm"] == Spec()


def test_decoding_gathers_fsdp_and_keeps_tensor():
    specs = decode_specs(parameter_specs(SHAPES, make_mesh((2, 2, 2))))
    assert specs["embedding"] == Spec("tensor", None)
    assert specs["layers"]["attention"]["output"] == Spec(None, "tensor", None)


def test_moments_and_reference_lie_as_the_parameters():
    method, optimizer, mesh = ALGORITHMS["grpo"](), optax.adamw(1e-3), make_mesh((1, 4, 2))
    state = jax.eval_shape(
        lambda key: create_state(small.policy().init(key), method, optimizer, key), jax.random.key(0)
    )
    shardings = state_shardings(state, optimizer, mesh)
    assert jax.tree.leaves(shardings.optimizer[0].mu) == jax.tree.leaves(shardings.params)
    assert jax.tree.leaves(shardings.reference) == jax.tree.leaves(shardings.params)
    assert shardings.update.spec == shardings.optimizer[0].count.spec == Spec()


def test_a_critic_without_its_optimizer_is_refused():
    method, optimizer = ALGORITHMS["ppo"](), optax.adamw(1e-3)

    def create(key):
        critic = create_critic_state({"weight": jax.numpy.zeros(4)}, optimizer)
        return create_state(small.policy().init(key), method, optimizer, key, critic)

    state = jax.eval_shape(create, jax.random.key(0))
    with pytest.raises(ValueError, match="the state holds a critic: give critic_optimizer"):
        state_shardings(state, optimizer, make_mesh((8, 1, 1)))


def test_minus_one_takes_the_devices_that_are_left():
    mesh = make_mesh((-1, 2, 1))
    assert dict(mesh.shape) == {"data": 4, "fsdp": 2, "tensor": 1} and row_shards(mesh) == 8
    assert set(mesh.axis_types) == {AxisType.Auto}


@pytest.mark.parametrize(
    ("shape", "sentence"),
    [
        ((3, 1, 1), "needs 3 devices and there are 8"),
        ((-1, -1, 1), "at most one of them -1"),
        ((8, 1), "three sizes"),
    ],
)
def test_impossible_meshes_are_refused(shape, sentence):
    with pytest.raises(ValueError, match=sentence):
        make_mesh(shape)


def test_what_does_not_divide_or_match_is_refused():
    mesh = make_mesh((1, 8, 1))
    odd = {"embedding": jax.ShapeDtypeStruct((32, 12), np.float32)}
    with pytest.raises(ValueError, match=r"axis 1 of 'embedding', shape \(32, 12\), does not divide"):
        parameter_specs(odd, mesh)
    with pytest.raises(ValueError, match="no sharding rule matches the parameter 'mystery'"):
        parameter_specs({"mystery": jax.ShapeDtypeStruct((8,), np.float32)}, mesh)
