"""Azure Resource Manager. A machine is three things there, each by a name that is known before: the virtual machine,
its network interface and its disk. All are made by PUT, so asking twice makes one.

libcloud's own class cannot be pointed at another place to log in, answers user data with a TypeError, and resizes by a
call that Azure does not document; this sets that right and leaves the rest to it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from libcloud.common.azure_arm import AzureAuthJsonResponse, AzureResourceManagementConnection
from libcloud.common.exceptions import BaseHTTPError
from libcloud.compute.base import Node, NodeAuthSSHKey, NodeDriver, NodeImage, NodeSize
from libcloud.compute.drivers import azure_arm
from libcloud.compute.drivers.azure_arm import AzureImage, AzureNic, AzureNodeDriver, AzureSubnet
from libcloud.http import LibcloudConnection
from libcloud.utils.py3 import urlencode

from saltern.clouds import dialect
from saltern.clouds.dialect import Dialect, Order
from saltern.clouds.settings import Settings
from saltern.errors import SalternError

DONE = (202, 204)  # deletion accepted; nothing there


class _Connection(AzureResourceManagementConnection):
    def get_token_from_credentials(self) -> None:
        """Log in where the environment says, at its port."""
        secure, host, port = self.driver.login
        connection = LibcloudConnection(host, port, secure=secure, timeout=self.timeout)
        connection.connect()
        form = {
            "grant_type": "client_credentials", "client_id": self.user_id, "client_secret": self.key,
            "resource": self.login_resource,
        }  # fmt: skip
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        connection.request("POST", f"/{self.tenant_id}/oauth2/token", urlencode(form), headers)
        answer = AzureAuthJsonResponse(connection.getresponse(), connection)
        self.access_token, self.expires_on = answer.object["access_token"], answer.object["expires_on"]

    def connect(self, **kwargs: Any) -> None:
        if self.driver.ready:
            super().connect(**kwargs)

    def request(self, *args: Any, **kwargs: Any) -> Any:
        if self.connection is None:
            self.connect()
        return super().request(*args, **kwargs)

    def encode_data(self, data: object) -> str:
        # User data comes in base64 as bytes.
        return json.dumps(data, default=bytes.decode)


class _Driver(AzureNodeDriver):
    connectionCls = _Connection
    # libcloud logs in while its object is made, before anybody could say where.
    ready = False
    login = (True, "login.microsoftonline.com", 443)


def connect(settings: Settings) -> NodeDriver:
    _options(settings, {})
    names = ("tenant_id", "subscription_id", "key", "secret")
    driver = _Driver(*(settings.secrets[name] for name in names), region=settings.location)
    if there := settings.endpoint:
        driver.login = (there.secure, there.host, there.port)
    driver.ready = True
    return dialect.point(driver, settings.endpoint, settings.timeout)


def _options(settings: Settings, more: Mapping[str, Any]) -> dict[str, Any]:
    options = {
        "subnet": "default",
        "user_name": "saltern",
        "disk_type": "Standard_LRS",
        **settings.options,
        **more,
    }
    for need in ("resource_group", "network"):
        if not options.get(need):
            raise SalternError(f"provider {settings.alias}: options: {need!r} is missing; Azure needs one")
    return options


def _image(name: str) -> list[str]:
    parts = name.split(":")
    if len(parts) != 4:
        raise SalternError(
            f"image {name!r}: Azure's are publisher:offer:sku:version, such as Debian:debian-12:12-gen2:latest"
        )
    return parts


def images(driver: AzureNodeDriver, settings: Settings) -> Sequence[NodeImage]:
    """The images of the configured one's publisher and offer."""
    publisher, offer, _, _ = _image(settings.image)
    return driver.list_images(ex_publisher=publisher, ex_offer=offer)


