"""Value pretraining: the critic of a method learns before the policy does."""

from __future__ import annotations

from gpg_jax.algorithms import checks
from gpg_jax.estimators.actor_critic import gae_advantage
from gpg_jax.losses.penalties import value_penalty
from gpg_jax.types import Method


def value_pretraining(method: Method, *, discount: float) -> Method:
    """min_φ E[(V_φ(s_t) − G_t)²] with G the whole return of a policy that stays as it is.

    VAPO, arXiv 2504.05118, section 4.1: a critic that starts from a reward model, or from nothing, is wrong
    in the same way everywhere, and advantages made with it are too. Returns are not bootstrapped (λ = 1), so
    that they do not depend on it. Give a step of this method `trains={"critic"}`.

    Args:
      method: whose critic it is, with its rewards, rows and weights.
      discount: γ in [0, 1], an action: that of the method, whose advantages are of such returns.

    Returns:
      The method; the state of the method that was given stays as it is.

    Raises:
      ValueError: a method without a critic, or a discount out of its range.
    """
    if "value" not in method.needs:
        raise ValueError('value pretraining is for methods with a critic, whose needs hold "value"')
    checks.within("discount", discount, 0, 1)
    objective = method.objective
    return method._replace(
        objective=objective._replace(
            advantage=gae_advantage(1.0, discount=discount),
            penalties=(value_penalty(0.5, objective.weights),),
        ),
        needs=method.needs - {"after"},
        after=lambda state, metrics: state,
        halt=None,
    )
