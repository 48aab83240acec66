"""A mixture of policies: the mixture of their probabilities, wherever a policy is asked."""

import functools

import bigram
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import small
from jax.sharding import PartitionSpec

from gpg_jax.decoding.automaton import compile_automaton
from gpg_jax.decoding.live import live_programs
from gpg_jax.decoding.loop import decode
from gpg_jax.decoding.rollouts import Prompts, build_rollout, pad_prompts, written
from gpg_jax.decoding.sampling import Sampling
from gpg_jax.decoding.sharded import compile_decode
from gpg_jax.policies.architecture import Architecture
from gpg_jax.policies.mixture import mixture, mixture_params, mixture_weights
from gpg_jax.policies.score import score
from gpg_jax.training.sharding import make_mesh, named, parameter_specs

NARROW = bigram.policy(
    Architecture(
        vocab_size=32, width=4, layers=1, heads=1, kv_heads=1, head_dim=4, mlp_width=4, max_length=64
    )
)
SHARES = (0.5, 0.3, 0.2)
NEEDS = frozenset({"entropy", "kl_old"})


@functools.cache
def several():
    """A transformer and two bigrams, of other widths and parameters, as one policy."""
    policies = (small.policy(), NARROW, NARROW)
    members = [small.params(), *(NARROW.init(jax.random.key(seed)) for seed in (1, 2))]
    return mixture(policies, SHARES), mixture_params(members, SHARES), policies, members


PAIR = mixture([NARROW] * 2, (0.7, 0.3))
PAIRED = mixture_params([NARROW.init(jax.random.key(seed)) for seed in (1, 2)], (0.7, 0.3))
AUTOMATON = compile_automaton((), [b""] * 32, (1, 2))
PROMPTS = pad_prompts([[3, 4, 5, 6, 7, 8], [9], [10, 11], [3, 4, 5, 6]], small.LAYOUT.prompt_slots)
UID = np.arange(16, dtype=np.int32)
KEY = jax.random.key(7)


@functools.partial(jax.jit, static_argnums=0)
def scored(policy, params, rows):
    fixed = rows.tokens, rows.prompt_length, rows.length, small.LAYOUT
    return score(policy, params, *fixed, temperature=1.0, needs=NEEDS, chunk=64)


@functools.partial(jax.jit, static_argnames=("policy", "new_slots", "temperature"))
def drawn(policy, params, prompts, uid, new_slots=10, temperature=1.0):
    return decode(
        policy,
        policy.for_decoding(params),
        prompts.tokens,
        prompts.length,
        uid,
        KEY,
        new_slots=new_slots,
        sampling=Sampling(temperature=temperature),
        automaton=AUTOMATON,
        bucket=new_slots,
    )


def test_its_probabilities_are_the_mean_of_the_members():
    policy, params, policies, members = several()
    rows = small.rollout()
    found = scored(policy, params, rows)
    apart = [scored(one, own, rows).log_prob for one, own in zip(policies, members, strict=True)]
    mean = sum(share * np.exp(np.float64(log_prob)) for share, log_prob in zip(SHARES, apart, strict=True))
    acts = rows.action_mask
    np.testing.assert_allclose(np.asarray(found.log_prob)[acts], np.log(mean[acts]), atol=2e-5)
    assert np.abs(np.asarray(apart[0] - apart[1])[acts]).max() > 1
    np.testing.assert_allclose(np.asarray(found.kl_old)[acts], 0, atol=1e-6)


def test_sampler_and_trainer_agree():
    policy, params, *_ = several()
    nothing, responses = np.zeros(32), drawn(policy, params, PROMPTS, np.arange(32))
    rows = build_rollout(PROMPTS, written(responses), outcome=nothing, reward=nothing, version=0)
    log_prob = np.asarray(scored(policy, params, rows).log_prob)
    assert len(np.unique(rows.length)) > 3
    np.testing.assert_allclose(np.where(rows.action_mask, log_prob, 0), rows.behaviour_log_prob, atol=1e-4)


def test_live_rows_and_replicas_draw_the_same():
    responses = drawn(PAIR, PAIRED, PROMPTS, UID)
    programs = live_programs(PAIR, new_slots=10, sampling=Sampling(), automaton=AUTOMATON)
    prefix, live = programs.begin(PAIRED, *PROMPTS, np.ones(16, bool))
    live = programs.advance(PAIRED, prefix, live, UID, KEY, 20, 0, np.zeros(16, bool))
    np.testing.assert_array_equal(live.tokens, responses.tokens)
    np.testing.assert_allclose(live.log_prob, responses.log_prob, atol=1e-5)
    mesh = make_mesh((2, 2, 2))
    specs = parameter_specs(PAIRED, mesh)
    assert specs["members"][0]["embedding"] == PartitionSpec("tensor", "fsdp")
    run = compile_decode(PAIR, mesh, specs, new_slots=10, sampling=Sampling(), automaton=AUTOMATON)
    placed = jax.device_put(PAIRED, named(specs, mesh))
    np.testing.assert_array_equal(run(placed, *PROMPTS, UID, KEY).tokens, responses.tokens)


def test_every_member_has_its_specs():
    specs = parameter_specs(jax.eval_shape(several()[0].init, KEY), make_mesh((2, 2, 2)))
    assert specs["weights"] == PartitionSpec()
    assert specs["members"][0]["layers"] == parameter_specs(small.params(), make_mesh((2, 2, 2)))["layers"]


