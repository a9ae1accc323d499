"""A small fake of Vultr's documented API, version 2; see cloud_fakes."""

from __future__ import annotations

import base64
import itertools
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from cloud_fakes import Answer, Fake

ROOT = "/v2/instances"


def no(status: int, words: str, **headers: str) -> Answer:
    """An error in Vultr's form."""
    return Answer(status, {"error": words, "status": status}, headers)


@dataclass
class Vultr(Fake):
    """One account at Vultr.

    :ivar page: machines in one answer
    :ivar young: destroying a machine is refused that often, since it is new
    """

    limited: ClassVar[Answer] = no(429, "Rate limit exceeded", **{"Retry-After": "2"})
    broken: ClassVar[Answer] = no(500, "Internal server error")

    token: str = "a token"
    limit: int = 1000
    page: int = 100
    young: int = 0
    machines: dict[str, dict] = field(default_factory=dict)

    # Plan → memory, processors, disk in GB.
    SIZES: ClassVar = {"vc2-1c-1gb": (1024, 1, 25), "vc2-1c-2gb": (2048, 1, 55), "vc2-2c-4gb": (4096, 2, 80)}
    REGIONS: ClassVar = {"fra": "Frankfurt", "ewr": "New Jersey"}
    SYSTEMS: ClassVar = {2136: "Debian 12 x64 (bookworm)"}
    VPCS: ClassVar = ("vpc-of-ours",)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._numbers_of_machines = itertools.count(1)

    def names(self) -> list[str]:
        return sorted(each["label"] for each in self.machines.values())

    def user_data(self) -> list[str]:
        return [each["user_data"] for each in self.machines.values()]

    def subject(self, method: str, target: str, body: bytes) -> tuple[str, str]:
        path = target.partition("?")[0]
        if path == ROOT and method == "POST":
            return json.loads(body)["label"], "create"
        if match := re.fullmatch(rf"{ROOT}/([\w-]+)(/\w+)?", path):
            label = self.machines.get(match[1], {}).get("label", "")
            kinds = {"GET": "look", "DELETE": "destroy", "PATCH": "action"}
            return label, "action" if match[2] else kinds[method]
        return "", path.removeprefix("/v2/")

    def handle(
        self, method: str, path: str, query: Mapping[str, str], headers: Mapping[str, str], body: bytes
    ) -> Answer:
        if headers.get("Authorization") != f"Bearer {self.token}":
            return no(401, "Invalid API token.")
        given = json.loads(body) if body else {}
        if path == ROOT:
            return self._create(given) if method == "POST" else Answer(200, self._page(query.get("cursor")))
        listed = {
            "/v2/plans": ("plans", [self._plan(id_) for id_ in self.SIZES]),
            "/v2/regions": ("regions", [
                {"id": id_, "city": city, "country": "DE", "continent": "Europe", "options": []}
                for id_, city in self.REGIONS.items()
            ]),
            "/v2/os": ("os", [
                {"id": id_, "name": name, "arch": "x64", "family": "debian"} for id_, name in self.SYSTEMS.items()
            ]),
        }  # fmt: skip
        if path in listed:
            key, found = listed[path]
            return Answer(200, {key: found, "meta": {"total": len(found), "links": {"next": "", "prev": ""}}})
        match = re.fullmatch(rf"{ROOT}/([\w-]+)(?:/(\w+))?", path)
        machine = self.machines.get(match[1]) if match else None
        if machine is None:
            return no(404, "Invalid instance-id")
        if match[2] or method == "PATCH":
            return self._act(machine, match[2] or "resize", given)
        if method == "DELETE":
            if self.young:
                self.young -= 1
                words = "Servers cannot be destroyed within 5 minutes of being created"
                return no(400, f"Unable to destroy server: {words}")
            del self.machines[machine["id"]]
            return Answer(204)
        self._pass(machine)
        return Answer(200, {"instance": self._shown(machine)})

    def _page(self, cursor: str | None) -> dict:
        found = list(self.machines.values())
        first = int(cursor or 0)
        after = first + self.page
        links = {"next": str(after) if after < len(found) else "", "prev": ""}
        shown = [self._shown(each) for each in found[first:after]]
        return {"instances": shown, "meta": {"total": len(found), "links": links}}

    def _create(self, given: dict) -> Answer:
        if given["region"] not in self.REGIONS:
            return no(400, "Invalid region")
        if given["plan"] not in self.SIZES:
            return no(400, "Invalid plan")
        if given.get("os_id") not in self.SYSTEMS:
            return no(400, "Invalid os_id" if "os_id" in given else "Invalid snapshot_id")
        if missing := [each for each in given.get("attach_vpc", ()) if each not in self.VPCS]:
            return no(400, f"Invalid VPC: {missing[0]}")
        if len(self.machines) >= self.limit:
            words = "You have reached the maximum number of active virtual machines for this account."
            return no(400, f"Server add failed: {words}")
        number = next(self._numbers_of_machines)
        id_ = f"cb676a46-{number}"
        self.machines[id_] = {
            "id": id_, "number": number, "label": given["label"], "status": "pending", "power": "stopped", "at": "none",
            "plan": given["plan"], "os_id": given["os_id"], "region": given["region"], "tags": given["tags"],
            "vpc": given.get("enable_vpc") or given.get("attach_vpc"),
            "user_data": base64.b64decode(given.get("user_data", "")).decode(),
            "left": self.looks, "then": {"status": "active", "power": "running", "at": "ok"},
        }  # fmt: skip
        return Answer(202, {"instance": self._shown(self.machines[id_])})

    def _act(self, machine: dict, action: str, given: dict) -> Answer:
        if machine["left"] > 0:
            self._pass(machine)
            return no(400, "This server is currently locked")
        if action == "resize":
            if given["plan"] not in self.SIZES:
                return no(400, "Invalid plan")
            if self.SIZES[given["plan"]][2] < self.SIZES[machine["plan"]][2]:
                return no(400, "Unable to upgrade: plan is smaller")
            # It comes back running, whatever it was before.
            machine.update(status="resizing")
            then = {"status": "active", "power": "running", "plan": given["plan"]}
        else:
            then = {"power": {"halt": "stopped"}.get(action, "running")}
        machine.update(at="locked", left=self.looks, then={**then, "at": "ok"})
        return Answer(202, {"instance": self._shown(machine)}) if action == "resize" else Answer(204)

    @staticmethod
    def _pass(machine: dict) -> None:
        if machine["left"] > 0:
            machine["left"] -= 1
            if machine["left"] <= 0:
                machine.update(machine["then"])

    def _plan(self, id_: str) -> dict:
        memory, cpus, disk = self.SIZES[id_]
        return {
            "id": id_, "ram": memory, "vcpu_count": cpus, "disk": disk, "disk_count": 1, "bandwidth": 1024,
            "monthly_cost": 5, "type": "vc2", "locations": list(self.REGIONS),
        }  # fmt: skip

    def _shown(self, machine: dict) -> dict:
        fresh, low, high = (
            machine["status"] == "pending",
            machine["number"] % 250 + 1,
            machine["number"] // 250,
        )
        same = {key: machine[key] for key in ("id", "label", "os_id", "plan", "region", "status", "tags")}
        return same | {
            "os": self.SYSTEMS[machine["os_id"]],
            "power_status": machine["power"], "server_status": machine["at"],
            "main_ip": "0.0.0.0" if fresh else f"203.0.113.{low}",
            "internal_ip": "" if fresh or not machine["vpc"] else f"10.25.{high}.{low}",
            "v6_main_ip": "", "image_id": "", "app_id": 0, "features": [], "date_created": "2026-01-01T00:00:00+00:00",
        }  # fmt: skip
