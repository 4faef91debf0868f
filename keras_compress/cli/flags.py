"""The sub-commands of `keras-compress` and their flags. Light: loads neither Keras nor TensorFlow."""

from __future__ import annotations

from keras_compress.cli.command import PROGRAM, Command, Definer
from keras_compress.cli.device_flags import DEVICE_COMMANDS


def _demo_flags(define: Definer) -> None:
    define.text("out", "out", "Folder for the models and report.json; made if it is not there.")
    define.choice("dataset", "digits", ["digits", "fashion_mnist"], "Images to train and test on.")
    define.choice(
        "model",
        None,
        ["digits_cnn", "lenet5", "lenet300", "resnet20", "resnet8"],
        "Architecture; by default digits_cnn for digits and lenet5 for fashion_mnist.",
    )
    define.number("seed", 0, 0, "Same seed, same machine: same .tflite files.")
    define.numbers(
        "epochs",
        "Epochs of the float model and of each stage (prune, cluster, quantize), such as 20,6,3,3; one number holds "
        "for all four.",
    )
    define.number("batch_size", None, 1, "Images in a training batch.")


def _compress_flags(define: Definer) -> None:
    define.text("model", None, "Trained Keras model, a .keras file.")
    define.data("Data to train with; x_test, y_test to measure with.")
    about = "A model to learn from beside the labels, a .keras file: by default --model where the recipe has a teacher."
    define.text("teacher", None, about)
    define.text("recipe", "pcqat", "Name of a packaged recipe, or a JSON file.")
    define.text("out", "out", "Folder for the compressed models and report.json; made if it is not there.")
    define.file_target()
    define.weights_storage()
    define.number("batch_size", 64, 1, "Samples in a training batch.")
    define.number("seed", 0, 0, "Seed of the shuffling.")
    define.numbers("epochs", "Epochs of each stage that trains, such as 6,3,2; one number holds for all of them.")
    arena = "tflm: largest arena in bytes, as measured here; layers are split along their outputs until it is enough."
    define.number("max_arena_bytes", None, 1, arena)
    drop = "Tolerated loss of the metric, such as 0.01 for a point of accuracy: more is exit code 1; files are written."
    define.real("max_drop", drop)


def _quantize_flags(define: Definer) -> None:
    define.text("model", None, "Plain, trained Keras model, a .keras file.")
    define.text("out", None, "The quantized .keras file to write.")
    define.data("Inputs as they are in use, without labels: for levels 2 and 3.")
    level = "1: by the model's own statistics; 2: by data; 3: trained a little, too; auto: 1 or 2, by what is given."
    define.choice("level", "auto", ["auto", "1", "2", "3"], level)
    define.text("weights", "int8", "Quantizer of the weights: int2 to int8, or a name such as lsq4.")
    define.text("activations", "int8", "Quantizer of the activations: int2 to int8, int16, or a name.")
    scales = "One scale of weights for a channel, or for a tensor; by default what the quantizer does by itself."
    define.choice("scales", None, ["channel", "tensor"], scales)
    define.numbers("input_range", "Lowest and highest value of the inputs, such as 0,1.")
    define.number("seed", 0, 0, "Seed of data made from the model.")
    budget = "Bits chosen layer by layer, on --data: limits such as average_bits=4 or bytes=150000,latency=0.8."
    define.text("budget", None, budget)
    define.number("refine", 0, 0, "With --budget: how many times losses are measured anew around the choice.")


def _factorize_flags(define: Definer) -> None:
    define.text("model", None, "Plain, trained Keras model, a .keras file.")
    define.text("out", None, "The .keras file to write.")
    define.data("Inputs, so that errors are those of the layers' outputs.")
    methods = ["auto", "svd", "spatial", "tucker", "cp", "tensor_train"]
    define.choice("method", "auto", methods, "How; auto: at each layer what loses the least of the first three.")
    define.text("rank", None, "A rank, a share of the energy to keep such as 0.9, or evbmf; in place of a target.")
    define.text("macs", None, "Target: share of the multiplications to keep, or a number; 0.5 where nothing is said.")
    define.text("params", None, "Target: share of the weights to keep, or a number.")
    define.text("bytes", None, "Target: share of the float32 file to keep, or bytes.")
    define.number("multiple", 8, 1, "Ranks are multiples of it.")


