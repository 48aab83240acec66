"""Rows that are stopped, answered and forked in any order are those that were decoded each alone."""

from __future__ import annotations

import functools
import threading
from concurrent.futures import Future

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scripted
import small
from hypothesis import given, settings
from hypothesis import strategies as st

from gpg_jax.decoding import dialogue
from gpg_jax.decoding.automaton import compile_automaton
from gpg_jax.decoding.branching import (
    Branching,
    arpo_paper,
    arpo_release,
    fixed_width,
    no_branching,
    random_forks,
)
from gpg_jax.decoding.dialogue import Call, Turns, converse
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
def programs(patience: int):
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


def answers(seed: int):
    """What a tool says, at random but for 0: up to 4 of all tokens, those of calls and ends among them."""

    def drawn(call) -> list[int] | None:
        draw = np.random.default_rng([seed, call.number, call.pattern, *call.ids])
        said = draw.integers(0, small.ARCHITECTURE.vocab_size, draw.integers(0, 5)).tolist()
        return None if call.number >= 3 else said

    return drawn if seed else answer_of


def at_once(call, answer=answer_of) -> Future:
    return scripted.told(answer(call))


class Slow:
    """Answers in an order of its own, each after some time."""

    def __init__(self, seed: int, answer=answer_of):
        self.delays, self.answer = np.random.default_rng(seed), answer

    def __call__(self, call) -> Future:
        future: Future = Future()
        delay = float(self.delays.choice([0, 0.002, 0.02]))
        threading.Timer(delay, lambda: future.set_result(self.answer(call))).start()
        return future


def speak(ask=at_once, prompts=PROMPTS, uid=UID, patience: int = 0, **options):
    _, params = model()
    return converse(programs(patience), params, *prompts, uid, KEY, ask=ask, turns=turns(**options))


def forked():
    return spoken("fixed")


