"""The picture of the estimator cards: a row an estimator, a block of columns a number."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, LinearSegmentedColormap, LogNorm, Normalize
from matplotlib.figure import Figure

Seeds = Sequence[dict[str, Any]]
"""What `cards.measure_seed` gave, a problem each."""

Shown = Sequence[tuple[str, str]]
"""Name of an estimator, and its family."""

Lines = Sequence[tuple[bool, str]]
"""Whether a line is an estimator's, and its name; the other lines are families."""

INK, BLUE, GREY = "#222222", "#0f5468", "#555555"

ANGLES = LinearSegmentedColormap.from_list(
    "angles",
    [
        (0, BLUE),
        (0.06, "#2f7f96"),
        (0.15, "#74b3c1"),
        (0.3, "#c3dee3"),
        (0.5, "#f7f7f5"),
        (0.7, "#eda58a"),
        (1, "#b5342d"),
    ],
)
"""From 0° to 180°: blue along ∇J, white across it, red against it."""

NOISES = LinearSegmentedColormap.from_list("noises", ["#fcf8ee", "#f0c66b", "#a8581c"])
GAINS = LinearSegmentedColormap.from_list("gains", ["#fbfbf7", "#a9cf9b", "#2f7d4f"])
BIASES = LinearSegmentedColormap.from_list("biases", ["#fbf9fb", "#c7add1", "#6a3d7c"])

ROW, CELL, LEFT, ABOVE = 0.215, 0.44, 2.75, 1.42
"""Inches of a line, of a column, of the names and of what is above the lines."""


class Block(NamedTuple):
    """Columns that share a scale of colours.

    Attributes:
      title: above them.
      column: which number of a card.
      direction: "aside" or "behind".
      places: of the distances.
      colours, norm: of what `read` makes of the number; None for white.
      read: what is coloured.
    """

    title: str
    column: str
    direction: str
    places: Sequence[int]
    colours: Colormap | None
    norm: Normalize
    read: Callable[[float], float]


def draw(found: Seeds, shown: Shown) -> Figure:
    """A table in colours: on-policy numbers, then cosine, bias and variance by how far the behaviour is."""
    blocks, lines = _blocks(found), _lines(shown)
    widths = [len(block.places) for block in blocks]
    width = LEFT + CELL * sum(widths) + 0.14 * len(widths)
    height = ABOVE + ROW * len(lines) + 0.2
    figure = Figure(figsize=(width, height))
    axes = np.atleast_1d(figure.subplots(1, len(blocks), width_ratios=widths))
    figure.subplots_adjust(LEFT / width, 0.15 / height, 1 - 0.1 / width, 1 - ABOVE / height, wspace=0.07)
    for axis, block in zip(axes, blocks, strict=True):
        _paint(axis, found, lines, block)
    _name_lines(axes[0], lines)
    _head(figure, len(found))
    return figure


def _blocks(found: Seeds) -> list[Block]:
    away = range(1, len(found[0]["distances"]))
    angle, noise = Normalize(0, 180), LogNorm(0.5, 200)

    def cosine(title: str, direction: str, places: Sequence[int]) -> Block:
        return Block(title, "cosine", direction, places, ANGLES, angle, _degrees)

    def on_policy(column: str, colours: Colormap | None, norm: Normalize) -> Block:
        return Block(column, column, "aside", (0,), colours, norm, float)

    first = [
        cosine("cosine", "aside", (0,)),
        on_policy("scale", None, Normalize()),
        on_policy("bias", BIASES, Normalize(0, 1)),
        on_policy("variance", NOISES, noise),
        on_policy("noise", NOISES, noise),
        on_policy("gain", GAINS, Normalize(0, 0.5)),
    ]
    if not away:
        return first
    return [
        *first,
        cosine("cosine, rows drawn aside\n(in a random direction)", "aside", away),
        cosine("cosine, rows drawn behind\n(θ has climbed ∇J since)", "behind", away),
        *(
            Block(f"{column}, rows drawn {direction}\n", column, direction, away, colours, norm, float)
            for column, colours, norm in (("bias", BIASES, Normalize(0, 1)), ("variance", NOISES, noise))
            for direction in ("aside", "behind")
        ),
    ]


def _degrees(cosine: float) -> float:
    return float(np.degrees(np.arccos(np.clip(cosine, -1, 1))))


