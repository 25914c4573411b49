"""A release on a host as a resource: what is declared is deployed over SSH, and looked at when refreshed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import pulumi
from pulumi.dynamic import CreateResult, DiffResult, ReadResult, Resource, ResourceProvider, UpdateResult

from components.lab_provider import changed_keys, plain
from infra import bundle, units
from infra.bundle import Target
from infra.units import Unit, unit_text

REPLACE_ON: Final = ("machine",)
SECRETS: Final = ("private_key", "permanent_private", "files")
UNSEEN: Final = "(not on the host)"
"""Stands in the state for a release that a refresh did not find, so that the next `up` brings it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SshTarget:
    """How to reach a host, and whom to believe.

    Attributes:
        user: root, or a user that may `sudo` without a password.
        private_key: of `user`, OpenSSH format. Secret.
        bootstrap_public: the host key of its first boot; accepted at the first contact with a machine, never later.
        permanent_public: the host key that the first contact installs, and the only one accepted from then on.
        permanent_private: its private half. Secret.
    """

    host: pulumi.Input[str]
    private_key: pulumi.Input[str]
    bootstrap_public: pulumi.Input[str]
    permanent_public: pulumi.Input[str]
    permanent_private: pulumi.Input[str]
    user: str = "root"
    port: pulumi.Input[int] = 22


class HostReleaseProvider(ResourceProvider):
    """Deploys, looks and removes by infra/ssh_release.py. A preview never contacts the host."""

    serialize_as_secret_always = False

    def diff(self, _id: str, _olds: dict[str, Any], _news: dict[str, Any]) -> DiffResult:
        """Report changed inputs. The host is looked at by a refresh, which records what it found."""
        changed = changed_keys(_olds, _news)
        return DiffResult(
            changes=bool(changed),
            replaces=[key for key in changed if key in REPLACE_ON],
            # Both machines may have the same address, one after the other.
            delete_before_replace=True,
        )

    def create(self, props: dict[str, Any]) -> CreateResult:
        """Deploy to a machine for the first time."""
        values = plain(props)
        return CreateResult(f"{values['run']}/{values['name']}", {**values, **_deploy(values, first_contact=True)})

    def update(self, _id: str, _olds: dict[str, Any], _news: dict[str, Any]) -> UpdateResult:
        """Deploy to a machine that has its permanent key."""
        values = plain(_news)
        return UpdateResult({**values, **_deploy(values, first_contact=False)})

    def read(self, id_: str, props: dict[str, Any]) -> ReadResult:
        """Look what the host runs. One that does not answer is taken to be as recorded."""
        from infra import ssh_release

        values = plain(props)
        try:
            found = ssh_release.look(_host(values), str(values["machine"]))
        except ssh_release.ReleaseError as error:
            _say(f"the host cannot be looked at, its state is as recorded: {error}")
            return ReadResult(id_, values)
        if found is None or not found["deployment"]:
            return ReadResult("", {})
        healthy = found["deployment"] == values.get("deployment") and not found["inactive"]
        return ReadResult(id_, values if healthy else {**values, "release": UNSEEN})

    def delete(self, _id: str, _props: dict[str, Any]) -> None:
        """Stop the units and remove everything; a host that is gone, or another machine by now, is no error."""
        from infra import ssh_release

        values = plain(_props)
        try:
            removed = ssh_release.remove(_host(values), str(values["machine"]), progress=_say)
        except (ssh_release.UnreachableError, ssh_release.HostKeyError) as error:
            _say(f"the host is taken to be gone: {error}")
        else:
            if not removed:
                _say("the address belongs to another machine by now: nothing to remove")


def _deploy(values: Mapping[str, Any], *, first_contact: bool) -> dict[str, Any]:
    from infra import ssh_release

    target = Target(python=str(values["python"]), platform=str(values["platform"]))
    job = ssh_release.ReleaseJob(
        host=_host(values),
        machine=str(values["machine"]),
        bundle=bundle.build(target),
        units=tuple(_unit(unit) for unit in values["units"]),
        files=values["files"],
        ready=tuple(values["ready"]),
        sysctls=values["sysctls"],
        python=target.python,
        processor=target.machine,
        first_contact=first_contact,
        progress=_say,
    )
    result = ssh_release.deploy(job)
    return {"deployment": result.deployment, "status": f"release {result.release_id} is healthy"}


