"""Counters read by name, and drops by reason."""

from ztna.proto.stats import AgentStats, ConnectorStats, IntermediateStats


def test_counters_are_read_by_name() -> None:
    for stats in (IntermediateStats(), ConnectorStats(), AgentStats()):
        stats.drop_malformed += 2
        assert stats.as_dict()["drop_malformed"] == 2
        assert stats.drops()["malformed"] == 2
        assert len(stats.drops()) == sum(name.startswith("drop_") for name in stats.as_dict())
        assert sum(stats.as_dict().values()) == 2
