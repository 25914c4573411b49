"""NAT behaviour discovery: which STUN tests to run, and what their outcomes mean (RFC 5780 section 4).

Flow: ask `next_test`, perform it from the socket it names, feed `record`, until `next_test` is None; then read
`classification`. Tests of the filtering run on a socket of their own, since a request to the server's alternate
address would open the filter under test. With a second server address all three kinds of mapping and of filtering
are told apart; with a second port alone some answers stay open, and the classification says which.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from itertools import pairwise

Endpoint = tuple[str, int]


class Behavior(StrEnum):
    """How a NAT maps or filters (RFC 4787 sections 4.1 and 5)."""

    ENDPOINT_INDEPENDENT = "endpoint-independent"
    ADDRESS_DEPENDENT = "address-dependent"
    ADDRESS_AND_PORT_DEPENDENT = "address-and-port-dependent"
    NONE = "none"
    UNKNOWN = "unknown"


class PortAllocation(StrEnum):
    """How a NAT chooses outside ports (RFC 4787 section 4.2.1)."""

    PRESERVING = "preserving"
    SEQUENTIAL = "sequential"
    RANDOM = "random"
    UNKNOWN = "unknown"


class NatTest(StrEnum):
    """One Binding transaction with the STUN server; the name says what is new in it."""

    BINDING = "binding"
    MAPPING_OTHER_ADDRESS = "mapping-other-address"
    MAPPING_OTHER_BOTH = "mapping-other-both"
    MAPPING_OTHER_PORT = "mapping-other-port"
    FILTERING_BASE = "filtering-base"
    FILTERING_OTHER_BOTH = "filtering-other-both"
    FILTERING_OTHER_PORT = "filtering-other-port"

    @property
    def on_filtering_socket(self) -> bool:
        """Whether the test belongs on the socket that never sends to the alternate address."""
        return self in (NatTest.FILTERING_BASE, NatTest.FILTERING_OTHER_BOTH, NatTest.FILTERING_OTHER_PORT)

    @property
    def change_request(self) -> tuple[bool, bool]:
        """(change address, change port) asked for by CHANGE-REQUEST (RFC 5780 section 7.2)."""
        return (
            self is NatTest.FILTERING_OTHER_BOTH,
            self in (NatTest.FILTERING_OTHER_BOTH, NatTest.FILTERING_OTHER_PORT),
        )


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came back: the mapped endpoint and the server's OTHER-ADDRESS, or nothing at all before the time-out."""

    answered: bool
    mapped: Endpoint | None = None
    other_address: Endpoint | None = None


TIMED_OUT = Outcome(answered=False)


@dataclass(frozen=True, slots=True)
class NatClassification:
    """The result. `certain` is False where one server address could not tell two behaviours apart."""

    reachable: bool
    behind_nat: bool | None
    mapping: Behavior
    filtering: Behavior
    mapping_certain: bool
    filtering_certain: bool
    port_allocation: PortAllocation
    local: Endpoint
    mapped: Endpoint | None

    @property
    def alias(self) -> str:
        """The older name of this pair of behaviours (RFC 3489 section 5), for people who know those."""
        if not self.reachable:
            return "udp-blocked"
        if not self.behind_nat:
            return "public" if self.filtering is Behavior.ENDPOINT_INDEPENDENT else "firewall"
        if self.mapping is Behavior.ENDPOINT_INDEPENDENT:
            return _CONE_ALIASES.get(self.filtering, "unknown")
        return "unknown" if self.mapping is Behavior.UNKNOWN else "symmetric"


_CONE_ALIASES = {
    Behavior.ENDPOINT_INDEPENDENT: "full-cone",
    Behavior.ADDRESS_DEPENDENT: "address-restricted",
    Behavior.ADDRESS_AND_PORT_DEPENDENT: "port-restricted",
}


