"""O-31: where rows are forked; and, by enumeration, which weights of the leaves make their mean unbiased."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from gpg_jax.decoding.branching import (
    Crossing,
    arpo_paper,
    arpo_release,
    fixed_width,
    leaf_weights,
    random_forks,
)

V = 100
LOG_V = math.log(V)


def crossing(first=(1.0,), before=(1.0,), after=(1.0,), uniform=0.5):
    return Crossing(np.array(first), np.array(before), np.array(after), V, uniform)


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
    with pytest.raises(ValueError, match='"uniform" or "tree"'):
        leaf_weights(parent, fork, "other")


class World:
    """Three binary tokens with a boundary behind the first, everything enumerable."""

    def __init__(self, seed: int):
        draw = np.random.default_rng(seed)
        self.p = {
            prefix: draw.uniform(0.02, 0.98)
            for n in range(3)
            for prefix in itertools.product((0, 1), repeat=n)
        }
        self.reward = {path: draw.normal() for path in itertools.product((0, 1), repeat=3)}

    def probability(self, path, given=()):
        factors = [
            self.p[path[:n]] if path[n] else 1 - self.p[path[:n]] for n in range(len(given), len(path))
        ]
        return math.prod(factors)

    def entropy(self, prefix) -> float:
        p = self.p[prefix]
        return -p * math.log(p) - (1 - p) * math.log(1 - p)

    @property
    def value(self) -> float:
        return sum(self.probability(path) * reward for path, reward in self.reward.items())

    def trees(self, tokens: int):
        """Every tree of one root, forked as in the paper by the first `tokens` entropies: p, leaves."""
        decide = arpo_paper(1, alpha=0.45, beta=0.5, tokens=tokens).decide
        for path in self.reward:
            after = np.array([self.entropy(path[:1]), self.entropy(path[:2])])
            here = Crossing(np.array([self.entropy(())]), np.zeros(1), after, 2, 0.5)
            if not decide(here):
                yield self.probability(path), [path]
                continue
            for rest in itertools.product((0, 1), repeat=2):
                child = (path[0], *rest)
                yield self.probability(path) * self.probability(child, path[:1]), [path, child]


def mean_of_the_tree(leaves, world, kind):
    parent = np.zeros(len(leaves), int)
    weight = leaf_weights(parent, np.array([0, 1][: len(leaves)]), kind)
    return sum(w * world.reward[leaf] for w, leaf in zip(weight, leaves, strict=True)), weight.sum()


def biases(tokens: int, kind: str):
    """E[Σ w R / Σ w] − J over two pooled trees, in worlds where some trees fork and some do not."""
    found = []
    for seed in range(60):
        world = World(seed)
        trees = list(world.trees(tokens))
        if {len(leaves) for _, leaves in trees} != {1, 2}:
            continue
        expected = 0.0
        for (p, one), (q, two) in itertools.product(trees, repeat=2):
            (a, n), (b, m) = (mean_of_the_tree(leaves, world, kind) for leaves in (one, two))
            expected += p * q * (a + b) / (n + m)
        found.append(expected - world.value)
    assert len(found) >= 4
    return np.array(found)


def test_tree_weights_are_unbiased_where_the_prefix_decides():
    np.testing.assert_allclose(biases(1, "tree"), 0, atol=1e-6)


def test_uniform_weights_are_not():
    # A tree that forked counts for two: places where the policy is unsure are over-counted.
    assert np.max(np.abs(biases(1, "uniform"))) > 0.02


def test_no_weights_help_where_what_follows_decides():
    # With k = 2 a row is forked for the token that it went on with; its sibling is drawn without that.
    assert np.max(np.abs(biases(2, "tree"))) > 0.005
