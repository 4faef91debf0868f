"""What workers keep of a training at the end of an epoch, so that they go on behind it when all are started again."""

from __future__ import annotations

import io
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keras_compress.convert.files import make_folder, write_atomic
from keras_compress.gradients.codec import WorkerState
from keras_compress.pipelines.distributed_step import Exchange

_LATEST = "latest.json"


class EpochCheckpoints:
    """A folder that all workers reach: the last finished epoch's variables, and what each worker's codec remembers.

    Args:
        folder: Made if it is not there.
        said: What must be the same when a training goes on: the codec, the number of workers.
    """

    def __init__(self, folder: str | os.PathLike[str], said: Mapping[str, Any]) -> None:
        self.folder = make_folder(folder)
        self._said = dict(said)

    def save(self, exchange: Exchange, epochs: int, *, stopped: bool = False) -> None:
        """Keep a finished epoch: all workers write, then the first one says that it is whole.

        Args:
            exchange: What runs the steps.
            epochs: How many are finished.
            stopped: Whether a callback ended the training with this one.
        """
        workers, place = exchange.workers, make_folder(self.folder / f"epoch-{epochs:05}")
        for worker in workers.here:
            state = exchange.states.get(worker)
            arrays = {} if state is None else {"step": np.array(state.step), **state.arrays}
            write_atomic(place / f"worker-{worker}.npz", _packed(arrays))
        if 0 in workers.here:
            write_atomic(place / "variables.npz", _packed(_numbered(_variables(exchange))))
        workers.gather_plain([b""] * len(workers.here))  # nobody is behind
        if 0 in workers.here:
            kept = {**self._said, "epochs": epochs, "stopped": stopped}
            write_atomic(self.folder / _LATEST, json.dumps(kept).encode())
            for other in self.folder.glob("epoch-*"):
                if other != place:
                    shutil.rmtree(other, ignore_errors=True)

    def restore(self, exchange: Exchange) -> tuple[int, bool]:
        """Go back to the last epoch that was kept.

        Returns:
            How many are finished, 0 where none was, and whether a callback ended the training with the last.

        Raises:
            ValueError: For the folder of another training.
        """
        path = self.folder / _LATEST
        if not path.is_file():
            return 0, False
        kept = json.loads(path.read_text())
        epochs, stopped = int(kept.pop("epochs")), bool(kept.pop("stopped", False))
        if kept != self._said:
            raise ValueError(f"Expected the checkpoints of {self._said} in {self.folder}. Received: those of {kept}")
        place = self.folder / f"epoch-{epochs:05}"
        variables = _variables(exchange)
        stored = _unpacked(place / "variables.npz")
        if [tuple(v.shape) for v in variables] != [each.shape for each in stored.values()]:
            raise ValueError(f"Expected the variables of this model in {place}. Received: those of another one")
        for variable, value in zip(variables, stored.values(), strict=True):
            # NumPy's files have no bfloat16: it is kept as bytes.
            kind = np.asarray(variable.value).dtype
            variable.assign(value if value.dtype == kind else value.view(kind))
        for worker in exchange.workers.here:
            arrays = _unpacked(place / f"worker-{worker}.npz")
            if arrays:
                step = int(arrays.pop("step"))
                exchange.states[worker] = WorkerState(worker, exchange.workers.count, step, arrays)
        return epochs, stopped


def _variables(exchange: Exchange) -> list[Any]:
    replica = exchange.replica
    return [*replica.model.variables, *replica.optimizer.variables]


def _numbered(variables: Sequence[Any]) -> dict[str, NDArray[Any]]:
    return {f"{index:05}": np.asarray(v.value) for index, v in enumerate(variables)}


def _packed(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    content = io.BytesIO()
    # Names of weights have slashes and colons, which an archive may not take: they are a list of their own.
    plain = {f"{index:05}": _plain(each) for index, each in enumerate(arrays.values())}
    np.savez(content, names=np.array(list(arrays), dtype=np.str_), **plain)  # type: ignore[arg-type]
    return content.getvalue()


def _unpacked(path: Path) -> dict[str, NDArray[Any]]:
    with np.load(path, allow_pickle=False) as archive:
        return {str(name): archive[f"{index:05}"] for index, name in enumerate(archive["names"])}


def _plain(array: NDArray[Any]) -> NDArray[Any]:
    return array.view(np.uint16) if array.dtype.name == "bfloat16" else array
