"""Confidence intervals against known values, and their coverage."""

import itertools
import math

import numpy as np
import pytest

from experiments.statistics import accuracy, pass_at_k, score, wilson


def test_wilson_known_values():
    """Newcombe 1998, table I, method 3: 81/263 and 15/148, 0/20 and 1/29."""
    for hits, count, low, high in ((81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605),
                                   (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)):  # fmt: skip
        assert np.allclose(wilson(hits / count, count), (low, high), atol=5e-5)


def test_one_sample_a_prompt_is_the_plain_interval():
    correct = (np.arange(263) < 81)[:, None]
    found = accuracy(correct)
    assert (found.mean, found.prompts, found.samples) == (81 / 263, 263, 1)
    assert np.allclose(found[1:3], wilson(81 / 263, 263))


def test_copies_of_a_sample_add_no_certainty():
    """Samples that are all alike within a prompt count as one."""
    once = (np.arange(40) < 13)[:, None]
    assert np.allclose(accuracy(np.repeat(once, 8, axis=1))[1:3], accuracy(once)[1:3])


def test_independent_samples_count_nearly_whole():
    correct = np.random.default_rng(0).random((400, 8)) < 0.3
    found = accuracy(correct)
    assert np.isclose(found.high - found.low, np.diff(wilson(found.mean, 3200))[0], rtol=0.1)


def test_no_more_than_all_samples_and_no_less_than_the_prompts():
    even = np.tile([1, 0], (5, 1))
    assert np.allclose(accuracy(even)[1:3], wilson(0.5, 10))
    assert np.allclose(accuracy(np.ones((5, 4)))[1:3], wilson(1.0, 5))


def test_the_interval_covers():
    """Prompts of different difficulty, 4 samples each: the truth 0.5 lies in some 95 of 100 intervals."""
    draw = np.random.default_rng(1)
    inside = 0
    for _ in range(400):
        difficulty = draw.random((60, 1))
        found = accuracy(draw.random((60, 4)) < difficulty)
        inside += found.low <= 0.5 <= found.high
    assert 0.92 <= inside / 400 <= 0.98


def test_a_score_of_zeros_and_ones_is_an_accuracy():
    for shape in ((40, 1), (15, 4)):
        correct = np.random.default_rng(2).random(shape) < 0.3
        assert score(correct) == accuracy(correct)
    assert score(np.tile([1, 0], (5, 1))) == accuracy(np.tile([1, 0], (5, 1)))


def test_a_score_of_many_questions_has_the_normal_interval():
    """1.96 standard errors, of outcomes that vary less than zeros and ones."""
    outcomes = np.random.default_rng(3).beta(4, 3, (20_000, 1))
    found, half = score(outcomes), 1.959964 * outcomes.std() / np.sqrt(20_000)
    assert np.isclose(found.mean, outcomes.mean())
    assert np.allclose(found[1:3], (found.mean - half, found.mean + half), atol=2e-5)


def test_the_interval_of_a_score_covers():
    """F1 of 60 questions: 0 for half, 1 for a quarter, 1/2 for the rest; the mean 3/8."""
    draw, inside = np.random.default_rng(4), 0
    for _ in range(400):
        found = score(draw.choice([0, 0, 0.5, 1], (60, 1)))
        inside += found.low <= 0.375 <= found.high
    assert 0.92 <= inside / 400 <= 0.98


def test_outcomes_that_are_all_alike_say_nothing_of_their_spread():
    assert np.allclose(score(np.full((6, 2), 0.5))[1:3], wilson(0.5, 12))
    assert np.allclose(score(np.zeros((6, 2)))[1:3], wilson(0.0, 6))
    with pytest.raises(ValueError, match=r"outcomes from 0 to 1, got 0 to 1.1"):
        score(np.array([[0.0], [1.1]]))
    with pytest.raises(ValueError, match="outcomes from 0 to 1"):
        score(np.array([[np.nan]]))


def test_pass_at_k_is_the_mean_over_all_choices():
    correct = np.array([[1, 0, 0, 1, 0], [0, 0, 0, 0, 0], [1, 1, 1, 1, 0]])
    for k in range(1, 6):
        choices = itertools.combinations(range(5), k)
        expected = np.mean([correct[:, list(choice)].max(1).mean() for choice in choices])
        assert math.isclose(pass_at_k(correct, k), expected)


@pytest.mark.parametrize(
    "values, sentence",
    [(np.zeros((0, 3)), "needs samples"), (np.full((2, 2), 0.5), "zeros and ones")],
)
def test_bad_samples(values, sentence):
    with pytest.raises(ValueError, match=sentence):
        accuracy(values)


def test_bad_k():
    with pytest.raises(ValueError, match="pass@3 cannot be told from 2 samples"):
        pass_at_k(np.zeros((4, 2)), 3)
