"""What differs between clouds, as a value: libcloud's calls have the same names everywhere, their arguments not."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any

from libcloud.common.base import Connection
from libcloud.compute.base import Node as LibcloudNode
from libcloud.compute.base import NodeDriver, NodeImage, NodeLocation, NodeSize
from libcloud.compute.providers import get_driver
from libcloud.compute.types import NodeState

from saltern.clouds.settings import Endpoint, Settings, Size
from saltern.errors import SalternError
from saltern.fleet import PRIVATE

# What a machine is marked with in the cloud: the fleet it belongs to, its role, and the one order that made it.
FLEET, ROLE, TOKEN = "saltern-fleet", "saltern-role", "saltern-order"
PENDING, RUNNING, STOPPED, RESIZED, GONE, FAILED, UNKNOWN = (
    "pending", "running", "stopped", "resized", "gone", "failed", "unknown",
)  # fmt: skip
"""What a machine is. resized: of another size, and waiting to be told that it shall stay so."""
STATES = {
    NodeState.RUNNING: RUNNING, NodeState.PENDING: PENDING, NodeState.STARTING: PENDING, NodeState.STOPPED: STOPPED,
    NodeState.TERMINATED: GONE, NodeState.ERROR: FAILED, NodeState.REBOOTING: PENDING, NodeState.UPDATING: PENDING,
    NodeState.STOPPING: PENDING, NodeState.RECONFIGURING: PENDING, NodeState.PAUSED: STOPPED,
}  # fmt: skip


@dataclass(frozen=True)
class Order:
    """One machine that is wanted.

    :ivar token: this order's own; whatever came of it in the cloud can be found by it
    :ivar user_data: what the machine runs at its first boot
    """

    name: str
    fleet: str
    role: str
    token: str
    size: Size
    image: str
    location: str
    user_data: str = field(repr=False)

    @property
    def labels(self) -> dict[str, str]:
        return {FLEET: self.fleet, ROLE: self.role, TOKEN: self.token}


@dataclass(frozen=True)
class Node:
    """A machine as its cloud knows it. :ivar own: libcloud's description, for its calls"""

    id: str
    name: str
    state: str
    size: str
    image: str
    private_ips: tuple[str, ...]
    public_ips: tuple[str, ...]
    labels: Mapping[str, str]
    own: LibcloudNode = field(repr=False, compare=False)

    @property
    def address(self) -> str | None:
        """Where the fleet reaches it: a private address if it has one."""
        return next(iter((*self.private_ips, *self.public_ips)), None)


def nothing_left(driver: NodeDriver, settings: Settings, name: str) -> Sequence[Callable[[], object]]:
    """A machine of this cloud is all there is."""
    return ()


def nothing_to_confirm(driver: NodeDriver, node: LibcloudNode) -> None:
    """A machine of this cloud that has another size stays so."""


def plain_state(node: LibcloudNode) -> str:
    return STATES.get(node.state, UNKNOWN)


