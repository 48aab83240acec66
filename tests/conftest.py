"""Strict JAX for every test: eight CPU devices, no silent rank promotion."""

import gc
import os

from commands import QUICK

os.environ.setdefault("XLA_FLAGS", f"--xla_force_host_platform_device_count=8 {QUICK}")
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import hypothesis
import jax

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_disable_most_optimizations", True)
gc.set_threshold(50_000, 20, 50)  # what is traced is a great many objects that live on
hypothesis.settings.register_profile("default", deadline=None, max_examples=25, derandomize=True)
hypothesis.settings.load_profile("default")
