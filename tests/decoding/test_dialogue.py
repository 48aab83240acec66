"""Rows that are stopped, answered and forked in any order are those that were decoded each alone."""

from __future__ import annotations

import functools
import threading
from concurrent.futures import Future

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small
from hypothesis import given, settings
from hypothesis import strategies as st

from gpg_jax.decoding.automaton import compile_automaton
from gpg_jax.decoding.branching import Branching, fixed_width, no_branching, random_forks
from gpg_jax.decoding.dialogue import Turns, converse
from gpg_jax.decoding.live import live_programs
from gpg_jax.decoding.rollouts import pad_prompts
from gpg_jax.decoding.sampling import Sampling, uniforms
from gpg_jax.decoding.uncertainty import entropy
from gpg_jax.policies.score import Layout, score
from gpg_jax.types import STOP_EOS, STOP_LENGTH, STOP_TOOL_LIMIT

PROMPTS = pad_prompts([[3, 4, 5], [6, 7]], 4)
NEW, ROWS, CALLS, END, ANSWER = 20, 8, (1, 5, 11, 28), 2, (8, 9, 10)
KEY = jax.random.key(3)
UID = np.arange(ROWS, dtype=np.int32)


@functools.cache
def model():
    return small.policy(), small.params()


@functools.cache
def programs(patience: int = 0):
    policy, _ = model()
    automaton = compile_automaton((), [b""] * policy.vocab_size, (*CALLS, END))
    return live_programs(
        policy,
        new_slots=NEW,
        sampling=Sampling(temperature=1.5),
        automaton=automaton,
        uncertainty=entropy,
        patience=patience,
    )


