"""Probes of a container as the kubelet has them: when to ask, and what answers mean. `Prober` is pure; `ask` is I/O.

    startup  until it succeeds, the others wait; at its threshold of failures the container is restarted
    liveness at its threshold of failures the container is restarted
    readiness the pod gets traffic while it succeeds; without one a started container is ready

Source: kubernetes.io/docs/concepts/configuration/liveness-readiness-startup-probes.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

KINDS: Final = ("startup", "liveness", "readiness")
_ANSWER_BYTES: Final = 256


@dataclass(slots=True)
class _Probe:
    period_s: float
    timeout_s: float
    failures_allowed: int
    successes_wanted: int
    due: float
    result: bool | None = None
    run: int = 0
    """Answers of one kind in a row."""
    last: bool | None = None
    asking: bool = False
    words: str = ""


@dataclass(slots=True)
class Prober:
    """The probes of one run of a container; another run has another prober.

    Args:
        container: of the manifest.
        started: when its process came up, in seconds of any clock.
        taken_over: it is up already: it counts as started and ready until a probe says otherwise.
    """

    container: Mapping[str, Any]
    started: float
    taken_over: bool = False
    _probes: dict[str, _Probe] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for kind in KINDS:
            spec = self.container.get(f"{kind}Probe")
            if spec:
                self._probes[kind] = _Probe(
                    period_s=float(spec.get("periodSeconds") or 10),
                    timeout_s=float(spec.get("timeoutSeconds") or 1),
                    failures_allowed=int(spec.get("failureThreshold") or 3),
                    successes_wanted=int(spec.get("successThreshold") or 1),
                    due=self.started + float(spec.get("initialDelaySeconds") or 0),
                    result=True if self.taken_over else None,
                )

    @property
    def up(self) -> bool:
        """Whether it has started."""
        probe = self._probes.get("startup")
        return probe is None or probe.result is True

    @property
    def ready(self) -> bool:
        """Whether it may get traffic."""
        probe = self._probes.get("readiness")
        return self.up and (probe is None or probe.result is True)

    @property
    def failed(self) -> str:
        """Why it must be restarted; empty while it need not."""
        for kind in ("startup", "liveness"):
            probe = self._probes.get(kind)
            if probe is not None and probe.last is False and probe.run >= probe.failures_allowed:
                return f"{kind} probe failed {probe.run} times: {probe.words}"
        return ""

    @property
    def waiting(self) -> str:
        """What keeps it from being ready."""
        for kind in ("startup", "readiness"):
            probe = self._probes.get(kind)
            if probe is not None and probe.result is not True:
                return f"{kind} probe: {probe.words or 'not asked yet'}"
        return ""

    def due(self, now: float) -> list[tuple[str, float]]:
        """Return (kind, time-out in seconds) of the probes to ask now; each must be told by `answer`."""
        found = []
        for kind, probe in self._probes.items():
            if probe.asking or now < probe.due or (kind == "startup") == self.up:
                continue
            probe.asking = True
            found.append((kind, probe.timeout_s))
        return found

    def answer(self, kind: str, good: bool, words: str, now: float) -> None:
        """Take an answer; `words` say what was wrong."""
        probe = self._probes[kind]
        probe.run = probe.run + 1 if probe.last is good else 1
        probe.last, probe.words, probe.asking = good, words, False
        probe.due = now + probe.period_s
        if good and probe.run >= probe.successes_wanted:
            probe.result = True
        elif not good and probe.run >= probe.failures_allowed:
            probe.result = False
        if kind == "startup" and probe.result is True:
            for other in self._probes.values():
                other.due = now


def target(container: Mapping[str, Any], kind: str) -> tuple[int, str | None]:
    """Return (port, path of HTTP or None) of a probe. Raises ValueError for a port name that the container has not."""
    spec = container[f"{kind}Probe"]
    asked = spec.get("httpGet") or spec["tcpSocket"]
    port = asked["port"]
    if isinstance(port, str) and not port.isdigit():
        named = {item.get("name"): item["containerPort"] for item in container.get("ports") or ()}
        if port not in named:
            raise ValueError(f"the container has no port named {port!r}")
        port = named[port]
    return int(port), (asked.get("path") or "/") if "httpGet" in spec else None


async def ask(address: str, port: int, path: str | None, timeout_s: float) -> tuple[bool, str]:
    """Ask once, over HTTP or by opening a connection; return whether it is good, and in words why not."""
    try:
        async with asyncio.timeout(timeout_s):
            reader, writer = await asyncio.open_connection(address, port)
            try:
                if path is None:
                    return True, ""
                writer.write(
                    f"GET {path} HTTP/1.1\r\nHost: {address}:{port}\r\nUser-Agent: kube-probe/1.30\r\n"
                    "Accept: */*\r\nConnection: close\r\n\r\n".encode()
                )
                line = (await reader.readline())[:_ANSWER_BYTES].decode("latin-1").split()
            finally:
                writer.close()
    except TimeoutError:
        return False, f"no answer from {address}:{port} within {timeout_s:g} s"
    except ConnectionRefusedError:
        return False, f"{address}:{port}: connection refused"
    except (OSError, ValueError) as error:
        return False, f"{address}:{port}: {error}"
    if len(line) < 2 or not line[1].isdigit():
        return False, f"{address}:{port} speaks no HTTP"
    return 200 <= int(line[1]) < 400, f"HTTP status {line[1]} of {path}"
