"""Suites of benchmarks: found, asked as the paper asks, counted by hand."""

from __future__ import annotations

import dataclasses
import functools
import json
import re
from pathlib import Path

import numpy as np
import pytest
from children import ended, start
from rich.console import Console
from tiny_chat import tiny_chat_model

from experiments import evaluate, records
from experiments.config import Experiment, default_config
from experiments.evaluation import Evaluator
from experiments.first_state import first_state
from experiments.functions import FUNCTIONS
from experiments.methods import MethodConfig
from experiments.reading import from_config_dict
from experiments.reward_model.config import RewardModelConfig
from experiments.setup import Setup, build
from experiments.suites import report
from experiments.suites.benchmarks import KNOWLEDGE, MATHEMATICS, SUITES, Benchmark, notes, suite
from experiments.suites.questions import Questions, find_files, read
from experiments.suites.run import Request, run_suite
from experiments.suites.scores import ask, averages, suite_config
from gpg_jax.data.examples import Example
from gpg_jax.decoding.rollouts import Written
from gpg_jax.environments.arpo_prompt import asked, system_prompt
from gpg_jax.types import STOP_EOS

QA = Benchmark("hotpotqa", "HotpotQA", KNOWLEDGE, "boxed_f1")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_chat_model(tmp_path_factory.mktemp("tiny") / "model")


def configure(model: Path, **changes) -> Experiment:
    """A tiny chat model with the Python tool; `__` for the dot."""
    config = default_config().to_dict()
    config["model"]["name"] = str(model)
    config["task"] |= {"prompt_tokens": 400}
    config["sampling"]["new_tokens"] = 24
    config["tools"] |= {"names": ("python",), "answer_tokens": 16}
    config["evaluation"] |= {"batch": 8}
    for key, value in changes.items():
        section, _, name = key.rpartition("__")
        config[section][name] = value
    return from_config_dict(Experiment, config)


@pytest.fixture(scope="module")
def setup(model) -> Setup:
    return build(suite_config(configure(model), None))


def folder_of(tmp_path: Path, **rows) -> Path:
    for name, questions in rows.items():
        path = tmp_path / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in questions))
    return tmp_path


def scripted(setup: Setup, parts: dict[str, list[tuple[str, bool]]]) -> Evaluator:
    """A policy that answers a question with parts of its own and of tools; two responses alike to each."""

    def respond(example: Example) -> tuple[list[int], list[bool]]:
        ids, acted = [], []
        for text, own in parts[example.prompt[-1]["content"]]:
            tokens = setup.task.tokenizer.encode(text)
            ids, acted = ids + tokens, acted + [own] * len(tokens)
        return ids, acted

    def write(params, examples, prompts, uid, key):
        rows = [respond(example) for example in examples for _ in range(2)]
        slots = max(len(ids) for ids, _ in rows)
        tokens, acted = np.zeros((len(rows), slots), np.int32), np.zeros((len(rows), slots), bool)
        for row, (ids, own) in enumerate(rows):
            tokens[row, : len(ids)], acted[row, : len(own)] = ids, own
        calls = [
            sum(not own for _, own in parts[e.prompt[-1]["content"]]) for e in examples for _ in range(2)
        ]
        count = np.arange(len(rows), dtype=np.int32)
        said = Written(
            tokens=tokens,
            acted=acted,
            log_prob=np.zeros(tokens.shape, np.float32),
            length=np.array([len(ids) for ids, _ in rows], np.int32),
            stop=np.full(len(rows), STOP_EOS, np.int32),
            parent=count,
            fork=np.zeros_like(count),
            calls=np.array(calls, np.int32),
        )
        return lambda: said

    return Evaluator(setup, "sampled", 2, write)


