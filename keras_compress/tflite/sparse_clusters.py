"""Where XNNPACK computes 1x1 convolutions without their zeros, and where it would compute something else.

A file in which DENSIFY gives a float32 weight makes XNNPACK look for clusters of operators that it can compute with
the channels first, as its sparse kernels want them: it marks operators that can be, joins those that feed each other,
gives a cluster up where one of its tensors is read from outside, and takes what is left if more than two thirds of the
weights of its 1x1 convolutions are zeros. It does so on Arm, in WebAssembly and on x86 without AVX.

The search does not ask whether a cluster ends where channels can be put last again. One that ends elsewhere (at a
maximum pooling, a softmax, an output of the model) hands on channels first as if they were last: other numbers, and no
error.
What is here does the same search on a `.tflite` file, and then asks. Checked operator by operator against
@litertjs/core 2.5.3 (`benchmarks/sparse_speed.py`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from keras_compress.tflite.flatbuffer import Graph

_SAME = 0
_UNARY = (
    "ABS", "CEIL", "COS", "ELU", "EXP", "FLOOR", "GELU", "HARD_SWISH", "LEAKY_RELU", "LOG", "LOGISTIC", "NEG", "RELU",
    "RELU6", "RELU_N1_TO_1", "ROUND", "RSQRT", "SIGN", "SIN", "SQRT", "SQUARE", "TANH",
)  # fmt: skip
_BINARY = ("ADD", "MUL")
_REDUCING = ("MEAN", "SUM")
# Share of zeros above which XNNPACK computes a cluster sparsely.
LEAST_SHARE = 2 / 3


@dataclass
class Step:
    """An operator as XNNPACK sees it.

    Attributes:
        op: The operator; a PAD before a convolution is part of that.
        kind: Its name.
        inputs: Computed tensors that it reads.
        outputs: Tensors that it writes.
        inside: Whether it can read and write channels first.
        enters: Whether it can make channels first of channels last: the first convolution.
        leaves: Whether it can make channels last of channels first.
        reason: Why it can do neither.
        leader: Number of the last operator of its cluster.
    """

    op: Any
    kind: str
    inputs: list[int]
    outputs: list[int]
    inside: bool = False
    enters: bool = False
    leaves: bool = False
    reason: str = ""
    leader: int = 0
    # What it could do before it was joined with its readers.
    could_leave: bool = False
    broken: str = ""
    zeros: int = 0
    weights: int = 0

    @property
    def joins(self) -> bool:
        return self.inside or self.leaves


@dataclass
class Clusters:
    """What XNNPACK would do with a file.

    Attributes:
        steps: Operators, in order.
        first: Tensors that would have their channels first.
        wrong: What would be computed wrong: where, and why; a line each.
        shares: Leader of a cluster -> share of zeros in the weights of its 1x1 convolutions.
    """

    steps: list[Step]
    first: set[int] = field(default_factory=set)
    wrong: list[str] = field(default_factory=list)
    shares: dict[int, float] = field(default_factory=dict)

    def sparse(self, step: Step) -> bool:
        """Whether an operator would be computed by a sparse kernel."""
        return step.weights > 0 and step.joins and step.inputs[0] in self.first

    def why_dense(self, step: Step) -> str:
        """Why a 1x1 convolution would not be; empty for one that would."""
        if self.sparse(step):
            return ""
        if step.reason:
            return step.reason
        broken = self.steps[step.leader].broken
        if broken:
            return broken
        share = self.shares.get(step.leader, 0.0)
        if share <= LEAST_SHARE:
            return f"{share:.0%} of the weights of its cluster's 1x1 convolutions are zeros, not more than two thirds"
        return "no global average pooling or DEPTH_TO_SPACE ends a cluster, so none is looked for"


def clusters(graph: Graph) -> Clusters:
    """Does XNNPACK's search on a file, whether its weights are sparse tensors or dense ones with zeros."""
    steps = _steps(graph)
    found = Clusters(steps)
    if _join(graph, steps):
        _give_up(graph, steps)
        _choose(found)
        _ask(graph, found)
    return found


def dense_values(graph: Graph, tensor: int) -> Any | None:
    """Values of a constant, one behind DENSIFY too."""
    if graph.is_constant(tensor):
        return graph.constant(tensor)
    maker = graph.producers().get(tensor)
    return graph.constant(maker.inputs[0]) if maker is not None and graph.kind(maker) == "DENSIFY" else None


