"""The child processes: whatever happens in one, the caller gets an exception and the next request works."""

import io
import os
import signal
import struct
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from keras_compress.runtime import child as child_module
from keras_compress.runtime.child import (
    RuntimeCrash,
    RuntimeTimeout,
    ask,
    borrowed_child,
)
from keras_compress.runtime.frames import MAGIC, FrameError, read_frame, write_frame
from keras_compress.runtime.litert import LiteRT

OPTIONS = {"kernels": "reference", "threads": 1}


def ping(seconds=0.0, limit=20.0, **more):
    return ask("litert", OPTIONS, {"op": "sleep", "sleep_seconds": seconds}, seconds=limit, **more)


def child_id():
    with borrowed_child("litert", OPTIONS) as child:
        return child._process.pid


def alive(process_id):
    try:
        with open(f"/proc/{process_id}/stat") as file:
            return file.read().split()[2] not in "ZX"
    except FileNotFoundError:
        return False


def wait_until_dead(process_id):
    for _ in range(200):
        if not alive(process_id):
            return True
        time.sleep(0.02)
    return False


def test_frame_round_trip_keeps_values_types_and_shapes():
    arrays = [
        np.arange(6, dtype=np.int16).reshape(2, 3),
        np.float32(1.5).reshape(()),
        np.zeros((0, 4), np.int8),
    ]
    stream = io.BytesIO()
    write_frame(stream, {"op": "x"}, arrays)
    stream.seek(0)
    header, back = read_frame(stream)
    assert header["op"] == "x"
    assert [(a.dtype, a.shape) for a in back] == [(a.dtype, a.shape) for a in arrays]
    assert np.array_equal(back[0], [[0, 1, 2], [3, 4, 5]])
    assert back[1] == 1.5


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"noise from a runtime",
        MAGIC + struct.pack("<I", 4) + b"null",
        MAGIC + struct.pack("<I", 9) + b"{not json",
        MAGIC + struct.pack("<I", 0xFFFFFFFF),
        MAGIC + struct.pack("<I", 45) + b'{"arrays": [{"dtype": "|O", "shape": [1]}] }  ' + bytes(8),
        MAGIC + struct.pack("<I", 49) + b'{"arrays": [{"dtype": "<i8", "shape": [9999999]}]}',
        MAGIC + struct.pack("<I", 44) + b'{"arrays": [{"dtype": "<i8", "shape": [-1]}]}',
    ],
)
def test_a_broken_frame_is_one_kind_of_error(data):
    with pytest.raises(FrameError):
        read_frame(io.BytesIO(data), limit_bytes=1 << 20)


def test_objects_are_never_sent():
    stream = io.BytesIO()
    write_frame(stream, {}, [np.array([1], "datetime64[s]")])
    stream.seek(0)
    with pytest.raises(FrameError, match="number type"):
        read_frame(stream)


def test_the_idle_child_is_reused_and_starts_quickly_without_tensorflow():
    child_module.close_children()
    start = time.perf_counter()
    first = child_id()
    assert time.perf_counter() - start < 5.0
    ping()
    assert child_id() == first
    with open(f"/proc/{first}/maps") as file:
        maps = file.read()
    assert "ai_edge_litert" in maps
    assert "/tensorflow/" not in maps


def test_options_have_children_of_their_own():
    with borrowed_child("litert", OPTIONS) as one, borrowed_child("litert", {**OPTIONS, "threads": 2}) as two:
        assert one._process.pid != two._process.pid


def test_a_crash_is_an_exception_with_signal_label_and_last_words():
    before = child_id()
    with pytest.raises(RuntimeCrash, match=r"litert crashed \(SIGABRT\) on bad.tflite\n.*\n  a last word") as caught:
        ask("litert", OPTIONS, {"op": "crash"}, seconds=20.0, label="bad.tflite")
    assert isinstance(caught.value, RuntimeError)
    ping()
    assert child_id() != before


