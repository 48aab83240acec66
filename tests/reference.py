"""Every method once more, as loops over rows and tokens written from the papers, in NumPy and float64.

A loss takes the batch, the new log-probs `[B, L]`, and the same log-probs `frozen`: what a paper puts under a
stop-gradient reads `frozen`, so finite differences in the first give the paper's gradient.
"""

from __future__ import annotations

from functools import partial

import numpy as np
from examples import new_value

from gpg_jax.types import STOP_EOS, Batch


def actions(batch: Batch, row: int) -> list[int]:
    return [t for t, acts in enumerate(np.asarray(batch.rollout.action_mask[row])) if acts]


def rows_of(batch: Batch) -> range:
    return range(len(batch.rollout.reward))


def siblings(batch: Batch, row: int) -> list[int]:
    return [j for j in rows_of(batch) if batch.rollout.group[j] == batch.rollout.group[row]]


def returns(batch: Batch) -> list[float]:
    return [float(reward) for reward in batch.rollout.reward]


# -------------------------------------------------------------------------------------- advantages


def mean_std(batch: Batch, values: list[float]) -> list[float]:
    """(R − mean)/std with the population's std; 0 where the group has no spread."""
    result = []
    for i in rows_of(batch):
        group = [values[j] for j in siblings(batch, i)]
        std = float(np.std(group))
        result.append((values[i] - float(np.mean(group))) / std if std > 0 else 0.0)
    return result


def minus_group_mean(batch: Batch) -> list[float]:
    reward = returns(batch)
    return [reward[i] - float(np.mean([reward[j] for j in siblings(batch, i)])) for i in rows_of(batch)]


def leave_one_out(batch: Batch) -> list[float]:
    reward = returns(batch)
    return [
        reward[i] - float(np.mean([reward[j] for j in siblings(batch, i) if j != i])) for i in rows_of(batch)
    ]


def leave_one_out_optimal(batch: Batch) -> list[float]:
    reward, result = returns(batch), []
    for i in rows_of(batch):
        numerator = denominator = 0.0
        for j in siblings(batch, i):
            if j != i:
                norm = sum(float(batch.old.score_square[j][t]) for t in actions(batch, j))
                numerator += reward[j] * norm
                denominator += norm
        result.append(reward[i] - numerator / denominator)
    return result


# ------------------------------------------------------------------------------------------ losses


def reinforce(batch: Batch, new, frozen, advantage: list[float]) -> float:
    """−(1/N) Σ_i A_i Σ_t π_θ/sg[π_θ]."""
    total = 0.0
    for i in rows_of(batch):
        for t in actions(batch, i):
            total -= advantage[i] * np.exp(new[i, t] - frozen[i, t])
    return total / len(rows_of(batch))


def clipped(ratio: float, advantage: float, low: float, high: float) -> float:
    return min(ratio * advantage, min(max(ratio, 1 - low), 1 + high) * advantage)


def grpo(batch: Batch, new, frozen, clip: float = 0.2, beta: float = 0.04) -> float:
    """−(1/G) Σ_i (1/|o_i|) Σ_t {min(rA, clip(r)A) − β(e^d − d − 1)}."""
    advantage, total = mean_std(batch, returns(batch)), 0.0
    for i in rows_of(batch):
        row = 0.0
        for t in actions(batch, i):
            ratio = np.exp(new[i, t] - float(batch.old.log_prob[i][t]))
            difference = float(batch.reference.log_prob[i][t]) - new[i, t] if beta else 0.0
            kl = np.exp(difference) - difference - 1
            row += clipped(ratio, advantage[i], clip, clip) - beta * kl
        total -= row / len(actions(batch, i))
    return total / len(rows_of(batch))


def dr_grpo(batch: Batch, new, frozen, length: int = 3000) -> float:
    advantage, total = minus_group_mean(batch), 0.0
    for i in rows_of(batch):
        for t in actions(batch, i):
            ratio = np.exp(new[i, t] - float(batch.old.log_prob[i][t]))
            total -= clipped(ratio, advantage[i], 0.2, 0.2)
    return total / length / len(rows_of(batch))


def overlong(length: int, limit: int, cache: int) -> float:
    if length <= limit - cache:
        return 0.0
    return ((limit - cache) - length) / cache if length <= limit else -1.0


