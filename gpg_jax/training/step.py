"""One iteration of training on one rollout, as one pure function: state, rollout -> state, metrics.

    score old, reference -> estimate -> for every epoch and minibatch: weigh -> sum of micro-batches -> update

The function is the same on one device, under `jax.jit` on a mesh, and under `pmap` or `shard_map`
with `axis_name`: weights are normalised over the global minibatch before anything is split, so what
micro-batches and devices compute are plain sums.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from gpg_jax.losses import metrics as measures
from gpg_jax.losses.objective import estimate, hide_masked, loss, penalty_coefficients, weigh
from gpg_jax.policies.policy import Policy
from gpg_jax.policies.score import score
from gpg_jax.training.plan import Plan
from gpg_jax.training.state import TrainState
from gpg_jax.types import Array, Batch, Estimate, Method, Params, Rollout, Scores

Step = Callable[[TrainState, Rollout], tuple[TrainState, dict[str, Array]]]

_OF_NETWORK = frozenset({"entropy", "score_square", "kl_ref"})
_NEEDS = _OF_NETWORK | {"old", "reference"}


class Program(NamedTuple):
    """What a step is made of; nothing in it is traced.

    Attributes:
      policy: the network.
      method: what to do with a rollout.
      optimizer: applied to the gradient of the loss once a minibatch.
      plan: how the rollout is cut.
      axis_name: the mapped axis of `plan.shards` devices under `pmap` or `shard_map`, where every
        device is given the whole rollout and works on its share of each micro-batch; None elsewhere.
      constrain: places the rows of a micro-batch on the mesh under `jax.jit`.
    """

    policy: Policy
    method: Method
    optimizer: optax.GradientTransformation
    plan: Plan
    axis_name: str | None = None
    constrain: Callable[[Rollout], Rollout] = lambda rows: rows

    @property
    def fresh(self) -> bool:
        """Whether the old policy is the new one: one update, and nothing reads it before that."""
        return self.plan.updates == 1 and "old" not in self.method.needs


def make_step(program: Program) -> Step:
    """The training step of a program.

    Returns:
      state, rollout of `plan.rows` rows -> state, metrics (name -> `float32[]`), to be compiled.

    Raises:
      ValueError: needs that no step can meet.
    """
    _check_needs(program.method.needs)

    def step(state: TrainState, rollout: Rollout) -> tuple[TrainState, dict[str, Array]]:
        _check_shape(program.plan, rollout)
        method = program.method
        batch = _score_frozen_policies(program, state, rollout)
        coefficients = penalty_coefficients(method.objective, state.method)
        fixed, method_state = estimate(method, batch, state.method)
        watched = measures.row_metrics(method.watch(hide_masked(batch), fixed.unit_ids))
        brought = measures.reduce({**measures.rollout_metrics(batch, fixed), **watched})
        state, seen = _updates(program, state, batch, fixed, coefficients)
        reported = {**brought, **seen}
        state = dataclasses.replace(
            state, method=method.after(method_state, reported), rollout=state.rollout + 1
        )
        return state, reported

    return step


def compile_step(step: Step, shardings: TrainState | None = None) -> Step:
    """`jax.jit` of a step, the state donated and its shardings kept.

    Args:
      step: from `make_step`.
      shardings: of the state, from `training.sharding.state_shardings`; None on one device.
    """
    if shardings is None:
        return jax.jit(step, donate_argnums=0)
    return jax.jit(step, donate_argnums=0, in_shardings=(shardings, None), out_shardings=(shardings, None))


def _check_needs(needs: frozenset[str]) -> None:
    if unknown := needs - _NEEDS:
        raise ValueError(
            f"a step cannot meet the needs {', '.join(sorted(unknown))}; Method.needs may hold "
            f"{', '.join(sorted(_NEEDS))}"
        )
    if "kl_ref" in needs and "reference" not in needs:
        raise ValueError('"kl_ref" compares with the reference: Method.needs must hold "reference" too')


def _check_shape(plan: Plan, rollout: Rollout) -> None:
    expected = (plan.rows, plan.layout.length)
    if rollout.tokens.shape != expected:
        raise ValueError(
            f"the rollout's tokens have the shape {rollout.tokens.shape}; the plan needs {expected}"
        )


def _score(
    program: Program, params: Params, rows: Rollout, needs: frozenset[str], reference: Params | None = None
) -> Scores:
    plan = program.plan
    return score(
        program.policy,
        params,
        rows.tokens,
        rows.prompt_length,
        rows.length,
        plan.micro_layout,
        temperature=plan.temperature,
        needs=needs,
        reference=reference,
        chunk=plan.chunk,
    )


def _score_all(program: Program, params: Params, rollout: Rollout, needs: frozenset[str]) -> Scores:
    """Scores of all rows without a gradient, a micro-batch at a time."""
    plan, axis_name = program.plan, program.axis_name

    def part(rows: Rollout) -> Scores:
        scores = _score(program, params, program.constrain(_own(rows, program)), needs)
        return scores if axis_name is None else jax.lax.all_gather(scores, axis_name, tiled=True)

    scores = jax.lax.map(part, _cut(rollout, plan.minibatches * plan.micro_batches))
    return jax.tree.map(lambda leaf: leaf.reshape(plan.rows, *leaf.shape[2:]), scores)


def _score_frozen_policies(program: Program, state: TrainState, rollout: Rollout) -> Batch:
    """The rollout with the scores of the old policy and of the reference."""
    needs = program.method.needs
    if program.fresh:
        # Nothing may read these: what does so without saying "old" in its needs gets NaN.
        old = Scores(jnp.full(rollout.tokens.shape, jnp.nan))
    else:
        old = _score_all(program, state.params, rollout, (needs & _OF_NETWORK) - {"kl_ref"})
    reference = None
    if "reference" in needs:
        reference = _score_all(program, state.reference, rollout, frozenset())
    return Batch(rollout=rollout, old=old, reference=reference)


def _updates(
    program: Program, state: TrainState, batch: Batch, fixed: Estimate, coefficients: tuple[Array, ...]
) -> tuple[TrainState, dict[str, Array]]:
    """Every epoch and minibatch of a rollout; metrics are those of all updates together."""
    if program.plan.updates == 1:
        grads, seen = _gradient(program, state, batch, fixed, coefficients)
        state, norms = _update(program, state, grads)
        return state, {**measures.reduce(seen), **norms}

    def one(state: TrainState, index: Any) -> tuple[TrainState, Any]:
        rows, kept = jax.tree.map(lambda leaf: jnp.take(leaf, index, axis=0), (batch, fixed))
        rows = rows._replace(rollout=_renumbered(rows.rollout, index))
        grads, seen = _gradient(program, state, rows, kept, coefficients)
        state, norms = _update(program, state, grads)
        return state, (seen, norms)

    order = minibatch_rows(jax.random.fold_in(state.key, state.rollout), program.plan)
    state, (history, norms) = jax.lax.scan(one, state, order)
    total: measures.Metrics = {
        name: (jnp.sum(x[0]), jnp.sum(x[1])) if isinstance(x, tuple) else jnp.max(x)
        for name, x in history.items()
    }
    return state, {**measures.reduce(total), **jax.tree.map(jnp.mean, norms)}


def minibatch_rows(key: Array, plan: Plan) -> Array:
    """Rows of every update `int32[updates, minibatch_rows]`: whole groups, reshuffled each epoch."""
    group = plan.layout.shared
    prompts = plan.rows // group

    def epoch(index: Array) -> Array:
        order = jax.random.permutation(jax.random.fold_in(key, index), prompts)
        return (order[:, None] * group + jnp.arange(group)[None]).reshape(plan.minibatches, -1)

    return jax.vmap(epoch)(jnp.arange(plan.epochs)).reshape(plan.updates, plan.minibatch_rows)


def _renumbered(rows: Rollout, index: Array) -> Rollout:
    """Rows of a minibatch whose `group` and `parent` count within it, as functions of a rollout expect.

    Args:
      rows: the rows of `index`, whole groups of neighbours.
      index: `int32[minibatch_rows]`, where they stood in the rollout.
    """
    place = jnp.arange(index.shape[0], dtype=jnp.int32)
    first = jnp.argmax(rows.group[:, None] == rows.group[None, :], axis=1)
    # A tree stays within its group, whose rows have all moved by as much.
    parent = rows.parent - index.astype(jnp.int32) + place
    return dataclasses.replace(rows, group=first.astype(jnp.int32), parent=parent)  # type: ignore[type-var]


def _update(program: Program, state: TrainState, grads: Params) -> tuple[TrainState, dict[str, Array]]:
    updates, moments = program.optimizer.update(grads, state.optimizer, state.params)
    norms = {
        "gradient_norm": optax.tree_utils.tree_norm(grads),
        "update_norm": optax.tree_utils.tree_norm(updates),
    }
    params = optax.apply_updates(state.params, updates)
    state = dataclasses.replace(state, params=params, optimizer=moments, update=state.update + 1)
    return state, norms


def _gradient(
    program: Program, state: TrainState, batch: Batch, fixed: Estimate, coefficients: tuple[Array, ...]
) -> tuple[Params, measures.Metrics]:
    """The gradient of the loss over a global minibatch: the sum over its micro-batches."""
    objective, plan = program.method.objective, program.plan
    reference = state.reference if "kl_ref" in program.method.needs else None

    def part_loss(params: Params, part):
        rows, kept, (weights, penalty_weights) = part
        rows = rows._replace(rollout=program.constrain(rows.rollout))
        scores = _score(program, params, rows.rollout, program.method.needs & _OF_NETWORK, reference)
        if program.fresh:
            rows = rows._replace(old=jax.lax.stop_gradient(scores))
        return loss(objective, scores, rows, kept, weights, penalty_weights, coefficients)

    def micro(part) -> tuple[Params, measures.Metrics]:
        gradient = jax.value_and_grad(part_loss, has_aux=True)
        (value, seen), grads = gradient(state.params, _own(part, program))
        return grads, {**seen, "loss": (value, jnp.float32(0))}

    def accumulate(total, part):
        grads, seen = micro(part)
        return (jax.tree.map(jnp.add, total[0], grads), measures.merge(total[1], seen)), None

    whole = (batch, fixed, weigh(objective, batch.rollout, fixed))
    if plan.micro_batches == 1:
        total = micro(whole)
    else:
        parts = _cut(whole, plan.micro_batches)
        grads, seen = jax.eval_shape(micro, jax.tree.map(lambda leaf: leaf[0], parts))
        nothing = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), grads), measures.empty(seen)
        total, _ = jax.lax.scan(accumulate, nothing, parts)
    grads, seen = _sum_over_devices(*total, program.axis_name)
    # The loss is a sum over micro-batches and devices, and a mean over updates alone.
    return grads, {**seen, "loss": (seen["loss"][0], jnp.float32(1))}


def _cut(tree, parts: int):
    """Splits the rows of every leaf into `parts` on a new leading axis."""
    return jax.tree.map(lambda leaf: leaf.reshape(parts, -1, *leaf.shape[1:]), tree)


def _own(tree, program: Program):
    """This device's rows of a micro-batch that every device holds."""
    if program.axis_name is None:
        return tree
    index = jax.lax.axis_index(program.axis_name)

    def take(leaf: Array) -> Array:
        rows = leaf.shape[0] // program.plan.shards
        return jax.lax.dynamic_slice_in_dim(leaf, index * rows, rows)

    return jax.tree.map(take, tree)


def _sum_over_devices(
    grads: Params, metrics: measures.Metrics, axis_name: str | None
) -> tuple[Params, measures.Metrics]:
    if axis_name is None:
        return grads, metrics
    summed: measures.Metrics = {
        name: jax.lax.psum(x, axis_name) if isinstance(x, tuple) else jax.lax.pmax(x, axis_name)
        for name, x in metrics.items()
    }
    return jax.lax.psum(grads, axis_name), summed
