from __future__ import annotations

import gzip
import hashlib
import struct
from pathlib import Path

import numpy as np
import pytest

from keras_compress.demo import datasets


def test_digits_have_the_documented_split_and_range(digits: datasets.Dataset) -> None:
    assert digits.x_train.shape == (1437, 8, 8, 1)
    assert digits.x_test.shape == (360, 8, 8, 1)
    assert digits.x_train.dtype == digits.x_test.dtype == np.float32
    assert (digits.x_train.min(), digits.x_train.max()) == (0.0, 1.0)
    assert digits.num_classes == 10
    assert digits.input_shape == (8, 8, 1)


def test_digits_are_stratified_and_shuffled(digits: datasets.Dataset) -> None:
    np.testing.assert_array_equal(np.bincount(digits.y_test), [36, 36, 35, 37, 36, 37, 36, 36, 35, 36])
    np.testing.assert_array_equal(digits.y_test[:12], [7, 6, 3, 7, 7, 3, 2, 8, 9, 3, 2, 6])


def test_digits_are_the_same_on_each_load(digits: datasets.Dataset) -> None:
    again = datasets.load("digits")
    for name in ("x_train", "y_train", "x_test", "y_test"):
        np.testing.assert_array_equal(getattr(again, name), getattr(digits, name))


def test_no_digit_is_in_both_parts(digits: datasets.Dataset) -> None:
    def digests(images: np.ndarray) -> set[str]:
        return {hashlib.sha1(image.tobytes()).hexdigest() for image in images}

    # All 1,797 digits are distinct images, so a leak would make the union smaller.
    assert len(digests(digits.x_train) | digests(digits.x_test)) == 1797


def test_fashion_mnist_is_the_real_one(fashion_mnist: datasets.Dataset) -> None:
    assert fashion_mnist.x_train.shape == (60000, 28, 28, 1)
    assert fashion_mnist.x_test.shape == (10000, 28, 28, 1)
    assert fashion_mnist.x_train.dtype == np.float32
    assert fashion_mnist.x_train.max() == 1.0
    np.testing.assert_array_equal(fashion_mnist.y_train[:6], [9, 0, 0, 3, 0, 2])
    np.testing.assert_array_equal(np.bincount(fashion_mnist.y_test), [1000] * 10)


def test_missing_fashion_mnist_names_package_and_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KERAS_COMPRESS_DATA", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="dataset-fashion-mnist.*KERAS_COMPRESS_DATA") as caught:
        datasets.load("fashion_mnist")
    assert str(tmp_path) in str(caught.value)


def write_fashion_mnist(folder: Path, samples: int) -> None:
    """A tiny set in the same format: image i is filled with the value 51 * i, its label is i."""
    for part in ("train", "t10k"):
        images = b"".join(bytes([51 * i]) * 784 for i in range(samples))
        header = struct.pack(">4B3I", 0, 0, 8, 3, samples, 28, 28)
        (folder / f"{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(header + images))
        labels = struct.pack(">4BI", 0, 0, 8, 1, samples) + bytes(range(samples))
        (folder / f"{part}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(labels))


@pytest.mark.parametrize("subfolder", [".", "fashion-mnist"])
def test_folder_of_the_users_choice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, subfolder: str) -> None:
    folder = tmp_path / subfolder
    folder.mkdir(exist_ok=True)
    write_fashion_mnist(folder, samples=5)
    monkeypatch.setenv("KERAS_COMPRESS_DATA", str(tmp_path))
    dataset = datasets.load("fashion_mnist")
    np.testing.assert_array_equal(dataset.y_train, [0, 1, 2, 3, 4])
    np.testing.assert_allclose(dataset.x_train[:, 7, 20, 0], [0.0, 0.2, 0.4, 0.6, 0.8], rtol=1e-6)


@pytest.mark.parametrize("damage", ["truncated gzip", "not gzip", "short payload", "wrong magic"])
def test_damaged_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str) -> None:
    write_fashion_mnist(tmp_path, samples=3)
    path = tmp_path / "train-images-idx3-ubyte.gz"
    content = path.read_bytes()
    plain = gzip.decompress(content)
    path.write_bytes(
        {
            "truncated gzip": content[: len(content) // 2],
            "not gzip": b"<html>404</html>",
            "short payload": gzip.compress(plain[:-1]),
            "wrong magic": gzip.compress(b"\x00\x00\x0d\x03" + plain[4:]),
        }[damage]
    )
    monkeypatch.setenv("KERAS_COMPRESS_DATA", str(tmp_path))
    with pytest.raises(ValueError, match="Expected .* IDX file.*train-images-idx3-ubyte.gz"):
        datasets.load("fashion_mnist")


def test_unknown_name_lists_the_known() -> None:
    with pytest.raises(ValueError, match=r"one of \['digits', 'fashion_mnist'\]. Received: name='mnist'"):
        datasets.load("mnist")
