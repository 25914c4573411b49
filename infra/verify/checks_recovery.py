"""Disruptive checks: the relay dies and returns, and traffic returns with it."""

import time

from infra import ports
from infra.verify.context import Context, VerifyError, wait_until
from infra.verify.model import Result, judged, not_shown
from infra.verify.status import REGISTERED, read_status

RECOVERY_LIMIT_S = 5.0
_WATCH_S = 16.0
_BEFORE_S = 1.0
_DOWN_S = 1.0
_RELAY_LIMIT_S = 10.0


def relay_restart(context: Context) -> Result:
    """The relay is killed and started again: traffic is back within 5 s of its socket being there.

    On a promised direct path nothing need be interrupted at all; members must be registered again all the same.
    """
    service = context.echo_service
    target = context.target(service, "udp", ports.ECHO) if service else None
    if target is None:
        return not_shown(f"the agent reaches no echo service on UDP port {ports.ECHO}")
    missing = [verb for verb in ("kill", "start") if not context.has_control(context.relay_place, verb)]
    if missing:
        return not_shown(f"the outputs give no {' and '.join(missing)} control for the relay")
    watch = context.start_probe(
        context.agent_place, "udp-watch", "--target", target, "--seconds", _WATCH_S, "--interval-ms", 20,
        "--settle-s", 1,
    )  # fmt: skip
    try:
        time.sleep(_BEFORE_S)
        killed = time.time()
        context.control(context.relay_place, "kill")
        time.sleep(_DOWN_S)
        context.control(context.relay_place, "start")
        ready = _wait_for_relay(context, killed)
        seen = watch.result(_WATCH_S + 30)
    finally:
        watch.stop()
    gaps = [gap for gap in seen["gaps"] if gap["to"] > killed]
    return _judge(context, gaps, killed, ready, seen["ended"])


def _wait_for_relay(context: Context, killed: float) -> float:
    """Unix seconds at which the new relay was there, by its own uptime.

    Not every process that answers at the address is it: on the loopback rung all share their ports.
    """
    started = 0.0

    def restarted() -> bool:
        nonlocal started
        try:
            page = context.status(context.relay_place)
        except VerifyError:
            return False
        started = time.time() - float(page.get("uptime_s", 0.0))
        return page.get("role") == "intermediate" and started > killed

    if wait_until(restarted, _RELAY_LIMIT_S, 0.05) is None:
        raise VerifyError(f"the relay did not answer within {_RELAY_LIMIT_S:g} s of its start: see `ztna logs`")
    return started


def _judge(context: Context, gaps: list[dict[str, float]], killed: float, ready: float, ended: float) -> Result:
    promised = context.expected_path
    if not gaps and promised is not None and promised.path == "direct":
        measured, expected = "no interruption: the path is direct", "direct traffic goes on, members register again"
        return judged(_wait_for_registrations(context), measured, expected)
    expected = f"traffic back at most {RECOVERY_LIMIT_S:g} s after the relay is"
    if not gaps:
        return judged(False, "no interruption seen", expected, "was another relay killed than the one in use?")
    longest = max(gaps, key=lambda gap: gap["seconds"])
    back = max(gap["to"] for gap in gaps)
    if back >= ended - 0.2:
        return judged(False, f"no traffic {ended - ready:.1f} s after the relay was back", expected)
    complete = _wait_for_registrations(context)
    measured = f"back {max(back - ready, 0.0):.2f} s after the relay, {longest['seconds']:.2f} s without traffic in all"
    detail = f"down on purpose for {ready - killed:.2f} s" + (
        "" if complete else "; not every service registered again"
    )
    return judged(back - ready <= RECOVERY_LIMIT_S and complete, measured, expected, detail)


def _wait_for_registrations(context: Context) -> bool:
    """True when agent and connector have all their services registered again."""
    wanted = {context.agent_place: context.agent.services, context.connector_place: context.connector.services}

    def complete() -> bool:
        return all(
            set(services) <= set(read_status(context.status(place)).in_state(REGISTERED))
            for place, services in wanted.items()
        )

    return wait_until(complete, 15.0) is not None
