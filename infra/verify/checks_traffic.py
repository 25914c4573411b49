"""Checks of the data plane: UDP and TCP echo, ICMP, HTTP with small and large bodies."""

from collections.abc import Callable
from dataclasses import dataclass

from infra import ports
from infra.outputs import ServiceOutput
from infra.verify.context import Context, Json, wait_until
from infra.verify.model import Result, judged, not_shown
from infra.verify.stats import median

ECHO_SIZES = (1, 2, 3, 16, 64, 256, 512, 576, 1000, 1024, 1199, 1200)
_PATH_PACKETS = 20
_PATH_BYTES = 512
_SETTLE_S = 10.0
BODY_BYTES = 10_000_000
QUICK_BODY_BYTES = 1_000_000

_NO_ECHO = not_shown(f"the agent has no service on UDP port {ports.ECHO} to echo")
_NO_HTTP = not_shown(f"the agent has no service on TCP port {ports.HTTP}")


def _no_forward(service: ServiceOutput, protocol: str, port: int) -> Result:
    return not_shown(f"user mode without a forward for {service.id} {protocol}/{port}")


def path(context: Context) -> Result:
    """Packets take the path that the stack promises, by the relay's own count of what it carried."""
    promised = context.expected_path
    if promised is None:
        return not_shown("the outputs promise no path")
    service = context.echo_service
    target = context.target(service, "udp", ports.ECHO) if service else None
    if target is None:
        return _NO_ECHO
    _settle(context, promised.path)
    before = _relayed(context)
    seen = context.probe(
        context.agent_place, "udp-echo", "--target", target, "--sizes", _PATH_BYTES, "--count", _PATH_PACKETS,
        "--tries", 8 if context.has_loss else 1, "--timeout-s", 0.5,
    )  # fmt: skip
    carried = _relayed(context) - before
    through = "relayed" if carried >= seen["equal"] * _PATH_BYTES else "direct"
    found = through if seen["equal"] else "none"
    measured = f"{found}: {seen['equal']} of {seen['sent']} echoed, {carried} bytes to the connector by the relay"
    return judged(found == promised.path, measured, f"{promised.path} ({promised.reason})")


def _settle(context: Context, promised: str) -> None:
    """Sessions begin on the relay: wait until the agent says that it left it, if that is what was promised."""
    if promised == "direct":
        wait_until(lambda: "direct" in _paths(context), _SETTLE_S)


def _paths(context: Context) -> set[str]:
    sessions = context.status(context.agent_place).get("sessions")
    return {str(session.get("path")) for session in sessions} if isinstance(sessions, list) else set()


def _relayed(context: Context) -> int:
    """Bytes that the relay has carried to connectors: in DATAGRAM frames of its own connections, and opaque.

    Bytes, not packets: the kernel forwards packets that it has joined as one.
    """
    status = context.status(context.relay_place)
    counters, relay = status.get("counters") or {}, status.get("relay") or {}
    opaque = sum(int(session["bytes"]["agent_to_connector"]) for session in relay.get("sessions", []))
    return int(counters.get("bytes_to_connectors", 0)) + opaque


def udp_echo(context: Context) -> Result:
    """Packets of 1 to 1200 bytes come back byte for byte."""
    service = context.echo_service
    if service is None:
        return _NO_ECHO
    target = context.target(service, "udp", ports.ECHO)
    if target is None:
        return _no_forward(service, "udp", ports.ECHO)
    count, tries = (20 if context.quick else 100), (8 if context.has_loss else 1)
    sizes = ",".join(map(str, ECHO_SIZES))
    seen = context.probe(
        context.agent_place, "udp-echo", "--target", target, "--sizes", sizes, "--count", count, "--tries", tries,
        timeout_s=180.0,
    )  # fmt: skip
    repeated = sum(entry["repeated"] for entry in seen["sizes"])
    measured = f"{seen['equal']} of {seen['sent']} equal ({seen['lost']} lost, {seen['altered']} altered)"
    if repeated:
        measured += f", {repeated} sent again"
    bad = [f"{entry['size']} bytes: {entry['equal']}/{entry['sent']}" for entry in seen["sizes"]
           if entry["equal"] != entry["sent"]]  # fmt: skip
    expected = f"{count} each of {len(ECHO_SIZES)} sizes from 1 to 1200 bytes, all equal"
    detail = black_hole(seen["sizes"]) or "; ".join(bad)
    return judged(seen["equal"] == seen["sent"] and not seen["altered"], measured, expected, detail)


def black_hole(sizes: list[Json]) -> str:
    """Return a sentence where small packets come back and all large ones are lost; nothing where that is not so.

    Args:
        sizes: entries of size (bytes), sent, equal.
    """
    whole = [entry["size"] for entry in sizes if entry["equal"] == entry["sent"]]
    lost = [entry["size"] for entry in sizes if not entry["equal"]]
    if not whole or not lost or len(whole) + len(lost) != len(sizes) or max(whole) > min(lost):
        return ""
    return (
        f"packets of up to {max(whole)} bytes come back and those from {min(lost)} bytes on are all lost: a link on "
        "the way has a smaller MTU and drops larger packets without a word (black hole)"
    )


