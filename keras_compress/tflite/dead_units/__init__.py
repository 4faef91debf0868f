"""What is known of operators to remove units: channels and neurons that are constant or that nothing reads.

A unit is a set of places on the last axes of tensors that live and die together: the outputs of a convolution, the same
channels behind its pool, the columns of a dense layer behind a flatten. Each rule says for its operators which places
belong together, which outputs are constant, and which inputs matter.
"""

from keras_compress.tflite.dead_units import depthwise, elementwise, joining, reshaping, weighted

__all__ = ["depthwise", "elementwise", "joining", "reshaping", "weighted"]