def _steps(graph: Graph) -> list[Step]:
    producers, readers = graph.producers(), graph.consumers()
    densified = {op.outputs[0] for op in graph.operators if graph.kind(op) == "DENSIFY"}
    steps: list[Step] = []
    swallowed = {id(op) for op in graph.operators if _swallowed(graph, op, readers)}
    for op in graph.operators:
        kind = graph.kind(op)
        if kind == "DENSIFY" or id(op) in swallowed:
            continue
        computed = [t for t in op.inputs if t >= 0 and not graph.is_constant(t) and t not in densified]
        pad = producers.get(op.inputs[0]) if len(op.inputs) else None
        padding: tuple[int, ...] = (0, 0, 0, 0)
        if pad is not None and id(pad) in swallowed:
            computed[0] = pad.inputs[0]
            padding = _padding(graph, pad)
        step = Step(op, kind, computed, [int(t) for t in op.outputs], leader=len(steps))
        _mark(graph, step, padding)
        step.could_leave = step.leaves
        steps.append(step)
    return steps


def _swallowed(graph: Graph, op: Any, readers: dict[int, list[Any]]) -> bool:
    """Whether XNNPACK makes a PAD part of the convolution behind it."""
    if graph.kind(op) != "PAD" or len(graph.shape(op.outputs[0])) != 4 or op.outputs[0] in graph.outputs:
        return False
    pads, next_ones = graph.constant(op.inputs[1]), readers.get(op.outputs[0], [])
    if pads is None or np.any(pads[[0, 3]]) or len(next_ones) != 1:
        return False
    is_convolution = graph.kind(next_ones[0]) in ("CONV_2D", "DEPTHWISE_CONV_2D")
    return is_convolution and next_ones[0].builtinOptions.padding != _SAME


def _padding(graph: Graph, pad: Any) -> tuple[int, ...]:
    pads = graph.constant(pad.inputs[1])
    return tuple(int(n) for n in np.asarray(pads)[1:3].reshape(-1))


def _mark(graph: Graph, step: Step, padding: tuple[int, ...]) -> None:
    op, kind = step.op, step.kind
    tensors = [t for t in (*op.inputs[:1], *op.outputs) if t >= 0]
    if any(graph.dtype(t) not in ("float32", "float16") for t in tensors):
        step.reason = f"it computes in {graph.dtype(tensors[0])}, not in float32"
    elif kind == "CONV_2D":
        _mark_convolution(graph, step, padding)
    elif kind == "DEPTHWISE_CONV_2D":
        step.reason = _depthwise_refusal(graph, op, padding)
        step.inside = not step.reason
    elif kind == "DEPTH_TO_SPACE":
        step.leaves = True
    elif kind in _REDUCING and len(graph.shape(op.inputs[0])) == 4:
        step.inside = step.leaves = True
    elif kind == "FULLY_CONNECTED" and graph.tensors[op.inputs[1]].sparsity is not None:
        step.reason = "LiteRT's built-in kernel computes it, not XNNPACK"
    elif kind == "FULLY_CONNECTED" and len(graph.shape(op.inputs[0])) == 4:
        step.inside = True
        _count(graph, step)
    elif kind in _BINARY:
        step.inside = _takes_both(graph, op)
        step.reason = "" if step.inside else "it does not have two inputs of four axes, or a constant as the second one"
    elif kind == "RESIZE_BILINEAR":
        step.inside = min(graph.shape(op.inputs[0])[1:3]) > 1
    elif kind in _UNARY:
        step.inside = len(graph.shape(op.inputs[0])) == 4
    if not (step.inside or step.enters or step.leaves) and not step.reason:
        step.reason = f"no {kind} with channels first"


def _mark_convolution(graph: Graph, step: Step, padding: tuple[int, ...]) -> None:
    op, options = step.op, step.op.builtinOptions
    _, height, width, inputs = graph.shape(op.inputs[1])
    strides = (options.strideH, options.strideW)
    if (options.dilationHFactor, options.dilationWFactor) != (1, 1) or graph.shape(op.inputs[0])[-1] != inputs:
        step.reason = "it is dilated or grouped"
    elif (height, width) == (1, 1):
        if strides != (1, 1) or any(padding):
            step.reason = "it has a stride or padding"
        else:
            step.inside = True
            _count(graph, step)
    elif (height, width) != (3, 3) or strides != (2, 2) or inputs != 3:
        step.reason = "only 1x1 convolutions, and one of 3x3 with stride 2 and 3 input channels, have such kernels"
    elif options.padding == _SAME or padding != (1, 1, 1, 1):
        step.reason = "it is not padded by 1 on each side: ZeroPadding2D(1) and padding='valid' are"
    else:
        step.enters = True


