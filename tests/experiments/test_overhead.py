"""What forks cost: operations by hand and by XLA, seconds that add up, sentences, and a small study."""

import dataclasses
import importlib
from types import SimpleNamespace

import bigram
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
from experiments.setup import build
from experiments.studies import flops
from experiments.studies import overhead_report as report
from gpg_jax.decoding.automaton import compile_automaton
from gpg_jax.decoding.live import LivePrograms, live_programs
from gpg_jax.decoding.sampling import Sampling
from gpg_jax.policies.architecture import Architecture
from gpg_jax.policies.score import Layout
from gpg_jax.policies.transformer import transformer
from gpg_jax.training.collect import Collector

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


def test_operations_of_the_programs_that_wrote_it():
    # Prompts of 3 slots, 4 more, 2 rows: a token costs 336 and 32 for each slot that it is multiplied with,
    # 80 more where one is drawn. 3 tokens beside 3 slots; 5 steps of 2 rows beside 7 slots and themselves;
    # 2·3 tokens of an answer beside 7 slots and their own 3.
    expected = 3 * (336 + 3 * 32) + 5 * 2 * (336 + 8 * 32 + 80) + 2 * 3 * (336 + 10 * 32)
    assert flops.program_flops(SHAPE, Layout(3, 4, 2), 1, 5, [(2, 3)]) == expected


def test_xla_counts_every_turn_of_a_loop():
    def scanned(matrix, rows):
        return jax.lax.scan(lambda state, _: (state @ matrix, None), rows, None, length=5)[0]

    arguments = jax.ShapeDtypeStruct((8, 8), np.float32), jax.ShapeDtypeStruct((3, 8), np.float32)
    assert flops.xla_flops(scanned, *arguments) == pytest.approx(5 * 2 * 3 * 8 * 8)
    cost = jax.jit(scanned).lower(*arguments).cost_analysis()
    assert cost["flops"] < 2 * 2 * 3 * 8 * 8  # a loop's body is counted once


WIDE = Architecture(vocab_size=64, width=64, layers=2, heads=4, kv_heads=2, head_dim=16, mlp_width=256)


def test_xla_and_the_formula_agree_on_the_network():
    """A forward pass without padding: products are nearly all there is."""
    shape, policy = WIDE, transformer(WIDE)
    params = jax.eval_shape(policy.init, jax.random.key(0))
    tokens = jax.ShapeDtypeStruct((2, 32), np.int32)

    def forward(params, tokens):
        positions = jnp.broadcast_to(jnp.arange(32)[None], tokens.shape)
        return policy.unembed(params, policy.hidden(params, tokens, positions, ())[0])

    counted = flops.xla_flops(forward, params, tokens)
    formula = flops.forward_flops(shape, np.full(64, 32), 64)  # every token is multiplied with every other
    assert formula <= counted < 1.15 * formula


def test_xla_and_the_formula_agree_on_a_step():
    """Of a loop that XLA counts one turn of: 8 rows behind 2 prompts of 16 slots, 48 more."""
    wide = dataclasses.replace(WIDE, width=256, head_dim=64, mlp_width=1024)  # products are nearly all of it
    policy, layout = transformer(wide), Layout(16, 48, 4)
    automaton = compile_automaton((), [b""] * wide.vocab_size)
    programs = live_programs(policy, new_slots=48, sampling=Sampling(), automaton=automaton)
    params = jax.eval_shape(policy.init, jax.random.key(0))
    prompts, rows = jax.ShapeDtypeStruct((2, 16), np.int32), jax.ShapeDtypeStruct((8,), np.int32)
    lengths, running = jax.ShapeDtypeStruct((2,), np.int32), jax.ShapeDtypeStruct((8,), bool)
    begun = jax.eval_shape(programs.begin, params, prompts, lengths, running)
    key, number = jax.eval_shape(jax.random.key, 0), jax.ShapeDtypeStruct((), np.int32)
    counted = flops.xla_flops(programs.advance, params, *begun, rows, key, number, number, running)
    none, one = (flops.program_flops(wide, layout, 2, count, ()) for count in (0, 1))
    assert one - none <= counted < 1.05 * (one - none)


