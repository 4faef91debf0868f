"""Which networks `zoo.py` measures: every family of `keras.applications`, one small and one large member."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Member:
    """One network.

    Attributes:
        family: Its family.
        size: `"small"` or `"large"`.
        builder: Name in `keras.applications`, or `"tiny"`: a network of seconds that tests this script.
        arguments: Of the builder.
        input_size: Height and width where they are not the builder's own, with the reason in `note`.
        note: Why something differs from the builder's defaults.
    """

    family: str
    size: str
    builder: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    input_size: int | None = None
    note: str = ""

    @property
    def name(self) -> str:
        """Builder and what is special about it, fit for a file name."""
        return "_".join([self.builder, *(f"{key}{value}" for key, value in self.arguments.items())])


_TRAINING_MEMORY = "smaller images: a training step at the builder's own size would need more memory than there is"
_OPEN_SIZE = "the builder's own size is open; converting needs one"
MEMBERS = (
    Member("MobileNet", "small", "MobileNet", {"alpha": 0.25}),
    Member("MobileNet", "large", "MobileNet"),
    Member("MobileNetV2", "small", "MobileNetV2", {"alpha": 0.35}),
    Member("MobileNetV2", "large", "MobileNetV2", {"alpha": 1.4}),
    Member("MobileNetV3", "small", "MobileNetV3Small", input_size=224, note=_OPEN_SIZE),
    Member("MobileNetV3", "large", "MobileNetV3Large", input_size=224, note=_OPEN_SIZE),
    Member("EfficientNet", "small", "EfficientNetB0"),
    Member("EfficientNet", "large", "EfficientNetB7", input_size=300, note=_TRAINING_MEMORY),
    Member("EfficientNetV2", "small", "EfficientNetV2B0"),
    Member("EfficientNetV2", "large", "EfficientNetV2L", input_size=256, note=_TRAINING_MEMORY),
    Member("ResNet", "small", "ResNet50"),
    Member("ResNet", "large", "ResNet152"),
    Member("ResNetV2", "small", "ResNet50V2"),
    Member("ResNetV2", "large", "ResNet152V2"),
    Member("DenseNet", "small", "DenseNet121"),
    Member("DenseNet", "large", "DenseNet201"),
    Member("Inception", "small", "InceptionV3"),
    Member("Inception", "large", "InceptionResNetV2"),
    Member("Xception", "large", "Xception", note="the family has one member"),
    Member("NASNet", "small", "NASNetMobile"),
    Member("NASNet", "large", "NASNetLarge", input_size=224, note=_TRAINING_MEMORY),
    Member("VGG", "small", "VGG16"),
    Member("VGG", "large", "VGG19"),
    Member("ConvNeXt", "small", "ConvNeXtTiny"),
    Member("ConvNeXt", "large", "ConvNeXtLarge", note="XLarge: the TF converter's own quantization needs over 20 GB"),
)
TINY = Member("tiny", "small", "tiny")


def member(name: str) -> Member:
    """The network called `name`.

    Raises:
        ValueError: There is none.
    """
    for each in (*MEMBERS, TINY):
        if each.name == name:
            return each
    raise ValueError(f"Expected a network out of {[each.name for each in MEMBERS]}. Received: {name!r}")