RESPONSES = {
    "q1": [("<think>a</think><answer>\\boxed{Paris}</answer>", True)],
    "q2": [
        ("<think>a</think><python>1</python>", True),
        (" <result>\n\\boxed{Rome}\n</result>", False),
        ("<think>b</think><answer>\\boxed{the city of Rome}</answer>", True),
    ],
    "q3": [("Berlin, I think: \\boxed{Berlin}", True)],
    "q4": [("<think>a</think><answer>Oslo</answer>", True)],
    "q5": [("<think>a</think><answer>\\boxed{Bern}</answer>", True)],
}
GOLD = {"q1": "Paris", "q2": "Rome", "q3": "Berlin", "q4": "Oslo", "q5": "Basel"}


def test_a_benchmark_is_counted(setup):
    """By hand: F1 of "city of rome" against "rome" is 1/2; q3 has no format, q4 no box, q5 is wrong."""
    examples = [Example(asked(question), gold) for question, gold in GOLD.items()]
    questions = Questions(QA, Path("x.jsonl"), examples, 0)
    score, rows = ask(scripted(setup, RESPONSES), {}, questions)
    assert score.metric.mean == pytest.approx((1 + 1 / 2 + 1) / 5)
    assert (score.metric.prompts, score.metric.samples) == (5, 2)
    assert score.metric.low < 0.5 < score.metric.high
    assert score.exact == pytest.approx(2 / 5)
    assert score.format_errors == pytest.approx(2 / 5)
    assert score.calls == pytest.approx(1 / 5)
    assert score.answered == pytest.approx(4 / 5)
    assert score.metric_answered == pytest.approx(2.5 / 4)
    assert score.correct.tolist() == [[True] * 2, [False] * 2, [True] * 2, [False] * 2, [False] * 2]
    assert score.failures == () and len(rows) == 10
    second = rows[2]
    assert (second["benchmark"], second["kind"], second["answer"], second["calls"]) == (
        "hotpotqa", "sampled", "Rome", 1,
    )  # fmt: skip
    assert second["outcome"] == second["reward"] == second["parts"]["boxed_f1"] == 0.5
    assert second["parts"]["broken_format"] == 0 and "<result>" in second["response"]


def test_nothing_answered_is_no_score_of_those(setup):
    questions = Questions(QA, Path("x.jsonl"), [Example(asked("q4"), "Oslo")], 3)
    score, _ = ask(scripted(setup, RESPONSES), {}, questions)
    assert score.metric_answered is None and score.metric.mean == 0
    line = report.table([score])[1]
    assert re.search(r"HotpotQA +1 \(3 dropped\) +F1 +0\.000 \[0\.000, \d", line) and line.endswith("–")


def test_a_judge_of_ones_own_judges_where_the_paper_has_one(setup, monkeypatch):
    def judge(text, example):
        if "Bern" in text:
            raise OSError("no answer")
        return 0.25 if example.answer == "Paris" else 1.0

    monkeypatch.setitem(FUNCTIONS, "mine", judge)
    chosen = {benchmark.name: benchmark for benchmark in suite("arpo", "mine")}
    assert {name for name, one in chosen.items() if one.metric == "mine"} == {
        "aime24", "aime25", "math500", "gsm8k", "math", "webwalker",
    }  # fmt: skip
    examples = [Example(asked(question), GOLD[question]) for question in ("q1", "q2", "q5")]
    score, rows = ask(
        scripted(setup, RESPONSES), {}, Questions(chosen["webwalker"], Path("x.jsonl"), examples, 0)
    )
    assert score.metric.mean == pytest.approx((0.25 + 1) / 3)
    assert len(score.failures) == 2 and "OSError: no answer" in score.failures[0]
    assert ["failure" in row for row in rows] == [False] * 4 + [True] * 2
    assert "2 responses count 0 because the metric failed" in report.remarks([score], [])[-1]
    assert "WebWalker: judged by mine, where the paper asks" in report.remarks([score], [])[0]


