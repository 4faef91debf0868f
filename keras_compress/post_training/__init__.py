"""Quantization of trained models without training them: by their own statistics, or by data without labels."""
