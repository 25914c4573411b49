"""A package of the twin as plugin process, spoken to over gRPC by the embedded engine's own client."""

from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from infra.engine.errors import ResourceError, UnsupportedError
from infra.engine.props import is_secret, secret
from infra.engine.providers import Existing, GrpcProvider
from infra.twin.do_account import SshKey
from infra.twin.interface import Call, Json, Made, NotReady
from infra.twin.serve import serve
from tests.infra.twin.sites import NotedSite, noted_site, urn

KEY = urn("digitalocean:index/sshKey:SshKey", "key")
LINE = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIPDaSPD9Lr8ZqNw4XBHYhSsDzZqGYCqyvXpiYOHuCu3J me"


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> NotedSite:
    return noted_site(tmp_path, monkeypatch)


@pytest.fixture
def provider(site: NotedSite) -> Iterator[GrpcProvider]:
    server, port = serve("digitalocean", site, lambda sentence: None)
    found = GrpcProvider("digitalocean", grpc.insecure_channel(f"127.0.0.1:{port}"), lambda: None)
    found.handshake("", Path("/"), Path("/"))
    found.configure(urn("pulumi:providers:digitalocean", "default"), "", {"token": secret("t")})
    yield found
    found.close()
    server.stop(None).wait()


def test_a_resource_through_its_life(provider: GrpcProvider, site: NotedSite) -> None:
    checked, failures = provider.check(KEY, {}, {"publicKey": secret(LINE)})
    assert failures == []
    made = provider.create(KEY, checked, 0, preview=False)
    assert is_secret(made.outputs["publicKey"])
    old = Existing(KEY, made.id, checked, made.outputs)
    assert provider.diff(KEY, made.id, checked, made.outputs, checked, []).changes is False
    renamed = {**checked, "name": "other"}
    changed = provider.diff(KEY, made.id, checked, made.outputs, renamed, [])
    assert (changed.changes, changed.replaces, changed.changed) == (True, (), ("name",))
    moved = {**checked, "publicKey": LINE.replace("IPDa", "IPDb")}
    assert provider.diff(KEY, made.id, checked, made.outputs, moved, []).replaces == ("publicKey",)
    assert provider.update(old, renamed, 0, [], preview=False).outputs["name"] == "other"
    assert provider.read(KEY, made.id, renamed, made.outputs, 0).id == made.id
    provider.delete(old, 0)
    assert provider.read(KEY, made.id, renamed, made.outputs, 0).id == ""
    assert site.store.items() == []


def test_what_is_refused_travels(provider: GrpcProvider) -> None:
    _, (failure,) = provider.check(KEY, {}, {"publicKey": LINE, "nme": "x"})
    assert failure.property == "nme"
    assert "did you mean 'name'?" in failure.reason
    target = urn("digitalocean:index/reservedIpAssignment:ReservedIpAssignment", "x")
    reserved = urn("digitalocean:index/reservedIp:ReservedIp", "r")
    address = provider.create(reserved, {"region": "nyc1"}, 0, preview=False).id
    with pytest.raises(ResourceError, match="404 Droplet 7 could not be found"):
        provider.create(target, {"ipAddress": address, "dropletId": 7}, 0, preview=False)


def test_what_is_there_and_not_ready_travels(provider: GrpcProvider, monkeypatch: pytest.MonkeyPatch) -> None:
    def create(self: SshKey, call: Call, inputs: Json) -> Made:
        raise NotReady(Made(id="7", outputs=made), "it waits")

    def update(self: SshKey, call: Call, outputs: Json, olds: Json, news: Json) -> Json:
        raise NotReady(Made(id="7", outputs=made), "it waits again")

    monkeypatch.setattr(SshKey, "create", create)
    monkeypatch.setattr(SshKey, "update", update)
    made = {"publicKey": LINE, "name": "x", "fingerprint": "f"}
    created = provider.create(KEY, {"publicKey": LINE, "name": "x"}, 0, preview=False)
    assert (created.id, created.outputs["fingerprint"], created.init_errors) == ("7", "f", ("it waits",))
    old = Existing(KEY, "7", {"publicKey": LINE, "name": "x"}, created.outputs)
    updated = provider.update(old, {"publicKey": LINE, "name": "y"}, 0, [], preview=False)
    assert (updated.id, updated.init_errors) == ("7", ("it waits again",))


def test_a_package_that_the_twin_does_not_have(site: NotedSite) -> None:
    with pytest.raises(UnsupportedError, match="does not model the package 'gcp'"):
        serve("gcp", site, lambda sentence: None)
