"""Certificates by the tls provider: what is asked of it, what comes of it, and a change of CA that drops nobody."""

import datetime as dt
import json
from collections.abc import Callable, Mapping
from itertools import product
from typing import Any

import pulumi
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from components.pki import Pki, PkiArgs
from infra import pki
from infra.config import PkiSettings
from infra.overlay import PkiMembers
from infra.wiring_macos import MacosApp
from tests.support.fake_tls import SECRET, FakeTls
from tests.support.pulumi_mocks import Recorder, record
from ztna.config import Pem
from ztna.io.certs import TrustAnchors, load_anchors, load_credentials, verify_client, verify_server
from ztna.io.quic_types import PeerRejected
from ztna.proto.identity import parse_identity

STACK = "do-nyc1"
MEMBERS = ("relay", "connector", "laptop", "phone")
GRANTED = ("echo-service", "http-app")
CONFIG: Mapping[str, Any] = {
    "name": "laptop",
    "stack": STACK,
    "intermediate_server": {"host": "203.0.113.5", "port": 4433, "server_name": "ztna-server"},
    "services": [{"id": "echo-service", "virtual_ip": "100.64.0.100"}],
    "virtual_ip": "100.64.1.1",
    "forwards": [],
}


def arguments(settings: PkiSettings) -> PkiArgs:
    """Return who has certificates in these tests; the relay's address is an output."""
    return PkiArgs(
        stack=STACK,
        settings=settings,
        relay_name="relay",
        server_name="ztna-server",
        addresses=[pulumi.Output.from_input("203.0.113.5")],
        members=PkiMembers(
            connectors={"connector": GRANTED},
            agents={"laptop": GRANTED, "phone": ("echo-service",)},
            macos=MacosApp(bundle_id="org.example.ztna"),
        ),
        dns_names=["relay.example.org"],
    )


def deploy(settings: PkiSettings, provider: FakeTls) -> tuple[Recorder, dict[str, dict[str, str]]]:
    """Run a program of the component alone; return what was asked for and the files of each member."""

    def program() -> Any:
        made = Pki("pki", arguments(settings))
        return pulumi.Output.all(**{member: made.files(member) for member in MEMBERS})

    recorder, files = record(program, stack=STACK, computed=provider.computed)
    return recorder, files


@pytest.fixture(scope="module")
def first() -> tuple[Recorder, dict[str, dict[str, str]]]:
    """The first generation."""
    return deploy(PkiSettings(), FakeTls())


def pem(text: str) -> Pem:
    """Return inline PEM as a role's configuration has it."""
    return Pem(key="test", text=text)


def chain(files: Mapping[str, str]) -> list[bytes]:
    """Return what a member sends in its handshake."""
    return [x509.load_pem_x509_certificate(files["cert.pem"].encode()).public_bytes(Encoding.DER)]


def anchors(files: Mapping[str, str]) -> TrustAnchors:
    """Return whom a member trusts."""
    return load_anchors(pem(files["ca.pem"]))


def test_it_asks_for_a_ca_and_a_leaf_for_each_member(first: tuple[Recorder, Any]) -> None:
    recorder, _ = first
    assert set(recorder.of_type("SelfSignedCert")) == {"pki-ca-g1"}
    leaves = {f"pki-{member}-g1" for member in MEMBERS}
    assert set(recorder.of_type("LocallySignedCert")) == leaves
    assert set(recorder.of_type("CertRequest")) == {f"{leaf}-request" for leaf in leaves}
    assert set(recorder.of_type("PrivateKey")) == {f"{name}-key" for name in (*leaves, "pki-ca-g1")}
    assert len(recorder.resources) == 1 + 2 + 3 * 4
    for found in recorder.resources:
        if not found.is_component:
            assert recorder.parents[found.name].endswith("ztna:components:Pki::pki"), found.name


def test_a_leaf_is_renewed_in_the_last_third_of_its_validity(first: tuple[Recorder, Any]) -> None:
    for inputs in first[0].of_type("LocallySignedCert").values():
        assert (inputs["validityPeriodHours"], inputs["earlyRenewalHours"]) == (90 * 24, 30 * 24)
    ca = first[0].of_type("SelfSignedCert")["pki-ca-g1"]
    assert "earlyRenewalHours" not in ca, "a CA that renews itself would shut everybody out"
    assert (ca["isCaCertificate"], ca["maxPathLength"], ca["validityPeriodHours"]) == (True, 0, pki.CA_DAYS * 24)
    recorder, _ = deploy(PkiSettings(leaf_days=30), FakeTls())
    relay = recorder.of_type("LocallySignedCert")["pki-relay-g1"]
    assert (relay["validityPeriodHours"], relay["earlyRenewalHours"]) == (720, 240)


