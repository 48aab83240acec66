"""A task in which a tool matters twice: questions about a made-up world, whose facts stand in documents.

The answer needs a chain of facts, and each search gives one of them. Who is asked about in the held-out set
is never asked about in training, so that nothing can be learnt by heart. Whose fact it is stands in the
possessive, `bobs boss zed`, so that a search that only counts words tells it from `zeds boss bob`.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from typing import NamedTuple

from gpg_jax.data.examples import Example

RELATIONS = ("boss", "friend", "town")
"""The last one ends a chain: it leads to a place, the others to a person."""


class World(NamedTuple):
    """People and places, and who is related to whom.

    Attributes:
      facts: (name, relation) -> name.
      people: those who have relations.
    """

    facts: dict[tuple[str, str], str]
    people: tuple[str, ...]


def world(people: int = 300, towns: int = 40, seed: int = 0) -> World:
    """A made-up world.

    Args:
      people: how many.
      towns: how many.
      seed: of names and relations.

    Raises:
      ValueError: more names than there are.
    """
    names = ["".join(letters) for letters in itertools.product("bdfgkmprvz", "aiou", "bdfgkmprvz")]
    if people < 2 or towns < 1 or people + towns > len(names):
        raise ValueError(
            f"{people} people and {towns} towns need 2 and 1 at least, and {len(names)} names at most"
        )
    draw = random.Random(seed)
    chosen = draw.sample(names, people + towns)
    living, places = chosen[:people], chosen[people:]
    facts = {}
    for name in living:
        for relation in RELATIONS[:-1]:
            facts[name, relation] = draw.choice([other for other in living if other != name])
        facts[name, RELATIONS[-1]] = draw.choice(places)
    return World(facts, tuple(living))


def documents(made: World) -> list[str]:
    """One document a fact."""
    return [f"{name}s {relation} {other}" for (name, relation), other in made.facts.items()]


def questions(made: World, split: str, hops: int = 2, held_out: float = 0.25) -> list[Example]:
    """Every chain of so many facts from a split's people: `bobs boss town?` asks for the town of bob's boss.

    Args:
      made: the world.
      split: "train" or "held_out"; people are of one or the other.
      hops: facts of a chain, at least 1.
      held_out: share of the people that are held out.

    Raises:
      ValueError: an unknown split, or no hops.
    """
    if split not in ("train", "held_out") or hops < 1:
        raise ValueError(f'split is "train" or "held_out" and hops at least 1, got {split!r} and {hops}')
    cut = round(len(made.people) * held_out)
    people = made.people[:cut] if split == "held_out" else made.people[cut:]
    examples = []
    for name in people:
        for chain in itertools.product(RELATIONS[:-1], repeat=hops - 1):
            relations, queries, here = (*chain, RELATIONS[-1]), [], name
            for relation in relations:
                queries.append(f"{here}s {relation}")
                here = made.facts[here, relation]
            examples.append(Example(f"{name}s {' '.join(relations)}?", here, {"queries": queries}))
    return examples


def demonstration(
    example: Example, made: World, hasty: float = 0.0, tool: str = "search"
) -> Sequence[tuple[str, str]]:
    """What somebody writes who knows the tool, and what is answered: (author, text), by "policy" or "tool".

    Args:
      example: one of `questions`.
      made: its world.
      hasty: share of the questions, drawn by their texts, whose demonstration answers with what its first
        search finds; for a chain of several facts that is wrong, in the right format.
      tool: name of its tag.
    """
    queries, answer = example.metadata["queries"], example.answer
    if random.Random(str(example.prompt)).random() < hasty:
        queries, answer = queries[:1], _fact(queries[0], made)
    turns = []
    for query in queries:
        page = f"Page 1: {query} {_fact(query, made)}"
        turns += [("policy", f"<{tool}>{query}</{tool}>"), ("tool", f" <result>\n{page}\n</result>")]
    return (*turns, ("policy", f"<answer>{answer}</answer>"))


def _fact(query: str, made: World) -> str:
    owner, relation = query.split(" ")
    return made.facts[owner.removesuffix("s"), relation]
