"""The squared bias over policies: in the mean what it is, and as often in its interval as that says."""

import itertools

import numpy as np
import pytest

from experiments.studies import gradients_bias, moments
from experiments.studies.findings import interval

TRIALS, POLICIES, SIZE = 400, 5, 12
ROLLOUTS, REFERENCE = 24, 96
SPREAD = 0.12 * 600 ** (np.arange(POLICIES) / (POLICIES - 1))
"""tr Cov of a rollout's gradient over ‖g‖²: 600 times as much for one policy as for another."""


def drawn(draw, count, shift):
    """Moments of estimates `[TRIALS·POLICIES, SIZE]` that scatter around g and a shift, 4 directions most."""
    share = np.exp(-np.arange(SIZE) / 2)
    scale = np.sqrt(np.tile(SPREAD, TRIALS)[:, None] * share / share.sum())
    found = moments.no_moments(TRIALS * POLICIES, SIZE)
    for _ in range(count):
        found = moments.add(found, shift + SIZE**-0.5 + scale * draw.normal(size=scale.shape))
    return found


@pytest.fixture(scope="module", params=[0.0, 0.05, 0.2])
def measured(request):
    """β, and B and N of the policies of many studies, forked and without forks, as the study has them."""
    draw = np.random.default_rng(0)
    aside = draw.normal(size=(TRIALS * POLICIES, SIZE))
    aside *= np.sqrt(request.param) / np.linalg.norm(aside, axis=1, keepdims=True)
    target, alone, forked = (
        drawn(draw, count, shift) for count, shift in ((REFERENCE, 0.0), (ROLLOUTS, 0.0), (ROLLOUTS, aside))
    )
    norm = moments.squared_norm(target)
    told = (norm.reshape(TRIALS, POLICIES) > 0).all(axis=1)  # the study refuses the others

    def over(values):
        return (values / norm).reshape(TRIALS, POLICIES)[told]

    aimed = moments.variance(alone) / REFERENCE
    ways = [
        (over(moments.squared_bias(one, target)), over(moments.variance(one) / ROLLOUTS + aimed))
        for one in (forked, alone)
    ]
    return request.param, *itertools.chain(*ways)


def test_the_mean_is_without_bias_and_the_interval_holds(measured):
    """An interval of 95% is wider than it says where noise is not normal, which a square is not."""
    bias, own, noise, alone, noise_alone = measured
    assert len(own) > 0.9 * TRIALS
    found = [gradients_bias.weighted(*one) for one in zip(own, noise, alone / noise_alone, strict=True)]
    means = np.array([one.mean for one in found])
    assert abs(means.mean() - bias) < 3 * means.std() / np.sqrt(len(means))
    assert np.mean([one.low <= bias <= one.high for one in found]) > 0.93
    told, plain = (np.mean([one.low > 0 for one in many]) for many in (found, map(interval, own)))
    assert told < 0.04 if bias == 0 else told > plain + 0.2  # Student's around the arithmetic mean


def test_policies_are_weighed_by_what_they_tell():
    """Noises of 1 and 3 without a bias: weights of 9 and 1, and residuals of 0.1 and -0.9."""
    found = gradients_bias.weighted([-0.1, -1.1], [1.0, 3.0], [0.0, 0.0])
    assert found.mean == pytest.approx(-0.2)
    assert found.half == pytest.approx(12.7062 * np.sqrt((9 * 0.01 + 0.81) / 10), rel=1e-4)
    np.testing.assert_allclose(gradients_bias.weights(np.array([1.0, 3.0]), 0.5), [1 / 2, 1 / 12])


def test_no_interval_is_narrower_than_noise_makes_it_without_forks():
    found = gradients_bias.weighted([-0.2, -0.2], [1.0, 3.0], [0.3, -0.4])
    assert found.half == pytest.approx(4.30265 * np.sqrt(0.125 / (10 / 9)), rel=1e-4)


def test_the_mean_and_its_weights_agree():
    bias, noise = np.array([0.1, 0.4, 0.0]), np.array([0.05, 0.2, 2.0])
    mean = gradients_bias.weighted(bias, noise, [0.0] * 3).mean
    weight = 1 / (noise * (noise + 2 * mean))
    assert mean == pytest.approx(weight @ bias / weight.sum(), rel=1e-9)


def test_what_there_is_not_is_not_told():
    for bias, noise, null in (([0.1, 0.2], [1.0, 0.0], [0.0, 0.0]), ([0.1], [1.0], [np.nan])):
        assert str(gradients_bias.weighted(bias, noise, null)) == "not told"
    assert str(gradients_bias.weighted([0.25], [1.0], [0.0])) == "0.25"
    for counts in ((0, 0, 0), (2, 1, 2), (2, 2, 1)):
        with pytest.raises(ValueError, match="a bias needs its noise"):
            gradients_bias.weighted(*([1.0] * count for count in counts))
