"""O-11, O-23 and O-24: the gates' values and slopes, by hand and by autodiff."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpg_jax.losses import gates


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


def test_no_gate():
    np.testing.assert_allclose(value_and_slope(gates.no_gate, 7.0, -2.0), [-14, -2])


def test_wrong_ranges_are_refused():
    with pytest.raises(ValueError, match="must not be negative"):
        gates.clip_gate(-0.1, 0.2)
    with pytest.raises(ValueError, match=r"above 1 \+ high"):
        gates.dual_clip_gate(0.2, 0.2, 1.1)
    with pytest.raises(ValueError, match="at least 1e-3"):
        gates.soft_gate(1.0, 1e-4)
