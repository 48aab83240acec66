"""An experiment whose rows are forked though its model is tiny and random: a letter is a boundary."""

from __future__ import annotations

from ml_collections import ConfigDict

from configs.smoke import get_config as smoke


def experiment(prompts: int = 4, group: int = 4, new_tokens: int = 6) -> ConfigDict:
    """Two letters are to be written backwards; behind every "a" a row may be forked."""
    config = smoke()
    config.model.update({"width": 16, "layers": 1, "heads": 2, "kv_heads": 1, "head_dim": 8, "mlp_width": 16})
    config.tools.boundaries = ("a",)
    config.sampling.new_tokens = new_tokens
    config.schedule.prompts, config.schedule.group = prompts, group
    config.output.kl = False
    config.method.name = "gpg"
    config.method.unit_count = 1
    return config