@dataclass(slots=True)
class NatClassifier:
    """Decides the next test from the outcomes so far.

    Args:
        local: the endpoint the mapping socket is bound to, as the routing table sees it.
        server: the STUN server's primary endpoint.
    """

    local: Endpoint
    server: Endpoint
    outcomes: dict[NatTest, Outcome] = field(default_factory=dict)

    @property
    def other(self) -> Endpoint | None:
        """The server's alternate endpoint, once it has told it."""
        base = self.outcomes.get(NatTest.BINDING)
        return base.other_address if base is not None else None

    @property
    def has_second_address(self) -> bool:
        """Whether the server has a second address, and not a second port alone."""
        return self.other is not None and self.other[0] != self.server[0]

    def target(self, test: NatTest) -> Endpoint:
        """Where the request of `test` goes."""
        other = self.other
        if other is None:
            return self.server
        if test is NatTest.MAPPING_OTHER_ADDRESS:
            return other[0], self.server[1]
        if test is NatTest.MAPPING_OTHER_BOTH:
            return other
        if test is NatTest.MAPPING_OTHER_PORT:
            return self.server[0], other[1]
        return self.server

    def next_test(self) -> NatTest | None:
        """The next transaction to perform, or None when everything that can be known is known."""
        done = self.outcomes
        if NatTest.BINDING not in done:
            return NatTest.BINDING
        if not done[NatTest.BINDING].answered or self.other is None:
            return None
        return self._next_mapping_test() or self._next_filtering_test()

    def record(self, test: NatTest, outcome: Outcome) -> None:
        """Take the outcome of `test`."""
        self.outcomes[test] = outcome

    def classification(self) -> NatClassification:
        """What the outcomes recorded so far say."""
        base = self.outcomes.get(NatTest.BINDING, TIMED_OUT)
        mapping, mapping_certain = self._mapping()
        filtering, filtering_certain = self._filtering()
        behind = None if base.mapped is None else base.mapped != self.local
        return NatClassification(
            reachable=base.answered,
            behind_nat=behind,
            mapping=Behavior.NONE if behind is False else mapping,
            filtering=filtering,
            mapping_certain=behind is False or mapping_certain,
            filtering_certain=filtering_certain,
            port_allocation=self._port_allocation(),
            local=self.local,
            mapped=base.mapped,
        )

    def _next_mapping_test(self) -> NatTest | None:
        base = self.outcomes[NatTest.BINDING]
        if base.mapped == self.local:
            return None
        if not self.has_second_address:
            return self._unless_done(NatTest.MAPPING_OTHER_PORT)
        second = self.outcomes.get(NatTest.MAPPING_OTHER_ADDRESS)
        if second is None:
            return NatTest.MAPPING_OTHER_ADDRESS
        if not second.answered or second.mapped == base.mapped:
            return None
        return self._unless_done(NatTest.MAPPING_OTHER_BOTH)

    def _next_filtering_test(self) -> NatTest | None:
        base = self.outcomes.get(NatTest.FILTERING_BASE)
        if base is None:
            return NatTest.FILTERING_BASE
        if not base.answered:
            return None
        if self.has_second_address:
            both = self.outcomes.get(NatTest.FILTERING_OTHER_BOTH)
            if both is None:
                return NatTest.FILTERING_OTHER_BOTH
            if both.answered:
                return None
        return self._unless_done(NatTest.FILTERING_OTHER_PORT)

    def _unless_done(self, test: NatTest) -> NatTest | None:
        return None if test in self.outcomes else test

    def _mapping(self) -> tuple[Behavior, bool]:
        base = self.outcomes.get(NatTest.BINDING, TIMED_OUT)
        if not self.has_second_address:
            port = self.outcomes.get(NatTest.MAPPING_OTHER_PORT, TIMED_OUT)
            if not port.answered:
                return Behavior.UNKNOWN, False
            if port.mapped != base.mapped:
                return Behavior.ADDRESS_AND_PORT_DEPENDENT, True
            return Behavior.ENDPOINT_INDEPENDENT, False
        second = self.outcomes.get(NatTest.MAPPING_OTHER_ADDRESS, TIMED_OUT)
        if not second.answered:
            return Behavior.UNKNOWN, False
        if second.mapped == base.mapped:
            return Behavior.ENDPOINT_INDEPENDENT, True
        third = self.outcomes.get(NatTest.MAPPING_OTHER_BOTH, TIMED_OUT)
        if not third.answered:
            return Behavior.UNKNOWN, False
        same = third.mapped == second.mapped
        return (Behavior.ADDRESS_DEPENDENT if same else Behavior.ADDRESS_AND_PORT_DEPENDENT), True

    def _filtering(self) -> tuple[Behavior, bool]:
        port = self.outcomes.get(NatTest.FILTERING_OTHER_PORT)
        both = self.outcomes.get(NatTest.FILTERING_OTHER_BOTH)
        if both is not None and both.answered:
            return Behavior.ENDPOINT_INDEPENDENT, True
        if port is None:
            return Behavior.UNKNOWN, False
        if not port.answered:
            return Behavior.ADDRESS_AND_PORT_DEPENDENT, True
        if self.has_second_address:
            return Behavior.ADDRESS_DEPENDENT, True
        return Behavior.ENDPOINT_INDEPENDENT, False

    def _port_allocation(self) -> PortAllocation:
        base = self.outcomes.get(NatTest.BINDING, TIMED_OUT)
        if base.mapped is None:
            return PortAllocation.UNKNOWN
        if base.mapped[1] == self.local[1]:
            return PortAllocation.PRESERVING
        ports = [o.mapped[1] for t, o in self.outcomes.items() if o.mapped is not None and not t.on_filtering_socket]
        return port_allocation(ports)


