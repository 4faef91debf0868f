"""LiteRT in the child process."""

import importlib
from collections.abc import Callable, Sequence

from .engine import known_names, tensor_info
from .frames import Array, Header


class LiteRTEngine:
    """One model loaded in LiteRT. `options`: kernels, threads."""

    def __init__(self, content: bytes, options: Header, preserve: bool = False) -> None:
        runtime = importlib.import_module("ai_edge_litert.interpreter")
        kinds = runtime.OpResolverType
        resolver = {
            "xnnpack": kinds.BUILTIN,
            "builtin": kinds.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
            "reference": kinds.BUILTIN_REF,
        }[options["kernels"]]
        self._interpreter = runtime.Interpreter(
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
        return "XNNPACK" if "DELEGATE" in names else "none"

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
