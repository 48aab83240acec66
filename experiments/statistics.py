"""How sure an accuracy is, when a prompt is sampled once or several times."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

_Z = 1.959963984540054
"""The normal distribution's 97.5% quantile."""


class Accuracy(NamedTuple):
    """An accuracy with its 95% confidence interval.

    Attributes:
      mean: fraction of correct samples.
      low: lower end.
      high: upper end.
      prompts: P.
      samples: S, samples of each prompt.
    """

    mean: float
    low: float
    high: float
    prompts: int
    samples: int

    def __str__(self) -> str:
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"


def accuracy(correct: np.ndarray) -> Accuracy:
    """The mean with Wilson's interval at the effective number of independent samples.

    n* = p(1 − p) / V with V = Σ_p (m_p − p)² / P², the variance of the mean of the prompts' means m_p:
    samples of one prompt are no independent draws. Each prompt once gives n* = P, the textbook interval. n*
    is held to P·S, and is P where every sample agrees, so that V says nothing.

    Wilson 1927, "Probable inference, the law of succession, and statistical inference"; the effective sample
    size is Kish's (1965), put into Wilson's interval by Dean and Pagano 2015.

    Args:
      correct: `[P, S]`, 1 for correct and 0 for wrong.

    Raises:
      ValueError: no samples, or values other than 0 and 1.
    """
    correct = _samples(correct)
    if not np.isin(correct, (0.0, 1.0)).all():
        raise ValueError("an accuracy is a mean of zeros and ones")
    return _with_interval(correct, correct.size)


def clustered(outcomes: np.ndarray, cluster: np.ndarray) -> tuple[float, float, float]:
    """The mean, and Wilson's interval as of `score`, where prompts have as many samples as it happens.

    V = Σ_c (Σ_{i ∈ c} (x_i − p))² / N², which is that of `accuracy` where all clusters are of one size.

    Args:
      outcomes: `[N]`, from 0 to 1.
      cluster: `[N]`, which are no independent draws of each other.

    Returns:
      Mean, lower and upper end.

    Raises:
      ValueError: no samples, or values outside of 0 to 1.
    """
    outcomes = _within(_samples(np.asarray(outcomes)[:, None]))[:, 0]
    mean = float(outcomes.mean())
    _, place = np.unique(cluster, return_inverse=True)
    variance = float(np.square(np.bincount(place, outcomes - mean)).sum()) / outcomes.size**2
    clusters = int(place.max()) + 1
    return mean, *wilson(mean, _effective(mean, variance, clusters, outcomes.size, _most(outcomes)))


def score(outcomes: np.ndarray) -> Accuracy:
    """The mean of outcomes from 0 to 1, as F1 is one, with the interval of `accuracy`.

    Outcomes in between vary less than right and wrong do, and n* is then more than P·S.

    Args:
      outcomes: `[P, S]`.

    Raises:
      ValueError: no samples, or values outside of 0 to 1.
    """
    outcomes = _within(_samples(outcomes))
    return _with_interval(outcomes, _most(outcomes))


def _within(outcomes: np.ndarray) -> np.ndarray:
    if not ((outcomes >= 0) & (outcomes <= 1)).all():
        raise ValueError(
            f"a score is a mean of outcomes from 0 to 1, got {outcomes.min():g} to {outcomes.max():g}"
        )
    return outcomes


def _most(outcomes: np.ndarray) -> float:
    """What n* is at most."""
    return outcomes.size if np.isin(outcomes, (0.0, 1.0)).all() else math.inf


def _samples(outcomes: np.ndarray) -> np.ndarray:
    outcomes = np.asarray(outcomes, np.float64)
    if outcomes.ndim != 2 or not outcomes.size:
        raise ValueError(f"an accuracy needs samples [P, S], got the shape {outcomes.shape}")
    return outcomes


def _with_interval(outcomes: np.ndarray, most: float) -> Accuracy:
    """The mean and Wilson's interval with n* at most so much."""
    prompts, samples = outcomes.shape
    mean = float(outcomes.mean())
    variance = float(np.square(outcomes.mean(1) - mean).sum()) / prompts**2
    effective = _effective(mean, variance, prompts, prompts * samples, most)
    return Accuracy(mean, *wilson(mean, effective), prompts, samples)


def _effective(mean: float, variance: float, prompts: int, samples: int, most: float) -> float:
    """n*, from the variance of the mean."""
    if mean in (0.0, 1.0):
        return float(prompts)
    return min(mean * (1 - mean) / variance, most) if variance else float(samples)


def wilson(mean: float, count: float) -> tuple[float, float]:
    """Wilson's 95% interval: the p₀ with |p − p₀| ≤ z √(p₀(1 − p₀)/n).

    Args:
      mean: p, observed.
      count: n, independent samples.

    Returns:
      Lower and upper end.
    """
    square = _Z**2 / count
    centre = (mean + square / 2) / (1 + square)
    half = _Z * math.sqrt(mean * (1 - mean) / count + square / (4 * count)) / (1 + square)
    # p itself lies inside; rounding alone can put it outside
    return min(centre - half, mean), max(centre + half, mean)


def pass_at_k(correct: np.ndarray, k: int) -> float:
    """Probability that one of k samples is correct, without bias: mean of 1 − C(S − c, k) / C(S, k).

    Chen et al. 2021, arXiv 2107.03374, eq. 1.

    Args:
      correct: `[P, S]`, zeros and ones.
      k: at most S.

    Raises:
      ValueError: k outside 1 .. S.
    """
    samples = np.asarray(correct).shape[1]
    if not 1 <= k <= samples:
        raise ValueError(f"pass@{k} cannot be told from {samples} samples a prompt")
    wrong = samples - np.asarray(correct).sum(1).astype(int)
    return float(np.mean([1 - math.comb(count, k) / math.comb(samples, k) for count in wrong.tolist()]))
