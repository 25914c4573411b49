"""Certificates of the lab: a CA and one leaf per member, minted once and kept in the stack's state."""

import datetime as dt
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import msgspec
import pulumi
from pulumi.dynamic import Resource

from components.lab_provider import LabProvider
from components.lab_runtime import LabSite
from infra import naming, pki, wiring
from infra.config import PkiSettings


def _now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)


class CertificateAuthorityProvider(LabProvider):
    """Mints a CA; a raised `generation` mints another in its place."""

    def ensure(self, props: dict[str, Any], olds: dict[str, Any] | None) -> dict[str, Any]:
        """Mint when new, asked for, or near its end; else keep the pair that is recorded."""
        if olds is not None and olds.get("generation") == props["generation"] and self.exists(olds):
            return {key: olds[key] for key in ("cert_pem", "key_pem")}
        return asdict(pki.make_ca(str(props["stack"]), now=_now()))

    def exists(self, props: dict[str, Any]) -> bool:
        """Return whether the recorded certificate is far from its end."""
        return not pki.renewal_due(str(props["cert_pem"]), now=_now())

    def remove(self, props: dict[str, Any]) -> None:
        """Do nothing: it exists in the state only."""


class LeafProvider(LabProvider):
    """Mints a leaf certificate with its key; made anew when its names or its CA change or its end is near."""

    def ensure(self, props: dict[str, Any], olds: dict[str, Any] | None) -> dict[str, Any]:
        """Mint a certificate for the names given."""
        names = msgspec.convert(props["names"], pki.LeafNames)
        ca = pki.KeyPair(cert_pem=str(props["ca_cert_pem"]), key_pem=str(props["ca_key_pem"]))
        pair = pki.make_leaf(ca, names, now=_now(), days=int(props["days"]))
        return {
            **asdict(pair),
            "fingerprint": pki.fingerprint(pair.cert_pem),
            "not_after": pki.not_after(pair.cert_pem),
        }

    def exists(self, props: dict[str, Any]) -> bool:
        """Return whether the recorded certificate is far from its end."""
        return not pki.renewal_due(str(props["cert_pem"]), now=_now())

    def remove(self, props: dict[str, Any]) -> None:
        """Do nothing: it exists in the state only."""


class CertificateAuthority(Resource, module="lab", name="CertificateAuthority"):
    """The stack's CA. Its key is secret."""

    cert_pem: pulumi.Output[str]
    key_pem: pulumi.Output[str]
    OUTPUTS: ClassVar = ("cert_pem", "key_pem")

    def __init__(self, name: str, *, site: LabSite, stack: str, generation: int, opts: pulumi.ResourceOptions) -> None:
        props: dict[str, Any] = {"run": site.run, "name": name, "stack": stack, "generation": generation}
        super().__init__(
            CertificateAuthorityProvider(),
            name,
            {**props, **dict.fromkeys(self.OUTPUTS)},
            _with_secret(opts, "key_pem"),
        )


class Leaf(Resource, module="lab", name="Leaf"):
    """A leaf certificate. Its key is secret."""

    cert_pem: pulumi.Output[str]
    key_pem: pulumi.Output[str]
    fingerprint: pulumi.Output[str]
    not_after: pulumi.Output[str]
    OUTPUTS: ClassVar = ("cert_pem", "key_pem", "fingerprint", "not_after")

    def __init__(
        self,
        name: str,
        *,
        site: LabSite,
        names: pki.LeafNames,
        days: int,
        authority: CertificateAuthority,
        opts: pulumi.ResourceOptions,
    ) -> None:
        props: dict[str, Any] = {
            "run": site.run,
            "name": name,
            "names": asdict(names),
            "days": days,
            "ca_cert_pem": authority.cert_pem,
            "ca_key_pem": authority.key_pem,
        }
        super().__init__(LeafProvider(), name, {**props, **dict.fromkeys(self.OUTPUTS)}, _with_secret(opts, "key_pem"))


def _with_secret(opts: pulumi.ResourceOptions, output: str) -> pulumi.ResourceOptions:
    return pulumi.ResourceOptions.merge(opts, pulumi.ResourceOptions(additional_secret_outputs=[output]))


@dataclass(frozen=True, kw_only=True, slots=True)
class LabPkiArgs:
    """Who gets a leaf certificate, by the name of its resource."""

    site: LabSite
    stack: str
    settings: PkiSettings
    members: Mapping[str, pki.LeafNames]


class LabPki(pulumi.ComponentResource):
    """The lab's certificates.

    Children: CertificateAuthority x 1, Leaf x one per member. Outputs: `ca_pem`.
    It makes no files: roles write what they are given.
    """

    ca_pem: pulumi.Output[str]

    def __init__(self, name: str, args: LabPkiArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__(naming.component_token("LabPki"), name, {}, opts)
        child = pulumi.ResourceOptions(parent=self)
        authority = CertificateAuthority(
            naming.child_name(name, "ca"),
            site=args.site,
            stack=args.stack,
            generation=args.settings.generation,
            opts=child,
        )
        self.leaves = {
            member: Leaf(
                naming.child_name(name, member),
                site=args.site,
                names=names,
                days=args.settings.leaf_days,
                authority=authority,
                opts=child,
            )
            for member, names in args.members.items()
        }
        self.ca_pem = authority.cert_pem
        self.register_outputs({"ca_pem": self.ca_pem})

    def files(self, member: str) -> dict[str, pulumi.Input[str]]:
        """Return a member's PEM files by name, the CA's among them."""
        leaf = self.leaves[member]
        return {"cert.pem": leaf.cert_pem, "key.pem": leaf.key_pem, "ca.pem": self.ca_pem}

    def profile(self, member: str, config: Mapping[str, Any]) -> pulumi.Output[str]:
        """Return a configuration as one self-contained JSON text, certificate and key inline. It is secret."""
        leaf = self.leaves[member]
        made: pulumi.Output[str] = pulumi.Output.all(
            ca_pem=self.ca_pem, cert_pem=leaf.cert_pem, key_pem=leaf.key_pem
        ).apply(lambda pems: json.dumps(wiring.with_identity(config, **pems), indent=1))
        return made
