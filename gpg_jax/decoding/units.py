"""Units of action: which tokens are one choice.

Ids count from 0 in each row; a token that the policy did not choose is in no unit, -1.
"""

from __future__ import annotations

from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np

from gpg_jax.types import Array


def token_units(action_mask: Array) -> Array:
    """Every token its own unit: K = |o|.

    Args:
      action_mask: `bool[B, L]`.

    Returns:
      `int32[B, L]`.
    """
    return _inside(_order(action_mask), action_mask)


def sequence_unit(action_mask: Array) -> Array:
    """The whole output one unit: K = 1. See `token_units`."""
    return _inside(jnp.zeros(action_mask.shape, jnp.int32), action_mask)


def fixed_length_units(action_mask: Array, length: int) -> Array:
    """Units of `length` actions each, the last one maybe shorter.

    Args:
      action_mask: `bool[B, L]`.
      length: actions of a unit, ≥ 1.

    Returns:
      `int32[B, L]`.

    Raises:
      ValueError: a length below 1.
    """
    if length < 1:
        raise ValueError(f"a unit holds at least 1 action, got length={length}")
    return _inside(_order(action_mask) // length, action_mask)


def fixed_count_units(action_mask: Array, count: int) -> Array:
    """K units of nearly equal length: action n of |o| belongs to unit ⌊n·K/|o|⌋.

    The cut depends on the final length, so a baseline that differs between a row's units is not free of its
    actions; one a row is.

    Args:
      action_mask: `bool[B, L]`.
      count: K ≥ 1; a row with fewer actions has a unit an action.

    Returns:
      `int32[B, L]`.

    Raises:
      ValueError: a count below 1.
    """
    if count < 1:
        raise ValueError(f"a row has at least 1 unit, got count={count}")
    actions = jnp.sum(action_mask, axis=1, dtype=jnp.int32)[:, None]
    units = jnp.minimum(count, jnp.maximum(actions, 1))
    return _inside(_order(action_mask) * units // jnp.maximum(actions, 1), action_mask)


def units_ending(action_mask: Array, ends: Array) -> Array:
    """Units that end after the tokens named, and wherever something else than the policy wrote.

    Args:
      action_mask: `bool[B, L]`.
      ends: `bool[B, L]`, tokens that are the last of their unit.

    Returns:
      `int32[B, L]`.
    """
    mask = jnp.asarray(action_mask)
    before = jnp.pad(mask & ~ends, ((0, 0), (1, 0)))[:, :-1]
    return units_starting(mask, ~before)


def units_starting(action_mask: Array, starts: Array) -> Array:
    """Units that begin at the actions named; the first action of a row begins one anyway.

    Args:
      action_mask: `bool[B, L]`.
      starts: `bool[B, L]`.

    Returns:
      `int32[B, L]`.
    """
    starts = unit_starts(action_mask, starts)
    return _inside(jnp.cumsum(starts, axis=1, dtype=jnp.int32) - 1, action_mask)


def unit_starts(action_mask: Array, starts: Array) -> Array:
    """`bool[B, L]`: the actions among `starts`, and the first action of every row."""
    mask = jnp.asarray(action_mask)
    return mask & (starts | (_order(mask) == 0))


def high_entropy_units(action_mask: Array, entropy: Array, fraction: float) -> Array:
    """Units that begin at the tokens whose distribution was the least certain.

    The ⌈fraction·|o|⌉ actions of highest entropy in each row begin a unit: the forks of the text (Wang et al.
    2025, arXiv 2506.01939), where it has no markers (GPG's open question, arXiv 2512.10365).

    Args:
      action_mask: `bool[B, L]`.
      entropy: `[B, L]`, of the distribution that the token was drawn from, in nats.
      fraction: of a row's actions, in (0, 1], read as the fraction m/n, n ≤ 10⁶, that is nearest; of equal
        entropies the earlier goes first.

    Returns:
      `int32[B, L]`.

    Raises:
      ValueError: a fraction outside (0, 1].
    """
    if not 0 < fraction <= 1:
        raise ValueError(f"the fraction of actions that begin a unit must be in (0, 1], got {fraction}")
    mask = jnp.asarray(action_mask)
    # In whole numbers: the float product 0.3 · 50 is a little above 15, and its ceiling is 16.
    part = Fraction(fraction).limit_denominator(10**6)
    counts = -(-part.numerator * np.arange(mask.shape[1] + 1) // part.denominator)
    wanted = jnp.asarray(counts, jnp.int32)[jnp.sum(mask, axis=1)]
    return units_starting(mask, _rank(jnp.where(mask, -entropy, jnp.inf)) < wanted[:, None])


def degraded_units(unit_ids: Array, tokens: Array, noise: float, seed: int = 0) -> Array:
    """The units with each boundary, with probability `noise`, moved to a place drawn at random.

    At 0 they are what they were, at 1 the row is cut at random into as many units. What is drawn depends on
    the row's tokens and the seed alone, so that neither the order of rows nor their number matters.

    Args:
      unit_ids: `int32[B, L]`, -1 where the policy did not act.
      tokens: `int32[B, L]`.
      noise: in [0, 1].
      seed: of the draws.

    Returns:
      `int32[B, L]`.

    Raises:
      ValueError: a noise outside [0, 1].
    """
    if not 0 <= noise <= 1:
        raise ValueError(f"the noise must be in [0, 1], got {noise}")
    mask = unit_ids >= 0
    moves, places = _row_uniforms(jnp.where(mask, tokens, -1), seed)
    before = jnp.pad(jnp.where(mask, unit_ids, -1), ((0, 0), (1, 0)), constant_values=-1)[:, :-1]
    newest = jnp.where(mask, unit_ids, -1) > jnp.maximum(jax.lax.cummax(before, axis=1), 0)
    kept = newest & (moves >= noise)
    free = mask & ~kept & (_order(mask) > 0)
    lost = jnp.sum(newest & ~kept, axis=1)
    return units_starting(mask, kept | (_rank(jnp.where(free, places, jnp.inf)) < lost[:, None]))


def _rank(values: Array) -> Array:
    """Place of each value in the ascending order of its row, equal ones from left to right."""
    return jnp.argsort(jnp.argsort(values, axis=1, stable=True), axis=1)


def _row_uniforms(tokens: Array, seed: int) -> tuple[Array, Array]:
    """Two uniform numbers a token, named by seed and row: a row is named by a hash of its tokens."""
    odd = jnp.uint32(2654435769)  # Knuth's multiplicative hash, folded over the row's own tokens

    def absorb(state: jax.Array, token: jax.Array) -> tuple[jax.Array, None]:
        return jnp.where(token < 0, state, (state ^ (token + 1).astype(jnp.uint32)) * odd), None

    name, _ = jax.lax.scan(absorb, jnp.full(tokens.shape[:1], odd), jnp.asarray(tokens).T)
    place = jnp.arange(tokens.shape[1])

    def draw(row: Array, place: Array) -> Array:
        return jax.random.uniform(
            jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), row), place), (2,)
        )

    drawn = jax.vmap(lambda row: jax.vmap(lambda token: draw(row, token))(place))(name)
    return drawn[..., 0], drawn[..., 1]


def _order(action_mask: Array) -> Array:
    """How many actions of the row come before the token."""
    mask = jnp.asarray(action_mask).astype(jnp.int32)
    return jnp.cumsum(mask, axis=1) - mask


def _inside(ids: Array, action_mask: Array) -> Array:
    return jnp.where(action_mask, ids, -1).astype(jnp.int32)
