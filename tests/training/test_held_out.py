"""Which prompts are held out, and how the others are cut."""

import jax
import numpy as np
import pytest

from gpg_jax.policies.score import Layout
from gpg_jax.training.held_out import training_plan, training_prompts, training_rows
from gpg_jax.training.plan import Plan

LAYOUT = Layout(prompt_slots=4, new_slots=4, shared=3)


@pytest.mark.parametrize("share, left", [(0.5, 6), (0.25, 9), (0.1, 11), (0.9, 1)])
def test_whole_groups_are_drawn_anew(share, left):
    plan = Plan(layout=LAYOUT, rows=36)
    assert training_prompts(plan, share) == left and training_plan(plan, share).rows == 3 * left
    drawn = [np.asarray(training_rows(jax.random.key(seed), plan, share)) for seed in range(80)]
    for rows in drawn:
        prompts = rows.reshape(left, 3) // 3
        assert np.all(prompts == prompts[:, :1]) and len(np.unique(rows)) == 3 * left
    times = np.bincount(np.concatenate(drawn), minlength=36)
    assert np.all(times > 0) and np.all(times < 80)  # no prompt's place is always on one side


@pytest.mark.parametrize(
    "cut, share, micro",
    [
        ({}, 0.5, 1),
        ({"minibatches": 3}, 0.5, 1),
        ({"micro_batches": 2}, 0.5, 1),  # 18 rows of 18
        ({"micro_batches": 12}, 0.5, 6),
        ({"micro_batches": 36}, 0.5, 18),
        ({"minibatches": 2, "micro_batches": 3, "shards": 3}, 0.5, 3),  # 9 rows of 6: by 3
        ({"micro_batches": 4}, 0.25, 3),  # 27 rows of 9
    ],
)
def test_micro_batches_grow_no_larger(cut, share, micro):
    plan = Plan(layout=LAYOUT, rows=36, epochs=2, temperature=1.0, chunk=5, **cut)
    part = training_plan(plan, share)
    assert part.micro_batches == micro and part.micro_rows <= plan.micro_rows
    assert (part.updates, part.shards, part.chunk) == (plan.updates, plan.shards, plan.chunk)


@pytest.mark.parametrize(
    "rows, cut, share, sentence",
    [
        (3, {}, 0.5, "held_out=0.5 of a rollout's prompts is 0 of 1"),
        (36, {}, 0.04, "is 0 of 12"),
        (36, {}, 0.96, "is 12 of 12"),
        (36, {}, 1.5, "is 18 of 12"),
        (36, {"minibatches": 4}, 0.5, "leaves 6 prompts to train on, which cannot be cut into 4 minibatches"),
        (36, {"shards": 4}, 0.5, "leaves minibatches of 18 rows, which cannot be cut for 4 devices"),
    ],
)
def test_what_cannot_be_held_out_is_refused(rows, cut, share, sentence):
    with pytest.raises(ValueError, match=sentence):
        training_plan(Plan(layout=LAYOUT, rows=rows, **cut), share)
