"""Small fakes of clouds' documented APIs, over HTTP, for libcloud's own client; and a clock that does not wait.

They keep machines in memory and answer as the providers' reference pages say: DigitalOcean API v2 (droplets, actions,
regions, sizes, images), Azure's Resource Manager (virtual machines, network interfaces, disks); others are in files of
their own, fake_<cloud>.py. Each look at a machine that is changing brings it a step further, so nothing depends on real
time. A plan says which request goes wrong, and how.
"""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import re
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar
from urllib.parse import parse_qs, urlsplit

# What a plan may answer. LATE: obeyed, and answered with 500. CUT and CUT_LATE: the connection ends without an answer.
LIMITED, BROKEN, LATE, CUT, CUT_LATE = "429", "500", "500 after", "cut", "cut after"
WRONG = (LIMITED, BROKEN, LATE, CUT, CUT_LATE)
Plan = Callable[[str, str, int], str | None]
"""(which machine, or "" for requests about none; which kind of request; the how-manieth such) → what goes wrong."""


def all_well(subject: str, kind: str, number: int) -> None:
    """Nothing goes wrong."""


def seeded(seed: int, percent: float, kinds: tuple[str, ...] = WRONG) -> Plan:
    """Every request goes wrong by chance. The same seed does the same to each machine's own requests, however those of
    several interleave; of what is asked about none, such as a listing, the same number goes wrong.
    """

    def plan(subject: str, kind: str, number: int) -> str | None:
        digest = hashlib.sha256(f"{seed} {subject} {kind} {number}".encode()).digest()
        if int.from_bytes(digest[:4], "big") / 2**32 * 100 >= percent:
            return None
        return kinds[digest[4] % len(kinds)]

    return plan


class QuickClock:
    """Seconds that pass as soon as they are slept."""

    def __init__(self) -> None:
        self.seconds, self.slept = 0.0, 0.0

    def now(self) -> float:
        return self.seconds

    def sleep(self, seconds: float) -> None:
        self.seconds += seconds
        self.slept += seconds


@dataclass
class Answer:
    """What is answered: a text as it is, anything else as JSON."""

    status: int
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Fake:
    """What the fakes share: a server, a lock, a plan, a count of requests.

    :ivar looks: how many looks a change takes
    """

    limited: ClassVar[Answer] = Answer(429, {"message": "API Rate limit exceeded."}, {"Retry-After": "2"})
    broken: ClassVar[Answer] = Answer(500, {"message": "Unexpected server-side error"})

    plan: Plan = all_well
    looks: int = 2
    requests: Counter = field(default_factory=Counter)
    failed: Counter = field(default_factory=Counter)
    port: int = 0

    def __post_init__(self) -> None:
        self.lock = threading.Lock()
        self._numbers: Counter = Counter()

    def handle(
        self, method: str, path: str, query: Mapping[str, str], headers: Mapping[str, str], body: bytes
    ) -> Answer:
        raise NotImplementedError

    def subject(self, method: str, target: str, body: bytes) -> tuple[str, str]:
        raise NotImplementedError

    def answer(self, method: str, target: str, headers: Mapping[str, str], body: bytes) -> Answer | None:
        """The answer to a request; None: end the connection without one."""
        parts = urlsplit(target)
        query = {key: values[0] for key, values in parse_qs(parts.query).items()}
        with self.lock:
            subject, kind = self.subject(method, target, body)
            self.requests[kind] += 1
            self._numbers[subject, kind] += 1
            wrong = self.plan(subject, kind, self._numbers[subject, kind])
            if wrong:
                self.failed[wrong] += 1
            if wrong == LIMITED:
                return self.limited
            if wrong == CUT:
                return None
            if wrong == BROKEN:
                return self.broken
            found = self.handle(method, parts.path, query, headers, body)
            if wrong == LATE:
                return self.broken
            return None if wrong == CUT_LATE else found

    @contextmanager
    def serving(self, address: tuple[str, int] = ("127.0.0.1", 0)) -> Iterator[Fake]:
        """Serve on a free port of this machine, or where it is said."""
        fake = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _do(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                body = self.rfile.read(length)
                answer = fake.answer(self.command, self.path, self.headers, body)
                if answer is None:
                    self.close_connection = True
                    self.connection.shutdown(socket.SHUT_RDWR)
                    return
                text = answer.body if isinstance(answer.body, str) else json.dumps(answer.body)
                payload = b"" if answer.body is None else text.encode()
                self.send_response(answer.status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(payload)))
                for name, value in answer.headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(payload)

            do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = _do

            def log_message(self, *args: object) -> None:
                """Say nothing."""

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128

            def handle_error(self, request: object, client_address: object) -> None:
                """A connection that we cut ourselves is no news."""

        server = Server(address, Handler)
        self.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            server.shutdown()
            server.server_close()


