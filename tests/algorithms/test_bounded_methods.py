"""TRPO and CPI as values: what their update is, and what they refuse."""

import pytest

from gpg_jax.algorithms import ALGORITHMS
from gpg_jax.types import Conservative, TrustRegion


def test_their_updates_hold_what_was_asked():
    assert ALGORITHMS["trpo"]().update == TrustRegion()
    asked = {"radius": 0.002, "cg_iterations": 3, "cg_tolerance": 0.0, "damping": 0.0}
    found = ALGORITHMS["trpo"](**asked, shrink=0.8, attempts=4).update
    assert found == TrustRegion(0.002, 3, 0.0, 0.0, 0.8, 4)
    assert ALGORITHMS["cpi"]().update == Conservative("horizon", capacity=4)
    assert ALGORITHMS["cpi"](step="fixed", alpha=1, capacity=2).update == Conservative("fixed", 1, 1.0, 2)
    assert ALGORITHMS["cpi"](step="discounted", discount=0.9).update.discount == 0.9
    assert ALGORITHMS["cpi"](held_out=0.25).update.held_out == 0.25
    assert all(method().update is None for name, method in ALGORITHMS.items() if name not in ("trpo", "cpi"))


def test_only_the_critics_loss_is_the_critics():
    method = ALGORITHMS["trpo"](entropy_coefficient=0.1, kl_coefficient=0.1)
    assert [term.of_critic for term in method.objective.penalties] == [False, False, True]
    assert method.needs == {"old", "value", "entropy", "reference"}
    assert ALGORITHMS["cpi"]().needs == frozenset()


@pytest.mark.parametrize(
    ("name", "options", "sentence"),
    [
        ("trpo", {"radius": 0.0}, "radius must be above 0"),
        ("trpo", {"radius": float("nan")}, "radius must be a finite number|radius must not be negative"),
        ("trpo", {"damping": -0.1}, "damping must not be negative"),
        ("trpo", {"cg_iterations": 0}, "cg_iterations must be a whole number"),
        ("trpo", {"cg_tolerance": -1.0}, "cg_tolerance must not be negative"),
        ("trpo", {"shrink": 1.0}, "shrink must be a finite number in"),
        ("trpo", {"shrink": 0.0}, "shrink must be above 0"),
        ("trpo", {"attempts": 1.5}, "attempts must be a whole number"),
        ("trpo", {"lambda_": 1.1}, "lambda_ must be a finite number in"),
        ("trpo", {"value_clip": 0.0}, "value_clip must be above 0"),
        ("trpo", {"dual_clip": 3.0}, "does not read 'dual_clip'"),
        ("trpo", {"ddof": 1}, "does not read 'ddof'"),
        ("cpi", {"step": "largest"}, "step must be one of 'horizon', 'discounted', 'fixed'"),
        ("cpi", {"alpha": 0.1}, "step='horizon' does not read alpha"),
        ("cpi", {"step": "fixed"}, "step='fixed' needs alpha"),
        ("cpi", {"step": "fixed", "alpha": 0.0}, "alpha must be above 0"),
        ("cpi", {"step": "fixed", "alpha": 1.5}, "alpha must be a finite number in"),
        ("cpi", {"step": "fixed", "alpha": 0.5, "discount": 0.9}, "does not read discount"),
        ("cpi", {"step": "discounted"}, "step='discounted' needs discount"),
        ("cpi", {"step": "discounted", "discount": 1.0}, "discount must be a finite number in"),
        ("cpi", {"held_out": 0.0}, "held_out must be above 0"),
        ("cpi", {"held_out": 1.0}, "held_out must be a finite number in"),
        ("cpi", {"step": "discounted", "discount": 0.9, "kl_order": "after"}, "does not read 'kl_order'"),
        ("cpi", {"capacity": 1}, "capacity must be at least 2"),
        ("cpi", {"drop_truncated": True}, "drop_truncated=True: the gain is of all .* truncated_reward"),
        ("cpi", {"dual_clip": 3.0}, "does not read 'dual_clip'"),
        ("cpi", {"advantage_range": (-1.0, 1.0)}, "does not read 'advantage_range'"),
    ],
)
def test_what_is_refused(name, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        ALGORITHMS[name](**options)
