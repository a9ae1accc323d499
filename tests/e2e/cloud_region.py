"""A region of a rented cloud: DigitalOcean's API, and behind it real machines of this host that obey their user data.

What a droplet is told at its first boot is laid out as cloud-init would: the files of `write_files`. Installing the
minion is left out, the image has it; that a bare system does all of it is what test_rented.py shows.
"""

from __future__ import annotations

import base64
import gzip
import threading
from dataclasses import dataclass, field

import yaml
from bare_machines import Bare
from cloud_fakes import Answer, DigitalOcean
from saltern.local import machine


def files_of(user_data: str) -> dict[str, tuple[str, int]]:
    """The files that user data writes: path → (content, mode)."""
    found = {}
    for each in yaml.safe_load(user_data)["write_files"]:
        text = each["content"]
        if each.get("encoding") == "gz+b64":
            text = gzip.decompress(base64.b64decode(text)).decode()
        found[each["path"].lstrip("/")] = (text, int(each["permissions"], 8))
    return found


@dataclass
class Region(DigitalOcean):
    """:ivar bare: the machines it has; :ivar booted: one thread a droplet, which boots it"""

    bare: Bare | None = None
    booted: dict[int, threading.Thread] = field(default_factory=dict)

    def _create(self, given: dict) -> Answer:
        answer = super()._create(given)
        if answer.status == 202:
            number = answer.body["droplet"]["id"]
            # As in a cloud: the request is answered, the machine comes later.
            thread = threading.Thread(target=self._boot, args=(self.droplets[number],))
            self.booted[number] = thread
            thread.start()
        return answer

    def _boot(self, droplet: dict) -> None:
        memory, _ = self.SIZES[droplet["size"]]
        droplet["address"] = self.bare.make(droplet["name"], memory, files_of(droplet["user_data"]))

    def _pass(self, droplet: dict) -> None:
        if "address" in droplet:
            super()._pass(droplet)

    def _act(self, droplet: dict, given: dict) -> Answer:
        locked = droplet["locked"]
        answer = super()._act(droplet, given)
        if answer.status == 201 and not locked:
            {"shutdown": machine.stop, "power_on": machine.start}[given["type"]](
                self.bare.fleet, droplet["name"]
            )
        return answer

    def handle(self, method, path, query, headers, body) -> Answer:
        number = path.rpartition("/")[2]
        ended = self.droplets.get(int(number)) if method == "DELETE" and number.isdigit() else None
        answer = super().handle(method, path, query, headers, body)
        if ended and answer.status == 204:
            self.booted.pop(int(number)).join()
            self.bare.destroy(ended["name"])
        return answer

    def _shown(self, droplet: dict) -> dict:
        shown = super()._shown(droplet)
        if "address" in droplet and shown["networks"]["v4"]:
            shown["networks"]["v4"] = [{"ip_address": droplet["address"], "type": "private"}]
        return shown

    def close(self) -> None:
        """Let every boot come to its end."""
        for thread in self.booted.values():
            thread.join()
