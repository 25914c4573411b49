"""Whether this network namespace forwards packets at all, per family: turned on for the relay, put back after it."""

from collections.abc import Iterable
from pathlib import Path
from typing import Final

from ztna.io.forward.types import ForwardError

SWITCHES: Final = {
    "ipv4": Path("/proc/sys/net/ipv4/ip_forward"),
    "ipv6": Path("/proc/sys/net/ipv6/conf/all/forwarding"),
}
_IPV6_INTERFACES: Final = Path("/proc/sys/net/ipv6/conf")


class Forwarding:
    """The switches of this namespace.

    Args:
        off_before: families that were off before a relay turned them on; others are put back as they are found.
    """

    def __init__(self, off_before: Iterable[str] = ()) -> None:
        self._off_before = set(off_before)
        self._accept_ra: list[Path] = []

    def was_off(self, family: str) -> bool:
        """Whether the family was off before any relay came."""
        return family in self._off_before or not is_on(family)

    def turn_on(self, families: Iterable[str]) -> None:
        """Turn forwarding on.

        Raises:
            ForwardError: it is off and may not be changed here.
        """
        for family in families:
            if is_on(family):
                continue
            self._off_before.add(family)
            if family == "ipv6":
                self._keep_router_advertisements()
            switch = SWITCHES[family]
            try:
                switch.write_text("1")
            except OSError as exc:
                name = ".".join(switch.parts[3:])
                raise ForwardError(f"{name} is 0 and cannot be set ({exc.strerror}): set it to 1 on the host") from exc

    def put_back(self) -> None:
        """Make the switches what they were."""
        for family in self._off_before:
            _write(SWITCHES[family], "0")
        for path in self._accept_ra:
            _write(path, "1")

    def _keep_router_advertisements(self) -> None:
        """A host that forwards ignores router advertisements, and so loses its default route, unless told 2."""
        for path in sorted(_IPV6_INTERFACES.glob("*/accept_ra")):
            if _read(path) == "1" and _write(path, "2"):
                self._accept_ra.append(path)


def is_on(family: str) -> bool:
    """Whether this namespace forwards packets of the family."""
    return _read(SWITCHES[family]) not in ("", "0")


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def _write(path: Path, value: str) -> bool:
    try:
        path.write_text(value)
    except OSError:
        return False
    return True
