"""The updates of a rollout: every epoch and minibatch, an optimizer's step each."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax

from gpg_jax.losses import metrics as measures
from gpg_jax.training.gradient import gradient
from gpg_jax.training.plan import Plan
from gpg_jax.training.program import Program
from gpg_jax.training.state import CriticState, Networks, TrainState
from gpg_jax.types import Array, Batch, Estimate, Params, Rollout


def updates(
    program: Program, state: TrainState, batch: Batch, fixed: Estimate, coefficients: tuple[Array, ...]
) -> tuple[TrainState, dict[str, Array]]:
    """Every epoch and minibatch of a rollout; metrics are those of all minibatches together.

    Norms are means over the updates that were made: a minibatch that is left out, where the method halts, has
    none. `halted` is the share of those.
    """
    if program.plan.updates == 1:
        # The barrier keeps the compiler from fusing the two: found elsewhere, a gradient has the same bits.
        grads, seen = jax.lax.optimization_barrier(gradient(program, state, batch, fixed, coefficients))
        state, norms = update(program, state, grads)
        return state, {**measures.reduce(seen), **norms}

    halt = program.method.halt

    def one(carry: tuple[TrainState, Array], index: Any) -> tuple[tuple[TrainState, Array], Any]:
        state, halted = carry
        rows, kept = jax.tree.map(lambda leaf: jnp.take(leaf, index, axis=0), (batch, fixed))
        rows = rows._replace(rollout=renumbered(rows.rollout, index))
        grads, seen = gradient(program, state, rows, kept, coefficients)
        moved, norms = update(program, state, grads)
        if halt is None:
            return (moved, halted), (seen, norms, halted)
        stops = halted | halt(measures.reduce(seen))
        kept_state = jax.lax.cond(stops, lambda: state, lambda: moved)
        return (kept_state, stops), (seen, norms, stops)

    order = minibatch_rows(jax.random.fold_in(state.key, state.rollout), program.plan)
    (state, _), (history, norms, halted) = jax.lax.scan(one, (state, jnp.bool_(False)), order)
    total: measures.Metrics = {
        name: (jnp.sum(x[0]), jnp.sum(x[1])) if isinstance(x, tuple) else jnp.max(x)
        for name, x in history.items()
    }
    told = measures.reduce(total)
    if halt is None:
        return state, {**told, **jax.tree.map(jnp.mean, norms)}
    made = jnp.maximum(jnp.sum(~halted), 1)
    norms = jax.tree.map(lambda norm: jnp.sum(jnp.where(halted, 0, norm)) / made, norms)
    return state, {**told, **norms, "halted": jnp.mean(halted)}


def minibatch_rows(key: Array, plan: Plan) -> Array:
    """Rows of every update `int32[updates, minibatch_rows]`: whole groups, reshuffled each epoch."""
    group = plan.layout.shared
    prompts = plan.rows // group

    def epoch(index: Array) -> Array:
        order = jax.random.permutation(jax.random.fold_in(key, index), prompts)
        return (order[:, None] * group + jnp.arange(group)[None]).reshape(plan.minibatches, -1)

    return jax.vmap(epoch)(jnp.arange(plan.epochs)).reshape(plan.updates, plan.minibatch_rows)


def renumbered(rows: Rollout, index: Array) -> Rollout:
    """Rows of a minibatch whose `group` and `parent` count within it, as functions of a rollout expect.

    Args:
      rows: the rows of `index`, whole groups of neighbours.
      index: `int32[minibatch_rows]`, where they stood in the rollout.
    """
    place = jnp.arange(index.shape[0], dtype=jnp.int32)
    first = jnp.argmax(rows.group[:, None] == rows.group[None, :], axis=1)
    # A tree stays within its group, whose rows have all moved by as much.
    parent = rows.parent - index.astype(jnp.int32) + place
    return dataclasses.replace(rows, group=first.astype(jnp.int32), parent=parent)  # type: ignore[type-var]


def update(program: Program, state: TrainState, grads: Networks) -> tuple[TrainState, dict[str, Array]]:
    """One optimizer's step of the policy, and of the critic by its own; norms of gradients and updates."""
    norms: dict[str, Array] = {}
    if "policy" in program.trains:
        params, moments, norms = descend(program.optimizer, grads.policy, state.optimizer, state.params)
        state = dataclasses.replace(state, params=params, optimizer=moments, update=state.update + 1)
    if grads.critic is not None and state.critic is not None and program.critic is not None:
        own = state.critic
        params, moments, seen = descend(program.critic[1], grads.critic, own.optimizer, own.params)
        state = dataclasses.replace(state, critic=CriticState(params=params, optimizer=moments))
        norms |= {f"critic_{name}": norm for name, norm in seen.items()}
    return state, norms


def descend(
    optimizer: optax.GradientTransformation, grads: Params, moments: Any, params: Params
) -> tuple[Params, Any, dict[str, Array]]:
    """Parameters and moments behind an optimizer's step, and the norms of gradient and step."""
    updates, moments = optimizer.update(grads, moments, params)
    norms = {
        "gradient_norm": optax.tree_utils.tree_norm(grads),
        "update_norm": optax.tree_utils.tree_norm(updates),
    }
    return optax.apply_updates(params, updates), moments, norms
