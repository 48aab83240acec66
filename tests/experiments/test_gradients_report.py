"""The sentences and the table of the study of gradients, on made-up records."""

import pytest
from matplotlib.collections import PathCollection

from experiments.studies import gradients_report as report
from experiments.studies.estimators import ESTIMATORS, FAMILIES, TREE, UNBIASED
from experiments.studies.gradients_figure import draw
from experiments.studies.gradients_records import BIAS, LENGTH, OWN, Budget

BUDGET = Budget(rollouts=4, reference=8)
"""Noise makes 2/4 + 2/8 of ‖g‖² of a squared distance."""

PLAIN = {
    "variance": 2.0,
    "bias": 0.0,
    "squared_mean": 1.0,
    "cosine": 0.5,
    "to_gradient": 1.0,
    "apart": 0.0,
    "signal": 1.0,
    "mixed": 0.75,
    "trained": 100.0,
}


def policy_like(*changes, reward=0.5):
    """What one policy came to, made up: all estimators are alike but for (where, what) changes."""
    rows = []
    for branching, drawn in (("1", 100.0), ("2", 80.0)):
        for estimator in ESTIMATORS:
            names = dict(zip(("family", "calibration", "leaf_weight"), estimator[:3], strict=True))
            row = {"branching": branching, **names, **PLAIN, "drawn": drawn}
            for where, what in changes:
                row |= what if where.items() <= row.items() else {}
            rows.append(row)
    seen = {"reward": 0.3, "mixed": 1.0, "drawn": 100.0}
    return {"batch": {"reward": reward, "mixed": 0.25}, "policy": seen, "rows": rows}


def tree_and_leave_one_out(tree, other):
    """Changes at width 2 of the two that are compared."""
    lines = ({"family": TREE, "calibration": "tree"}, {"family": UNBIASED, "calibration": "soft"})
    return [
        ({**one, "branching": "2", "leaf_weight": "tree"}, what)
        for one, what in zip(lines, (tree, other), strict=True)
    ]


def test_tree_advantages_are_compared_over_their_own_length():
    # Half as long, and so a quarter of the variance over ‖g‖², where the noise over the length is as large:
    # 4 and 1 times that of leave-one-out, 2 in the geometric mean.
    found = [
        policy_like(
            *tree_and_leave_one_out({"variance": v, "squared_mean": 0.25, "cosine": c}, {"variance": 1.0})
        )
        for v, c in ((1.0, 0.30), (0.25, 0.31))
    ]
    text = next(note for note in report.notes(found, BUDGET) if "tree advantages" in note)
    assert "the variance of tree advantages is that of leave-one-out times 2 (" in text
    assert "their means are 0.5 (0.5–0.5) and 1 (1–1) times as long as without forks" in text
    assert "∇J is 0.305 ± 0.064, lower than 0.5 ± 0." in text
    for cosines, word in (((0.7, 0.71), "higher than"), ((0.4, 0.6), "not told from")):
        found = [policy_like(*tree_and_leave_one_out({"cosine": cosine}, {})) for cosine in cosines]
        assert f", {word} 0.5 ± 0." in " ".join(report.notes(found, BUDGET))
    assert "∇J is 0.4, beside 0.5." in " ".join(report.notes(found[:1], BUDGET))


def test_a_mean_that_is_all_noise_is_not_told():
    where = {"family": TREE, "branching": "2"}
    found = [policy_like((where, {"squared_mean": size})) for size in (0.5, -0.1)]
    assert "leave-one-out times not told at 2, where their means are not told and 1 (1–1)" in " ".join(
        report.notes(found, BUDGET)
    )
    row = next(row for row in report.table(found, BUDGET) if row["family"] == TREE and row["width"] == "2")
    assert str(row[OWN]) == str(row[LENGTH]) == "not told"


def test_the_policy_is_told_by_prompts_as_they_come():
    assert report.notes([policy_like(reward=0.4), policy_like(reward=0.6)], BUDGET)[0] == (
        "Without forks the policy earns 0.5 ± 1.3 on a batch of prompts, and 25% of its groups have "
        "different rewards; on the prompts taken, those of the batch whose rewards differed the most, it "
        "earns 0.3 ± 0, and 100% have."
    )


SEQUENCE = "mean/std, sequence mean"


def calibrated():
    """Two policies that calibration changes under the sequence mean, at the width 2."""
    hard = {"family": SEQUENCE, "calibration": "hard", "branching": "2"}
    return [
        policy_like((hard, {"apart": apart, "variance": 2.0 * ratio, "cosine": 0.6}))
        for apart, ratio in ((0.1, 2), (0.3, 0.5))
    ]


def test_calibration_is_told_by_median_and_range():
    notes = report.notes(calibrated(), BUDGET)
    assert notes[1].startswith(
        f"Under {SEQUENCE}, uniform weights, calibration changes a gradient, in the one"
    )
    assert "a policy's 4 rollouts" in notes[1] and ": 0.2 (0.1–0.3) at 2;" in notes[1]
    assert "that of the soft form times 1 (" in notes[1]  # twice and half
    assert notes[2].startswith(f"Calibration changes nothing under {UNBIASED}: hard and soft gradients")
    assert "differ by 0 of their length at most. So it must be" in notes[2]


def test_calibration_that_changes_nothing_must_not_do_so_everywhere():
    notes = report.notes([policy_like()], BUDGET)
    assert notes[1].startswith("Calibration") and notes[1].endswith("by 0 of their length at most.")
    assert report.tables([policy_like()]) == {}


