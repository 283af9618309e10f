"""Parts of algorithms equal verl's, TRL's and OpenRLHF's own functions: numbers recorded by `tests/peers.py`."""

from __future__ import annotations

import json

import peers
import pytest

GOLDEN = {(row["part"], row["peer"], row["case"]): row["numbers"] for row in json.loads(peers.GOLDEN.read_text())}
COMPARED = [(part, peer, one) for part, peer, one in peers.comparisons()]


def test_every_comparison_is_recorded() -> None:
    assert {(part.name, peer, one.name) for part, peer, one in COMPARED} == GOLDEN.keys()


@pytest.mark.parametrize("part", peers.PARTS, ids=lambda part: part.name)
def test_ours_is_theirs(part: peers.Part) -> None:
    for one, peer, case in COMPARED:
        if one.name == part.name:
            theirs = GOLDEN[part.name, peer, case.name]
            assert peers.difference(peers.summary(part.ours(case)), theirs) < peers.TOLERANCE, (peer, case.name)
