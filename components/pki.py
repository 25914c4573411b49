"""The certificates of a cloud stack, made by the tls provider: keys and certificates live in the stack's state."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import pulumi
import pulumi_tls as tls

from infra import naming, wiring
from infra.config import PkiSettings
from infra.overlay import PkiMembers
from infra.pki import CA_DAYS, RENEW_FRACTION, LeafNames, client_names, server_names
from infra.pki_rotation import signing_generation, trusted_generations
from infra.wiring import JsonObject
from infra.wiring_macos import agent_files

_CURVE: Final = "P256"
_HOURS: Final = 24


@dataclass(frozen=True, kw_only=True, slots=True)
class PkiArgs:
    """Who gets a certificate.

    Attributes:
        stack: the stack's name, which every certificate carries.
        settings: generation, overlap and validity.
        relay_name: the intermediate's name.
        server_name: the DNS name that clients demand of it.
        addresses: its IP addresses, which may be known only once they are made.
        members: connectors and agents with the services granted to them.
        dns_names: public names of it, where it has some.
    """

    stack: str
    settings: PkiSettings
    relay_name: str
    server_name: str
    addresses: Sequence[pulumi.Input[str]]
    members: PkiMembers
    dns_names: Sequence[pulumi.Input[str]] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class _Issuer:
    """A generation's CA."""

    key_pem: pulumi.Output[str]
    cert_pem: pulumi.Output[str]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Leaf:
    """A member's certificate and key."""

    cert_pem: pulumi.Output[str]
    key_pem: pulumi.Output[str]


class Pki(pulumi.ComponentResource):
    """A CA for each trusted generation, and a leaf for the relay, each connector and each agent.

    Children: tls PrivateKey x (CAs + members), tls SelfSignedCert x CAs, tls CertRequest x members,
    tls LocallySignedCert x members. Output: `ca_pem`, the trust bundle, newest CA first.
    Names and usages are those of `infra.pki`. A leaf is made anew by an `up` in the last third of its validity.
    It writes no file and hands nothing to hosts.

    The provider dates certificates from now on: hosts must keep time. It took a path length of 0 for none when its
    source was read (upstream 4.2.1); 0 is asked for all the same, and leaves say that they are no CA.
    Source: https://www.pulumi.com/registry/packages/tls/api-docs/
    """

    ca_pem: pulumi.Output[str]

    def __init__(self, name: str, args: PkiArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__(naming.component_token("Pki"), name, {}, opts)
        self._name = name
        self._args = args
        self._child = pulumi.ResourceOptions(parent=self)
        signers = {generation: self._issuer(generation) for generation in trusted_generations(args.settings)}
        relay = server_names(args.stack, args.relay_name, args.server_name, ())
        clients = [
            client_names(args.stack, role, member, services)
            for role, members in (("connector", args.members.connectors), ("agent", args.members.agents))
            for member, services in members.items()
        ]
        self._leaves: dict[str, _Leaf] = {}
        for names in (relay, *clients):
            if names.name in self._leaves:
                raise ValueError(f"two members are called {names.name!r}: give each a name of its own")
            generation = signing_generation(args.settings, names.role)
            self._leaves[names.name] = self._leaf(names, generation, signers[generation])
        self.ca_pem = pulumi.Output.all(*(issuer.cert_pem for issuer in signers.values())).apply("".join)
        self.register_outputs({"ca_pem": self.ca_pem})

    def files(self, member: str) -> pulumi.Output[dict[str, str]]:
        """Return cert.pem, key.pem and ca.pem of the relay, a connector or an agent. They are secret."""
        leaf = self._leaves[member]
        made: pulumi.Output[dict[str, str]] = pulumi.Output.secret(
            pulumi.Output.all(**{"cert.pem": leaf.cert_pem, "key.pem": leaf.key_pem, "ca.pem": self.ca_pem})
        )
        return made

    def profile(self, agent: str, config: pulumi.Input[Mapping[str, Any]]) -> pulumi.Output[str]:
        """Return a configuration as one self-contained agent.json, certificate and key inline. It is secret."""
        return self._with_identity(agent, config).apply(lambda profile: json.dumps(profile, indent=1))

    def agent_files(self, agent: str, config: pulumi.Input[Mapping[str, Any]]) -> pulumi.Output[dict[str, str]]:
        """Return the files of an agent by name: its profile, and the same for other programs. They are secret."""
        app = self._args.members.macos
        return self._with_identity(agent, config).apply(lambda profile: agent_files(profile, app))

    def _with_identity(self, member: str, config: pulumi.Input[Mapping[str, Any]]) -> pulumi.Output[JsonObject]:
        def merge(made: dict[str, Any]) -> JsonObject:
            files = made["files"]
            pems = {"ca_pem": files["ca.pem"], "cert_pem": files["cert.pem"], "key_pem": files["key.pem"]}
            return wiring.with_identity(made["config"], **pems)

        return pulumi.Output.all(config=config, files=self.files(member)).apply(merge)

    def _issuer(self, generation: int) -> _Issuer:
        role = f"ca-g{generation}"
        key = self._key(role)
        cert = tls.SelfSignedCert(
            naming.child_name(self._name, role),
            private_key_pem=key,
            is_ca_certificate=True,
            max_path_length=0,
            allowed_uses=["cert_signing", "crl_signing"],
            set_subject_key_id=True,
            subject={"common_name": f"{self._args.stack} ztna CA {generation}"},
            validity_period_hours=CA_DAYS * _HOURS,
            opts=self._child,
        )
        return _Issuer(key_pem=key, cert_pem=cert.cert_pem)

    def _leaf(self, names: LeafNames, generation: int, issuer: _Issuer) -> _Leaf:
        is_relay = names.role == "intermediate"
        role = f"{names.name}-g{generation}"
        key = self._key(role)
        request = tls.CertRequest(
            naming.child_name(self._name, f"{role}-request"),
            private_key_pem=key,
            subject={"common_name": names.name},
            uris=[names.uri],
            dns_names=[*names.grants, *names.dns_names, *(self._args.dns_names if is_relay else ())],
            ip_addresses=list(self._args.addresses) if is_relay else None,
            opts=self._child,
        )
        hours = self._args.settings.leaf_days * _HOURS
        cert = tls.LocallySignedCert(
            naming.child_name(self._name, role),
            cert_request_pem=request.cert_request_pem,
            ca_cert_pem=issuer.cert_pem,
            ca_private_key_pem=issuer.key_pem,
            allowed_uses=leaf_uses(names),
            set_subject_key_id=True,
            validity_period_hours=hours,
            early_renewal_hours=hours // RENEW_FRACTION,
            opts=self._child,
        )
        return _Leaf(cert_pem=cert.cert_pem, key_pem=key)

    def _key(self, role: str) -> pulumi.Output[str]:
        key = tls.PrivateKey(
            naming.child_name(self._name, f"{role}-key"), algorithm="ECDSA", ecdsa_curve=_CURVE, opts=self._child
        )
        return pulumi.Output.secret(key.private_key_pem_pkcs8)


def leaf_uses(names: LeafNames) -> list[str]:
    """Return key usages of a leaf in the provider's words: servers, clients, or both where a connector is both."""
    uses = ["digital_signature"]
    uses += ["client_auth"] * (names.role != "intermediate")
    return uses + ["server_auth"] * names.server
