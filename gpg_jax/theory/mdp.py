"""Markov decision processes as tables, and policies as tables over their actions.

Everything in `gpg_jax.theory` is exact up to the rounding of float64. What takes an MDP refuses less: call it
after `jax.config.update("jax_enable_x64", True)` or inside `with jax.enable_x64(True):`. What takes bare
tables computes in their dtype. S and A stand for the numbers of states and actions. Where states have
different action sets, `legal` says which entries exist; the others hold 0 in every table.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from gpg_jax.types import Array

TOLERANCE = 1e-12
"""How far from 1 the probabilities of a distribution may add up."""


@struct.dataclass
class MDP:
    """(S, A, P, r, ρ₀, γ) with deterministic rewards r(s, a); make one with `make_mdp`.

    Attributes:
      transition: `[S, A, S]`, P(s′ | s, a).
      reward: `[S, A]`, r(s, a).
      initial: `[S]`, ρ₀.
      discount: scalar, γ in [0, 1]; below 1 for all but episodes of finitely many steps.
      legal: `bool[S, A]`, the actions that a state has.
    """

    transition: Array
    reward: Array
    initial: Array
    discount: Array
    legal: Array


def make_mdp(
    transition: Array, reward: Array, initial: Array, discount: float, legal: Array | None = None
) -> MDP:
    """The MDP of the given tables.

    Args:
      transition: `[S, A, S]`, P(s′ | s, a); not read where an action is not legal.
      reward: `[S, A]`, r(s, a); not read where an action is not legal.
      initial: `[S]`, ρ₀.
      discount: γ in [0, 1].
      legal: `bool[S, A]`, the actions that a state has, or None for all of them.

    Returns:
      The MDP, in float64.

    Raises:
      ValueError: float64 is off, the shapes do not fit, or a table is not what its name says.
    """
    require_float64()
    transition, reward, initial = (np.asarray(table, np.float64) for table in (transition, reward, initial))
    legal = np.ones(reward.shape, bool) if legal is None else np.asarray(legal, bool)
    _check_shapes(transition, reward, initial, legal)
    if not 0 <= discount <= 1:
        raise ValueError(f"the discount must lie in [0, 1], got {discount}")
    if not legal.any(axis=1).all():
        raise ValueError(f"every state needs a legal action, states {_where(~legal.any(axis=1))} have none")
    if not np.isfinite(reward[legal]).all():
        raise ValueError("the rewards of legal actions must be finite")
    _check_distributions("the initial distribution", initial[None], np.ones(1, bool))
    _check_distributions("the transition", transition, legal)
    return MDP(
        transition=jnp.asarray(np.where(legal[:, :, None], transition, 0)),
        reward=jnp.asarray(np.where(legal, reward, 0)),
        initial=jnp.asarray(initial),
        discount=jnp.asarray(discount, jnp.float64),
        legal=jnp.asarray(legal),
    )


def policy_table(mdp: MDP, table: Array) -> Array:
    """π(a | s) as it stands in `table`, once it is known to be a policy of the MDP.

    Args:
      mdp: the MDP.
      table: `[S, A]`, 0 where an action is not legal.

    Returns:
      `[S, A]`, in float64.

    Raises:
      ValueError: a wrong shape, a row that is no distribution, or an illegal action of positive probability.
    """
    table = np.asarray(table, np.float64)
    check(mdp, table)
    outside = (table != 0) & ~np.asarray(mdp.legal)
    if outside.any():
        raise ValueError(f"the policy takes actions that are not legal, (state, action) {_where(outside)}")
    _check_distributions("the policy", table, np.ones(len(table), bool))
    return jnp.asarray(table)


def softmax_policy(mdp: MDP, logits: Array) -> Array:
    """π(a | s) = exp θ(s, a) / Σ_b exp θ(s, b) over the legal actions; differentiable.

    Args:
      mdp: the MDP.
      logits: `[S, A]`, θ; not read where an action is not legal.

    Returns:
      `[S, A]`, 0 where an action is not legal.
    """
    check(mdp, logits)
    return jax.nn.softmax(jnp.where(mdp.legal, logits, -jnp.inf))


def require_float64() -> None:
    """Raises a ValueError where JAX computes in float32."""
    if jnp.result_type(float) != jnp.float64:
        raise ValueError(
            "the theory is exact in float64 alone, and JAX is set to float32: call "
            'jax.config.update("jax_enable_x64", True), or work inside `with jax.enable_x64(True):`'
        )


def check(mdp: MDP, *tables: Array) -> None:
    """Raises a ValueError where an MDP or a table over its actions has a wrong dtype or shape.

    Dtypes and shapes are known while JAX traces, so that this holds inside `jax.jit` too.
    """
    require_float64()
    for name, table in [("MDP", mdp.reward)] + [("table over actions", table) for table in tables]:
        if table.dtype != jnp.float64:
            raise ValueError(f"the theory is exact in float64 alone, got a {name} in {table.dtype}")
        if table.shape != mdp.legal.shape:
            raise ValueError(f"a {name} of this MDP has the shape {mdp.legal.shape}, got {table.shape}")


def check_discounted(mdp: MDP) -> None:
    """Raises a ValueError where the discount is known to be 1: sums over an endless future diverge."""
    if not isinstance(mdp.discount, jax.core.Tracer) and float(mdp.discount) >= 1:
        raise ValueError(
            "an endless future needs a discount below 1, got 1; gpg_jax.theory.episodes is for finite ones"
        )


def _check_shapes(transition: Array, reward: Array, initial: Array, legal: Array) -> None:
    if reward.ndim != 2:
        raise ValueError(f"the reward must have the shape [S, A], got {reward.shape}")
    states, actions = reward.shape
    wanted = {"transition": (states, actions, states), "initial": (states,), "legal": (states, actions)}
    given = {"transition": transition.shape, "initial": initial.shape, "legal": legal.shape}
    if wanted != given:
        raise ValueError(f"a reward of shape {reward.shape} asks for {wanted}, got {given}")


def _check_distributions(name: str, rows: Array, read: Array) -> None:
    wrong = read & ~((rows >= 0).all(-1) & (np.abs(rows.sum(-1) - 1) <= TOLERANCE))
    if wrong.any():
        raise ValueError(
            f"{name} must hold probabilities that add up to 1 within {TOLERANCE}, "
            f"its rows {_where(wrong)} add up to {rows.sum(-1)[wrong].tolist()}, "
            f"the smallest entry is {rows[read].min()}"
        )


def _where(mask: Array | np.bool) -> list[list[int]]:
    return np.argwhere(mask).tolist()
