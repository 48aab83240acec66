"""What a run has learnt, as a Hugging Face folder that transformers, vLLM and `--config.model.name` read.

python -m experiments.export --workdir=W --out=FOLDER [--checkpoint=latest|best|STEP] [--dtype=bfloat16]

A mixture of policies becomes a folder each, and their weights are printed.
"""

from __future__ import annotations

from pathlib import Path

import jax
from absl import flags
from rich.console import Console

from experiments import command_line
from experiments.progress import say
from experiments.setup import build
from experiments.trained import trained_config, trained_params, unscored
from gpg_jax.policies.huggingface import save_pretrained
from gpg_jax.policies.pretrained import pretrained_folder
from gpg_jax.types import Params

FLAGS = flags.FLAGS


def define() -> None:
    """Defines the flags."""
    flags.DEFINE_string("workdir", None, "Folder of a run.")
    flags.DEFINE_string("checkpoint", "latest", "latest, best, or the number of an iteration.")
    flags.DEFINE_string("out", None, "The new folder.")
    flags.DEFINE_string("dtype", "float32", "Of the weights in the file: float32 or bfloat16.")
    flags.DEFINE_list("mesh", ["-1", "1", "1"], "Devices along data, fsdp and tensor.")


def main() -> None:
    """Runs the command line."""
    console = Console()
    with command_line.sentences():
        if FLAGS.workdir is None or FLAGS.out is None:
            raise ValueError("give --workdir=FOLDER of a run and --out=FOLDER for the model")
        workdir = Path(FLAGS.workdir)
        setup = build(unscored(trained_config(workdir, FLAGS.mesh)))
        model = setup.config.model
        source = None if model.name is None else pretrained_folder(model.name, model.revision)
        params = jax.device_get(trained_params(setup, workdir, FLAGS.checkpoint, console))
        for folder, weight, own in members(Path(FLAGS.out), params):
            path = save_pretrained(folder, setup.architecture, own, source=source, dtype=FLAGS.dtype)
            say(console, f"model: {path}" if weight is None else f"model of weight {weight:.6g}: {path}")


def members(out: Path, params: Params) -> list[tuple[Path, float | None, Params]]:
    """What is written where: the one model, or every member of a mixture that has a weight, and its weight.

    No folder of the hub's layout holds a mixture: its members are models each, the newest first.

    Args:
      out: the new folder.
      params: of the run's policy.
    """
    if set(params) != {"members", "weights"}:
        return [(out, None, params)]
    mixed = zip(params["members"], params["weights"].tolist(), strict=True)
    return [(out / f"member_{k}", weight, own) for k, (own, weight) in enumerate(mixed) if weight > 0]


if __name__ == "__main__":
    command_line.start(main, define)
