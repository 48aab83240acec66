"""Batches without end: epochs, shards, and going on from a saved place."""

import itertools
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpg_jax.data.examples import Example
from gpg_jax.data.loader import loader

COUNT = 60
SEEDS = st.integers(0, 2**32 - 1)


def source(count=COUNT):
    return [Example(f"question {number}", str(number)) for number in range(count)]


def answers(batches):
    return [int(example.answer) for batch in batches for example in batch]


def take(batches, count):
    return list(itertools.islice(batches, count))


@settings(max_examples=6)
@given(st.integers(40, COUNT), st.integers(1, 90), SEEDS)
def test_every_example_comes_once_an_epoch(count, batch_size, seed):
    batches = take(loader(source(count), batch_size=batch_size, seed=seed), 2 * count // batch_size + 1)
    assert all(len(batch) == batch_size for batch in batches)
    seen = answers(batches)
    for epoch in range(2):
        assert sorted(seen[epoch * count : (epoch + 1) * count]) == list(range(count))


def test_epochs_and_seeds_have_orders_of_their_own():
    first, second, third = take(loader(source(), batch_size=COUNT, seed=0), 3)
    (other,) = take(loader(source(), batch_size=COUNT, seed=7), 1)
    orders = {tuple(answers([batch])) for batch in (first, second, third, other)}
    assert len(orders | {tuple(range(COUNT))}) == 5


@settings(max_examples=10)
@given(st.integers(0, 8), st.integers(5, 25), st.integers(1, 3), st.data())
def test_a_restored_loader_goes_on_as_the_uninterrupted_one(taken, batch_size, shards, data):
    # up to 8 batches of 25: from the start, from the middle of an epoch, from later epochs of the shard
    shard = data.draw(st.integers(0, shards - 1))

    def fresh():
        return loader(source(), batch_size=batch_size, seed=3, shard_index=shard, shard_count=shards)

    uninterrupted = fresh()
    take(uninterrupted, taken)
    saved = json.loads(json.dumps(uninterrupted.get_state()))
    expected = take(uninterrupted, 4)
    restored = fresh()
    take(restored, data.draw(st.integers(0, 2)))
    restored.set_state(saved)
    assert restored.get_state() == saved
    assert take(restored, 4) == expected


def test_a_loader_goes_back_to_its_own_past():
    batches = loader(source(), batch_size=25, seed=1)
    start = batches.get_state()
    first = take(batches, 4)
    batches.set_state(start)
    assert take(batches, 4) == first
    assert iter(batches) is batches


@settings(max_examples=8)
@given(st.integers(1, 4), st.integers(0, 3))
def test_shards_share_the_examples_out(shards, extra):
    count = 40 + extra
    epochs = []
    for shard in range(shards):
        size = len(range(shard, count, shards))
        batches = loader(source(count), batch_size=size, seed=0, shard_index=shard, shard_count=shards)
        first, second = take(batches, 2)
        assert set(answers([first])) == set(answers([second]))
        epochs += answers([first])
    assert sorted(epochs) == list(range(count))


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"batch_size": 0}, "batch_size is 0; it must be at least 1"),
        ({"batch_size": -3}, "batch_size is -3"),
        ({"shard_index": 2, "shard_count": 2}, "shard_index 2 is not one of the 2 shards"),
        ({"shard_index": -1}, "shard_index -1 is not one of the 1 shards"),
        ({"shard_count": 0}, "not one of the 0 shards"),
        ({"shard_count": 61}, "60 examples cannot be shared out among 61 shards"),
        ({"seed": -1}, "seed is -1; it must be from 0 to 4294967295"),
        ({"seed": 2**32}, "seed is 4294967296"),
    ],
)
def test_impossible_sizes_are_refused(sizes, message):
    with pytest.raises(ValueError, match=message):
        loader(source(), **({"batch_size": 2, "seed": 0} | sizes))


def test_no_examples_are_refused():
    with pytest.raises(ValueError, match="0 examples"):
        loader([], batch_size=1, seed=0)


@pytest.mark.parametrize(
    ("name", "other"),
    [("examples", 59), ("digest", 7), ("batch_size", 9), ("seed", 1), ("shard_index", 1), ("shard_count", 3)],
)
def test_the_place_of_another_loader_is_refused_and_nothing_moves(name, other):
    mine = {"batch_size": 8, "seed": 0, "shard_index": 0, "shard_count": 2}
    batches = loader(source(), **mine)
    place = batches.get_state()
    foreign = place | {"settings": place["settings"] | {name: other}}
    with pytest.raises(ValueError, match=f"not a place of this loader: its {name} was {other}"):
        batches.set_state(foreign)
    assert take(batches, 2) == take(loader(source(), **mine), 2)


def test_an_edited_example_is_noticed():
    changed = source()
    changed[7] = Example("question 7", "8")
    place = loader(source(), batch_size=8, seed=0).get_state()
    with pytest.raises(ValueError, match="not a place of this loader: its digest was"):
        loader(changed, batch_size=8, seed=0).set_state(place)


@pytest.mark.parametrize("state", [None, {}, {"next_index": 3}])
def test_what_is_no_place_is_refused(state):
    with pytest.raises(ValueError, match="not a place that a loader's get_state gave"):
        loader(source(), batch_size=2, seed=0).set_state(state)
