"""What pytest must not import."""

# A program of its own, which sets up two devices before TensorFlow starts.
collect_ignore = ["two_devices.py"]
