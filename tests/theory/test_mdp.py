"""What is refused, and what is kept out of every table."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpg_jax.theory.mdp import make_mdp, policy_table, softmax_policy
from gpg_jax.theory.values import evaluate, performance

STAY = np.broadcast_to(np.eye(2)[:, None], (2, 2, 2))


def tables(**changes):
    plain = {"transition": STAY, "reward": np.zeros((2, 2)), "initial": [1.0, 0.0], "discount": 0.5}
    return plain | changes


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reward": np.zeros(2)}, r"shape \[S, A\], got \(2,\)"),
        ({"initial": np.ones(3) / 3}, r"'initial': \(2,\).*'initial': \(3,\)"),
        ({"legal": np.ones((1, 2), bool)}, r"'legal': \(2, 2\).*'legal': \(1, 2\)"),
        ({"discount": 1.5}, r"\[0, 1\], got 1.5"),
        ({"discount": float("nan")}, "got nan"),
        ({"legal": [[True, True], [False, False]]}, r"states \[\[1\]\] have none"),
        ({"reward": [[0.0, np.inf], [0, 0]]}, "rewards of legal actions must be finite"),
        ({"initial": [0.5, 0.4]}, r"initial distribution .* add up to \[0.9"),
        ({"initial": [1.5, -0.5]}, "smallest entry is -0.5"),
        ({"transition": STAY * 0.5}, r"transition must .* rows \[\[0, 0\], \[0, 1\]"),
        ({"transition": np.full((2, 2, 2), np.nan)}, "transition must hold probabilities"),
    ],
)
def test_bad_tables_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        make_mdp(**tables(**changes))


def test_bad_policies_are_refused():
    mdp = make_mdp(**tables(legal=[[True, True], [True, False]]))
    for table, message in [
        (np.ones((2, 3)) / 3, r"shape \(2, 2\), got \(2, 3\)"),
        ([[0.5, 0.4], [1, 0]], r"rows \[\[0\]\] add up"),
        ([[0.5, 0.5], [0.5, 0.5]], r"not legal, \(state, action\) \[\[1, 1\]\]"),
    ]:
        with pytest.raises(ValueError, match=message):
            policy_table(mdp, table)


def test_only_float64_is_exact():
    """In float32 nothing can be made; made in float64 and used in float32 it is refused, under jit too."""
    mdp, policy = make_mdp(**tables()), np.full((2, 2), 0.5)
    with pytest.raises(ValueError, match="got a table over actions in float32"):
        jax.jit(performance)(mdp, policy.astype(np.float32))
    with jax.enable_x64(False):
        for call in (lambda: make_mdp(**tables()), lambda: performance(mdp, policy)):
            with pytest.raises(ValueError, match="JAX is set to float32"):
                call()


def test_an_endless_future_needs_a_discount():
    with pytest.raises(ValueError, match="discount below 1, got 1"):
        evaluate(make_mdp(**tables(discount=1.0)), np.full((2, 2), 0.5))


def test_what_is_not_legal_is_not_read():
    """NaN in a forbidden entry changes nothing, in values or in gradients."""
    legal = np.array([[True, True], [True, False]])
    clean = make_mdp(**tables(reward=[[1.0, 2.0], [3.0, 0.0]], legal=legal))
    reward, transition = np.array([[1.0, 2.0], [3.0, np.nan]]), STAY.copy()
    transition[1, 1] = np.nan
    dirty = make_mdp(**tables(reward=reward, transition=transition, legal=legal))
    jax.tree.map(np.testing.assert_array_equal, dirty, clean)

    logits = jnp.array([[0.3, -0.2], [5.0, np.nan]])
    policy = softmax_policy(dirty, logits)
    np.testing.assert_array_equal(policy[1], [1, 0])
    np.testing.assert_allclose(policy[0], np.exp([0.3, -0.2]) / np.exp([0.3, -0.2]).sum(), rtol=1e-15)
    values = evaluate(dirty, policy)
    assert values.action[1, 1] == 0 and values.advantage[1, 1] == 0
    gradient = jax.jit(jax.grad(lambda logits: performance(dirty, softmax_policy(dirty, logits))))(logits)
    assert np.isfinite(gradient).all() and (np.asarray(gradient[1]) == 0).all()
