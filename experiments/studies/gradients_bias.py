"""The squared bias of forks, over policies of which some are hundreds of times as noisy as others.

A policy tells B = ‖x̄ − r‖²/‖g‖² − N, around its squared bias β (see `moments`), where N is what noise alone
makes of the distance between the mean x̄ of R rollouts and the mean r of S without forks:

    N = (tr Cov(x)/R + tr Cov(r_1)/S) / ‖g‖²

The arithmetic mean of B is that of the noisiest policy, and so is Student's interval around it. But noise is
known: if it is Gaussian, its covariance C alike in d directions, among which the bias b lies, then

    Var B = 2 tr C² + 4 bᵀCb = (2/d)·N·(N + 2β)

Policies are weighed by the inverse of that, in which d cancels where it is much the same for all of them. How
wide an interval is depends on d, which two things tell: what is left of B around the mean, as in any weighted
least squares, and B/N without forks, where β is 0 and Var B/N = 2/d. The wider of the two is taken.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy import stats

from experiments.studies.findings import Interval

ROUNDS = 50
"""In which weights and mean are found from each other."""


def weights(noise: np.ndarray, bias: float) -> np.ndarray:
    """1/(N·(N + 2·max(β, 0))) `[n]`, 1/Var B but for 2/d.

    Args:
      noise: N of each policy, `[n]`.
      bias: β.
    """
    return 1 / (noise * (noise + 2 * max(bias, 0)))


def weighted(bias: Sequence[float], noise: Sequence[float], null: Sequence[float]) -> Interval:
    """β̂ = Σ w·B/Σ w, w = 1/(N·(N + 2β̂)), and its 95% interval β̂ ± h, the wider of

        h² = t²_{n−1}·Σ w·(B − β̂)²/((n − 1)·Σ w)    and    h² = t²_n·Σ z²/(n·Σ w),    z = B/N without forks

    It is meant for a β that policies share. Where they differ in it, the mean is that of those with little
    noise, and the interval is too narrow for the mean of all: where β varies by a third of itself, it covers
    that in two to four cases of five.

    Args:
      bias: B of each policy.
      noise: N of each policy. Where one is not positive, as without any signal, nothing is told.
      null: z of each policy.

    Raises:
      ValueError: no policies, or not as many of one thing as of another.
    """
    counts = len(bias), len(noise), len(null)
    if not len(bias) or len(set(counts)) > 1:
        raise ValueError(
            f"policy by policy a bias needs its noise and what there is without forks; got {counts} of them"
        )
    told, spread, chance = (np.asarray(values, np.float64) for values in (bias, noise, null))
    seeds = len(told)
    if not np.all(np.isfinite([told, spread, chance])) or not np.all(spread > 0):
        return Interval(math.nan, math.nan, seeds)
    mean = 0.0
    for _ in range(ROUNDS):
        weight = weights(spread, mean)
        mean = float(weight @ told / weight.sum())
    if seeds < 2:
        return Interval(mean, math.nan, 1)
    left = math.sqrt(weight @ (told - mean) ** 2 / (seeds - 1)) * stats.t.ppf(0.975, seeds - 1)
    without = math.sqrt(chance @ chance / seeds) * stats.t.ppf(0.975, seeds)
    return Interval(mean, float(max(left, without) / math.sqrt(weight.sum())), seeds)