def test_the_clock_tells_programs_apart_and_counts_steps(monkeypatch):
    lengths = iter([[3, 7], [3, 7]])
    ticks = iter([0, 1, 10, 12, 100, 104, 1000, 1008])  # before and behind each program
    monkeypatch.setattr(study, "time", SimpleNamespace(perf_counter=lambda: next(ticks)))

    def rows(length):
        return SimpleNamespace(length=np.array(length))

    clock = study.Clock()
    programs = LivePrograms(*[lambda *arguments: None] * 4)._replace(advance=lambda *_: rows(next(lengths)))
    programs = clock.watch(programs)
    programs.advance(None, None, rows([2, 3]))  # gains 1 and 4
    programs.advance(None, None, rows([3, 5]))  # gains 0 and 2
    programs.fork(None)
    programs.append(None, None, None, None, np.zeros((4, 16)), None)
    assert clock.steps == 6 and clock.answers == [(4, 16)]
    assert clock.seconds == {"begin": 0, "advance": 1 + 2, "fork": 4, "append": 8}
    clock.reset()
    assert clock.steps == 0 and not any(clock.seconds.values()) and not clock.answers


def configure(**changes):
    config = study.default_study()
    config.base = forking.experiment(prompts=2, group=4)
    config.update({"widths": (1, 2), "paper_roots": 2, "seeds": 2, **changes})
    return config


@pytest.fixture(scope="module", autouse=True)
def one_device():
    """One replica, and a table for a network: programs are compiled once, and soon."""
    with pytest.MonkeyPatch.context() as patch:
        first = jax.devices()[:1]
        patch.setattr(jax, "devices", lambda *arguments: first)
        patch.setattr("experiments.setup.transformer", bigram.policy)
        yield


@pytest.fixture(scope="module")
def bench(one_device):
    return study.open_bench(configure(), build(from_config_dict(Experiment, configure().base)))


@pytest.fixture(scope="module")
def found(bench, tmp_path_factory):
    folder = tmp_path_factory.mktemp("overhead")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(study, "open_bench", lambda config, setup: bench)
        findings = study.overhead(configure(), folder, Console(quiet=True))
        patch.setattr(study, "open_bench", None)
        again = study.overhead(configure(), folder, Console(quiet=True))
    assert list(map(str, again.rows)) == list(map(str, findings.rows))
    return findings


def test_ways_have_the_same_rows_and_forks_draw_less(found):
    rows = {row["way"]: row for row in found.rows}
    assert list(rows) == ["GRPO", "width 1", "width 2", "ARPO, N=2"]
    assert rows["GRPO"]["tokens drawn"].mean == rows["GRPO"]["tokens trained"].mean
    # the same uniforms: without forks the same rows, whatever the method
    assert rows["width 1"]["tokens drawn"] == rows["GRPO"]["tokens drawn"]
    for column in ("rollout GFLOP by formula", "rollout GFLOP of the programs", "steps of the loop"):
        assert rows["width 1"][column] == rows["GRPO"][column]
    for name in ("width 2", "ARPO, N=2"):
        assert rows[name]["tokens drawn"].mean < rows[name]["tokens trained"].mean
        assert rows[name]["update GFLOP by XLA"].mean == rows["width 1"]["update GFLOP by XLA"].mean > 0
    for row in found.rows:
        assert row["rollout GFLOP by formula"].mean < row["rollout GFLOP of the programs"].mean


def test_the_parts_of_a_rollout_are_all_of_its_seconds(bench, monkeypatch):
    def timed(step, *_):
        step()
        return {"seconds": 100.0, "others_busy_mean": 0.5}

    monkeypatch.setattr(study, "timed", timed)
    clock = bench.ways["width 2"].clock
    found = study.measure_way(bench, "width 2", next(bench.setup.task.batches), jax.random.key(0))
    assert sum(found[part] for part in report.DRAWING) == pytest.approx(100)
    assert found["host"] < 100 and found["update"] == 100 and found["steps"] == clock.steps > 0
    assert all(found[part] == clock.seconds[part] for part in LivePrograms._fields)
    layout = bench.setup.schedule.plan.layout
    counted = flops.program_flops(bench.setup.architecture, layout, 2, clock.steps, clock.answers)
    assert found["program_flops"] == counted and clock.answers


