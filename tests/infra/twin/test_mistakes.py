"""Mistakes planted in do-nyc1 on this machine: each turns verification red with the sentence of docs/twin.md."""

import base64
import contextlib
import datetime
import re
import subprocess
from collections.abc import Callable, Iterator

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

from infra.engine.props import for_provider
from infra.engine.workspace import Workspace
from tests.infra.twin.life import COMMAND_S, Life
from tests.support.project import ROOT

pytestmark = [pytest.mark.e2e, pytest.mark.root, pytest.mark.timeout(1200)]

_DAY = datetime.timedelta(days=1)
_TABLE = (ROOT / "docs/twin.md").read_text().partition("<!-- mistakes")[2].partition("<!-- end of mistakes")[0]
ROWS = {
    mistake: (check, words) for mistake, check, words in re.findall(r"^\| (.+) \| `(.+)` \| (.+) \|$", _TABLE, re.M)
}
Undo = Callable[[], object]


@pytest.fixture(scope="module")
def life(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Life]:
    life = Life(tmp_path_factory.mktemp("mistakes") / "project", "do-nyc1")
    life.up(verify="off")
    yield life
    life.ztna("destroy", "--yes")
    assert life.left() == []


def _on_relay(life: Life, script: str) -> None:
    life.ztna("exec", "relay", "--", f"{script}; true")


def _nft(life: Life, host: str, *commands: str) -> None:
    for command in commands:
        subprocess.run([*life.inside(host), "nft", command], check=True)


def _certificate(life: Life, until: datetime.timedelta, *names: str) -> None:
    """Give the relay a certificate of the stack's CA that ends so far from now, with these DNS names unless none."""
    opened = Workspace(life.directory, life.stack, engine="embedded", state_dir=life.directory / ".ztna/twin")
    made = {
        item.urn.rpartition("::")[2]: for_provider(item.outputs, secrets=False, references=False)
        for item in opened.state().resources
    }
    old = x509.load_pem_x509_certificate(made["pki-relay-g1"]["certPem"].encode())
    key = serialization.load_pem_private_key(made["pki-ca-g1-key"]["privateKeyPem"].encode(), None)
    now = datetime.datetime.now(datetime.UTC)
    new = (
        x509.CertificateBuilder().subject_name(old.subject).issuer_name(old.issuer).public_key(old.public_key())
        .serial_number(x509.random_serial_number()).not_valid_before(now - 2 * _DAY).not_valid_after(now + until)
    )  # fmt: skip
    for extension in old.extensions:
        value = extension.value
        if names and isinstance(value, x509.SubjectAlternativeName):
            others = [name for name in value if not isinstance(name, x509.DNSName)]
            value = x509.SubjectAlternativeName([*map(x509.DNSName, names), *others])
        new = new.add_extension(value, extension.critical)
    pem = new.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)  # type: ignore[arg-type]  # P-256
    _put(life, pem.decode())


def _put(life: Life, pem: str) -> None:
    text = base64.b64encode(pem.encode()).decode()
    target = "$(readlink -f /etc/ztna/intermediate)/cert.pem"
    _on_relay(life, f"cp -n {target} /root/good.pem; echo {text} | base64 -d > {target}; {_RESTART_RELAY}")


_RESTART_RELAY = "systemctl restart ztna-intermediate"
_LAUNCHER = "$(readlink -f /opt/ztna/current/bin/ztna-test-backend)"


def _good_certificate(life: Life) -> None:
    _on_relay(life, f"cat /root/good.pem > $(readlink -f /etc/ztna/intermediate)/cert.pem; {_RESTART_RELAY}")


def _edge(life: Life) -> str:
    return next(iter(life.hosts("edge")))


PLANTS: dict[str, tuple[Callable[[Life], object], Callable[[Life], object]]] = {
    "SSH is open to all": (
        lambda life: _nft(life, _edge(life), "insert rule inet edge forward tcp dport 22 accept"),
        lambda life: life.up(verify="off", adminCidrs=["203.0.113.0/24", "198.18.20.0/24"]),
    ),
    "the relay's certificate has expired": (lambda life: _certificate(life, -_DAY), _good_certificate),
    "the relay's certificate has another name": (
        lambda life: _certificate(life, _DAY, "elsewhere.example"),
        _good_certificate,
    ),
    "a unit's program is not executable": (
        lambda life: _on_relay(life, f"chmod -x {_LAUNCHER}; systemctl restart ztna-backend-echo"),
        lambda life: _on_relay(life, f"chmod +x {_LAUNCHER}; systemctl restart ztna-backend-echo"),
    ),
    "a backend is down": (
        lambda life: _on_relay(life, "systemctl stop ztna-backend-httpbin"),
        lambda life: _on_relay(life, "systemctl start ztna-backend-httpbin"),
    ),
    "a link drops packets above 1280 bytes": (
        lambda life: _nft(
            life, "nyc1", "add table inet hole", "add chain inet hole f { type filter hook forward priority 0; }",
            "add rule inet hole f meta length gt 1280 drop",
        ),
        lambda life: _nft(life, "nyc1", "delete table inet hole"),
    ),
}  # fmt: skip


def _red(life: Life, *words: str) -> str:
    done = subprocess.run(
        life.argv(*words), cwd=life.directory, env=life.environment, capture_output=True, text=True,
        timeout=COMMAND_S, check=False,
    )  # fmt: skip
    assert done.returncode == 1, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_the_table_has_every_mistake() -> None:
    assert set(ROWS) == {*PLANTS, "the firewall forgets UDP 4434"}


@pytest.mark.parametrize("mistake", PLANTS)
def test_a_mistake_is_named(life: Life, mistake: str) -> None:
    check, words = ROWS[mistake]
    plant, undo = PLANTS[mistake]
    with contextlib.ExitStack() as stack:
        stack.callback(undo, life)
        plant(life)
        assert words in _red(life, "verify", "--quick", "--only", check)


def test_an_update_that_forgets_4434_fails_and_says_how_to_roll_back(life: Life) -> None:
    main = life.directory / "__main__.py"
    program = main.read_text()
    main.write_text(f"import components.do_firewall as firewall\n\nfirewall.UDP_OPEN = (4433,)\n{program}")
    life.config()
    said = _red(life, "up", "--yes")
    assert ROWS["the firewall forgets UDP 4434"][1] in said
    assert "To roll back, put program and configuration back" in said
    main.write_text(program)
    life.up()
