"""The bundle: what a host runs, as one content-addressed .tar.gz that the host's own python3 runs as it is.

    lib/            our package and its wheels, unpacked, exactly those of uv.lock
    test-backend/   httpbin, waitress and theirs; kept apart, so that the roles never import them
    bin/ztna        runs a role; bin/ztna-test-backend runs a module of the test backend

The host needs no pip, no virtual environment and no package. The same inputs give the same bytes. `release_id` names
the contents and is told without the network; `build` downloads what is not in the cache, verified by the lock's hashes.
"""

import gzip
import hashlib
import io
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from infra.bundle_lock import LOCK, BundleError, Target, Wheel, backend_wheels, product_wheels, requirements

__all__ = ["Bundle", "BundleError", "Target", "build", "release_id"]

ROOT: Final = Path(__file__).resolve().parent.parent
CACHE: Final = Path(".ztna") / "bundles"
SOURCES: Final = ("ztna/**/*.py", "infra/__init__.py", "infra/echo.py", "infra/http_probe.py")
"""What of our sources a host runs: the roles, and of infra the probe of readiness and the echo backend."""
DOWNLOAD_TIMEOUT_S: Final = 300.0
CHUNK_BYTES: Final = 1 << 20
COMPRESSION: Final = 6

_LAUNCHER: Final = """\
#!/usr/bin/python3 -I
import os, runpy, sys

release = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
sys.path[:0] = {paths}
{run}
"""
LAUNCHERS: Final[dict[str, str]] = {
    "bin/ztna": _LAUNCHER.format(
        paths='[os.path.join(release, "lib")]', run='runpy.run_module("ztna", run_name="__main__", alter_sys=True)'
    ),
    "bin/ztna-test-backend": _LAUNCHER.format(
        paths='[os.path.join(release, "test-backend"), os.path.join(release, "lib")]',
        run='sys.argv = sys.argv[1:]\nrunpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)',
    ),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Bundle:
    """A bundle on disk: `sha256` is of the file, `release_id` (16 hex digits) of what is in it."""

    path: Path
    sha256: str
    release_id: str


def release_id(target: Target, root: Path = ROOT, lock: Path = LOCK) -> str:
    """Return the name of a release: changes when, and only when, a source, a pinned wheel or the target does.

    Raises:
        BundleError: the lock has no wheel of a package for the target.
    """
    digest = hashlib.sha256(f"1\0{target.python}\0{target.platform}\0".encode())
    for folder, wheels in (("lib", product_wheels(target, lock)), ("test-backend", backend_wheels(target, lock))):
        for wheel in wheels:
            digest.update(f"{folder}/{wheel.filename}\0{wheel.sha256}\0".encode())
    for name, content in _own_files(root):
        digest.update(f"{name}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()[:16]


def build(target: Target, out_dir: Path = CACHE) -> Bundle:
    """Return the bundle for a target, made unless `out_dir` has it; wheels are cached in `out_dir/wheels`.

    Raises:
        BundleError: a wheel cannot be had, or is not the one that the lock pins.
    """
    name = release_id(target)
    path = out_dir / f"ztna-{name}.tar.gz"
    if not path.exists():
        wheels = product_wheels(target), backend_wheels(target)
        folder = out_dir / "wheels"
        fetch(wheels[0] + wheels[1], target, folder)
        members: dict[str, bytes] = dict(_own_files(ROOT))
        for prefix, chosen in zip(("lib", "test-backend"), wheels, strict=True):
            for wheel in chosen:
                for inner, content in unpacked(folder / wheel.filename):
                    members.setdefault(f"{prefix}/{inner}", content)
        _write(path, archive(members))
    return Bundle(path=path, sha256=file_sha256(path), release_id=name)


def fetch(wheels: Sequence[Wheel], target: Target, folder: Path) -> None:
    """Bring wheels into a folder by pip in hash-checking mode, so that mirrors and proxies of the user are respected.

    Raises:
        BundleError: pip is not there or fails, or a file is not the pinned one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    missing = [wheel for wheel in dict.fromkeys(wheels) if not (folder / wheel.filename).exists()]
    if missing:
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            _pip_download(missing, target, Path(scratch))
            for wheel in missing:
                got = Path(scratch) / wheel.filename
                if not got.exists():
                    raise BundleError(f"pip brought another file than {wheel.filename}: run `uv lock` and try again")
                got.replace(folder / wheel.filename)
    for wheel in wheels:
        if file_sha256(folder / wheel.filename) != wheel.sha256:
            (folder / wheel.filename).unlink()
            raise BundleError(f"{wheel.filename} is not the file that uv.lock pins; it is removed: try again")


def _pip_download(wheels: Sequence[Wheel], target: Target, folder: Path) -> None:
    listed = folder / "requirements.txt"
    listed.write_text(requirements(wheels))
    argv = [
        *(sys.executable, "-m", "pip", "download", "--quiet", "--no-input", "--disable-pip-version-check"),
        *("--no-deps", "--require-hashes", "--only-binary", ":all:", "--implementation", "cp"),
        *("--python-version", target.python, "--dest", str(folder), "--requirement", str(listed)),
    ]
    newest = int(target.platform.split("_")[2])
    for minor in range(newest, 16, -1):
        argv += ["--platform", f"manylinux_2_{minor}_{target.machine}"]
    argv += ["--platform", f"manylinux2014_{target.machine}"]
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=DOWNLOAD_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise BundleError(f"downloading wheels took longer than {DOWNLOAD_TIMEOUT_S:g} s: check the network") from error
    if done.returncode != 0:
        raise BundleError(f"pip could not download the wheels of uv.lock:\n{done.stderr.strip()[-1500:]}")


def unpacked(wheel: Path) -> Iterator[tuple[str, bytes]]:
    """Yield the files of a wheel as an installer would place them into one directory; scripts are left out.

    Source: https://packaging.python.org/en/latest/specifications/binary-distribution-format/
    """
    with zipfile.ZipFile(wheel) as opened:
        for info in sorted(opened.infolist(), key=lambda item: item.filename):
            name = info.filename
            if info.is_dir():
                continue
            if ".." in Path(name).parts or name.startswith("/"):
                raise BundleError(f"{wheel.name} holds {name!r}, which leaves its directory")
            top, _, rest = name.partition("/")
            if top.endswith(".data"):
                scheme, _, name = rest.partition("/")
                if scheme not in ("purelib", "platlib"):
                    continue
            yield name, opened.read(info)


def archive(members: dict[str, bytes]) -> bytes:
    """Return a .tar.gz of files, the same bytes for the same members: sorted, owned by root, without times."""
    packed = io.BytesIO()
    with (
        gzip.GzipFile(fileobj=packed, mode="wb", compresslevel=COMPRESSION, mtime=0, filename="") as zipped,
        tarfile.open(fileobj=zipped, mode="w", format=tarfile.PAX_FORMAT) as tar,
    ):
        for name in sorted(members):
            info = tarfile.TarInfo(name)
            info.size = len(members[name])
            info.mode = 0o755 if name.startswith("bin/") else 0o644
            tar.addfile(info, io.BytesIO(members[name]))
    return packed.getvalue()


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _own_files(root: Path) -> Iterator[tuple[str, bytes]]:
    """Yield launchers and sources by their place in the bundle, in order."""
    for name, text in sorted(LAUNCHERS.items()):
        yield name, text.encode()
    for path in sorted({path for pattern in SOURCES for path in root.glob(pattern)}):
        yield f"lib/{path.relative_to(root).as_posix()}", path.read_bytes()
    # What importlib.metadata reads: a role says which version it is, also where no installer was.
    version = tomllib.loads((root / "pyproject.toml").read_text())["project"]["version"]
    yield f"lib/ztna-{version}.dist-info/METADATA", f"Metadata-Version: 2.1\nName: ztna\nVersion: {version}\n".encode()


def _write(path: Path, content: bytes) -> None:
    """Write a file whole or not at all: two deployers may build the same one at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".bundle-", delete=False) as file:
        file.write(content)
    Path(file.name).replace(path)
