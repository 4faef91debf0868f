"""How many bytes of tensors live beside an operator, counted by hand."""

from __future__ import annotations

import numpy as np
from tests_integer_nets import IntegerNet

from keras_compress.tflite.arena_plan import bytes_alive
from keras_compress.tflite.flatbuffer import Graph, read_model


def test_tensors_live_from_the_operator_that_writes_them_to_the_last_that_reads_them() -> None:
    net = IntegerNet(1, 4, 4, 2)
    first = net.conv(net.input, np.ones((3, 1, 1, 2)), np.zeros(3), out=(0.2, 0))
    second = net.conv(first, np.ones((3, 1, 1, 3)), np.zeros(3), out=(0.2, 0))
    graph = Graph(read_model(net.file(net.binary("ADD", first, second))))
    # Also the first tensor of the file, which is the input.
    assert graph.inputs == [0]
    # 32 of the input, 48 of each of the others.
    assert bytes_alive(graph) == [32 + 48, 48 + 48, 48 + 48 + 48]
