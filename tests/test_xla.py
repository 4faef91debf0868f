"""Tests compile with XLA where they say so."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from keras_compress.core.ste import compiled, elementwise


def runs_of(program, called: list) -> list:
    """How often Python runs the function in two calls, and what they give."""
    values = [program(tf.constant([1.0, 2.0]), tf.constant(3.0)).numpy().tolist() for _ in range(2)]
    assert values == [[3.0, 6.0]] * 2
    return called


def made() -> tuple[list, list]:
    called: list[list] = [[], []]

    def function(of: list):
        def product(values, by):
            of.append(1)
            return values * by

        product.__module__ = "keras_compress.core.ste"
        return product

    return runs_of(compiled(function(called[0])), called[0]), runs_of(elementwise(1, 1)(function(called[1])), called[1])


def test_most_tests_run_what_the_package_compiles_as_it_stands() -> None:
    assert [len(called) for called in made()] == [2, 2]


@pytest.mark.xla
def test_tests_about_xla_compile() -> None:
    assert [len(called) for called in made()] == [1, 1]


def test_what_a_test_compiles_is_compiled() -> None:
    called = []
    program = tf.function(lambda x: called.append(1) or x + 1.0, jit_compile=True)
    assert [float(program(tf.constant(1.0))) for _ in range(2)] == [2.0, 2.0]
    assert called == [1]
    assert "HloModule" in program.experimental_get_compiler_ir(np.float32(1))()
