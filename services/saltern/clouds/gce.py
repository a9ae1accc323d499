"""Google Compute Engine, API v1. A name is unique in a zone, so asking twice for the same order makes one machine.

Names are `fleet-name`: two fleets in one project do not get into each other's way. What is asked for is an operation,
which may yet fail after it was accepted: those that make a machine, start it and change its size are waited for.
Google's `stop` shuts a machine down, `reset` restarts it as if by its button.

libcloud's own driver logs in while its object is made, at a place that nobody may choose, keeps its token in a file in
the home folder, looks up every disk of every machine in requests of their own, and waits for operations by a clock of
its own. So only libcloud's client is used here.
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from libcloud.common.base import Connection, ConnectionKey
from libcloud.common.exceptions import BaseHTTPError
from libcloud.compute.base import Node, NodeDriver, NodeImage, NodeLocation, NodeSize
from libcloud.compute.types import NodeState
from libcloud.utils.py3 import urlencode

from saltern.clouds import dialect
from saltern.clouds.answer import JsonAnswer, words
from saltern.clouds.dialect import Dialect, Order
from saltern.clouds.settings import Settings
from saltern.errors import SalternError

LOGIN_HOST, LOGIN_PATH = "oauth2.googleapis.com", "/token"
SCOPE = "https://www.googleapis.com/auth/compute"
GRANT = "urn:ietf:params:oauth:grant-type:jwt-bearer"
# Seconds that a login is asked for, and before its end a new one is.
LOGIN_SECONDS, LOGIN_MARGIN = 3600, 120
PAGE = 500
IMAGE_KEY = "saltern-image"
# Everything else is at work on something.
STATES = {"RUNNING": dialect.RUNNING, "TERMINATED": dialect.STOPPED, "SUSPENDED": dialect.UNKNOWN}
STARTUP = """#!/bin/sh
# Debian's images have no cloud-init here, which reads the user data: install it, and have it do so now.
command -v cloud-init > /dev/null && exit 0
mkdir -p /etc/cloud/cloud.cfg.d
echo 'network: {config: disabled}' > /etc/cloud/cloud.cfg.d/99-saltern.cfg
for pause in 5 15 45 90 0; do
  apt-get -q update &&
    DEBIAN_FRONTEND=noninteractive apt-get -qy --no-install-recommends install cloud-init && break
  sleep "$pause"
