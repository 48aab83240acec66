"""The shape of a decoder-only transformer: Llama, Qwen2 and Qwen3 are values of one configuration."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True, kw_only=True)
class RopeScaling:
    """Llama 3's stretching of the rotary wavelengths (`rope_type: llama3`).

    Attributes:
      factor: how far low frequencies are slowed down.
      low_freq_factor: wavelengths above `original_length / low_freq_factor` are slowed down whole.
      high_freq_factor: wavelengths below `original_length / high_freq_factor` are left alone.
      original_length: context length in tokens before the stretching.
    """

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_length: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Architecture:
    """A pre-norm decoder with rotary positions, grouped-query attention and a SwiGLU MLP.

    Attributes:
      vocab_size: V, rows of the embedding.
      width: D, of the residual stream.
      layers: number of blocks.
      heads: query heads.
      kv_heads: key and value heads; divides `heads`.
      head_dim: width of a head.
      mlp_width: width of the MLP.
      max_length: longest row in tokens that the positions were trained for.
      rope_theta: base of the rotary wavelengths.
      rope_scaling: Llama 3's, or None.
      norm_eps: ε of RMSNorm, inside the root.
      tied: whether the head is the transposed embedding.
      attention_bias: whether queries, keys and values have a bias (Qwen2).
      query_key_norm: whether queries and keys pass an RMSNorm per head (Qwen3).

    Raises:
      ValueError: sizes that are not positive, or `kv_heads` that does not divide `heads`.
    """

    vocab_size: int
    width: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    mlp_width: int
    max_length: int = 2048
    rope_theta: float = 10_000.0
    rope_scaling: RopeScaling | None = None
    norm_eps: float = 1e-5
    tied: bool = True
    attention_bias: bool = False
    query_key_norm: bool = False

    def __post_init__(self) -> None:
        for name in (
            "vocab_size",
            "width",
            "layers",
            "heads",
            "kv_heads",
            "head_dim",
            "mlp_width",
            "max_length",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.heads % self.kv_heads:
            raise ValueError(f"kv_heads={self.kv_heads} does not divide heads={self.heads}")
        if self.head_dim % 2:
            raise ValueError(f"head_dim={self.head_dim} is odd; rotary positions rotate pairs")
