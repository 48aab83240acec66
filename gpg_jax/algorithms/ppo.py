"""Proximal policy optimization: a surrogate bounded by a clip or by a KL, used for several updates."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import jax.numpy as jnp

from gpg_jax.algorithms import checks
from gpg_jax.algorithms.a2c import NEEDS, critic_loss
from gpg_jax.algorithms.compose import AGGREGATIONS, clip, compose
from gpg_jax.algorithms.controllers import doubling, proportional
from gpg_jax.algorithms.settings import GROUP, Settings, resolve
from gpg_jax.estimators.actor_critic import Whitening, gae_advantage
from gpg_jax.losses.gates import no_gate
from gpg_jax.losses.penalties import old_kl_penalty
from gpg_jax.types import Array, Batch, Method, Penalty

UNREAD = GROUP | {"advantage_range", "kl_order"}
"""Settings that compare rows, which a critic's methods do not."""


class Coefficients(NamedTuple):
    """PPO's state: what controllers steer, None where a coefficient stays as it is.

    Attributes:
      old: β of the KL to the old policy.
      reference: β of the KL to the reference.
    """

    old: Array | None
    reference: Array | None


def ppo(
    *,
    bound: Literal["clip", "kl"] = "clip",
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    old_kl_target: float = 0.01,
    old_kl_coefficient: float = 1.0,
    kl_target: float | None = None,
    kl_gain: float = 0.1,
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
    et al. 2019, arXiv 1909.08593) the KL to the reference stands in the reward, `kl_placement="reward"`, and
    with a `kl_target` its β is steered in proportion to the error (section 2.2).

    Args:
      bound: "clip" or "kl".
      clip_low: ε below 1.
      clip_high: ε above 1.
      old_kl_target: d_targ of the KL form, nats an action.
      old_kl_coefficient: its first β.
      kl_target: of the KL to the reference, nats a response; None leaves its β, `kl_coefficient`, as it is.
      kl_gain: K of that controller, a rollout; the rows of a rollout over the horizon where systems count
        responses.
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
    checks.within("kl_gain", kl_gain, 0, 5, below=True)
    for name, value in (("halt_kl", halt_kl), ("kl_target", kl_target)):
        if value is not None and not value > 0:
            raise ValueError(f"{name} must be above 0, or None, got {value!r}")
    if kl_target is not None and not settings.kl_coefficient > 0:
        raise ValueError("kl_target steers kl_coefficient, which stays at 0 for ever: give it a first value")
    penalised = bound == "kl"

    def after(state: Coefficients, metrics: dict[str, Array]) -> Coefficients:
        old, reference = state
        if old is not None:
            old = doubling(old, metrics["kl_old_after"], old_kl_target)
        if reference is not None and kl_target is not None:
            kl = metrics["kl_response"]
            reference = proportional(reference, kl, kl_target, jnp.float32(kl_gain), horizon=1.0)
        return Coefficients(old, reference)

    method = compose(
        settings,
        advantage=gae_advantage(
            lambda_,
            discount=discount,
            bootstrap_truncated=bootstrap_truncated,
            whitening=Whitening() if whiten else None,
        ),
        gate=no_gate if penalised else clip(settings, clip_low, clip_high),
        state=Coefficients(
            jnp.float32(old_kl_coefficient) if penalised else None,
            None if kl_target is None else jnp.float32(settings.kl_coefficient),
        ),
        needs=NEEDS | ({"after"} if penalised else set()),
        penalties=(
            critic_loss(settings, value_coefficient, value_clip),
            *((_old_kl(settings),) if penalised else ()),
        ),
        after=after,
        watch=(lambda batch, unit_ids: {}) if kl_target is None else _response_kl,
        kl_coefficient=None if kl_target is None else lambda state: state.reference,
    )
    return method if halt_kl is None else method._replace(halt=lambda seen: seen["kl_old_k3"] > halt_kl)


def _old_kl(settings: Settings) -> Penalty:
    weigh = AGGREGATIONS[settings.aggregation](settings)
    return old_kl_penalty("k3", lambda state: state.old, weigh)


def _response_kl(batch: Batch, unit_ids: Array) -> dict[str, Array]:
    """`kl_response`: Σ_t (log π_old − log π_ref) of each row, an estimate of its KL in nats."""
    assert batch.reference is not None  # the KL in the settings asks for it
    gap = jnp.where(unit_ids >= 0, batch.old.log_prob - batch.reference.log_prob, 0)
    return {"kl_response": jnp.sum(gap, axis=1)}
