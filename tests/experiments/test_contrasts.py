"""What a study tells of its arms: differences, their growth and trends, in families that hold together."""

from __future__ import annotations

import pytest

from configs.studies.comparison import get_config
from experiments.studies.contrasts import contrasts, difference, growth, measured, rise, told
from experiments.studies.training import in_order


def study(**changed):
    config = get_config()
    config.arms = in_order({"tags": {}, "as many": {}, "whole": {}})
    config.update(dict(asked=(), compared=("x",)) | changed)
    return config


def values(**arms):
    return {arm: [{"x": value} for value in found] for arm, found in arms.items()}


def test_the_first_arm_is_compared_with_each_other_unless_pairs_are_given():
    one, other = difference("x", "tags", "as many"), difference("x", "tags", "whole")
    assert contrasts(study(), ("x",)) == ((), (one, other))
    own = difference("x", "whole", "tags")
    assert contrasts(study(pairs=(("whole", "tags"),)), ("x",)) == ((), (own,))


def test_what_is_asked_is_not_told_twice():
    asked, besides = contrasts(study(asked=(("tags", "whole", "x"),)), ("x",))
    assert asked == (difference("x", "tags", "whole"),) and besides == (difference("x", "tags", "as many"),)
    config = study(
        trend=("tags", "as many", "whole"), growth=((("tags", "whole"), ("as many", "whole"), "y"),)
    )
    asked, besides = contrasts(config, ("x", "y"))
    assert [(one.column, one.text) for one in asked] == [
        ("y", "(as many less whole) less (tags less whole)"),
        ("x", "a line from tags to whole rises"),
    ]
    assert asked[0].weights == {"as many": 1, "whole": 0, "tags": -1}  # which is in both pairs
    assert len(besides) == 2


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"pairs": (("whole", "tag"),)}, "name tag; the arms are tags, as many, whole"),
        ({"trend": ("tags", "half", "whole")}, "name half; the arms are"),
        ({"asked": (("tags", "whole", "clip"),)}, "name clip, which is no column; there are x"),
        ({"compared": ("clip",)}, "name clip, which is no column; there are x"),
        ({"pairs": (("whole", "whole"),)}, "compare what is the same: whole less whole"),
        ({"trend": ("tags",)}, "a trend needs two different arms at least"),
        ({"trend": ("tags", "whole", "tags")}, "a trend needs two different arms at least"),
    ],
)
def test_arms_and_columns_that_there_are_not_are_refused(changed, message):
    with pytest.raises(ValueError, match=message):
        contrasts(study(**changed), ("x",))


def test_the_intervals_of_a_family_hold_together():
    """1, 2, 3 have the mean 2 and s/√3 = 0.577; t_2 is 4.30 at 95% and 6.21 at 97.5%."""
    found = values(a=[2.0, 4.0, 6.0], b=[1.0, 2.0, 3.0], c=[2.1, 3.9, 6.0], d=[1.0, 3.0, 5.01])
    one, other, small = (difference("x", "a", arm) for arm in "bcd")
    assert told(found, (one,), ()) == ["asked, 1 of 1: x: a less b: 2 ± 2.5 (not told from 0)"]
    assert told(found, (small,), (one, other)) == [
        "asked, 1 of 1: x: a less d: 0.997 ± 0.014 (told from 0)",
        "besides, 1 of 2: x: a less b: 2 ± 3.6 (not told from 0)",
        "besides, 1 of 2: x: a less c: 0 ± 0.36 (not told from 0)",
    ]
    assert told(values(a=[1.0], b=[3.0]), (one,), ()) == ["asked, 1 of 1: x: a less b: -2 (one seed)"]
    assert told(values(a=[1.0, float("nan")], b=[3.0, 1.0]), (one,), ()) == [
        "asked, 1 of 1: x: a less b: not told (not told from 0)"
    ]


def test_growth_is_the_second_pairs_difference_less_the_firsts():
    found = values(a=[1.0, 2.0], b=[0.5, 1.5], c=[5.0, 9.0], d=[4.0, 8.2])
    # (c − d) − (a − b) by seed: 1 − 0.5 and 0.8 − 0.5
    assert measured(found, growth("x", ("a", "b"), ("c", "d"))).mean == pytest.approx((0.5 + 0.3) / 2)


def test_a_trend_is_the_rise_of_a_line_through_equal_steps():
    """Seeds rise by 0.4 and 0.6 from the first arm to the last: 0.5 on the average, ± t·s/√2 = 1.27."""
    found = values(none=[0.1, 0.2], half=[0.3, 0.5], all=[0.5, 0.8])
    line = rise("x", ("none", "half", "all"))
    assert told(found, (line,), ()) == [
        "asked, 1 of 1: x: a line from none to all rises: 0.5 ± 1.3 (not told from 0)"
    ]
    # of points that lie on no line it is least squares': 0, 1, 0.2 have the slope 0.2
    bent = measured(values(none=[0.0], half=[1.0], all=[0.2]), line)
    assert bent.mean == pytest.approx(0.2)