@dataclass
class DigitalOcean(Fake):
    """DigitalOcean API v2."""

    token: str = "a token"
    limit: int = 1000
    droplets: dict[int, dict] = field(default_factory=dict)

    SIZES: ClassVar = {"s-1vcpu-1gb": (1024, 1), "s-2vcpu-2gb": (2048, 2), "s-2vcpu-4gb": (4096, 2)}
    REGIONS: ClassVar = {"fra1": "Frankfurt 1", "nyc3": "New York 3"}
    # Image → the regions that have it.
    IMAGES: ClassVar = {"debian-12-x64": ("fra1", "nyc3"), "debian-13-x64": ("nyc3",)}

    def __post_init__(self) -> None:
        super().__post_init__()
        self._ids = itertools.count(1001)

    def subject(self, method: str, target: str, body: bytes) -> tuple[str, str]:
        path = target.partition("?")[0]
        if path == "/v2/droplets" and method == "POST":
            return json.loads(body)["name"], "create"
        if match := re.fullmatch(r"/v2/droplets/(\d+)(/actions)?", path):
            name = self.droplets.get(int(match[1]), {}).get("name", "")
            return name, "action" if match[2] else {"GET": "look", "DELETE": "destroy"}[method]
        return "", path.removeprefix("/v2/")

    def names(self) -> list[str]:
        return sorted(each["name"] for each in self.droplets.values())

    def user_data(self) -> list[str]:
        return [each["user_data"] for each in self.droplets.values()]

    def handle(
        self, method: str, path: str, query: Mapping[str, str], headers: Mapping[str, str], body: bytes
    ) -> Answer:
        if headers.get("Authorization") != f"Bearer {self.token}":
            return Answer(401, {"id": "unauthorized", "message": "Unable to authenticate you"})
        given = json.loads(body) if body else {}
        if path == "/v2/droplets":
            if method == "POST":
                return self._create(given)
            return Answer(200, self._page("droplets", list(self.droplets.values()), query))
        if path == "/v2/regions":
            regions = [{"slug": s, "name": n, "available": True} for s, n in self.REGIONS.items()]
            return Answer(200, {"regions": regions, "links": {}})
        if path == "/v2/sizes":
            return Answer(200, {"sizes": [self._size(slug) for slug in self.SIZES], "links": {}})
        if path == "/v2/images":
            return Answer(200, {"images": [self._image(slug) for slug in self.IMAGES], "links": {}})
        match = re.fullmatch(r"/v2/droplets/(\d+)(/actions)?", path)
        droplet = self.droplets.get(int(match[1])) if match else None
        if droplet is None:
            return Answer(
                404, {"id": "not_found", "message": "The resource you were accessing could not be found."}
            )
        if match[2]:
            return self._act(droplet, given)
        if method == "DELETE":
            del self.droplets[droplet["id"]]
            return Answer(204)
        self._pass(droplet)
        return Answer(200, {"droplet": self._shown(droplet)})

    def _page(self, key: str, found: list, query: Mapping[str, str]) -> dict:
        per, page = min(int(query.get("per_page", 20)), 200), int(query.get("page", 1))
        last = max(1, -(-len(found) // per))
        links = (
            {"pages": {"last": f"https://api.digitalocean.com/v2/{key}?page={last}"}} if page < last else {}
        )
        return {key: [self._shown(each) for each in found[(page - 1) * per : page * per]], "links": links}

    def _create(self, given: dict) -> Answer:
        def no(words: str) -> Answer:
            return Answer(422, {"id": "unprocessable_entity", "message": words})

        if not re.fullmatch(r"[a-zA-Z0-9.-]+", given["name"]):
            return no("Only valid hostname characters are allowed. (a-z, A-Z, 0-9, . and -)")
        if given["size"] not in self.SIZES:
            return no("You specified an invalid size for Droplet creation.")
        if given["region"] not in self.REGIONS:
            return no("You specified an invalid region for Droplet creation.")
        if given["image"] not in self.IMAGES:
            return no("You specified an invalid image for Droplet creation.")
        if given["region"] not in self.IMAGES[given["image"]]:
            return no("The image you specified is not available in the selected region.")
        if len((given.get("user_data") or "").encode()) > 65536:
            return no("User data is too long (maximum is 64 KiB)")
        if len(self.droplets) >= self.limit:
            return no("creating this/these droplet(s) will exceed your droplet limit")
        number = next(self._ids)
        self.droplets[number] = {
            "id": number, "name": given["name"], "status": "new", "locked": True, "size": given["size"],
            "image": given["image"], "region": given["region"], "tags": given.get("tags", []),
            "user_data": given.get("user_data"), "left": self.looks, "then": "active",
        }  # fmt: skip
        return Answer(202, {"droplet": self._shown(self.droplets[number]), "links": {}})

    def _act(self, droplet: dict, given: dict) -> Answer:
        if droplet["locked"]:
            self._pass(droplet)
            words = "Droplet already has a pending event."
            return Answer(422, {"id": "unprocessable_entity", "message": words})
        then = {"shutdown": "off", "power_on": "active", "reboot": "active", "resize": "off"}.get(
            given["type"]
        )
        if then is None or (given["type"] == "resize" and droplet["status"] != "off"):
            return Answer(422, {"id": "unprocessable_entity", "message": "Droplet must be powered off"})
        if given["type"] == "resize":
            if given["size"] not in self.SIZES:
                return Answer(
                    422, {"id": "unprocessable_entity", "message": "You specified an invalid size."}
                )
            droplet["size"] = given["size"]
        droplet.update(locked=True, left=self.looks, then=then)
        return Answer(201, {"action": {"id": 1, "status": "in-progress", "type": given["type"]}})

    @staticmethod
    def _pass(droplet: dict) -> None:
        if droplet["locked"]:
            droplet["left"] -= 1
            if droplet["left"] <= 0:
                droplet.update(status=droplet["then"], locked=False)

    def _size(self, slug: str) -> dict:
        memory, cpus = self.SIZES[slug]
        return {"slug": slug, "memory": memory, "vcpus": cpus, "disk": 25, "transfer": 1.0, "price_monthly": 6.0,
                "price_hourly": 0.009, "regions": list(self.REGIONS), "available": True}  # fmt: skip

    def _image(self, slug: str) -> dict:
        return {"id": 1, "name": slug, "distribution": "Debian", "public": True, "slug": slug,
                "regions": list(self.IMAGES[slug]), "min_disk_size": 7,
                "created_at": "2026-01-01T00:00:00Z"}  # fmt: skip

    def _shown(self, droplet: dict) -> dict:
        fresh = droplet["status"] == "new"
        low = droplet["id"] % 250 + 1
        networks = [] if fresh else [
            {"ip_address": f"203.0.113.{low}", "type": "public"},
            {"ip_address": f"10.110.{droplet['id'] // 250}.{low}", "type": "private"},
        ]  # fmt: skip
        memory, cpus = self.SIZES[droplet["size"]]
        return {
            "id": droplet["id"], "name": droplet["name"], "status": droplet["status"], "locked": droplet["locked"],
            "memory": memory, "vcpus": cpus, "disk": 25, "created_at": "2026-01-01T00:00:00Z",
            "size": self._size(droplet["size"]), "size_slug": droplet["size"], "image": self._image(droplet["image"]),
            "networks": {"v4": networks, "v6": []}, "region": {"name": self.REGIONS[droplet["region"]]},
            "tags": droplet["tags"],
        }  # fmt: skip


@dataclass
class Azure(Fake):
    """Azure Resource Manager, one subscription and resource group."""

    secret: str = "a secret"
    limit: int = 1000
    machines: dict[str, dict] = field(default_factory=dict)
    nics: dict[str, dict] = field(default_factory=dict)
    disks: set[str] = field(default_factory=set)

    SIZES: ClassVar = {"Standard_B1s": (1024, 1), "Standard_B1ms": (2048, 1), "Standard_B2s": (4096, 2)}
    LOCATION = "westeurope"
    IMAGES = ("Debian:debian-12:12-gen2:latest",)
    GROUP = "/subscriptions/sub/resourceGroups/saltern"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._hosts = itertools.count(4)

    def names(self) -> list[str]:
        return sorted(self.machines)

    def user_data(self) -> list[str]:
        return [each["user_data"] for each in self.machines.values()]

    def subject(self, method: str, target: str, body: bytes) -> tuple[str, str]:
        path = target.partition("?")[0]
        kinds = {"virtualMachines": "machine", "networkInterfaces": "nic", "disks": "disk"}
        match = re.search(r"/(virtualMachines|networkInterfaces|disks)(?:/([^/]+))?(?:/(\w+))?$", path)
        if not match:
            return "", "token" if path.endswith("/token") else path.rsplit("/", 1)[1]
        return match[2] or "", f"{method} {kinds[match[1]]} {match[3] or ''}".strip()

    def handle(
        self, method: str, path: str, query: Mapping[str, str], headers: Mapping[str, str], body: bytes
    ) -> Answer:
        if path == "/tenant/oauth2/token":
            form = {key: values[0] for key, values in parse_qs(body.decode()).items()}
            if form.get("client_secret") != self.secret:
                return Answer(401, {
                    "error": "invalid_client",
                    "error_description": "AADSTS7000215: Invalid client secret provided.",
                })  # fmt: skip
            return Answer(200, {"access_token": "bearer", "expires_on": "9999999999"})
        if headers.get("Authorization") != "Bearer bearer":
            return self._no(401, "InvalidAuthenticationToken", "The access token is invalid.")
        if "api-version" not in query:
            return self._no(400, "MissingApiVersionParameter", "The api-version query parameter is required.")
        given = json.loads(body) if body else {}
        if path == "/subscriptions/sub/providers/Microsoft.Compute":
            types = [{"resourceType": "virtualMachines", "locations": ["West Europe"]}]
            return Answer(200, {"resourceTypes": types})
        if path.endswith(f"/locations/{self.LOCATION}/vmSizes"):
            return Answer(200, {"value": [
                {"name": name, "memoryInMB": memory, "numberOfCores": cpus, "osDiskSizeInMB": 1, "maxDataDiskCount": 1,
                 "resourceDiskSizeInMB": 4096} for name, (memory, cpus) in self.SIZES.items()
            ]})  # fmt: skip
        offer = f"/subscriptions/sub/providers/Microsoft.Compute/locations/{self.LOCATION}/publishers/Debian"
        offer += "/artifacttypes/vmimage/offers/debian-12"
        if path == f"{offer}/skus":
            return Answer(200, [{"id": f"{offer}/skus/12-gen2", "name": "12-gen2"}])
        if path == f"{offer}/skus/12-gen2/versions":
            return Answer(200, [{"id": f"{path}/0.1", "name": "0.1"}])
        if not path.startswith(f"{self.GROUP}/providers/"):
            return self._no(404, "ResourceGroupNotFound", "Resource group could not be found.")
        kind, *rest = path.removeprefix(f"{self.GROUP}/providers/").split("/")[1:]
        name = rest[0] if rest else ""
        if kind == "networkInterfaces":
            return self._nic(method, path, name, given)
        if kind == "disks" and method == "DELETE":
            there = name in self.disks
            self.disks.discard(name)
            return Answer(202 if there else 204)
        if kind == "virtualMachines":
            if not name:
                return Answer(200, {"value": [self._shown(each) for each in self.machines.values()]})
            return self._machine(method, path, name, rest[1] if rest[1:] else "", given)
        return self._no(404, "ResourceNotFound", f"The Resource {path} was not found.")

    @staticmethod
    def _no(status: int, code: str, words: str) -> Answer:
        return Answer(status, {"error": {"code": code, "message": words}})

    def _nic(self, method: str, path: str, name: str, given: dict) -> Answer:
        if method == "PUT":
            if name not in self.nics:
                self.nics[name] = {
                    "id": path,
                    "name": name,
                    "location": given["location"],
                    "host": next(self._hosts),
                }
        elif name not in self.nics:
            return (
                Answer(204)
                if method == "DELETE"
                else self._no(404, "ResourceNotFound", f"{name} was not found.")
            )
        elif method == "DELETE":
            if any(path == each["nic"] for each in self.machines.values()):
                return self._no(400, "NicInUse", f"Network Interface {path} is used by existing resource.")
            del self.nics[name]
            return Answer(202)
        nic = self.nics[name]
        address = f"10.20.{nic['host'] // 250}.{nic['host'] % 250 + 1}"
        configuration = {"name": "myip1", "properties": {"privateIPAddress": address}}
        return Answer(200, {
            "id": nic["id"], "name": name, "location": nic["location"],
            "properties": {"ipConfigurations": [configuration]},
        })  # fmt: skip

    def _machine(self, method: str, path: str, name: str, action: str, given: dict) -> Answer:
        if method == "PUT":
            return self._create(path, name, given)
        machine = self.machines.get(name)
        if machine is None:
            return (
                Answer(204)
                if method == "DELETE"
                else self._no(404, "ResourceNotFound", f"{path} was not found.")
            )
        if method == "DELETE":
            machine.setdefault("deleting", self.looks)
            return Answer(202)
        if "deleting" in machine and method == "GET" and not action:
            machine["deleting"] -= 1
            if machine["deleting"] <= 0:
                del self.machines[name]
                self.disks.discard(name)  # deleteOption
                return self._no(404, "ResourceNotFound", f"{path} was not found.")
        if action == "InstanceView":
            if machine["left"] > 0:
                machine["left"] -= 1
                return Answer(200, {"statuses": [{"code": "ProvisioningState/updating"}]})
            return Answer(
                200, {"statuses": [{"code": "ProvisioningState/succeeded"}, {"code": machine["power"]}]}
            )
        if action:
            machine["power"] = "PowerState/deallocated" if action == "deallocate" else "PowerState/running"
            machine["left"] = self.looks
            return Answer(202)
        if method == "PATCH":
            size = given["properties"]["hardwareProfile"]["vmSize"]
            if size not in self.SIZES:
                return self._no(
                    400, "InvalidParameter", f"The value {size} provided for the VM size is not valid."
                )
            machine.update(size=size, left=self.looks)
        return Answer(200, self._shown(machine))

    def _create(self, path: str, name: str, given: dict) -> Answer:
        properties = given["properties"]
        of = properties["storageProfile"]["imageReference"]
        image, size = (
            ":".join(of[part] for part in ("publisher", "offer", "sku", "version")),
            properties["hardwareProfile"]["vmSize"],
        )
        if given["location"] != self.LOCATION:
            return self._no(
                400, "LocationNotAvailableForResourceType", f"{given['location']} is not available."
            )
        if size not in self.SIZES:
            return self._no(
                400, "InvalidParameter", f"The value {size} provided for the VM size is not valid."
            )
        if image not in self.IMAGES:
            return self._no(404, "PlatformImageNotFound", f"The platform image {image} is not available.")
        if not properties["osProfile"]["linuxConfiguration"]["ssh"]["publicKeys"][0]["keyData"].startswith(
            "ssh-rsa "
        ):
            return self._no(
                400, "InvalidParameter", "Destination path for SSH public keys has an invalid key."
            )
        if name not in self.machines:
            if len(self.machines) >= self.limit:
                words = (
                    "Operation could not be completed as it results in exceeding approved Total Cores quota."
                )
                return self._no(409, "OperationNotAllowed", words)
            self.disks.add(name)
            self.machines[name] = {
                "id": path, "name": name, "size": size, "image": of, "tags": given["tags"], "left": self.looks,
                "power": "PowerState/running", "nic": properties["networkProfile"]["networkInterfaces"][0]["id"],
                "user_data": base64.b64decode(properties["osProfile"].get("customData", "")).decode(),
            }  # fmt: skip
        return Answer(201, self._shown(self.machines[name]))

    def _shown(self, machine: dict) -> dict:
        return {
            "id": machine["id"], "name": machine["name"], "location": self.LOCATION, "tags": machine["tags"],
            "properties": {
                "hardwareProfile": {"vmSize": machine["size"]},
                "provisioningState": "Deleting" if "deleting" in machine else "Succeeded",
                "storageProfile": {"imageReference": machine["image"], "osDisk": {"name": machine["name"]}},
                "networkProfile": {"networkInterfaces": [{"id": machine["nic"]}]},
            },
        }  # fmt: skip