def _compact_flags(define: Definer) -> None:
    define.text("model", None, "Plain, trained Keras model, a .keras file.")
    define.text("out", None, "The .keras file to write.")
    methods = ["auto", "separable", "grouped", "ghost", "shift"]
    define.choice("method", "auto", methods, "Which form; auto: at each layer what loses the least.")
    rank = "With a method: kernels a channel (separable), groups, channels of each (ghost), or a share of the energy."
    define.text("rank", None, rank)
    define.text("macs", None, "Target: share of the multiplications to keep, or a number; 0.5 where nothing is said.")
    define.text("params", None, "Target: share of the weights to keep, or a number.")
    define.text("bytes", None, "Target: share of the float32 file to keep, or bytes.")


def _widen_flags(define: Definer) -> None:
    define.text("model", None, "Plain Keras model, a .keras file.")
    define.text("out", None, "The .keras file to write.")
    define.real("factor", "How many times as many channels, above 1; 2 where nothing is said.")
    define.real("macs", "Instead: how many times the multiplications, such as 2, or a number of them.")
    define.real("params", "Instead: how many times the weights, or a number of them.")
    define.switch("function_preserving", "Compute what the model does (Net2WiderNet), in place of new weights.")
    define.number("round_to", 1, 1, "Numbers of channels are multiples of it.")
    define.number("seed", 0, 0, "Of new weights, and of the channels that are there again.")


def _prune_one_shot_flags(define: Definer) -> None:
    define.text("model", None, "Keras model, a .keras file.")
    define.text("out", None, "The .keras file to write.")
    define.real("sparsity", "Share of zeros, such as 0.8; 0.5 where nothing is said.")
    criteria = "What weights are ranked by: magnitude, synflow; with --data wanda, sparse_gpt; with labels snip, obd."
    define.text("criterion", "magnitude", criteria)
    define.data("Inputs, and labels where the criterion needs them.")
    scopes = "The share of each layer, of all by one ranking, or of all with more left in small layers."
    define.choice("scope", "layer", ["layer", "global", "erk"], scopes)
    define.numbers("zeros_by", "m,n: m zeros in every n inputs, such as 2,4; in place of --sparsity.")
    define.numbers("block_size", "Inputs and outputs of blocks that are pruned as one, such as 4,1.")


def _prune_iteratively_flags(define: Definer) -> None:
    define.text("model", None, "Trained Keras model, a .keras file.")
    define.data("Data to train with, a tenth of it held out for --max_drop; x_test, y_test to measure with.")
    define.text("out", None, "The .keras file to write.")
    define.real("sparsity", "Share of zeros behind the last round, such as 0.9.")
    define.number("rounds", None, 1, "How many rounds lead to --sparsity; by default each takes 20 % of what is left.")
    define.numbers("sparsities", "Share of zeros behind each round, such as 0.5,0.8,0.9; in place of --sparsity.")
    define.choice("scope", "global", ["global", "layer"], "The smallest of all weights together, or of each layer.")
    drop = "Tolerated loss of the metric: the round before the first that loses more is taken; exit code 1 without one."
    define.real("max_drop", drop)
    define.numbers("epochs", "Epochs of each round; by default 3.")
    define.real("learning_rate", "Of the first batch of a round, falling to 0; by default 0.0002.")
    define.number("batch_size", 64, 1, "Samples in a training batch.")
    define.number("seed", 0, 0, "Seed of the shuffling.")
    define.text("folder", None, "Where finished rounds are kept: the same command goes on behind the last one.")
    define.text("plot", None, "An image to write, such as rounds.png; needs the extra report.")


def _sensitivity_flags(define: Definer) -> None:
    define.text("model", None, "Keras model, a .keras file; it is not changed.")
    define.data("Samples and labels for the accuracy; of bits and ranks samples alone do, for the signal to noise.")
    kinds = "What is taken away: channels, group by group, the smallest weights, bits, or ranks, layer by layer."
    define.choice("of", "channels", ["channels", "weights", "bits", "ranks"], kinds)
    define.numbers("ratios", "Shares to take away, such as 0.5,0.75; not of bits.")
    define.numbers("bits", "Widths to try, such as 2,4,8; of bits only.")
    define.text("method", None, "Of bits accuracy, sqnr or hessian; of ranks how layers are factorized, such as svd.")
    define.text("out", None, "A .json file to write.")
    define.text("plot", None, "An image to write, such as ranks.png; needs the extra report.")


def _sparse_ready_flags(define: Definer) -> None:
    define.text("model", None, "A .keras file, or a .tflite file for LiteRT.")


def _accumulator_flags(define: Definer) -> None:
    define.text("model", None, "A .tflite file with integer layers.")
    define.data("Inputs to add up too: what their sums need.")
    define.number("bits", None, 2, "Count the sums on the data that do not fit so many bits.")


