"""Puts the tables of runs into docs/performance.md, so that no figure there is typed by hand.

python -m benchmarks.document FOLDER...     of `make bench`, `make where` or `make soak`, or of each
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

PAGE = Path(__file__).parents[1] / "docs" / "performance.md"
# Where runs put what they found, unless they are told another place.
RESULTS = Path(__file__).parent / "results"
BENCH, SOAK, WHERE = "bench", "soak", "where"
TABLES, RESULTS_FILE = "tables.md", "results.json"


def fill(page: str, kind: str, tables: str) -> str:
    """Give the page with these tables between the marks of their kind.

    Raises:
        ValueError: There are no such marks, or more than one pair.
    """
    begin, end = f"<!-- {kind}: begin -->\n", f"<!-- {kind}: end -->\n"
    if page.count(begin) != 1 or page.count(end) != 1:
        raise ValueError(f"the page needs one {begin.strip()} and one {end.strip()}")
    before, _, rest = page.partition(begin)
    _, _, behind = rest.partition(end)
    return f"{before}{begin}\n{tables.strip()}\n\n{end}{behind}"


def main(folders: list[Path]) -> int:
    """Fill the page from these folders."""
    page = PAGE.read_text(encoding="utf-8")
    for folder in folders:
        results = json.loads((folder / RESULTS_FILE).read_text(encoding="utf-8"))
        kind = BENCH if "fanout" in results else WHERE if WHERE in results else SOAK
        page = fill(page, kind, (folder / TABLES).read_text(encoding="utf-8"))
    PAGE.write_text(page, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main([Path(word) for word in sys.argv[1:]]))
