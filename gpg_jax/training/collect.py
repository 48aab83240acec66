"""Prompts to a judged rollout: decode, verify, and with dynamic sampling replace groups without signal.

Dynamic sampling (DAPO, arXiv 2503.14476, section 3.2) draws further batches of prompts with the same
parameters until P groups carry signal. Groups beyond P are dropped, not kept for later: every row of a
rollout is a sample of the policy that it trains. When the last batch allowed is spent, groups that the
method refuses fill the places left; its mask takes them out of the loss, and `short` says how many.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils

from gpg_jax.data.demonstrations import lay_out
from gpg_jax.data.examples import Example
from gpg_jax.decoding.branching import LeafWeight
from gpg_jax.decoding.dialogue import Call
from gpg_jax.decoding.loop import Responses
from gpg_jax.decoding.replicas import Converse, gather
from gpg_jax.decoding.rollouts import Prompts, Written, build_rollout, pad_prompts, written
from gpg_jax.environments.rewards import Failure, Judged
from gpg_jax.training.processes import from_first, together
from gpg_jax.types import Array, Params, Rollout

Decode = Callable[[Params, Array, Array, Array, Array], Responses]
Write = Callable[[Params, Sequence[Example], Prompts, Array, Array], Callable[[], Written]]
"""Parameters, P examples, their prompts, B uids, key -> what waits for the responses, decoding meanwhile."""
Judge = Callable[[Written, Sequence[Example]], Judged]


class Collector(NamedTuple):
    """What a rollout is collected with.

    Attributes:
      draw: () -> the next P examples of the training set.
      encode: example -> token ids of its prompt.
      write: what responds, `decoded` of the compiled loop or a dialogue with tools.
      judge: B responses, their B examples -> outcomes and rewards; asked on the first process alone, see
        `judged_once`.
      keep: `Rollout` -> `bool[B]`, rows that carry signal.
      prompt_slots: budget of a prompt in tokens.
      group: G.
      generations: batches of prompts that may be tried for one rollout; 1 without dynamic sampling.
      leaf_weight: how rows that were forked count as samples.
      tally: () -> what was counted since the last time, name -> number.
    """

    draw: Callable[[], Sequence[Example]]
    encode: Callable[[Example], list[int]]
    write: Write
    judge: Judge
    keep: Callable[[Rollout], Array]
    prompt_slots: int
    group: int
    generations: int = 1
    leaf_weight: LeafWeight = "uniform"
    tally: Callable[[], dict[str, float]] = dict


class Asked(NamedTuple):
    """Prompts whose responses are on their way."""

    examples: Sequence[Example]
    prompts: Prompts
    responses: Callable[[], Written]


class Collected(NamedTuple):
    """A judged rollout.

    Attributes:
      rollout: B rows in NumPy.
      examples: P examples.
      parts: name -> `float32[B]`, terms of the reward.
      failures: row -> what a reward function did not survive.
      calls: `int32[B]`, calls of tools that were answered.
      counts: what was counted besides, name -> number.
      generations: batches of prompts that were decoded.
      offered: groups that were decoded.
      short: groups without signal that the batches allowed could not replace.
    """

    rollout: Rollout
    examples: tuple[Example, ...]
    parts: dict[str, np.ndarray]
    failures: dict[int, str]
    calls: np.ndarray
    counts: dict[str, float]
    generations: int = 1
    offered: int = 0
    short: int = 0


def ask(collector: Collector, params: Params, key: Array) -> Asked:
    """Draws prompts and starts to decode; returns before the devices are done.

    Args:
      collector: what to collect with.
      params: of the policy.
      key: of this batch of prompts.
    """
    examples = collector.draw()
    prompts = pad_prompts([collector.encode(example) for example in examples], collector.prompt_slots)
    uid = np.arange(len(examples) * collector.group, dtype=np.int32)
    return Asked(examples, prompts, collector.write(params, examples, prompts, uid, key))


def collect(
    collector: Collector, params: Params, key: Array, version: int, asked: Asked | None = None
) -> Collected:
    """One rollout.

    Args:
      collector: what to collect with.
      params: of the policy.
      key: of the rollout; batch n of prompts has the key `batch_key(key, n)`.
      version: updates before these parameters by the schedule.
      asked: the first batch, where it was started before.
    """
    batches: list[Collected] = []
    kept: list[np.ndarray] = []
    while not batches or (len(batches) < collector.generations and sum(map(np.sum, kept)) < kept[0].size):
        if asked is None:
            asked = ask(collector, params, batch_key(key, len(batches)))
        batches.append(_answer(collector, asked, version))
        kept.append(_kept_groups(collector, batches[-1].rollout))
        asked = None
    counts = collector.tally()
    if collector.generations == 1:
        return batches[0]._replace(short=int(np.sum(~kept[0])), counts=counts)
    return _choose(batches, kept, collector.group)._replace(counts=counts)


def decoded(decode: Decode) -> Write:
    """The compiled loop as what responds: it starts at once, and is waited for where it is read.

    Args:
      decode: see `decoding.sharded.compile_decode`.
    """

    def write(
        params: Params, examples: Sequence[Example], prompts: Prompts, uid: Array, key: Array
    ) -> Callable[[], Written]:
        del examples
        responses = decode(params, *prompts, uid, key)
        return lambda: written(Responses(*fetch(responses)))

    return write


def demonstrated(demonstrate: Callable[[Example], tuple[list[int], list[bool]]], slots: int) -> Write:
    """Demonstrations in the place of responses, one a prompt: for supervised fine-tuning.

    Args:
      demonstrate: example -> tokens and which of them the policy chose, `data.demonstrations`.
      slots: N, the budget of a response.
    """

    def write(
        params: Params, examples: Sequence[Example], prompts: Prompts, uid: Array, key: Array
    ) -> Callable[[], Written]:
        del params, prompts, uid, key
        return lambda: Written(**lay_out([demonstrate(example) for example in examples], slots))

    return write


def scored(write: Write, name: str, score: Callable[[Prompts, Written], np.ndarray]) -> Write:
    """What responds, with a model's word on every row; all processes take part.

    Args:
      write: what responds.
      name: of the model's scores.
      score: P prompts, B responses -> `float32[B]`.
    """

    def write_and_score(
        params: Params, examples: Sequence[Example], prompts: Prompts, uid: Array, key: Array
    ) -> Callable[[], Written]:
        responses = write(params, examples, prompts, uid, key)

        def answer() -> Written:
            said = responses()
            return said._replace(scores={**(said.scores or {}), name: score(prompts, said)})

        return answer

    return write_and_score


def batch_key(key: Array, number: int) -> Array:
    """The key of batch `number` of prompts for a rollout."""
    return jax.random.fold_in(key, number)


def fetch(tree: Any) -> Any:
    """Arrays as NumPy on every host."""
    if jax.process_count() == 1:
        return jax.device_get(tree)
    return multihost_utils.process_allgather(tree, tiled=True)


def judged_once(judge: Judge) -> Judge:
    """A judge that is called on the first process alone, and whose word goes to all.

    Each process would draw further batches of prompts, or stop, by its own verdicts: where one differs,
    as those of a service or under a time limit may, all of them would wait for each other for ever.

    Args:
      judge: of B responses and their B examples.
    """
    if jax.process_count() == 1:
        return judge
    return lambda said, owners: _unpack(from_first(lambda: _pack(judge(said, owners))))


def _pack(judged: Judged) -> bytes:
    """JSON, in which every finite float32 keeps its bits."""
    arrays = {"outcome": judged.outcome, "reward": judged.reward, "failed": judged.failed}
    record = {name: array.tolist() for name, array in arrays.items()}
    record |= {"parts": {name: array.tolist() for name, array in judged.parts.items()}}
    return json.dumps(record | {"failures": judged.failures}).encode()


def _unpack(raw: bytes) -> Judged:
    record = json.loads(raw)
    return Judged(
        outcome=np.array(record["outcome"], np.float32),
        reward=np.array(record["reward"], np.float32),
        parts={name: np.array(values, np.float32) for name, values in record["parts"].items()},
        failed=np.array(record["failed"], bool),
        failures=tuple(Failure(*failure) for failure in record["failures"]),
    )


def spoken(converse: Converse, ask: Callable[[str, Call], Future[list[int] | None]]) -> Write:
    """A dialogue with tools as what responds; it is held when it is waited for.

    Where it fails on one process, all stop: the others would wait for that one's rows for ever.

    Args:
      converse: see `decoding.replicas.compile_dialogue`.
      ask: name of the rollout, call -> its answer; the name is the rollout's key, the same after a kill.
    """

    def write(
        params: Params, examples: Sequence[Example], prompts: Prompts, uid: Array, key: Array
    ) -> Callable[[], Written]:
        del examples
        name = np.asarray(jax.random.key_data(key)).tobytes().hex()
        own = functools.partial(converse, params, *prompts, uid, key, functools.partial(ask, name))
        return lambda: gather(together(own))

    return write


def _answer(collector: Collector, asked: Asked, version: int) -> Collected:
    """Waits for the responses and has them judged."""
    said = asked.responses()
    owners = [example for example in asked.examples for _ in range(collector.group)]
    judged = judged_once(collector.judge)(said, owners)
    rollout = build_rollout(
        asked.prompts,
        said,
        outcome=judged.outcome,
        reward=judged.reward,
        version=version,
        leaf_weight=collector.leaf_weight,
    )
    return Collected(
        rollout=rollout,
        examples=tuple(asked.examples),
        parts=judged.parts,
        failures={failure.row: str(failure) for failure in judged.failures},
        calls=said.calls,
        counts={},
        offered=len(asked.examples),
    )


def _kept_groups(collector: Collector, rollout: Rollout) -> np.ndarray:
    """`bool[P]`: groups of which the method keeps any row."""
    kept = np.asarray(collector.keep(rollout)).reshape(-1, collector.group)
    return np.any(kept, axis=1)


def _choose(batches: Sequence[Collected], kept: Sequence[np.ndarray], group: int) -> Collected:
    """The first P groups with signal in the order drawn, then refused ones where those are too few."""
    wanted, signal = kept[0].size, np.concatenate(kept)
    picked = np.concatenate([np.flatnonzero(signal), np.flatnonzero(~signal)])[:wanted]
    rows = (picked[:, None] * group + np.arange(group)).reshape(-1)
    examples = [example for batch in batches for example in batch.examples]
    return Collected(
        rollout=_take([batch.rollout for batch in batches], rows, group),
        examples=tuple(examples[index] for index in picked),
        parts={
            name: np.concatenate([batch.parts[name] for batch in batches])[rows] for name in batches[0].parts
        },
        failures=_renumber(batches, rows),
        calls=np.concatenate([batch.calls for batch in batches])[rows],
        counts={},
        generations=len(batches),
        offered=signal.size,
        short=max(wanted - int(signal.sum()), 0),
    )


def _take(rollouts: Sequence[Rollout], rows: np.ndarray, group: int) -> Rollout:
    """Rows of several rollouts as one whose groups are numbered anew."""
    whole = jax.tree.map(lambda *leaves: np.concatenate(leaves)[rows], *rollouts)
    first = np.repeat(np.arange(0, rows.size, group), group)
    return whole.replace(
        group=(first // group).astype(np.int32),
        parent=(first + whole.parent % group).astype(np.int32),  # groups are whole and contiguous
    )


def _renumber(batches: Sequence[Collected], rows: np.ndarray) -> dict[int, str]:
    """Failures by their row of the rollout that was put together."""
    place = {int(row): index for index, row in enumerate(rows)}
    size = batches[0].rollout.length.size
    found = {
        number * size + row: text
        for number, batch in enumerate(batches)
        for row, text in batch.failures.items()
    }
    return {place[row]: text for row, text in found.items() if row in place}
