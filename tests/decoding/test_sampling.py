"""The sampler against a slow NumPy reading of its definition, and its edges."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from jax.sharding import AxisType, PartitionSpec

from gpg_jax.decoding.sampling import Sampling, _passes, sample, uniforms

JUST_BELOW_ONE = np.float32(1 - 2.0**-24)
SETTINGS = [
    Sampling(),
    Sampling(temperature=0.7),
    Sampling(top_k=20),
    Sampling(top_p=0.8),
    Sampling(min_p=0.1),
    Sampling(temperature=1.4, top_k=60, top_p=0.9, min_p=0.02),
]
settings = pytest.mark.parametrize("sampling", SETTINGS, ids=str)
extremes = pytest.mark.parametrize("sampling", [SETTINGS[0], SETTINGS[-1]], ids=["plain", "everything"])
draw = jax.jit(sample, static_argnames="sampling")


def target(logits: np.ndarray, sampling: Sampling) -> tuple[np.ndarray, np.ndarray]:
    """The distribution to draw from and the full one, of one row, in float64, step by step."""
    scaled = logits.astype(np.float64) / sampling.temperature
    full = np.exp(scaled - scaled.max())
    full /= full.sum()
    kept = full.copy()
    if sampling.top_k:
        kept[full < np.sort(full)[-sampling.top_k]] = 0
        kept /= kept.sum()
    if sampling.top_p < 1:
        mass = 0.0
        for probability in np.sort(kept)[::-1]:
            mass += probability
            if mass >= sampling.top_p:
                break
        kept[kept < probability] = 0
        kept /= kept.sum()
    kept[kept < sampling.min_p * kept.max()] = 0
    return kept / kept.sum(), full


def random_logits(rows: int, vocabulary: int, seed: int = 0) -> np.ndarray:
    return 1.5 * np.random.default_rng(seed).standard_normal((rows, vocabulary)).astype(np.float32)


def named_uniforms(count: int, seed: int = 0) -> jax.Array:
    index = jnp.arange(count)
    return uniforms(jax.random.key(seed), index // 100, index % 100)


def chi_square(tokens: np.ndarray, probability: np.ndarray) -> tuple[float, int]:
    """Pearson's statistic and degrees of freedom; tokens expected less than 5 times share a cell."""
    expected = probability * len(tokens)
    observed = np.bincount(tokens, minlength=len(probability))
    rare = expected < 5
    observed = np.append(observed[~rare], observed[rare].sum())
    expected = np.append(expected[~rare], expected[rare].sum())
    observed, expected = observed[expected > 0], expected[expected > 0]
    return float(((observed - expected) ** 2 / expected).sum()), len(expected) - 1


def quantile(freedom: int) -> float:
    """The 0.9999 quantile of chi-square by Wilson and Hilferty (1931); 3.719 is the normal's.

    For 10 and 100 degrees of freedom 35.5 and 161.3; the tables have 35.56 and 161.32.
    """
    return freedom * (1 - 2 / (9 * freedom) + 3.719 * np.sqrt(2 / (9 * freedom))) ** 3


@settings
def test_draws_follow_the_truncated_distribution(sampling):
    logits = random_logits(1, 300)
    drawn = draw(jnp.repeat(logits, 40_000, axis=0), named_uniforms(40_000), sampling=sampling)
    probability, _ = target(logits[0], sampling)
    assert np.all(probability[np.asarray(drawn.token)] > 0)
    statistic, freedom = chi_square(np.asarray(drawn.token), probability)
    assert statistic < quantile(freedom)


def test_the_statistic_tells_neighbouring_temperatures_apart():
    logits = random_logits(1, 300)
    drawn = draw(jnp.repeat(logits, 40_000, axis=0), named_uniforms(40_000), sampling=Sampling(1.05))
    statistic, freedom = chi_square(np.asarray(drawn.token), target(logits[0], Sampling())[0])
    assert statistic > quantile(freedom)


@settings
def test_log_probs_are_those_of_the_distribution_drawn_from(sampling):
    logits = random_logits(64, 512, seed=1)
    drawn = draw(logits, named_uniforms(64), sampling=sampling)
    for row, token in enumerate(np.asarray(drawn.token)):
        kept, full = target(logits[row], sampling)
        np.testing.assert_allclose(drawn.log_prob[row], np.log(kept[token]), atol=3e-6)
        np.testing.assert_allclose(drawn.log_prob[row] + drawn.log_kept[row], np.log(full[token]), atol=3e-6)
        assert sampling.truncated or drawn.log_kept[row] == 0


