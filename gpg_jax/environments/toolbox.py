"""The tools of a run: calls read off tokens, run within limits, journalled, answered as tokens.

Every answer is written to the journal before the policy sees it: a file a rollout, in which a call has its
row's number, how many calls the row had made, and what it wrote for a name. A run that was killed finds it
there, and asks again for nothing that it had been told.
"""

from __future__ import annotations

import dataclasses
import errno
import functools
import hashlib
import io
import json
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import NamedTuple

from gpg_jax.environments.tools import Answer, Pool, Tool, find, query_of

UNREADABLE = "Error: the result cannot be written in tokens"
"""What a row is told where its tokenizer has no way to write a result."""

READ_AT_FIRST = 8
"""Characters of a result that are read per token that there is room for; more, where they do not fill it."""


@dataclasses.dataclass(frozen=True)
class Limits:
    """What a row may spend on tools.

    Attributes:
      calls: of a row; a further one ends it.
      tokens: of an answer, its tags among them; what is longer is cut, and not journalled much beyond.
      seconds: of a call from when it begins; a slower one is answered without.
      workers: calls that run at once.
      abandoned: calls that may run on after their time, beside those; one more ends the run.
    """

    calls: int = 3
    tokens: int = 256
    seconds: float = 30.0
    workers: int = 8
    abandoned: int = 32

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            least = {"calls": 0, "abandoned": 0, "seconds": 1e-3}.get(field.name, 1)
            if not getattr(self, field.name) >= least:
                raise ValueError(f"{field.name} is {getattr(self, field.name)}; it must be at least {least}")


@dataclasses.dataclass
class Counters:
    """What the tools did since they were last counted.

    Attributes:
      calls: of rows that had calls left.
      failures: calls that were told of an error.
      malformed: of these, calls without a query.
      over_limit: calls of rows that had none left.
      timed_out: of the failures, calls that were over their time.
      abandoned: of all calls so far that were over their time, those that still run now.
      cut: answers that were too long.
      mended: answers with characters that are no text, lone surrogates; `?` stands for each.
      replayed: answers that were found in the journal.
      seconds: that all calls took.
    """

    calls: int = 0
    failures: int = 0
    malformed: int = 0
    over_limit: int = 0
    timed_out: int = 0
    abandoned: int = 0
    cut: int = 0
    mended: int = 0
    replayed: int = 0
    seconds: float = 0.0


class Request(NamedTuple):
    """A call that a row has made.

    Attributes:
      row: its number.
      number: calls that the row had made before.
      tool: name of the tag that was closed.
      ids: tokens since the last answer, the closing tag among them.
    """

    row: int
    number: int
    tool: str
    ids: Sequence[int]


class Codec(NamedTuple):
    """Text to tokens and back: `encode` of exactly a text, `decode` with special tokens written out."""

    encode: Callable[[str], list[int]]
    decode: Callable[[Sequence[int]], str]


