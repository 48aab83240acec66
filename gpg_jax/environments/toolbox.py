"""The tools of a run: calls read off tokens, run within limits, journalled, answered as tokens.

Every answer is written to the journal before the policy sees it: a file a rollout, in which a call has its
row's number, how many calls the row had made, and what it wrote for a name. A run that was killed finds it
there, and asks again for nothing that it had been told.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import NamedTuple, TextIO

from gpg_jax.environments.tools import Answer, Tool, call, find, query_of


@dataclasses.dataclass(frozen=True)
class Limits:
    """What a row may spend on tools.

    Attributes:
      calls: of a row; a further one ends it.
      tokens: of an answer, its tags among them; what is longer is cut.
      seconds: of a call, its waiting for a place among them; a slower one is answered without.
      workers: calls that run at once.
    """

    calls: int = 3
    tokens: int = 256
    seconds: float = 30.0
    workers: int = 8

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            least = 0 if field.name == "calls" else 1e-3 if field.name == "seconds" else 1
            if not getattr(self, field.name) >= least:
                raise ValueError(f"{field.name} is {getattr(self, field.name)}; it must be at least {least}")


@dataclasses.dataclass
class Counters:
    """What the tools did since they were last counted."""

    calls: int = 0
    failures: int = 0
    malformed: int = 0
    over_limit: int = 0
    timed_out: int = 0
    cut: int = 0
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
        self._places = threading.Semaphore(limits.workers)
        self._lock = threading.Lock()
        self._counters = Counters()
        self._folder, self._rollout = journal, ""
        self._known: dict[str, Answer] = {}
        self._file: TextIO | None = None

    def close(self) -> None:
        """Closes the journal."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def count(self) -> Counters:
        """What was counted since the last time."""
        with self._lock:
            counted, self._counters = self._counters, Counters()
        return counted

    def ask(self, rollout: str, request: Request) -> Future[list[int] | None]:
        """Calls a tool.

        Args:
          rollout: name of the rollout, fit for a file, and the same whenever it is collected.
          request: what the row wrote.

        Returns:
          The tokens of the answer, at most `Limits.tokens`; None where the row's calls are spent.

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
        self._start(future, name, find(self._tools, request.tool), query)
        return future

    def _turn_to(self, rollout: str) -> None:
        """Opens the journal of a rollout in place of the one before."""
        if self._folder is None or rollout == self._rollout:
            return
        self.close()
        path = self._folder / f"{rollout}.jsonl"
        self._known, self._rollout = read_journal(path), rollout
        self._folder.mkdir(parents=True, exist_ok=True)
        self._file = _open_journal(path)

    def _start(self, future: Future, name: str, tool: Tool, query: str) -> None:
        # Daemons: a tool that never returns must keep neither its place's successors nor the exit waiting.
        def late() -> None:
            text = f"Error: no answer within {self._limits.seconds:g} s"
            self._settle(future, name, Answer(text, self._limits.seconds, "timed_out"))

        def work() -> None:
            with self._places:
                if not future.done():
                    self._settle(future, name, call(tool, query))
            timer.cancel()

        timer = threading.Timer(self._limits.seconds, late)
        timer.daemon = True
        timer.start()
        threading.Thread(target=work, daemon=True).start()

    def _settle(self, future: Future, name: str, answer: Answer, *, note: bool = True) -> None:
        """Gives the answer, once: the first of tool and timer counts."""
        with self._lock:
            if future.done():
                return
            if note and self._file is not None:
                self._file.write(json.dumps({"name": name, **answer._asdict()}) + "\n")
                self._file.flush()
            try:
                body = self._codec.encode(answer.text)
            except Exception as error:  # in a thread of its own it would be lost, and the row wait for ever
                future.set_exception(error)
                return
            room = self._limits.tokens - len(self._open) - len(self._close)
            self._add_locked(
                failures=bool(answer.failure),
                malformed=answer.failure == "malformed",
                timed_out=answer.failure == "timed_out",
                cut=len(body) > room,
                seconds=answer.seconds,
            )
            future.set_result([*self._open, *body[:room], *self._close])

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


def _open_journal(path: Path) -> TextIO:
    """The journal open at its end, behind its last whole line."""
    file = path.open("a+b")
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    whole = file.read().rfind(b"\n") + 1
    if whole < size:
        file.truncate(whole)
    return io.TextIOWrapper(file, encoding="utf-8")


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
            known[record["name"]] = Answer(record["text"], record["seconds"], record["failure"])
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"line {number} of the journal {path} is no answer of a tool: {error}"
            ) from error
    return known
