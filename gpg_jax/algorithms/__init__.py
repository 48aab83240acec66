"""Every method as a value; the table of contents.

A method is a constructor's result: `ALGORITHMS["grpo"](kl_coefficient=0.0)`. Constructors take a few choices
of their own and those of `settings.Settings`; defaults are the paper's.
"""

from __future__ import annotations

from collections.abc import Callable

from gpg_jax.algorithms.a2c import a2c
from gpg_jax.algorithms.cpi import cpi
from gpg_jax.algorithms.dapo import dapo
from gpg_jax.algorithms.dr_grpo import dr_grpo
from gpg_jax.algorithms.gpg import gpg
from gpg_jax.algorithms.grpo import grpo
from gpg_jax.algorithms.gspo import gspo, gspo_token
from gpg_jax.algorithms.ppo import ppo
from gpg_jax.algorithms.reinforce import (
    reinforce,
    reinforce_batch,
    reinforce_constant,
    reinforce_group,
    reinforce_optimal,
    reinforce_running,
)
from gpg_jax.algorithms.rloo import rloo
from gpg_jax.algorithms.sapo import sapo
from gpg_jax.algorithms.trpo import trpo
from gpg_jax.algorithms.vanilla import vanilla
from gpg_jax.algorithms.vapo import vapo
from gpg_jax.types import Method

ALGORITHMS: dict[str, Callable[..., Method]] = {
    "reinforce": reinforce,
    "reinforce_constant": reinforce_constant,
    "reinforce_running": reinforce_running,
    "reinforce_batch": reinforce_batch,
    "reinforce_group": reinforce_group,
    "rloo": rloo,
    "reinforce_optimal": reinforce_optimal,
    "vanilla": vanilla,
    "a2c": a2c,
    "cpi": cpi,
    "trpo": trpo,
    "ppo": ppo,
    "vapo": vapo,
    "grpo": grpo,
    "dr_grpo": dr_grpo,
    "dapo": dapo,
    "gspo": gspo,
    "gspo_token": gspo_token,
    "sapo": sapo,
    "gpg": gpg,
}
"""The named methods: name -> constructor."""

GROUPED = frozenset(
    {
        "reinforce_group",
        "rloo",
        "reinforce_optimal",
        "cpi",
        "grpo",
        "dr_grpo",
        "dapo",
        "gspo",
        "gspo_token",
        "sapo",
        "gpg",
    }
)
"""Names of the methods whose baseline is the prompt's other completions: they need groups of two or more."""
