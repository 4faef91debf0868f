"""What both sides of `peers.py` share: data in the same order, epochs, sizes. Needs NumPy and TensorFlow only."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

BATCH_SIZE = 128
CLUSTERS = 16
INITIAL_SPARSITY, FINAL_SPARSITY = 0.3, 0.9
# Stage -> epochs, each after the one before.
EPOCHS = {"float": 6, "pruned": 6, "clustered": 3, "pcqat": 2}
# Pruning ends here, of 2,814 steps; the others train what is left.
PRUNING_STEPS, FREQUENCY = 1900, 100


@dataclass(frozen=True)
class Job:
    """One side's work on one model and one seed.

    Attributes:
        work: Folder of the data and of all jobs' results.
        side: `"keras_compress"` or `"tfmot"`.
        model: `"lenet300"` or `"lenet5"`.
        seed: Of weights, order of the data, and initial centroids.
        quick: One epoch on little data, to check the script.
    """

    work: Path
    side: str
    model: str
    seed: int
    quick: bool

    @property
    def folder(self) -> Path:
        return self.work / self.side / f"{self.model}_{self.seed}"

    @property
    def initial_weights(self) -> Path:
        """Both sides start from these."""
        return self.work / f"initial_{self.model}_{self.seed}.npz"

    def epochs(self, stage: str) -> int:
        return 1 if self.quick else EPOCHS[stage]

    def arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """`x_train, y_train, x_test, y_test`."""
        with np.load(self.work / "data.npz") as data:
            x_train, y_train, x_test, y_test = (data[k] for k in ("x_train", "y_train", "x_test", "y_test"))
        if self.quick:
            x_train, y_train, x_test, y_test = x_train[:2560], y_train[:2560], x_test[:500], y_test[:500]
        return x_train.astype("float32") / 255.0, y_train, x_test.astype("float32") / 255.0, y_test

    def pruning(self) -> dict[str, int]:
        """When to prune."""
        if self.quick:
            return {"begin_step": 0, "end_step": 15, "frequency": 5}
        return {"begin_step": 0, "end_step": PRUNING_STEPS, "frequency": FREQUENCY}

    def training_data(self, stage: str) -> Any:
        """Shuffled anew each epoch, in the same order on both sides."""
        x, y, _, _ = self.arrays()
        x, y = tf.constant(x), tf.constant(y)
        order = tf.data.Dataset.range(len(x)).shuffle(len(x), seed=self.seed * 10 + list(EPOCHS).index(stage))
        return order.batch(BATCH_SIZE).map(lambda i: (tf.gather(x, i), tf.gather(y, i))).prefetch(2)

    def timing_data(self) -> Any:
        """Whole batches without end, without the cost of shuffling."""
        x, y, _, _ = self.arrays()
        return tf.data.Dataset.from_tensor_slices((x[:2560], y[:2560])).batch(BATCH_SIZE).cache().repeat()

    @property
    def endless_pruning(self) -> dict[str, int]:
        """A schedule under which each block of 100 steps holds one update of the masks."""
        return {"begin_step": 0, "end_step": 100_000, "frequency": FREQUENCY}

    def timing_blocks(self) -> dict[str, int]:
        return {"block_steps": 10, "blocks": 2} if self.quick else {"block_steps": 100, "blocks": 9}

    def finished(self, stage: str) -> bool:
        return (self.folder / f"{stage}.json").is_file()

    def stage(self, stage: str, make: Callable[[], dict[str, Any]]) -> None:
        """Run a stage unless its row is there already."""
        if self.finished(stage):
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        row = make()
        unfinished = self.folder / f"{stage}.json.unfinished"
        unfinished.write_text(json.dumps(row))
        os.replace(unfinished, self.folder / f"{stage}.json")


def job_from_arguments(side: str, arguments: list[str]) -> Job:
    """The job that `peers.py` names on the command line: folder, model, seed, `quick` or `full`."""
    work, model, seed, size = arguments
    return Job(Path(work), side, model, int(seed), size == "quick")
