"""Whether the units of a stack's hosts run, asked on the hosts themselves, and what they say where they do not.

A unit that ends at once is started again and again: what counts is whether it is ready.
"""

import json
import shlex
from typing import Final

from infra.outputs import Place, StackOutputs
from infra.units import READY
from infra.verify.context import Context
from infra.verify.model import Check, Result, judged

ASK_S: Final = 60.0
"""More than the turns below take of a unit that accepts and never answers: 8 of 4 s, and Python's start."""
SAID: Final = "--"
_ASK: Final = (
    "for turn in 1 2 3 4 5 6 7 8; do python3 -I -c {ready} 2>/dev/null && echo Ready=yes && break; sleep 1; done; "
    "systemctl show {unit} -p ActiveState,SubState,Result,ExecMainStatus,NRestarts; "
    "echo {said}; journalctl -u {unit} -n 40 --no-pager -o cat"
)
_HTTP: Final = "import urllib.request as u; assert u.urlopen({url!r}, timeout=3).status == 200"
_TCP: Final = "import socket as s; s.create_connection(({host!r}, {port}), 3)"
_EXEC_FAILED: Final = "203"
"""systemd.exec(5): EXEC, the command could not be executed."""


def unit_of(place: Place) -> str:
    """Return the unit that a place's controls are for; nothing where it is no unit reached by SSH."""
    start = place.controls.get("start", ())
    return start[-1] if place.exec[:1] == ("ssh",) and start[-3:-1] == ("systemctl", "start") else ""


def checks(outputs: StackOutputs) -> tuple[Check, ...]:
    """Return one check for each unit of the stack's hosts; its id is `unit-PLACE`."""

    def check(name: str, unit: str) -> Check:
        return Check(f"unit-{name}", f"Unit {unit}", lambda context: running(context, name, unit), needs_path=False)

    return tuple(check(name, unit) for name, place in outputs.places.items() if (unit := unit_of(place)))


def running(context: Context, name: str, unit: str) -> Result:
    """Hold that a unit is active and stays so. Raises VerifyError when its host cannot be asked."""
    # One word after another reaches the host's shell as one line: quoted, so that all of it runs as whoever runs `sh`.
    script = _ASK.format(unit=unit, said=SAID, ready=shlex.quote(_ready(unit)))
    done = context.run(name, ("sh", "-c", shlex.quote(script)), ASK_S)
    shown, _, journal = done.out.partition(f"{SAID}\n")
    values = dict(line.partition("=")[::2] for line in shown.splitlines())
    if not values:
        return judged(False, "no answer", "active", f"its host does not answer: {done.err.strip()[-200:]}")
    restarts = int(values.get("NRestarts") or 0)
    measured = f"{values.get('ActiveState')} ({values.get('SubState')})"
    measured += f", started again {restarts} times" if restarts else ""
    if values.get("ActiveState") == "active" and values.get("Ready") == "yes":
        return judged(True, f"{measured}, ready", "active, ready")
    return judged(False, f"{measured}, not ready", "active, ready", why_not(unit, values, journal))


def _ready(unit: str) -> str:
    """Return a line of Python that fails on the unit's host while the unit is not ready."""
    url = READY.get(unit, "")
    if url.startswith("tcp://"):
        host, _, port = url.removeprefix("tcp://").rpartition(":")
        return _TCP.format(host=host, port=port)
    return _HTTP.format(url=url) if url else "pass"


def why_not(unit: str, values: dict[str, str], journal: str) -> str:
    """Return why a unit does not run, from systemd's own properties and what the unit wrote last."""
    status = values.get("ExecMainStatus", "")
    if status == _EXEC_FAILED or "203/EXEC" in journal or "at step EXEC" in journal:
        return f"{unit} cannot be executed (203/EXEC): is its program there and executable?"
    said = "" if values.get("ActiveState") == "inactive" else _last_words(journal)
    if said:
        return f"{unit} ends as soon as it starts: {said}"
    if values.get("ActiveState") == "active":
        return f"{unit} runs and is not ready: what it waits for is in its journal"
    if values.get("ActiveState") == "inactive" and values.get("Result") in ("success", None):
        return f"{unit} is stopped: whoever stopped it may start it, `systemctl start {unit}`"
    return (
        f"{unit} is {values.get('ActiveState')} (result {values.get('Result')}, exit status {status}): see its journal"
    )


def _last_words(journal: str) -> str:
    """The last error that a role logged or wrote, without systemd's own lines and without a traceback's."""
    for line in reversed(journal.splitlines()):
        try:
            entry = json.loads(line)
        except ValueError:
            if line.startswith(("ztna", "error", "Error", "ERROR")) and ".service:" not in line and " - " not in line:
                return line.strip()
            continue
        if isinstance(entry, dict):
            if entry.get("level") in ("error", "critical"):
                return " ".join(str(entry[key]) for key in ("event", "error", "reason") if entry.get(key))
            if entry.get("event") == "stopping":
                return ""  # it was told to
    return ""
