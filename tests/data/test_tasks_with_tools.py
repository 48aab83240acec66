"""Tasks in which tools matter: their answers are those that the tools give, step by step."""

from __future__ import annotations

import pytest

from gpg_jax.data import calculation, hops
from gpg_jax.data.demonstrations import demonstration_tokens, lay_out
from gpg_jax.data.tokenizers import character_tokenizer
from gpg_jax.decoding.rollouts import Written
from gpg_jax.environments.calculator import calculate
from gpg_jax.environments.corpus import corpus_of
from gpg_jax.environments.search import build_index, search_tool


def test_calculations_are_different_and_right():
    examples = calculation.calculations(500, seed=1)
    assert len({example.prompt for example in examples}) == 500
    for example in examples[:50]:
        assert calculate(example.metadata["call"]) == example.answer
        assert example.prompt == example.metadata["call"] + "="
        turns = calculation.demonstration(example)
        assert [author for author, _ in turns] == ["policy", "tool", "policy"]
    assert [e.prompt for e in calculation.calculations(500, seed=1)] == [e.prompt for e in examples]
    with pytest.raises(ValueError, match="729 expressions of 1 digits, and 730"):
        calculation.calculations(730, digits=1)


def test_every_hop_is_what_the_search_finds(tmp_path):
    made = hops.world(seed=2)
    search = search_tool(build_index(corpus_of(hops.documents(made)), tmp_path / "index"), results=1)
    questions = hops.questions(made, "train") + hops.questions(made, "held_out")
    wrong = 0
    for example in questions:
        for query, (author, answer) in zip(
            example.metadata["queries"], hops.demonstration(example, made)[1::2], strict=True
        ):
            assert author == "tool"
            wrong += f" <result>\n{search.call(query)}\n</result>" != answer
    assert wrong == 0


def test_a_hasty_demonstration_answers_with_what_its_first_search_found():
    made = hops.world(seed=1)
    questions = hops.questions(made, "train")
    shown = [hops.demonstration(example, made, hasty=0.75) for example in questions]
    assert shown == [hops.demonstration(example, made, hasty=0.75) for example in questions]
    hasty = [len(turns) == 3 for turns in shown]
    assert abs(sum(hasty) / len(hasty) - 0.75) < 0.06  # two and a half standard deviations
    for example, turns, short in zip(questions, shown, hasty, strict=True):
        whole = hops.demonstration(example, made)
        assert turns == ((*whole[:2], ("policy", f"<answer>{_found(whole[1])}</answer>")) if short else whole)


def _found(turn):
    return turn[1].split()[-2]


def test_nobody_is_asked_about_in_both_splits():
    made = hops.world(people=60, towns=20)
    asked = [
        {example.prompt.split()[0] for example in hops.questions(made, split)}
        for split in ("train", "held_out")
    ]
    assert not asked[0] & asked[1] and len(asked[0]) == 45 and len(asked[1]) == 15
    assert len(hops.questions(made, "train", hops=3)) == 45 * 4
    for arguments in ({"split": "test"}, {"split": "train", "hops": 0}):
        with pytest.raises(ValueError, match='split is "train"'):
            hops.questions(made, **arguments)
    with pytest.raises(ValueError, match="names at most"):
        hops.world(people=10**6)


def test_a_demonstration_is_rows_of_who_wrote_what():
    tokenizer = character_tokenizer("ab", ("<r>",))
    ids, acted = demonstration_tokens(
        [("policy", "ab"), ("tool", "<r>a"), ("policy", "b")], tokenizer.encode, 1
    )
    assert ids == [2, 3, 4, 2, 3, 1] and acted == [True, True, False, False, True, True]
    rows = Written(**lay_out([(ids, acted), ([3, 1], [True, True])], 7))
    assert rows.tokens.tolist() == [[2, 3, 4, 2, 3, 1, 0], [3, 1, 0, 0, 0, 0, 0]]
    assert rows.acted.sum(axis=1).tolist() == [4, 2] and rows.length.tolist() == [6, 2]
    with pytest.raises(ValueError, match="demonstration 0 has 6 tokens, and a response at most 5"):
        lay_out([(ids, acted)], 5)
    with pytest.raises(ValueError, match="the author of a turn"):
        demonstration_tokens([("user", "a")], tokenizer.encode, 1)
    with pytest.raises(ValueError, match="needs a turn of the policy's"):
        demonstration_tokens([("tool", "a")], tokenizer.encode, 1)
