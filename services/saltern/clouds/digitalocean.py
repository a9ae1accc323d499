"""DigitalOcean. A name may be taken twice there, and a request is not repeatable: only the order's tag tells.

Tags are single words; ours are `key:value`. Memory and processors are changed while a droplet is off, and an action
goes on after it was accepted, during which the droplet is locked.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from libcloud.compute.base import Node, NodeDriver

from saltern.clouds import dialect
from saltern.clouds.dialect import Dialect, Order
from saltern.clouds.settings import Settings


def connect(settings: Settings) -> NodeDriver:
    driver = dialect.driver_class("digitalocean")(settings.secrets["key"])
    # libcloud passes on only the attributes it knows.
    driver.EX_CREATE_ATTRIBUTES = [*driver.EX_CREATE_ATTRIBUTES, "vpc_uuid", "monitoring"]
    return dialect.point(driver, settings.endpoint, settings.timeout)


def create(driver: NodeDriver, settings: Settings, order: Order, options: Mapping[str, Any]) -> Node:
    return driver.create_node(
        name=order.name,
        size=dialect.size(driver, order.size.id),
        image=dialect.image(driver, order.image),
        location=dialect.location(driver, order.location),
        ex_user_data=order.user_data,
        ex_create_attr={"private_networking": True, **options, "tags": dialect.tags(order)},
    )


def size_and_image(node: Node) -> tuple[str, str]:
    of = node.extra.get("image") or {}
    return str(node.extra.get("size_slug") or ""), str(of.get("slug") or of.get("id") or "")


def state(node: Node) -> str:
    # Locked: an action is under way, and what the droplet says of itself is not the end of it.
    return dialect.PENDING if node.extra.get("locked") else dialect.plain_state(node)


DIALECT = Dialect(
    secrets=("key",),
    options=("vpc_uuid", "monitoring", "ssh_keys", "backups", "ipv6"),
    connect=connect,
    create=create,
    labels=dialect.tagged,
    size_and_image=size_and_image,
    state=state,
    look=lambda driver, settings, node: driver.ex_get_node_details(node.id),
    start=lambda driver, node: driver.ex_power_on_node(node),
    stop=lambda driver, node: driver.ex_shutdown_node(node),
    resize=lambda driver, node, size: driver.ex_resize_node(node, size),
)
