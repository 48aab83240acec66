"""Collecting a rollout: rows judged, groups without signal replaced, exhaustion told, all by name."""

import itertools

import jax
import numpy as np
import pytest

from gpg_jax.data.examples import Example
from gpg_jax.decoding.loop import Responses
from gpg_jax.decoding.rollouts import pad_prompts, written
from gpg_jax.environments.rewards import judge
from gpg_jax.estimators.filters import every_row, mixed_outcomes
from gpg_jax.training import collect as collecting
from gpg_jax.training import processes
from gpg_jax.training.collect import Collector, ask, batch_key, collect, decoded, spoken

PROMPTS, GROUP, SLOTS, NEW = 4, 3, 5, 2
KEY = jax.random.key(0)
UID = np.arange(2 * GROUP, dtype=np.int32)


def decode(params, prompts, lengths, uid, key):
    """Says the prompt's first token and the row's number in its group; its key is in the log-probs."""
    del params, lengths
    said = np.repeat(np.asarray(prompts)[:, 0], GROUP) * 10 + np.asarray(uid) % GROUP
    name = float(jax.random.key_data(key)[1] % 1000)
    return Responses(
        tokens=np.stack([said, np.zeros_like(said)], 1),
        log_prob=np.full((said.size, NEW), name, np.float32),
        length=np.ones(said.size, np.int32),
        stop=np.zeros(said.size, np.int32),
        steps=np.ones(1, np.int32),
    )


def verify(text: str, example: Example) -> float:
    """Groups of an even prompt are mixed, those of an odd one all wrong; prompt 9 breaks the verifier."""
    prompt, row = divmod(int(text), 10)
    if prompt == 9:
        raise RuntimeError("nine")
    return float(prompt % 2 == 0 and row > 0)


def collector(numbers, keep=every_row, generations=1) -> Collector:
    stream = iter(numbers)

    def draw():
        return [Example(str(number), "", {}) for number in itertools.islice(stream, PROMPTS)]

    return Collector(
        draw=draw,
        encode=lambda example: [int(example.prompt), 1],
        write=decoded(decode),
        judge=lambda said, examples: judge(verify, [str(row[0]) for row in said.tokens], examples),
        keep=keep,
        prompt_slots=SLOTS,
        group=GROUP,
        generations=generations,
    )


def prompts_of(collected) -> list[int]:
    return [int(example.prompt) for example in collected.examples]


def test_a_rollout_without_dynamic_sampling():
    found = collect(collector([2, 3, 4, 5]), None, KEY, version=7)
    assert prompts_of(found) == [2, 3, 4, 5]
    assert (found.generations, found.offered, found.short, found.failures) == (1, 4, 0, {})
    rollout = found.rollout
    assert rollout.tokens[:, 2].tolist() == [20, 21, 22, 30, 31, 32, 40, 41, 42, 50, 51, 52]
    assert rollout.outcome.tolist() == [0, 1, 1, 0, 0, 0, 0, 1, 1, 0, 0, 0]
    assert rollout.version.tolist() == [7] * 12


def test_groups_without_signal_are_replaced_in_the_order_drawn():
    found = collect(collector([2, 3, 5, 7, 4, 1, 6, 8, 2, 2, 2, 2], mixed_outcomes, 10), None, KEY, version=0)
    assert prompts_of(found) == [2, 4, 6, 8]
    assert (found.generations, found.offered, found.short) == (2, 8, 0)
    rollout = found.rollout
    assert rollout.group.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
    assert rollout.parent.tolist() == list(range(12))
    assert rollout.outcome.tolist() == [0, 1, 1] * 4
    names = [float(jax.random.key_data(batch_key(KEY, number))[1] % 1000) for number in (0, 1)]
    assert rollout.behaviour_log_prob.max(1).tolist() == [names[0]] * 3 + [names[1]] * 9


def test_one_batch_is_enough_where_all_have_signal():
    found = collect(collector([2, 4, 6, 8, 9], mixed_outcomes, 10), None, KEY, version=0)
    assert (found.generations, found.offered, found.short) == (1, 4, 0)


def test_exhaustion_fills_up_with_refused_groups_and_says_so():
    """Two batches bring one group with signal; the method's own mask takes the other three out."""
    found = collect(collector([3, 5, 7, 1, 5, 6, 7, 3, 2, 2, 2, 2], mixed_outcomes, 2), None, KEY, version=0)
    assert prompts_of(found) == [6, 3, 5, 7]
    assert (found.generations, found.offered, found.short) == (2, 8, 3)
    assert np.asarray(mixed_outcomes(found.rollout)).tolist() == [True] * 3 + [False] * 9


def test_failures_stay_with_their_rows():
    found = collect(collector([3, 9, 5, 7, 2, 4, 1, 1], mixed_outcomes, 2), None, KEY, version=0)
    assert prompts_of(found) == [2, 4, 3, 9]
    assert sorted(found.failures) == [9, 10, 11]
    assert "failed on row" in found.failures[9] and "nine" in found.failures[9]
    assert not found.rollout.reward[9:].any()


def test_what_was_asked_before_is_the_first_batch():
    numbers = [2, 3, 5, 7, 4, 1, 6, 8]
    plain = collect(collector(numbers, mixed_outcomes, 3), None, KEY, version=0)
    other = collector(numbers, mixed_outcomes, 3)
    early = ask(other, None, batch_key(KEY, 0))
    again = collect(other, None, KEY, 0, early)
    assert prompts_of(again) == prompts_of(plain)
    for one, two in zip(jax.tree.leaves(plain.rollout), jax.tree.leaves(again.rollout), strict=True):
        np.testing.assert_array_equal(one, two)


def test_a_prompt_beyond_the_budget_is_refused():
    short = collector([2, 3, 4, 5])._replace(prompt_slots=1)
    with pytest.raises(ValueError, match="prompt 0 has 2 tokens"):
        collect(short, None, KEY, version=0)


def rows_of(uid):
    said = decode(None, np.ones((len(uid) // GROUP, 1), int), None, uid, KEY)
    return written(said)


def test_a_dialogue_is_put_together_and_named_by_its_key():
    asked = []

    def converse(params, prompts, lengths, uid, key, ask):
        asked.append(ask("call"))
        return {1: rows_of(uid[GROUP:]), 0: rows_of(uid[:GROUP])}

    wait = spoken(converse, lambda name, call: (name, call))(None, [], pad_prompts([[1], [1]], 1), UID, KEY)
    assert not asked  # it is held when it is waited for
    assert wait().tokens.tolist() == rows_of(UID).tokens.tolist()
    assert asked == [(np.asarray(jax.random.key_data(KEY)).tobytes().hex(), "call")]


def test_a_dialogue_that_failed_elsewhere_is_not_waited_for(monkeypatch):
    """Two processes: what each says of itself is agreed on before any of them gathers."""
    failures = []

    def agreed(failed):
        failures.append(failed)
        return True

    monkeypatch.setattr(processes.jax, "process_count", lambda: 2)
    monkeypatch.setattr(processes, "agreed", agreed)
    monkeypatch.setattr(collecting, "gather", lambda parts: pytest.fail("gathered"))
    prompts = pad_prompts([[1], [1]], 1)

    def fails(*arguments):
        raise ValueError("no tool")

    with pytest.raises(ValueError, match="no tool"):
        spoken(fails, lambda name, call: None)(None, [], prompts, UID, KEY)()
    with pytest.raises(RuntimeError, match="another process has failed"):
        spoken(lambda *arguments: {}, lambda name, call: None)(None, [], prompts, UID, KEY)()
    assert failures == [True, False]
