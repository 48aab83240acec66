"""Where every array lives: a mesh `data × fsdp × tensor` and rules from a parameter's path to its axes.

Rows are split over `data` and `fsdp`; parameters and moments over `fsdp` and `tensor`. For decoding
the parameters are gathered over `fsdp` and stay split over `tensor`.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
import optax
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as Spec

from gpg_jax.training.state import CriticState, Networks, TrainState
from gpg_jax.types import Params

AXES = ("data", "fsdp", "tensor")
ROWS = Spec(("data", "fsdp"))
"""Rows of a rollout."""

RULES: tuple[tuple[str, Spec], ...] = (
    (r"^(members/\d+/)?embedding$", Spec("tensor", "fsdp")),
    (r"^(members/\d+/)?head$", Spec("fsdp", "tensor")),
    (r"(query|key|value|gate|up)$", Spec(None, "fsdp", "tensor")),
    (r"(output|down)$", Spec(None, "tensor", "fsdp")),
    (r"_bias$", Spec(None, "tensor")),
    (r"norm$", Spec()),
    (r"^weights$", Spec()),
)
"""The transformer's rules, and a mixture's: the first whose pattern is found in a parameter's path counts."""


def make_mesh(shape: Sequence[int], devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh with the axes `data`, `fsdp`, `tensor`.

    Args:
      shape: three sizes; one of them may be -1 and takes the devices that are left.
      devices: defaults to all of them.

    Raises:
      ValueError: sizes that do not use the devices exactly.
    """
    devices = jax.devices() if devices is None else list(devices)
    sizes = list(shape)
    if len(sizes) != 3 or sizes.count(-1) > 1 or any(size < 1 and size != -1 for size in sizes):
        raise ValueError(f"mesh {tuple(shape)} is not three sizes {AXES}, at most one of them -1")
    if -1 in sizes:
        sizes[sizes.index(-1)] = len(devices) // math.prod(size for size in sizes if size != -1)
    if math.prod(sizes) != len(devices):
        raise ValueError(
            f"mesh {tuple(shape)} needs {math.prod(sizes)} devices and there are {len(devices)}; "
            f"{AXES} must multiply to the number of devices"
        )
    return jax.make_mesh(tuple(sizes), AXES, axis_types=(AxisType.Auto,) * 3, devices=devices)


def row_shards(mesh: Mesh) -> int:
    """Number of parts that rows are split into."""
    return mesh.shape["data"] * mesh.shape["fsdp"]


def _path(path: tuple[Any, ...]) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _spec_of(path: str, shape: tuple[int, ...], mesh: Mesh, rules: Sequence[tuple[str, Spec]]) -> Spec:
    spec = next((spec for pattern, spec in rules if re.search(pattern, path)), None)
    if spec is None:
        raise ValueError(f"no sharding rule matches the parameter {path!r} of shape {shape}; add one for it")
    for axis, name in enumerate(spec):
        if name is not None and shape[axis] % mesh.shape[name]:
            raise ValueError(
                f"axis {axis} of {path!r}, shape {shape}, does not divide by the mesh axis {name!r} of "
                f"{mesh.shape[name]} devices; choose a size that divides {shape[axis]}"
            )
    return spec


def parameter_specs(params: Params, mesh: Mesh, rules: Sequence[tuple[str, Spec]] = RULES) -> Params:
    """The partition of every parameter, by the first rule that matches its path.

    Args:
      params: parameters or their shapes.
      mesh: the mesh that they must fit.
      rules: pairs of a regular expression and a partition.

    Raises:
      ValueError: a parameter that no rule matches, or an axis that does not divide.
    """
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: _spec_of(_path(path), np.shape(leaf), mesh, rules), params
    )


def critic_specs(params: Params, mesh: Mesh, rules: Sequence[tuple[str, Spec]] = RULES) -> Params:
    """The partition of a critic's parameters: its trunk as a policy's, its head everywhere.

    Args:
      params: of a critic, or their shapes.
      mesh: the mesh that they must fit.
      rules: see `parameter_specs`.

    Raises:
      ValueError: see `parameter_specs`.
    """
    specs = {name: Spec() for name in params if name != "trunk"}
    if "trunk" in params:
        specs["trunk"] = parameter_specs(params["trunk"], mesh, rules)
    return specs


def named(specs: Any, mesh: Mesh) -> Any:
    """Partitions as shardings on a mesh."""
    return jax.tree.map(
        lambda spec: NamedSharding(mesh, spec), specs, is_leaf=lambda leaf: isinstance(leaf, Spec)
    )


def state_shardings(
    state: TrainState,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    rules: Sequence[tuple[str, Spec]] = RULES,
    critic_optimizer: optax.GradientTransformation | None = None,
) -> TrainState:
    """Shardings of a whole state: moments and reference lie as the parameters, the rest everywhere.

    Args:
      state: the state or its shapes.
      optimizer: whose state it holds.
      mesh: the mesh.
      rules: see `parameter_specs`.
      critic_optimizer: that of the critic, where the state holds one.

    Raises:
      ValueError: a critic without its optimizer; see `parameter_specs` too.
    """
    specs, critic, own = parameter_specs(state.params, mesh, rules), None, None
    if state.critic is not None:
        if critic_optimizer is None:
            raise ValueError("the state holds a critic: give critic_optimizer, whose moments are its")
        own = critic_specs(state.critic.params, mesh, rules)
        critic = _critic_partitions(state.critic, critic_optimizer, own)
    tree: Any = state  # of partitions instead of arrays
    whole = dataclasses.replace(
        tree,
        params=specs,
        optimizer=_moments(optimizer, state.optimizer, specs),
        method=jax.tree.map(lambda _: Spec(), state.method),
        reference=None if state.reference is None else specs,
        critic=critic,
        key=Spec(),
        update=Spec(),
        rollout=Spec(),
        past=tuple(Networks(specs, None if one.critic is None else own) for one in state.past),
    )
    return named(whole, mesh)


def critic_shardings(
    state: CriticState,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    rules: Sequence[tuple[str, Spec]] = RULES,
) -> CriticState:
    """Shardings of a critic that is trained by itself, as a reward model is.

    Args:
      state: the state or its shapes.
      optimizer: whose state it holds.
      mesh: the mesh.
      rules: see `parameter_specs`.
    """
    return named(_critic_partitions(state, optimizer, critic_specs(state.params, mesh, rules)), mesh)


def rows_on(mesh: Mesh) -> Callable[[Any], Any]:
    """What holds the first axis of every array in its place on a mesh, inside of `jax.jit`."""
    place = NamedSharding(mesh, ROWS)
    return functools.partial(jax.tree.map, lambda leaf: jax.lax.with_sharding_constraint(leaf, place))


def placed(array: np.ndarray, place: NamedSharding) -> jax.Array:
    """An array of the host on a mesh; each process puts its own part.

    `jax.device_put` would compare whole arrays between processes.
    """
    return jax.make_array_from_callback(array.shape, place, lambda index: array[index])


def _critic_partitions(
    state: CriticState, optimizer: optax.GradientTransformation, specs: Any
) -> CriticState:
    return CriticState(params=specs, optimizer=_moments(optimizer, state.optimizer, specs))


def _moments(optimizer: optax.GradientTransformation, moments: Any, specs: Any) -> Any:
    """Partitions of an optimizer's state: what belongs to a parameter lies as that one."""
    if not jax.tree.leaves(moments):
        return moments
    return optax.tree_utils.tree_map_params(
        optimizer, lambda _, spec: spec, moments, specs, transform_non_params=lambda _: Spec()
    )
