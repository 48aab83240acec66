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
from gpg_jax.policies.critic import Critic
from gpg_jax.policies.policy import Policy
from gpg_jax.policies.score import score
from gpg_jax.training.plan import Plan
from gpg_jax.training.state import CriticState, TrainState
from gpg_jax.types import Array, Batch, Estimate, Method, Params, Rollout, Scores

Step = Callable[[TrainState, Rollout], tuple[TrainState, dict[str, Array]]]

_OF_NETWORK = frozenset({"entropy", "score_square", "kl_ref"})
_NEEDS = _OF_NETWORK | {"old", "reference", "value", "after"}
BOTH = frozenset({"policy", "critic"})
"""What an update may change."""


class Program(NamedTuple):
    """What a step is made of; nothing in it is traced.

    Attributes:
      policy: the network.
      method: what to do with a rollout.
      optimizer: applied to the gradient of the loss once a minibatch.
      plan: how the rollout is cut.
      critic: what gives values, where the method needs them, and its optimizer; or None.
      trains: what updates change, of "policy" and "critic".
      axis_name: the mapped axis of `plan.shards` devices under `pmap` or `shard_map`, where every
        device is given the whole rollout and works on its share of each micro-batch; None elsewhere.
      constrain: places the rows of a micro-batch on the mesh under `jax.jit`.
    """

    policy: Policy
    method: Method
    optimizer: optax.GradientTransformation
    plan: Plan
    critic: tuple[Critic, optax.GradientTransformation] | None = None
    trains: frozenset[str] = BOTH
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
    _check_needs(program)

    def step(state: TrainState, rollout: Rollout) -> tuple[TrainState, dict[str, Array]]:
        _check_shape(program.plan, rollout)
        method = program.method
        batch = _score_frozen_policies(program, state, rollout)
        coefficients = penalty_coefficients(method.objective, state.method)
        fixed, method_state = estimate(method, batch, state.method)
        watched = measures.row_metrics(method.watch(hide_masked(batch), fixed.unit_ids))
        brought = measures.reduce({**measures.rollout_metrics(batch, fixed), **watched})
        brought |= measures.critic_metrics(batch, fixed)
        state, seen = _updates(program, state, batch, fixed, coefficients)
        reported = {**brought, **seen}
        if "after" in method.needs:
            moved = _score_all(program, _networks(state), rollout, frozenset())
            reported["kl_old_after"] = measures.kl_after(moved, batch, fixed)
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


def _check_needs(program: Program) -> None:
    needs = program.method.needs
    if unknown := needs - _NEEDS:
        raise ValueError(
            f"a step cannot meet the needs {', '.join(sorted(unknown))}; Method.needs may hold "
            f"{', '.join(sorted(_NEEDS))}"
        )
    if "kl_ref" in needs and "reference" not in needs:
        raise ValueError('"kl_ref" compares with the reference: Method.needs must hold "reference" too')
    if needs & {"value", "after"} and "old" not in needs:
        raise ValueError('"value" and "after" are read beside old scores: Method.needs must hold "old" too')
    if "value" in needs and program.critic is None:
        raise ValueError('the method needs "value", and there is no critic: give Program.critic')
    if not program.trains or program.trains - BOTH:
        raise ValueError(f"trains is {sorted(program.trains)}; it may hold policy and critic, one at least")


def _check_shape(plan: Plan, rollout: Rollout) -> None:
    expected = (plan.rows, plan.layout.length)
    if rollout.tokens.shape != expected:
        raise ValueError(
            f"the rollout's tokens have the shape {rollout.tokens.shape}; the plan needs {expected}"
        )


class _Networks(NamedTuple):
    """Parameters of the policy, and of the critic where there is one."""

    policy: Params
    critic: Params | None


def _networks(state: TrainState) -> _Networks:
    return _Networks(state.params, None if state.critic is None else state.critic.params)


def _score(
    program: Program,
    networks: _Networks,
    rows: Rollout,
    needs: frozenset[str],
    reference: Params | None = None,
) -> Scores:
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
        needs=needs & _OF_NETWORK,
        reference=reference,
        critic=(program.critic[0], networks.critic) if valued and program.critic else None,
        chunk=plan.chunk,
    )


def _score_all(program: Program, networks: _Networks, rollout: Rollout, needs: frozenset[str]) -> Scores:
    """Scores of all rows without a gradient, a micro-batch at a time."""
    plan, axis_name = program.plan, program.axis_name

    def part(rows: Rollout) -> Scores:
        scores = _score(program, networks, program.constrain(_own(rows, program)), needs)
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
        old = _score_all(program, _networks(state), rollout, needs - {"kl_ref"})
    reference = None
    if "reference" in needs:
        reference = _score_all(program, _Networks(state.reference, None), rollout, frozenset())
    return Batch(rollout=rollout, old=old, reference=reference)


