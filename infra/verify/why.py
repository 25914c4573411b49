"""Why a service is reached as it is: the steps from agent to service in order, and the first that fails. Pure.

    agent answers -> connected -> registered -> connector answers -> connected -> serves -> session -> relay -> direct

Each step knows its evidence and the one change most likely to help. What an end itself says of its session (its
`blocked_by`, `evidence` and `advice`) goes before what is written here, for the ends have seen the packets.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from infra.verify.proof import EXIT_CODES, Verdict
from infra.verify.sessions import DIRECT, NONE, SessionRecord, find_session, read_relay, read_sessions
from infra.verify.status import DENIED, REGISTERED, read_status

Page = Mapping[str, Any]


class Outcome(StrEnum):
    """How the service is reached now."""

    DIRECT = "direct"
    RELAYED = "relayed"
    UNREACHABLE = "unreachable"


@dataclass(frozen=True, slots=True)
class Subject:
    """What is asked about, with the pages of the three roles; a page without fields is one that did not answer."""

    agent: str
    connector: str
    service: str
    agent_page: Page
    connector_page: Page
    relay_page: Page


@dataclass(frozen=True, slots=True)
class Step:
    """One step on the way: its name, whether it holds (None: could not be seen), what shows it."""

    name: str
    holds: bool | None
    evidence: str


@dataclass(frozen=True, slots=True)
class Explanation:
    """The outcome, the step that stands in the way of better, why, and what to change."""

    outcome: Outcome
    step: str | None
    reason: str
    evidence: str
    advice: str
    steps: tuple[Step, ...]

    @property
    def exit_code(self) -> int:
        """As `ztna prove` ends: 0 direct, 10 relayed, 11 unreachable."""
        return EXIT_CODES[Verdict(self.outcome.value)]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "outcome": self.outcome.value,
            "step": self.step,
            "reason": self.reason,
            "evidence": self.evidence,
            "advice": self.advice,
            "steps": [{"name": step.name, "holds": step.holds, "evidence": step.evidence} for step in self.steps],
        }


ADVICE: Final[Mapping[str, str]] = {
    "udp-blocked": "let UDP out to the relay's port 4433 on this network, or use another network",
    "mapping-varies": (
        "give this side an open UDP port: a public address, a forwarded port, host networking in k8s; where the other "
        "side's mapping does not depend on the destination, one like it on this side or `birthday: true` on both"
    ),
    "filtered": "let UDP in on the session's port from the other end's address, or allow replies to what was sent",
    "peer-never-probed": "look at the other end: `ztna logs`, and whether its `direct` is set to off",
    "hairpin-needed": "set `hairpin_probe: true`, or let the two LANs reach each other without the NAT",
    "policy": "set `direct` to auto on both ends; one of them has it off",
    "address-lied": "set `external_ip` to the address by which the others reach this host",
}
"""The change most likely to help, by the reason that an end gives; used where it gives no advice of its own."""

_FAULT_OF_NAT: Final = "address-and-port-dependent"

_CERTAINTY: Final = (
    "policy", "udp-blocked", "address-lied", "hairpin-needed", "mapping-varies", "peer-never-probed", "filtered",
)  # fmt: skip
"""Which reason counts where the ends give different ones: a decision before an observation, and last what merely did
not arrive, since that is how every other cause looks from the other end."""


def explain(subject: Subject) -> Explanation:
    """Walk the steps; stop at the first that fails."""
    steps: list[Step] = []
    for check in _CHECKS:
        step, reason, advice = check(subject)
        steps.append(step)
        if step.holds is False:
            return Explanation(Outcome.UNREACHABLE, step.name, reason, step.evidence, advice, tuple(steps))
    return _by_session(subject, steps)


_Checked = tuple[Step, str, str]


def _answers(role: str, place: str, page: Page) -> _Checked:
    error = str(page.get("error") or "no status page")
    there = bool(page.get("role") or page.get("services") or page.get("uptime_s"))
    step = Step(f"{role} answers", there, f"{role} {place}: {page.get('state') or 'ready'}" if there else error)
    return step, f"{role} {place} does not answer", "start it: `ztna logs` shows how it ended; then `ztna up`"


def _connected(role: str, place: str, page: Page) -> _Checked:
    problem = str(page.get("not_ready") or "")
    connected = not problem.startswith("not connected") and page.get("state") != "connecting"
    blocked = str(page.get("blocked_by") or "")
    evidence = str(page.get("evidence") or "") or problem or f"{place} observed at {page.get('observed_address')}"
    advice = str(page.get("advice") or "") or ADVICE.get(blocked, f"run `ztna doctor` in place {place}")
    name = f"{role} connected to the intermediate"
    return Step(name, connected, evidence), blocked or f"{role} {place} cannot reach the intermediate", advice


def _registered(role: str, page: Page, service: str) -> _Checked:
    state = read_status(dict(page)).services.get(service)
    name = "agent registered for the service" if role == "agent" else "connector serves the service"
    step = Step(name, state == REGISTERED, f"{service}: {state or 'not in its configuration'}")
    grant = f"{role}.{service}.ztna"
    advice = f"grant {grant}: in the stack's program and configuration, then `ztna up`"
    reason = f"policy: {role} is denied {service}" if state == DENIED else f"{role} is not registered for {service}"
    return step, reason, advice


_CHECKS: Final[tuple[Callable[[Subject], _Checked], ...]] = (
    lambda subject: _answers("agent", subject.agent, subject.agent_page),
    lambda subject: _connected("agent", subject.agent, subject.agent_page),
    lambda subject: _registered("agent", subject.agent_page, subject.service),
    lambda subject: _answers("connector", subject.connector, subject.connector_page),
    lambda subject: _connected("connector", subject.connector, subject.connector_page),
    lambda subject: _registered("connector", subject.connector_page, subject.service),
)


def _by_session(subject: Subject, steps: list[Step]) -> Explanation:
    here = find_session(read_sessions(subject.agent_page), subject.service, subject.connector)
    there = find_session(read_sessions(subject.connector_page), subject.service, subject.agent)
    if here is None:
        return _without_session(subject, steps)
    steps.append(Step("session with the connector", True, f"{here.session[:8]}: {here.state or here.path}"))
    relay = read_relay(subject.relay_page)
    carried = relay.session(here.session) if relay is not None else None
    ready = None if relay is None else bool(relay.enabled and carried is not None and carried.ready)
    words = "not seen" if relay is None else "on" if relay.enabled else "switched off"
    steps.append(Step("relay path", ready, f"relay {words}, {relay.backend if relay else 'backend unknown'}"))
    if here.path == DIRECT:
        steps.append(Step("direct path", True, f"{here.peer_address}, {here.reason}"))
        return Explanation(Outcome.DIRECT, None, here.reason, steps[-1].evidence, "nothing to change", tuple(steps))
    blamed, side = _blamed(here, there)
    reason = blamed.blocked_by or here.reason or "no reason given"
    one_way = _one_way(here, there)
    if reason == "filtered" and one_way is not None:
        side, seen, advice = one_way
    else:
        seen = blamed.evidence or blamed.reason or "no evidence given"
        advice = blamed.advice or ADVICE.get(reason, f"run `ztna doctor` in place {side}")
    evidence = f"{side}: {seen}"
    steps.append(Step("direct path", False, evidence))
    if here.path == NONE:
        step = "relay path" if ready is False else "direct path"
        helped = "switch the relay on: `ztna relay on` on its host" if relay and not relay.enabled else advice
        return Explanation(Outcome.UNREACHABLE, step, reason, evidence, helped, tuple(steps))
    return Explanation(Outcome.RELAYED, "direct path", reason, evidence, f"{side}: {advice}", tuple(steps))


def _without_session(subject: Subject, steps: list[Step]) -> Explanation:
    states = dict.fromkeys(read_status(dict(subject.connector_page)).services, subject.connector)
    legacy = "sessions" not in subject.agent_page
    if legacy and subject.service in states:
        evidence = "the agent has no sessions: one of the two speaks ztna-v1, whose packets the intermediate relays"
        steps.append(Step("session with the connector", False, evidence))
        advice = "upgrade agent and connector"
        return Explanation(Outcome.RELAYED, "session with the connector", "legacy-peer", evidence, advice, tuple(steps))
    evidence = "neither end has a session for it; one is made by the first packet"
    steps.append(Step("session with the connector", False, evidence))
    advice = f"send a packet to {subject.service} and ask again; `ztna logs` if that does not help"
    return Explanation(Outcome.UNREACHABLE, "session with the connector", "no session", evidence, advice, tuple(steps))


def _blamed(here: SessionRecord, there: SessionRecord | None) -> tuple[SessionRecord, str]:
    """The end whose record says most: by the certainty of its reason, and of two the one whose own NAT varies."""
    ends = [(here, "agent"), *([(there, "connector")] if there is not None else [])]

    def doubt(end: tuple[SessionRecord, str]) -> tuple[int, bool]:
        reason = end[0].blocked_by
        known = _CERTAINTY.index(reason) if reason in _CERTAINTY else len(_CERTAINTY) + (reason is None)
        return known, end[0].nat.get("mapping") != _FAULT_OF_NAT

    return min(ends, key=doubt)


def _one_way(here: SessionRecord, there: SessionRecord | None) -> tuple[str, str, str] | None:
    """Both records together tell which direction is closed: the end that hears nothing, what shows it, the remedy."""
    if there is None or bool(here.checks_heard) == bool(there.checks_heard):
        return None
    ends = [(here, "agent"), (there, "connector")]
    (hearing, near), (deaf, far) = ends if here.checks_heard else ends[::-1]
    seen = (
        f"of {hearing.checks_sent} checks of the {near} none has arrived, while {hearing.checks_heard} of the "
        f"{far}'s {deaf.checks_sent} arrived at the {near}: packets pass from the {far} to the {near} alone"
    )
    advice = (
        f"let UDP in before the {far} from wherever the {far} has sent UDP to (a stateful rule in place of a stateless "
        f"one); if nothing there drops it, let UDP out of the {near}'s network to the {far}"
    )
    return far, seen, advice
