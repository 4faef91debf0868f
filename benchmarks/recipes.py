"""Every packaged recipe on one small trained network: what it gives, for the table of recipes.

python benchmarks/recipes.py [--quick] [--only=pcqat,qat]
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping
from typing import Any

import keras
from absl import app, flags
from common import at_least, fashion_mnist, print_goals, write_results
from recipes_table import write_page

import keras_compress as kc
from keras_compress.convert.freeze import has_points
from keras_compress.demo.models import vgg
from keras_compress.recipes.recipe import Recipe
from keras_compress.report.stages import Deployed, stage_rows

TRAINED, EPOCHS, BATCH, CALIBRATED = 10_000, 12, 64, 500
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
# Recipes whose file is meant for a runtime other than LiteRT.
_OPTIONS: Mapping[str, Mapping[str, str]] = {"deep_compression": {"target": "tflm", "weights_storage": "auto"}}
_QUICK = flags.DEFINE_bool("quick", False, "Little data; results are not written.")
_ONLY = flags.DEFINE_list("only", [], "Recipes; all by default.")


def row(name: str, model: keras.Model, data: Any) -> dict[str, Any]:
    """One recipe: trained as `keras-compress compress` does, converted, measured in turns with the float model."""
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
    stages = {"float": Deployed(kc.convert(model, mode="float32").content, None)}
    stages[name] = Deployed(file.content, None, file.runtime)
    (before, after), _ = stage_rows(stages, data.x_test, data.y_test)
    return {
        "recipe": name,
        "epochs": sum(stage.epochs for stage in recipe.stages),
        "training_s": round(took, 1),
        "float": before,
        **{key: value for key, value in after.items() if key != "name"},
    }


def main(_: list[str]) -> None:
    warnings.simplefilter("ignore")
    data = fashion_mnist(_QUICK.value)
    keras.utils.set_random_seed(0)
    model = vgg()
    kc.Training(LOSS, EPOCHS, 0.002, batch_size=BATCH).on(data.x_train[:TRAINED], data.y_train[:TRAINED])(model)
    rows = []
    for name in _ONLY.value or Recipe.names():
        rows.append(row(name, model, data))
        print({key: value for key, value in rows[-1].items() if key != "float"}, flush=True)
    goals = [
        at_least("pcqat: points of accuracy above the float model", _gain(rows, "pcqat"), -1.0),
        at_least("qat: points of accuracy above the float model", _gain(rows, "qat"), -0.5),
    ]
    print_goals(goals)
    settings = {"network": "vgg 16-32-64", "data": "Fashion-MNIST", "trained": TRAINED, "epochs": EPOCHS}
    if not _QUICK.value and not _ONLY.value:
        write_results("recipes", rows, goals, seeds=[0], settings=settings)
        write_page()


def _gain(rows: list[dict[str, Any]], name: str) -> float:
    """Points that the file is better than the float one."""
    return next((100 * (each["accuracy"] - each["float"]["accuracy"]) for each in rows if each["recipe"] == name), 0.0)


if __name__ == "__main__":
    app.run(main)