def _from_tfmot_flags(define: Definer) -> None:
    define.text("model", None, "An .h5 file; or a .keras file or SavedModel folder of tf_keras (extra tfmot).")
    define.text("out", None, "The .keras file to write.")


def _convert_flags(define: Definer) -> None:
    define.text("model", None, "Keras model, a .keras file, plain or compressed by this library.")
    define.text("out", None, "The .tflite file to write.")
    define.data("Real data to find the ranges of activations with, for int8 and 16x8 of a plain model.")
    define.file_target()
    modes = ["int8", "16x8", "dynamic", "float16", "float32"]
    define.choice("mode", None, modes, "Arithmetic; by default what the model was trained for.")
    define.choice("io", "float32", ["float32", "int8", "uint8", "int16"], "Type of inputs and outputs.")
    define.weights_storage()
    arena = "tflm: largest arena in bytes, as measured here; layers are split along their outputs until it is enough."
    define.number("max_arena_bytes", None, 1, arena)
    recurrent = "int8 LSTMs as one operator each, or step by step; auto: one operator on tflm, or where steps are many."
    define.choice("recurrent", "auto", ["auto", "fused", "unrolled"], recurrent)
    batch = "Samples that the file takes at a time: a number, any (litert), or auto: the model's own, or else any or 1."
    define.text("batch_size", "auto", batch)
    define.sparsity()
    define.text("metadata", None, "litert: a .json file of what apps may read: name, labels, ... (docs/android.md).")


def _measure_flags(define: Definer) -> None:
    define.text("model", None, "The .tflite file.")
    define.text("baseline", None, "Another .tflite file, timed in turns with it.")
    define.data("Test data, for the accuracy.")
    about = "Runtime: of phones, of microcontrollers, or of browsers (LiteRT.js in Node, docs/android.md)."
    define.choice("target", "litert", ["litert", "tflm", "litert_web"], about)
    define.number("threads", 1, 1, "Threads of LiteRT.")
    about = "litert: kc_binary computes binary layers by counting bits (docs/native.md)."
    define.choice("delegate", None, ["kc_binary"], about)
    define.number("runs", 50, 50, "Timed invocations, at least 50.")
    alternate = "tflm: bytes of memory beside the arena that encoded weights are decoded to; 0 for none."
    define.number("alt_decompression_memory_bytes", 0, 0, alternate)
    define.choice("device", None, ["adb"], "adb: on the Android device that is plugged in, by benchmark_model.")
    define.text("benchmark_model", None, "adb: the program, to be copied to the device (docs/android.md).")
    define.text("serial", None, "adb: which device, where there are several.")


def _verify_flags(define: Definer) -> None:
    define.text("model", None, "Keras model, a .keras file, plain or compressed by this library.")
    define.text(
        "file", None, "The .tflite file that `convert` made of it, to be verified; by default a new one is made."
    )
    define.data("Real data to run it on.")
    define.target()
    define.choice("delegate", None, ["kc_binary"], "litert: also on this delegate (docs/native.md).")
    define.weights_storage()


def _report_flags(define: Definer) -> None:
    define.text("out", "out", "Folder with a report.json; or the page to write in it, such as out/report.html.")


def _inspect_flags(define: Definer) -> None:
    define.text("model", None, "A .tflite or .keras file.")


def _expand_flags(define: Definer) -> None:
    define.text("model", None, "A .tflite file whose weights are encoded.")
    define.text("out", None, "The plain .tflite file to write.")


def _recipes_flags(define: Definer) -> None:
    define.text("show", None, "Name of a recipe: its JSON is printed, to be changed and given to compress.")


def _completion_flags(define: Definer) -> None:
    define.choice("shell", "bash", ["bash", "zsh", "tcsh"], "Shell.")


def _export_flags(define: Definer) -> None:
    define.text("model", None, "The .tflite file.")
    define.text("out", "out", "Folder for the sources; made if it is not there.")
    define.text("name", "model", "A C identifier: names the files, the array and the constants.")
    define.number("arena_bytes", None, 1, "Size of the arena; by default measured on this computer, with a margin.")
    define.text("compile_with", None, "A C++ compiler, with its options, that must take the sources.")


