"""Estimator cards: what one rollout's gradient is on average and how it scatters, exactly, beside ∇J.

Every rollout of a listed language model is given to the method itself, `estimate`, `weigh` and `loss`; its
ascent −∇_θ loss at the policy π_θ is weighted by the probability that the behaviour policy draws it. All of
it is in float64, but for coefficients that a controller steers: those are what float32 makes of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gpg_jax.estimators.baselines import Running, score_square
from gpg_jax.estimators.divergences import entropy, full_kl
from gpg_jax.losses.objective import estimate, loss, penalty_coefficients, weigh
from gpg_jax.theory.gradients import GradientMoments
from gpg_jax.theory.mdp import require_float64
from gpg_jax.theory.responses import Responses, expected_reward
from gpg_jax.theory.rollouts import Rollouts, rollout_probability
from gpg_jax.types import STOP_EOS, STOP_LENGTH, Array, Batch, Method, Rollout, Scores, State

CHUNK = 1024
"""Rollouts that are differentiated at once."""


class Problem(NamedTuple):
    """Policies and what they are to learn.

    Attributes:
      reward: `[P, N]`, of every response.
      policy: `[P, S, V]`, logits of π_θ, where the loss is differentiated.
      behaviour: `[P, S, V]`, logits of the policy that draws the rollouts.
      old: `[P, S, V]`, logits of π_old, which ratios are over.
      reference: `[P, S, V]`, logits of the reference policy.
      critic: `[P, S]`, the value of every prefix by the critic.
    """

    reward: Array
    policy: Array
    behaviour: Array
    old: Array
    reference: Array
    critic: Array


class Card(NamedTuple):
    """An estimate g of ∇J from one rollout, in numbers.

    Attributes:
      cosine: of E[g] and ∇J; 0 where E[g] is.
      scale: E[g]·∇J / ‖∇J‖².
      bias: ‖E[g] − ∇J‖ / ‖∇J‖.
      bend: min_{c ≥ 0} ‖c·E[g] − ∇J‖ / ‖∇J‖, the bias that no step size mends: √(1 − cosine²) for a cosine
        above 0, and 1 below.
      variance: tr Cov(g) / ‖∇J‖².
      noise: tr Cov(g) / ‖E[g]‖², which no step size changes; ∞ where E[g] is 0.
      gain: (E[g]·∇J)² / (E‖g‖²·‖∇J‖²), 0 below a cosine of 0. On a smooth objective a step along g of the
        best size gains this share of what one along ∇J gains: bias and variance in one number, whatever the
        scale.
    """

    cosine: float
    scale: float
    bias: float
    bend: float
    variance: float
    noise: float
    gain: float


def card(moments: GradientMoments, gradient: Array) -> Card:
    """The card of an estimate with these moments.

    Args:
      moments: mean and total variance of g.
      gradient: ∇J, of the mean's shape, not 0.
    """
    mean, aim = np.ravel(moments.mean), np.ravel(gradient)
    along, square, length = float(mean @ aim), float(mean @ mean), float(aim @ aim)
    best = max(along, 0) / square if square > 0 else 0.0
    second = square + float(moments.variance)
    return Card(
        cosine=along / np.sqrt(square * length) if square > 0 else 0.0,
        scale=along / length,
        bias=float(np.linalg.norm(mean - aim)) / np.sqrt(length),
        bend=float(np.linalg.norm(best * mean - aim)) / np.sqrt(length),
        variance=float(moments.variance) / length,
        noise=float(moments.variance) / square if square > 0 else math.inf,
        gain=max(along, 0) ** 2 / (second * length) if second > 0 else 0.0,
    )


def gradient_moments(
    method: Method, responses: Responses, rollouts: Rollouts
) -> Callable[[Problem, State], GradientMoments]:
    """Mean and variance of a method's gradient from one rollout, the whole rollout as one minibatch.

    Under dynamic sampling (`Method.resample`) rollouts with a row that `keep` refuses do not occur: what is
    refused is drawn anew.

    Args:
      method: the method.
      responses: of the language model.
      rollouts: all of them.

    Returns:
      Problem, state of the method -> E[g] `[P, S, V]` and E‖g − E[g]‖², compiled; g = −∇_θ loss. A
      ValueError where float64 is off.
    """

    @jax.jit
    def moments(problem: Problem, state: State) -> GradientMoments:
        require_float64()

        def one(row: tuple[Array, ...]) -> tuple[Array, Array]:
            return rollout_gradient(method, responses, rollouts.prompt, problem, state, row)

        rows = rollouts.response, rollouts.parent, rollouts.shared, rollouts.leaf_weight
        ascent, kept = jax.lax.map(one, rows, batch_size=CHUNK)
        probability = rollout_probability(responses, rollouts, problem.behaviour)
        if method.resample:
            probability = jnp.where(kept, probability, 0)
            probability = probability / jnp.sum(probability)
        mean = jnp.tensordot(probability, ascent, axes=1)
        square = jnp.sum(jnp.square(ascent - mean[None]), axis=(1, 2, 3))
        return GradientMoments(mean, probability @ square)

    return moments


def rollout_gradient(
    method: Method,
    responses: Responses,
    prompt: Array,
    problem: Problem,
    state: State,
    row: tuple[Array, ...],
) -> tuple[Array, Array]:
    """−∇_θ loss at π_θ of one rollout as one minibatch `[P, S, V]`, and whether `keep` takes all of its rows.

    Args:
      method: the method.
      responses: of the language model.
      prompt: `int32[B]`.
      problem: policies and rewards.
      state: of the method.
      row: response, parent, shared and leaf weight `[B]`, an entry of `Rollouts`.
    """
    batch = make_batch(responses, prompt, problem, *row)
    estimated, _ = estimate(method, batch, state)
    weights = weigh(method.objective, batch.rollout, estimated)
    scales = penalty_coefficients(method.objective, state)

    def of_policy(logits: Array) -> Array:
        scores = make_scores(responses, prompt, row[0], logits, problem)
        return loss(method.objective, scores, batch, estimated, *weights, scales)[0]

    return -jax.grad(of_policy)(problem.policy), jnp.all(estimated.keep)


def fixed_state(method: Method, responses: Responses, problem: Problem) -> State:
    """The state that a method is measured in: its first, or a running mean that has come to E[R].

    Args:
      method: the method.
      responses: of the language model.
      problem: whose behaviour policy earns E[R].
    """
    if not isinstance(method.state, Running):
        return method.state
    level = expected_reward(responses, problem.behaviour, problem.reward)
    return Running(total=level, weight=jnp.ones_like(level))


def without_penalties(method: Method) -> Method:
    """The method with its surrogate alone: no KL, entropy, likelihood or value term."""
    return method._replace(objective=method.objective._replace(penalties=()))


def make_batch(
    responses: Responses,
    prompt: Array,
    problem: Problem,
    response: Array,
    parent: Array,
    shared: Array,
    leaf_weight: Array,
) -> Batch:
    """One rollout of `Rollouts` as a method reads it: a prompt of one token, the response behind it.

    Args:
      responses: of the language model.
      prompt: `int32[B]`.
      problem: whose behaviour policy has drawn the rows.
      response, parent, shared, leaf_weight: `[B]`, an entry of `Rollouts`.

    Returns:
      The batch, with the scores of π_old and of the reference.
    """
    mask = jnp.asarray(responses.mask)[response]
    token = jnp.asarray(responses.token)[response]
    drawn = make_scores(responses, prompt, response, problem.behaviour, problem).log_prob
    length = jnp.sum(mask, axis=1, dtype=jnp.int32)
    ended = jnp.any(mask & (token == 0), axis=1)
    reward = problem.reward[prompt, response]
    rollout = Rollout(
        tokens=_behind(token, jnp.asarray(prompt)),
        action_mask=_behind(mask, jnp.zeros(len(prompt), bool)),
        prompt_length=jnp.ones_like(length),
        length=1 + length,
        behaviour_log_prob=drawn,
        group=jnp.asarray(prompt),
        parent=parent,
        fork=1 + shared,
        leaf_weight=leaf_weight,
        stop=jnp.where(ended, STOP_EOS, STOP_LENGTH),
        version=jnp.zeros_like(length),
        outcome=reward,
        reward=reward,
    )
    old, reference = (
        make_scores(responses, prompt, response, logits, problem)
        for logits in (problem.old, problem.reference)
    )
    return Batch(rollout, old, reference)


def make_scores(
    responses: Responses, prompt: Array, response: Array, logits: Array, problem: Problem
) -> Scores:
    """What a policy and the critic say of the rows of a rollout; every field is there.

    Args:
      responses: of the language model.
      prompt: `int32[B]`.
      response: `int32[B]`.
      logits: `[P, S, V]`, of the policy.
      problem: has π_old, the reference and the critic.

    Returns:
      Scores `[B, T + 1]`, 0 at the prompt and behind the end.
    """
    prefix = jnp.asarray(responses.prefix)[response]
    place = jnp.asarray(prompt)[:, None], prefix
    token = jnp.asarray(responses.token)[response]
    mask = jnp.asarray(responses.mask)[response]

    def rows(values: Array) -> Array:
        return _behind(jnp.where(mask, values, 0), jnp.zeros(len(prompt), values.dtype))

    return Scores(
        log_prob=rows(jax.nn.log_softmax(logits)[*place, token]),
        entropy=rows(entropy(logits)[place]),
        value=rows(problem.critic[place]),
        bootstrap=jnp.zeros(len(prompt), problem.critic.dtype),
        kl_old=rows(full_kl(problem.old, logits)[place]),
        kl_ref=rows(full_kl(logits, problem.reference)[place]),
        score_square=rows(score_square(jax.nn.softmax(logits)[place], token)),
    )


def _behind(values: Array, first: Array) -> Array:
    return jnp.concatenate([first[:, None], values], axis=1)
