"""The names of the package: listed once, in the stub that type checkers read and the package itself."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import keras_compress as kc
from keras_compress.core import registry

STUB = Path(kc.__file__).with_suffix(".pyi")
IMPORTS = [line for line in ast.parse(STUB.read_text(encoding="utf-8")).body if isinstance(line, ast.ImportFrom)]
LISTED = {alias.asname: (str(line.module), alias.name) for line in IMPORTS for alias in line.names}
CHECKOUT = Path(__file__).parents[1]


def test_each_name_is_listed_once_and_is_what_it_says() -> None:
    assert len(LISTED) == sum(len(line.names) for line in IMPORTS)
    assert list(kc.__all__) == sorted(LISTED)
    assert set(dir(kc)) >= set(LISTED)
    for name, (module, original) in LISTED.items():
        assert name == original
        if name not in ("convert", "report"):  # packages, which are called as the functions
            assert getattr(kc, name) is getattr(importlib.import_module(module), name)
    assert kc.convert.__signature__.parameters.keys() >= {"model", "target"}
    with pytest.raises(AttributeError, match="has no attribute 'LSQS'"):
        _ = kc.LSQS


def test_every_method_of_the_package_has_its_line() -> None:
    missing = [
        f"from {entry.__module__} import {name} as {name}"
        for kind in kc._KINDS
        for name, entry in registry.entries(kind).items()
        if entry.__module__.startswith(("keras_compress.runtime", *(f"keras_compress.{part}" for part in kc._METHODS)))
        and name not in LISTED
    ]
    assert not missing, "Add to keras_compress/__init__.pyi:\n" + "\n".join(missing)


def test_a_star_import_and_the_command_find_the_same_names() -> None:
    code = "import sys; sys.argv = ['keras-compress']; import keras_compress as kc; assert 'keras' not in sys.modules;"
    code += "from keras_compress import *; assert LSQ is kc.LSQ is not None; print(len(kc.__all__))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == len(LISTED)


def test_a_type_checker_knows_the_names(tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    lines = ["import keras_compress as kc", "reveal_type(kc.LSQ(bits=4).bits)", "kc.LSQ(bits='four')", "kc.LSQS"]
    lines += ["reveal_type(kc.measure('a').latency.median_ms)", "reveal_type(kc.measure('a', baseline='b'))", ""]
    (tmp_path / "user.py").write_text("\n".join(lines), encoding="utf-8")
    # Wherever it is: mypy takes no folder of installed packages as a path.
    (tmp_path / "keras_compress").symlink_to(STUB.parent, target_is_directory=True)
    options = ["--config-file=", "--ignore-missing-imports", "--follow-imports=silent", f"--cache-dir={tmp_path}"]
    done = subprocess.run(
        [sys.executable, "-m", "mypy", *options, "user.py"],
        cwd=tmp_path, env={"PATH": ""},
        capture_output=True, text=True, check=False, timeout=600,
    )  # fmt: skip
    told = done.stdout
    assert 'user.py:2: note: Revealed type is "' in told, told + done.stderr
    assert 'Revealed type is "Any"' not in told
    assert 'user.py:3: error: Argument "bits" to "LSQ" has incompatible type "str"; expected "int"' in told
    assert "user.py:4: error: Module has no attribute" in told
    assert 'user.py:5: note: Revealed type is "' in told
    assert 'float"' in told.splitlines()[-3]
    assert 'user.py:6: note: Revealed type is "' in told
    assert 'measure.Measurement]"' in told


def test_the_wheel_has_the_stub(tmp_path: Path) -> None:
    if not (CHECKOUT / "setup.cfg").exists():
        pytest.skip("no checkout around these tests")
    copy = tmp_path / "checkout"
    names = ("setup.cfg", "pyproject.toml", "README.md", "LICENSE")
    copy.mkdir()
    for name in names:
        (copy / name).write_bytes((CHECKOUT / name).read_bytes())
    package = copy / "keras_compress"
    package.mkdir()
    for path in (STUB, STUB.with_suffix(".py"), STUB.parent / "py.typed"):
        (package / path.name).write_bytes(path.read_bytes())
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir=."]
    done = subprocess.run([*command, str(copy)], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300)
    if done.returncode and "setuptools" in done.stderr:
        pytest.skip("no setuptools to build with")
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    assert {"keras_compress/__init__.pyi", "keras_compress/py.typed"} <= set(zipfile.ZipFile(wheel).namelist())
