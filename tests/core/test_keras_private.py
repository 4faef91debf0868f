"""What this version of Keras must go on doing: each private name that is used, against what it stands for."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers

from keras_compress.core import keras_private
from keras_compress.core.keras_private import replace_sub_layer
from keras_compress.graph.parts import get_part, owner_of, put_part, sub_layers


class Holder(layers.Layer):
    def __init__(self):
        super().__init__()
        self.first = layers.Dense(2)
        self.listed = [layers.Dense(2), (layers.Dense(2), {"key": layers.Dense(2), 3: layers.Dense(2)})]

    def call(self, x):
        for _, layer in sub_layers(self):
            x = layer(x)
        return x


def built_dense() -> layers.Dense:
    layer = layers.Dense(2)
    layer.build((None, 2))
    return layer


def built_holder() -> Holder:
    holder = Holder()
    holder(np.ones((1, 2), np.float32))
    return holder


REFERENCES = [("first",), ("listed", 0), ("listed", 1, 0), ("listed", 1, 1, "key"), ("listed", 1, 1, 3)]


def test_keras_refuses_a_new_sub_layer_of_a_built_layer() -> None:
    """If this fails, Keras has changed its rule, and `replace_sub_layer` may be simpler."""
    with pytest.raises(ValueError, match="You cannot add new elements of state"):
        built_holder().first = built_dense()


@pytest.mark.parametrize("reference", REFERENCES)
def test_a_sub_layer_is_replaced_in_its_place(reference) -> None:
    holder = built_holder()
    assert [found for found, _ in sub_layers(holder)] == REFERENCES
    position = REFERENCES.index(reference)
    old, new = get_part(holder, reference), built_dense()
    put_part(holder, reference, new)
    assert get_part(holder, reference) is new
    assert [layer is new for layer in keras_private.flattened(holder, include_self=False)] == [
        i == position for i in range(5)
    ]
    assert holder.variables[2 * position] is new.kernel
    assert not any(variable is old.kernel for variable in holder.variables)
    with pytest.raises(ValueError, match="You cannot add new elements of state"):
        holder.more = built_dense()


def test_two_places_of_one_layer() -> None:
    holder = built_holder()
    new = built_dense()
    put_part(holder, ("first",), new)
    put_part(holder, ("listed", 0), new)
    assert [layer is new for layer in keras_private.flattened(holder, include_self=False)].count(True) == 1
    assert len(holder.variables) == 8


def test_references_go_through_layers() -> None:
    class Around(layers.Layer):
        def __init__(self):
            super().__init__()
            self.inside = [Holder()]

    around = Around()
    assert owner_of(around, ("inside", 0, "listed", 1, 0)) == (around.inside[0], ("listed", 1, 0))
    assert get_part(around, ("inside", 0, "first")) is around.inside[0].first
    for missing in (("other",), ("inside", 1), ("inside", 0, "listed", 1, 1, "none"), ("inside",)):
        with pytest.raises(LookupError, match="/".join(map(str, missing))):
            get_part(around, missing)


def test_another_record_of_keras_is_refused() -> None:
    holder = built_holder()
    holder._tracker.config = {}
    with pytest.raises(RuntimeError, match=r"Expected a Keras version .* Received: Keras \d"):
        replace_sub_layer(holder, holder.first, built_dense())


def test_what_is_not_tracked_is_left_alone() -> None:
    holder = built_holder()
    replace_sub_layer(holder, built_dense(), built_dense())
    assert len(holder.variables) == 10
    assert isinstance(holder, keras.layers.Layer)


def two_calls() -> tuple[keras.Model, layers.Dense]:
    x, dense = keras.Input((3,), name="x"), layers.Dense(3, name="dense")
    return keras.Model({"x": x}, [dense(dense(x))]), dense


def test_where_tensors_come_from() -> None:
    model, dense = two_calls()
    (output,) = model.outputs
    node = keras_private.call_node(output)
    (between,) = node.input_tensors
    assert keras_private.maker(output) is dense is node.operation
    assert keras_private.call_node(between).input_tensors[0] is model.inputs[0]
    operation, inputs = keras_private.made_by(output)
    assert operation is dense
    assert inputs[0] is between
    assert keras_private.made_by(np.ones(2)) is None


def test_the_graph_of_a_model() -> None:
    model, dense = two_calls()
    by_depth = keras_private.nodes_by_depth(model)
    assert [[node.operation.name for node in by_depth[depth]] for depth in (2, 1, 0)] == [["x"], ["dense"], ["dense"]]
    assert keras_private.inputs_structure(model) == {"x": model.inputs[0]}
    assert keras_private.outputs_structure(model) == [model.outputs[0]]
    assert isinstance(model, keras_private.Functional)
    sequential = keras.Sequential([layers.Dense(2)])
    assert keras_private.graph_of_sequential(sequential) is None
    sequential.build((None, 3))
    assert isinstance(keras_private.graph_of_sequential(sequential), keras_private.Functional)
    assert keras_private.shapes_built_with(layers.Dense(2)) == {}
    assert keras_private.shapes_built_with(built_dense()) == {"input_shape": (None, 2)}


def test_classes_made_from_inputs_and_outputs() -> None:
    class Own(keras.Model):
        def train_step(self, data):
            return {}

    class Subclassed(keras.Model):
        def __init__(self, width):
            super().__init__()

    assert keras_private.takes_inputs_and_outputs(Own)
    assert not keras_private.takes_inputs_and_outputs(Subclassed)


def test_what_a_layer_holds() -> None:
    class Around(layers.Layer):
        def __init__(self):
            super().__init__()
            self.inner = layers.BatchNormalization()

        def build(self, shape):
            self.factor = self.add_weight(shape=(), name="factor")
            self.count = self.add_weight(shape=(), name="count", trainable=False)

        def call(self, inputs, training=False):
            self.add_loss(keras.ops.sum(inputs))
            return self.inner(inputs, training=training) * self.factor

    layer = Around()
    layer(np.ones((2, 3), np.float32))
    assert keras_private.flattened(layer) == [layer, layer.inner]
    assert keras_private.flattened(layer, include_self=False) == keras_private.sub_layers(layer) == [layer.inner]
    assert keras_private.own_trainable(layer) == [layer.factor]
    assert keras_private.own_variables(layer) == [layer.factor, layer.count]
    assert keras_private.takes_training(layer)
    assert not keras_private.takes_training(layers.ReLU())
    assert [float(loss) for loss in keras_private.losses_of_call(layer)] == [6.0]
    keras_private.forget_losses(layer)
    assert keras_private.losses_of_call(layer) == []


def test_attention() -> None:
    attention = layers.MultiHeadAttention(2, 4)
    attention(np.ones((1, 5, 6), np.float32), np.ones((1, 3, 6), np.float32))
    shapes = [keras_private.projection(attention, name).kernel.shape for name in ("query", "key", "value", "output")]
    assert shapes == [(6, 2, 4)] * 3 + [(2, 4, 6)]
    assert keras_private.attention_axes(attention) == (1,)
    assert not keras_private.has_gate(attention)


def test_what_else_is_kept() -> None:
    dropout = layers.Dropout(0.5, seed=7)
    assert [seed for _, seed in keras_private.seed_generators(dropout)] == [7]
    assert keras_private.arguments_of_function(keras.losses.BinaryCrossentropy(from_logits=True))["from_logits"] is True
    assert keras_private.has_default_config(type("Plain", (layers.Layer,), {}).get_config)
    assert not keras_private.has_default_config(layers.Dense.get_config)


def test_scopes() -> None:
    assert keras_private.stateless_scope() is None
    with keras.StatelessScope() as scope:
        assert keras_private.stateless_scope() is scope
        assert keras_private.global_attribute("stateless_scope") is scope
    variable = keras.Variable([1.5], dtype="float32")
    with keras.src.backend.AutocastScope("float16"), keras_private.no_autocast():
        assert keras.backend.standardize_dtype(variable.value.dtype) == "float32"
    spec = keras_private.output_spec(lambda x: keras.ops.sum(x, axis=1), keras.KerasTensor((None, 3)))
    assert spec.shape == (None,)


def test_names_counted_anew() -> None:
    _, _, number = layers.Dense(2).name.partition("dense_")
    with keras_private.names_counted_anew():
        assert [layers.Dense(2).name for _ in range(2)] == ["dense", "dense_1"]
    assert layers.Dense(2).name == f"dense_{int(number or 0) + 1}"


def test_a_recorded_call_is_what_keras_records() -> None:
    inputs = keras.Input((4, 6))
    layer, split = layers.Dense(3), keras.ops.split(inputs, 2, axis=-1)
    wanted = [layer(inputs), *split]
    operation = keras_private.maker(split[0])
    found = keras_private.recorded(layer, (inputs,), {}, wanted[:1])
    found += keras_private.recorded(operation, (inputs,), {}, wanted[1:])
    for ours, keras_own in zip(found, wanted, strict=True):
        assert (ours.shape, ours.dtype) == (keras_own.shape, keras_own.dtype)
        assert keras_private.maker(ours) is keras_private.maker(keras_own)
        assert keras_private.call_node(ours) is not keras_private.call_node(keras_own)
        assert keras_private.call_node(ours).input_tensors == keras_private.call_node(keras_own).input_tensors
    x = np.random.default_rng(0).normal(size=(2, 4, 6)).astype(np.float32)
    for ours, keras_own in zip(keras.Model(inputs, found)(x), keras.Model(inputs, wanted)(x), strict=True):
        np.testing.assert_array_equal(ours, keras_own)


def test_a_plain_tensor_is_dense_and_has_no_mask() -> None:
    numbers = keras.Input((4,), dtype="int32")
    assert keras_private.is_plain(layers.Embedding(5, 2)(numbers))
    assert not keras_private.is_plain(layers.Embedding(5, 2, mask_zero=True)(numbers))
    assert not keras_private.is_plain(keras.Input((4,), sparse=True))


def private_names(path: Path) -> set[str]:
    """Attributes with one underscore in front, read from what is not `self`, and modules of Keras's insides."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute) and node.attr[:1] == "_" != node.attr[1:2]:
            own = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
            found |= set() if own else {node.attr}
        if isinstance(node, ast.Attribute) and ast.unparse(node).startswith("keras.src"):
            found.add("keras.src")
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(("keras.src", "tensorflow.python")):
            found.add(node.module)
    return found


