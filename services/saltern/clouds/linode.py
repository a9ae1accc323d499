"""Linode (Akamai), API v4. A label is unique in an account, so asking twice for the same order makes one machine.

Labels are `fleet-name`: two fleets in one account do not get into each other's way. What a machine runs at its first
boot it gets from the Metadata service, which takes an image that has cloud-init and a region that has the service.

libcloud drops the status of errors, fails at a status of a machine that it does not know, and lists 25 things at a
time; this sets that right.
"""

from __future__ import annotations

import base64
import json
import secrets
from collections.abc import Mapping
from typing import Any

from libcloud.common.exceptions import BaseHTTPError
from libcloud.common.linode import LinodeConnectionV4
from libcloud.compute.base import Node, NodeDriver, NodeSize
from libcloud.compute.drivers.linode import LinodeNodeDriverV4
from libcloud.compute.types import NodeState

from saltern.clouds import dialect
from saltern.clouds.answer import JsonAnswer
from saltern.clouds.dialect import Dialect, Order
from saltern.clouds.settings import Settings

# Linode's own words. All others are of a machine at work on something, but for the last.
STATES = {"running": dialect.RUNNING, "offline": dialect.STOPPED, "stopped": dialect.STOPPED}
BARRED = "billing_suspension"
PAGE = 500
INSTANCES = "/v4/linode/instances"


class _Connection(LinodeConnectionV4):
    responseCls = JsonAnswer

    def add_default_params(self, params: dict[str, Any]) -> dict[str, Any]:
        return {**params, "page_size": PAGE}


class _Driver(LinodeNodeDriverV4):
    connectionCls = _Connection

    def _to_node(self, data: Mapping[str, Any]) -> Node:
        own = dialect.labels_of_tags(data.get("tags") or ())
        private, public = dialect.sorted_addresses(data.get("ipv4") or ())
        return Node(
            data["id"], data["label"].removeprefix(f"{own.get(dialect.FLEET)}-"), NodeState.UNKNOWN, public, private,
            self, extra=dict(data),
        )  # fmt: skip

    def act(self, node: Node, action: str, **about: Any) -> None:
        """Have something done to a machine; answered before it is."""
        self.connection.request(f"{INSTANCES}/{node.id}/{action}", method="POST", data=json.dumps(about))


def connect(settings: Settings) -> NodeDriver:
    return dialect.point(_Driver(settings.secrets["key"]), settings.endpoint, settings.timeout)


def create(driver: _Driver, settings: Settings, order: Order, options: Mapping[str, Any]) -> Node:
    asked = {
        "label": f"{order.fleet}-{order.name}",
        "type": order.size.id,
        "region": order.location,
        "image": order.image,
        "tags": dialect.tags(order),
        "private_ip": True,
        # Nothing is made of an image without one. Nobody has this one, and user data locks passwords out of ssh.
        "root_pass": secrets.token_urlsafe(48),
        **options,
    }
    if order.user_data:
        asked["metadata"] = {"user_data": base64.b64encode(order.user_data.encode()).decode()}
    try:
        made = driver.connection.request(INSTANCES, method="POST", data=json.dumps(asked)).object
    except BaseHTTPError as error:
        if error.code == 400 and "must be unique" in error.message and (ours := _made(driver, order)):
            return ours
        raise
    return driver._to_node(made)


def _made(driver: _Driver, order: Order) -> Node | None:
    """What an earlier request for the same order came to."""
    return next(
        (node for node in driver.list_nodes() if dialect.tagged(node).get(dialect.TOKEN) == order.token), None
    )


def state(node: Node) -> str:
    status = node.extra["status"]
    return dialect.UNKNOWN if status == BARRED else STATES.get(status, dialect.PENDING)


def resize(driver: _Driver, node: Node, size: NodeSize) -> None:
    # A disk that is not made larger lets the machine be given back its smaller size.
    driver.act(node, "resize", type=size.id, allow_auto_disk_resize=False, migration_type="cold")


DIALECT = Dialect(
    secrets=("key",),
    options=("firewall_id", "authorized_keys", "backups_enabled", "swap_size"),
    connect=connect,
    create=create,
    labels=dialect.tagged,
    size_and_image=lambda node: (str(node.extra.get("type") or ""), str(node.extra.get("image") or "")),
    state=state,
    look=lambda driver, settings, node: driver.ex_get_node(node.id),
    start=lambda driver, node: driver.act(node, "boot"),
    stop=lambda driver, node: driver.act(node, "shutdown"),
    resize=resize,
    repeatable=True,
    user_data_limit=65_535,
)
