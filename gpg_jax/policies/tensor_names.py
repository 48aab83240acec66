"""Where each tensor of a Hugging Face model goes in the parameter tree, and back.

A torch `Linear` holds [out, in]; a matrix here is [in, out], and the layers' are stacked on axis 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np
from flax import traverse_util

from gpg_jax.policies.architecture import Architecture
from gpg_jax.types import Params

EMBEDDING = "model.embed_tokens.weight"
HEAD = "lm_head.weight"
_SHOWN = 4


class Leaf(NamedTuple):
    """An array of the parameter tree.

    Attributes:
      path: keys from the root.
      name: of the tensor; `{}` stands for the layer where the leaf is stacked.
      shape: in the tree, without the axis of layers.
      transposed: whether the tensor has the reversed shape.
    """

    path: tuple[str, ...]
    name: str
    shape: tuple[int, ...]
    transposed: bool

    @property
    def stacked(self) -> bool:
        return self.path[0] == "layers"

    @property
    def tensor_shape(self) -> tuple[int, ...]:
        return self.shape[::-1] if self.transposed else self.shape


def leaves(architecture: Architecture) -> list[Leaf]:
    """Every array of the parameter tree of an architecture."""
    width, mlp_width = architecture.width, architecture.mlp_width
    inner, outer = architecture.heads * architecture.head_dim, architecture.kv_heads * architecture.head_dim
    found = [
        Leaf(("embedding",), EMBEDDING, (architecture.vocab_size, width), False),
        Leaf(("norm",), "model.norm.weight", (width,), False),
    ]
    if not architecture.tied:
        found.append(Leaf(("head",), HEAD, (width, architecture.vocab_size), True))

    def add(path: tuple[str, ...], name: str, *shape: int) -> None:
        found.append(Leaf(("layers", *path), f"model.layers.{{}}.{name}", shape, len(shape) == 2))

    add(("attention_norm",), "input_layernorm.weight", width)
    for ours, theirs, size in (
        ("query", "q_proj", inner),
        ("key", "k_proj", outer),
        ("value", "v_proj", outer),
    ):
        add(("attention", ours), f"self_attn.{theirs}.weight", width, size)
        if architecture.attention_bias:
            add(("attention", f"{ours}_bias"), f"self_attn.{theirs}.bias", size)
    add(("attention", "output"), "self_attn.o_proj.weight", inner, width)
    if architecture.query_key_norm:
        add(("attention", "query_norm"), "self_attn.q_norm.weight", architecture.head_dim)
        add(("attention", "key_norm"), "self_attn.k_norm.weight", architecture.head_dim)
    add(("mlp_norm",), "post_attention_layernorm.weight", width)
    add(("mlp", "gate"), "mlp.gate_proj.weight", width, mlp_width)
    add(("mlp", "up"), "mlp.up_proj.weight", width, mlp_width)
    add(("mlp", "down"), "mlp.down_proj.weight", mlp_width, width)
    return found


def _list(names: Iterable[str]) -> str:
    names = sorted(names)
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _names(leaf: Leaf, architecture: Architecture) -> list[str]:
    return [leaf.name.format(layer) for layer in range(architecture.layers)] if leaf.stacked else [leaf.name]


def _check_names(architecture: Architecture, names: set[str], source: str) -> None:
    expected = {name for leaf in leaves(architecture) for name in _names(leaf, architecture)}
    # Old Llama files hold the rotary frequencies, which the configuration determines.
    surplus = {name for name in names - expected if not name.endswith("rotary_emb.inv_freq")}
    if architecture.tied:
        surplus.discard(HEAD)
    if missing := expected - names:
        raise ValueError(
            f"{source} lacks {len(missing)} tensors that its configuration asks for: {_list(missing)}"
        )
    if surplus:
        raise ValueError(
            f"{source} holds {len(surplus)} tensors that its configuration has no place for: {_list(surplus)}"
        )


def assemble(
    architecture: Architecture, names: Iterable[str], read: Callable[[str], np.ndarray], source: str
) -> Params:
    """Builds the parameter tree, one tensor in memory at a time.

    Args:
      architecture: whose tree it is.
      names: of all tensors there are, as Hugging Face calls them.
      read: name -> float array as torch lays it out.
      source: what the tensors come from, for error messages.

    Returns:
      A nested dict of `float32` NumPy arrays.

    Raises:
      ValueError: missing or surplus tensors, a wrong shape, or a tied head that is not the embedding.
    """
    names = set(names)
    _check_names(architecture, names, source)
    tree = {}
    for leaf in leaves(architecture):
        lead = (architecture.layers,) if leaf.stacked else ()
        tree[leaf.path] = np.empty(lead + leaf.shape, np.float32)
        slots = tree[leaf.path] if leaf.stacked else tree[leaf.path][None]
        for slot, name in zip(slots, _names(leaf, architecture), strict=True):
            tensor = read(name)
            if tensor.shape != leaf.tensor_shape:
                raise ValueError(
                    f"{name} of {source} has shape {tensor.shape}; "
                    f"its configuration asks for {leaf.tensor_shape}"
                )
            slot[...] = tensor.T if leaf.transposed else tensor
    if architecture.tied and HEAD in names and not np.array_equal(read(HEAD), tree["embedding",]):
        raise ValueError(
            f"{source} has a {HEAD} that differs from {EMBEDDING}, but its configuration ties them; "
            "set tie_word_embeddings to false"
        )
    return traverse_util.unflatten_dict(tree)


def check_params(architecture: Architecture, params: Params) -> None:
    """Raises a ValueError unless the parameters are those of the architecture."""
    shapes = {path: tuple(leaf.shape) for path, leaf in traverse_util.flatten_dict(params).items()}
    expected = {
        leaf.path: ((architecture.layers,) if leaf.stacked else ()) + leaf.shape
        for leaf in leaves(architecture)
    }
    if missing := expected.keys() - shapes.keys():
        raise ValueError(f"the parameters lack {_list('/'.join(path) for path in missing)}")
    if surplus := shapes.keys() - expected.keys():
        raise ValueError(
            f"the parameters hold {_list('/'.join(path) for path in surplus)}, "
            "which the architecture does not have"
        )
    for path, shape in expected.items():
        if shapes[path] != shape:
            raise ValueError(
                f"parameter {'/'.join(path)} has shape {shapes[path]}; the architecture asks for {shape}"
            )


def disassemble(architecture: Architecture, params: Params) -> Iterator[tuple[str, np.ndarray]]:
    """The tensors of a parameter tree as Hugging Face names them and torch lays them out.

    Args:
      architecture: whose tree it is.
      params: arrays that this process can read whole.

    Yields:
      Name and C-contiguous array, one at a time; a stacked leaf is fetched once.
    """
    flat = traverse_util.flatten_dict(params)
    for leaf in leaves(architecture):
        array = np.asarray(flat[leaf.path])
        for name, tensor in zip(
            _names(leaf, architecture), array if leaf.stacked else array[None], strict=True
        ):
            yield name, np.ascontiguousarray(tensor.T if leaf.transposed else tensor)
