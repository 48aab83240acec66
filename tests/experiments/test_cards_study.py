"""The study of estimator cards: its problems, its estimators, and what it says of made-up cards."""

from __future__ import annotations

import importlib
import math
import pathlib

import jax
import numpy as np
import pytest
from rich.console import Console

from configs.studies.cards import get_config
from experiments.studies import cards_figure
from experiments.studies import cards_report as report
from experiments.studies.card_entries import FAMILIES, entries
from experiments.studies.findings import Asked, write
from gpg_jax.algorithms import ALGORITHMS
from gpg_jax.theory.cards import Card
from gpg_jax.theory.gradients import GradientMoments
from gpg_jax.theory.responses import expected_reward, list_responses, prefix_values, token_divergence

study = importlib.import_module("experiments.studies.cards")  # the package names its function so

ENTRIES = entries(2, 0.3)
SHOWN = [(entry.name, entry.family) for entry in ENTRIES]
FEW = [pair for pair in SHOWN if pair[0] in ("rloo", "grpo", "gspo", "a2c")]


def configure(**changes):
    config = get_config()
    config.longest, config.distances, config.seeds = 2, (0.02,), 2
    config.update(changes)
    return config


def test_every_method_has_a_card():
    names = [entry.name for entry in ENTRIES]
    assert len(set(names)) == len(names)
    assert set(ALGORITHMS) <= set(names) and {entry.family for entry in ENTRIES} == set(FAMILIES)
    assert [entry.family for entry in ENTRIES] == sorted(
        (entry.family for entry in ENTRIES), key=FAMILIES.index
    )
    for name, make in ALGORITHMS.items():  # a critic's method comes twice, whichever methods there are
        assert (f"{name}; wrong critic" in names) == ("value" in make().needs)
    surrogates = [entry for entry in ENTRIES if entry.name in ALGORITHMS]
    assert all(not entry.method.objective.penalties for entry in surrogates)
    assert all(entry.method.objective.penalties for entry in ENTRIES if "in the loss" in entry.name)


def test_a_problem_is_so_far_away_in_both_directions():
    with jax.enable_x64(True):
        every, config = list_responses(3, 2), configure(distances=(0.01, 0.1))
        problems = study.make_problems(config, every, 3)
        for way, away in problems.away.items():
            for problem, nats in zip(away, (0, 0.01, 0.1), strict=True):
                distance = token_divergence(every, problem.behaviour, problem.policy)
                np.testing.assert_allclose(distance, nats, atol=1e-9)
                value = prefix_values(every, problem.behaviour, problem.reward)
                np.testing.assert_array_equal(problem.critic, value)
                np.testing.assert_array_equal(problem.old, problem.behaviour)
            worth = [float(expected_reward(every, one.behaviour, one.reward)) for one in away]
            assert (worth == sorted(worth, reverse=True)) or way == "aside"
        reference = problems.away["aside"][0].reference
        np.testing.assert_allclose(
            token_divergence(every, reference, problems.away["aside"][0].policy), 0.3, atol=1e-9
        )


def test_an_estimator_is_asked_as_it_says():
    with jax.enable_x64(True):
        every, config = list_responses(3, 2), configure()
        problems = study.make_problems(config, every, 0)
        problem = problems.away["aside"][1]
        by_name = {entry.name: entry for entry in ENTRIES}

        def asked(name):
            return study.asked(config, every, by_name[name], problem, problems.error)

        assert asked("grpo") is problem
        size = 0.5 * study.reward_spread(every, problem.behaviour, problem.reward)
        wrong = asked("a2c; wrong critic").critic
        np.testing.assert_allclose(wrong - problem.critic, size * problems.error, rtol=1e-9)
        np.testing.assert_array_equal(asked("rloo, corrected by token").old, problem.policy)
        assert asked("rloo; tree leaf weights").reward.shape == (1, 7)


def test_the_spread_of_rewards_by_hand():
    """One token, two symbols: p = ½ and rewards 0 and 2 make 1, rewards 0 and 0 make 0; √(½·(1 + 0))."""
    with jax.enable_x64(True):
        spread = study.reward_spread(list_responses(2, 1), np.zeros((2, 1, 2)), np.array([[0, 2.0], [0, 0]]))
        np.testing.assert_allclose(spread, math.sqrt(0.5), rtol=1e-12)


