"""Answers a question with several seeds, a table and a figure.

    python -m experiments.study --config=configs/studies/X.py[:argument] --workdir=W [--config.seeds=5]

`W/findings.md` has the table and what came out, `W/findings.png` the figure. Runs that are there already are
resumed or read, so that the same command goes on where it was stopped, and more seeds add to those there are;
findings of something else, or of more seeds, are not replaced.
"""

from __future__ import annotations

import sys
from pathlib import Path

from absl import flags
from ml_collections import ConfigDict
from rich.console import Console

from experiments import command_line
from experiments.methods import nearest
from experiments.studies import STUDIES
from experiments.studies.findings import Asked, check_folder, markdown, write

FLAGS = flags.FLAGS


def define() -> None:
    """Defines the flags."""
    flags.DEFINE_string("workdir", None, "Folder of the study.")


def main() -> None:
    """Runs the command line."""
    console = Console()
    config: ConfigDict | None = command_line.CONFIG.value
    with command_line.sentences():
        if config is None or FLAGS.workdir is None:
            raise ValueError("give --config=configs/studies/X.py and --workdir=FOLDER")
        kind = str(config.get("study"))
        if kind not in STUDIES:
            raise ValueError(f"there is no study {kind!r}; {nearest(kind, STUDIES)}")
        workdir = Path(FLAGS.workdir)
        command = " ".join(["python -m experiments.study", *sys.argv[1:]])
        asked = Asked(config.question, command, config.seeds, tuple(config.get("arms", ())))
        check_folder(workdir, asked)
        workdir.mkdir(parents=True, exist_ok=True)
        findings = STUDIES[kind](config, workdir, console)
    path = write(findings, workdir, asked)
    console.print(markdown(findings.rows), *findings.notes, sep="\n", markup=False, highlight=False)
    console.print(f"findings: {path}", markup=False, highlight=False)


if __name__ == "__main__":
    command_line.start(main, define)
