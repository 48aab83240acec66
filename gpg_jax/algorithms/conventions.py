"""What public systems choose where the papers are silent, or otherwise.

A setting is taken from the call, else from the convention for that method (`BY_METHOD`), else from the
method, else from the convention for that KL (`KL_IN_REWARD`, `KL_OF`), else from the convention, else from
`Settings`.
"""

from __future__ import annotations

import math
from typing import Any

CONVENTIONS: dict[str, dict[str, Any]] = {
    "paper": {},
    "seed": {"eps": 1e-8, "eps_placement": "inside"},
    "trl": {
        "ddof": 1,
        "eps": 1e-4,
        "log_ratio_range": None,
        "kl_range": None,
        "kl_importance_weighted": True,
        "entropy_aggregation": "token_mean",
        "correction_cap": 3.0,
    },
    "verl": {
        "ddof": 1,
        "eps": 1e-6,
        "singleton": "raw",
        "dual_clip": 3.0,
        "kl_range": None,
        "kl_order": "before",
    },
    "tunix": {"ddof": 1, "eps": 1e-6, "kl_estimator": "k1", "kl_range": None},
    "openrlhf": {
        "ddof": 1,
        "eps": 1e-9,
        "advantage_range": (-10.0, 10.0),
        "kl_estimator": "k1",
        "kl_placement": "reward",
        "kl_range": None,
        "kl_cost_range": (-10.0, 10.0),
        "kl_aggregation": "token_mean",
        "entropy_aggregation": "token_mean",
        "correction_floor": 0.5,
        "correction_cap": 5.0,
    },
    "oat": {
        "ddof": 1,
        "eps": 1e-8,
        "log_ratio_range": None,
        "kl_range": (-40.0, 40.0),
        "kl_order": "before",
        "correction": "token",
        "truncated_reward": 0.0,
    },
}
"""Convention -> settings."""

KL_IN_REWARD: dict[str, dict[str, Any]] = {
    convention: {"kl_estimator": "k1"} for convention in ("paper", "seed", "trl", "verl", "oat")
}
"""Convention -> settings where the KL is in the reward.

It is log π − log π_ref (Ziegler et al. 2019, arXiv 1909.08593, eq. 2), which `CONVENTIONS` has for OpenRLHF
and Tunix in the loss too. Nothing is differentiated in a reward: there k1 gives ∇KL(π‖π_ref), and k3 for one
token ∇KL(π‖π_ref) − ∇KL(π_ref‖π), of which near the reference next to nothing is left.
"""

_CHARGE_OTHERS = ("trl", "verl", "tunix", "openrlhf")
"""Conventions of systems that charge another estimator in the reward where they are asked to."""

_LOW_VARIANCE = {"kl_range": (-20.0, 20.0), "kl_cost_range": (-10.0, 10.0)}
KL_OF: dict[str, dict[str, dict[str, Any]]] = {"verl": {"k3": _LOW_VARIANCE, "k3+": _LOW_VARIANCE}}
"""Convention -> estimator -> settings."""

_CLIP = {"clip_low": 0.2, "clip_high": 0.2}
_BY_TOKEN = {"aggregation": "token_mean"}
_BELOW_10 = {"log_ratio_range": (-math.inf, 10.0)}
_GSPO: dict[str, dict[str, Any] | str] = {
    "trl": {"kl_ratio": "unit", **_CLIP, **_BY_TOKEN},
    "verl": {**_CLIP, **_BY_TOKEN, **_BELOW_10},
    "tunix": {"kl_coefficient": 0.04, **_CLIP, **_BELOW_10},
    "openrlhf": {"kl_coefficient": 0.01, "log_ratio_range": None, **_CLIP},
}
_SYSTEMS = ("trl", "verl", "tunix", "openrlhf", "oat")
_OF_A_CRITIC = (
    "where that system has it, its λ, value clip and whitening are its own and not among the settings; give "
    "what differs as arguments"
)
_WHITENED = "OpenRLHF whitens these advantages over the tokens of the batch and clips a ratio"

