"""The listed language model against loops over words."""

from __future__ import annotations

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpg_jax.theory import responses as listed

SYMBOLS, LONGEST = 3, 3


@pytest.fixture(scope="module")
def toy():
    """Responses, two policies and rewards for two prompts."""
    every, draw = listed.list_responses(SYMBOLS, LONGEST), np.random.default_rng(0)
    tables = [jnp.asarray(draw.normal(size=(2, 7, 3))) for _ in range(2)]
    return every, *tables, jnp.asarray(draw.normal(size=(2, 15)))


def words(every):
    return [tuple(row[mask].tolist()) for row, mask in zip(every.token, every.mask, strict=True)]


def by_loop(every, logits):
    """π(o | q), word by word; prefixes are looked up by what was written, not by their numbers."""
    spoken = words(every)
    number = {
        word[:place]: int(every.prefix[row, place])
        for row, word in enumerate(spoken)
        for place in range(len(word))
    }
    result = np.ones((len(logits), len(spoken)))
    for prompt, (row, word) in itertools.product(range(len(logits)), enumerate(spoken)):
        for place, symbol in enumerate(word):
            own = np.asarray(logits[prompt, number[word[:place]]])
            result[prompt, row] *= math.exp(own[symbol]) / np.exp(own).sum()
    return result, spoken, number


def test_every_word_is_there_once():
    """Over {0, 1, 2} with at most three symbols: 0, a0, ab0 and abc; seven prefixes."""
    every = listed.list_responses(SYMBOLS, LONGEST)
    wanted = {(0,), *itertools.product((1, 2), (0,)), *itertools.product((1, 2), (1, 2), (0, 1, 2))}
    assert sorted(words(every)) == sorted(wanted) and len(every.token) == 15
    assert every.prefix.max() == 6 and not every.token[~every.mask].any()
    assert len(listed.list_responses(2, 1).token) == 2


def test_probabilities_values_and_visits(toy):
    every, policy, _, reward = toy
    probability, spoken, number = by_loop(every, policy)
    np.testing.assert_allclose(listed.probabilities(every, policy), probability, rtol=1e-12)
    np.testing.assert_allclose(probability.sum(1), 1, rtol=1e-12)
    mean = (probability * np.asarray(reward)).sum(1)
    np.testing.assert_allclose(listed.expected_reward(every, policy, reward), mean.mean(), rtol=1e-12)
    visits, values = listed.visits(every, policy), listed.prefix_values(every, policy, reward)
    for prefix, place in number.items():
        begins = np.array([word[: len(prefix)] == prefix for word in spoken])
        mass = (probability * begins).sum(1)
        np.testing.assert_allclose(visits[:, place], mass, rtol=1e-12)
        worth = (probability * begins * np.asarray(reward)).sum(1) / mass
        np.testing.assert_allclose(values[:, place], worth, rtol=1e-12)


def test_the_divergence_is_that_of_whole_responses(toy):
    every, policy, other, _ = toy
    first, second = (by_loop(every, logits)[0] for logits in (policy, other))
    divergence = (first * np.log(first / second)).sum(1).mean()
    np.testing.assert_allclose(listed.divergence(every, policy, other), divergence, rtol=1e-12)
    length = (first * every.mask.sum(1)).sum(1).mean()
    np.testing.assert_allclose(listed.token_divergence(every, policy, other), divergence / length, rtol=1e-12)


def test_a_policy_is_moved_by_so_many_nats(toy):
    every, policy, way, _ = toy
    for nats in (1e-4, 0.1):
        moved = listed.moved(every, policy, way, nats)
        np.testing.assert_allclose(listed.token_divergence(every, moved, policy), nats, rtol=1e-9)
        length = (moved - policy) / way
        np.testing.assert_allclose(length, float(length[0, 0, 0]), rtol=1e-9)
        assert length[0, 0, 0] > 0
    np.testing.assert_array_equal(listed.moved(every, policy, way, 0), policy)


def test_mistakes_are_sentences(toy):
    every, policy, _, reward = toy
    with pytest.raises(ValueError, match="leads no further than 0 nats, asked"):
        listed.moved(every, policy, jnp.zeros_like(policy), 0.1)
    with pytest.raises(ValueError, match="needs 2 symbols and a token at least, got 1 and 3"):
        listed.list_responses(1, 3)
    with pytest.raises(ValueError, match="4 symbols make 88573 responses"):
        listed.list_responses(4, 10)
    with jax.enable_x64(False), pytest.raises(ValueError, match="exact in float64 alone"):
        listed.expected_reward(every, policy, reward)
