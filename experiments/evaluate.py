"""Accuracy of a model on held-out examples, with a 95% confidence interval.

    python -m experiments.evaluate --workdir=W [--checkpoint=latest|best|STEP]      what a run has learnt
    python -m experiments.evaluate --config=configs/X.py [--config.model.name=…]    a model as it is

Greedy responses, and sampled ones where `--samples` is above 0. `--data=FILE.jsonl` asks other questions.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from absl import flags
from rich.console import Console

from experiments import command_line, records
from experiments.config import Experiment
from experiments.evaluation import Answers, evaluate, make_evaluators
from experiments.progress import say
from experiments.reading import from_config_dict, nest
from experiments.setup import Setup, build, first_state
from experiments.statistics import pass_at_k
from experiments.workdir import read_workdir
from gpg_jax.training.checkpoints import load_step, open_checkpoints
from gpg_jax.types import Params

FLAGS = flags.FLAGS
flags.DEFINE_string("workdir", None, "Folder of a run whose checkpoint is evaluated.")
flags.DEFINE_string("checkpoint", "latest", "latest, best, or the number of an iteration.")
flags.DEFINE_string("data", None, "Questions and answers, .jsonl or .parquet, in the place of the held-out set.")
flags.DEFINE_integer("examples", None, "The first so many examples; all by default.", lower_bound=1)
flags.DEFINE_integer("samples", None, "Sampled responses to each; 0 for greedy ones alone.", lower_bound=0)
flags.DEFINE_list("pass_at", [], "k of pass@k, at most the samples.")
flags.DEFINE_string("out", None, "File of transcripts; by default evaluation.jsonl in the workdir.")


def main() -> None:
    """Runs the command line."""
    console = Console()
    with command_line.sentences():
        config = _asked(_base())
        setup = build(config)
        if not setup.task.held_out:
            raise ValueError("there is nothing to ask: the task holds nothing out; give --data=FILE.jsonl")
        out = _out()
        params = _params(setup, console)
    for evaluator in make_evaluators(setup):
        answers = evaluate(evaluator, params, setup.task.held_out)
        _show(console, evaluator.kind, answers)
        records.append(out, [{"kind": evaluator.kind, **row} for row in answers.transcripts])
    say(console, f"transcripts: {out}")
