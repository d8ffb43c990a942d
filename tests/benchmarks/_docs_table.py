"""Tables of benchmarks in pages of the documentation, between two comments that name them."""

import os
import re
from datetime import date
from pathlib import Path

from _common import ROOT


def write_table(page: str, name: str, rows: list[dict], note: str = "") -> Path:
    """Put a table in place of the one named ``name`` in ``docs/page``, with date, cores and ``note`` beneath."""
    path = ROOT / "docs" / page
    columns = list(dict.fromkeys(key for row in rows for key in row))
    lines = [columns, ["---"] * len(columns), *[[str(row.get(column, "")) for column in columns] for row in rows]]
    table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    said = f"{date.today()}, {os.cpu_count()} cores{', ' + note if note else ''}."
    text, n = re.subn(
        f"{re.escape(begin)}.*?{re.escape(end)}",
        lambda _: f"{begin}\n{table}\n\n{said}\n{end}",
        path.read_text(),
        flags=re.DOTALL,
    )
    if n != 1:
        raise SystemExit(f"{path} has {n} places for the table {name!r}")
    path.write_text(text)
    return path
