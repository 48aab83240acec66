"""One iteration of training on one rollout, as one pure function: state, rollout -> state, metrics.

    score old, reference -> estimate -> for every epoch and minibatch: weigh -> sum of micro-batches -> update

The function is the same on one device, under `jax.jit` on a mesh, and under `pmap` or `shard_map`
with `axis_name`: weights are normalised over the global minibatch before anything is split, so what
micro-batches and devices compute are plain sums.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from gpg_jax.losses import metrics as measures
from gpg_jax.losses.objective import estimate, loss, penalty_coefficients, weigh
from gpg_jax.policies.policy import Policy
from gpg_jax.policies.score import Layout, score
from gpg_jax.training.state import TrainState
from gpg_jax.types import Array, Batch, Estimate, Method, Params, Rollout, Scores

Step = Callable[[TrainState, Rollout], tuple[TrainState, dict[str, Array]]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """How a rollout of B rows is cut into updates.

    Attributes:
      layout: static shape of the rows; `layout.shared` is the group size G, and groups are contiguous.
      rows: B.
      epochs: passes over the rollout.
      minibatches: updates a pass.
      micro_batches: parts that a minibatch is summed over, to save memory.
      shards: devices that the rows of a micro-batch are split over.
      temperature: at which the rollout was sampled.
      chunk: tokens whose logits exist at once; 0 for all.

    Raises:
      ValueError: rows that cannot be cut so, or a temperature that cannot be trained on.
    """

    layout: Layout
    rows: int
    epochs: int = 1
    minibatches: int = 1
    micro_batches: int = 1
    shards: int = 1
    temperature: float = 1.0
    chunk: int = 0

    def __post_init__(self) -> None:
        group = self.layout.shared
        for name in ("rows", "epochs", "minibatches", "micro_batches", "shards"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}; it must be at least 1")
        if self.temperature <= 0:
            raise ValueError(
                f"temperature={self.temperature}: a greedy rollout has no probabilities to train on; "
                "sample at a temperature above 0"
            )
        if self.rows % (self.minibatches * group):
            raise ValueError(
                f"{self.rows} rows in groups of {group} cannot be cut into {self.minibatches} minibatches of "
                f"whole groups; choose minibatches that divides {self.rows // group} prompts"
            )
        if self.minibatch_rows % (self.micro_batches * self.shards):
            raise ValueError(
                f"a minibatch of {self.minibatch_rows} rows cannot be cut into {self.micro_batches} "
                f"micro-batches on {self.shards} devices; their product must divide {self.minibatch_rows}"
            )

    @property
    def minibatch_rows(self) -> int:
        """Rows of an update."""
        return self.rows // self.minibatches

    @property
    def micro_rows(self) -> int:
        """Rows whose activations exist at once, on all devices together."""
        return self.minibatch_rows // self.micro_batches

    @property
    def updates(self) -> int:
        """Optimizer updates a rollout."""
        return self.epochs * self.minibatches

    @property
    def micro_layout(self) -> Layout:
        """The layout of a device's part of a micro-batch: neighbours that surely share a prompt."""
        own = self.micro_rows // self.shards
        return dataclasses.replace(self.layout, shared=math.gcd(own, self.layout.shared))


def _cut(tree, parts: int):
    """Splits the rows of every leaf into `parts` on a new leading axis."""
    return jax.tree.map(lambda leaf: leaf.reshape(parts, -1, *leaf.shape[1:]), tree)


def _own(tree, axis_name: str | None, shards: int):
    """This device's rows of a micro-batch that every device holds."""
    if axis_name is None:
        return tree
    index = jax.lax.axis_index(axis_name)

    def take(leaf: Array) -> Array:
        rows = leaf.shape[0] // shards
        return jax.lax.dynamic_slice_in_dim(leaf, index * rows, rows)

    return jax.tree.map(take, tree)


