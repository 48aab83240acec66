"""O-28: macro-actions by markers; every action in exactly one, none for tools, faults flagged."""

from __future__ import annotations

import hypothesis.strategies as st
import jax
import numpy as np
import pytest
from hypothesis import given

from gpg_jax.decoding.markers import (
    ABSENT,
    NESTED,
    STRAY,
    UNCLOSED,
    compile_markers,
    marked_units,
)

# Pieces cut tags anywhere: inside a name, before a bracket, two tags in one piece.
PIECES = [
    "",
    "<th",
    "ink>",
    "</think",
    ">",
    "<",
    "/",
    "search",
    "a",
    " b",
    "</search>",
    "<search>",
    "ink",
    "x>",
    "<a",
    "nswer>",
]
BYTES = [piece.encode() for piece in PIECES]
ID = {piece: number for number, piece in enumerate(PIECES)}
MARKERS = compile_markers(("think", "search", "answer"), BYTES)


WIDTH = 12
compiled = jax.jit(lambda tokens, mask: marked_units(MARKERS, tokens, mask))


def padded_units(tokens, mask):
    """Units of rows that are padded to one width, so that one program serves all; the padding has none."""
    width = tokens.shape[1]
    padding = ((0, 0), (0, WIDTH - width))
    found = compiled(np.pad(tokens, padding), np.pad(mask, padding))
    np.testing.assert_array_equal(found.unit_ids[:, width:], -1)
    return found._replace(unit_ids=found.unit_ids[:, :width])


def units(*rows, mask=None):
    width = max(map(len, rows))
    tokens = np.array([[ID[piece] for piece in row] + [0] * (width - len(row)) for row in rows])
    own = np.array([[True] * len(row) + [False] * (width - len(row)) for row in rows])
    return padded_units(tokens, own if mask is None else np.array(mask))


THINK = ["<th", "ink>", "a", "</think", ">"]
SEARCH = ["<search>", "a", "</search>"]


def test_a_macro_action_ends_with_the_token_that_completes_its_closing_tag():
    found = units([*THINK, *SEARCH, "a", "a"])
    assert found.fault.tolist() == [0]
    assert found.unit_ids[0].tolist() == [0] * 5 + [1] * 3 + [2] * 2


def test_a_tag_may_be_cut_anyhow():
    found = units(["<", "search", ">", "a", "<", "/", "search", ">", "a"])
    assert found.unit_ids[0].tolist() == [0] * 8 + [1] and found.fault.tolist() == [0]


def test_the_result_of_a_tool_belongs_to_no_macro_action():
    row = [*SEARCH, "<th", "ink>", "a", *THINK]
    mask = np.array([[True] * 3 + [False] * 3 + [True] * 5])
    found = units(row, mask=mask)
    assert found.unit_ids[0].tolist() == [0, 0, 0, -1, -1, -1] + [1] * 5 and found.fault.tolist() == [0]


def test_what_a_tool_wrote_opens_nothing_and_half_a_tag_does_not_reach_over_it():
    # The tool ends with "<", the policy goes on with "/search>": no tag.
    row = [*SEARCH, "<", "/", "search", ">"]
    mask = np.array([[True] * 3 + [False] + [True] * 3])
    assert units(row, mask=mask).fault.tolist() == [0]


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        (["a", " b"], ABSENT),
        (["<search>", "a"], ABSENT | UNCLOSED),
        ([*SEARCH, "<search>", "a"], UNCLOSED),
        (["<th", "ink>", *SEARCH, "</think", ">"], NESTED | STRAY),
        ([*SEARCH, "</search>"], STRAY),
        (["<th", "ink>", "a", "</search>"], STRAY),
        (["<search>", "<search>", "</search>"], NESTED),
    ],
)
def test_a_row_whose_tags_do_not_pair_is_one_unit_and_flagged(row, fault):
    found = units(row)
    assert found.fault.tolist() == [fault]
    assert found.unit_ids[0].tolist() == [0] * len(row)


def test_a_fault_of_one_row_is_not_the_others():
    found = units([*THINK, *SEARCH], ["a", "a"])
    assert found.fault.tolist() == [0, ABSENT]
    assert found.unit_ids[1].tolist() == [0, 0] + [-1] * 6


@given(
    st.lists(st.sampled_from(range(1, len(PIECES))), min_size=1, max_size=WIDTH),
    st.lists(st.booleans(), min_size=WIDTH, max_size=WIDTH),
)
def test_units_hold_every_action_once_in_order(tokens, mask):
    mask = np.array([mask[: len(tokens)]])
    found = padded_units(np.array([tokens]), mask)
    ids = np.asarray(found.unit_ids)[0]
    np.testing.assert_array_equal(ids >= 0, mask[0])
    inside = ids[ids >= 0]
    if len(inside):
        assert inside[0] == 0 and np.all(np.isin(np.diff(inside), [0, 1]))
    if mask.all():
        text = b"".join(BYTES[token] for token in tokens)
        names = (b"think", b"search", b"answer")
        opened, closed = (sum(text.count(form % name) for name in names) for form in (b"<%s>", b"</%s>"))
        assert closed or found.fault[0] & ABSENT
        assert opened == closed or found.fault[0]


@pytest.mark.parametrize("tags", [(), "think", ("think", "think"), ("",)])
def test_tags_must_be_names(tags):
    with pytest.raises(ValueError, match="tags must be different names"):
        compile_markers(tags, BYTES)


@pytest.mark.parametrize(
    ("prompt", "fault"),
    [
        (["a", "<th", "ink>"], 0),  # as a chat template ends that has the policy think
        (["a", "<th", "ink>", " b"], 0),  # … and a line break behind it
        (["<th", "ink>", "a", " b"], STRAY),  # a tag that the question speaks of
        (["a", "a", "a", "a"], STRAY),
        (["<search>", "a"], STRAY),
    ],
)
def test_a_tag_that_the_prompt_opens_is_open(prompt, fault):
    row = [*prompt, "a", *THINK[-2:], *SEARCH]
    found = units(row, mask=[[False] * len(prompt) + [True] * (len(row) - len(prompt))])
    assert found.fault.tolist() == [fault]
    if not fault:
        assert found.unit_ids[0].tolist() == [-1] * len(prompt) + [0] * 3 + [1] * 3


def test_a_tag_that_the_prompt_opens_and_nobody_closes_is_a_fault():
    row = ["<th", "ink>", "a", "a"]
    found = units(row, mask=[[False, False, True, True]])
    assert found.fault.tolist() == [ABSENT | UNCLOSED]
