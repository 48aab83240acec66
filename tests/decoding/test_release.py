"""Mode `arpo_release` beside a slow port of the schedule that ARPO's released code samples by."""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import numpy as np
import pytest
import scripted

from gpg_jax.decoding.branching import arpo_release
from gpg_jax.decoding.dialogue import Turns, converse
from gpg_jax.decoding.sampling import uniforms

PROMPTS, WIDTH, ROOTS, SLOTS, VOCABULARY, LIMIT = 4, 7, 3, 14, 50, 4
WEIGHT, PROBABILITY, FIRST = 0.2, 0.5, 3
CALL, END = 0, 1


class Script(NamedTuple):
    """What every row would write at every place, and the uniform numbers of its boundaries.

    Attributes:
      token, pattern, entropy: `[B, 2N]`; beyond N for a server that writes on.
      uniform: `[B, N]`.
    """

    token: np.ndarray
    pattern: np.ndarray
    entropy: np.ndarray
    uniform: np.ndarray


def script(seed: int) -> Script:
    draw = np.random.default_rng(seed)
    shape = (PROMPTS * WIDTH, 2 * SLOTS)
    place = np.arange(SLOTS, 2 * SLOTS)
    rows = np.arange(shape[0], dtype=np.int32)
    uniform = [uniforms(jax.random.key(seed), rows, np.full_like(rows, index)) for index in place]
    return Script(
        token=draw.integers(3, VOCABULARY, shape),
        pattern=draw.choice([-1, CALL, END], p=[0.6, 0.28, 0.12], size=shape),
        entropy=draw.gamma(2, 1, shape).astype(np.float32),
        uniform=np.stack(uniform, axis=1),
    )


def answer_of(said: list[int], calls: int) -> list[int] | None:
    """A tool whose answer depends on what it was asked; no answer where the query is empty."""
    if calls >= LIMIT or sum(said) % 7 == 0:
        return None
    return [1, 2, 2][: 1 + sum(said) % 3]


class Slot(NamedTuple):
    """A row of the released code: its tokens and mask, and whom it was copied from, where."""

    name: int
    parent: int
    fork: int
    tokens: list[int]
    mask: list[int]


def released(script: Script, stale: dict[int, float] | None = None):
    """The rows of every prompt in the order in which the released code returns them.

    Rounds as in `generate_sequences`: all active slots write a segment; calls are answered; the slots that
    stay active are asked for a branch each in the order of slots while their prompt has rows left; a prompt
    without active slots gets one that begins at the prompt. Slots are numbered through all prompts; `name`
    is the row's number here, which names its tokens. An end-of-sequence token that the code appends where a
    limit of calls is reached is left out.
    """
    slots, calls, boundary, since, initial = [], [], [], [], dict(stale or {})
    owner: list[int] = []
    of_prompt: list[list[int]] = [[] for _ in range(PROMPTS)]

    def add(prompt: int, source: int | None) -> int:
        name = prompt * WIDTH + len(of_prompt[prompt])
        of_prompt[prompt].append(len(slots))
        owner.append(prompt)
        if source is None:
            slots.append(Slot(name, name, 0, [], []))
        else:
            tokens, mask = slots[source].tokens, slots[source].mask
            slots.append(Slot(name, slots[source].name, len(tokens), tokens.copy(), mask.copy()))
        for counts in (calls, boundary, since):
            counts.append(0 if source is None else counts[source])
        return len(slots) - 1

    active = [add(prompt, None) for prompt in range(PROMPTS) for _ in range(ROOTS)]
    while active:
        most = max(SLOTS - len(slots[slot].tokens) for slot in active)
        entropy, following = {}, []
        for slot in active:
            row = slots[slot]
            start, reason = len(row.tokens), "length"
            for _ in range(most):
                place = len(row.tokens)
                row.tokens.append(int(script.token[row.name, place]))
                row.mask.append(1)
                if script.pattern[row.name, place] >= 0:
                    reason = "call" if script.pattern[row.name, place] == CALL else "end"
                    break
            read = script.entropy[row.name, start : min(start + FIRST, len(row.tokens))]
            entropy[slot] = float(np.sum(read)) / math.log(VOCABULARY)
            initial.setdefault(slot, entropy[slot])
            if reason == "call":
                answer = answer_of(row.tokens[since[slot] :], calls[slot])
                if answer is not None:
                    calls[slot] += 1
                    row.tokens.extend(answer)
                    row.mask.extend([0] * len(answer))
                    since[slot] = len(row.tokens)
                    following.append(slot)
            elif reason == "length" and len(row.tokens) < SLOTS:
                following.append(slot)
        following = [slot for slot in following if len(slots[slot].tokens) < SLOTS]
        born = []
        for prompt in range(PROMPTS):
            own = [slot for slot in following if owner[slot] == prompt]
            for slot in own:
                remaining = WIDTH - len(of_prompt[prompt])
                if remaining <= 0:
                    break
                change = entropy[slot] - initial[slot]
                drawn = float(script.uniform[slots[slot].name, boundary[slot]]) - WEIGHT * change
                boundary[slot] += 1
                if min(max(drawn, 0.0), 1.0) <= PROBABILITY:
                    born.append(add(prompt, slot))
            if not own and len(of_prompt[prompt]) < WIDTH:
                born.append(add(prompt, None))
        active = following + born
    copies = sum(WIDTH - len(of_prompt[prompt]) for prompt in range(PROMPTS))
    return [slots[slot] for prompt in range(PROMPTS) for slot in of_prompt[prompt]], copies