def _sum_over_devices(grads, metrics: measures.Metrics, axis_name: str | None):
    if axis_name is None:
        return grads, metrics
    grads = jax.lax.psum(grads, axis_name)
    summed = {
        name: jax.lax.psum(x, axis_name) if isinstance(x, tuple) else jax.lax.pmax(x, axis_name)
        for name, x in metrics.items()
    }
    return grads, summed


def make_step(
    policy: Policy,
    method: Method,
    optimizer: optax.GradientTransformation,
    plan: Plan,
    *,
    axis_name: str | None = None,
    constrain: Callable[[Rollout], Rollout] = lambda rows: rows,
) -> Step:
    """The training step of a method.

    Args:
      policy: the network.
      method: what to do with a rollout.
      optimizer: applied to the gradient of the loss once a minibatch.
      plan: how the rollout is cut.
      axis_name: the mapped axis of `plan.shards` devices under `pmap` or `shard_map`, where every
        device is given the whole rollout and works on its share of each micro-batch; None elsewhere.
      constrain: places the rows of a micro-batch on the mesh under `jax.jit`.

    Returns:
      state, rollout of `plan.rows` rows -> state, metrics (name -> `float32[]`), to be compiled.
    """
    layout = plan.micro_layout
    # With a single update the old policy is the new one: its scores are those of the same forward.
    fresh = plan.updates == 1 and "old" not in method.needs
    network = frozenset(method.needs & {"entropy", "score_square", "kl_ref"})
    whole_reference = "kl_ref" in method.needs

    def score_rows(
        params: Params, rows: Rollout, needs: frozenset[str] = frozenset(), reference: Params | None = None
    ) -> Scores:
        return score(
            policy,
            params,
            rows.tokens,
            rows.prompt_length,
            rows.length,
            layout,
            temperature=plan.temperature,
            needs=needs,
            reference=reference,
            chunk=plan.chunk,
        )

    def score_frozen(params: Params, rollout: Rollout, needs: frozenset[str]) -> Scores:
        """Scores of all rows without a gradient, a micro-batch at a time."""

        def part(rows: Rollout) -> Scores:
            own = constrain(_own(rows, axis_name, plan.shards))
            scores = score_rows(params, own, needs)
            if axis_name is None:
                return scores
            return jax.lax.all_gather(scores, axis_name, tiled=True)

        scores = jax.lax.map(part, _cut(rollout, plan.minibatches * plan.micro_batches))
        return jax.tree.map(lambda leaf: leaf.reshape(plan.rows, *leaf.shape[2:]), scores)

    def prepare(state: TrainState, rollout: Rollout) -> Batch:
        if fresh:
            old = Scores(jnp.asarray(rollout.behaviour_log_prob))
        else:
            old = score_frozen(state.params, rollout, network - {"kl_ref"})
        reference = None
        if "reference" in method.needs:
            reference = score_frozen(state.reference, rollout, frozenset())
        return Batch(rollout=rollout, old=old, reference=reference)

    def gradient(state: TrainState, batch: Batch, fixed: Estimate, coefficients: tuple[Array, ...]):
        """The gradient of the loss over a global minibatch, and its metrics."""
        weights = weigh(method.objective, batch.rollout, fixed)

        def part_loss(params: Params, part):
            rows, kept, (weight, penalty_weights) = part
            rows = rows._replace(rollout=constrain(rows.rollout))
            reference = state.reference if whole_reference else None
            scores = score_rows(params, rows.rollout, network, reference)
            if fresh:
                rows = rows._replace(old=jax.lax.stop_gradient(scores))
            return loss(method.objective, scores, rows, kept, weight, penalty_weights, coefficients)

        value_and_grad = jax.value_and_grad(part_loss, has_aux=True)

        def micro(part):
            (value, seen), grads = value_and_grad(state.params, _own(part, axis_name, plan.shards))
            return grads, {**seen, "loss": (value, jnp.float32(1))}

        def accumulate(carry, part):
            grads, seen = micro(part)
            summed = jax.tree.map(jnp.add, carry[0], grads)
            return (summed, measures.merge(carry[1], seen)), None

        parts = _cut((batch, fixed, weights), plan.micro_batches)
        total = micro(jax.tree.map(lambda leaf: leaf[0], parts))
        if plan.micro_batches > 1:
            total, _ = jax.lax.scan(accumulate, total, jax.tree.map(lambda leaf: leaf[1:], parts))
        grads, seen = _sum_over_devices(*total, axis_name)
        # The loss is a sum, not a mean, over micro-batches and devices.
        return grads, {**seen, "loss": (seen["loss"][0], jnp.float32(1))}

    def update(state: TrainState, grads: Params) -> tuple[TrainState, dict[str, Array]]:
        updates, moments = optimizer.update(grads, state.optimizer, state.params)
        norms = {
            "gradient_norm": optax.tree_utils.tree_norm(grads),
            "update_norm": optax.tree_utils.tree_norm(updates),
        }
        params = optax.apply_updates(state.params, updates)
        return state.replace(params=params, optimizer=moments, update=state.update + 1), norms

    def one_update(carry, index: Array):
        """One minibatch of one epoch; `index` are its rows."""
        state, everything, coefficients = carry
        batch, fixed = jax.tree.map(lambda leaf: jnp.take(leaf, index, axis=0), everything)
        grads, seen = gradient(state, batch, fixed, coefficients)
        state, norms = update(state, grads)
        return (state, everything, coefficients), (seen, norms)

    def step(state: TrainState, rollout: Rollout) -> tuple[TrainState, dict[str, Array]]:
        if rollout.tokens.shape != (plan.rows, plan.layout.length):
            raise ValueError(
                f"the rollout's tokens have the shape {rollout.tokens.shape}; the plan needs "
                f"{(plan.rows, plan.layout.length)}"
            )
        batch = prepare(state, rollout)
        coefficients = penalty_coefficients(method.objective, state.method)
        fixed, method_state = estimate(method, batch, state.method)
        if plan.updates == 1:
            grads, seen = gradient(state, batch, fixed, coefficients)
            state, norms = update(state, grads)
            seen, last = measures.reduce(seen), norms
        else:
            key = jax.random.fold_in(state.key, state.rollout)
            order = _minibatch_rows(key, plan)
            (state, _, _), (history, norms) = jax.lax.scan(one_update, (state, (batch, fixed), coefficients), order)
            seen, last = _summarise(history), jax.tree.map(jnp.mean, norms)
        reported = {**measures.reduce(measures.rollout_metrics(batch, fixed)), **seen, **last}
        method_state = method.after(method_state, reported)
        state = state.replace(method=method_state, rollout=state.rollout + 1)
        return state, reported

    return step


