"""Thirty users at once, logging on at random."""

from . import crowd

USERS = 30


def test_nobody_of_a_crowd_is_lost(lab, start_gateway, samba, request):
    clients = lab.clients(USERS)
    start_gateway(clients, "vcgate")
    log = samba.mark()
    users = crowd.work(clients, samba.address, request.config.getoption("--crowd-seconds"))
    assert [lost for user in users for lost in user.lost] == []
    assert all(user.sessions > 0 for user in users)
    assert log.zero_logons() == 0
    assert log.kills() == []


def test_kernel_nat_loses_users_of_a_crowd(lab, start_gateway, samba):
    """Not a test of vcgate: it proves that the crowd would notice."""
    clients = lab.clients(10)
    start_gateway(clients, "wireguard-go")
    users = crowd.work(clients, samba.address, seconds=5)
    assert any(user.lost for user in users)
