"""Weights in TFLite's sparse form: what is stored, who computes it, and graphs that XNNPACK would compute wrong."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_compress as kc
from keras_compress.cli.main import main
from keras_compress.runtime.kernels import runner_of
from keras_compress.tflite.flatbuffer import Graph, read_model, write_model
from keras_compress.tflite.passes.sparse_dense import store_sparse_dense
from keras_compress.tflite.sparse_clusters import clusters
from keras_compress.tflite.sparse_format import decode, encode

L = keras.layers


def by_hand(stored, parameters, shape):
    """The dense tensor, value by value, as the schema's comments describe the tables."""
    dense, values = np.zeros(shape, stored.dtype), iter(stored.tolist())
    order, blocks = (
        list(parameters.traversalOrder),
        list(parameters.blockMap if parameters.blockMap is not None else []),
    )

    def walk(level, position, indices):
        if level == len(order):
            place = [indices[axis] for axis in range(len(shape))]
            for number, axis in enumerate(blocks):
                size = parameters.dimMetadata[order.index(len(shape) + number)].denseSize
                place[axis] = place[axis] * size + indices[len(shape) + number]
            dense[tuple(place)] = next(values)
            return
        metadata = parameters.dimMetadata[level]
        if metadata.format == 0:
            for index in range(metadata.denseSize):
                walk(level + 1, position * metadata.denseSize + index, {**indices, order[level]: index})
        else:
            first, last = metadata.arraySegments.values[position : position + 2]
            for place in range(first, last):
                walk(level + 1, place, {**indices, order[level]: int(metadata.arrayIndices.values[place])})

    walk(0, 0, {})
    assert next(values, None) is None
    return dense


