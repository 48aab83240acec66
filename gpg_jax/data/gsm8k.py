"""GSM8K (Cobbe et al. 2021, arXiv 2110.14168) by tensorflow-datasets' own builder, without TensorFlow."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, overload

from gpg_jax.data.examples import Example
from gpg_jax.data.files import read_jsonl

FILES: Mapping[str, str] = {"train": "train.jsonl", "test": "test.jsonl"}
INSTRUCTION = 'Let\'s think step by step and output the final answer after "####".'
"""What is asked of the model after each question."""


class Gsm8kSource(Sequence[Example]):
    """Examples of a prepared split, read when they are asked for."""

    def __init__(self, records: Any):
        self._records = records

    def __len__(self) -> int:
        return len(self._records)

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> list[Example]: ...
    def __getitem__(self, index: int | slice) -> Example | list[Example]:
        places = range(len(self))[index]
        if isinstance(places, range):
            return [self[place] for place in places]
        record = self._records[places]
        question, answer = (_text(record[name]) for name in ("question", "answer"))
        prompt = ({"role": "user", "content": f"{question} {INSTRUCTION}"},)
        return Example(prompt, answer, {"question": question})


def gsm8k(split: str, *, data_dir: str | Path, source_dir: str | Path | None = None) -> Gsm8kSource:
    """GSM8K as prepared by tensorflow-datasets.

    Args:
      split: "train" (7,473 problems) or "test" (1,319), or a slice such as "train[:10%]".
      data_dir: where the prepared records are kept.
      source_dir: a folder with `train.jsonl` and `test.jsonl`; None downloads them.

    Raises:
      ValueError: a folder without those files, a row that is no problem of GSM8K, or an unknown split.
    """
    from tensorflow_datasets.text.gsm8k import Gsm8k

    builder, folder = Gsm8k, Path(data_dir)
    if source_dir is not None:
        builder, digest = _local_builder(Gsm8k, Path(source_dir)), _digest(Path(source_dir))
        folder = folder / digest  # other files are another preparation
    prepared = builder(data_dir=str(folder), file_format="array_record")
    prepared.download_and_prepare()
    return Gsm8kSource(prepared.as_data_source(split=split))


def _local_builder(builder: type, folder: Path) -> type:
    """The builder's schema and parsing, over files that are here already."""
    for name in FILES.values():
        if not (folder / name).is_file():
            raise ValueError(f"{folder} has no {name}; GSM8K is {' and '.join(FILES.values())} there")
        _check(folder / name)

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        del dl_manager
        return {split: self._generate_examples(folder / name) for split, name in FILES.items()}

    from tensorflow_datasets.core import registered

    members = {"_split_generators": _split_generators, "__module__": builder.__module__}
    with registered.skip_registration():
        return type("Gsm8kFiles", (builder,), members)


def _check(path: Path) -> None:
    for problem in read_jsonl(path):
        if problem.metadata or problem.answer.count("#### ") != 1:
            raise ValueError(
                f'{path}: the problem {problem.prompt!r} must be a question and an answer with one "#### ", '
                f"got the answer {problem.answer!r} and the fields {sorted(problem.metadata)}"
            )


def _digest(folder: Path) -> str:
    whole = hashlib.sha256()
    for name in FILES.values():
        whole.update((folder / name).read_bytes())
    return whole.hexdigest()[:16]


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value
