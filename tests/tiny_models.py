"""Tiny models of every supported family, and a slow decoder in NumPy that knows none of our code."""

import numpy as np

from gpg_jax.policies.architecture import Architecture, RopeScaling

SIZES = {
    "vocab_size": 61,
    "width": 32,
    "layers": 3,
    "heads": 4,
    "kv_heads": 2,
    "head_dim": 8,
    "mlp_width": 48,
}
LLAMA3 = RopeScaling(factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_length=16)
ARCHITECTURES = {
    "llama": Architecture(**SIZES, rope_theta=1e5, tied=True),
    "llama3": Architecture(**SIZES, rope_theta=5e3, rope_scaling=LLAMA3, tied=False, max_length=128),
    "qwen2": Architecture(**SIZES, attention_bias=True, norm_eps=1e-6),
    "qwen3": Architecture(**(SIZES | {"head_dim": 16}), query_key_norm=True, rope_theta=1e6),
}
# A config.json of transformers, and Llama 3's scaling as it is written there.
BASE = {
    "model_type": "llama", "vocab_size": 61, "hidden_size": 32, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 48,
    "max_position_embeddings": 128,
}  # fmt: skip
SCALING = {
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}


def numpy_frequencies(config):
    """θ^(−2i/hd); Llama 3 divides by `factor` where the wavelength 2π/f is long, blending in between."""
    frequencies = []
    for i in range(0, config["head_dim"], 2):
        f = config["rope_theta"] ** (-i / config["head_dim"])
        if config["rope_scaling"]:
            s = config["rope_scaling"]
            wavelength, length = 2 * np.pi / f, s["original_max_position_embeddings"]
            low, high = length / s["low_freq_factor"], length / s["high_freq_factor"]
            smooth = (length / wavelength - s["low_freq_factor"]) / (
                s["high_freq_factor"] - s["low_freq_factor"]
            )
            if wavelength > low:
                f = f / s["factor"]
            elif wavelength >= high:
                f = (1 - smooth) * f / s["factor"] + smooth * f
        frequencies.append(f)
    return np.array(frequencies)


def numpy_logits(config, tensors, tokens):
    """One row, in float64, straight from config.json and the tensors of the file, head by head."""
    weights = {name: tensor.astype(np.float64) for name, tensor in tensors.items()}
    length, size, eps = len(tokens), config["head_dim"], config["rms_norm_eps"]
    angle = np.outer(np.arange(length), numpy_frequencies(config))

    def norm(x, scale):
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * scale

    def turn(x):
        a, b = x[:, : size // 2], x[:, size // 2 :]
        return np.concatenate(
            [a * np.cos(angle) - b * np.sin(angle), b * np.cos(angle) + a * np.sin(angle)], -1
        )

    x = weights["model.embed_tokens.weight"][tokens]
    for layer in range(config["num_hidden_layers"]):

        def weight(name, layer=layer):
            return weights.get(f"model.layers.{layer}.{name}")

        def head(kind, n, y, weight=weight):
            rows = slice(n * size, (n + 1) * size)
            out = y @ weight(f"self_attn.{kind}_proj.weight")[rows].T
            bias, scale = weight(f"self_attn.{kind}_proj.bias"), weight(f"self_attn.{kind}_norm.weight")
            out = out if bias is None else out + bias[rows]
            return out if scale is None else norm(out, scale)

        y, mixed = norm(x, weight("input_layernorm.weight")), []
        for n in range(config["num_attention_heads"]):
            shared = n * config["num_key_value_heads"] // config["num_attention_heads"]
            scores = turn(head("q", n, y)) @ turn(head("k", shared, y)).T / np.sqrt(size)
            chances = np.tril(np.exp(scores))
            mixed.append(chances / chances.sum(-1, keepdims=True) @ head("v", shared, y))
        x = x + np.concatenate(mixed, -1) @ weight("self_attn.o_proj.weight").T
        y = norm(x, weight("post_attention_layernorm.weight"))
        gate = y @ weight("mlp.gate_proj.weight").T
        x = (
            x
            + (gate / (1 + np.exp(-gate)) * (y @ weight("mlp.up_proj.weight").T))
            @ weight("mlp.down_proj.weight").T
        )
    x = norm(x, weights["model.norm.weight"])
    return x @ weights["model.embed_tokens.weight" if config["tie_word_embeddings"] else "lm_head.weight"].T
