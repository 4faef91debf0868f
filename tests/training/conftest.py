"""What pytest must not import."""

# Programs of their own, which set up devices or workers before TensorFlow starts.
collect_ignore = ["two_devices.py", "two_workers.py"]
