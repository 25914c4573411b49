"""Probes in virtual time, and asking over real sockets of the loopback interface."""

import asyncio
import socket
from typing import Any

import pytest

from infra.twin.k8s_probes import Prober, ask, target

CONTAINER: dict[str, Any] = {
    "ports": [{"name": "health", "containerPort": 9090}],
    "startupProbe": {"httpGet": {"path": "/a", "port": 9090}, "periodSeconds": 2, "failureThreshold": 3},
    "livenessProbe": {"httpGet": {"path": "/a", "port": "health"}, "periodSeconds": 5, "failureThreshold": 2},
    "readinessProbe": {"tcpSocket": {"port": 9090}, "periodSeconds": 5, "failureThreshold": 2, "timeoutSeconds": 4},
}


def asked(prober: Prober, now: float) -> list[str]:
    return [kind for kind, _ in prober.due(now)]


def started() -> Prober:
    prober = Prober(CONTAINER, 100.0)
    assert asked(prober, 100.0) == ["startup"]
    prober.answer("startup", True, "", 100.0)
    return prober


def test_only_startup_is_asked_until_it_succeeds_and_then_the_others_at_once() -> None:
    prober = Prober(CONTAINER, 100.0)
    assert prober.due(100.0) == [("startup", 1.0)]
    assert asked(prober, 100.5) == [], "an answer is awaited"
    prober.answer("startup", False, "503", 100.5)
    assert asked(prober, 102.4) == []
    assert asked(prober, 102.5) == ["startup"]
    assert (prober.up, prober.ready, prober.failed, prober.waiting) == (False, False, "", "startup probe: 503")
    prober.answer("startup", True, "", 103.0)
    assert asked(prober, 103.0) == ["liveness", "readiness"]


def test_startup_fails_at_its_threshold() -> None:
    prober = Prober(CONTAINER, 0.0)
    for turn in range(3):
        assert prober.failed == ""
        assert asked(prober, turn * 2.0) == ["startup"]
        prober.answer("startup", False, "refused", turn * 2.0)
    assert prober.failed == "startup probe failed 3 times: refused"


def test_readiness_comes_and_goes_and_restarts_nothing() -> None:
    prober = started()
    seen = [prober.ready]
    for good, now in ((True, 101.0), (False, 106.0), (False, 111.0), (True, 116.0)):
        prober.answer("readiness", good, "503", now)
        seen.append(prober.ready)
    assert seen == [False, True, True, False, True], "one failure is not enough, two are"
    assert prober.failed == ""


def test_liveness_counts_failures_in_a_row() -> None:
    prober = started()
    for good in (False, True, False):
        prober.answer("liveness", good, "no answer", 105.0)
        assert prober.failed == ""
    prober.answer("liveness", False, "no answer", 110.0)
    assert prober.failed == "liveness probe failed 2 times: no answer"


def test_without_probes_and_taken_over_it_is_ready() -> None:
    assert Prober({}, 0.0).ready
    assert Prober(CONTAINER, 0.0, taken_over=True).ready


def test_targets() -> None:
    assert target(CONTAINER, "liveness") == (9090, "/a")
    assert target(CONTAINER, "readiness") == (9090, None)
    with pytest.raises(ValueError, match="no port named 'other'"):
        target({"livenessProbe": {"tcpSocket": {"port": "other"}}}, "liveness")


@pytest.mark.parametrize(
    ("status", "good"), [("200 OK", True), ("302 Found", True), ("404 Not Found", False), ("nonsense", False)]
)
async def test_http_is_good_from_200_to_399(status: str, good: bool) -> None:
    seen = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked = await reader.read(1024)
        if asked:
            seen.append(asked.split(b"\r\n")[0])
            writer.write(f"HTTP/1.1 {status}\r\n\r\n".encode())
        writer.close()
        ended.release()

    ended = asyncio.Semaphore(0)
    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        assert (await ask("127.0.0.1", port, "/healthz", 5.0))[0] is good
        assert seen == [b"GET /healthz HTTP/1.1"]
        assert await ask("127.0.0.1", port, None, 5.0) == (True, "")
        for _ in range(2):
            await ended.acquire()


async def test_what_does_not_answer_is_not_good() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # it takes connections and says nothing
        port = silent.getsockname()[1]
        good, words = await ask("127.0.0.1", port, "/", 0.05)
        assert not good
        assert "within 0.05 s" in words
    assert await ask("127.0.0.1", port, None, 5.0) == (False, f"127.0.0.1:{port}: connection refused")