def test_cards_of_a_few_estimators():
    """rloo is exact at 0 and not away; the group's mean halves it, whatever the distance."""
    few = [entry for entry in ENTRIES if entry.name in ("rloo", "reinforce_group")]
    config = configure(rewards="binary")
    with jax.enable_x64(True), pytest.MonkeyPatch.context() as patch:
        patch.setattr(study, "entries", lambda *arguments: few)
        found = study.measure_seed(config, study.open_bench(config), 0)
    assert found["distances"] == [0, 0.02] and found["rollouts"] == 28**2
    for way in ("aside", "behind"):
        rloo, halved = (found["cards"][name][way] for name in ("rloo", "reinforce_group"))
        assert rloo[0]["bias"] < 1e-12 < 1e-4 < rloo[1]["bias"]
        np.testing.assert_allclose(halved[0]["scale"], 0.5, rtol=1e-12)
        np.testing.assert_allclose(halved[1]["noise"], rloo[1]["noise"], rtol=1e-9)


def test_the_study_from_end_to_end(tmp_path, monkeypatch):
    """With moments made up, so that nothing compiles: what is measured once is read again."""
    made = GradientMoments(np.ones((2, 3, 3)), 0.5)

    def moments(method, responses, rollouts):
        return lambda problem, state: made._replace(mean=made.mean[: len(problem.policy)])

    draw = cards_figure.draw
    monkeypatch.setattr(cards_figure, "draw", lambda found, shown: draw(found, shown[:3]))
    monkeypatch.setattr(study, "gradient_moments", moments)
    config = configure(seeds=1)
    findings = study.cards(config, tmp_path, Console(quiet=True))
    monkeypatch.setattr(study, "measure_seed", None)
    again = study.cards(config, tmp_path, Console(quiet=True))
    assert str(again.rows) == str(findings.rows) and again.notes == findings.notes
    assert len(findings.rows) == len(ENTRIES) and str(again.tables) == str(findings.tables)
    write(findings, tmp_path, Asked("?", "command", 1))
    assert (tmp_path / "findings.png").stat().st_size > 10_000
    told, page = (tmp_path / "findings.md").read_text(), (tmp_path / study.PAGE).read_text()
    for title in report.AWAY.values():
        assert f"\n## {title}\n" in told and f"\n## {title}\n" in page


def like(**numbers):
    """A card that is exact but for these."""
    plain = {"cosine": 1, "scale": 1, "bias": 0, "bend": 0, "variance": 2, "noise": 2, "gain": 0.3}
    return Card(**(plain | numbers))._asdict()


def made_up(changes, away=True):
    """Two problems in which every estimator is exact everywhere but for changes: name -> three cards."""
    distances = [0.0, 0.01] if away else [0.0]
    cards = {}
    for name, _ in SHOWN:
        first, aside, behind = changes.get(name, (like(), like(), like()))
        cards[name] = {"aside": [first, aside][: len(distances)], "behind": [first, behind][: len(distances)]}
    return [{"distances": distances, "rollouts": 7, "cards": cards}] * 2


BENT = like(cosine=0.9, bias=0.5, bend=0.4)
FOUND = made_up(
    {
        "grpo": (BENT, BENT, like(cosine=-0.2, bend=1)),
        "gspo": (like(cosine=0.8, bias=0.5, bend=0.6),) * 3,
        "dr_grpo": (like(scale=0.5, bias=0.5 + 1e-15),) * 3,
        "rloo": (like(bias=3e-15, bend=2e-15), BENT, BENT),
        "a2c, λ = 0, token sum; wrong critic": (like(bias=0.25, bend=0.2, noise=8),) * 3,
        "rloo; uniform leaf weights": (like(bias=0.125),) * 3,
        "rloo, k1 in the loss": (BENT,) * 3,
    }
)


def test_sentences_of_made_up_cards():
    notes = report.notes(FOUND, SHOWN)
    assert notes[0].startswith("2 problems, 7 rollouts each")
    exact = notes[1].removesuffix(".").split(": ", 1)[1].split("; ")
    assert "rloo" in exact and "grpo" not in exact and "dr_grpo" not in exact
    assert notes[2] == "It is ∇J times a factor for: dr_grpo 0.5 ± 0."
    assert notes[3] == "It has a cosine to ∇J for: grpo 0.9 ± 0; gspo 0.8 ± 0."
    assert notes[4].startswith("Rows drawn aside, 0.01 nats a token away, mean cosine: rloo 0.90; grpo 0.90;")
    assert notes[5].startswith(
        "Rows drawn behind, 0.01 nats a token away, mean cosine: rloo 0.90; grpo -0.20;"
    )
    assert "points against ∇J for 1 of" in notes[6] and notes[6].endswith("as they come: grpo.")
    always = notes[7].removesuffix(".").split(": ", 1)[1].split("; ")
    assert "dr_grpo" in always and not {"rloo", "grpo", "gspo"} & set(always)
    assert "λ = 0: bias 0.25 ± 0, noise 8 (8–8) beside 2 (2–2)." in notes[8]
    assert "k1 in the loss 0.9 ± 0; k2 in the loss 1 ± 0" in notes[9]
    assert notes[10].endswith("uniform 0.125 ± 0; forest 0 ± 0; tree 0 ± 0.")


