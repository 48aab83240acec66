"""O-31: where rows are forked; and, by enumeration, which weights of the leaves make their mean unbiased."""

from __future__ import annotations

import functools
import itertools
import math

import jax
import numpy as np
import pytest
import scripted

from gpg_jax.decoding.branching import (
    Crossing,
    arpo_paper,
    arpo_release,
    fixed_width,
    leaf_weights,
    random_forks,
)
from gpg_jax.decoding.dialogue import Turns, converse

V = 100
LOG_V = math.log(V)


def crossing(first=(1.0,), own=None, before=(1.0,), after=(1.0,), uniform=0.5):
    own = first if own is None else own
    return Crossing(np.array(first), np.array(own), np.array(before), np.array(after), V, uniform)


def test_the_paper_forks_past_a_threshold():
    # α = τ = .5: forks where the entropy has risen at all
    decide = arpo_paper(8, tokens=2).decide
    assert decide(crossing(first=(1, 1), after=(1, 1.1))) == 1
    assert decide(crossing(first=(1, 1), after=(1, 1))) == 0
    assert decide(crossing(first=(1, 1), after=(1, 0.9, 50))) == 0  # the third token is not read
    # α = .4, β = .2: .4 + .2·ΔH/log V > .5 from ΔH > log V / 2
    decide = arpo_paper(8, alpha=0.4, tokens=1, width=3).decide
    assert decide(crossing(first=(0,), after=(0.51 * LOG_V,))) == 3
    assert decide(crossing(first=(0,), after=(0.49 * LOG_V,))) == 0


def test_the_paper_does_not_draw():
    decide = arpo_paper(8).decide
    assert len({decide(crossing(after=(1.2,), uniform=u)) for u in np.linspace(0.01, 0.99, 50)}) == 1


@pytest.mark.parametrize("change", [-5.0, -1.0, 0.0, 1.0, 5.0])
def test_the_release_forks_at_random(change):
    # P(clip(U − w·ΔH, 0, 1) ≤ p) = clip(p + w·ΔH, 0, 1), with ΔH in shares of log V
    decide = arpo_release(8).decide
    drawn = (np.arange(20000) + 0.5) / 20000
    rate = np.mean([decide(crossing(first=(0,), before=(change * LOG_V,), uniform=u)) for u in drawn])
    assert rate == pytest.approx(np.clip(0.5 + 0.2 * change, 0, 1), abs=1e-3)


def test_the_release_sums_over_the_segment_before():
    decide = arpo_release(8, tokens=2).decide
    # sums 2 and 8 of two tokens: ΔH = 6 / log 100 = 1.303, .2·1.303 = .26, so U ≤ .76 forks
    given = dict(first=(1, 1, 99), before=(4, 4, 0), after=(0,))
    assert decide(crossing(**given, uniform=0.755)) == 1 and decide(crossing(**given, uniform=0.765)) == 0
    # a row that was forked is compared with its own first segment: 8 − 6, so U ≤ .5869
    given["own"] = (3, 3)
    assert decide(crossing(**given, uniform=0.58)) == 1 and decide(crossing(**given, uniform=0.59)) == 0


def test_fixed_and_random():
    assert fixed_width(2, width=4).decide(crossing()) == 3 and fixed_width(2, width=1).decide(crossing()) == 0
    decide = random_forks(2, probability=0.3).decide
    assert np.mean([decide(crossing(uniform=u)) for u in (np.arange(1000) + 0.5) / 1000]) == pytest.approx(
        0.3
    )


@pytest.mark.parametrize(
    "make",
    [
        lambda: arpo_paper(0),
        lambda: arpo_paper(1, tokens=0),
        lambda: arpo_release(1, tokens=0),
        lambda: fixed_width(1, width=0),
        lambda: random_forks(1, probability=1.1),
    ],
)
def test_what_makes_no_sense_is_refused(make):
    with pytest.raises(ValueError, match="must be"):
        make()


