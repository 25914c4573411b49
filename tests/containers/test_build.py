"""The images, really built: size, user, health, same bytes twice, and no secret of the build's surroundings in them.

Needs root, buildah, crun, mmdebstrap, the Debian mirror and PyPI, and some minutes. The base is a Debian with Python,
made here, since a sealed machine cannot pull python:3.12-slim; the Dockerfile is the same, only BASE differs.
"""

import datetime as dt
import hashlib
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from infra import pki, wiring
from infra.outputs import ConnectorOutput, RelayEndpoint, ServiceOutput, ServicePort
from tests.secrets.markers import NAMES, found_below, found_in, plant, secret_of
from tests.support.project import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.root, pytest.mark.timeout(1500)]

LARGEST_BYTES = 120_000_000
BASE = "localhost/base:test"
TOOLS = ("buildah", "mmdebstrap", "crun")
PLANTED = (
    ".env",
    "Pulumi.do-nyc1.yaml",
    ".ztna/stacks/state.json",
    "ztna/key.pem",
    "infra/wiring.env",
    "docker/id.key",
)
RELAY = RelayEndpoint(name="relay", host="127.0.0.1", port=4433, server_name="ztna-server")
ECHO = ServiceOutput(
    id="echo-service",
    virtual_ip="100.64.0.100",
    ports=(ServicePort(protocol="udp", port=9999),),
    connector="connector",
    backend="127.0.0.1:9999",
)


@dataclass(frozen=True)
class Builder:
    """buildah with a storage of its own."""

    directory: Path
    marks: Mapping[str, str]

    def command(self, *words: str) -> list[str]:
        storage = ("--root", str(self.directory / "store"), "--runroot", str(self.directory / "run"))
        return ["buildah", "--storage-driver", "vfs", *storage, *words]

    def run(self, *words: str) -> str:
        done = subprocess.run(self.command(*words), capture_output=True, text=True, timeout=900)
        assert done.returncode == 0, done.stderr[-4000:]
        return done.stdout.strip()

    def build(self, target: str, tag: str, *options: str) -> str:
        """Build a target and return the image's id."""
        fixed = ("--isolation", "chroot", "--format", "docker", "--pull=never", "--timestamp", "0")
        arguments = ("--build-arg", f"BASE={BASE}", "--build-arg", "SOURCE_DATE_EPOCH=0", "--target", target)
        self.run("bud", *fixed, *arguments, *options, "-t", f"localhost/{tag}", str(self.directory / "context"))
        return str(self.inspect(tag)["FromImageID"])

    def inspect(self, tag: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.run("inspect", "--type", "image", f"localhost/{tag}"))
        return found

    def mounted(self, tag: str) -> Path:
        return Path(self.run("mount", self.run("from", "--pull=never", f"localhost/{tag}")))


@pytest.fixture(scope="module")
def builder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Builder]:
    """A builder with the base, and a checkout in whose corners secrets lie."""
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    assert not missing, f"missing: {', '.join(missing)}; apt-get install {' '.join(TOOLS)}"
    directory = tmp_path_factory.mktemp("images")
    made = Builder(directory, plant())
    _checkout(directory / "context", made.marks)
    tar = directory / "base.tar"
    packages = "--include=python3,python3-pip,ca-certificates"
    subprocess.run(["mmdebstrap", "--quiet", "--variant=minbase", packages, "bookworm", str(tar)], check=True)
    container = made.run("from", "scratch")
    made.run("add", container, str(tar), "/")
    # What this machine trusts, so that a registry behind a proxy of one's own is reached from the build too.
    made.run("copy", container, "/etc/ssl/certs/ca-certificates.crt", "/etc/ssl/certs/ca-certificates.crt")
    made.run("commit", "--rm", container, BASE)
    tar.unlink()
    yield made
    for kind in ("rm", "rmi"):
        subprocess.run(made.command(kind, "--all"), capture_output=True, timeout=120)


def _checkout(target: Path, marks: Mapping[str, str]) -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    for name in filter(None, listed.decode().split("\0")):
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, target / name)
    text = "".join(secret_of(name, marks[name]) for name in NAMES)
    for name in PLANTED:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        (target / name).write_text(text)


