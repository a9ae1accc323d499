"""Amazon EC2, and what speaks its language.

The order's token is the request's client token, so that EC2 makes one machine of it however often it is asked. Not all
that speak its language do, so what an unanswered request came to is looked up by the tag all the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from libcloud.compute.base import Node, NodeDriver
from libcloud.compute.drivers.ec2 import EC2NetworkSubnet

from saltern.clouds import dialect
from saltern.clouds.dialect import Dialect, Order
from saltern.clouds.settings import Settings
from saltern.errors import SalternError

# Whose images are listed where no `image_owner` is given: Debian's own account.
DEBIAN = "136693071363"
STATES = {
    "pending": dialect.PENDING, "running": dialect.RUNNING, "stopping": dialect.PENDING, "stopped": dialect.STOPPED,
    "shutting-down": dialect.GONE, "terminated": dialect.GONE,
}  # fmt: skip


def connect(settings: Settings) -> NodeDriver:
    kind = dialect.driver_class("ec2")
    if settings.location not in kind.list_regions():
        raise SalternError(
            f"provider {settings.alias}: location {settings.location!r} is no region of EC2, such as eu-central-1"
        )
    driver = kind(settings.secrets["key"], settings.secrets["secret"], region=settings.location)
    return dialect.point(driver, settings.endpoint, settings.timeout)


def create(driver: NodeDriver, settings: Settings, order: Order, options: Mapping[str, Any]) -> Node:
    subnet = options.get("subnet_id")
    named = {
        "ex_security_group_ids": options.get("security_group_ids"),
        "ex_iamprofile": options.get("iam_profile"),
        "ex_keyname": options.get("keyname"),
    }
    return driver.create_node(
        name=order.name,
        size=dialect.size(driver, order.size.id),
        image=dialect.image(driver, order.image),
        ex_userdata=order.user_data,
        ex_clienttoken=order.token,
        ex_metadata=order.labels,
        ex_subnet=EC2NetworkSubnet(subnet, subnet, "available") if subnet else None,
        ex_assign_public_ip=bool(options.get("assign_public_ip", False)),
        **{key: value for key, value in named.items() if value},
    )


def nodes(driver: NodeDriver, settings: Settings) -> Sequence[Node]:
    return driver.list_nodes(ex_filters={f"tag:{dialect.FLEET}": settings.fleet.name})


def look(driver: NodeDriver, settings: Settings, node: Node) -> Node | None:
    return dialect.find(driver.list_nodes(ex_node_ids=[node.id]), node)


DIALECT = Dialect(
    secrets=("key", "secret"),
    options=("subnet_id", "security_group_ids", "assign_public_ip", "iam_profile", "keyname", "image_owner"),
    connect=connect,
    create=create,
    labels=lambda node: node.extra.get("tags") or {},
    size_and_image=lambda node: (
        str(node.extra.get("instance_type") or ""),
        str(node.extra.get("image_id") or ""),
    ),
    state=lambda node: STATES.get(str(node.extra.get("status")), dialect.plain_state(node)),
    nodes=nodes,
    look=look,
    images=lambda driver, settings: driver.list_images(ex_owner=settings.options.get("image_owner", DEBIAN)),
    resize=lambda driver, node, size: driver.ex_change_node_size(node, size),
    user_data_limit=16_384,
)
