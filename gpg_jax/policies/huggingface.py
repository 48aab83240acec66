"""A folder in the layout of the Hugging Face hub: `config.json` and safetensors, in and out.

Weights of any float type become float32 masters. Only safetensors are read: a pickle can run code.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from gpg_jax.policies.architecture import Architecture
from gpg_jax.policies.huggingface_config import architecture_from_config, config_from_architecture
from gpg_jax.policies.tensor_names import assemble, check_params, disassemble
from gpg_jax.types import Params

_INDEX = "model.safetensors.index.json"
_DTYPES = {"float32": np.float32, "bfloat16": ml_dtypes.bfloat16}
_READABLE = ("F32", "BF16", "F16")
_COMPANIONS = (
    "generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
    "added_tokens.json", "vocab.json", "merges.txt", "tokenizer.model", "chat_template.jinja",
)  # fmt: skip
_TOKEN_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file; a ValueError that names the file if it is not one."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold a JSON object, not a {type(content).__name__}")
    return content


def _shards(folder: Path) -> list[Path]:
    if (folder / "model.safetensors").is_file():
        return [folder / "model.safetensors"]
    if not (folder / _INDEX).is_file():
        pickled = any(folder.glob("*.bin")) or any(folder.glob("*.pt")) or any(folder.glob("*.pth"))
        hint = "; its pickled weights are not read, because a pickle can run code: save them as safetensors"
        raise ValueError(f"{folder} has no model.safetensors and no {_INDEX}{hint if pickled else ''}")
    weight_map = read_json(folder / _INDEX).get("weight_map", {})
    shards = [folder / Path(name).name for name in sorted(set(weight_map.values()))]
    if absent := [shard.name for shard in shards if not shard.is_file()]:
        raise ValueError(f"{folder} lacks the shards {', '.join(absent)} that {_INDEX} names")
    return shards


def read_folder(folder: str | Path) -> tuple[Architecture, Params]:
    """Reads a model that is saved as `config.json` and safetensors.

    Args:
      folder: with `config.json`, and `model.safetensors` or shards with their index.

    Returns:
      The architecture, and parameters as `float32` NumPy arrays in the host's memory.

    Raises:
      ValueError: missing or foreign files, an unsupported model, tensors that do not fit it.
    """
    folder = Path(folder)
    if not (folder / "config.json").is_file():
        raise ValueError(f"{folder} has no config.json; give the folder of a Hugging Face model")
    architecture = architecture_from_config(read_json(folder / "config.json"))
    try:
        files = [safe_open(shard, framework="numpy") for shard in _shards(folder)]
        place = {name: file for file in files for name in file.keys()}  # noqa: SIM118, not a dict
        types = {name: file.get_slice(name).get_dtype() for name, file in place.items()}
    except SafetensorError as error:
        raise ValueError(f"a weight file of {folder} is damaged or no safetensors file: {error}") from error
    for name, kind in types.items():
        if kind not in _READABLE:
            raise ValueError(f"{name} of {folder} has type {kind}; {', '.join(_READABLE)} are read")
    return architecture, assemble(architecture, place, lambda name: place[name].get_tensor(name), str(folder))


def _split(tensors: Iterable[tuple[str, np.ndarray]], limit: int) -> Iterator[dict[str, np.ndarray]]:
    """Groups tensors, in order, into shards of at most `limit` bytes or a single tensor."""
    shard: dict[str, np.ndarray] = {}
    size = 0
    for name, tensor in tensors:
        if shard and size + tensor.nbytes > limit:
            yield shard
            shard, size = {}, 0
        shard[name] = tensor
        size += tensor.nbytes
    yield shard


def _write_weights(folder: Path, tensors: Iterable[tuple[str, np.ndarray]], limit: int) -> None:
    weight_map: dict[str, str] = {}
    total = 0
    names = []
    for number, shard in enumerate(_split(tensors, limit), start=1):
        names.append(f"part-{number}")
        # transformers asks who wrote the file: "pt" says that the layout is torch's.
        save_file(shard, folder / names[-1], metadata={"format": "pt"})
        weight_map |= dict.fromkeys(shard, names[-1])
        total += sum(tensor.nbytes for tensor in shard.values())
    if len(names) == 1:
        (folder / names[0]).rename(folder / "model.safetensors")
        return
    final = {name: f"model-{n:05d}-of-{len(names):05d}.safetensors" for n, name in enumerate(names, start=1)}
    for name in names:
        (folder / name).rename(folder / final[name])
    index = {
        "metadata": {"total_size": total},
        "weight_map": {tensor: final[name] for tensor, name in weight_map.items()},
    }
    (folder / _INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _copy_companions(source: Path, folder: Path, config: dict[str, Any]) -> dict[str, Any]:
    """Copies tokenizer files and returns the config with the token ids that the source names."""
    for name in _COMPANIONS:
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)
    files = [source / name for name in ("generation_config.json", "config.json")]
    known = {name: value for file in files if file.is_file() for name, value in read_json(file).items()}
    return config | {name: known[name] for name in _TOKEN_IDS if known.get(name) is not None}


def save_pretrained(
    path: str | Path,
    architecture: Architecture,
    params: Params,
    *,
    source: str | Path | None = None,
    dtype: str = "float32",
    shard_bytes: int = 5_000_000_000,
) -> Path:
    """Writes a model that transformers and `load_pretrained` read back with the same logits.

    The folder appears whole or not at all: it is written under another name and renamed.

    Args:
      path: the new folder; it must not exist, or be empty.
      architecture: the model's.
      params: its parameters, arrays that this process can read whole.
      source: folder of the model that this one was trained from; its tokenizer, chat template,
        `generation_config.json` and token ids are copied.
      dtype: of the file, "float32" or "bfloat16".
      shard_bytes: largest weight file; more weights are split over several.

    Returns:
      The path.

    Raises:
      ValueError: a folder that is not empty, a source that does not exist, an unknown type, or
        parameters that do not belong to the architecture.
    """
    path = Path(path)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise ValueError(
            f"{path} exists and is not an empty folder; nothing is overwritten: choose another path"
        )
    if source is not None and not Path(source).is_dir():
        raise ValueError(f"source={str(source)!r} is not a folder")
    if dtype not in _DTYPES:
        raise ValueError(f"dtype={dtype!r}; weights are saved as {', '.join(_DTYPES)}")
    config = config_from_architecture(architecture, dtype)
    check_params(architecture, params)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as scratch:
        # A subfolder, because the scratch folder itself is private to the user.
        folder = Path(scratch) / "model"
        folder.mkdir()
        if source is not None:
            config = _copy_companions(Path(source), folder, config)
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        tensors = disassemble(architecture, params)
        cast = ((name, tensor.astype(_DTYPES[dtype], copy=False)) for name, tensor in tensors)
        _write_weights(folder, cast, shard_bytes)
        for weights in folder.glob("*.safetensors"):
            # safetensors makes files that only their owner can read.
            shutil.copymode(folder / "config.json", weights)
        os.rename(folder, path)
    return path
