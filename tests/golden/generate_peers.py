"""Golden numbers from the code of the peers: runs their pinned releases and writes `peers.json`.

The mathematics is always the peer's own: its functions are imported and called on the inputs below,
with a stand-in only where a network, a cluster or a tokenizer would be (log-probs are handed in as a
leaf, so that gradients are with respect to them). Everything runs in float32, as the peers do. The calls
are in `peer_<name>.py`, the inputs in `peer_record.py`.

Each peer needs an environment of its own (Python 3.11; torch from any CPU index)::

    python -m venv trl    && trl/bin/pip install torch==2.13.0 trl==1.16.0 transformers==5.23.0
    python -m venv tunix  && tunix/bin/pip install google-tunix==0.1.7 jax==0.10.2
    python -m venv torch  && torch/bin/pip install torch==2.13.0 ray==2.60.0 tensordict==0.10.0 \\
        omegaconf==2.3.1 hydra-core "transformers==5.10.4" codetiming datasets pillow aiohttp
    torch/bin/pip install --no-deps verl==0.9.1 openrlhf==0.11.2
    torch/bin/pip install --no-deps --ignore-requires-python oat-llm==0.2.4

    trl/bin/python   tests/golden/generate_peers.py trl
    tunix/bin/python tests/golden/generate_peers.py tunix
    torch/bin/python tests/golden/generate_peers.py verl
    torch/bin/python tests/golden/generate_peers.py openrlhf
    torch/bin/python tests/golden/generate_peers.py oat

A call replaces that peer's cases in the JSON and leaves the others. The file holds `inputs` (sets of
arrays, named), `peers` (versions) and `cases`: `id` ("peer/kind/name"), `function` (what was called),
`settings` (the peer's own names; what is not listed is its default), `inputs` (a set's name),
`outputs`, and a `note` where the behaviour deserves one. Kinds and their outputs:

    advantage   `advantage`, one number a row, or [B, T]; groups are named by the set, else are pairs of rows
    loss        `loss` and `gradient` = d loss / d new log-prob [B, T]
    kl          `value` and `gradient` = d sum(value) / d new log-prob, at each point
    aggregate   `loss` = the aggregate of the matrix `new` (read as a loss) under `mask`
    overlong    `penalty` at each length
    correction  `weight`, from rollout to trainer, [B, T] or [B, 1]
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import json
import os
import platform
from pathlib import Path

from peer_record import INPUTS, Record

PATH = Path(__file__).with_name("peers.json")
PEERS = ["trl", "verl", "tunix", "openrlhf", "oat"]


def line(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ": "))


def write(record: Record, versions: list[str]) -> None:
    """Put the record's cases in the place of the peer's old ones: one line a case."""
    old = json.loads(PATH.read_text()) if PATH.exists() else {"peers": {}, "cases": []}
    own = {"python": platform.python_version()} | {
        name: importlib.metadata.version(name) for name in versions
    }
    peers = old["peers"] | {record.peer: own}
    cases = [case for case in old["cases"] if not case["id"].startswith(f"{record.peer}/")] + record.cases
    cases.sort(key=lambda case: PEERS.index(case["id"].split("/")[0]))
    inputs = ",\n".join(f"{line(name)}: {line(value)}" for name, value in INPUTS.items())
    parts = ['{"about": "Written by generate_peers.py, which says what everything means.",']
    parts += [f'"peers": {line({name: peers[name] for name in PEERS if name in peers})},']
    parts += [f'"inputs": {{\n{inputs}\n}},', '"cases": [', ",\n".join(map(line, cases)), "]}"]
    PATH.write_text("\n".join(parts) + "\n")
    print(f"{len(record.cases)} cases of {record.peer}, {len(cases)} in all, {PATH.stat().st_size} bytes")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="peer", required=True, metavar="peer")
    for name in PEERS:
        commands.add_parser(name, help=f"run {name}: needs its environment")
    os.environ |= {"HF_HUB_OFFLINE": "1", "JAX_PLATFORMS": "cpu"}
    peer = importlib.import_module(f"peer_{parser.parse_args().peer}")
    write(peer.run(), peer.VERSIONS)


if __name__ == "__main__":
    main()
