"""The loop's order: what is asked with which parameters and key, and which place is behind an iteration."""

from types import SimpleNamespace

import jax
import numpy as np
import pytest

from gpg_jax.data.examples import Example
from gpg_jax.decoding.loop import Responses
from gpg_jax.environments.rewards import judge
from gpg_jax.estimators.filters import every_row, mixed_outcomes
from gpg_jax.training.collect import Collector, batch_key, decoded
from gpg_jax.training.loop import Phase, iterations

PROMPTS, GROUP, UPDATES = 2, 2, 3
KEY = jax.random.key(5)


def name_of(key) -> tuple[int, ...]:
    return tuple(jax.random.key_data(key).tolist())


def run(numbers: range, keep=every_row, generations=1, outcomes=lambda batch: True, begins=None):
    """Logs calls; parameters are the number of steps, and a cursor is the number of batches drawn."""
    log: list[tuple] = []
    drawn = [0]

    def draw():
        drawn[0] += 1
        log.append(("draw", drawn[0]))
        return [Example(str(drawn[0]), "", {})] * PROMPTS

    def decode(params, prompts, lengths, uid, key):
        log.append(("decode", params, name_of(key)))
        rows = len(uid)
        return Responses(
            tokens=np.full((rows, 1), prompts[0, 0]),
            log_prob=np.zeros((rows, 1), np.float32),
            length=np.ones(rows, np.int32),
            stop=np.zeros(rows, np.int32),
            steps=np.ones(1, np.int32),
        )

    def verdict(said, examples):
        batch, rows = int(said.tokens[0, 0]), len(said.length)
        log.append(("judge", batch))
        row = iter(range(rows))
        return judge(lambda *_: float(next(row) % GROUP and outcomes(batch)), [""] * rows, examples)

    def step(state, rollout):
        log.append(("step", state.params, rollout.version.tolist()[0]))
        return SimpleNamespace(params=state.params + 1), {"loss": np.float32(state.params)}

    def cursor():
        log.append(("cursor", drawn[0]))
        return drawn[0]

    collector = Collector(
        draw=draw,
        encode=lambda example: [int(example.prompt)],
        write=decoded(decode),
        judge=verdict,
        keep=keep,
        prompt_slots=1,
        group=GROUP,
        generations=generations,
    )
    state = SimpleNamespace(params=numbers.start - 1)

    def phase(numbers: range, **begin):
        return Phase(numbers, collector, step, lambda number: (number - 1) * UPDATES, **begin)

    phases = [phase(range(1, 3)), phase(range(3, 100), **({"begin": begins} if begins else {}))]
    return iterations(phases, state, KEY, numbers, cursor), log


def key(number: int, batch: int = 0) -> tuple[int, ...]:
    return name_of(batch_key(jax.random.fold_in(KEY, number), batch))


@pytest.mark.parametrize("first", [1, 3])
def test_a_phase_asks_with_the_state_that_it_begins_with(first):
    """What `begin` is given may be donated: nothing may be asked with it, also where a run resumes."""
    coming, log = run(range(first, 5), begins=lambda state: SimpleNamespace(params=state.params + 100))
    done = {iteration.step: iteration.state.params for iteration in coming}
    asked = [params for what, params, *_ in log if what == "decode"]
    assert asked == [*range(first - 1, 2), 102, 103]
    assert done == {**({1: 1, 2: 102} if first == 1 else {}), 3: 103, 4: 104}


def test_the_next_rollout_is_asked_with_new_parameters_while_this_one_is_looked_at():
    coming, log = run(range(1, 3))
    assert log == []
    first = next(coming)
    asked = [("draw", 1), ("decode", 0, key(1)), ("judge", 1), ("cursor", 1), ("step", 0, 0)]
    assert log == [*asked, ("draw", 2), ("decode", 1, key(2))]
    assert (first.step, first.state.params, first.cursor, first.metrics["loss"]) == (1, 1, 1, 0)
    second = next(coming)
    assert log[7:] == [("judge", 2), ("cursor", 2), ("step", 1, UPDATES)]
    assert (second.step, second.state.params, second.cursor) == (2, 2, 2)
    with pytest.raises(StopIteration):
        next(coming)
    assert len(log) == 10


def test_batches_of_dynamic_sampling_lie_before_the_cursor_and_have_keys_of_their_own():
    """Every second batch has signal: each rollout takes two, and its place is behind both."""
    coming, log = run(range(1, 3), mixed_outcomes, 4, lambda batch: batch % 2 == 0)
    found = list(coming)
    assert [(each.cursor, each.collected.generations, each.collected.short) for each in found] == [
        (2, 2, 0),
        (4, 2, 0),
    ]
    asked = [entry[1:] for entry in log if entry[0] == "decode"]
    assert asked == [(0, key(1)), (0, key(1, 1)), (1, key(2)), (1, key(2, 1))]


def test_a_run_that_goes_on_asks_what_the_whole_one_would_have():
    whole, log = run(range(1, 5))
    list(whole)
    rest, later = run(range(3, 5))
    found = list(rest)
    assert [each.step for each in found] == [3, 4]
    for kind in ("decode", "step"):
        assert [entry for entry in later if entry[0] == kind] == [e for e in log if e[0] == kind][2:]


@pytest.mark.parametrize("numbers", [range(1, 1), range(5, 3)])
def test_nothing_is_drawn_for_no_iterations(numbers):
    coming, log = run(numbers)
    assert list(coming) == [] and log == []
