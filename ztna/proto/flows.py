"""Which agent a connector's reply belongs to.

Flow: an agent's packet to a service opens a flow between the agent's connection and the connector's -> packets of the
flow refresh it -> a reply is looked up by its own key (the flow's, turned round) and goes to that agent alone -> idle
flows expire. If the agent's or the connector's connection is lost, its flows are parked and wait for the same identity
to return, so that a reconnect does not break transfers in which only the other side has something to say.
"""

from collections import OrderedDict
from heapq import heapify, heappop, heappush
from typing import Final

from ztna.proto.limits import IntermediateLimits
from ztna.proto.packet import TCP, UDP, FlowKey, FragmentKey
from ztna.proto.registry import Peer, Service
from ztna.proto.stats import IntermediateStats

__all__ = ["Flow", "FlowTable"]

# Flows of one agent that are compared when one of them must go.
EVICTION_SAMPLE: Final = 16
# Stale heap entries tolerated beyond one per flow.
HEAP_SLACK: Final = 1024


class Flow:
    """One flow. Its key is (protocol, agent, agent port, service, service port), as `packet.flow_key` gives it."""

    __slots__ = ("agent", "alive", "connector", "deadline", "idle_s", "key", "owner", "reply_key", "service", "used")

    def __init__(self, key: FlowKey, service: Service, agent: Peer, connector: Peer) -> None:
        protocol, source, source_port, destination, destination_port = key
        self.key = key
        self.reply_key: FlowKey = (protocol, destination, destination_port, source, source_port)
        self.service = service
        self.agent: Peer | None = agent
        self.owner = agent.owner
        self.connector: Peer | None = connector
        self.used = 0.0
        self.idle_s = 0.0
        self.deadline = 0.0
        self.alive = True