def test_the_weights_of_a_tree_by_hand():
    # row 0 is divided at 4 into three (with 1 and 2), row 1 at 6 into two (with 3), row 0 at 8 (with 4)
    parent, fork = np.array([0, 0, 0, 1, 0, 5]), np.array([2, 4, 4, 6, 8, 2])
    expected = [1 / 6, 1 / 6, 1 / 3, 1 / 6, 1 / 6, 1]
    np.testing.assert_allclose(leaf_weights(parent, fork, "tree"), expected, rtol=1e-6)
    np.testing.assert_array_equal(leaf_weights(parent, fork, "uniform"), 1)
    with pytest.raises(ValueError, match='"uniform", "tree" or "forest"'):
        leaf_weights(parent, fork, "other")


def test_trees_that_use_up_rows_weigh_nothing():
    parent, fork, late = np.array([0, 0, 2, 2]), np.array([2, 4, 2, 4]), np.array([0, 0, 1, 1], bool)
    assert leaf_weights(parent, fork, "tree", late).tolist() == [0.5, 0.5, 0, 0]
    assert leaf_weights(parent, fork, "forest", late).tolist() == [0.5] * 4
    assert leaf_weights(parent, fork, "uniform", late).tolist() == [1] * 4
    assert leaf_weights(parent, fork, "tree").tolist() == [0.5] * 4


def weights_by_descent(parent, fork):
    """∏ 1/c along each row's branch: walks from the row up, counting at each place who was born there."""
    weight = np.ones(len(parent))
    for leaf in range(len(parent)):
        row, until = leaf, math.inf
        while True:
            born = [c for c in range(len(parent)) if parent[c] == row != c and fork[c] < until]
            for place in {fork[c] for c in born}:
                weight[leaf] /= 1 + sum(fork[c] == place for c in born)
            if parent[row] == row:
                break
            # Its own birth divided the parent's branch too, at the place of the fork.
            row, until = parent[row], fork[row] + 1
    return weight


@pytest.mark.parametrize("seed", range(5))
def test_the_weights_of_random_trees(seed):
    draw = np.random.default_rng(seed)
    parent, fork = np.arange(40), np.full(40, 3)
    for row in range(3, 40):
        parent[row] = draw.integers(row)
        fork[row] = fork[parent[row]] + draw.integers(1, 4)
    order = draw.permutation(40)  # numbers need not tell who was born first
    place = np.argsort(order)
    parent, fork = place[parent[order]], fork[order]
    np.testing.assert_allclose(
        leaf_weights(parent, fork, "tree"), weights_by_descent(parent, fork), rtol=1e-6
    )


ROWS, BITS = 3, 3
WORLDS = (2, 5, 11, 13, 15, 21)
"""Seeds of worlds where some trees fork and others do not."""


class World:
    """Three binary tokens with boundaries behind the first two, so that everything can be enumerated."""

    def __init__(self, seed: int):
        draw = np.random.default_rng(seed)
        prefixes = [prefix for n in range(BITS) for prefix in itertools.product((0, 1), repeat=n)]
        self.p = {prefix: draw.uniform(0.02, 0.98) for prefix in prefixes}
        self.reward = {path: draw.normal() for path in itertools.product((0, 1), repeat=BITS)}

    def probability(self, path, start=0) -> float:
        """Of the tokens from `start` on, given those before."""
        return math.prod(
            self.p[path[:n]] if path[n] else 1 - self.p[path[:n]] for n in range(start, len(path))
        )

    def entropy(self, prefix) -> float:
        p = self.p[prefix]
        return -p * math.log(p) - (1 - p) * math.log(1 - p)

    @property
    def value(self) -> float:
        return sum(self.probability(path) * reward for path, reward in self.reward.items())


