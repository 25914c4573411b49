"""Hashes of assets and archives, computed when a value arrives: a changed file is a changed input."""

import hashlib
import json
import zipfile
from pathlib import Path
from typing import Any

from infra.engine.errors import EngineError, UnsupportedError
from infra.engine.props import ARCHIVE_SIG, ASSET_SIG, SIG, Props, rewrite, signature


def with_hashes(props: Props, base: Path) -> Props:
    """Properties whose assets and archives carry their `hash`; relative paths are taken from `base`."""

    def visit(item: Any) -> Any:
        kind = signature(item)
        if kind == ASSET_SIG and not item.get("hash"):
            return {**item, "hash": hashlib.sha256(_asset_bytes(item, base)).hexdigest()}
        if kind == ARCHIVE_SIG and not item.get("hash"):
            return {**item, "hash": _archive_hash(item, base)}
        return item

    result: Props = rewrite(props, visit)
    return result


def _asset_bytes(asset: Props, base: Path) -> bytes:
    if "text" in asset:
        return str(asset["text"]).encode()
    if "path" in asset:
        return _read(base / str(asset["path"]))
    uri = str(asset.get("uri", ""))
    if uri.startswith("file://"):
        return _read(Path(uri.removeprefix("file://")))
    raise UnsupportedError(f"the embedded engine does not fetch remote assets ({uri!r})", "Use a FileAsset.")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise EngineError(f"asset {path} cannot be read: {error.strerror}") from error


def _archive_hash(archive: Props, base: Path) -> str:
    """SHA-256 over names and content hashes; not the value the Pulumi CLI computes (it hashes a tar stream)."""
    if "assets" in archive:
        parts = {name: _member_hash(member, base) for name, member in archive["assets"].items()}
    elif "path" in archive:
        parts = _file_parts(base / str(archive["path"]))
    else:
        raise UnsupportedError(
            f"the embedded engine does not fetch remote archives ({archive.get('uri')!r})", "Use a FileArchive."
        )
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _member_hash(member: Props, base: Path) -> str:
    if member.get("hash"):
        return str(member["hash"])
    if member.get(SIG) == ARCHIVE_SIG:
        return _archive_hash(member, base)
    return hashlib.sha256(_asset_bytes(member, base)).hexdigest()


def _file_parts(path: Path) -> dict[str, str]:
    if path.is_dir():
        files = sorted(item for item in path.rglob("*") if item.is_file())
        return {str(item.relative_to(path)): hashlib.sha256(_read(item)).hexdigest() for item in files}
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            return {name: hashlib.sha256(archive.read(name)).hexdigest() for name in sorted(archive.namelist())}
    return {path.name: hashlib.sha256(_read(path)).hexdigest()}