class FlowTable:
    """All flows of one intermediate: bounded, expiring, and never giving a reply to another agent."""

    __slots__ = ("_heap", "_limits", "_order", "_parked", "_stats", "count", "fragments")

    def __init__(self, limits: IntermediateLimits, stats: IntermediateStats) -> None:
        self._limits = limits
        self._stats = stats
        self._heap: list[tuple[float, int, Flow]] = []
        self._order = 0
        self._parked: dict[str, dict[Flow, None]] = {}
        self.count = 0
        self.fragments: OrderedDict[tuple[int, FragmentKey], tuple[float, Flow]] = OrderedDict()

    def open(self, key: FlowKey, service: Service, agent: Peer, connector: Peer, now: float) -> Flow | None:
        """Open a flow; None if the table is full. The key must not be in use on the connector."""
        if len(agent.flows) >= self._limits.flows_per_agent:
            self._evict(agent)
        elif self.count >= self._limits.flows:
            if not agent.flows:
                return None
            self._evict(agent)
        flow = Flow(key, service, agent, connector)
        agent.flows[flow] = None
        connector.outbound[key] = flow
        connector.inbound[flow.reply_key] = flow
        self.count += 1
        self._stats.flows_opened += 1
        self._schedule(flow, now, self._idle_s(key))
        return flow

    def close(self, flow: Flow) -> None:
        """Remove a flow from wherever it is."""
        if not flow.alive:
            return
        flow.alive = False
        self.count -= 1
        self._detach_agent(flow)
        self._detach_connector(flow)

    def hand_over(self, flow: Flow, agent: Peer, now: float) -> None:
        """Give a flow to another connection of the identity that owns it."""
        self._detach_agent(flow)
        flow.agent = agent
        agent.flows[flow] = None
        self._stats.flows_moved += 1
        self._schedule(flow, now, self._idle_s(flow.key))

    def agent_registered(self, agent: Peer, service: Service, now: float) -> None:
        """Give an agent the flows to `service` that its identity left behind on a lost connection."""
        if agent.owner is not None:
            for flow in [flow for flow in self._parked.get(agent.owner, ()) if flow.service is service]:
                self.hand_over(flow, agent, now)

    def agent_left(self, agent: Peer, now: float) -> None:
        """Give the flows of a lost agent connection to a newer one of the same identity, or park them for it."""
        for flow in list(agent.flows):
            if flow.connector is None or agent.owner is None:
                self.close(flow)
            elif agent.successor is not None and flow.service.key in agent.successor.reach:
                self.hand_over(flow, agent.successor, now)
            else:
                self._detach_agent(flow)
                self._parked.setdefault(agent.owner, {})[flow] = None
                self._schedule(flow, now, self._limits.parked_flow_s)

    def agent_withdrawn(self, agent: Peer, service: Service) -> None:
        """Close the flows of an agent that may not reach a service any more."""
        for flow in [flow for flow in agent.flows if flow.service is service]:
            self.close(flow)

    def close_parked(self) -> None:
        """Close the flows of absent agents: what they were allowed may have changed."""
        for flow in [flow for flows in self._parked.values() for flow in flows]:
            self.close(flow)

    def connector_left(self, connector: Peer, service: Service, now: float, *, park: bool) -> None:
        """Take the flows to `service` from a connector: parked for its return, or closed."""
        if park:
            service.parked_owner = connector.owner
        for flow in [flow for flow in connector.outbound.values() if flow.service is service]:
            if not park or flow.agent is None:
                self.close(flow)
                continue
            self._detach_connector(flow)
            service.parked[flow] = None
            self._schedule(flow, now, self._limits.parked_flow_s)

    def connector_registered(self, connector: Peer, service: Service, now: float) -> None:
        """Give a service's parked flows to its connector if it is of the identity that had them, else close them."""
        if not service.parked:
            return
        same = service.parked_owner == connector.owner
        for flow in list(service.parked):
            if not same or flow.key in connector.outbound:
                self.close(flow)
                continue
            del service.parked[flow]
            flow.connector = connector
            connector.outbound[flow.key] = flow
            connector.inbound[flow.reply_key] = flow
            self._stats.flows_moved += 1
            self._schedule(flow, now, self._idle_s(flow.key))

    def note_fragment(self, connector: Peer, fragment: FragmentKey, flow: Flow, now: float) -> None:
        """Remember where the later fragments of a reply go."""
        fragments = self.fragments
        key = (connector.conn, fragment)
        if key not in fragments and len(fragments) >= self._limits.fragments:
            fragments.popitem(last=False)
        fragments[key] = (now + self._limits.fragment_s, flow)
        fragments.move_to_end(key)

    def flow_of_fragment(self, connector: Peer, fragment: FragmentKey, now: float) -> Flow | None:
        """Return the flow that a later fragment of a reply belongs to, if its first fragment was seen."""
        deadline, flow = self.fragments.get((connector.conn, fragment), (now, None))
        if flow is None or deadline <= now or not flow.alive or flow.connector is not connector:
            return None
        return flow

    def get_timer(self) -> float | None:
        """Return when `handle_timer` is due."""
        due = [self._heap[0][0]] if self._heap else []
        if self.fragments:
            due.append(next(iter(self.fragments.values()))[0])
        return min(due, default=None)

    def handle_timer(self, now: float) -> None:
        """Close what was idle too long; forget old fragments."""
        heap = self._heap
        while heap and heap[0][0] <= now:
            deadline, _, flow = heappop(heap)
            if not flow.alive or flow.deadline != deadline:
                continue
            if flow.used + flow.idle_s > now:
                self._push(flow, flow.used + flow.idle_s)
            else:
                self._stats.flows_expired += 1
                self.close(flow)
        fragments = self.fragments
        while fragments and next(iter(fragments.values()))[0] <= now:
            fragments.popitem(last=False)

    def _idle_s(self, key: FlowKey) -> float:
        if key[0] == UDP:
            return self._limits.udp_flow_idle_s
        return self._limits.tcp_flow_idle_s if key[0] == TCP else self._limits.icmp_flow_idle_s

    def _schedule(self, flow: Flow, now: float, idle_s: float) -> None:
        flow.used = now
        flow.idle_s = idle_s
        self._push(flow, now + idle_s)

    def _push(self, flow: Flow, deadline: float) -> None:
        """Arm a flow's expiry; an earlier entry of it, recognised by its other deadline, is void."""
        flow.deadline = deadline
        self._order += 1
        heappush(self._heap, (deadline, self._order, flow))
        if len(self._heap) > 2 * self.count + HEAP_SLACK:
            self._heap = [entry for entry in self._heap if entry[2].alive and entry[2].deadline == entry[0]]
            heapify(self._heap)

    def _evict(self, agent: Peer) -> None:
        """Close the least used of the next few flows of an agent."""
        flows = agent.flows
        oldest = next(iter(flows))
        for _ in range(min(EVICTION_SAMPLE, len(flows))):
            flow = next(iter(flows))
            flows.move_to_end(flow)
            if flow.used < oldest.used:
                oldest = flow
        self._stats.flows_evicted += 1
        self.close(oldest)

    def _detach_agent(self, flow: Flow) -> None:
        if flow.agent is not None:
            flow.agent.flows.pop(flow, None)
            flow.agent = None
        elif flow.owner in self._parked:
            parked = self._parked[flow.owner]
            parked.pop(flow, None)
            if not parked:
                del self._parked[flow.owner]

    def _detach_connector(self, flow: Flow) -> None:
        if flow.connector is not None:
            flow.connector.outbound.pop(flow.key, None)
            flow.connector.inbound.pop(flow.reply_key, None)
            flow.connector = None
        else:
            flow.service.parked.pop(flow, None)
