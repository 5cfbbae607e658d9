"""The proof at scale (`tests/run proof`), short and with fewer clients."""

import pytest

from . import proof
from .tunnels import Tunnels

CLIENTS = 20


@pytest.fixture
def tunnels(lab):
    made = Tunnels(lab, CLIENTS)
    yield made
    made.remove()


def test_nobody_is_lost_and_crashed_clients_get_their_files(lab, tunnels):
    assign = proof.run(lab, tunnels, "assign", seconds=12)
    off = proof.run(lab, tunnels, "off", seconds=4)
    print(proof.table([assign, off]))
    assert proof.problems(assign, off) == []