def _minibatch_rows(key: Array, plan: Plan) -> Array:
    """Rows of every update `int32[updates, minibatch_rows]`: whole groups, reshuffled each epoch."""
    group = plan.layout.shared
    prompts = plan.rows // group

    def epoch(index: Array) -> Array:
        order = jax.random.permutation(jax.random.fold_in(key, index), prompts)
        return (order[:, None] * group + jnp.arange(group)[None]).reshape(plan.minibatches, -1)

    rows = jax.vmap(epoch)(jnp.arange(plan.epochs))
    return rows.reshape(plan.updates, plan.minibatch_rows)


def _summarise(history: measures.Metrics) -> dict[str, Array]:
    """Metrics of all updates of a rollout: pairs are summed, largest values compared."""
    total = {
        name: tuple(jnp.sum(part) for part in x) if isinstance(x, tuple) else jnp.max(x)
        for name, x in history.items()
    }
    return measures.reduce(total)


def compile_step(step: Step, shardings: TrainState | None = None) -> Step:
    """`jax.jit` of a step, the state donated and its shardings kept.

    Args:
      step: from `make_step`.
      shardings: of the state, from `training.sharding.state_shardings`; None on one device.
    """
    if shardings is None:
        return jax.jit(step, donate_argnums=0)
    compiled = functools.partial(jax.jit, donate_argnums=0)
    return compiled(step, in_shardings=(shardings, None), out_shardings=(shardings, None))
