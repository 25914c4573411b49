"""Checks of the control plane: registrations, observed addresses, NAT behaviour of both sides."""

import json
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from infra.outputs import NatOutput, Place
from infra.verify.context import Context, Json, VerifyError, wait_until
from infra.verify.model import NatObservation, Result, judged, not_shown
from infra.verify.status import REGISTERED, RoleStatus, read_status

_REGISTRATION_LIMIT_S = 10.0
LOG_LINES = 200
"""How much of the end of a log is looked at for what a role complains of."""


def agent_registered(context: Context) -> Result:
    """The agent says that each service it may reach is registered at the relay."""
    return _registered(context, context.agent_place, context.agent.services)


def connector_registered(context: Context) -> Result:
    """The connector says that each service it serves is registered at the relay."""
    return _registered(context, context.connector_place, context.connector.services)


def _registered(context: Context, place: str, wanted: tuple[str, ...]) -> Result:
    seen = read_status(context.status(place))

    def complete() -> bool:
        nonlocal seen
        seen = read_status(context.status(place))
        return set(wanted) <= set(seen.in_state(REGISTERED))

    wait_until(complete, _REGISTRATION_LIMIT_S if not set(wanted) <= set(seen.in_state(REGISTERED)) else 0.0)
    missing = [service for service in wanted if service not in seen.in_state(REGISTERED)]
    states = ", ".join(f"{service}: {seen.services.get(service, 'absent')}" for service in wanted)
    detail = ""
    if missing:
        said = last_complaint(context.place(place))
        why = f"it says: {said}" if said else f"see its log and the relay's policy for {missing}"
        detail = f"{seen.role or place} is in state {seen.state!r}; {why}"
    return judged(not missing, states, f"{len(wanted)} registered", detail)


def last_complaint(place: Place) -> str:
    """Return the last warning or error in the logs of a place that are on this machine; nothing if there is none."""
    for path in place.logs.values():
        try:
            lines = Path(path).read_text(errors="replace").splitlines()[-LOG_LINES:]
        except OSError:
            continue
        for line in reversed(lines):
            try:
                entry = json.loads(line)
            except ValueError:
                continue
            if isinstance(entry, dict) and entry.get("level") in ("warning", "error"):
                words = [str(entry.get(key)) for key in ("error", "reason", "detail", "remedy") if entry.get(key)]
                return ", ".join([str(entry.get("event", "")).replace("_", " "), *words])
    return ""


def agent_observed(context: Context) -> Result:
    """The address that the relay saw the agent come from is its NAT's public address."""
    return _observed(context, context.agent_place)


def connector_observed(context: Context) -> Result:
    """The address that the relay saw the connector come from is its NAT's public address."""
    return _observed(context, context.connector_place)


def _observed(context: Context, name: str) -> Result:
    place = context.place(name)
    expected = place.nat.public_address if place.nat else place.address
    status: RoleStatus = read_status(context.status(name))
    if status.observed is None:
        return judged(False, "none", expected, f"the {place.kind} has had no observed address from the relay")
    host, port = status.observed
    whose = "its NAT's public address" if place.nat else "its own address: no NAT here"
    return judged(host == expected, f"{host}:{port}", f"{expected} ({whose})", "")


def agent_nat(context: Context) -> Result:
    """The agent's NAT classifies as configured."""
    return _nat_class(context, context.agent_place)


def connector_nat(context: Context) -> Result:
    """The connector's NAT classifies as configured."""
    return _nat_class(context, context.connector_place)


def agent_ports(context: Context) -> Result:
    """Repeated observations of one socket of the agent's place show one public port, or not, as its NAT maps."""
    return _port_consistency(context, context.agent_place)


def connector_ports(context: Context) -> Result:
    """Repeated observations of one socket of the connector's place show one public port."""
    return _port_consistency(context, context.connector_place)


def doctor(context: Context, name: str) -> Json:
    """`ztna doctor --json` run in a place against the stack's relay; agent and connector are asked at once, once."""
    asked: dict[str, Future[Json]] | None = context.notes.get("doctor")
    if asked is None:
        asked = context.notes["doctor"] = {}
        with ThreadPoolExecutor() as pool:  # each waits seconds for answers that a NAT may filter
            for place in {context.agent_place, context.connector_place}:
                asked[place] = pool.submit(_ask_doctor, context, place)
    return asked[name].result()


def _ask_doctor(context: Context, name: str) -> Json:
    relay = context.outputs.relays[0]
    command = (context.python, "-m", "ztna", "doctor", "--json", "--server", f"{relay.host}:{relay.port}")
    done = context.run(name, command, timeout_s=60.0)
    try:
        report: Json = json.loads(done.out)
    except ValueError:
        said = (done.err or done.out).strip().splitlines()
        raise VerifyError(f"doctor in {name!r} gave no JSON (exit {done.code}): {said[-1:]}") from None
    return report


def _nat_class(context: Context, name: str) -> Result:
    nat = context.place(name).nat
    if nat is None:
        return not_shown(f"place {name!r} has no NAT in front of it")
    if nat.udp_blocked:
        blocked = doctor(context, name).get("udp_blocked") is True
        return judged(blocked, "UDP blocked" if blocked else "UDP passes", "UDP blocked, and doctor says so")
    report = doctor(context, name).get("nat") or {}
    mapping, filtering = str(report.get("mapping", "unknown")), str(report.get("filtering", "unknown"))
    seen = NatObservation(
        place=name, expected_mapping=nat.mapping, expected_filtering=nat.filtering, mapping=mapping,
        filtering=filtering, public_address=nat.public_address, observed_address=str(report.get("mapped") or ""),
        ports_seen=_ports_seen(doctor(context, name)),
    )  # fmt: skip
    uncertain = [word for word in ("mapping", "filtering") if report.get(f"{word}_certain") is False]
    detail = f"uncertain with one server address: {', '.join(uncertain)}" if uncertain else ""
    passed = _same(mapping, nat.mapping, "mapping" in uncertain) and _same(
        filtering, nat.filtering, "filtering" in uncertain
    )
    return judged(passed, f"{mapping} mapping, {filtering} filtering", _nat_words(nat), detail, nat=(seen,))


def _same(seen: str, expected: str, uncertain: bool) -> bool:
    """Equal; or both address-dependent of some kind where the classifier says that it cannot tell them apart."""
    return seen == expected or (
        uncertain and "dependent" in seen and seen.startswith("address") and "address" in expected
    )


def _nat_words(nat: NatOutput) -> str:
    return f"{nat.mapping} mapping, {nat.filtering} filtering"


def _ports_seen(report: Json) -> tuple[int, ...]:
    consistency = report.get("port_consistency") or {}
    return tuple(int(port) for port in consistency.get("ports", ()))


def _port_consistency(context: Context, name: str) -> Result:
    seen = _ports_seen(doctor(context, name))
    if not seen:
        return judged(False, "no observation", "one public port", "doctor measured no public port from here")
    distinct = sorted(set(seen))
    measured = f"{len(seen)} observations, port{'s' if len(distinct) > 1 else ''} {', '.join(map(str, distinct))}"
    return judged(len(distinct) == 1, measured, "one public port over all observations of one socket")
