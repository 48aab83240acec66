"""O-29: calibrated advantages by hand, against a brute force, and the properties of a projection."""

from __future__ import annotations

import functools
from types import SimpleNamespace

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given

from gpg_jax.estimators.advantages import shared_by_tree
from gpg_jax.estimators.calibration import calibrate, prefix_classes, tree_advantage, tree_classes

PROMPT = 2


def classes_of(tokens, lengths=None, group=None, **options):
    tokens = np.asarray(tokens, np.int32)
    rows, width = tokens.shape
    lengths = np.full(rows, width) if lengths is None else np.asarray(lengths)
    group = np.zeros(rows, np.int32) if group is None else np.asarray(group, np.int32)
    prompt = np.full(rows, PROMPT)
    found = prefix_classes(tokens, jnp.array(prompt), jnp.array(lengths), jnp.array(group), **options)
    position = np.arange(width)[None]
    return found, (position >= PROMPT) & (position < lengths[:, None])


def brute_force(advantage, tokens, lengths, group, weight, inclusive):
    """Eq. 29 word by word: every row, every token, every other row of the group. O(B²L²)."""
    rows, width = tokens.shape
    result = np.zeros((rows, width))
    for i in range(rows):
        for t in range(PROMPT, lengths[i]):
            end = t + 1 if inclusive else t
            shares = [
                j
                for j in range(rows)
                if group[j] == group[i]
                and (lengths[j] > t)
                and np.array_equal(tokens[j, PROMPT:end], tokens[i, PROMPT:end])
            ]
            total = sum(weight[j] for j in shares)
            mean = sum(weight[j] * advantage[j] for j in shares) / total if total else advantage[i]
            result[i, t] = mean
    return result


SHAPES = [(1, 1), (4, 6), (9, 5)]
"""Rows, and tokens that they may write: each is compiled once, group sizes and lengths vary inside."""


@st.composite
def rollouts(draw):
    rows, width = draw(st.sampled_from(SHAPES))
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    lengths = PROMPT + rng.integers(0, width + 1, rows)
    tokens = rng.integers(0, 3, (rows, PROMPT + width))
    tokens[:, :PROMPT] = 7
    tokens[np.arange(PROMPT + width)[None] >= lengths[:, None]] = 0
    group = rng.integers(0, rows, rows)
    return tokens, lengths, group, rng.normal(size=rows), rng.choice([0.0, 0.5, 1.0], rows)


@functools.partial(jax.jit, static_argnames="inclusive")
def calibrated(tokens, lengths, group, advantage, weight, *, inclusive=True):
    """Classes by equal tokens, where they are meant, and the advantages that they give."""
    position = jnp.arange(tokens.shape[1])[None]
    inside = (position >= PROMPT) & (position < lengths[:, None])
    classes = prefix_classes(tokens, jnp.full_like(lengths, PROMPT), lengths, group, inclusive=inclusive)
    return classes, inside, calibrate(advantage, classes, inside, weight)


@given(rollouts(), st.booleans())
def test_it_is_the_brute_force(rollout, inclusive):
    tokens, lengths, group, advantage, weight = rollout
    _, _, found = calibrated(*rollout, inclusive=inclusive)
    expected = brute_force(advantage, tokens, lengths, group, weight, inclusive)
    np.testing.assert_allclose(found, expected, atol=1e-5)


@given(rollouts())
def test_it_preserves_the_mean_of_every_class_and_never_spreads(rollout):
    tokens, lengths, group, advantage, _ = rollout
    weight = np.ones(len(group))
    classes, inside, found = map(np.asarray, calibrated(tokens, lengths, group, advantage, weight))
    for t in range(PROMPT, tokens.shape[1]):
        for name in np.unique(classes[inside[:, t], t]):
            rows = inside[:, t] & (classes[:, t] == name)
            np.testing.assert_allclose(found[rows, t].sum(), advantage[rows].sum(), atol=1e-4)
            assert np.ptp(found[rows, t]) < 1e-6
        if inside[:, t].any():
            assert found[inside[:, t], t].var() <= advantage[inside[:, t]].var() + 1e-6


@given(rollouts(), st.randoms(use_true_random=False))
def test_the_order_of_rows_does_not_matter(rollout, random):
    order = list(range(len(rollout[0])))
    random.shuffle(order)
    _, _, found = calibrated(*rollout)
    _, _, moved = calibrated(*(rows[order] for rows in rollout))
    np.testing.assert_allclose(found[np.array(order)], moved, atol=1e-5)


def test_two_rows_that_share_two_tokens():
    # A = (1, −.6): (1 − .6)/2 = .2 on the two shared tokens, then each its own
    classes, inside = classes_of([[7, 7, 1, 2, 3], [7, 7, 1, 2, 4]])
    found = calibrate(jnp.array([1.0, -0.6]), classes, jnp.array(inside), jnp.ones(2))
    np.testing.assert_allclose(found, [[0, 0, 0.2, 0.2, 1.0], [0, 0, 0.2, 0.2, -0.6]], atol=1e-7)


