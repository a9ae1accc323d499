"""The fleet's own network on this host: one bridge, one nftables table, nothing else."""

from __future__ import annotations

import ipaddress
import json
from pathlib import Path

from saltern.errors import SalternError
from saltern.fleet import FIRST_HOST, Fleet
from saltern.shell import run

MASTER_PORTS = "{ 4505, 4506 }"


def links() -> list[dict]:
    """Every network interface of the host with its addresses, as `ip -json address` tells."""
    return json.loads(run(["ip", "-json", "address", "show"]) or "[]")


def clash(fleet: Fleet, interfaces: list[dict]) -> str | None:
    """What on this host already uses the fleet's subnet, or None."""
    for interface in interfaces:
        if interface["ifname"] == fleet.bridge:
            continue
        for address in interface.get("addr_info", []):
            if address["family"] != "inet":
                continue
            used = ipaddress.IPv4Network(f"{address['local']}/{address['prefixlen']}", strict=False)
            if used.overlaps(fleet.network):
                return f"{interface['ifname']} ({address['local']}/{address['prefixlen']})"
    return None


def rules(fleet: Fleet) -> str:
    """The fleet's nftables table: machines reach the outside through the host, and of the host only the master."""
    return f"""table inet {fleet.table}
delete table inet {fleet.table}
table inet {fleet.table} {{
    chain input {{
        type filter hook input priority 0; policy accept;
        iifname != "{fleet.bridge}" return
        ct state established,related accept
        meta l4proto icmp accept
        tcp dport {MASTER_PORTS} accept
        drop
    }}
    chain forward {{
        type filter hook forward priority 0; policy accept;
        iifname "{fleet.bridge}" accept
        oifname "{fleet.bridge}" ct state established,related accept
        oifname "{fleet.bridge}" drop
    }}
    chain postrouting {{
        type nat hook postrouting priority srcnat; policy accept;
        ip saddr {fleet.subnet} oifname != "{fleet.bridge}" masquerade
    }}
}}
"""


def up(fleet: Fleet) -> None:
    """Make the bridge and the table, or bring them to what they should be."""
    interfaces = links()
    bridge = next((i for i in interfaces if i["ifname"] == fleet.bridge), None)
    if bridge is None:
        run(["ip", "link", "add", fleet.bridge, "type", "bridge"])
    if not any(a["local"] == fleet.gateway for a in (bridge or {}).get("addr_info", [])):
        run(["ip", "address", "add", f"{fleet.gateway}/{fleet.network.prefixlen}", "dev", fleet.bridge])
    run(["ip", "link", "set", fleet.bridge, "up"])
    run(["nft", "-f", "-"], text=rules(fleet))


def down(fleet: Fleet) -> None:
    """Remove the bridge and the table."""
    delete_link(fleet.bridge)
    run(["nft", "-f", "-"], text=f"table inet {fleet.table}\ndelete table inet {fleet.table}\n")


def delete_link(name: str) -> None:
    """Remove a network interface of this host, if it is there."""
    if Path("/sys/class/net", name).exists():
        try:
            run(["ip", "link", "delete", name])
        except SalternError:
            if Path("/sys/class/net", name).exists():  # else the kernel was faster
                raise


def free_address(fleet: Fleet, taken: set[str]) -> str:
    """The lowest address nobody has; the first few are kept for the host.

    :raises SalternError: the subnet is full
    """
    for number, address in enumerate(fleet.network.hosts(), start=1):
        if number >= FIRST_HOST and str(address) not in taken:
            return str(address)
    raise SalternError(
        f"subnet {fleet.subnet}: full with {len(taken)} machines; a fleet with a larger --subnet is needed"
    )
