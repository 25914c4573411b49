"""Which generation's CA is trusted and which one signs whom, so that a change of CA drops nobody. Pure.

A rotation is three changes of configuration, each followed by `up`. Starting from generation 1:

1. `pkiGeneration` 2, `pkiOverlap` agents: everybody trusts both CAs. Agents get leaves of generation 2, and their new
   profiles are handed out; relay and connectors keep their leaves, which agents with an old profile still know.
2. `pkiOverlap` all, once every agent has its new profile: relay and connectors get leaves of generation 2.
3. `pkiOverlap` none: the CA of generation 1 is trusted no more.

Only step 1 needs anything of the agents, and each of them takes its new profile when it likes.
Going to the last state at once shuts out whoever has not got it yet: for a CA whose key is lost to somebody.
"""

from infra.config import PkiSettings


def trusted_generations(settings: PkiSettings) -> tuple[int, ...]:
    """Return the generations whose CAs are trusted, the newest first."""
    if settings.overlap == "none":
        return (settings.generation,)
    return (settings.generation, settings.generation - 1)


def signing_generation(settings: PkiSettings, role: str) -> int:
    """Return the generation whose CA signs the leaf of a role: intermediate, connector or agent."""
    keeps_old = settings.overlap == "agents" and role != "agent"
    return settings.generation - 1 if keeps_old else settings.generation
