"""Results report: writes the tables of ``data/bench/README.md`` from the Parquet and CSV files next to it.

A table is between ``<!-- table: NAME -->`` and ``<!-- end -->``. Its writer is in ``report_models``,
``report_training``, ``report_vectors``, ``report_landscape``, ``report_encoders`` or ``report_use``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from memlab.experiments import (  # noqa: F401  # they register tables
    report_encoders,
    report_landscape,
    report_models,
    report_training,
    report_use,
    report_vectors,
)
from memlab.experiments.report_tables import TABLES, ReportError, Rows
from memlab.results.atomic import atomic_write
from memlab.texts import data_folder

MARKED = re.compile(r"(<!-- table: (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)


def markdown(heads: Iterable[str], rows: Rows) -> str:
    """A Markdown table."""
    names = [*heads]
    lines = [names, ["---"] * len(names), *([str(cell) for cell in row] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def rewrite_tables(text: str) -> str:
    """``text`` with each marked table written again.

    Raises ``ReportError`` if a name has no writer, or if a writer's table has no place in the text.
    """
    names = [name for _, name, _ in MARKED.findall(text)]
    if unknown := [name for name in names if name not in TABLES]:
        raise ReportError(f"no writer for the table {unknown[0]!r}. Use one of {', '.join(TABLES)}, or add a writer.")
    if unused := [name for name in TABLES if name not in names]:
        raise ReportError(f"the report has no place for the table {unused[0]!r}. Add its two marker lines.")
    return MARKED.sub(lambda match: match[1] + markdown(*TABLES[match[2]]()) + match[3], text)


def write_report(file: Path | None = None, *, check: bool = False) -> list[str]:
    """Update the tables of ``file`` (default: ``data/bench/README.md``). Returns the names of those that changed.

    With ``check`` the file is not written.
    """
    file = file or data_folder() / "bench" / "README.md"
    before = file.read_text(encoding="utf-8")
    after = rewrite_tables(before)
    pairs = zip(MARKED.finditer(before), MARKED.finditer(after), strict=True)
    changed = [old[2] for old, new in pairs if old[0] != new[0]]
    if changed and not check:
        atomic_write(file, after.encode())
    return changed