def test_calibration_has_a_table():
    (rows,) = report.tables(calibrated()).values()
    assert [(row["width"], row["family"], row["leaf weight"]) for row in rows] == [
        ("2", SEQUENCE, "uniform"),
        ("2", SEQUENCE, "tree"),
    ]
    for row in rows:
        assert (row["‖hard − soft‖/‖soft‖, median policy"], row["least"], row["most"]) == (0.2, 0.1, 0.3)
        assert row["variance, hard over soft"].mean == pytest.approx(1)
        assert row["cosine, hard less soft"].mean == pytest.approx(0.1)


def test_variances_are_compared_by_factors():
    # Twice and half the variance at 0.8 of the tokens.
    found = [policy_like(({"branching": "2"}, {"variance": 2.0 * ratio})) for ratio in (2, 0.5)]
    notes = [
        note for note in report.notes(found, BUDGET) if note.startswith("Variance over that without forks")
    ]
    assert len(notes) == 3
    assert all(": 2: 1 (" in note and "at equal rows, 0.8 (" in note for note in notes)


@pytest.mark.parametrize(
    ("biases", "words"),
    [
        ((0.30, 0.31), "0.305 ± 0.064 at 2 (told from 0)"),
        ((-0.1, 0.3), "0.1 ± 2.5 at 2 (not told from 0)"),
        ((-0.30, -0.31), "-0.305 ± 0.064 at 2 (not told from 0)"),
        ((0.2,), "0.2 at 2 (one policy)"),
    ],
)
def test_a_bias_is_told_from_0_or_not(biases, words):
    where = {"branching": "2", "family": UNBIASED, "calibration": "soft", "leaf_weight": "tree"}
    found = [policy_like((where, {"bias": bias})) for bias in biases]
    assert f"with tree leaf weights ({UNBIASED}), is {words}; without forks" in " ".join(
        report.notes(found, BUDGET)
    )


def test_policies_with_little_noise_tell_the_bias():
    """Noises of 1 and 3, of which a variance of 3 and 9 is that of the reference: 1.5/4 + 5/8 = 1."""
    found = [
        policy_like(
            ({"branching": "1"}, {"variance": 5.0 * size, "bias": 0.1 * size}),
            ({"branching": "2"}, {"variance": 1.5 * size, "bias": bias}),
        )
        for size, bias in ((1, -0.1), (3, -1.1))
    ]
    text = " ".join(report.notes(found, BUDGET))
    assert f"with uniform leaf weights ({UNBIASED}), is -0.2 ± 3.8 at 2 (not told from 0); without" in text
    assert "comes out as 0.121 ± 0.79." in text  # weights of 9 and 1, and nearly so: it is not 0
    assert "Noise alone would make 3.8 (1.9–5.6) of that without forks" in text
    assert "a single one has 90% to 90% of the weight" in text
    row = next(row for row in report.table(found, BUDGET) if row["width"] == "2")
    assert row[BIAS].mean == pytest.approx(-0.2)
    areas = draw(found, BUDGET).axes[2].collections[0].get_sizes()
    assert areas[2] > 4 * areas[3]  # at the width 2, behind those without forks


def test_the_table_and_the_picture_bear_what_is_not_told():
    nothing = {"to_gradient": float("nan"), "squared_mean": -1.0, "variance": 0.0}
    found = [policy_like(({"branching": "2"}, nothing)), policy_like()]
    rows = report.table(found, BUDGET)
    assert len(rows) == 8  # a row for each family and way: what is not told is alike, too
    assert {str(row["variance"]) for row in rows if row["width"] == "2"} == {"not told"}
    assert rows[0]["groups with signal"].mean == 0.75 and rows[0]["rollouts with signal"].mean == 1
    draw(found, BUDGET)
    draw(found[:1], BUDGET)


def shown(axis):
    """Means and dots of a panel."""
    bars = [container.lines[0].get_ydata() for container in axis.containers]
    dots = [cloud.get_offsets()[:, 1] for cloud in axis.collections if isinstance(cloud, PathCollection)]
    return [{round(float(value), 6) for curve in many for value in curve} for many in (bars, dots)]


def test_the_picture_has_ratios_to_no_forks():
    """Twice and half the variance, at 0.8 of the tokens; cosines 0.1 below."""
    found = [
        policy_like(({"branching": "2"}, {"variance": 2.0 * ratio, "cosine": 0.4, "bias": 0.3}))
        for ratio in (2, 0.5)
    ]
    axes = draw(found, BUDGET).axes[:4]
    for axis in axes:
        ways = [label.get_text() for label in axis.get_xticklabels()]
        assert ways[-1:] == ["width\n2"] and ways[:-1] == (["no forks"] if axis is axes[2] else [])
        assert len(axis.containers) == 2 * len(FAMILIES)
    means, dots = zip(*map(shown, axes), strict=True)
    assert means == ({1.0}, {0.8}, {0.0, 0.3}, {-0.1})
    assert dots == ({2.0, 0.5}, {1.6, 0.4}, {0.0, 0.3}, {-0.1})


def test_the_picture_has_calibrated_gradients_beside_those_that_are_not():
    variance, distance = draw(calibrated(), BUDGET).axes[4:]
    assert shown(variance) == [{1.0}, {2.0, 0.5}]
    assert shown(distance) == [{0.2}, {0.1, 0.3}]
    assert len(variance.containers) == len(distance.containers) == 2  # a leaf weight each


def test_the_picture_says_where_hard_and_soft_are_one():
    for axis in draw([policy_like(), policy_like()], BUDGET).axes[4:]:
        assert not axis.containers and axis.texts[0].get_text() == "hard and soft are one"


def test_without_forks_nothing_is_said_of_them():
    found = [policy_like(({"branching": "2"}, {"drawn": 100.0}))]
    notes = report.notes(found, BUDGET)
    assert len(notes) == 4 and notes[1] == "No row was forked." and "mean estimate's cosine" in notes[2]
