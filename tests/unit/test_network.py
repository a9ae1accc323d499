"""The fleet's bridge and firewall table, as data."""

from __future__ import annotations

import ipaddress
import os
import shutil
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st
from saltern.errors import SalternError
from saltern.fleet import FIRST_HOST, Fleet
from saltern.local import network


def interface(name: str, *addresses: str) -> dict:
    """An interface as `ip -json address show` tells of it."""
    found = [ipaddress.ip_interface(address) for address in addresses]
    return {
        "ifname": name,
        "addr_info": [
            {
                "family": f"inet{'' if a.version == 4 else '6'}",
                "local": str(a.ip),
                "prefixlen": a.network.prefixlen,
            }
            for a in found
        ],
    }


@pytest.mark.parametrize(
    ("interfaces", "user"),
    [
        ([], None),
        ([interface("lo", "127.0.0.1/8", "::1/128")], None),
        ([interface("eth0", "10.98.255.255/16")], None),
        ([interface("eth0", "10.99.0.77/24")], "eth0 (10.99.0.77/24)"),
        ([interface("eth0", "10.99.0.200/32")], "eth0 (10.99.0.200/32)"),
        ([interface("vpn", "10.1.2.3/8")], "vpn (10.1.2.3/8)"),
        ([interface("eth0", "fd00::1/64")], None),
        ([interface("eth0", "192.168.1.1/24", "10.99.0.1/30")], "eth0 (10.99.0.1/30)"),
        ([interface("sal-test", "10.99.0.1/24")], None),
        ([interface("sal-other", "10.99.0.1/24")], "sal-other (10.99.0.1/24)"),
        ([{"ifname": "tun0"}], None),
    ],
)
def test_what_uses_the_subnet_already_is_named(fleet, interfaces, user):
    assert network.clash(fleet, interfaces) == user


def test_the_hosts_own_interfaces_are_read():
    assert "lo" in {each["ifname"] for each in network.links()}


NFT = shutil.which("nft", path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")


@pytest.mark.skipif(NFT is None or os.geteuid() != 0, reason="nft judges as root only")
@pytest.mark.parametrize(("name", "subnet"), [("a", "10.1.0.0/16"), ("abcdefghij", "192.168.4.64/26")])
def test_nft_itself_accepts_the_rules(tmp_path, name, subnet):
    rules = network.rules(Fleet(name, subnet, tmp_path.parents[1]))
    judged = subprocess.run([NFT, "-c", "-f", "-"], input=rules, text=True, capture_output=True, check=False)
    assert judged.returncode == 0, judged.stderr
    wrong = subprocess.run(
        [NFT, "-c", "-f", "-"],
        input=rules.replace("drop", "dorp"),
        text=True,
        capture_output=True,
        check=False,
    )
    assert wrong.returncode != 0


def test_the_rules_replace_the_fleets_own_table_and_touch_no_other(fleet):
    rules = network.rules(fleet)
    # Making it first lets the delete succeed where there is none yet.
    assert rules.startswith(
        "table inet saltern_test\ndelete table inet saltern_test\ntable inet saltern_test {"
    )
    assert "flush" not in rules


@given(st.sets(st.integers(1, 60), max_size=60))
def test_a_new_machine_gets_the_lowest_free_address_above_the_hosts_own(taken):
    fleet = Fleet("a", "10.1.0.0/26", network.Path("/nowhere"))
    used = {f"10.1.0.{number}" for number in taken}
    free = sorted(set(range(FIRST_HOST, 63)) - taken)
    assert network.free_address(fleet, used) == f"10.1.0.{free[0]}"


def test_a_full_subnet_is_refused_with_the_remedy():
    fleet = Fleet("a", "10.1.0.0/26", network.Path("/nowhere"))
    used = {f"10.1.0.{number}" for number in range(FIRST_HOST, 63)}
    with pytest.raises(
        SalternError, match=r"full with 53 machines; a fleet with a larger --subnet is needed"
    ):
        network.free_address(fleet, used)
