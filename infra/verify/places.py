"""Reaching the roles of a stack wherever they run: their status pages, and the role command beside them."""

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, Final

from infra import ports, units
from infra.outputs import OutputsError, Place, StackOutputs
from infra.verify.context import Context, Json, VerifyError

_STATUS_TIMEOUT_S: Final = 15.0
_HERE: Final = "127.0.0.1"


def role_command(place: Place) -> tuple[str, ...]:
    """Argv of `python -m ztna` where a role runs: a released host's launcher, a container's Python, else our own."""
    first = place.exec[0].rpartition("/")[2] if place.exec else ""
    if first == "ssh":
        return (units.LAUNCHER,)
    if first in ("kubectl", "docker"):
        return ("python", "-m", "ztna")
    return (sys.executable, "-m", "ztna")


def chosen(outputs: StackOutputs, agent: str, service: str) -> StackOutputs:
    """The outputs reduced to one agent and the connector of one service.

    An agent that the stack does not run is taken to run on this machine.

    Raises:
        OutputsError: there is no such agent or service, or the agent may not reach it.
    """
    found, wanted = outputs.agent(agent), outputs.service(service)
    if service not in found.services:
        known = ", ".join(found.services) or "none"
        raise OutputsError(f"agent {agent!r} is not granted {service!r}; it may reach: {known}")
    connectors = tuple(entry for entry in outputs.connectors if entry.name == wanted.connector)
    places = dict(outputs.places)
    name = found.place or found.name
    if name not in places:
        url = f"http://{_HERE}:{ports.METRICS['agent']}/status"
        places[name] = Place(kind="agent", address=_HERE, status_url=url)
    return replace(outputs, agents=(replace(found, place=name),), connectors=connectors, places=places)


def status_page(context: Context, name: str) -> Json:
    """A role's /status page; {"state": "unreachable", "error": ...} where it gives none."""
    place = context.place(name)
    try:
        if place.status_url:
            return context.status(name)
        return _by_command(context, name, place)
    except (VerifyError, OutputsError) as error:
        return {"state": "unreachable", "error": str(error)}


def status_pages(context: Context, *names: str) -> list[Json]:
    """The pages of several places, asked at once."""
    with ThreadPoolExecutor(max_workers=len(names) or 1) as pool:
        return list(pool.map(lambda name: status_page(context, name), names))


def _by_command(context: Context, name: str, place: Place) -> Json:
    if not place.config_path:
        raise VerifyError(f"the outputs give neither status_url nor config_path for place {name!r}")
    argv = (*role_command(place), "status", "--json", "--config", place.config_path)
    done = context.run(name, argv, _STATUS_TIMEOUT_S)
    try:
        page: Any = json.loads(done.out)
    except ValueError:
        page = None
    if not isinstance(page, dict):
        raise VerifyError(f"no status of place {name!r}: {(done.err or done.out).strip()[-200:] or 'no output'}")
    return page
