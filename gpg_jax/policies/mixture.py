"""A mixture of policies as a policy: π(y | s) = Σ_k w_k π_k(y | s), drawn anew at every token.

Its hidden states are the members' side by side, its logits log π, its cache a tuple of theirs. The mixture
is one of the members' distributions at temperature 1: at another one it is π itself that is tempered,
which is no mixture of tempered members.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from gpg_jax.estimators.conservative import mixture_log_prob
from gpg_jax.policies.policy import Cache, Context, Policy
from gpg_jax.types import Array, Params


def mixture(policies: Sequence[Policy], weights: Sequence[float]) -> Policy:
    """The policy Σ_k w_k π_k, with parameters `{"members": tuple of theirs, "weights": float32[K]}`.

    Members are read one after the other, also those of weight 0. They all start from the same key: those of
    one network are copies. No gradient reaches the weights, and each counts as its share of their sum: weight
    decay, which takes from all of them alike, leaves the mixture as it is. See `mixture_weights`.

    Args:
      policies: K members of one vocabulary.
      weights: K first weights, not negative, adding up to 1.

    Returns:
      The policy; its `members` are those given.

    Raises:
      ValueError: no members, other than one weight each, weights that are none, or several vocabularies.
    """
    _check(policies, weights)
    members, splits = tuple(policies), np.cumsum(_widths(policies))[:-1]

    def init(key: Array) -> Params:
        return mixture_params([member.init(key) for member in members], weights)

    def hidden(
        params: Params, tokens: Array, positions: Array, contexts: tuple[Context, ...]
    ) -> tuple[Array, Cache]:
        states, caches = [], []
        for k, (member, own) in enumerate(zip(members, params["members"], strict=True)):
            read = tuple(Context(context.cache[k], context.position) for context in contexts)
            state, cache = member.hidden(own, tokens, positions, read)
            states.append(state)
            caches.append(cache)
        return jnp.concatenate(states, axis=-1), tuple(caches)

    def unembed(params: Params, states: Array) -> Array:
        log_probs = [
            jax.nn.log_softmax(member.unembed(own, state))
            for member, own, state in zip(
                members, params["members"], jnp.split(states, splits, axis=-1), strict=True
            )
        ]
        return mixture_log_prob(log_probs, jax.lax.stop_gradient(mixture_weights(params)))

    def init_cache(rows: int, slots: int) -> Cache:
        return tuple(member.init_cache(rows, slots) for member in members)

    def for_decoding(params: Params) -> Params:
        own = zip(members, params["members"], strict=True)
        return {**params, "members": tuple(member.for_decoding(params) for member, params in own)}

    return Policy(init, hidden, unembed, init_cache, for_decoding, members[0].vocab_size, members)


def mixture_params(members: Sequence[Params], weights: Sequence[float]) -> Params:
    """Parameters of a mixture.

    Args:
      members: parameters of each.
      weights: of each.
    """
    return {"members": tuple(members), "weights": np.asarray(weights, np.float32)}


def mixture_weights(params: Params) -> Array:
    """w_k / Σ_j w_j `float32[K]`, which add up to 1 whatever an optimizer has taken from all of them alike.

    Args:
      params: of a mixture.
    """
    weights = jnp.asarray(params["weights"])
    return weights / jnp.sum(weights)


def _check(policies: Sequence[Policy], weights: Sequence[float]) -> None:
    if not policies or len(weights) != len(policies):
        raise ValueError(
            f"a mixture needs one weight for each policy, got {len(policies)} and {len(weights)} weights"
        )
    if min(weights) < 0 or abs(sum(weights) - 1) > 1e-6:
        raise ValueError(f"a mixture's weights must not be negative and add up to 1, got {tuple(weights)}")
    if len(sizes := {policy.vocab_size for policy in policies}) > 1:
        raise ValueError(f"a mixture's members must share one vocabulary, got {sorted(sizes)} tokens")


def _widths(policies: Sequence[Policy]) -> list[int]:
    """D of each member's hidden states; a network that is there several times is asked once."""
    known: list[tuple[Policy, int]] = []
    for policy in policies:
        if not any(policy is one for one, _ in known):
            known.append((policy, _width(policy)))
    return [next(width for one, width in known if one is policy) for policy in policies]


def _width(policy: Policy) -> int:
    token = jax.ShapeDtypeStruct((1, 1), jnp.int32)
    key = jax.eval_shape(lambda: jax.random.key(0))
    hidden = jax.eval_shape(lambda key, x: policy.hidden(policy.init(key), x, x, ())[0], key, token)
    return hidden.shape[-1]
