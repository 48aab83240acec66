"""Dialogues on a mesh: each data replica speaks with its own rows, on its own devices, at its own pace.

A replica is the devices that share one copy of the parameters, a line along `tensor`. Its host loop is a
thread of one process, so that a slow tool of one replica does not keep the others waiting.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as Spec

from gpg_jax.decoding.dialogue import Ask, Turns, converse
from gpg_jax.decoding.live import LivePrograms
from gpg_jax.decoding.rollouts import Written
from gpg_jax.decoding.sharded import decode_specs
from gpg_jax.policies.policy import Policy
from gpg_jax.types import Array, Params

Converse = Callable[[Params, Array, Array, Array, Array, Ask], dict[int, Written]]
"""Parameters, prompts `int32[P, S]`, prompt lengths `int32[P]`, uids `int32[B]`, key, ask -> the rows of this
process's replicas, by the replica's place among all; `gather` makes all rows of them."""


def compile_dialogue(
    policy: Policy, mesh: Mesh, specs: Any, programs: LivePrograms, turns: Turns
) -> Converse:
    """`dialogue.converse` on a mesh with the axes `data`, `fsdp` and `tensor`.

    Args:
      policy: the network.
      mesh: where to decode.
      specs: partitions of the parameters, of which `policy.for_decoding` keeps the tree.
      programs: of the policy.
      turns: how dialogues are held.

    Returns:
      A `Converse`; its `ask` is called for the process's own rows. The replicas must divide P.

    Raises:
      ValueError: a line of devices along `tensor` that lies on several processes.
    """
    _check_lines(mesh)
    gathered = decode_specs(specs)
    places = jax.tree.map(lambda spec: NamedSharding(mesh, spec), gathered, is_leaf=_is_spec)
    replicas = _local_replicas(mesh)
    count = mesh.shape["data"] * mesh.shape["fsdp"]
    prepare = jax.jit(policy.for_decoding, out_shardings=places)

    def run(
        params: Params, prompts: Array, prompt_length: Array, uid: Array, key: Array, ask: Ask
    ) -> dict[int, Written]:
        if len(prompts) % count:
            raise ValueError(f"{len(prompts)} prompts cannot be shared out among {count} replicas")
        whole = prepare(params)

        def speak(number: int, replica: Mesh) -> Written:
            rows, own = (
                len(uid) // count,
                slice(number * len(prompts) // count, (number + 1) * len(prompts) // count),
            )
            first = number * rows
            here = NamedSharding(replica, Spec())
            written = converse(
                programs,
                jax.tree.map(lambda leaf, spec: _on_replica(leaf, replica, spec), whole, gathered),
                jax.device_put(np.asarray(prompts)[own], here),
                jax.device_put(np.asarray(prompt_length)[own], here),
                jax.device_put(np.asarray(uid)[first : first + rows], here),
                jax.device_put(key, here),
                ask=lambda call: ask(call._replace(row=call.row + first)),
                turns=turns,
            )
            return written._replace(parent=written.parent + first)

        with ThreadPoolExecutor(len(replicas)) as threads:
            parts = threads.map(speak, *zip(*replicas.items(), strict=True))
            return dict(zip(replicas, parts, strict=True))

    return run


def gather(parts: Mapping[int, Written]) -> Written:
    """The rows of all replicas in their order, on every process.

    Every process must come here: one that has failed must have told the others.

    Args:
      parts: of this process's replicas, by their place among all.
    """
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *parts.values())
    order = np.array(list(parts))
    if jax.process_count() > 1:
        order, stacked = multihost_utils.process_allgather((order, stacked), tiled=True)
    sort = np.argsort(order)
    return jax.tree.map(lambda leaf: leaf[sort].reshape(-1, *leaf.shape[2:]), stacked)


def _check_lines(mesh: Mesh) -> None:
    lines = mesh.devices.reshape(-1, mesh.devices.shape[-1])
    for line in lines:
        owners = sorted({device.process_index for device in line})
        if len(owners) > 1:
            least = min(sum(device.process_index == owner for device in line) for owner in owners)
            raise ValueError(
                f"a replica of {len(line)} devices along `tensor` lies on the processes {owners}, and one of "
                f"them has to hold its dialogue; a mesh whose tensor axis divides {least} would do"
            )


def _local_replicas(mesh: Mesh) -> dict[int, Mesh]:
    """The replicas of this process, by their place among all."""
    lines = mesh.devices.reshape(-1, mesh.devices.shape[-1])
    mine = jax.process_index()
    return {
        number: Mesh(line, ("tensor",), axis_types=(AxisType.Auto,))
        for number, line in enumerate(lines)
        if line[0].process_index == mine
    }


def _on_replica(leaf: jax.Array, replica: Mesh, spec: Spec) -> jax.Array:
    """The replica's own copy of a parameter, without moving it."""
    mine = set(replica.devices.flat)
    shards = [shard.data for shard in leaf.addressable_shards if shard.device in mine]
    return jax.make_array_from_single_device_arrays(leaf.shape, NamedSharding(replica, spec), shards)


def _is_spec(leaf: Any) -> bool:
    return isinstance(leaf, Spec)
