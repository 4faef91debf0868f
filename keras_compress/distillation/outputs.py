"""A teacher's outputs, computed once and kept in memory-mapped files: a run that was stopped goes on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import tree
from numpy.typing import NDArray

from keras_compress.core.shown import Shown
from keras_compress.distillation.heads import Head

_RECORD = "teacher_outputs.json"


@dataclass(frozen=True, repr=False)
class TeacherOutputs(Shown):
    """Logits of a teacher for each of some samples: a teacher that need not be run.

    Attributes:
        logits: One float32 array for each output, in Keras's order, samples first; memory-mapped.
        heads: What each output of the teacher is.
        folder: Where they are.
    """

    logits: tuple[NDArray[np.float32], ...]
    heads: tuple[Head, ...]
    folder: Path

    def shown(self) -> tuple[str, list[tuple[str, str]]]:
        """A prompt's few lines."""
        kinds = ", ".join(head.kind for head in self.heads)
        return f"TeacherOutputs in {self.folder}", [("samples", f"{len(self)}"), ("outputs", kinds)]

    def __len__(self) -> int:
        return len(self.logits[0])

    def targets(self, y: Any = None) -> dict[str, Any]:
        """Targets for a distiller's `fit`: labels, and beside them the logits, in the same order.

        Args:
            y: Labels; `None` where there are none.

        Raises:
            ValueError: For another number of samples.
        """
        counts = {len(each) for each in tree.flatten(y) if each is not None}
        if counts - {len(self)}:
            raise ValueError(
                f"Expected labels of the {len(self)} samples whose outputs were kept. Received: {sorted(counts)}"
            )
        kept: dict[str, Any] = {"teacher": tuple(self.logits)}
        return kept if y is None else {**kept, "labels": y}

    def batches(self, x: Any, y: Any = None, batch_size: int = 128, seed: int = 0) -> keras.utils.PyDataset:
        """Data for a distiller's `fit` that are read from the disk as they are needed, in a new order each epoch.

        Args:
            x: Inputs, arrays; memory-mapped ones stay so.
            y: Labels; `None` where there are none.
            batch_size: Samples in a batch.
            seed: Of the order.
        """
        return _Batches(x, self.targets(y), len(self), batch_size, seed)


def unpacked(targets: Any) -> tuple[Any, list[Any]]:
    """Labels and logits out of what `TeacherOutputs.targets` made.

    Raises:
        ValueError: For targets of another kind.
    """
    if not isinstance(targets, dict) or "teacher" not in targets or set(targets) - {"teacher", "labels"}:
        raise ValueError(
            "Expected the targets of a teacher whose outputs were kept: fit(x, outputs.targets(y)). "
            f"Received: {type(targets).__name__}"
        )
    return targets.get("labels"), tree.flatten(targets["teacher"])


class Writing:
    """The files of a run that may be stopped: what is recorded as done is on the disk.

    Args:
        folder: Where; made if it is not there.
        shapes: Shape of each output of all samples.
        heads: What each output is.
        digest: Of teacher and samples.

    Raises:
        ValueError: For a folder that holds outputs of another teacher or of other samples.
    """

    def __init__(self, folder: Path, shapes: Sequence[Sequence[int]], heads: Sequence[Head], digest: str) -> None:
        self._folder = folder
        described = [asdict(head) for head in heads]
        self._record = {"digest": digest, "heads": described, "shapes": [list(map(int, s)) for s in shapes]}
        folder.mkdir(parents=True, exist_ok=True)
        before = recorded(folder)
        if before is not None and {key: before.get(key) for key in self._record} != self._record:
            raise ValueError(
                f"Expected a folder for this teacher and these samples. Received: {str(folder)!r}, which holds others"
            )
        self.done = 0 if before is None else int(before["done"])
        mode: Any = "w+" if before is None else "r+"
        self.arrays = [
            np.lib.format.open_memmap(_file(folder, n), mode, np.float32, None if before else tuple(map(int, shape)))
            for n, shape in enumerate(shapes)
        ]

    def write(self, logits: Sequence[NDArray[np.float32]]) -> None:
        """The next samples' logits."""
        end = self.done + len(logits[0])
        for array, values in zip(self.arrays, logits, strict=True):
            array[self.done : end] = values
            array.flush()
        self.done = end
        # Behind the values, and whole or not at all.
        partial = self._folder / f"{_RECORD}.part"
        partial.write_text(json.dumps({**self._record, "done": end}), encoding="utf-8")
        partial.replace(self._folder / _RECORD)

    def finished(self) -> TeacherOutputs:
        """All of it, to be read."""
        return _opened(self._folder, self._record)


def recorded(folder: Path) -> dict[str, Any] | None:
    """What was written into a folder, `None` where nothing was."""
    path = folder / _RECORD
    if not path.is_file():
        return None
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def _file(folder: Path, number: int) -> Path:
    return folder / f"output_{number}.npy"


def _opened(folder: Path, record: dict[str, Any]) -> TeacherOutputs:
    arrays = tuple(np.load(_file(folder, n), mmap_mode="r") for n in range(len(record["shapes"])))
    return TeacherOutputs(arrays, tuple(Head(**each) for each in record["heads"]), folder)


class _Batches(keras.utils.PyDataset):
    def __init__(self, x: Any, targets: Any, samples: int, batch_size: int, seed: int) -> None:
        super().__init__()
        self._arrays, self._size = (x, targets), batch_size
        self._rng, self._order = np.random.default_rng(seed), np.arange(samples)
        self._rng.shuffle(self._order)

    @property
    def num_batches(self) -> int:
        return -(-len(self._order) // self._size)

    def __getitem__(self, index: int) -> Any:
        # Ascending, since a disk is read.
        rows = np.sort(self._order[index * self._size : (index + 1) * self._size])
        return tree.map_structure(lambda array: np.asarray(array[rows]), self._arrays)

    def on_epoch_end(self) -> None:
        self._rng.shuffle(self._order)
