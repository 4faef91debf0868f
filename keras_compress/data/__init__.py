"""What users hand over: samples and targets in any form that Keras or TensorFlow takes, and training on them."""
