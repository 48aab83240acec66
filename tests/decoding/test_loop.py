"""The decoding loop: what it draws, when it stops, and that the trainer scores the same numbers (O-34)."""

import functools

import chex
import hlo
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small

from gpg_jax.algorithms import ALGORITHMS
from gpg_jax.decoding.automaton import compile_automaton
from gpg_jax.decoding.loop import _buckets, decode
from gpg_jax.decoding.rollouts import Prompts, build_rollout, pad_prompts, response_ids, written
from gpg_jax.decoding.sampling import Sampling
from gpg_jax.losses.objective import coefficients
from gpg_jax.policies.score import score
from gpg_jax.types import STOP_EOS, Batch, Scores

BYTES = [bytes([65 + token]) for token in range(32)]
"""Token t is the character t places after A."""
PLAIN = Sampling()
PROMPTS = pad_prompts([[3, 4, 5, 6, 7, 8], [9], [10, 11], [3, 4, 5, 6]], small.LAYOUT.prompt_slots)
ROWS = 16


@functools.partial(
    jax.jit, static_argnames=("sampling", "stop_tokens", "strings", "new_slots", "bucket", "dtype")
)
def run(
    params,
    prompts,
    uid,
    key,
    sampling=PLAIN,
    stop_tokens=(1,),
    strings=(),
    new_slots=10,
    bucket=3,
    dtype="float32",
):
    policy = small.policy(dtype=dtype)
    automaton = compile_automaton(strings, BYTES, stop_tokens)
    return decode(
        policy,
        policy.for_decoding(params),
        prompts.tokens,
        prompts.length,
        uid,
        key,
        new_slots=new_slots,
        sampling=sampling,
        automaton=automaton,
        bucket=bucket,
    )


def sampled(uid=None, prompts=PROMPTS, **options):
    uid = jnp.arange(ROWS) if uid is None else uid
    return run(small.params(), prompts, uid, jax.random.key(7), **options)


def rows_of(responses, prompts=PROMPTS):
    rows = len(responses.length)
    return build_rollout(
        prompts, written(responses), outcome=np.zeros(rows), reward=np.zeros(rows), version=0
    )


@functools.partial(jax.jit, static_argnames=("temperature", "dtype"))
def trained(rows, temperature=1.0, dtype="float32"):
    return score(
        small.policy(dtype=dtype),
        small.params(),
        rows.tokens,
        rows.prompt_length,
        rows.length,
        small.LAYOUT,
        temperature=temperature,
    ).log_prob


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_sampler_and_trainer_agree(temperature):
    rows = rows_of(sampled(sampling=Sampling(temperature=temperature)))
    ours = np.where(rows.action_mask, trained(rows, temperature=temperature), 0)
    np.testing.assert_allclose(ours, rows.behaviour_log_prob, atol=1e-4)


def test_sampler_and_trainer_nearly_agree_in_bfloat16():
    rows = rows_of(sampled(dtype="bfloat16"))
    ours = np.where(rows.action_mask, trained(rows, dtype="bfloat16"), 0)
    assert 0 < np.abs(ours - rows.behaviour_log_prob).max() < 0.3


@jax.jit
def kept_mass(rows):
    """Mass of the four most probable tokens in the place of every token `[B, L]`, by a plain forward."""
    index = jnp.arange(rows.tokens.shape[1])[None]
    position = jnp.where(index < rows.length[:, None], index, -1)
    hidden, _ = small.policy().hidden(small.params(), rows.tokens, position, ())
    probs = jax.nn.softmax(small.policy().unembed(small.params(), hidden))
    mass = jnp.sum(jax.lax.top_k(probs, 4)[0], axis=-1)
    return jnp.pad(mass, ((0, 0), (1, 0)))[:, :-1]


def test_truncation_differs_from_the_trainer_by_the_kept_mass():
    """log π_behaviour − log π_old = −log S, S the mass that top-k kept in that place."""
    rows = rows_of(sampled(sampling=Sampling(top_k=4)))
    acts = rows.action_mask
    gap = np.asarray(rows.behaviour_log_prob - trained(rows))[acts]
    mass = np.asarray(kept_mass(rows))[acts]
    assert mass.min() < 0.9 and len(np.unique(mass.round(4))) > 20
    np.testing.assert_allclose(gap, -np.log(mass), atol=1e-4)