def tcp_echo(context: Context) -> Result:
    """A megabyte over TCP comes back equal, with a half-close in between."""
    service = context.service_on("tcp", ports.ECHO)
    if service is None:
        return not_shown(f"the agent has no service on TCP port {ports.ECHO} to echo")
    target = context.target(service, "tcp", ports.ECHO)
    if target is None:
        return _no_forward(service, "tcp", ports.ECHO)
    seen = context.probe(
        context.agent_place, "tcp-echo", "--target", target, "--bytes", 1_000_000, "--timeout-s", 30, timeout_s=90.0
    )
    measured = f"{seen['received']} of 1000000 bytes, {'equal' if seen['equal'] else 'not equal'}"
    if "seconds" in seen:
        measured += f", {seen['seconds']} s"
    return judged(seen["equal"], measured, "1000000 bytes, equal", str(seen.get("failure", "")))


def ping(context: Context) -> Result:
    """ICMP echo to a service's virtual address is answered with the same data."""
    service = context.echo_service or next(iter(context.outputs.services), None)
    if service is None:
        return _NO_ECHO
    if context.agent.mode == "user":
        return not_shown("ICMP needs the agent's TUN device; this agent runs in user mode")
    count = 10 if context.quick else 50
    seen = context.probe(
        context.agent_place, "ping", "--address", service.virtual_ip, "--count", count, timeout_s=count * 1.5 + 10
    )
    needed = count if not context.has_loss else count // 2
    measured = f"{seen['received']} of {count} answered"
    if seen["rtt_us"]:
        measured += f", median {median(seen['rtt_us']) / 1000:.2f} ms"
    detail = f"{seen['unreachable']} unreachable, {seen['altered']} with other data"
    return judged(seen["received"] >= needed and not seen["altered"], measured, f"{needed} of {count} answered", detail)


def http_get(context: Context) -> Result:
    """GET /get is answered by the real server with what was asked."""
    request = _Request("GET", "/get?from=verify", "200, args echoed")
    return _http(context, request, lambda body: body.get("args") == {"from": "verify"})


def http_delay(context: Context) -> Result:
    """GET /delay/1 answers after its second: a connection survives silence."""
    request = _Request("GET", "/delay/1", "200 after 1 to 3 s", at_least_s=1.0, at_most_s=3.0)
    return _http(context, request, lambda body: "url" in body)


def http_post(context: Context) -> Result:
    """POST /post returns the JSON it was sent."""
    request = _Request("POST", "/post", "200, JSON echoed", json_body='{"name": "verify", "n": 7}')
    return _http(context, request, lambda body: body.get("json") == {"name": "verify", "n": 7})


@dataclass(frozen=True, slots=True)
class _Request:
    method: str
    path: str
    expected: str
    json_body: str | None = None
    at_least_s: float = 0.0
    at_most_s: float = 15.0


def _http(context: Context, request: _Request, accept: Callable[[Json], bool]) -> Result:
    service = context.http_service
    if service is None:
        return _NO_HTTP
    target = context.target(service, "tcp", ports.HTTP)
    if target is None:
        return _no_forward(service, "tcp", ports.HTTP)
    body = ("--json-body", request.json_body) if request.json_body else ()
    seen = context.probe(
        context.agent_place, "http", "--target", target, "--method", request.method, "--path", request.path,
        "--host", service.id, *body,
    )  # fmt: skip
    answer = seen["json"] if isinstance(seen["json"], dict) else {}
    in_time = request.at_least_s <= seen["seconds"] <= request.at_most_s
    passed = seen["status"] == 200 and accept(answer) and in_time
    measured = f"{seen['status'] or 'no answer'}, {seen['bytes']} bytes in {seen['seconds'] * 1000:.0f} ms"
    detail = str(seen["failure"] or "") if seen["status"] == 0 else ("" if passed else f"answer: {answer}"[:300])
    return judged(passed, measured, request.expected, detail)


def http_body(context: Context) -> Result:
    """A body of 10 MB arrives and returns with the same SHA-256."""
    service = context.http_service
    if service is None:
        return _NO_HTTP
    target = context.target(service, "tcp", ports.HTTP)
    if target is None:
        return _no_forward(service, "tcp", ports.HTTP)
    size = QUICK_BODY_BYTES if context.quick else BODY_BYTES
    seen = context.probe(
        context.agent_place, "http-body", "--target", target, "--bytes", size, "--timeout-s", 120, timeout_s=180.0
    )
    equal = seen["status"] == 200 and seen["sha256_sent"] == seen["sha256_returned"]
    measured = (
        f"{seen['bytes_up']} bytes up, {seen['bytes_down']} down in {seen['seconds']} s ({seen['mbit_per_s']} Mbit/s), "
    )
    measured += f"SHA-256 {seen['sha256_returned'][:12]}" if equal else f"status {seen['status']}"
    return judged(
        equal, measured, f"{size} bytes, SHA-256 {seen['sha256_sent'][:12]} both ways", str(seen["failure"] or "")
    )
