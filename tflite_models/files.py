"""Which files there are, how each is converted, and what its card tells that is not measured."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import keras_compress as kc
from keras_compress.convert.artifact import Artifact

LICENCE = "Apache-2.0"
LABELS = {
    "digits": [str(digit) for digit in range(10)],
    "fashion_mnist": [
        "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
    ],
}  # fmt: skip
TASKS = {
    "digits": "Which digit an 8x8 grey image shows.",
    "fashion_mnist": "Which of ten kinds of clothes a 28x28 grey image shows.",
}
# The largest value of a pixel in the data as they are published.
_WHITE = {"digits": 16.0, "fashion_mnist": 255.0}


@dataclass(frozen=True)
class File:
    """One file of the folder.

    Attributes:
        stage: The trained model, by its name in `trained.Stages`.
        made: How it is made, for its card.
        baseline: The file that its latency is compared with.
        options: Of `kc.convert`.
    """

    stage: str
    made: str
    baseline: str
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def data(self) -> str:
        """Name of the data set."""
        return "digits" if self.stage.startswith("digits") else "fashion_mnist"

    @property
    def runtimes(self) -> tuple[str, ...]:
        """Those that run it: what is encoded for TFLite-Micro runs there alone."""
        return ("tflm",) if self.options.get("target") == "tflm" else ("litert", "tflm")


_INT8 = {"io": "int8"}
_ENCODED = {"io": "int8", "target": "tflm", "weights_storage": "auto"}
FILES = {
    "digits_float": File(
        "digits_base", "`digits_cnn` of the demo, 22,914 parameters, trained for 40 epochs.",
        "digits_float", {"mode": "float32"},
    ),
    "digits_int8": File(
        "digits_small",
        "`digits_float`, pruned (the 1x1 convolution and the first dense layer, 30 % to 80 % zeros, 30 epochs), "
        "clustered to 16 values, zero included (10 epochs), trained with 8-bit weights and activations (15 epochs).",
        "digits_float", _INT8,
    ),
    "digits_encoded": File(
        "digits_small",
        "The model of `digits_int8`, its weights stored encoded; TFLite-Micro decodes those of a layer before it runs.",
        "digits_int8", _ENCODED,
    ),
    "fashion_float": File(
        "fashion_base",
        "Four convolutions with batch normalization and a dense layer, 52,890 parameters, trained for 8 epochs.",
        "fashion_float", {"mode": "float32"},
    ),
    "fashion_int8": File(
        "fashion_int8", "`fashion_float`, trained with 8-bit weights and activations for 2 epochs.",
        "fashion_float", _INT8,
    ),
    "fashion_w4a4": File(
        "fashion_w4a4",
        "`fashion_float`, trained with 4-bit weights and activations (LSQ) for 5 epochs; first and last layer "
        "have 8 bits. Two weights lie in a byte; activations take 16 values of an int8 tensor.",
        "fashion_int8", _INT8 | {"weights_storage": "int4"},
    ),
    "fashion_ternary": File(
        "fashion_ternary",
        "`fashion_float`, trained with ternary weights (TWN: -1, 0 and 1 times a scale) and 8-bit activations for 5 "
        "epochs; first and last layer have 8 bits. The weights are stored encoded.",
        "fashion_int8", _ENCODED,
    ),
    "fashion_channels": File(
        "fashion_channels",
        "`fashion_float` with whole channels cut to 40 % of its multiplications, the smallest gammas first, trained "
        "for 4 epochs, and for 2 with 8-bit weights and activations.",
        "fashion_int8", _INT8,
    ),
    "fashion_encoded": File(
        "fashion_small",
        "`fashion_float`, pruned to 85 % zeros but for the first layer (5 epochs), clustered to 16 values (2 epochs), "
        "trained with 8-bit weights and activations (2 epochs). The weights are stored encoded.",
        "fashion_int8", _ENCODED,
    ),
}  # fmt: skip
# The one that is there as C++ sources too, for TFLite-Micro, and where.
EXPORTED, SOURCES = "digits_encoded", "cpp"


def metadata(name: str) -> kc.Metadata | None:
    """What a file says of itself; the library writes it into files for LiteRT."""
    file = FILES[name]
    if "litert" not in file.runtimes:
        return None
    return kc.Metadata(
        name=name,
        description=TASKS[file.data],
        author="keras_compress",
        license=LICENCE,
        mean=0.0,
        std=_WHITE[file.data],
        color="GRAYSCALE",
        labels=LABELS[file.data],
    )


def converted(name: str, model: Any, x: Any) -> Artifact:
    """The file of a trained model, after the library has compared it with the model on the images `x`."""
    options = FILES[name].options
    if "mode" not in options:
        # Verified with float inputs and outputs, so that their rounding is compared too; the file takes integers.
        kc.verify(kc.convert(model, **{**options, "io": "float32"}), model, x)
    return kc.convert(model, **options, metadata=metadata(name))