BY_METHOD: dict[str, dict[str, dict[str, Any] | str]] = {
    "grpo": {
        "trl": {"kl_coefficient": 0.0, **_BY_TOKEN},
        "verl": {"kl_coefficient": 0.0, **_BY_TOKEN},
        "openrlhf": {"kl_coefficient": 0.01, **_BY_TOKEN},
        "oat": {"kl_coefficient": 0.0},
    },
    "dr_grpo": {"tunix": {"kl_coefficient": 0.04}, "openrlhf": {"kl_coefficient": 0.01, **_BY_TOKEN}},
    "dapo": {"verl": {"dual_clip": 10.0}},
    "gspo": _GSPO,
    "gspo_token": _GSPO,
    # verl averages SAPO's surrogate by rows whatever its aggregation, and the rest by that
    "sapo": {"verl": {"kl_aggregation": "token_mean", "entropy_aggregation": "token_mean"}},
    "rloo": {
        "trl": {
            "ratio": "unit_product",
            "clip": 0.2,
            "aggregation": "unit_mean",
            "kl_coefficient": 0.05,
            "kl_estimator": "k1",
            "kl_placement": "reward",
        },
        "verl": {"ratio": "token", "clip": 0.2, **_BY_TOKEN},
        "tunix": {"ratio": "token", "clip": 0.2, "aggregation": "sequence_mean", "kl_coefficient": 0.04},
        "openrlhf": {
            "ratio": "token",
            "clip": 0.2,
            "kl_coefficient": 0.01,
            "kl_order": "after",
            **_BY_TOKEN,
        },
    },
    "reinforce": {"openrlhf": _WHITENED},
    "reinforce_group": {"openrlhf": _WHITENED},
    "gpg": {"verl": "verl's `gpg` is Group Policy Gradient (arXiv 2504.02546), another algorithm"},
    **{name: dict.fromkeys(_SYSTEMS, _OF_A_CRITIC) for name in ("a2c", "ppo", "vapo", "trpo")},
    "cpi": dict.fromkeys(_SYSTEMS, "none of these systems has it"),
}
"""Method -> convention -> settings and arguments of the method, or why there is no such method."""


def charging_others(name: str) -> tuple[str, ...]:
    """The conventions of a method under which the KL in the reward may have another estimator than k1.

    Args:
      name: a key of `ALGORITHMS`, or any other name.
    """
    own = BY_METHOD.get(name, {})
    return tuple(convention for convention in _CHARGE_OTHERS if not isinstance(own.get(convention), str))


def method_defaults(name: str, options: dict[str, Any]) -> dict[str, Any]:
    """What a method's convention says of that method: settings, and arguments of its own.

    Args:
      name: a key of `ALGORITHMS`; any other name has no such defaults.
      options: the caller's, of which `convention` is read.

    Returns:
      Setting or argument -> value.

    Raises:
      ValueError: an unknown convention, or one under which the name means something else.
    """
    convention = options.get("convention", "paper")
    if convention not in CONVENTIONS:
        raise ValueError(f"no convention {convention!r}; there are {', '.join(CONVENTIONS)}")
    defaults = BY_METHOD.get(name, {}).get(convention, {})
    if isinstance(defaults, str):
        raise ValueError(f"{name!r} has no convention {convention!r}: {defaults}; take another convention")
    return defaults


def layered(convention: str, given: dict[str, Any], unsaid: dict[str, Any]) -> dict[str, Any]:
    """Every setting: what was given, else the convention's, else what holds where nothing was said.

    Args:
      convention: a key of `CONVENTIONS`.
      given: the caller's and the method's settings.
      unsaid: every setting's default.

    Returns:
      Setting -> value.
    """
    base = {**unsaid, **CONVENTIONS[convention]}
    if {**base, **given}["kl_placement"] == "reward":
        base |= KL_IN_REWARD.get(convention, {})
    estimator = {**base, **given}["kl_estimator"]
    return {**base, **KL_OF.get(convention, {}).get(estimator, {}), **given}
