"""Studies: a question, several seeds, a table and a figure. `experiments.study` runs them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ml_collections import ConfigDict
from rich.console import Console

from experiments.studies.all_methods import methods
from experiments.studies.cards import cards
from experiments.studies.findings import Findings
from experiments.studies.gradients import gradients
from experiments.studies.overhead import overhead
from experiments.studies.special_cases import special_cases
from experiments.studies.training import training

STUDIES: dict[str, Callable[[ConfigDict, Path, Console], Findings]] = {
    "training": training,
    "methods": methods,
    "special_cases": special_cases,
    "gradients": gradients,
    "overhead": overhead,
    "cards": cards,
}
"""Kinds of studies by name: configuration, folder, where a person reads -> what came out."""
