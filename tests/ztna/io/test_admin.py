"""The admin socket: who may open it, what it answers, and that a dead one is replaced."""

import asyncio
import json
import socket
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from ztna.io.admin import MAX_CLIENTS, AdminBindError, AdminServer, ask, relay_verb


def handle(request: Mapping[str, Any]) -> Mapping[str, Any]:
    return {"verb": relay_verb(request)}


async def started(path: Path) -> AdminServer:
    server = AdminServer(path, handle)
    await server.start()
    return server


async def test_verbs_are_answered_line_by_line(tmp_path: Path) -> None:
    server = await started(tmp_path / "admin.sock")
    reader, writer = await asyncio.open_unix_connection(str(server.path))
    for verb in ("off", "on", "status"):
        writer.write(json.dumps({"relay": verb}).encode() + b"\n")
        assert json.loads(await reader.readline()) == {"verb": verb}
    writer.close()
    assert await asyncio.to_thread(ask, server.path, {"relay": "on"}) == {"verb": "on"}
    await server.close()
    await server.close()
    assert not server.path.exists()


@pytest.mark.parametrize(
    "line", [b"{}", b"[]", b"junk", b'{"relay": "of"}', b'{"relay": ["off"]}', b'{"relay": "off", "x": 1}', b"\xff"]
)
async def test_anything_else_is_an_error_and_the_connection_stays(tmp_path: Path, line: bytes) -> None:
    server = await started(tmp_path / "admin.sock")
    reader, writer = await asyncio.open_unix_connection(str(server.path))
    for _ in range(2):
        writer.write(line + b"\n")
        assert list(json.loads(await reader.readline())) == ["error"]
    writer.close()
    await server.close()


async def test_a_refusal_is_told(tmp_path: Path) -> None:
    server = await started(tmp_path / "admin.sock")
    with pytest.raises(ValueError, match="off, on, status"):
        await asyncio.to_thread(ask, server.path, {"relay": "up"})
    await server.close()


async def test_a_line_without_end_is_cut_off(tmp_path: Path) -> None:
    server = await started(tmp_path / "admin.sock")
    reader, writer = await asyncio.open_unix_connection(str(server.path))
    writer.write(b"x" * 10_000)
    assert await reader.read() == b""
    writer.close()
    await server.close()


async def test_only_its_owner_may_open_it(tmp_path: Path) -> None:
    server = await started(tmp_path / "admin.sock")
    assert stat.S_IMODE(server.path.stat().st_mode) == 0o600
    await server.close()


async def test_clients_are_bounded(tmp_path: Path) -> None:
    server = await started(tmp_path / "admin.sock")
    held = [await asyncio.open_unix_connection(str(server.path)) for _ in range(MAX_CLIENTS)]
    for reader, writer in held:
        writer.write(b'{"relay": "status"}\n')
        await reader.readline()
    reader, writer = await asyncio.open_unix_connection(str(server.path))
    assert await reader.read() == b""
    assert server.dropped_busy == 1
    for _, each in (*held, (reader, writer)):
        each.close()
    await server.close()


async def test_a_dead_socket_is_replaced_a_living_one_is_not(tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    server = await started(path)
    with pytest.raises(AdminBindError, match="another process listens there"):
        await started(path)
    assert await asyncio.to_thread(ask, path, {"relay": "on"}) == {"verb": "on"}
    await server.close()


@pytest.mark.parametrize("name", ["x" * 200, "none/admin.sock"])
async def test_an_impossible_path_says_what_to_do(tmp_path: Path, name: str) -> None:
    with pytest.raises(AdminBindError, match="set `admin_socket`"):
        await started(tmp_path / name)


async def test_a_file_in_the_way_stays(tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"
    path.write_text("precious")
    with pytest.raises(AdminBindError):
        await started(path)
    assert path.read_text() == "precious"
