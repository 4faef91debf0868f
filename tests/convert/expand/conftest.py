"""A bench for expansions: small models with weights on the int8 grid, beside what they are flattened into."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest

from keras_compress.convert.expand.weights import default_integers
from keras_compress.convert.flatten import flatten
from keras_compress.graph.model import slots_in


class Bench:
    """What the tests of this folder share."""

    @staticmethod
    def model(build: Callable[..., Any], *shapes: tuple[int, ...], dtype: str = "float32") -> keras.Model:
        """A model from symbolic inputs; weights are random numbers of the int8 grid, nothing is zero or one."""
        keras.utils.set_random_seed(5)
        inputs = [keras.Input(shape, dtype=dtype, name=f"x{n}") for n, shape in enumerate(shapes)]
        made = keras.Model(inputs if len(inputs) > 1 else inputs[0], build(*inputs))
        rng = np.random.default_rng(5)
        for layer in made.layers:
            for variable in layer.variables:
                if "float" in str(variable.dtype):
                    # Positive: variances are among them.
                    variable.assign(rng.uniform(0.2, 1.0, variable.shape))
            for slot in slots_in(layer):
                variable = slot.variable(layer)
                signed = variable * rng.choice([-1.0, 1.0], variable.shape)
                variable.assign(default_integers(signed, slot.channel_axes).floats())
        return made

    @staticmethod
    def data(model: keras.Model, count: int = 3) -> list[Any]:
        rng = np.random.default_rng(6)
        return [rng.normal(size=(count, *t.shape[1:])).astype(np.float32) for t in model.inputs]

    def same(self, model: keras.Model, *data: Any, atol: float = 1e-5, measures: bool = False) -> keras.Model:
        """Flatten, compare the outputs, and return the flat model."""
        fed = list(data) or self.data(model)
        fed = fed if len(fed) > 1 else fed[0]
        flat = flatten(model, measures=measures).model
        expected, got = (keras.tree.flatten(m(fed)) for m in (model, flat))
        assert len(expected) == len(got)
        for one, two in zip(expected, got, strict=True):
            one, two = (keras.ops.convert_to_numpy(a) for a in (one, two))
            assert np.ptp(one) > 1e-3, "the test needs outputs that vary"
            np.testing.assert_allclose(two, one, atol=atol, rtol=1e-4)
        return flat

    @staticmethod
    def kinds(model: keras.Model) -> list[str]:
        """Class names of the operations of a flat model, wrappers looked through."""
        from keras_compress.graph.model import inner

        made = [each for each in model.operations if not isinstance(each, keras.layers.InputLayer)]
        return [type(inner(each) if isinstance(each, keras.layers.Layer) else each).__name__ for each in made]

    @staticmethod
    def flatten(model: keras.Model) -> keras.Model:
        return flatten(model).model


@pytest.fixture(scope="session")
def bench() -> Bench:
    return Bench()
