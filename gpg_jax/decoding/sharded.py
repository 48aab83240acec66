"""Decoding on a mesh: each data replica runs its own loop on its own prompts.

Before the loop the parameters are rounded, gathered over `fsdp` and kept split over `tensor`. Inside
it there is no collective but those of `tensor`, so a replica that is done early stops early.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as Spec

from gpg_jax.decoding.automaton import Automaton
from gpg_jax.decoding.loop import Responses, decode
from gpg_jax.decoding.sampling import Sampling
from gpg_jax.policies.policy import Policy
from gpg_jax.types import Array, Params

_ROWS = Spec(("data", "fsdp"))


def _whole(logits: Array) -> Array:
    """Every device of a replica gets all logits of its rows.

    Left split over `tensor`, the sampler's blocks would be shifted between devices by permutations, in
    which all replicas take part: those that are done would be waited for, for ever.
    """
    return jax.lax.with_sharding_constraint(logits, Spec())


def decode_specs(specs: Params) -> Params:
    """The partitions with `fsdp` gathered: how parameters lie while decoding."""
    return jax.tree.map(
        lambda spec: Spec(*(None if name == "fsdp" else name for name in spec)), specs, is_leaf=_is_spec
    )


def compile_decode(
    policy: Policy,
    mesh: Mesh,
    specs: Any,
    *,
    new_slots: int,
    sampling: Sampling,
    automaton: Automaton,
    bucket: int = 32,
) -> Callable[[Params, Array, Array, Array, Array], Responses]:
    """`decode` under `jax.jit` on a mesh with the axes `data`, `fsdp` and `tensor`.

    Args:
      policy: the network.
      mesh: where to decode.
      specs: partitions of the parameters, of which `policy.for_decoding` keeps the tree.
      new_slots: budget of new tokens.
      sampling: temperature and truncation.
      automaton: what stops a row.
      bucket: see `decode`.

    Returns:
      parameters, prompts `int32[P, S]`, prompt lengths `int32[P]`, uids `int32[B]`, key ->
      `Responses`. P must be a multiple of the replicas, data · fsdp.
    """

    def local(params: Params, prompts: Array, prompt_length: Array, uid: Array, key: Array) -> Responses:
        return decode(
            policy,
            params,
            prompts,
            prompt_length,
            uid,
            key,
            new_slots=new_slots,
            sampling=sampling,
            automaton=automaton,
            bucket=bucket,
            place_logits=_whole,
        )

    replicated = jax.shard_map(
        local,
        mesh=mesh,
        axis_names={"data", "fsdp"},
        in_specs=(Spec(), _ROWS, _ROWS, _ROWS, Spec()),
        out_specs=_ROWS,
        check_vma=False,
    )
    stored, gathered = _on(mesh, specs), _on(mesh, decode_specs(specs))

    @jax.jit
    def run(params: Params, prompts: Array, prompt_length: Array, uid: Array, key: Array) -> Responses:
        # Held in place while they are rounded: else they may be gathered first, in twice the bytes.
        rounded = jax.lax.with_sharding_constraint(policy.for_decoding(params), stored)
        whole = jax.lax.with_sharding_constraint(rounded, gathered)
        return replicated(whole, prompts, prompt_length, uid, key)

    return run


def _is_spec(leaf: Any) -> bool:
    return isinstance(leaf, Spec)


def _on(mesh: Mesh, specs: Any) -> Any:
    return jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs, is_leaf=_is_spec)
