"""Times of training steps, measured in turns. Imports nothing, so that tfmot's interpreter can load it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping


def in_turns(
    steps: Mapping[str, Callable[[], object]],
    block_steps: int,
    blocks: int,
    warmup_steps: int = 20,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Mean time of a step in ms for each block; the blocks of all take turns, so that noise hits all alike.

    Args:
        steps: Name -> one training step.
        block_steps: Steps in a block; 100 hold exactly one update of a mask that is chosen anew each 100 steps.
        blocks: Blocks of each.
        warmup_steps: Steps before the first block.
        clock: Seconds; `time.process_time` where others share the machine.
    """
    found: dict[str, list[float]] = {name: [] for name in steps}
    for step in steps.values():
        for _ in range(warmup_steps):
            step()
    for _ in range(blocks):
        for name, step in steps.items():
            begin = clock()
            for _ in range(block_steps):
                step()
            found[name].append((clock() - begin) / block_steps * 1e3)
    return found


def summarize(times: Mapping[str, list[float]], baseline: str = "float") -> dict[str, dict[str, float]]:
    """Median step time of each, its spread, and the ratio of medians to the baseline's."""
    base = statistics.median(times[baseline])
    return {
        name: {
            "step_ms": statistics.median(values),
            "fastest_block_ms": min(values),
            "slowest_block_ms": max(values),
            "ratio": statistics.median(values) / base,
            "ratio_of_fastest": min(values) / min(times[baseline]),
        }
        for name, values in times.items()
    }
