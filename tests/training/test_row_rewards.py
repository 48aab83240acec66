"""A rollout's rows are scored as each by itself, on any mesh and in batches of any size."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small

from gpg_jax.decoding.rollouts import Prompts, Written
from gpg_jax.policies.critic import trunk_critic
from gpg_jax.policies.reward import reward
from gpg_jax.policies.score import Layout
from gpg_jax.training.collect import scored
from gpg_jax.training.row_rewards import row_scorer
from gpg_jax.training.sharding import critic_specs, make_mesh, named

SLOTS, NEW, GROUP = small.LAYOUT.prompt_slots, small.LAYOUT.new_slots, 3
CRITIC = trunk_critic(small.policy(), small.ARCHITECTURE.width)
ROLLOUT = small.rollout(prompts=5, layout=Layout(SLOTS, NEW, GROUP))


def params():
    weight = np.random.default_rng(2).normal(size=small.ARCHITECTURE.width)
    return {"weight": jnp.float32(weight), "bias": jnp.float32(0.3), "trunk": small.params()}


def asked_and_written():
    """The rollout as its prompts, and as what was written to them."""
    heads = slice(None, None, GROUP)
    prompts = Prompts(ROLLOUT.tokens[heads, :SLOTS], ROLLOUT.prompt_length[heads])
    length = ROLLOUT.length - ROLLOUT.prompt_length
    place = ROLLOUT.prompt_length[:, None] + np.arange(NEW)
    said = np.take_along_axis(ROLLOUT.tokens, place, axis=1)
    acted = np.arange(NEW) < length[:, None]
    rows = np.arange(len(length), dtype=np.int32)
    nothing = np.zeros_like(rows)
    log_prob = np.zeros(acted.shape, np.float32)
    said = np.where(acted, said, 0)
    return prompts, Written(said, acted, log_prob, length, nothing, rows, nothing, nothing)


@pytest.fixture(scope="module")
def expected():
    alone = jax.jit(lambda *rows: reward(CRITIC, params(), *rows, Layout(SLOTS, NEW, 1)))
    return np.asarray(alone(ROLLOUT.tokens, ROLLOUT.prompt_length, ROLLOUT.length))


@pytest.mark.parametrize(("shape", "batch"), [((1, 1, 1), 6), ((2, 2, 2), 8)])
def test_every_row_is_scored_as_by_itself(expected, shape, batch):
    """Fifteen rows in batches of six and eight: the last one is filled up, and prompts are shared or not."""
    mesh = make_mesh(shape, jax.devices()[: np.prod(shape)])
    placed = jax.device_put(params(), named(critic_specs(params(), mesh), mesh))
    found = row_scorer(CRITIC, placed, mesh, batch=batch)(*asked_and_written())
    assert found.shape == (15,) and found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=5e-5)


def test_scores_are_normalised_and_go_with_the_responses(expected):
    mesh = make_mesh((1, 1, 1), jax.devices()[:1])
    score = row_scorer(CRITIC, params(), mesh, batch=6, mean=1.5, std=0.5)
    prompts, said = asked_and_written()
    write = scored(lambda *_: lambda: said, "model", score)
    found = write(None, (), prompts, None, None)()
    assert found.scores.keys() == {"model"} and found.tokens is said.tokens
    np.testing.assert_allclose(found.scores["model"], (expected - 1.5) / 0.5, atol=2e-4)


def test_what_cannot_be_scored_is_a_sentence():
    mesh = make_mesh((8, 1, 1))
    with pytest.raises(ValueError, match="12 rows cannot be scored on 8 devices; choose a multiple of 8"):
        row_scorer(CRITIC, params(), mesh, batch=12)
    for mean, std in ((0.0, 0.0), (0.0, np.inf), (np.nan, 1.0)):
        with pytest.raises(ValueError, match=f"rewards of mean {mean} and standard deviation {std} cannot"):
            row_scorer(CRITIC, params(), mesh, batch=8, mean=mean, std=std)