def test_a_stop_token_may_be_the_padding_id():
    """O-38: rows end with token 0, which also fills them up: the first is trained on, once."""
    rows = rows_of(sampled(stop_tokens=(0,)))
    rows = rows.replace(reward=np.tile([1.0, 0, 0, 2], 4).astype(np.float32))
    ended = np.flatnonzero(rows.stop == STOP_EOS)
    padded = rows.length < rows.tokens.shape[1]
    assert 2 < len(ended) < ROWS and np.any(padded[ended])
    method = ALGORITHMS["grpo"](kl_coefficient=0.0, aggregation="token_mean")
    pushes = np.asarray(coefficients(method, Batch(rows, Scores(rows.behaviour_log_prob))))
    moved = pushes != 0
    np.testing.assert_array_equal(moved, rows.action_mask)
    for row in range(ROWS):
        response = slice(rows.prompt_length[row], None)
        zeros = moved[row, response] & (rows.tokens[row, response] == 0)
        assert zeros.sum() == (row in ended)
        assert moved[row, rows.length[row] - 1] and not moved[row, rows.length[row] :].any()
    # every token, the stopping one too, weighs as much as the others of its row
    weights = np.where(moved, pushes, np.nan)
    np.testing.assert_allclose(np.nanmax(weights, axis=1), np.nanmin(weights, axis=1), rtol=1e-6)