@functools.cache
def every_rollout(branching, seed: int, boundaries: int):
    """The process as it runs, at once for every way in which the tokens of M rows can fall.

    Prompt n is the n-th assignment of bits to the rows and their places; uids, and with them the uniform
    numbers that forks are decided by, are the same in all of them.
    """
    world = World(seed)
    bits = np.array(list(itertools.product((0, 1), repeat=ROWS * BITS))).reshape(-1, BITS)
    entropy = {prefix: world.entropy(prefix) for prefix in world.p}

    def script(rows, tokens, length):
        prefixes = [tuple(row[:n].tolist()) for row, n in zip(tokens, length, strict=True)]
        pattern = np.where(length == BITS - 1, 1, np.where(length < boundaries, 0, -1))
        return bits[rows, length], pattern, np.array([entropy[prefix] for prefix in prefixes])

    said = converse(
        scripted.programs(script, BITS + 1),
        None,
        np.zeros((len(bits) // ROWS, 1), np.int32),
        np.ones(len(bits) // ROWS, np.int32),
        np.arange(len(bits), dtype=np.int32) % ROWS,
        jax.random.key(seed),
        ask=lambda call: scripted.told([]),
        turns=Turns(calls=1, answer_tokens=1, at_once=512, steps=1, branching=branching, vocab_size=2),
    )
    np.testing.assert_array_equal(said.length, BITS)
    paths = [tuple(row[:BITS].tolist()) for row in said.tokens]
    # A bit in front of a row's fork is not used, and both of its values are among the assignments.
    chance = [world.probability(path, fork) / 2**fork for path, fork in zip(paths, said.fork, strict=True)]
    reward = np.array([world.reward[path] for path in paths])
    return said, np.prod(np.reshape(chance, (-1, ROWS)), axis=1), reward.reshape(-1, ROWS), world.value


def biases(branching, kind: str, boundaries: int = 2):
    """E[Σ w R / Σ w] − J of a prompt, budget, refill and all, in some worlds."""
    found = []
    for seed in WORLDS:
        said, chance, reward, value = every_rollout(branching, seed, boundaries)
        assert chance.sum() == pytest.approx(1)
        weight = leaf_weights(said.parent, said.fork, kind, said.late).astype(np.float64).reshape(-1, ROWS)
        mean = np.sum(weight * reward, axis=1) / np.sum(weight, axis=1)
        found.append(float(chance @ mean) - value)
    return np.array(found)


PAPER = arpo_paper(1, tokens=1)
FIXED = fixed_width(1, width=2)
RANDOM = random_forks(2, probability=0.5)
RELEASE = arpo_release(1, probability=0.4)


def test_the_process_forks_refills_and_ends_differently():
    said, *_ = every_rollout(PAPER, 5, 2)
    late, root = said.late.reshape(-1, ROWS), said.parent == np.arange(len(said.parent))
    assert set(late.sum(axis=1).tolist()) == {0, 1, 2}  # rows left over, as many as the first tree has left
    assert np.any(root.reshape(-1, ROWS).sum(axis=1) == 1) and np.any(~root & (said.fork == 2))


@pytest.mark.parametrize("branching", [PAPER, FIXED, RANDOM, RELEASE, PAPER._replace(roots=2)])
def test_tree_weights_are_unbiased_where_the_prefix_decides(branching):
    np.testing.assert_allclose(biases(branching, "tree"), 0, atol=1e-6)


def test_forest_weights_are_not_where_rows_are_left_over():
    # Whether there is a second tree, and a third, depends on where the first one went: with one to three of
    # them the bias is up to 0.13, where rewards have a standard deviation of 1.
    assert np.max(np.abs(biases(PAPER, "forest"))) == pytest.approx(0.1325, abs=1e-4)
    # Where as many trees are begun whatever they come to, there is none.
    np.testing.assert_allclose(biases(PAPER._replace(roots=3), "forest"), 0, atol=1e-6)


def test_uniform_weights_are_not():
    # A tree that forked counts for two: places where the policy is unsure are over-counted.
    assert np.max(np.abs(biases(PAPER, "uniform"))) > 0.02


def test_no_weights_help_where_what_follows_decides():
    # With k = 2 a row is forked for the token that it went on with; its sibling is drawn without that.
    found = biases(arpo_paper(1, tokens=2), "tree", boundaries=1)
    assert np.max(np.abs(found)) == pytest.approx(0.1562, abs=1e-4)
