"""Bundles: named by their contents, the same bytes for the same inputs, only what the lock pins."""

import io
import shutil
import tarfile
import zipfile
from pathlib import Path

import pytest

from infra import bundle, bundle_lock
from infra.bundle import BundleError, Target

LOCK = """\
version = 1
[[package]]
name = "ztna"
version = "0.1.0"
dependencies = [{ name = "one" }, { name = "win", marker = "sys_platform == 'win32'" }, { name = "two", version = "2" }]
[[package]]
name = "one"
version = "1.0"
wheels = [
  { url = "https://x/one-1.0-py3-none-any.whl", hash = "sha256:aa" },
  { url = "https://x/one-1.0-cp312-cp312-manylinux_2_17_x86_64.manylinux2014_x86_64.whl", hash = "sha256:bb" },
  { url = "https://x/one-1.0-cp312-cp312-musllinux_1_2_x86_64.whl", hash = "sha256:cc" },
]
[[package]]
name = "two"
version = "1"
[[package]]
name = "two"
version = "2"
wheels = [{ url = "https://x/two-2-cp311-abi3-manylinux_2_28_x86_64.whl", hash = "sha256:dd" }]
"""


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    path = tmp_path / "uv.lock"
    path.write_text(LOCK)
    return path


def test_most_specific_wheel_of_each_needed_package(lock: Path) -> None:
    chosen = bundle_lock.product_wheels(Target(), lock)
    assert [(wheel.name, wheel.version, wheel.sha256) for wheel in chosen] == [("one", "1.0", "bb"), ("two", "2", "dd")]


def test_package_without_a_wheel_for_the_target_is_named(lock: Path) -> None:
    with pytest.raises(BundleError, match=r"two 2 has no wheel for Python 3\.12 on manylinux_2_28_aarch64"):
        bundle_lock.product_wheels(Target(platform="manylinux_2_28_aarch64"), lock)


@pytest.mark.parametrize("platform", bundle_lock.PLATFORMS)
@pytest.mark.parametrize("python", bundle_lock.PYTHONS)
def test_real_lock_has_every_wheel(python: str, platform: str) -> None:
    target = Target(python=python, platform=platform)
    names = {wheel.name for wheel in bundle_lock.product_wheels(target)}
    assert {"aioquic", "cryptography", "msgspec", "psutil", "qh3", "uvloop"} <= names
    assert not {"pulumi", "paramiko", "httpbin"} & names
    assert {"httpbin", "waitress"} <= {wheel.name for wheel in bundle_lock.backend_wheels(target)}


def test_unknown_target_is_refused() -> None:
    with pytest.raises(ValueError, match=r"3\.9"):
        Target(python="3.9")


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    """A copy of what a host runs of our sources."""
    root = tmp_path / "sources"
    for name in ("ztna", "infra"):
        shutil.copytree(bundle.ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__", "lab", "engine"))
    (tmp_path / "sources" / "pyproject.toml").write_text('[project]\nversion = "1.2.3"\n')
    return root


def test_release_changes_with_what_it_holds_and_with_nothing_else(sources: Path) -> None:
    target = Target()
    first = bundle.release_id(target, sources)
    assert len(first) == 16
    (sources / "infra" / "cli.py").write_text("# not on the host")
    assert bundle.release_id(target, sources) == first
    (sources / "infra" / "echo.py").write_text("# on the host")
    second = bundle.release_id(target, sources)
    assert second != first
    assert bundle.release_id(Target(python="3.11"), sources) != second
    (sources / "pyproject.toml").write_text('[project]\nversion = "1.2.4"\n')
    assert bundle.release_id(target, sources) != second


def test_archive_has_the_same_bytes_for_the_same_members() -> None:
    one = bundle.archive({"lib/a.py": b"a", "bin/run": b"#!"})
    assert one == bundle.archive({"bin/run": b"#!", "lib/a.py": b"a"})
    with tarfile.open(fileobj=io.BytesIO(one)) as tar:
        described = [(member.name, member.mode, member.mtime, member.uid) for member in tar.getmembers()]
    assert described == [("bin/run", 0o755, 0, 0), ("lib/a.py", 0o644, 0, 0)]


def wheel(path: Path, **members: str) -> Path:
    with zipfile.ZipFile(path, "w") as opened:
        for name, text in members.items():
            opened.writestr(name.replace("__", "/").replace("_py", ".py").replace("_data", ".data"), text)
    return path


def test_wheel_is_unpacked_as_an_installer_would(tmp_path: Path) -> None:
    path = wheel(tmp_path / "x.whl", x__a_py="a", x_data__purelib__x__b_py="b", x_data__scripts__run="s")
    assert dict(bundle.unpacked(path)) == {"x/a.py": b"a", "x/b.py": b"b"}


def test_wheel_that_leaves_its_directory_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.whl", "w") as opened:
        opened.writestr("../evil.py", "")
    with pytest.raises(BundleError, match="leaves its directory"):
        list(bundle.unpacked(tmp_path / "x.whl"))


def test_cached_wheel_that_is_not_the_pinned_one_is_refused_and_removed(tmp_path: Path) -> None:
    (tmp_path / "one.whl").write_bytes(b"something else")
    pinned = bundle_lock.Wheel(name="one", version="1", filename="one.whl", sha256="00")
    with pytest.raises(BundleError, match=r"one\.whl is not the file that uv\.lock pins"):
        bundle.fetch([pinned], Target(), tmp_path)
    assert not (tmp_path / "one.whl").exists()


def test_pip_is_told_the_one_hash_that_is_meant() -> None:
    pinned = bundle_lock.Wheel(name="one", version="1", filename="one.whl", sha256="ab")
    assert bundle_lock.requirements([pinned]) == "one==1 --hash=sha256:ab\n"
