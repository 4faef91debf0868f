"""Makes `colab/NAME.ipynb` of each `colab/sources/NAME.py`: `python colab/make_notebooks.py`. See `colab/README.md`."""

from __future__ import annotations

from pathlib import Path

import jupytext
import nbformat

FOLDER = Path(__file__).parent
SOURCES = FOLDER / "sources"
METADATA = {
    "colab": {"provenance": []},
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def notebook_of(source: str) -> str:
    """The text of an .ipynb file, without outputs: equal sources give equal bytes.

    Args:
        source: Cells in jupytext's format `py:percent`.
    """
    notebook = jupytext.reads(source, "py:percent")
    notebook.metadata = nbformat.from_dict(METADATA)
    for number, cell in enumerate(notebook.cells):
        # jupytext draws ids anew each time, and notes how many empty lines it saw.
        cell.id = f"cell-{number:02}"
        cell.metadata = nbformat.from_dict({key: cell.metadata[key] for key in cell.metadata if key == "tags"})
    return nbformat.writes(notebook, version=nbformat.NO_CONVERT) + "\n"


def main() -> None:
    """Writes all of them."""
    for source in sorted(SOURCES.glob("*.py")):
        text = notebook_of(source.read_text(encoding="utf-8"))
        (FOLDER / f"{source.stem}.ipynb").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
