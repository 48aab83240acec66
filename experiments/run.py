"""A run from its first evaluation to its last: iterations, what is written of them, and checkpoints."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
from rich.console import Console

from experiments import output as out
from experiments import records, transcripts
from experiments.actors import copy_answers, fed
from experiments.critics import shortfall
from experiments.demonstrations import go_to, place
from experiments.evaluation import Evaluator, evaluate, make_evaluators
from experiments.first_state import first_state
from experiments.measures import broken, measure, score
from experiments.phases import make_phases
from experiments.progress import say, show_progress
from experiments.report import write_report
from experiments.resuming import due, open_kept, open_output
from experiments.reward_model.scorer import check_identity
from experiments.setup import Setup, open_toolbox, stream
from gpg_jax.environments.toolbox import Toolbox
from gpg_jax.training.checkpoints import Checkpoints, save
from gpg_jax.training.collect import judged_once
from gpg_jax.training.loop import Iteration, iterations
from gpg_jax.training.processes import on_first
from gpg_jax.training.state import TrainState
from gpg_jax.types import Params

Accuracies = dict[str, dict[str, float]]
"""Iteration -> kind of evaluation -> held-out accuracy; keys as JSON has them."""


class Start(NamedTuple):
    """Where a run begins or goes on.

    Attributes:
      step: the last iteration done, 0 for none.
      following: the first one to do.
      state: between them.
      accuracies: what was measured.
      resumed: whether it goes on.
      output: the open folder.
      fed: where actors stood, if the last iteration was fed by them; see `experiments.actors`.
    """

    step: int
    following: int
    state: TrainState
    accuracies: Accuracies
    resumed: bool
    output: out.Output
    fed: Any = None


class Run(NamedTuple):
    """What the parts of a run share; `accuracies` grows."""

    setup: Setup
    open_toolbox: Callable[[], Toolbox | None]
    output: out.Output
    checkpoints: Checkpoints
    evaluators: tuple[Evaluator, ...]
    console: Console
    accuracies: Accuracies


def open_run(setup: Setup, workdir: Path, console: Console) -> tuple[Checkpoints, Start]:
    """Finds out where the folder of a run is.

    Args:
      setup: what the run is made of.
      workdir: belongs to it.
      console: where a person reads.

    Returns:
      Its open checkpoints; the newest sound one, or the first state.

    Raises:
      ValueError: checkpoints that are all damaged, or of another run, or a folder that cannot be written; a
        run that was scored by another reward model.
    """
    checkpoints, restored = open_kept(setup.config.checkpoint, workdir, setup.like, console)
    if restored is None:
        copy_answers(setup.config.actors.journal, workdir)
        return checkpoints, Start(0, 1, first_state(setup), {}, False, open_output(workdir, -1))
    host = restored.host
    check_identity(setup.scorer, host.get("reward_model"))
    output = open_output(workdir, restored.step)
    if not host["fed"]:
        go_to(setup.task, setup.demonstrations, host["cursor"])
    return checkpoints, Start(
        restored.step,
        host["following"],
        restored.state,
        host["accuracies"],
        True,
        output,
        host["cursor"] if host["fed"] else None,
    )


def finish_run(setup: Setup, workdir: Path, console: Console, checkpoints: Checkpoints, start: Start) -> None:
    """Trains to the last iteration, and draws the report.

    Args:
      setup: what the run is made of.
      workdir: belongs to it.
      console: where a person reads.
      checkpoints: from `open_run`.
      start: from `open_run`.

    Raises:
      FloatingPointError: a loss or gradient that is not finite.
    """
    with checkpoints, contextlib.ExitStack() as after:
        after.callback(out.close_output, start.output)
        evaluators = make_evaluators(_judging_once(setup)) if setup.task.held_out else ()
        opened = functools.partial(_opened, setup, workdir / "tools" / str(jax.process_index()), after)
        run = Run(setup, opened, start.output, checkpoints, evaluators, console, start.accuracies)
        if not start.resumed:
            hold_out(run, 0, start.state.params)
        train(run, start)
    on_first(lambda: conclude(setup, workdir, console, start.accuracies))


def train(run: Run, start: Start) -> None:
    """The iterations that are left."""
    setup = run.setup
    with show_progress(run.console, setup.schedule.steps, start.step) as advance:
        before = time.perf_counter()
        for iteration in _coming(run, start):
            metrics = measure(setup, iteration, before)
            before = time.perf_counter()
            write(run, iteration, metrics)
            advance(iteration.step, metrics)
            _say_shortfall(run, iteration.step, metrics)
            keep(run, iteration, metrics)


def _say_shortfall(run: Run, step: int, metrics: dict[str, float]) -> None:
    """A critic that was to explain more before the method begins: a person may want to begin anew."""
    if step not in run.setup.schedule.numbers[1][-1:]:
        return
    text = shortfall(run.setup.config, metrics)
    if text is not None:
        say(run.console, f"iteration {step}: {text}", "bold red")


def _coming(run: Run, start: Start) -> Iterator[Iteration]:
    """Iterations whose learner waits for its rollouts, and the method's own behind them if actors feed it."""
    setup, last = run.setup, run.setup.schedule.steps
    fed_from = setup.schedule.numbers[-1].start if setup.config.actors.count else last + 1
    state, following = start.state, start.following
    waiting = range(following, fed_from)
    phases = make_phases(setup, run.open_toolbox() if waiting else None)
    key = stream(setup.config, "rollout")
    for iteration in iterations(phases, state, key, waiting, lambda: place(setup.task, setup.demonstrations)):
        yield iteration
        state, following = iteration.state, iteration.following
    if following > last:
        return
    if following == fed_from:
        state = phases[-1].begin(state)
    numbers = range(following, last + 1)
    yield from fed(setup, phases[-1].step, state, numbers, start.fed, run.open_toolbox)