def test_averages_are_over_benchmarks_of_a_group():
    def score(name, group, mean):
        benchmark = Benchmark(name, name, group, "boxed_f1")
        return dataclasses.make_dataclass("S", ["questions", "metric"])(
            Questions(benchmark, Path(), [], 0), dataclasses.make_dataclass("M", ["mean"])(mean)
        )

    found = [score("a", MATHEMATICS, 0.2), score("b", MATHEMATICS, 0.4), score("c", KNOWLEDGE, 0.9)]
    assert averages(found) == {
        MATHEMATICS: (pytest.approx(0.3), 2),
        KNOWLEDGE: (0.9, 1),
        "all": (pytest.approx(0.5), 3),
    }
    assert averages(found[2:]) == {KNOWLEDGE: (0.9, 1), "all": (0.9, 1)}


def test_the_suite_is_that_of_the_papers_table():
    names = [benchmark.name for benchmark in SUITES["arpo"]]
    assert names == [
        "aime24", "aime25", "math500", "gsm8k", "math",
        "webwalker", "hotpotqa", "2wiki", "musique", "bamboogle",
    ]  # fmt: skip
    said = notes(SUITES["arpo"])
    assert [sentence.partition(":")[0] for sentence in said] == [
        "AIME24, AIME25, MATH500, GSM8K, MATH", "WebWalker",
    ]  # fmt: skip
    assert all(benchmark.metric in FUNCTIONS for benchmark in SUITES["arpo"])


def test_unknown_names_are_named_with_the_nearest():
    with pytest.raises(ValueError, match="no suite 'apro'; the nearest is 'arpo'"):
        suite("apro")
    with pytest.raises(ValueError, match="no judge 'boxed_fl'; the nearest is 'boxed_f1'"):
        suite("arpo", "boxed_fl")


def test_files_are_found_by_name_in_either_layout(tmp_path):
    (tmp_path / "2wiki").mkdir()
    for name in ("aime24.jsonl", "gsm8k.parquet", "musique.json", "2wiki/test.jsonl", "other.jsonl"):
        (tmp_path / name).write_text("")
    found = find_files(SUITES["arpo"], tmp_path)
    assert {one.name: str(path.relative_to(tmp_path)) for one, path in found.items()} == {
        "aime24": "aime24.jsonl", "gsm8k": "gsm8k.parquet", "2wiki": "2wiki/test.jsonl",
        "musique": "musique.json",
    }  # fmt: skip
    (tmp_path / "musique.jsonl").write_text("")
    with pytest.raises(
        ValueError, match=r"MuSiQue has two files, .*musique.jsonl and .*musique.json; remove"
    ):
        find_files(SUITES["arpo"], tmp_path)


def test_no_file_at_all_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="has no file of the suite; it may have aime24, aime25"):
        find_files(SUITES["arpo"], tmp_path)
    with pytest.raises(ValueError, match=r"there is no folder .*none"):
        find_files(SUITES["arpo"], tmp_path / "none")


def test_questions_are_asked_behind_the_papers_prompt(setup, tmp_path):
    folder = folder_of(
        tmp_path,
        gsm8k=[{"question": "2 + 2?", "answer": "It is 2 + 2.\n#### 4"}],
        hotpotqa=[
            {"question": "Where?", "answer": ["Rome", "Roma"]},
            {"question": [{"role": "user", "content": "Who?"}], "answer": "#### Bob"},
        ],
    )
    benchmarks = {benchmark.name: benchmark for benchmark in SUITES["arpo"]}
    task, encode = setup.config.task, setup.task.encode
    (sum_,) = read(benchmarks["gsm8k"], folder / "gsm8k.jsonl", task, encode, ("python",)).examples
    assert sum_.answer == "4" and sum_.metadata == {"benchmark": "gsm8k"}
    assert sum_.prompt == asked("2 + 2?", ("python",))
    assert sum_.prompt[0]["content"] == system_prompt(["python"])
    where, who = read(benchmarks["hotpotqa"], folder / "hotpotqa.jsonl", task, encode, ()).examples
    assert where.metadata["answers"] == ["Rome", "Roma"] and where.prompt[0]["content"] == system_prompt(())
    assert who.prompt == ({"role": "user", "content": "Who?"},) and who.answer == "#### Bob"
    first = read(benchmarks["hotpotqa"], folder / "hotpotqa.jsonl", task, encode, (), limit=1)
    assert len(first.examples) == 1 and first.dropped == 0


