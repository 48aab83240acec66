"""smoke"""
from experiments.config import default_config


def get_config(method: str = "grpo"):
    config = default_config()
    config.method.name = method
    return config
