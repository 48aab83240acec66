"""Updates that a method leaves out: what is reported is of those that were made."""

import bigram
import jax
import numpy as np
import optax
import pytest
import small
from small import plan

from gpg_jax.algorithms import ALGORITHMS
from gpg_jax.training import updates
from gpg_jax.training.program import Program
from gpg_jax.training.state import create_state
from gpg_jax.training.step import make_step
from gpg_jax.training.updates import minibatch_rows

POLICY = bigram.policy(small.ARCHITECTURE)
OPTIMIZER, METHOD, ROLLOUT = optax.sgd(0.3), ALGORITHMS["grpo"](), small.rollout()


def run(limit: float):
    """Minibatches, four where none is taken away; from the first one whose KL is above the limit left out."""
    method = METHOD._replace(halt=lambda seen: seen["kl_old_k3"] > limit)
    program = Program(POLICY, method, OPTIMIZER, plan(minibatches=4))
    params = POLICY.init(jax.random.key(0))
    state = create_state(params, method, OPTIMIZER, jax.random.key(5))
    return jax.jit(make_step(program))(state, ROLLOUT)


def test_norms_and_the_count_are_of_the_updates_that_were_made(monkeypatch):
    state, halted = run(limit=1e-12)
    assert halted["halted"] == 0.75 and halted["updates"] == state.update == 1
    everything, whole = run(limit=1e9)
    assert whole["halted"] == 0 and whole["updates"] == everything.update == 4
    monkeypatch.setattr(updates, "minibatch_rows", lambda key, plan: minibatch_rows(key, plan)[:1])
    _, alone = run(limit=1e9)
    for name in ("gradient_norm", "update_norm"):
        np.testing.assert_allclose(halted[name], alone[name], rtol=1e-6)
        assert abs(halted[name] - whole[name]) > 1e-3 * whole[name]
    _, none = run(limit=-1.0)
    assert none["updates"] == none["update_norm"] == none["gradient_norm"] == 0 and none["halted"] == 1
    assert np.isfinite(none["loss"]) and none["loss"] == pytest.approx(float(alone["loss"]), abs=1e-6)