def test_private_keys_are_secret_wherever_they_go(first: tuple[Recorder, Any]) -> None:
    recorder, files = first
    for kind, key in (
        ("SelfSignedCert", "privateKeyPem"),
        ("CertRequest", "privateKeyPem"),
        ("LocallySignedCert", "caPrivateKeyPem"),
    ):
        for name, inputs in recorder.of_type(kind).items():
            assert SECRET in inputs[key], name
    assert all("PRIVATE KEY" in files[member]["key.pem"] for member in MEMBERS)

    def program() -> Any:
        made = Pki("pki", arguments(PkiSettings()))
        handed_out: list[pulumi.Output[Any]] = [
            made.files("relay"),
            made.profile("laptop", CONFIG),
            made.agent_files("laptop", CONFIG),
        ]
        return pulumi.Output.all(*(output.is_secret() for output in handed_out))

    assert record(program, stack=STACK, computed=FakeTls().computed)[1] == [True, True, True]


def expected(stack: str) -> dict[str, pki.LeafNames]:
    """Return the names that the lab's own certificates would have."""
    relay = pki.server_names(stack, "relay", "ztna-server", ["203.0.113.5"])
    return {
        "relay": pki.LeafNames(
            stack=stack, role=relay.role, name="relay", dns_names=(*relay.dns_names, "relay.example.org"),
            ip_addresses=relay.ip_addresses, server=True,
        ),
        "connector": pki.client_names(stack, "connector", "connector", GRANTED),
        "laptop": pki.client_names(stack, "agent", "laptop", GRANTED),
        "phone": pki.client_names(stack, "agent", "phone", ["echo-service"]),
    }  # fmt: skip


@pytest.mark.parametrize("member", MEMBERS)
def test_a_leaf_has_the_names_and_usages_of_one_that_the_lab_makes(member: str, first: tuple[Recorder, Any]) -> None:
    now = dt.datetime.now(dt.UTC)
    ca = pki.make_ca(STACK, now=now)
    want = x509.load_pem_x509_certificate(
        pki.make_leaf(ca, expected(STACK)[member], now=now, days=90).cert_pem.encode()
    )
    got = x509.load_pem_x509_certificate(first[1][member]["cert.pem"].encode())
    assert got.subject == want.subject
    assert {extension.oid for extension in got.extensions} == {extension.oid for extension in want.extensions}
    for kind in (x509.KeyUsage, x509.ExtendedKeyUsage, x509.BasicConstraints):
        found, wanted = (cert.extensions.get_extension_for_class(kind) for cert in (got, want))
        assert (found.value, found.critical) == (wanted.value, wanted.critical)
    names = [set(cert.extensions.get_extension_for_class(x509.SubjectAlternativeName).value) for cert in (got, want)]
    assert names[0] == names[1]


@pytest.mark.parametrize("member", MEMBERS)
def test_the_overlay_accepts_what_is_made(member: str, first: tuple[Recorder, dict[str, dict[str, str]]]) -> None:
    files = first[1]
    load_credentials(pem(files[member]["cert.pem"]), pem(files[member]["key.pem"]), anchors(files[member]))
    role = {"relay": "intermediate", "connector": "connector"}.get(member, "agent")
    for judge, fits in ((verify_client, role != "intermediate"), (verify_server, role != "agent")):
        if not fits:
            with pytest.raises(PeerRejected, match="invalid client cert"):
                judge(chain(files[member]), anchors(files["relay"]))
            continue
        names = judge(chain(files[member]), anchors(files["relay"]))
        assert names.uris == (f"spiffe://{STACK}/{role}/{member}",)
        if role != "intermediate":
            identity = parse_identity(names.uris, names.dns_names, names.fingerprint, STACK)
            assert identity.name == member


