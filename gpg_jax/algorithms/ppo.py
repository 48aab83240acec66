"""Proximal policy optimization: a surrogate bounded by a clip or by a KL, used for several updates."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax.numpy as jnp

from gpg_jax.algorithms import checks
from gpg_jax.algorithms.a2c import NEEDS, check_returns, critic_loss
from gpg_jax.algorithms.compose import AGGREGATIONS, clip, compose
from gpg_jax.algorithms.controllers import doubling, proportional
from gpg_jax.algorithms.kl import charge
from gpg_jax.algorithms.settings import GROUP, Settings, resolve
from gpg_jax.estimators.actor_critic import Whitening, gae_advantage
from gpg_jax.losses.gates import no_gate
from gpg_jax.losses.penalties import old_kl_penalty
from gpg_jax.types import Array, Batch, Method, Penalty

UNREAD = GROUP | {"advantage_range", "kl_order"}
"""Settings that compare rows, which a critic's methods do not."""

OLD_KL_RANGE = (2.0**-20, 2.0**20)
"""Where β of the KL form is held: twenty halvings and doublings from 1."""


class Coefficients(NamedTuple):
    """PPO's state: what controllers steer, None where a coefficient stays as it is.

    Attributes:
      old: β of the KL to the old policy.
      reference: β of the KL to the reference.
      old_held: 1 where `old` is a bound in the place of what the last rollout asked for, else 0.
    """

    old: Array | None
    reference: Array | None
    old_held: Array | None = None