def ours(script: Script, seed: int):
    def write(rows, tokens, length):
        return script.token[rows, length], script.pattern[rows, length], script.entropy[rows, length]

    return converse(
        scripted.programs(write, SLOTS),
        None,
        np.zeros((PROMPTS, 1), np.int32),
        np.ones(PROMPTS, np.int32),
        np.arange(PROMPTS * WIDTH, dtype=np.int32),
        jax.random.key(seed),
        ask=lambda call: scripted.told(answer_of(call.ids, call.number)),
        turns=Turns(
            calls=1,
            answer_tokens=4,
            at_once=3,
            steps=1,
            branching=arpo_release(ROOTS, weight=WEIGHT, probability=PROBABILITY, tokens=FIRST),
            vocab_size=VOCABULARY,
        ),
    )


@pytest.mark.parametrize("seed", range(12))
def test_the_rows_are_those_of_the_released_code(seed):
    given = script(seed)
    theirs, copies = released(given)
    said = ours(given, seed)
    assert copies == 0  # a prompt that has ended gets a fresh row while some are missing, so none ever is
    assert [slot.parent for slot in theirs] == said.parent.tolist()
    assert [slot.fork for slot in theirs] == said.fork.tolist()
    for row, slot in enumerate(theirs):
        length = said.length[row]
        assert slot.tokens[:length] == said.tokens[row, :length].tolist()
        assert slot.mask[:length] == said.acted[row, :length].tolist()
        # An answer that leaves no room is cut there, and not appended here.
        assert not any(slot.mask[length:SLOTS])


def test_the_scripts_say_something():
    shapes = [released(script(seed))[0] for seed in range(12)]
    forks = [sum(slot.parent != slot.name for slot in rows) for rows in shapes]
    late = [sum(slot.parent == slot.name for slot in rows) - ROOTS * PROMPTS for rows in shapes]
    grandchildren = [
        slot for rows in shapes for slot in rows if rows[slot.parent].parent != rows[slot.parent].name
    ]
    assert min(forks) >= 1 and max(late) >= 2 and grandchildren


def test_their_baseline_is_another_requests_from_the_second_batch_on():
    differ = 0
    for seed in range(12):
        given = script(seed)
        stale = {slot: 9.0 for slot in range(PROMPTS * WIDTH)}
        fresh = [slot.parent for slot in released(given)[0]]
        assert fresh == ours(given, seed).parent.tolist()  # a second rollout of ours has forgotten the first
        differ += [slot.parent for slot in released(given, stale)[0]] != fresh
    assert differ >= 6