COMMANDS: dict[str, Command] = {
    "demo": Command(
        "Train, compress, convert, verify and measure a small model on real images.",
        "Trains a float model, prunes, clusters and quantizes it (recipe pcqat), converts each stage to .tflite, "
        "checks the int8 file operator by operator against its simulation, and prints one table. A minute or two for "
        "digits; fashion_mnist takes longer.",
        f"{PROGRAM} demo --out=out",
        "keras_compress.demo.demo:run",
        _demo_flags,
        figures=True,
    ),
    "compress": Command(
        "Compress your own .keras model by a recipe.",
        "Trains each stage of the recipe on your data, and writes model_compressed.keras, model_compressed.tflite and "
        "report.json. Packaged recipes: {recipes}. Loss and metric are the compiled model's, or else follow from the "
        "labels. With --target=tflm --weights_storage=auto the file is for TFLite-Micro alone, its weights encoded.",
        f"{PROGRAM} compress --model=m.keras --data=data.npz --recipe=pcqat --out=out",
        "keras_compress.cli.commands:compress",
        _compress_flags,
        ("model", "data"),
        figures=True,
    ),
    "quantize": Command(
        "Quantize a trained .keras model without training it, with data or without.",
        "Level 1 needs no data: channels are scaled so that one range fits all, ranges and corrections of biases "
        "follow from the statistics of BatchNormalizations. Level 2 takes ranges from --data. What each step did to "
        "each layer is printed. --budget chooses the bits of each layer by what they cost on --data.",
        f"{PROGRAM} quantize --model=m.keras --input_range=0,1 --out=quantized.keras",
        "keras_compress.cli.quantize:quantize",
        _quantize_flags,
        ("model", "out"),
    ),
    "factorize": Command(
        "Replace large layers of a .keras model by rows of smaller ones of low rank.",
        "What each layer gives up is chosen so that the target costs least. With --data errors are measured on the "
        "layers' outputs. The model is to be trained on afterwards, as with recipe low_rank.",
        f"{PROGRAM} factorize --model=m.keras --macs=0.5 --out=low_rank.keras",
        "keras_compress.cli.factorize:run",
        _factorize_flags,
        ("model", "out"),
    ),
    "compact": Command(
        "Replace convolutions of a .keras model by separable, grouped, ghost or shift forms.",
        "Each layer gives up what costs it least until the target is kept. The model is to be trained on afterwards, "
        "with the original as teacher, as with recipe compact.",
        f"{PROGRAM} compact --model=m.keras --macs=0.5 --out=compact.keras",
        "keras_compress.cli.compact:run",
        _compact_flags,
        ("model", "out"),
    ),
    "widen": Command(
        "Make the layers of a .keras model wider, to be trained from scratch or from where it was.",
        "Channels that belong together grow together; inputs and outputs stay. Nets of few bits may need more of them.",
        f"{PROGRAM} widen --model=m.keras --factor=2 --out=wide.keras",
        "keras_compress.cli.widen:run",
        _widen_flags,
        ("model", "out"),
    ),
    "prune_one_shot": Command(
        "Set weights of a .keras model to zero at once, those with the lowest scores.",
        "The zeros are held while the model is trained on, as with recipe prune_one_shot. What was done to each layer "
        "is printed. Some criteria need inputs (wanda, sparse_gpt) or labels (snip, grasp, taylor, obd, obs).",
        f"{PROGRAM} prune_one_shot --model=m.keras --sparsity=0.8 --out=sparse.keras",
        "keras_compress.cli.prune_one_shot:run",
        _prune_one_shot_flags,
        ("model", "out"),
    ),
    "from_tfmot": Command(
        "Make a .keras model of one that tfmot pruned, clustered or quantized.",
        "Masks, schedules, centroids and ranges become this library's, outputs stay the same; layers that have no twin "
        "are named. An .h5 file needs nothing else; tf_keras and tfmot read the other formats in a process of theirs.",
        f"{PROGRAM} from_tfmot --model=old.h5 --out=new.keras",
        "keras_compress.cli.from_tfmot:run",
        _from_tfmot_flags,
        ("model", "out"),
    ),
    "convert": Command(
        "Convert a .keras model to .tflite.",
        "A plain model needs --mode=float32, float16 or dynamic, or --data for int8.",
        f"{PROGRAM} convert --model=m.keras --data=data.npz --out=m.tflite --io=int8",
        "keras_compress.cli.commands:convert",
        _convert_flags,
        ("model", "out"),
        figures=True,
    ),
    "measure": Command(
        "Measure a .tflite file on its runtime: size, latency, memory, accuracy.",
        "Runs in a process of its own with a time limit. Latency is this machine's; TFLM's says nothing about a "
        "microcontroller.",
        f"{PROGRAM} measure --model=m.tflite --baseline=float.tflite --data=data.npz",
        "keras_compress.cli.commands:measure",
        _measure_flags,
        ("model",),
        figures=True,
    ),
    "verify": Command(
        "Check that the int8 file computes what was simulated, operator by operator.",
        "Converts the model to int8, or takes --file, and runs each operator on the integers that the simulation has "
        "there. Exit code 1 if one differs by more than a step, or in more than 1 % of the values. Of --file, ranges "
        "that training did not set are taken as they are in it; weights must be the model's.",
        f"{PROGRAM} verify --model=m.keras --data=data.npz --target=tflm",
        "keras_compress.cli.commands:verify",
        _verify_flags,
        ("model", "data"),
        figures=True,
    ),
    "inspect": Command(
        "Show what a .tflite or .keras file holds: sparsity, distinct values, bytes of each weight.",
        "Figures of a .tflite file are read back from it; nothing is run.",
        f"{PROGRAM} inspect --model=m.tflite",
        "keras_compress.cli.commands:inspect",
        _inspect_flags,
        ("model",),
        figures=True,
    ),
    "expand": Command(
        "Write the plain file of one whose weights are encoded, so that LiteRT can run it.",
        "Outputs are the same integers. Units that were cut out, and layers that were split, stay so.",
        f"{PROGRAM} expand --model=m.tflite --out=plain.tflite",
        "keras_compress.cli.commands:expand",
        _expand_flags,
        ("model", "out"),
    ),
    "prune_iteratively": Command(
        "Prune a trained .keras model in rounds, with training between them.",
        "Each round sets the smallest weights to zero and trains what is left. The last round within --max_drop, on "
        "samples that are held out, is written. Loss and metric are the compiled model's, or else follow from the "
        "labels.",
        f"{PROGRAM} prune_iteratively --model=m.keras --data=data.npz --sparsity=0.9 --rounds=4 --out=pruned.keras",
        "keras_compress.cli.prune_iteratively:run",
        _prune_iteratively_flags,
        ("model", "data", "out"),
    ),
    "sensitivity": Command(
        "Tell how much a .keras model minds what a method takes away, part by part.",
        "Channels, weights, bits or ranks: each part is changed alone, by several amounts, and the model evaluated.",
        f"{PROGRAM} sensitivity --model=m.keras --data=data.npz --of=ranks --plot=ranks.png",
        "keras_compress.cli.sensitivity:run",
        _sensitivity_flags,
        ("model", "data"),
    ),
    "sparse_ready": Command(
        "Tell which layers a runtime computes without their zeros, and why not the others.",
        "Dense layers pruned in blocks of inputs, by LiteRT's built-in kernels; 1x1 convolutions by XNNPACK on Arm and "
        "in LiteRT.js. Exit code 1 where sparse convolutions would be computed wrong there; convert refuses these.",
        f"{PROGRAM} sparse_ready --model=m.tflite",
        "keras_compress.cli.sparse:run",
        _sparse_ready_flags,
        ("model",),
        figures=True,
    ),
    "accumulator_bits": Command(
        "Tell how many bits the sums of each layer of a .tflite file need.",
        "At the worst, from the integers in the file: no input makes such an accumulator overflow; and on data. Stock "
        "kernels add up in 32 bits (docs/binary_ternary.md).",
        f"{PROGRAM} accumulator_bits --model=m.tflite --data=data.npz --bits=12",
        "keras_compress.cli.accumulators:run",
        _accumulator_flags,
        ("model",),
        figures=True,
    ),
    **DEVICE_COMMANDS,
    "export": Command(
        "Write a .tflite file as C++ sources for TFLite-Micro.",
        "The file as an aligned array, the size of its arena, its inputs and outputs as constants, and a resolver for "
        "exactly the operators it uses. Without --arena_bytes the model is started in TFLite-Micro here.",
        f"{PROGRAM} export --model=m.tflite --out=src --name=model",
        "keras_compress.cli.commands:export",
        _export_flags,
        ("model",),
    ),
    "report": Command(
        "Print the table of an earlier demo or compress run again, or write its page.",
        "Reads report.json and report_page.json; nothing is trained or run. --out=out/report.html writes the page.",
        f"{PROGRAM} report --out=out",
        "keras_compress.cli.report:run",
        _report_flags,
        figures=True,
    ),
    "recipes": Command(
        "List the recipes: for which goal each is, and what it gives.",
        "What `compress` takes by name. docs/recipes.md tells how to write your own.",
        f"{PROGRAM} recipes",
        "keras_compress.cli.recipes:run",
        _recipes_flags,
        figures=True,
        light=True,
    ),
    "completion": Command(
        "Print what a shell needs to complete commands and flags.",
        f'In bash: eval "$({PROGRAM} completion --shell=bash)", in ~/.bashrc to have it always.',
        f"{PROGRAM} completion --shell=bash",
        "keras_compress.cli.completion:run",
        _completion_flags,
        light=True,
    ),
}