done
cloud-init init --local
cloud-init init && cloud-init modules --mode=config && cloud-init modules --mode=final
"""


class _Answer(JsonAnswer):
    @staticmethod
    def words(said: object) -> str:
        """With the reason before the message: the same message is a rate limit or a quota by it."""
        about = said.get("error") if isinstance(said, dict) else None
        errors = about.get("errors") if isinstance(about, dict) else None
        reason = errors[0].get("reason") if errors else None
        return f"{reason}: {words(about)}" if reason else words(said)


class _Login(Connection):
    """Where a service account is given a token: OAuth 2.0 for server to server applications."""

    responseCls = _Answer
    host = LOGIN_HOST

    def token(self, account: Mapping[str, str]) -> tuple[str, float]:
        """A token and the unix second until which to use it."""
        now = int(time.time())
        claims = {
            "iss": account["client_email"], "scope": SCOPE, "aud": f"https://{LOGIN_HOST}{LOGIN_PATH}",
            "iat": now, "exp": now + LOGIN_SECONDS,
        }  # fmt: skip
        form = urlencode({"grant_type": GRANT, "assertion": signed(claims, account["private_key"])})
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        answer = self.request(LOGIN_PATH, method="POST", data=form, headers=headers).object
        return answer["access_token"], now + float(answer["expires_in"]) - LOGIN_MARGIN


def signed(claims: Mapping[str, object], private_key: str) -> str:
    """A JSON Web Token (RFC 7519), signed by RS256."""
    from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    def part(data: bytes) -> bytes:
        return base64.urlsafe_b64encode(data).rstrip(b"=")

    head = json.dumps({"alg": "RS256", "typ": "JWT"}).encode()
    message = part(head) + b"." + part(json.dumps(claims).encode())
    key = load_pem_private_key(private_key.encode(), password=None)
    return (message + b"." + part(key.sign(message, PKCS1v15(), SHA256()))).decode()


class _Connection(ConnectionKey):
    responseCls = _Answer
    host = "compute.googleapis.com"

    def add_default_headers(self, headers: dict[str, str]) -> dict[str, str]:
        return {
            **headers, "Authorization": f"Bearer {self.driver.token()}", "Content-Type": "application/json",
        }  # fmt: skip


class _Driver(NodeDriver):
    name = "Google Compute Engine"
    connectionCls = _Connection

    def __init__(self, account: Mapping[str, str], project: str, zone: str) -> None:
        super().__init__("")
        self.account, self.project, self.zone = account, project, zone
        self.login = _Login()
        self._token, self._until = "", 0.0

    def token(self) -> str:
        if time.time() >= self._until:
            self._token, self._until = self.login.token(self.account)
        return self._token

    def path(self, of: str, project: str = "") -> str:
        return f"/compute/v1/projects/{project or self.project}/{of}"

    def in_zone(self, of: str) -> str:
        return self.path(f"zones/{self.zone}/{of}")

    def ask(self, path: str, method: str = "GET", given: object = None, **params: Any) -> dict[str, Any]:
        data = None if given is None else json.dumps(given)
        return self.connection.request(path, method=method, data=data, params=params).object

    def all(self, path: str, **params: Any) -> Iterator[dict[str, Any]]:
        """Everything of a list, all its pages."""
        while True:
            answer = self.ask(path, maxResults=PAGE, **params)
            yield from answer.get("items", ())
            if not answer.get("nextPageToken"):
                return
            params["pageToken"] = answer["nextPageToken"]

    def finish(self, operation: Mapping[str, Any]) -> None:
        """Wait for an operation, as long as Google waits or a request may take.

        :raises BaseHTTPError: it failed
        """
        path = self.in_zone(f"operations/{operation['name']}/wait")
        ended = self.ask(path, "POST")
        if said := ended.get("error"):
            text = "; ".join(f"{each['code']}: {each.get('message', '')}" for each in said["errors"])
            raise BaseHTTPError(int(ended.get("httpErrorStatusCode", 400)), text)

    def node(self, about: Mapping[str, Any]) -> Node:
        faces = about.get("networkInterfaces") or ()
        private = [face["networkIP"] for face in faces if face.get("networkIP")]
        outside = [each for face in faces for each in face.get("accessConfigs") or ()]
        name = about["name"].removeprefix(f"{(about.get('labels') or {}).get(dialect.FLEET)}-")
        return Node(
            about["id"], name, NodeState.UNKNOWN, [each["natIP"] for each in outside if each.get("natIP")], private,
            self, extra=dict(about),
        )  # fmt: skip

    def reboot_node(self, node: Node) -> None:
        self.act(node, "reset")

    def act(self, node: Node, action: str, given: object = None) -> dict[str, Any]:
        """Have something done to a machine; the operation, which is not waited for."""
        return self.ask(self.in_zone(f"instances/{node.extra['name']}/{action}"), "POST", given)

    def list_sizes(self) -> list[NodeSize]:
        return [
            NodeSize(each["name"], each["name"], each["memoryMb"], None, None, None, self)
            for each in self.all(self.in_zone("machineTypes"))
        ]

    def list_locations(self) -> list[NodeLocation]:
        return [NodeLocation(each["name"], each["name"], "", self) for each in self.all(self.path("zones"))]


def connect(settings: Settings) -> NodeDriver:
    account = _account(settings)
    driver = _Driver(account, settings.options.get("project") or account["project_id"], settings.location)
    for connection in (driver.connection, driver.login):
        dialect.direct(connection, settings.endpoint, settings.timeout)
    return driver


def _account(settings: Settings) -> Mapping[str, str]:
    """A service account's key, as Google's console gives it out.

    :raises SalternError: it is none
    """
    try:
        account = json.loads(settings.secrets["key"])
        missing = [need for need in ("client_email", "private_key", "project_id") if not account.get(need)]
    except (ValueError, AttributeError):
        missing = ["JSON"]
    if missing:
        raise SalternError(
            f"provider {settings.alias}: key: what the variable holds is not the key file of a service account (no "
            f'{missing[0]}); `export GOOGLE_CREDENTIALS="$(cat key.json)"`'
        )
    return account


def create(driver: _Driver, settings: Settings, order: Order, options: Mapping[str, Any]) -> Node:
    asked = instance(order, settings, options)
    try:
        operation = driver.ask(driver.in_zone("instances"), "POST", asked)
    except BaseHTTPError as error:
        if error.code != 409:
            raise
        ours = driver.node(driver.ask(driver.in_zone(f"instances/{asked['name']}")))
        if labels(ours).get(dialect.TOKEN) != order.token:
            raise
        return ours
    driver.finish(operation)
    return driver.node(driver.ask(driver.in_zone(f"instances/{asked['name']}")))


def instance(order: Order, settings: Settings, options: Mapping[str, Any]) -> dict[str, Any]:
    """What Google is asked for: instances.insert of its reference.

    :raises SalternError: the order is for another zone, or an image of another form
    """
    dialect.only_here(order, settings, "zone")
    face: dict[str, Any] = {}
    for option in ("network", "subnetwork"):
        if option in options:
            face[option] = options[option]
    if options.get("public_address", True):
        face["accessConfigs"] = [{"type": "ONE_TO_ONE_NAT", "name": "External NAT"}]
    disk: dict[str, Any] = {"sourceImage": image(order.image), "labels": order.labels}
    if "disk_gb" in options:
        disk["diskSizeGb"] = str(options["disk_gb"])
    told = {IMAGE_KEY: order.image}
    if order.user_data:
        told |= {"user-data": order.user_data, "startup-script": STARTUP}
    return {
        "name": f"{order.fleet}-{order.name}",
        "machineType": f"zones/{order.location}/machineTypes/{order.size.id}",
        "labels": order.labels,
        # For firewall rules.
        "tags": {"items": ["saltern", f"saltern-{order.role}"]},
        "disks": [{"boot": True, "autoDelete": True, "initializeParams": disk}],
        "networkInterfaces": [face],
        "metadata": {"items": [{"key": key, "value": value} for key, value in told.items()]},
    }


def image(name: str) -> str:
    """The path of an image: the newest of a family, or the very one."""
    if name.startswith("projects/"):
        return name
    project, slash, family = name.partition("/")
    if not slash or "/" in family:
        raise SalternError(
            f"image {name!r}: Google's are PROJECT/FAMILY, such as debian-cloud/debian-12, or "
            "projects/PROJECT/global/images/NAME"
        )
    return f"projects/{project}/global/images/family/{family}"


def images(driver: _Driver, settings: Settings) -> Sequence[NodeImage]:
    """The families of the configured image's project."""
    project = image(settings.image).split("/")[1]
    found = driver.all(driver.path("global/images", project))
    families = {
        each["family"]: each["name"] for each in found if each.get("family") and "deprecated" not in each
    }
    return [NodeImage(f"{project}/{family}", newest, driver) for family, newest in sorted(families.items())]