@pytest.fixture(scope="module")
def images(builder: Builder) -> dict[str, str]:
    """The ids of all images by target."""
    return {target: builder.build(target, f"{target}:test") for target in ("intermediate", "connector", "http-app")}


@pytest.mark.parametrize("target", ["intermediate", "connector", "http-app"])
def test_an_image_is_small_and_holds_no_shell_no_installer_and_no_secret(
    builder: Builder, images: dict[str, str], target: str
) -> None:
    tree = builder.mounted(f"{target}:test")
    size = sum(path.lstat().st_size for path in tree.rglob("*") if path.is_file() and not path.is_symlink())
    print(f"{target}: {size / 1e6:.1f} MB unpacked")
    assert size < LARGEST_BYTES
    for name in ("sh", "bash", "dash", "apt", "dpkg", "pip", "pip3", "uv"):
        assert not [path for path in tree.rglob(name) if path.is_file() and os.access(path, os.X_OK)], name
    assert not [path for path in tree.rglob("*") if path.is_file() and path.stat().st_mode & 0o6000]
    assert found_below(tree, builder.marks) == {}
    assert found_in(json.dumps(builder.inspect(f"{target}:test")).encode(), builder.marks) == set()


@pytest.mark.parametrize("target", ["intermediate", "connector", "http-app"])
def test_an_image_says_who_it_runs_as_and_how_its_health_is_asked(
    builder: Builder, images: dict[str, str], target: str
) -> None:
    config = builder.inspect(f"{target}:test")["Docker"]["config"]
    assert config["User"] == "65532:65532"
    assert config["Healthcheck"]["Test"][:3] == ["CMD", "python", "-m"]
    assert not any("KEY" in entry or "TOKEN" in entry for entry in config["Env"])


def test_the_same_sources_give_the_same_bytes(builder: Builder, images: dict[str, str]) -> None:
    builder.build("connector", "again:test", "--no-cache")
    first, second = (_digest(builder.mounted(tag)) for tag in ("connector:test", "again:test"))
    assert {path for path in first.keys() | second.keys() if first.get(path) != second.get(path)} == set()
    layers = [builder.inspect(tag)["Docker"]["rootfs"]["diff_ids"] for tag in ("connector:test", "again:test")]
    assert layers[0] == layers[1]


def _digest(tree: Path) -> dict[str, tuple[str, int, float]]:
    return {
        str(path.relative_to(tree)): (
            hashlib.sha256(path.read_bytes()).hexdigest(),
            path.stat().st_mode,
            path.stat().st_mtime,
        )
        for path in tree.rglob("*")
        if path.is_file() and not path.is_symlink()
    }


