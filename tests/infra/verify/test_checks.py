"""Each check passes on a sound stack and fails on the fault it is there for."""

import json
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import pytest

from infra.outputs import AgentOutput, ExpectedPath
from infra.verify import checks_control, checks_recovery, checks_refusal, checks_traffic, measure
from infra.verify.checks import CHECKS, select
from infra.verify.context import Context, Finished, VerifyError, parse_probe
from infra.verify.model import Report, Status
from infra.verify.runner import Progress, run_verify
from infra.verify.status import read_status
from tests.infra.verify.synthetic import NAT, FakePlaces, context, outputs, place

REGISTERED = {"echo-service": {"state": "registered"}, "http-app": {"state": "registered"}}


def status_page(**changes: Any) -> dict[str, Any]:
    page: dict[str, Any] = {"role": "agent", "state": "ready", "observed_address": "172.20.0.21:5000"}
    return {"status": 200, "json": page | {"services": REGISTERED} | changes}


def user_mode(forwards: dict[str, str]) -> dict[str, Any]:
    agent = AgentOutput(
        name="agent", virtual_ip="100.64.1.1", services=("echo-service", "http-app"), mode="user", place="agent",
        forwards=forwards,
    )  # fmt: skip
    return {"agents": (agent,), "rung": "loopback"}


def echo_answer(lost: int = 0, altered: int = 0) -> dict[str, Any]:
    entry = {"size": 64, "sent": 100, "equal": 100 - lost, "altered": altered, "lost": lost, "repeated": 0}
    return {"sizes": [entry], "sent": 100, "equal": 100 - lost, "altered": altered, "lost": lost}


def relay_page(*counts: int, sessions: bool = False, first: Sequence[dict[str, Any]] = ()) -> Any:
    """The relay's status pages one after another, each with its count of packets carried to connectors.

    Args: sessions: count them in a session rather than in DATAGRAM frames; first: pages asked for before.
    """
    pages = [*first]
    for count in counts:
        session = {"bytes": {"agent_to_connector": count * 512}}
        json = {"relay": {"sessions": [session]}} if sessions else {"counters": {"bytes_to_connectors": count * 512}}
        pages.append({"status": 200, "json": json})
    return lambda argv: pages.pop(0)


@pytest.mark.parametrize("sessions", [False, True])
@pytest.mark.parametrize(
    ("equal", "carried", "promised", "status"),
    [(20, 20, "relayed", Status.PASSED), (20, 0, "relayed", Status.FAILED), (0, 0, "relayed", Status.FAILED),
     (20, 1, "direct", Status.PASSED), (0, 20, "none", Status.PASSED), (20, 20, "none", Status.FAILED)],
)  # fmt: skip
def test_the_path_must_be_the_promised_one(
    equal: int, carried: int, promised: Any, status: Status, sessions: bool
) -> None:
    path = ExpectedPath(agent="agent", connector="connector", path=promised, reason="so")
    settled = {"status": 200, "json": {"sessions": [{"path": "direct"}]}}
    first = [settled] if promised == "direct" else []
    answers = {
        "udp-echo": {"sent": 20, "equal": equal},
        "get-json": relay_page(5, 5 + carried, sessions=sessions, first=first),
    }
    assert checks_traffic.path(context(answers, expected_paths=(path,))).status is status


def test_where_no_path_is_expected_traffic_is_not_asked_for() -> None:
    path = ExpectedPath(agent="agent", connector="connector", path="none", reason="UDP is blocked")
    report = run_verify(outputs(), only=("udp-echo",), context=context({}, expected_paths=(path,)))
    assert report.results[0].result.status is Status.NOT_SHOWN
    assert "UDP is blocked" in report.results[0].result.detail
    assert report.exit_code == 0


def test_registration_names_each_service() -> None:
    result = checks_control.agent_registered(context({"get-json": status_page()}))
    assert result.status is Status.PASSED
    assert result.measured == "echo-service: registered, http-app: registered"


def test_a_denied_service_fails_the_registration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks_control, "_REGISTRATION_LIMIT_S", 0.0)
    services = REGISTERED | {"http-app": {"state": "denied"}}
    result = checks_control.agent_registered(context({"get-json": status_page(services=services)}))
    assert result.status is Status.FAILED
    assert "http-app: denied" in result.measured


