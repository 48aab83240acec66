"""Conservative policy iteration: an improved policy is mixed into the old one, by a share that is safe."""

from __future__ import annotations

from typing import Any, Literal

from gpg_jax.algorithms import checks
from gpg_jax.algorithms.compose import compose, credited
from gpg_jax.algorithms.settings import GROUP, Settings, resolve
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
    held_out: float = 0.5,
    **options: Any,
) -> Method:
    """π_α = (1 − α)·π + α·π′, π′ ≈ argmax E_t[π′/π · Â_t], worth J(π_α) − J(π) ≥ α·g − α²·c.

    Kakade and Langford 2002, "Approximately optimal approximate reinforcement learning". π′ is trained from
    the newest member by the plan's epochs and minibatches, without a gate, on some of a rollout's prompts; g
    and ε are measured on the others, and the policy stays as it is where g ≤ 0. The paper's bound is of a
    discounted task, whose advantages are discounted too; responses of at most H actions have
    c = ε·H·(H − 1) (`estimators.conservative`). Either α* is small, of the order g / (ε·H²). It is safe as
    far as g and ε are known, and while there is a free place. From step number `capacity` on, unless a share
    was 1, the lightest member goes: the new policy is not π_α, and nothing is guaranteed (`cpi_guaranteed`).

    Nor is anything where a KL is in the reward: g takes what π was charged as a reward that stays, but π_α is
    charged by its own log π_α and earns β·E_{s~π_α}[Σ_t KL(π_α‖π)] less, which is in neither g nor c.

    All of it is of π's own draws, of which E_{a~π}[π′/π − 1] is 0: sampled at temperature 1 from the whole
    vocabulary, by the parameters as they are, and where rows are forked weighted by their trees. A truncated
    response is such a draw too.

    Outcomes are compared with those of the prompt's other completions. That and the prompts held out leave g
    without bias. For advantages from a critic, whose errors are g's, take
    `trpo(whiten=False)._replace(update=Conservative(...))`: whitened ones are not in units of J.

    Args:
      step: α is the α* of "horizon" or of "discounted", or "fixed".
      alpha: of "fixed", in (0, 1].
      discount: γ of "discounted", an action, in [0, 1).
      capacity: policies that are mixed at most; each is a copy of the network.
      held_out: share of a rollout's prompts, in (0, 1), on which π′ is measured and not trained.
      **options: of `settings.Settings`; the aggregation is "token_mean" unless given, and a KL in the reward
        is a part of what is compared, with which nothing is guaranteed. "discounted" charges and discounts it
        token by token, without kl_order.

    Returns:
      The method.

    Raises:
      ValueError: a setting without effect or out of its range, or truncated responses that are left out.
    """
    checks.one_of("step", step, STEPS)
    unread = GROUP | {"advantage_range", "dual_clip"} | ({"kl_order"} if step == "discounted" else set())
    settings = resolve(options, unread, name="cpi", aggregation="token_mean", kl_order="before")
    if settings.drop_truncated:
        raise ValueError(
            "drop_truncated=True: the gain is of all of the policy's responses, not of those alone that end; "
            "leave it out, and say with truncated_reward what the others are worth"
        )
    checks.count("capacity", capacity)
    if capacity < 2:
        raise ValueError("capacity must be at least 2: an old policy and a new one")
    for name, value, reader in (("alpha", alpha, "fixed"), ("discount", discount, "discounted")):
        if (value is not None) != (step == reader):
            needed = "needs" if step == reader else "does not read"
            raise ValueError(f"step={step!r} {needed} {name}: give it with step={reader!r}, and only there")
    checks.positive("held_out", held_out)
    checks.within("held_out", held_out, 0, 1, below=True)
    if alpha is not None:
        checks.positive("alpha", alpha)
        checks.within("alpha", alpha, 0, 1)
    if discount is not None:
        checks.within("discount", discount, 0, 1, below=True)
    given = {name: value for name, value in (("alpha", alpha), ("discount", discount)) if value is not None}
    method = compose(settings, advantage=_advantage(settings, discount), gate=no_gate)
    return method._replace(update=Conservative(step=step, capacity=capacity, held_out=held_out, **given))


def _advantage(settings: Settings, discount: float | None) -> advantages.Advantage:
    """Of the objective that the bound is of: outcomes, or discounted returns."""
    rows = advantages.minus_leave_one_out
    if discount is None:
        return credited(settings, rows)
    return advantages.return_advantage(rows, discount, bounds=settings.advantage_range)
