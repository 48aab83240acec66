"""TRPO and CPI learn from their own rollouts: each token is to be the successor of the one before."""

import bigram
import jax
import jax.numpy as jnp
import numpy as np
import optax

from gpg_jax.algorithms import ALGORITHMS
from gpg_jax.decoding.automaton import compile_automaton
from gpg_jax.decoding.loop import decode
from gpg_jax.decoding.rollouts import Prompts, build_rollout, written
from gpg_jax.decoding.sampling import Sampling
from gpg_jax.policies.architecture import Architecture
from gpg_jax.policies.critic import trunk_critic
from gpg_jax.policies.mixture import mixture
from gpg_jax.policies.score import Layout
from gpg_jax.training.plan import Plan
from gpg_jax.training.program import Program
from gpg_jax.training.state import create_critic_state, create_state
from gpg_jax.training.step import compile_step, make_step

TOKENS, NEW, GROUP, ROWS = 8, 3, 8, 64
NETWORK = bigram.policy(
    Architecture(
        vocab_size=TOKENS, width=8, layers=1, heads=1, kv_heads=1, head_dim=8, mlp_width=8, max_length=8
    )
)
PROMPTS = Prompts(np.arange(TOKENS, dtype=np.int32)[:, None], np.ones(TOKENS, np.int32))
AUTOMATON = compile_automaton((), [b""] * TOKENS, ())


def rewards(program, state, iterations):
    """Mean share of successors a rollout."""
    step = compile_step(make_step(program))

    @jax.jit
    def draw(params, key):
        return decode(
            program.policy,
            params,
            *PROMPTS,
            jnp.arange(ROWS),
            key,
            new_slots=NEW,
            sampling=Sampling(),
            automaton=AUTOMATON,
        )

    history, told = [], []
    for number in range(iterations):
        responses = written(draw(state.params, jax.random.key(number)))
        path = np.concatenate([np.repeat(PROMPTS.tokens, GROUP, axis=0), responses.tokens], axis=1)
        reward = np.mean((path[:, 1:] - path[:, :-1]) % TOKENS == 1, axis=1)
        rollout = build_rollout(PROMPTS, responses, outcome=reward, reward=reward, version=number)
        state, metrics = step(state, rollout)
        history.append(reward.mean())
        told.append(jax.device_get(metrics))
    return history, told


def plan(**options):
    return Plan(layout=Layout(1, NEW, GROUP), rows=ROWS, **options)


def test_trpo_learns_within_its_region():
    critic, optimizer = trunk_critic(NETWORK, 8), optax.adam(0.03)
    method = ALGORITHMS["trpo"](radius=0.03)
    params = NETWORK.init(jax.random.key(0))
    values = create_critic_state(critic.init(jax.random.key(1), params), optimizer)
    state = create_state(params, method, optimizer, jax.random.key(2), values)
    program = Program(NETWORK, method, optimizer, plan(epochs=2, minibatches=2), (critic, optimizer))
    history, told = rewards(program, state, 30)
    assert history[0] < 0.25 and np.mean(history[-3:]) > 0.7, history
    assert all(metrics["trust_region_kl"] <= 0.03 for metrics in told)
    assert np.mean([metrics["trust_region_accepted"] for metrics in told]) > 0.9


def test_cpi_learns_by_mixing():
    policy = mixture([NETWORK] * 3, (1.0, 0.0, 0.0))
    optimizer = optax.adam(0.1)
    method = ALGORITHMS["cpi"](capacity=3)
    state = create_state(policy.init(jax.random.key(0)), method, optimizer, jax.random.key(2))
    history, told = rewards(Program(policy, method, optimizer, plan(epochs=4, minibatches=2)), state, 40)
    assert history[0] < 0.25 and np.mean(history[-3:]) > 0.5, history
    assert told[-1]["mixture_members"] == 3
    assert all(metrics["cpi_bound"] >= 0 for metrics in told)
