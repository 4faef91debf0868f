"""No module imports, at whatever place, one that leads back to it; objects of layers above come from the registry."""

from __future__ import annotations

import ast
import graphlib
from pathlib import Path

import grimp
import pytest

import keras_compress
from keras_compress.core import providers, registry

ROOT = Path(keras_compress.__file__).parent
# These import what a command line, a file's extension or the user's attribute names, or a runtime that may be missing.
BY_NAME = {"__init__.py", "cli/main.py", "convert/__init__.py", "core/registry.py", "runtime/engine_litert.py",
           "runtime/engine_tflm.py", "runtime/worker.py"}  # fmt: skip


def test_no_circles():
    graph = grimp.build_graph("keras_compress", exclude_type_checking_imports=True)
    imports = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    assert len(imports) > 200
    graphlib.TopologicalSorter(imports).prepare()  # raises CycleError, with the modules of the circle


def test_no_layer_imports_another_by_a_string():
    calls = {
        str(path.relative_to(ROOT))
        for path in ROOT.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and node.attr == "import_module"
    }
    assert calls <= BY_NAME


@pytest.mark.parametrize("kind", sorted(providers._MODULES))
def test_each_provider_registers_an_object(kind):
    found = {made.__module__ for made in registry.entries(kind).values()}
    assert set(providers.providers(kind)) <= found
