"""Trajectories for the tests."""

from __future__ import annotations

from gpg_jax.environments.trajectory import Part, Trajectory


def trajectory(*texts: str) -> Trajectory:
    """Texts by turns: the policy's, a tool's, the policy's, …"""
    return Trajectory([Part(text, number % 2 == 0) for number, text in enumerate(texts)])