ROOTS = no_branching(ROWS // 2)


def turns(branching: Branching = ROOTS, **changed) -> Turns:
    policy, _ = model()
    given = dict(calls=len(CALLS), answer_tokens=4, at_once=2, steps=1, vocab_size=policy.vocab_size)
    return Turns(**given | changed, branching=branching)


def answer_of(call) -> list[int] | None:
    """What the tool says depends on what it was asked, and ends rows that ask too often."""
    return None if call.number >= 3 else list(ANSWER[: 1 + sum(call.ids) % 3])


def at_once(call) -> Future:
    future: Future = Future()
    future.set_result(answer_of(call))
    return future


class Slow:
    """Answers in an order of its own, each after some time."""

    def __init__(self, seed: int):
        self.delays = np.random.default_rng(seed)

    def __call__(self, call) -> Future:
        future: Future = Future()
        delay = float(self.delays.choice([0, 0.002, 0.02]))
        threading.Timer(delay, lambda: future.set_result(answer_of(call))).start()
        return future


def speak(ask=at_once, prompts=PROMPTS, uid=UID, patience: int = 0, **options):
    _, params = model()
    return converse(programs(patience), params, *prompts, uid, KEY, ask=ask, turns=turns(**options))


@functools.cache
def forked():
    return speak(branching=fixed_width(1, width=2))


def scored(said, prompts=PROMPTS):
    """Log-probabilities at the sampling temperature of every token, by the trainer's full forward pass."""
    policy, params = model()
    rows = len(said.length)
    group = rows // len(prompts.length)
    slots = prompts.tokens.shape[1]
    start = np.repeat(prompts.length, group)
    tokens = np.zeros((rows, slots + NEW), np.int32)
    for row in range(rows):
        own = prompts.tokens[row // group, : start[row]]
        tokens[row, : start[row] + said.length[row]] = [*own, *said.tokens[row, : said.length[row]]]
    layout = Layout(slots, NEW, group)
    found = score(
        policy, params, tokens, jnp.array(start), jnp.array(start + said.length), layout, temperature=1.5
    )
    return np.stack([np.asarray(found.log_prob)[row, start[row] : start[row] + NEW] for row in range(rows)])


def names(said) -> np.ndarray:
    """The row whose uid drew each token: the ancestor that owned its place."""
    owner = np.broadcast_to(np.arange(len(said.length))[:, None], said.tokens.shape).copy()
    for _ in range(len(said.length)):
        place = np.arange(said.tokens.shape[1])[None]
        owner = np.where(place < said.fork[owner], said.parent[owner], owner)
    return owner


def check_against_rows_alone(said, uid=UID, prompts=PROMPTS):
    """Every chosen token is the one that the full forward pass of its row alone draws, with its log-prob."""
    policy, params = model()
    full = scored(said, prompts)
    np.testing.assert_allclose(said.log_prob[said.acted], full[said.acted], atol=1e-4)
    owner = names(said)
    group = len(said.length) // len(prompts.length)
    for row in range(len(said.length)):
        prompt = prompts.tokens[row // group, : prompts.length[row // group]]
        for index in np.flatnonzero(said.acted[row]):
            before = np.array([*prompt, *said.tokens[row, :index]])[None]
            position = jnp.arange(before.shape[1])[None]
            hidden, _ = policy.hidden(params, before, position, ())
            p = np.exp(
                np.asarray(jax.nn.log_softmax(policy.unembed(params, hidden[:, -1]) / 1.5), np.float64)
            )[0]
            uniform = float(uniforms(KEY, uid[owner[row, index]][None], np.array([index]))[0])
            ends = np.cumsum(p) / p.sum()
            if np.min(np.abs(ends - uniform)) < 1e-5:
                continue
            assert said.tokens[row, index] == np.searchsorted(ends, uniform, side="right"), (row, index)


def test_rows_with_answers_are_those_decoded_alone():
    said = speak()
    assert set(said.calls.tolist()) >= {1, 2, 3}
    check_against_rows_alone(said)


def test_forked_rows_are_those_decoded_alone():
    said = forked()
    assert (said.parent != np.arange(ROWS)).sum() >= 2
    check_against_rows_alone(said)


@settings(max_examples=8)
@given(st.integers(0, 10**6), st.integers(1, 6), st.integers(1, 4), st.sampled_from([0, 2]), st.booleans())
def test_no_interleaving_changes_what_is_written(seed, steps, at_once_, patience, forks):
    branching = fixed_width(1, width=2) if forks else no_branching(ROWS // 2)
    expected = forked() if forks else speak_plainly()
    said = speak(Slow(seed), steps=steps, at_once=at_once_, patience=patience, branching=branching)
    for name, value, other in zip(said._fields, said, expected, strict=True):
        if name == "log_prob":
            np.testing.assert_allclose(value, other, atol=1e-5, err_msg=name)
        else:
            np.testing.assert_array_equal(value, other, err_msg=name)


@functools.cache
def speak_plainly():
    return speak()


def test_a_prompt_alone_writes_what_it_writes_beside_others():
    whole = speak_plainly()
    for prompt in range(2):
        own = slice(prompt * 4, prompt * 4 + 4)
        single = speak(
            prompts=pad_prompts([PROMPTS.tokens[prompt, : PROMPTS.length[prompt]].tolist()], 4), uid=UID[own]
        )
        np.testing.assert_array_equal(single.tokens, whole.tokens[own])


def test_what_the_tool_wrote_is_not_the_policys():
    said = speak_plainly()
    for row in range(ROWS):
        own = said.acted[row, : said.length[row]]
        calls = np.flatnonzero(np.isin(said.tokens[row, : said.length[row]], CALLS) & own)
        for call in calls[: said.calls[row]]:
            count = 0
            while call + 1 + count < said.length[row] and not own[call + 1 + count]:
                assert said.tokens[row, call + 1 + count] == ANSWER[count]
                count += 1
            assert 1 <= count <= 3
        assert np.all(said.log_prob[row][~said.acted[row]] == 0)


def test_why_rows_end():
    said = speak_plainly()
    for row in range(ROWS):
        last = said.tokens[row, said.length[row] - 1]
        if said.stop[row] == STOP_EOS:
            assert last == END
        elif said.stop[row] == STOP_LENGTH:
            assert said.length[row] == NEW
        else:
            assert said.stop[row] == STOP_TOOL_LIMIT and last in CALLS
    assert set(said.stop.tolist()) >= {STOP_EOS, STOP_TOOL_LIMIT} or STOP_LENGTH in said.stop


def test_a_row_without_calls_left_ends():
    none: Future = Future()
    none.set_result(None)
    said = speak(lambda call: none)
    called = (np.isin(said.tokens, CALLS) & said.acted).any(axis=1)
    assert called.any() and np.all(said.stop[called] == STOP_TOOL_LIMIT) and np.all(said.calls == 0)


def test_an_answer_longer_than_its_budget_is_an_error():
    long: Future = Future()
    long.set_result([8] * 5)
    with pytest.raises(ValueError, match="an answer has 5 tokens and answer_tokens is 4"):
        speak(lambda call: long)


@pytest.mark.parametrize(
    "branching",
    [
        no_branching(4),
        fixed_width(2, width=2),
        fixed_width(1, width=9),
        random_forks(2, probability=0.5),
        Branching(2, lambda crossing: 1, refill="one"),
        Branching(1, lambda crossing: 0, refill="one"),
    ],
)
def test_there_are_always_exactly_so_many_rows(branching):
    said = speak(branching=branching)
    root = np.arange(ROWS)
    for _ in range(ROWS):
        root = said.parent[root]
    for prompt in range(2):
        own = np.arange(prompt * 4, prompt * 4 + 4)
        assert np.all((root[own] >= own[0]) & (root[own] <= own[-1]))  # a tree stays with its prompt
        assert (said.parent[own] == own).sum() >= min(branching.roots, 4)
    for row in np.flatnonzero(said.parent != np.arange(ROWS)):
        fork = said.fork[row]
        np.testing.assert_array_equal(said.tokens[row, :fork], said.tokens[said.parent[row], :fork])
        assert not said.acted[row, fork - 1]  # forks lie behind an answer
        assert said.acted[row, fork]
    assert np.all(said.fork[said.parent == np.arange(ROWS)] == 0)


def test_children_inherit_the_count_of_calls():
    said = forked()
    for row in range(ROWS):
        own = said.acted[row, : said.length[row]]
        answers = np.flatnonzero(~own & np.append(True, own[:-1]))
        assert said.calls[row] == len(answers) <= 3


def test_a_second_rollout_compiles_nothing():
    used = programs()
    counts = [program._cache_size() for program in used]
    speak(Slow(1), steps=3)
    assert [program._cache_size() for program in used] == counts