def in_blocks(shape, block, share, seed=0):
    """Random values whose blocks of consecutive inputs (the axis before the last) are zeros."""
    random = np.random.default_rng(seed)
    blocks = random.random((shape[0] // block, shape[1])) >= share
    return (random.normal(size=shape) * np.repeat(blocks, block, axis=0)).astype(np.float32)


def test_tables_are_those_of_a_matrix_worked_out_by_hand():
    # Blocks: row 0 keeps the second, row 1 none, row 2 the first and the third.
    matrix = np.array([[0, 0, 5, 0, 0, 0], [0, 0, 0, 0, 0, 0], [1, 2, 0, 0, 0, 3]], np.float32)
    stored, tables = encode(matrix, 2)
    assert stored.tolist() == [5, 0, 1, 2, 0, 3]
    assert list(tables.traversalOrder) == [0, 1, 2]
    assert list(tables.blockMap) == [1]
    rows, columns, inside = tables.dimMetadata
    assert (rows.format, rows.denseSize, columns.format, inside.format, inside.denseSize) == (0, 3, 1, 0, 2)
    assert columns.arraySegments.values.tolist() == [0, 1, 1, 3]
    assert columns.arrayIndices.values.tolist() == [1, 0, 2]
    assert (columns.arraySegmentsType, columns.arrayIndicesType) == (3, 3)  # Uint8Vector


@pytest.mark.parametrize(("shape", "block"), [((6, 8), 4), ((3, 16), 16), ((5, 1, 1, 8), 1), ((4, 6), 1)])
def test_encoded_values_are_decoded_by_hand_and_by_the_reader(shape, block):
    random = np.random.default_rng(1)
    kept = random.random((*shape[:-1], shape[-1] // block)) < 0.4
    values = (random.integers(1, 9, shape) * np.repeat(kept, block, axis=-1)).astype(np.int8)
    stored, tables = encode(values, block)
    np.testing.assert_array_equal(by_hand(stored, tables, shape), values)
    np.testing.assert_array_equal(decode(stored, tables, shape), values)


def test_indices_have_the_smallest_type():
    values = np.zeros((2, 1, 1, 70_000), np.float32)
    values[:, 0, 0, [3, 69_999]] = 1
    wide = encode(values)[1].dimMetadata[-1]
    assert (wide.arrayIndicesType, wide.arraySegmentsType) == (1, 3)
    assert encode(values[..., :60_000])[1].dimMetadata[-1].arrayIndicesType == 3
    values[..., 300] = 1
    assert encode(values[..., :60_000])[1].dimMetadata[-1].arrayIndicesType == 2


def test_damaged_tables_are_refused():
    stored, tables = encode(np.eye(4, dtype=np.float32))
    tables.dimMetadata[1].arraySegments.values = np.array([0, 9, 9, 9, 9], np.uint8)
    with pytest.raises(ValueError, match="segments"):
        decode(stored, tables, (4, 4))
    with pytest.raises(ValueError, match="multiple of 4"):
        encode(np.ones((2, 6)), 4)


def test_tensorflow_writes_the_same_tables():
    weight = in_blocks((32, 8), 4, 0.7)

    @tf.function(input_signature=[tf.TensorSpec((1, 32), tf.float32)])
    def dense(x):
        return tf.matmul(x, weight)

    converter = tf.lite.TFLiteConverter.from_concrete_functions([dense.get_concrete_function()])
    converter.optimizations = {tf.lite.Optimize.EXPERIMENTAL_SPARSITY}
    graph = Graph(read_model(converter.convert()))
    number = graph.operators[-1].inputs[1]
    theirs = graph.tensors[number].sparsity
    np.testing.assert_array_equal(graph.constant(number), weight.T)
    stored, ours = encode(np.ascontiguousarray(weight.T), 4)
    np.testing.assert_array_equal(by_hand(stored, theirs, (8, 32)), weight.T)
    assert list(ours.traversalOrder) == list(theirs.traversalOrder)
    assert list(ours.blockMap) == list(theirs.blockMap)
    for mine, other in zip(ours.dimMetadata, theirs.dimMetadata, strict=True):
        assert (mine.format, mine.denseSize or 0) == (other.format, other.denseSize or 0)
        if mine.format:
            assert mine.arrayIndicesType == other.arrayIndicesType
            np.testing.assert_array_equal(mine.arrayIndices.values, other.arrayIndices.values)
            np.testing.assert_array_equal(mine.arraySegments.values, other.arraySegments.values)


def dense_net(inputs=64, block=4, share=0.9, units=48):
    keras.utils.set_random_seed(3)
    x = keras.Input((inputs,), name="x")
    y = L.Dense(units, activation="relu", name="hidden", bias_initializer="normal")(x)
    model = keras.Model(x, L.Dense(5, name="out")(y))
    hidden = model.get_layer("hidden")
    hidden.set_weights([in_blocks((inputs, units), block, share), hidden.get_weights()[1]])
    return model


@pytest.fixture(scope="module")
def samples():
    return np.random.default_rng(2).normal(size=(6, 64)).astype(np.float32)


def storages(artifact):
    return {weight.name: weight.storage for weight in artifact.stats.weights}


def test_blocks_of_a_dense_layer_are_left_out_and_outputs_stay(samples):
    model = dense_net()
    sparse = kc.convert(model, mode="float32", sparsity="block")
    dense = kc.convert(model, mode="float32", sparsity="none")
    assert storages(sparse) == {"hidden/kernel": "sparse 1x4", "out/kernel": "raw"}
    assert storages(dense)["hidden/kernel"] == "raw"
    kept = int((in_blocks((64, 48), 4, 0.9).reshape(16, 4, 48) != 0).any(axis=1).sum())
    weight = sparse.stats.weights[0]
    assert weight.bytes == kept * 16 + kept + 49  # values, an index each, a segment for each output and one
    assert weight.sparsity == pytest.approx(float(np.mean(in_blocks((64, 48), 4, 0.9) == 0)))
    assert len(sparse.content) < len(dense.content) - 8_000
    for kernel in ("xnnpack", "builtin", "reference"):
        runner = runner_of(kernel)
        got, wanted = (runner.run(each.content, [samples])[0] for each in (sparse, dense))
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5)
        assert np.abs(wanted).max() > 0.1
    assert any("in blocks of 4: hidden/kernel" in note for note in sparse.notes)
    (row,) = sparse.report()["sparse_layers"]
    assert (row["tensor"], row["by"]) == ("hidden/kernel", "LiteRT, built-in kernels")
    assert "hidden/kernel (LiteRT, built-in kernels)" in repr(sparse)
    assert kc.convert(model, mode="float32", sparsity="block").content == sparse.content


def test_auto_takes_what_is_faster():
    assert storages(kc.convert(dense_net(), mode="float32"))["hidden/kernel"] == "raw"  # too small
    wide = kc.convert(dense_net(512, share=0.92, units=512), mode="float32")
    assert storages(wide)["hidden/kernel"] == "sparse 1x4"
    unstructured = kc.convert(dense_net(512, 1, 0.9, 512), mode="float32")
    assert storages(unstructured)["hidden/kernel"] == "raw"
    assert not unstructured.notes
    thin = kc.convert(dense_net(512, share=0.7, units=512), mode="float32")
    assert storages(thin)["hidden/kernel"] == "raw"
    assert any("gains from 88%" in note for note in thin.notes)


def test_int8_has_blocks_of_16_and_the_integers_of_the_dense_file(samples):
    model = dense_net(block=16, share=0.6)
    options = {"representative_dataset": samples, "weights_storage": "int8"}
    sparse = kc.convert(model, sparsity="block", **options)
    assert storages(sparse) == {"hidden/kernel": "sparse 1x16", "out/kernel": "raw"}
    assert sparse.lowered == kc.convert(model, sparsity="none", **options).plain
    assert storages(kc.convert(model, **options))["hidden/kernel"] == "raw"
    assert kc.verify(sparse, model, samples).ok


def test_microcontrollers_do_not_get_sparse_files(tmp_path):
    # Their runtime would read beyond the stored values, and say nothing.
    sparse = kc.convert(dense_net(), mode="float32", sparsity="block")
    with pytest.raises(ValueError, match="Expected a file with dense weights"):
        runner_of("tflm").describe(sparse.content)
    with pytest.raises(ValueError, match="sparsity='none'"):
        kc.export_c(sparse, tmp_path, arena_bytes=4096)


def test_pruning_in_blocks_of_inputs_gives_blocks(samples):
    x = keras.Input((64,))
    model = keras.Model(x, L.Dense(16, name="hidden")(x))
    schedule = kc.ConstantSparsity(0.75, begin_step=0, frequency=1)
    pruned = kc.prune_low_magnitude(model, schedule, block_size=(4, 1))
    pruned.compile("sgd", "mse")
    pruned.fit(samples, np.zeros((6, 16)), epochs=2, verbose=0)
    weight = kc.convert(pruned, mode="float32", sparsity="block").stats.weights[0]
    assert (weight.storage, weight.sparsity) == ("sparse 1x4", 0.75)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": "tflm", "mode": "float32"}, "Expected target='litert' for sparsity='block'"),
        ({"mode": "dynamic"}, "Expected a mode out of"),
        ({"mode": "float16"}, "Expected a mode out of"),
        ({"mode": "float32", "sparsity": "csr"}, "Expected `sparsity` out of"),
    ],
)
def test_what_no_kernel_computes_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        kc.convert(dense_net(), **{"sparsity": "block", **options})


def test_weights_without_blocks_are_named_with_the_reason(samples):
    with pytest.raises(ValueError, match=r"hidden/kernel: 5% of its blocks .* block_size=\(4, 1\)"):
        kc.convert(dense_net(block=1, share=0.5), mode="float32", sparsity="block")
    with pytest.raises(ValueError, match="62 inputs are no multiple of 4"):
        kc.convert(dense_net(62, 2), mode="float32", sparsity="block")
    with pytest.raises(ValueError, match="strict=True.*dense, though pruned: narrow"):
        kc.convert(_two_branches(), mode="float32", sparsity="block", strict=True)


def _two_branches():
    x = keras.Input((64,))
    wide, narrow = L.Dense(16, name="wide"), L.Dense(16, name="narrow")
    model = keras.Model(x, L.Add()([wide(x), narrow(x)]))
    wide.set_weights([in_blocks((64, 16), 4, 0.8), np.zeros(16)])
    narrow.set_weights([in_blocks((64, 16), 1, 0.6), np.zeros(16)])
    return model


def small_mobilenet(middle=lambda x: x, end=None, first="valid", last=None, size=16, share=0.9):
    """3x3 convolution, 1x1 convolutions with zeros, depthwise ones between, and something in the middle."""
    keras.utils.set_random_seed(1)
    inputs = keras.Input((size, size, 3), name="x")
    x = inputs if first == "same" else L.ZeroPadding2D(1)(inputs)
    x = L.Conv2D(8, 3, 2, padding=first, activation="relu", name="first")(x)
    x = middle(point(x, 16))
    x = point(L.DepthwiseConv2D(3, padding="same", activation="relu")(x), 24)
    pooled = L.GlobalAveragePooling2D(keepdims=end == "keepdims")(x)
    outputs = L.Dense(5, name="out")(L.Flatten()(pooled) if end == "keepdims" else pooled)
    if last is not None:
        outputs = last(outputs, x)
    model = keras.Model(inputs, outputs)
    random = np.random.default_rng(0)
    for layer in model.layers:
        if isinstance(layer, L.Conv2D) and layer.kernel_size == (1, 1):
            kernel, bias = layer.get_weights()
            layer.set_weights([kernel * (random.random(kernel.shape) >= share), bias])
    return model


def point(x, filters, activation="relu"):
    return L.Conv2D(filters, 1, activation=activation)(x)


# What LiteRT.js 2.5.3 did with sparse weights in each graph (benchmarks/sparse_speed.py has more of them).
PATHS = {
    "nothing": ({}, "sparse"),
    "residual": ({"middle": lambda x: L.Add()([x, point(x, 16)])}, "sparse"),
    "sigmoid": ({"middle": lambda x: L.Activation("sigmoid")(x)}, "sparse"),
    "few zeros": ({"share": 0.5}, "dense"),
    "concatenation": ({"middle": lambda x: L.Concatenate()([x, point(x, 8)])}, "dense"),
    "no pooling": ({"last": lambda y, x: L.Flatten()(x)}, "dense"),
    "max pooling": ({"middle": lambda x: L.MaxPooling2D()(x)}, "wrong"),
    "softmax": ({"middle": lambda x: L.Softmax()(x)}, "wrong"),
    "an output more": ({"last": lambda y, x: [y, x]}, "wrong"),
    "a map beside": ({"last": lambda y, x: [y, point(x, 2, None)]}, "wrong"),
    "mean of rows": ({"middle": lambda x: x * keras.ops.mean(x, axis=1, keepdims=True)}, "wrong"),
}


@pytest.mark.parametrize("name", PATHS)
def test_graphs_are_foretold_and_wrong_ones_refused(name):
    options, path = PATHS[name]
    model = small_mobilenet(**options)
    found = kc.sparse_ready(model)
    assert found.conv_path == path
    assert bool(found.wrong) == (path == "wrong")
    if path == "sparse":
        artifact = kc.convert(model, mode="float32", sparsity="block", batch_size=1)
        assert {w.storage for w in artifact.stats.weights if w.op == "CONV_2D" and "first" not in w.name} == {"sparse"}
        assert kc.sparse_ready(artifact).conv_path == "sparse"
        assert all(row.sparse for row in found.rows if row.operator == "CONV_2D")
        same_outputs(model, artifact)
    else:
        with pytest.raises(
            ValueError, match="computes right" if path == "wrong" else "Received: 1x1 convolutions stay"
        ):
            kc.convert(model, mode="float32", sparsity="block", batch_size=1)
        assert "DENSIFY" not in kc.convert(model, mode="float32", batch_size=1).stats.operators


def same_outputs(model, artifact):
    shape = (2, *model.input_shape[1:])
    images = np.random.default_rng(5).normal(size=shape).astype(np.float32)
    plain = kc.convert(model, mode="float32", sparsity="none", batch_size=1)
    runner = runner_of("xnnpack")
    for got, wanted in zip(runner.run(artifact.content, [images]), runner.run(plain.content, [images]), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5 * np.abs(wanted).max())
        assert np.ptp(wanted) > 1e-4


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"size": 17, "first": "same"}, "padding by an operator of its own"),
        ({"middle": lambda x: L.DepthwiseConv2D(3, 2, padding="same")(x)}, "a 5x5 kernel with zeros around its 3x3"),
        ({"middle": lambda x: x * np.linspace(1, 2, 16).astype(np.float32)}, "its constant comes first"),
        ({"middle": lambda x: x + np.float32(0.5)}, "its constant comes first"),
        ({"end": "keepdims"}, "without the axes of height and width"),
    ],
)
def test_operators_are_written_otherwise_with_the_same_outputs(options, line):
    model = small_mobilenet(**options)
    plain = kc.convert(model, mode="float32", sparsity="none", batch_size=1)
    before = clusters(Graph(read_model(plain.content)))
    assert before.wrong or not any(map(before.sparse, before.steps))
    found = kc.sparse_ready(model)
    assert found.conv_path == "sparse"
    assert any(line in text for text in found.rewritten)
    same_outputs(model, kc.convert(model, mode="float32", sparsity="block", batch_size=1))