def labels(node: Node) -> Mapping[str, str]:
    return node.extra.get("labels") or {}


def nodes(driver: _Driver, settings: Settings) -> Sequence[Node]:
    ours = f"labels.{dialect.FLEET}={settings.fleet.name}"
    return [driver.node(each) for each in driver.all(driver.in_zone("instances"), filter=ours)]


def look(driver: _Driver, settings: Settings, node: Node) -> Node:
    return driver.node(driver.ask(driver.in_zone(f"instances/{node.extra['name']}")))


def size_and_image(node: Node) -> tuple[str, str]:
    told = {each["key"]: each["value"] for each in node.extra.get("metadata", {}).get("items", ())}
    return node.extra["machineType"].rsplit("/", 1)[-1], told.get(IMAGE_KEY, "")


def destroy(driver: _Driver, node: Node) -> None:
    driver.ask(driver.in_zone(f"instances/{node.extra['name']}"), "DELETE")


def leftovers(driver: _Driver, settings: Settings, name: str) -> Sequence[Callable[[], object]]:
    def end_disk() -> None:
        """The boot disk has its machine's name and goes with it, unless the machine never came to be."""
        path = driver.in_zone(f"disks/{settings.fleet.name}-{name}")
        disk = driver.ask(path)
        ours = (disk.get("labels") or {}).get(dialect.FLEET) == settings.fleet.name
        if ours and not disk.get("users"):
            driver.ask(path, "DELETE")

    return (end_disk,)


def resize(driver: _Driver, node: Node, size: NodeSize) -> None:
    kind = {"machineType": f"zones/{driver.zone}/machineTypes/{size.id}"}
    driver.finish(driver.act(node, "setMachineType", kind))


DIALECT = Dialect(
    secrets=("key",),
    options=("project", "network", "subnetwork", "public_address", "disk_gb"),
    connect=connect,
    create=create,
    labels=labels,
    size_and_image=size_and_image,
    state=lambda node: STATES.get(node.extra["status"], dialect.PENDING),
    nodes=nodes,
    look=look,
    images=images,
    start=lambda driver, node: driver.finish(driver.act(node, "start")),
    stop=lambda driver, node: driver.act(node, "stop"),
    destroy=destroy,
    leftovers=leftovers,
    resize=resize,
    repeatable=True,
    user_data_limit=262_144,
)
