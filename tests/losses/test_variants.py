"""The public functions compiled and not, on one small batch: the same numbers, the same shapes and types."""

from __future__ import annotations

import chex
import examples
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import parameterized

from gpg_jax.algorithms import ALGORITHMS
from gpg_jax.decoding import units
from gpg_jax.environments import shaping
from gpg_jax.estimators import baselines, divergences, filters, groups, importance, returns, segments
from gpg_jax.losses import corrections, gates, metrics, objective, ratios, weights

BATCH, SCORES = examples.random_batch(seed=9)
ROLLOUT = BATCH.rollout
MASK = jnp.asarray(ROLLOUT.action_mask)
REWARD = jnp.asarray(ROLLOUT.reward)
WEIGHT = jnp.asarray(ROLLOUT.leaf_weight)
GROUP = jnp.asarray(ROLLOUT.group)
PARENT = jnp.asarray(ROLLOUT.parent)
UNITS = units.fixed_count_units(MASK, 2)
LOG_RATIO = jnp.where(MASK, SCORES.log_prob - BATCH.old.log_prob, 0)
RATIO = jnp.exp(LOG_RATIO)
ADVANTAGE = jnp.where(MASK, REWARD[:, None], 0)
POINTS = jnp.array([-1.0, -0.5]), jnp.array([-0.8, -0.9])
LOGITS = jnp.array([[0.1, 0.2, -0.4]]), jnp.array([[0.0, 0.3, 0.3]])
RANGE = (-20.0, 20.0)
ROW, TOKEN = (8,), (8, 9)

FUNCTIONS = {
    # name: (function, arguments, shape of the result)
    "total_reward": (returns.total_reward, (ADVANTAGE, MASK), ROW),
    "reward_to_go": (lambda r, m: returns.reward_to_go(r, m, 0.9), (ADVANTAGE, MASK), TOKEN),
    "state_discount": (lambda m: returns.state_discount(m, 0.9), (MASK,), TOKEN),
    "group_sum": (segments.group_sum, (REWARD, GROUP), ROW),
    "unit_mean": (segments.unit_mean, (LOG_RATIO, UNITS), TOKEN),
    "tree_roots": (segments.tree_roots, (PARENT,), ROW),
    "group_centre": (groups.group_centre, (REWARD, GROUP, WEIGHT), ROW),
    "group_normalise": (
        lambda *x: groups.group_normalise(*x, ddof=1, eps=1e-6),
        (REWARD, GROUP, WEIGHT),
        ROW,
    ),
    "leave_one_out": (groups.leave_one_out, (REWARD, GROUP, PARENT, WEIGHT), ROW),
    "batch_mean": (baselines.batch_mean, (REWARD, WEIGHT), ROW),
    "optimal": (baselines.optimal, (REWARD, WEIGHT, GROUP, PARENT, WEIGHT), ROW),
    "head_score_norms": (baselines.head_score_norms, (BATCH.old.score_square, MASK), ROW),
    "importance_estimate": (importance.importance_estimate, (REWARD, REWARD / 4, REWARD > -9), ()),
    "self_normalised_estimate": (importance.self_normalised_estimate, (REWARD, REWARD, REWARD > -9), ()),
    "effective_sample_size": (importance.effective_sample_size, (REWARD, REWARD > -9), ()),
    "entropy": (divergences.entropy, LOGITS[:1], (1,)),
    "full_kl": (divergences.full_kl, LOGITS, (1,)),
    "mixed_outcomes": (filters.mixed_outcomes, (ROLLOUT,), ROW),
    "finished": (filters.finished, (ROLLOUT,), ROW),
    "sample_weight": (filters.sample_weight, (ROLLOUT,), ROW),
    "reward_at_last_action": (shaping.reward_at_last_action, (REWARD, MASK), TOKEN),
    "soft_overlong": (lambda n: shaping.soft_overlong(n, 8, 4), (jnp.arange(8),), ROW),
    "token_units": (units.token_units, (MASK,), TOKEN),
    "sequence_unit": (units.sequence_unit, (MASK,), TOKEN),
    "fixed_length_units": (lambda m: units.fixed_length_units(m, 2), (MASK,), TOKEN),
    "fixed_count_units": (lambda m: units.fixed_count_units(m, 2), (MASK,), TOKEN),
    "no_ratio": (ratios.no_ratio, (LOG_RATIO, UNITS), TOKEN),
    "token_ratio": (ratios.token_ratio(RANGE), (LOG_RATIO, UNITS), TOKEN),
    "unit_geometric_ratio": (ratios.unit_geometric_ratio(RANGE), (LOG_RATIO, UNITS), TOKEN),
    "unit_geometric_token_ratio": (ratios.unit_geometric_token_ratio(RANGE), (LOG_RATIO, UNITS), TOKEN),
    "unit_product_ratio": (ratios.unit_product_ratio(RANGE), (LOG_RATIO, UNITS), TOKEN),
    "unit_product_token_ratio": (ratios.unit_product_token_ratio(RANGE), (LOG_RATIO, UNITS), TOKEN),
    "sequence_ratio": (ratios.sequence_ratio(RANGE), (LOG_RATIO, UNITS), TOKEN),
    "no_gate": (gates.no_gate, (RATIO, ADVANTAGE), TOKEN),
    "clip_gate": (gates.clip_gate(0.2, 0.28), (RATIO, ADVANTAGE), TOKEN),
    "dual_clip_gate": (gates.dual_clip_gate(0.2, 0.28, 3.0), (RATIO, ADVANTAGE), TOKEN),
    "soft_gate": (gates.soft_gate(1.0, 1.05), (RATIO, ADVANTAGE), TOKEN),
    "token_sum": (weights.token_sum, (ROLLOUT, UNITS), TOKEN),
    "token_mean": (weights.token_mean, (ROLLOUT, UNITS), TOKEN),
    "sequence_mean": (weights.sequence_mean, (ROLLOUT, UNITS), TOKEN),
    "sequence_mean_token_sum": (weights.sequence_mean_token_sum, (ROLLOUT, UNITS), TOKEN),
    "constant_length": (weights.constant_length(8), (ROLLOUT, UNITS), TOKEN),
    "unit_sum_weights": (weights.unit_sum_weights, (ROLLOUT, UNITS), TOKEN),
    "unit_mean_weights": (weights.unit_mean_weights, (ROLLOUT, UNITS), TOKEN),
    "truncated_token": (corrections.truncated_token(2.0), (LOG_RATIO, UNITS), TOKEN),
    "truncated_sequence": (corrections.truncated_sequence(2.0), (LOG_RATIO, UNITS), TOKEN),
    "masked_token": (corrections.masked_token(0.5, 2.0), (LOG_RATIO, UNITS), TOKEN),
    "masked_sequence": (corrections.masked_sequence(0.5, 2.0), (LOG_RATIO, UNITS), TOKEN),
} | {name: (function, POINTS, (2,)) for name, function in divergences.ESTIMATORS.items()}


