"""The NAT matrix in docs/lab.md is the one that the tests hold, and so are the fault rows."""

from tests.docs.pages import ROOT, tables
from tests.lab.faults.rows import ROWS
from tests.lab.matrix.cells import Expected, cell_of
from tests.lab.matrix.classes import NatClass

MARKS = {
    Expected.DIRECT: "D",
    Expected.RELAY: "R",
    Expected.PREDICTED: "P",
    Expected.BIRTHDAY: "B",
    Expected.TCP_BLOCKED: "-",
}
TABLES = tables((ROOT / "docs" / "lab.md").read_text())


def test_the_matrix_of_the_page_is_the_one_of_the_tests() -> None:
    (rows,) = (rows for rows in TABLES.values() if "agent behind" in rows[0])
    found = {(row["agent behind"], nat): mark for row in rows for nat, mark in row.items() if nat != "agent behind"}
    expected = {
        (agent.value, connector.value): MARKS[cell_of(agent, connector).expected]
        for agent in NatClass
        for connector in NatClass
    }
    assert found == expected


def test_the_fault_rows_of_the_page_are_those_of_the_tests() -> None:
    (rows,) = (rows for rows in TABLES.values() if "fault" in rows[0])
    assert [(int(row["row"]), row["fault"], row["bar"]) for row in rows] == [
        (row.number, row.fault, row.bar) for row in ROWS
    ]
    assert [row["shown less"] for row in rows] == [row.weaker for row in ROWS]
