"""Random MDPs and policies of one fixed shape, so that what is compiled for one serves for all."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from gpg_jax.theory.mdp import make_mdp

STATES, ACTIONS = 3, 2
DISCOUNTS = st.sampled_from([0.0, 0.3, 0.9, 0.99])


def distributions(shape, positive=False):
    """Rows of small fractions, zeros and certainties included unless they are to be positive."""
    weights = arrays(np.int64, shape, elements=st.integers(1 if positive else 0, 9))

    def normalise(weights):
        weights = weights + (np.arange(shape[-1]) == 0) * (weights.sum(-1, keepdims=True) == 0)
        return weights / weights.sum(-1, keepdims=True)

    return weights.map(normalise)


@st.composite
def mdps(draw, discount=DISCOUNTS, positive=False, masked=True):
    """An MDP; in some a state has one action only."""
    reward = draw(arrays(np.int64, (STATES, ACTIONS), elements=st.integers(-20, 20))) / 4
    legal = np.ones((STATES, ACTIONS), bool)
    if masked:
        legal[:, 1] = draw(arrays(bool, STATES))
    return make_mdp(
        draw(distributions((STATES, ACTIONS, STATES), positive)),
        reward,
        draw(distributions((STATES,), positive)),
        draw(discount),
        legal,
    )


@st.composite
def problems(draw, policies=2, **options):
    """An MDP and policies of it, deterministic ones among them."""
    mdp = draw(mdps(**options))
    tables = [draw(distributions((STATES, ACTIONS))) for _ in range(policies)]
    alone = ~np.asarray(mdp.legal[:, 1:])
    return mdp, *[np.where(alone, [[1.0, 0.0]], table) for table in tables]


def logits(shape=(STATES, ACTIONS)):
    return arrays(np.int64, shape, elements=st.integers(-8, 8)).map(lambda table: table / 4)
