"""LiteRT in the child process."""

import ctypes
import importlib
import types
from collections.abc import Callable, Sequence
from typing import Any

from .engine import UnavailableError, known_names, tensor_info
from .frames import Array, Header


class LiteRTEngine:
    """One model loaded in LiteRT. `options`: kernels, threads, an external delegate's path and options."""

    def __init__(self, content: bytes, options: Header, preserve: bool = False) -> None:
        runtime = importlib.import_module("ai_edge_litert.interpreter")
        kinds = runtime.OpResolverType
        resolver = {
            "xnnpack": kinds.BUILTIN,
            "builtin": kinds.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
            "reference": kinds.BUILTIN_REF,
        }[options["kernels"]]
        # It must outlive the interpreter.
        self._delegate = _load_delegate(runtime, options)
        self._interpreter = runtime.Interpreter(
            experimental_delegates=None if self._delegate is None else [self._delegate],
            model_content=content,
            num_threads=options["threads"],
            experimental_op_resolver_type=resolver,
            experimental_preserve_all_tensors=preserve,
        )
        self._interpreter.allocate_tensors()
        self._inputs = self._interpreter.get_input_details()
        self._outputs = self._interpreter.get_output_details()
        self.getters = [self._getter(details["index"]) for details in self._outputs]

    def memory(self) -> Header:
        """Nothing: LiteRT keeps no books that Python can read."""
        return {}

    def reset(self) -> None:
        self._interpreter.reset_all_variables()

    def signature(self) -> Header:
        signatures = self._interpreter._get_full_signature_list()
        names: Header = signatures.get("serving_default") or next(iter(signatures.values()), {})
        answer = {}
        for kind, tensors in (("inputs", self._inputs), ("outputs", self._outputs)):
            named = {index: name for name, index in names.get(kind, {}).items()}
            answer[kind] = [tensor_info(d["name"], d, named.get(d["index"], "")) for d in tensors]
        return answer

    def delegate(self) -> str:
        names = {op["op_name"] for op in self._interpreter._get_ops_details()}
        found = "XNNPACK" if "DELEGATE" in names else "none"
        return found if self._delegate is None else _with_own(self._delegate, found)

    def feed(self, sample: Sequence[Array]) -> None:
        for details, array in zip(self._inputs, sample, strict=True):
            self._interpreter.set_tensor(details["index"], array)

    def invoke(self) -> None:
        self._interpreter.invoke()

    def tensor_getters(self, names: Sequence[str]) -> list[Callable[[], Array]]:
        indices = {details["name"]: details["index"] for details in self._interpreter.get_tensor_details()}
        return [self._getter(indices[name]) for name in known_names(names, indices)]

    def _getter(self, index: int) -> Callable[[], Array]:
        get: Callable[[int], Array] = self._interpreter.get_tensor
        return lambda: get(index)


def _load_delegate(runtime: types.ModuleType, options: Header) -> Any:
    """The external delegate, or None. Raises UnavailableError: a library for another processor, or a damaged one."""
    path = options.get("delegate")
    if not path:
        return None
    try:
        return runtime.load_delegate(path, options.get("delegate_options") or None)
    except (OSError, ValueError, AttributeError) as error:
        raise UnavailableError(f"Expected a delegate for this computer. Received: {path}: {error}") from error


def _with_own(delegate: Any, others: str) -> str:
    """What kc_binary says of itself, and the delegate that took the rest."""
    library, pointer = delegate._library, ctypes.c_void_p(delegate._get_native_delegate_pointer())
    library.kc_binary_path.restype = ctypes.c_char_p
    taken = library.kc_binary_taken(pointer)
    return f"kc_binary ({library.kc_binary_path(pointer).decode()}, {taken} operators), {others}"
