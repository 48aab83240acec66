"""O-37: 2k iterations equal k, a save, a restore and k more, bit for bit."""

import bigram
import numpy as np
import pytest
from exact import bits, same

from experiments.config import (
    CheckpointConfig,
    EvaluationConfig,
    Experiment,
    ModelConfig,
    OptimizerConfig,
    SamplingConfig,
    ScheduleConfig,
    TaskConfig,
)
from experiments.first_state import first_state
from experiments.methods import MethodConfig
from experiments.phases import make_phases
from experiments.setup import build, make_collector, stream
from gpg_jax.policies.transformer import transformer
from gpg_jax.training.checkpoints import open_checkpoints, restore, save
from gpg_jax.training.loop import iterations

HALF = 3


def configuration(method: MethodConfig, mesh=(2, 2, 2)) -> Experiment:
    """25 prompts in batches of 8: the data begin anew in iteration 4; 2 epochs of 2 minibatches."""
    return Experiment(
        mesh=mesh,
        model=ModelConfig(width=16, layers=2, heads=2, kv_heads=2, head_dim=8, mlp_width=16),
        task=TaskConfig(name="reversal", verifier="places_right", prompt_tokens=3),
        sampling=SamplingConfig(new_tokens=2),
        method=method,
        optimizer=OptimizerConfig(learning_rate=1e-2, warm_up=3, decay="cosine", weight_decay=0.1),
        schedule=ScheduleConfig(
            steps=2 * HALF, prompts=8, group=4, epochs=2, minibatches=2, micro_batches=2, generations=2
        ),
        evaluation=EvaluationConfig(batch=8),
        checkpoint=CheckpointConfig(every=HALF),
    )


METHODS = {
    "dynamic sampling": (MethodConfig(name="dapo", arguments={"overlong_cache": None}), bigram.policy, 0),
    "a state of its own, a reference": (
        MethodConfig(name="reinforce_running", arguments={"kl_coefficient": 0.01, "correction": "token"}),
        transformer,
        2,
    ),
    "two controllers and a critic": (
        MethodConfig(
            name="ppo",
            arguments={"bound": "kl", "kl_placement": "reward", "kl_coefficient": 0.01, "kl_target": 0.5},
        ),
        bigram.policy,
        2,
    ),
}
"""With the network of each: one that minds its last token alone is compiled in less time; and with the
numbers of its own state that have moved when it is saved, without which a state that is lost looks kept."""


@pytest.mark.parametrize(("method", "network", "moved"), METHODS.values(), ids=METHODS)
def test_a_restored_run_goes_on_bit_for_bit(method, network, moved, tmp_path, monkeypatch):
    monkeypatch.setattr("experiments.setup.transformer", network)
    config = configuration(method)
    setup = build(config)
    (phase,) = make_phases(setup)

    def go(setup, state, numbers, checkpoints=None):
        """Metrics and rollouts of some iterations, the last state, and the cursor behind it."""
        own = phase._replace(collector=make_collector(setup)._replace(write=phase.collector.write))
        seen, key = [], stream(config, "rollout")
        for found in iterations([own], state, key, numbers, setup.task.batches.get_state):
            seen.append((bits(found.metrics), bits(found.collected.rollout), found.cursor))
            if checkpoints is not None and found.step == HALF:
                save(checkpoints, HALF, found.state, {"cursor": found.cursor}, score=0.0)
            last = bits(found.state)
        return seen, last

    with open_checkpoints(tmp_path) as checkpoints:
        whole, end = go(setup, first_state(setup), range(1, 2 * HALF + 1), checkpoints)
    again = setup._replace(task=build(config).task)
    with open_checkpoints(tmp_path) as checkpoints:
        restored = restore(checkpoints, again.like, pytest.fail)
    begun, kept = bits(setup.method.state), bits(restored.state.method)
    assert sum(bool(np.any(one != other)) for one, other in zip(begun, kept, strict=True)) == moved
    again.task.batches.set_state(restored.host["cursor"])
    rest, other_end = go(again, restored.state, range(HALF + 1, 2 * HALF + 1))
    assert whole[-1][2] == rest[-1][2]
    same(whole[HALF:], rest)
    same(end, other_end)
