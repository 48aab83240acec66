"""How fast the decoding loop and the train step are, on work that is the same for everybody.

    python -m experiments.benchmark --measure decode --model tiny --dtype float32
    python -m experiments.benchmark --measure train --model small --dtype bfloat16 --prompts 1 --micro 8

    decode   prompts of `--prompt-len` tokens, `--group` completions each, exactly `--new-tokens` new
             ones, temperature 1, full vocabulary, no stop; tokens/s counts new tokens
    train    one GRPO update on such rows: forward, backward, clipping at 1, AdamW; no KL, one update a
             rollout; tokens/s counts the tokens of whole rows, a shared prompt once a row

Weights are random. The last line is a JSON record; its seconds are of steps after the warm-up, in which
compilation lies. `others_busy_mean` is how many cores other processes used meanwhile: above 0.1 the
number says more of them than of the program.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

MODELS: dict[str, dict[str, Any]] = {
    "tiny": dict(width=256, layers=4, heads=4, kv_heads=2, head_dim=64, mlp_width=704, vocab_size=4096),
    "small": dict(width=576, layers=30, heads=9, kv_heads=3, head_dim=64, mlp_width=1536, vocab_size=49152),
}
"""`small` has the shape of SmolLM2-135M."""

FIRST_ID = 3


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The options, checked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--measure", choices=("decode", "train"), required=True)
    parser.add_argument("--model", choices=tuple(MODELS), default="tiny")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--group", type=int, default=8)
    parser.add_argument("--prompt-len", type=int, default=64)
    parser.add_argument("--new-tokens", type=int, default=128)
    parser.add_argument("--micro", type=int, default=0, help="rows of a micro-batch; 0: all")
    parser.add_argument("--remat", action="store_true", help="recompute blocks in the backward pass")
    parser.add_argument("--chunk", type=int, default=2048, help="tokens whose logits exist at once; 0: all")
    parser.add_argument("--bucket", type=int, default=32, help="slots of the decoding loop's first cache")
    parser.add_argument("--reps", type=int, default=5)
    parser.add_argument("--warmup", type=int, default=1)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    options = parser.parse_args(arguments)
    rows = options.prompts * options.group
    for name in ("prompts", "group", "prompt_len", "new_tokens", "reps", "warmup", "threads"):
        if getattr(options, name) < 1:
            parser.error(f"--{name.replace('_', '-')} is {getattr(options, name)}; it must be at least 1")
    if options.micro and rows % options.micro:
        parser.error(f"--micro {options.micro} does not divide the {rows} rows of --prompts x --group")
    return options


def decode_step(options: argparse.Namespace) -> Callable[[], object]:
    """A call that decodes once and waits for the result."""
    import jax
    import jax.numpy as jnp

    from gpg_jax.decoding.automaton import compile_automaton
    from gpg_jax.decoding.loop import decode
    from gpg_jax.decoding.sampling import Sampling

    policy, params = _policy(options)
    automaton = compile_automaton((), [b""] * policy.vocab_size)
    rows = options.prompts * options.group
    prompts = jax.random.randint(
        jax.random.key(1), (options.prompts, options.prompt_len), FIRST_ID, policy.vocab_size
    )

    @jax.jit
    def run(params: Any, key: jax.Array):
        return decode(
            policy,
            policy.for_decoding(params),
            prompts,
            jnp.full((options.prompts,), options.prompt_len),
            jnp.arange(rows),
            key,
            new_slots=options.new_tokens,
            sampling=Sampling(),
            automaton=automaton,
            bucket=options.bucket,
        )

    keys = iter(jax.random.split(jax.random.key(2), options.warmup + options.reps))
    return lambda: jax.block_until_ready(run(params, next(keys)))


def train_step(options: argparse.Namespace) -> Callable[[], object]:
    """A call that updates once and waits for the result."""
    import jax
    import optax

    from gpg_jax.algorithms import ALGORITHMS
    from gpg_jax.policies.score import Layout
    from gpg_jax.training.plan import Plan
    from gpg_jax.training.program import Program
    from gpg_jax.training.state import create_state
    from gpg_jax.training.step import compile_step, make_step

    policy, params = _policy(options)
    rows = options.prompts * options.group
    plan = Plan(
        layout=Layout(options.prompt_len, options.new_tokens, options.group),
        rows=rows,
        micro_batches=rows // options.micro if options.micro else 1,
        chunk=options.chunk,
    )
    method = ALGORITHMS["grpo"](kl_coefficient=0.0)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-6, weight_decay=0.01))
    step = compile_step(make_step(Program(policy, method, optimizer, plan)))
    rollout = jax.device_put(_rollout(options, policy.vocab_size))
    states = [create_state(params, method, optimizer, jax.random.key(0))]

    def run() -> object:
        states[0], metrics = step(states[0], rollout)
        return jax.block_until_ready((states[0], metrics))

    return run


def _policy(options: argparse.Namespace):
    import jax

    from gpg_jax.policies.architecture import Architecture
    from gpg_jax.policies.transformer import transformer

    policy = transformer(Architecture(**MODELS[options.model]), dtype=options.dtype, remat=options.remat)
    return policy, jax.jit(policy.init)(jax.random.key(0))


def _rollout(options: argparse.Namespace, vocab_size: int):
    """Random rows of full length whose rewards are 0 .. group - 1 in every group."""
    import numpy as np

    from gpg_jax.decoding.loop import Responses
    from gpg_jax.decoding.rollouts import build_rollout, pad_prompts, written

    draw = np.random.default_rng(0)
    prompts = pad_prompts(
        draw.integers(FIRST_ID, vocab_size, (options.prompts, options.prompt_len)).tolist(),
        options.prompt_len,
    )
    rows = options.prompts * options.group
    responses = Responses(
        tokens=draw.integers(FIRST_ID, vocab_size, (rows, options.new_tokens)),
        log_prob=np.zeros((rows, options.new_tokens), np.float32),
        length=np.full(rows, options.new_tokens),
        stop=np.ones(rows, np.int32),
        steps=np.array([options.new_tokens]),
    )
    reward = np.tile(np.arange(options.group, dtype=np.float32), options.prompts)
    return build_rollout(prompts, written(responses), outcome=reward, reward=reward, version=0)


def timed(step: Callable[[], object], reps: int, warmup: int) -> dict[str, float]:
    """Seconds of `step`: median, extremes, the warm-up apart, and how busy others were meanwhile."""
    started = time.perf_counter()
    for _ in range(warmup):
        step()
    warm = time.perf_counter() - started
    seconds, others = [], []
    for _ in range(reps):
        before, started = _cpu_seconds(), time.perf_counter()
        step()
        seconds.append(time.perf_counter() - started)
        machine, own = (now - then for now, then in zip(_cpu_seconds(), before, strict=True))
        others.append(max(0.0, (machine - own) / seconds[-1]))
    return {
        "seconds": statistics.median(seconds),
        "seconds_min": min(seconds),
        "seconds_max": max(seconds),
        "warmup_seconds": warm,
        "others_busy_min": min(others),
        "others_busy_mean": statistics.fmean(others),
    }


def _cpu_seconds() -> tuple[float, float]:
    """CPU seconds used by the whole machine and by this process; the first is 0 where Linux does not tell."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    own = usage.ru_utime + usage.ru_stime
    stat = Path("/proc/stat")
    if not stat.exists():
        return 0.0, own
    user, nice, system, _, _, irq, softirq, steal, *_ = map(int, stat.read_text().splitlines()[0].split()[1:])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK"), own


