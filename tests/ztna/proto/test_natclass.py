"""NAT classification: every pair of behaviours is simulated, and the classifier must name it."""

import itertools

import pytest

from ztna.proto.natclass import (
    TIMED_OUT,
    Behavior,
    Endpoint,
    NatClassification,
    NatClassifier,
    NatTest,
    Outcome,
    PortAllocation,
    explain,
    port_allocation,
)

SERVER = ("172.20.0.2", 4433)
OTHER = ("172.20.0.3", 4434)
OTHER_PORT_ONLY = ("172.20.0.2", 4434)
LOCAL_A, LOCAL_B = ("172.21.0.10", 40000), ("172.21.0.10", 40001)
OUTSIDE = "172.20.0.21"

EI, AD, APD = Behavior.ENDPOINT_INDEPENDENT, Behavior.ADDRESS_DEPENDENT, Behavior.ADDRESS_AND_PORT_DEPENDENT


class SimulatedNat:
    """A NAT of one mapping and one filtering behaviour, with random-looking ports."""

    def __init__(self, mapping: Behavior, filtering: Behavior, *, step: int = 1009) -> None:
        self.mapping, self.filtering, self.step = mapping, filtering, step
        self.mappings: dict[object, int] = {}
        self.sent: dict[int, set[Endpoint]] = {}

    def send(self, local: Endpoint, to: Endpoint) -> Endpoint:
        key = {EI: (local,), AD: (local, to[0]), APD: (local, to)}[self.mapping]
        port = self.mappings.setdefault(key, 50000 + self.step * len(self.mappings))
        self.sent.setdefault(port, set()).add(to)
        return OUTSIDE, port

    def lets_in(self, outside: Endpoint, source: Endpoint) -> bool:
        sent = self.sent.get(outside[1], set())
        if self.filtering is EI:
            return True
        if self.filtering is AD:
            return source[0] in {s[0] for s in sent}
        return source in sent


def run(nat: SimulatedNat, other: Endpoint) -> tuple[NatClassification, list[NatTest]]:
    classifier = NatClassifier(local=LOCAL_A, server=SERVER)
    tests: list[NatTest] = []
    while (test := classifier.next_test()) is not None:
        tests.append(test)
        to = classifier.target(test)
        outside = nat.send(LOCAL_B if test.on_filtering_socket else LOCAL_A, to)
        change_address, change_port = test.change_request
        source = (other[0] if change_address else to[0], other[1] if change_port else to[1])
        answered = nat.lets_in(outside, source)
        classifier.record(test, Outcome(True, outside, other) if answered else TIMED_OUT)
    return classifier.classification(), tests


@pytest.mark.parametrize(("mapping", "filtering"), list(itertools.product([EI, AD, APD], repeat=2)))
def test_two_addresses_tell_all_nine_pairs_apart(mapping: Behavior, filtering: Behavior) -> None:
    result, tests = run(SimulatedNat(mapping, filtering), OTHER)
    assert (result.mapping, result.filtering) == (mapping, filtering)
    assert (result.behind_nat, result.mapping_certain, result.filtering_certain) == (True, True, True)
    assert result.mapped == (OUTSIDE, 50000)
    assert len(tests) == len(set(tests)) <= 6


@pytest.mark.parametrize(
    ("mapping", "filtering", "seen_mapping", "mapping_certain", "seen_filtering", "filtering_certain"),
    [
        (EI, EI, EI, False, EI, False),
        (AD, AD, EI, False, EI, False),
        (APD, APD, APD, True, APD, True),
    ],
)
def test_one_address_says_what_it_cannot_tell(
    mapping: Behavior,
    filtering: Behavior,
    seen_mapping: Behavior,
    mapping_certain: bool,
    seen_filtering: Behavior,
    filtering_certain: bool,
) -> None:
    result, _ = run(SimulatedNat(mapping, filtering), OTHER_PORT_ONLY)
    assert (result.mapping, result.mapping_certain) == (seen_mapping, mapping_certain)
    assert (result.filtering, result.filtering_certain) == (seen_filtering, filtering_certain)
    mentioned = any("one address only" in line for line in explain(result))
    assert mentioned is not (mapping_certain and filtering_certain)