def ppo(
    *,
    bound: Literal["clip", "kl"] = "clip",
    clip_low: float | None = None,
    clip_high: float | None = None,
    old_kl_target: float | None = None,
    old_kl_coefficient: float | None = None,
    old_kl_range: tuple[float, float] | None = None,
    kl_target: float | None = None,
    kl_gain: float | None = None,
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
    E_t[r_t Â_t − β·KL(π_old‖π_θ)], with β doubled and halved after each rollout (section 4), and the KL
    estimated by k3 at the sampled token, where the paper has that of the distributions (`Scores.kl_old`).
    Whitening and the value clip are not the paper's but its code's, and γ is 1, where the paper has .99.

    In RLHF (Ziegler et al. 2019, arXiv 1909.08593) the KL to the reference stands in the reward,
    `kl_placement="reward"`, as log π − log π_ref, and with a `kl_target` its β is steered in proportion to
    the error (section 2.2). Another estimator is refused there: nothing is differentiated in a reward, and
    k2, k3 and |log π − log π_ref| then have another gradient than the KL's.

    Args:
      bound: "clip" or "kl".
      clip_low: ε below 1 of the clip; None is 0.2.
      clip_high: ε above 1 of the clip; None is 0.2.
      old_kl_target: d_targ of the KL form, nats an action; None is 0.01.
      old_kl_coefficient: its first β > 0; None is 1.
      old_kl_range: where its β is held; None is `OLD_KL_RANGE`. The paper has no such bounds; without them a
        β that has come to 0 stays there. The metric `state/old_held` is 1 where one binds.
      kl_target: of the KL to the reference as it is charged, nats a response, truncated ones included; None
        leaves its β, `kl_coefficient`, as it is.
      kl_gain: K of that controller, a rollout; the rows of a rollout over the horizon where systems count
        responses. None is 0.1.
      lambda_: λ of advantages and targets.
      discount: γ in [0, 1], an action.
      bootstrap_truncated: whether a row that its budget ended is worth V behind its last token.
      whiten: whether advantages are whitened over the rollout.
      value_coefficient: c.
      value_clip: κ of the clipped value loss, or None.
      halt_kl: a minibatch whose KL(π_old‖π_θ) (k3, nats an action, rows by their leaf weight) is
        above it is not trained on, nor are those behind it on this rollout; or None.
      **options: of `settings.Settings`; the aggregation is "token_mean" unless given. `log_ratio_range` holds
        the log-ratios of both forms, and of the KL.

    Returns:
      The method.

    Raises:
      ValueError: a setting without effect, or out of its range.
    """
    checks.one_of("bound", bound, ("clip", "kl"))
    penalised = bound == "kl"
    unread = UNREAD | ({"dual_clip"} if penalised else set())
    settings = resolve(options, unread, name="ppo", aggregation="token_mean")
    check_returns(settings, discount, bootstrap_truncated)
    checks.within("lambda_", lambda_, 0, 1)
    if halt_kl is not None:
        checks.positive("halt_kl", halt_kl)
    checks.read_only(not penalised, 'with bound="clip"', clip_low=clip_low, clip_high=clip_high)
    old, steer_old = _old_controller(penalised, old_kl_target, old_kl_coefficient, old_kl_range)
    reference, steer_reference = _reference_controller(settings, kl_target, kl_gain)

    def after(state: Coefficients, metrics: dict[str, Array]) -> Coefficients:
        return steer_reference(steer_old(state, metrics), metrics)

    method = compose(
        settings,
        advantage=gae_advantage(
            lambda_,
            discount=discount,
            bootstrap_truncated=bootstrap_truncated,
            whitening=Whitening() if whiten else None,
        ),
        gate=no_gate if penalised else clip(settings, _given(clip_low, 0.2), _given(clip_high, 0.2)),
        state=Coefficients(old, reference, None if old is None else jnp.float32(0)),
        needs=NEEDS | ({"after"} if penalised else set()),
        penalties=(
            critic_loss(settings, value_coefficient, value_clip),
            *((_old_kl(settings),) if penalised else ()),
        ),
        after=after,
        watch=(lambda batch, unit_ids: {}) if kl_target is None else _response_kl(settings),
        kl_coefficient=None if kl_target is None else lambda state: state.reference,
    )
    return method if halt_kl is None else method._replace(halt=lambda seen: seen["kl_old_k3"] > halt_kl)


Steer = Callable[[Coefficients, dict[str, Array]], Coefficients]


def _old_controller(
    penalised: bool,
    target: float | None,
    coefficient: float | None,
    bounds: tuple[float, float] | None,
) -> tuple[Array | None, Steer]:
    """The first β of the KL to the old policy, and what becomes of it after a rollout."""
    if not penalised:
        given = {"old_kl_target": target, "old_kl_coefficient": coefficient, "old_kl_range": bounds}
        checks.read_only(False, 'with bound="kl"', **given)
        return None, lambda state, metrics: state
    d_targ, first, held_in = _given(target, 0.01), _given(coefficient, 1.0), _given(bounds, OLD_KL_RANGE)
    checks.positive("old_kl_target", d_targ)
    checks.ordered("old_kl_range", held_in)
    checks.positive("the lower bound of old_kl_range", held_in[0])
    checks.positive("old_kl_coefficient", first)
    checks.within("old_kl_coefficient", first, *held_in)

    def steer(state: Coefficients, metrics: dict[str, Array]) -> Coefficients:
        assert state.old is not None  # it begins with one
        kl = metrics["kl_old_after"]
        asked, old = (doubling(state.old, kl, d_targ, bounds=limits) for limits in (None, held_in))
        return state._replace(old=old, old_held=jnp.float32(asked != old))

    return jnp.float32(first), steer


def _reference_controller(
    settings: Settings, target: float | None, gain: float | None
) -> tuple[Array | None, Steer]:
    """The first β of the KL to the reference, None where it is not steered, and what becomes of it."""
    if target is None:
        checks.read_only(False, "with a kl_target", kl_gain=gain)
        return None, lambda state, metrics: state
    pace = _given(gain, 0.1)
    checks.positive("kl_target", target)
    checks.positive("kl_gain", pace)
    checks.within("kl_gain", pace, 0, 5, below=True)
    if not settings.kl_coefficient > 0:
        raise ValueError("kl_target steers kl_coefficient, which stays at 0 for ever: give it a first value")

    def steer(state: Coefficients, metrics: dict[str, Array]) -> Coefficients:
        assert state.reference is not None  # it begins with one
        kl = metrics["kl_response"]
        return state._replace(
            reference=proportional(state.reference, kl, target, jnp.float32(pace), horizon=1.0)
        )

    return jnp.float32(settings.kl_coefficient), steer


def _old_kl(settings: Settings) -> Penalty:
    weigh = AGGREGATIONS[settings.aggregation](settings)
    return old_kl_penalty("k3", lambda state: state.old, weigh, bounds=settings.log_ratio_range)


def _response_kl(settings: Settings) -> Callable[[Batch, Array], dict[str, Array]]:
    """`kl_response`: Σ_t of what a row's actions are charged with before β, its KL to the reference in nats.

    Of every row and all of its actions, as a reward is charged, whatever is trained on. A full KL, in the
    loss, which the old policy's scores do not have, is estimated by k1.
    """
    sampled = settings if settings.kl_estimator != "full" else settings._replace(kl_estimator="k1")
    cost = charge(sampled)

    def watch(batch: Batch, unit_ids: Array) -> dict[str, Array]:
        spent = jnp.where(batch.rollout.action_mask, cost(batch.old, batch), 0)
        return {"kl_response": jnp.sum(spent, axis=1)}

    return watch


def _given(value: Any, default: Any) -> Any:
    return default if value is None else value
