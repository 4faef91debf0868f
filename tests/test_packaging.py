"""The package as a whole: what importing it costs, what it never imports, how large its pieces are."""

from __future__ import annotations

import ast
import configparser
import importlib.metadata
import re
import subprocess
import sys
from pathlib import Path
from statistics import median

import pytest
from packaging.requirements import Requirement

import keras_compress

PACKAGE = Path(keras_compress.__file__).parent
CHECKOUT = Path(__file__).parent.parent
LONGEST_IMPORT_SECONDS, LARGEST_IMPORT_SHARE = 0.3, 0.1
# The one file that runs in a process of its own, and is never imported for what it imports there.
OF_TFMOT = PACKAGE / "migrate" / "process.py"
SOURCES = sorted(PACKAGE.rglob("*.py"))


def run_python(code: str) -> str:
    """Runs code in a fresh interpreter that finds the same package as this one."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=PACKAGE.parent, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_import_is_light_and_without_warnings() -> None:
    heavy = ["ai_edge_litert", "tflite_micro", "tensorflow_model_optimization", "tf_keras"]
    # Keras itself imports matplotlib where it is installed, so it is made to look absent.
    code = "import sys; sys.modules['matplotlib'] = None; import keras_compress;"
    code += f"print([name for name in {heavy} if name in sys.modules])"
    assert run_python(code) == "[]"


def test_importing_costs_little_beyond_keras() -> None:
    # Both in one process, by its own CPU time, as seconds or, where this computer is slow or busy, beside Keras's own.
    # The best of several is what it costs.
    code = """
import time
start = time.process_time()
import keras
between = time.process_time()
import keras_compress
print(between - start, time.process_time() - between)
"""
    tried = []
    for _ in range(4):
        of_keras, beyond = map(float, run_python(code).split())
        tried.append((of_keras, beyond))
        if beyond < max(LONGEST_IMPORT_SECONDS, LARGEST_IMPORT_SHARE * of_keras):
            return
    pytest.fail(f"importing keras_compress took CPU time beyond Keras's: {tried} s")


def requirements(system: str, machine: str, extra: str | None = None) -> list[str]:
    """What setup.cfg declares for a platform: pip itself would look at the markers with this computer's eyes."""
    declared = configparser.ConfigParser()
    if not declared.read(CHECKOUT / "setup.cfg"):
        pytest.skip("no checkout around these tests")
    lines = declared["options"]["install_requires"].strip().splitlines()
    lines += declared["options.extras_require"][extra].strip().splitlines() if extra else []
    found = [Requirement(line) for line in lines if not line.lstrip().startswith("#")]
    target = {"sys_platform": system, "platform_machine": machine}
    return [f"{each.name}{each.specifier}" for each in found if each.marker is None or each.marker.evaluate(target)]


@pytest.fixture(scope="module")
def uv_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("uv")


