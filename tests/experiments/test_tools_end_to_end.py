"""A run from end to end with a real tool: demonstrations, calls that are answered, forks, an update."""

from __future__ import annotations

import re

import numpy as np
from children import ended, start

from configs.arpo_calculator import get_config
from experiments import output, records
from experiments.config import Experiment
from experiments.reading import from_config_dict
from experiments.tasks import load_task
from gpg_jax.environments.calculator import calculate
from gpg_jax.types import STOP_TOOL_LIMIT

COLD = 40
CALL = re.compile(r"<calculator>([^<>]*)</calculator> <result>\n([^<>]*)\n</result>")


def test_a_policy_calls_is_answered_and_forks(tmp_path):
    flags = [
        "--config=configs/arpo_calculator.py", f"--workdir={tmp_path / 'w'}", "--config.model.layers=2",
        f"--config.cold_start.steps={COLD}", "--config.cold_start.batches=4",
        "--config.cold_start.learning_rate=6e-3", "--config.schedule.steps=2", "--config.schedule.prompts=8",
        "--config.schedule.minibatches=1", "--config.branching.mode=random", "--config.branching.roots=4",
        "--config.evaluation.examples=-1", f"--config.checkpoint.every={COLD}", "--config.output.rollouts=1",
    ]  # fmt: skip
    code, said = ended(start("train", *flags))
    assert code == 0, said
    lines = [line for line in records.read(tmp_path / "w" / output.METRICS) if line["step"] > COLD]
    assert len(lines) == 2 and all(line["tool_calls"] > 20 and "reward" in line for line in lines)

    rollout = output.read_rollout(tmp_path / "w" / "rollouts" / f"{COLD + 2}.npz")
    rows = np.arange(len(rollout.tokens))
    assert (rollout.parent != rows).sum() > 4
    assert lines[1]["forks"] == (rollout.parent != rows).sum() / 8
    task = load_task(from_config_dict(Experiment, get_config()))
    answered = no_room = 0
    for row in rows:
        begin, end = rollout.prompt_length[row], rollout.length[row]
        text = task.tokenizer.decode_all(rollout.tokens[row, begin:end].tolist())
        acted = rollout.action_mask[row, begin:end]
        for call, result in CALL.findall(text):
            try:
                assert result == calculate(call)
            except ValueError:
                continue  # what is no expression is answered with what is wrong with it
            answered += 1
        assert (~acted).any() == ("<result>" in text)  # results are the tool's tokens, and no others are
        no_room += rollout.stop[row] == STOP_TOOL_LIMIT and text.count("\n</result>") < 2
    assert answered > 20 and lines[1]["tool_no_room"] == no_room > 0
