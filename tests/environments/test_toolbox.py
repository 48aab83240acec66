"""Calls are answered whatever the tool does, within limits, and once answered for good."""

from __future__ import annotations

import dataclasses
import io
import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import gpg_jax
from gpg_jax.data.demonstrations import demonstration_tokens
from gpg_jax.data.tokenizers import character_tokenizer
from gpg_jax.environments import toolbox as module
from gpg_jax.environments.toolbox import UNREADABLE, Codec, Limits, Request, Toolbox, read_journal
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


@pytest.mark.parametrize("body", ["A page.", " and more", "two\n\nlines.\n", "</result>", ""])
def test_an_answer_has_the_tokens_of_a_demonstrated_one(body):
    """Though a tokenizer may have one for what ends the text and begins the tag."""
    tokenizer = character_tokenizer(ALPHABET, (".\n", "\n\n", "\n ", ">\n", "\n</"))
    codec = Codec(tokenizer.encode, tokenizer.decode)
    toolbox = Toolbox((Tool("echo", lambda query: body),), codec, Limits())
    asked = Request(0, 0, "echo", tokenizer.encode("<echo>a</echo>"))
    turns = (("tool", f" <result>\n{body}\n</result>"), ("policy", "so"))
    ids, acted = demonstration_tokens(turns, tokenizer.encode, eos_id=0)
    assert toolbox.ask("r", asked).result(timeout=10) == ids[: acted.index(True)]


def test_a_long_answer_is_cut_and_keeps_its_tags():
    toolbox = box(tokens=30)
    answer = said(toolbox, request("<echo>" + "a" * 100 + "</echo>"))
    assert len(answer) == 30 and answer.startswith(" <result>\nAAA") and answer.endswith("A\n</result>")
    assert toolbox.count().cut == 1


def test_of_a_huge_result_no_more_is_read_and_journalled_than_there_is_room_for(tmp_path):
    read = []

    def encode(text: str) -> list[int]:  # sixty-four characters a token
        read.append(len(text))
        return [len(text[start : start + 64]) for start in range(0, len(text), 64)]

    def answer() -> list[int] | None:
        huge = Tool("echo", lambda query: query + "x" * 5_000_000)
        toolbox = Toolbox((huge,), Codec(encode, TOKENIZER.decode), Limits(tokens=30), tmp_path)
        found = toolbox.ask("r", request("<echo>a</echo>")).result(timeout=10)
        assert toolbox.count().cut == 1
        toolbox.close()
        return found

    first = answer()
    assert first == [10, *[64] * 28, 10] and sum(read) < 20_000
    assert (tmp_path / "r.jsonl").stat().st_size < 10_000
    assert answer() == first  # out of the journal


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
    odd = call(Tool("odd", lambda query: 3, retries=2), "x", sleep=pauses.append)
    assert odd.text.startswith("Error: TypeError: the tool 'odd' returned int")
    call(tool._replace(transient=(LookupError,)), "x", sleep=pauses.append)
    assert len(pauses) == 2  # neither may be another time


def asks(toolbox: Toolbox, tool: str, rows: int, first: int = 0) -> list:
    """Futures of as many calls at once."""
    return [
        toolbox.ask("r", request(f"<{tool}>{row}</{tool}>", row=row, tool=tool))
        for row in range(first, first + rows)
    ]


def heard(futures: list) -> list[str]:
    return [TOKENIZER.decode(future.result(timeout=10)) for future in futures]


def test_a_tool_that_hangs_keeps_nobody_waiting(tmp_path):
    never = threading.Event()
    hang = Tool("hang", lambda query: str(never.wait()))
    toolbox = box(hang, Tool("echo", str.upper), journal=tmp_path, seconds=0.1, workers=2)
    assert all("no answer within 0.1 s" in answer for answer in heard(asks(toolbox, "hang", 3)))
    healthy = heard(asks(toolbox, "echo", 20, first=3))
    assert healthy == [f" <result>\n{row}\n</result>" for row in range(3, 23)]
    counted = toolbox.count()
    assert (counted.timed_out, counted.abandoned, counted.failures) == (3, 3, 3)
    never.set()
    until = time.monotonic() + 10
    while toolbox.count().abandoned and time.monotonic() < until:
        time.sleep(0.01)
    assert toolbox.count().abandoned == 0
    toolbox.close()
    known = read_journal(tmp_path / "r.jsonl")  # what came too late is not in it
    assert [answer.failure for answer in known.values()].count("timed_out") == 3 and len(known) == 23


def test_to_wait_for_a_place_is_no_timeout():
    """Four calls of 0.3 s take 1.2 s in one place, each of them less than the limit."""
    toolbox = box(Tool("slow", lambda query: time.sleep(0.3) or query), seconds=0.9, workers=1)
    assert heard(asks(toolbox, "slow", 4)) == [f" <result>\n{row}\n</result>" for row in range(4)]
    assert toolbox.count().timed_out == 0


