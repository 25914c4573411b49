"""The SSH keys of a host: who may log in, the host key of its first boot, and the one that it has from then on."""

from collections.abc import Sequence
from dataclasses import dataclass

import pulumi
import pulumi_tls as tls

from infra import naming

ALGORITHM = "ED25519"


@dataclass(frozen=True, kw_only=True, slots=True)
class SshKeysArgs:
    """What the user gives.

    Attributes:
        admin_public_keys: who may log in besides the stack itself, one line of authorized_keys each.
    """

    admin_public_keys: Sequence[str] = ()


class SshKeys(pulumi.ComponentResource):
    """The key pairs of a host.

    Children: tls.PrivateKey x 3 (`admin`, `bootstrap`, `permanent`). Outputs: `admin_public`, `admin_private` (secret;
    the release logs in with it), `authorized` (all keys that may log in), `bootstrap_public` and `bootstrap_private`
    (secret; goes into user data and is good for the first contact alone), `permanent_public` (what known_hosts should
    hold) and `permanent_private` (secret; goes over the verified first connection only, never into user data).
    It makes no key of a provider.
    """

    admin_public: pulumi.Output[str]
    admin_private: pulumi.Output[str]
    authorized: pulumi.Output[list[str]]
    bootstrap_public: pulumi.Output[str]
    bootstrap_private: pulumi.Output[str]
    permanent_public: pulumi.Output[str]
    permanent_private: pulumi.Output[str]

    def __init__(self, name: str, args: SshKeysArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__(naming.component_token("SshKeys"), name, {}, opts)
        admin, bootstrap, permanent = (
            tls.PrivateKey(naming.child_name(name, role), algorithm=ALGORITHM, opts=pulumi.ResourceOptions(parent=self))
            for role in ("admin", "bootstrap", "permanent")
        )
        given = [key.strip() for key in args.admin_public_keys]
        self.admin_public = admin.public_key_openssh.apply(str.strip)
        self.admin_private = pulumi.Output.secret(admin.private_key_openssh)
        self.authorized = self.admin_public.apply(lambda own: [own, *given])
        self.bootstrap_public = bootstrap.public_key_openssh.apply(str.strip)
        self.bootstrap_private = pulumi.Output.secret(bootstrap.private_key_openssh)
        self.permanent_public = permanent.public_key_openssh.apply(str.strip)
        self.permanent_private = pulumi.Output.secret(permanent.private_key_openssh)
        self.register_outputs({key: getattr(self, key) for key in SshKeys.__annotations__})