def rows_of(said, prompts=PROMPTS):
    """Prompt and response of every row in one array, and where the responses begin."""
    rows = len(said.length)
    group, slots = rows // len(prompts.length), prompts.tokens.shape[1]
    start = np.repeat(prompts.length, group)
    tokens = np.zeros((rows, slots + NEW), np.int32)
    for row in range(rows):
        own = prompts.tokens[row // group, : start[row]]
        tokens[row, : start[row] + said.length[row]] = [*own, *said.tokens[row, : said.length[row]]]
    return tokens, start


@functools.cache
def scoring():
    policy, params = model()
    layout = Layout(PROMPTS.tokens.shape[1], NEW, ROWS // len(PROMPTS.length))
    return jax.jit(lambda *rows: score(policy, params, *rows, layout, temperature=1.5).log_prob)


def scored(said):
    """Log-probabilities at the sampling temperature of every token, by the trainer's full forward pass."""
    tokens, start = rows_of(said)
    found = np.asarray(scoring()(tokens, start, start + said.length))
    return np.stack([found[row, n : n + NEW] for row, n in enumerate(start)])


@functools.cache
def distributions():
    """The distribution behind every token of rows, by the full forward pass without a cache."""
    policy, params = model()

    @jax.jit
    def run(tokens):
        position = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
        hidden, _ = policy.hidden(params, tokens, position, ())
        return jax.nn.log_softmax(policy.unembed(params, hidden) / 1.5)

    return run


def names(said) -> np.ndarray:
    """The row whose uid drew each token: the ancestor that owned its place."""
    owner = np.broadcast_to(np.arange(len(said.length))[:, None], said.tokens.shape).copy()
    for _ in range(len(said.length)):
        place = np.arange(said.tokens.shape[1])[None]
        owner = np.where(place < said.fork[owner], said.parent[owner], owner)
    return owner


def check_against_rows_alone(said):
    """Every chosen token is the one that the full forward pass of its row alone draws, with its log-prob."""
    np.testing.assert_allclose(said.log_prob[said.acted], scored(said)[said.acted], atol=1e-4)
    tokens, start = rows_of(said)
    p = np.exp(np.asarray(distributions()(tokens), np.float64))
    row, index = np.nonzero(said.acted)
    drawn = np.asarray(uniforms(KEY, UID[names(said)[row, index]], index))[:, None]
    ends = np.cumsum(p[row, start[row] + index - 1], axis=1)
    ends /= ends[:, -1:]
    clear = np.min(np.abs(ends - drawn), axis=1) > 1e-5
    expected = np.sum(ends <= drawn, axis=1)
    assert clear.sum() > 0.9 * len(row)
    np.testing.assert_array_equal(said.tokens[row, index][clear], expected[clear])


def retold(tokens, answer):
    """Read off the tokens of a row alone: the policy's, calls that were answered, the length, the end."""
    acted, place, since, number = np.zeros(NEW, bool), 0, 0, 0
    while place < NEW:
        token, acted[place], place = int(tokens[place]), True, place + 1
        if token == END:
            return acted, number, place, STOP_EOS
        if token in CALLS:
            told = answer(Call(-1, number, CALLS.index(token), tokens[since:place].tolist()))
            if told is None or len(told) >= NEW - place:  # a row needs room for a token of its own
                return acted, number, place, STOP_LENGTH if told == [] else STOP_TOOL_LIMIT
            assert tokens[place : place + len(told)].tolist() == told
            place += len(told)
            number, since = (number + 1, place) if told else (number, since)
    return acted, number, place, STOP_LENGTH


def check_who_wrote_what(said, answer=answer_of):
    """The mask of every row, of forked ones too, is what its tokens say of the calls and their answers."""
    for row in range(ROWS):
        acted, number, length, stop = retold(said.tokens[row], answer)
        np.testing.assert_array_equal(said.acted[row], acted, err_msg=f"row {row}")
        assert (said.calls[row], said.length[row], said.stop[row]) == (number, length, stop)


def test_rows_with_answers_are_those_decoded_alone():
    said = speak()
    assert set(said.calls.tolist()) >= {1, 2, 3}
    check_against_rows_alone(said)


def test_forked_rows_are_those_decoded_alone():
    said = forked()
    assert (said.parent != np.arange(ROWS)).sum() >= 2
    check_against_rows_alone(said)


MODES = {
    "none": no_branching(ROWS // 2),
    "some": no_branching(2)._replace(refill="one"),
    "fixed": fixed_width(1, width=2),
    "random": random_forks(2, probability=0.5),
    "paper": arpo_paper(1, alpha=0.55, tokens=3),
    "release": arpo_release(1),
}


@functools.cache
def spoken(mode: str, seed: int = 0):
    return speak(functools.partial(at_once, answer=answers(seed)), branching=MODES[mode])


@pytest.mark.parametrize("seed", [0, 1, 2])  # of all but 0 some answers are empty, and some are of full width
@pytest.mark.parametrize("mode", MODES)
def test_rows_of_every_mode_are_those_decoded_alone(mode, seed):
    check_against_rows_alone(spoken(mode, seed))


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("mode", MODES)
def test_who_wrote_what_is_told_by_the_tokens(mode, seed):
    check_who_wrote_what(spoken(mode, seed), answers(seed))


def test_a_tool_may_write_what_would_be_a_call():
    said = spoken("fixed", 1)
    written = np.arange(NEW) < said.length[:, None]
    assert (np.isin(said.tokens, (*CALLS, END)) & written & ~said.acted).any()


def check_equal(said, expected):
    for name, value, other in zip(said._fields, said, expected, strict=True):
        if name == "log_prob":
            np.testing.assert_allclose(value, other, atol=1e-5, err_msg=name)
        else:
            np.testing.assert_array_equal(value, other, err_msg=name)


@pytest.mark.parametrize("mode", ["paper", "release", "random"])
def test_the_modes_fork(mode):
    assert (spoken(mode).parent != np.arange(ROWS)).sum() >= 2


@settings(max_examples=12)
@given(
    st.sampled_from(sorted(MODES)),
    st.integers(0, 10**6),
    st.sampled_from([0, 1, 2]),
    st.integers(1, 6),
    st.sampled_from([1, 3]),
    st.sampled_from([0, 2]),
)
def test_no_interleaving_changes_what_is_written(mode, seed, answering, steps, at_once_, patience):
    answer = answers(answering)
    said = speak(Slow(seed, answer), steps=steps, at_once=at_once_, patience=patience, branching=MODES[mode])
    check_who_wrote_what(said, answer)
    check_equal(said, spoken(mode, answering))


def test_other_rows_are_drawn_on_and_answered_while_a_tool_works():
    """Row 0 is answered once row 1, answered itself, has called again: a host that waits hears nothing."""
    call, patterns = 0, np.full((2, NEW), -1)
    patterns[0, 0] = patterns[1, 5] = patterns[1, 10] = call
    patterns[:, 15] = len(CALLS)

    def script(rows, tokens, place):
        return np.full(len(rows), 7), patterns[rows, place], np.zeros(len(rows))

    slow: Future = Future()
    timer = threading.Timer(20, slow.set_exception, [TimeoutError("row 1 was not drawn on")])
    timer.start()

    def ask(called):
        if called.row == 0:
            return slow
        if called.number == 1:
            slow.set_result([8])
        return scripted.told([9])

    prompts = pad_prompts([[3, 4, 5]], 4)
    said = converse(
        scripted.programs(script, NEW), None, *prompts, UID[:2], KEY, ask=ask, turns=turns(no_branching(2))
    )
    timer.cancel()
    assert said.calls.tolist() == [1, 2] and said.stop.tolist() == [STOP_EOS] * 2
    assert said.tokens[0, 1] == 8 and said.tokens[1, [6, 11]].tolist() == [9, 9]


def speak_plainly():
    return spoken("none")


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
    branching = fixed_width(1, width=2)
    speak(branching=branching)
    used = [*programs(0), dialogue._draw]
    counts = [program._cache_size() for program in used]
    assert min(counts) > 0
    others = pad_prompts([[9], [7, 3, 6, 5]], 4)
    said = speak(Slow(1), steps=3, prompts=others, uid=UID + 50, branching=branching)
    assert said.tokens.tolist() != forked().tokens.tolist()
    assert [program._cache_size() for program in used] == counts


def talk(stops, slots=12, rows=1, roots=1, asks=None, **options):
    """A dialogue of a script: place of a token -> pattern; patterns 0 and 1 stop a row, 1 is no tool."""
    asked = []

    def script(row, tokens, length):
        found = [stops.get(int(place), -1) for place in length]
        return 100 * (row + 1) + length, np.array(found), np.zeros(len(row))

    def ask(call):
        asked.append(call)
        return scripted.told([7, 7] if call.pattern == 0 else [])

    programs = scripted.programs(script, slots)
    given = dict(calls=2, answer_tokens=2, at_once=2, steps=1, vocab_size=9)
    said = converse(
        programs if asks is None else asks(programs),
        None,
        np.zeros((1, 1), np.int32),
        np.ones(1, np.int32),
        np.arange(rows, dtype=np.int32),
        KEY,
        ask=ask,
        turns=Turns(**given | {"branching": no_branching(roots)} | options),
    )
    return said, asked


def test_boundaries_are_not_calls():
    # Boundaries behind tokens 0 and 1, a call at 2, whose answer is 3 and 4, a boundary at 5, a call at 7.
    said, asked = talk({0: 1, 1: 1, 2: 0, 5: 1, 7: 0, 10: 2})
    assert [(call.number, call.pattern) for call in asked] == [(0, 1), (0, 1), (0, 0), (1, 1), (1, 0)]
    # What was written since the last answer of a tool, across boundaries: a call may lie across one too.
    assert [call.ids for call in asked if call.pattern == 0] == [[100, 101, 102], [105, 106, 107]]
    assert said.calls.tolist() == [2] and said.stop.tolist() == [STOP_EOS]
    assert said.acted[0, :11].tolist() == [True] * 3 + [False] * 2 + [True] * 3 + [False] * 2 + [True]


@pytest.mark.parametrize(
    ("stops", "stop", "length"),
    [
        ({9: 0}, STOP_TOOL_LIMIT, 10),  # two tokens answer, and none would be left
        ({8: 0}, STOP_LENGTH, 12),
        ({11: 0}, STOP_TOOL_LIMIT, 12),
        ({11: 1}, STOP_LENGTH, 12),  # a boundary needs no room
        ({10: 1}, STOP_LENGTH, 12),
        ({}, STOP_LENGTH, 12),
    ],
)
def test_an_answer_without_room_ends_a_row(stops, stop, length):
    said, _ = talk(stops)
    assert said.stop.tolist() == [stop] and said.length.tolist() == [length]


def test_children_inherit_the_count_of_calls_alone():
    said, asked = talk({0: 1, 1: 0, 5: 0}, rows=2, branching=Branching(1, lambda crossing: 1))
    assert said.parent.tolist() == [0, 0] and said.fork.tolist() == [0, 1] and said.calls.tolist() == [2, 2]
    assert [call.number for call in asked if call.row == 1] == [0, 1]
    assert asked[-1].ids[0] == 204 and next(call.ids for call in asked if call.row == 1) == [100, 201]


class Returns:
    """Watches how often the host looks, and how many steps the devices make."""

    def __init__(self):
        self.steps: list[int] = []

    def __call__(self, programs):
        def advance(params, prefix, live, *rest):
            before = np.array(live.length)
            after = programs.advance(params, prefix, live, *rest)
            self.steps.append(int(np.max(after.length - before)))
            return after

        return programs._replace(advance=advance)


def by_row(ends):
    """Rows that end at places of their own."""

    def script(row, tokens, length):
        return np.zeros(len(row), int), np.where(length + 1 == ends[row], 2, -1), np.zeros(len(row))

    return script


def test_a_row_that_ends_without_a_call_does_not_bring_the_host_back():
    ends, seen = np.array([2, 5, 3, 9]), Returns()
    programs = seen(scripted.programs(by_row(ends), 12))
    given = (np.zeros((1, 1), np.int32), np.ones(1, np.int32), np.arange(4, dtype=np.int32), KEY)
    said = converse(
        programs, None, *given, ask=at_once, turns=turns(no_branching(4), calls=1, answer_tokens=2)
    )
    assert said.length.tolist() == ends.tolist() and seen.steps == [9]


@pytest.mark.parametrize(
    ("branching", "steps"),
    [
        # A boundary behind token 2: nothing that follows is read, and both rows run to 12 side by side.
        (Branching(1, lambda crossing: 1), [3, 9]),
        # Three tokens behind it are: the child begins when there are so many.
        (Branching(1, lambda crossing: 1, after=3), [3, 3, 9]),
        # The row ends at 12 before there are ten.
        (Branching(1, lambda crossing: 1, after=10), [3, 9, 9]),
    ],
)
def test_a_fork_begins_as_soon_as_it_can_be_decided(branching, steps):
    seen = Returns()
    said, _ = talk({2: 1}, rows=2, asks=seen, branching=branching)
    assert said.parent.tolist() == [0, 0] and said.fork.tolist() == [0, 3]
    assert seen.steps == steps


def test_no_decision_reads_more_than_it_says():
    read = []

    def decide(crossing):
        read.append((len(crossing.first), len(crossing.before), len(crossing.after)))
        return 0

    talk({2: 1, 4: 1}, rows=2, branching=Branching(1, decide, after=3))
    # A segment of two tokens ended by a boundary, and one of seven of which three are read.
    assert read[:2] == [(3, 3, 2), (3, 2, 3)]
