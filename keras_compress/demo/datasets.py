"""Small real data sets that load offline: 8x8 digits and Fashion-MNIST."""

from __future__ import annotations

import gzip
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

FASHION_MNIST_DIRECTORY = Path("/usr/share/datasets/fashion-mnist")
DATA_VARIABLE = "KERAS_COMPRESS_DATA"
_SPLIT_SEED = 0
_IDX_UINT8 = 0x08


@dataclass(frozen=True)
class Dataset:
    """Images in [0, 1] with labels, split into training and test.

    Attributes:
        name: Name that `load` knows.
        x_train: float32 images in [0, 1], shape `(samples, height, width, channels)`.
        y_train: int64 labels in `range(num_classes)`, shape `(samples,)`.
        x_test: As `x_train`.
        y_test: As `y_train`.
        num_classes: Number of classes.
    """

    name: str
    x_train: NDArray[np.float32]
    y_train: NDArray[np.int64]
    x_test: NDArray[np.float32]
    y_test: NDArray[np.int64]
    num_classes: int

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Shape of one image: `(height, width, channels)`."""
        height, width, channels = self.x_train.shape[1:]
        return height, width, channels


def load(name: str) -> Dataset:
    """Loads a data set from this machine; nothing is downloaded.

    Args:
        name: `"digits"` (1,437 training and 360 test images of 8x8x1, inside the scikit-learn wheel) or
            `"fashion_mnist"` (60,000 and 10,000 images of 28x28x1).

    Returns:
        The same split in the same order each time.

    Raises:
        ValueError: Unknown name, or a data file with unexpected content.
        FileNotFoundError: The Fashion-MNIST files are neither where the Debian package puts them nor in the
            folder that the environment variable `KERAS_COMPRESS_DATA` names.

    >>> load("digits").x_train.shape
    (1437, 8, 8, 1)
    """
    if name not in LOADERS:
        raise ValueError(f"Expected one of {sorted(LOADERS)}. Received: name={name!r}")
    return LOADERS[name]()


def _load_digits() -> Dataset:
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    images, labels = load_digits(return_X_y=True)
    # The pixels are counts 0..16.
    images = (images.reshape(-1, 8, 8, 1) / 16.0).astype(np.float32)
    x_train, x_test, y_train, y_test = train_test_split(
        images, labels.astype(np.int64), test_size=360, random_state=_SPLIT_SEED, stratify=labels
    )
    return Dataset("digits", x_train, y_train, x_test, y_test, num_classes=10)


def _load_fashion_mnist() -> Dataset:
    directory = _fashion_mnist_directory()

    def images(part: str) -> NDArray[np.float32]:
        pixels = _read_idx(directory / f"{part}-images-idx3-ubyte.gz", dimensions=3)
        scaled: NDArray[np.float32] = pixels[..., np.newaxis].astype(np.float32) / np.float32(255)
        return scaled

    def labels(part: str) -> NDArray[np.int64]:
        return _read_idx(directory / f"{part}-labels-idx1-ubyte.gz", dimensions=1).astype(np.int64)

    return Dataset("fashion_mnist", images("train"), labels("train"), images("t10k"), labels("t10k"), num_classes=10)


def _fashion_mnist_directory() -> Path:
    """The folder of the user's choice if one is named, else the Debian package's."""
    chosen = os.environ.get(DATA_VARIABLE)
    places = [Path(chosen), Path(chosen) / "fashion-mnist"] if chosen else [FASHION_MNIST_DIRECTORY]
    for place in places:
        if (place / "train-images-idx3-ubyte.gz").is_file():
            return place
    raise FileNotFoundError(
        "Expected the Fashion-MNIST files (train-images-idx3-ubyte.gz and the three others). Install them "
        "with `apt-get install dataset-fashion-mnist` (Debian, Ubuntu), or put them into a folder and set "
        f"the environment variable {DATA_VARIABLE} to it. Received: none in {', '.join(map(str, places))}"
    )


def _read_idx(path: Path, dimensions: int) -> NDArray[np.uint8]:
    """Reads a gzipped IDX file: magic 0, 0, type, dimensions; big-endian sizes; then the bytes."""
    try:
        content = gzip.decompress(path.read_bytes())
    except (EOFError, gzip.BadGzipFile) as error:
        raise ValueError(f"Expected a gzipped IDX file. Received: {path} ({error})") from error
    header_size = 4 + 4 * dimensions
    shape = tuple(int(size) for size in np.frombuffer(content[4:header_size], dtype=">u4"))
    if content[:4] != bytes([0, 0, _IDX_UINT8, dimensions]) or len(content) - header_size != np.prod(shape):
        raise ValueError(
            f"Expected an IDX file of uint8 values with {dimensions} dimensions. Received: {path} "
            f"with header {content[:header_size].hex()} and {len(content):,} bytes"
        )
    return np.frombuffer(content, dtype=np.uint8, offset=header_size).reshape(shape)


LOADERS: dict[str, Callable[[], Dataset]] = {
    "digits": _load_digits,
    "fashion_mnist": _load_fashion_mnist,
}
