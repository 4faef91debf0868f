"""Does the device compute what was simulated, for every quantizer and number of bits? Writes `docs/quantizers.md`.

python benchmarks/quantizer_exactness.py
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import keras
from absl import app, flags
from common import Goal, once, print_goals, write_results
from quantizer_table import write_page
from quantizer_trials import RUNTIMES, SHARE, SHARE_OF_TWO_BITS, methods, tried

from keras_compress.demo import datasets

_ONLY = flags.DEFINE_multi_string("only", None, "Try these methods only, by class name; the page is not written.")
_WORK = flags.DEFINE_string("work", "/tmp/keras_compress_quantizer_exactness", "Folder of what is finished already.")


def goals_of(rows: list[dict[str, Any]]) -> list[Goal]:
    beyond = [f"{r['name']} {r['bits']}" for r in rows if r["status"] == "beyond"]
    ran = [r for r in rows if r["status"] != "refused"]
    worst = max(r["runtimes"][target]["share"] for r in ran for target in RUNTIMES)
    wrong = sum(not all(r["numpy_model"].values()) for r in ran)
    return [
        Goal(f"methods and bits beyond their bound {beyond}", len(beyond), "= 0", not beyond),
        Goal("largest share of an operator's values that differ", worst, f"<= {SHARE}", worst <= SHARE),
        Goal("runs that are not the NumPy model of the kernels", wrong, "= 0", wrong == 0),
    ]


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        sys.exit(f"Expected flags only. Received: {argv[1:]}")
    data, work = datasets.load("digits"), Path(_WORK.value)
    rows = []
    for kind, name, bits in methods():
        if _ONLY.value and name not in _ONLY.value:
            continue
        path = work / f"{kind}_{name}_{bits}.json"
        rows.append(once(path, lambda k=kind, n=name, b=bits: tried(k, n, b, data)))
        print(rows[-1], flush=True)
        keras.backend.clear_session()
    goals = goals_of(rows)
    if not _ONLY.value:
        settings = {"images": len(data.x_test), "share": SHARE, "share_of_two_bits": SHARE_OF_TWO_BITS}
        write_results("quantizer_exactness", rows, goals, seeds=[0], settings=settings)
        write_page()
    print_goals(goals)


if __name__ == "__main__":
    app.run(main)
