"""O-11, O-23 and O-24: the gates' values and slopes, by hand and by autodiff."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpg_jax.losses import gates, ratios


def value_and_slope(gate, ratio, advantage):
    return [float(x) for x in jax.value_and_grad(gate)(jnp.float32(ratio), jnp.float32(advantage))]


@pytest.mark.parametrize(
    ("ratio", "advantage", "value", "slope"),
    [
        (0.5, -10, -8, 0),  # min(−5, −8)
        (1.3, 1, 1.2, 0),
        (0.7, 1, 0.7, 1),
        (1.5, -1, -1.5, -1),
        (1.0, 3, 3, 3),
        (1.0, -3, -3, -3),
        (1.1, 2, 2.2, 2),
    ],
)
def test_clip_by_hand(ratio, advantage, value, slope):
    gate = gates.clip_gate(0.2, 0.2)
    np.testing.assert_allclose(value_and_slope(gate, ratio, advantage), [value, slope], rtol=1e-6)


def test_clip_higher():
    gate = gates.clip_gate(0.2, 0.28)
    np.testing.assert_allclose(value_and_slope(gate, 1.25, 1), [1.25, 1])
    np.testing.assert_allclose(value_and_slope(gate, 1.3, 1), [1.28, 0])
    np.testing.assert_allclose(value_and_slope(gate, 0.75, -1), [-0.8, 0])


def test_dual_clip():
    gate = gates.dual_clip_gate(0.2, 0.2, 3.0)
    np.testing.assert_allclose(value_and_slope(gate, 5.0, -1), [-3, 0])
    np.testing.assert_allclose(value_and_slope(gate, 2.0, -1), [-2, -1])
    np.testing.assert_allclose(value_and_slope(gate, 0.5, -1), [-0.8, 0])
    np.testing.assert_allclose(value_and_slope(gate, 5.0, 1), [1.2, 0])


@pytest.mark.parametrize(
    ("temperature", "ratio", "slope"),
    [  # sech²(τ(r − 1)/2)
        (1.0, 0.5, 0.9400148),
        (1.0, 1.5, 0.9400148),
        (1.0, 2.0, 0.7864477),
        (1.0, 3.0, 0.4199743),
        (1.05, 2.0, 0.7681098),
        (1.05, 3.0, 0.3887788),
        (1.0, 1.0, 1.0),
    ],
)
def test_soft_gate_slopes(temperature, ratio, slope):
    gate = gates.soft_gate(temperature, temperature)
    np.testing.assert_allclose(value_and_slope(gate, ratio, 1.0)[1], slope, rtol=1e-6)
    np.testing.assert_allclose(1 / np.cosh(temperature * (ratio - 1) / 2) ** 2, slope, rtol=1e-6)


def test_soft_gate_picks_its_temperature_by_the_advantage():
    gate = gates.soft_gate(1.0, 1.05)
    np.testing.assert_allclose(value_and_slope(gate, 1.0, 1.0), [2, 1], rtol=1e-6)
    np.testing.assert_allclose(value_and_slope(gate, 1.0, -1.0), [-1.9047619, -1], rtol=1e-6)
    np.testing.assert_allclose(value_and_slope(gate, 2.0, -1.0)[1], -0.7681098, rtol=1e-6)
    # τ_neg at A = 0: the slope in the advantage is f(r) of 1.05
    np.testing.assert_allclose(jax.grad(gate, argnums=1)(jnp.float32(1), jnp.float32(0)), 4 / 1.05 / 2)


def test_soft_gate_tends_to_no_gate():
    ratio = jnp.array([0.2, 1.0, 4.0])
    slope = jax.grad(lambda r: jnp.sum(gates.soft_gate(1e-3, 1e-3)(r, jnp.ones(3))))(ratio)
    np.testing.assert_allclose(slope, 1, rtol=1e-4)


@given(st.lists(st.floats(-0.8, 0.8), min_size=8, max_size=8), st.floats(0.5, 1.5))
def test_soft_gate_is_near_the_gate_of_the_sequence(log_ratio, temperature):
    """|mean_t g(z_t) − g(mean z)| ≤ (τ²/4)·Var(z), g(z) = sech²(τz/2), SAPO's link to GSPO."""
    z = np.array(log_ratio)

    points = jnp.asarray(1 + np.append(z, z.mean()), jnp.float32)
    gate = gates.soft_gate(temperature, temperature)
    opening = jax.grad(lambda ratio: jnp.sum(gate(ratio, jnp.ones(9))))(points)
    gap = abs(float(jnp.mean(opening[:-1]) - opening[-1]))
    assert gap <= temperature**2 / 4 * z.var() + 1e-6


EVERY = {
    "none": (gates.no_gate, lambda r, a: a),
    "clip": (gates.clip_gate(0.2, 0.2), lambda r, a: a * (r > 1) if a < 0 else a * (r < 1)),
    "dual": (gates.dual_clip_gate(0.2, 0.2, 3.0), lambda r, a: 0.0 if a < 0 else a * (r < 1)),
    "soft": (gates.soft_gate(1.0, 1.05), lambda r, a: a * (r < 1)),
}
"""Gate, and its slope in the ratio far from 1, up to a positive factor."""