def create(driver: AzureNodeDriver, settings: Settings, order: Order, options: Mapping[str, Any]) -> Node:
    chosen = _options(settings, options)
    where = dialect.location(driver, order.location)
    publisher, offer, sku, version = _image(order.image)
    subnet = _path(
        settings, "Microsoft.Network/virtualNetworks", f"{chosen['network']}/subnets/{chosen['subnet']}"
    )
    nic = driver.ex_create_network_interface(
        nic_name(order.name), AzureSubnet(subnet, chosen["subnet"], {}), chosen["resource_group"], where
    )
    return driver.create_node(
        name=order.name,
        size=dialect.size(driver, order.size.id),
        image=AzureImage(version, sku, offer, publisher, order.location, driver),
        auth=NodeAuthSSHKey(chosen.get("ssh_public_key") or nobodys_key()),
        location=where,
        ex_resource_group=chosen["resource_group"],
        ex_nic=nic,
        ex_tags=order.labels,
        ex_customdata=order.user_data.encode(),
        ex_user_name=chosen["user_name"],
        ex_use_managed_disks=True,
        ex_storage_account_type=chosen["disk_type"],
        ex_os_disk_delete=True,
    )


@lru_cache(maxsize=1)
def nobodys_key() -> str:
    """A public key whose private half was thrown away: Azure makes no Linux machine without one, and none is used."""
    from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    key = generate_private_key(public_exponent=65537, key_size=2048).public_key()
    return key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


def nic_name(name: str) -> str:
    return f"{name}-nic"


def _path(settings: Settings, kind: str, name: str) -> str:
    group = settings.options["resource_group"]
    subscription = settings.secrets["subscription_id"]
    return f"/subscriptions/{subscription}/resourceGroups/{group}/providers/{kind}/{name}"


def nodes(driver: AzureNodeDriver, settings: Settings) -> Sequence[Node]:
    return driver.list_nodes(ex_resource_group=settings.options["resource_group"])


def scan(driver: AzureNodeDriver, settings: Settings) -> Sequence[Node]:
    group = settings.options["resource_group"]
    return driver.list_nodes(ex_resource_group=group, ex_fetch_nic=False, ex_fetch_power_state=False)


def look(driver: AzureNodeDriver, settings: Settings, node: Node) -> Node | None:
    return driver.ex_get_node(node.id)


def size_and_image(node: Node) -> tuple[str, str]:
    properties = node.extra["properties"]
    of = properties["storageProfile"].get("imageReference") or {}
    image = ":".join(str(of[part]) for part in ("publisher", "offer", "sku", "version") if part in of)
    return properties["hardwareProfile"]["vmSize"], image


def _delete(driver: AzureNodeDriver, path: str, version: str) -> None:
    try:
        driver.connection.request(path, params={"api-version": version}, method="DELETE")
    except BaseHTTPError as error:
        if error.code not in DONE:
            raise


def destroy(driver: AzureNodeDriver, node: Node) -> None:
    _delete(driver, node.id, azure_arm.VM_API_VERSION)


def leftovers(driver: AzureNodeDriver, settings: Settings, name: str) -> Sequence[Callable[[], object]]:
    nic = _path(settings, "Microsoft.Network/networkInterfaces", nic_name(name))
    disk = _path(settings, "Microsoft.Compute/disks", name)
    return (
        lambda: driver.ex_destroy_nic(AzureNic(nic, nic_name(name), None, {})),
        lambda: _delete(driver, disk, azure_arm.DISK_API_VERSION),
    )


def resize(driver: AzureNodeDriver, node: Node, size: NodeSize) -> None:
    """Virtual Machines - Update, of Azure's REST reference."""
    driver.connection.request(
        node.id,
        params={"api-version": azure_arm.VM_API_VERSION},
        data={"properties": {"hardwareProfile": {"vmSize": size.id}}},
        method="PATCH",
    )


DIALECT = Dialect(
    secrets=("tenant_id", "subscription_id", "key", "secret"),
    options=("resource_group", "network", "subnet", "user_name", "ssh_public_key", "disk_type"),
    connect=connect,
    create=create,
    labels=lambda node: node.extra.get("tags") or {},
    size_and_image=size_and_image,
    nodes=nodes,
    scan=scan,
    look=look,
    images=images,
    destroy=destroy,
    leftovers=leftovers,
    resize=resize,
    repeatable=True,
)
