"""The roles of do-nyc1 from the very files that a release brings to the droplet: beside each other, they meet."""

import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from components.do_design import UNITS
from infra import units
from infra.http_probe import attempt
from infra.wiring import STATE_DIR
from stacks import do_nyc1
from tests.stacks.test_do_nyc1 import ADMINS, STACK, computed
from tests.support.fake_tls import FakeTls
from tests.support.netns import in_new_namespace
from tests.support.pulumi_mocks import record

READY_TIMEOUT_S = 30.0
ROLES = ("intermediate", "connector")


def released_files() -> dict[str, dict[str, str]]:
    """The files of each role, with real certificates."""
    certificates, fixed = FakeTls().computed, computed()
    key = "tls:index/privateKey:PrivateKey"

    def either(name: str, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        made: Mapping[str, Any] = (fixed if inputs["algorithm"] == "ED25519" else certificates)[key](name, inputs)
        return made

    config = {f"{STACK}:adminCidrs": ADMINS}
    recorder, _ = record(do_nyc1.program, stack=STACK, config=config, computed={**fixed, **certificates, key: either})
    (release,) = recorder.of_type("Release").values()
    files: dict[str, dict[str, str]] = release["files"]["value"]
    return files


@contextmanager
def running(*argv: str, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that ends with the block."""
    with log.open("wb") as out, subprocess.Popen(argv, stdout=out, stderr=subprocess.STDOUT) as process:
        try:
            yield process
        finally:
            process.terminate()


def until_ready(url: str) -> str:
    """Ask until it answers well."""
    end = time.monotonic() + READY_TIMEOUT_S
    while True:
        well, body = attempt(url)
        if well or time.monotonic() > end:
            return "ready" if well else body
        time.sleep(0.05)


@pytest.mark.lab
@pytest.mark.root
def test_relay_connector_and_echo_become_ready_on_one_host_before_the_public_address_is_there(tmp_path: Path) -> None:
    for role, files in released_files().items():
        (tmp_path / role).mkdir()
        for name, text in files.items():
            here = text.replace(STATE_DIR, str(tmp_path / role))
            (tmp_path / role / name).write_text(here.replace(units.ADMIN_SOCKET, str(tmp_path / "admin.sock")))

    def body() -> dict[str, str]:
        with ExitStack() as stack:
            python = sys.executable
            echo = units.BACKEND_ECHO.exec[units.BACKEND_ECHO.exec.index("infra.echo") :]
            stack.enter_context(running(python, "-m", *echo, log=tmp_path / "echo.log"))
            for role in ROLES:
                config = str(tmp_path / role / f"{role}.json")
                stack.enter_context(
                    running(python, "-m", "ztna", role, "--config", config, log=tmp_path / f"{role}.log")
                )
            names = [unit.name for unit in UNITS if unit is not units.BACKEND_HTTP]
            return {name: until_ready(units.READY[name]) for name in names}

    found = in_new_namespace(body)
    logs = "\n".join((tmp_path / f"{role}.log").read_text() for role in ROLES)
    assert found == dict.fromkeys(found, "ready"), logs
    assert len(found) == 3
