"""Packets seen outside each NAT: tcpdump in a place of the stack while something happens, into a file of ours."""

import contextlib
import select
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from infra.outputs import StackOutputs
from infra.verify.context import Context, VerifyError

_SNAP_BYTES: Final = 96
"""Headers are enough: what is inside is encrypted anyway."""

_START_TIMEOUT_S: Final = 10.0
_LIMIT_S: Final = 120
_FLUSH_S: Final = 0.2


@dataclass(frozen=True, slots=True)
class Point:
    """Where to capture: a place, on the interface towards the relay. `outside` tells whether a NAT is behind it."""

    side: str
    place: str
    interface: str
    outside: bool


def find_points(context: Context, sides: Sequence[tuple[str, str]], relay_host: str) -> list[Point]:
    """The points that a stack gives access to.

    A place of kind `nat` in front of a side is best; where there is none, the side's own place will do: packets bear
    the same far ends there. A place without tcpdump, or none at all, gives no point.

    Args:
        context: how to reach the stack.
        sides: (side, its place) pairs.
        relay_host: the address of the relay, for the route.
    """
    points = []
    for side, name in sides:
        place = nat_place(context.outputs, name) or name
        if place not in context.outputs.places:
            continue
        interface = _interface(context, place, relay_host)
        if interface is not None:
            outside = place != name or context.place(name).nat is None
            points.append(Point(side, place, interface, outside))
    return points


def nat_place(outputs: StackOutputs, name: str) -> str | None:
    """The place of the NAT in front of a place; None where the stack gives no access to one."""
    place = outputs.places.get(name)
    if place is None or place.nat is None:
        return None
    found = outputs.places.get(place.nat.name)
    return place.nat.name if found is not None and found.kind == "nat" else None


def _interface(context: Context, place: str, relay_host: str) -> str | None:
    """The interface towards the relay, None where it cannot be found out or nobody can capture there."""
    script = f"command -v tcpdump > /dev/null && ip -o route get {relay_host}"
    try:
        done = context.run(place, ("sh", "-c", script), 15.0)
    except VerifyError:
        return None
    words = done.out.split()
    return words[words.index("dev") + 1] if done.code == 0 and "dev" in words[:-1] else None


@contextlib.contextmanager
def capturing(context: Context, points: Sequence[Point], directory: Path) -> Iterator[dict[Point, Path]]:
    """Capture UDP at every point while the block runs; the files are whole after it.

    Raises:
        VerifyError: tcpdump does not start at a point; carries its words.
    """
    with contextlib.ExitStack() as stack:
        files = {}
        for point in points:
            files[point] = directory / f"capture-{point.side}.pcap"
            stack.enter_context(_dump(context, point, files[point]))
        yield files
        # What is under way in the kernel's buffers is to be in the files too.
        time.sleep(_FLUSH_S)


@contextlib.contextmanager
def _dump(context: Context, point: Point, path: Path) -> Iterator[None]:
    # Immediate mode: otherwise the last second lies in the kernel when the capture ends.
    options = ("-i", point.interface, "-n", "-U", "--immediate-mode", "-s", str(_SNAP_BYTES), "-w", "-")
    argv = context.argv(point.place, ("timeout", str(_LIMIT_S), "tcpdump", *options, "udp"))
    with path.open("wb") as file:
        process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.PIPE, start_new_session=True
        )
        assert process.stderr is not None
        try:
            _await_listening(process.stderr, point)
            yield
        finally:
            process.terminate()
            try:
                process.communicate(timeout=5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()


def _await_listening(errors: IO[bytes], point: Point) -> None:
    deadline = time.monotonic() + _START_TIMEOUT_S
    said: list[str] = []
    while (left := deadline - time.monotonic()) > 0:
        ready, _, _ = select.select([errors], [], [], left)
        line = errors.readline().decode("utf-8", "replace") if ready else ""
        if "listening on" in line:
            return
        if not line:
            break
        said.append(line.strip())
    raise VerifyError(f"tcpdump in place {point.place!r} does not start: {' '.join(said)[-300:] or 'no answer'}")