@dataclass
class Running:
    """A container whose network is a namespace of its own, shared with what asks it."""

    builder: Builder
    container: str
    process: subprocess.Popen[bytes]
    log: Path

    def ask(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command in the same container and network, as its user."""
        inside = ["nsenter", "--net", "--target", str(self.process.pid)]
        words = (*inside, *self.builder.command("run", "--isolation", "chroot", self.container, "--", *command))
        return subprocess.run(words, capture_output=True, text=True, timeout=60)

    def wait(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Ask until it is well, for a minute."""
        deadline = time.monotonic() + 60
        while True:
            said = self.ask(*command)
            if said.returncode == 0 or time.monotonic() > deadline:
                assert said.returncode == 0, said.stdout + said.stderr + self.log.read_text()[-3000:]
                return said
            time.sleep(0.5)

    def stop(self) -> None:
        """End everything of it: the process is the leader of its own group."""
        os.killpg(self.process.pid, signal.SIGTERM)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(20)


def start(builder: Builder, tag: str, tmp_path: Path, options: tuple[str, ...], command: tuple[str, ...]) -> Running:
    """Run an image's command in a network namespace with loopback alone."""
    container = builder.run("from", "--pull=never", f"localhost/{tag}")
    words = builder.command("run", "--isolation", "chroot", *options, container, "--", *command)
    log = tmp_path / "log"
    script = 'ip link set lo up && exec "$@"'
    with log.open("wb") as out:
        process = subprocess.Popen(
            ["unshare", "--net", "sh", "-c", script, "sh", *words], stdout=out, stderr=out, start_new_session=True
        )
    return Running(builder, container, process, log)


def entry(builder: Builder, tag: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The image's entry point and its health check."""
    config = builder.inspect(tag)["Docker"]["config"]
    return tuple(config["Entrypoint"]), tuple(config["Healthcheck"]["Test"][1:])


def leaf(ca: pki.KeyPair, names: pki.LeafNames) -> pki.KeyPair:
    return pki.make_leaf(ca, names, now=dt.datetime.now(dt.UTC), days=2)


def test_the_intermediate_answers_for_its_health_and_its_absence_shows(
    builder: Builder, images: dict[str, str], tmp_path: Path
) -> None:
    files = tmp_path / "etc"
    files.mkdir()
    ca = pki.make_ca("test", now=dt.datetime.now(dt.UTC))
    pair = leaf(ca, pki.server_names("test", "relay", "ztna-server", ["127.0.0.1"]))
    config = wiring.intermediate_config("test", RELAY, log_level="info", metrics_addr="127.0.0.1")
    policy = wiring.policy([ECHO], [], [ConnectorOutput(name="connector", services=("echo-service",))])
    texts = {
        "intermediate.json": json.dumps(config).replace(wiring.STATE_DIR, "/etc/ztna"),
        "policy.json": json.dumps(policy),
        "cert.pem": pair.cert_pem,
        "key.pem": pair.key_pem,
        "ca.pem": ca.cert_pem,
    }
    for name, text in texts.items():
        (files / name).write_text(text)
        os.chown(files / name, 65532, 65532)
        (files / name).chmod(0o400)
    entry_point, health = entry(builder, "intermediate:test")
    mount = ("--volume", f"{files}:/etc/ztna:ro")
    command = (*entry_point, "intermediate", "--config", "/etc/ztna/intermediate.json")
    running = start(builder, "intermediate:test", tmp_path, mount, command)
    try:
        assert '"ready"' in running.wait(*health, "--json").stdout
        assert running.ask("python", "-c", "import os; print(os.getuid(), os.getgid())").stdout.strip() == "65532 65532"
        assert running.ask("python", "-c", "open('/opt/ztna/x', 'w')").returncode != 0
    finally:
        running.stop()
    alone = builder.run("from", "--pull=never", "localhost/intermediate:test")
    gone = subprocess.run(
        ["unshare", "--net", *builder.command("run", "--isolation", "chroot", alone, "--", *health)],
        capture_output=True,
        timeout=60,
    )
    assert gone.returncode == 5, "a health check that passes without the process checks nothing"


def test_the_connector_takes_its_profile_from_the_environment_and_writes_it_nowhere(
    builder: Builder, images: dict[str, str], tmp_path: Path
) -> None:
    ca = pki.make_ca("test", now=dt.datetime.now(dt.UTC))
    pair = leaf(ca, pki.client_names("test", "connector", "connector", ["echo-service"]))
    config = wiring.connector_config(
        "test", "connector", RELAY, [ECHO], bind_addr="127.0.0.1", log_level="info", metrics_addr="127.0.0.1"
    )
    profile = json.dumps(wiring.with_identity(config, ca_pem=ca.cert_pem, cert_pem=pair.cert_pem, key_pem=pair.key_pem))
    entry_point, _ = entry(builder, "connector:test")
    running = start(
        builder, "connector:test", tmp_path, ("--env", f"ZTNA_PROFILE={profile}"), (*entry_point, "connector")
    )
    try:
        running.wait("python", "-m", "infra.http_probe", "http://127.0.0.1:9091/healthz")
        key_line = pair.key_pem.splitlines()[1]
        tree = Path(builder.run("mount", running.container))
        assert not [path for path in tree.rglob("*") if path.is_file() and key_line.encode() in path.read_bytes()]
        assert key_line not in running.log.read_text()
    finally:
        running.stop()


def test_httpbin_and_echo_answer(builder: Builder, images: dict[str, str], tmp_path: Path) -> None:
    entry_point, health = entry(builder, "http-app:test")
    command = (*entry_point, "waitress", "--listen=127.0.0.1:8080", "--threads=8", "httpbin:app")
    running = start(builder, "http-app:test", tmp_path, (), command)
    try:
        running.wait(*health)
        assert "127.0.0.1:8080" in running.ask("python", "-m", "infra.http_probe", "http://127.0.0.1:8080/get").stdout
    finally:
        running.stop()