RATIOS = {
    "token": ratios.token_ratio(),
    "geometric": ratios.unit_geometric_ratio(),
    "geometric token": ratios.unit_geometric_token_ratio(),
    "product": ratios.unit_product_ratio(),
    "product token": ratios.unit_product_token_ratio(),
    "sequence": ratios.sequence_ratio(),
}


@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize("name", EVERY)
def test_far_ratios_without_a_range_are_never_nan(name, ratio):
    """Log-ratios of ±100 with no range, where e^100 is ∞ in float32: a closed gate pushes exactly nothing, an
    open one by A·r, which is ∞ where PyTorch's is; a choice without advantage adds 0."""
    gate, slope = EVERY[name]
    units = jnp.array([[0, 0]])
    for far, advantage in itertools.product((100.0, -100.0), (2.0, -2.0, 0.0)):

        def surrogate(log_ratio, advantage=advantage):
            return jnp.sum(gate(RATIOS[ratio](log_ratio, units), jnp.full((1, 2), advantage)))

        value, gradient = jax.value_and_grad(surrogate)(jnp.full((1, 2), far))
        open_at = slope(np.exp(far), advantage)
        case = f"{far} {advantage}: {value} {gradient}"
        assert not np.isnan(value) and not np.any(np.isnan(gradient)), case
        if far > 0:
            assert np.isinf(value) == (open_at != 0), case
            np.testing.assert_array_equal(np.sign(gradient), np.sign(open_at), err_msg=case)
            assert np.all((np.abs(gradient) > 1e30) == (open_at != 0)), case
        else:
            np.testing.assert_allclose(gradient, 0, atol=1e-30)
            nothing = gate(jnp.float32(0), jnp.float32(advantage))
            np.testing.assert_allclose(value, 2 * nothing, atol=1e-6)


@pytest.mark.parametrize("name", ["clip", "dual", "soft"])
def test_a_closed_gate_leaves_the_other_tokens_alone(name):
    """A far token whose gate has closed beside one at the old policy: the second's push is its own."""
    gate = EVERY[name][0]

    def surrogate(log_ratio):
        return jnp.sum(gate(ratios.token_ratio()(log_ratio, jnp.array([[0, 1]])), jnp.ones((1, 2))))

    np.testing.assert_allclose(jax.grad(surrogate)(jnp.array([[100.0, 0.0]])), [[0, 1]], rtol=1e-6)


def gate_of_tokens_and_of_the_row(log_ratio, temperature):
    """Mean opening at the tokens' ratios, and the opening at the row's, tool tokens outside."""
    units = jnp.array([[-1, 0, 1, -1, 2, 3, 4, -1]])
    log_ratio = jnp.zeros((1, 8)).at[0, jnp.array([1, 2, 4, 5, 6])].set(jnp.asarray(log_ratio))
    gate = gates.soft_gate(temperature, temperature)
    opening = jax.grad(lambda ratio: jnp.sum(gate(ratio, jnp.ones((1, 8)))))
    inside = units[0] >= 0
    tokens = opening(ratios.token_ratio()(log_ratio, units))[0, inside]
    row = opening(ratios.sequence_ratio()(log_ratio, units))[0, inside]
    np.testing.assert_array_equal(row, row[0])
    return float(jnp.mean(tokens)), float(row[0])


@given(st.lists(st.floats(-0.04, 0.04), min_size=5, max_size=5), st.floats(0.5, 1.5))
def test_near_the_old_policy_sapo_gates_as_the_sequence_ratio_does(log_ratio, temperature):
    """The same bound for r_t = e^z, s = e^mean z, up to r − 1 ≈ z: in ±.04 a factor of 1.15."""
    tokens, row = gate_of_tokens_and_of_the_row(log_ratio, temperature)
    assert abs(tokens - row) <= 1.15 * temperature**2 / 4 * np.var(log_ratio) + 1e-6


def test_the_bound_on_sapo_is_nearly_met():
    z = [0.04, -0.04, 0.04, -0.04, 0.0]
    tokens, row = gate_of_tokens_and_of_the_row(z, 1.5)
    np.testing.assert_allclose(row - tokens, 1.5**2 / 4 * np.var(z), rtol=0.05)


def test_no_gate():
    np.testing.assert_allclose(value_and_slope(gates.no_gate, 7.0, -2.0), [-14, -2])


def test_wrong_ranges_are_refused():
    with pytest.raises(ValueError, match="must not be negative"):
        gates.clip_gate(-0.1, 0.2)
    with pytest.raises(ValueError, match=r"above 1 \+ high"):
        gates.dual_clip_gate(0.2, 0.2, 1.1)
    with pytest.raises(ValueError, match="at least 1e-3"):
        gates.soft_gate(1.0, 1e-4)
