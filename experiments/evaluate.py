"""Accuracy of a model on held-out examples, with a 95% confidence interval.

    python -m experiments.evaluate --workdir=W [--checkpoint=latest|best|STEP]      what a run has learnt
    python -m experiments.evaluate --config=configs/X.py [--config.model.name=…]    a model as it is

Greedy responses, and sampled ones where `--samples` is above 0. `--data=FILE.jsonl` asks other questions.
Responses are judged by the task's verifier; a reward model is not asked, and need not be there.

`--suite=arpo --data=FOLDER` asks the benchmarks of the ARPO paper instead, from `aime24.jsonl` (or .json,
.parquet, or `aime24/test.jsonl`), aime25, math500, gsm8k, math, webwalker, hotpotqa, 2wiki, musique and
bamboogle; those without a file are named and skipped. Files are read as they are published: fields `question`
or `problem` and `answer` or `golden_answers`, whatever their case, MATH's `solution` for its last box,
MuSiQue's `answer_aliases`, GSM8K's `#### 42`, or verl's layout (`gpg_jax.data.files.read_questions`).

It samples as the paper does, one response a question at temperature 0.6 and top-p 0.95 (`--samples=0` for
greedy ones), judges as `experiments.suites.benchmarks` says, and writes the table beside the transcripts, as
.json. The paper has a language model judge mathematics and WebWalker; `--judge=NAME` gives them a judge of
your own, an entry of `experiments.functions.FUNCTIONS`.
Tools and budgets of prompts and responses are the run's, or the config's: a model trained with small budgets
is exported (`experiments.export`) and asked by `--config=configs/arpo_paper.py:qwen2.5-7b
--config.model.name=FOLDER`.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from absl import flags
from rich.console import Console

from experiments import command_line, records
from experiments.config import Experiment
from experiments.evaluation import Answers, evaluate, make_evaluators
from experiments.first_state import first_state
from experiments.progress import say
from experiments.setup import Setup, build
from experiments.statistics import pass_at_k
from experiments.suites.run import Request, run_suite
from experiments.trained import trained_config, trained_params, unscored
from gpg_jax.types import Params

FLAGS = flags.FLAGS


def define() -> None:
    """Defines the flags."""
    flags.DEFINE_string("workdir", None, "Folder of a run whose checkpoint is evaluated.")
    flags.DEFINE_string("checkpoint", "latest", "latest, best, or the number of an iteration.")
    flags.DEFINE_string("data", None, "Questions and answers, .jsonl or .parquet, to ask instead.")
    flags.DEFINE_string("suite", None, "Benchmarks of a paper, from the folder --data: arpo.")
    flags.DEFINE_string("judge", None, "Of a suite: who judges where the paper has a language model do so.")
    flags.DEFINE_integer("examples", None, "The first so many; else as the run was told.", lower_bound=1)
    flags.DEFINE_list("mesh", ["-1", "1", "1"], "Devices along data, fsdp and tensor, with --workdir.")
    flags.DEFINE_integer(
        "samples", None, "Sampled responses to each; 0 for greedy ones alone.", lower_bound=0
    )
    flags.DEFINE_list("pass_at", [], "k of pass@k, at most the samples.")
    flags.DEFINE_string("out", None, "File of transcripts; by default evaluation.jsonl in the workdir.")


def main() -> None:
    """Runs the command line."""
    console = Console()
    with command_line.sentences():
        if FLAGS.suite is not None:
            run_suite(_request(), console, lambda setup: _params(setup, console))
            return
        if FLAGS.judge is not None:
            raise ValueError("--judge is of a suite: give --suite, or task.verifier")
        config = _asked(_base())
        setup = build(config)
        if not setup.task.held_out:
            raise ValueError(
                "there is nothing to ask: the task holds nothing out, or evaluation.examples is -1; "
                "give --data=FILE.jsonl, or --examples"
            )
        out = _out()
        params = _params(setup, console)
    for evaluator in make_evaluators(setup):
        answers = evaluate(evaluator, params, setup.task.held_out)
        _show(console, evaluator.kind, answers)
        records.append(out, [{"kind": evaluator.kind, **row} for row in answers.transcripts])
    say(console, f"transcripts: {out}")


def _request() -> Request:
    """What the flags ask of a suite."""
    if FLAGS.data is None:
        raise ValueError("a suite needs --data=FOLDER, with a file a benchmark")
    return Request(
        name=FLAGS.suite,
        folder=Path(FLAGS.data),
        config=_base(),
        out=_out(),
        judge=FLAGS.judge,
        samples=FLAGS.samples,
        examples=FLAGS.examples,
        ks=_ks(1 if FLAGS.samples is None else FLAGS.samples),
    )


def _base() -> Experiment:
    """The configuration of the run or of the command line, without a reward model."""
    given = command_line.config()
    if (given is None) == (FLAGS.workdir is None):
        raise ValueError("give either --workdir=FOLDER, for what a run has learnt, or --config=FILE.py")
    return unscored(trained_config(Path(FLAGS.workdir), FLAGS.mesh) if given is None else given)


def _asked(config: Experiment) -> Experiment:
    """The configuration with what the flags change."""
    wanted = {"examples": FLAGS.examples, "samples": FLAGS.samples}
    changed = {name: value for name, value in wanted.items() if value is not None}
    evaluation = dataclasses.replace(config.evaluation, greedy=True, **changed)
    task = config.task
    if FLAGS.data is not None:
        task = dataclasses.replace(task, name="files", train=FLAGS.data, held_out=FLAGS.data)
    _ks(evaluation.samples)
    return dataclasses.replace(config, evaluation=evaluation, task=task)


def _ks(samples: int) -> list[int]:
    """The k of pass@k."""
    if wrong := [text for text in FLAGS.pass_at if not text.isdigit() or not 1 <= int(text) <= samples]:
        raise ValueError(f"--pass_at={wrong[0]} is not a number from 1 to the {samples} samples a prompt")
    return [int(text) for text in FLAGS.pass_at]


def _out() -> Path:
    path = Path(FLAGS.out or Path(FLAGS.workdir or ".") / "evaluation.jsonl")
    if path.exists():
        raise ValueError(f"{path} exists; remove it, or give another --out=FILE.jsonl")
    if not path.parent.is_dir():
        raise ValueError(f"there is no folder {path.parent} for --out={path}")
    return path


def _params(setup: Setup, console: Console) -> Params:
    if FLAGS.workdir is None:
        return first_state(setup).params
    return trained_params(setup, Path(FLAGS.workdir), FLAGS.checkpoint, console)


def _show(console: Console, kind: str, answers: Answers) -> None:
    found = answers.accuracy
    say(
        console,
        f"{kind} accuracy: {found}, {found.prompts} prompts × {found.samples} (95%, by prompt)",
    )
    if kind == "sampled":
        for k in _ks(found.samples):
            say(console, f"pass@{k}: {pass_at_k(answers.correct, k):.3f}")


if __name__ == "__main__":
    command_line.start(main, define)