@settings
def test_the_token_never_decreases_with_the_uniform_number(sampling):
    logits = np.repeat(random_logits(1, 700, seed=2), 4_096, axis=0)
    uniform = np.sort(np.append(named_uniforms(4_094), [0, JUST_BELOW_ONE]).astype(np.float32))
    token = np.asarray(draw(logits, uniform, sampling=sampling).token)
    assert np.all(np.diff(token) >= 0)
    (kept,) = np.nonzero(target(logits[0], sampling)[0])
    assert (token[0], token[-1]) == (kept[0], kept[-1])


@extremes
def test_the_only_possible_token_is_drawn_wherever_it_stands(sampling):
    vocabulary = 600
    logits = np.where(np.eye(vocabulary, dtype=bool), np.float32(-7), -np.inf)
    for uniform in (0, 0.3, JUST_BELOW_ONE):
        drawn = draw(logits, np.full(vocabulary, uniform, np.float32), sampling=sampling)
        np.testing.assert_array_equal(drawn.token, np.arange(vocabulary))
        np.testing.assert_array_equal(drawn.log_prob, 0)


@given(
    logits=hnp.arrays(
        np.float32, (8, 530), elements=st.floats(-1e4, 1e4, width=32), fill=st.sampled_from([-np.inf, 0, 3])
    ),
    possible=st.lists(st.integers(0, 529), min_size=1, max_size=530),
    uniform=hnp.arrays(np.float32, 8, elements=st.floats(0, float(JUST_BELOW_ONE), width=32)),
    sampling=st.sampled_from([*SETTINGS, Sampling(temperature=0)]),
)
def test_impossible_tokens_are_never_drawn(logits, possible, uniform, sampling):
    mask = np.isin(np.arange(530), possible)
    logits = np.where(mask & (logits > -np.inf), logits, -np.inf)
    logits[:, possible[0]] = np.maximum(logits[:, possible[0]], -50)
    drawn = draw(logits, uniform, sampling=sampling)
    token = np.asarray(drawn.token)
    assert np.all(np.isfinite(logits[np.arange(8), token]))
    assert np.all(np.isfinite(drawn.log_prob)) and np.all(drawn.log_prob <= 1e-6)
    assert np.all(np.isfinite(drawn.log_kept)) and np.all(drawn.log_kept <= 1e-6)