def test_long_prompts_obey_the_task(setup, tmp_path):
    rows = [{"question": "Why? " * 100, "answer": "7"}, {"question": "Why?", "answer": "7"}]
    path = folder_of(tmp_path, math=rows) / "math.jsonl"
    benchmark = SUITES["arpo"][4]
    with pytest.raises(
        ValueError, match=r"math.jsonl: 1 of 2 prompts are longer than task.prompt_tokens=400"
    ):
        read(benchmark, path, setup.config.task, setup.task.encode, ())
    task = dataclasses.replace(setup.config.task, drop_long=True)
    kept = read(benchmark, path, task, setup.task.encode, ())
    assert (len(kept.examples), kept.dropped) == (1, 1)


def test_a_suite_is_sampled_as_in_the_paper(model):
    config = configure(model, cold_start__steps=3, task__verifier="arpo_f1", sampling__top_k=5)
    sampled, greedy = suite_config(config, None), suite_config(config, 0)
    assert (sampled.sampling.temperature, sampled.sampling.top_p, sampled.sampling.top_k) == (0.6, 0.95, 0)
    assert (sampled.evaluation.samples, sampled.evaluation.greedy) == (1, False)
    assert (greedy.evaluation.samples, greedy.evaluation.greedy) == (0, True)
    assert sampled.sampling.new_tokens == 24 and sampled.tools == config.tools
    with pytest.raises(ValueError, match="a model from scratch has no chat template"):
        suite_config(Experiment(), None)


def test_a_run_that_was_scored_or_mixed_is_asked_too(model):
    config = configure(model)
    task = dataclasses.replace(config.task, rewards={"reward_model": 1.0})
    scored = dataclasses.replace(config, task=task, reward_model=RewardModelConfig(workdir="gone"))
    assert suite_config(scored, None) == suite_config(config, None)
    mixed = dataclasses.replace(config, method=MethodConfig(name="cpi"))
    assert suite_config(mixed, 0).sampling.temperature == 1
    with pytest.raises(ValueError, match=r"at temperature 0\.6, and what 'cpi' .* \(--samples=0\)"):
        suite_config(mixed, None)


TWO = {
    "aime24": [{"question": f"{n} + {n}?", "answer": str(2 * n)} for n in range(3)],
    "2wiki": [{"question": "Where?", "golden_answers": ["Rome", "Roma"]}],
}


def assert_rescores(out: Path, samples: int):
    """The table says what the transcripts say; the model has random weights and answers nothing."""
    rows, table = list(records.read(out)), json.loads(out.with_suffix(".json").read_text())
    assert [row["benchmark"] for row in rows] == ["aime24"] * 2 * samples + ["2wiki"] * samples
    for entry, own in zip(table["benchmarks"], (rows[: 2 * samples], rows[2 * samples :]), strict=True):
        assert entry["score"] == pytest.approx(np.mean([row["outcome"] for row in own]))
        broken = np.mean([row["parts"]["broken_format"] for row in own])
        assert entry["format_errors"] == pytest.approx(broken)
        assert entry["calls"] == pytest.approx(np.mean([row["calls"] for row in own]))
    first, second = table["benchmarks"]
    assert (first["questions"], second["questions"]) == (2, 1)
    assert first["exact"] is None and second["exact"] == 0
    assert table["averages"]["all"] == {"score": 0, "benchmarks": 2}
    assert "AIME24: judged by math-verify" in " ".join(table["remarks"])
    return rows, table


