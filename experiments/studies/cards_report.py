"""The table of the estimator cards, and what came out, in sentences."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from experiments.studies.cards_figure import Seeds, Shown, short
from experiments.studies.findings import (
    Cell,
    GeometricInterval,
    Interval,
    geometric_interval,
    interval,
    sections,
)
from gpg_jax.algorithms import ALGORITHMS

DIGITS = 9
"""Behind the point, that are told: what should be 0 comes out near 1e-14."""

COLUMNS = ("cosine", "scale", "bias", "variance", "noise", "gain")
"""Numbers of a card on-policy that the table has."""

AWAY = {
    "cosine": "Cosine of E[g] and ∇J",
    "bias": "Bias ‖E[g] − ∇J‖/‖∇J‖",
    "variance": "Variance tr Cov(g)/‖∇J‖²",
}
"""Numbers of a card that are told at every distance, and what stands above their tables."""

LOGARITHMIC = ("variance", "noise")
"""Columns of which logs are averaged."""

TOLD = ("rloo", "grpo", "grpo, no clip", "gspo", "sapo", "ppo", "ppo, KL for a clip")
"""Estimators whose cosines away from the behaviour are told."""

KL_WAYS = ("k1 in the reward", "k1 in the loss", "k2 in the loss", "full in the loss", "k3 in the loss")


def table(found: Seeds, shown: Shown) -> list[dict[str, Cell]]:
    """A row an estimator: its card on-policy."""
    return [
        {"estimator": name, **{column: _on(found, name, column) for column in COLUMNS}} for name, _ in shown
    ]


def tables(found: Seeds, shown: Shown) -> dict[str, list[dict[str, Cell]]]:
    """A table a number of `AWAY`: a row an estimator, on-policy and at every distance in both directions."""
    places = _distances(found)
    return {
        title: [
            {
                "estimator": name,
                "on-policy": _on(found, name, column),
                **{
                    f"{direction} {nats:g}": _number(found, name, direction, place, column)
                    for direction in ("aside", "behind")
                    for place, nats in places
                },
            }
            for name, _ in shown
        ]
        for column, title in AWAY.items()
        if places
    }


def page(found: Seeds, shown: Shown) -> str:
    """The same tables to be read beside a figure: means alone, in three digits or so."""
    every = {"On-policy": table(found, shown), **tables(found, shown)}
    return sections({title: [_shortened(row) for row in rows] for title, rows in every.items()}).lstrip()


def _shortened(row: dict[str, Cell]) -> dict[str, Cell]:
    return {
        name: short(cell.mean) if isinstance(cell, Interval | GeometricInterval) else cell
        for name, cell in row.items()
    }


def notes(found: Seeds, shown: Shown) -> list[str]:
    """What came out, in sentences."""
    return [
        _terms(found),
        *_on_policy(found, shown),
        *_away(found, shown),
        _critics(found),
        _reference(found),
        _forks(found),
    ]


def _terms(found: Seeds) -> str:
    return (
        f"{len(found)} problems, {found[0]['rollouts']} rollouts each but for the order of rows, every one "
        "with its probability; intervals are over problems. Rows drawn aside come from a policy in a random "
        "direction, rows drawn behind from one down ∇J, which π_θ has climbed since; distances are "
        "KL(behaviour‖π_θ) a token. Running means stand at E[R]. Terms beside the surrogate are taken off "
        "but where the name says so; of trpo and cpi it is the surrogate's gradient that has a card, not the "
        "step that is made of it. A wrong critic has an error in every state. Bias is over ‖∇J‖, variance "
        "over ‖∇J‖², noise is the variance over ‖E[g]‖²; gain is what the best step along g gains of what "
        "that along ∇J does, on a smooth objective."
    )


def _on_policy(found: Seeds, shown: Shown) -> list[str]:
    """Which means are ∇J, which lie along it, and which methods' do not."""
    plain = [name for name, family in shown if family != "forked rows"]
    exact = [name for name in plain if _worst(found, name, "bias") == 0]
    along = [name for name in plain if name not in exact and _worst(found, name, "bend") == 0]
    bent = [name for name in plain if name in ALGORITHMS and name not in (*exact, *along)]
    bent.sort(key=lambda name: -_on(found, name, "cosine").mean)
    return [
        f"On-policy E[g] is ∇J for: {_listed(exact)}.",
        f"It is ∇J times a factor for: {_listed(along, lambda name: _on(found, name, 'scale'))}.",
        f"It has a cosine to ∇J for: {_listed(bent, lambda name: _on(found, name, 'cosine'))}.",
    ]


