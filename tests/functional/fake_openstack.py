"""A small fake of OpenStack's documented APIs: Keystone v3, Nova 2.1, Glance v2; see cloud_fakes."""

from __future__ import annotations

import base64
import itertools
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from cloud_fakes import Answer, Fake

NOVA, GLANCE = "/compute/v2.1", "/image"


def no(status: int, kind: str, words: str) -> Answer:
    """An error in Nova's form."""
    return Answer(status, {kind: {"code": status, "message": words}})


@dataclass
class OpenStack(Fake):
    """One region of an OpenStack cloud, known by an application credential.

    :ivar page: servers in one answer
    :ivar faulty: servers that come to nothing, by name → what Nova says of it
    """

    limited: ClassVar[Answer] = Answer(
        429, {"overLimit": {"code": 429, "message": "This request was rate-limited."}}, {"Retry-After": "2"}
    )
    broken: ClassVar[Answer] = no(500, "computeFault", "Unexpected API Error.")

    secret: str = "a secret"
    limit: int = 1000
    page: int = 100
    servers: dict[str, dict] = field(default_factory=dict)
    faulty: dict[str, str] = field(default_factory=dict)

    REGION = "RegionOne"
    # Flavor → memory, processors, name.
    SIZES: ClassVar = {"2": (2048, 1, "m1.small"), "3": (4096, 2, "m1.medium"), "4": (8192, 4, "m1.large")}
    IMAGES: ClassVar = {"0a1b-debian-12": "Debian 12"}
    NETWORKS: ClassVar = ("net-1",)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._numbers_of_servers = itertools.count(1)

    def names(self) -> list[str]:
        return sorted(each["name"] for each in self.servers.values())

    def user_data(self) -> list[str]:
        return [each["user_data"] for each in self.servers.values()]

    def subject(self, method: str, target: str, body: bytes) -> tuple[str, str]:
        path = target.partition("?")[0]
        if path == f"{NOVA}/servers" and method == "POST":
            return json.loads(body)["server"]["name"], "create"
        if (match := re.fullmatch(rf"{NOVA}/servers/([^/]+)(/action)?", path)) and match[1] != "detail":
            name = self.servers.get(match[1], {}).get("name", "")
            return name, "action" if match[2] else {"GET": "look", "DELETE": "destroy"}[method]
        return "", path

    def handle(
        self, method: str, path: str, query: Mapping[str, str], headers: Mapping[str, str], body: bytes
    ) -> Answer:
        given = json.loads(body) if body else {}
        if path == "/v3/auth/tokens":
            return self._token(given, headers["Host"])
        if headers.get("X-Auth-Token") != "a token":
            return Answer(
                401, {"error": {"code": 401, "message": "The request you have made requires authentication."}}
            )
        if path == f"{GLANCE}/v2/images":
            return Answer(200, {"images": [
                {"id": id_, "name": name, "status": "active", "min_disk": 2, "min_ram": 0, "visibility": "public",
                 "created_at": "2026-01-01T00:00:00Z", "updated_at": "2026-01-01T00:00:00Z"}
                for id_, name in self.IMAGES.items()
            ]})  # fmt: skip
        if path == f"{NOVA}/flavors/detail":
            return Answer(200, {"flavors": [
                {"id": id_, "name": name, "ram": memory, "vcpus": cpus, "disk": 20, "swap": ""}
                for id_, (memory, cpus, name) in self.SIZES.items()
            ]})  # fmt: skip
        if path == f"{NOVA}/servers/detail":
            return Answer(200, self._page(headers["Host"], query.get("marker")))
        if path == f"{NOVA}/servers" and method == "POST":
            return self._create(given["server"])
        match = re.fullmatch(rf"{NOVA}/servers/([^/]+)(/action)?", path)
        server = self.servers.get(match[1]) if match else None
        if server is None:
            return no(404, "itemNotFound", f"{path} could not be found.")
        if match[2]:
            return self._act(server, given)
        if method == "DELETE":
            server.setdefault("deleting", self.looks)
            return Answer(204)
        if "deleting" in server:
            server["deleting"] -= 1
            if server["deleting"] <= 0:
                del self.servers[server["id"]]
                return no(404, "itemNotFound", f"Instance {server['id']} could not be found.")
        self._pass(server)
        return Answer(200, {"server": self._shown(server)})

    def _token(self, given: dict, host: str) -> Answer:
        identity = given["auth"]["identity"]
        if identity["methods"] == ["application_credential"]:
            right = identity["application_credential"] == {"id": "an id", "secret": self.secret}
        else:
            user = identity["password"]["user"]
            scope = {"project": {"domain": {"id": "default"}, "name": "saltern"}}
            right = (user["name"], user["password"]) == ("an id", self.secret)
            right = right and user["domain"] == {"name": "Default"} and given["auth"]["scope"] == scope
        if not right:
            words = "The request you have made requires authentication."
            return Answer(401, {"error": {"code": 401, "title": "Unauthorized", "message": words}})
        places = (("compute", "nova", NOVA), ("image", "images-of-ours", GLANCE))
        catalog = [
            {"type": type_, "name": name, "id": type_, "endpoints": [
                {"id": f"{type_}-{interface}", "interface": interface, "region": region, "region_id": region,
                 "url": f"http://{host}{path}" if (interface, region) == ("public", self.REGION) else "http://nowhere"}
                for interface in ("public", "internal", "admin") for region in (self.REGION, "RegionTwo")
            ]}
            for type_, name, path in places
        ]  # fmt: skip
        token = {"expires_at": "2099-01-01T00:00:00.000000Z", "catalog": catalog, "user": {"name": "saltern"}}
        return Answer(201, {"token": token}, {"X-Subject-Token": "a token"})

    def _page(self, host: str, marker: str | None) -> dict:
        ids = list(self.servers)
        first = ids.index(marker) + 1 if marker in ids else 0
        shown = ids[first : first + self.page]
        links = (
            [{"rel": "next", "href": f"http://{host}{NOVA}/servers/detail?marker={shown[-1]}"}]
            if first + self.page < len(ids)
            else []
        )
        return {"servers": [self._shown(self.servers[id_]) for id_ in shown], "servers_links": links}

    def _create(self, given: dict) -> Answer:
        if given["flavorRef"] not in self.SIZES:
            return no(400, "badRequest", f"Flavor {given['flavorRef']} could not be found.")
        if given["imageRef"] not in self.IMAGES:
            return no(400, "badRequest", f"Can not find requested image {given['imageRef']}")
        if missing := [
            each["uuid"] for each in given.get("networks", ()) if each["uuid"] not in self.NETWORKS
        ]:
            return no(400, "badRequest", f"Network {missing[0]} could not be found.")
        if len(given.get("user_data", "")) > 65535:
            return no(400, "badRequest", "Invalid input for field/attribute user_data.")
        if len(self.servers) >= self.limit:
            used = f"{self.limit} of {self.limit}"
            words = f"Quota exceeded for instances: Requested 1, but already used {used} instances"
            return no(403, "forbidden", words)
        number = next(self._numbers_of_servers)
        id_ = f"5e4f-{number}"
        self.servers[id_] = {
            "id": id_, "name": given["name"], "number": number, "status": "BUILD", "task": "spawning",
            "size": given["flavorRef"], "image": given["imageRef"], "metadata": given["metadata"],
            "user_data": base64.b64decode(given.get("user_data", "")).decode(), "left": self.looks, "then": "ACTIVE",
        }  # fmt: skip
        return Answer(202, {"server": {"id": id_, "links": [], "adminPass": "not ours"}})

    def _act(self, server: dict, given: dict) -> Answer:
        (action,) = given
        id_, status = server["id"], server["status"]

        def conflict(about: str) -> Answer:
            return no(409, "conflictingRequest", f"Cannot '{action}' instance {id_} while it is in {about}")

        if server["task"]:
            task = server["task"]
            self._pass(server)
            return conflict(f"task_state {task}")
        vm_states = {"ACTIVE": "active", "SHUTOFF": "stopped", "VERIFY_RESIZE": "resized"}
        rules = {  # from which status, to which, under which task
            "os-start": (("SHUTOFF",), "ACTIVE", "powering-on"),
            "os-stop": (("ACTIVE",), "SHUTOFF", "powering-off"),
            "reboot": (("ACTIVE",), "ACTIVE", "rebooting"),
            "resize": (("ACTIVE", "SHUTOFF"), "VERIFY_RESIZE", "resize_prep"),
            "confirmResize": (("VERIFY_RESIZE",), server.get("before"), ""),
        }
        fit, then, task = rules[action]
        if status not in fit:
            return conflict(f"vm_state {vm_states[status]}")
        if action == "resize":
            flavor = given["resize"]["flavorRef"]
            if flavor not in self.SIZES:
                return no(400, "badRequest", f"Flavor {flavor} could not be found.")
            server.update(before=status, wanted=flavor)
        if action == "confirmResize":
            server.update(status=then)
            return Answer(204)
        server.update(task=task, left=self.looks, then=then)
        return Answer(202)

    def _pass(self, server: dict) -> None:
        if server["task"]:
            server["left"] -= 1
            if server["left"] <= 0:
                server.update(status=server["then"], task=None)
                server["size"] = server.pop("wanted", server["size"])
                if server["name"] in self.faulty:
                    server["status"] = "ERROR"

    def _shown(self, server: dict) -> dict:
        low, high = server["number"] % 250 + 1, server["number"] // 250
        fixed = {"addr": f"10.30.{high}.{low}", "version": 4, "OS-EXT-IPS:type": "fixed"}
        inner = {"addr": f"fd00::{server['number']:x}", "version": 6, "OS-EXT-IPS:type": "fixed"}
        # A provider's own network behind its own gateway: what floats there looks private, and is the public way in.
        floating = {"addr": f"10.200.{high}.{low}", "version": 4, "OS-EXT-IPS:type": "floating"}
        fault = self.faulty.get(server["name"]) if server["status"] == "ERROR" else None
        return {
            "id": server["id"], "name": server["name"], "status": server["status"], "tenant_id": "saltern",
            "OS-EXT-STS:task_state": server["task"], "metadata": server["metadata"], "hostId": "h",
            "addresses": {} if server["status"] == "BUILD" else {"net": [inner, floating, fixed]},
            "flavor": {"id": server["size"], "links": []}, "image": {"id": server["image"], "links": []},
            "links": [{"rel": "self", "href": f"http://nova/servers/{server['id']}"}],
            "created": "2026-01-01T00:00:00Z", "updated": "2026-01-01T00:00:00Z",
            **({"fault": {"code": 500, "message": fault}} if fault else {}),
        }  # fmt: skip
