"""Every packaged recipe on one small trained network: what it gives, for the table of recipes.

python benchmarks/recipes.py [--quick] [--only=pcqat,qat]
"""

from __future__ import annotations

import tempfile
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
from absl import app, flags
from common import at_least, fashion_mnist, once, print_goals, write_results
from recipes_table import write_page

import keras_compress as kc
from keras_compress.convert.freeze import has_points
from keras_compress.demo.models import vgg
from keras_compress.recipes.recipe import Recipe
from keras_compress.report.stages import Deployed, stage_rows

TRAINED, EPOCHS, BATCH, CALIBRATED = 10_000, 12, 64, 500
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
# Recipes whose file is meant for a runtime other than LiteRT.
_OPTIONS: Mapping[str, Mapping[str, str]] = {
    "deep_compression": {"target": "tflm", "weights_storage": "auto"},
    "ecsq": {"target": "tflm", "weights_storage": "huffman"},
    "product_quantization": {"target": "tflm", "weights_storage": "vectors"},
}
_QUICK = flags.DEFINE_bool("quick", False, "Little data; results are not written.")
GOALS = (("qat", -0.5), ("pcqat", -1.0))
_WORK = flags.DEFINE_string("work", f"{tempfile.gettempdir()}/keras_compress_recipes", "Rows that are done.")
_ONLY = flags.DEFINE_list("only", [], "Recipes; all by default.")


def row(name: str, model: keras.Model, data: Any) -> dict[str, Any]:
    """One recipe: trained as `keras-compress compress` does, converted, measured."""
    started = time.monotonic()
    keras.utils.set_random_seed(0)
    x, y = data.x_train[:TRAINED], data.y_train[:TRAINED]
    training = kc.Training(LOSS, decay=False, batch_size=BATCH, jit_compile="auto")
    recipe = Recipe.load(name)
    fitting = training.on(x, y)
    made = kc.compress(model, recipe, steps_per_epoch=fitting.steps_per_epoch, fit=fitting, data=x[:CALIBRATED])
    took = time.monotonic() - started
    options: dict[str, Any] = {"mode": "float32"}
    if has_points(made):
        options = {"representative_dataset": x[:CALIBRATED], **_OPTIONS.get(name, {})}
    file = kc.convert(made, **options)
    return {"recipe": name, "epochs": sum(stage.epochs for stage in recipe.stages), "training_s": round(took, 1)} | (
        _measured(name, Deployed(file.content, None, file.runtime), data)
    )


def float_row(model: keras.Model, data: Any) -> dict[str, Any]:
    """What all of them begin with."""
    return {"recipe": "float", **_measured("float", Deployed(kc.convert(model, mode="float32").content, None), data)}


def _measured(name: str, file: Deployed, data: Any) -> dict[str, Any]:
    ((found,), _) = stage_rows({name: file}, data.x_test, data.y_test)
    # Single latencies are worth nothing without a baseline in the same run.
    return {key: value for key, value in found.items() if key not in ("name", "litert_latency_ms")}


def main(_: list[str]) -> None:
    warnings.simplefilter("ignore")
    data = fashion_mnist(_QUICK.value)
    keras.utils.set_random_seed(0)
    model = vgg()
    kc.Training(LOSS, EPOCHS, 0.002, batch_size=BATCH).on(data.x_train[:TRAINED], data.y_train[:TRAINED])(model)
    work = Path(_WORK.value) / ("quick" if _QUICK.value else "full")
    rows = [once(work / "float.json", lambda: float_row(model, data))]
    for name in _ONLY.value or Recipe.names():
        rows.append(once(work / f"{name}.json", lambda name=name: row(name, model, data)))  # type: ignore[misc]
        print(rows[-1], flush=True)
    goals = [
        at_least(f"{name}: points of accuracy over the float file", _gain(rows, name), least) for name, least in GOALS
    ]
    print_goals(goals)
    settings = {"network": "vgg 16-32-64", "data": "Fashion-MNIST", "trained": TRAINED, "epochs": EPOCHS}
    if not _QUICK.value and not _ONLY.value:
        write_results("recipes", rows, goals, seeds=[0], settings=settings)
        write_page()


def _gain(rows: list[dict[str, Any]], name: str) -> float:
    """Points that the file is better than the float one."""
    accuracy = {each["recipe"]: each["accuracy"] for each in rows}
    return 100 * (accuracy.get(name, accuracy["float"]) - accuracy["float"])


if __name__ == "__main__":
    app.run(main)
