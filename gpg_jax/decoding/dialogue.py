"""Rows that speak with tools: the host's side of the loop.

The devices draw tokens; a row that completes a call stops, its call runs on the host, and meanwhile the
other rows are drawn on. An answer is appended as tokens, and the row goes on. Where rows are forked is
decided boundary by boundary, in the order of rows, once every row of the prompt has passed it: so neither
the speed of tools nor which rows run together changes what is written.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from typing import NamedTuple

import jax
import numpy as np

from gpg_jax.decoding.branching import Branching, Crossing
from gpg_jax.decoding.live import Live, LivePrograms, Prefix
from gpg_jax.decoding.rollouts import Written
from gpg_jax.decoding.sampling import uniforms
from gpg_jax.types import STOP_EOS, STOP_LENGTH, STOP_TOOL_LIMIT, Array, Params


class Call(NamedTuple):
    """A call that a row has made.

    Attributes:
      row: its number.
      number: calls that it had made before.
      pattern: what was completed, an index into the patterns of calls.
      ids: what the policy wrote since the last answer.
    """

    row: int
    number: int
    pattern: int
    ids: list[int]


Ask = Callable[[Call], "Future[list[int] | None]"]
"""A call -> the tokens that answer it, none to go on without an answer; None ends the row."""


@dataclasses.dataclass(frozen=True)
class Turns:
    """How a dialogue is held.

    Attributes:
      calls: patterns 0 .. calls-1 of the automaton stop a row until it is answered; any other one ends it.
      answer_tokens: longest answer; answers are read in widths that halve from here.
      at_once: rows whose answers are read together.
      steps: tokens that are drawn, while calls are running, before the host looks again.
      branching: how the rows of a prompt come about.
      vocab_size: V.
    """

    calls: int
    answer_tokens: int
    at_once: int
    steps: int
    branching: Branching
    vocab_size: int


@dataclasses.dataclass
class _Row:
    """What the host knows of a row; a segment is what it writes between two answers."""

    parent: int
    fork: int = 0
    begins: list[int] = dataclasses.field(default_factory=lambda: [0])
    ends: list[int] = dataclasses.field(default_factory=list)
    first_boundary: int = 0
    stop: int | None = None

    @property
    def calls(self) -> int:
        return len(self.begins) - 1


def converse(
    programs: LivePrograms,
    params: Params,
    prompts: Array,
    prompt_length: Array,
    uid: Array,
    key: Array,
    *,
    ask: Ask,
    turns: Turns,
) -> Written:
    """Samples B / P rows of each of P prompts, with tools and forks.

    Args:
      programs: of the policy, see `live.live_programs`.
      params: as `policy.for_decoding` gives them.
      prompts: `int32[P, S]`, right-padded.
      prompt_length: `int32[P]`, at least 1.
      uid: `int32[B]`, name of each row; row b answers prompt `b // (B / P)`.
      key: key of the rollout.
      ask: calls a tool; its future is waited for.
      turns: how the dialogue is held.

    Returns:
      `Written` of exactly B rows.

    Raises:
      ValueError: rows that the prompts do not divide, or fewer rows a prompt than roots.
    """
    total, prompt_count = len(uid), len(prompts)
    if total % prompt_count:
        raise ValueError(f"{total} rows cannot be shared out among {prompt_count} prompts")
    width = total // prompt_count
    if turns.branching.roots > width:
        raise ValueError(f"{turns.branching.roots} roots, and a prompt has {width} rows; give it more rows")
    talk = _Talk(programs, params, uid, key, ask, turns, width)
    running = np.arange(total) % width < turns.branching.roots
    talk.prefix, talk.live = programs.begin(params, prompts, prompt_length, running)
    talk.rows = {row: _Row(parent=row) for row in np.flatnonzero(running).tolist()}
    talk.run()
    return talk.result()


class _Talk:
    """The state of one dialogue on the host."""

    prefix: Prefix
    live: Live
    rows: dict[int, _Row]

    def __init__(
        self,
        programs: LivePrograms,
        params: Params,
        uid: Array,
        key: Array,
        ask: Ask,
        turns: Turns,
        width: int,
    ):
        self.programs, self.params, self.uid, self.key = programs, params, uid, key
        self.ask, self.turns, self.width, self.total = ask, turns, width, len(uid)
        self.waiting: dict[int, Future[list[int] | None]] = {}
        self.decided = [0] * (self.total // width)

    def run(self) -> None:
        """Until every row has ended."""
        budget = self.live.tokens.shape[1]
        while len(self.rows) < self.total or any(row.stop is None for row in self.rows.values()):
            steps = self.turns.steps if self.waiting else budget
            self.live = self.programs.advance(self.params, self.prefix, self.live, self.uid, self.key, steps)
            running, pattern, length = jax.device_get(
                (self.live.running, self.live.pattern, self.live.length)
            )
            self._stopped(running, pattern, length)
            forked = self._branch(length)
            if not (np.any(running) or forked) and self.waiting:
                wait(self.waiting.values(), return_when=FIRST_COMPLETED)
            self._answered(length)

    def result(self) -> Written:
        """What was said."""
        live = jax.device_get(self.live._replace(cache=()))
        rows = [self.rows[row] for row in range(self.total)]
        return Written(
            tokens=live.tokens,
            acted=live.acted,
            log_prob=live.log_prob,
            length=live.length,
            stop=np.array([row.stop for row in rows], np.int32),
            parent=np.array([row.parent for row in rows], np.int32),
            fork=np.array([row.fork for row in rows], np.int32),
            calls=np.array([row.calls for row in rows], np.int32),
        )

    def _stopped(self, running: np.ndarray, pattern: np.ndarray, length: np.ndarray) -> None:
        """Sees which rows have stopped, and asks for those that made a call."""
        halted = [
            number
            for number, row in sorted(self.rows.items())
            if row.stop is None and not running[number] and number not in self.waiting
        ]
        if not halted:
            return
        tokens = jax.device_get(self.live.tokens)
        for number in halted:
            row = self.rows[number]
            row.ends.append(int(length[number]))
            if 0 <= pattern[number] < self.turns.calls:
                said = tokens[number, row.begins[-1] : length[number]].tolist()
                self.waiting[number] = self.ask(Call(number, row.calls, int(pattern[number]), said))
            else:
                row.stop = STOP_LENGTH if pattern[number] < 0 else STOP_EOS

    def _answered(self, length: np.ndarray) -> None:
        """Appends the answers that are there, `at_once` rows of one width at a time."""
        widths: dict[int, list[tuple[int, list[int]]]] = {}
        for number in sorted(number for number, future in self.waiting.items() if future.done()):
            answer = self.waiting.pop(number).result()
            room = self.live.tokens.shape[1] - int(length[number])
            if answer is None or len(answer) >= room:
                self.rows[number].stop = STOP_TOOL_LIMIT
                continue
            self.rows[number].begins.append(int(length[number]) + len(answer))
            widths.setdefault(self._width(max(len(answer), 1)), []).append((number, answer))
        for width, answers in sorted(widths.items()):
            for start in range(0, len(answers), self.turns.at_once):
                self._append(width, answers[start : start + self.turns.at_once])

    def _width(self, tokens: int) -> int:
        if tokens > self.turns.answer_tokens:
            raise ValueError(
                f"an answer has {tokens} tokens and answer_tokens is {self.turns.answer_tokens}; cut it"
            )
        width = self.turns.answer_tokens
        while width >= 2 * tokens and width % 2 == 0:
            width //= 2
        return width

    def _append(self, width: int, answers: list[tuple[int, list[int]]]) -> None:
        rows = np.full(self.turns.at_once, self.total, np.int32)
        tokens = np.zeros((self.turns.at_once, width), np.int32)
        count = np.zeros(self.turns.at_once, np.int32)
        for place, (number, answer) in enumerate(answers):
            rows[place], count[place] = number, len(answer)
            tokens[place, : len(answer)] = answer
        self.live = self.programs.append(self.params, self.prefix, self.live, rows, tokens, count)

    def _branch(self, length: np.ndarray) -> bool:
        """Makes the forks that are due; whether any row begins."""
        made = [birth for prompt in range(len(self.decided)) for birth in self._due(prompt)]
        if not made:
            return False
        source, kept = np.arange(self.total, dtype=np.int32), np.array(length, np.int32)
        for number, row in made:
            # A row that begins anew is another one cut down to nothing.
            source[number] = row.parent if row.parent != number else self._other(number)
            kept[number] = row.fork
            self.rows[number] = row
        self.live = self.programs.fork(self.live, source, kept)
        return True

    def _due(self, prompt: int) -> Iterator[tuple[int, _Row]]:
        """Rows of a prompt that begin now: at boundaries that all have passed, or as new roots."""
        own = range(prompt * self.width, (prompt + 1) * self.width)
        rows = {number: self.rows[number] for number in own if number in self.rows}
        free = [number for number in own if number not in self.rows]
        while free and all(
            row.stop is not None or len(row.ends) >= self.decided[prompt] + 2 for row in rows.values()
        ):
            boundary = self.decided[prompt]
            crossed = [
                number
                for number, row in rows.items()
                if row.first_boundary <= boundary and len(row.ends) >= boundary + 2
            ]
            if not crossed and all(row.stop is not None for row in rows.values()):
                yield from self._begin_anew(prompt, rows, free)
                return
            self.decided[prompt] += 1
            for number in crossed:
                for _ in range(min(self._wanted(number, boundary), len(free))):
                    child = free.pop(0)
                    rows[child] = self._child(number, boundary)
                    yield child, rows[child]

    def _begin_anew(self, prompt: int, ended: dict[int, _Row], free: list[int]) -> Iterator[tuple[int, _Row]]:
        """New roots, whose boundaries are counted from the first; those of ended rows are settled."""
        self.decided[prompt] = 0
        for row in ended.values():
            row.first_boundary = self.live.tokens.shape[1]
        for number in free if self.turns.branching.refill == "all" else free[:1]:
            yield number, _Row(parent=number)

    def _child(self, number: int, boundary: int) -> _Row:
        row = self.rows[number]
        return _Row(
            parent=number,
            fork=row.begins[boundary + 1],
            begins=row.begins[: boundary + 2],
            ends=row.ends[: boundary + 1],
            first_boundary=boundary + 1,
        )

    def _wanted(self, number: int, boundary: int) -> int:
        row = self.rows[number]
        watched = jax.device_get(self.live.uncertainty[number])

        def segment(index: int) -> np.ndarray:
            return watched[row.begins[index] : row.ends[index]] if watched.size else np.zeros(0)

        # The name is the boundary's place after the last token that a row can have, which no draw has.
        place = np.array([self.live.tokens.shape[1] + boundary], np.int32)
        crossing = Crossing(
            first=segment(0),
            before=segment(boundary),
            after=segment(boundary + 1),
            vocab_size=self.turns.vocab_size,
            uniform=float(uniforms(self.key, np.asarray(self.uid[number])[None], place)[0]),
        )
        return self.turns.branching.decide(crossing)

    def _other(self, number: int) -> int:
        return (number + 1) % self.total
