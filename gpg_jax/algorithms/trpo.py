"""Trust region policy optimization: the surrogate's natural gradient, as far as a bound on the KL lets it."""

from __future__ import annotations

from typing import Any

from gpg_jax.algorithms import checks
from gpg_jax.algorithms.a2c import NEEDS, check_returns, critic_loss
from gpg_jax.algorithms.compose import compose
from gpg_jax.algorithms.ppo import UNREAD
from gpg_jax.algorithms.settings import resolve
from gpg_jax.estimators.actor_critic import Whitening, gae_advantage
from gpg_jax.losses.gates import no_gate
from gpg_jax.types import Method, TrustRegion


def trpo(
    *,
    radius: float = 0.01,
    cg_iterations: int = 10,
    cg_tolerance: float = 1e-10,
    damping: float = 0.1,
    shrink: float = 0.5,
    attempts: int = 10,
    lambda_: float = 0.98,
    discount: float = 1.0,
    bootstrap_truncated: bool = False,
    whiten: bool = True,
    value_coefficient: float = 0.5,
    value_clip: float | None = None,
    **options: Any,
) -> Method:
    """max_θ E_t[r_t Â_t] subject to E_t[KL(π_old‖π_θ)] ≤ δ, Â from GAE(γ, λ).

    Schulman et al. 2015, arXiv 1502.05477, eq. 14 and app. C. The policy takes one step on a whole rollout,
    without an optimizer; a plan's epochs and minibatches are the critic's. What stands in the loss
    besides, a KL to the reference or an entropy bonus, is improved with the surrogate. Whitening and GAE with
    λ = .98 are those of OpenAI's baselines; the paper has the returns that were earned for Q.

    Args:
      radius: δ, nats an action, of the KL over the vocabulary.
      cg_iterations: most conjugate gradient steps.
      cg_tolerance: squared residual, relative to the squared gradient, at which they end.
      damping: λ of (F + λI) x = g.
      shrink: factor of the line search, in (0, 1).
      attempts: lengths that it tries.
      lambda_: λ of advantages and targets.
      discount: γ in [0, 1], an action.
      bootstrap_truncated: whether a row that its budget ended is worth V behind its last token.
      whiten: whether advantages are whitened over the rollout.
      value_coefficient: of the critic's loss.
      value_clip: κ of the clipped value loss, or None.
      **options: of `settings.Settings`; the aggregation is "token_mean" unless given.

    Returns:
      The method; `_replace(update=...)` gives the step to another one's objective.

    Raises:
      ValueError: a setting without effect, or out of its range.
    """
    settings = resolve(options, UNREAD | {"dual_clip"}, name="trpo", aggregation="token_mean")
    region = TrustRegion(radius, cg_iterations, cg_tolerance, damping, shrink, attempts)
    _check(region)
    checks.within("lambda_", lambda_, 0, 1)
    check_returns(settings, discount, bootstrap_truncated)
    method = compose(
        settings,
        advantage=gae_advantage(
            lambda_,
            discount=discount,
            bootstrap_truncated=bootstrap_truncated,
            whitening=Whitening() if whiten else None,
        ),
        gate=no_gate,
        needs=NEEDS,
        penalties=(critic_loss(settings, value_coefficient, value_clip),),
    )
    return method._replace(update=region)


def _check(region: TrustRegion) -> None:
    checks.count("cg_iterations", region.iterations)
    checks.count("attempts", region.attempts)
    checks.within("cg_tolerance", region.tolerance, 0)
    checks.within("damping", region.damping, 0)
    checks.positive("radius", region.radius)
    checks.positive("shrink", region.shrink)
    checks.within("shrink", region.shrink, 0, 1, below=True)