def test_a_file_for_any_number_of_samples_keeps_dense_convolutions():
    with pytest.raises(ValueError, match="such as batch_size=1"):
        kc.convert(small_mobilenet(), mode="float32", sparsity="block")


def test_the_command_line_tells(tmp_path, capsys):
    path = tmp_path / "m.keras"
    dense_net(share=0.9).save(path)
    assert main(["keras-compress", "sparse_ready", f"--model={path}"]) == 0
    assert "hidden/kernel" in capsys.readouterr().out
    out = tmp_path / "m.tflite"
    arguments = [f"--model={path}", f"--out={out}", "--mode=float32", "--sparsity=block"]
    assert main(["keras-compress", "convert", *arguments]) == 0
    assert kc.inspect_tflite(out).weights[0].storage == "sparse 1x4"
    small_mobilenet(lambda x: L.MaxPooling2D()(x)).save(path)
    assert main(["keras-compress", "sparse_ready", f"--model={path}"]) == 1
    assert "WRONG" in capsys.readouterr().out


def test_layers_that_share_a_weight_are_stored_alike():
    shared = L.Dense(512, name="shared")
    one, many = keras.Input((512,), batch_size=1), keras.Input((100, 512), batch_size=1)
    model = keras.Model([one, many], [shared(one), shared(many)])
    shared.set_weights([in_blocks((512, 512), 4, 0.92), np.zeros(512)])
    # The dense kernel is faster for a hundred rows at a time.
    assert set(storages(kc.convert(model, mode="float32")).values()) == {"raw"}
    assert set(storages(kc.convert(model, mode="float32", sparsity="block")).values()) == {"sparse 1x4"}