def test_rounded_cumulative_sums_lead_into_no_gap():
    # Between the possible tokens lie impossible ones; each edge of the CDF is tried and its neighbours.
    logits = np.full(1_000, -np.inf, np.float32)
    logits[::3] = np.log(np.float32(0.1))
    edges = (np.arange(335) / 334).astype(np.float32)
    uniform = np.concatenate([np.nextafter(edges, np.float32(0)), edges, np.nextafter(edges, np.float32(1))])
    uniform = np.clip(uniform, 0, JUST_BELOW_ONE)
    token = np.asarray(draw(np.tile(logits, (len(uniform), 1)), uniform, sampling=Sampling()).token)
    np.testing.assert_array_equal(token % 3, 0)
    assert np.all(np.abs(token // 3 - uniform * 334) <= 1.001)


def test_rounding_does_not_favour_the_last_token():
    # A weight of 1e-30 against a sum of some tens is nothing in float32, even to the largest numbers. A sum
    # by blocks and a sum token by token differ by an ulp or two, and must not be compared to one another.
    for vocabulary in (256, 512):
        logits = random_logits(1_000, vocabulary, seed=9)
        logits[:, -1] = -69
        for cell in range(3):
            uniform = np.full(1_000, 1 - (2 * cell + 1) * 2.0**-24, np.float32)
            assert np.all(draw(logits, uniform, sampling=Sampling()).token < vocabulary - 1)


def test_a_cumulative_sum_that_is_not_monotone_chooses_no_weight_of_zero():
    # As a parallel prefix sum may round: up at a weight of 0, or down again at the end.
    weights = jnp.array([[1.0, 0.0, 1.0, 0.0], [1.0, 1.0, 0.0, 0.0]])
    ends = jnp.array([[1.0, 1.5, 2.0, 2.0], [1.0, 2.0, 1.9, 2.1]])
    np.testing.assert_array_equal(_passes(weights, ends, jnp.array([1.2, 2.05])), [2, 1])


def test_cells_of_the_cdf_are_closed_below():
    uniform = np.array([0, 0.25, 0.5, 0.75], np.float32)
    drawn = draw(np.zeros((4, 4), np.float32), uniform, sampling=Sampling())
    np.testing.assert_array_equal(drawn.token, [0, 1, 2, 3])


def test_top_p_cuts_between_neighbours():
    # Weights 1, 0.3678794, 0.3678791: the last two are a dozen ulps apart; the first two have 0.78805 of it.
    logits = np.tile(np.array([0, -1, -1.000001], np.float32), (64, 1))
    drawn = draw(logits, (np.arange(64, dtype=np.float32) + 0.5) / 64, sampling=Sampling(top_p=0.788))
    np.testing.assert_array_equal(np.unique(drawn.token), [0, 1])


def test_greedy_takes_the_first_maximum_surely():
    logits = random_logits(32, 700, seed=3)
    logits[5, [3, 600]] = 9
    for sampling in (Sampling(temperature=0), Sampling(temperature=0, top_k=5, top_p=0.5)):
        drawn = draw(logits, named_uniforms(32), sampling=sampling)
        np.testing.assert_array_equal(drawn.token, logits.argmax(axis=-1))
        np.testing.assert_array_equal(drawn.log_prob, 0)
        np.testing.assert_array_equal(drawn.log_kept, 0)


@pytest.mark.parametrize(
    ("sampling", "kept"),
    [
        (Sampling(top_k=2), [1, 2, 3, 4]),  # the second is tied with the third and fourth
        (Sampling(top_k=1), [1]),
        (Sampling(top_p=0.45), [1, 2, 3, 4]),  # 0.4 < 0.45
        (Sampling(top_k=2, top_p=0.9), [1, 2, 3, 4]),
        (Sampling(top_k=5, top_p=0.9), [0, 1, 2, 3, 4, 5]),  # 0.85 < 0.9 of 1
        (Sampling(top_k=4, top_p=0.47), [1]),  # 0.4 / 0.85 = 0.4706 ≥ 0.47
        (Sampling(min_p=0.374), [1, 2, 3, 4]),  # 0.15 / 0.4 = 0.375
        (Sampling(min_p=0.376), [1]),
        (Sampling(min_p=1), [1]),
    ],
    ids=str,
)
def test_ties_at_the_edge_are_all_kept(sampling, kept):
    probability = np.array([0.075, 0.4, 0.15, 0.15, 0.15, 0.075])
    logits = np.tile(np.log(probability).astype(np.float32), (512, 1))
    uniform = (np.arange(512, dtype=np.float32) + 0.5) / 512
    drawn = draw(logits, uniform, sampling=sampling)
    np.testing.assert_array_equal(np.unique(drawn.token), kept)
    np.testing.assert_allclose(drawn.log_kept, np.log(probability[kept].sum()), atol=1e-6)


def test_rows_without_a_distribution_say_so():
    logits = np.zeros((4, 10), np.float32)
    logits[1, 3], logits[2], logits[3, 0] = np.nan, -np.inf, np.inf
    for sampling in (Sampling(), Sampling(temperature=0), Sampling(top_k=3, top_p=0.5)):
        drawn = draw(logits, np.full(4, 0.5, np.float32), sampling=sampling)
        np.testing.assert_array_equal(np.isnan(drawn.log_prob), [False, True, True, True])
        assert np.all((np.asarray(drawn.token) >= 0) & (np.asarray(drawn.token) < 10))


@extremes
def test_permuted_rows_draw_the_same_tokens(sampling):
    logits, key = random_logits(64, 700, seed=4), jax.random.key(5)
    uid, index = np.arange(64, dtype=np.int32) * 7, np.arange(64, dtype=np.int32) % 9
    order = np.random.default_rng(6).permutation(64)
    drawn = draw(logits, uniforms(key, uid, index), sampling=sampling)
    permuted = draw(logits[order], uniforms(key, uid[order], index[order]), sampling=sampling)
    np.testing.assert_array_equal(permuted.token, np.asarray(drawn.token)[order])
    np.testing.assert_array_equal(permuted.log_prob, np.asarray(drawn.log_prob)[order])


def test_a_uniform_number_is_named_by_key_row_and_token_alone():
    key, uid, index = jax.random.key(1), jnp.array([3, 3, 2**32 - 1], jnp.uint32), jnp.array([0, 8, 8])
    rows = [jax.random.fold_in(key, row) for row in uid]
    names = [jax.random.fold_in(row, token) for row, token in zip(rows, index, strict=True)]
    expected = [jax.random.uniform(name) + 2.0**-24 for name in names]
    together = uniforms(key, uid, index)
    np.testing.assert_array_equal(together, expected)
    np.testing.assert_array_equal(uniforms(key, uid[1:2], index[1:2]), together[1:2])
    assert np.all(uniforms(jax.random.key(2), uid, index) != together)


def test_uniform_numbers_are_the_middles_of_equal_cells():
    drawn = np.asarray(named_uniforms(20_000), np.float64)
    assert drawn.min() > 0 and drawn.max() < 1
    np.testing.assert_array_equal((drawn * 2**24) % 2, 1)
    assert chi_square((drawn * 100).astype(int), np.full(100, 0.01))[0] < quantile(99)


@extremes
def test_runs_in_a_loop_on_each_replica_by_itself(sampling):
    logits, key = random_logits(16, 300, seed=7), jax.random.key(8)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))

    def rows(logits, uid):
        def body(carry):
            step, token = carry
            uniform = uniforms(key, uid, jnp.full_like(uid, step))
            return step + 1, token + sample(logits, uniform, sampling).token

        return jax.lax.while_loop(lambda carry: carry[0] < 3, body, (0, jnp.zeros_like(uid)))[1]

    spec = PartitionSpec("data")
    uid = jnp.arange(16)
    sharded = jax.jit(jax.shard_map(rows, mesh=mesh, in_specs=(spec, spec), out_specs=spec))
    np.testing.assert_array_equal(sharded(logits, uid), jax.jit(rows)(logits, uid))


