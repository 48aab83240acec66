"""Weighted sums of reward functions; one that fails fails its row, with its text, and nothing else."""

import math

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpg_jax.data.examples import Example
from gpg_jax.environments.rewards import Failure, Reward, judge

EXAMPLES = [Example(f"q{row}", str(row)) for row in range(3)]
TEXTS = ["0", "wrong", "2"]


class UnprintableError(Exception):
    def __str__(self):
        raise RuntimeError("no words")


def right(text, example):
    return float(text == example.answer)


def length(text, example):
    return len(text)


def failing_on(row, behaviour):
    """A reward of 0.5 that misbehaves on one row."""

    def function(text, example):
        return behaviour() if example is EXAMPLES[row] else 0.5

    return function


def raising(error):
    def behaviour():
        raise error

    return behaviour


def test_the_outcome_is_the_reward_where_no_terms_are_given():
    judged = judge(right, TEXTS, EXAMPLES)
    np.testing.assert_array_equal(judged.outcome, [1, 0, 1])
    np.testing.assert_array_equal(judged.reward, judged.outcome)
    np.testing.assert_array_equal(judged.parts["outcome"], judged.outcome)
    assert judged.failures == ()
    assert not judged.failed.any()
    assert {judged.outcome.dtype, judged.reward.dtype, judged.parts["outcome"].dtype} == {
        np.dtype(np.float32)
    }


def test_the_reward_is_the_weighted_sum_and_the_outcome_stays_the_verifiers():
    judged = judge(right, TEXTS, EXAMPLES, [Reward("right", right, 2.0), Reward("length", length, -0.1)])
    np.testing.assert_array_equal(judged.outcome, [1, 0, 1])
    np.testing.assert_array_equal(judged.parts["length"], [1, 5, 1])
    np.testing.assert_allclose(judged.reward, [1.9, -0.5, 1.9], rtol=1e-6)


def test_the_verifier_is_asked_once_a_row():
    asked = []

    def verifier(text, example):
        asked.append(text)
        return 1

    judge(verifier, TEXTS, EXAMPLES, [Reward("one", verifier), Reward("two", verifier, 2.0)])
    assert asked == TEXTS


@given(st.lists(st.tuples(st.floats(-3, 3, width=32), st.floats(-3, 3, width=32)), max_size=4), st.data())
def test_rewards_are_linear_in_their_weights(terms, data):
    values = [data.draw(st.lists(st.floats(-9, 9), min_size=3, max_size=3)) for _ in terms]
    rewards = [
        Reward(str(k), lambda text, example, k=k: values[k][int(example.answer)], weight)
        for k, (weight, _) in enumerate(terms)
    ]
    judged = judge(right, TEXTS, EXAMPLES, rewards or [Reward("right", right)])
    expected = [sum(terms[k][0] * values[k][row] for k in range(len(terms))) for row in range(3)]
    np.testing.assert_allclose(judged.reward, expected if terms else [1, 0, 1], atol=1e-4)


@pytest.mark.parametrize(
    ("behaviour", "error"),
    [
        (raising(KeyError("gold")), "KeyError: 'gold'"),
        (raising(ValueError("no number\nin it")), "ValueError: no number\nin it"),
        (raising(ValueError()), "ValueError"),
        (raising(RecursionError("deep")), "RecursionError: deep"),
        (raising(UnprintableError()), "UnprintableError"),
        (raising(SystemExit(1)), "SystemExit: 1"),
        (lambda: 1 / 0, "ZeroDivisionError"),
        (lambda: math.nan, "ValueError: it returned nan"),
        (lambda: math.inf, "ValueError: it returned inf"),
        (lambda: -np.float32(np.inf), "ValueError: it returned -inf"),
        (lambda: 1e39, "ValueError: it returned 1e.39, which is not a finite float32"),
        (lambda: 10**400, "OverflowError"),
        (lambda: None, "TypeError"),
        (lambda: "1.0", "TypeError: it returned '1.0', which is not a number"),
        (lambda: b"1", "TypeError: it returned b'1'"),
        (lambda: [1.0], "TypeError: it returned \\[1.0\\]"),
        (lambda: [[1.0], [2.0, 3.0]], "Error"),
        (lambda: np.ones(1), "TypeError: it returned array"),
        (lambda: np.ones(0), "TypeError: it returned array"),
        (lambda: jnp.ones((1,)), "TypeError: it returned Array"),
        (lambda: {"score": 1.0}, "TypeError"),
        (lambda: 1j, "TypeError"),
    ],
)
@pytest.mark.parametrize("as_verifier", [True, False])
def test_a_failure_costs_its_row_alone_and_is_told(behaviour, error, as_verifier):
    function = failing_on(1, behaviour)
    if as_verifier:
        judged, name = judge(function, TEXTS, EXAMPLES), "verifier"
        outcome, reward = [0.5, 0, 0.5], [0.5, 0, 0.5]
    else:
        terms = [Reward("length", length), Reward("odd", function, 2.0)]
        judged, name = judge(right, TEXTS, EXAMPLES, terms), "odd"
        outcome, reward = [1, 0, 1], [2, 0, 2]
        np.testing.assert_array_equal(judged.parts["length"], [1, 5, 1])
        np.testing.assert_array_equal(judged.parts["odd"], [0.5, 0, 0.5])
    np.testing.assert_array_equal(judged.failed, [False, True, False])
    np.testing.assert_array_equal(judged.outcome, outcome)
    np.testing.assert_array_equal(judged.reward, reward)
    (failure,) = judged.failures
    assert (failure.row, failure.name, failure.text) == (1, name, "wrong")
    with pytest.raises(ValueError, match=error):
        raise ValueError(failure.error)


