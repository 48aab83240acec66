"""Tools: what a policy may call in the middle of its response, and how a call is made.

A tool is a name and a function from text to text. The policy calls it by writing `<name>text</name>`; what
the function returns is appended as `<result>…</result>`. A function that raises has its message appended:
the policy sees what went wrong, and the failure is counted. Calls run in a pool of threads, within a time.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import NamedTuple


class Tool(NamedTuple):
    """A tool.

    Attributes:
      name: of its tag.
      call: what stands inside the tag -> result; called in threads, several at once.
      retries: further attempts after an exception that is transient.
      pause: seconds before an attempt, doubled each time.
      transient: exceptions after which the same query may do better; any other, as of what the policy wrote
        wrongly, it is told at once. `OSError` is the base of those of sockets, files and `requests`, and of
        `TimeoutError`.
    """

    name: str
    call: Callable[[str], str]
    retries: int = 0
    pause: float = 0.5
    transient: tuple[type[Exception], ...] = (OSError,)


class Answer(NamedTuple):
    """What came of a call.

    Attributes:
      text: result, or what went wrong.
      seconds: that it took.
      failure: "raised" on the last attempt, "malformed", "timed_out" or "unreadable"; "" for a result.
      mended: whether characters that are no text, lone surrogates, are `?` in it.
    """

    text: str
    seconds: float
    failure: str = ""
    mended: bool = False


def find(tools: Sequence[Tool], name: str) -> Tool:
    """The tool of a name.

    Raises:
      ValueError: there is none.
    """
    for tool in tools:
        if tool.name == name:
            return tool
    raise ValueError(f"no tool {name!r}; there are {', '.join(tool.name for tool in tools)}")


def call(tool: Tool, query: str, sleep: Callable[[float], None] = time.sleep) -> Answer:
    """Calls a tool; whatever it does, there is an answer.

    Args:
      tool: what to call.
      query: its text.
      sleep: waits so many seconds between attempts.
    """
    start = time.monotonic()
    for attempt in range(tool.retries + 1):
        if attempt:
            sleep(tool.pause * 2 ** (attempt - 1))
        try:
            return Answer(_text(tool, tool.call(query)), time.monotonic() - start)
        except (Exception, SystemExit) as error:  # a tool may parse its query as a command line
            message = f"{type(error).__name__}: {error}"
            if not isinstance(error, tool.transient):
                break
    return Answer(f"Error: {message}", time.monotonic() - start, "raised")


def query_of(tool: str, response: str) -> str:
    """What stands inside the last `<tool>…</tool>` of a response, which ends with the closing tag.

    Raises:
      ValueError: the tag was never opened, or nothing stands in it.
    """
    opening = f"<{tool}>"
    before, found, inside = response.rpartition(opening)
    del before
    if not found:
        raise ValueError(f"</{tool}> closes nothing; write {opening} before it")
    query = inside.partition(f"</{tool}>")[0].strip()
    if not query:
        raise ValueError(f"{opening} is empty; write the query inside it")
    return query


def _text(tool: Tool, result: object) -> str:
    if not isinstance(result, str):
        raise TypeError(f"the tool {tool.name!r} returned {type(result).__name__}; a result is text")
    return result


@dataclasses.dataclass(eq=False)
class _Job:
    tool: Tool
    query: str
    answer: Future[Answer] = dataclasses.field(default_factory=Future)


class Pool:
    """Threads that tools are called in, each call within a time.

    The time runs from when a thread takes the call, so that waiting for one is no timeout. Nothing can stop
    a thread: one whose call is over its time is left to itself, and a new one takes its place. They are
    daemons, for a tool that never returns must not keep the process from ending.
    """

    def __init__(self, workers: int, seconds: float, abandoned: int):
        """Starts nothing yet.

        Args:
          workers: calls that run at once.
          seconds: of a call.
          abandoned: calls that may run on after their time.
        """
        self._workers, self._seconds, self._most = workers, seconds, abandoned
        self._queue: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._state = threading.Condition()
        self._running: dict[_Job, float] = {}  # until when; the first to begin is the first to be over
        self._threads = self._hung = 0
        self._error: Exception | None = None

    @property
    def abandoned(self) -> int:
        """Calls that run on after their time."""
        return self._hung

    def call(self, tool: Tool, query: str) -> Future[Answer]:
        """Calls a tool once a thread is free.

        Returns:
          The answer, "timed_out" where it was late; or the `RuntimeError` that too many calls hang, which
          all calls get from then on.
        """
        job = _Job(tool, query)
        with self._state:
            if self._error is not None:
                job.answer.set_exception(self._error)
                return job.answer
            if self._threads == 0:
                _start(self._watch)
            if self._threads < self._workers:
                _start(self._work)
                self._threads += 1
            self._queue.put(job)
        return job.answer

    def close(self) -> None:
        """Ends the threads that run no call; later calls are refused."""
        self._stop(RuntimeError("the tools are closed"))

    def _work(self) -> None:
        while (job := self._queue.get()) is not None:
            with self._state:
                refused = self._error
                if refused is None:
                    self._running[job] = time.monotonic() + self._seconds
                    self._state.notify()
            if refused is not None:
                job.answer.set_exception(refused)
                return
            try:
                settle = functools.partial(job.answer.set_result, call(job.tool, job.query))
            except BaseException as error:  # with it the thread would end, and the row wait for ever
                settle = functools.partial(job.answer.set_exception, error)
            with self._state:
                if self._running.pop(job, None) is None:
                    self._hung -= 1
                    return
            settle()

    def _watch(self) -> None:
        while (job := self._late()) is not None:
            try:
                self._replace_thread()
            except RuntimeError as error:
                self._stop(error)
                job.answer.set_exception(error)
            else:
                text = f"Error: no answer within {self._seconds:g} s"
                job.answer.set_result(Answer(text, self._seconds, "timed_out"))

    def _late(self) -> _Job | None:
        """The next call that is over its time, taken from its thread; None when there will be none."""
        with self._state:
            while self._error is None or self._running:
                job, until = next(iter(self._running.items()), (None, float("inf")))
                left = until - time.monotonic()
                if job is not None and left <= 0:
                    del self._running[job]
                    self._hung += 1
                    return job
                self._state.wait(min(left, threading.TIMEOUT_MAX))
        return None

    def _replace_thread(self) -> None:
        if self._error is not None:
            raise self._error
        if self._hung > self._most:
            raise RuntimeError(
                f"{self._hung} calls of tools are still running {self._seconds:g} s after they began, and at "
                f"most {self._most} may: a tool hangs. Mend it, or allow more seconds or more abandoned calls"
            )
        _start(self._work)

    def _stop(self, error: Exception) -> None:
        """Nothing is called any more: what waits for a thread gets the error, as later calls do."""
        waiting = []
        with self._state:
            self._error = self._error or error
            with contextlib.suppress(queue.Empty):
                while True:
                    waiting.append(self._queue.get_nowait())
            for _ in range(self._threads):
                self._queue.put(None)
            self._state.notify_all()
        for job in waiting:
            if job is not None:
                job.answer.set_exception(self._error)


def _start(run: Callable[[], None]) -> None:
    threading.Thread(target=run, daemon=True).start()