def test_nested_prefixes():
    # all four share the first token (mean 0), two of them the second (mean 2)
    tokens = [[7, 7, 1, 1, 1], [7, 7, 1, 1, 2], [7, 7, 1, 2, 1], [7, 7, 1, 3, 1]]
    classes, inside = classes_of(tokens)
    found = calibrate(jnp.array([3.0, 1.0, -2.0, -2.0]), classes, jnp.array(inside), jnp.ones(4))
    expected = [[0, 2, 3], [0, 2, 1], [0, -2, -2], [0, -2, -2]]
    np.testing.assert_allclose(found[:, 2:], expected, atol=1e-7)


def test_nobody_shares_or_all_share():
    advantage = jnp.array([1.0, -1.0])
    classes, inside = classes_of([[7, 7, 1, 2], [7, 7, 2, 2]])
    np.testing.assert_allclose(
        calibrate(advantage, classes, jnp.array(inside), jnp.ones(2))[:, 2:], [[1, 1], [-1, -1]]
    )
    classes, inside = classes_of([[7, 7, 1, 2], [7, 7, 1, 2]])
    np.testing.assert_array_equal(calibrate(advantage, classes, jnp.array(inside), jnp.ones(2)), 0)


def test_without_the_token_itself_the_first_one_is_everybodys():
    classes, inside = classes_of([[7, 7, 1, 2], [7, 7, 2, 2]], inclusive=False)
    found = calibrate(jnp.array([1.0, -0.5]), classes, jnp.array(inside), jnp.ones(2))
    np.testing.assert_allclose(found[:, 2:], [[0.25, 1], [0.25, -0.5]])


TREE = {
    # rows 0 and 3 are roots; 1 forks from 0 at token 4, 2 from 1 at token 5
    "parent": jnp.array([0, 0, 1, 3]),
    "fork": jnp.array([2, 4, 5, 2]),
    "prompt_length": jnp.full(4, 2),
    "group": jnp.zeros(4, jnp.int32),
}


def test_rows_share_what_was_written_before_they_forked():
    classes = np.asarray(tree_classes(**TREE, length=7))
    np.testing.assert_array_equal(classes[:, 2:4], [[0, 0], [0, 0], [0, 0], [3, 3]])
    np.testing.assert_array_equal(classes[:, 4], [0, 1, 1, 3])
    np.testing.assert_array_equal(classes[:, 5:], [[0, 0], [1, 1], [2, 2], [3, 3]])


PLANTED = [(1, 3), (5, 4), (12, 8)]
"""Rows of a forest, and tokens beside the longest prompt; each is compiled once."""


@st.composite
def forests(draw):
    """Trees as they grow: each token under the name of its writer, and parents, forks, prompts and groups.

    Rows are numbered in any order, a child may be forked anywhere in what its parent has, and chains are as
    likely as bushes.
    """
    rows, width = draw(st.sampled_from(PLANTED))
    rng, chains = np.random.default_rng(draw(st.integers(0, 10**6))), draw(st.sampled_from([0.0, 0.5, 1.0]))
    prompts = rng.integers(1, PROMPT + 1, rows)
    parent, fork, group = np.arange(rows), np.zeros(rows, int), rng.integers(0, rows, rows)
    order, written = rng.permutation(rows), {}
    for number, row in enumerate(order):
        begun = [("prompt", group[row], t) for t in range(prompts[group[row]])]
        if number and rng.random() < 0.8:
            parent[row] = order[number - 1] if rng.random() < chains else rng.choice(order[:number])
            group[row], above = group[parent[row]], written[parent[row]]
            begun = above[: rng.integers(prompts[group[row]], len(above) + 1)]
        fork[row] = len(begun)
        length = rng.integers(len(begun), PROMPT + width + 1)
        written[row] = begun + [(row, t) for t in range(len(begun), length)]
    forest = SimpleNamespace(
        tokens=np.zeros((rows, PROMPT + width), np.int32),
        parent=parent,
        fork=fork,
        prompt_length=prompts[group],
        group=group,
    )
    return forest, [written[row] for row in range(rows)], rng.normal(size=rows), rng.choice([0, 0.5, 1], rows)


def sharing(forest, written, inclusive):
    """`bool[B, B, L]`: two rows have token t, and the same up to it by the same writers. O(B²L²)."""
    rows, length = forest.tokens.shape
    share = np.zeros((rows, rows, length), bool)
    for i in range(rows):
        for j in range(rows):
            for t in range(forest.prompt_length[i], min(len(written[i]), len(written[j]))):
                end = t + 1 if inclusive else t
                share[i, j, t] = written[i][:end] == written[j][:end]
    return share


