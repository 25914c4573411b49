"""Which generations are trusted and sign, in each state of a rotation."""

import pytest

from infra.config import PkiSettings
from infra.pki_rotation import signing_generation, trusted_generations


@pytest.mark.parametrize(
    ("generation", "overlap", "trusted", "servers", "agents"),
    [
        (1, "none", (1,), 1, 1),
        (2, "agents", (2, 1), 1, 2),
        (2, "all", (2, 1), 2, 2),
        (2, "none", (2,), 2, 2),
    ],
)
def test_who_signs_and_who_is_trusted(
    generation: int, overlap: str, trusted: tuple[int, ...], servers: int, agents: int
) -> None:
    settings = PkiSettings(generation=generation, overlap=overlap)
    assert trusted_generations(settings) == trusted
    for role, expected in (("intermediate", servers), ("connector", servers), ("agent", agents)):
        assert signing_generation(settings, role) == expected
        assert expected in trusted