def write(run: Run, iteration: Iteration, metrics: dict[str, float]) -> None:
    """What an iteration leaves in the folder; stops where its numbers are broken, or no row was judged.

    A disk that is full stops all processes: the first one writes, and the others wait for that here.
    """
    step, wrong = iteration.step, broken(metrics)
    folder = "diagnosis" if wrong else "rollouts" if due(step, run.setup.config.output.rollouts) else None
    on_first(lambda: _write(run, iteration, metrics, folder))
    for text in list(iteration.collected.failures.values())[:1]:
        say(run.console, f"iteration {step}: {text}", "bold red")
    if wrong:
        path = out.rollout_path(run.output, "diagnosis", step)
        raise FloatingPointError(
            f"{wrong} is {metrics[wrong]} in iteration {step}; its rollout is {path}, and {_again(run)}"
        )
    if len(iteration.collected.failures) == iteration.collected.rollout.length.size:
        raise RuntimeError(
            f"no row of iteration {step} could be judged: {next(iter(iteration.collected.failures.values()))}"
        )


def _write(run: Run, iteration: Iteration, metrics: dict[str, float], folder: str | None) -> None:
    """Metrics, delivery, transcripts, and the rollout where it has a folder."""
    setup, output, step = run.setup, run.output, iteration.step
    out.write_metrics(output, step, metrics)
    if iteration.delivery is not None:
        out.write_lines(output, out.DELIVERIES, [iteration.delivery._asdict()])
    rows = transcripts.of_rollout(setup, iteration.collected, setup.config.output.transcripts)
    out.write_lines(output, out.TRANSCRIPTS, [{"step": step, **row} for row in rows])
    if folder is not None:
        out.write_rollout(output, folder, step, iteration.collected.rollout)


def keep(run: Run, iteration: Iteration, metrics: dict[str, float]) -> None:
    """Evaluates and saves where it is time to; the last iteration always."""
    config, step = run.setup.config, iteration.step
    last = step == run.setup.schedule.steps
    if last or due(step, config.evaluation.every):
        hold_out(run, step, iteration.state.params)
    if last or due(step, config.checkpoint.every):
        host = {
            "cursor": iteration.cursor,
            "fed": iteration.delivery is not None,
            "following": iteration.following,
            "accuracies": run.accuracies,
            "reward_model": None if run.setup.scorer is None else run.setup.scorer().identity,
        }
        own = run.setup.schedule.numbers[-1]
        save(run.checkpoints, step, iteration.state, host, score=score(run.accuracies, step, metrics, own))


def hold_out(run: Run, step: int, params: Params) -> None:
    """Asks the held-out examples in every way that is wanted, and writes what came of it."""
    found: dict[str, float] = {}
    rows: list[dict[str, Any]] = []
    for evaluator in run.evaluators:
        answers = evaluate(evaluator, params, run.setup.task.held_out)
        name, result = f"held_out/{evaluator.kind}", answers.accuracy
        found |= {name: result.mean, f"{name}_low": result.low, f"{name}_high": result.high}
        found |= {f"{name}_{metric}": value for metric, value in answers.counts.items()}
        rows += [{"step": step, "kind": evaluator.kind, **row} for row in answers.transcripts]
        say(run.console, f"iteration {step}, held-out, {evaluator.kind}: {result}")
        run.accuracies.setdefault(str(step), {})[evaluator.kind] = result.mean

    def leave() -> None:
        out.write_lines(run.output, out.EVALUATIONS, rows)
        out.write_metrics(run.output, step, found)

    if found:
        on_first(leave)


def conclude(setup: Setup, workdir: Path, console: Console, accuracies: Accuracies) -> None:
    """The report, and the last lines: accuracy before and after, or reward where nothing is held out."""
    config, last = setup.config, setup.schedule.steps
    title = f"{config.method.name} on {config.task.name}, seed {config.seed}"
    say(console, f"report: {write_report(workdir, title, setup.schedule.begins)}")
    if not accuracies:
        shown = setup.schedule.numbers[0]  # demonstrations, which earn what they are worth
        lines = records.read(workdir / out.METRICS)
        rewards = [line["reward"] for line in lines if "reward" in line and line["step"] not in shown]
        ends = (sum(part) / len(part) for part in (rewards[:10], rewards[-10:]))
        say(console, "reward, mean of the first and of the last 10 iterations: {:.3f} → {:.3f}".format(*ends))
        return
    first, final = accuracies["0"], accuracies[str(last)]
    main, *others = final
    for kind in others:
        say(console, f"held-out accuracy, {kind}: {first[kind]:.3f} → {final[kind]:.3f}")
    say(console, f"held-out accuracy: {first[main]:.3f} → {final[main]:.3f}")


def _opened(setup: Setup, journal: Path, after: contextlib.ExitStack) -> Toolbox | None:
    """A toolbox that is closed when the run is over, None without tools."""
    toolbox = open_toolbox(setup, journal)
    if toolbox is not None:
        after.callback(toolbox.close)
    return toolbox


def _judging_once(setup: Setup) -> Setup:
    return setup._replace(task=setup.task._replace(judge=judged_once(setup.task.judge)))


def _again(run: Run) -> str:
    """Whether a run that is resumed comes to an iteration again."""
    newest, actors = run.checkpoints.latest, run.setup.config.actors
    resumed = f"a run resumed from the newest checkpoint (iteration {newest.step if newest else None})"
    if not actors.count or actors.repeats:
        return f"{resumed} comes to it again"
    journal = run.output.workdir / out.DELIVERIES
    return f"what led to it is in {journal}, which {resumed} cuts off there: its actors bring other rollouts"
