"""Settings: precedence, conventions, and mistakes that are caught before anything compiles."""

from __future__ import annotations

import inspect
import math
import pkgutil
from importlib import import_module

import examples
import numpy as np
import pytest

import gpg_jax
from gpg_jax.algorithms import ALGORITHMS, GROUPED
from gpg_jax.algorithms.conventions import BY_METHOD, CONVENTIONS, KL_IN_REWARD, KL_OF
from gpg_jax.algorithms.settings import Settings, resolve
from gpg_jax.losses import objective
from gpg_jax.types import STOP_EOS, STOP_LENGTH, Scores

HAVE = [
    (name, convention)
    for name in ALGORITHMS
    for convention in CONVENTIONS
    if not isinstance(BY_METHOD.get(name, {}).get(convention), str)
]
"""Methods and the conventions that they have."""


def test_a_call_wins_over_the_method_over_the_convention_over_the_paper():
    assert resolve({}).ddof == 0
    assert resolve({"convention": "trl"}).ddof == 1
    assert resolve({"convention": "trl"}, ddof=0).ddof == 0
    assert resolve({"convention": "trl", "ddof": 1}, ddof=0).ddof == 1


def test_a_convention_may_treat_a_method_or_a_kl_by_itself():
    assert resolve({"convention": "trl"}, name="grpo", kl_coefficient=0.04).kl_coefficient == 0
    assert resolve({"convention": "trl", "kl_coefficient": 0.1}, name="grpo").kl_coefficient == 0.1
    verl = {"convention": "verl", "kl_coefficient": 0.1}
    assert resolve(verl).kl_cost_range == (-10, 10)
    assert resolve(verl | {"kl_estimator": "k2"}).kl_cost_range is None
    assert resolve(verl | {"kl_placement": "reward"}).kl_estimator == "k1"
    assert resolve(verl | {"kl_placement": "reward", "kl_estimator": "k3"}).kl_cost_range == (-10, 10)


def test_conventions_name_settings():
    by_kl = [settings for estimators in KL_OF.values() for settings in estimators.values()]
    for settings in [*CONVENTIONS.values(), *KL_IN_REWARD.values(), *by_kl]:
        assert set(settings) <= set(Settings._fields)
    for name, conventions in BY_METHOD.items():
        own = inspect.signature(ALGORITHMS[name]).parameters
        for convention, settings in conventions.items():
            assert convention in CONVENTIONS
            assert isinstance(settings, str) or set(settings) <= {*Settings._fields, *own}


def far_off_policy():
    """Log-ratios up to ±30 and KLs beyond every clamp, rows cut off, a row that never acted."""
    batch, scores = examples.random_batch(seed=7)
    mask = np.asarray(batch.rollout.action_mask) & (np.arange(8) != 5)[:, None]
    stop = np.where(np.arange(8) % 3 == 1, STOP_LENGTH, STOP_EOS).astype(np.int32)
    step = np.resize(np.float32([30, -30, 0.1, -0.3, 11, -21]), mask.shape)
    rollout = batch.rollout.replace(action_mask=mask, stop=stop)
    old = batch.old._replace(log_prob=np.where(mask, -31.0, -np.inf).astype(np.float32))
    reference = Scores(np.where(mask, -31.0 - step, np.nan).astype(np.float32))
    new = scores._replace(log_prob=np.where(mask, -31.0 + step, np.nan).astype(np.float32))
    return batch._replace(rollout=rollout, old=old, reference=reference), new, mask


@pytest.mark.parametrize(("name", "convention"), HAVE)
def test_coefficients_are_finite_under_every_convention(name, convention):
    batch, new, mask = far_off_policy()
    method = ALGORITHMS[name](convention=convention)
    push = np.asarray(objective.coefficients(method, batch, new))
    assert np.all(np.isfinite(push))
    assert np.any(push != 0) and np.all(push[~mask] == 0)


