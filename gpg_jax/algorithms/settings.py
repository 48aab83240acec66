"""What methods share and peers differ in, by name and with one default: the paper's.

What the conventions say is in `conventions`, what is refused in `checks`.
"""

from __future__ import annotations

import difflib
from typing import Any, Literal, NamedTuple

from gpg_jax.algorithms.checks import check_combination, check_values
from gpg_jax.algorithms.conventions import charging_others, layered, method_defaults
from gpg_jax.estimators.groups import EpsPlacement, Singleton, StdOver


class Settings(NamedTuple):
    """Every choice that is not the method's own.

    Attributes:
      convention: whose defaults fill in the rest; a key of `conventions.CONVENTIONS`.
      ddof: degrees of freedom that the group's mean takes from its std, 0 or 1.
      eps: ε of the group's std.
      eps_placement: "outside" the root or "inside" it.
      singleton: advantage of a row alone in its group: "zero", or "raw", its return.
      std_over: whose std divides: "group" or "batch".
      advantage_range: where the advantage of a row is held, or None; it holds 0.
      aggregation: a key of `compose.AGGREGATIONS`.
      max_length: T of the aggregation "constant_length", in tokens.
      log_ratio_range: where log π_θ − log π_old is held against overflow, or None; reported as
        `log_ratio_clamped`, and as `kl_clamped` where its KL is penalised.
      dual_clip: the bound c of the dual clip, or None.
      kl_coefficient: β of the KL to the reference; 0 needs no reference.
      kl_estimator: "k1", "k2", "k3", "abs", one of these with "+" (its value, k2's gradient), or "full";
        in the reward "k1" unless given, and another one only where the convention's system has it.
      kl_placement: "loss" or "reward".
      kl_order: the KL in the reward is charged "before" rows are compared, as a part of what is compared, or
        "after", to each token by what it and those behind it cost.
      kl_importance_weighted: whether the KL in the loss is multiplied by a ratio, for k1 and k3.
      kl_ratio: whose ratio, the "token"'s or the method's own, the "unit"'s.
      kl_range: where log π_ref − log π is held, or None.
      kl_cost_range: where the estimate is held, or None.
      kl_aggregation: of the KL in the loss, a key of `compose.AGGREGATIONS`; the surrogate's for None.
      entropy_coefficient: c of the entropy bonus.
      entropy_aggregation: of the bonus; the surrogate's for None.
      correction: sampler to trainer: "none", "token", "sequence", "token_mask" or "sequence_mask".
      correction_floor: least correction weight; what is below becomes it, or 0 for the masks.
      correction_cap: largest correction weight; what is above becomes it, or 0 for the masks.
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
    kl_order: Literal["before", "after"] = "after"
    kl_importance_weighted: bool = False
    kl_ratio: Literal["token", "unit"] = "token"
    kl_range: tuple[float, float] | None = (-20.0, 20.0)
    kl_cost_range: tuple[float, float] | None = None
    kl_aggregation: str | None = None
    entropy_coefficient: float = 0.0
    entropy_aggregation: str | None = None
    correction: str = "none"
    correction_floor: float = 0.0
    correction_cap: float = 2.0
    truncated_reward: float | None = None
    drop_truncated: bool = False
    truncated_in_statistics: bool = True


GROUP_STD = frozenset({"ddof", "eps", "eps_placement", "std_over"})
"""Settings that only a group's std reads."""

GROUP = GROUP_STD | {"singleton", "truncated_in_statistics"}
"""Settings that only a group baseline reads."""


def resolve(
    options: dict[str, Any], without: frozenset[str] = frozenset(), *, name: str = "", **method: Any
) -> Settings:
    """The settings of a method under its convention and the caller's options.

    Args:
      options: the caller's.
      without: settings that the method does not read, which the caller may not give.
      name: the method's, a key of `conventions.BY_METHOD` where conventions treat it by itself.
      **method: the method's own defaults.

    Returns:
      The settings.

    Raises:
      ValueError: an unknown setting or convention, a value that a setting cannot have, or one that was given
        and would do nothing.
    """
    for option in options:
        if option not in Settings._fields:
            near = difflib.get_close_matches(option, Settings._fields, n=1, cutoff=0)[0]
            raise ValueError(f"a method has no setting {option!r}; the nearest is {near!r}")
        if option in without:
            raise ValueError(f"this method does not read {option!r}: leave it out")
    by_method = method_defaults(name, options)
    shared = {key: value for key, value in by_method.items() if key in Settings._fields}
    chosen = layered(
        options.get("convention", "paper"), {**method, **shared, **options}, Settings._field_defaults
    )
    check_values(chosen)
    check_combination(chosen, options, charging_others(name))
    return Settings(**chosen)


def own_default(name: str, argument: str, given: Any, options: dict[str, Any], paper: Any) -> Any:
    """A method's own argument: as given, else its convention's for that method, else the paper's.

    Args:
      name: the method's.
      argument: the argument's.
      given: the caller's, or None.
      options: the caller's settings, of which `convention` is read.
      paper: the paper's.
    """
    return method_defaults(name, options).get(argument, paper) if given is None else given
