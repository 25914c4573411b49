"""More members of an overlay in one process: a second connector, a second agent, and what tests ask of sessions."""

import asyncio
import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from tests.support.certs import issue_member
from tests.support.overlay import CA, ECHO, FORWARDS, HTTP, Overlay, eventually, identity, quiet_log
from ztna.config import AgentConfig, ConnectorConfig
from ztna.io.agent import Agent
from ztna.io.connector import Connector
from ztna.io.session.agent_side import AgentSessions
from ztna.io.session.connector_side import ConnectorSessions
from ztna.io.session.served import ServedSession
from ztna.io.session.session import Session
from ztna.io.user_mode import UserMode

BOTH = (ECHO, HTTP)


async def another_connector(
    overlay: Overlay, name: str = "other", *, grants: tuple[str, ...] = BOTH, ready: bool = True, **changes: Any
) -> Connector:
    """A connector of another name with the same backends; the caller closes it."""
    member = issue_member(CA, "connector", name, *grants)
    value = {**overlay.connector_value(), **identity(member), "name": name, **changes}
    connector = Connector(ConnectorConfig.from_json(value), loop=asyncio.get_running_loop(), log=quiet_log())
    await connector.start()
    if ready:
        await eventually(lambda: connector.not_ready() is None)
    return connector


class OtherAgent:
    """An agent of another name, in user mode."""

    def __init__(self, overlay: Overlay, name: str, virtual_ip: str) -> None:
        member = issue_member(CA, "agent", name, *BOTH)
        value = {**overlay.agent_value(), **identity(member), "name": name, "virtual_ip": virtual_ip}
        config = replace(AgentConfig.from_json(value), forwards=FORWARDS)
        self.agent = Agent(config, loop=asyncio.get_running_loop(), log=quiet_log(), local=self._local)
        agent_sessions(self.agent).bind_addr = "127.0.0.1"

    def _local(self, agent: Agent) -> UserMode:
        self.user = UserMode(agent, agent.config.forwards)
        return self.user

    async def __aenter__(self) -> "OtherAgent":
        await self.agent.start()
        await eventually(lambda: self.agent.not_ready() is None)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.agent.close()


def agent_sessions(agent: Agent) -> AgentSessions:
    """An agent's sessions; there must be some."""
    assert agent.sessions is not None
    return agent.sessions


def connector_sessions(connector: Connector) -> ConnectorSessions:
    """A connector's sessions; there must be some."""
    assert connector.sessions is not None
    return connector.sessions


def only_session(overlay: Overlay) -> Session:
    """The agent's one session."""
    (session,) = agent_sessions(overlay.agent).sessions
    return session


def served(connector: Connector) -> ServedSession:
    """The connector's one proven session."""
    (state,) = connector_sessions(connector).served
    return state


def write_policy(overlay: Overlay, policy: Mapping[str, Any]) -> None:
    """Replace the intermediate's policy, which it reads at once."""
    (overlay.directory / "policy.json").write_text(json.dumps(policy))
    assert overlay.relay.reload()