@pytest.mark.parametrize(("name", "convention"), sorted({(n, c) for n in BY_METHOD for c in BY_METHOD[n]}))
def test_a_method_under_another_meaning_is_refused(name, convention):
    if (name, convention) not in HAVE:
        with pytest.raises(ValueError, match=f"'{name}' has no convention '{convention}'"):
            ALGORITHMS[name](convention=convention)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("grpo", {"kl_coeficient": 0.1}, "nearest is 'kl_coefficient'"),
        ("grpo", {"convention": "trll"}, "no convention 'trll'; there are paper"),
        ("grpo", {"aggregation": "mean"}, "no aggregation 'mean'; there are token_sum"),
        ("grpo", {"correction": "tis"}, "no correction 'tis'; there are none"),
        ("grpo", {"kl_estimator": "k4"}, "no KL estimator 'k4'"),
        ("dapo", {"kl_estimator": "k4"}, "no KL estimator 'k4'"),
        ("grpo", {"kl_placement": "prompt"}, "one of 'loss', 'reward', got 'prompt'"),
        ("grpo", {"kl_placement": "reward", "kl_estimator": "full"}, "at the sampled token"),
        ("grpo", {"kl_coefficient": -0.1}, "must not be negative"),
        ("grpo", {"max_length": 100}, 'only by the aggregation "constant_length"'),
        ("grpo", {"log_ratio_range": (1.0, 2.0)}, "must hold 0"),
        ("vanilla", {"discount": 2.0}, r"discount must be a finite number in \[0, 1\], got 2.0"),
        ("vanilla", {"decay": -0.1}, "decay must be"),
        ("reinforce_running", {"decay": 1.0}, r"decay must be a finite number in \[0, 1\), got 1.0"),
        ("reinforce_constant", {"baseline": math.nan}, "baseline must be a finite number, got nan"),
        ("gpg", {"unit_count": 0}, "unit_count must be a whole number of at least 1"),
        ("gpg", {"unit_length": 0}, "unit_length must be a whole number of at least 1"),
        ("gpg", {"clip_low": math.nan}, "clip ranges must not be negative, nor nan"),
        ("dapo", {"clip_high": -1.0}, "clip ranges must not be negative"),
        ("gspo", {"clip_low": -1.0}, "clip ranges must not be negative"),
        ("sapo", {"temperature_negative": math.nan}, "temperature_negative must be a finite number"),
        ("dapo", {"max_response": 0}, "max_response must be a whole number"),
        ("rloo", {"clip": 0.2}, 'give ratio="token" too'),
        ("rloo", {"ratio": "token", "clip": -0.2}, "clip ranges"),
        ("rloo", {"ratio": "unit"}, "ratio must be one of 'none'"),
        ("rloo", {"ratio": "unit_product", "aggregation": "token_mean"}, "counts once"),
        ("rloo", {"kl_order": "after"}, "kl_order is read only where kl_coefficient is positive"),
        ("vanilla", {"kl_order": "after"}, "does not read 'kl_order'"),
        ("gspo", {"kl_ratio": "unit", "kl_coefficient": 0.1}, "read only by an importance-weighted KL"),
        (
            "grpo",
            {"kl_coefficient": 0.1, "kl_placement": "reward", "kl_importance_weighted": True},
            "by a KL in the loss",
        ),
        ("grpo", {"clip": -0.2}, "must not be negative"),
        ("rloo", {"ddof": 1}, "does not read 'ddof'"),
        ("reinforce", {"dual_clip": 3.0}, "does not read 'dual_clip'"),
        ("dr_grpo", {"eps": 1e-6}, "does not read 'eps'"),
        ("sapo", {"dual_clip": 3.0}, "does not read 'dual_clip'"),
        ("sapo", {"temperature_positive": 0.0}, "at least 1e-3"),
        ("dapo", {"overlong_cache": 30000}, "cache_length <= max_length"),
        ("gspo", {"kl_coefficient": 0.1, "kl_placement": "reward"}, "use gspo_token"),
        ("gpg", {"unit_count": 2, "unit_length": 3}, "give one of"),
        ("gpg", {"ratio": "mean"}, "no ratio 'mean'"),
    ],
)
def test_mistakes_are_sentences(name, options, message):
    with pytest.raises(ValueError, match=message):
        ALGORITHMS[name](**options)


NAN = math.nan
WRONG = {
    "ddof": [2, -1, 0.5],
    "eps": [-1.0, NAN, math.inf],
    "singleton": ["x"],
    "std_over": ["y"],
    "eps_placement": ["z"],
    "advantage_range": [(1.0, -1.0), (1.0, 2.0), (0.0, 0.0), (NAN, 1.0), (1.0,)],
    "kl_range": [(5.0, -5.0), (1.0, 2.0), (-1.0, NAN)],
    "kl_cost_range": [(3.0, 4.0), (4.0, -4.0), (0.0, NAN)],
    "log_ratio_range": [(5.0, -5.0), (3.0, 4.0), (NAN, NAN)],
    "dual_clip": [NAN, math.inf, -3.0, 1.0],
    "kl_coefficient": [-0.1, NAN, math.inf],
    "kl_order": ["first"],
    "kl_ratio": ["row"],
    "kl_importance_weighted": ["no"],
    "kl_aggregation": ["mean"],
    "entropy_coefficient": [-1.0, NAN],
    "correction_floor": [-0.1, 2.0, NAN],
    "correction_cap": [-3.0, 0.0, NAN],
    "truncated_reward": [NAN],
    "drop_truncated": ["no"],
    "truncated_in_statistics": ["no"],
    "max_length": [0, -3, NAN],
}


@pytest.mark.parametrize("name", ["grpo", "dapo", "gspo_token", "gpg"])
@pytest.mark.parametrize(("setting", "value"), [(key, x) for key, xs in WRONG.items() for x in xs])
def test_a_value_that_a_setting_cannot_have_is_refused_at_once(name, setting, value):
    with pytest.raises(ValueError, match=f"{setting}|aggregation|dual clip|singleton"):
        ALGORITHMS[name](**{setting: value})


@pytest.mark.parametrize("value", [-3.0, 0.0, NAN])
def test_a_correction_cap_is_checked_with_and_without_a_correction(value):
    for options in ({}, {"correction": "token"}, {"correction": "sequence_mask"}):
        with pytest.raises(ValueError, match="correction_cap"):
            ALGORITHMS["grpo"](correction_cap=value, **options)


