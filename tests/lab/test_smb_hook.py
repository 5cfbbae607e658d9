"""Several users share one address: which of them are cut off when the next one logs on?"""

import pytest


@pytest.fixture(params=[445, 139])
def port(request):
    return request.param


def test_assign_cuts_nobody_off(lab, start_gateway, open_office, port):
    gateway = start_gateway(lab.clients(3), "vcgate", hook="assign")
    office = open_office(port)
    office.assert_nobody_is_cut_off()
    assert office.log.sources() == {gateway.external_address}
    counted = gateway.json("smb")
    print(counted)
    assert counted["zero_seen"] >= 3


def test_off_shows_the_failure(lab, start_gateway, open_office, port):
    start_gateway(lab.clients(3), "vcgate", hook="off")
    open_office(port).assert_the_first_is_cut_off()


def test_observe_shows_and_counts_the_failure(lab, start_gateway, open_office, port):
    gateway = start_gateway(lab.clients(3), "vcgate", hook="observe")
    open_office(port).assert_the_first_is_cut_off()
    counted = gateway.json("smb")
    print(counted)
    assert counted["zero_seen"] >= 2
    assert counted["rewritten"] == 0


def test_kernel_nat_shows_the_failure(lab, start_gateway, open_office, port):
    """Not a test of vcgate: it proves that this lab can see the failure."""
    start_gateway(lab.clients(3), "wireguard-go")
    open_office(port).assert_the_first_is_cut_off()
