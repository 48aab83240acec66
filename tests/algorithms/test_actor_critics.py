"""Methods with a critic as values: what they refuse, whose conventions they have, what they imitate."""

import dataclasses

import examples
import numpy as np
import pytest

from gpg_jax.algorithms import ALGORITHMS
from gpg_jax.algorithms.value_pretraining import value_pretraining
from gpg_jax.losses import objective

CRITICS = ("a2c", "ppo", "vapo", "trpo")


@pytest.mark.parametrize(
    ("name", "options", "sentence"),
    [
        ("a2c", {"steps": 3, "lambda_": 0.5}, "lambda_ is read only where steps is None"),
        ("a2c", {"steps": 3, "lambda_": 7.0}, "lambda_ is read only where steps is None"),
        ("a2c", {"lambda_": 7.0}, "lambda_ must be a finite number in"),
        ("a2c", {"steps": 0}, "steps must be a whole number of at least 1"),
        ("a2c", {"value_coefficient": 0.0}, "value_coefficient must be above 0"),
        ("a2c", {"dual_clip": 3.0}, "does not read 'dual_clip'"),
        ("vapo", {"alpha": -1.0}, "alpha must not be negative"),
        ("vapo", {"alpha": 0.0}, "alpha must be above 0"),
        ("vapo", {"lambda_range": (0.9, 0.1)}, "lambda_range must be a low and a high, in this order"),
        (
            "vapo",
            {"lambda_range": (-1.0, 2.0)},
            r"lambda_range must be a finite number in \[0, 1\], got -1.0",
        ),
        ("vapo", {"lambda_range": 0.5}, "lambda_range must be a low and a high"),
        ("vapo", {"clip_low": -1.0}, "clip ranges must not be negative"),
        ("vapo", {"likelihood_coefficient": 0.0, "correct": 0.5}, "correct is read only by"),
        ("vapo", {"correct": float("nan")}, "correct must be a finite number"),
        *(
            (name, {"bootstrap_truncated": True, "drop_truncated": True}, "leaves out the rows")
            for name in CRITICS
        ),
        *((name, {"discount": 1.5}, "discount must be a finite number in") for name in CRITICS),
    ],
)
def test_what_is_refused(name, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        ALGORITHMS[name](**options)


@pytest.mark.parametrize("name", CRITICS)
@pytest.mark.parametrize("convention", ["trl", "verl", "tunix", "openrlhf", "oat"])
def test_a_system_whose_critic_is_not_among_the_settings_is_no_convention(name, convention):
    """verl and OpenRLHF take λ = 1 and a value clip of .5 where the paper's code has .95 and .2."""
    with pytest.raises(
        ValueError, match=f"'{name}' has no convention '{convention}'.* λ, value clip and whitening"
    ):
        ALGORITHMS[name](convention=convention)
    ALGORITHMS[name](convention="seed")


def test_without_a_correct_row_nothing_is_imitated():
    """O-25: actions, but no row to imitate: what VAPO pushes is what it pushes without the likelihood."""
    batch, scores = examples.random_batch(2)
    wrong = batch._replace(rollout=dataclasses.replace(batch.rollout, outcome=np.zeros(8, np.float32)))

    def push(rows, **options):
        value, coefficients, _ = examples.compiled("vapo", **options)(rows, scores)
        return np.append(np.asarray(coefficients), value)

    without = {"likelihood_coefficient": 0.0}
    np.testing.assert_array_equal(push(wrong), push(wrong, **without))
    assert np.abs(push(batch) - push(batch, **without)).max() > 1e-3


@pytest.mark.parametrize("discount", [0.5, 1.0])
def test_the_targets_of_a_pretraining_are_discounted_as_it_is_told(discount):
    """γ^(actions behind) times the reward, whatever the critic says and wherever a row ended."""
    batch, _ = examples.random_batch(3)
    actions = np.asarray(batch.rollout.action_mask)
    method = value_pretraining(ALGORITHMS["vapo"](target_lambda=0.5, discount=discount), discount=discount)
    estimate, _ = objective.estimate(method, batch, method.state)
    behind = actions[:, ::-1].cumsum(1)[:, ::-1] - 1
    wanted = np.where(actions, discount**behind * batch.rollout.reward[:, None], 0)
    np.testing.assert_allclose(np.where(actions, estimate.value_target, 0), wanted, atol=1e-5)


def test_a_pretraining_is_told_its_discount():
    with pytest.raises(TypeError, match="discount"):
        value_pretraining(ALGORITHMS["ppo"](discount=0.9))
