"""Reads models in GGUF, llama.cpp's format: one file of weights, often quantised, and metadata.

Weights are dequantised to float32. llama.cpp interleaves the halves of every query and key head,
because it rotates neighbouring pairs; that is undone here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGUFReader, dequantize

from gpg_jax.policies.architecture import Architecture
from gpg_jax.policies.tensor_names import assemble
from gpg_jax.types import Params

_TOP = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_IN_BLOCK = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def open_gguf(path: str | Path) -> GGUFReader:
    """Opens a GGUF file; a ValueError if it is none."""
    if not Path(path).is_file():
        raise ValueError(f"there is no file {path}")
    try:
        return GGUFReader(str(path))
    except (ValueError, IndexError, OverflowError, MemoryError) as error:
        raise ValueError(f"{path} is damaged or no GGUF file: {error}") from error


def fields(reader: GGUFReader) -> dict[str, Any]:
    """The metadata of a GGUF file as Python values."""
    return {name: field.contents() for name, field in reader.fields.items()}


def _short(value: float) -> float:
    """The shortest decimal that stands for a float32: 9.999999747e-06 was written as 1e-05."""
    return float(str(np.float32(value)))


def architecture_from_fields(metadata: dict[str, Any], *, tied: bool, vocab_size: int) -> Architecture:
    """The architecture that the metadata of a GGUF file describes.

    Args:
      metadata: from `fields`.
      tied: whether the file has no head of its own.
      vocab_size: rows of its embedding.

    Returns:
      The `Architecture`.

    Raises:
      ValueError: another architecture than llama, scaled rotary positions, or missing fields.
    """
    kind = metadata.get("general.architecture")
    if kind != "llama":
        raise ValueError(f"the GGUF file has architecture {kind!r}; only 'llama' is supported")

    def get(name: str, default: Any = None) -> Any:
        value = metadata.get(f"llama.{name}", default)
        if value is None:
            raise ValueError(f"the GGUF file does not say llama.{name}")
        return value

    width, heads = get("embedding_length"), get("attention.head_count")
    head_dim = get("attention.key_length", width // heads)
    rotated, experts = get("rope.dimension_count", head_dim), get("expert_count", 0)
    scaling = get("rope.scaling.type", "none")
    if scaling != "none" or rotated != head_dim or experts:
        raise ValueError(
            f"the GGUF file asks for rotary positions of {rotated} in {head_dim} dimensions with scaling "
            f"{scaling!r} and {experts} experts; supported are the whole head, no scaling and no experts"
        )
    return Architecture(
        vocab_size=vocab_size,
        width=width,
        layers=get("block_count"),
        heads=heads,
        kv_heads=get("attention.head_count_kv", heads),
        head_dim=head_dim,
        mlp_width=get("feed_forward_length"),
        max_length=get("context_length"),
        rope_theta=_short(get("rope.freq_base", 10_000.0)),
        norm_eps=_short(get("attention.layer_norm_rms_epsilon")),
        tied=tied,
    )


def _hugging_face_name(name: str) -> str:
    """`blk.3.attn_q.weight` -> `model.layers.3.self_attn.q_proj.weight`; unknown names stay."""
    parts = name.split(".")
    if parts[0] == "blk" and len(parts) == 4 and parts[2] in _IN_BLOCK:
        return f"model.layers.{parts[1]}.{_IN_BLOCK[parts[2]]}.{parts[3]}"
    return ".".join([_TOP.get(parts[0], parts[0]), *parts[1:]])


def _halves_apart(matrix: np.ndarray, heads: int) -> np.ndarray:
    """Rows (x0, y0, x1, y1, …) of every head back to (x0, x1, …, y0, y1, …)."""
    pairs = matrix.reshape(heads, -1, 2, matrix.shape[1])
    return pairs.swapaxes(1, 2).reshape(matrix.shape)


def read_gguf(path: str | Path) -> tuple[Architecture, Params]:
    """Reads a model of the llama architecture from a GGUF file.

    Args:
      path: the file.

    Returns:
      The architecture, and dequantised parameters as `float32` NumPy arrays.

    Raises:
      ValueError: a file that is no GGUF, an unsupported model or quantisation.
    """
    reader = open_gguf(path)
    tensors = {_hugging_face_name(tensor.name): tensor for tensor in reader.tensors}
    if "model.embed_tokens.weight" not in tensors:
        raise ValueError(f"{path} has no token_embd.weight")
    rows = int(tensors["model.embed_tokens.weight"].shape[1])
    architecture = architecture_from_fields(
        fields(reader), tied="lm_head.weight" not in tensors, vocab_size=rows
    )

    def read(name: str) -> np.ndarray:
        tensor = tensors[name]
        try:
            values = dequantize(tensor.data, tensor.tensor_type).astype(np.float32, copy=False)
        except NotImplementedError as error:
            raise ValueError(
                f"{tensor.name} of {path} is quantised as {tensor.tensor_type.name}: {error}"
            ) from error
        values = values.reshape(tuple(int(size) for size in reversed(tensor.shape)))
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            heads = architecture.heads if "q_proj" in name else architecture.kv_heads
            values = _halves_apart(values, heads)
        return values

    return architecture, assemble(architecture, tensors, read, str(path))
