"""Elements by netlink, as nft(8) sees them: whole transactions, counters, refusals."""

import errno
import subprocess
from collections.abc import Callable

import pytest

from tests.support.netns import in_new_namespace
from tests.ztna.io.forward.bed import nft
from ztna.io.forward.nfnetlink import Change, Element, NftError, SetElements, delete_table, list_tables

pytestmark = pytest.mark.lab


def with_table(body: Callable[[SetElements], None]) -> None:
    """Run a body with a table of one map and one set in a namespace of its own."""

    def inside() -> None:
        nft(
            "table inet t {",
            "map m { type ipv4_addr : inet_service; counter; }",
            "set s { type inet_service; flags timeout; }",
            "}",
        )
        elements = SetElements("t")
        body(elements)
        elements.close()

    in_new_namespace(inside)


def key(number: int) -> bytes:
    return (0x0A000000 + number).to_bytes(4, "big")


def port(number: int) -> bytes:
    return number.to_bytes(2, "big")


def shown(kind: str, name: str) -> str:
    return subprocess.run(["nft", "list", kind, "inet", "t", name], capture_output=True, text=True, check=True).stdout


def test_elements_come_and_go() -> None:
    def body(elements: SetElements) -> None:
        elements.apply([Change("m", [Element(key(1), port(80))]), Change("s", [Element(port(7), timeout_ms=90_000)])])
        assert "10.0.0.1 counter packets 0 bytes 0 : 80" in shown("map", "m")
        assert "7 timeout 1m30s" in shown("set", "s")
        elements.apply([Change("m", [Element(key(1))], delete=True)])
        assert "10.0.0.1" not in shown("map", "m")
        elements.apply([])

    with_table(body)


def test_thousands_in_one_transaction_and_their_counters() -> None:
    def body(elements: SetElements) -> None:
        keys = [key(number) for number in range(5000)]
        elements.apply([Change("m", [Element(each, port(1)) for each in keys])])
        assert elements.counters("m") == dict.fromkeys(keys, (0, 0))
        assert elements.counters("m", keys[7:9]) == dict.fromkeys(keys[7:9], (0, 0))

    with_table(body)


def test_a_refused_transaction_changes_nothing() -> None:
    def body(elements: SetElements) -> None:
        for wrong in (Change("m", [Element(key(9))], delete=True), Change("none", [Element(key(1))])):
            with pytest.raises(NftError) as refused:
                elements.apply([Change("m", [Element(key(1), port(80))]), wrong])
            assert refused.value.errno == errno.ENOENT
        assert elements.counters("m") == {}
        with pytest.raises(NftError):
            elements.counters("none")
        elements.apply([Change("m", [Element(key(1), port(80))])])

    with_table(body)


def test_tables_are_listed_with_their_comments_and_deleted() -> None:
    def body(elements: SetElements) -> None:
        nft('table inet u { comment "mine"; }')
        tables = list_tables()
        assert set(tables) == {"t", "u"}
        assert b"mine" in tables["u"]
        delete_table("u")
        delete_table("u")
        assert set(list_tables()) == {"t"}

    with_table(body)
