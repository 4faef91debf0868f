"""Broken and hostile recipes and `.keras` files; see mutations.py."""

from __future__ import annotations

import io
import json
import struct
import zipfile
from collections.abc import Callable
from typing import Any

from robustness.mutations import Generator, flipped, pick

HOSTILE: tuple[Any, ...] = (
    None, True, -1, 0, 0.5, -0.5, 1e308, 10**9, 10**12, 10**30, 2**63, "", "x" * 10_000, "\x1b[31mred", "<script>",
    "[red]x[/]", "\ud800", "\u202eevil", "__import__('os').system('touch hacked')", "../../../etc/passwd", "NaN", [],
    {}, [[]], [None], {"": {}}, {"class_name": "builtins.eval", "config": {"source": "1"}}, {"class_name": "Lambda"},
    {"class_name": 5}, {"class_name": "os.system", "module": "os", "registered_name": "system", "config": "true"},
    {"class_name": "function", "config": "system", "module": "os", "registered_name": "function"},
    {"class_name": "__lambda__", "config": {"value": "4wEA"}}, {"class_name": "__tensor__", "config": {"value": 1}},
    {"class_name": "PolynomialDecay", "config": {"initial_sparsity": 5}},
    {"class_name": "ConstantSparsity", "config": {"target_sparsity": 0.5, "begin_step": 0, "frequency": 0}},
)  # fmt: skip


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path] if path else []
    if isinstance(value, dict):
        return found + [place for key, entry in value.items() for place in _places(entry, (*path, key))]
    if isinstance(value, list):
        return found + [place for index, entry in enumerate(value) for place in _places(entry, (*path, index))]
    return found


def mutate_value(value: Any, generator: Generator) -> str:
    """Changes one place of a JSON value; numbers are changed into numbers half the time. Says what was done."""
    places = _places(value)
    path = pick(generator, places)
    parent = value
    for key in path[:-1]:
        parent = parent[key]
    what = generator.integers(5)
    if what == 0:
        del parent[path[-1]]
        return "removed"
    if what == 1 and isinstance(parent, dict):
        parent[pick(generator, ("class_name", "module", "config", "extra", "", "__class__"))] = pick(generator, HOSTILE)
        return "added"
    old = parent[path[-1]]
    if isinstance(old, (int, float)) and not isinstance(old, bool) and generator.random() < 0.5:
        parent[path[-1]] = pick(generator, (-1, 0, 1, 0.5, 1.5, 10**6, 10**9, 10**11, 1e30, old + 1))
        return "number"
    parent[path[-1]] = pick(generator, HOSTILE)
    return "replaced"


def mutate_recipe(text: str, generator: Generator) -> tuple[str, bytes]:
    """A broken copy of a recipe: what was done, and the file's bytes."""
    what = generator.random()
    if what < 0.75:
        value = json.loads(text)
        done = [mutate_value(value, generator) for _ in range(1 + int(generator.random() < 0.3)) if value]
        # 1e400 is JSON, and infinite.
        written = json.dumps(value).replace("1e+308", "1e400" if generator.random() < 0.5 else "1e308")
        return "+".join(done), written.encode()
    ways: tuple[Callable[[], bytes], ...] = (
        lambda: text.encode()[: int(generator.integers(len(text)))],
        lambda: flipped(b" " * 8 + text.encode(), generator)[1],
        lambda: text.encode("utf-16"),
        lambda: b"[" * int(pick(generator, (10, 500, 900, 100_000))),
        lambda: _nested(text, int(pick(generator, (50, 150, 300, 450, 900)))),
        lambda: generator.bytes(int(generator.integers(200))),
        lambda: text.replace(":", ': 1, "version":', 1).encode(),
        lambda: text.replace("1", "1" * int(pick(generator, (400, 5000))), 1).encode(),
        lambda: text.replace("1", "NaN", 1).encode(),
    )
    return "text", pick(generator, ways)()


def _nested(text: str, depth: int) -> bytes:
    value = json.loads(text)
    deep: Any = {"class_name": "Deep", "config": {}}
    for _ in range(depth):
        deep = {"a": deep} if depth % 100 else [deep]
    value["stages"][0]["config"] = {"deep": deep}
    return json.dumps(value).encode()


def members(content: bytes) -> dict[str, bytes]:
    """Name -> bytes of a `.keras` file."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def archive_of(entries: dict[str, bytes], *, compress: bool = False) -> bytes:
    """A zip file of these members."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return made.getvalue()


def mutate_keras(content: bytes, generator: Generator) -> tuple[str, bytes]:
    """A broken copy of a `.keras` file: what was done, and the bytes."""
    what = generator.random()
    if what < 0.1:
        return "cut", content[: int(generator.integers(len(content)))]
    if what < 0.2:
        return "archive " + (found := flipped(content, generator))[0], found[1]
    entries = members(content)
    if what < 0.7:
        config = json.loads(entries["config.json"])
        done = [mutate_value(config, generator) for _ in range(int(generator.integers(1, 3))) if config]
        entries["config.json"] = json.dumps(config).encode()
        return "config " + "+".join(done), archive_of(entries)
    if what < 0.85:
        weights = entries["model.weights.h5"]
        cut = weights[: int(generator.integers(len(weights)))]
        entries["model.weights.h5"] = pick(generator, (flipped(weights, generator)[1], cut, b"", generator.bytes(500)))
        return "weights", archive_of(entries)
    return _rearranged(entries, generator)


def _rearranged(entries: dict[str, bytes], generator: Generator) -> tuple[str, bytes]:
    what = int(generator.integers(7))
    if what == 0:
        del entries[pick(generator, sorted(entries))]
    elif what == 1:
        entries["../../slipped"] = b"slipped"
        entries["assets/../../slipped"] = b"slipped"
    elif what == 2:
        entries["model.weights.h5"] = bytes(300_000_000)
        return "bomb", archive_of(entries, compress=True)
    elif what == 3:
        entries["config.json"] = b"[" * 200_000
    elif what == 4:
        entries["config.json"] = entries["config.json"][: int(generator.integers(len(entries["config.json"])))]
    elif what == 5:
        entries["config.json"] = generator.bytes(100)
    else:
        # A size that the central directory makes up.
        data = bytearray(archive_of(entries))
        place = bytes(data).rfind(b"PK\x01\x02")
        struct.pack_into("<I", data, place + 24, int(pick(generator, (0, 2**31, 2**32 - 2))))
        return "sizes", bytes(data)
    return "members", archive_of(entries)
