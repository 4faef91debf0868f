"""What users hand over: samples and targets in any form that Keras or the TFLite converter takes."""
