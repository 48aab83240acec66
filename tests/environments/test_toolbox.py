"""Calls are answered whatever the tool does, within limits, and once answered for good."""

from __future__ import annotations

import dataclasses
import json
import threading
import time

import pytest

from gpg_jax.data.tokenizers import character_tokenizer
from gpg_jax.environments.toolbox import Codec, Limits, Request, Toolbox, read_journal
from gpg_jax.environments.tools import Tool, call, query_of

ALPHABET = "".join(map(chr, range(32, 127))) + "\n"
TOKENIZER = character_tokenizer(ALPHABET)
CODEC = Codec(TOKENIZER.encode, TOKENIZER.decode)


def request(text: str, row: int = 0, number: int = 0, tool: str = "echo") -> Request:
    return Request(row, number, tool, TOKENIZER.encode(text))


def said(toolbox: Toolbox, asked: Request, rollout: str = "r") -> str | None:
    ids = toolbox.ask(rollout, asked).result(timeout=10)
    return None if ids is None else TOKENIZER.decode(ids)


def box(*tools: Tool, journal=None, **limits) -> Toolbox:
    return Toolbox(tools or (Tool("echo", lambda query: query.upper()),), CODEC, Limits(**limits), journal)


def test_an_answer_stands_in_its_tags():
    toolbox = box()
    assert said(toolbox, request("<think>hm</think><echo> abc </echo>")) == " <result>\nABC\n</result>"
    counted = toolbox.count()
    assert (counted.calls, counted.failures, counted.malformed) == (1, 0, 0)
    assert toolbox.count().calls == 0


def test_a_long_answer_is_cut_and_keeps_its_tags():
    toolbox = box(tokens=30)
    answer = said(toolbox, request("<echo>" + "a" * 100 + "</echo>"))
    assert len(answer) == 30 and answer.startswith(" <result>\nAAA") and answer.endswith("A\n</result>")
    assert toolbox.count().cut == 1


def test_calls_are_numbered_and_spent():
    toolbox = box(calls=2)
    assert said(toolbox, request("<echo>a</echo>", number=1)) is not None
    assert said(toolbox, request("<echo>a</echo>", number=2)) is None
    assert toolbox.count().over_limit == 1


def test_a_malformed_call_is_answered_with_what_is_wrong():
    toolbox = box()
    assert "</echo> closes nothing" in said(toolbox, request("abc</echo>"))
    assert "<echo> is empty" in said(toolbox, request("<echo> </echo>"))
    assert toolbox.count().malformed == 2
    assert query_of("echo", "<echo>a<echo>b</echo>") == "b"


def test_a_tool_that_raises_is_tried_again_and_then_read_by_the_policy():
    tries, pauses = [], []

    def broken(query: str) -> str:
        tries.append(query)
        raise OSError("no line")

    tool = Tool("broken", broken, retries=2, pause=0.5)
    answer = call(tool, "x", sleep=pauses.append)
    assert answer.failure == "raised" and answer.text == "Error: OSError: no line"
    assert len(tries) == 3 and pauses == [0.5, 1.0]
    toolbox = box(tool._replace(retries=0))
    assert "Error: OSError: no line" in said(toolbox, request("<broken>x</broken>", tool="broken"))
    assert toolbox.count().failures == 1
    odd = call(Tool("odd", lambda query: 3), "x")
    assert odd.text.startswith("Error: TypeError: the tool 'odd' returned int")


def test_a_tool_that_hangs_keeps_nobody_waiting():
    never = threading.Event()
    toolbox = box(Tool("hang", lambda query: str(never.wait())), seconds=0.2, workers=1)
    start = time.monotonic()
    futures = [toolbox.ask("r", request("<hang>x</hang>", row=row, tool="hang")) for row in range(3)]
    answers = [TOKENIZER.decode(future.result(timeout=10)) for future in futures]
    assert all("no answer within 0.2 s" in answer for answer in answers)
    assert time.monotonic() - start < 5 and toolbox.count().timed_out == 3
    never.set()


def test_calls_run_beside_each_other_up_to_the_limit():
    running, most, lock = [0], [0], threading.Lock()

    def slow(query: str) -> str:
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
        time.sleep(0.05)
        with lock:
            running[0] -= 1
        return query

    toolbox = box(Tool("slow", slow), workers=3)
    futures = [toolbox.ask("r", request(f"<slow>{row}</slow>", row=row, tool="slow")) for row in range(9)]
    assert [str(row) in TOKENIZER.decode(future.result(10)) for row, future in enumerate(futures)] == [
        True
    ] * 9
    assert most[0] == 3


def test_what_was_answered_is_answered_the_same_after_a_kill(tmp_path):
    journal, asked = tmp_path / "tools", []

    def clock(query: str) -> str:
        asked.append(query)
        return f"{query} at {time.perf_counter_ns()}"

    first = box(Tool("clock", clock), journal=journal)
    one = said(first, request("<clock>a</clock>", tool="clock"), "1")
    first.close()
    with (journal / "1.jsonl").open("a") as file:
        file.write('{"name": "half of a li')  # the kill
    again = box(Tool("clock", clock), journal=journal)
    assert said(again, request("<clock>a</clock>", tool="clock"), "1") == one and asked == ["a"]
    assert again.count().replayed == 1
    said(again, request("<clock>b</clock>", tool="clock"), "1")
    other = said(again, request("<clock>a</clock>", tool="clock"), "2")
    assert other != one and asked == ["a", "b", "a"]
    again.close()
    assert len(read_journal(journal / "1.jsonl")) == 2 and len(read_journal(journal / "2.jsonl")) == 1
    assert "half" not in (journal / "1.jsonl").read_text()


def test_what_is_replayed_counts_as_it_did(tmp_path):
    """A run that was killed and goes on must report what an undisturbed one does."""

    def broken(query: str) -> str:
        raise OSError(query)

    def counted() -> dict:
        toolbox = box(Tool("broken", broken), Tool("echo", str.upper), journal=tmp_path)
        for row, text in enumerate(("<echo>a</echo>", "<echo></echo>", "<broken>x</broken>")):
            tool = "broken" if "broken" in text else "echo"
            said(toolbox, request(text, tool=tool)._replace(row=row))
        toolbox.close()
        return dataclasses.asdict(toolbox.count())

    first, second = counted(), counted()
    assert (first.pop("replayed"), second.pop("replayed")) == (0, 3)
    assert first == second and (first["failures"], first["malformed"]) == (2, 1)


def test_a_journal_of_something_else_is_refused_untouched(tmp_path):
    journal = tmp_path / "r.jsonl"
    journal.write_text(json.dumps({"name": "a", "text": "b", "failure": "", "seconds": 0}) + "\n{}\n")
    with pytest.raises(ValueError, match="line 2 of the journal"):
        said(box(journal=tmp_path), request("<echo>a</echo>"))
    assert journal.read_text().endswith("{}\n")


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"tokens": 20}, "its tags take 20"),
        ({"workers": 0}, "workers is 0"),
        ({"seconds": 0}, "seconds is 0"),
    ],
)
def test_limits_that_leave_no_room_are_refused(limits, message):
    with pytest.raises(ValueError, match=message):
        box(**limits)


def test_two_tools_of_one_name_are_refused():
    with pytest.raises(ValueError, match="have a name twice"):
        box(Tool("a", str), Tool("a", str))