@pytest.mark.parametrize(
    ("platform", "python", "system", "machine", "extra"),
    [
        ("aarch64-apple-darwin", "3.12", "darwin", "arm64", None),
        ("x86_64-pc-windows-msvc", "3.10", "win32", "AMD64", "tfmot"),
        ("x86_64-manylinux_2_35", "3.13", "linux", "x86_64", "tfmot"),
    ],
    ids=["macos", "windows", "linux"],
)
def test_dependencies_resolve_to_wheels(
    platform: str, python: str, system: str, machine: str, extra: str | None, uv_cache: Path
) -> None:
    """By uv, which reads a wheel's metadata alone where pip fetches the wheel."""
    wanted = requirements(system, machine, extra)
    assert ("tflite-micro" in " ".join(wanted)) == (system == "linux")
    done = subprocess.run(
        [sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--no-header", "--no-annotate",
         "--only-binary=:all:", f"--cache-dir={uv_cache}", f"--python-platform={platform}",
         f"--python-version={python}", "-"],
        input="\n".join(wanted), capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    if done.returncode and re.search("[Ff]ailed to fetch|error sending request|timed out|[Oo]ffline", done.stderr):
        pytest.skip(f"the package index cannot be reached: {done.stderr.strip().splitlines()[-1]}")
    assert done.returncode == 0, done.stderr
    found = {line.partition("==")[0] for line in done.stdout.splitlines()}
    assert {"tensorflow", "keras", "ai-edge-litert", "kmeans1d"} <= found
    assert ("tensorflow-model-optimization" in found) == (extra == "tfmot")


def test_tfmot_installs_beside_tensorflow() -> None:
    """tensorflow-model-optimization 0.8.1 wants absl-py~=1.2, TensorFlow absl-py>=1.0: what is declared meets both."""
    declared = {
        Requirement(line).name: Requirement(line).specifier for line in requirements("linux", "x86_64", "tfmot")
    }
    assert "0.8.1" in declared["tensorflow-model-optimization"]
    newest_of_1 = "1.4.0"
    assert newest_of_1 in declared["absl-py"]


def imported_names(path: Path) -> set[str]:
    """Every module that a file imports, at any level of nesting."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return names


def test_no_module_imports_tfmot_or_legacy_keras() -> None:
    forbidden = {"tensorflow_model_optimization", "tf_keras", "pickle"}
    offenders = {
        str(path.relative_to(PACKAGE)): sorted(found)
        for path in SOURCES
        if path != OF_TFMOT and (found := {name.split(".")[0] for name in imported_names(path)} & forbidden)
    }
    assert len(SOURCES) > 10
    assert offenders == {}


def test_layers_import_one_way() -> None:
    if not (CHECKOUT / "pyproject.toml").is_file():
        pytest.skip("the contracts are in the checkout's pyproject.toml")
    command = "from importlinter.cli import lint_imports_command as run; run()"
    done = subprocess.run(
        [sys.executable, "-c", command, "--no-cache"],
        cwd=CHECKOUT, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


def function_lines(path: Path) -> list[tuple[int, str]]:
    """Lines of each function without those of its docstring, and its name."""
    return [
        (node.end_lineno - node.lineno + 1 - len((ast.get_docstring(node, clean=False) or "").splitlines()), name)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.end_lineno is not None
        for name in [f"{path.relative_to(PACKAGE)}:{node.name}"]
    ]


def test_functions_are_short() -> None:
    lengths = sorted(length for path in SOURCES for length in function_lines(path))
    assert [entry for entry in lengths if entry[0] > 60] == []
    assert lengths[int(0.95 * (len(lengths) - 1))][0] <= 20


def test_files_are_short() -> None:
    lengths = {str(path.relative_to(PACKAGE)): len(path.read_text(encoding="utf-8").splitlines()) for path in SOURCES}
    assert {name: lines for name, lines in lengths.items() if lines > 500} == {}
    assert median(lines for lines in lengths.values() if lines > 5) <= 150


def test_typed_marker_and_recipes_are_installed() -> None:
    assert (PACKAGE / "py.typed").is_file()
    if (CHECKOUT / "keras_compress" / "recipes").is_dir():
        shipped = {path.name for path in (CHECKOUT / "keras_compress" / "recipes").glob("*.json")}
        assert {path.name for path in (PACKAGE / "recipes").glob("*.json")} == shipped


def test_sources_of_kernels_are_installed() -> None:
    if (CHECKOUT / "keras_compress" / "native").is_dir():
        kinds = ("*.cc", "*.h", "CMakeLists.txt")
        shipped, packed = (
            {path.name: path.read_bytes() for kind in kinds for path in (folder / "native").glob(kind)}
            for folder in (CHECKOUT / "keras_compress", PACKAGE)
        )
        assert len(shipped) > 8
        assert packed == shipped


def test_metadata() -> None:
    try:
        metadata = importlib.metadata.metadata("keras-compress")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("keras-compress runs from a checkout and is not installed")
    assert "Apache-2.0" in (metadata["License-Expression"], metadata["License"])
    assert metadata["Requires-Python"] == ">=3.10"
    (script,) = [
        entry for entry in importlib.metadata.entry_points(group="console_scripts")
        if entry.name == "keras-compress"
    ]  # fmt: skip
    assert script.value == "keras_compress.cli.main:main"


def test_ci_runs_the_readme_command() -> None:
    script = CHECKOUT / ".ci" / "run"
    if not script.is_file():
        pytest.skip("no checkout around these tests")
    assert "pip install '.[test]' && pytest -n 2 --dist worksteal\n" in script.read_text(encoding="utf-8")