def weighing(weight):
    """A dense net with one row of inputs, and what its wide layer has for a weight."""
    x = keras.Input((512,))
    model = keras.Model(x, L.Dense(8, name="out")(L.Dense(512, activation="relu", name="wide")(x)))
    model.get_layer("wide").set_weights([weight, np.linspace(-1, 1, 512)])
    return model


def test_weights_without_anything_but_zeros_are_constants_still():
    """A buffer of no bytes is no constant to a runtime, which then finds no data."""
    for shape, block in (((4, 8), 4), ((3, 1, 1, 5), 1)):
        stored, tables = encode(np.zeros(shape, np.float32), block)
        assert stored.tolist() == [0.0] * block
        assert not by_hand(stored, tables, shape).any()
    model = weighing(np.zeros((512, 512)))
    wide = np.random.default_rng(2).normal(size=(6, 512)).astype(np.float32)
    sparse = kc.convert(model, mode="float32", batch_size=1)
    assert storages(sparse)["wide/kernel"] == "sparse 1x4"
    wanted = runner_of("builtin").run(kc.convert(model, mode="float32", sparsity="none").content, [wide])[0]
    assert np.ptp(wanted[0]) > 0.1
    for kernel in ("xnnpack", "builtin"):
        np.testing.assert_allclose(runner_of(kernel).run(sparse.content, [wide])[0], wanted, rtol=1e-5, atol=1e-5)