SEQUENTIAL_STEP_MAX = 8


def port_allocation(ports: list[int]) -> PortAllocation:
    """Judge outside ports, in the order in which new mappings were made.

    Ports that rise by a few each time are sequential: other flows of the same NAT take the numbers between.
    """
    distinct = list(dict.fromkeys(ports))
    if len(distinct) < 2:
        return PortAllocation.UNKNOWN
    steps = [b - a for a, b in pairwise(distinct)]
    rising = all(0 < step <= SEQUENTIAL_STEP_MAX for step in steps)
    return PortAllocation.SEQUENTIAL if rising else PortAllocation.RANDOM


def explain(nat: NatClassification) -> list[str]:
    """The classification in plain words: what stands in the way, and what it means for direct paths."""
    if not nat.reachable:
        return [
            "No UDP answer came back from the relay: a firewall blocks UDP, or the relay is down.",
            "Neither the relayed nor a direct path can work until UDP to the relay is let through.",
        ]
    lines = [_presence_sentence(nat)]
    lines += _MAPPING_SENTENCES.get(nat.mapping, [])
    lines += _FILTERING_SENTENCES.get(nat.filtering, [])
    if not (nat.mapping_certain and nat.filtering_certain):
        lines.append("The relay has one address only, so some behaviours cannot be told apart.")
    lines.append(_DIRECT_SENTENCES.get(nat.alias, _DIRECT_UNKNOWN))
    return lines


def _presence_sentence(nat: NatClassification) -> str:
    mapped = "an address that could not be read" if nat.mapped is None else f"{nat.mapped[0]}:{nat.mapped[1]}"
    if nat.behind_nat:
        return f"You are behind a NAT: {nat.local[0]}:{nat.local[1]} is seen outside as {mapped}."
    return f"There is no NAT in between: {mapped} is this machine's own address."


_MAPPING_SENTENCES = {
    Behavior.ENDPOINT_INDEPENDENT: ["It keeps one outside port for a socket, whomever it talks to."],
    Behavior.ADDRESS_DEPENDENT: ["It gives a socket a new outside port for each address it talks to."],
    Behavior.ADDRESS_AND_PORT_DEPENDENT: ["It gives a socket a new outside port for each destination it talks to."],
}
_FILTERING_SENTENCES = {
    Behavior.ENDPOINT_INDEPENDENT: ["Packets from anywhere are let in to a port in use."],
    Behavior.ADDRESS_DEPENDENT: ["Packets are let in only from addresses this machine has sent to."],
    Behavior.ADDRESS_AND_PORT_DEPENDENT: [
        "Packets are let in only from the exact address and port this machine sent to."
    ],
}
_DIRECT_UNKNOWN = "What this means for direct paths could not be decided; the relayed path works."
_DIRECT_SENTENCES = {
    "public": "Direct paths work with every peer whose UDP is not blocked.",
    "firewall": "Direct paths work, except with peers whose NAT takes a new port for each destination.",
    "full-cone": "Direct paths work with every peer whose UDP is not blocked.",
    "address-restricted": "Direct paths work with nearly every peer whose UDP is not blocked.",
    "port-restricted": "Direct paths work, except with peers whose NAT takes a new port for each destination.",
    "symmetric": "Direct paths work only with peers that are public or filter by address; others stay on the relay.",
}