@dataclass(frozen=True)
class Dialect:
    """How one cloud is spoken to. Every function may raise what libcloud raises.

    :ivar secrets: what it has to be told in secret
    :ivar options: what only this cloud knows, in a provider's or a profile's `options`
    :ivar connect: a libcloud driver for it
    :ivar create: ask for a machine
    :ivar labels: what a machine is marked with
    :ivar size_and_image: their ids, of a machine
    :ivar repeatable: asking twice for the same order makes one machine
    :ivar nodes: every machine of a fleet, perhaps others' as well
    :ivar scan: the same for less, where the full account costs requests for each: no more than what is marked how
    :ivar look: one machine anew; raises a GONE fault or answers None if there is none
    :ivar resize: change the size of a stopped machine; None where that is not possible
    :ivar confirm: have a machine that is `RESIZED` stay so
    :ivar destroy: end a machine
    :ivar leftovers: what to call to remove what a machine by this name leaves behind beside itself
    :ivar images: those worth showing, where a cloud has hundreds of thousands
    :ivar state: of a machine
    :ivar why: what the cloud says of a machine that failed, if anything
    :ivar user_data_limit: bytes
    """

    secrets: tuple[str, ...]
    options: tuple[str, ...]
    connect: Callable[[Settings], NodeDriver]
    create: Callable[[NodeDriver, Settings, Order, Mapping[str, Any]], LibcloudNode]
    labels: Callable[[LibcloudNode], Mapping[str, str]]
    size_and_image: Callable[[LibcloudNode], tuple[str, str]]
    resize: Callable[[NodeDriver, LibcloudNode, NodeSize], object] | None
    look: Callable[[NodeDriver, Settings, LibcloudNode], LibcloudNode | None]
    nodes: Callable[[NodeDriver, Settings], Sequence[LibcloudNode]] = lambda driver, settings: (
        driver.list_nodes()
    )
    scan: Callable[[NodeDriver, Settings], Sequence[LibcloudNode]] | None = None
    images: Callable[[NodeDriver, Settings], Sequence[NodeImage]] = lambda driver, settings: (
        driver.list_images()
    )
    start: Callable[[NodeDriver, LibcloudNode], object] = lambda driver, node: driver.start_node(node)
    stop: Callable[[NodeDriver, LibcloudNode], object] = lambda driver, node: driver.stop_node(node)
    destroy: Callable[[NodeDriver, LibcloudNode], object] = lambda driver, node: driver.destroy_node(node)
    leftovers: Callable[[NodeDriver, Settings, str], Sequence[Callable[[], object]]] = nothing_left
    state: Callable[[LibcloudNode], str] = plain_state
    why: Callable[[LibcloudNode], str] = lambda node: ""
    confirm: Callable[[NodeDriver, LibcloudNode], object] = nothing_to_confirm
    repeatable: bool = False
    user_data_limit: int = 65_536

    def read(self, node: LibcloudNode) -> Node:
        """A machine, in our own words."""
        size, image = self.size_and_image(node)
        return Node(
            str(node.id), node.name, self.state(node), size, image,
            tuple(node.private_ips or ()), tuple(node.public_ips or ()), dict(self.labels(node)), node,
        )  # fmt: skip


def tags(order: Order) -> list[str]:
    """An order's labels, for clouds whose marks are single words."""
    return [f"{key}:{value}" for key, value in order.labels.items()]


def labels_of_tags(found: Iterable[str]) -> dict[str, str]:
    """The labels among a machine's tags."""
    return dict(tag.split(":", 1) for tag in found if ":" in tag)


def tagged(node: LibcloudNode) -> dict[str, str]:
    """The labels of a machine whose marks are tags."""
    return labels_of_tags(node.extra.get("tags") or ())


def sorted_addresses(found: Iterable[str]) -> tuple[list[str], list[str]]:
    """IPv4 addresses as private and public ones."""
    private, public = [], []
    for address in found:
        (private if any(ip_address(address) in network for network in PRIVATE) else public).append(address)
    return private, public


def driver_class(provider: str) -> type[NodeDriver]:
    """libcloud's class for a cloud."""
    return get_driver(provider)


def point(driver: NodeDriver, endpoint: Endpoint | None, timeout: float) -> NodeDriver:
    """Have a driver talk to another place than the one libcloud knows, and not wait for ever.

    Not every class of libcloud hands `host` and `port` on to its connection, so they are set there.
    """
    direct(driver.connection, endpoint, timeout)
    return driver


def direct(connection: Connection, endpoint: Endpoint | None, timeout: float) -> None:
    """The same for one connection."""
    connection.timeout = timeout
    if endpoint is not None:
        connection.host, connection.port = endpoint.host, endpoint.port
        connection.secure, connection.request_path = int(endpoint.secure), endpoint.root
    connection.connection = None  # the next request makes it, with these


def only_here(order: Order, settings: Settings, what: str) -> None:
    """Refuse an order for another place than the one whose machines a provider knows.

    :param what: the cloud calls such a place
    :raises SalternError: it is for another
    """
    if order.location != settings.location:
        raise SalternError(
            f"location {order.location!r}: provider {settings.alias} is the {what} {settings.location}; another {what} "
            "is another provider"
        )


def size(driver: NodeDriver, id_: str) -> NodeSize:
    """A size that is only named: the cloud says if it has none."""
    return NodeSize(id_, id_, ram=0, disk=0, bandwidth=0, price=0, driver=driver)


def image(driver: NodeDriver, id_: str) -> NodeImage:
    return NodeImage(id_, id_, driver)


def location(driver: NodeDriver, id_: str) -> NodeLocation:
    return NodeLocation(id_, id_, "", driver)


def find(nodes: Sequence[LibcloudNode], node: LibcloudNode) -> LibcloudNode | None:
    return next((each for each in nodes if each.id == node.id), None)
