"""How far ranges from synthetic data are to be widened: distance of the outputs on images that no net was trained on.

python benchmarks/ptq_margin.py [--quick] [--seeds=0,1,2] [--nets=resnet,mobilenet,densenet,xception]

What is chosen by it is `SYNTHETIC_MARGIN` of `keras_compress/post_training/passes.py`: the images are the last ones of
the training set, not those of the test set.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
from absl import app, flags
from common import fashion_mnist, once, write_results
from ptq_nets import KEEP, VALIDATED, trained

import keras_compress as kc
from keras_compress.core.signal_to_noise import sqnr_db
from keras_compress.graph import graph
from keras_compress.post_training.start import with_ranges
from keras_compress.post_training.synthetic_data import synthetic_data
from keras_compress.quantizers.activation import QuantizeActivation

MARGINS = (1.0, 1.15, 1.25, 1.5, 1.75, 2.0, 2.5)
INPUT_RANGE, STEPS = (0.0, 1.0), 100
_QUICK = flags.DEFINE_bool("quick", False, "Little data; results are not written.")
_SEEDS = flags.DEFINE_list("seeds", ["0", "1", "2"], "Networks to train.")
# Of a net without BatchNormalizations nothing can be made.
_NETS = flags.DEFINE_list("nets", ["resnet", "mobilenet", "densenet", "xception"], "Which networks.")


def rows_of(net: str, seed: int, data: Any) -> list[dict[str, Any]]:
    """Decibels of the outputs with each margin, at the points of which the statistics say nothing."""
    model = trained(net, seed, data)
    x = data.x_train[-VALIDATED:]
    exact = model.predict(x, verbose=0, batch_size=500)
    passes = ["fold_batch_norms", "ranges_from_statistics"]
    with warnings.catch_warnings():
        # Of the points that have no range yet.
        warnings.simplefilter("ignore")
        made = kc.quantize_post_training(model, passes=passes, input_range=INPUT_RANGE, report=False)
    waiting = {name for name, point in _points(made) if not point.quantizer.trained()}
    made = with_ranges(made, synthetic_data(model, input_range=INPUT_RANGE, seed=seed, steps=STEPS))
    points = [point for name, point in _points(made) if name in waiting]
    ends = [tuple(map(float, point.quantizer.range())) for point in points]
    rows = []
    for margin in MARGINS:
        for point, (low, high) in zip(points, ends, strict=True):
            point.quantizer.set_range(margin * low, margin * high)
        found = sqnr_db(exact, made.predict(x, verbose=0, batch_size=500))
        rows.append({"net": net, "seed": seed, "margin": margin, "output_sqnr_db": round(found, 2)})
        print(rows[-1], flush=True)
    return rows


def _points(model: keras.Model) -> list[tuple[str, QuantizeActivation]]:
    return [(path, layer) for path, layer in graph.walk(model) if isinstance(layer, QuantizeActivation)]


def main(arguments: Sequence[str]) -> None:
    data, seeds = fashion_mnist(_QUICK.value), list(map(int, _SEEDS.value))
    rows = []
    for seed in seeds:
        for net in _NETS.value:
            kept = Path(KEEP) / f"margin_{net}_{seed}{'_quick' if _QUICK.value else ''}.json"
            rows += once(kept, lambda net=net, seed=seed: {"rows": rows_of(net, seed, data)})["rows"]
    means = {m: np.mean([row["output_sqnr_db"] for row in rows if row["margin"] == m]) for m in MARGINS}
    print({margin: round(float(mean), 2) for margin, mean in means.items()})
    if not _QUICK.value:
        settings = {"validated": VALIDATED, "steps": STEPS, "mean_db": {str(m): float(v) for m, v in means.items()}}
        print(write_results("ptq_margin", rows, [], seeds=seeds, settings=settings))


if __name__ == "__main__":
    app.run(main)