@pytest.mark.parametrize(("seen", "status"), [("172.20.0.21:5000", Status.PASSED), ("172.21.0.10:5000", Status.FAILED)])
def test_the_observed_address_must_be_the_nats(seen: str, status: Status) -> None:
    result = checks_control.agent_observed(context({"get-json": status_page(observed_address=seen)}))
    assert result.status is status
    assert result.measured == seen


def test_without_a_nat_the_observed_address_is_the_places_own() -> None:
    result = checks_control.connector_observed(context({"get-json": status_page(observed_address="172.22.0.10:4434")}))
    assert result.status is Status.PASSED


@pytest.mark.parametrize(
    ("mapping", "status"), [("endpoint-independent", Status.PASSED), ("address-and-port-dependent", Status.FAILED)]
)
def test_the_nat_must_classify_as_configured(mapping: str, status: Status) -> None:
    doctor = {
        "nat": {"mapping": mapping, "filtering": "address-and-port-dependent", "mapped": "172.20.0.21:5000"},
        "port_consistency": {"ports": [5000, 5000, 5000]},
    }
    result = checks_control.agent_nat(context({"doctor": doctor}))
    assert result.status is status
    assert result.nat[0].mapping == mapping


@pytest.mark.parametrize(("blocked", "status"), [(True, Status.PASSED), (False, Status.FAILED)])
def test_a_blocked_nat_must_be_called_so(blocked: bool, status: Status) -> None:
    stack = context({"doctor": {"udp_blocked": blocked}})
    stack.outputs.places["agent"] = place("agent", "172.21.0.10", 9092, replace(NAT, udp_blocked=True))
    assert checks_control.agent_nat(stack).status is status


def test_a_place_without_nat_is_not_shown() -> None:
    assert checks_control.connector_nat(context({})).status is Status.NOT_SHOWN


@pytest.mark.parametrize(
    ("ports", "status"), [([5000] * 4, Status.PASSED), ([5000, 5001], Status.FAILED), ([], Status.FAILED)]
)
def test_port_consistency(ports: list[int], status: Status) -> None:
    result = checks_control.agent_ports(context({"doctor": {"port_consistency": {"ports": ports}}}))
    assert result.status is status


@pytest.mark.parametrize(
    ("answer", "status"),
    [(echo_answer(), Status.PASSED), (echo_answer(lost=1), Status.FAILED), (echo_answer(altered=1), Status.FAILED)],
)
def test_udp_echo_wants_every_packet_equal(answer: dict[str, Any], status: Status) -> None:
    assert checks_traffic.udp_echo(context({"udp-echo": answer})).status is status


def test_a_lossy_link_gets_more_tries() -> None:
    lossy = context({"udp-echo": echo_answer()}, topology={"routers": [{"outside": {"up": {"loss": 0.03}}}]})
    checks_traffic.udp_echo(lossy)
    assert isinstance(lossy.runner, FakePlaces)
    command = lossy.runner.commands[0]
    assert command[command.index("--tries") + 1] == "8"


def test_user_mode_uses_its_forwards_and_says_what_it_cannot_show() -> None:
    user = context({"udp-echo": echo_answer()}, **user_mode({"echo-service/udp/9999": "127.0.0.1:9999"}))
    assert checks_traffic.udp_echo(user).status is Status.PASSED
    assert isinstance(user.runner, FakePlaces)
    assert "127.0.0.1:9999" in user.runner.commands[0]
    assert checks_traffic.ping(user).status is Status.NOT_SHOWN
    assert checks_traffic.http_get(user).status is Status.NOT_SHOWN
    assert checks_refusal.unknown_address(user).status is Status.NOT_SHOWN


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        ({"status": 200, "seconds": 0.01, "json": {"args": {"from": "verify"}}}, Status.PASSED),
        ({"status": 200, "seconds": 0.01, "json": {"args": {}}}, Status.FAILED),
        ({"status": 502, "seconds": 0.01, "json": None}, Status.FAILED),
        ({"status": 0, "seconds": 15.0, "json": None, "failure": "timed out"}, Status.FAILED),
    ],
)
def test_http_get_wants_its_arguments_back(answer: dict[str, Any], status: Status) -> None:
    result = checks_traffic.http_get(context({"http": {"bytes": 10, "failure": None} | answer}))
    assert result.status is status