def test_calls_share_the_threads_of_a_pool():
    threads = set()

    def whose(query: str) -> str:
        threads.add(threading.current_thread())
        return query

    toolbox = box(Tool("whose", whose), workers=3)
    before = threading.active_count()
    heard(asks(toolbox, "whose", 30))
    assert len(threads) <= 3 and threading.active_count() - before <= 4
    toolbox.close()
    assert all(not thread.join(10) and not thread.is_alive() for thread in threads)


def test_too_many_calls_that_hang_end_the_run():
    never = threading.Event()
    hang = Tool("hang", lambda query: str(never.wait()))
    toolbox = box(hang, Tool("echo", str.upper), seconds=0.1, workers=1, abandoned=1)
    first, second, waiting = asks(toolbox, "hang", 3)
    assert "no answer within" in heard([first])[0]
    for future in (second, waiting, toolbox.ask("r", request("<echo>a</echo>"))):
        with pytest.raises(
            RuntimeError, match=r"2 calls of tools are still running 0.1 s after.* at most 1 may"
        ):
            future.result(timeout=10)
    assert toolbox.count().abandoned == 2
    never.set()


def test_a_tool_that_leaves_is_read_by_the_policy():
    toolbox = box(Tool("leave", lambda query: sys.exit(query)))
    assert "Error: SystemExit: 0" in heard(asks(toolbox, "leave", 1))[0]


def test_what_hangs_does_not_keep_the_process():
    program = """
import threading
from gpg_jax.environments.toolbox import Codec, Limits, Request, Toolbox
from gpg_jax.environments.tools import Tool
codec = Codec(lambda text: list(text.encode()), lambda ids: bytes(ids).decode())
hang = Tool("hang", lambda query: threading.Event().wait())
toolbox = Toolbox([hang], codec, Limits(seconds=0.05, workers=1))
for row in range(2):
    ids = codec.encode("<hang>x</hang>")
    print(codec.decode(toolbox.ask("r", Request(row, 0, "hang", ids)).result()))
toolbox.ask("r", Request(2, 0, "hang", ids))
"""
    root = Path(gpg_jax.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=root, timeout=60, capture_output=True, text=True, check=True
    )
    assert done.stdout.count("no answer within 0.05 s") == 2 and not done.stderr


def test_a_result_that_is_no_text_is_mended_and_counted(tmp_path):
    def said_and_counted() -> tuple:
        toolbox = box(Tool("odd", lambda query: "a\ud83d\ude00b"), journal=tmp_path)
        said = heard(asks(toolbox, "odd", 1))
        toolbox.close()
        return said, dataclasses.asdict(toolbox.count())

    said, counted = said_and_counted()
    assert said == [" <result>\na??b\n</result>"] and counted["mended"] == 1 and counted["failures"] == 0
    assert said_and_counted() == (said, counted | {"replayed": 1})


def test_a_journal_with_what_is_no_text_is_replayed(tmp_path):
    """Half of a surrogate pair was written to the journal before it was found out to be no text."""
    toolbox, journal = box(Tool("odd", str.upper), journal=tmp_path), tmp_path / "r.jsonl"
    heard(asks(toolbox, "odd", 1))
    toolbox.close()
    record = json.loads(journal.read_text())
    del record["mended"]
    journal.write_text(json.dumps(record | {"text": "a\ud800b"}) + "\n")
    toolbox = box(Tool("odd", str.upper), journal=tmp_path)
    assert heard(asks(toolbox, "odd", 1)) == [" <result>\na?b\n</result>"]
    assert toolbox.count().mended == 1
    toolbox.close()


def test_a_result_without_tokens_is_told_so(tmp_path):
    toolbox = box(Tool("odd", lambda query: "é"), journal=tmp_path)
    assert heard(asks(toolbox, "odd", 1)) == [f" <result>\n{UNREADABLE}\n</result>"]
    assert toolbox.count().failures == 1
    toolbox.close()
    (answer,) = read_journal(tmp_path / "r.jsonl").values()
    assert answer.text == UNREADABLE and answer.failure == "unreadable"


def test_a_full_disk_ends_the_run_and_leaves_whole_lines(tmp_path, monkeypatch):
    class Full(io.FileIO):
        """Takes the first line, and half of any other."""

        def write(self, line):
            return super().write(line if self.seek(0, io.SEEK_END) == 0 else line[: len(line) // 2])

    monkeypatch.setattr(module, "_open_journal", lambda path: Full(path, "a+"))
    toolbox = box(Tool("echo", str.upper), journal=tmp_path)
    heard(asks(toolbox, "echo", 1))
    for asked in (request("<echo>1</echo>", row=1), request("<echo></echo>", row=2)):
        with pytest.raises(OSError, match="no room for an answer in the journal"):
            toolbox.ask("r", asked).result(timeout=10)
    toolbox.close()
    assert (tmp_path / "r.jsonl").read_bytes().count(b"\n") == 1
    assert len(read_journal(tmp_path / "r.jsonl")) == 1


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
        ({"abandoned": -1}, "abandoned is -1"),
    ],
)
def test_limits_that_leave_no_room_are_refused(limits, message):
    with pytest.raises(ValueError, match=message):
        box(**limits)


def test_two_tools_of_one_name_are_refused():
    with pytest.raises(ValueError, match="have a name twice"):
        box(Tool("a", str), Tool("a", str))
