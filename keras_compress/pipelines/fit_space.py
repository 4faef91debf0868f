"""What `fit_to` chooses among: settings of a compression, and how a search draws them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from keras_compress.core.suggest import did_you_mean

# What may be done to a model -> the fields of a setting that it moves.
METHODS: Mapping[str, tuple[str, ...]] = {
    "channels": ("channels",),
    "low_rank": ("params",),
    "sparsity": ("sparsity", "storage"),
    "clusters": ("clusters", "storage"),
    "bits": ("bits",),
    "training": ("training",),
}
# LiteRT decodes no weights: zeros and shared values take what others do.
_ENCODED = ("sparsity", "clusters")


@dataclass(frozen=True)
class Setting:
    """One compression.

    Attributes:
        channels: Share of the channels that are cut out, in [0, 1).
        params: Share of the weights that layers of low rank leave, in (0, 1]; 1: layers stay.
        sparsity: Share of zeros among what is left, in [0, 1).
        clusters: Values that a weight tensor has at most; 0: any.
        bits: Of weights: `"8"`, `"4"`, or `"4 or 8"`: layer by layer, 6 on average.
        training: `"ptq"`: quantized after training; `"qat"`: trained with the quantizers.
        storage: `"plain"`, or `"encoded"`: decoded by TFLite-Micro while it runs.
    """

    channels: float = 0.0
    params: float = 1.0
    sparsity: float = 0.0
    clusters: int = 0
    bits: str = "8"
    training: str = "ptq"
    storage: str = "plain"

    def __str__(self) -> str:
        parts = [
            f"{self.channels:.1%} of the channels cut" if self.channels else "",
            f"low rank, {self.params:.0%} of the weights" if self.params < 1 else "",
            f"{self.sparsity:.0%} zeros" if self.sparsity else "",
            f"{self.clusters} clusters" if self.clusters else "",
            f"weights of {self.bits} bits",
            self.training.upper(),
            "encoded" if self.storage == "encoded" else "",
        ]
        return ", ".join(part for part in parts if part)

    def steps(self) -> list[str]:
        """Kinds of the trainings that it takes, in order."""
        wanted = {"channels": (self.channels, self.params < 1), "prune": (self.sparsity,), "cluster": (self.clusters,)}
        kinds = [kind for kind, moved in wanted.items() for each in moved if each]
        return [*kinds, *(["quantize"] if self.training == "qat" else [])]

    def to_dict(self) -> dict[str, Any]:
        """As JSON types."""
        return asdict(self)


# What is tried first: int8 alone, trained, half of the channels, Deep Compression, and both.
_STARTS = (
    Setting(),
    Setting(training="qat"),
    Setting(channels=0.5, training="qat"),
    Setting(sparsity=0.8, clusters=16, training="qat", storage="encoded"),
    Setting(channels=0.5, sparsity=0.7, clusters=16, training="qat", storage="encoded"),
    Setting(channels=0.75, training="qat"),
)


@dataclass(frozen=True)
class Space:
    """The settings that a search may draw.

    Args:
        methods: Names out of `METHODS`.
        target: `"tflm"` or `"litert"`, where zeros and clusters save nothing and are left out.

    Raises:
        ValueError: For an unknown name, or none.
    """

    methods: tuple[str, ...]
    target: str

    @classmethod
    def of(cls, methods: Sequence[str] | None, target: str) -> Space:
        """All methods that change a file of the target, or those that are named."""
        if isinstance(methods, str):
            methods = (methods,)
        fitting = [name for name in METHODS if target == "tflm" or name not in _ENCODED]
        named = fitting if methods is None else list(methods)
        for name in named:
            if name not in METHODS:
                known = ", ".join(METHODS)
                raise ValueError(f"Expected `methods` out of {known}. Received: {name!r}{did_you_mean(name, METHODS)}")
        if left := [name for name in named if name not in fitting]:
            raise ValueError(f"Expected methods that make a file for {target!r} smaller. Received: {', '.join(left)}")
        if not named:
            raise ValueError(f"Expected at least one of `methods`, out of {', '.join(fitting)}. Received: none")
        return cls(tuple(named), target)

    def starts(self) -> list[Setting]:
        """The settings to begin with, those alone that stay within the methods."""
        return [each for each in _STARTS if not self._moved(each) - self._fields()]

    def suggest(self, trial: Any) -> Setting:
        """A setting drawn by Optuna's trial; what depends on another choice is asked for only where it applies."""
        drawn: dict[str, Any] = {}
        if "channels" in self.methods:
            drawn["channels"] = trial.suggest_float("channels", 0.0, 0.875, step=0.125)
        if "low_rank" in self.methods:
            drawn["params"] = trial.suggest_float("params", 0.25, 1.0, step=0.25)
        if "sparsity" in self.methods:
            drawn["sparsity"] = trial.suggest_float("sparsity", 0.0, 0.95, step=0.05)
        if "clusters" in self.methods:
            drawn["clusters"] = trial.suggest_categorical("clusters", [0, 8, 16, 32])
        packed = drawn.get("sparsity") or drawn.get("clusters")
        if "bits" in self.methods and not packed:
            drawn["bits"] = trial.suggest_categorical("bits", ["8", "4 or 8", "4"])
        if "training" in self.methods:
            drawn["training"] = trial.suggest_categorical("training", ["ptq", "qat"])
        if packed:
            drawn["storage"] = "encoded"
        return Setting(**{name: _rounded(value) for name, value in drawn.items()})

    def parameters(self, setting: Setting) -> dict[str, Any]:
        """What a trial has to be given for a setting."""
        packed = bool(setting.sparsity or setting.clusters)
        names = [name for method in self.methods for name in METHODS[method] if name != "storage"]
        return {name: getattr(setting, name) for name in names if not (packed and name == "bits")}

    def _fields(self) -> set[str]:
        return {name for method in self.methods for name in METHODS[method]}

    def _moved(self, setting: Setting) -> set[str]:
        return {each.name for each in fields(setting) if getattr(setting, each.name) != each.default}


def _rounded(value: Any) -> Any:
    """A step of 0.05 without the digits that adding it up leaves."""
    return round(value, 6) if isinstance(value, float) else value
