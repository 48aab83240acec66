"""Listed rollouts: nothing missing, nothing twice, and forks drawn once where they share."""

from __future__ import annotations

import itertools

import jax.numpy as jnp
import numpy as np
import pytest

from gpg_jax.theory.responses import expected_reward, list_responses, probabilities
from gpg_jax.theory.rollouts import forked_rollouts, independent_rollouts, rollout_probability

EVERY = list_responses(3, 2)
"""Seven responses: 0, 10, 20, 11, 12, 21, 22, over three prefixes."""

DRAW = np.random.default_rng(1)
LOGITS = DRAW.normal(size=(2, 3, 3))
REWARD = DRAW.normal(size=(2, 7))


def test_groups_stand_for_all_their_orders():
    """P = 2, G = 2: 28 bags of two of seven for each prompt, and 7⁴ rollouts behind them."""
    found = independent_rollouts(EVERY, 2, 2)
    assert len(found.response) == 28**2 and found.orders.sum() == 7**4
    np.testing.assert_array_equal(found.prompt, [0, 0, 1, 1])
    np.testing.assert_array_equal(found.parent, np.tile(np.arange(4), (28**2, 1)))
    chance = np.asarray(rollout_probability(EVERY, found, jnp.asarray(LOGITS)))
    one = np.asarray(probabilities(EVERY, jnp.asarray(LOGITS)))
    wanted = dict.fromkeys(map(tuple, found.response.tolist()), 0.0)
    for a, b, c, d in itertools.product(range(7), repeat=4):
        key = (*sorted((a, b)), *sorted((c, d)))
        wanted[key] += one[0, a] * one[0, b] * one[1, c] * one[1, d]
    np.testing.assert_allclose(chance, list(wanted.values()), rtol=1e-12)


@pytest.mark.parametrize("kind", ["uniform", "forest", "tree"])
def test_forks_are_a_tree_of_draws(kind):
    """Two roots of one prompt, each forked in two behind a first 1, and rows to make up four.

    Drawn out token by token, with every order: probabilities and the weighted reward Σ w·R are the same.
    """
    found = forked_rollouts(EVERY, 2, 2, 1, kind)
    logits = jnp.asarray(LOGITS[:1])
    chance = np.asarray(rollout_probability(EVERY, found, logits))
    np.testing.assert_allclose(chance.sum(), 1, rtol=1e-12)
    weighed = chance @ (found.leaf_weight * REWARD[0][found.response]).sum(1)
    np.testing.assert_allclose(weighed, weighed_by_drawing(kind), rtol=1e-12)


def weighed_by_drawing(kind):
    """E[Σ_rows w·R] by recursion over what is drawn; no list of rollouts."""
    one = np.asarray(probabilities(EVERY, jnp.asarray(LOGITS[:1])))[0]
    first, calls = EVERY.token[:, 0], EVERY.token[:, 0] == 1
    call = one[calls].sum()
    inside = (one * REWARD[0])[calls].sum() / call  # of a row that has called
    outside = (one * REWARD[0])[first != 1].sum() / (1 - call)
    mean = (one * REWARD[0]).sum()
    fork, late = {"uniform": (1, 1), "forest": (0.5, 1), "tree": (0.5, 0)}[kind]
    total = 0.0
    for forks in itertools.product((True, False), repeat=2):
        share = np.prod([call if forked else 1 - call for forked in forks])
        rows = sum(2 * fork * inside if forked else outside for forked in forks)
        total += share * (rows + late * mean * forks.count(False))
    return total


def test_tree_weights_count_the_first_trees_alone():
    """Their leaves add up to one a root, so E[Σ w·R] = 2J whatever was forked."""
    found = forked_rollouts(EVERY, 2, 2, 1, "tree")
    np.testing.assert_allclose(found.leaf_weight.sum(1), 2, rtol=1e-12)
    logits, reward = jnp.asarray(LOGITS[:1]), jnp.asarray(REWARD[:1])
    chance = np.asarray(rollout_probability(EVERY, found, logits))
    weighed = chance @ (found.leaf_weight * REWARD[0][found.response]).sum(1)
    np.testing.assert_allclose(weighed, 2 * expected_reward(EVERY, logits, reward), rtol=1e-12)


def test_rows_of_a_tree_know_what_they_share():
    found = forked_rollouts(EVERY, 2, 2, 1, "uniform")
    child = found.parent != np.arange(4)
    np.testing.assert_array_equal(found.shared, child)
    roots = np.take_along_axis(found.response, found.parent, axis=1)
    assert (EVERY.token[found.response, 0] == EVERY.token[roots, 0])[child].all()
    assert set(child.sum(1)) == {0, 1, 2}


def test_mistakes_of_lists_are_sentences():
    with pytest.raises(ValueError, match="a prompt and a row of it at least, got 0 and 2"):
        independent_rollouts(EVERY, 0, 2)
    with pytest.raises(ValueError, match="these are 1947792 rollouts or more"):
        independent_rollouts(EVERY, 1, 30)
    with pytest.raises(ValueError, match="a root and two rows of it at least, got 2 and 1"):
        forked_rollouts(EVERY, 2, 1, 1, "tree")
    with pytest.raises(ValueError, match="nothing follows the symbol 0"):
        forked_rollouts(EVERY, 2, 2, 0, "tree")
    with pytest.raises(ValueError, match="nothing follows the symbol 1"):
        forked_rollouts(list_responses(3, 1), 2, 2, 1, "tree")