def test_int8_weights_without_anything_but_zeros_are_constants_still(samples):
    """In a file of someone else's: a conversion to int8 takes units out that nothing comes through."""
    made = kc.convert(dense_net(), representative_dataset=samples, weights_storage="int8", sparsity="none")
    graph = Graph(read_model(made.content))
    weight = next(op.inputs[1] for op in graph.operators if graph.kind(op) == "FULLY_CONNECTED")
    graph.set_constant(weight, np.zeros(graph.shape(weight), np.int8))
    dense = write_model(graph.model)
    assert store_sparse_dense(graph, "block")[0].block == 16
    assert graph.constant(weight).shape == graph.shape(weight)
    assert not graph.constant(weight).any()
    for kernel in ("xnnpack", "builtin"):
        runner = runner_of(kernel)
        got, wanted = (runner.run(each, [samples])[0] for each in (write_model(graph.model), dense))
        np.testing.assert_array_equal(got, wanted)
        assert np.ptp(wanted[0]) > 0


def test_convolutions_of_zeros_stand_behind_densify():
    model = small_mobilenet(share=1.0)
    for layer in model.layers:
        if isinstance(layer, L.Conv2D):
            layer.bias.assign(np.linspace(0.1, 1, layer.filters))
    sparse = kc.convert(model, mode="float32", sparsity="block", batch_size=1)
    assert [name for name, storage in storages(sparse).items() if storage.startswith("sparse")]
    image = np.ones((1, 16, 16, 3), np.float32)
    for kernel in ("xnnpack", "builtin"):
        got = runner_of(kernel).run(sparse.content, [image])[0]
        np.testing.assert_allclose(got, np.asarray(model(image)), rtol=1e-4, atol=1e-5)
        assert np.ptp(got) > 1e-3


