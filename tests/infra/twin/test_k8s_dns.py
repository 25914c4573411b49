"""The cluster's DNS, asked by dnspython."""

import json
import os
from pathlib import Path

import dns.flags
import dns.message
import dns.rcode
import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.twin.k8s_dns import Records, answer

NAMES = {
    "web.shop.svc.cluster.local": ["10.43.1.1"],
    "each.shop.svc.cluster.local": ["10.42.0.10", "10.42.0.11"],
    "none.shop.svc.cluster.local": [],
}


@pytest.fixture
def records(tmp_path: Path) -> Records:
    (tmp_path / "dns.json").write_text(json.dumps(NAMES))
    return Records(str(tmp_path / "dns.json"), "cluster.local")


def ask(records: Records, name: str, kind: str = "A") -> dns.message.Message:
    return dns.message.from_wire(answer(dns.message.make_query(name, kind).to_wire(), records))


@pytest.mark.parametrize(
    ("name", "kind", "code", "addresses"),
    [
        ("web.shop.svc.cluster.local", "A", "NOERROR", ["10.43.1.1"]),
        ("WEB.shop.svc.Cluster.local", "A", "NOERROR", ["10.43.1.1"]),
        ("each.shop.svc.cluster.local", "A", "NOERROR", ["10.42.0.10", "10.42.0.11"]),
        ("none.shop.svc.cluster.local", "A", "NOERROR", []),
        ("web.shop.svc.cluster.local", "AAAA", "NOERROR", []),
        ("gone.shop.svc.cluster.local", "A", "NXDOMAIN", []),
        ("web.shop.svc.shop.svc.cluster.local", "A", "NXDOMAIN", []),
        ("example.com", "A", "REFUSED", []),
        ("notcluster.local", "A", "REFUSED", []),
    ],
)
def test_names(records: Records, name: str, kind: str, code: str, addresses: list[str]) -> None:
    said = ask(records, name, kind)
    assert dns.rcode.to_text(said.rcode()) == code
    assert [item.to_text() for found in said.answer for item in found] == addresses
    assert bool(said.flags & dns.flags.AA) is (code != "REFUSED")


def test_names_are_read_again_when_the_file_changes(records: Records, tmp_path: Path) -> None:
    assert ask(records, "new.shop.svc.cluster.local").rcode() == dns.rcode.NXDOMAIN
    path = tmp_path / "dns.json"
    path.write_text(json.dumps({"new.shop.svc.cluster.local": ["10.43.1.9"]}))
    os.utime(path, ns=(1, 1))
    assert ask(records, "new.shop.svc.cluster.local").rcode() == dns.rcode.NOERROR
    path.unlink()
    assert ask(records, "new.shop.svc.cluster.local").rcode() == dns.rcode.NOERROR, "what was known is forgotten"


@given(st.binary(max_size=80))
def test_rubbish_is_answered_with_an_error_or_not_at_all(packet: bytes) -> None:
    said = answer(packet, Records("/nonexistent", "cluster.local"))
    assert said == b"" or said[:2] == packet[:2]
    assert answer(said, Records("/nonexistent", "cluster.local")) == b"", "an answer is answered"