def test_greedy_takes_the_most_probable_token_of_a_plain_forward():
    responses = sampled(sampling=Sampling(temperature=0.0), stop_tokens=())
    rows = jnp.repeat(PROMPTS.tokens, ROWS // 4, axis=0)
    length = jnp.repeat(PROMPTS.length, ROWS // 4)

    @jax.jit
    def best(tokens, length):
        position = jnp.broadcast_to(jnp.arange(tokens.shape[1])[None], tokens.shape)
        hidden, _ = small.policy().hidden(small.params(), tokens, position, ())
        last = jnp.take_along_axis(hidden, length[:, None, None] - 1, axis=1)
        return jnp.argmax(small.policy().unembed(small.params(), last[:, 0]), axis=-1)

    tokens = jnp.pad(rows, ((0, 0), (0, 10)))
    for step in range(10):
        token = best(tokens, length + step)
        np.testing.assert_array_equal(responses.tokens[:, step], token)
        tokens = tokens.at[jnp.arange(ROWS), length + step].set(token)
    assert not np.asarray(responses.log_prob).any()


def test_the_budget_is_exact_and_the_stop_token_ends_a_row():
    responses = sampled()
    ended = np.asarray(responses.stop) == STOP_EOS
    assert 0 < ended.sum() < ROWS, "both reasons must occur for this test to say anything"
    for ids, stopped in zip(response_ids(responses), ended, strict=True):
        assert ids.count(1) == stopped and (ids[-1] == 1) == stopped
        assert len(ids) <= 10 and (stopped or len(ids) == 10)


def test_a_stop_string_across_tokens_ends_a_row():
    free = response_ids(sampled(stop_tokens=()))
    string = (bytes([65 + free[0][2]]) + bytes([65 + free[0][3]])).decode()
    responses = sampled(stop_tokens=(), strings=(string,))
    first = response_ids(responses)[0]
    text = b"".join(BYTES[token] for token in first).decode()
    assert text.endswith(string) and len(first) <= 4 and free[0][: len(first)] == first
    assert np.asarray(responses.stop)[0] == STOP_EOS


def test_after_the_end_there_is_nothing():
    responses = sampled()
    after = np.arange(10)[None] >= np.asarray(responses.length)[:, None]
    assert not np.asarray(responses.tokens)[after].any()
    assert not np.asarray(responses.log_prob)[after].any()


def test_early_exit():
    everything_stops = sampled(stop_tokens=tuple(range(32)))
    assert everything_stops.steps.tolist() == [1]
    assert set(np.asarray(everything_stops.length)) == {1}


def test_randomness_is_by_row_not_by_place():
    responses = sampled()
    order = np.array([2, 0, 3, 1])
    rows = (order[:, None] * 4 + np.arange(4)).reshape(-1)
    moved = sampled(uid=jnp.asarray(rows), prompts=Prompts(PROMPTS.tokens[order], PROMPTS.length[order]))
    np.testing.assert_array_equal(moved.tokens, responses.tokens[rows])
    alone = sampled(uid=jnp.array([5]), prompts=Prompts(PROMPTS.tokens[1:2], PROMPTS.length[1:2]))
    np.testing.assert_array_equal(alone.tokens[0], responses.tokens[5])


def test_buckets_change_nothing():
    whole, cut = sampled(bucket=10), sampled(bucket=1)
    np.testing.assert_array_equal(whole.tokens, cut.tokens)
    np.testing.assert_allclose(whole.log_prob, cut.log_prob, atol=1e-5)


@pytest.mark.parametrize(
    ("new_slots", "first", "sizes"),
    [(10, 32, [10]), (128, 32, [32, 64, 128]), (100, 32, [32, 50, 100]), (1, 1, [1])],
)
def test_buckets_double(new_slots, first, sizes):
    assert _buckets(new_slots, first) == sizes


def test_one_trace_serves_every_prompt_of_its_shape():
    chex.clear_trace_counter()
    policy = small.policy()
    automaton = compile_automaton((), BYTES, (1,))

    @jax.jit
    @chex.assert_max_traces(n=1)
    def once(params, prompts, length, uid, key):
        return decode(
            policy, params, prompts, length, uid, key, new_slots=2, sampling=Sampling(), automaton=automaton
        )

    for seed in range(3):
        draw = np.random.default_rng(seed)
        tokens = draw.integers(3, 32, PROMPTS.tokens.shape).astype(np.int32)
        length = draw.integers(1, 7, 4).astype(np.int32)
        once(small.params(), tokens, length, jnp.arange(ROWS), jax.random.key(seed))


def test_the_loop_never_copies_the_stacked_cache():
    """The layer scan only reads the cache; one update of all layers follows, in place."""
    shape = small.ARCHITECTURE
    slots = 12
    with hlo.optimised():
        compiled = run.lower(
            small.params(), PROMPTS, jnp.arange(ROWS), jax.random.key(0), new_slots=slots, bucket=slots
        ).compile()
    stacked = f"= f32[{shape.layers},{ROWS},{shape.kv_heads},{slots},{shape.head_dim}]"
    inside = [line for line in hlo.loop_lines(compiled.as_text()) if stacked in line]
    assert len(hlo.operations(inside, "dynamic-update-slice")) == 2, "keys and values, once each"
    # Some compilers call the update alone a fusion; it is as much in place.
    others = [line for line in inside if "wrapped_dynamic-update-slice" not in line]
    assert not hlo.operations(others, "copy|concatenate|fusion|scatter"), inside


def test_bad_requests_are_refused():
    with pytest.raises(ValueError, match="15 rows cannot be shared out among 4 prompts"):
        sampled(uid=jnp.arange(15))
    with pytest.raises(ValueError, match="new_slots=0"):
        sampled(new_slots=0)


def test_mean_log_prob_is_the_negative_entropy():
    """E[log pi(y)] = -H(pi): a first token drawn 4096 times from one prompt, within 5 standard errors."""
    rows, prompts = 4096, Prompts(PROMPTS.tokens[:1], PROMPTS.length[:1])
    responses = sampled(uid=jnp.arange(rows), prompts=prompts, new_slots=1, bucket=1)
    hidden, _ = small.policy().hidden(small.params(), prompts.tokens, jnp.arange(6)[None], ())
    log_prob = jax.nn.log_softmax(small.policy().unembed(small.params(), hidden[:, -1]))[0]
    mean, spread = float(jnp.sum(jnp.exp(log_prob) * log_prob)), float(jnp.std(responses.log_prob))
    assert abs(float(jnp.mean(responses.log_prob)) - mean) < 5 * spread / rows**0.5
    counts = np.bincount(np.asarray(responses.tokens)[:, 0], minlength=32)
    # Pearson's statistic with 31 degrees of freedom exceeds 61.1 once in a thousand draws.
    expected = rows * np.exp(np.asarray(log_prob))
    assert np.sum((counts - expected) ** 2 / expected) < 61.1