@functools.partial(jax.jit, static_argnames="inclusive")
def by_tree(forest, lengths, advantage, weight, *, inclusive):
    forest = SimpleNamespace(**forest)
    position = jnp.arange(forest.tokens.shape[1])[None]
    inside = (position >= forest.prompt_length[:, None]) & (position < lengths[:, None])
    classes = shared_by_tree(inclusive)(forest)
    return classes, inside, calibrate(advantage, classes, inside, weight)


@given(forests(), st.booleans())
def test_the_tree_says_who_wrote_what(planted, inclusive):
    forest, written, advantage, weight = planted
    lengths = np.array([len(row) for row in written])
    found = by_tree(vars(forest), lengths, advantage, weight, inclusive=inclusive)
    classes, inside, value = map(np.asarray, found)
    share = sharing(forest, written, inclusive)
    both = inside[:, None] & inside[None]
    np.testing.assert_array_equal((classes[:, None] == classes[None]) & both, share)
    assert np.all((classes[inside] >= 0) & (classes[inside] < len(written)))
    total = np.einsum("ijt,j->it", share, weight)
    mean = np.einsum("ijt,j->it", share, weight * advantage) / np.where(total > 0, total, 1)
    expected = np.where(inside, np.where(total > 0, mean, advantage[:, None]), 0)
    np.testing.assert_allclose(value, expected, atol=1e-5)


def test_the_tree_is_not_fooled_by_rows_that_wrote_the_same_by_chance():
    tokens = np.full((4, 7), 1)
    by_tokens, inside = classes_of(tokens)
    assert len(np.unique(np.asarray(by_tokens)[:, 2:])) == 1
    advantage = jnp.array([1.0, 0.0, 0.0, -1.0])
    by_tree = calibrate(advantage, tree_classes(**TREE, length=7), jnp.array(inside), jnp.ones(4))
    np.testing.assert_allclose(by_tree[3, 2:], -1)
    np.testing.assert_allclose(by_tree[0, 2:], [1 / 3, 1 / 3, 1, 1, 1], atol=1e-7)


def test_tree_and_tokens_agree_where_siblings_differ_at_once():
    tokens = np.array([[7, 7, 1, 1, 1, 1], [7, 7, 1, 1, 2, 1], [7, 7, 1, 1, 2, 2], [7, 7, 2, 2, 2, 2]])
    tree = tree_classes(**TREE, length=6)
    by_tokens, inside = classes_of(tokens)
    advantage, weight = jnp.array([1.0, -2.0, 0.5, 3.0]), jnp.array([0.5, 0.25, 0.25, 1.0])
    for inclusive in (True, False):
        one = calibrate(
            advantage, tree_classes(**TREE, length=6, inclusive=inclusive), jnp.array(inside), weight
        )
        other, _ = classes_of(tokens, inclusive=inclusive)
        np.testing.assert_allclose(one, calibrate(advantage, other, jnp.array(inside), weight), atol=1e-6)
    assert tree.shape == by_tokens.shape


def test_a_tree_advantage_telescopes():
    # Along a row the advantages of its branches add up to its outcome less the group's mean.
    outcome, weight = jnp.array([1.0, 0.0, 1.0, 0.0]), jnp.array([0.5, 0.25, 0.25, 1.0])
    inside = jnp.arange(7)[None] >= 2
    inside = jnp.broadcast_to(inside, (4, 7))
    found = tree_advantage(outcome, tree_classes(**TREE, length=7), inside, weight, TREE["group"])
    mean = (0.5 + 0.25) / 2
    below = 0.25 / 0.5  # rows 1 and 2
    tree = 0.75
    np.testing.assert_allclose(found[0, 2:], [tree - mean] * 2 + [1 - tree] * 3, atol=1e-6)
    np.testing.assert_allclose(found[1, 2:], [tree - mean] * 2 + [below - tree] + [0 - below] * 2, atol=1e-6)
    np.testing.assert_allclose(found[2, 2:], [tree - mean] * 2 + [below - tree] + [1 - below] * 2, atol=1e-6)
    np.testing.assert_allclose(found[3, 2:], [0 - mean] * 5, atol=1e-6)


@pytest.mark.parametrize("inclusive", [True, False])
def test_one_program_serves_every_rollout(inclusive):
    traced = jax.jit(lambda *arrays: prefix_classes(*arrays, inclusive=inclusive))
    tokens, lengths, group = jnp.ones((3, 5), jnp.int32), jnp.full(3, 5), jnp.zeros(3, jnp.int32)
    expected = prefix_classes(tokens, jnp.full(3, 2), lengths, group, inclusive=inclusive)
    np.testing.assert_array_equal(traced(tokens, jnp.full(3, 2), lengths, group), expected)
