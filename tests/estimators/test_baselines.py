"""Baselines by hand, and the exact norms of scores."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpg_jax.estimators import baselines


def test_means():
    returns, weight = jnp.array([1.0, 2.0, 6.0]), jnp.array([1.0, 1.0, 2.0])
    np.testing.assert_allclose(baselines.batch_mean(returns, weight), [3.75] * 3)
    np.testing.assert_allclose(baselines.group_mean(returns, jnp.array([2, 2, 0]), weight), [1.5, 1.5, 6])
    np.testing.assert_allclose(baselines.constant(returns, 0.5), [0.5] * 3)


def test_the_running_mean_is_of_earlier_rollouts():
    # d = .5: baselines 0, then 2, then (.5·2 + 5)/(.5 + 1) = 4
    state, weight = baselines.running_start(), jnp.ones(2)
    seen = []
    for returns in ([1.0, 3.0], [4.0, 6.0], [0.0, 0.0]):
        baseline, state = baselines.running(jnp.array(returns), weight, state, 0.5)
        seen.append(float(baseline[0]))
    np.testing.assert_allclose(seen, [0, 2, 4])
    unseen = baselines.running(jnp.array([9.0, 9.0]), jnp.zeros(2), baselines.running_start(), 0.5)[1]
    assert unseen.weight == 0 and unseen.total == 0
    with pytest.raises(ValueError, match=r"decay must lie in \[0, 1\)"):
        baselines.running(jnp.zeros(2), weight, state, 1.0)


def test_the_optimal_baseline_leaves_its_row_out():
    # others of row 0: (2·1 + 6·3)/4 = 5; of row 1: (1·2 + 6·3)/5 = 4; of row 2: (1·2 + 2·1)/3
    returns, norms = jnp.array([1.0, 2.0, 6.0]), jnp.array([2.0, 1.0, 3.0])
    ids = jnp.zeros(3, jnp.int32)
    baseline = baselines.optimal(returns, norms, ids, jnp.arange(3), jnp.ones(3))
    np.testing.assert_allclose(baseline, [5, 4, 4 / 3], rtol=1e-6)
    silent = baselines.optimal(returns, jnp.array([2.0, 0, 0]), ids, jnp.arange(3), jnp.ones(3))
    assert silent[0] == 1  # no other row has a score: the row is its own baseline


def test_exact_score_norms_of_a_softmax():
    """‖onehot − p‖² = 1 − 2p_y + Σp², for every row, and summed over the leaves of a tree of parameters."""
    logits = jnp.array([0.2, -0.1, 0.4])
    p = jax.nn.softmax(logits)
    expected = 1 - 2 * p + jnp.sum(p**2)
    params = {"left": logits, "right": {"bias": jnp.zeros(3)}}

    def log_prob(params, row):
        return jax.nn.log_softmax(params["left"] + params["right"]["bias"])[row]

    norms = baselines.score_norms(log_prob, params, jnp.arange(3))
    np.testing.assert_allclose(norms, 2 * expected, rtol=1e-5)
    mask = jnp.array([[False, True, True], [False, False, False]])
    square = jnp.array([[jnp.nan, 0.5, 0.25], [1.0, 1.0, 1.0]])
    np.testing.assert_allclose(baselines.head_score_norms(square, mask), [0.75, 0])