def test_without_distances_nothing_is_said_of_them():
    found = made_up({}, away=False)
    assert len(report.notes(found, SHOWN)) == 7
    assert len(cards_figure.draw(found, FEW).axes) == 6
    assert len(report.table(found, SHOWN)[0]) == 7 and not report.tables(found, SHOWN)


def test_every_number_is_told_at_every_distance():
    """Of each distance its own: cosines, biases and variances that differ from place to place."""
    on, aside, behind = (
        like(cosine=cosine, bias=bias, variance=variance)
        for cosine, bias, variance in ((0.9, 0.1, 2), (0.75, 0.25, 8), (-0.5, 1.5, 32))
    )
    found = made_up({"sapo": (on, aside, behind)})
    every = report.tables(found, SHOWN)
    rows = [next(row for row in every[title] if row["estimator"] == "sapo") for title in report.AWAY.values()]
    assert [list(row) for row in rows] == [["estimator", "on-policy", "aside 0.01", "behind 0.01"]] * 3
    told = [[cell.mean for cell in list(row.values())[1:]] for row in rows]
    np.testing.assert_allclose(told, [[0.9, 0.75, -0.5], [0.1, 0.25, 1.5], [2, 8, 32]], rtol=1e-12)
    assert [row["estimator"] for row in every[report.AWAY["bias"]]] == [name for name, _ in SHOWN]
    page = report.page(found, SHOWN)
    for cells in (".900 | .750 | −.500", ".100 | .250 | 1.50", "2.00 | 8.00 | 32", ".900 | 1 | .100 | 2.00"):
        assert f"| sapo | {cells} |" in page


PAGE = pathlib.Path(__file__).parents[2] / "notebooks" / "estimator_cards.md"


def test_the_page_shows_every_estimator_at_every_distance():
    """Its tables are the study's `tables.md`: of the study as it is configured, estimator by estimator."""
    config = get_config()
    shown = [entry.name for entry in entries(config.longest, config.kl_coefficient)]
    away = [f"{direction} {nats:g}" for direction in ("aside", "behind") for nats in config.distances]
    columns = {title: ["on-policy", *away] for title in report.AWAY.values()}
    sections = dict(part.split("\n", 1) for part in PAGE.read_text(encoding="utf-8").split("\n## ")[1:])
    for title, names in {"On-policy": list(report.COLUMNS), **columns}.items():
        head, _, *rows = [
            [cell.strip() for cell in line.strip("|").split(" | ")]
            for line in sections[title].splitlines()
            if line.startswith("|")
        ]
        assert head == ["estimator", *names] and [row[0] for row in rows] == shown
        assert all(len(row) == len(head) and all(row) for row in rows)


def test_the_table_and_the_picture_bear_what_is_not_told():
    nothing = like(cosine=0, scale=0, bias=1, bend=1, noise=math.inf, gain=0)
    found = made_up({"gspo": (nothing,) * 3})
    row = next(row for row in report.table(found, SHOWN) if row["estimator"] == "gspo")
    assert str(row["noise"]) == "not told" and str(row["cosine"]) == "0 ± 0"
    figure = cards_figure.draw(found, FEW)
    assert len(figure.axes) == 12
    assert "–" in {text.get_text() for text in figure.axes[4].texts}


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (1.0, "1"),
        (1 - 1e-12, "1"),
        (0.99999, "1.00"),
        (0.9291, ".929"),
        (-0.4581, "−.458"),
        (0.0, "0"),
        (-1e-15, "0"),
        (1.234, "1.23"),
        (9.96, "10"),
        (168.7, "169"),
        (math.nan, "–"),
    ],
)
def test_numbers_fit_their_cells(number, text):
    assert cards_figure.short(number) == text


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"rewards": "normal"}, 'rewards is \'normal\'; it must be "graded" or "binary"'),
        ({"distances": (0.1, 0.01)}, "distances are above 0 and rise"),
        ({"distances": (0.0, 0.01)}, "distances are above 0 and rise"),
        ({"width": 1}, "forks need a root and two rows of it"),
    ],
)
def test_mistakes_of_a_configuration(changes, sentence, tmp_path):
    with pytest.raises(ValueError, match=sentence):
        study.cards(configure(**changes), tmp_path, Console(quiet=True))
    with pytest.raises(ValueError, match='"graded" or "binary"'):
        get_config("normal")
