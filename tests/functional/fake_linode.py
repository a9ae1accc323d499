"""A small fake of Linode's documented API, version 4; see cloud_fakes."""

from __future__ import annotations

import base64
import itertools
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from cloud_fakes import Answer, Fake

ROOT = "/v4/linode/instances"


def no(status: int, reason: str, where: str | None = None) -> Answer:
    """An error in Linode's form."""
    return Answer(status, {"errors": [{"reason": reason} | ({"field": where} if where else {})]})


@dataclass
class Linode(Fake):
    """One account at Linode. :ivar machines: by id"""

    limited: ClassVar[Answer] = Answer(
        429, {"errors": [{"reason": "Too many requests"}]}, {"Retry-After": "2"}
    )
    broken: ClassVar[Answer] = no(500, "Internal Server Error")

    token: str = "a token"
    limit: int = 1000
    machines: dict[int, dict] = field(default_factory=dict)

    # Type → memory, processors, disk in MiB.
    SIZES: ClassVar = {
        "g6-nanode-1": (1024, 1, 25_600), "g6-standard-1": (2048, 1, 51_200), "g6-standard-2": (4096, 2, 81_920),
    }  # fmt: skip
    REGIONS: ClassVar = {"de-fra-2": ["Linodes", "Metadata"], "us-old": ["Linodes"]}
    IMAGES: ClassVar = ("linode/debian12",)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._ids = itertools.count(40_001)

    def names(self) -> list[str]:
        return sorted(each["label"].removeprefix("test-") for each in self.machines.values())

    def user_data(self) -> list[str]:
        return [each["user_data"] for each in self.machines.values()]

    def subject(self, method: str, target: str, body: bytes) -> tuple[str, str]:
        path = target.partition("?")[0]
        if path == ROOT and method == "POST":
            return json.loads(body)["label"], "create"
        if match := re.fullmatch(rf"{ROOT}/(\d+)(/\w+)?", path):
            label = self.machines.get(int(match[1]), {}).get("label", "")
            return label, "action" if match[2] else {"GET": "look", "DELETE": "destroy"}[method]
        return "", path.removeprefix("/v4/")

    def handle(
        self, method: str, path: str, query: Mapping[str, str], headers: Mapping[str, str], body: bytes
    ) -> Answer:
        if headers.get("Authorization") != f"Bearer {self.token}":
            return no(401, "Invalid Token")
        given = json.loads(body) if body else {}
        if path == ROOT and method == "POST":
            return self._create(given)
        listed = {
            ROOT: lambda: [self._shown(each) for each in self.machines.values()],
            "/v4/linode/types": lambda: [self._type(id_) for id_ in self.SIZES],
            "/v4/regions": lambda: [
                {
                    "id": id_,
                    "label": id_,
                    "country": "de",
                    "status": "ok",
                    "capabilities": has,
                    "resolvers": {},
                }
                for id_, has in self.REGIONS.items()
            ],
            "/v4/images": lambda: [self._image(id_) for id_ in self.IMAGES],
        }
        if path in listed:
            return Answer(200, self._page(listed[path](), query))
        match = re.fullmatch(rf"{ROOT}/(\d+)(?:/(\w+))?", path)
        machine = self.machines.get(int(match[1])) if match else None
        if machine is None:
            return no(404, "Not found")
        if match[2]:
            return self._act(machine, match[2], given)
        if method == "DELETE":
            del self.machines[machine["id"]]
            return Answer(200, {})
        self._pass(machine)
        return Answer(200, self._shown(machine))

    @staticmethod
    def _page(found: list, query: Mapping[str, str]) -> dict:
        size, page = int(query.get("page_size", 100)), int(query.get("page", 1))
        assert 25 <= size <= 500
        shown = found[(page - 1) * size : page * size]
        return {"data": shown, "page": page, "pages": max(1, -(-len(found) // size)), "results": len(found)}

    def _create(self, given: dict) -> Answer:
        if given["region"] not in self.REGIONS:
            return no(400, "region is not valid", "region")
        if given["type"] not in self.SIZES:
            return no(400, "A valid plan type by that ID was not found", "type")
        if given["image"] not in self.IMAGES:
            return no(400, "image is not valid", "image")
        if not given.get("root_pass"):
            return no(400, "root_pass is required", "root_pass")
        if "metadata" in given and "Metadata" not in self.REGIONS[given["region"]]:
            return no(400, "Metadata is not available in the selected region.", "region")
        if not all(3 <= len(tag) <= 50 for tag in given["tags"]):
            return no(400, "Length must be 3-50 characters", "tags")
        if any(given["label"] == each["label"] for each in self.machines.values()):
            return no(400, "Label must be unique among your linodes", "label")
        if len(self.machines) >= self.limit:
            return no(400, "Account Limit reached. Please open a support ticket.")
        number = next(self._ids)
        self.machines[number] = {
            "id": number, "label": given["label"], "status": "provisioning", "type": given["type"],
            "image": given["image"], "region": given["region"], "tags": given["tags"], "private": given["private_ip"],
            "user_data": base64.b64decode(given.get("metadata", {}).get("user_data", "")).decode(),
            "disk": self.SIZES[given["type"]][2], "left": self.looks, "then": "running",
        }  # fmt: skip
        return Answer(200, self._shown(self.machines[number]))

    def _act(self, machine: dict, action: str, given: dict) -> Answer:
        if machine["status"] not in ("running", "offline"):
            self._pass(machine)
            return no(400, "Linode busy.")
        status, then = {
            "boot": ("booting", "running"), "shutdown": ("shutting_down", "offline"),
            "reboot": ("rebooting", "running"), "resize": ("resizing", machine["status"]),
        }[action]  # fmt: skip
        if action == "resize":
            if given["type"] not in self.SIZES:
                return no(400, "A valid plan type by that ID was not found", "type")
            if machine["disk"] > self.SIZES[given["type"]][2]:
                return no(400, "Linode has too many allocated disks", "type")
            if given.get("allow_auto_disk_resize", True):
                machine["disk"] = self.SIZES[given["type"]][2]
            machine["wanted"] = given["type"]
        machine.update(status=status, left=self.looks, then=then)
        return Answer(200, {})

    @staticmethod
    def _pass(machine: dict) -> None:
        if machine["status"] not in ("running", "offline"):
            machine["left"] -= 1
            if machine["left"] <= 0:
                machine.update(status=machine["then"], type=machine.pop("wanted", machine["type"]))

    def _type(self, id_: str) -> dict:
        memory, cpus, disk = self.SIZES[id_]
        return {
            "id": id_, "label": id_, "class": "standard", "memory": memory, "vcpus": cpus, "disk": disk, "gpus": 0,
            "price": {"hourly": 0.01, "monthly": 5.0}, "addons": {}, "successor": None, "transfer": 1000,
            "network_out": 1000,
        }  # fmt: skip

    @staticmethod
    def _image(id_: str) -> dict:
        return {
            "id": id_, "label": "Debian 12", "type": "manual", "description": None, "created": "2023-06-12T00:00:00",
            "created_by": "linode", "is_public": True, "size": 1500, "eol": None, "vendor": "Debian",
            "capabilities": ["cloud-init"],
        }  # fmt: skip

    def _shown(self, machine: dict) -> dict:
        low, high = machine["id"] % 250 + 1, machine["id"] // 250
        private = [f"192.168.{high}.{low}"] if machine["private"] else []
        shown = {key: machine[key] for key in ("id", "label", "status", "type", "image", "region", "tags")}
        ipv4 = [f"203.0.113.{low}", *private]
        return shown | {"ipv4": ipv4, "ipv6": "2001:db8::1/128", "created": "2026-01-01T00:00:00"}
