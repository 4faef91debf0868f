"""LSTM layers as one operator, UNIDIRECTIONAL_SEQUENCE_LSTM: its integers, what runtimes compute, the operator."""
