"""A progress bar on a terminal, and a line an iteration elsewhere."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

Advance = Callable[[int, Mapping[str, float]], None]


@contextlib.contextmanager
def show_progress(console: Console, steps: int, done: int) -> Iterator[Advance]:
    """Gives a function that shows an iteration and its metrics.

    Args:
      console: where.
      steps: iterations of the run.
      done: iterations that were done before.
    """
    if console.quiet or not console.is_terminal:
        yield lambda step, metrics: say(console, f"{step}/{steps}  {summary(metrics)}")
        return
    columns = (MofNCompleteColumn(), BarColumn(), TextColumn("{task.description}"), TimeRemainingColumn())
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("", total=steps, completed=done)
        yield lambda step, metrics: bar.update(task, completed=step, description=summary(metrics))


def say(console: Console, text: str, style: str | None = None) -> None:
    """A line that is not broken and not coloured by what it says."""
    console.print(text, style=style, highlight=False, markup=False, soft_wrap=True)


def summary(metrics: Mapping[str, float]) -> str:
    """The few numbers that are shown while a run goes on."""
    shown = {
        "accuracy": "accuracy {:.3f}",
        "margin": "margin {:.3f}",
        "reward": "reward {:.3f}",
        "length": "length {:.1f}",
        "entropy": "entropy {:.3f}",
        "gradient_norm": "gradient {:.3g}",
        "new_tokens_per_second": "{:,.0f} new tokens/s",
        "pairs_per_second": "{:,.0f} pairs/s",
    }
    text = [form.format(metrics[name]) for name, form in shown.items() if name in metrics]
    if metrics.get("reward_failures"):
        text.append(f"{metrics['reward_failures']:.0f} reward failures")
    if metrics.get("short_groups"):
        text.append(f"{metrics['short_groups']:.0f} groups without signal")
    return "  ".join(text)