def test_no_other_file_uses_private_names_of_keras() -> None:
    root = Path(keras_private.__file__).parents[1]
    samples = [layers.MultiHeadAttention(1, 2), keras.Input((2,)), two_calls()[0], keras.Sequential([layers.Dense(2)])]
    of_keras = {name for each in samples for name in dir(each) if name[0] == "_"} | {"keras.src"}
    files = [path for path in root.rglob("*.py") if path.name != "keras_private.py"]
    used = {str(path): names for path in files if (names := private_names(path) & of_keras)}
    assert used == {}


class Plain(layers.Layer):
    def __init__(self, factor: float = 2.0) -> None:
        super().__init__(name="one")
        self.factor, self.text, self.part = factor, None, layers.Dense(2)
        self.variable = self.add_weight(shape=(2,), name="variable")
        self.listed = [layers.Dense(3)]

    def get_config(self):
        return {"factor": self.factor}


def test_a_quick_layer_holds_what_another_one_does() -> None:
    class Quick(keras_private.MadeWithoutBuild, Plain):
        pass

    ordinary, quick = Plain(), Quick()
    # What Keras makes of the constructor's arguments and of `build` alone is left out.
    assert set(vars(ordinary)) - set(vars(quick)) == {"build", "quantize"}
    assert set(vars(quick)) <= set(vars(ordinary))
    for layer in (ordinary, quick):
        layer.part.build((None, 2))
        layer.listed[0].build((None, 2))
        layer.factor = layer.variable
        layer.factor = 3.0
    names = [[(v.name, tuple(v.shape)) for v in layer.variables] for layer in (ordinary, quick)]
    assert names[0] == names[1]
    assert len(names[0]) == 5
    assert [len(keras_private.sub_layers(layer)) for layer in (ordinary, quick)] == [2, 2]
    assert quick.factor == ordinary.factor == 3.0
    quick.trainable = False
    assert not quick.part.trainable
    assert not quick.trainable_variables


