"""OpenStack: Nova's machines and Glance's images, found through the catalog of Keystone, version 3.

A name may be taken twice there, and a request is not repeatable: only the order's mark in the metadata tells. A machine
of another size waits to be confirmed before it is the machine again.

libcloud asks for a machine and looks at it in the same call, so that a look that fails would have it asked for again;
it takes a machine that waits to be confirmed for one that runs, and looks for services by names that every cloud
chooses for itself. This sets that right and leaves the rest to it.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from typing import Any

from libcloud.common.openstack_identity import OpenStackIdentityEndpointType
from libcloud.common.types import LibcloudError
from libcloud.compute.base import Node, NodeDriver, NodeLocation
from libcloud.compute.drivers.openstack import (
    OpenStack_2_Connection,
    OpenStack_2_ImageConnection,
    OpenStack_2_NodeDriver,
)
from libcloud.compute.types import NodeState

from saltern.clouds import dialect
from saltern.clouds.answer import JsonAnswer
from saltern.clouds.dialect import Dialect, Order
from saltern.clouds.settings import Settings
from saltern.errors import SalternError

# Nova's own words for what a server is; what is not here can neither be started nor be waited for.
STATES = {
    "BUILD": dialect.PENDING, "REBUILD": dialect.PENDING, "REBOOT": dialect.PENDING, "HARD_REBOOT": dialect.PENDING,
    "RESIZE": dialect.PENDING, "REVERT_RESIZE": dialect.PENDING, "MIGRATING": dialect.PENDING,
    "ACTIVE": dialect.RUNNING, "SHUTOFF": dialect.STOPPED, "VERIFY_RESIZE": dialect.RESIZED,
    "DELETED": dialect.GONE, "SOFT_DELETED": dialect.GONE, "ERROR": dialect.FAILED,
}  # fmt: skip


class _Service:
    """A service that is known by its type and region alone."""

    service_name = None
    responseCls = JsonAnswer

    def get_endpoint(self) -> str:
        public = [
            each
            for each in self.service_catalog.get_endpoints(service_type=self.service_type)
            if each.endpoint_type == OpenStackIdentityEndpointType.EXTERNAL
        ]
        region = self._ex_force_service_region
        urls = sorted({each.url for each in public if each.region == region})
        if len(urls) != 1:
            has = ", ".join(sorted({str(each.region) for each in public})) or "none"
            raise LibcloudError(
                f"location {region!r}: {len(urls)} public services of type {self.service_type} there in the catalog, "
                f"which has regions {has}"
            )
        return urls[0]


class _Compute(_Service, OpenStack_2_Connection):
    """Nova."""


class _Images(_Service, OpenStack_2_ImageConnection):
    """Glance."""


class _Driver(OpenStack_2_NodeDriver):
    connectionCls = _Compute
    image_connectionCls = _Images

    def _to_node(self, api_node: Mapping[str, Any]) -> Node:
        node = super()._to_node(api_node)
        node.extra["status"] = api_node["status"]
        node.private_ips, node.public_ips = addresses(api_node["addresses"])
        return node

    def _get_size_price(self, size_id: str) -> None:
        """Nobody can know: whose cloud this is, only its users do."""

    def list_locations(self) -> list[NodeLocation]:
        regions = self.connection.get_service_catalog().get_regions("compute")
        return [NodeLocation(region, region, "", self) for region in sorted(regions)]

    def reboot_node(self, node: Node) -> None:
        self.act(node, {"reboot": {"type": "SOFT"}})

    def act(self, node: Node, action: Mapping[str, Any]) -> None:
        self.connection.request(f"/servers/{node.id}/action", method="POST", data=action)


def connect(settings: Settings) -> NodeDriver:
    there, options = settings.endpoint, settings.options
    if there is None:
        raise SalternError(
            f"provider {settings.alias}: api_root is missing; write the URL of your cloud's Keystone, such as "
            f"https://cloud.example.org:5000, into pillar/clouds.sls, under clouds: {settings.alias}"
        )
    project = options.get("project")
    scheme = "https" if there.secure else "http"
    return _Driver(
        settings.secrets["key"],
        settings.secrets["secret"],
        timeout=settings.timeout,
        # libcloud puts the version there itself.
        ex_force_auth_url=f"{scheme}://{there.host}:{there.port}{there.root.removesuffix('/v3')}",
        ex_force_auth_version="3.x_password" if project else "3.x_appcred",
        ex_tenant_name=project,
        ex_domain_name=options.get("user_domain", "Default"),
        ex_tenant_domain_id=options.get("project_domain", "default"),
        ex_force_service_region=settings.location,
    )


def create(driver: _Driver, settings: Settings, order: Order, options: Mapping[str, Any]) -> Node:
    answer = driver.connection.request(
        "/servers", method="POST", data={"server": server(order, settings, options)}
    )
    return Node(
        answer.object["server"]["id"], order.name, NodeState.PENDING, [], [], driver,
        extra={
            "status": "BUILD", "metadata": order.labels, "flavorId": order.size.id, "imageId": order.image,
        },
    )  # fmt: skip


def server(order: Order, settings: Settings, options: Mapping[str, Any]) -> dict[str, Any]:
    """What Nova is asked for: Create Server, of OpenStack's Compute API reference.

    :raises SalternError: the order is for another region, of which this provider knows nothing
    """
    dialect.only_here(order, settings, "region")
    asked: dict[str, Any] = {
        "name": order.name, "flavorRef": order.size.id, "imageRef": order.image, "metadata": order.labels,
    }  # fmt: skip
    if order.user_data:
        asked["user_data"] = base64.b64encode(order.user_data.encode()).decode()
    if networks := _listed(options.get("network")):
        asked["networks"] = [{"uuid": each} for each in networks]
    if groups := _listed(options.get("security_groups")):
        asked["security_groups"] = [{"name": each} for each in groups]
    for option, name in (("keyname", "key_name"), ("availability_zone",) * 2, ("config_drive",) * 2):
        if option in options:
            asked[name] = options[option]
    if gigabytes := options.get("volume_gb"):
        del asked["imageRef"]
        # It goes when the machine goes.
        asked["block_device_mapping_v2"] = [{
            "boot_index": 0, "uuid": order.image, "source_type": "image", "destination_type": "volume",
            "volume_size": gigabytes, "delete_on_termination": True,
        }]  # fmt: skip
    return asked


def _listed(given: object) -> list[Any]:
    return given if isinstance(given, list) else [given] if given else []


def addresses(networks: Mapping[str, Iterable[Mapping[str, Any]]]) -> tuple[list[str], list[str]]:
    """A server's private and public IPv4 addresses. A floating one is public, whatever it looks like from here."""
    found = [each for network in networks.values() for each in network if each.get("version", 4) == 4]
    floating = [each["addr"] for each in found if each.get("OS-EXT-IPS:type") == "floating"]
    private, public = dialect.sorted_addresses(each["addr"] for each in found if each["addr"] not in floating)
    return private, public + floating