def dapo(batch: Batch, new, frozen, limit: int = 20480, cache: int = 4096) -> float:
    """Over the groups in which some are right and some wrong: the mean over all of their tokens."""
    shaped = [
        reward + overlong(len(actions(batch, i)), limit, cache) for i, reward in enumerate(returns(batch))
    ]
    advantage, total, tokens = mean_std(batch, shaped), 0.0, 0
    for i in rows_of(batch):
        group = siblings(batch, i)
        correct = sum(1 for j in group if batch.rollout.outcome[j] == 1)
        if not 0 < correct < len(group):
            continue
        for t in actions(batch, i):
            ratio = np.exp(new[i, t] - float(batch.old.log_prob[i][t]))
            total -= clipped(ratio, advantage[i], 0.2, 0.28)
            tokens += 1
    return total / tokens if tokens else 0.0


def gspo(batch: Batch, new, frozen) -> float:
    """One ratio and one clip a sequence."""
    advantage, total = mean_std(batch, returns(batch)), 0.0
    for i in rows_of(batch):
        gap = sum(new[i, t] - float(batch.old.log_prob[i][t]) for t in actions(batch, i))
        total -= clipped(np.exp(gap / len(actions(batch, i))), advantage[i], 3e-4, 4e-4)
    return total / len(rows_of(batch))


def gspo_token(batch: Batch, new, frozen) -> float:
    """s_{i,t} = sg[s_i]·π_θ/sg[π_θ]."""
    advantage, total = mean_std(batch, returns(batch)), 0.0
    for i in rows_of(batch):
        gap = sum(frozen[i, t] - float(batch.old.log_prob[i][t]) for t in actions(batch, i))
        ratio = np.exp(gap / len(actions(batch, i)))
        row = 0.0
        for t in actions(batch, i):
            row += clipped(ratio * np.exp(new[i, t] - frozen[i, t]), advantage[i], 3e-4, 4e-4)
        total -= row / len(actions(batch, i))
    return total / len(rows_of(batch))


def sapo(batch: Batch, new, frozen) -> float:
    advantage, total = mean_std(batch, returns(batch)), 0.0
    for i in rows_of(batch):
        temperature = 1.0 if advantage[i] > 0 else 1.05
        row = 0.0
        for t in actions(batch, i):
            ratio = np.exp(new[i, t] - float(batch.old.log_prob[i][t]))
            row += 4 / temperature / (1 + np.exp(-temperature * (ratio - 1))) * advantage[i]
        total -= row / len(actions(batch, i))
    return total / len(rows_of(batch))