class InFloat32(keras_private.MadeWithoutBuild, layers.Layer):
    def __init__(self, part: layers.Layer, name: str | None = None, trainable: bool = True) -> None:
        super().__init__(name=name, trainable=trainable, dtype="float32", autocast=False)
        self.part = part
        self.built = True

    def call(self, inputs):
        return self.part(inputs)

    def get_config(self):
        return {}


def held(layer: layers.Layer) -> dict[str, tuple[type, str]]:
    """What a layer holds, without the places in memory."""
    return {key: (type(value), re.sub(r"0x\w+", "", repr(value))) for key, value in vars(layer).items()}


@pytest.mark.parametrize("trainable", [True, False])
def test_what_is_copied_from_a_class_s_first_layer_is_what_keras_leaves(trainable, monkeypatch) -> None:
    part = built_dense()
    InFloat32(part)
    copied = InFloat32(part, "it", trainable)
    monkeypatch.setattr(keras_private, "get_current_remat_mode", lambda: "full")
    assert held(copied) == held(InFloat32(part, "it", trainable))


def test_layers_of_a_class_share_nothing() -> None:
    one, other = InFloat32(built_dense()), InFloat32(built_dense())
    assert one.name != other.name
    one(np.ones((1, 2), np.float32))
    mutable = (list, dict, set)
    shared = [k for k, v in vars(one).items() if isinstance(v, mutable) and v is vars(other)[k]]
    assert shared == []
    assert [len(layer.trainable_variables) for layer in (one, other)] == [2, 2]
    assert not set(map(id, one.variables)) & set(map(id, other.variables))
    model = keras.Sequential([keras.Input((2,)), other])
    assert len(other._inbound_nodes) == 1
    assert one._inbound_nodes == []
    assert len(model.trainable_variables) == 2