def _lines(shown: Shown) -> Lines:
    lines: list[tuple[bool, str]] = []
    for family in dict.fromkeys(own for _, own in shown):
        lines.append((False, family))
        lines += [(True, name) for name, own in shown if own == family]
    return lines


def _paint(axis: Axes, found: Seeds, lines: Lines, block: Block) -> None:
    """Cells and their numbers, white lines between them, distances above."""
    axis.set_xlim(-0.5, len(block.places) - 0.5)
    axis.set_ylim(len(lines) - 0.5, -0.5)
    for row, (is_estimator, name) in enumerate(lines):
        for column, place in enumerate(block.places if is_estimator else ()):
            number = _mean(found, name, block, place)
            _paint_cell(axis, column, row, number, block)
    distances = found[0]["distances"]
    axis.set_xticks(range(len(block.places)), [_nats(distances[place]) for place in block.places])
    axis.xaxis.tick_top()
    axis.tick_params(length=0, labelsize=7.5, colors=GREY, pad=1)
    axis.set_yticks([])
    axis.set_title(block.title, fontsize=9, pad=5)
    axis.spines[:].set_visible(False)


def _paint_cell(axis: Axes, column: int, row: int, number: float, block: Block) -> None:
    colour: Sequence[float] = (1, 1, 1, 1)
    if block.colours is not None and np.isfinite(number):
        colour = block.colours(block.norm(block.read(number)))
    axis.fill_between(
        [column - 0.48, column + 0.48], row - 0.46, row + 0.46, facecolor=tuple(colour), linewidth=0
    )
    exact = block.column == "cosine" and round(number, 9) == 1
    axis.text(
        column,
        row + 0.02,
        short(number),
        horizontalalignment="center",
        verticalalignment="center",
        fontsize=7.5,
        color="white" if _luminance(colour) < 0.55 else INK,
        fontweight="bold" if exact else "normal",
    )


def _name_lines(axis: Axes, lines: Lines) -> None:
    for row, (is_estimator, name) in enumerate(lines):
        axis.annotate(
            name,
            (0, row + (0 if is_estimator else 0.1)),
            xytext=(-5, 0),
            xycoords=("axes fraction", "data"),
            textcoords="offset points",
            horizontalalignment="right",
            verticalalignment="center",
            fontsize=8 if is_estimator else 9,
            fontweight="normal" if is_estimator else "bold",
            color=INK if is_estimator else BLUE,
        )


def _head(figure: Figure, problems: int) -> None:
    width, height = figure.get_size_inches()
    title = (
        f"The gradient g of one rollout beside ∇J, over every rollout there is: mean of {problems} problems"
    )
    figure.text(0.1 / width, 1 - 0.27 / height, title, fontsize=12, fontweight="bold", color=INK)
    legend = (
        "cosine of E[g] and ∇J: blue along, white across, red against, a bold 1 exact  ·  "
        "scale E[g]·∇J/‖∇J‖²  ·  bias ‖E[g] − ∇J‖/‖∇J‖  ·  variance tr Cov(g)/‖∇J‖²",
        "noise tr Cov(g)/‖E[g]‖²  ·  gain: what the best step along g gains of that along ∇J  ·  "
        "above the columns: KL(behaviour‖π_θ) in nats a token, or on-policy",
    )
    for line, text in enumerate(legend):
        figure.text(0.1 / width, 1 - (0.5 + 0.19 * line) / height, text, fontsize=8.5, color=GREY)


def _mean(found: Seeds, name: str, block: Block, place: int) -> float:
    """Over problems, of logs for variance and noise."""
    told = np.array([one["cards"][name][block.direction][place][block.column] for one in found])
    if block.column not in ("variance", "noise"):
        return float(np.mean(told))
    return float(np.exp(np.mean(np.log(told)))) if np.all(told > 0) else float("nan")


def short(number: float) -> str:
    """Three digits or so in four characters."""
    if not np.isfinite(number):
        return "–"
    if abs(number) >= 9.95 or round(number, 9) in (-1, 0, 1):
        return f"{number:.0f}".replace("-0", "0")
    text = f"{number:.3f}" if abs(number) < 0.9995 else f"{number:.2f}"
    return text.replace("0.", ".", 1).replace("-", "−")


def _nats(distance: float) -> str:
    return "on" if distance == 0 else f"{distance:g}".removeprefix("0")


def _luminance(colour: Sequence[float]) -> float:
    red, green, blue, *_ = colour
    return 0.299 * red + 0.587 * green + 0.114 * blue
