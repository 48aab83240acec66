"""The preferences of a run: from files, or made of a task's examples; some are held out."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from experiments.functions import FUNCTIONS
from experiments.reward_model.experiment import PreferencesConfig, RewardModelExperiment
from experiments.tasks import Asker, examples_of
from gpg_jax.data.corruptions import draw_preferences
from gpg_jax.data.examples import Example
from gpg_jax.data.loader import Loader, loader
from gpg_jax.data.preference_pairs import PairTokens, Preference, Preferences, fits, read_preferences
from gpg_jax.data.tokenizers import Tokenizer


class PreferenceData(NamedTuple):
    """What a reward model learns from.

    Attributes:
      batches: pairs of an update, without end.
      train: all of them.
      held_out: pairs that are never trained on.
      encode: a preference -> its tokens.
      summary: how many there are, and how many were left out, and why.
    """

    batches: Loader[Preference]
    train: Sequence[Preference]
    held_out: Sequence[Preference]
    encode: Callable[[Preference], PairTokens]
    summary: str


def load_preferences(config: RewardModelExperiment, tokenizer: Tokenizer, ask: Asker) -> PreferenceData:
    """Reads or makes preferences, and checks that they are within the budgets.

    Raises:
      ValueError: whatever is wrong with them, in a sentence.
    """
    wanted, budget = config.preferences, config.task.prompt_tokens

    def encode(pair: Preference) -> PairTokens:
        chosen, rejected = (_response(tokenizer, text, wanted.end) for text in (pair.chosen, pair.rejected))
        return PairTokens(ask(pair.prompt), chosen, rejected, pair.margin)

    if wanted.train is None:
        train, held_out = _made(config, tokenizer, ask)
        summary = f"{len(train):,} made of {config.task.name}"
    else:
        read = {path: _read(path, wanted, encode, budget) for path in (wanted.train, wanted.held_out) if path}
        train, held_out = read[wanted.train].rows, []
        if wanted.held_out is not None:
            held_out = read[wanted.held_out].rows
        summary = f"{len(train):,} of {wanted.train}"
        if left := sum(part.equal for part in read.values()):
            summary += f", {left:,} left out as unfit"
    if wanted.held_out is None and not held_out:
        train, held_out = hold_out(train, wanted.held_out_pairs, config.task.seed)
        summary = f"{summary}, {len(held_out):,} of them held out"
    else:
        summary = f"{summary}, and {len(held_out):,} held out"
    batches = loader(train, batch_size=config.schedule.pairs, seed=config.seed, words=words)
    return PreferenceData(batches, train, held_out, encode, summary)


def hold_out(
    pairs: Sequence[Preference], count: int, seed: int
) -> tuple[Sequence[Preference], Sequence[Preference]]:
    """Training set and held-out set without a prompt in common.

    Args:
      pairs: all of them.
      count: held out at least; 0 for none.
      seed: of the choice of prompts.

    Raises:
      ValueError: no pairs are left to train on.
    """
    own: dict[str, list[Preference]] = {}
    for pair in pairs:
        own.setdefault(prompt_key(pair), []).append(pair)
    prompts = list(own)
    random.Random(seed).shuffle(prompts)
    taken: set[str] = set()
    held = 0
    for prompt in prompts:
        if held >= count:
            break
        taken.add(prompt)
        held += len(own[prompt])
    if held == len(pairs):
        raise ValueError(
            f"preferences.held_out_pairs is {count}, and all pairs of a prompt are held out together: of "
            f"{len(pairs)} pairs of {len(own)} prompts none would be left to train on"
        )
    kept = [pair for pair in pairs if prompt_key(pair) not in taken]
    return kept, [pair for pair in pairs if prompt_key(pair) in taken]


def prompt_key(pair: Preference) -> str:
    """What two pairs have in common that answer the same prompt."""
    return json.dumps(pair.prompt)


def words(pair: Preference) -> Any:
    """What a preference says, for JSON."""
    return [pair.prompt, pair.chosen, pair.rejected, pair.margin]


def _made(
    config: RewardModelExperiment, tokenizer: Tokenizer, ask: Asker
) -> tuple[Sequence[Preference], Sequence[Preference]]:
    task, wanted, seed = config.task, config.preferences, config.task.seed
    train, held_out = examples_of(task, lambda example: ask(example.prompt))
    symbols = _answers_symbols(train) if config.model.name else _policys_symbols(tokenizer)

    def judge(text: str, example: Example) -> float:
        # As a policy's response is judged: special tokens in it are not read.
        return FUNCTIONS[task.verifier](tokenizer.decode(tokenizer.encode(text)), example)

    def draw(examples: Sequence[Example], pairs: int, seed: int) -> list[Preference]:
        longest = wanted.response_tokens - 1
        return draw_preferences(examples, judge, symbols, pairs=pairs, longest=longest, seed=seed)

    if held_out and wanted.held_out_pairs:
        return draw(train, wanted.pairs, 2 * seed), draw(held_out, wanted.held_out_pairs, 2 * seed + 1)
    return draw(train, wanted.pairs + wanted.held_out_pairs, 2 * seed), []


def _policys_symbols(tokenizer: Tokenizer) -> list[str]:
    """Every token that a policy from scratch may write, but what ends a response."""
    ids = set(range(tokenizer.vocab_size)) - set(tokenizer.eos_ids)
    return [tokenizer.decode_all([token]) for token in sorted(ids)]


def _answers_symbols(examples: Sequence[Example]) -> list[str]:
    """The characters that answers are written in."""
    return sorted({symbol for example in examples for symbol in example.answer})


def _read(
    path: str, wanted: PreferencesConfig, encode: Callable[[Preference], PairTokens], budget: int
) -> Preferences:
    """The preferences of a file that are within the budgets, and how many of it are not fit."""
    read = read_preferences(path, drop_equal=wanted.drop_unfit)
    rows = [pair for pair in read.rows if fits(encode(pair), budget, wanted.response_tokens)]
    long = len(read.rows) - len(rows)
    if long and not (wanted.drop_unfit and rows):
        raise ValueError(
            f"{long} of the {len(read.rows)} preferences of {path} are longer than task.prompt_tokens="
            f"{budget} or preferences.response_tokens={wanted.response_tokens}: raise them, or leave those "
            "out with preferences.drop_unfit"
        )
    return Preferences(rows, read.equal + long)


def _response(tokenizer: Tokenizer, text: str, end: str | None) -> list[int]:
    """The tokens of a response as a policy writes it, with what ends it."""
    return [*tokenizer.encode(text), tokenizer.eos_ids[0]] if end is None else tokenizer.encode(text + end)
