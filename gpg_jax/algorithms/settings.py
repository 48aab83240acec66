"""What methods share and peers differ in, by name and with one default: the paper's.

A setting is taken from the call, else from the method, else from the convention, else from here.
"""

from __future__ import annotations

import difflib
from typing import Any, NamedTuple

from gpg_jax.estimators.groups import EpsPlacement, Singleton, StdOver


class Settings(NamedTuple):
    """Every choice that is not the method's own.

    Attributes:
      convention: whose defaults fill in the rest; a key of `CONVENTIONS`.
      ddof: degrees of freedom that the group's mean takes from its std, 0 or 1.
      eps: ε of the group's std.
      eps_placement: "outside" the root or "inside" it.
      singleton: advantage of a row alone in its group: "zero", or "raw", its return.
      std_over: whose std divides: "group" or "batch".
      advantage_range: where the advantage is held, or None.
      aggregation: a key of `compose.AGGREGATIONS`.
      max_length: T of the aggregation "constant_length", in tokens.
      log_ratio_range: where log-ratios are held against overflow (reported as `log_ratio_clamped`), or None.
      dual_clip: the bound c of the dual clip, or None.
      kl_coefficient: β of the KL to the reference; 0 needs no reference.
      kl_estimator: "k1", "k2", "k3", "abs", "k3+" or "full".
      kl_placement: "loss" or "reward".
      kl_importance_weighted: whether the KL in the loss is multiplied by the ratio.
      kl_range: where log π_ref − log π is held, or None.
      kl_cost_range: where the estimate is held, or None.
      entropy_coefficient: c of the entropy bonus.
      correction: sampler to trainer: "none", "token", "sequence", "token_mask" or "sequence_mask".
      correction_cap: largest correction weight.
      truncated_reward: reward of a truncated row instead of its own, or None.
      drop_truncated: whether truncated rows leave the loss, numerator and denominator.
      truncated_in_statistics: whether truncated rows enter the group's mean and std.
    """

    convention: str = "paper"
    ddof: int = 0
    eps: float = 0.0
    eps_placement: EpsPlacement = "outside"
    singleton: Singleton = "zero"
    std_over: StdOver = "group"
    advantage_range: tuple[float, float] | None = None
    aggregation: str = "sequence_mean"
    max_length: int = 3000
    log_ratio_range: tuple[float, float] | None = (-20.0, 20.0)
    dual_clip: float | None = None
    kl_coefficient: float = 0.0
    kl_estimator: str = "k3"
    kl_placement: str = "loss"
    kl_importance_weighted: bool = False
    kl_range: tuple[float, float] | None = (-20.0, 20.0)
    kl_cost_range: tuple[float, float] | None = None
    entropy_coefficient: float = 0.0
    correction: str = "none"
    correction_cap: float = 2.0
    truncated_reward: float | None = None
    drop_truncated: bool = False
    truncated_in_statistics: bool = True


_UNCLAMPED: dict[str, Any] = {"log_ratio_range": None, "kl_range": None}

CONVENTIONS: dict[str, dict[str, Any]] = {
    "paper": {},
    "seed": {"eps": 1e-8, "eps_placement": "inside"},
    "trl": {"ddof": 1, "eps": 1e-4, "kl_importance_weighted": True, **_UNCLAMPED},
    "verl": {
        "ddof": 1,
        "eps": 1e-6,
        "singleton": "raw",
        "dual_clip": 3.0,
        "kl_cost_range": (-10.0, 10.0),
    },
    "tunix": {"ddof": 1, "eps": 1e-6, "kl_estimator": "k1", "kl_range": None},
    "openrlhf": {
        "ddof": 1,
        "eps": 1e-9,
        "kl_estimator": "k1",
        "kl_placement": "reward",
        "kl_range": None,
        "kl_cost_range": (-10.0, 10.0),
        "advantage_range": (-10.0, 10.0),
    },
    "oat": {"ddof": 1, "eps": 1e-8, "truncated_reward": 0.0, **_UNCLAMPED},
}
"""What public systems choose where the papers are silent, or otherwise: convention -> settings."""


GROUP_STD = frozenset({"ddof", "eps", "eps_placement", "std_over"})
"""Settings that only a group's std reads."""

GROUP = GROUP_STD | {"singleton", "truncated_in_statistics"}
"""Settings that only a group baseline reads."""


def resolve(options: dict[str, Any], without: frozenset[str] = frozenset(), **method: Any) -> Settings:
    """The settings of a method under its convention and the caller's options.

    Args:
      options: the caller's.
      without: settings that the method does not read, which the caller may not give.
      **method: the method's own defaults.

    Returns:
      The settings.

    Raises:
      ValueError: an unknown setting or convention, or one that would do nothing.
    """
    for name in options:
        if name not in Settings._fields:
            near = difflib.get_close_matches(name, Settings._fields, n=1, cutoff=0)[0]
            raise ValueError(f"a method has no setting {name!r}; the nearest is {near!r}")
        if name in without:
            raise ValueError(f"this method does not read {name!r}: leave it out")
    convention = options.get("convention", "paper")
    if convention not in CONVENTIONS:
        raise ValueError(f"no convention {convention!r}; there are {', '.join(CONVENTIONS)}")
    settings = Settings(**{**CONVENTIONS[convention], **method, **options})
    if settings.kl_coefficient < 0:
        raise ValueError(f"kl_coefficient must not be negative, got {settings.kl_coefficient}")
    if "max_length" in options and settings.aggregation != "constant_length":
        raise ValueError(f'max_length is read by "constant_length" alone, not by {settings.aggregation!r}')
    return settings