def test_entropy_is_measured_for_forks_that_read_it_alone(bench, monkeypatch):
    setup, watched = bench.setup, []

    def uncertainty(programs):
        policy, layout = setup.policy, setup.schedule.plan.layout
        prompts, lengths = np.zeros((2, layout.prompt_slots), np.int32), np.ones(2, np.int32)
        params = jax.eval_shape(policy.init, jax.random.key(0))
        return jax.eval_shape(programs.begin, params, prompts, lengths, np.ones(8, bool))[1].uncertainty.shape

    def collector(setup, toolbox, programs, *_):
        watched.append(uncertainty(programs))
        return Collector(*[None] * len(Collector._fields))

    monkeypatch.setattr(study, "forked_collector", collector)
    monkeypatch.setattr(study.Clock, "watch", lambda self, programs: programs)
    assert list(study.make_ways(configure(), setup)) == ["GRPO", "width 1", "width 2", "ARPO, N=2"]
    assert watched == [(8, 0), (8, 0), (8, 0), (8, setup.config.sampling.new_tokens)]


def test_more_roots_than_rows_are_refused(bench):
    with pytest.raises(ValueError, match=r"paper_roots is 5, and a prompt has base\.schedule\.group=4"):
        study.make_ways(configure(paper_roots=5), bench.setup)


def rounds(*seen):
    """Rounds of GRPO and a way x, made up: 1 everywhere but for x's changes, a round each."""
    names = ("steps", "rows", "drawn", "trained", "others")
    counts = ("decode_flops", "program_flops", "train_flops", "counted_flops")
    one = dict.fromkeys((*report.PARTS, *names, *counts), 1.0)
    return [{"GRPO": one, "x": one | changes} for changes in seen]


def test_ratios_are_paired_by_round():
    found = rounds({"drawn": 0.5}, {"drawn": 0.5})
    found[1] = {name: {**record, "drawn": 10 * record["drawn"]} for name, record in found[1].items()}
    ratio = report._ratio(found, "x", report.COLUMNS["tokens drawn"])
    assert ratio.mean == ratio.low == ratio.high == pytest.approx(0.5)


def test_ways_that_are_alike_have_a_ratio_of_1():
    # Twice and half: 1.25 in the mean of the ratios, and of those the other way up.
    (note,) = (note for note in report.notes(rounds({"drawn": 2}, {"drawn": 0.5}), 10) if "over GRPO" in note)
    assert note.startswith("x over GRPO: tokens drawn × 1 (0.000")
    assert "rollout GFLOP by formula × 1 (1–1), rollout GFLOP of the programs × 1 (1–1)," in note


@pytest.mark.parametrize(
    ("updates", "words"),
    [
        ((7, 7), "iteration s × 2 (2–2); slower an iteration."),
        ((0.4, 0.4), "iteration s × 0.9 (0.9–0.9); faster an iteration."),
        ((1, 1), "iteration s × 1 (1–1); not told from it in seconds an iteration."),
        ((0.1, 7), "not told from it in seconds an iteration."),
        ((7,), "iteration s × 2; not told from it in seconds an iteration."),
    ],
)
def test_seconds_are_told_from_grpos_or_not(updates, words):
    found = rounds(*({"update": update} for update in updates))  # five parts of a second beside it
    (note,) = (note for note in report.notes(found, 10) if "over GRPO" in note)
    assert note.endswith(words)


def test_sentences_of_seconds_and_padding():
    found = rounds(
        {"update": 15.0, "steps": 10, "rows": 4, "drawn": 10, "program_flops": 3, "counted_flops": 2}
    )
    notes = report.notes(found, 2_500_000)
    assert notes[0].startswith(
        "The blocks have 2.50 M parameters; a round has 1 rows. Other processes used 1 "
    )
    assert "x: update 75%, reading prompts 5%," in notes[4]
    assert notes[4].endswith("of the seconds; 75% of the loop's places drew nothing.")
    assert "comes to 1.00 to 3.00 times the formula's operations of a rollout" in notes[5]
    assert notes[5].endswith("XLA counts 1.00 to 2.00 times the formula's operations of an update.")


def test_the_picture_is_drawn_of_one_round_and_of_more():
    for found in (rounds({"drawn": 2}), rounds({"drawn": 2}, {"drawn": 3})):
        left, right = report.draw(found).axes
        assert right.get_yscale() == "log" and len(left.patches) == 2 * len(report.PARTS)


@pytest.mark.parametrize("model", ["tiny", "small"])
def test_the_configurations_are_experiments(model):
    config = get_config(model)
    experiment = from_config_dict(Experiment, config.base)
    assert config.iterations <= experiment.cold_start.steps + experiment.schedule.steps
    assert experiment.schedule.group // max(config.widths) >= 2


def test_the_model_has_a_name():
    with pytest.raises(ValueError, match='"tiny" or "small"'):
        get_config("large")