def test_a_model_without_tools_is_asked(model, tmp_path):
    folder, out = folder_of(tmp_path, **TWO), tmp_path / "out.jsonl"
    request = Request("arpo", folder, configure(model, tools__names=()), out, samples=0, examples=2)
    with (tmp_path / "screen").open("w") as screen:
        run_suite(request, Console(file=screen), lambda setup: first_state(setup).params)
    rows, table = assert_rescores(out, samples=1)
    assert table["sampling"] == {"kind": "greedy", "samples": 1}
    assert {row["kind"] for row in rows} == {"greedy"} and "<python>" not in rows[0]["prompt"]
    with pytest.raises(ValueError, match=r"out.json is where the table goes; remove it"):
        run_suite(request, Console(quiet=True), first_state)


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--suite=apro", "--data=."], "there is no suite 'apro'; the nearest is 'arpo'"),
        (["--suite=arpo"], "a suite needs --data=FOLDER"),
        (["--suite=arpo", "--data=none"], "there is no folder none"),
        (["--suite=arpo", "--data=.", "--judge=boxed"], "there is no judge 'boxed'; the nearest is 'boxed_"),
        (["--judge=exact"], "--judge is of a suite"),
        (["--suite=arpo", "--data=.", "--pass_at=2"], "--pass_at=2 is not a number from 1 to the 1 samples"),
        (["--suite=arpo", "--data=.", "--out=t.json"], "t.json is where the table goes"),
    ],
)
def test_a_mistake_is_a_sentence(monkeypatch, capsys, tmp_path, flags, sentence):
    """The command line in this process: `FLAGS` are put in place of absl's, which are parsed once."""
    (tmp_path / "aime24.jsonl").write_text('{"question": "1?", "answer": 1}\n')
    monkeypatch.chdir(tmp_path)
    values = evaluate_flags(flags)
    monkeypatch.setattr(evaluate, "FLAGS", values)
    monkeypatch.setattr(evaluate.command_line, "config", lambda: Experiment())
    with pytest.raises(SystemExit) as stopped:
        evaluate.main()
    assert stopped.value.code == 2
    assert sentence in capsys.readouterr().err


def evaluate_flags(given: list[str]):
    from absl import flags

    own = flags.FlagValues()
    with pytest.MonkeyPatch.context() as patch:
        for name in ("string", "integer", "list"):
            kind = getattr(flags, f"DEFINE_{name}")
            patch.setattr(flags, f"DEFINE_{name}", functools.partial(kind, flag_values=own))
        evaluate.define()
    own(["evaluate", *given])
    return own


def test_the_command_line_asks_a_suite_with_tools(model, tmp_path):
    folder_of(tmp_path, **TWO)
    flags = [
        "--config=configs/smoke.py", f"--config.model.name={model}", "--config.task.prompt_tokens=400",
        "--config.sampling.new_tokens=12", "--config.tools.names=('python',)", "--suite=arpo",
        f"--data={tmp_path}", f"--out={tmp_path / 'o.jsonl'}", "--samples=2", "--examples=2", "--pass_at=2",
    ]  # fmt: skip
    code, said = ended(start("evaluate", *flags))
    assert code == 0, said
    rows, table = assert_rescores(tmp_path / "o.jsonl", samples=2)
    assert table["sampling"] == {
        "kind": "sampled", "samples": 2, "temperature": 0.6, "top_k": 0, "top_p": 0.95, "min_p": 0.0,
    }  # fmt: skip
    assert "<python>" in rows[0]["prompt"] and "<search>" not in rows[0]["prompt"]
    assert "WebWalker: skipped" in said
    assert re.search(r"AIME24 +2 +math-verify +0\.000 \[0\.000, 0\.\d{3}\]", said), said
    assert "pass@2" in said
    assert "average, knowledge-intensive: 0.000 over 1 benchmark\n" in said
