"""An update of a reward model on a batch of preferences, a pure function: state, pairs -> state, metrics.

Weights are normalised over the batch before anything is split, so that micro-batches and devices are plain
sums. A pair is never split: its prompt is read once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as Spec

from gpg_jax.data.preference_pairs import Pairs
from gpg_jax.losses import metrics as measures
from gpg_jax.losses.preferences import pair_weights, preference_loss
from gpg_jax.policies.critic import Critic
from gpg_jax.policies.reward import reward
from gpg_jax.policies.score import Layout
from gpg_jax.training.accumulate import summed
from gpg_jax.training.state import CriticState
from gpg_jax.training.updates import descend
from gpg_jax.types import Array, Params

PreferenceStep = Callable[[CriticState, Pairs], tuple[CriticState, dict[str, Array]]]


class PreferenceProgram(NamedTuple):
    """What a step is made of; nothing in it is traced.

    Attributes:
      critic: the reward model, with a transformer of its own.
      optimizer: applied to the gradient once a batch.
      prompt_slots: budget of a prompt in tokens.
      new_slots: budget of a response in tokens.
      micro_batches: parts that a batch is summed over.
      centring: c of `losses.preferences.preference_loss`.
      constrain: places the pairs of a micro-batch on the mesh under `jax.jit`.
    """

    critic: Critic
    optimizer: optax.GradientTransformation
    prompt_slots: int
    new_slots: int
    micro_batches: int = 1
    centring: float = 0.0
    constrain: Callable[[Pairs], Pairs] = lambda pairs: pairs


def pair_rewards(program: PreferenceProgram, params: Params, pairs: Pairs) -> Array:
    """r_w and r_l of every pair, `float32[N, 2]`."""
    pairs = program.constrain(pairs)
    tokens = jnp.asarray(pairs.tokens)
    rows = reward(
        program.critic,
        params,
        tokens.reshape(-1, tokens.shape[-1]),
        jnp.repeat(jnp.asarray(pairs.prompt_length), 2),
        jnp.asarray(pairs.length).reshape(-1),
        Layout(program.prompt_slots, program.new_slots, shared=2),
    )
    return rows.reshape(-1, 2)


def make_preference_step(program: PreferenceProgram) -> PreferenceStep:
    """The training step of a program: min_φ −mean log σ(r_φ(x, y_w) − r_φ(x, y_l)).

    Ouyang et al. 2022, arXiv 2203.02155, eq. 1; see `losses.preferences`.

    Returns:
      state, pairs -> state, metrics (name -> `float32[]`), to be compiled. The micro-batches must divide the
      pairs.
    """

    def part_loss(params: Params, part: tuple[Pairs, Array]) -> tuple[Array, measures.Metrics]:
        pairs, weights = part
        rewards = pair_rewards(program, params, pairs)
        return preference_loss(rewards, pairs.mask, weights, pairs.margin, program.centring)

    def step(state: CriticState, pairs: Pairs) -> tuple[CriticState, dict[str, Array]]:
        def micro(part: tuple[Pairs, Array]) -> tuple[Params, measures.Metrics]:
            (value, seen), grads = jax.value_and_grad(part_loss, has_aux=True)(state.params, part)
            return grads, {**seen, "loss": (value, jnp.float32(0))}

        grads, seen = summed(micro, (pairs, pair_weights(pairs.mask)), program.micro_batches)
        params, moments, norms = descend(program.optimizer, grads, state.optimizer, state.params)
        return CriticState(params=params, optimizer=moments), {**measures.reduce(seen), **norms}

    return step


def compile_preference_step(step: PreferenceStep, shardings: CriticState | None = None) -> PreferenceStep:
    """`jax.jit` of a step, the state donated and its shardings kept.

    Args:
      step: from `make_preference_step`.
      shardings: of the state, from `training.sharding.critic_shardings`; None on one device.
    """
    if shardings is None:
        return jax.jit(step, donate_argnums=0)
    return jax.jit(step, donate_argnums=0, in_shardings=(shardings, None), out_shardings=(shardings, None))


def compile_pair_rewards(
    program: PreferenceProgram, mesh: Mesh, shardings: Params
) -> Callable[[Params, Pairs], Array]:
    """`pair_rewards` under `jax.jit`; every process gets all of them.

    Args:
      program: whose reward model.
      mesh: where it lies.
      shardings: of its parameters.
    """

    def score(params: Params, pairs: Pairs) -> Array:
        return pair_rewards(program, params, pairs)

    return jax.jit(score, in_shardings=(shardings, None), out_shardings=NamedSharding(mesh, Spec()))
