"""Compiled kernels for binary nets: a delegate that LiteRT loads, and the C++ sources it is made of.

`library_path()` compiles them once for each computer; nothing else in the package needs a compiler. `micro_sources()`
are those of the operators for TFLite-Micro, which `export_c` writes.
"""

from keras_compress.native.library import NAMES, library_path, micro_sources

__all__ = ["NAMES", "library_path", "micro_sources"]