def test_a_profile_and_the_files_of_an_agent_are_complete() -> None:
    def program() -> Any:
        made = Pki("pki", arguments(PkiSettings()))
        config = pulumi.Output.from_input(dict(CONFIG))
        return pulumi.Output.all(made.profile("laptop", config), made.agent_files("laptop", config))

    profile, files = record(program, stack=STACK, computed=FakeTls().computed)[1]
    read = json.loads(profile)
    assert read.items() >= CONFIG.items()
    load_credentials(pem(read["cert_pem"]), pem(read["key_pem"]), load_anchors(pem(read["ca_cert_pem"])))
    assert set(files) == {"agent.json", "agent.env", "agent.plist", "agent.mobileconfig", "ca.pem"}
    assert [name for name, text in files.items() if "PRIVATE KEY" in text] == ["agent.json"]
    assert "<string>org.example.ztna</string>" in files["agent.mobileconfig"]


def test_two_members_of_one_name_are_refused() -> None:
    args = PkiArgs(
        stack=STACK,
        settings=PkiSettings(),
        relay_name="relay",
        server_name="ztna-server",
        addresses=[],
        members=PkiMembers(connectors={"relay": ()}, agents={}),
    )
    with pytest.raises(ValueError, match="two members are called 'relay'"):
        record(lambda: Pki("pki", args).ca_pem, stack=STACK, computed=FakeTls().computed)


STEPS = (
    PkiSettings(),
    PkiSettings(generation=2, overlap="agents"),
    PkiSettings(generation=2, overlap="all"),
    PkiSettings(generation=2),
)
AGENT_PROFILES = ({0}, {0, 1}, {1, 2}, {1, 2, 3})
"""States whose profile an agent may hold in each state: handed out after `up`, taken before the second change."""


@pytest.fixture(scope="module")
def rotation() -> list[dict[str, dict[str, str]]]:
    """Files of all members in each state, from one provider that keeps its state."""
    provider = FakeTls()
    return [deploy(settings, provider)[1] for settings in STEPS]


def refusals(relay: Mapping[str, str], connector: Mapping[str, str], agent: Mapping[str, str]) -> list[str]:
    """Return who does not accept whom."""
    meetings: dict[str, Callable[[], object]] = {
        "relay refuses connector": lambda: verify_client(chain(connector), anchors(relay)),
        "relay refuses agent": lambda: verify_client(chain(agent), anchors(relay)),
        "connector refuses relay": lambda: verify_server(chain(relay), anchors(connector)),
        "connector refuses agent": lambda: verify_client(chain(agent), anchors(connector)),
        "agent refuses relay": lambda: verify_server(chain(relay), anchors(agent)),
        "agent refuses connector": lambda: verify_server(chain(connector), anchors(agent)),
    }
    found = []
    for what, meet in meetings.items():
        try:
            meet()
        except PeerRejected:
            found.append(what)
    return found


@pytest.mark.parametrize(("old", "new"), [(0, 0), (0, 1), (1, 1), (1, 2), (2, 2), (2, 3), (3, 3)])
def test_a_rotation_drops_nobody_whoever_is_first(
    old: int, new: int, rotation: list[dict[str, dict[str, str]]]
) -> None:
    agents = AGENT_PROFILES[old] & AGENT_PROFILES[new]
    assert agents
    for relay, connector, agent in product({old, new}, {old, new}, agents):
        found = refusals(rotation[relay]["relay"], rotation[connector]["connector"], rotation[agent]["laptop"])
        assert found == [], f"relay of state {relay}, connector of {connector}, agent of {agent}"


def test_a_change_of_ca_without_overlap_shuts_the_old_profiles_out(rotation: list[dict[str, dict[str, str]]]) -> None:
    found = refusals(rotation[3]["relay"], rotation[3]["connector"], rotation[0]["laptop"])
    assert found == [
        "relay refuses agent", "connector refuses agent", "agent refuses relay", "agent refuses connector",
    ]  # fmt: skip


def test_a_rotation_makes_every_key_once(rotation: list[dict[str, dict[str, str]]]) -> None:
    for member, states in (("laptop", [0, 1, 1, 1]), ("relay", [0, 0, 1, 1]), ("connector", [0, 0, 1, 1])):
        keys = [files[member]["key.pem"] for files in rotation]
        distinct = list(dict.fromkeys(keys))
        assert [distinct.index(key) for key in keys] == states, member
    bundles = [files["relay"]["ca.pem"].count("BEGIN CERTIFICATE") for files in rotation]
    assert bundles == [1, 2, 2, 1]
    assert rotation[1]["relay"]["ca.pem"].endswith(rotation[0]["relay"]["ca.pem"]), "the newest CA stands first"
