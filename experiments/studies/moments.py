"""Variance, bias and cosine of gradient estimates, from sums alone.

x_1 … x_R are estimates from independent rollouts, r is the mean of S others of what is aimed at, g = E[r]:

    variance   tr Cov(x) = (Σ‖x_i‖² − R‖x̄‖²) / (R − 1)
    bias²      ‖x̄ − r‖² − tr Cov(x)/R − tr Cov(r_1)/S, an unbiased estimate of ‖E[x] − g‖²: around 0 where
               there is no bias, and so below 0 at times
    length²    ‖x̄‖² − tr Cov(x)/R = Σ_{i≠j} x_i·x_j / (R(R − 1)), an unbiased estimate of ‖E[x]‖²
    cosine     x_i·r / (‖x_i‖·‖g‖), with ‖g‖² from ‖r‖² − tr Cov(r_1)/S

Sums are float64. An axis E in front holds estimators side by side.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Moments(NamedTuple):
    """Sums over independent estimates.

    Attributes:
      samples: R.
      total: `float64[E, D]`, Σ x_i.
      square: `float64[E]`, Σ ‖x_i‖².
    """

    samples: int
    total: np.ndarray
    square: np.ndarray


def no_moments(estimators: int, size: int) -> Moments:
    """The sums over nothing."""
    return Moments(0, np.zeros((estimators, size)), np.zeros(estimators))


def add(moments: Moments, estimate: np.ndarray) -> Moments:
    """The sums with one more estimate `[E, D]`."""
    estimate = np.asarray(estimate, np.float64)
    square = np.einsum("ed,ed->e", estimate, estimate)
    return Moments(moments.samples + 1, moments.total + estimate, moments.square + square)


def mean(moments: Moments) -> np.ndarray:
    """x̄ `[E, D]`."""
    return moments.total / moments.samples


def variance(moments: Moments) -> np.ndarray:
    """tr Cov(x) `[E]`.

    Raises:
      ValueError: fewer than two estimates.
    """
    if moments.samples < 2:
        raise ValueError(f"a variance needs 2 estimates or more, got {moments.samples}")
    return (moments.square - moments.samples * _square(mean(moments))) / (moments.samples - 1)


def squared_norm(moments: Moments) -> np.ndarray:
    """‖E[x]‖² `[E]`, without bias: ‖x̄‖² − tr Cov(x)/R."""
    return _square(mean(moments)) - variance(moments) / moments.samples


def squared_bias(moments: Moments, target: Moments) -> np.ndarray:
    """‖E[x] − E[r]‖² `[E]`, without bias.

    Args:
      moments: of the estimates.
      target: of independent estimates of what each of them aims at, E alike.
    """
    apart = _square(mean(moments) - mean(target))
    return apart - variance(moments) / moments.samples - variance(target) / target.samples


def cosine(estimate: np.ndarray, target: Moments) -> np.ndarray:
    """x·r / (‖x‖·‖g‖) `[E]` of one estimate `[E, D]`; 0 where the estimate is 0 and points nowhere."""
    estimate = np.asarray(estimate, np.float64)
    along, square = np.einsum("ed,ed->e", estimate, mean(target)), _square(estimate)
    return np.where(square > 0, _over(along, square, squared_norm(target)), 0)


def cosine_of_means(moments: Moments, target: Moments) -> np.ndarray:
    """E[x]·E[r] / (‖E[x]‖·‖E[r]‖) `[E]`, the noise taken out of lengths, so above 1 at times."""
    along = np.einsum("ed,ed->e", mean(moments), mean(target))
    return _over(along, squared_norm(moments), squared_norm(target))


def chosen(moments: Moments, index: np.ndarray) -> Moments:
    """The estimators of an index `int[E']`."""
    return Moments(moments.samples, moments.total[index], moments.square[index])


def _square(values: np.ndarray) -> np.ndarray:
    return np.einsum("ed,ed->e", values, values)


def _over(along: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """along/√(first·second), NaN where one of the squares is not positive."""
    proper = (first > 0) & (second > 0)
    return np.where(proper, along / np.sqrt(np.where(proper, first * second, 1)), np.nan)
