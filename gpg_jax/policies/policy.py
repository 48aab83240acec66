"""The one seam to neural networks: a policy is four pure functions over a nested dict of arrays.

A call of `hidden` reads some tokens and what came before them. What came before is given as
*contexts*: caches whose slots carry the position of their token, so that a shared prompt, a row's
own past and a slot that is not filled yet are all one thing. A token sees the slots whose position
is smaller than its own, and the tokens of its own call up to itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from gpg_jax.types import Array, Params

Cache = Any
"""A pytree of arrays `[..., slots, features]`, a slot for every token that was read."""


class Context(NamedTuple):
    """Tokens that were read before, kept for those that follow.

    Attributes:
      cache: of N' rows and S' slots; N' divides the rows N of the call, and row n reads context row
        `n // (N / N')`: a prompt that is shared by its group is stored once.
      position: `int32[N', S']`, position of the slot's token, -1 for an empty slot.
    """

    cache: Cache
    position: Array


class Policy(NamedTuple):
    """A language model as pure functions.

    Attributes:
      init: key -> parameters, a nested dict of `float32` arrays.
      hidden: parameters, tokens `int32[N, S]`, positions `int32[N, S]` (-1 for padding), contexts ->
        hidden states `[N, S, D]`, cache entries of these tokens (N rows, S slots).
      unembed: parameters, hidden `[..., D]` -> logits `float32[..., V]`.
      init_cache: rows, slots -> an empty cache for `for_decoding` parameters.
      for_decoding: parameters -> parameters rounded to the compute type and laid out for decoding;
        `hidden` and `unembed` take both and give the same values.
      vocab_size: V.
      members: the policies that it mixes, see `policies.mixture`; () for a network of its own.
    """

    init: Callable[[Array], Params]
    hidden: Callable[[Params, Array, Array, tuple[Context, ...]], tuple[Array, Cache]]
    unembed: Callable[[Params, Array], Array]
    init_cache: Callable[[int, int], Cache]
    for_decoding: Callable[[Params], Params]
    vocab_size: int
    members: tuple[Any, ...] = ()
