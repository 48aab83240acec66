"""What several methods would push on one saved rollout: ∂loss/∂log π of every token, without a network.

    python -m experiments.replay --workdir=W [--step=K] [--method=grpo,gspo,sapo]

The policy is the one that sampled, so that every ratio is 1, and there is no KL to a reference. Prints a
table and draws `W/replay_K.png`: rows by reward, tokens of the response from left to right, blue where
the token's probability is raised.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from absl import flags
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from rich.console import Console
from rich.table import Table

from experiments import command_line
from experiments.methods import MethodConfig, make_method
from experiments.output import read_rollout
from experiments.progress import say
from gpg_jax.algorithms import ALGORITHMS
from gpg_jax.losses.objective import coefficients
from gpg_jax.types import Batch, Rollout, Scores

FLAGS = flags.FLAGS


def define() -> None:
    """Defines the flags."""
    flags.DEFINE_string("workdir", None, "Folder of a run.")
    flags.DEFINE_integer("step", None, "Iteration of the rollout; the last one saved by default.")
    flags.DEFINE_list("method", [], "Methods to compare; all of them by default.")


def main() -> None:
    """Runs the command line."""
    console = Console()
    with command_line.sentences():
        step, path = _saved(FLAGS.workdir, FLAGS.step)
        rollout = read_rollout(path)
        pushes = {name: push(name, rollout) for name in FLAGS.method or ALGORITHMS}
    skipped = [name for name, found in pushes.items() if found is None]
    found = {name: array for name, array in pushes.items() if array is not None}
    console.print(table(rollout, found))
    for name in skipped:
        say(console, f"{name} is left out: it reads scores of a network, which a rollout does not hold")
    picture = path.parent.parent / f"replay_{step}.png"
    draw(rollout, found, picture)
    say(console, f"picture: {picture}")


def push(name: str, rollout: Rollout) -> np.ndarray | None:
    """−∂loss/∂log π `[B, L]` of a method on a rollout; None where it needs a network's scores.

    Args:
      name: of the method.
      rollout: what was sampled.

    Raises:
      ValueError: no such method.
    """
    new_tokens = rollout.tokens.shape[1] - int(rollout.prompt_length.min())
    method = make_method(MethodConfig(name=name), new_tokens)
    if "reference" in method.needs:
        method = make_method(MethodConfig(name=name, arguments={"kl_coefficient": 0.0}), new_tokens)
    if method.needs - {"old"}:
        return None
    old = Scores(rollout.behaviour_log_prob)
    return -np.asarray(coefficients(method, Batch(rollout=rollout, old=old)))


def table(rollout: Rollout, pushes: Mapping[str, np.ndarray]) -> Table:
    """Totals of each method: what is raised and lowered, the largest push, and the likeness to the first."""
    result = Table("method", "rows", "raised", "lowered", "largest", "cosine to the first")
    first = next(iter(pushes.values()), np.zeros(1))
    for name, array in pushes.items():
        length = np.linalg.norm(array) * np.linalg.norm(first)
        numbers = (
            f"{(array != 0).any(1).sum()} of {len(rollout.length)}",
            f"{array[array > 0].sum():.3g}",
            f"{np.abs(array[array < 0]).sum():.3g}",
            f"{np.abs(array).max():.3g}",
            f"{(array * first).sum() / length:.3f}" if length else "none",
        )
        result.add_row(name, *numbers)
    return result


def draw(rollout: Rollout, pushes: Mapping[str, np.ndarray], path: Path) -> None:
    """A picture a method; each has its own scale, which its title tells."""
    columns = min(len(pushes), 4)
    lines = -(-len(pushes) // columns)
    figure = Figure(figsize=(3.2 * columns, 3.0 * lines), layout="constrained")
    axes = list(figure.subplots(lines, columns, squeeze=False).flat)
    order = np.argsort(-rollout.reward, kind="stable")
    for axis, (name, array) in zip(axes, pushes.items(), strict=False):
        own = _responses(rollout, array)[order]
        scale = np.abs(own).max() or 1.0
        axis.imshow(own, cmap="RdBu", vmin=-scale, vmax=scale, aspect="auto", interpolation="nearest")
        axis.set_title(f"{name}, ±{scale:.2g}", fontsize=9)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.set_xlabel("token of the response", fontsize=8)
        axis.set_ylabel("row, highest reward on top", fontsize=8)
    for axis in axes[len(pushes) :]:
        axis.set_axis_off()
    figure.savefig(path, dpi=120)


def _responses(rollout: Rollout, array: np.ndarray) -> np.ndarray:
    """The columns of the responses alone, each moved to the left edge."""
    width = int((rollout.length - rollout.prompt_length).max())
    index = rollout.prompt_length[:, None] + np.arange(width)[None]
    inside = index < rollout.length[:, None]
    return np.where(inside, np.take_along_axis(array, np.minimum(index, array.shape[1] - 1), axis=1), 0)


def _saved(workdir: str | None, step: int | None) -> tuple[int, Path]:
    if workdir is None:
        raise ValueError("give --workdir=FOLDER of a run")
    saved = {int(path.stem): path for path in Path(workdir).glob("rollouts/*.npz")}
    if not saved:
        raise ValueError(f"no rollout was saved in {workdir}; see output.rollouts")
    step = max(saved) if step is None else step
    if step not in saved:
        raise ValueError(f"the rollout of iteration {step} was not saved; there are {sorted(saved)}")
    return step, saved[step]


if __name__ == "__main__":
    command_line.start(main, define)