class VariantsTest(chex.TestCase):
    """Each function under jit and without."""

    @chex.variants(with_jit=True, without_jit=True)
    @parameterized.parameters(*FUNCTIONS)
    def test_function(self, name):
        function, arguments, shape = FUNCTIONS[name]
        result = self.variant(function)(*arguments)
        chex.assert_shape(result, shape)
        chex.assert_tree_all_finite(result)
        assert result.dtype in (jnp.float32, jnp.int32, jnp.bool_)
        np.testing.assert_allclose(result, function(*arguments), rtol=2e-6, atol=1e-6)

    @chex.variants(with_jit=True, without_jit=True)
    def test_phases(self):
        method = ALGORITHMS["grpo"](entropy_coefficient=0.1)

        def phases(batch, scores):
            estimated, _ = objective.estimate(method, batch, ())
            weighed = objective.weigh(method.objective, batch.rollout, estimated)
            scales = objective.penalty_coefficients(method.objective, ())
            value, seen = objective.loss(method.objective, scores, batch, estimated, *weighed, scales)
            brought = metrics.rollout_metrics(objective.hide_masked(batch), estimated)
            return value, metrics.reduce(seen | brought), objective.coefficients(method, batch, scores)

        value, seen, coefficients = self.variant(phases)(BATCH, SCORES)
        chex.assert_shape([value, *seen.values()], ())
        chex.assert_shape(coefficients, TOKEN)
        expected = examples.loss_and_coefficients(method, BATCH, SCORES)
        np.testing.assert_allclose(value, expected[0], rtol=1e-5)
        np.testing.assert_allclose(coefficients, expected[1], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_method_is_traced_once(name):
    method = ALGORITHMS[name]()
    chex.clear_trace_counter()

    @jax.jit
    @chex.assert_max_traces(n=1)
    def estimate(batch):
        return objective.estimate(method, batch, method.state)[0]

    first = estimate(BATCH)
    second = estimate(examples.random_batch(seed=10)[0])
    chex.assert_trees_all_equal_shapes_and_dtypes(first, second)
