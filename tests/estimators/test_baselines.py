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


@pytest.mark.parametrize("small", [1e-3, 2e-7, 1e-12])
def test_the_others_are_not_lost_beside_a_row_of_large_norm(small):
    """Norms (1, x, x, x), returns (0, 1, 1, 1): the others of row 0 all say 1, however small their norms."""
    returns, norms = jnp.array([0.0, 1, 1, 1]), jnp.array([1.0, small, small, small])
    baseline = baselines.optimal(returns, norms, jnp.zeros(4, jnp.int32), jnp.arange(4), jnp.ones(4))
    np.testing.assert_allclose(baseline, [1, *[2 * small / (1 + 2 * small)] * 3], rtol=1e-6)


def test_the_optimal_baseline_equals_the_loop_over_trees():
    rng = np.random.default_rng(0)
    returns, norms, weight = rng.normal(size=9), 10 ** rng.uniform(-9, 0, 9), rng.uniform(0.1, 1, 9)
    group, parent = np.array([4, 4, 1, 4, 1, 1, 4, 7, 4]), np.array([0, 0, 2, 3, 2, 5, 1, 7, 3])
    root = np.array([0, 0, 2, 3, 2, 5, 0, 7, 3])
    expected = []
    for i in range(9):
        others = [j for j in range(9) if group[j] == group[i] and root[j] != root[i]]
        share = weight[others] * norms[others]
        expected.append(share @ returns[others] / share.sum() if others else returns[i])
    arguments = (jnp.float32(returns), jnp.float32(norms), jnp.array(group), jnp.array(parent))
    np.testing.assert_allclose(baselines.optimal(*arguments, jnp.float32(weight)), expected, rtol=1e-5)


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