@extremes
def test_lowers_for_accelerators_without_calling_the_host(sampling):
    shapes = jax.ShapeDtypeStruct((4, 300), jnp.float32), jax.ShapeDtypeStruct((4,), jnp.float32)
    function = jax.jit(partial(sample, sampling=sampling))
    exported = jax.export.export(function, platforms=("cuda", "tpu"))(*shapes)
    assert "callback" not in exported.mlir_module()


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("temperature", -0.1, "temperature must be finite and at least 0"),
        ("temperature", float("nan"), "temperature must be finite"),
        ("temperature", float("inf"), "temperature must be finite"),
        ("top_k", -1, "top_k must be an integer of at least 0"),
        ("top_k", 5.0, "top_k must be an integer"),
        ("top_p", 0.0, r"top_p must be in \(0, 1\]"),
        ("top_p", 1.01, r"top_p must be in \(0, 1\]"),
        ("min_p", -0.1, r"min_p must be in \[0, 1\]"),
        ("min_p", float("nan"), r"min_p must be in \[0, 1\]"),
    ],
)
def test_bad_settings_are_refused(field, value, says):
    with pytest.raises(ValueError, match=says):
        Sampling(**{field: value})


def test_bad_arrays_and_keys_are_refused():
    logits, uniform, index = jnp.zeros((2, 5)), jnp.zeros(2), jnp.arange(2)
    with pytest.raises(ValueError, match="top_k = 6 is beyond the 5 tokens"):
        sample(logits, uniform, Sampling(top_k=6))
    with pytest.raises(ValueError, match=r"logits must be float32\[B, V\], got bfloat16"):
        sample(logits.astype(jnp.bfloat16), uniform, Sampling())
    with pytest.raises(ValueError, match=r"uniform must be \[B\] = \[2\], got \[3\]"):
        sample(logits, jnp.zeros(3), Sampling())
    with pytest.raises(ValueError, match="one typed key"):
        uniforms(jax.random.PRNGKey(0), index, index)
    with pytest.raises(ValueError, match="one typed key"):
        uniforms(jax.random.split(jax.random.key(0)), index, index)
    with pytest.raises(ValueError, match="must be a threefry2x32 key, got rbg"):
        uniforms(jax.random.key(0, impl="rbg"), index, index)