def record(options: argparse.Namespace, times: dict[str, float]) -> dict[str, Any]:
    """What was measured, on what, with what."""
    import jax

    rows = options.prompts * options.group
    tokens = rows * (options.new_tokens + (options.prompt_len if options.measure == "train" else 0))
    packages = ("jax", "jaxlib", "flax", "optax")
    return {
        "peer": "gpg_jax",
        **{name: value for name, value in vars(options).items() if name not in ("reps", "warmup")},
        "micro": options.micro or rows,
        "tokens": tokens,
        "tokens_per_s": round(tokens / times["seconds"], 1),
        "tokens_per_s_best": round(tokens / times["seconds_min"], 1),
        **{name: round(value, 5) for name, value in times.items()},
        "reps": options.reps,
        "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "path": "decoding.loop.decode" if options.measure == "decode" else "training.step",
        "device": jax.devices()[0].device_kind,
        "devices": jax.device_count(),
        "versions": {
            "python": platform.python_version(),
            **{name: metadata.version(name) for name in packages},
        },
    }


def main(arguments: list[str] | None = None) -> None:
    """Measures once and prints the record."""
    options = parse(arguments)
    if hasattr(os, "sched_setaffinity"):  # before jax starts its threads
        os.sched_setaffinity(0, set(sorted(os.sched_getaffinity(0))[: options.threads]))
    step = {"decode": decode_step, "train": train_step}[options.measure](options)
    times = timed(step, options.reps, options.warmup)
    sys.stdout.flush()
    print(json.dumps(record(options, times)), flush=True)


if __name__ == "__main__":
    main()