def _host(values: Mapping[str, Any]) -> Any:
    from infra.ssh_release import SshHost

    return SshHost(
        address=str(values["host"]),
        port=int(values["port"]),
        user=str(values["user"]),
        private_key=str(values["private_key"]),
        bootstrap_public=str(values["bootstrap_public"]),
        permanent_public=str(values["permanent_public"]),
        permanent_private=str(values["permanent_private"]),
    )


def _unit(described: Mapping[str, Any]) -> Unit:
    lists = {key: tuple(described[key]) for key in ("exec", "reload", "after")}
    return Unit(**{key: value for key, value in described.items() if key != "text"} | lists)


def _say(line: str) -> None:
    pulumi.log.info(line)


@dataclass(frozen=True, kw_only=True, slots=True)
class RelayHostArgs:
    """What runs on a host.

    Attributes:
        machine: the provider's id of the machine (droplet or instance id): another machine is trusted anew, by its
            bootstrap key, and is released to anew, also when it has taken over the address of the old one.
        ssh: how to reach it.
        target: which interpreter and platform its image has.
        units: the services, in the order in which they are started.
        files: role -> file name -> text, put into `/etc/ztna/ROLE/`; `{dir}` in a text becomes that path. Secret.
        ready: URLs that answer well on the host once the release is usable (infra/units.py READY).
        sysctls: kernel settings that the host must have at least.
        depends: what must be there before it, like its firewall and its address.
    """

    stack: str
    run: str
    machine: pulumi.Input[str]
    ssh: SshTarget
    target: Target
    units: tuple[Unit, ...]
    files: Mapping[str, pulumi.Input[Mapping[str, str]]]
    ready: tuple[str, ...]
    sysctls: Mapping[str, int] | None = None
    depends: Sequence[pulumi.Resource] = ()


class HostRelease(Resource, module="host", name="Release"):
    """A release on a host. Keys and files are secret in the state."""

    release_id: pulumi.Output[str]
    status: pulumi.Output[str]

    def __init__(self, name: str, args: RelayHostArgs, opts: pulumi.ResourceOptions) -> None:
        props: dict[str, Any] = {
            "name": name,
            "stack": args.stack,
            "run": args.run,
            "machine": args.machine,
            "host": args.ssh.host,
            "port": args.ssh.port,
            "user": args.ssh.user,
            "private_key": pulumi.Output.secret(args.ssh.private_key),
            "bootstrap_public": args.ssh.bootstrap_public,
            "permanent_public": args.ssh.permanent_public,
            "permanent_private": pulumi.Output.secret(args.ssh.permanent_private),
            "python": args.target.python,
            "platform": args.target.platform,
            "release": bundle.release_id(args.target),
            "units": [_described(unit) for unit in args.units],
            "files": pulumi.Output.secret(dict(args.files)),
            "ready": list(args.ready),
            "sysctls": dict(units.SYSCTLS if args.sysctls is None else args.sysctls),
            "deployment": None,
            "status": None,
        }
        secret = pulumi.ResourceOptions(additional_secret_outputs=list(SECRETS))
        super().__init__(HostReleaseProvider(), name, props, pulumi.ResourceOptions.merge(opts, secret))
        self.release_id = pulumi.Output.from_input(str(props["release"]))


def _described(unit: Unit) -> dict[str, Any]:
    """Return a unit as inputs; its text is among them, so that a release with other hardening is a change."""
    return {
        "name": unit.name,
        "description": unit.description,
        "exec": list(unit.exec),
        "role": unit.role,
        "reload": list(unit.reload),
        "local_only": unit.local_only,
        "after": list(unit.after),
        "runtime": unit.runtime,
        "forwards": unit.forwards,
        "text": unit_text(unit),
    }
