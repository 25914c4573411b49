"""Traffic through one service of known extent: UDP echoes, HTTP bodies, TCP echoes or pings, whichever it answers."""

from dataclasses import dataclass
from typing import Final

from infra import ports
from infra.outputs import ServiceOutput
from infra.verify.context import Context, Json, VerifyError
from infra.verify.proof import Burst

ECHO_BYTES: Final = 1000
_PING_BYTES: Final = 500
_BODY_BYTES: Final = 200_000
_WAIT_S: Final = 0.5


@dataclass(frozen=True, slots=True)
class Traffic:
    """A burst by its parts: what was sent how, and what each part measured."""

    burst: Burst
    parts: dict[str, Json]


def send(context: Context, service: ServiceOutput, count: int, *, brief: bool = False) -> Traffic:
    """Send requests through the overlay from the agent's place and count what is answered.

    Args:
        context: of the agent in question.
        service: where to.
        count: UDP echoes, or pings where nothing echoes.
        brief: one kind of traffic alone, and short time limits: nothing may answer at all.

    Raises:
        VerifyError: the agent has no way to send the service anything (user mode without a forward).
    """
    parts: dict[str, Json] = {}
    totals: list[Burst] = []
    for name, kind in (("udp-echo", _udp), ("http", _http), ("tcp-echo", _tcp), ("ping", _ping)):
        if brief and totals:
            break
        found = kind(context, service, count, brief)
        if found is not None:
            burst, parts[name] = found
            totals.append(burst)
    if not totals:
        raise VerifyError(f"no traffic can be sent to {service.id}: no echo, no HTTP, and no forward or no TUN device")
    return Traffic(
        Burst(
            sum(part.sent for part in totals), sum(part.answered for part in totals), sum(part.bytes for part in totals)
        ),
        parts,
    )


def _target(context: Context, service: ServiceOutput, protocol: str, port: int) -> str | None:
    if not any((entry.protocol, entry.port) == (protocol, port) for entry in service.ports):
        return None
    return context.target(service, protocol, port)


def _udp(context: Context, service: ServiceOutput, count: int, _brief: bool) -> tuple[Burst, Json] | None:
    target = _target(context, service, "udp", ports.ECHO)
    if target is None:
        return None
    seen = context.probe(
        context.agent_place, "udp-echo", "--target", target, "--sizes", ECHO_BYTES, "--count", count,
        "--window", 5, "--timeout-s", _WAIT_S, timeout_s=count * _WAIT_S + 20,
    )  # fmt: skip
    return Burst(int(seen["sent"]), int(seen["equal"]), 2 * ECHO_BYTES * int(seen["equal"])), seen


def _http(context: Context, service: ServiceOutput, _count: int, brief: bool) -> tuple[Burst, Json] | None:
    target = _target(context, service, "tcp", ports.HTTP)
    if target is None:
        return None
    limit_s = 4.0 if brief else 30.0
    seen = context.probe(
        context.agent_place, "http-body", "--target", target, "--bytes", _BODY_BYTES, "--timeout-s", limit_s,
        timeout_s=limit_s + 20,
    )  # fmt: skip
    equal = seen["status"] == 200 and seen["sha256_sent"] == seen["sha256_returned"]
    return Burst(1, int(equal), (int(seen["bytes_up"]) + int(seen["bytes_down"])) * equal), seen


def _tcp(context: Context, service: ServiceOutput, _count: int, brief: bool) -> tuple[Burst, Json] | None:
    target = _target(context, service, "tcp", ports.ECHO)
    if target is None:
        return None
    limit_s = 4.0 if brief else 20.0
    seen = context.probe(
        context.agent_place, "tcp-echo", "--target", target, "--bytes", _BODY_BYTES, "--timeout-s", limit_s,
        timeout_s=limit_s + 20,
    )  # fmt: skip
    return Burst(1, int(bool(seen["equal"])), 2 * _BODY_BYTES * bool(seen["equal"])), seen


def _ping(context: Context, service: ServiceOutput, count: int, brief: bool) -> tuple[Burst, Json] | None:
    if context.agent.mode == "user":
        return None
    pings = min(count, 10 if brief else 50)
    seen = context.probe(
        context.agent_place, "ping", "--address", service.virtual_ip, "--count", pings, "--size", _PING_BYTES,
        "--timeout-s", _WAIT_S, timeout_s=pings * 1.5 + 10,
    )  # fmt: skip
    return Burst(pings, int(seen["received"]), 2 * _PING_BYTES * int(seen["received"])), seen
