"""Post-training quantization with inputs: SPIQ, and level 3 beside the level 2 that it begins with. Fashion-MNIST.

python benchmarks/ptq_trained.py [--quick] [--seeds=0,1,2]

500 images without labels are given, and 200 to the mini-Xception, which loses decibels when it is trained on so few at
a rate for training from the start.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import keras
import ptq_nets
from absl import app, flags
from common import Goal, at_least, fashion_mnist, once, print_goals, write_results
from post_training import accuracy, spoilt

from keras_compress.core.signal_to_noise import sqnr_db
from keras_compress.post_training.quantize import quantize_post_training
from keras_compress.post_training.record import record_of

# Behind those that were trained on.
SAMPLES, FROM = 500, 12_000
QUICK_ROUNDING = ("fold_batch_norms", "with_ranges", "clip_weights", "gptq")
SPIQ_ROWS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("per channel", ("fold_batch_norms", "with_ranges")),
    ("+ equalization", ("equalize", "with_ranges")),
    ("+ SPIQ", ("spiq", "with_ranges")),
    ("+ equalization, SPIQ", ("equalize", "spiq", "with_ranges")),
)
TRAINED_ROWS = (("int8", "int8"), ("int4", "int8"), ("int4", "int4"), ("int3", "int8"))


def row(model: keras.Model, x: Any, data: Any, level: int, passes: Sequence[str] | None, **settings: Any) -> Any:
    """A quantized model on the test images: simulated accuracy, signal to noise of its outputs, what was said."""
    start = time.process_time()
    made = quantize_post_training(model, x, level=level, passes=passes, report=False, **settings)
    seconds = time.process_time() - start
    expected, received = (each.predict(data.x_test, verbose=0, batch_size=500) for each in (model, made))
    return {
        "accuracy": accuracy(received, data),
        "output_sqnr_db": round(sqnr_db(expected, received), 2),
        "cpu_seconds": round(seconds, 1),
        "said": record_of(made).notes[-1],
    }


def spiq_rows(seed: int, model: keras.Model, net: str, x: Any, data: Any) -> list[dict[str, Any]]:
    """SPIQ and equalization, with 8 and with 4 bits of activations; weights have 8."""
    found = []
    for bits in (8, 4):
        for name, passes in SPIQ_ROWS:
            # As the paper has it: all the way.
            options = {"spiq": {"power": 1.0, "relu6": "auto"}}
            made = row(model, x, data, 2, passes, activations=f"int{bits}", options=options)
            found.append({"seed": seed, "net": net, "name": name, "bits": bits, **made})
            print(found[-1], flush=True)
    return found


def trained_rows(seed: int, model: keras.Model, net: str, x: Any, data: Any, steps: int) -> list[dict[str, Any]]:
    """Level 2 and level 3 with the same passes: plain rounding and biases for 8 bits, GPTQ for fewer."""
    found = []
    for weights, activations in TRAINED_ROWS:
        first = ("fold_batch_norms", "with_ranges", "bias_from_data") if weights == "int8" else QUICK_ROUNDING
        for level in (2, 3):
            passes = first if level == 2 else (*first, "fine_tune")
            settings = {"weights": weights, "activations": activations, "options": {"fine_tune": {"steps": steps}}}
            made = row(model, x, data, level, passes, **settings)
            name = f"W{weights[3:]}A{activations[3:]}"
            found.append({"seed": seed, "net": net, "name": name, "level": level, **made})
            print(found[-1], flush=True)
    return found


def rows_of(seed: int, x: Any, data: Any, steps: int) -> dict[str, Callable[[], dict[str, Any]]]:
    """Name -> what makes its rows."""

    def rows(
        net: str, name: str, make: Callable[..., list[dict[str, Any]]], *settings: Any, scaled: bool = False
    ) -> Any:
        model = ptq_nets.trained(net, seed, data)
        return {"rows": make(seed, spoilt(model, seed, None) if scaled else model, name, *settings)}

    return {
        "few": partial(rows, "xception", "xception, 200 images", trained_rows, x[:200], data, steps),
        "scaled": partial(rows, "resnet", "resnet, channels scaled", spiq_rows, x, data, scaled=True),
        "spiq": partial(rows, "resnet", "resnet", spiq_rows, x, data),
        "resnet": partial(rows, "resnet", "resnet", trained_rows, x, data, steps),
        "mobilenet": partial(rows, "mobilenet", "mobilenet", trained_rows, x, data, steps),
    }


def goals_of(rows: Sequence[dict[str, Any]]) -> list[Goal]:
    """Level 3 is at most a little below level 2 on other images, and beyond it with 4 bits."""
    goals = []
    for net in dict.fromkeys(each["net"] for each in rows if "level" in each):
        own = [each for each in rows if each["net"] == net and "level" in each]
        for name in dict.fromkeys(each["name"] for each in own):
            two, three = ([e["output_sqnr_db"] for e in own if (e["name"], e["level"]) == (name, n)] for n in (2, 3))
            gained = sum(three) / len(three) - sum(two) / len(two)
            goals.append(at_least(f"{net}, {name}: dB of level 3 beyond level 2", gained, -0.2))
    return goals


def tables(rows: Sequence[dict[str, Any]]) -> str:
    """Of SPIQ a table for each net, of levels 2 and 3 one."""
    lines = []
    for net in dict.fromkeys(each["net"] for each in rows if "bits" in each):
        own = [each for each in rows if each["net"] == net and "bits" in each]
        lines += [f"| {net} | 8 bits | 4 bits |", "|---|---:|---:|"]
        for name in dict.fromkeys(each["name"] for each in own):
            lines.append(f"| {name} | " + " | ".join(_mean(own, name=name, bits=bits) for bits in (8, 4)) + " |")
        lines.append("")
    lines += ["| net | bits | level 2 | level 3 | taken | CPU seconds |", "|---|---|---:|---:|---|---|"]
    levels = [each for each in rows if "level" in each]
    for net, name in dict.fromkeys((each["net"], each["name"]) for each in levels):
        own = [each for each in levels if (each["net"], each["name"]) == (net, name)]
        third = [each for each in own if each["level"] == 3]
        taken = sum(not each["said"].startswith("Training taken back") for each in third)
        seconds = [sum(each["cpu_seconds"] for each in own if each["level"] == n) / len(third) for n in (2, 3)]
        cells = " | ".join(_mean(own, level=level) for level in (2, 3))
        lines.append(f"| {net} | {name} | {cells} | {taken} of {len(third)} | {seconds[0]:.0f}, {seconds[1]:.0f} |")
    return "\n".join(lines)


def _mean(rows: Sequence[dict[str, Any]], **wanted: Any) -> str:
    found = [each for each in rows if all(each[key] == value for key, value in wanted.items())]
    mean = {key: sum(each[key] for each in found) / len(found) for key in ("accuracy", "output_sqnr_db")}
    return f"{mean['accuracy']:.2f} %, {mean['output_sqnr_db']:.1f} dB"


def main(arguments: Any) -> None:
    quick = flags.FLAGS.quick
    data, rows = fashion_mnist(quick), []
    seeds = [int(each) for each in flags.FLAGS.seeds[: 1 if quick else None]]
    x = data.x_train[-SAMPLES:] if quick else data.x_train[FROM : FROM + SAMPLES]
    steps = 50 if quick else 500
    for seed in seeds:
        for name, make in rows_of(seed, x, data, steps).items():
            kept = Path(ptq_nets.KEEP) / f"trained_{name}_{seed}{'_quick' if quick else ''}.json"
            rows += once(kept, make)["rows"]
    goals = goals_of(rows)
    if not quick:
        print(write_results("ptq_trained", rows, goals, seeds=seeds, settings={"samples": SAMPLES}))
    print(tables(rows))
    print_goals(goals)


if __name__ == "__main__":
    app.run(main)
