"""Between config.json and `Architecture`: both styles, what silence means, and what is refused."""

import pytest
from tiny_models import ARCHITECTURES, BASE, SCALING, SIZES

from gpg_jax.policies.architecture import Architecture
from gpg_jax.policies.huggingface_config import architecture_from_config, config_from_architecture


@pytest.mark.parametrize("family", ARCHITECTURES)
def test_config_round_trip(family):
    architecture = ARCHITECTURES[family]
    assert architecture_from_config(config_from_architecture(architecture)) == architecture


@pytest.mark.parametrize(
    "rope",
    [
        {"rope_theta": 5e3, "rope_scaling": {"rope_type": "llama3", **SCALING}},
        {"rope_theta": 5e3, "rope_scaling": {"type": "llama3", **SCALING}},
        {"rope_parameters": {"rope_type": "llama3", "rope_theta": 5e3, **SCALING}},
    ],
)
def test_rotary_positions_in_both_styles(rope):
    # The three spellings of transformers 4.40, 4.45 and 5.
    architecture = architecture_from_config({**BASE, **rope, "rms_norm_eps": 1e-5})
    assert architecture == ARCHITECTURES["llama3"]


def test_silence_means_what_transformers_assumes():
    llama = architecture_from_config({key: BASE[key] for key in BASE if key != "num_key_value_heads"})
    assert (llama.kv_heads, llama.head_dim, llama.tied, llama.norm_eps, llama.rope_theta) == (
        4,
        8,
        False,
        1e-6,
        1e4,
    )
    assert architecture_from_config(BASE | {"head_dim": None, "rope_scaling": None}).head_dim == 8
    assert architecture_from_config(BASE | {"model_type": "qwen3"}).head_dim == 128


def test_an_unused_window_is_no_window():
    # Qwen2.5 ships sliding_window with use_sliding_window=false.
    qwen2 = BASE | {"model_type": "qwen2", "sliding_window": 32768, "max_window_layers": 2}
    assert architecture_from_config(qwen2 | {"use_sliding_window": False}).attention_bias
    assert architecture_from_config(
        qwen2 | {"use_sliding_window": True, "max_window_layers": 3}
    ).attention_bias
    for change in (
        {"use_sliding_window": True},
        {"layer_types": ["full_attention", "sliding_attention"] * 2},
    ):
        with pytest.raises(ValueError, match="sliding-window"):
            architecture_from_config(qwen2 | change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "gpt2"}, "model_type='gpt2'; supported are llama, qwen2, qwen3"),
        ({"hidden_act": "gelu"}, "hidden_act='gelu'; only 'silu'"),
        ({"attention_bias": True}, "attention_bias=true"),
        ({"mlp_bias": True}, "mlp_bias=true"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "'yarn'.*supported are"),
        (
            {"rope_scaling": {"rope_type": "llama3", "factor": 4.0}},
            "rope_scaling does not say low_freq_factor",
        ),
        ({"rope_parameters": {"full_attention": {"rope_type": "default"}}}, "the same in all layers"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        ({"hidden_size": None}, "does not say hidden_size"),
        ({"num_attention_heads": 5}, "does not divide hidden_size=32"),
    ],
)
def test_unsupported_configs(change, message):
    with pytest.raises(ValueError, match=message):
        architecture_from_config(BASE | change)


def test_biases_with_query_key_norms_are_no_family():
    with pytest.raises(ValueError, match="in no family"):
        config_from_architecture(Architecture(**SIZES, attention_bias=True, query_key_norm=True))
