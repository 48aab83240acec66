"""Rows that speak with tools: the host's side of the loop.

The devices draw tokens; a row that completes a call stops, its call runs on the host, and meanwhile the
other rows are drawn on. An answer is appended as tokens, and the row goes on. Where rows are forked is
decided in an order of its own, see `family`: so neither the speed of tools nor which rows run together
changes what is written.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from typing import NamedTuple

import jax
import numpy as np

from gpg_jax.decoding.branching import Branching, Crossing
from gpg_jax.decoding.family import Due, Family, Row
from gpg_jax.decoding.live import Live, LivePrograms, Prefix
from gpg_jax.decoding.rollouts import Written
from gpg_jax.decoding.sampling import uniforms
from gpg_jax.types import STOP_EOS, STOP_LENGTH, STOP_TOOL_LIMIT, Array, Params


class Call(NamedTuple):
    """A call that a row has made.

    Attributes:
      row: its number.
      number: calls that it had made before and that were answered with tokens.
      pattern: what was completed, an index into the patterns of calls.
      ids: what the row wrote since the last answer that had tokens.
    """

    row: int
    number: int
    pattern: int
    ids: list[int]


Ask = Callable[[Call], "Future[list[int] | None]"]
"""A call -> the tokens that answer it, none at a mere boundary, which is no call; None ends the row."""


@dataclasses.dataclass(frozen=True)
class Turns:
    """How a dialogue is held.

    Attributes:
      calls: patterns 0 .. calls-1 of the automaton stop a row until it is answered; any other one ends it.
      answer_tokens: longest answer; answers are read in widths that halve from here.
      at_once: rows whose answers are read, or that are begun, together.
      steps: tokens that are drawn, while calls or forks are waited for, before the host looks again.
      branching: how the rows of a prompt come about.
      vocab_size: V.
    """

    calls: int
    answer_tokens: int
    at_once: int
    steps: int
    branching: Branching
    vocab_size: int


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
    width, roots = total // prompt_count, turns.branching.roots
    if roots > width:
        raise ValueError(f"{roots} roots, and a prompt has {width} rows; give it more rows")
    running = np.arange(total) % width < roots
    prefix, live = programs.begin(params, prompts, prompt_length, running)
    talk = _Talk(programs, params, prefix, live, uid, key, ask, turns, running)
    talk.run()
    return talk.result()


class _Talk:
    """The state of one dialogue on the host."""

    def __init__(
        self,
        programs: LivePrograms,
        params: Params,
        prefix: Prefix,
        live: Live,
        uid: Array,
        key: Array,
        ask: Ask,
        turns: Turns,
        running: np.ndarray,
    ):
        self.programs, self.params, self.prefix, self.live = programs, params, prefix, live
        self.uid, self.key, self.ask, self.turns = uid, key, ask, turns
        self.total, self.slots = live.tokens.shape
        self.width = self.total // len(prefix.length)
        self.families = [Family(turns.branching.roots, self.width) for _ in prefix.length]
        self.running, self.length = running.copy(), np.zeros(self.total, np.int64)
        self.waiting: dict[int, Future[list[int] | None]] = {}
        self.drawn: dict[int, np.ndarray] = {}

    def run(self) -> None:
        """Until every row has ended."""
        while not all(family.ended for family in self.families):
            if self.running.any():
                self._advance()
            else:
                wait(self.waiting.values(), return_when=FIRST_COMPLETED)
            self._answered()
            self._branch()

    def result(self) -> Written:
        """What was said."""
        live = jax.device_get(self.live._replace(cache=()))
        rows = [row for family in self.families for row in family.rows]
        first = np.arange(self.total) // self.width * self.width
        return Written(
            tokens=live.tokens,
            acted=live.acted,
            log_prob=live.log_prob,
            length=live.length,
            stop=np.array([row.stop for row in rows], np.int32),
            parent=(first + [row.parent for row in rows]).astype(np.int32),
            fork=np.array([row.fork for row in rows], np.int32),
            calls=np.array([row.segments[-1].calls for row in rows], np.int32),
            late=np.array([row.late for row in rows]),
        )

    def _row(self, number: int) -> Row:
        return self.families[number // self.width].rows[number % self.width]

    def _advance(self) -> None:
        """Has the devices draw until a row makes a call, or there may be something to decide."""
        dues = self._dues()
        watched = np.zeros(self.total, bool)
        watched[[first + due.head for first, due in dues.items() if due.head is not None]] = True
        missing = [due.missing for due in dues.values() if due.missing]
        steps = self.turns.steps if self.waiting else self.slots
        if missing:
            steps = min(steps, max(min(missing), self.turns.steps))
        before = self.running
        self.live = self.programs.advance(
            self.params, self.prefix, self.live, self.uid, self.key, steps, self.turns.calls, watched
        )
        running, pattern, length = jax.device_get((self.live.running, self.live.pattern, self.live.length))
        self.running, self.length = np.array(running), np.array(length)
        self._stopped(np.flatnonzero(before & ~running).tolist(), pattern)

    def _stopped(self, halted: Sequence[int], pattern: np.ndarray) -> None:
        """Asks for rows that made a call; the others have ended."""
        calling = {number for number in halted if 0 <= pattern[number] < self.turns.calls}
        tokens = jax.device_get(self.live.tokens) if calling else None
        for number in halted:
            row, end = self._row(number), int(self.length[number])
            row.ends.append(end)
            if tokens is not None and number in calling:
                segment = row.segments[-1]
                said = tokens[number, segment.since : end].tolist()
                self.waiting[number] = self.ask(Call(number, segment.calls, int(pattern[number]), said))
            else:
                row.stop = STOP_LENGTH if pattern[number] < 0 else STOP_EOS

    def _answered(self) -> None:
        """Appends the answers that are there, `at_once` rows of one width at a time."""
        widths: dict[int, list[tuple[int, list[int]]]] = {}
        for number in sorted(number for number, future in self.waiting.items() if future.done()):
            answer, row = self.waiting.pop(number).result(), self._row(number)
            if answer is None or len(answer) >= self.slots - self.length[number]:
                row.stop = STOP_LENGTH if answer == [] else STOP_TOOL_LIMIT  # [] of a mere boundary
                continue
            row.answer(int(self.length[number]), len(answer))
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

    def _append(self, width: int, answers: Sequence[tuple[int, list[int]]]) -> None:
        rows, count = self._places(), self._places(0)
        tokens = np.zeros((self.turns.at_once, width), np.int32)
        for place, (number, answer) in enumerate(answers):
            rows[place], count[place] = number, len(answer)
            tokens[place, : len(answer)] = answer
            self.running[number] = True
            self.length[number] += len(answer)
        self.live = self.programs.append(self.params, self.prefix, self.live, rows, tokens, count)

    def _places(self, value: int | None = None) -> np.ndarray:
        """Places of a program; one that is not used names a row that there is not."""
        return np.full(self.turns.at_once, self.total if value is None else value, np.int32)

    def _dues(self) -> dict[int, Due]:
        """What can be decided, by the first row of the prompts that have rows left."""
        after, dues = self.turns.branching.after, {}
        for place, family in enumerate(self.families):
            if family.left:
                first = place * self.width
                dues[first] = family.due(self.length[first : first + self.width], after)
        return dues

    def _branch(self) -> None:
        """Makes the forks that are due, and begins anew where rows are left and all others have ended."""
        dues = self._dues()
        crossed = any(due.crossings for due in dues.values())
        watched = jax.device_get(self.live.uncertainty) if crossed else np.zeros((0, 0))
        born: list[int] = []
        for first, due in dues.items():
            family, own = self.families[first // self.width], len(born)
            for number, boundary in due.crossings:
                if family.left:
                    wanted = self.turns.branching.decide(self._crossing(first + number, boundary, watched))
                    born += [first + child for child in family.fork(number, boundary, wanted)]
            if due.head is None and family.left and len(born) == own:
                born += [first + root for root in family.begin_anew(self.turns.branching.refill)]
        for start in range(0, len(born), self.turns.at_once):
            self._begin(born[start : start + self.turns.at_once])

    def _begin(self, born: Sequence[int]) -> None:
        """Copies what the rows begin with; a root begins with nothing, of whatever row."""
        children, parents, length = self._places(), self._places(0), self._places(0)
        for place, number in enumerate(born):
            row = self._row(number)
            children[place], length[place] = number, row.fork
            parents[place] = number // self.width * self.width + row.parent
            self.length[number], self.running[number] = row.fork, True
        self.live = self.programs.fork(self.live, children, parents, length)

    def _crossing(self, number: int, boundary: int, watched: np.ndarray) -> Crossing:
        row, after = self._row(number), self.turns.branching.after

        def segment(index: int) -> np.ndarray:
            begin = row.segments[index].begin
            end = row.ends[index] if index < len(row.ends) else int(self.length[number])
            return watched[number, begin:end] if watched.size else np.zeros(0, np.float32)

        return Crossing(
            first=segment(0),
            own=segment(row.first),
            before=segment(boundary),
            after=segment(boundary + 1)[:after],
            vocab_size=self.turns.vocab_size,
            uniform=float(self._uniforms(boundary)[number]),
        )

    def _uniforms(self, boundary: int) -> np.ndarray:
        """Of all rows at a boundary: named by its place after the last token of a row, which no draw has."""
        if boundary not in self.drawn:
            place = np.full(self.total, self.slots + boundary, np.int32)
            self.drawn[boundary] = np.asarray(_draw(self.key, self.uid, place))
        return self.drawn[boundary]


_draw = jax.jit(uniforms)
