"""What a session sends: one request at a time, at the pace of RFC 8445 s14, the most urgent first."""

from dataclasses import dataclass
from typing import Final

from ztna.proto.paths.candidates import is_v6
from ztna.proto.paths.checks import Purpose
from ztna.proto.paths.pairs import Pair
from ztna.proto.paths.parts import Parts
from ztna.proto.paths.path_types import PathKind, SendStun
from ztna.proto.paths.stun_types import Endpoint, StunRequest

GUESS_TIMEOUT_S: Final = 1.0


@dataclass(slots=True)
class Outbound:
    """Sends what is due. The order: relay leg, pair checks, STUN corners, guessed ports."""

    parts: Parts

    def send_due(self, now: float) -> None:
        """Send the most urgent request, if one is due and the pace allows it."""
        if now < self.parts.pacer.free_at:
            return
        at = self._next_at(now)
        if at is not None and at <= now:
            self.parts.pacer.take(now)
            self._send_one(now)

    def next_at(self, now: float) -> float | None:
        """When `send_due` has something to send."""
        at = self._next_at(now)
        return None if at is None else max(at, self.parts.pacer.free_at)

    def _next_at(self, now: float) -> float | None:
        parts = self.parts
        times = [corner.next_at for corner in parts.nat.corners]
        if parts.relay is not None:
            times.append(parts.relay.next_at)
        if parts.config.direct:
            times += [parts.prediction.next_at, parts.birthday.next_at]
            pair = parts.checklist.next_due(now)
            times.append(None if pair is None else pair[0])
        return min((at for at in times if at is not None), default=None)

    def _send_one(self, now: float) -> None:
        parts = self.parts
        if parts.relay is not None and parts.relay.next_at is not None and parts.relay.next_at <= now:
            self._send_relay(now)
            return
        if parts.config.direct:
            due = parts.checklist.next_due(now)
            if due is not None and due[0] <= now:
                self._send_check(due[1], now)
                return
        for corner in parts.nat.corners:
            if corner.next_at is not None and corner.next_at <= now:
                corner.request_sent(now)
                parts.stats.corner_requests_sent += 1
                self._send(Purpose.CORNER, corner.local, corner.remote, now, GUESS_TIMEOUT_S)
                return
        self._send_guess(now)

    def _send_relay(self, now: float) -> None:
        leg = self.parts.relay
        assert leg is not None
        leg.request_sent(now)
        self.parts.stats.relay_bindings_sent += 1
        self._send(Purpose.RELAY, leg.local, leg.remote, now, leg.health.timeout_s)

    def _send_check(self, pair: Pair, now: float) -> None:
        parts = self.parts
        parts.checklist.sent(pair, now, busy=parts.is_busy(now))
        parts.nat.sent_to(pair.remote)
        parts.stats.checks_sent += 1
        self._send(Purpose.CHECK, pair.local, pair.remote, now, pair.health.timeout_s, pair)

    def _send_guess(self, now: float) -> None:
        parts = self.parts
        remote = parts.prediction.take(now)
        if remote is not None:
            parts.stats.predicted_checks_sent += 1
            parts.nat.sent_to(remote)
            self._send(Purpose.GUESS, parts.local_for(remote), remote, now, GUESS_TIMEOUT_S)
            return
        found = parts.birthday.take(now)
        if found is None:
            return
        local, remote = found
        parts.stats.birthday_checks_sent += 1
        where = parts.local_for(remote) if local is None else local
        self._send(Purpose.GUESS, where, remote, now, GUESS_TIMEOUT_S)

    def _send(
        self, purpose: Purpose, local: int, remote: Endpoint, now: float, timeout_s: float, pair: Pair | None = None
    ) -> None:
        parts = self.parts
        transaction = parts.transactions.open(purpose, local, remote, now, timeout_s, pair)
        if transaction is None:
            parts.stats.drop_transaction_limit += 1
            return
        if purpose is Purpose.CORNER:
            request = StunRequest(transaction.id, "")
        else:
            request = StunRequest(
                transaction.id,
                parts.username,
                priority=parts.priority_attribute[is_v6(remote.host)],
                controlling=parts.controlling,
                tie_breaker=parts.tie_breaker,
                use_candidate=self._nominates(pair),
            )
        parts.emit(SendStun(request, local, remote))

    def _nominates(self, pair: Pair | None) -> bool:
        selector = self.parts.selector
        chosen = pair is not None and pair is selector.direct and selector.kind is PathKind.DIRECT
        if chosen and self.parts.controlling and pair is not None:
            pair.nominated = True
            return True
        return False
