"""What is in the images that pods may run: this machine's Python, the libraries of this project, and our own sources.

An image is known by the end of its repository's name; its digest is not looked at, as no registry is asked. The layout
is that of the Dockerfile: no shell and no program but Python.
"""

import os
import sys
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from infra.config_pi import HTTP_REPOSITORY, OVERLAY_REPOSITORY

PROJECT: Final = Path(__file__).resolve().parents[2]
APP, LIBRARY = "/opt/ztna/app", "/opt/ztna/lib"
USER_ID: Final = 65532
ENVIRONMENT: Final = {
    "PATH": "/usr/local/bin:/usr/bin",
    "PYTHONPATH": f"{APP}:{LIBRARY}",
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONUNBUFFERED": "1",
    "LANG": "C.UTF-8",
    "HOME": "/nonexistent",
}
ETC: Final = {
    "/etc/passwd": "root:x:0:0::/nonexistent:/usr/sbin/nologin\nztna:x:65532:65532::/nonexistent:/usr/sbin/nologin\n",
    "/etc/group": "root:x:0:\nztna:x:65532:\n",
    "/etc/nsswitch.conf": "hosts: files dns\n",
}
_TEST_BACKEND: Final = ("infra/__init__.py", "infra/echo.py", "infra/http_probe.py")


@dataclass(frozen=True, kw_only=True, slots=True)
class Contents:
    """An image.

    Attributes:
        binds: (path on this machine, path in the image), all read-only.
        links: symbolic links by path.
        entrypoint, command: what runs where the manifest says nothing else.
        environment: variables that the manifest's own come on top of.
        user: the user and group that it runs as unless the manifest says otherwise.
    """

    binds: tuple[tuple[str, str], ...]
    links: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=lambda: dict(ETC))
    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=lambda: dict(ENVIRONMENT))
    user: int = USER_ID


def known_images() -> tuple[str, ...]:
    """Names of the images that there are contents for, as a repository's name ends."""
    return (OVERLAY_REPOSITORY, HTTP_REPOSITORY)


def contents(image: str) -> Contents | None:
    """Return what is in an image; None for one that the twin does not have."""
    repository = image.partition("@")[0]
    name = repository.rpartition("/")[2]
    repository = repository[: len(repository) - len(name)] + name.partition(":")[0]
    if f"/{repository}".endswith(f"/{OVERLAY_REPOSITORY}"):
        entry = ("python", f"{APP}/entrypoint.py")
        return _python(("ztna", *_TEST_BACKEND), {"docker/entrypoint.py": "entrypoint.py"}, entry)
    if f"/{repository}".endswith(f"/{HTTP_REPOSITORY}"):
        command = ("waitress", "--listen=0.0.0.0:8080", "--threads=8", "httpbin:app")
        return _python(_TEST_BACKEND, {}, ("python", "-m"), command)
    return None


def _python(
    sources: tuple[str, ...], more: Mapping[str, str], entrypoint: tuple[str, ...], command: tuple[str, ...] = ()
) -> Contents:
    binds = [(str(PROJECT / path), f"{APP}/{path}") for path in sources]
    binds += [(str(PROJECT / path), f"{APP}/{there}") for path, there in more.items() if (PROJECT / path).exists()]
    libraries = dict.fromkeys(sysconfig.get_paths()[name] for name in ("purelib", "platlib"))
    for number, path in enumerate(libraries):
        binds.append((path, LIBRARY if number == 0 else f"{LIBRARY}{number}"))
    interpreter, links = _interpreter()
    environment = dict(ENVIRONMENT)
    if len(libraries) > 1:
        environment["PYTHONPATH"] += f":{LIBRARY}1"
    return Contents(
        binds=(*interpreter, *binds), links=links, entrypoint=entrypoint, command=command, environment=environment
    )


def _interpreter() -> tuple[list[tuple[str, str]], dict[str, str]]:
    """The interpreter with its library, at the place where it was built for, and the libraries of the machine."""
    base, real = Path(sys.base_prefix), os.path.realpath(sys.executable)
    binds, links = [("/usr/lib", "/usr/lib")], {}
    for path in ("/usr/lib64", "/lib", "/lib64"):
        if os.path.islink(path):
            links[path] = os.readlink(path)
        elif os.path.isdir(path):
            binds.append((path, path))
    if base == Path("/usr"):
        binds.append((real, real))
    else:
        binds.append((str(base), str(base)))
    if base != Path("/usr/local"):
        links["/usr/local/bin/python"] = real
        links["/usr/local/bin/python3"] = real
    return binds, links
