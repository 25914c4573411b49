"""Certificates and keys of the roles as Secrets of type kubernetes.io/tls."""

from collections.abc import Mapping
from dataclasses import dataclass

import pulumi
from pulumi_kubernetes.core import v1 as core
from pulumi_kubernetes.meta import v1 as meta

from components.k8s_pod import K8sCertificates, K8sSite
from infra import naming
from infra.k8s import MEMBER_ANNOTATION, certificates_digest, secret_data


@dataclass(frozen=True, kw_only=True, slots=True)
class K8sSecretsArgs:
    """PEM files (cert.pem, key.pem, ca.pem) by member, marked secret; `after` must be there first."""

    site: K8sSite
    members: Mapping[str, pulumi.Output[dict[str, str]]]
    after: tuple[pulumi.Resource, ...] = ()


class K8sSecrets(pulumi.ComponentResource):
    """Secrets `MEMBER-tls`.

    Children: Secret x one per member. Outputs: `names`. It makes no certificate: it is given them.
    """

    names: pulumi.Output[list[str]]

    def __init__(self, name: str, args: K8sSecretsArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__(naming.component_token("K8sSecrets"), name, {}, opts)
        self._members = dict(args.members)
        for member, files in args.members.items():
            core.Secret(
                naming.child_name(name, member),
                metadata=meta.ObjectMetaArgs(
                    name=secret_name(member),
                    namespace=args.site.namespace,
                    labels=args.site.labels(member),
                    annotations={MEMBER_ANNOTATION: member},
                ),
                type="kubernetes.io/tls",
                string_data=files.apply(secret_data),
                opts=pulumi.ResourceOptions(parent=self, depends_on=list(args.after)),
            )
        self.names = pulumi.Output.from_input([secret_name(member) for member in args.members])
        self.register_outputs({"names": self.names})

    def certificates(self, member: str) -> K8sCertificates:
        """Return what a pod mounts. The digest is of certificates alone, so it may be read by all."""
        digest = pulumi.Output.unsecret(self._members[member].apply(certificates_digest))
        return K8sCertificates(member=member, secret=secret_name(member), digest=digest)


def secret_name(member: str) -> str:
    """Return the name of a member's Secret."""
    return f"{member}-tls"
