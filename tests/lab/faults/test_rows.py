"""Every row has a test of its own, and every test belongs to a row."""

import re
from pathlib import Path

from tests.lab.faults.rows import ROWS

TESTS = [path for path in sorted(Path(__file__).parent.glob("test_*.py")) if path.name != Path(__file__).name]


def test_every_row_is_tested_and_every_test_has_its_row() -> None:
    names = [name for path in TESTS for name in re.findall(r"^def (test_row\w+)", path.read_text(), re.MULTILINE)]
    tested = {int(number) for name in names for number in re.findall(r"\d+", name.split("_percent")[0])[:2]}
    numbers = {row.number for row in ROWS}
    assert numbers <= tested
    assert all(row.fault and row.injection and row.bar for row in ROWS)
    assert len(numbers) == len(ROWS)
