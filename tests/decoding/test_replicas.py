"""Dialogues on meshes: each replica's rows are those that one device writes alone."""

from __future__ import annotations

import functools
import math
from concurrent.futures import Future
from types import SimpleNamespace

import jax
import numpy as np
import pytest
import scripted
import small

from gpg_jax.decoding.automaton import compile_automaton
from gpg_jax.decoding.branching import arpo_paper
from gpg_jax.decoding.dialogue import Call, Turns, converse
from gpg_jax.decoding.live import live_programs
from gpg_jax.decoding.replicas import compile_dialogue, gather
from gpg_jax.decoding.rollouts import pad_prompts
from gpg_jax.decoding.sampling import Sampling
from gpg_jax.decoding.uncertainty import entropy
from gpg_jax.training.sharding import make_mesh, named, parameter_specs

PROMPTS = pad_prompts([[3, 4, 5], [6, 7], [8], [9, 3, 4]], 3)
NEW, ROWS, CALLS, END = 8, 16, (1, 5, 11, 28), 2
UID = np.arange(ROWS, dtype=np.int32)
KEY = jax.random.key(1)
TURNS = Turns(
    calls=len(CALLS),
    answer_tokens=1,
    at_once=4,
    steps=1,
    branching=arpo_paper(2, alpha=0.51, tokens=2),
    vocab_size=small.ARCHITECTURE.vocab_size,
)


def answer(call: Call) -> Future:
    return scripted.told(None if call.number >= 2 else [8 + sum(call.ids) % 3])


@functools.cache
def programs():
    automaton = compile_automaton((), [b""] * small.ARCHITECTURE.vocab_size, (*CALLS, END))
    sampling = Sampling(temperature=1.5)
    return live_programs(
        small.policy(), new_slots=NEW, sampling=sampling, automaton=automaton, uncertainty=entropy
    )


@functools.cache
def alone():
    params = small.policy().for_decoding(small.params())
    return converse(programs(), params, *PROMPTS, UID, KEY, ask=answer, turns=TURNS)


def on_mesh(shape):
    mesh = make_mesh(shape, jax.devices()[: math.prod(shape)])
    specs = parameter_specs(small.params(), mesh)
    params = jax.device_put(small.params(), named(specs, mesh))
    return functools.partial(compile_dialogue(small.policy(), mesh, specs, programs(), TURNS), params)


@pytest.mark.parametrize("shape", [(2, 1, 2), (1, 2, 2), (4, 1, 1)])
def test_a_mesh_writes_what_one_device_writes(shape):
    asked: list[Call] = []

    def ask(call: Call) -> Future:
        asked.append(call)
        return answer(call)

    parts = on_mesh(shape)(*PROMPTS, UID, KEY, ask)
    assert sorted(parts) == list(range(shape[0] * shape[1]))
    said, expected = gather(parts), alone()
    for name, value, other in zip(said._fields, said, expected, strict=True):
        if name == "log_prob":
            np.testing.assert_allclose(value, other, atol=1e-5)
        else:
            np.testing.assert_array_equal(value, other, err_msg=name)
    assert {call.row // (ROWS // 4) for call in asked} == {0, 1, 2, 3}  # named among all rows


def test_the_rows_say_something():
    said = alone()
    assert (said.parent != UID).sum() >= 3 and said.late.any() and said.calls.max() == 2


def test_parts_are_put_in_their_order():
    whole = alone()
    first, last = (jax.tree.map(lambda leaf, at=at: leaf[at], whole) for at in (slice(0, 8), slice(8, 16)))
    for value, other in zip(gather({1: last, 0: first}), whole, strict=True):
        np.testing.assert_array_equal(value, other)


def test_an_error_of_one_replica_is_everyones():
    def ask(call: Call) -> Future:
        if call.row >= 8:
            raise RuntimeError("no tool")
        return answer(call)

    with pytest.raises(RuntimeError, match="no tool"):
        on_mesh((2, 1, 2))(*PROMPTS, UID, KEY, ask)


def test_prompts_that_replicas_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="3 prompts cannot be shared out among 2 replicas"):
        on_mesh((2, 1, 2))(PROMPTS.tokens[:3], PROMPTS.length[:3], UID[:12], KEY, answer)


def test_a_replica_on_two_processes_is_refused():
    owners = np.array([0, 0, 1, 1, 2, 2, 3, 3]).reshape(2, 1, 4)
    devices = np.vectorize(lambda owner: SimpleNamespace(process_index=owner))(owners)
    with pytest.raises(ValueError, match=r"of 4 devices .* processes \[0, 1\].* tensor axis divides 2"):
        compile_dialogue(small.policy(), SimpleNamespace(devices=devices), {}, programs(), TURNS)
