"""A small policy and ragged rows, shared by the tests that need a network."""

import functools

import jax
import numpy as np

from gpg_jax.policies.architecture import Architecture
from gpg_jax.policies.policy import Policy
from gpg_jax.policies.score import Layout
from gpg_jax.policies.transformer import transformer
from gpg_jax.training.plan import Plan
from gpg_jax.types import Rollout

ARCHITECTURE = Architecture(
    vocab_size=32, width=16, layers=3, heads=4, kv_heads=2, head_dim=4, mlp_width=32, max_length=64
)
LAYOUT = Layout(prompt_slots=6, new_slots=10, shared=4)
PROMPTS = 8


@functools.cache
def policy(**options) -> Policy:
    return transformer(ARCHITECTURE, **options)


@functools.cache
def params():
    """Parameters large enough that the policy is far from uniform."""
    return jax.tree.map(lambda leaf: 4 * leaf, policy().init(jax.random.key(0)))


def rollout(seed: int = 0, prompts: int = PROMPTS, layout: Layout = LAYOUT) -> Rollout:
    """Random ragged rows: groups contiguous, prompts of 1 to S tokens, responses of 1 to N."""
    draw = np.random.default_rng(seed)
    rows = prompts * layout.shared
    prompt_length = np.repeat(draw.integers(1, layout.prompt_slots + 1, prompts), layout.shared)
    length = prompt_length + draw.integers(1, layout.new_slots + 1, rows)
    tokens = draw.integers(3, ARCHITECTURE.vocab_size, (rows, layout.length))
    index = np.arange(layout.length)[None]
    first = np.arange(rows) // layout.shared * layout.shared
    tokens = np.where(index < prompt_length[:, None], tokens[first], tokens)
    mask = (index >= prompt_length[:, None]) & (index < length[:, None])
    outcome = draw.integers(0, 2, rows).astype(np.float32)
    return Rollout(
        tokens=np.where(index < length[:, None], tokens, 0).astype(np.int32),
        action_mask=mask,
        prompt_length=prompt_length.astype(np.int32),
        length=length.astype(np.int32),
        behaviour_log_prob=np.where(mask, draw.normal(-3, 0.5, mask.shape), 0).astype(np.float32),
        group=np.repeat(np.arange(prompts), layout.shared).astype(np.int32),
        parent=np.arange(rows, dtype=np.int32),
        fork=prompt_length.astype(np.int32),
        leaf_weight=np.ones(rows, np.float32),
        stop=np.zeros(rows, np.int32),
        version=np.zeros(rows, np.int32),
        outcome=outcome,
        reward=outcome,
    )


def plan(**options) -> Plan:
    """How the rows of `rollout()` are cut."""
    return Plan(layout=LAYOUT, rows=PROMPTS * LAYOUT.shared, **options)