def test_a_crash_is_not_blamed_on_the_model_before_it_happened_in_a_fresh_child(monkeypatch):
    ping()
    used, real, seen = child_id(), child_module.Child.request, []

    def request(self, header, *arguments, **limits):
        seen.append(self._process.pid)
        header = {"op": "crash"} if self._process.pid == used else header
        return real(self, header, *arguments, **limits)

    monkeypatch.setattr(child_module.Child, "request", request)
    ping()
    assert seen[0] == used
    assert len(set(seen)) == 2


def test_a_hang_ends_at_the_limit_and_the_child_is_gone():
    process_id = child_id()
    start = time.perf_counter()
    with pytest.raises(RuntimeTimeout, match=r"no sign of life for 0.3 s on slow.tflite"):
        ping(30.0, limit=0.3, label="slow.tflite")
    assert time.perf_counter() - start < 3.0
    assert not alive(process_id)
    ping()


def test_a_child_killed_while_idle_is_replaced():
    process_id = child_id()
    os.kill(process_id, signal.SIGKILL)
    assert wait_until_dead(process_id)
    ping()
    assert child_id() != process_id


def test_threads_get_children_of_their_own(float_model, images):
    expected = LiteRT("reference").run(float_model, [images])[0]
    results = {}

    def work(number):
        results[number] = LiteRT("reference").run(float_model, [images[number:]])[0]

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(np.array_equal(results[number], expected[number:]) for number in range(6))
    assert len([key for key in child_module._IDLE if '"reference"' in key and '"threads": 1' in key]) == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*fork.*:RuntimeWarning")
def test_a_forked_copy_starts_its_own_children_and_leaves_ours_alone():
    program = (
        "import os, sys\n"
        "from keras_compress.runtime.child import borrowed_child, ask, close_children\n"
        f"options = {OPTIONS!r}\n"
        "def pid():\n"
        "    with borrowed_child('litert', options) as child: return child._process.pid\n"
        "ours = pid()\n"
        "copy = os.fork()\n"
        "if copy == 0:\n"
        "    theirs = pid(); close_children(); os._exit(0 if theirs != ours else 1)\n"
        "assert os.waitpid(copy, 0)[1] == 0\n"
        "assert pid() == ours\n"
        "ask('litert', options, {'op': 'sleep', 'sleep_seconds': 0}, seconds=10.0)\n"
        "print('fine')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.stdout == "fine\n", done.stderr


def test_the_child_ends_with_a_caller_that_is_killed():
    program = (
        "import time\n"
        "from keras_compress.runtime.child import borrowed_child\n"
        f"with borrowed_child('litert', {OPTIONS!r}) as child: print(child._process.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as caller:
        process_id = int(caller.stdout.readline())
        assert alive(process_id)
        caller.kill()
    assert wait_until_dead(process_id)


def test_ctrl_c_reaches_the_caller_and_leaves_no_half_read_answer():
    process_id = child_id()
    timer = threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        ping(20.0)
    timer.join()
    assert not alive(process_id)
    ping()


def test_a_runtime_that_cannot_be_imported_says_why(monkeypatch, tmp_path, float_model):
    (tmp_path / "ai_edge_litert").mkdir()
    (tmp_path / "ai_edge_litert" / "__init__.py").write_text("raise ImportError('libgone.so is not there')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(RuntimeError, match="LiteRT cannot be loaded: ImportError: libgone.so is not there"):
        LiteRT(threads=3).describe(float_model)
    assert not [key for key in child_module._IDLE if '"threads": 3' in key]


def test_the_child_sees_packages_on_the_callers_own_path(monkeypatch, tmp_path):
    (tmp_path / "ai_edge_litert").mkdir()
    (tmp_path / "ai_edge_litert" / "__init__.py").write_text("")
    (tmp_path / "ai_edge_litert" / "interpreter.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    with borrowed_child("litert", {"kernels": "reference", "threads": 4}, fresh=True) as child:
        child.request({"op": "sleep", "sleep_seconds": 0}, seconds=10.0)
