"""Scores of whole rows, a group's prompt read once.

A row is read in two calls. The prompts, all but their last token, are read once for their group;
then every row's *tail*, the last token of the prompt and the response, with the prompt as context.
Each tail token predicts the next one, so the head sees response tokens alone. A critic looks at the row's
last token as well: what it is worth to have said all.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from gpg_jax.policies.critic import Critic, value
from gpg_jax.policies.head import Frozen, score_hidden
from gpg_jax.policies.policy import Context, Policy
from gpg_jax.types import Array, Params, Scores


@dataclasses.dataclass(frozen=True)
class Layout:
    """How rows of `prompt_slots + new_slots` tokens are laid out.

    Attributes:
      prompt_slots: longest prompt in tokens.
      new_slots: most tokens after the prompt.
      shared: neighbouring rows that have the same prompt; G where groups are contiguous.
    """

    prompt_slots: int
    new_slots: int
    shared: int

    @property
    def length(self) -> int:
        """L, tokens of a row."""
        return self.prompt_slots + self.new_slots


def check_rows(tokens: Array, layout: Layout) -> None:
    """Raises a ValueError for rows `[B, L]` whose shape is not the layout's."""
    rows, width = tokens.shape
    if width != layout.length or rows % layout.shared:
        raise ValueError(
            f"tokens have the shape {tokens.shape}; {layout} needs rows of {layout.length} tokens, "
            f"a multiple of {layout.shared} of them"
        )


def prompt_positions(prompt_length: Array, slots: int) -> Array:
    """`int32[P, slots]`: positions of the prompt's tokens but the last, -1 elsewhere."""
    index = jnp.arange(slots, dtype=jnp.int32)[None]
    return jnp.where(index < prompt_length[:, None] - 1, index, -1)


def _tail(tokens: Array, prompt_length: Array, length: Array, slots: int, *, last: bool):
    """Tail tokens, their positions (-1 past the row) and the tokens that they predict.

    The row's last token predicts none; it is read, in a slot more, where `last` says so.
    """
    index = prompt_length[:, None] - 1 + jnp.arange(slots + last, dtype=jnp.int32)[None]
    inside = index + (not last) < length[:, None]
    end = tokens.shape[1] - 1
    current = jnp.take_along_axis(tokens, jnp.minimum(index, end), axis=1)
    following = jnp.take_along_axis(tokens, jnp.minimum(index + 1, end), axis=1)
    return current, jnp.where(inside, index, -1), following


def tail_to_rows(values: Array, prompt_length: Array, length: int) -> Array:
    """Moves `[B, new_slots]` values of response tokens to their places in rows `[B, L]`; 0 elsewhere."""
    index = jnp.arange(length, dtype=jnp.int32)[None] - prompt_length[:, None]
    inside = (index >= 0) & (index < values.shape[1])
    moved = jnp.take_along_axis(values, jnp.clip(index, 0, values.shape[1] - 1), axis=1)
    return jnp.where(inside, moved, 0)


def tail_hidden(
    policy: Policy,
    params: Params,
    tokens: Array,
    prompt_length: Array,
    length: Array,
    layout: Layout,
    *,
    last: bool = False,
) -> tuple[Array, Array]:
    """Hidden states `[B, new_slots, D]` before each response token, and those tokens.

    With `last` there is one slot more, so that the state behind a row's last token is among them.
    """
    heads = slice(None, None, layout.shared)
    prompts = tokens[heads, : layout.prompt_slots]
    positions = prompt_positions(prompt_length[heads], layout.prompt_slots)
    _, cache = policy.hidden(params, prompts, positions, ())
    current, position, following = _tail(tokens, prompt_length, length, layout.new_slots, last=last)
    hidden, _ = policy.hidden(params, current, position, (Context(cache, positions),))
    return hidden, following


def score(
    policy: Policy,
    params: Params,
    tokens: Array,
    prompt_length: Array,
    length: Array,
    layout: Layout,
    *,
    temperature: float,
    needs: frozenset[str] = frozenset(),
    reference: Params | None = None,
    old: Params | None = None,
    critic: tuple[Critic, Params] | None = None,
    chunk: int = 0,
) -> Scores:
    """What the policy, and the critic where there is one, say of every response token of the rows.

    Args:
      policy: the network.
      params: its parameters.
      tokens: `int32[B, L]`, with `layout.shared` neighbouring rows to a prompt.
      prompt_length: `int32[B]`.
      length: `int32[B]`, prompt and response.
      layout: static shape of the rows.
      temperature: sampling temperature.
      needs: see `score_hidden`.
      reference: parameters of the reference policy, for "kl_ref".
      old: those of the policy before the updates, for "kl_old"; None where they are `params` as they stand.
      critic: gives `value` and `bootstrap`, with its parameters, or None.
      chunk: see `score_hidden`.

    Returns:
      `Scores` of shape `[B, L]`, 0 before the response; `bootstrap` `[B]`, the value behind the last token.

    Raises:
      ValueError: rows whose shape is not the layout's.
    """
    check_rows(tokens, layout)
    width = layout.length
    on_policy = critic is not None and critic[0].trunk is None
    states, target = tail_hidden(policy, params, tokens, prompt_length, length, layout, last=on_policy)
    hidden, target = states[:, : layout.new_slots], target[:, : layout.new_slots]

    def frozen(others: Params | None) -> Frozen | None:
        if others is None:
            return None
        return Frozen(others, tail_hidden(policy, others, tokens, prompt_length, length, layout)[0])

    scores = score_hidden(
        policy,
        params,
        hidden,
        target,
        temperature=temperature,
        needs=needs,
        reference=frozen(reference),
        old=frozen(old),
        chunk=chunk,
    )
    scores = jax.tree.map(lambda tail: tail_to_rows(tail, prompt_length, width), scores)
    if critic is None:
        return scores
    trunk, head = critic[0].trunk, critic[1]
    if trunk is not None:
        states, _ = tail_hidden(trunk, head["trunk"], tokens, prompt_length, length, layout, last=True)
    values = value(head, states)
    behind = jnp.take_along_axis(values, (length - prompt_length)[:, None], axis=1)[:, 0]
    return scores._replace(value=tail_to_rows(values[:, :-1], prompt_length, width), bootstrap=behind)