@pytest.mark.parametrize("layer", [L.Conv2D(16, 1, name="shared"), L.Dense(16, name="shared")], ids=["conv", "dense"])
def test_all_that_read_a_weight_of_a_sparse_convolution_read_the_dense_one(layer):
    """The second call is in no cluster: LiteRT's kernel would read beyond the values that are stored."""
    first, other = keras.Input((9, 9, 3)), keras.Input((4, 4, 8) if isinstance(layer, L.Conv2D) else (8,))
    x = layer(L.Conv2D(8, 3, 2)(L.ZeroPadding2D(1)(first)))
    y = layer(other)
    y = L.MaxPooling2D(2)(y) if isinstance(layer, L.Conv2D) else L.ReLU()(y)
    model = keras.Model([first, other], [L.GlobalAveragePooling2D()(x), y])
    kernel, bias = layer.get_weights()
    layer.set_weights([kernel * (np.random.default_rng(0).random(kernel.shape) > 0.8), bias])
    sparse = kc.convert(model, mode="float32", sparsity="block", batch_size=1)
    plain = kc.convert(model, mode="float32", sparsity="none", batch_size=1)
    graph = Graph(read_model(sparse.content))
    readers = graph.consumers()
    stored = [t for t, tensor in enumerate(graph.tensors) if tensor.sparsity is not None]
    assert [[graph.kind(op) for op in readers[t]] for t in stored] == [["DENSIFY"]]
    (densify,) = readers[stored[0]]
    assert len(readers[densify.outputs[0]]) == 2
    random = np.random.default_rng(5)
    inputs = [random.normal(size=(1, *each.shape[1:])).astype(np.float32) for each in (first, other)]
    for kernel in ("xnnpack", "builtin"):
        runner = runner_of(kernel)
        pairs = zip(runner.run(sparse.content, inputs), runner.run(plain.content, inputs), strict=True)
        for got, wanted in pairs:
            np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5)
            assert np.ptp(wanted) > 1e-3
