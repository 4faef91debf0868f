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
BY_NAME = {"__init__.py", "cli/main.py", "core/callable_package.py", "core/registry.py", "runtime/engine_litert.py",
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


def files_with(module: str, attribute: str) -> set[str]:
    """Files that name an attribute of a module."""
    return {
        str(path.relative_to(ROOT))
        for path in ROOT.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and ast.unparse(node) == f"{module}.{attribute}"
    }


@pytest.mark.parametrize(
    ("module", "attribute", "where"),
    [
        ("keras_private", "nodes_by_depth", "graph/graph.py"),  # "lists the nodes of a Functional model"
        ("keras", "optimizers", "data/training.py"),  # "compiles and fits"
    ],
)
def test_what_is_said_to_be_in_one_file_is_in_no_other(module: str, attribute: str, where: str) -> None:
    # The checks of methods train their samples as a user would; two methods search numbers, and tickets move the
    # learning rate's schedule of an optimizer that is there: no model is compiled.
    checks = {"testing/sample.py", "testing/saliencies.py"}
    searching = {"post_training/reconstruction.py", "post_training/synthetic_data.py", "pipelines/round_training.py"}
    assert files_with(module, attribute) - checks - searching == {where}


def test_the_call_context_is_read_in_one_file() -> None:
    named = {str(p.relative_to(ROOT)) for p in ROOT.rglob("*.py") if '"current_call_ctx"' in p.read_text("utf-8")}
    # The second keeps it as it is, and does not look into it.
    assert named == {"core/context.py", "core/global_state.py"}
