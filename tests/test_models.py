from __future__ import annotations

import keras
import numpy as np
import pytest

from keras_compress.demo import datasets, models


@pytest.mark.parametrize(
    ("name", "input_shape", "parameters"),
    [
        ("digits_cnn", (8, 8, 1), 22_914),
        ("lenet5", (28, 28, 1), 431_080),
        ("lenet300", (28, 28, 1), 266_610),
        ("resnet20", (28, 28, 1), 273_754),
        ("resnet20", (32, 32, 3), 274_042),
        ("resnet8", (28, 28, 1), 309_930),
    ],
)
def test_parameter_counts(name: str, input_shape: models.Shape, parameters: int) -> None:
    model = models.build(name, input_shape)
    assert model.count_params() == parameters
    assert model.input_shape == (None, *input_shape)
    assert model.output_shape == (None, 10)


def test_layer_names_are_stable() -> None:
    assert [layer.name for layer in models.digits_cnn().layers] == [
        "image", "stem", "stem_norm", "stem_relu", "depthwise", "depthwise_norm", "depthwise_relu",
        "pointwise", "pointwise_norm", "residual", "residual_relu", "pool", "flatten", "hidden", "logits",
    ]  # fmt: skip
    first, second = models.resnet20(), models.resnet20()
    assert [layer.name for layer in first.layers] == [layer.name for layer in second.layers]
    convs = [layer for layer in first.layers if isinstance(layer, keras.layers.Conv2D)]
    # 19 convs and the dense layer make 20; the two projections are not counted.
    assert len([layer for layer in convs if "shortcut" not in layer.name]) == 19
    assert len(convs) == 21


@pytest.mark.parametrize("name", sorted(models.MODELS))
def test_outputs_are_logits_and_follow_the_seed(name: str) -> None:
    def logits(seed: int) -> np.ndarray:
        keras.utils.set_random_seed(seed)
        model = models.build(name)
        images = np.random.default_rng(7).uniform(size=(2, *model.input_shape[1:])).astype(np.float32)
        return np.asarray(model(images))

    np.testing.assert_array_equal(logits(1), logits(1))
    assert not np.allclose(logits(1), logits(2))
    assert logits(1).min() < 0


def test_digits_cnn_learns_in_seconds(digits: datasets.Dataset) -> None:
    keras.utils.set_random_seed(0)
    model = models.digits_cnn()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(2e-3), loss, metrics=["accuracy"])
    model.fit(digits.x_train, digits.y_train, batch_size=64, epochs=14, verbose=0)
    accuracy = model.evaluate(digits.x_test, digits.y_test, verbose=0)[1]
    assert accuracy >= 0.97


def test_build_passes_classes_and_shape_on() -> None:
    assert models.build("lenet300", (4, 5, 3), num_classes=7).count_params() == 60 * 300 + 300 + 30_100 + 707


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"name": "alexnet"},
            r"Expected one of \['digits_cnn', 'lenet300', .*\]. Received: name='alexnet'",
        ),
        ({"name": "lenet5", "num_classes": 1}, "Expected num_classes >= 2. Received: num_classes=1"),
        (
            {"name": "lenet5", "input_shape": (8, 8, 1)},
            r"height and width >= 16.*Received: input_shape=\(8, 8",
        ),
        ({"name": "resnet20", "input_shape": (8, 8)}, r"Expected input_shape=\(height, width, channels\)"),
    ],
)
def test_build_refuses(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        models.build(**arguments)
