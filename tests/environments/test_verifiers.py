"""What counts as right: numbers however they are written, first lines, mathematics, puzzles."""

import threading
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpg_jax.data.examples import Example
from gpg_jax.environments import verifiers
from gpg_jax.environments.verifiers import (
    VERIFIERS,
    exact_match,
    first_line_match,
    gsm8k_flexible,
    gsm8k_strict,
    last_number_match,
    math_match,
    puzzle_match,
)

NUMBERS = st.decimals(-(10**9), 10**9, places=2)
EIGHTEEN = Example("q", "He has 9 + 9.\n#### 18")


@pytest.mark.parametrize(
    "text", ["18", "$18", "18.00", "18.", "= 18!", "18%", "018", "x18", "£18", "(18)", "**18**"]
)
def test_eighteen_however_it_is_written(text):
    assert last_number_match(text, EIGHTEEN) == 1
    assert gsm8k_flexible(f"It was 5, and so {text}", EIGHTEEN) == 1


@pytest.mark.parametrize(
    "text", ["", "eighteen", "-18", "1.8", "180", "18.01", "18 of 20", "1,8", "$-18", "-$18"]
)
def test_what_is_not_eighteen(text):
    assert last_number_match(text, EIGHTEEN) == 0
    assert gsm8k_flexible(text, EIGHTEEN) == 0
    assert gsm8k_strict(f"#### {text}", EIGHTEEN) == (text == "18 of 20")


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("1,234", "1234"),
        ("$1,234.50", "1234.5"),
        ("1,234,567", "1234567"),
        ("12,34", "34"),
        ("1,2345", "2345"),
        (".5", "0.5"),
        ("0.50", ".5"),
        ("-.5", "-0.5"),
        ("-3", "-3"),
        ("−3", "-3"),
        ("= -3", "-3"),
        ("(-3)", "-3"),
        ("-$3", "-3"),
        ("5-3", "3"),
        ("pages 5-3", "3"),
        ("(1+1)-3", "3"),
        ("5 -3", "-3"),
        ("1/2", "2"),
        ("3.14.15", ".15"),
        ("-0", "0"),
        ("10000000000000000001", "10000000000000000001"),
    ],
)
def test_the_last_number_of_a_text(text, number):
    assert last_number_match(text, Example("q", number)) == 1
    assert last_number_match(text, Example("q", f"1{number.lstrip('-')}")) == 0


@given(NUMBERS, st.sampled_from(["{}", "{:,}", "${:,}", "so {} apples", "{}.", "{:.4f}"]))
def test_writing_does_not_change_a_number(number, form):
    written = form.format(number)
    for gold in (str(number), f"{number:,}"):
        assert last_number_match(written, Example("q", gold)) == 1
        assert gsm8k_strict(f"#### {written.removeprefix('so ')}", Example("q", f"#### {gold}")) == 1


@given(NUMBERS, NUMBERS)
def test_numbers_are_equal_exactly(one, other):
    assert last_number_match(str(one), Example("q", str(other))) == (Fraction(one) == Fraction(other))


@given(st.text())
def test_any_text_is_judged(text):
    for name in ("exact", "first_line", "last_number", "gsm8k_strict", "gsm8k_flexible"):
        for example in (EIGHTEEN, Example("q", text)):
            assert VERIFIERS[name](text, example) in (0.0, 1.0)


@pytest.mark.parametrize("verifier", [last_number_match, gsm8k_strict, gsm8k_flexible])
def test_no_number_equals_no_other(verifier):
    assert verifier("none", Example("q", "none")) == 0
    assert verifier("#### none", Example("q", "#### none")) == 0
    assert verifier("#### " + "9" * 5000, EIGHTEEN) == 0  # more digits than Python reads


@pytest.mark.parametrize(
    ("text", "strict", "flexible"),
    [
        ("9 + 9 = 18\n#### 18", 1, 1),
        ("#### $18.00", 1, 1),
        ("####18", 1, 1),
        ("9 + 9 = 18", 0, 1),
        ("### 18", 0, 1),
        ("#### 18 apples, 2 a day", 1, 0),
        ("#### 17\nNo: #### 18", 1, 1),
        ("#### 18\nNo: #### 17", 0, 0),
        ("#### 18 #### none", 1, 1),
        ("#### eighteen (18)", 0, 1),
        ("#### -18", 0, 0),
        ("", 0, 0),
    ],
)
def test_strict_and_flexible(text, strict, flexible):
    assert gsm8k_strict(text, EIGHTEEN) == strict
    assert gsm8k_flexible(text, EIGHTEEN) == flexible