@pytest.mark.parametrize(("seconds", "status"), [(1.1, Status.PASSED), (0.1, Status.FAILED), (4.0, Status.FAILED)])
def test_http_delay_takes_its_second(seconds: float, status: Status) -> None:
    answer = {"status": 200, "seconds": seconds, "json": {"url": "u"}, "bytes": 1, "failure": None}
    assert checks_traffic.http_delay(context({"http": answer})).status is status


@pytest.mark.parametrize(("returned", "status"), [("aa", Status.PASSED), ("ab", Status.FAILED)])
def test_the_body_must_hash_alike(returned: str, status: Status) -> None:
    answer = {"status": 200, "failure": None, "bytes_up": 10, "bytes_down": 12, "sha256_sent": "aa",
              "sha256_returned": returned, "seconds": 1.0, "mbit_per_s": 80.0}  # fmt: skip
    assert checks_traffic.http_body(context({"http-body": answer})).status is status


@pytest.mark.parametrize(
    ("echoed", "outcome", "status"),
    [(0, "timeout", Status.PASSED), (0, "unreachable", Status.PASSED), (1, "timeout", Status.FAILED),
     (0, "connected", Status.FAILED)],
)  # fmt: skip
def test_nothing_answers_at_an_unknown_address(echoed: int, outcome: str, status: Status) -> None:
    answers = {"udp-echo": {"sent": 3, "equal": echoed, "altered": 0}, "tcp-refused": {"outcome": outcome}}
    assert checks_refusal.unknown_address(context(answers)).status is status


def by_target(overlay: dict[str, Any], baseline: dict[str, Any]) -> Any:
    return lambda argv: baseline if "172.20.0.9:9999" in argv else overlay


def rtt(value_us: float, *, lost: int = 0) -> dict[str, Any]:
    return {"size": 64, "lost": lost, "rtt_us": [value_us] * (100 - lost)}


def test_latency_is_measured_beside_the_baseline_and_drops_the_first_round() -> None:
    result = measure.latency(context({"udp-rtt": by_target(rtt(900.0), rtt(50.0))}, quick=True))
    assert result.status is Status.PASSED
    assert [series.path for series in result.latency] == ["overlay", "untunnelled"]
    assert [len(series.rtt_us) for series in result.latency] == [300, 300]
    assert "added p50 0.85 ms" in result.measured


@pytest.mark.parametrize("overlay", [rtt(60_000.0), rtt(900.0, lost=5)])
def test_slow_or_lossy_latency_fails(overlay: dict[str, Any]) -> None:
    assert measure.latency(context({"udp-rtt": by_target(overlay, rtt(50.0))}, quick=True)).status is Status.FAILED


@pytest.mark.parametrize(("rate", "status"), [(7000.0, Status.PASSED), (150.0, Status.FAILED)])
def test_throughput_counts_the_better_round(rate: float, status: Status) -> None:
    answer = {"packets_per_s": rate, "mbit_per_s": rate * 0.0096, "lost": 0, "sent": 100, "per_100_ms": [10]}
    result = measure.throughput(context({"udp-window": answer}))
    assert result.status is status
    assert result.throughput[0].packets_per_s == rate


def test_statuses_are_read_in_every_form() -> None:
    as_list = read_status(
        {"services": [{"id": "a", "state": "denied"}], "observed_address": {"ip": "1.2.3.4", "port": 5}}
    )
    assert (as_list.services, as_list.observed) == ({"a": "denied"}, ("1.2.3.4", 5))
    assert read_status({"services": {"a": "registered"}}).in_state("registered") == ["a"]
    assert read_status({}).observed is None


def test_a_probe_that_failed_is_an_error_with_its_words() -> None:
    with pytest.raises(VerifyError, match="PermissionError"):
        parse_probe(Finished(2, json.dumps({"error": "PermissionError: no"}), ""), ["probe"])
    with pytest.raises(VerifyError, match="no such namespace"):
        parse_probe(Finished(1, "", "no such namespace"), ["probe"])


def test_run_verify_reports_progress_and_survives_a_broken_check() -> None:
    seen: list[Progress] = []

    def runner(argv: Sequence[str], timeout_s: float, stdin: str | None = None) -> Finished:
        if "udp-echo" in argv:
            raise RuntimeError("broken")
        return Finished(0, json.dumps(status_page()), "")

    broken = Context(outputs(), runner=runner)
    report = run_verify(outputs(), only=("agent-registered", "udp-echo"), on_progress=seen.append, context=broken)
    assert [entry.result.status for entry in report.results] == [Status.PASSED, Status.ERROR]
    assert report.exit_code == 1
    assert [(step.number, step.finished is None) for step in seen] == [(1, True), (1, False), (2, True), (2, False)]


