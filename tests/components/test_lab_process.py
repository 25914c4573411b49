"""A process as a resource, on the loopback rung: real processes, no namespaces, no privilege."""

import os
import signal
import socket
import stat
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from components.lab_network import HostProvider, RunProvider, SegmentProvider
from components.lab_process import PYTHON, ProcessProvider, only_reloadable, write_files
from components.lab_runtime import LabHandle
from infra.lab.errors import LabError
from infra.lab.process import is_alive
from infra.wiring import STATE_DIR

SITE = {"run": "process-test", "rung": "loopback"}
HOST = {
    **SITE,
    "name": "box",
    "spec": {"name": "box", "links": [{"segment": "lan", "address": "127.44.0.10/24"}]},
}

# Serves its files' content over HTTP, and reads `live.txt` again on SIGHUP.
SERVER = """
import http.server, pathlib, signal, sys
folder, port = pathlib.Path(sys.argv[1]), int(sys.argv[2])
live = [(folder / "live.txt").read_text()]
fixed = (folder / "fixed.txt").read_text()
if fixed == "broken":
    sys.exit("fixed.txt says that it is broken")
signal.signal(signal.SIGHUP, lambda *_: live.__setitem__(0, (folder / "live.txt").read_text()))
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        ready = fixed != "slow"
        self.send_response(200 if ready else 503)
        self.end_headers()
        self.wfile.write((live[0] + " " + fixed).encode())
    def log_message(self, *_): pass
http.server.HTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A run with one host, in a place of its own; nothing of it is left afterwards."""
    monkeypatch.setenv("ZTNA_LAB_STATE", str(tmp_path / "lab"))
    RunProvider().create({**SITE, "name": "run"})
    SegmentProvider().create({**SITE, "name": "lan", "spec": {"name": "lan", "cidr": "127.44.0.0/24"}})
    HostProvider().create(HOST)
    yield
    RunProvider().delete("", {**SITE, "name": "run"})