def test_the_gold_answer_is_the_number_behind_its_mark():
    example = Example("q", "5 apples\n#### 1,080 of 3")
    assert gsm8k_flexible("1080", example) == gsm8k_strict("#### 1080", example) == 1
    assert gsm8k_flexible("3", example) == gsm8k_flexible("5", example) == 0


@pytest.mark.parametrize("gold", ["1080", " 1,080\n", "$1,080.00"])
def test_the_gold_answer_may_be_a_number_alone(gold):
    example = Example("q", gold)
    assert gsm8k_flexible("1080", example) == gsm8k_strict("#### 1080", example) == 1
    assert gsm8k_strict("1080", example) == gsm8k_flexible("80", example) == 0


def test_white_space_behind_the_mark_is_read_once():
    """Matching that tried every way of sharing it out would not end."""
    assert gsm8k_strict("#### " + " " * 100_000 + "18", EIGHTEEN) == 1
    assert gsm8k_strict("####" + " " * 100_000 + "none", EIGHTEEN) == 0


@pytest.mark.parametrize(
    ("text", "exact", "first"),
    [
        ("12", 1, 1),
        (" 12 \n", 1, 1),
        (" 12\nQ: 5*5\nA: 25", 0, 1),
        (" 12\r\nQ:", 0, 1),
        ("\n12", 1, 0),
        ("12 apples", 0, 0),
        ("123", 0, 0),
        ("1", 0, 0),
        ("", 0, 0),
    ],
)
def test_the_whole_text_and_its_first_line(text, exact, first):
    assert exact_match(text, Example("q", "12")) == exact
    assert first_line_match(text, Example("q", " 12")) == first


@pytest.mark.parametrize(
    ("text", "gold"),
    [
        ("The answer is \\boxed{\\frac{1}{2}}.", "1/2"),
        ("$\\frac12$", "0.5"),
        ("0.5", "\\frac{1}{2}"),
        ("so it is 1/2", "\\boxed{\\frac{2}{4}}"),
        ("1234", "1,234"),
        ("$x + 1$", "1 + x"),
        ("\\boxed{-3}", "$-3$"),
        ("\\boxed{(1, 2)}", "(1,2)"),
    ],
)
def test_mathematics_is_equal_however_it_is_written(text, gold):
    assert math_match(text, Example("q", gold)) == 1


@pytest.mark.parametrize(
    ("text", "gold"),
    [
        ("\\boxed{\\frac{1}{3}}", "1/2"),
        ("junk", "1/2"),
        ("", "1/2"),
        ("\\boxed{", "1/2"),
        ("(" * 3000, "1/2"),
        ("9" * 6000, "1/2"),
        ("$x + 2$", "1 + x"),
        ("\\boxed{(2, 1)}", "(1,2)"),
        ("", ""),
        ("junk", "junk"),
    ],
)
def test_other_mathematics_and_junk_are_wrong(text, gold):
    assert math_match(text, Example("q", gold)) == 0


def test_a_hostile_expression_is_given_up(monkeypatch, caplog):
    monkeypatch.setattr(verifiers, "MATH_SECONDS", 1)
    assert math_match("$9^{9^{9^{9^9}}}$", Example("q", "12")) == 0
    assert "Timeout" in caplog.text


def test_mathematics_needs_the_main_thread():
    errors = []

    def judge():
        try:
            math_match("1", Example("q", "1"))
        except RuntimeError as error:
            errors.append(str(error))

    thread = threading.Thread(target=judge)
    thread.start()
    thread.join()
    assert errors == ["math_match keeps its time limits by signals: call it in the main thread"]


def test_a_puzzle_is_judged_by_what_is_extracted():
    pytest.importorskip("reasoning_gym")
    from gpg_jax.data.puzzles import puzzles

    (example,) = puzzles("chain_sum", size=1, seed=0)
    last_line = puzzle_match(lambda text: text.rsplit("\n", 1)[-1])
    assert puzzle_match()(f"  {example.answer}\n", example) == 1.0
    assert last_line(f"Let me see.\n{example.answer}", example) == 1.0
    assert puzzle_match()(f"Let me see.\n{example.answer}", example) == 0.0
    assert last_line(f"{example.answer}\nor not", example) == 0.0


@pytest.mark.parametrize("name", sorted(VERIFIERS))
def test_a_verifier_by_name_takes_the_answer_and_no_other(name):
    written = "#### {}" if "strict" in name else "<answer>{}</answer>" if name == "answer_tag" else "{}"
    example = EIGHTEEN if "gsm" in name else Example("q", "18")
    assert VERIFIERS[name](written.format(18), example) == 1
    assert VERIFIERS[name](written.format(19), example) == 0
