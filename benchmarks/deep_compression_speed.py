"""What encoded weights cost and save where nothing is trained: a depthwise net of 96x96 pixels, and encoding itself."""

from __future__ import annotations

import time
from typing import Any

import keras
import numpy as np

import keras_compress as kc
from keras_compress.convert.compressed import compress_content
from keras_compress.runtime.target import target

SIZE, ALPHA, SPARSITY, CLUSTERS = 96, 0.25, 0.8, 16
ACCELERATOR = "ethos-u55-128"
IMAGES, EQUAL_IMAGES, RUNS = 64, 200, 50
DENSE_UNITS = 2048


def depthwise_row() -> dict[str, Any]:
    """A MobileNet of width 0.25 for 96x96 grey pixels and two classes, dense and pruned with shared weights.

    Weights are random, so that accuracy says nothing: flash, arena, host latency in turns, and Vela's figures do.
    """
    keras.utils.set_random_seed(0)
    images = np.random.default_rng(0).random((IMAGES, SIZE, SIZE, 1), np.float32)
    net = keras.applications.MobileNet((SIZE, SIZE, 1), alpha=ALPHA, weights=None, classes=2)
    for layer in net.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.0  # statistics of one batch: with those of no data, signals die away
    net = _one_step(net, images)
    dense = kc.convert(net, "tflm", representative_dataset=images, io="int8")
    small = kc.prune_low_magnitude(net, kc.ConstantSparsity(SPARSITY, begin_step=0))
    small = kc.cluster_weights(_one_step(small, images), CLUSTERS)
    small = _one_step(small, images)
    plain = kc.convert(small, "tflm", representative_dataset=images, io="int8")
    files = {
        "dense": dense,
        "plain": plain,
        "encoded": kc.convert(small, "tflm", representative_dataset=images, io="int8", weights_storage="auto"),
    }
    measured = kc.measure_all(files, target="tflm", runs=RUNS)
    integers = np.random.default_rng(1).integers(-128, 128, (EQUAL_IMAGES, SIZE, SIZE, 1)).astype(np.int8)
    vela = {name: kc.estimate(files[name], "ethos_u", accelerator=ACCELERATOR) for name in ("dense", "plain")}
    stats = kc.inspect_tflite(files["encoded"].content)
    return {
        "network": f"MobileNet {ALPHA} {SIZE}x{SIZE}x1",
        "sparsity": stats.sparsity,
        "distinct_values": stats.distinct_values,
        "files": {
            name: {
                "bytes": len(files[name].content),
                "gzip_bytes": found.gzip_bytes,
                "arena_bytes": found.memory["arena_minimum_bytes"],
                "latency_ms": found.latency.median_ms,
                "latency_p10_p90_ms": [found.latency.p10_ms, found.latency.p90_ms],
            }
            for name, found in measured.items()
        },
        "latency_ratio": measured["encoded"].latency.median_ms / measured["dense"].latency.median_ms,
        "vela": {name: found.to_dict() for name, found in vela.items()},
        "accelerator": ACCELERATOR,
        "equal": equal_outputs(files["encoded"].content, plain.content, integers),
    }


def _one_step(model: keras.Model, images: Any) -> keras.Model:
    """One batch, at a rate of 0: masks and centroids are set, and nothing else moves."""
    model.compile(keras.optimizers.SGD(0.0), "sparse_categorical_crossentropy", jit_compile=False)
    model.fit(images, np.arange(len(images)) % 2, batch_size=len(images), epochs=1, verbose=0)
    return model


def equal_outputs(encoded: bytes, plain: bytes, images: Any) -> bool:
    """Whether TFLite-Micro gives the same integers for both files, and not the same for all images."""
    ours, theirs = (target("tflm").run(content, [images])[0] for content in (encoded, plain))
    return bool(np.array_equal(ours, theirs) and (ours != ours[0]).any())


def encoding_row() -> dict[str, Any]:
    """Seconds to encode a file of 4 MB, decoding and comparing included: pruned with shared weights, and neither."""
    generator = np.random.default_rng(0)
    shape = (DENSE_UNITS, DENSE_UNITS)
    dense = generator.normal(size=shape).astype(np.float32)
    few = np.rint(dense * 3) * (np.abs(dense) > np.quantile(np.abs(dense), SPARSITY))
    found: dict[str, Any] = {}
    for name, kernel in (("sparse", few), ("dense", dense)):
        content = kc.convert(
            _dense(kernel), "tflm", representative_dataset=np.ones((1, DENSE_UNITS), np.float32)
        ).content
        begin = time.perf_counter()
        encoded = compress_content(content, "auto", encode=True).content
        found[name] = {
            "seconds": time.perf_counter() - begin,
            "bytes": len(content),
            "encoded_bytes": len(encoded),
        }
    return {**found, "seconds": max(found["sparse"]["seconds"], found["dense"]["seconds"])}


def _dense(kernel: Any) -> keras.Model:
    model = keras.Sequential([keras.Input((DENSE_UNITS,)), keras.layers.Dense(DENSE_UNITS, use_bias=False)])
    model.layers[0].kernel.assign(kernel)
    return model
