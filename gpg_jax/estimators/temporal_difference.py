"""Temporal differences: what a critic's values V say of a choice and of its return.

One backup carries everything: y_t = r_t + γ·V(the state that the next action is taken in). Time is counted
in actions. What stands between two of them (a tool's result) and padding is skipped: the next value and the
running sum are carried through, so masked tokens may be put in anywhere and change nothing. Behind a row's
last action stands its `bootstrap`: 0 where the response ended by itself, V of the state after its last token
where it was cut off and the caller wants the rest to count.
"""

from __future__ import annotations

from numbers import Real

import jax
import jax.numpy as jnp

from gpg_jax.estimators.masked import masked_values
from gpg_jax.estimators.returns import backward_recursion, check_discount
from gpg_jax.types import Array


def td_errors(
    rewards: Array, values: Array, bootstrap: Array, action_mask: Array, discount: Array | float = 1.0
) -> Array:
    """δ_t = r_t + γ·V_{t+1} − V_t, the TD(0) error (Sutton 1988; Sutton and Barto 2018, eq. 6.5).

    A semi-gradient: the target r_t + γ·V_{t+1} is under a stop-gradient, −V_t is not, so that −∇½δ_t² is
    δ_t·∇V_t, the TD(0) update.

    Args:
      rewards: `[B, L]`; read at actions only.
      values: `[B, L]`, value of the state before the token; read at actions only.
      bootstrap: `[B]`, value of the state after the last token, 0 where there is none.
      action_mask: `bool[B, L]`.
      discount: γ in [0, 1], an action.

    Returns:
      `[B, L]`, 0 where the policy did not act.

    Raises:
      ValueError: a discount outside [0, 1].
    """
    target = n_step_returns(rewards, values, bootstrap, action_mask, 1, discount)
    return target - masked_values(values, action_mask)


def n_step_returns(
    rewards: Array,
    values: Array,
    bootstrap: Array,
    action_mask: Array,
    steps: int,
    discount: Array | float = 1.0,
) -> Array:
    """G_{t:t+n} = Σ_{k<n} γ^k r_{t+k} + γ^n V_{t+n}: the backup applied n times to V.

    Sutton and Barto 2018, eq. 7.1; A3C, arXiv 1602.01783, with n = t_max. Nearer than n actions to the end
    the sum runs to it and takes the bootstrap there. Under a stop-gradient.

    Args:
      rewards, values, bootstrap, action_mask, discount: as in `td_errors`.
      steps: n ≥ 1, actions; it costs n passes over the rows.

    Returns:
      `[B, L]`, 0 where the policy did not act.

    Raises:
      ValueError: a discount outside [0, 1], less than one step.
    """
    check_discount(discount)
    if steps < 1:
        raise ValueError(f"an n-step return needs at least one step, got {steps}")
    rewards, values = masked_values(rewards, action_mask), masked_values(values, action_mask)
    following = _next_action(action_mask)

    def backup(_: int, values: jax.Array) -> jax.Array:
        return rewards + discount * _values_at(following, values, bootstrap)

    start = values.astype(jnp.result_type(rewards, values, bootstrap))
    returns = jax.lax.fori_loop(0, min(steps, values.shape[1]), backup, start)
    return jax.lax.stop_gradient(jnp.where(action_mask, returns, 0))


def lambda_returns(
    rewards: Array,
    values: Array,
    bootstrap: Array,
    action_mask: Array,
    lambda_: Array | float,
    discount: float = 1.0,
) -> Array:
    """G^λ_t = r_t + γ·((1 − λ)·V_{t+1} + λ·G^λ_{t+1}), with the bootstrap for both behind the last action.

    Sutton and Barto 2018, eq. 12.2 and 12.18: the mean of the n-step returns, weighted by (1 − λ)·λ^(n−1),
    from the TD(0) target at λ = 0 to the Monte-Carlo return at λ = 1. In this form the values do not have to
    cancel there: at λ = 1 none enters, whatever it is. Under a stop-gradient: a critic that is fitted to it
    follows the semi-gradient.

    Args:
      rewards, values, bootstrap, action_mask, discount: as in `td_errors`.
      lambda_: λ in [0, 1], a number or one for each row `[B]`.

    Returns:
      `[B, L]`, 0 where the policy did not act.

    Raises:
      ValueError: a discount or a λ outside [0, 1], a λ for each token.
    """
    check_discount(discount)
    _check_lambda(lambda_)
    rewards, values = masked_values(rewards, action_mask), masked_values(values, action_mask)
    column = jnp.reshape(jnp.asarray(lambda_), (-1, 1))
    next_values = _values_at(_next_action(action_mask), values, bootstrap)
    bootstrapped = jnp.where(column < 1, (1 - column) * next_values, 0)  # a critic's ∞ is not 0·∞
    returns = backward_recursion(
        rewards + discount * bootstrapped, discount * column[:, 0], action_mask, bootstrap
    )
    return jax.lax.stop_gradient(returns)


def _next_action(action_mask: Array) -> Array:
    """Where each token's next action stands `int32[B, L]`; L where there is none."""
    length = action_mask.shape[1]
    index = jnp.arange(length, dtype=jnp.int32)[None]
    nearest = jax.lax.cummin(jnp.where(action_mask, index, length), axis=1, reverse=True)
    return jnp.pad(nearest[:, 1:], ((0, 0), (0, 1)), constant_values=length)


def _values_at(index: Array, values: Array, bootstrap: Array) -> Array:
    """V at the indices `[B, L]`, the bootstrap at the index L."""
    ended = jnp.concatenate([values, jnp.asarray(bootstrap)[:, None]], axis=1)
    return jnp.take_along_axis(ended, index, axis=1)


def _check_lambda(lambda_: Array | float) -> None:
    if jnp.ndim(lambda_) > 1:
        raise ValueError(f"lambda must be a number or one for each row [B], got {jnp.shape(lambda_)}")
    if isinstance(lambda_, Real) and not 0 <= lambda_ <= 1:
        raise ValueError(f"lambda must lie in [0, 1], got {lambda_}")
