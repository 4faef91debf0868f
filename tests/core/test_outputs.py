"""What is to be written never takes the place of what is read."""

import os

import numpy as np
import pytest

import keras_compress as kc
from keras_compress.convert.artifact import Artifact
from keras_compress.core.outputs import check_not_read, check_output
from keras_compress.structured.sensitivity import GroupSensitivity, Sensitivity


def test_the_same_file_is_found_however_it_is_spelled(tmp_path, monkeypatch):
    model = tmp_path / "m.tflite"
    model.write_bytes(b"mine")
    (tmp_path / "sub").mkdir()
    os.symlink(model, tmp_path / "soft.tflite")
    os.link(model, tmp_path / "hard.tflite")
    os.symlink(tmp_path, tmp_path / "sub" / "up")
    monkeypatch.chdir(tmp_path)
    for other in ("m.tflite", "./sub/../m.tflite", "soft.tflite", "hard.tflite", "sub/up/m.tflite", str(model)):
        for path, read in ((other, model), (model, other)):
            with pytest.raises(ValueError, match=r"Expected --out to be another file than --model, which would be"):
                check_output(path, ".tflite", {"--data": None, "--model": read}, "--out")
    assert check_output("sub/m.tflite", ".tflite", {"--model": model}).name == "m.tflite"
    # A link that leads nowhere yet, and the place it leads to.
    os.symlink(tmp_path / "new.tflite", tmp_path / "dangling.tflite")
    with pytest.raises(ValueError, match="another file than model"):
        check_not_read("new.tflite", {"model": "dangling.tflite"})


@pytest.mark.parametrize("path", ["m.keras", "m", "m.tflite.npz", ".tflite"])
def test_another_ending(path):
    with pytest.raises(ValueError, match=r"Expected path as a file that ends in \.tflite\. Received: path="):
        check_output(path, ".tflite")
    assert check_output("M.TFLITE", ".tflite").name == "M.TFLITE"


def test_a_folder(tmp_path):
    (tmp_path / "m.tflite").mkdir()
    with pytest.raises(IsADirectoryError, match="Received: the folder"):
        check_output(tmp_path / "m.tflite", ".tflite")


def test_functions_that_write_leave_what_is_the_users(tmp_path):
    model = tmp_path / "model.keras"
    model.write_bytes(b"trained for a week")
    with pytest.raises(ValueError, match=r"ends in \.tflite"):
        Artifact(b"", "litert", "int8", "float32").save(model)
    found = Sensitivity("L1", 0.9, (0.5,), (GroupSensitivity("d", ("d",), 4, (0.8,)),))
    with pytest.raises(ValueError, match=r"ends in \.json"):
        found.save(model)
    # Nobody's `s.json.tmp` is in the way of its temporary file.
    (tmp_path / "s.json.tmp").write_bytes(b"mine")
    found.save(tmp_path / "s.json")
    assert (tmp_path / "s.json.tmp").read_bytes() == b"mine"
    source = tmp_path / "net_data.cc"
    source.write_bytes(b"TFL3")
    with pytest.raises(ValueError, match="Expected what is written to be another file than model"):
        kc.export_c(source, tmp_path, name="net")
    with pytest.raises(ValueError, match="Expected save_to to be another file than model"):
        kc.estimate(tmp_path / "m.tflite", "ethos_u", save_to=tmp_path / "sub" / ".." / "m.tflite")
    with pytest.raises(ValueError, match=r"Expected save_to as a file that ends in \.tflite"):
        kc.estimate(tmp_path / "m.tflite", "ethos_u", save_to=model)
    assert model.read_bytes() == b"trained for a week"
    assert source.read_bytes() == b"TFL3"
    assert sorted(os.listdir(tmp_path)) == ["model.keras", "net_data.cc", "s.json", "s.json.tmp"]
    assert np.isclose(Sensitivity.from_json((tmp_path / "s.json").read_text()).unpruned, 0.9)
