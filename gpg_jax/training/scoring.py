"""What the networks of a state say of a rollout, a micro-batch at a time."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from gpg_jax.policies.score import score
from gpg_jax.training.program import OF_NETWORK, Program
from gpg_jax.training.state import Networks, TrainState, networks_of
from gpg_jax.types import Array, Batch, Params, Rollout, Scores


def score_rows(
    program: Program,
    networks: Networks,
    rows: Rollout,
    needs: frozenset[str],
    reference: Params | None = None,
    old: Params | None = None,
) -> Scores:
    """Scores of a micro-batch's rows, differentiable in `networks`; see `policies.score.score`."""
    plan = program.plan
    valued = "value" in needs and program.critic is not None
    return score(
        program.policy,
        networks.policy,
        rows.tokens,
        rows.prompt_length,
        rows.length,
        plan.micro_layout,
        temperature=plan.temperature,
        needs=needs & (OF_NETWORK | {"kl_old"}),
        reference=reference,
        old=old,
        critic=(program.critic[0], networks.critic) if valued and program.critic else None,
        chunk=plan.chunk,
    )


def score_all(program: Program, networks: Networks, rollout: Rollout, needs: frozenset[str]) -> Scores:
    """Scores of all rows without a gradient, a micro-batch at a time."""
    plan, axis_name = program.plan, program.axis_name

    def part(rows: Rollout) -> Scores:
        scores = score_rows(program, networks, program.constrain(own_rows(rows, program)), needs)
        return scores if axis_name is None else jax.lax.all_gather(scores, axis_name, tiled=True)

    scores = jax.lax.map(part, cut(rollout, plan.minibatches * plan.micro_batches))
    return jax.tree.map(lambda leaf: leaf.reshape(plan.rows, *leaf.shape[2:]), scores)


def score_frozen_policies(program: Program, state: TrainState, rollout: Rollout) -> Batch:
    """The rollout with the scores of the old policy and of the reference."""
    needs = program.method.needs
    if program.fresh:
        # Nothing may read these: what does so without saying "old" in its needs gets NaN.
        old = Scores(jnp.full(rollout.tokens.shape, jnp.nan))
    else:
        old = score_all(program, networks_of(state), rollout, needs - {"kl_ref"})
    reference = None
    if "reference" in needs:
        reference = score_all(program, Networks(state.reference, None), rollout, frozenset())
    return Batch(rollout=rollout, old=old, reference=reference)


def cut(tree, parts: int):
    """Splits the rows of every leaf into `parts` on a new leading axis."""
    return jax.tree.map(lambda leaf: leaf.reshape(parts, -1, *leaf.shape[1:]), tree)


def own_rows(tree, program: Program):
    """This device's rows of a micro-batch that every device holds."""
    if program.axis_name is None:
        return tree
    index = jax.lax.axis_index(program.axis_name)

    def take(leaf: Array) -> Array:
        rows = leaf.shape[0] // program.plan.shards
        return jax.lax.dynamic_slice_in_dim(leaf, index * rows, rows)

    return jax.tree.map(take, tree)
