"""Whom an agent asks for sessions, and when: who serves its services, and how long it waits before it asks again.

Flow per service: asked for with the registration -> the intermediate names its connector -> a session, or asked for
again ever more rarely. A service of `ztna-v1` needs none: its packets go by DATAGRAM frames through the intermediate.
"""

import asyncio
import random
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from ztna.io.logs import Logger
from ztna.io.session.routes import Service, ServiceRoutes
from ztna.io.session.session import Session
from ztna.io.session.session_types import AgentSessionCounters, ControlPlane, Local

RETRY_S: Final = (0.5, 1.0, 2.0, 4.0, 8.0, 10.0)
ANSWER_S: Final = 2.0


class Asking:
    """See the module.

    Args:
        sessions: gives every session that there is now.
        sealed: whether services of `ztna-v1` are to have nobody, since their packets could be read on the way.
    """

    def __init__(
        self,
        routes: ServiceRoutes,
        control: ControlPlane,
        local: Local,
        *,
        counters: AgentSessionCounters,
        sessions: Callable[[], Iterable[Session]],
        sealed: bool,
        loop: asyncio.AbstractEventLoop,
        log: Logger,
    ) -> None:
        self.sealed = sealed
        self._routes = routes
        self._services = routes.services
        self._control = control
        self._local = local
        self._counters = counters
        self._sessions = sessions
        self._loop = loop
        self._log = log

    def close(self) -> None:
        """Ask for nothing more."""
        for service in self._services.values():
            self._cancel(service)
            service.protocol = 0

    # who serves what

    def without_sessions(self) -> None:
        """The intermediate knows no sessions, so nobody can be asked for one."""
        for service in self._services.values():
            service.protocol, service.connector = 1, None
            self._cancel(service)
            if service.session is None:
                self._routes.send_waiting(service)
        self._local.sessions_changed()

    def registering(self, services: Sequence[str]) -> None:
        """Ask for sessions at once: who serves the services now most likely has them, as before."""
        for service in (self._services[name] for name in services if name in self._services):
            if service.protocol != 1:
                self._cancel(service)
                service.asked = True
                self.ask(service)

    def changed(self, service_id: str, connector: str | None, protocol: int) -> None:
        """The intermediate says who serves a service."""
        service = self._services.get(service_id)
        if service is None:
            return
        if protocol == 1 and self.sealed:
            # The intermediate says so, and would read everything; nothing but its word asks for that.
            self._counters.refused_legacy += 1
            self._log.warning("legacy_refused", service=service_id, detail="protocol: v2 allows no other way to it")
            connector, protocol = None, 0
        # What was asked for with the registration is answered after this, by that connector.
        asked, service.asked = service.asked and protocol == 2, False
        service.connector, service.protocol = connector, protocol
        if not asked:
            self._follow(service)
        self._local.sessions_changed()

    def _follow(self, service: Service) -> None:
        service.attempts = 0
        self._cancel(service)
        if service.protocol == 2:
            self.ask(service)
        elif service.protocol == 1:
            if service.session is not None and service.session.settings.peer != service.connector:
                # Somebody else serves it now, and not by sessions.
                service.session = None
            if service.session is None:
                self._routes.send_waiting(service)

    # asking

    def ask(self, service: Service) -> None:
        """Ask for a session, naming the one there is with that connector so that it is taken up again."""
        service.retry = None
        live = (session for session in self._sessions() if not session.closed)
        present = next((session for session in live if session.settings.peer == service.connector), None)
        self._counters.requested += 1
        self._control.connect(service.id, None if present is None else (present.id, present.settings.key))
        step = RETRY_S[min(service.attempts, len(RETRY_S) - 1)]
        service.attempts += 1
        if service.session is None:
            delay = step * random.uniform(1.0, 1.5)  # noqa: S311 - spreads load, guards nothing
            service.retry = self._loop.call_later(delay + ANSWER_S, self._again, service)

    def later(self, service: Service) -> None:
        """A service lost its session: ask for another one after a while, unless that is under way."""
        if service.protocol == 2 and service.session is None and service.retry is None:
            delay = RETRY_S[min(service.attempts, len(RETRY_S) - 1)]
            service.retry = self._loop.call_later(delay, self._again, service)

    def settled(self, service: Service) -> None:
        """It has its session."""
        self._cancel(service)
        service.attempts = 0

    def _again(self, service: Service) -> None:
        service.retry = None
        if service.protocol == 2 and service.session is None and not self._being_made(service):
            self.ask(service)
        elif service.session is None and service.protocol == 2:
            service.retry = self._loop.call_later(RETRY_S[-1], self._again, service)

    def _being_made(self, service: Service) -> bool:
        return any(service.id in session.services and not session.closed for session in self._sessions())

    def _cancel(self, service: Service) -> None:
        if service.retry is not None:
            service.retry.cancel()
            service.retry = None

    # what people see

    def not_ready(self) -> str | None:
        """Which services still wait for their session, None if none does."""
        waiting = [service for service in self._services.values() if service.protocol == 2 and service.session is None]
        if not waiting:
            return None
        return f"waiting for a session with {waiting[0].connector} for {', '.join(service.id for service in waiting)}"
