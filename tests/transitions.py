"""Rows of rewards and values for the tests of critics, and their returns as loops over one row's actions."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from hypothesis import strategies as st

ROWS, WIDTH = 4, 8
"""One padded shape, so that nothing compiles twice."""

FULL = np.arange(WIDTH)[None] < np.array([[WIDTH], [5], [1], [0]])
"""Rows of 8, 5, 1 and no actions."""

RLAX = json.loads((Path(__file__).parent / "golden" / "rlax.json").read_text())

SEEDS = st.integers(0, 2**16)
MASKS = st.lists(st.lists(st.booleans(), min_size=WIDTH, max_size=WIDTH), min_size=ROWS, max_size=ROWS)


class Transitions(NamedTuple):
    """The first arguments of every function of `estimators.temporal_difference`."""

    rewards: np.ndarray
    values: np.ndarray
    bootstrap: np.ndarray
    action_mask: np.ndarray


def placed(seed: int, mask) -> Transitions:
    """A row's k-th action has the same reward and value wherever `mask` puts it; elsewhere stands noise."""
    mask = np.asarray(mask, bool)
    rank = np.clip(np.cumsum(mask, axis=1) - 1, 0, None)
    drawn = np.random.default_rng(seed).normal(size=(2, ROWS, WIDTH)).astype(np.float32)
    noise = np.resize(np.float32([np.nan, np.inf, -1e30]), mask.shape)
    rewards, values = (np.where(mask, np.take_along_axis(x, rank, axis=1), noise) for x in drawn)
    bootstrap = np.random.default_rng(seed + 1).normal(size=ROWS).astype(np.float32)
    return Transitions(rewards, values, bootstrap, mask)


def packed(mask) -> np.ndarray:
    """As many actions in every row, all of them in front."""
    return np.arange(WIDTH)[None] < np.sum(mask, axis=1, keepdims=True)


def same(value: float):
    """One λ for every row, as an array."""
    return jnp.full(ROWS, value, jnp.float32)


@functools.cache
def golden_rows() -> Transitions:
    """rlax's sequences as rows, with a tool's token in front and after every second action."""
    rewards, values = np.zeros((2, ROWS, 2 * WIDTH), np.float32)
    mask, bootstrap = np.zeros((ROWS, 2 * WIDTH), bool), np.zeros(ROWS, np.float32)
    for row, sequence in enumerate(RLAX["sequences"]):
        length = len(sequence["rewards"])
        place = 1 + np.arange(length) + np.arange(length) // 2
        mask[row, place] = True
        rewards[row, place], values[row, place] = sequence["rewards"], sequence["values"][:-1]
        bootstrap[row] = 0 if sequence["ended"] else sequence["values"][-1]
    return Transitions(rewards, values, bootstrap, mask)


def golden_cases(function: str) -> list[tuple[dict, np.ndarray]]:
    """Settings and outputs, sequence after sequence, of a function of rlax."""
    cases = [case for case in RLAX["cases"] if case["function"] == function]
    return [(case["settings"], np.concatenate(case["outputs"])) for case in cases]


def on_actions(transitions: Transitions, slow, *settings) -> np.ndarray:
    """A loop over one row's actions, for every row; a setting that is an array has an entry a row."""
    result = np.zeros(transitions.action_mask.shape)
    for row, mask in enumerate(transitions.action_mask):
        rewards, values = (np.float64(x[row, mask]) for x in transitions[:2])
        own = [x[row] if np.ndim(x) else x for x in settings]
        result[row, mask] = slow(rewards, np.append(values, transitions.bootstrap[row]), *own)
    return result


def n_step(rewards, values, steps, discount) -> list[float]:
    """Sutton and Barto, eq. 7.1; `values` has one more entry, behind the last action."""
    returns = []
    for t in range(len(rewards)):
        end = min(t + steps, len(rewards))
        earned = sum(discount ** (j - t) * rewards[j] for j in range(t, end))
        returns.append(earned + discount ** (end - t) * values[end])
    return returns


def td(rewards, values, discount) -> list[float]:
    """S2, eq. 9."""
    return [reward + discount * values[t + 1] - values[t] for t, reward in enumerate(rewards)]


def lambda_return(rewards, values, lambda_, discount) -> list[float]:
    """The forward view, Sutton and Barto, eq. 12.3: a weighted mean of all n-step returns."""
    length, returns = len(rewards), []
    for t in range(length):
        total = lambda_ ** (length - t - 1) * n_step(rewards, values, length - t, discount)[t]
        for n in range(1, length - t):
            total += (1 - lambda_) * lambda_ ** (n - 1) * n_step(rewards, values, n, discount)[t]
        returns.append(total)
    return returns


def gae(rewards, values, lambda_, discount) -> list[float]:
    """GAE, eq. 16: the sum of TD errors, each action weighted γλ times the one before."""
    errors = td(rewards, values, discount)
    return [
        sum((discount * lambda_) ** (j - t) * errors[j] for j in range(t, len(errors)))
        for t in range(len(errors))
    ]
