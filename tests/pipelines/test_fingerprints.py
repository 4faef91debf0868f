"""What decides a pipeline's results is told apart, and is the same in another process."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_compress as kc
from keras_compress.pipelines.fingerprints import fingerprint

LIMIT = 0.5


def net(activation: Any = "relu", strides: int = 1, units: int = 3, **dense: Any) -> keras.Model:
    keras.utils.set_random_seed(0)
    layers = keras.layers
    kernel = layers.Conv2D(4, 3, strides=strides, activation=activation, name="c")
    head = [layers.GlobalAveragePooling2D(name="g"), layers.Dense(units, name="d", **dense)]
    return keras.Sequential([keras.Input((8, 8, 1)), kernel, *head])


def test_architectures_of_equal_weights() -> None:
    kinds = [net(), net("tanh"), net(strides=2), net(kernel_regularizer="l2"), net(lambda t: t * 2.0)]
    kinds += [net(lambda t: t * 3.0), kc.prune_low_magnitude(net()), kc.prune_low_magnitude(net(), filters="d")]
    prints = [json.dumps(fingerprint(kind)) for kind in kinds]
    assert len(set(prints)) == len(kinds)
    assert np.all([(a == b).all() for a, b in zip(kinds[0].get_weights(), kinds[1].get_weights())])
    # The same program in the same session: Keras calls the model and its input something else.
    again = net()
    assert again.name != kinds[0].name
    assert fingerprint(again) == fingerprint(kinds[0])
    again.layers[-1].bias.assign_add([0.0, 0.0, 1e-3])
    assert fingerprint(again) != fingerprint(kinds[0])


def test_layers_that_users_write() -> None:
    def made(factor: float) -> keras.Model:
        class Scaled(keras.layers.Layer):
            def call(self, inputs: Any) -> Any:
                return inputs * factor

        class Doubled(Scaled):
            def call(self, inputs: Any) -> Any:
                return super().call(inputs) * 2.0

        inputs = keras.Input((2,))
        return keras.Model(inputs, Doubled(name="s")(Scaled(name="t")(inputs)))

    assert fingerprint(made(1.0)) == fingerprint(made(1.0))
    assert fingerprint(made(1.0)) != fingerprint(made(2.0))


def closing_over(number: Any) -> Any:
    return lambda outputs, y: number


def with_default(number: float) -> Any:
    def metric(outputs: Any, y: Any, *, weight: float = number) -> float:
        return weight

    return metric


def with_inner(number: float) -> Any:
    return {1.0: lambda o, y: max(o, key=lambda each: each + 1), 2.0: lambda o, y: max(o, key=lambda each: each + 2)}[
        number
    ]


class Weighted:
    def __init__(self, number: float) -> None:
        self.number = number

    def __call__(self, outputs: Any, y: Any) -> float:
        return self.number

    def score(self, outputs: Any, y: Any) -> float:
        return self.number


def scored(outputs: Any, y: Any) -> float:
    return LIMIT


MAKERS = [
    *(closing_over, with_default, with_inner, Weighted, lambda n: Weighted(n).score),
    *(
        lambda n: functools.partial(scored, weight=n),
        lambda n: closing_over([n]),
        lambda n: closing_over(np.array([n])),
    ),
    *(lambda n: closing_over(closing_over(n)), lambda n: closing_over(keras.losses.Huber(n))),
    *(keras.losses.Huber, lambda n: keras.metrics.MeanMetricWrapper(scored, weight=n)),
    *(keras.optimizers.Adam, lambda n: keras.optimizers.SGD(keras.optimizers.schedules.CosineDecay(n, 9))),
    *(lambda n: {"loss": {"a": n}}, lambda n: (n,), lambda n: {n}, lambda n: [None, n == 1.0]),
    *(lambda n: kc.ConstantSparsity(n / 4, begin_step=0), lambda n: np.full((2,), n), lambda n: n),
]


@pytest.mark.parametrize("make", MAKERS)
def test_what_is_called_and_configured(make: Any) -> None:
    assert fingerprint(make(1.0)) == fingerprint(make(1.0))
    assert fingerprint(make(1.0)) != fingerprint(make(2.0))
    json.dumps(fingerprint(make(1.0)))


def test_numbers_of_the_module(monkeypatch: pytest.MonkeyPatch) -> None:
    before = fingerprint(scored)
    monkeypatch.setitem(globals(), "LIMIT", 0.7)
    assert fingerprint(scored) != before


def test_arrays() -> None:
    same = np.arange(6.0)
    assert fingerprint([same, {"a": 1}]) == fingerprint([same.copy(), {"a": 1}])
    assert fingerprint(same) != fingerprint(same.reshape(2, 3)) != fingerprint(same.astype("float32"))
    assert fingerprint(keras.ops.convert_to_tensor(same)) == fingerprint(keras.ops.convert_to_numpy(same))
    assert len({repr(fingerprint(each)) for each in (True, 1, 1.0, "1.0", None, "None")}) == 6
    data = [tf.data.Dataset.from_tensors(np.zeros(shape, np.float32)) for shape in ((2,), (3,))]
    assert fingerprint(data[0]) != fingerprint(data[1])


def test_what_a_fit_keeps_for_itself() -> None:
    def make(names: list[str], rate: float) -> Any:
        def fit(model: Any, stage: Any) -> None:
            names.append(f"{stage} {rate}")

        return fit

    assert fingerprint(make([], 0.1), state=False) == fingerprint(make(["a"], 0.1), state=False)
    assert fingerprint(make([], 0.1), state=False) != fingerprint(make([], 0.2), state=False)
    endless: list[Any] = []
    endless.append(endless)
    json.dumps(fingerprint(closing_over(endless)))


def test_another_process_finds_the_same() -> None:
    code = (
        "import importlib.util, json\n"
        f"spec = importlib.util.spec_from_file_location('fingerprinted', {__file__!r})\n"
        "t = importlib.util.module_from_spec(spec)\n"
        "spec.loader.exec_module(t)\n"
        "made = [make(1.0) for make in t.MAKERS] + [t.net(), t.net(lambda x: x * 2.0), t.scored, {'b', 'a', 'c'}]\n"
        "found = json.dumps(t.fingerprint(made))"
    )
    here: dict[str, Any] = {}
    exec(code, here)
    command = [sys.executable, "-c", f"{code}\nprint(found)"]
    there = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert there.strip() == here["found"]
