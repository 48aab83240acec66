"""The environment of commands that tests start: one CPU device, and programs that compile quickly."""

from __future__ import annotations

import os

# Small programs compile in half the time without XLA's newer code generator for the CPU; an XLA that does
# not know the option ignores it.
QUICK = "--xla_backend_extra_options=xla_cpu_disable_new_fusion_emitters=true"


def one_device(**variables: str) -> dict[str, str]:
    """Variables of a child process, which inherits nothing of the eight devices of the tests."""
    alone = {"XLA_FLAGS": QUICK, "JAX_PLATFORMS": "cpu", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    return os.environ | alone | variables
