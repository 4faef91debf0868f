"""Layers split along their outputs until a file with encoded weights fits TFLite-Micro's arena."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from keras_compress.core.registry import lookup
from keras_compress.tflite.arena_plan import ArenaPlan, peak_of
from keras_compress.tflite.flatbuffer import Graph, read_model, write_model
from keras_compress.tflite.passes.tile_outputs import tile_outputs

# What a piece more takes of the arena for its operators and tensors, until it was measured.
_USUAL_PIECE_BYTES = 420
_TRIES_FOR_LEAST = 3
Encode = Callable[[bytes], bytes]


def fit_arena(content: bytes, encode: Encode, max_arena_bytes: int) -> tuple[bytes, list[str]]:
    """Encode a file, its layers split into the fewest pieces with which it fits an arena.

    Decoded weights lie in the arena, one operator's at a time. The layer that makes the peak is split further until the
    smallest arena in which TFLite-Micro starts the file here, as measured, is within the limit. Pointers are twice as
    long here as on a microcontroller, so that the file needs less there.

    Args:
        content: Plain integer `.tflite` file.
        encode: Gives the file with encoded weights; it adds nothing but the operators that decode them. Its last call
            is the one for the file that is returned.
        max_arena_bytes: Largest arena, in bytes.

    Returns:
        The encoded file, and a note for each operator that was split.

    Raises:
        ValueError: Where no number of pieces is enough; says what the least is.
        RuntimeError: Where TFLite-Micro is not available.
    """
    if isinstance(max_arena_bytes, bool) or not isinstance(max_arena_bytes, int) or max_arena_bytes < 1:
        raise ValueError(f"Expected max_arena_bytes as an integer > 0. Received: max_arena_bytes={max_arena_bytes!r}")
    search = _Search(content, encode)
    step = search.fewest(max_arena_bytes)
    if step is None:
        least = search.least()
        raise ValueError(
            f"Expected max_arena_bytes >= {search.arena(least)}, what the model needs with {search.described(least)}: "
            f"{search.peak(least)}, the rest TFLite-Micro's own structures and scratch. "
            f"Received: max_arena_bytes={max_arena_bytes}, {search.arena(least) - max_arena_bytes} bytes too few"
        )
    return search.result(step)


class _Search:
    """Files of more and more pieces, made and measured when they are asked for."""

    def __init__(self, content: bytes, encode: Encode) -> None:
        self._probe: Callable[[bytes], int] = lookup("probe", "tflm_arena")
        self._content, self._encode = content, encode
        self._encoded: dict[int, bytes] = {0: encode(content)}
        self._notes: dict[int, list[str]] = {0: []}
        self._latest = 0
        self._arenas: dict[int, int] = {}
        self._plan = ArenaPlan(content, self._encoded[0])

    def result(self, step: int) -> tuple[bytes, list[str]]:
        """The file and its notes."""
        if self._latest != step:
            del self._encoded[step]
        return self._file(step), self._notes[step]

    def arena(self, step: int) -> int:
        """The smallest arena, as measured."""
        if step not in self._arenas:
            self._arenas[step] = self._probe(self._file(step))
        return self._arenas[step]

    def fewest(self, limit: int) -> int | None:
        """The first step within the limit, proved by one before it that is not; `None` where there is none."""
        if self.arena(0) <= limit:
            return 0
        too_few, enough, end = 0, None, len(self._plan.steps)
        while enough is None or enough - too_few > 1:
            fitting = np.flatnonzero(self._predictions(self._arenas)[too_few + 1 : enough or end] <= limit)
            if fitting.size:
                step = too_few + 1 + int(fitting[0])
            elif enough is not None:
                step = enough - 1
            elif self.arena(step := self.least()) > limit:
                return None
            if self.arena(step) <= limit:
                enough = step
            else:
                too_few = step
        return enough

    def least(self) -> int:
        """The step of the smallest arena found, whatever was measured before: a limit of its arena can be met again."""
        tried = {0, len(self._plan.steps) - 1}
        for _ in range(_TRIES_FOR_LEAST):
            tried.add(int(np.argmin(self._predictions(tried))))
        return min(tried, key=lambda step: (self.arena(step), step))

    def described(self, step: int) -> str:
        """How messages call the pieces of a step."""
        pieces = self._plan.pieces(step)
        return f"{pieces} pieces of its split layers" if pieces else "its layers whole, which splitting does not help"

    def peak(self, step: int) -> str:
        """What of a step's arena are values that the model computes, and where they are most."""
        return peak_of(self._file(step))

    def _predictions(self, tried: Iterable[int]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        """Arena of each step: the computed part, and a rest that grows with the pieces, known where it was measured."""
        pieces = [self._plan.pieces(step) for step in range(len(self._plan.steps))]
        known = {pieces[step]: self.arena(step) - self._plan.heads[step] for step in sorted(tried)}
        most = max(known)
        known.setdefault(pieces[-1], known[most] + _USUAL_PIECE_BYTES * (pieces[-1] - most))
        return np.asarray(self._plan.heads) + np.interp(pieces, list(known), list(known.values()))

    def _file(self, step: int) -> bytes:
        if step not in self._encoded:
            graph = Graph(read_model(self._content))
            self._notes[step] = tile_outputs(graph, self._plan.steps[step])
            self._encoded[step] = self._encode(write_model(graph.model))
            self._latest = step
        return self._encoded[step]