@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.parametrize(
    ("options", "setting"),
    [
        ({"kl_estimator": "k1"}, "kl_estimator"),
        ({"kl_placement": "loss"}, "kl_placement"),
        ({"kl_importance_weighted": False}, "kl_importance_weighted"),
        ({"kl_range": (-1.0, 1.0)}, "kl_range"),
        ({"kl_cost_range": None}, "kl_cost_range"),
        ({"kl_aggregation": "token_sum"}, "kl_aggregation"),
        ({"entropy_aggregation": "token_sum"}, "entropy_aggregation"),
        ({"correction": "none", "correction_cap": 3.0}, "correction_cap"),
        ({"correction": "none", "correction_floor": 0.1}, "correction_floor"),
        ({"eps": 0.0, "eps_placement": "inside"}, "eps_placement"),
    ],
)
def test_a_setting_that_would_do_nothing_is_refused(convention, options, setting):
    with pytest.raises(ValueError, match=f"{setting} is read only"):
        ALGORITHMS["grpo"](convention=convention, kl_coefficient=0.0, **options)
    ALGORITHMS["grpo"](convention=convention, kl_coefficient=0.0)


@pytest.mark.parametrize("estimator", ["k2", "k3+", "abs", "k1+", "full"])
@pytest.mark.parametrize("options", [{"kl_importance_weighted": True}, {"convention": "trl"}])
def test_an_importance_weighted_kl_is_of_k1_or_k3(estimator, options):
    with pytest.raises(ValueError, match="for k1 and k3 alone"):
        ALGORITHMS["grpo"](kl_coefficient=0.1, kl_estimator=estimator, **options)
    for right in ("k1", "k3"):
        ALGORITHMS["grpo"](kl_coefficient=0.1, kl_estimator=right, **options)


def test_the_order_of_a_kl_in_the_reward():
    """Before the comparison every action of a row has one advantage, after it each has its own."""
    batch, _ = examples.random_batch(seed=2)
    mask = np.asarray(batch.rollout.action_mask)
    spread = {}
    for order in ("before", "after"):
        options = {"kl_coefficient": 0.1, "kl_placement": "reward", "kl_order": order}
        for name in ("grpo", "rloo"):
            advantage = objective.estimate(ALGORITHMS[name](**options), batch, ())[0].advantage
            spread[name, order] = max(
                np.ptp(np.asarray(row)[acts]) for row, acts in zip(advantage, mask, strict=True)
            )
        push = ALGORITHMS["gspo"](**options) if order == "before" else ALGORITHMS["gspo_token"](**options)
        assert push.needs == {"reference", "old"}
    assert spread["grpo", "before"] == spread["rloo", "before"] == 0
    assert min(spread["grpo", "after"], spread["rloo", "after"]) > 0.01


@pytest.mark.parametrize("name", ALGORITHMS)
def test_grouped_methods_learn_nothing_from_a_group_of_one(name):
    batch, _ = examples.random_batch(seed=6)
    alone = batch._replace(rollout=batch.rollout.replace(group=np.arange(8, dtype=np.int32)))
    method = ALGORITHMS[name](**({} if name != "grpo" else {"kl_coefficient": 0.0}))
    estimated, _ = objective.estimate(method, alone, method.state)
    learns = np.any(np.asarray(estimated.advantage) != 0) and np.any(np.asarray(estimated.keep))
    assert learns == (name not in GROUPED)


@pytest.mark.parametrize(
    ("name", "options", "needs"),
    [
        ("grpo", {}, {"reference"}),
        ("grpo", {"kl_coefficient": 0.0}, set()),
        ("grpo", {"kl_estimator": "full"}, {"reference", "kl_ref"}),
        ("rloo", {"kl_coefficient": 0.1, "kl_placement": "reward"}, {"reference", "old"}),
        ("dapo", {"entropy_coefficient": 0.1, "correction": "token"}, {"entropy", "old"}),
        ("reinforce_optimal", {}, {"score_square", "old"}),
        ("sapo", {}, set()),
    ],
)
def test_a_method_asks_for_what_it_reads(name, options, needs):
    assert ALGORITHMS[name](**options).needs == needs


def test_the_table():
    assert set(ALGORITHMS) > GROUPED
    assert [name for name in ALGORITHMS if ALGORITHMS[name]().resample] == ["dapo"]
    for name, constructor in ALGORITHMS.items():
        assert constructor.__name__ == name


@pytest.mark.parametrize(
    "package", ["estimators", "losses", "algorithms", "environments", "decoding", "policies"]
)
def test_every_public_function_says_what_it_does(package):
    root = import_module(f"gpg_jax.{package}")
    for module in pkgutil.iter_modules(root.__path__, f"{gpg_jax.__name__}.{package}."):
        found = import_module(module.name)
        assert found.__doc__, module.name
        for name, value in vars(found).items():
            own = getattr(value, "__module__", None) == module.name
            if own and inspect.isroutine(value) and not name.startswith("_"):
                assert value.__doc__ and value.__doc__[0] != "\n", f"{module.name}.{name}"
