"""Vultr, API v2. A name may be taken twice there, and a request is not repeatable: only the order's tag tells.

A machine has a private address because it is put into a VPC: the region's own one if none is named. It is halted as if
its power went, there is no other way, and can only become larger. libcloud knows neither VPC nor tags, and stumbles
over a machine that lacks what the API has given up; this sets that right.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any

from libcloud.common.vultr import VultrConnectionV2
from libcloud.compute.base import Node, NodeDriver, NodeSize
from libcloud.compute.drivers.vultr import VultrNodeDriverV2
from libcloud.compute.types import NodeState

from saltern.clouds import dialect
from saltern.clouds.answer import JsonAnswer
from saltern.clouds.dialect import Dialect, Order
from saltern.clouds.settings import Settings

INSTANCES = "/v2/instances"
# An address that is not known yet.
NOWHERE = "0.0.0.0"
# What a machine is at that is not yet, or no longer, a system that runs.
UNFINISHED = ("locked", "installingbooting", "isomounting")


class _Connection(VultrConnectionV2):
    responseCls = JsonAnswer


class _Driver(VultrNodeDriverV2):
    connectionCls = _Connection

    def list_nodes(self) -> list[Node]:
        return [self._to_node(each) for each in self._paginated_request(INSTANCES, "instances")]

    def list_sizes(self) -> list[NodeSize]:
        return super().list_sizes(ex_list_bare_metals=False)

    def _to_node(self, data: Mapping[str, Any]) -> Node:
        known = [data.get(key) for key in ("main_ip", "internal_ip")]
        private, public = dialect.sorted_addresses(each for each in known if each and each != NOWHERE)
        return Node(data["id"], data["label"], NodeState.UNKNOWN, public, private, self, extra=dict(data))

    def reboot_node(self, node: Node) -> None:
        self.act(node, "reboot")

    def act(self, node: Node, action: str) -> None:
        """Have something done to a machine; answered before it is."""
        self.connection.request(f"{INSTANCES}/{node.id}/{action}", method="POST")


def connect(settings: Settings) -> NodeDriver:
    return dialect.point(_Driver(settings.secrets["key"]), settings.endpoint, settings.timeout)


def create(driver: _Driver, settings: Settings, order: Order, options: Mapping[str, Any]) -> Node:
    more = dict(options)
    vpc = more.pop("vpc", None)
    asked = {
        "label": order.name,
        "hostname": order.name,
        "plan": order.size.id,
        "region": order.location,
        "tags": dialect.tags(order),
        "activation_email": False,
        "backups": "disabled",
        # Systems are numbered, snapshots have longer ids.
        **({"os_id": int(order.image)} if order.image.isdigit() else {"snapshot_id": order.image}),
        **({"attach_vpc": [vpc]} if vpc else {"enable_vpc": True}),
        **more,
    }
    if order.user_data:
        asked["user_data"] = base64.b64encode(order.user_data.encode()).decode()
    made = driver.connection.request(INSTANCES, method="POST", data=json.dumps(asked))
    return driver._to_node(made.object["instance"])


def look(driver: _Driver, settings: Settings, node: Node) -> Node:
    return driver._to_node(driver.connection.request(f"{INSTANCES}/{node.id}").object["instance"])


def state(node: Node) -> str:
    about = node.extra
    if about.get("status") == "suspended":
        return dialect.UNKNOWN
    if about.get("status") != "active" or about.get("server_status") in UNFINISHED:
        return dialect.PENDING
    if about.get("power_status") != "running":
        return dialect.STOPPED
    # Until the VPC has given it its address nobody of the fleet could reach it where it will be.
    return dialect.RUNNING if node.private_ips else dialect.PENDING


def size_and_image(node: Node) -> tuple[str, str]:
    image = node.extra.get("os_id") or node.extra.get("snapshot_id") or ""
    return str(node.extra.get("plan") or ""), str(image)


def resize(driver: _Driver, node: Node, size: NodeSize) -> None:
    driver.connection.request(f"{INSTANCES}/{node.id}", method="PATCH", data=json.dumps({"plan": size.id}))


DIALECT = Dialect(
    secrets=("key",),
    options=("vpc", "firewall_group_id", "sshkey_id", "enable_ipv6", "backups"),
    connect=connect,
    create=create,
    labels=dialect.tagged,
    size_and_image=size_and_image,
    state=state,
    look=look,
    start=lambda driver, node: driver.act(node, "start"),
    stop=lambda driver, node: driver.act(node, "halt"),
    destroy=lambda driver, node: driver.connection.request(f"{INSTANCES}/{node.id}", method="DELETE"),
    resize=resize,
)