def test_exit_code_2_when_nothing_could_run() -> None:
    nowhere = Context(outputs(places={}), runner=FakePlaces({}))
    report: Report = run_verify(outputs(places={}), only=("agent-registered", "ping"), context=nowhere)
    assert report.exit_code == 2


def test_unknown_checks_are_named() -> None:
    with pytest.raises(ValueError, match="no check nothing; there are: connector-registered"):
        select(("nothing",))


def test_ids_are_unique_and_disruptive_checks_last() -> None:
    assert len({check.id for check in CHECKS}) == len(CHECKS)
    flags = [check.disruptive for check in CHECKS]
    assert flags == sorted(flags)


class Watch:
    """Stands for the running udp-watch probe: one gap that begins at the kill and ends `back_s` after the restart."""

    def __init__(self, back_s: float | None) -> None:
        self.back_s = back_s

    def result(self, timeout_s: float) -> dict[str, Any]:
        now = time.time()
        if self.back_s is None:
            return {"gaps": [{"from": now - 9, "to": now, "seconds": 9.0}], "ended": now}
        back = now + self.back_s
        return {"gaps": [{"from": now - 1, "to": back, "seconds": 1 + self.back_s}], "ended": back + 1}

    def stop(self) -> None:
        return


@pytest.mark.parametrize(("back_s", "status"), [(0.5, Status.PASSED), (7.0, Status.FAILED), (None, Status.FAILED)])
def test_traffic_must_be_back_soon_after_the_relay(
    back_s: float | None, status: Status, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Context, "start_probe", lambda *arguments: Watch(back_s))
    monkeypatch.setattr(checks_recovery, "_BEFORE_S", 0.0)
    monkeypatch.setattr(checks_recovery, "_DOWN_S", 0.0)
    answers = {"control": {}, "get-json": status_page(role="intermediate", uptime_s=0.0)}
    result = checks_recovery.relay_restart(context(answers))
    assert result.status is status, result.measured


class Undisturbed(Watch):
    """A probe that saw no gap."""

    def result(self, timeout_s: float) -> dict[str, Any]:
        return {"gaps": [], "ended": time.time()}


@pytest.mark.parametrize(("promised", "status"), [("direct", Status.PASSED), ("relayed", Status.FAILED)])
def test_only_a_direct_path_outlives_the_relay(
    promised: Literal["direct", "relayed"], status: Status, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Context, "start_probe", lambda *arguments: Undisturbed(0.0))
    monkeypatch.setattr(checks_recovery, "_BEFORE_S", 0.0)
    monkeypatch.setattr(checks_recovery, "_DOWN_S", 0.0)
    answers = {"control": {}, "get-json": status_page(role="intermediate", uptime_s=0.0)}
    path = ExpectedPath(agent="agent", connector="connector", path=promised, reason="of the test")
    result = checks_recovery.relay_restart(context(answers, expected_paths=(path,)))
    assert result.status is status, result.measured


def test_another_process_at_the_relays_address_is_not_the_relay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Context, "start_probe", lambda *arguments: Watch(0.5))
    monkeypatch.setattr(checks_recovery, "_BEFORE_S", 0.0)
    monkeypatch.setattr(checks_recovery, "_DOWN_S", 0.0)
    monkeypatch.setattr(checks_recovery, "_RELAY_LIMIT_S", 0.2)
    answers = {"control": {}, "get-json": status_page(role="intermediate", uptime_s=100.0)}
    with pytest.raises(VerifyError, match="did not answer"):
        checks_recovery.relay_restart(context(answers))


@pytest.mark.parametrize(
    ("equal", "words"),
    [
        ((5, 5, 0, 0), "up to 16 bytes come back and those from 1000 bytes on are all lost"),
        ((5, 5, 5, 5), ""),
        ((0, 0, 0, 0), ""),
        ((5, 0, 5, 0), ""),
        ((5, 5, 3, 0), ""),
    ],
)
def test_a_black_hole_is_told_from_other_loss(equal: tuple[int, ...], words: str) -> None:
    sizes = [{"size": size, "sent": 5, "equal": came} for size, came in zip((1, 16, 1000, 1200), equal, strict=True)]
    said = checks_traffic.black_hole(sizes)
    assert bool(said) == bool(words)
    assert words in said