class Toolbox:
    """Tools, limits and a journal, shared by the rows of a run; safe to call from several threads."""

    def __init__(self, tools: Sequence[Tool], codec: Codec, limits: Limits, journal: Path | None = None):
        """Opens the journal.

        Args:
          tools: their names must differ.
          codec: of the policy's tokens.
          limits: what a row may spend.
          journal: a folder that is made, with a file a rollout; None keeps none.

        Raises:
          ValueError: two tools of one name, or no room for a word between the tags of an answer.
        """
        names = [tool.name for tool in tools]
        if len(set(names)) < len(names):
            raise ValueError(f"the tools {names} have a name twice; give each its own")
        self._tools, self._codec, self._limits = tuple(tools), codec, limits
        self._open, self._close = codec.encode(" <result>\n"), codec.encode("\n</result>")
        if len(self._open) + len(self._close) >= limits.tokens:
            taken = len(self._open) + len(self._close)
            raise ValueError(
                f"an answer has {limits.tokens} tokens, of which its tags take {taken}; allow more"
            )
        self._room = limits.tokens - len(self._open) - len(self._close)
        self._pool = Pool(limits.workers, limits.seconds, limits.abandoned)
        self._lock = threading.Lock()
        self._counters = Counters()
        self._folder, self._rollout = journal, ""
        self._known: dict[str, Answer] = {}
        self._file: io.FileIO | None = None

    def close(self) -> None:
        """Closes the journal and ends the threads; nothing can be called any more."""
        self._pool.close()
        with self._lock:
            self._close_journal()

    def count(self) -> Counters:
        """What was counted since the last time."""
        with self._lock:
            counted, self._counters = self._counters, Counters()
        return dataclasses.replace(counted, abandoned=self._pool.abandoned)

    def ask(self, rollout: str, request: Request) -> Future[list[int] | None]:
        """Calls a tool.

        Args:
          rollout: name of the rollout, fit for a file, and the same whenever it is collected.
          request: what the row wrote.

        Returns:
          The tokens of the answer, at most `Limits.tokens`; None where the row's calls are spent; or the
          error that ends the run: calls that hang, a journal that cannot be written.

        Raises:
          ValueError: a journal of this rollout that cannot be read.
        """
        with self._lock:
            self._turn_to(rollout)
        future: Future[list[int] | None] = Future()
        if request.number >= self._limits.calls:
            self._add(over_limit=1)
            future.set_result(None)
            return future
        self._add(calls=1)
        text = self._codec.decode(request.ids)
        name = call_name(request.row, request.number, text)
        if name in self._known:
            self._add(replayed=1)
            self._settle(future, name, self._known[name], note=False)
            return future
        try:
            query = query_of(request.tool, text)
        except ValueError as error:
            self._settle(future, name, Answer(f"Error: {error}", 0.0, "malformed"))
            return future
        called = self._pool.call(find(self._tools, request.tool), query)
        called.add_done_callback(functools.partial(self._returned, future, name))
        return future

    def _turn_to(self, rollout: str) -> None:
        """Opens the journal of a rollout in place of the one before."""
        if self._folder is None or rollout == self._rollout:
            return
        path = self._folder / f"{rollout}.jsonl"
        known = read_journal(path)
        self._folder.mkdir(parents=True, exist_ok=True)
        self._close_journal()
        self._file, self._known, self._rollout = _open_journal(path), known, rollout

    def _close_journal(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _returned(self, future: Future, name: str, called: Future[Answer]) -> None:
        error = called.exception()
        if error is None:
            self._settle(future, name, called.result())
        else:
            future.set_exception(error)

    def _settle(self, future: Future, name: str, answer: Answer, *, note: bool = True) -> None:
        """Gives the answer, or what went wrong on the way: in silence the row would wait for ever."""
        try:
            answer, body = self._encode(answer)
            with self._lock:
                if note and self._file is not None:
                    _note(self._file, {"name": name, **answer._asdict()})
                self._add_locked(
                    failures=bool(answer.failure),
                    malformed=answer.failure == "malformed",
                    timed_out=answer.failure == "timed_out",
                    cut=len(body) > self._room,
                    mended=answer.mended,
                    seconds=answer.seconds,
                )
        except Exception as error:
            future.set_exception(error)
        else:
            future.set_result([*self._open, *body[: self._room], *self._close])

    def _encode(self, answer: Answer) -> tuple[Answer, list[int]]:
        """The answer as it can be written, and its tokens; done again, it is the same."""
        whole = answer.text.encode("utf-8", "replace").decode()
        answer = answer._replace(mended=answer.mended or whole != answer.text)
        try:
            text, body = self._beginning(whole)
            return answer._replace(text=text), body
        except Exception:  # codecs differ in what they raise
            answer = answer._replace(text=UNREADABLE, failure="unreadable")
            return answer, self._codec.encode(UNREADABLE)

    def _beginning(self, text: str) -> tuple[str, list[int]]:
        """As much of a text as there is room for, or more, and its tokens: what a tool says has no bound.

        Where it ends inside a word the last token may be another than the whole text's, which is cut too.
        """
        length = READ_AT_FIRST * self._room
        while True:
            body = self._codec.encode(text[:length])
            if length >= len(text) or len(body) > self._room:
                return text[:length], body
            length *= 2

    def _add(self, **counted: float) -> None:
        with self._lock:
            self._add_locked(**counted)

    def _add_locked(self, **counted: float) -> None:
        for name, value in counted.items():
            setattr(self._counters, name, getattr(self._counters, name) + value)


def call_name(row: int, number: int, text: str) -> str:
    """The name of a call in the journal of its rollout."""
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    return f"{row}/{number}/{digest}"


def _open_journal(path: Path) -> io.FileIO:
    """The journal open at its end, behind its last whole line."""
    file = io.FileIO(path, "a+")
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    whole = file.readall().rfind(b"\n") + 1
    if whole < size:
        file.truncate(whole)
    return file


def _note(file: io.FileIO, record: dict[str, object]) -> None:
    """Appends a line, whole or not at all: no later line may stand behind half a one."""
    line = (json.dumps(record) + "\n").encode()
    size = file.seek(0, io.SEEK_END)
    if file.write(line) < len(line):
        file.truncate(size)
        raise OSError(errno.ENOSPC, "no room for an answer in the journal of the tools", file.name)


def read_journal(path: Path) -> dict[str, Answer]:
    """Answers by the name of their call; a last line that a kill cut short is left out.

    Raises:
      ValueError: a line that is no answer, with its number.
    """
    if not path.is_file():
        return {}
    known = {}
    lines = path.read_text(encoding="utf-8").split("\n")
    for number, line in enumerate(lines[:-1], 1):
        try:
            record = json.loads(line)
            name = record.pop("name")
            known[name] = Answer(**record)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"line {number} of the journal {path} is no answer of a tool: {error}"
            ) from error
    return known
