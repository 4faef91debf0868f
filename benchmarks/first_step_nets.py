"""What both sides of `first_step.py` do. Imports nothing, so that tfmot's interpreter can load it."""

MOBILENET = {"input_shape": (96, 96, 3), "alpha": 0.35, "classes": 10, "classifier_activation": None}
BATCH = 32
CLUSTERS = 16
PRUNING = {"initial_sparsity": 0.3, "final_sparsity": 0.8, "begin_step": 0, "end_step": 1000, "frequency": 100}
