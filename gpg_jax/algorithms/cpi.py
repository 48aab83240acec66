"""Conservative policy iteration: an improved policy is mixed into the old one, by a share that is safe."""

from __future__ import annotations

from typing import Any, Literal

from gpg_jax.algorithms import checks
from gpg_jax.algorithms.compose import compose, credited
from gpg_jax.algorithms.settings import GROUP, resolve
from gpg_jax.estimators import advantages
from gpg_jax.losses.gates import no_gate
from gpg_jax.types import Conservative, Method

STEPS = ("horizon", "discounted", "fixed")


def cpi(
    *,
    step: Literal["horizon", "discounted", "fixed"] = "horizon",
    alpha: float | None = None,
    discount: float | None = None,
    capacity: int = 4,
    **options: Any,
) -> Method:
    """π_α = (1 − α)·π + α·π′, π′ ≈ argmax E_t[π′/π · Â_t], worth J(π_α) − J(π) ≥ α·g − α²·c.

    Kakade and Langford 2002, "Approximately optimal approximate reinforcement learning". π′ is trained from
    the newest member by the plan's epochs and minibatches, without a gate; g and ε are measured on the
    rollout, and the policy stays as it is where g ≤ 0. The paper's bound is of a discounted task; responses
    of at most H actions have c = ε·H·(H − 1) (`estimators.conservative`). Both are safe and small: α* is of
    the order g / (ε·H²).

    Outcomes are compared with those of the prompt's other completions, so that g has no bias. For advantages
    from a critic take `trpo(...)._replace(update=Conservative(...))`.

    Args:
      step: α is the α* of "horizon" or of "discounted", or "fixed".
      alpha: of "fixed", in (0, 1].
      discount: γ of "discounted", an action, in [0, 1).
      capacity: policies that are mixed at most; each is a copy of the network.
      **options: of `settings.Settings`; the aggregation is "token_mean" unless given.

    Returns:
      The method.

    Raises:
      ValueError: a setting without effect, or out of its range.
    """
    settings = resolve(options, GROUP | {"dual_clip"}, aggregation="token_mean", kl_order="before")
    checks.one_of("step", step, STEPS)
    checks.count("capacity", capacity)
    if capacity < 2:
        raise ValueError("capacity must be at least 2: an old policy and a new one")
    for name, value, reader in (("alpha", alpha, "fixed"), ("discount", discount, "discounted")):
        if (value is not None) != (step == reader):
            needed = "needs" if step == reader else "does not read"
            raise ValueError(f"step={step!r} {needed} {name}: give it with step={reader!r}, and only there")
    if alpha is not None:
        checks.positive("alpha", alpha)
        checks.within("alpha", alpha, 0, 1)
    if discount is not None:
        checks.within("discount", discount, 0, 1, below=True)
    given = {name: value for name, value in (("alpha", alpha), ("discount", discount)) if value is not None}
    method = compose(settings, advantage=credited(settings, advantages.minus_leave_one_out), gate=no_gate)
    return method._replace(update=Conservative(step=step, capacity=capacity, **given))
