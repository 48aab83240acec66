"""A task as a run sees it: examples and a place to resume from, prompts as token ids, judgements."""

from __future__ import annotations

import datetime
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from experiments.config import Experiment, ModelConfig, TaskConfig
from experiments.functions import FUNCTIONS
from experiments.methods import nearest
from gpg_jax.data import arithmetic, calculation, files, gsm8k, hops, puzzles, reversal
from gpg_jax.data.chat import ChatTemplate, chat_tokens, load_chat_template
from gpg_jax.data.demonstrations import Turn
from gpg_jax.data.examples import Example
from gpg_jax.data.loader import Loader, loader
from gpg_jax.data.preference_pairs import Prompt
from gpg_jax.data.tokenizers import Tokenizer, character_tokenizer, load_tokenizer
from gpg_jax.decoding.rollouts import Written
from gpg_jax.environments.rewards import Judged, Reward, Scored, judge
from gpg_jax.environments.trajectory import parse
from gpg_jax.policies.pretrained import pretrained_folder
from gpg_jax.policies.smollm2 import default_cache
from gpg_jax.training.collect import Judge

Splits = tuple[Sequence[Example], Sequence[Example]]
"""Training set and held-out set; the latter may be empty."""
Asker = Callable[[Prompt], list[int]]
"""A text or chat messages -> the token ids of the prompt."""

_SLOW = {"math": 100}
"""Functions that are tried on the first so many gold answers alone."""

_GOLD_FORMS = ("{}", "#### {}", "<answer>{}</answer>", "<answer>\\boxed{{{}}}</answer>")
"""How a gold answer is offered to its own verifier: some read nothing but what is behind a mark."""


class Task(NamedTuple):
    """What a run needs of a task.

    Attributes:
      batches: the training set, P examples at a time, without end.
      held_out: examples that are never trained on.
      encode: example -> token ids of its prompt.
      judge: B responses, their B examples -> verdicts.
      tokenizer: of prompts and responses.
      demonstrate: example -> what a skilled policy writes and is answered; None where nobody knows.
    """

    batches: Loader[Example]
    held_out: Sequence[Example]
    encode: Callable[[Example], list[int]]
    judge: Judge
    tokenizer: Tokenizer
    demonstrate: Callable[[Example], Sequence[Turn]] | None


def load_task(config: Experiment) -> Task:
    """Reads examples and tokenizer, and checks that they fit each other and the budget.

    Raises:
      ValueError: whatever is wrong, in a sentence.
    """
    task = config.task
    tokenizer, ask = load_asker(config.model, task)

    def encode(example: Example) -> list[int]:
        return ask(example.prompt)

    train, held_out = examples_of(task, encode)
    asked = max(config.evaluation.examples, 0) or len(held_out)
    return Task(
        batches=loader(train, batch_size=config.schedule.prompts, seed=config.seed),
        held_out=[] if config.evaluation.examples < 0 else held_out[:asked],
        encode=encode,
        judge=judge_of(task, tokenizer),
        tokenizer=tokenizer,
        demonstrate=_demonstrator(config),
    )


def load_asker(model: ModelConfig, task: TaskConfig) -> tuple[Tokenizer, Asker]:
    """The tokenizer of a model, and what asks it.

    Raises:
      ValueError: no such task, no such model, or one without a tokenizer.
    """
    if task.name not in TASKS:
        raise ValueError(f"task.name is {task.name!r}; {nearest(task.name, TASKS)}")
    folder = None if model.name is None else pretrained_folder(model.name, model.revision)
    tokenizer = character_tokenizer(task.alphabet, task.pieces) if folder is None else load_tokenizer(folder)
    return tokenizer, _asker(task, tokenizer, folder)


def examples_of(task: TaskConfig, encode: Callable[[Example], list[int]]) -> Splits:
    """Training set and held-out set of a task, all within the budget of a prompt, their answers right.

    Raises:
      ValueError: a prompt that is too long, or an answer that its verifier does not accept.
    """
    train, held_out = (_fitting(part, encode, task) for part in TASKS[task.name](task))
    for part in (train, held_out):
        _check_gold(task.verifier, part)
    return train, held_out


def judge_of(task: TaskConfig, tokenizer: Tokenizer) -> Judge:
    """Responses, their examples -> verdicts on what the policy itself wrote."""
    verifier = FUNCTIONS[task.verifier]

    def term(name: str, weight: float, said: Written) -> Reward | Scored:
        if said.scores is not None and name in said.scores:
            return Scored(name, said.scores[name], weight)
        return Reward(name, FUNCTIONS[name], weight)

    def judge_rows(said: Written, examples: Sequence[Example]) -> Judged:
        rows = zip(said.tokens, said.acted, said.length, strict=True)
        texts = [parse(ids[:length], acted[:length], tokenizer.decode) for ids, acted, length in rows]
        terms = [term(name, weight, said) for name, weight in task.rewards.items()]
        return judge(verifier, texts, examples, terms)

    return judge_rows


def _reversal(task: TaskConfig) -> Splits:
    return reversal.reversal(task.symbols), []


def _multiplication(task: TaskConfig) -> Splits:
    return arithmetic.multiplication("train", task.seed), arithmetic.multiplication("held_out", task.seed)


