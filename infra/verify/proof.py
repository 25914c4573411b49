"""Which path a session's packets take, decided from witnesses that do not depend on each other. Pure.

    records   what agent and connector say of themselves
    capture   packets seen outside each NAT, by address: the other end's, or the relay's
    counters  how much more the relay has carried for this session after a burst whose size is known
    window    echoes answered while the relay is off

Each witness has an opinion or none. They must agree, and at least one beside the records must have spoken: a log can
be forged or wrong, packets that the relay never saw cannot.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

DIRECT, RELAY, NONE = "direct", "relay", "none"

_CLEAR: Final = 0.5
"""Share of a burst's bytes that must be seen on a path for it to count as taken; the rest may be keepalives."""

_QUIET: Final = 0.01
"""Share of a burst's bytes below which the relay did not carry it: STUN and the control connection go on."""

_ANSWERED: Final = 0.5
"""Share of echoes answered while the relay is off that shows a path without it."""


class Verdict(StrEnum):
    """What the witnesses establish. UNPROVEN: too few of them could be asked."""

    DIRECT = "direct"
    RELAYED = "relayed"
    UNREACHABLE = "unreachable"
    DISAGREE = "disagree"
    UNPROVEN = "unproven"


EXIT_CODES: Final = {
    Verdict.DIRECT: 0,
    Verdict.RELAYED: 10,
    Verdict.UNREACHABLE: 11,
    Verdict.DISAGREE: 12,
    Verdict.UNPROVEN: 1,
}


class Opinion(StrEnum):
    """One witness's. MIXED: both paths, or the two ends differ; UNKNOWN: it was not asked or saw nothing."""

    DIRECT = "direct"
    RELAYED = "relayed"
    MIXED = "mixed"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Records:
    """The path in each end's own record before and after the burst; None where the end could not be asked."""

    agent: tuple[str | None, str | None] = (None, None)
    connector: tuple[str | None, str | None] = (None, None)


@dataclass(frozen=True, slots=True)
class Seen:
    """Bytes of IP packets that a capture at one point saw: to or from the other end, and to or from the relay."""

    point: str
    direct_bytes: int
    relay_bytes: int


@dataclass(frozen=True, slots=True)
class Burst:
    """Traffic through the service: requests and answers, and a lower bound of the bytes that crossed for them."""

    sent: int
    answered: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Witnesses:
    """All that was collected. `relay_bytes` is how much more the relay carried for the session during the burst."""

    burst: Burst
    records: Records = Records()
    captures: tuple[Seen, ...] = ()
    relay_bytes: int | None = None
    window: Burst | None = None


@dataclass(frozen=True, slots=True)
class Finding:
    """The verdict, each witness's opinion in words, and the reason for the verdict."""

    verdict: Verdict
    opinions: dict[str, tuple[Opinion, str]]
    reason: str

    @property
    def exit_code(self) -> int:
        """0 direct, 10 relayed, 11 unreachable, 12 witnesses disagree, 1 unproven."""
        return EXIT_CODES[self.verdict]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "verdict": self.verdict.value,
            "reason": self.reason,
            "witnesses": {
                name: {"says": opinion.value, "seen": words} for name, (opinion, words) in self.opinions.items()
            },
        }


def decide(witnesses: Witnesses) -> Finding:
    """Weigh the witnesses.

    Returns:
        UNREACHABLE when no request of the burst and none of the window was answered; DISAGREE when two witnesses
        contradict each other or one saw both paths; DIRECT or RELAYED when all that spoke agree and not only the ends
        spoke; UNPROVEN else.
    """
    opinions = {
        "records": _records(witnesses.records),
        "capture": _captures(witnesses),
        "counters": _counters(witnesses),
        "window": _window(witnesses.window),
    }
    answered = witnesses.burst.answered + (witnesses.window.answered if witnesses.window else 0)
    if not answered:
        return Finding(Verdict.UNREACHABLE, opinions, f"none of {witnesses.burst.sent} requests was answered")
    spoken: dict[str, Opinion] = {
        name: opinion for name, (opinion, _) in opinions.items() if opinion is not Opinion.UNKNOWN
    }
    kinds = set(spoken.values())
    if len(kinds) > 1 or Opinion.MIXED in kinds:
        return Finding(Verdict.DISAGREE, opinions, _contradiction(spoken))
    if not set(spoken) - {"records"}:
        reason = "only the ends themselves spoke" if spoken else "no witness could be asked"
        return Finding(Verdict.UNPROVEN, opinions, reason)
    (kind,) = kinds
    verdict = Verdict.DIRECT if kind is Opinion.DIRECT else Verdict.RELAYED
    return Finding(verdict, opinions, f"{', '.join(spoken)} agree")


def _contradiction(spoken: dict[str, Opinion]) -> str:
    sides: dict[Opinion, list[str]] = {}
    for name, opinion in spoken.items():
        sides.setdefault(opinion, []).append(name)
    return "; ".join(f"{', '.join(names)}: {opinion.value}" for opinion, names in sides.items())


def _records(records: Records) -> tuple[Opinion, str]:
    said = {
        f"{side} {when}": path
        for side, paths in (("agent", records.agent), ("connector", records.connector))
        for when, path in zip(("before", "after"), paths, strict=True)
        if path is not None
    }
    words = ", ".join(f"{name}: {path}" for name, path in said.items()) or "neither end has a record"
    paths = set(said.values())
    if not paths or paths == {NONE}:
        return Opinion.UNKNOWN, words
    if len(paths) > 1:
        return Opinion.MIXED, words
    return (Opinion.DIRECT if paths == {DIRECT} else Opinion.RELAYED), words


def _captures(witnesses: Witnesses) -> tuple[Opinion, str]:
    words = ", ".join(
        f"{seen.point}: {seen.direct_bytes} bytes with the other end, {seen.relay_bytes} with the relay"
        for seen in witnesses.captures
    )
    said = {_seen(seen, witnesses.burst.bytes) for seen in witnesses.captures} - {Opinion.UNKNOWN}
    if not said:
        return Opinion.UNKNOWN, words or "no place to capture at"
    return (said.pop() if len(said) == 1 else Opinion.MIXED), words


def _seen(seen: Seen, burst_bytes: int) -> Opinion:
    """What one point saw; unknown where the burst did not pass it (two ends in one LAN never leave it)."""
    direct, relay = (count >= _CLEAR * burst_bytes for count in (seen.direct_bytes, seen.relay_bytes))
    if not burst_bytes or not (direct or relay):
        return Opinion.UNKNOWN
    if direct and relay:
        return Opinion.MIXED
    return Opinion.DIRECT if direct else Opinion.RELAYED


def _counters(witnesses: Witnesses) -> tuple[Opinion, str]:
    grown, burst = witnesses.relay_bytes, witnesses.burst
    if grown is None or not burst.bytes or not burst.answered:
        return Opinion.UNKNOWN, "the relay has no count of this session"
    words = f"the relay carried {grown} bytes of a burst of {burst.bytes}"
    if grown >= _CLEAR * burst.bytes:
        return Opinion.RELAYED, words
    return (Opinion.DIRECT if grown <= _QUIET * burst.bytes else Opinion.MIXED), words


def _window(window: Burst | None) -> tuple[Opinion, str]:
    if window is None or not window.sent:
        return Opinion.UNKNOWN, "the relay was not switched off"
    words = f"{window.answered} of {window.sent} requests answered while the relay was off"
    if not window.answered:
        return Opinion.RELAYED, words
    return (Opinion.DIRECT if window.answered >= _ANSWERED * window.sent else Opinion.MIXED), words
