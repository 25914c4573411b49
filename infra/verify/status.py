"""One reading of the roles' /status pages: registrations and the observed address."""

from dataclasses import dataclass
from typing import Any

REGISTERED = "registered"
DENIED = "denied"


@dataclass(frozen=True, slots=True)
class RoleStatus:
    """What a role says of itself. `services` maps a service id to its registration state."""

    role: str
    name: str
    state: str
    observed: tuple[str, int] | None
    services: dict[str, str]
    pid: int | None

    def in_state(self, state: str) -> list[str]:
        """The ids of the services in this registration state."""
        return [service for service, now in self.services.items() if now == state]


def read_status(page: dict[str, Any]) -> RoleStatus:
    """A /status page as RoleStatus. Absent fields become empty, so that a check can say what is missing."""
    return RoleStatus(
        role=str(page.get("role", "")),
        name=str(page.get("name", "")),
        state=str(page.get("state", "")),
        observed=_endpoint(page.get("observed_address")),
        services=_services(page.get("services")),
        pid=page.get("pid") if isinstance(page.get("pid"), int) else None,
    )


def _endpoint(value: Any) -> tuple[str, int] | None:
    if isinstance(value, str) and ":" in value:
        host, _, port = value.rpartition(":")
        return (host, int(port)) if port.isdigit() else None
    if isinstance(value, dict) and "ip" in value:
        return str(value["ip"]), int(value.get("port") or 0)
    if isinstance(value, (list, tuple)) and len(value) == 2:
        return str(value[0]), int(value[1])
    return None


def _services(value: Any) -> dict[str, str]:
    if isinstance(value, dict):
        return {
            str(service): str(entry.get("state", "")) if isinstance(entry, dict) else str(entry)
            for service, entry in value.items()
        }
    if isinstance(value, (list, tuple)):
        return {str(entry.get("id")): str(entry.get("state", "")) for entry in value if isinstance(entry, dict)}
    return {}
