"""What forks cost: operations by hand and by XLA, seconds that add up, and a small study."""

import importlib
import time

import forking
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small
from rich.console import Console

from configs.studies.overhead import get_config
from experiments.config import Experiment
from experiments.reading import from_config_dict
from experiments.studies import flops
from experiments.studies import overhead_report as report
from gpg_jax.decoding.live import LivePrograms
from gpg_jax.policies.architecture import Architecture

study = importlib.import_module("experiments.studies.overhead")  # the package names its function so

SHAPE = Architecture(vocab_size=10, width=4, layers=2, heads=2, kv_heads=1, head_dim=2, mlp_width=3)


def test_operations_by_hand():
    # A layer: query and output 4·4 each, key and value 4·2 each, an MLP of 3·4·3: 48 + 36 = 84
    assert flops.block_entries(SHAPE) == 168
    # 3 tokens, 2·168 each; 1 + 2 + 5 pairs, 4·2·4 each; one prediction, 2·4·10
    assert flops.forward_flops(SHAPE, np.array([1, 2, 5]), 1) == 3 * 336 + 8 * 32 + 80


def test_operations_of_a_rollout():
    # Two rows behind a prompt of 3: the first has 4 tokens, one of them a tool's, the second is forked behind
    # 2.
    rollout = small.rollout(prompts=1)
    rollout = jax.tree.map(lambda leaf: leaf[:2], rollout).replace(
        prompt_length=np.array([3, 3]),
        length=np.array([7, 6]),
        fork=np.array([3, 5]),
        action_mask=np.array([[0, 0, 0, 1, 0, 1, 1] + [0] * 9, [0, 0, 0, 1, 0, 1] + [0] * 10], bool),
    )
    # Read for writing: the prompt but its last token (1, 2), places 3 to 6 of row 0 and 5 of row 1; 3 + 1
    # drawn.
    assert flops.decode_flops(SHAPE, rollout) == flops.forward_flops(
        SHAPE, np.array([1, 2, 3, 4, 5, 6, 5]), 4
    )
    # Trained: both responses whole, 3 + 2 actions.
    whole = flops.forward_flops(SHAPE, np.array([1, 2, 3, 4, 5, 6, 3, 4, 5]), 5)
    assert flops.train_flops(SHAPE, rollout) == 3 * whole


def test_xla_counts_every_turn_of_a_loop():
    def scanned(matrix, rows):
        return jax.lax.scan(lambda state, _: (state @ matrix, None), rows, None, length=5)[0]

    arguments = jax.ShapeDtypeStruct((8, 8), np.float32), jax.ShapeDtypeStruct((3, 8), np.float32)
    assert flops.xla_flops(scanned, *arguments) == pytest.approx(5 * 2 * 3 * 8 * 8)
    cost = jax.jit(scanned).lower(*arguments).cost_analysis()
    assert cost["flops"] < 2 * 2 * 3 * 8 * 8  # a loop's body is counted once


def test_xla_and_the_formula_agree_on_the_network():
    """A forward pass without padding: products are nearly all there is."""
    shape = Architecture(vocab_size=64, width=64, layers=2, heads=4, kv_heads=2, head_dim=16, mlp_width=256)
    from gpg_jax.policies.transformer import transformer

    policy = transformer(shape)
    params = jax.eval_shape(policy.init, jax.random.key(0))
    tokens = jax.ShapeDtypeStruct((2, 32), np.int32)

    def forward(params, tokens):
        positions = jnp.broadcast_to(jnp.arange(32)[None], tokens.shape)
        return policy.unembed(params, policy.hidden(params, tokens, positions, ())[0])

    counted = flops.xla_flops(forward, params, tokens)
    formula = flops.forward_flops(shape, np.full(64, 32), 64)  # every token is multiplied with every other
    assert formula <= counted < 1.15 * formula


def test_the_clock_tells_programs_apart_and_counts_steps():
    class Rows:
        def __init__(self, length):
            self.length = np.array(length)

    def slow(*arguments):
        time.sleep(0.02)
        return Rows([3, 7])

    clock = study.Clock()
    programs = clock.watch(LivePrograms(begin=slow, advance=slow, append=slow, fork=slow))
    programs.advance(None, None, Rows([2, 3]))  # gains 1 and 4
    programs.advance(None, None, Rows([3, 5]))  # gains 0 and 2
    programs.fork(None)
    assert clock.steps == 6 and clock.seconds["append"] == clock.seconds["begin"] == 0
    assert clock.seconds["advance"] >= 0.04 and 0.02 <= clock.seconds["fork"] < clock.seconds["advance"]
    clock.reset()
    assert clock.steps == 0 and not any(clock.seconds.values())


def configure():
    config = study.default_study()
    config.base = forking.experiment(prompts=2, group=4)
    config.widths, config.seeds = (1, 2), 2
    return config


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("overhead")
    with pytest.MonkeyPatch.context() as patch:
        first = jax.devices()[:1]
        patch.setattr(jax, "devices", lambda *arguments: first)
        findings = study.overhead(configure(), folder, Console(quiet=True))
        patch.setattr(study, "open_bench", None)
        again = study.overhead(configure(), folder, Console(quiet=True))
    assert list(map(str, again.rows)) == list(map(str, findings.rows))
    return findings


def test_ways_have_the_same_rows_and_forks_draw_less(found):
    rows = {row["way"]: row for row in found.rows}
    assert list(rows) == ["GRPO", "width 1", "width 2"]
    assert rows["GRPO"]["tokens drawn"].mean == rows["GRPO"]["tokens trained"].mean
    # the same uniforms: without forks the same rows, whatever the method
    assert rows["width 1"]["tokens drawn"] == rows["GRPO"]["tokens drawn"]
    assert rows["width 1"]["rollout GFLOP"] == rows["GRPO"]["rollout GFLOP"]
    assert rows["width 2"]["tokens drawn"].mean < rows["width 2"]["tokens trained"].mean
    assert rows["width 2"]["update GFLOP, XLA"].mean == rows["width 1"]["update GFLOP, XLA"].mean > 0


def test_parts_are_seconds_of_the_whole(found):
    for row in found.rows:
        assert row["rollout s"].mean > 0 and row["update s"].mean > 0
        assert row["iteration s"].mean == pytest.approx(row["rollout s"].mean + row["update s"].mean)
        assert row["steps of the loop"].mean > 0
    notes = " ".join(found.notes)
    assert "width 2 over GRPO: tokens drawn × " in notes and "XLA counts" in notes


def test_ratios_are_paired_by_round():
    one = dict.fromkeys((*report.PARTS, "steps", "drawn", "trained"), 1.0)
    rounds = [
        {"GRPO": {**one, "drawn": 2.0}, "x": {**one, "drawn": 1.0}},
        {"GRPO": {**one, "drawn": 20.0}, "x": {**one, "drawn": 10.0}},
    ]
    ratio = report._ratio(rounds, "x", report.COLUMNS["tokens drawn"])
    assert ratio.mean == 0.5 and ratio.half == 0


@pytest.mark.parametrize("model", ["tiny", "small"])
def test_the_configurations_are_experiments(model):
    config = get_config(model)
    experiment = from_config_dict(Experiment, config.base)
    assert config.iterations <= experiment.cold_start.steps + experiment.schedule.steps
    assert experiment.schedule.group // max(config.widths) >= 2


def test_the_model_has_a_name():
    with pytest.raises(ValueError, match='"tiny" or "small"'):
        get_config("large")
