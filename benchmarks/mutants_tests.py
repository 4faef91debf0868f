"""Which tests are a module's own: the file that is named like it, or what this table says."""

from __future__ import annotations

import re

from mutants_run import REPOSITORY

TRANSFORMS = "conformance/test_weight_transforms.py"
ACTIVATIONS = "conformance/test_activation_quantizers.py"
LOWERING = ("convert/test_lowering.py", "convert/test_lowering_nets.py", "conformance/test_lowering.py")
DEAD_UNITS = ("convert/test_dead_units.py", "convert/test_dead_units_rules.py")
ARGUMENTS = tuple(f"conformance/test_{name}.py" for name in ("arguments", "edges", "defaults"))
CRITERIA = ("structured/criteria/test_conformance.py",)
WEIGHT_CRITERIA = ("structured/criteria/test_weight_criteria.py", *CRITERIA)
GRADIENT_CRITERIA = ("structured/criteria/test_gradient_criteria.py", *CRITERIA)
ACTIVATION_CRITERIA = ("structured/criteria/test_activation_criteria.py", *CRITERIA)
RULES = ("structured/test_rules.py", "structured/test_rules_operations.py")

# By file or folder below the package, the most exact entry first: beside the file of the same name, or instead of it.
TESTS: dict[str, tuple[str, ...]] = {
    "core/context": ("training/test_distribution.py", "core/test_lifecycle.py", "training/test_loops.py"),
    "core/frozen": ("convert/test_freeze.py", TRANSFORMS),
    "core/graph": ("core/test_model.py", "core/test_models.py", "core/test_user_layers.py"),
    "core/groups": ("training/test_groups.py", "pruning/test_magnitude.py"),
    "core/initial_values": ("core/test_model.py", "core/test_models.py", "core/test_wrapper.py"),
    "core/input_points": (),
    "core/model": ("core/test_subclassed.py", "core/test_user_layers.py", "conformance/test_entry_points.py"),
    "core/named_outputs": ("core/test_models.py", "core/test_subclassed.py"),
    "core/parts": ("core/test_tracker.py", "core/test_user_layers.py", "core/test_wrapper.py"),
    "core/remade": ("core/test_subclassed.py",),
    "core/schedule": ("conformance/test_schedules.py", "recipes/test_recipe.py"),
    "core/trace": ("core/test_subclassed.py", "core/test_models.py"),
    "core/transform": (TRANSFORMS, "core/test_wrapper.py"),
    "core/wrapper": (TRANSFORMS,),
    "core/": (),
    "pruning/columns": ("pruning/test_column_combining.py",),
    "pruning/": (TRANSFORMS,),
    "clustering/initialisers": (),
    "clustering/": (TRANSFORMS,),
    "quantizers/abc_net": (ACTIVATIONS, TRANSFORMS),
    "quantizers/activation": (ACTIVATIONS,),
    "quantizers/dorefa_activation": (ACTIVATIONS,),
    "quantizers/fixed_step": ("quantizers/test_hwgq.py", "quantizers/test_dorefa_activation.py", ACTIVATIONS),
    "quantizers/gradient_quantizer": (),
    "quantizers/hwgq": (ACTIVATIONS,),
    "quantizers/kinds": ("quantizers/test_placement.py", "quantizers/test_layers.py"),
    "quantizers/layers": (),
    "quantizers/learned_scale": ("quantizers/test_lsq_activation.py", "quantizers/test_pact.py", ACTIVATIONS),
    "quantizers/lsq_activation": (ACTIVATIONS,),
    "quantizers/model": ("quantizers/test_layers.py", "quantizers/test_placement.py"),
    "quantizers/pact": (ACTIVATIONS,),
    "quantizers/placement": (),
    "quantizers/rprelu": ("quantizers/test_react_net.py",),
    "quantizers/sign_activation": ("quantizers/test_react_net.py", ACTIVATIONS),
    "quantizers/weight_clip": (),
    "quantizers/weight_quantizer": ("quantizers/test_uniform.py", "quantizers/test_dorefa.py", TRANSFORMS),
    "quantizers/weight_scale": ("quantizers/test_dorefa.py", "quantizers/test_lsq.py", TRANSFORMS),
    "quantizers/": (TRANSFORMS,),
    "convert/shifted_slopes": ("quantizers/test_react_net.py",),
    "convert/stairs": ("quantizers/test_abc_net.py", "quantizers/test_react_net.py"),
    "convert/arena": ("runtime/test_arena.py",),
    "convert/arena_plan": ("runtime/test_arena.py",),
    "convert/artifact": ("convert/test_convert.py",),
    "convert/compressed": ("convert/test_encoded_files.py",),
    "convert/convert": ("convert/test_storage.py",),
    "tflite/dead_units/": DEAD_UNITS,
    "tflite/encoding/codec": ("tflite/encoding/test_codecs.py", "tflite/encoding/test_lut.py"),
    "tflite/encoding/known": ("tflite/encoding/test_codecs.py", "convert/test_encoded_files.py"),
    "tflite/encoding/huffman": ("tflite/encoding/test_huffman.py", "tflite/encoding/test_codecs.py"),
    "tflite/encoding/": ("tflite/encoding/test_codecs.py",),
    "convert/expand/expansion": ("convert/expand/test_emitter.py", "convert/expand/test_products.py"),
    "convert/expand/weights": ("convert/expand/test_products.py", "convert/expand/test_convolutions.py"),
    "convert/expand/xnor_scale": ("quantizers/test_xnor_scale.py", "quantizers/test_xnor_plus_plus.py"),
    "convert/export": ("convert/test_convert.py", "convert/test_storage.py"),
    "convert/file_bytes": ("structured/test_cost.py",),
    "convert/flatten": ("convert/test_convert.py", "convert/test_freeze.py"),
    "convert/fold": ("convert/test_freeze.py", "convert/test_signs.py"),
    "convert/freeze": ("convert/test_signs.py",),
    "convert/freezer": ("convert/test_signs.py",),
    "convert/keras_file": ("core/test_models.py", "convert/test_inspection.py"),
    "convert/kernel_rounding": LOWERING,
    "ir/layouts": ("convert/test_convert.py", "convert/test_inspection.py"),
    "tflite/lowering/bias_of_rows": ("convert/test_bias_of_rows.py", *LOWERING),
    "tflite/lowering/support": ("convert/test_support.py",),
    "tflite/lowering/": LOWERING,
    "convert/packing": ("convert/test_storage.py",),
    "tflite/passes/dense_as_convolution": ("convert/test_passes.py", "convert/test_storage.py"),
    "tflite/passes/drop_dead_units": DEAD_UNITS,
    "tflite/passes/encode_weights": ("convert/test_encoded_files.py",),
    "tflite/passes/expand": ("convert/test_encoded_files.py",),
    "tflite/passes/tile_outputs": ("convert/test_tile_outputs.py",),
    "tflite/passes/": ("convert/test_passes.py", "convert/test_lowering.py"),
    "convert/plan": ("convert/test_convert.py", "convert/test_lowering.py"),
    "convert/read_back": ("convert/test_storage.py", "convert/test_convert.py"),
    "convert/storage": (),
    "convert/": (),
    "structured/accuracy": ("structured/test_sensitivity.py",),
    "structured/channel_ids": ("structured/test_channel_graph.py",),
    "structured/channel_mask": ("structured/test_soft_masks.py",),
    "structured/criteria/activations": ACTIVATION_CRITERIA,
    "structured/criteria/apoz": ACTIVATION_CRITERIA,
    "structured/criteria/pca": ACTIVATION_CRITERIA,
    "structured/criteria/gradients": GRADIENT_CRITERIA,
    "structured/criteria/taylor": GRADIENT_CRITERIA,
    "structured/criteria/singe": GRADIENT_CRITERIA,
    "structured/criteria/legr": GRADIENT_CRITERIA,
    "structured/criteria/bn_gamma": (*WEIGHT_CRITERIA, "structured/criteria/test_slimming.py"),
    "structured/criteria/": WEIGHT_CRITERIA,
    "structured/dependency": ("structured/test_channel_graph.py", "structured/test_rules.py"),
    "structured/examples": ("structured/criteria/test_examples.py",),
    "structured/hashing": ("structured/test_merging.py",),
    "structured/merging": ("conformance/test_entry_points.py",),
    "structured/opened": ("structured/test_surgery.py", "structured/test_channel_graph.py"),
    "structured/prune": ("structured/test_prune_channels.py",),
    "structured/ranking": ("structured/test_prune_channels.py", *GRADIENT_CRITERIA),
    "structured/rules/axes": RULES[::-1],
    "structured/rules/contractions": RULES[::-1],
    "structured/rules/elementwise": RULES[::-1],
    "structured/rules/parts": RULES[::-1],
    "structured/rules/shapes": RULES[::-1],
    "structured/rules/": RULES,
    "structured/selection": ("structured/test_prune_channels.py", "structured/test_soft_masks.py"),
    "structured/slimming": ("structured/criteria/test_slimming.py",),
    "structured/unit_places": ("structured/test_merging.py",),
    "structured/": (),
    "runtime/arena_probe": ("runtime/test_arena.py",),
    "runtime/c_source": ("runtime/test_c_export.py",),
    "runtime/cortex_m_costs": ("runtime/test_cortex_m.py",),
    "runtime/deployed": ("runtime/test_verify.py", "runtime/test_measure.py"),
    "runtime/engine": ("runtime/test_targets.py", "runtime/test_child.py", "runtime/test_arena.py"),
    "runtime/engine_litert": ("runtime/test_targets.py", "runtime/test_arena.py"),
    "runtime/engine_tflm": ("runtime/test_targets.py", "runtime/test_arena.py"),
    "runtime/frames": ("runtime/test_child.py", "runtime/test_targets.py"),
    "runtime/latency": ("runtime/test_targets.py", "structured/test_cost.py"),
    "runtime/limits": ("runtime/test_child.py",),
    "runtime/litert": ("runtime/test_targets.py",),
    "runtime/process_target": ("runtime/test_targets.py",),
    "runtime/rounding": ("runtime/test_verify.py", "runtime/test_integer_model.py"),
    "runtime/simulation": ("runtime/test_verify.py",),
    "runtime/target": ("runtime/test_targets.py",),
    "runtime/tflm": ("runtime/test_targets.py",),
    "runtime/worker": ("runtime/test_child.py", "runtime/test_targets.py"),
    "runtime/": (),
}


def own_tests(path: str) -> list[str]:
    """What runs for a fault in a file of the package: test files, and the module for its doctests."""
    inside = path.removeprefix("keras_compress/").removesuffix(".py")
    folder, _, name = inside.rpartition("/")
    same = [f"{folder}/test_{name}.py"] if (REPOSITORY / "tests" / folder / f"test_{name}.py").is_file() else []
    entry = max((key for key in TESTS if _is_for(key, inside)), key=len)
    source = (REPOSITORY / path).read_text()
    arguments = ARGUMENTS if re.search(r"@(register\(|keras.saving.register)|QuantSpec", source) else ()
    files = list(dict.fromkeys([*same, *arguments, *TESTS[entry]]))
    if not files:
        raise ValueError(f"Expected tests of {path} in {__file__}.")
    doctests = [path.removesuffix(".py").replace("/", ".")] if ">>> " in source else []
    return [*doctests, *(f"tests/{file}" for file in files)]


def _is_for(key: str, inside: str) -> bool:
    return inside.startswith(key) if key.endswith("/") else inside == key
