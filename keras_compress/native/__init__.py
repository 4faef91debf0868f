"""Compiled kernels for binary nets: a delegate that LiteRT loads, and the C++ sources it is made of.

`library_path()` compiles them once for each computer; nothing else in the package needs a compiler.
"""

from keras_compress.native.library import NAMES, library_path

__all__ = ["NAMES", "library_path"]