def test_a_view_shares_weights_and_has_calls_of_its_own() -> None:
    inputs = keras.Input((2,))
    layer = layers.Dense(2)
    model = keras.Model(inputs, layer(inputs))
    view = keras_private.view_of(layer)
    view.name = "view"
    other = keras.Model(inputs, view(inputs))
    assert (layer.name, len(layer._inbound_nodes), len(view._inbound_nodes)) == (model.layers[-1].name, 1, 1)
    assert layer.name != "view"
    layer.kernel.assign([[1.0, 2.0], [3.0, 4.0]])
    assert view.kernel is layer.kernel
    x = np.ones((1, 2), np.float32)
    np.testing.assert_array_equal(other(x), model(x))
    assert view.get_config() == {**layer.get_config(), "name": "view"}


def test_a_layers_call_is_exchanged_and_put_back() -> None:
    layer = built_dense()
    x = np.ones((1, 2), np.float32)
    before = np.array(layer(x))
    keras_private.set_call(layer, lambda inputs: inputs + 1.0)
    np.testing.assert_array_equal(np.array(layer(x)), x + 1.0)
    keras_private.reset_call(layer)
    np.testing.assert_array_equal(np.array(layer(x)), before)
    keras_private.reset_call(layer)


def test_what_an_optimizer_takes_its_learning_rate_from() -> None:
    schedule = keras.optimizers.schedules.CosineDecay(0.1, 10)
    optimizer = keras.optimizers.SGD(schedule)
    assert keras_private.learning_rate_of(optimizer) is schedule
    other = keras.optimizers.schedules.CosineDecay(0.2, 10)
    optimizer.learning_rate = other
    assert keras_private.learning_rate_of(optimizer) is other
    assert isinstance(keras_private.learning_rate_of(keras.optimizers.SGD(0.1)), keras.Variable)


def test_the_loss_of_a_function_and_of_several_outputs() -> None:
    def own(y_true, y_pred, power=2.0):
        return abs(y_true - y_pred) ** power

    targets, outputs = np.array([1.0, 2.0], np.float32), np.array([[2.0], [5.0]], np.float32)
    assert float(keras_private.loss_of(own, targets, outputs)(targets, outputs)) == 5.0
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    assert keras_private.loss_of(loss, targets, outputs) is loss
    assert keras_private.arguments_of_loss(loss)["from_logits"] is True
    assert keras_private.arguments_of_loss(keras.losses.Loss()) == {}
    both = keras_private.compile_loss({"a": own, "b": None}, {"a": 3.0, "b": 1.0}, ["a", "b"])
    assert float(both({"a": targets, "b": targets}, {"a": outputs, "b": outputs})) == 15.0


def test_a_mask_goes_on_with_a_tensor() -> None:
    masked = layers.Masking()(np.array([[[0.0], [1.0]]], np.float32))
    other = keras_private.with_mask_of(masked + 1.0, masked)
    np.testing.assert_array_equal(np.array(keras_private.mask_of(other)), [[False, True]])
    assert keras_private.mask_of(keras_private.with_mask_of(masked + 1.0, masked + 2.0)) is None
