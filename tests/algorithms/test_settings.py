"""Settings: precedence, conventions, and mistakes that are caught before anything compiles."""

from __future__ import annotations

import inspect
import pkgutil
from importlib import import_module

import pytest

import gpg_jax
from gpg_jax.algorithms import ALGORITHMS, GROUPED
from gpg_jax.algorithms.settings import CONVENTIONS, Settings, resolve


def test_a_call_wins_over_the_method_over_the_convention_over_the_paper():
    assert resolve({}).ddof == 0
    assert resolve({"convention": "trl"}).ddof == 1
    assert resolve({"convention": "trl"}, ddof=0).ddof == 0
    assert resolve({"convention": "trl", "ddof": 1}, ddof=0).ddof == 1


def test_conventions_name_settings():
    for convention in CONVENTIONS.values():
        assert set(convention) <= set(Settings._fields)


@pytest.mark.parametrize("name", ALGORITHMS)
@pytest.mark.parametrize("convention", CONVENTIONS)
def test_every_method_has_every_convention(name, convention):
    assert ALGORITHMS[name](convention=convention).objective.gate is not None


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("grpo", {"kl_coeficient": 0.1}, "nearest is 'kl_coefficient'"),
        ("grpo", {"convention": "trll"}, "no convention 'trll'; there are paper"),
        ("grpo", {"aggregation": "mean"}, "no aggregation 'mean'; there are token_sum"),
        ("grpo", {"correction": "tis"}, "no correction 'tis'; there are none"),
        ("grpo", {"kl_estimator": "k4"}, "no KL estimator 'k4'"),
        ("dapo", {"kl_estimator": "k4"}, "no KL estimator 'k4'"),
        ("grpo", {"kl_placement": "prompt"}, '"loss" or "reward"'),
        ("grpo", {"kl_placement": "reward", "kl_estimator": "full"}, "at the sampled token"),
        ("grpo", {"kl_coefficient": -0.1}, "must not be negative"),
        ("grpo", {"max_length": 100}, '"constant_length" alone'),
        ("grpo", {"log_ratio_range": (1.0, 2.0)}, "must hold 0"),
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


def test_every_public_function_of_the_mathematics_says_what_it_does():
    for package in ("estimators", "losses", "algorithms"):
        root = import_module(f"gpg_jax.{package}")
        for module in pkgutil.iter_modules(root.__path__, f"{gpg_jax.__name__}.{package}."):
            found = import_module(module.name)
            assert found.__doc__, module.name
            for name, value in vars(found).items():
                own = getattr(value, "__module__", None) == module.name
                if own and inspect.isroutine(value) and not name.startswith("_"):
                    assert value.__doc__ and value.__doc__[0] != "\n", f"{module.name}.{name}"
