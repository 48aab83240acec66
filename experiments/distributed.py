"""Flags of a run on several hosts."""

from __future__ import annotations

import jax
from absl import flags

FLAGS = flags.FLAGS


def define() -> None:
    """Defines the flags."""
    flags.DEFINE_bool("distributed", False, "Whether this is one of several processes of the run.")
    flags.DEFINE_string("coordinator", None, "HOST:PORT of process 0, where the cluster does not tell.")
    flags.DEFINE_integer("processes", None, "How many there are, likewise.", lower_bound=1)
    flags.DEFINE_integer("process", None, "Number of this one, from 0, likewise.", lower_bound=0)


def join() -> None:
    """Makes this one of several processes, before anything touches a device.

    Raises:
      ValueError: a cluster that does not tell who this is, or flags that nothing reads.
    """
    told = {
        "coordinator_address": FLAGS.coordinator,
        "num_processes": FLAGS.processes,
        "process_id": FLAGS.process,
    }
    if FLAGS.distributed:
        try:
            jax.distributed.initialize(**told)
        except ValueError as error:
            raise ValueError(
                f"the cluster does not tell who this process is ({error}): "
                "give --coordinator=HOST:PORT, --processes=N and --process=I"
            ) from error
    elif any(value is not None for value in told.values()):
        raise ValueError("--coordinator, --processes and --process need --distributed")
