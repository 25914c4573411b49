"""Collecting a proof: what is asked, what is kept as evidence, and what becomes of a witness that cannot be asked."""

import contextlib
import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from infra.verify import prove as module
from infra.verify.burst import send
from infra.verify.context import Context, Finished, VerifyError
from infra.verify.proof import Burst, Verdict
from infra.verify.prove import prove
from tests.infra.verify.pages import client_page, relay_page, session
from tests.infra.verify.synthetic import FakePlaces, context, outputs

ECHO = {"sent": 20, "equal": 20, "altered": 0, "lost": 0, "sizes": []}
TCP = {"equal": True, "received": 200_000}
PING = {"received": 10, "rtt_us": [1.0]}


class Stack:
    """Answers as a stack does; the relay's count grows by `carried` bytes with each burst."""

    def __init__(self, *, path: str, carried: int) -> None:
        self.path, self.carried, self.bytes, self.commands = path, carried, 0, 0
        self.relay: dict[str, Any] = {}

    def __call__(self, argv: Sequence[str], timeout_s: float, stdin: str | None = None) -> Finished:
        self.commands += 1
        answer = self._answer(" ".join(argv))
        return Finished(1, "", "no such command") if answer is None else Finished(0, json.dumps(answer), "")

    def _answer(self, line: str) -> dict[str, Any] | None:
        if "get-json" in line:
            pages = {
                ":9090": relay_page(bytes={"agent_to_connector": self.bytes, "connector_to_agent": 0}, **self.relay),
                ":9091": client_page("connector", session("connector", path=self.path)),
                ":9092": client_page("agent", session(path=self.path)),
            }
            return {"status": 200, "json": next(page for port, page in pages.items() if port in line)}
        if "udp-echo" in line:
            count = int(line.split("--count ")[1].split()[0])
            self.bytes += self.carried * count // 20
            return ECHO | {"sent": count, "equal": count}
        if "tcp-echo" in line:
            return TCP
        return PING if " ping " in line else None


@pytest.fixture(autouse=True)
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_STABLE_S", 0.0)
    monkeypatch.setattr(module, "_SETTLE_S", 0.5)


@pytest.mark.parametrize(
    ("path", "carried", "verdict"),
    [
        ("direct", 0, Verdict.DIRECT),
        ("relay", 600_000, Verdict.RELAYED),
        ("direct", 600_000, Verdict.DISAGREE),
    ],
)
def test_the_report_holds_verdict_witnesses_and_digests(
    tmp_path: Path, path: str, carried: int, verdict: Verdict
) -> None:
    stack = Context(outputs(), runner=Stack(path=path, carried=carried), python="python")
    proof = prove(outputs(), "agent", "echo-service", tmp_path, requests=20, window=False, context=stack)
    assert proof.finding.verdict is verdict
    report = json.loads((tmp_path / "proof-agent-echo-service.json").read_text())
    assert report == proof.report
    assert (report["verdict"], report["connector"], report["stack"]) == (verdict.value, "connector", "lab")
    assert set(report["witnesses"]) == {"records", "capture", "counters", "window"}
    assert {entry["name"] for entry in report["evidence"]} == {
        f"{role}-{when}.json" for role in ("agent", "connector", "relay") for when in ("before", "after")
    } | {"burst.json"}
    for entry in report["evidence"]:
        assert hashlib.sha256(Path(entry["path"]).read_bytes()).hexdigest() == entry["sha256"]


def test_a_relay_that_cannot_be_switched_leaves_the_window_open(tmp_path: Path) -> None:
    stack = Context(outputs(), runner=Stack(path="direct", carried=0), python="python")
    proof = prove(outputs(), "agent", "echo-service", tmp_path, requests=20, context=stack)
    assert proof.report["witnesses"]["window"]["says"] == "unknown"
    places = outputs().places
    # `in` is no command here, as an older relay has no command `relay`.
    places["relay"] = replace(places["relay"], config_path="/nowhere/intermediate.json", exec=("false",))
    stack = Context(outputs(), runner=Stack(path="direct", carried=0), python="python")
    proof = prove(outputs(places=places), "agent", "echo-service", tmp_path, requests=20, context=stack)
    assert proof.finding.verdict is Verdict.DIRECT
    assert "error" in json.loads((tmp_path / "proof-agent-echo-service" / "window.json").read_text())


@pytest.mark.parametrize("ready", [True, False])
def test_a_relay_path_is_waited_for_only_where_it_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ready: bool
) -> None:
    waited: list[bool] = []
    monkeypatch.setattr(module, "Held", lambda *_args, **_options: contextlib.nullcontext())
    monkeypatch.setattr(module.Collector, "_wait_back", lambda _: waited.append(True))
    places = outputs().places
    places["relay"] = replace(places["relay"], config_path="/nowhere/intermediate.json")
    stack = Stack(path="direct", carried=0)
    stack.relay = {"ready": ready}
    prove(
        outputs(places=places), "agent", "echo-service", tmp_path, requests=20, context=Context(outputs(), runner=stack)
    )
    assert waited == [True] * ready


def test_a_burst_adds_up_what_the_service_answers() -> None:
    stack = context({"udp-echo": ECHO, "tcp-echo": TCP, "ping": PING})
    whole = send(stack, stack.outputs.service("echo-service"), 20)
    assert set(whole.parts) == {"udp-echo", "tcp-echo", "ping"}
    assert whole.burst == Burst(20 + 1 + 20, 20 + 1 + 10, 2 * (20 * 1000 + 200_000 + 10 * 500))
    brief = send(stack, stack.outputs.service("echo-service"), 20, brief=True)
    assert set(brief.parts) == {"udp-echo"}


def test_http_counts_only_whole_bodies() -> None:
    answer = {"status": 200, "bytes_up": 200_000, "bytes_down": 201_000, "sha256_sent": "a", "sha256_returned": "a"}
    stack = context({"http-body": answer, "ping": PING})
    assert send(stack, stack.outputs.service("http-app"), 20, brief=True).burst == Burst(1, 1, 401_000)
    torn = context({"http-body": answer | {"sha256_returned": "b"}})
    assert send(torn, torn.outputs.service("http-app"), 20, brief=True).burst == Burst(1, 0, 0)


def test_an_agent_without_a_way_to_the_service_is_told_so() -> None:
    agent = replace(outputs().agents[0], mode="user", forwards={})
    stack = Context(outputs(agents=(agent,)), runner=FakePlaces({}), python="python")
    with pytest.raises(VerifyError, match="no traffic can be sent to echo-service"):
        send(stack, stack.outputs.service("echo-service"), 20)
