"""Entropies beside NumPy's in double precision."""

import numpy as np
import pytest

from gpg_jax.decoding.uncertainty import entropy, top_entropy

ROWS, VOCABULARY = 5, 23
LOGITS = np.random.default_rng(0).normal(0, 3, (ROWS, VOCABULARY)).astype(np.float32)


LIKELIEST = LOGITS.argmax(-1)


def terms(logits, temperature):
    """−p log p of every token of a row, most probable first, those of probability 0 left out."""
    found = []
    for row in logits.astype(np.float64) / temperature:
        weights = np.exp(row - row.max())
        p = np.sort(weights[weights > 0] / weights.sum())[::-1]
        found.append(-p * np.log(p))
    return found


@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.7])
@pytest.mark.parametrize("count", [1, 10, VOCABULARY, VOCABULARY + 5])
def test_the_most_probable_tokens(temperature, count):
    expected = [np.sum(row[:count]) for row in terms(LOGITS, temperature)]
    found = top_entropy(count)(LOGITS, temperature, LIKELIEST)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.7])
def test_the_whole_vocabulary(temperature):
    expected = [np.sum(row) for row in terms(LOGITS, temperature)]
    np.testing.assert_allclose(entropy(LOGITS, temperature), expected, rtol=1e-5)
    np.testing.assert_allclose(top_entropy(VOCABULARY)(LOGITS, temperature, LIKELIEST), expected, rtol=1e-5)


def test_by_hand():
    logits = np.log(np.array([[0.5, 0.25, 0.125, 0.125]], np.float32))
    assert float(entropy(logits, 1.0)[0]) == pytest.approx(1.75 * np.log(2))
    # .5·1 + .25·2 halvings, and .125·3 where the token drawn is none of the two.
    for drawn, halvings in ((1, 1.0), (3, 1.375)):
        found = top_entropy(2)(logits, 1.0, np.array([drawn]))
        assert float(found[0]) == pytest.approx(halvings * np.log(2))
    assert float(entropy(np.zeros((1, 8), np.float32), 3.0)[0]) == pytest.approx(np.log(8))


def test_tokens_that_cannot_be_drawn_add_nothing():
    logits = LOGITS.copy()
    logits[:, 3:] = -np.inf
    for measure in (entropy, top_entropy(10)):
        expected = [np.sum(row) for row in terms(logits, 1.0)]
        np.testing.assert_allclose(measure(logits, 1.0, LIKELIEST), expected, rtol=1e-5)
    certain = np.where(np.arange(VOCABULARY) == 4, 0, -np.inf).astype(np.float32)[None]
    for measure in (entropy, top_entropy(10)):
        assert float(measure(certain, 1.0, np.array([4]))[0]) == 0


def test_no_tokens_are_refused():
    with pytest.raises(ValueError, match="at least 1 token, got count=0"):
        top_entropy(0)
