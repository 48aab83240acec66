"""Preferences from files, in the forms that public sets have, and as rows."""

import json

import numpy as np
import pytest

from gpg_jax.data.preference_pairs import PairTokens, Preference, fits, lay_out_pairs, read_preferences

ASKED = {"role": "user", "content": "2+2?"}
SYSTEM = {"role": "system", "content": "Be brief."}


def said(text):
    return {"role": "assistant", "content": text}


def written(folder, *rows):
    path = folder / "pairs.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return path


FORMS = {
    "texts": ({"prompt": "2+2?", "chosen": "4", "rejected": "5"}, "2+2?"),
    "a prompt of messages": ({"prompt": [SYSTEM, ASKED], "chosen": "4", "rejected": "5"}, (SYSTEM, ASKED)),
    "answers of messages": (
        {"prompt": [ASKED], "chosen": [said("4")], "rejected": [said("5")]},
        (ASKED,),
    ),
    "whole conversations": ({"chosen": [ASKED, said("4")], "rejected": [ASKED, said("5")]}, (ASKED,)),
    "whole conversations beside what was asked": (
        {"prompt": "2+2?", "chosen": [SYSTEM, ASKED, said("4")], "rejected": [SYSTEM, ASKED, said("5")]},
        (SYSTEM, ASKED),
    ),
    "whole conversations beside their messages": (
        {"prompt": [ASKED], "chosen": [ASKED, said("4")], "rejected": [ASKED, said("5")]},
        (ASKED,),
    ),
}


@pytest.mark.parametrize(("row", "prompt"), FORMS.values(), ids=FORMS)
def test_the_forms_of_public_sets_are_read(tmp_path, row, prompt):
    found = read_preferences(written(tmp_path, row | {"margin": 2, "source": "x"}))
    assert found.rows == [Preference(prompt, "4", "5", 2.0)] and found.left_out == 0


PAIR = {"prompt": "a", "chosen": "b", "rejected": "c"}
SENTENCES = {
    "no prompt": ({"chosen": "b", "rejected": "c"}, r"line 2 has no 'prompt'; its fields are \['chosen', "),
    "no rejected": ({"prompt": "a", "chosen": "b"}, r"line 2 has no 'rejected'; its fields are"),
    "an empty answer": (PAIR | {"chosen": " "}, r"line 2 has no 'chosen'"),
    "a number": (PAIR | {"rejected": 3}, r"line 2, rejected asks 3; a prompt is a text or a list"),
    "equal": (PAIR | {"rejected": "b"}, r"line 2 prefers 'b' to itself"),
    "the user last": (
        {"chosen": [ASKED], "rejected": [ASKED, said("5")]},
        r"line 2: the last message of 'chosen' is the user's, not the assistant's",
    ),
    "two conversations": (
        {"chosen": [ASKED, said("4")], "rejected": [SYSTEM, ASKED, said("5")]},
        r"line 2: the messages before the chosen and the rejected response differ",
    ),
    "another prompt": (
        {"prompt": "3+3?", "chosen": [ASKED, said("4")], "rejected": [ASKED, said("5")]},
        r"line 2: its 'prompt' is not in the conversation",
    ),
    "a margin below 0": (PAIR | {"margin": -1}, r"line 2 has the margin -1; it is a number from 0 on"),
    "a margin that is a text": (PAIR | {"margin": "1"}, r"line 2 has the margin '1'"),
    "no object": ([1], r"line 2 is list, not an object"),
}


@pytest.mark.parametrize(("row", "sentence"), SENTENCES.values(), ids=SENTENCES)
def test_what_is_wrong_is_a_sentence(tmp_path, row, sentence):
    with pytest.raises(ValueError, match=sentence):
        read_preferences(written(tmp_path, PAIR, row))


def test_no_file_and_nothing_in_it(tmp_path):
    with pytest.raises(ValueError, match="there is no file"):
        read_preferences(tmp_path / "none.jsonl")
    with pytest.raises(ValueError, match="holds no preferences"):
        read_preferences(written(tmp_path))


def test_equal_answers_are_counted_where_they_are_left_out(tmp_path):
    path = written(tmp_path, PAIR, PAIR | {"rejected": "b"}, PAIR | {"chosen": "c"})
    found = read_preferences(path, drop_equal=True)
    assert [row.rejected for row in found.rows] == ["c"] and found.left_out == 2


def test_rows_are_laid_out_and_filled_up():
    pairs = lay_out_pairs([PairTokens([5, 6], [7], [8, 9, 1], 0.5), PairTokens([4], [3, 1], [1])], 3, 3, 4)
    np.testing.assert_array_equal(pairs.tokens[0], [[5, 6, 7, 0, 0, 0], [5, 6, 8, 9, 1, 0]])
    np.testing.assert_array_equal(pairs.tokens[1], [[4, 3, 1, 0, 0, 0], [4, 1, 0, 0, 0, 0]])
    np.testing.assert_array_equal(pairs.tokens[2:], np.stack([pairs.tokens[0]] * 2))
    np.testing.assert_array_equal(pairs.prompt_length, [2, 1, 2, 2])
    np.testing.assert_array_equal(pairs.length[:2], [[3, 5], [3, 2]])
    np.testing.assert_array_equal(pairs.margin[:2], np.float32([0.5, 0]))
    np.testing.assert_array_equal(pairs.mask, [True, True, False, False])
    assert pairs.tokens.dtype == pairs.length.dtype == np.int32 and pairs.margin.dtype == np.float32


def test_rows_beyond_the_budgets_are_refused_and_never_cut():
    fitting = PairTokens([5, 6], [7, 1], [8, 9, 1])
    assert fits(fitting, 2, 3) and not fits(fitting, 1, 3) and not fits(fitting, 2, 2)
    assert not fits(fitting._replace(prompt=[]), 2, 3)
    with pytest.raises(ValueError, match=r"preference 1 has a prompt of 2 tokens and responses of 2 and 3"):
        lay_out_pairs([PairTokens([5], [7], [8]), fitting], 2, 2)
    with pytest.raises(ValueError, match="2 preferences do not make a batch of 1"):
        lay_out_pairs([fitting, fitting], 2, 3, 1)
