from __future__ import annotations

import re
from pathlib import Path

TABLE = Path(__file__).parents[2] / "docs" / "training.md"


def test_every_row_of_the_table_names_a_test_that_exists() -> None:
    rows = [line for line in TABLE.read_text(encoding="utf-8").splitlines() if re.match(r"\| (?!way|-)", line)]
    named = [re.search(r"`(test_\w+\.py)::(test_\w+)` \|$", row) for row in rows]
    assert len(rows) > 30
    for row, match in zip(rows, named):
        assert match, row
        source = (Path(__file__).parent / match[1]).read_text(encoding="utf-8")
        assert f"def {match[2]}(" in source, row
