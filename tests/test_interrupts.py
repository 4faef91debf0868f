"""Ctrl-C: the model stays usable, no process and no file is left over, and output goes where it went before."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import keras_compress

ROOT = Path(keras_compress.__file__).parents[1]
TESTS = str(Path(__file__).parent)
# Works until SIGINT comes; then checks itself. One process for all kinds of work, as starting TensorFlow takes seconds.
PROGRAM = r"""
import os, sys, threading
os.environ["KERAS_BACKEND"] = "tensorflow"
import keras, numpy as np
import keras_compress as kc
from keras import layers
from tests_xla import xla
xla.turn(False)
from keras_compress.calibration.calibrate import calibrate
from keras_compress.core import progress
from keras_compress.runtime.child import close_children

rng = np.random.default_rng(0)
x, y = rng.normal(size=(256, 8, 8, 2)).astype("float32"), rng.integers(0, 3, 256)
keras.utils.set_random_seed(0)
model = keras.Sequential([keras.Input((8, 8, 2)), layers.Conv2D(8, 3), layers.BatchNormalization(), layers.ReLU(),
                          layers.GlobalAveragePooling2D(), layers.Dense(3)])
def trained(model, epochs):
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(x, y, epochs=epochs, verbose=0)
    return model
compressed = trained(kc.quantize_model(kc.prune_low_magnitude(model)), 1)
artifact = kc.convert(compressed)
out = sys.argv[1]

def slowly():
    while True:
        yield x[:16]

def files():
    while True:
        kc.convert(compressed).save(os.path.join(out, "model.tflite"))

def forever(function):
    while True:
        function()

recipe = {"version": 1, "name": "r", "stages": [{"name": "p", "method": "prune_low_magnitude", "epochs": 10**6}]}
work = {
    "fit": lambda: trained(compressed, 10**6),
    "calibrate": lambda: kc.convert(model, representative_dataset=slowly),
    "convert": lambda: forever(lambda: kc.convert(model, representative_dataset=x)),
    "save": files,
    "verify": lambda: forever(lambda: kc.verify(artifact, artifact.frozen, x)),
    "measure": lambda: forever(lambda: kc.measure(artifact, x, y, runs=2000)),
    "compress": lambda: kc.compress(model, recipe, fit=lambda m, stage: trained(m, stage.epochs)),
}

def children():
    found = []
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        try:
            parent = open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()[1]
        except OSError:
            continue
        found += [int(pid)] * (int(parent) == os.getpid())
    return found

def alive():
    # A thread that has ended is listed for a moment longer.
    return sum(thread.is_alive() for thread in threading.enumerate())

def places():
    return [os.readlink(f"/proc/self/fd/{n}") for n in (1, 2)]

def checked(name, before):
    assert places() == before, (places(), before)
    assert progress._OPEN.lines == []
    assert alive() == threads, threading.enumerate()
    assert np.isfinite(compressed.predict(x, verbose=0)).all()
    compressed.evaluate(x, y, verbose=0)
    again = kc.convert(compressed)
    assert again.mode == "int8" and len(again.content) > 1000
    if name in ("verify", "measure"):
        kc.verify(again, compressed, x, kernels=["reference"], strict=False)
    close_children()
    assert children() == [], children()
    left = [f for f in os.listdir(os.environ["TMPDIR"]) if not f.startswith("__autograph")]
    assert left == [], left
    for file in os.listdir(out):
        assert file == "model.tflite" and kc.inspect_tflite(os.path.join(out, file)).weights, file

compressed.predict(x, verbose=0)
threads = alive()
for name in sys.argv[2:]:
    before = places()
    print("begin", name, flush=True)
    try:
        work[name]()
    except KeyboardInterrupt:
        print("interrupted", name, flush=True)
    checked(name, before)
    print("usable", name, flush=True)
"""
KINDS = ("fit", "calibrate", "convert", "save", "verify", "measure", "compress")


def interrupt(process: subprocess.Popen[str]) -> None:
    """Ctrl-C, and once more where nothing has come of it: Keras's own `fit` can lose one in a destructor."""
    for _ in range(3):
        process.send_signal(signal.SIGINT)
        if select.select([process.stdout], [], [], 30)[0]:
            return
    raise TimeoutError("Ctrl-C did nothing")


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="looks for processes and descriptors in /proc")
def test_everything_can_be_interrupted(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("out", "temporary")]
    for folder in folders:
        folder.mkdir()
    said = []
    command = [sys.executable, "-c", PROGRAM, str(folders[0]), *KINDS]
    env = {**os.environ, "TMPDIR": str(folders[1]), "PYTHONPATH": os.pathsep.join((str(ROOT), TESTS))}
    with (
        (tmp_path / "log").open("w") as log,
        subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=log, text=True) as process,
    ):
        try:
            for line in process.stdout or ():
                said.append(line.strip())
                if line.startswith("begin"):
                    # A different moment for each: tracing, the converter, a child process at work.
                    time.sleep(1.0 + 0.37 * len(said) % 1.5)
                    interrupt(process)
            process.wait(60)
        finally:
            process.kill()
    assert process.returncode == 0, f"{said}\n{(tmp_path / 'log').read_text(errors='replace')[-3000:]}"
    assert said == [f"{what} {kind}" for kind in KINDS for what in ("begin", "interrupted", "usable")]
