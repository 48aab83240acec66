"""Live programs without a network: rows read their tokens from a script, and NumPy keeps them."""

from concurrent.futures import Future
from types import SimpleNamespace

import numpy as np

from gpg_jax.decoding.live import Live, LivePrograms


def programs(script, slots: int) -> LivePrograms:
    """Programs as `live.live_programs` describes them, with a patience of 0.

    Args:
      script: rows `int[n]`, their tokens `int[n, N]`, their lengths `int[n]` -> each one's next token, the
        pattern that it completes or -1, and how uncertain it was.
      slots: N.
    """

    def begin(params, prompts, prompt_length, running):
        rows = len(running)
        live = Live(
            cache=(),
            tokens=np.zeros((rows, slots), np.int32),
            acted=np.zeros((rows, slots), bool),
            log_prob=np.zeros((rows, slots), np.float32),
            uncertainty=np.zeros((rows, slots), np.float32),
            length=np.zeros(rows, np.int32),
            state=np.zeros(rows, np.int32),
            pattern=np.full(rows, -1, np.int32),
            running=running.copy(),
        )
        return SimpleNamespace(length=prompt_length), live

    def advance(params, prefix, live, uid, key, steps, calls, watched):
        live = Live(*((), *(leaf.copy() for leaf in live[1:])))
        while steps > 0 and live.running.any():
            rows = np.flatnonzero(live.running)
            place = live.length[rows]
            token, pattern, watch = script(rows, live.tokens[rows], place)
            live.tokens[rows, place], live.uncertainty[rows, place] = token, watch
            live.acted[rows, place], live.pattern[rows] = True, pattern
            live.length[rows] += 1
            live.running[rows] = (pattern < 0) & (live.length[rows] < slots)
            heeded = ~live.running[rows] & (((pattern >= 0) & (pattern < calls)) | watched[rows])
            steps = 0 if heeded.any() else steps - 1
        return live

    def append(params, prefix, live, rows, tokens, count):
        for row, answer, length in zip(rows, tokens, count, strict=True):
            if row < len(live.length):
                place = live.length[row]
                live.tokens[row, place : place + length] = answer[:length]
                live.length[row] += length
                live.pattern[row], live.running[row] = -1, True
        return live

    def fork(live, children, parents, length):
        for child, parent, kept in zip(children, parents, length, strict=True):
            if child < len(live.length):
                for leaf in (live.tokens, live.acted, live.log_prob, live.uncertainty):
                    leaf[child] = np.where(np.arange(slots) < kept, leaf[parent], 0)
                live.length[child], live.pattern[child], live.running[child] = kept, -1, True
        return live

    return LivePrograms(begin, advance, append, fork)


def told(answer) -> Future:
    """A future that is there."""
    future: Future = Future()
    future.set_result(answer)
    return future
