"""The run of a tiny reward model, shared by the tests that need one."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import jax
import pytest
from rich.console import Console

from experiments.reading import from_config_dict
from experiments.reward_model.experiment import PreferencesConfig, RewardModelExperiment, default_config
from experiments.train_reward_model import train

STEPS = 6


def configure(**changes) -> RewardModelExperiment:
    """Two symbols backwards; `__` for the dot."""
    config = default_config().to_dict()
    config["task"] |= {"prompt_tokens": 3, "verifier": "places_right"}
    config["model"] |= {"width": 16, "heads": 2, "head_dim": 8, "mlp_width": 16}
    config["preferences"] |= {"pairs": 100, "held_out_pairs": 20, "response_tokens": 4}
    if "preferences__train" in changes:
        config["preferences"]["pairs"] = PreferencesConfig.pairs
    if "preferences__held_out" in changes:
        config["preferences"]["held_out_pairs"] = PreferencesConfig.held_out_pairs
    config["schedule"] |= {"steps": STEPS, "pairs": 16, "micro_batches": 2}
    config["evaluation"] |= {"every": 3, "batch": 16, "statistics": 40}
    config["checkpoint"] |= {"every": 2}
    for key, value in changes.items():
        section, _, name = key.rpartition("__")
        (config[section] if section else config)[name] = value
    return from_config_dict(RewardModelExperiment, config)


@contextlib.contextmanager
def one_device() -> Iterator[None]:
    """What is compiled inside is compiled for one device alone, which is quicker."""
    first = jax.devices()[:1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "devices", lambda *arguments: first)
        yield


def run(config: RewardModelExperiment, workdir: Path) -> str:
    """Runs to the end on one device, and gives what was printed."""
    with one_device(), (workdir.parent / "screen").open("w") as screen:
        train(config, workdir, Console(file=screen, width=200))
    return (workdir.parent / "screen").read_text()
