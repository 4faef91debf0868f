"""The operators of the intermediate graph: settings, number of inputs, shapes, and their table in the file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from keras_compress.ir import shapes
from keras_compress.ir.graph import Tensor
from keras_compress.ir.shapes import Infer
from keras_compress.tflite.grids import ConstantGrid

# An operator of the graph that no TFLite operator stands for: a float flatbuffer that computes it, put in line.
ISLAND = "ISLAND"
LSTM = "UNIDIRECTIONAL_SEQUENCE_LSTM"
ACTIVATIONS = ("NONE", "RELU", "RELU6", "RELU_N1_TO_1")
PADDINGS = ("SAME", "VALID")


@dataclass(frozen=True)
class Operator:
    """What is known of an operator.

    Attributes:
        infer: Shapes of its outputs.
        inputs: Fewest and most inputs.
        options: Name of its table in TFLite's schema, `""` for none.
        settings: Attribute -> default value, or the tuple of strings that it may be (the first is the default).
    """

    infer: Infer
    inputs: tuple[int, int] = (1, 1)
    options: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)

    def shapes_of(self, read: Sequence[Tensor | None], settings: Mapping[str, Any]) -> list[tuple[int, ...]]:
        """Shapes of the outputs.

        Args:
            read: The inputs; None for one that is left out.
            settings: All of them, see `complete`.

        Raises:
            ValueError: The inputs do not fit.
        """
        shapes = [None if t is None else t.shape for t in read]
        values = [None if t is None or isinstance(t.values, ConstantGrid) else t.values for t in read]
        return self.infer(shapes, values, settings)

    def complete(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """All settings, given or default.

        Raises:
            ValueError: A setting is unknown, or is not of its kind.
        """
        unknown = sorted(set(given) - set(self.settings))
        if unknown:
            raise ValueError(f"Expected attributes out of {sorted(self.settings)}. Received: {unknown}")
        completed = {}
        for name, kind in self.settings.items():
            choices = isinstance(kind, tuple) and kind
            default = kind[0] if choices else kind
            value = given.get(name, default)
            fits = value in kind if choices else type(value) is type(default)
            if not fits:
                raise ValueError(f"Expected {name} like {kind!r}. Received: {name}={value!r}")
            completed[name] = value
        return completed


_FUSED = {"activation": ACTIVATIONS}
_STRIDES = {"padding": PADDINGS, "stride_h": 1, "stride_w": 1}
_DILATED = {**_STRIDES, "dilation_h_factor": 1, "dilation_w_factor": 1, **_FUSED}
_POOL = {**_STRIDES, "filter_height": 1, "filter_width": 1, **_FUSED}
_MASKS = dict.fromkeys(("begin_mask", "end_mask", "ellipsis_mask", "new_axis_mask", "shrink_axis_mask"), 0)
_RESIZE = {"align_corners": False, "half_pixel_centers": False}
_MANY = 1 << 16

OPERATORS: dict[str, Operator] = {
    "CONV_2D": Operator(shapes.convolution, (2, 3), "Conv2DOptions", _DILATED),
    "DEPTHWISE_CONV_2D": Operator(
        shapes.depthwise, (2, 3), "DepthwiseConv2DOptions", {**_DILATED, "depth_multiplier": 1}
    ),
    "FULLY_CONNECTED": Operator(
        shapes.fully_connected, (2, 3), "FullyConnectedOptions", {**_FUSED, "keep_num_dims": False}
    ),
    "TRANSPOSE_CONV": Operator(shapes.transposed_convolution, (3, 4), "TransposeConvOptions", {**_STRIDES, **_FUSED}),
    "MAX_POOL_2D": Operator(shapes.pooling, (1, 1), "Pool2DOptions", _POOL),
    "AVERAGE_POOL_2D": Operator(shapes.pooling, (1, 1), "Pool2DOptions", _POOL),
    "ADD": Operator(shapes.broadcast, (2, 2), "AddOptions", _FUSED),
    "SUB": Operator(shapes.broadcast, (2, 2), "SubOptions", _FUSED),
    "MUL": Operator(shapes.broadcast, (2, 2), "MulOptions", _FUSED),
    "DIV": Operator(shapes.broadcast, (2, 2), "DivOptions", _FUSED),
    "MAXIMUM": Operator(shapes.broadcast, (2, 2), "MaximumMinimumOptions"),
    "MINIMUM": Operator(shapes.broadcast, (2, 2), "MaximumMinimumOptions"),
    "BATCH_MATMUL": Operator(shapes.batch_matmul, (2, 2), "BatchMatMulOptions", {"adj_x": False, "adj_y": False}),
    "CONCATENATION": Operator(shapes.concatenation, (1, _MANY), "ConcatenationOptions", {"axis": 0, **_FUSED}),
    "PACK": Operator(shapes.pack, (1, _MANY), "PackOptions", {"axis": 0, "values_count": 1}),
    "UNPACK": Operator(shapes.unpack, (1, 1), "UnpackOptions", {"axis": 0, "num": 1}),
    "SPLIT": Operator(shapes.split, (2, 2), "SplitOptions", {"num_splits": 1}),
    "RESHAPE": Operator(shapes.reshape, (2, 2), "ReshapeOptions", {"new_shape": ()}),
    "BROADCAST_TO": Operator(shapes.given, (2, 2), "BroadcastToOptions"),
    "TRANSPOSE": Operator(shapes.transpose, (2, 2), "TransposeOptions"),
    "PAD": Operator(shapes.pad, (2, 2), "PadOptions"),
    "MIRROR_PAD": Operator(shapes.pad, (2, 2), "MirrorPadOptions", {"mode": ("REFLECT", "SYMMETRIC")}),
    "STRIDED_SLICE": Operator(shapes.strided_slice, (4, 4), "StridedSliceOptions", _MASKS),
    "REVERSE_V2": Operator(shapes.first, (2, 2), "ReverseV2Options"),
    "RESIZE_NEAREST_NEIGHBOR": Operator(shapes.resize, (2, 2), "ResizeNearestNeighborOptions", _RESIZE),
    "RESIZE_BILINEAR": Operator(shapes.resize, (2, 2), "ResizeBilinearOptions", _RESIZE),
    **{
        kind: Operator(shapes.reduction, (2, 2), "ReducerOptions", {"keep_dims": False})
        for kind in ("MEAN", "SUM", "REDUCE_MAX", "REDUCE_MIN")
    },
    **{
        kind: Operator(shapes.extreme, (2, 2), f"Arg{kind[4:].capitalize()}Options", {"output_type": "int32"})
        for kind in ("ARG_MAX", "ARG_MIN")
    },
    "GATHER": Operator(shapes.gather, (2, 2), "GatherOptions", {"axis": 0, "batch_dims": 0}),
    "PRELU": Operator(shapes.parametric_relu, (2, 2)),
    "SOFTMAX": Operator(shapes.first, (1, 1), "SoftmaxOptions", {"beta": 1.0}),
    "LOG_SOFTMAX": Operator(shapes.first, (1, 1), "LogSoftmaxOptions"),
    "LEAKY_RELU": Operator(shapes.first, (1, 1), "LeakyReluOptions", {"alpha": 0.0}),
    "GELU": Operator(shapes.first, (1, 1), "GeluOptions", {"approximate": False}),
    "EXP": Operator(shapes.first, (1, 1), "ExpOptions"),
    "ABS": Operator(shapes.first, (1, 1), "AbsOptions"),
    "HARD_SWISH": Operator(shapes.first, (1, 1), "HardSwishOptions"),
    "QUANTIZE": Operator(shapes.first, (1, 1), "QuantizeOptions"),
    "CAST": Operator(shapes.first, (1, 1), "CastOptions", {"in_data_type": "float32", "out_data_type": "int32"}),
    **{
        kind: Operator(shapes.first)
        for kind in ("RELU", "RELU6", "RELU_N1_TO_1", "LOGISTIC", "TANH", "ELU", "LOG", "RSQRT", "SQRT", "SIN", "COS")
    },
    # With a sequence as its only input: the other operands are made when it gets its integers.
    LSTM: Operator(shapes.recurrent, settings={"units": 0, "integers": b""}),
    # Its shapes are those of its flatbuffer, which the builder reads.
    ISLAND: Operator(shapes.first, (0, _MANY), settings={"content": b""}),
}
