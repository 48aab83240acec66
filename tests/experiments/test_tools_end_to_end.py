"""A run from end to end with a real tool: demonstrations, calls that are answered, forks, rewards, a report."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from experiments import output, records
from gpg_jax.environments.calculator import calculate

ROOT = Path(__file__).parents[2]


def test_a_policy_calls_is_answered_and_forks(tmp_path):
    flags = [
        "--config=configs/arpo_calculator.py", f"--workdir={tmp_path / 'w'}", "--config.model.layers=2",
        "--config.cold_start.steps=60", "--config.cold_start.batches=4", "--config.cold_start.learning_rate=4e-3",
        "--config.schedule.steps=2", "--config.schedule.prompts=8", "--config.schedule.minibatches=1",
        "--config.branching.mode=random", "--config.branching.roots=4", "--config.evaluation.every=0",
        "--config.evaluation.examples=8", "--config.checkpoint.every=60", "--config.output.rollouts=1",
    ]  # fmt: skip
    alone = os.environ | {"XLA_FLAGS": "", "JAX_PLATFORMS": "cpu"}
    child = subprocess.run(
        [sys.executable, "-m", "experiments.train", *flags],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=alone,
    )
    assert child.returncode == 0, child.stderr
    lines = [line for line in records.read(tmp_path / "w" / output.METRICS) if line["step"] > 60]
    trained = [line for line in lines if "reward" in line]
    assert len(trained) == 2 and all(line["tool_calls"] > 20 for line in trained)
    rollout = output.read_rollout(tmp_path / "w" / "rollouts" / "62.npz")
    assert (rollout.parent != np.arange(64)).sum() > 4
    response = (np.arange(rollout.tokens.shape[1]) >= rollout.prompt_length[:, None]) & (
        np.arange(rollout.tokens.shape[1]) < rollout.length[:, None]
    )
    assert (response & ~rollout.action_mask).sum() > 100  # what the calculator wrote
    said = [json.loads(line) for line in (tmp_path / "w" / output.TRANSCRIPTS).read_text().splitlines()]
    print(said[-1], lines[-1])