@pytest.mark.parametrize(
    ("mapping", "filtering", "alias"),
    [
        (EI, EI, "full-cone"),
        (EI, AD, "address-restricted"),
        (EI, APD, "port-restricted"),
        (APD, APD, "symmetric"),
        (AD, EI, "symmetric"),
    ],
)
def test_alias(mapping: Behavior, filtering: Behavior, alias: str) -> None:
    assert run(SimulatedNat(mapping, filtering), OTHER)[0].alias == alias


@pytest.mark.parametrize(("firewalled", "alias", "filtering"), [(False, "public", EI), (True, "firewall", APD)])
def test_without_nat_only_the_filter_is_judged(firewalled: bool, alias: str, filtering: Behavior) -> None:
    classifier = NatClassifier(local=LOCAL_A, server=SERVER)
    tests = []
    while (test := classifier.next_test()) is not None:
        tests.append(test)
        local = LOCAL_B if test.on_filtering_socket else LOCAL_A
        dropped = firewalled and any(test.change_request)
        classifier.record(test, TIMED_OUT if dropped else Outcome(True, local, OTHER))
    result = classifier.classification()
    assert NatTest.MAPPING_OTHER_ADDRESS not in tests
    assert (result.behind_nat, result.mapping, result.filtering) == (False, Behavior.NONE, filtering)
    assert result.alias == alias
    assert result.port_allocation is PortAllocation.PRESERVING


def test_udp_blocked_ends_after_one_test() -> None:
    classifier = NatClassifier(local=LOCAL_A, server=SERVER)
    assert classifier.next_test() is NatTest.BINDING
    classifier.record(NatTest.BINDING, TIMED_OUT)
    assert classifier.next_test() is None
    result = classifier.classification()
    assert (result.reachable, result.behind_nat, result.alias) == (False, None, "udp-blocked")
    assert "blocks UDP" in explain(result)[0]


def test_server_without_other_address_leaves_behaviours_unknown() -> None:
    classifier = NatClassifier(local=LOCAL_A, server=SERVER)
    classifier.record(NatTest.BINDING, Outcome(True, (OUTSIDE, 50000), None))
    assert classifier.next_test() is None
    result = classifier.classification()
    assert (result.mapping, result.filtering, result.alias) == (Behavior.UNKNOWN, Behavior.UNKNOWN, "unknown")


def test_loss_of_a_later_test_is_unknown_not_a_verdict() -> None:
    classifier = NatClassifier(local=LOCAL_A, server=SERVER)
    classifier.record(NatTest.BINDING, Outcome(True, (OUTSIDE, 50000), OTHER))
    classifier.record(NatTest.MAPPING_OTHER_ADDRESS, TIMED_OUT)
    classifier.record(NatTest.FILTERING_BASE, TIMED_OUT)
    assert classifier.next_test() is None
    assert classifier.classification().mapping is Behavior.UNKNOWN
    assert classifier.classification().filtering is Behavior.UNKNOWN


@pytest.mark.parametrize(
    ("ports", "expected"),
    [
        ([5000, 5001, 5003], PortAllocation.SEQUENTIAL),
        ([5000, 61000, 1200], PortAllocation.RANDOM),
        ([5001, 5000], PortAllocation.RANDOM),
        ([5000], PortAllocation.UNKNOWN),
        ([5000, 5000], PortAllocation.UNKNOWN),
        ([], PortAllocation.UNKNOWN),
    ],
)
def test_port_allocation(ports: list[int], expected: PortAllocation) -> None:
    assert port_allocation(ports) is expected


def test_sequential_symmetric_nat_is_named() -> None:
    assert run(SimulatedNat(APD, APD, step=1), OTHER)[0].port_allocation is PortAllocation.SEQUENTIAL


@pytest.mark.parametrize(("mapping", "filtering"), list(itertools.product([EI, AD, APD], repeat=2)))
def test_explanation_names_presence_mapping_filtering_and_consequence(mapping: Behavior, filtering: Behavior) -> None:
    lines = explain(run(SimulatedNat(mapping, filtering), OTHER)[0])
    assert len(lines) == 4
    assert "behind a NAT" in lines[0]
    assert "irect paths work" in lines[3]