def _updates(
    program: Program, state: TrainState, batch: Batch, fixed: Estimate, coefficients: tuple[Array, ...]
) -> tuple[TrainState, dict[str, Array]]:
    """Every epoch and minibatch of a rollout; metrics are those of all updates together."""
    if program.plan.updates == 1:
        grads, seen = _gradient(program, state, batch, fixed, coefficients)
        state, norms = _update(program, state, grads)
        return state, {**measures.reduce(seen), **norms}

    halt = program.method.halt

    def one(carry: tuple[TrainState, Array], index: Any) -> tuple[tuple[TrainState, Array], Any]:
        state, halted = carry
        rows, kept = jax.tree.map(lambda leaf: jnp.take(leaf, index, axis=0), (batch, fixed))
        rows = rows._replace(rollout=_renumbered(rows.rollout, index))
        grads, seen = _gradient(program, state, rows, kept, coefficients)
        moved, norms = _update(program, state, grads)
        if halt is None:
            return (moved, halted), (seen, norms, halted)
        stops = halted | halt(measures.reduce(seen))
        kept_state = jax.lax.cond(stops, lambda: state, lambda: moved)
        return (kept_state, stops), (seen, norms, stops)

    order = minibatch_rows(jax.random.fold_in(state.key, state.rollout), program.plan)
    (state, _), (history, norms, halted) = jax.lax.scan(one, (state, jnp.bool_(False)), order)
    total: measures.Metrics = {
        name: (jnp.sum(x[0]), jnp.sum(x[1])) if isinstance(x, tuple) else jnp.max(x)
        for name, x in history.items()
    }
    told = {**measures.reduce(total), **jax.tree.map(jnp.mean, norms)}
    return state, told if halt is None else {**told, "halted": jnp.mean(halted)}


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


def _update(program: Program, state: TrainState, grads: _Networks) -> tuple[TrainState, dict[str, Array]]:
    norms: dict[str, Array] = {}
    if "policy" in program.trains:
        params, moments, norms = _moved(program.optimizer, grads.policy, state.optimizer, state.params)
        state = dataclasses.replace(state, params=params, optimizer=moments, update=state.update + 1)
    if grads.critic is not None and state.critic is not None and program.critic is not None:
        own = state.critic
        params, moments, seen = _moved(program.critic[1], grads.critic, own.optimizer, own.params)
        state = dataclasses.replace(state, critic=CriticState(params=params, optimizer=moments))
        norms |= {f"critic_{name}": norm for name, norm in seen.items()}
    return state, norms


def _moved(
    optimizer: optax.GradientTransformation, grads: Params, moments: Any, params: Params
) -> tuple[Params, Any, dict[str, Array]]:
    updates, moments = optimizer.update(grads, moments, params)
    norms = {
        "gradient_norm": optax.tree_utils.tree_norm(grads),
        "update_norm": optax.tree_utils.tree_norm(updates),
    }
    return optax.apply_updates(params, updates), moments, norms


def _trained(program: Program, networks: _Networks) -> _Networks:
    """What an update changes; None for what it leaves as it is."""
    valued = "critic" in program.trains and "value" in program.method.needs
    return _Networks(
        networks.policy if "policy" in program.trains else None, networks.critic if valued else None
    )


def _gradient(
    program: Program, state: TrainState, batch: Batch, fixed: Estimate, coefficients: tuple[Array, ...]
) -> tuple[_Networks, measures.Metrics]:
    """The gradient of the loss over a global minibatch: the sum over its micro-batches."""
    objective, plan = program.method.objective, program.plan
    reference = state.reference if "kl_ref" in program.method.needs else None
    whole_networks = _networks(state)

    def part_loss(trained: _Networks, part):
        rows, kept, (weights, penalty_weights) = part
        rows = rows._replace(rollout=program.constrain(rows.rollout))
        networks = _Networks(
            *(own if mine is None else mine for mine, own in zip(trained, whole_networks, strict=True))
        )
        scores = _score(program, networks, rows.rollout, program.method.needs, reference)
        if program.fresh:
            rows = rows._replace(old=jax.lax.stop_gradient(scores))
        return loss(objective, scores, rows, kept, weights, penalty_weights, coefficients)

    def micro(part) -> tuple[_Networks, measures.Metrics]:
        gradient = jax.value_and_grad(part_loss, has_aux=True)
        (value, seen), grads = gradient(_trained(program, whole_networks), _own(part, program))
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
    grads: _Networks, metrics: measures.Metrics, axis_name: str | None
) -> tuple[_Networks, measures.Metrics]:
    if axis_name is None:
        return grads, metrics
    summed: measures.Metrics = {
        name: jax.lax.psum(x, axis_name) if isinstance(x, tuple) else jax.lax.pmax(x, axis_name)
        for name, x in metrics.items()
    }
    return jax.lax.psum(grads, axis_name), summed