def _gsm8k(task: TaskConfig) -> Splits:
    prepared = Path(task.cache or default_cache()) / "tensorflow_datasets"
    train, test = (
        gsm8k.gsm8k(split, data_dir=prepared, source_dir=task.folder) for split in ("train", "test")
    )
    return train, test


def _calculation(task: TaskConfig) -> Splits:
    """Different expressions; the last ones are held out."""
    drawn = calculation.calculations(task.examples + task.held_out_examples, task.seed)
    return drawn[: task.examples], drawn[task.examples :]


def _hops(task: TaskConfig) -> Splits:
    made = hops.world(seed=task.seed)
    return hops.questions(made, "train", task.hops), hops.questions(made, "held_out", task.hops)


def _puzzle(task: TaskConfig) -> Splits:
    """One stream of puzzles; held out are the last ones that do not occur among the first."""
    whole = puzzles.puzzles(
        task.puzzle, size=task.examples + task.held_out_examples, seed=task.seed, **task.settings
    )
    entries = [whole[index] for index in range(len(whole))]
    train, seen = entries[: task.examples], {entry.prompt for entry in entries[: task.examples]}
    return train, [entry for entry in entries[task.examples :] if entry.prompt not in seen]


def _files(task: TaskConfig) -> Splits:
    if task.train is None:
        raise ValueError(
            "task.train is not given; name a .jsonl file of questions and answers, or a .parquet file"
        )
    train = _read_file(task.train, task.drop_unanswered)
    return train, [] if task.held_out is None else _read_file(task.held_out, task.drop_unanswered)


TASKS: dict[str, Callable[[TaskConfig], Splits]] = {
    "reversal": _reversal,
    "multiplication": _multiplication,
    "gsm8k": _gsm8k,
    "puzzle": _puzzle,
    "calculation": _calculation,
    "hops": _hops,
    "files": _files,
}
"""Tasks by name."""


DEMONSTRATIONS: dict[str, Callable[[TaskConfig], Callable[[Example], Sequence[Turn]]]] = {
    "calculation": lambda task: calculation.demonstration,
    "hops": lambda task: functools.partial(
        hops.demonstration, made=hops.world(seed=task.seed), hasty=task.hasty
    ),
}
"""Tasks whose skilled policy is known -> what it writes."""


def _demonstrator(config: Experiment) -> Callable[[Example], Sequence[Turn]] | None:
    """What is demonstrated: calls and answers, or the last turn alone where the policy has no tools."""
    if config.task.name not in DEMONSTRATIONS:
        return None
    whole = DEMONSTRATIONS[config.task.name](config.task)
    return whole if config.tools.names else lambda example: whole(example)[-1:]


def _read_file(path: str, drop_unanswered: bool) -> list[Example]:
    """Examples of a `.parquet` file in verl's layout, or of JSON lines."""
    read = files.read_parquet if path.endswith(".parquet") else files.read_jsonl
    return read(path, drop_unanswered=drop_unanswered)


def _asker(task: TaskConfig, tokenizer: Tokenizer, folder: Path | None) -> Asker:
    """Texts as they are, messages (and texts, with `task.chat`) by the model's chat template."""

    @functools.cache
    def template() -> ChatTemplate:
        if folder is None:
            raise ValueError("a model from scratch has no chat template; give it plain prompts")
        return load_chat_template(folder)

    def ask(prompt: Prompt) -> list[int]:
        if isinstance(prompt, str) and not task.chat:
            return tokenizer.encode_prompt(prompt)
        messages = ({"role": "user", "content": prompt},) if isinstance(prompt, str) else prompt
        return chat_tokens(tokenizer, template(), messages, now=datetime.datetime.fromisoformat(task.date))

    return ask


def _fitting(
    examples: Sequence[Example], encode: Callable[[Example], list[int]], task: TaskConfig
) -> Sequence[Example]:
    """The examples, all within the budget of a prompt: longer ones are dropped or an error."""
    lengths = [len(encode(examples[index])) for index in range(len(examples))]
    short = [index for index, length in enumerate(lengths) if length <= task.prompt_tokens]
    if len(short) == len(lengths):
        return examples
    if not task.drop_long or not short:
        raise ValueError(
            f"{len(lengths) - len(short)} of {len(lengths)} prompts are longer than task.prompt_tokens="
            f"{task.prompt_tokens}, the longest {max(lengths)} tokens: raise it, or leave those prompts out "
            "with task.drop_long"
        )
    return [examples[index] for index in short]


def _check_gold(verifier: str, examples: Sequence[Example]) -> None:
    """Raises a ValueError for an example whose own answer, bare or behind `####`, is not accepted."""
    for number in range(min(len(examples), _SLOW.get(verifier, len(examples)))):
        example = examples[number]
        if not any(FUNCTIONS[verifier](form.format(example.answer), example) >= 1 for form in _GOLD_FORMS):
            raise ValueError(
                f"the verifier {verifier!r} does not accept the gold answer {example.answer[-80:]!r} of "
                f"example {number}: the row has no answer that it can read, or task.verifier is the wrong one"
            )
