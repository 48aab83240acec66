"""Golden numbers of rlax: its temporal-difference functions on the sequences below, written to `rlax.json`.

It needs an environment of its own::

    python -m venv rlax && rlax/bin/pip install rlax==0.1.9 "jax[cpu]==0.10.2"
    rlax/bin/python tests/golden/generate_rlax.py

The file holds `versions`, `discount`, `sequences` (rewards r_t and the values of T + 1 states; one that
`ended` has the discount 0 at its last action, and the value behind it must not matter) and `cases`: the
function called, its own settings, and one output of T numbers a sequence.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
from pathlib import Path

import numpy as np
from peer_record import plain

os.environ["JAX_PLATFORMS"] = "cpu"

import jax
import jax.numpy as jnp
import rlax

PATH = Path(__file__).with_name("rlax.json")
DISCOUNT = 0.9
CALLS: list[tuple[str, dict]] = [
    ("td_learning", {}),
    *(("n_step_bootstrapped_returns", {"n": n}) for n in (1, 2, 3, 7)),
    *(("lambda_returns", {"lambda_": value}) for value in (0.0, 0.5, 0.95, 1.0)),
    *(("truncated_generalized_advantage_estimation", {"lambda_": value}) for value in (0.0, 0.5, 0.95, 1.0)),
]


def sequences() -> list[dict]:
    """O-10's sequence, then random ones, cut off and ended."""
    draw = np.random.default_rng(0)
    rows = [{"rewards": [0.0, 0.0, 1.0], "values": [0.5, 0.6, 0.7, 0.0], "ended": True}]
    for length, ended in ((6, False), (5, True), (1, False)):
        rewards, values = draw.normal(size=length).round(4), draw.normal(size=length + 1).round(4)
        rows.append({"rewards": plain(rewards), "values": plain(values), "ended": ended})
    return rows


def call(row: dict, name: str, settings: dict) -> np.ndarray:
    rewards, values = jnp.asarray(row["rewards"]), jnp.asarray(row["values"])
    discounts = jnp.full(rewards.shape, DISCOUNT)
    discounts = discounts.at[-1].set(0.0) if row["ended"] else discounts
    function = getattr(rlax, name)
    if name == "td_learning":
        return jax.vmap(function)(values[:-1], rewards, discounts, values[1:])
    if name == "truncated_generalized_advantage_estimation":
        return function(rewards, discounts, values=values, **settings)
    return function(rewards, discounts, values[1:], **settings)


def main() -> None:
    rows, cases = sequences(), []
    for name, settings in CALLS:
        outputs = [plain(np.asarray(call(row, name, settings))) for row in rows]
        cases.append({"function": name, "settings": settings, "outputs": outputs})
    versions = {name: importlib.metadata.version(name) for name in ("rlax", "jax", "numpy")}
    parts = ['{"about": "Written by generate_rlax.py, which says what everything means.",']
    parts += [f'"versions": {json.dumps({"python": platform.python_version()} | versions)},']
    parts += [f'"discount": {DISCOUNT},', '"sequences": [', ",\n".join(map(json.dumps, rows))]
    parts += ['],\n"cases": [', ",\n".join(map(json.dumps, cases)), "]}"]
    PATH.write_text("\n".join(parts) + "\n")
    print(f"{len(cases)} cases, {PATH.stat().st_size} bytes")


if __name__ == "__main__":
    main()
