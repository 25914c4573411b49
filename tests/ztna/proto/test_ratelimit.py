"""Token buckets: burst, refill, independence of sources, bounds."""

from ztna.proto.ratelimit import SourceLimiter, TokenBucket


def drawn(limiter: SourceLimiter, source: str, now: float, tries: int = 100) -> int:
    return sum(limiter.allow(source, now) for _ in range(tries))


def test_burst_then_rate() -> None:
    limiter = SourceLimiter(rate_per_s=10, burst=5)
    assert drawn(limiter, "a", 0.0) == 5
    assert limiter.refused == 95
    assert drawn(limiter, "a", 0.3) == 3
    assert drawn(limiter, "a", 100.0) == 5


def test_one_source_does_not_spend_the_tokens_of_another() -> None:
    limiter = SourceLimiter(rate_per_s=1, burst=2)
    assert drawn(limiter, "a", 0.0) == 2
    assert drawn(limiter, "b", 0.0) == 2


def test_forged_sources_share_one_ceiling_and_bounded_memory() -> None:
    limiter = SourceLimiter(rate_per_s=1, burst=2, total_rate_per_s=50, max_sources=20)
    assert sum(limiter.allow(f"source-{n}", 0.0) for n in range(1000)) == 50
    assert len(limiter) == 20
    assert sum(limiter.allow(f"source-{n}", 0.1) for n in range(2000, 3000)) == 5


def test_the_source_longest_unseen_is_forgotten_first() -> None:
    limiter = SourceLimiter(rate_per_s=0.001, burst=1, max_sources=2)
    assert limiter.allow("a", 0.0)
    assert limiter.allow("b", 0.0)
    assert not limiter.allow("a", 0.0)
    assert limiter.allow("c", 0.0)
    assert not limiter.allow("a", 0.0)
    assert limiter.allow("b", 0.0)


def test_a_bucket_starts_full_regains_by_time_and_never_holds_more() -> None:
    bucket = TokenBucket(2.0, 3.0)
    assert [bucket.take(10.0) for _ in range(4)] == [True, True, True, False]
    assert [bucket.take(10.5) for _ in range(2)] == [True, False]
    assert [bucket.take(1000.0) for _ in range(4)] == [True, True, True, False]
    assert not bucket.take(999.0)
