"""VAPO: PPO with a critic that long chains of thought do not break."""

from __future__ import annotations

from typing import Any

from gpg_jax.algorithms import checks
from gpg_jax.algorithms.a2c import NEEDS, check_returns, critic_loss
from gpg_jax.algorithms.compose import AGGREGATIONS, clip, compose
from gpg_jax.algorithms.ppo import UNREAD
from gpg_jax.algorithms.settings import resolve
from gpg_jax.estimators.actor_critic import gae_advantage
from gpg_jax.estimators.generalized_advantage import length_adaptive_lambda
from gpg_jax.losses.penalties import likelihood_penalty
from gpg_jax.types import Array, Batch, Method, Rollout


def vapo(
    *,
    alpha: float = 0.05,
    lambda_range: tuple[float, float] = (0.0, 1.0),
    target_lambda: float = 1.0,
    clip_low: float = 0.2,
    clip_high: float = 0.28,
    value_coefficient: float = 0.5,
    likelihood_coefficient: float = 0.1,
    correct: float | None = None,
    discount: float = 1.0,
    bootstrap_truncated: bool = False,
    **options: Any,
) -> Method:
    """L = L_PPO + μ·L_NLL, with λ = 1 − 1/(α·l) for the policy and λ = 1 for the critic.

    Yue et al. 2025, arXiv 2504.05118, section 4. The critic is fitted to the returns of a fixed policy before
    (value pretraining), rows of a prompt are sampled as a group and not compared, tokens count alike, and
    correct rows are imitated besides. λ is negative below 1/α = 20 tokens: it is held in `lambda_range`, and
    `lambda_held` is the share of rows where it is.

    Args:
      alpha: α, a token.
      lambda_range: where λ is held.
      target_lambda: λ of the critic's targets.
      clip_low: ε_low.
      clip_high: ε_high.
      value_coefficient: c of the critic's loss.
      likelihood_coefficient: μ.
      correct: least outcome of a correct row; None is 1.
      discount: γ in [0, 1], an action.
      bootstrap_truncated: whether a row that its budget ended is worth V behind its last token.
      **options: of `settings.Settings`; the aggregation is "token_mean" unless given.

    Returns:
      The method.

    Raises:
      ValueError: a setting without effect, or out of its range.
    """
    settings = resolve(options, UNREAD, name="vapo", aggregation="token_mean")
    check_returns(settings, discount, bootstrap_truncated)
    checks.positive("alpha", alpha)
    checks.ordered("lambda_range", lambda_range, 0, 1)
    checks.within("target_lambda", target_lambda, 0, 1)
    checks.within("likelihood_coefficient", likelihood_coefficient, 0)
    checks.read_only(likelihood_coefficient > 0, "by a likelihood_coefficient above 0", correct=correct)
    least = 1.0 if correct is None else correct
    checks.within("correct", least)

    def adaptive(rollout: Rollout) -> Array:
        return length_adaptive_lambda(rollout.action_mask, alpha, lambda_range)[0]

    def watch(batch: Batch, unit_ids: Array) -> dict[str, Array]:
        value, held = length_adaptive_lambda(batch.rollout.action_mask, alpha, lambda_range)
        return {"lambda": value, "lambda_held": held}

    weigh = AGGREGATIONS[settings.aggregation](settings)
    return compose(
        settings,
        advantage=gae_advantage(
            adaptive,
            target_lambda=target_lambda,
            discount=discount,
            bootstrap_truncated=bootstrap_truncated,
        ),
        gate=clip(settings, clip_low, clip_high),
        needs=NEEDS,
        penalties=(
            critic_loss(settings, value_coefficient, None),
            likelihood_penalty(likelihood_coefficient, weigh, correct=least),
        ),
        watch=watch,
    )
