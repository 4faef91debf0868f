"""Make trained Keras 3 models small and fast on phones and microcontrollers, and prove it on their runtimes."""

from keras_compress.clustering.centroids import CentroidClusterer, cluster_weights
from keras_compress.core.model import strip
from keras_compress.core.schedule import ConstantSparsity, CosineDecay, PolynomialDecay, Schedule
from keras_compress.core.transform import WeightTransform
from keras_compress.core.wrapper import Compressed
from keras_compress.pruning.magnitude import MagnitudePruner, prune_low_magnitude
from keras_compress.pruning.n_m import NMPruner
from keras_compress.quantizers.activation import FixedGrid, LearnedRange, MovingAverageRange, QuantizeActivation
from keras_compress.quantizers.model import quantize_model
from keras_compress.quantizers.uniform import UniformQuantizer
from keras_compress.convert.artifact import Artifact
from keras_compress.convert.convert import convert
from keras_compress.convert.freeze import freeze
