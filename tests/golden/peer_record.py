"""The inputs of the golden cases, and what a peer's run is written down with."""

from __future__ import annotations

import math
from typing import Any

GROUP = 4
"""Rows of a group in the set `rewards`."""

ROWS: dict[str, Any] = {
    # lengths 2, 4, 1, 3 in a width of 5; the last row has a tool's token at its second place; what
    # stands under the mask is noise that must not matter
    "mask": [[1, 1, 0, 0, 0], [1, 1, 1, 1, 0], [1, 0, 0, 0, 0], [1, 0, 1, 1, 0]],
    "old": [
        [-1.3, -0.9, -7.0, -3.0, -2.0],
        [-0.7, -1.1, -2.4, -0.6, -9.0],
        [-1.9, -4.0, -0.3, -6.0, -1.0],
        [-1.2, -5.0, -0.8, -2.2, -0.1],
    ],
    # log-ratios 0.24 (between ln 1.2 and ln 1.28), -0.45 | 0.3, -0.35, 1.4 (above ln 3), -0.05 |
    # -0.12 | 0.5, 0.1, -0.02: both sides of every clip range, for both signs, none on a boundary
    "new": [
        [-1.06, -1.35, -6.0, -4.5, -2.5],
        [-0.4, -1.45, -1.0, -0.65, -8.0],
        [-2.02, -3.0, -0.9, -6.5, -1.5],
        [-0.7, -3.5, -0.7, -2.22, -0.4],
    ],
    "reference": [
        [-1.26, -1.15, -7.0, -3.5, -2.0],
        [-0.9, -0.75, -1.3, -0.55, -9.0],
        [-1.62, -4.0, -0.3, -6.0, -1.0],
        [-1.0, -5.0, -1.6, -2.02, -0.1],
    ],
    "rollout": [
        [-1.32, -0.87, -7.5, -3.3, -2.2],
        [-1.6, -0.3, -2.45, -2.5, -9.5],
        [-1.89, -4.2, -0.2, -5.0, -1.1],
        [-1.35, -4.0, -0.6, -2.5, -0.2],
    ],
    "advantage": [1.2, -0.8, -1.5, 0.6],
}

KL_REWARD: dict[str, Any] = {
    "mask": [[1, 1, 0, 0], [1, 1, 1, 1], [1, 0, 0, 0], [1, 1, 1, 0]],
    "new": [
        [-1.06, -1.35, -6.0, -4.5],
        [-0.4, -1.45, -1.0, -0.65],
        [-2.02, -3.0, -0.9, -6.5],
        [-0.7, -3.5, -0.7, -2],
    ],
    "reference": [
        [-1.46, -1.15, -7.0, -3.5],
        [-0.9, -0.75, -1.4, -0.95],
        [-1.62, -4.0, -0.3, -6],
        [-1, -5.0, -1.6, -2],
    ],
    "reward": [1.0, 0.25, -0.5, 12.0],
    "group": [0, 0, 1, 1],
}

INPUTS: dict[str, Any] = {
    "rewards": {
        # groups: binary, all equal, nearly constant (exact in float32, std 3e-4), real
        "reward": [
            *(1, 0, 0, 0),
            *(0.7, 0.7, 0.7, 0.7),
            *(0.25, 0.25 + 2**-11, 0.25 - 2**-12, 0.25),
            *(-1.3, 0.4, 2.1, 0.9),
        ],
        "group": [0] * 4 + [1] * 4 + [2] * 4 + [3] * 4,
    },
    "singletons": {"reward": [0.8, -0.4], "group": [0, 1]},
    "rows": ROWS,
    # the same with an advantage that varies inside a row: [B, T]
    "rows_varying": ROWS
    | {
        "advantage": [
            [1.2, -0.4, 9.0, 9.0, 9.0],
            [-0.8, 0.5, -1.1, 0.3, 9.0],
            [-1.5, 9.0, 9.0, 9.0, 9.0],
            [0.6, 9.0, -0.7, 1.0, 9.0],
        ]
    },
    # log-ratios beyond every clamp: 24, -21 | -24, 21.5
    "rows_extreme": {
        "mask": [[1, 1], [1, 1]],
        "old": [[-24.5, -0.5], [-0.5, -22.5]],
        "new": [[-0.5, -21.5], [-24.5, -1.0]],
        "advantage": [1.0, -1.0],
    },
    # a fourth row wholly masked: which denominators count it?
    "rows_empty": {
        "mask": [[1, 1, 0], [1, 1, 1], [1, 0, 0], [0, 0, 0]],
        "old": [[-1.3, -0.9, -7.0], [-0.7, -1.1, -2.4], [-1.9, -4.0, -0.3], [-1.0, -1.0, -1.0]],
        "new": [[-1.06, -1.35, -6.0], [-0.4, -1.45, -1.0], [-2.02, -3.0, -0.9], [-3.0, -2.0, -1.5]],
        "advantage": [1.2, -0.8, -1.5, 0.6],
    },
    # log(reference / new): small of both signs, then beyond the value and the exponent clamps
    "kl_points": {
        "new": [-1.2, -1.2, -0.4, -2.0, -5.0, -0.3, -26.0],
        "reference": [-1.4, -1.0, -1.7, -1.3, -1.0, -12.3, -1.0],
    },
    # the KL to the reference as a part of the reward: lengths 2, 4, 1, 3, two groups of two
    "kl_reward": KL_REWARD,
    # the same in one group of four, whose std depends on the KL
    "kl_reward_group": KL_REWARD | {"group": [0, 0, 0, 0]},
    "lengths": {"length": [0, 80, 81, 90, 99, 100, 101, 130], "maximum": 100, "cache": 20},
}


class Record:
    """The cases of one peer, in the order in which they ran."""

    def __init__(self, peer: str):
        self.peer, self.cases = peer, []

    def add(self, name: str, function: str, settings: dict, inputs: str, note: str = "", **outputs) -> None:
        case = {"id": f"{self.peer}/{name}", "function": function, "settings": settings, "inputs": inputs}
        case |= {"outputs": {key: plain(value) for key, value in outputs.items()}}
        self.cases.append(case | ({"note": note} if note else {}))


def plain(value: Any) -> Any:
    """Nested lists of floats with 9 significant digits; what is not finite becomes a string."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return (float(f"{value:.9g}") or 0.0) if math.isfinite(value) else str(value)
    return value
