"""Why a file did not shrink, and why it is not faster: a ratio and its cause, from the figures of the stages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from keras_compress.runtime.target import multiplies_bytes

Row = Mapping[str, Any]
# Files whose weights are all real numbers.
_REAL = ("float32", "float16")
# A file that is less than this many times smaller has hardly shrunk.
_SHRUNK = 1.25
# Below this, in ms, the start of operators is most of what is timed.
_SHORT_MS = 0.05
# Less than this share of the file in weights: the rest decides.
_MOSTLY_WEIGHTS = 0.5


def causes(rows: Sequence[Row]) -> list[str]:
    """A line for each stage whose file or latency is not clearly better than the first one's.

    Args:
        rows: As `stage_rows` makes them.
    """
    first, *others = rows
    return [note for row in others for note in (*_not_smaller(row, first), *_not_faster(row, first))]


def _not_smaller(row: Row, first: Row) -> list[str]:
    ratio = first["raw_bytes"] / row["raw_bytes"]
    if ratio >= _SHRUNK:
        return []
    kind = row.get("arithmetic", "")
    rest = row["raw_bytes"] - row["weight_payload_bytes"]
    if kind in _REAL:
        size, zeros = kind.removeprefix("float"), row["sparsity"]
        zipped = first["gzip_bytes"] / row["gzip_bytes"]
        cause = (
            f"each weight takes {int(size) // 8} bytes, a zero too ({zeros:.0%} are zeros). A download gzipped is "
            f"{zipped:.2f} times smaller. int8 makes the file itself smaller (quantize_model), for TFLite-Micro "
            "encoded weights do (weights_storage='auto')"
        )
    elif row["weight_payload_bytes"] < _MOSTLY_WEIGHTS * row["raw_bytes"]:
        cause = f"{rest:,} of its bytes are no weights: operators, names, scales"
    else:
        cause = f"its weights take {row['weight_payload_bytes']:,} bytes of {first['weight_payload_bytes']:,}"
    return [f"{row['name']}: the file is {ratio:.2f} times smaller than {first['name']}'s, because {cause}."]


def _not_faster(row: Row, first: Row) -> list[str]:
    now, before = row["litert_latency_ms"], first["litert_latency_ms"]
    if now["p90"] < before["p10"]:
        return []
    better = "is not better" if now["median"] >= before["median"] else "is better by less than the spread"
    cause = _cause_of_time(row, first)
    said = (
        f"{row['name']}: its latency, {now['median']:.4f} ms, {better}: {now['median'] / before['median']:.2f} times "
        f"{first['name']}'s {before['median']:.4f} ms on this machine"
    )
    return [f"{said}{f', because {cause}' if cause else ''}."]


def _cause_of_time(row: Row, first: Row) -> str:
    kind, median = row.get("arithmetic", ""), first["litert_latency_ms"]["median"]
    if median < _SHORT_MS:
        return "at such times most goes into starting operators, which no compression makes fewer"
    if kind in _REAL and kind == first.get("arithmetic"):
        return "kernels multiply zeros and shared values like any others: remove channels to save time (prune_channels)"
    if kind.startswith("int8") and multiplies_bytes() is False:
        return (
            "this processor has no instruction that multiplies and adds bytes (VNNI on x86, dot product on Arm): int8 "
            "takes it as long as float32. Processors of phones have one"
        )
    return ""
