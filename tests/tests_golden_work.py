"""What processes of `benchmarks/golden.py` do in a test in place of converting: hang and die. Imports very little."""

import os
import time
from pathlib import Path
from typing import Any


def work(names: list[str], folder: Path, pipe: Any) -> None:
    """Ready at once, and done with each model but two."""
    pipe.send("")
    for name in names:
        if name == "hangs":
            time.sleep(600)
        if name == "aborts":
            os.abort()
        pipe.send(name)