def _away(found: Seeds, shown: Shown) -> list[str]:
    """What old rows do to the mean."""
    names = [name for name, family in shown if family != "forked rows"]
    places = _distances(found)
    if not places:
        return []
    result = []
    for direction in ("aside", "behind"):
        told = []
        for name in TOLD:
            numbers = [_number(found, name, direction, place, "cosine").mean for place, _ in places]
            told.append(f"{name} {', '.join(f'{one:.2f}' for one in numbers)}")
        away = ", ".join(f"{nats:g}" for _, nats in places)
        result.append(f"Rows drawn {direction}, {away} nats a token away, mean cosine: {'; '.join(told)}.")
    for place, nats in places:
        against = [name for name in names if _number(found, name, "behind", place, "cosine").high < 0]
        methods = [name for name in against if name in ALGORITHMS]
        result.append(
            f"Rows drawn behind, {nats:g} nats a token away: E[g] points against ∇J for {len(against)} of "
            f"{len(names)} estimators, of methods as they come: {_listed(methods)}."
        )
    always = [name for name in names if _farthest(found, name) == 0]
    return [*result, f"At every distance, in both directions, E[g] lies along ∇J for: {_listed(always)}."]


def _critics(found: Seeds) -> str:
    """What a wrong critic costs at each λ."""
    told = []
    for name in ("λ = 1", "λ = 0.95", "λ = 0"):
        exact, wrong = f"a2c, {name}, token sum", f"a2c, {name}, token sum; wrong critic"
        told.append(
            f"{name}: bias {_on(found, wrong, 'bias')}, noise {_on(found, wrong, 'noise')} beside "
            f"{_on(found, exact, 'noise')}"
        )
    return f"A wrong critic beside the exact one, which has no bias: {'; '.join(told)}."


def _reference(found: Seeds) -> str:
    """The KL estimators where they stand, against the gradient of the regularised objective."""
    told = _listed(KL_WAYS, lambda way: _on(found, f"rloo, {way}", "cosine"))
    return f"The cosine of rloo with a KL to ∇(E[R] − β·KL(π‖π_ref)): {told}."


def _forks(found: Seeds) -> str:
    kinds = ("uniform", "forest", "tree")
    told = _listed(kinds, lambda kind: _on(found, f"rloo; {kind} leaf weights", "bias"))
    return f"The bias of rloo on forked rows, by leaf weights: {told}."


def _distances(found: Seeds) -> list[tuple[int, float]]:
    """Places and distances but 0."""
    return list(enumerate(found[0]["distances"]))[1:]


def _on(found: Seeds, name: str, column: str) -> Interval | GeometricInterval:
    return _number(found, name, "aside", 0, column)


def _number(found: Seeds, name: str, direction: str, place: int, column: str) -> Interval | GeometricInterval:
    told = [one["cards"][name][direction][place][column] for one in found]
    if column in LOGARITHMIC:
        return geometric_interval(told)
    result = interval([round(one, DIGITS) for one in told])
    return result._replace(half=round(result.half, DIGITS))


def _worst(found: Seeds, name: str, column: str) -> float:
    return max(round(one["cards"][name]["aside"][0][column], DIGITS) for one in found)


def _farthest(found: Seeds, name: str) -> float:
    """The largest bend at any distance."""
    every = [card for one in found for way in one["cards"][name].values() for card in way]
    return max(round(card["bend"], DIGITS) for card in every)


def _listed(names: Sequence[str], number: Callable[[str], Cell] | None = None) -> str:
    if not names:
        return "none"
    return "; ".join(name if number is None else f"{name} {number(name)}" for name in names)