def state(node: Node) -> str:
    found = STATES.get(node.extra["status"], dialect.UNKNOWN)
    # At work on something, and what the server says of itself is not the end of it.
    busy = node.extra.get("task_state") and found in (dialect.RUNNING, dialect.STOPPED)
    return dialect.PENDING if busy else found


DIALECT = Dialect(
    secrets=("key", "secret"),
    options=(
        "project", "user_domain", "project_domain", "network", "security_groups", "keyname", "availability_zone",
        "config_drive", "volume_gb",
    ),
    connect=connect,
    create=create,
    labels=lambda node: node.extra.get("metadata") or {},
    size_and_image=lambda node: (
        str(node.extra.get("flavorId") or ""),
        str(node.extra.get("imageId") or ""),
    ),
    state=state,
    why=lambda node: str((node.extra.get("fault") or {}).get("message", "")),
    look=lambda driver, settings, node: driver.ex_get_node_details(node.id),
    start=lambda driver, node: driver.act(node, {"os-start": None}),
    stop=lambda driver, node: driver.act(node, {"os-stop": None}),
    resize=lambda driver, node, size: driver.act(node, {"resize": {"flavorRef": size.id}}),
    confirm=lambda driver, node: driver.act(node, {"confirmResize": None}),
    # 65,535 characters of base64.
    user_data_limit=49_149,
)  # fmt: skip
