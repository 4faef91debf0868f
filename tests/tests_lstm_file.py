"""A file of one fused LSTM."""

from __future__ import annotations

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from keras_compress.tflite.flatbuffer import Graph, write_model
from keras_compress.tflite.lstm.integers import LstmIntegers
from keras_compress.tflite.lstm.operator import lstm_operator


def file_of(lstm: LstmIntegers, steps: int) -> bytes:
    """int8 sequence in, int8 sequence out."""
    model, subgraph = schema.ModelT(), schema.SubGraphT()
    model.version = 3
    model.buffers, model.operatorCodes, model.subgraphs = [schema.BufferT()], [], [subgraph]
    subgraph.tensors, subgraph.operators, subgraph.inputs, subgraph.outputs = [], [], [], []
    graph = Graph(model)
    sequence = graph.add_tensor("sequence", (1, steps, len(lstm.kernel)), "int8")
    output = graph.add_tensor("output", (1, steps, lstm.units), "int8")
    for tensor, (scale, zero_point) in ((sequence, lstm.input_grid), (output, lstm.output_grid)):
        graph.set_quantization(tensor, np.float32(scale), zero_point)
    graph.operators = [lstm_operator(graph, sequence, output, lstm, "lstm")]
    subgraph.inputs, subgraph.outputs = [sequence], [output]
    return write_model(model)
