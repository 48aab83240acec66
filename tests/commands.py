"""The environment of commands that tests start: one CPU device, and programs that compile quickly."""

from __future__ import annotations

import os

# Small programs compile in half the time without XLA's newer code generator for the CPU (an XLA that does not
# know this option ignores it), and in four fifths of that if they are not cut into 32 parts that could be
# compiled side by side.
QUICK = (
    "--xla_backend_extra_options=xla_cpu_disable_new_fusion_emitters=true "
    "--xla_cpu_parallel_codegen_split_count=1"
)


def one_device(**variables: str) -> dict[str, str]:
    """Variables of a child process, which inherits nothing of the eight devices of the tests."""
    alone = {"XLA_FLAGS": QUICK, "JAX_PLATFORMS": "cpu", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    return os.environ | alone | variables
