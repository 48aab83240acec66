"""Between the `config.json` of Llama, Qwen2 and Qwen3 and `Architecture`.

Read as transformers reads it, in the style of its version 4 (`rope_theta`, `rope_scaling`) and of its
version 5 (`rope_parameters`); written so that both understand it. What the transformer cannot compute
is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gpg_jax.policies.architecture import Architecture, RopeScaling

# What transformers assumes where config.json is silent.
_DEFAULTS: dict[str, dict[str, Any]] = {
    "llama": {"max_position_embeddings": 2048, "num_key_value_heads": None, "head_dim": None},
    "qwen2": {"max_position_embeddings": 32768, "num_key_value_heads": 32, "head_dim": None},
    "qwen3": {"max_position_embeddings": 32768, "num_key_value_heads": 32, "head_dim": 128},
}
_COMMON: dict[str, Any] = {"rms_norm_eps": 1e-6, "hidden_act": "silu", "tie_word_embeddings": False}
_CLASSES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}


def _required(config: Mapping[str, Any], name: str, where: str = "config.json") -> Any:
    if config.get(name) is None:
        raise ValueError(f"{where} does not say {name}")
    return config[name]


def _check_supported(config: Mapping[str, Any]) -> None:
    if config["hidden_act"] != "silu":
        raise ValueError(f"config.json has hidden_act={config['hidden_act']!r}; only 'silu' is supported")
    for name in ("attention_bias", "mlp_bias"):
        if config.get(name):
            what = "of the attention's output" if name == "attention_bias" else "of the MLP"
            raise ValueError(f"config.json has {name}=true; biases {what} are not supported")
    if config.get("quantization_config"):
        raise ValueError(
            "config.json has a quantization_config; only float16, bfloat16 and float32 weights are read"
        )
    if _slides(config):
        raise ValueError("config.json asks for sliding-window attention; only full attention is supported")


def _slides(config: Mapping[str, Any]) -> bool:
    if config.get("layer_types"):
        return any(kind != "full_attention" for kind in config["layer_types"])
    windowed = config.get("use_sliding_window") and config.get("sliding_window", 4096) is not None
    return bool(windowed) and config.get("max_window_layers", 28) < config["num_hidden_layers"]


def _rope(config: Mapping[str, Any]) -> tuple[float, RopeScaling | None]:
    where = "rope_scaling" if config.get("rope_scaling") else "rope_parameters"
    rope = config.get(where) or {}
    theta = rope.get("rope_theta", config.get("rope_theta")) or 10_000.0
    kind = rope.get("rope_type", rope.get("type", "default"))
    nested = any(isinstance(value, Mapping) for value in rope.values())
    partial = rope.get("partial_rotary_factor", config.get("partial_rotary_factor"))
    if nested or partial not in (None, 1, 1.0) or kind not in ("default", "llama3"):
        raise ValueError(
            f"config.json asks for rotary positions {rope or {'partial_rotary_factor': partial}}; "
            "supported are the rope types 'default' and 'llama3' over the whole head, the same in all layers"
        )
    if kind == "default":
        return float(theta), None
    original = config.get("original_max_position_embeddings") or rope.get("original_max_position_embeddings")
    scaling = RopeScaling(
        factor=float(_required(rope, "factor", where)),
        low_freq_factor=float(_required(rope, "low_freq_factor", where)),
        high_freq_factor=float(_required(rope, "high_freq_factor", where)),
        original_length=int(original or config["max_position_embeddings"]),
    )
    return float(theta), scaling


def architecture_from_config(config: Mapping[str, Any]) -> Architecture:
    """The architecture that a Hugging Face `config.json` describes.

    Args:
      config: the parsed file.

    Returns:
      The `Architecture`.

    Raises:
      ValueError: another model type, or a feature that the transformer does not have.
    """
    family = config.get("model_type")
    if family not in _DEFAULTS:
        raise ValueError(f"config.json has model_type={family!r}; supported are {', '.join(_DEFAULTS)}")
    config = {**_COMMON, **_DEFAULTS[family], **config}
    width, heads = _required(config, "hidden_size"), _required(config, "num_attention_heads")
    layers = _required(config, "num_hidden_layers")
    _check_supported(config)
    if config["head_dim"] is None and width % heads:
        raise ValueError(
            f"config.json has num_attention_heads={heads}, which does not divide hidden_size={width}"
        )
    theta, scaling = _rope(config)
    return Architecture(
        vocab_size=_required(config, "vocab_size"),
        width=width,
        layers=layers,
        heads=heads,
        kv_heads=config["num_key_value_heads"] or heads,
        head_dim=config["head_dim"] or width // heads,
        mlp_width=_required(config, "intermediate_size"),
        max_length=config["max_position_embeddings"],
        rope_theta=theta,
        rope_scaling=scaling,
        norm_eps=float(config["rms_norm_eps"]),
        tied=bool(config["tie_word_embeddings"]),
        attention_bias=family == "qwen2",
        query_key_norm=family == "qwen3",
    )


def config_from_architecture(architecture: Architecture, dtype: str = "float32") -> dict[str, Any]:
    """The `config.json` of an architecture, for transformers 4 and 5.

    Args:
      architecture: what to describe.
      dtype: type of the saved weights.

    Returns:
      What `json.dump` takes.

    Raises:
      ValueError: an attention with both biases and query-key norms, which no supported family has.
    """
    if architecture.attention_bias and architecture.query_key_norm:
        raise ValueError(
            "an attention with biases (Qwen2) and with query-key norms (Qwen3) is in no family that "
            "transformers knows; drop attention_bias or query_key_norm"
        )
    family = "qwen2" if architecture.attention_bias else "qwen3" if architecture.query_key_norm else "llama"
    rope: dict[str, Any] = {"rope_type": "default"}
    if (scaling := architecture.rope_scaling) is not None:
        rope = {
            "rope_type": "llama3",
            "factor": scaling.factor,
            "low_freq_factor": scaling.low_freq_factor,
            "high_freq_factor": scaling.high_freq_factor,
            "original_max_position_embeddings": scaling.original_length,
        }
    biases = {} if family == "qwen2" else {"attention_bias": False}
    biases |= {"mlp_bias": False} if family == "llama" else {"use_sliding_window": False}
    return {
        "architectures": [_CLASSES[family]],
        "model_type": family,
        "vocab_size": architecture.vocab_size,
        "hidden_size": architecture.width,
        "num_hidden_layers": architecture.layers,
        "num_attention_heads": architecture.heads,
        "num_key_value_heads": architecture.kv_heads,
        "head_dim": architecture.head_dim,
        "intermediate_size": architecture.mlp_width,
        "max_position_embeddings": architecture.max_length,
        "rms_norm_eps": architecture.norm_eps,
        "tie_word_embeddings": architecture.tied,
        "hidden_act": "silu",
        **biases,
        "rope_theta": architecture.rope_theta,
        "rope_scaling": rope if scaling is not None else None,
        "rope_parameters": {**rope, "rope_theta": architecture.rope_theta},
        "torch_dtype": dtype,
    }
