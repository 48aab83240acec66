"""The preferences of a run: from files, or made of a task's examples; some are held out."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from experiments.functions import FUNCTIONS
from experiments.reward_model.experiment import RewardModelExperiment
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
    wanted = config.preferences

    def encode(pair: Preference) -> PairTokens:
        chosen, rejected = (_response(tokenizer, text, wanted.end) for text in (pair.chosen, pair.rejected))
        return PairTokens(ask(pair.prompt), chosen, rejected, pair.margin)

    def fitting(read: Preferences, source: str) -> Preferences:
        return _fitting(read, source, config, encode)

    if wanted.train is None:
        source, (train, held_out) = config.task.name, _made(config, tokenizer, ask)
    else:
        source, train = wanted.train, read_preferences(wanted.train, drop_equal=wanted.drop_unfit)
        held_out = None
        if wanted.held_out is not None:
            held_out = read_preferences(wanted.held_out, drop_equal=wanted.drop_unfit)
    own, unfit = fitting(train, source)
    if held_out is None:
        key = prompt_key if wanted.held_out_by == "prompts" else pair_key
        kept, held = hold_out(own, wanted.held_out_pairs, config.task.seed, key)
    else:
        kept, (held, more) = own, fitting(held_out, wanted.held_out or source)
        unfit += more
    summary = f"{len(kept):,} of {source}, and {len(held):,} held out"
    summary += f"; {unfit:,} left out as unfit" if unfit else ""
    batches = loader(kept, batch_size=config.schedule.pairs, seed=config.seed, words=words)
    return PreferenceData(batches, kept, held, encode, summary)


def hold_out(
    pairs: Sequence[Preference], count: int, seed: int, key: Callable[[Preference], str]
) -> tuple[Sequence[Preference], Sequence[Preference]]:
    """Training set and held-out set without a key in common.

    Args:
      pairs: all of them.
      count: held out at least; 0 for none.
      seed: of the choice of keys.
      key: what pairs have in common that are held out together.

    Raises:
      ValueError: no pairs are left to train on.
    """
    own: dict[str, list[Preference]] = {}
    for pair in pairs:
        own.setdefault(key(pair), []).append(pair)
    keys = list(own)
    random.Random(seed).shuffle(keys)
    sizes = itertools.accumulate((len(own[name]) for name in keys), initial=0)
    taken = {name for name, before in zip(keys, sizes, strict=False) if before < count}
    if len(taken) == len(own):
        raise ValueError(
            f"preferences.held_out_pairs is {count}: of {len(pairs)} pairs in {len(own)} parts, each of "
            "which is held out whole, none would be left to train on"
        )
    kept = [pair for pair in pairs if key(pair) not in taken]
    return kept, [pair for pair in pairs if key(pair) in taken]


def pair_key(pair: Preference) -> str:
    """What two pairs have in common that are the same."""
    return json.dumps(words(pair))


def prompt_key(pair: Preference) -> str:
    """What two pairs have in common that answer the same prompt."""
    return json.dumps(pair.prompt)


def words(pair: Preference) -> Any:
    """What a preference says, for JSON."""
    return [pair.prompt, pair.chosen, pair.rejected, pair.margin]


def _made(
    config: RewardModelExperiment, tokenizer: Tokenizer, ask: Asker
) -> tuple[Preferences, Preferences | None]:
    """Pairs that are made, and those of the task's held-out examples, where it has any."""
    task, wanted, seed = config.task, config.preferences, config.task.seed
    train, held_out = examples_of(task, lambda example: ask(example.prompt))
    symbols = _answers_symbols(train) if config.model.name else _policys_symbols(tokenizer)

    def judge(text: str, example: Example) -> float:
        # As a policy's response is judged: special tokens in it are not read.
        return FUNCTIONS[task.verifier](tokenizer.decode(tokenizer.encode(text)), example)

    def draw(examples: Sequence[Example], pairs: int, seed: int) -> Preferences:
        longest = wanted.response_tokens - 1
        drawn = draw_preferences(examples, judge, symbols, pairs=pairs, longest=longest, seed=seed)
        return Preferences(drawn, 0)

    if held_out and wanted.held_out_pairs:
        return draw(train, wanted.pairs, 2 * seed), draw(held_out, wanted.held_out_pairs, 2 * seed + 1)
    return draw(train, wanted.pairs + wanted.held_out_pairs, 2 * seed), None


def _policys_symbols(tokenizer: Tokenizer) -> list[str]:
    """Every token that a policy from scratch may write, but what ends a response."""
    ids = set(range(tokenizer.vocab_size)) - set(tokenizer.eos_ids)
    return [tokenizer.decode_all([token]) for token in sorted(ids)]


def _answers_symbols(examples: Sequence[Example]) -> list[str]:
    """The characters that answers are written in."""
    return sorted({symbol for example in examples for symbol in example.answer})


def _fitting(
    read: Preferences,
    source: str,
    config: RewardModelExperiment,
    encode: Callable[[Preference], PairTokens],
) -> Preferences:
    """The pairs that are within the budgets; others are an error, or counted."""
    prompt, response = config.task.prompt_tokens, config.preferences.response_tokens
    rows = [pair for pair in read.rows if fits(encode(pair), prompt, response)]
    long = len(read.rows) - len(rows)
    if long and not (config.preferences.drop_unfit and rows):
        raise ValueError(
            f"{long} of the {len(read.rows)} preferences of {source} are longer than task.prompt_tokens="
            f"{prompt} or preferences.response_tokens={response}: raise them, or leave those out with "
            "preferences.drop_unfit"
        )
    return Preferences(rows, read.left_out + long)


def _response(tokenizer: Tokenizer, text: str, end: str | None) -> list[int]:
    """The tokens of a response as a policy writes it, with what ends it."""
    return [*tokenizer.encode(text), tokenizer.eos_ids[0]] if end is None else tokenizer.encode(text + end)