@pytest.mark.parametrize(
    "value", [True, 1, np.float32(1), np.int64(1), np.bool_(True), np.ones(()), jnp.ones(())]
)
def test_every_kind_of_number_will_do(value):
    judged = judge(lambda text, example: value, TEXTS, EXAMPLES)
    np.testing.assert_array_equal(judged.reward, [1, 1, 1])
    assert judged.failures == ()


def test_a_right_answer_earns_nothing_where_a_reward_fails():
    terms = [Reward("right", right), Reward("odd", failing_on(0, raising(OSError("gone"))))]
    judged = judge(right, TEXTS, EXAMPLES, terms)
    np.testing.assert_array_equal(judged.outcome, [0, 0, 1])
    np.testing.assert_allclose(judged.reward, [0, 0.5, 1.5])


def test_failures_come_in_the_order_of_rows_and_then_of_terms():
    terms = [
        Reward("first", failing_on(1, raising(ValueError("a")))),
        Reward("second", lambda text, example: math.nan),
    ]
    judged = judge(failing_on(1, raising(ValueError("c"))), TEXTS, EXAMPLES, terms)
    places = [(failure.row, failure.name) for failure in judged.failures]
    assert places == [(0, "second"), (1, "verifier"), (1, "first"), (1, "second"), (2, "second")]
    assert judged.failed.all()


def test_a_failure_reads_as_a_sentence():
    words = str(Failure(3, "length", "ValueError: it returned nan", "line\nbreak"))
    assert words == "reward 'length' failed on row 3: ValueError: it returned nan; its text: 'line\\nbreak'"


def test_a_sum_beyond_float32_fails_its_row():
    terms = [Reward("big", lambda text, example: 3e38 if text == "2" else 1.0, 2.0)]
    judged = judge(right, TEXTS, EXAMPLES, terms)
    np.testing.assert_array_equal(judged.reward, [2, 2, 0])
    np.testing.assert_array_equal(judged.failed, [False, False, True])
    assert [(failure.row, failure.name, failure.text) for failure in judged.failures] == [(2, "sum", "2")]


def test_no_rows_are_no_trouble():
    judged = judge(right, [], [], [Reward("right", right), Reward("length", length)])
    assert [judged.outcome.shape, judged.reward.shape, judged.failed.shape] == [(0,)] * 3


def test_an_interrupt_is_no_failure_of_a_reward():
    with pytest.raises(KeyboardInterrupt):
        judge(failing_on(0, raising(KeyboardInterrupt())), TEXTS, EXAMPLES)


def test_texts_and_examples_must_match():
    with pytest.raises(ValueError, match="2 texts and 3 examples"):
        judge(right, TEXTS[:2], EXAMPLES)


def test_a_name_twice_is_refused():
    with pytest.raises(ValueError, match=r"\['a', 'b', 'a'\] have a name twice"):
        judge(right, TEXTS, EXAMPLES, [Reward("a", right), Reward("b", right), Reward("a", length)])


@pytest.mark.parametrize("weight", [math.nan, math.inf, -math.inf, 1e39])
def test_a_weight_must_be_finite(weight):
    with pytest.raises(ValueError, match="the weight of reward 'a' is"):
        judge(right, TEXTS, EXAMPLES, [Reward("a", right, weight)])
