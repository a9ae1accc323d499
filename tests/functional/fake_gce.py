"""A small fake of Google Compute Engine's documented API, version 1, and of where tokens are had; see cloud_fakes."""

from __future__ import annotations

import base64
import itertools
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import ClassVar
from urllib.parse import parse_qs

from cloud_fakes import Answer, Fake
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

ACCOUNT = "saltern@ours.iam.gserviceaccount.com"


@lru_cache(maxsize=1)
def key() -> RSAPrivateKey:
    """The one of the service account that the fake knows."""
    return generate_private_key(public_exponent=65537, key_size=2048)


def key_file(private: RSAPrivateKey | None = None) -> str:
    """What Google's console gives out for it."""
    pem = (private or key()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    return json.dumps({"client_email": ACCOUNT, "private_key": pem, "project_id": "ours"})


def no(status: int, reason: str, words: str) -> Answer:
    """An error in Google's form."""
    errors = [{"domain": "global", "reason": reason, "message": words}]
    return Answer(status, {"error": {"code": status, "message": words, "errors": errors}})


@dataclass
class Gce(Fake):
    """One project, one zone.

    :ivar page: machines in one answer
    :ivar exhausted: machines whose making is accepted and fails; their disk stays
    """

    limited: ClassVar[Answer] = no(403, "rateLimitExceeded", "Quota exceeded for quota metric 'Queries'")
    broken: ClassVar[Answer] = no(503, "backendError", "Internal error")

    limit: int = 1000
    page: int = 100
    machines: dict[str, dict] = field(default_factory=dict)
    disks: dict[str, dict] = field(default_factory=dict)
    exhausted: set[str] = field(default_factory=set)

    # Machine type → memory, processors.
    SIZES: ClassVar = {"e2-micro": (1024, 2), "e2-small": (2048, 2), "e2-medium": (4096, 2)}
    ZONE = "europe-west3-a"
    IMAGES: ClassVar = {
        "projects/debian-cloud/global/images/family/debian-12": "debian-12-bookworm-v20260101"
    }
    ROOT = "/compute/v1/projects/ours"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._counted = itertools.count(1)
        self._operations: dict[str, tuple[str, str]] = {}

    def names(self) -> list[str]:
        return sorted(name.removeprefix("test-") for name in self.machines)

    def user_data(self) -> list[str]:
        return [
            {item["key"]: item["value"] for item in each["metadata"]["items"]}["user-data"]
            for each in self.machines.values()
        ]

    def subject(self, method: str, target: str, body: bytes) -> tuple[str, str]:
        path = target.partition("?")[0].removeprefix(f"{self.ROOT}/zones/{self.ZONE}/")
        if path == "instances" and method == "POST":
            return json.loads(body)["name"], "create"
        if match := re.fullmatch(r"operations/([\w-]+)/wait", path):
            return self._operations.get(match[1], ("", ""))[0], "wait"
        if match := re.fullmatch(r"(instances|disks)/([\w-]+)(/\w+)?", path):
            kinds = {"GET": "look", "DELETE": "destroy"}
            of = " disk" if match[1] == "disks" else ""
            return match[2], "action" if match[3] else kinds[method] + of
        return "", path

    def handle(
        self, method: str, path: str, query: Mapping[str, str], headers: Mapping[str, str], body: bytes
    ) -> Answer:
        if path == "/token":
            return self._token({name: values[0] for name, values in parse_qs(body.decode()).items()})
        if headers.get("Authorization") != "Bearer a token":
            return no(401, "authError", "Invalid Credentials")
        given = json.loads(body) if body else {}
        if path == f"{self.ROOT}/zones":
            return Answer(200, {"items": [{"name": self.ZONE}]})
        if path == "/compute/v1/projects/debian-cloud/global/images":
            families = [{"name": name, "family": path.rsplit("/")[-1]} for path, name in self.IMAGES.items()]
            old = {"name": "debian-12-old", "family": "debian-12", "deprecated": {"state": "DEPRECATED"}}
            return Answer(200, {"items": [*families, old]})
        inside = path.removeprefix(f"{self.ROOT}/zones/{self.ZONE}/")
        if inside == path:
            return no(404, "notFound", f"The resource '{path.removeprefix('/compute/v1/')}' was not found")
        if inside == "machineTypes":
            sizes = [{"name": name, "memoryMb": ram, "guestCpus": n} for name, (ram, n) in self.SIZES.items()]
            return Answer(200, {"items": sizes})
        if inside == "instances":
            return self._create(given) if method == "POST" else Answer(200, self._list(query))
        if match := re.fullmatch(r"operations/([\w-]+)/wait", inside):
            return self._wait(match[1])
        if match := re.fullmatch(r"disks/([\w-]+)", inside):
            return self._disk(method, match[1])
        match = re.fullmatch(r"instances/([\w-]+)(?:/(\w+))?", inside)
        machine = self.machines.get(match[1]) if match else None
        if machine is None:
            return no(404, "notFound", f"The resource '{inside}' was not found")
        if match[2]:
            return self._act(machine, match[2], given)
        if method == "DELETE":
            machine.update(left=self.looks, then="GONE", status="STOPPING")
            return self._operation(machine["name"], "delete")
        self._pass(machine)
        if machine["name"] not in self.machines:
            return no(404, "notFound", f"The resource '{inside}' was not found")
        return Answer(200, self._shown(machine))

    def _token(self, form: Mapping[str, str]) -> Answer:
        def part(text: str) -> bytes:
            return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))

        head, claims, signature = form["assertion"].split(".")
        said = json.loads(part(claims))
        try:
            key().public_key().verify(part(signature), f"{head}.{claims}".encode(), PKCS1v15(), SHA256())
        except InvalidSignature:
            return Answer(400, {"error": "invalid_grant", "error_description": "Invalid JWT Signature."})
        right = (said["iss"], said["aud"]) == (ACCOUNT, "https://oauth2.googleapis.com/token")
        if not right or said["exp"] - said["iat"] > 3600:
            return Answer(400, {"error": "invalid_grant", "error_description": "Invalid JWT."})
        return Answer(200, {"access_token": "a token", "expires_in": 3599, "token_type": "Bearer"})

    def _operation(self, name: str, kind: str) -> Answer:
        number = f"operation-{next(self._counted)}"
        self._operations[number] = (name, kind)
        return Answer(200, {"name": number, "operationType": kind, "status": "PENDING"})

    def _wait(self, number: str) -> Answer:
        name, kind = self._operations[number]
        ended = {"name": number, "operationType": kind, "status": "DONE"}
        if kind == "insert" and name in self.exhausted:
            words = f"The zone 'projects/ours/zones/{self.ZONE}' does not have enough resources available."
            errors = [{"code": "ZONE_RESOURCE_POOL_EXHAUSTED", "message": words}]
            ended |= {"error": {"errors": errors}, "httpErrorStatusCode": 503}
        return Answer(200, ended)

    def _list(self, query: Mapping[str, str]) -> dict:
        label, _, value = query["filter"].removeprefix("labels.").partition("=")
        found = [each for each in self.machines.values() if each["labels"].get(label) == value]
        first = int(query.get("pageToken", 0))
        after = first + self.page
        more = {"nextPageToken": str(after)} if after < len(found) else {}
        return {"items": [self._shown(each) for each in found[first:after]], **more}

    def _create(self, given: dict) -> Answer:
        name, size = given["name"], given["machineType"].rsplit("/")[-1]
        if not re.fullmatch(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?", name):
            return no(400, "invalid", f"Invalid value for field 'resource.name': '{name}'.")
        if any(not re.fullmatch(r"[a-z0-9_-]{0,63}", value) for value in given["labels"].values()):
            return no(400, "invalid", "Invalid value for field 'resource.labels'.")
        if size not in self.SIZES:
            words = f"Invalid value for field 'resource.machineType': '{size}'. The referenced resource does not exist."
            return no(400, "invalid", words)
        source = given["disks"][0]["initializeParams"]["sourceImage"]
        if source not in self.IMAGES:
            return no(404, "notFound", f"The resource '{source}' was not found")
        if name in self.machines:
            return no(409, "alreadyExists", f"The resource 'instances/{name}' already exists")
        if len(self.machines) >= self.limit:
            return no(
                403, "quotaExceeded", "Quota 'INSTANCES' exceeded.  Limit: 30.0 in region europe-west3."
            )
        self.disks[name] = given["disks"][0]["initializeParams"]["labels"]
        if name not in self.exhausted:
            number = next(self._counted)
            self.machines[name] = {
                "id": str(number), "number": number, "name": name, "size": size, "labels": given["labels"],
                "metadata": given["metadata"], "status": "PROVISIONING", "left": self.looks, "then": "RUNNING",
                "outside": bool(given["networkInterfaces"][0].get("accessConfigs")), "tags": given["tags"],
            }  # fmt: skip
        return self._operation(name, "insert")

    def _disk(self, method: str, name: str) -> Answer:
        if name not in self.disks:
            return no(404, "notFound", f"The resource 'disks/{name}' was not found")
        users = [f"instances/{name}"] if name in self.machines else []
        if method == "GET":
            return Answer(200, {"name": name, "labels": self.disks[name], "users": users})
        if users:
            return no(400, "resourceInUseByAnotherResource", f"The disk '{name}' is already being used")
        del self.disks[name]
        return self._operation(name, "delete")

    def _act(self, machine: dict, action: str, given: dict) -> Answer:
        if machine["left"] > 0:
            self._pass(machine)
            return no(400, "resourceNotReady", f"The resource 'instances/{machine['name']}' is not ready")
        if action == "setMachineType":
            size = given["machineType"].rsplit("/")[-1]
            if machine["status"] != "TERMINATED":
                return no(
                    400, "invalidUsage", "Machine type can not be changed while the instance is running."
                )
            if size not in self.SIZES:
                return no(400, "invalid", f"Invalid value for field 'resource.machineType': '{size}'.")
            machine["size"] = size
            return self._operation(machine["name"], action)
        status, then = {
            "stop": ("STOPPING", "TERMINATED"), "start": ("STAGING", "RUNNING"), "reset": ("RUNNING", "RUNNING"),
        }[action]  # fmt: skip
        machine.update(status=status, left=0 if action == "reset" else self.looks, then=then)
        return self._operation(machine["name"], action)

    def _pass(self, machine: dict) -> None:
        if machine["left"] > 0:
            machine["left"] -= 1
            if machine["left"] <= 0:
                machine["status"] = machine["then"]
                if machine["status"] == "GONE":
                    del self.machines[machine["name"]]
                    del self.disks[machine["name"]]

    def _shown(self, machine: dict) -> dict:
        low, high = machine["number"] % 250 + 1, machine["number"] // 250
        face = {"networkIP": f"10.156.{high}.{low}"}
        if machine["outside"]:
            running = {"natIP": f"203.0.113.{low}"} if machine["status"] == "RUNNING" else {}
            face["accessConfigs"] = [{"type": "ONE_TO_ONE_NAT", **running}]
        same = {key: machine[key] for key in ("id", "name", "status", "labels", "metadata", "tags")}
        types = f"https://www.googleapis.com{self.ROOT}/zones/{self.ZONE}/machineTypes"
        return same | {"machineType": f"{types}/{machine['size']}", "networkInterfaces": [face]}