def test_its_frequencies_are_those_of_the_mean():
    """A first token drawn 4096 times: Pearson's statistic, 31 degrees of freedom, above 61.1 once in 1000."""
    prompts = Prompts(PROMPTS.tokens[:1], PROMPTS.length[:1])
    tokens = np.asarray(drawn(PAIR, PAIRED, prompts, jnp.arange(4096), 1).tokens)[:, 0]
    mean = 0.0
    for share, own in zip(PAIRED["weights"], PAIRED["members"], strict=True):
        hidden, _ = NARROW.hidden(own, prompts.tokens, jnp.arange(6)[None], ())
        mean += share * np.asarray(jax.nn.softmax(NARROW.unembed(own, hidden[:, -1]))[0], np.float64)
    counts = np.bincount(tokens, minlength=32)
    assert np.sum((counts - 4096 * mean) ** 2 / (4096 * mean)) < 61.1
    greedy = np.asarray(drawn(PAIR, PAIRED, prompts, jnp.arange(4), 1, 0.0).tokens)
    np.testing.assert_array_equal(greedy[:, 0], np.argmax(mean))


def test_members_without_weight_are_not_there():
    policy, params, *_ = several()
    broken = jax.tree.map(lambda leaf: jnp.full_like(leaf, jnp.nan), params["members"][1])
    members = [params["members"][0], broken, params["members"][2]]
    states = jnp.arange(24, dtype=jnp.float32).reshape(1, 24) / 10
    alone = jax.nn.log_softmax(small.policy().unembed(members[0], states[:, :16]))
    np.testing.assert_allclose(policy.unembed(mixture_params(members, (1, 0, 0)), states), alone, atol=1e-6)

    def total(member, weights):
        mixed = mixture_params([member, *params["members"][1:]], SHARES) | {"weights": weights}
        return jnp.sum(policy.unembed(mixed, states)[:, 3])

    for weights in ((0.0, 1.0, 0.0), (1.0, 0.0, 0.0)):
        of_member, of_weights = jax.grad(total, (0, 1))(members[0], jnp.float32(weights))
        leaves = jax.tree.leaves(of_member)
        assert all(np.isfinite(leaf).all() for leaf in leaves) and np.all(of_weights == 0)
        assert (max(np.abs(leaf).max() for leaf in leaves) > 0) == (weights[0] > 0)


def test_descent_leaves_the_weights_as_they_are():
    """Another method's gradient would leave a mixture whose probabilities do not add up to 1."""

    def loss(params):
        return -jnp.mean(scored(PAIR, params, small.rollout()).log_prob)

    slope = jax.grad(loss)(PAIRED)
    moved = jax.tree.map(lambda leaf, own: leaf - 0.1 * own, PAIRED, slope)
    np.testing.assert_array_equal(moved["weights"], PAIRED["weights"])
    for own in slope["members"]:
        assert min(np.abs(leaf).max() for leaf in jax.tree.leaves(own)) > 0
    states = jnp.arange(8, dtype=jnp.float32)[None] / 8
    np.testing.assert_allclose(np.exp(PAIR.unembed(moved, states)).sum(), 1, rtol=1e-5)


def test_weight_decay_leaves_a_mixture_of_the_same_shares():
    """Ten steps of AdamW without a gradient take a tenth of the weights; of the probabilities nothing."""
    optimizer = optax.adamw(0.1, weight_decay=0.1)
    still, params = jax.tree.map(jnp.zeros_like, PAIRED["weights"]), jnp.asarray(PAIRED["weights"])
    moments = optimizer.init(params)
    for _ in range(10):
        change, moments = optimizer.update(still, moments, params)
        params = optax.apply_updates(params, change)
    decayed = PAIRED | {"weights": params}
    np.testing.assert_allclose(np.sum(params), 0.99**10, rtol=1e-5)
    np.testing.assert_allclose(mixture_weights(decayed), PAIRED["weights"], rtol=1e-6)
    states = jnp.arange(8, dtype=jnp.float32)[None] / 8
    np.testing.assert_allclose(PAIR.unembed(decayed, states), PAIR.unembed(PAIRED, states), atol=1e-6)
    np.testing.assert_allclose(np.exp(PAIR.unembed(decayed, states)).sum(), 1, rtol=1e-6)


def test_weights_that_add_up_to_one_are_read_bit_for_bit():
    for weights in ((0.7, 0.3), (1.0, 0.0, 0.0), (0.5, 0.25, 0.125, 0.125)):
        params = mixture_params([None] * len(weights), weights)
        np.testing.assert_array_equal(mixture_weights(params), params["weights"])


def test_members_of_one_network_begin_as_copies():
    policy = mixture([NARROW] * 3, (1.0, 0.0, 0.0))
    params = policy.init(jax.random.key(4))
    assert policy.members == (NARROW,) * 3
    np.testing.assert_array_equal(params["weights"], [1, 0, 0])
    for own in params["members"]:
        jax.tree.map(np.testing.assert_array_equal, own, NARROW.init(jax.random.key(4)))


@pytest.mark.parametrize(
    "policies, weights, sentence",
    [
        ([], [], "one weight for each policy, got 0"),
        ([NARROW], [0.5, 0.5], "got 1 and 2 weights"),
        ([NARROW] * 2, [0.5, 0.6], "add up to 1"),
        ([NARROW] * 2, [-0.5, 1.5], "must not be negative"),
        ([NARROW, NARROW._replace(vocab_size=31)], [0.5, 0.5], r"one vocabulary, got \[31, 32\]"),
    ],
)
def test_what_is_no_mixture_is_refused(policies, weights, sentence):
    with pytest.raises(ValueError, match=sentence):
        mixture(policies, weights)