@pytest.fixture
def props() -> dict[str, Any]:
    """Inputs of a server process."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    return {
        **SITE,
        "name": "server",
        "host": "box",
        "argv": [PYTHON, "-c", SERVER, STATE_DIR, str(port)],
        "files": {"live.txt": "one", "fixed.txt": "two"},
        "ready_url": f"http://127.0.0.1:{port}/",
        "ready_timeout_s": 10.0,
        "reload": ["live.txt"],
        "release": "",
    }


def pid() -> int:
    """Return the pid of the server."""
    record = LabHandle({**SITE, "name": ""}).record()
    assert record is not None
    return record.processes["box/server"].pid


def said(props: dict[str, Any]) -> str:
    """Ask the server."""
    with urllib.request.urlopen(props["ready_url"], timeout=5) as answer:
        text: str = answer.read().decode()
    return text


def gone(number: int) -> bool:
    """Return whether a process is no more."""
    return not Path(f"/proc/{number}").exists() or Path(f"/proc/{number}/stat").read_text().split()[2] == "Z"


@pytest.mark.usefixtures("lab")
def test_it_is_created_once_it_is_ready_and_diff_sees_no_change(props: dict[str, Any]) -> None:
    result = ProcessProvider().create(props)
    assert (result.id, result.outs) == ("process-test/box/server", {**props, "ready_timeout_s": 10})
    assert said(props) == "one two"
    diff = ProcessProvider().diff(result.id, result.outs or {}, props)
    assert (diff.changes, diff.replaces) == (False, [])
    assert ProcessProvider().read(result.id, props).id == result.id


@pytest.mark.usefixtures("lab")
def test_files_are_private_and_gone_with_the_process(props: dict[str, Any]) -> None:
    ProcessProvider().create(props)
    folder = LabHandle(props).site.files_dir("box", "server")
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}
    number = pid()
    ProcessProvider().delete("", props)
    assert not folder.exists()
    assert gone(number)
    ProcessProvider().delete("", props)


@pytest.mark.usefixtures("lab")
def test_a_reloadable_file_is_reloaded_and_another_restarts(props: dict[str, Any]) -> None:
    provider = ProcessProvider()
    provider.create(props)
    first = pid()
    live = {**props, "files": {**props["files"], "live.txt": "ONE"}}
    provider.update("", props, live)
    deadline = time.monotonic() + 5
    while said(props) != "ONE two" and time.monotonic() < deadline:
        time.sleep(0.02)
    assert said(props) == "ONE two"
    assert pid() == first
    fixed = {**live, "files": {**live["files"], "fixed.txt": "TWO"}}
    provider.update("", live, fixed)
    assert said(props) == "ONE TWO"
    second = pid()
    assert second != first
    assert gone(first)
    provider.update("", fixed, {**fixed, "release": "new code"})
    assert pid() != second


@pytest.mark.usefixtures("lab")
def test_a_dead_process_is_seen_by_read_and_diff_and_healed_by_update(props: dict[str, Any]) -> None:
    provider = ProcessProvider()
    provider.create(props)
    number = pid()
    os.kill(number, signal.SIGKILL)
    while not gone(number):
        time.sleep(0.01)
    assert provider.read("id", props).id == ""
    assert provider.diff("id", props, props).changes
    provider.update("id", props, props)
    assert said(props) == "one two"
    assert not provider.diff("id", props, props).changes


@pytest.mark.usefixtures("lab")
def test_one_that_ends_is_reported_at_once_with_its_log(props: dict[str, Any]) -> None:
    broken = {**props, "files": {**props["files"], "fixed.txt": "broken"}}
    began = time.monotonic()
    with pytest.raises(LabError) as failure:
        ProcessProvider().create(broken)
    assert time.monotonic() - began < 5
    assert "server on host box ended at once" in str(failure.value)
    assert "fixed.txt says that it is broken" in str(failure.value)


@pytest.mark.usefixtures("lab")
def test_one_that_never_gets_ready_is_stopped_again(props: dict[str, Any]) -> None:
    slow = {**props, "files": {**props["files"], "fixed.txt": "slow"}, "ready_timeout_s": 0.5}
    with pytest.raises(LabError, match=r"was not ready after 0\.5 s: .*503 one slow"):
        ProcessProvider().create(slow)
    record = LabHandle(props).record()
    assert record is not None
    assert record.processes == {}


@pytest.mark.usefixtures("lab")
def test_creating_over_one_that_a_killed_run_left_leaves_one(props: dict[str, Any]) -> None:
    ProcessProvider().create(props)
    first = pid()
    ProcessProvider().create(props)
    assert pid() != first
    assert gone(first)


@pytest.mark.usefixtures("lab")
def test_a_run_that_is_gone_takes_everything_with_it(props: dict[str, Any]) -> None:
    ProcessProvider().create(props)
    record = LabHandle(props).record()
    assert record is not None
    process = record.processes["box/server"]
    RunProvider().delete("", {**SITE, "name": "run"})
    assert not is_alive(process.pid, process.start_time)
    assert not HostProvider().exists(HOST)
    assert not RunProvider().exists({**SITE, "name": "run"})
    ProcessProvider().delete("", props)
    HostProvider().delete("", HOST)


@pytest.mark.usefixtures("lab")
def test_resources_of_another_rung_are_gone_and_their_delete_harms_nothing(props: dict[str, Any]) -> None:
    ProcessProvider().create(props)
    other = {**props, "rung": "root"}
    assert not ProcessProvider().exists(other)
    ProcessProvider().delete("", other)
    HostProvider().delete("", {**HOST, "rung": "root"})
    RunProvider().delete("", {**SITE, "name": "run", "rung": "root"})
    assert said(props) == "one two"


def test_only_files_named_so_can_be_reloaded() -> None:
    olds = {"files": {"a": "1", "b": "1"}, "reload": ["a"], "argv": ["x"]}
    assert only_reloadable(olds, {**olds, "files": {"a": "2", "b": "1"}})
    assert not only_reloadable(olds, {**olds, "files": {"a": "2", "b": "2"}})
    assert not only_reloadable(olds, {**olds, "files": {"a": "2"}})
    assert not only_reloadable(olds, {**olds, "files": {"a": "2", "b": "1"}, "argv": ["y"]})
    assert not only_reloadable(olds, olds)


def test_the_directory_is_filled_in_and_a_leftover_part_is_no_obstacle(tmp_path: Path) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    (folder / ".a.json.partial").write_text("left by a killed run")
    write_files(folder, {"a.json": f'"{STATE_DIR}/key.pem"'})
    assert (folder / "a.json").read_text() == f'"{folder}/key.pem"'
    assert [path.name for path in folder.iterdir()] == ["a.json"]
