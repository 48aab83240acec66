"""The values that flow through the library, and the legend of their axes.

    P   prompts of a rollout
    G   rows of a group: completions of one prompt
    B   rows, B = P * G
    L   tokens of a row, prompt and response together
    K   units of a row (tokens, macro-actions, or the whole output)
    V   vocabulary
    D   width of the hidden states

Rows are gap-free and right-padded, so that a token's position is its index. `x[b, t]` describes
token `t` given the tokens before it; entry 0 describes nothing and is masked. Everything is
`float32` but ids (`int32`) and masks (`bool`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import struct

Array = jax.Array | np.ndarray
Params = Any
"""A nested dict of arrays."""
State = Any
"""A pytree that belongs to a method: a running baseline, an adaptive coefficient."""

STOP_EOS = 0
"""Stop reason: the policy ended the row, by a stop token or a stop string."""
STOP_LENGTH = 1
"""Stop reason: the budget of new tokens was spent."""
STOP_TOOL_LIMIT = 2
"""Stop reason: the budget of tool calls or of tool output was spent."""


@struct.dataclass
class Rollout:
    """What the policy did and what came of it; a row is one completion of one prompt.

    Attributes:
      tokens: `int32[B, L]`, prompt, response, padding.
      action_mask: `bool[B, L]`, true where the policy chose the token, its end-of-sequence token
        included; false on prompt, tool result and padding.
      prompt_length: `int32[B]`, tokens of the prompt.
      length: `int32[B]`, tokens of the row, prompt included.
      behaviour_log_prob: `float32[B, L]`, log-probability of each chosen token under the
        distribution that it was really sampled from (temperature and truncation applied); 0 where
        the policy did not act.
      group: `int32[B]`, rows with the same number answer the same prompt; in 0 .. B-1.
      parent: `int32[B]`, the row that this one was forked from, itself for the root of a tree.
      fork: `int32[B]`, first position that is this row's own (its prompt length for a root).
      leaf_weight: `float32[B]`, weight of the row as a sample of the policy; 1 without forks.
      stop: `int32[B]`, one of the `STOP_*` reasons.
      version: `int32[B]`, updates before the sampling parameters by the run's schedule; those that a method
        stopped short of are counted, so that it names a moment and not a number of steps taken.
      outcome: `float32[B]`, what the verifier said, before any shaping.
      reward: `float32[B]`, the scalar reward that is earned at the last action.
    """

    tokens: Array
    action_mask: Array
    prompt_length: Array
    length: Array
    behaviour_log_prob: Array
    group: Array
    parent: Array
    fork: Array
    leaf_weight: Array
    stop: Array
    version: Array
    outcome: Array
    reward: Array


class Scores(NamedTuple):
    """What the networks say of every token, at the sampling temperature; None where unneeded.

    Attributes:
      log_prob: `[B, L]`, log-probability of the token over the full vocabulary.
      entropy: `[B, L]`, entropy over the full vocabulary, in nats, whatever truncation the token was drawn
        under.
      value: `[B, L]`, value of the state before the token.
      bootstrap: `[B]`, value of the state after the last token.
      kl_old: `[B, L]`, KL(old || new) over the vocabulary, in nats.
      kl_ref: `[B, L]`, KL(new || reference) over the vocabulary, in nats.
      score_square: `[B, L]`, squared norm of the score with respect to the logits,
        ``||onehot - p||^2 = (1 - p_token)^2 + sum_{v != token} p_v^2``.
    """

    log_prob: Array
    entropy: Array | None = None
    value: Array | None = None
    bootstrap: Array | None = None
    kl_old: Array | None = None
    kl_ref: Array | None = None
    score_square: Array | None = None


class Batch(NamedTuple):
    """A rollout with what the frozen networks say of it; nothing here depends on the parameters.

    Attributes:
      rollout: the rows.
      old: scores by the trainer's own parameters before the first update on this rollout.
      reference: scores by the reference policy, or None.
    """

    rollout: Rollout
    old: Scores
    reference: Scores | None = None


class Estimate(NamedTuple):
    """What is estimated once a rollout and held fixed through its updates.

    Attributes:
      unit_ids: `int32[B, L]`, which unit of the row the token belongs to, -1 where the policy did
        not act.
      advantage: `[B, L]`, advantage of the token's choice.
      correction: `[B, L]`, weight from the sampler to the trainer.
      keep: `bool[B]`, rows that are trained on.
      value_target: `[B, L]` or None, what the critic is fitted to.
    """

    unit_ids: Array
    advantage: Array
    correction: Array
    keep: Array
    value_target: Array | None = None


class Penalty(NamedTuple):
    """A term that is added to the loss: coefficient * sum(weights * cost).

    Attributes:
      cost: new `Scores`, `Batch`, `Estimate` -> `[B, L]`.
      weights: `Rollout`, unit ids -> `[B, L]`, free of the parameters.
      coefficient: method state -> scalar.
      held: new `Scores`, `Batch` -> `bool[B, L]`, tokens whose cost a bound holds, reported as
        `kl_clamped`; None where nothing is bounded.
      of_critic: whether it is the critic's own loss, which is no part of what a policy's own update improves.
    """

    cost: Callable[[Scores, Batch, Estimate], Array]
    weights: Callable[[Rollout, Array], Array]
    coefficient: Callable[[State], Array | float]
    held: Callable[[Scores, Batch], Array] | None = None
    of_critic: bool = False


class Objective(NamedTuple):
    """What is differentiated: six choices, each a pure function.

    Attributes:
      units: `Batch` -> unit ids `int32[B, L]`, -1 where the policy did not act.
      advantage: `Batch`, unit ids, rewards `[B, L]`, state -> advantages `[B, L]`, value targets
        `[B, L]` or None, state.
      ratio: log-ratios `[B, L]` (0 where masked), unit ids -> ratios `[B, L]`; differentiable.
      gate: ratio, advantage -> surrogate, elementwise; differentiable in the ratio.
      weights: `Rollout`, unit ids -> `[B, L]`, free of the parameters, 0 where masked, normalised
        over the rows given (the global minibatch).
      correction: log(pi_old / pi_behaviour) `[B, L]`, unit ids -> `[B, L]`, free of the parameters.
      penalties: further terms.
    """

    units: Callable[[Batch], Array]
    advantage: Callable[[Batch, Array, Array, State], tuple[Array, Array | None, State]]
    ratio: Callable[[Array, Array], Array]
    gate: Callable[[Array, Array], Array]
    weights: Callable[[Rollout, Array], Array]
    correction: Callable[[Array, Array], Array]
    penalties: tuple[Penalty, ...] = ()


class TrustRegion(NamedTuple):
    """The policy's update by one natural gradient step within a bound on the KL, see `training.trust_region`.

    Defaults are those of OpenAI's baselines for MuJoCo, but that they allow 1.5·δ and damp β as well.

    Attributes:
      radius: δ, largest mean KL(π_old‖π_θ), in nats an action.
      iterations: most conjugate gradient steps, a Fisher-vector product each.
      tolerance: squared residual, relative to the squared gradient, at which they end.
      damping: added to the Fisher matrix's diagonal where the direction is sought.
      shrink: what a step that is refused is multiplied by, in (0, 1).
      attempts: lengths that are tried before the policy stays as it is.
    """

    radius: float = 0.01
    iterations: int = 10
    tolerance: float = 1e-10
    damping: float = 0.1
    shrink: float = 0.5
    attempts: int = 10


class Conservative(NamedTuple):
    """The policy's update π ← (1 − α)·π + α·π′ of a mixture, see `training.conservative`.

    Attributes:
      step: how α is chosen: "horizon" and "discounted" take the α* of highest bound, that of responses of so
        many actions or of a discounted task; "fixed" takes `alpha` wherever π′ is better.
      alpha: α of "fixed", in (0, 1].
      discount: γ of "discounted", in [0, 1), by which the objective's advantages are discounted too.
      capacity: K ≥ 2, most policies that are mixed.
      held_out: share of a rollout's prompts, in (0, 1), on which π′ is measured and not trained.
    """

    step: str = "horizon"
    alpha: float = 1.0
    discount: float = 1.0
    capacity: int = 4
    held_out: float = 0.5


class Method(NamedTuple):
    """What one iteration of a method does.

    Attributes:
      objective: what is differentiated.
      shape: `Batch`, state -> rewards `[B, L]`: where the scalar reward goes, and what is added to
        it (KL to the reference, overlong shaping).
      keep: `Rollout` -> `bool[B]`, rows that carry signal.
      state: the method's first state.
      after: state, metrics (name -> scalar) -> state, run once a rollout.
      needs: names of the `Scores` fields beyond `log_prob` that the method reads of the new
        policy, "reference" where it reads the reference policy, "old" where it reads the old
        policy's scores before the first update, and "after" where it reads `kl_old_after`, what the
        updates have moved the policy by.
      resample: whether rows that `keep` refuses are replaced by new rollouts (dynamic sampling).
      watch: `Batch`, unit ids -> name -> `[B]`, numbers of the rows whose means, by the rows' weights as
        samples of the policy, are reported.
      halt: metrics of a minibatch before its update -> whether that update and those behind it on this
        rollout are left out; None never does.
      update: what is done to the policy instead of an optimizer's step each minibatch, or None.
      kl_in_reward: whether `shape` charges rewards by log π, so that what a row is worth is the policy's too.
    """

    objective: Objective
    shape: Callable[[Batch, State], Array]
    keep: Callable[[Rollout], Array]
    state: State = ()
    after: Callable[[State, dict[str, Array]], State] = lambda state, metrics: state
    needs: frozenset[str] = frozenset()
    resample: bool = False
    watch: Callable[[Batch, Array], dict[str, Array]] = lambda batch, unit_ids: {}
    halt: Callable[[dict[str, Array]], Array] | None = None
    update: TrustRegion | Conservative | None = None
    kl_in_reward: bool = False
