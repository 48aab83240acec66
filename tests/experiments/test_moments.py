"""Variance, bias and cosine of estimates whose mean and noise are known."""

import itertools

import numpy as np
import pytest

from experiments.studies import moments

D = 40
TARGET = np.linspace(-1, 1, D)
BIAS = np.where(np.arange(D) < 4, 0.5, 0.0)  # ‖b‖² = 4/4 = 1


def gathered(draw, count, offset, scale):
    """Moments of `count` pairs of estimates: one of TARGET + offset, one of TARGET."""
    total = moments.no_moments(2, D)
    for _ in range(count):
        noise = scale * draw.normal(size=(2, D))
        total = moments.add(total, np.stack([TARGET + offset, TARGET]) + noise)
    return total


def test_the_bias_and_the_variance_that_were_put_in():
    draw, found = np.random.default_rng(0), []
    for _ in range(300):
        own, target = gathered(draw, 5, BIAS, 0.3), gathered(draw, 7, 0, 0.3)
        target = moments.chosen(target, np.array([1, 1]))
        found.append(np.concatenate([moments.squared_bias(own, target), moments.variance(own)]))
    mean, error = np.mean(found, axis=0), np.std(found, axis=0) / np.sqrt(len(found))
    # ‖b‖² = 1 and 0, tr Cov = 40·.09 = 3.6; were the noise left in, the biases would be 3.6·(1/5 + 1/7) more
    np.testing.assert_array_less(np.abs(mean - [1, 0, 3.6, 3.6]), 4 * error)
    assert error.max() < 0.1 and min(found, key=lambda one: one[1])[1] < 0


def test_the_sums_are_those_of_numpy():
    draw = np.random.default_rng(1)
    rows = draw.normal(size=(6, 3, D)) + 1
    total = moments.no_moments(3, D)
    for row in rows:
        total = moments.add(total, row.astype(np.float32))
    rows = rows.astype(np.float32).astype(np.float64)
    np.testing.assert_allclose(moments.mean(total), rows.mean(0), rtol=1e-12)
    np.testing.assert_allclose(moments.variance(total), rows.var(0, ddof=1).sum(1), rtol=1e-10)
    # ‖E[x]‖² from products of different estimates alone, in which the noise has no square
    crossed = [
        np.mean([one[e] @ other[e] for one, other in itertools.permutations(rows, 2)]) for e in range(3)
    ]
    np.testing.assert_allclose(moments.squared_norm(total), crossed, rtol=1e-10)


def test_cosines_to_a_target_that_is_noisy():
    # One estimate at 60° of the target; r is the target with noise, whose length is taken out of ‖r‖.
    draw = np.random.default_rng(2)
    target = moments.no_moments(1, D)
    for _ in range(4000):
        target = moments.add(target, TARGET[None] + draw.normal(size=(1, D)))
    across = np.where(np.arange(D) % 2, 1.0, -1.0) * np.abs(TARGET[::-1])
    across -= TARGET * (across @ TARGET) / (TARGET @ TARGET)
    across *= np.linalg.norm(TARGET) / np.linalg.norm(across)
    one = (0.5 * TARGET + np.sqrt(0.75) * across)[None]
    assert moments.cosine(one, target)[0] == pytest.approx(0.5, abs=0.02)
    assert moments.cosine(0 * one, target)[0] == 0
    assert moments.cosine_of_means(target, target)[0] == pytest.approx(1, abs=0.01)


def test_one_estimate_has_no_variance():
    with pytest.raises(ValueError, match="2 estimates or more, got 1"):
        moments.variance(moments.add(moments.no_moments(1, D), TARGET[None]))