def cut(tokens: list[int], count: int) -> list[list[int]]:
    """Token n of |o| belongs to unit ⌊n·K/|o|⌋."""
    units: list[list[int]] = [[] for _ in range(min(count, len(tokens)))]
    for n, t in enumerate(tokens):
        units[n * len(units) // len(tokens)].append(t)
    return units


def gpg(batch: Batch, new, frozen, count: int = 4) -> float:
    """−(1/G) Σ_i (1/|o_i|) Σ_T |MA_T|·min(s_T A, clip(s_T) A), s_T the unit's geometric mean ratio."""
    advantage, total = mean_std(batch, returns(batch)), 0.0
    for i in rows_of(batch):
        row = 0.0
        for unit in cut(actions(batch, i), count):
            gap = sum(new[i, t] - float(batch.old.log_prob[i][t]) for t in unit) / len(unit)
            row += len(unit) * clipped(np.exp(gap), advantage[i], 0.2, 0.2)
        total -= row / len(actions(batch, i))
    return total / len(rows_of(batch))


# --------------------------------------------------------------------------------------- with a critic


def rewards_and_values(batch: Batch, row: int, bootstrap: bool) -> tuple[list[float], list[float]]:
    """Over actions, which skip a tool's tokens; behind them 0, or the critic's value of a row cut off."""
    cut_off = bootstrap and batch.rollout.stop[row] != STOP_EOS
    behind = float(batch.old.bootstrap[row]) if cut_off else 0.0
    values = [float(batch.old.value[row][t]) for t in actions(batch, row)] + [behind]
    return [0.0] * (len(values) - 2) + [float(batch.rollout.reward[row])], values


def generalized(batch: Batch, row: int, lambda_: float, discount=1.0, bootstrap=False) -> list[float]:
    """Â_t = Σ_k (γλ)^k δ_{t+k}, δ_t = r_t + γV_{t+1} − V_t."""
    rewards, values = rewards_and_values(batch, row, bootstrap)
    errors = [reward + discount * values[n + 1] - values[n] for n, reward in enumerate(rewards)]
    factor = discount * lambda_
    return [sum(factor**k * error for k, error in enumerate(errors[n:])) for n in range(len(errors))]


def n_step(batch: Batch, steps: int, discount=1.0, bootstrap=False):
    """G_t = r_t + … + γ^(n−1) r_{t+n−1} + γ^n V_{t+n}, or to a nearer end; Â_t = G_t − V_t."""
    gains, targets = {}, {}
    for i in rows_of(batch):
        rewards, values = rewards_and_values(batch, i, bootstrap)
        targets[i] = []
        for n in range(len(rewards)):
            end = min(n + steps, len(rewards))
            earned = sum(discount ** (k - n) * rewards[k] for k in range(n, end))
            targets[i].append(earned + discount ** (end - n) * values[end])
        gains[i] = [target - value for target, value in zip(targets[i], values[:-1], strict=True)]
    return gains, targets


def tokens_of(batch: Batch) -> int:
    return sum(len(actions(batch, i)) for i in rows_of(batch))


def squared_error(batch: Batch, targets: dict[int, list[float]], clip: float | None) -> float:
    """Mean over tokens of (V − G)², or of the larger of it and the square of the clipped value's error."""
    total = 0.0
    for i in rows_of(batch):
        for t, target in zip(actions(batch, i), targets[i], strict=True):
            old = float(batch.old.value[i][t])
            new = float(new_value(old))
            worst = (new - target) ** 2
            if clip is not None:
                worst = max(worst, (min(max(new, old - clip), old + clip) - target) ** 2)
            total += worst
    return total / tokens_of(batch)


def gains_and_targets(batch: Batch, lambda_, target_lambda: float | None = None, **returns):
    """Advantages, and λ-returns of the other λ, of every row; `lambda_` may be a function of the length."""
    gains, targets = {}, {}
    for i in rows_of(batch):
        own = lambda_(len(actions(batch, i))) if callable(lambda_) else lambda_
        gains[i] = generalized(batch, i, own, **returns)
        other = generalized(batch, i, own if target_lambda is None else target_lambda, **returns)
        values = [float(batch.old.value[i][t]) for t in actions(batch, i)]
        targets[i] = [gain + value for gain, value in zip(other, values, strict=True)]
    return gains, targets


def a2c(batch: Batch, new, frozen, steps: int | None = None, **returns) -> float:
    """Over N tokens: −(1/N) Σ A·π_θ/sg[π_θ] + ½(1/N) Σ (V − G)² − 0.01·(1/N) Σ H, A = R − V or n-step."""
    if steps is None:
        gains, targets = gains_and_targets(batch, 1.0, **returns)
    else:
        gains, targets = n_step(batch, steps, **returns)
    total = 0.0
    for i in rows_of(batch):
        for t, gain in zip(actions(batch, i), gains[i], strict=True):
            total -= gain * np.exp(new[i, t] - frozen[i, t]) + 0.01 * 0.9 * float(batch.old.entropy[i][t])
    return total / tokens_of(batch) + 0.5 * squared_error(batch, targets, None)


def surrogate(batch: Batch, new, gains, low: float, high: float) -> float:
    """−(1/N) Σ min(rA, clip(r)A) over N tokens."""
    total = 0.0
    for i in rows_of(batch):
        for t, gain in zip(actions(batch, i), gains[i], strict=True):
            total -= clipped(np.exp(new[i, t] - float(batch.old.log_prob[i][t])), gain, low, high)
    return total / tokens_of(batch)


def ppo(batch: Batch, new, frozen, clip: float = 0.2, beta: float = 0.0, **returns) -> float:
    """Advantages whitened by the sample's variance, λ = 0.95; both clips at 0.2. Or β·KL(π_old‖π_θ) by k3."""
    gains, targets = gains_and_targets(batch, 0.95, **returns)
    moved = [new[i, t] - float(batch.old.log_prob[i][t]) for i in rows_of(batch) for t in actions(batch, i)]
    distance = float(np.mean(np.expm1(moved) - moved))
    values = 0.5 * squared_error(batch, targets, 0.2)
    return surrogate(batch, new, white(gains), clip, clip) + beta * distance + values


def white(gains: dict[int, list[float]]) -> dict[int, list[float]]:
    every = [gain for row in gains.values() for gain in row]
    mean, variance = float(np.mean(every)), float(np.var(every, ddof=1))
    return {i: [(gain - mean) / np.sqrt(variance + 1e-8) for gain in row] for i, row in gains.items()}


def trpo(batch: Batch, new, frozen, **returns) -> float:
    """The surrogate without a clip, λ = 0.98; what bounds it is the update."""
    gains, targets = gains_and_targets(batch, 0.98, **returns)
    return surrogate(batch, new, white(gains), np.inf, np.inf) + 0.5 * squared_error(batch, targets, None)


def cpi(batch: Batch, new, frozen) -> float:
    """The surrogate without a clip, each token with its row's R less the others' mean."""
    rows = leave_one_out(batch)
    gains = {i: [rows[i]] * len(actions(batch, i)) for i in rows_of(batch)}
    return surrogate(batch, new, gains, np.inf, np.inf)


def vapo(batch: Batch, new, frozen, alpha=0.05, low=0.0, high=1.0, **returns) -> float:
    """λ = 1 − 1/(α·l) for the policy, not below 0; λ = 1 for the critic; 0.1 NLL of correct rows."""
    gains, targets = gains_and_targets(
        batch, lambda length: min(max(1 - 1 / (alpha * length), low), high), 1.0, **returns
    )
    correct = [i for i in rows_of(batch) if batch.rollout.outcome[i] >= 1]
    said = [new[i, t] for i in correct for t in actions(batch, i)]
    likelihood = 0.1 * float(np.mean(said)) if said else 0.0
    return surrogate(batch, new, gains, 0.2, 0.28) + 0.5 * squared_error(batch, targets, None) - likelihood


REFERENCES = {
    "a2c": a2c,
    "cpi": cpi,
    "trpo": trpo,
    "ppo": ppo,
    "vapo": vapo,
    "reinforce": lambda b, n, f: reinforce(b, n, f, returns(b)),
    "reinforce_constant": lambda b, n, f: reinforce(b, n, f, [r - 0.5 for r in returns(b)]),
    # the running mean's first baseline is 0
    "reinforce_running": lambda b, n, f: reinforce(b, n, f, returns(b)),
    "reinforce_batch": lambda b, n, f: reinforce(
        b, n, f, [r - float(np.mean(returns(b))) for r in returns(b)]
    ),
    "reinforce_group": lambda b, n, f: reinforce(b, n, f, minus_group_mean(b)),
    "rloo": lambda b, n, f: reinforce(b, n, f, leave_one_out(b)),
    "reinforce_optimal": lambda b, n, f: reinforce(b, n, f, leave_one_out_optimal(b)),
    # a reward at the last action is the reward-to-go of every action
    "vanilla": lambda b, n, f: reinforce(b, n, f, returns(b)),
    "grpo": grpo,
    "dr_grpo": dr_grpo,
    "dapo": dapo,
    "gspo": gspo,
    "gspo_token": gspo_token,
    "sapo": sapo,
    "gpg": gpg,
}


BOOTSTRAP = {"bootstrap_truncated": True}
VARIANTS = [
    ("a2c", {"steps": 1}, partial(a2c, steps=1)),
    ("a2c", {"steps": 3, "discount": 0.9}, partial(a2c, steps=3, discount=0.9)),
    ("a2c", {"steps": 3, **BOOTSTRAP}, partial(a2c, steps=3, bootstrap=True)),
    ("a2c", BOOTSTRAP, partial(a2c, bootstrap=True)),
    ("ppo", {"discount": 0.9, **BOOTSTRAP}, partial(ppo, discount=0.9, bootstrap=True)),
    ("ppo", {"bound": "kl"}, partial(ppo, clip=np.inf, beta=1.0)),
    ("trpo", BOOTSTRAP, partial(trpo, bootstrap=True)),
    ("vapo", {"alpha": 1.0}, partial(vapo, alpha=1.0)),
    (
        "vapo",
        {"alpha": 1.0, "lambda_range": (0.3, 0.7), **BOOTSTRAP},
        partial(vapo, alpha=1.0, low=0.3, high=0.7, bootstrap=True),
    ),
]
"""What a method may be besides: name, arguments, loss."""


def finite_difference(loss, batch: Batch, new: np.ndarray, step: float = 1e-6) -> np.ndarray:
    """d loss / d new log-probs by central differences, `float64[B, L]`."""
    new = np.asarray(new, np.float64)
    gradient = np.zeros_like(new)
    for i in rows_of(batch):
        for t in actions(batch, i):
            up, down = new.copy(), new.copy()
            up[i, t] += step
            down[i, t] -= step
            gradient[i, t] = (loss(batch, up, new) - loss(batch, down, new)) / (2 * step)
    return gradient