def _depthwise_refusal(graph: Graph, op: Any, padding: tuple[int, ...]) -> str:
    options = op.builtinOptions
    _, height, width, _ = graph.shape(op.inputs[1])
    stride = options.strideH
    if (options.dilationHFactor, options.dilationWFactor) != (1, 1) or options.depthMultiplier != 1:
        return "it is dilated, or has a depth multiplier"
    if height != width or height not in (3, 5) or options.strideW != stride or stride not in (1, 2):
        return "only 3x3 and 5x5 depthwise convolutions with strides 1 and 2 have such kernels"
    if options.padding == _SAME:
        # Without a stride, XNNPACK is told the padding in numbers.
        return "" if stride == 1 else "it has a stride and padding='same'"
    if padding != (height // 2,) * 4:
        return f"it is not padded by {height // 2} on each side"
    return ""


def _takes_both(graph: Graph, op: Any) -> bool:
    for tensor in op.inputs:
        shape = graph.shape(tensor)
        if len(shape) != 4 or (graph.is_constant(tensor) and sum(size != 1 for size in shape) > 1):
            return False
    # Where the second one is a constant, XNNPACK looks at the first one's shape.
    return not graph.is_constant(op.inputs[1])


def _count(graph: Graph, step: Step) -> None:
    values = dense_values(graph, step.op.inputs[1])
    if values is None or values.dtype.kind != "f":
        step.inside, step.reason = False, "its weights are no float32 constants"
        return
    step.weights, step.zeros = int(values.size), int(np.count_nonzero(values == 0))


def _join(graph: Graph, steps: list[Step]) -> bool:
    """Joins operators that feed each other; whether there is anything to join."""
    makers = {tensor: number for number, step in enumerate(steps) for tensor in step.outputs}
    leaving = [step for step in steps if step.leaves]
    changed = _join_all(graph, steps, leaving, makers)
    if not changed:
        return False
    while changed:
        changed = _join_all(graph, steps, steps, makers)
    return True


def _join_all(graph: Graph, steps: list[Step], joining: list[Step], makers: dict[int, int]) -> bool:
    changed = False
    for step in joining:
        # What it can do changes on the way, as its readers are joined with it.
        if step.joins and not step.broken:
            changed |= _join_inputs(graph, steps, step, makers)
    return changed


def _join_inputs(graph: Graph, steps: list[Step], step: Step, makers: dict[int, int]) -> bool:
    changed = False
    for tensor in step.inputs:
        maker = steps[makers[tensor]] if tensor in makers else None
        if maker is None:
            step.broken = f"{graph.name(step.outputs[0])!r} reads an input of the model"
        elif (maker.enters or maker.inside) and not maker.broken:
            maker.leaves = False
            if maker.leader != step.leader:
                maker.leader = step.leader = max(maker.leader, step.leader)
                changed = True
        else:
            why = maker.broken or f"{maker.kind} {graph.name(maker.outputs[0])!r}: {maker.reason}"
            step.broken = why
    return changed


def _give_up(graph: Graph, steps: list[Step]) -> None:
    """Clusters with an operator that does not fit, or a tensor that is read from outside."""
    for step in steps:
        leader = steps[step.leader]
        leader.broken = leader.broken or step.broken
    everyone: dict[int, int] = {}
    fitting: dict[int, int] = {}
    for step in steps:
        for tensor in step.inputs:
            everyone[tensor] = everyone.get(tensor, 0) + 1
            if not steps[step.leader].broken and step.joins:
                fitting[tensor] = fitting.get(tensor, 0) + 1
    for step in steps:
        leader = steps[step.leader]
        for tensor in step.inputs if not leader.broken and step.joins else ():
            if fitting[tensor] != everyone[tensor]:
                leader.broken = (
                    f"{graph.name(tensor)!r} is read by an operator without a kernel for channels first, too"
                )


def _choose(found: Clusters) -> None:
    steps = found.steps
    totals: dict[int, list[int]] = {}
    for step in steps:
        if not steps[step.leader].broken:
            total = totals.setdefault(step.leader, [0, 0])
            total[0] += step.zeros
            total[1] += step.weights
    found.shares = {leader: zeros / weights for leader, (zeros, weights) in totals.items() if weights}
    for step in steps:
        if step.joins and found.shares.get(step.leader, 0.0) > LEAST_SHARE:
            found.first.update(step.inputs)


def _ask(graph: Graph, found: Clusters) -> None:
    """What the search does not ask: whether channels come last again where others read them."""
    outputs = set(graph.outputs)
    readers: dict[int, Step] = {tensor: step for step in found.steps for tensor in step.inputs}
    for step in found.steps:
        if not any(tensor in found.first for tensor in step.inputs):
            continue
        name = f"{step.kind} {graph.name(step.outputs[0])!r}"
        if step.kind in _REDUCING and _axes(graph, step.op) != {1, 2}:
            found.wrong.append(f"{name} sums over other axes than height and width")
        for tensor in step.outputs:
            if tensor in found.first or step.could_leave:
                continue
            reader = readers.get(tensor)
            where = "an output of the model" if reader is None else f"{reader.kind} {graph.name(reader.outputs[0])!r}"
            found.wrong.append(f"{name} gives channels first to {where}, which takes them for last")
    for tensor in sorted(found.first & outputs):
        found.wrong.append(f"{graph.name(tensor)!r}, an output of the model, would have channels first")


def _axes(graph: Graph, op: Any) -> set[int]:
    axes = graph.constant(op.inputs[1])
    return set() if axes is None else {int(axis) % 4 for axis in np.asarray(axes).reshape(-1)}
