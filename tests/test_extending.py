"""The page about methods of one's own, followed as it is written: files, checks, commands."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path

import keras
import numpy as np
import pytest
from tests_processes import python_copies

import keras_compress as kc
from keras_compress import testing
from keras_compress.core import registry
from keras_compress.tflite.flatbuffer import Graph, read_model

PAGE = (Path(__file__).parents[1] / "docs" / "extending.md").read_text(encoding="utf-8")
SNIPPETS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
COMMANDS = re.findall(r"keras-compress (\w+ --.*)", PAGE)
WHOLE = """
import keras
import numpy as np
import keras_compress as kc
from my_methods.shift_quantizer import ShiftQuantizer
from my_methods.whole_inputs import WholeInputs
import my_methods.by_output
import my_methods.largest_activation
import my_methods.largest_weight

keras.utils.set_random_seed(0)
plain = keras.Sequential([keras.Input((6,)), keras.layers.Dense(16, "relu", name="a"), keras.layers.Dense(3, name="b")])
x = np.random.default_rng(0).normal(size=(32, 6)).astype("float32")
for lines in LINES:
    scope = {**globals(), "model": plain}
    exec(lines, scope)
    made = scope.get("smaller", scope["model"])
    assert made is not plain
    if "Budget" in lines:
        assert made.get_layer("a").units == 8
    elif made is scope.get("smaller"):
        weights = np.abs(plain.get_layer("a").kernel.numpy()).max(axis=0)
        assert np.array_equal(made.get_layer("a").kernel.numpy().shape, (6, 8))
        assert set(np.abs(made.get_layer("a").kernel.numpy()).max(axis=0)) == set(np.sort(weights)[8:])
assert kc.ShiftQuantizer is ShiftQuantizer
weight = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2, use_bias=False)])
weight.layers[0].kernel.assign([[0.9, 0.0], [-0.3, 0.001]])
wrapper = kc.quantize_model(weight, weights=ShiftQuantizer(8, per_channel=False), activations=None).layers[0]
assert np.array(wrapper.weight("kernel")).tolist() == [[115 / 128, 0.0], [-38 / 128, 0.0]]
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a stranger has who copied the page's files."""
    made = tmp_path_factory.mktemp("stranger")
    for snippet in SNIPPETS:
        named = re.match(r"# (\S+\.py)\n", snippet)
        if named:
            path = made / named[1]
            path.parent.mkdir(exist_ok=True)
            path.write_text(snippet, encoding="utf-8")
    return made


@pytest.fixture(scope="module")
def python(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., str]]:
    """`python *arguments` in that folder; gives what it prints."""
    with python_copies(tmp_path_factory.mktemp("printed")) as run:

        def checked(*arguments: str) -> str:
            done = run(folder, *arguments, limit_s=600)
            assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
            return done.stdout

        yield checked


def test_the_checks_pass(folder: Path, python: Callable[..., str]) -> None:
    assert len(list((folder / "my_methods").glob("*.py"))) == 8
    assert "2 passed" in python(
        "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider", "tests/test_my_methods.py"
    )


def test_the_lines_between(folder: Path, python: Callable[..., str]) -> None:
    lines = [snippet for snippet in SNIPPETS if not snippet.startswith("# ")]
    assert len(lines) == 5
    (folder / "lines.py").write_text(f"LINES = {lines!r}\n{WHOLE}", encoding="utf-8")
    python("lines.py")


def test_the_commands(folder: Path, python: Callable[..., str]) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(64, 6)).astype(np.float32), rng.integers(0, 3, 64)
    np.savez(folder / "data.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(8, "relu"), keras.layers.Dense(3)])
    model.save(folder / "model.keras")
    (recipe,) = re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)
    (folder / "my_recipe.json").write_text(recipe, encoding="utf-8")
    assert len(COMMANDS) == 2
    for command in COMMANDS:
        python("-m", "keras_compress.cli", *shlex.split(command))
    graph = Graph(read_model((folder / "small.tflite").read_bytes()))
    kernels = [op.inputs[1] for op in graph.operators if graph.kind(op) == "FULLY_CONNECTED"]
    exponents = [np.log2(graph.tensors[index].quantization.scale) for index in kernels]
    assert [len(found) for found in exponents] == [8, 3]
    assert all((found == np.round(found)).all() for found in exponents)
    assert max(stats.distinct_values for stats in kc.inspect_tflite(folder / "small.tflite").weights) <= 63


def test_a_module_that_is_not_there(capsys) -> None:
    from keras_compress.cli.main import main

    assert main(["keras-compress", "inspect", "--model=m.tflite", "--import=no_such_module"]) == 1
    assert "Expected --import= as modules that Python finds. Received: no_such_module" in capsys.readouterr().err


# Known to Keras alone: the registry of methods is what other tests enumerate.
registered = keras.saving.register_keras_serializable(package="tests")


@registered
class Forgetful(kc.Schedule):
    """A schedule whose configuration leaves an argument out."""

    def __init__(self, final_sparsity: float = 0.5) -> None:
        super().__init__(0, 10, 1)
        self.final_sparsity = final_sparsity

    def __call__(self, step):
        return keras.ops.cast(self.final_sparsity, "float32")

    def get_config(self):
        return {}


@registered
class Doubling(kc.WeightQuantizer):
    """Integers that are not the weight that training sees."""

    allowed_bits = (8,)

    def grid(self):
        return _DOUBLED, ()

    def integer_weight(self, weight):
        found = super().integer_weight(weight)
        return type(found)(found.integers // 2, found.scale, found.bits)


_DOUBLED = kc.IntegerGrid(lambda weight: (keras.ops.round(weight * 8.0), keras.ops.ones((1, 1)) / 8.0))


@registered
class Regrowing(kc.Pruner):
    """Zeros that come back, though it promises that they do not."""

    def choose(self, scores, sparsity):
        return keras.ops.ones_like(scores, dtype="bool")


def test_a_method_that_is_wrong_is_found() -> None:
    with pytest.raises(AssertionError, match=r"Forgetful\(\): get_config\(\) gives \[\]"):
        testing.check(Forgetful)
    with pytest.raises(AssertionError, match="Doubling"):
        testing.check(Doubling)
    schedule = kc.ConstantSparsity(0.5, begin_step=0, frequency=1)
    with pytest.raises(AssertionError, match="promises zeros and makes none"):
        testing.check(Regrowing, schedule=schedule)
    with pytest.raises(AssertionError, match=r"Expected Unknown to be registered.*kc.register"):
        testing.check(type("Unknown", (kc.Schedule,), {}))
    with pytest.raises(TypeError, match="Expected a subclass of WeightTransform, .* Received"):
        testing.check(keras.layers.Dense)


def test_a_layer_without_a_rule_is_found() -> None:
    class Mixing(keras.layers.Layer):
        def call(self, inputs):
            return inputs * keras.ops.mean(inputs, axis=-1, keepdims=True)

    with pytest.raises((AssertionError, ValueError), match="Mixing"):
        testing.check_channel_rule(Mixing(), (8,))


def test_names_of_other_packages_are_theirs() -> None:
    assert keras.saving.get_registered_name(registry.lookup("schedule", "PolynomialDecay")).startswith(
        "keras_compress>"
    )
