"""Proximal policy optimization: a surrogate bounded by a clip or by a KL, used for several updates."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import jax.numpy as jnp

from gpg_jax.algorithms import checks
from gpg_jax.algorithms.a2c import NEEDS, critic_loss
from gpg_jax.algorithms.compose import AGGREGATIONS, clip, compose
from gpg_jax.algorithms.controllers import doubling
from gpg_jax.algorithms.settings import GROUP, resolve
from gpg_jax.estimators.actor_critic import Whitening, gae_advantage
from gpg_jax.losses.gates import no_gate
from gpg_jax.losses.penalties import old_kl_penalty
from gpg_jax.types import Array, Method, State

UNREAD = GROUP | {"advantage_range", "kl_order"}
"""Settings that compare rows, which a critic's methods do not."""


def ppo(
    *,
    bound: Literal["clip", "kl"] = "clip",
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    kl_target: float = 0.01,
    old_kl_coefficient: float = 1.0,
    lambda_: float = 0.95,
    discount: float = 1.0,
    bootstrap_truncated: bool = False,
    whiten: bool = True,
    value_coefficient: float = 0.5,
    value_clip: float | None = 0.2,
    halt_kl: float | None = None,
    **options: Any,
) -> Method:
    """J = E_t[min(r_t Â_t, clip(r_t, 1 − ε, 1 + ε) Â_t)] − c·E_t[(V − G)²], Â from GAE(γ, λ).

    Schulman et al. 2017, arXiv 1707.06347, eq. 7 and 9; with `bound="kl"` eq. 8,
    E_t[r_t Â_t − β·KL(π_old‖π_θ)], with β doubled and halved after each rollout (section 4). In RLHF (Ziegler
    et al. 2019, arXiv 1909.08593) the KL to the reference stands in the reward: `kl_placement="reward"`.

    Args:
      bound: "clip" or "kl".
      clip_low: ε below 1.
      clip_high: ε above 1.
      kl_target: d_targ of the KL form, nats an action.
      old_kl_coefficient: its first β.
      lambda_: λ of advantages and targets.
      discount: γ in [0, 1], an action.
      bootstrap_truncated: whether a row that its budget ended is worth V behind its last token.
      whiten: whether advantages are whitened over the rollout.
      value_coefficient: c.
      value_clip: κ of the clipped value loss, or None.
      halt_kl: a minibatch whose KL(π_old‖π_θ) (k3, nats an action) is above it is not trained on, nor are
        those behind it on this rollout; or None.
      **options: of `settings.Settings`; the aggregation is "token_mean" unless given.

    Returns:
      The method.

    Raises:
      ValueError: a setting without effect, or out of its range.
    """
    settings = resolve(options, UNREAD, aggregation="token_mean")
    checks.one_of("bound", bound, ("clip", "kl"))
    checks.within("lambda_", lambda_, 0, 1)
    checks.within("discount", discount, 0, 1)
    if halt_kl is not None and not halt_kl > 0:
        raise ValueError(f"halt_kl must be above 0, or None, got {halt_kl!r}")
    penalties = [critic_loss(settings, value_coefficient, value_clip)]
    state: State = ()
    after: Callable[[State, dict[str, Array]], State] = _unchanged
    needs = NEEDS
    if bound == "kl":
        penalties.append(
            old_kl_penalty("k3", lambda state: state, AGGREGATIONS[settings.aggregation](settings))
        )
        state = jnp.float32(old_kl_coefficient)
        after, needs = _steered(kl_target), NEEDS | {"after"}
    method = compose(
        settings,
        advantage=gae_advantage(
            lambda_,
            discount=discount,
            bootstrap_truncated=bootstrap_truncated,
            whitening=Whitening() if whiten else None,
        ),
        gate=clip(settings, clip_low, clip_high) if bound == "clip" else no_gate,
        state=state,
        needs=needs,
        penalties=penalties,
        after=after,
    )
    return method if halt_kl is None else method._replace(halt=lambda seen: seen["kl_old_k3"] > halt_kl)


def _unchanged(state: State, metrics: dict[str, Array]) -> State:
    return state


def _steered(target: float) -> Callable[[State, dict[str, Array]], State]:
    """β after a rollout, by how far its updates have moved the policy."""

    def after(state: State, metrics: dict[str, Array]) -> State:
        return doubling(state, metrics["kl_old_after"], target)

    return after
