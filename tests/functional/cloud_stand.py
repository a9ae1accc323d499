"""A salt-cloud driver as Salt loads it, over a backend that a test controls: the local cloud's, EC2's, a fake's."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from cloud_fakes import Azure, DigitalOcean, Fake, QuickClock
from cloud_moto import MotoEc2
from fake_gce import Gce, key_file
from fake_linode import Linode
from fake_openstack import OpenStack
from fake_vultr import Vultr
from saltern.clouds import cloud as cloud_module
from saltern.clouds import dialects, settings
from saltern.clouds.cloud import Cloud
from saltern.clouds.dialect import Dialect
from saltern.fleet import REPOSITORY, Fleet
from saltern.local import cgroup, image, machine

QUICK = {"base": 1, "settle": 1, "poll": 5, "ready": 300, "whole": 300, "quota": 20}
DIGITALOCEAN = {
    "libcloud_provider": "digitalocean", "secrets": {"key": "DO_TOKEN"}, "location": "fra1", "image": "debian-12-x64",
    "sizes": {
        "small": {"id": "s-1vcpu-1gb", "memory": 1024, "cpus": 1},
        "medium": {"id": "s-2vcpu-2gb", "memory": 2048, "cpus": 2},
        "unknown": {"id": "s-99", "memory": 99, "cpus": 9},
    },
}  # fmt: skip
AZURE = {
    "libcloud_provider": "azure_arm", "location": "westeurope", "image": "Debian:debian-12:12-gen2:latest",
    "secrets": {"tenant_id": "AZ_TENANT", "subscription_id": "AZ_SUBSCRIPTION", "key": "AZ_KEY", "secret": "AZ_SECRET"},
    "options": {"resource_group": "saltern", "network": "net"},
    "sizes": {
        "small": {"id": "Standard_B1s", "memory": 1024, "cpus": 1},
        "medium": {"id": "Standard_B1ms", "memory": 2048, "cpus": 1},
        "unknown": {"id": "Standard_Z9", "memory": 99, "cpus": 9},
    },
}  # fmt: skip
EC2 = {
    "libcloud_provider": "ec2", "secrets": {"key": "AWS_KEY", "secret": "AWS_SECRET"}, "location": "eu-central-1",
    "image": "ami-12c6146b", "options": {"image_owner": "amazon"},
    "sizes": {
        "small": {"id": "t3.micro", "memory": 1024, "cpus": 2},
        "medium": {"id": "t3.small", "memory": 2048, "cpus": 2},
        "unknown": {"id": "t9.huge", "memory": 99, "cpus": 9},
    },
}  # fmt: skip
OPENSTACK = {
    "libcloud_provider": "openstack", "secrets": {"key": "OS_ID", "secret": "OS_SECRET"}, "location": "RegionOne",
    "image": "0a1b-debian-12", "options": {"network": "net-1", "security_groups": ["default"]},
    "sizes": {
        "small": {"id": "2", "memory": 2048, "cpus": 1},
        "medium": {"id": "3", "memory": 4096, "cpus": 2},
        "unknown": {"id": "f-99", "memory": 99, "cpus": 9},
    },
}  # fmt: skip
LINODE = {
    "libcloud_provider": "linode", "secrets": {"key": "LINODE_KEY"}, "location": "de-fra-2", "image": "linode/debian12",
    "sizes": {
        "small": {"id": "g6-nanode-1", "memory": 1024, "cpus": 1},
        "medium": {"id": "g6-standard-1", "memory": 2048, "cpus": 1},
        "unknown": {"id": "g9-99", "memory": 99, "cpus": 9},
    },
}  # fmt: skip
VULTR = {
    "libcloud_provider": "vultr", "secrets": {"key": "VULTR_KEY"}, "location": "fra", "image": "2136",
    "sizes": {
        "small": {"id": "vc2-1c-1gb", "memory": 1024, "cpus": 1},
        "medium": {"id": "vc2-1c-2gb", "memory": 2048, "cpus": 1},
        "unknown": {"id": "vc9-99", "memory": 99, "cpus": 9},
    },
}  # fmt: skip
GCE = {
    "libcloud_provider": "gce", "secrets": {"key": "GCE_KEY"}, "location": "europe-west3-a",
    "image": "debian-cloud/debian-12",
    "sizes": {
        "small": {"id": "e2-micro", "memory": 1024, "cpus": 2},
        "medium": {"id": "e2-small", "memory": 2048, "cpus": 2},
        "unknown": {"id": "e9-huge", "memory": 99, "cpus": 9},
    },
}  # fmt: skip
ENVIRONMENT = {
    "DO_TOKEN": "a token", "AZ_TENANT": "tenant", "AZ_SUBSCRIPTION": "sub", "AZ_KEY": "client", "AZ_SECRET": "a secret",
    "AWS_KEY": "AKIDEXAMPLE", "AWS_SECRET": "a secret", "OS_ID": "an id", "OS_SECRET": "a secret",
    "LINODE_KEY": "a token", "VULTR_KEY": "a token", "GCE_KEY": key_file(),
}  # fmt: skip
# By the name of its folder in etc/clouds: what plays a cloud, and a provider of it.
CLOUDS: Mapping[str, tuple[type[Fake], Mapping[str, Any]]] = {
    "digitalocean": (DigitalOcean, DIGITALOCEAN),
    "ec2": (MotoEc2, EC2),
    "azure": (Azure, AZURE),
    "openstack": (OpenStack, OPENSTACK),
    "linode": (Linode, LINODE),
    "vultr": (Vultr, VULTR),
    "gce": (Gce, GCE),
}


def provider(given: Mapping[str, Any], fleet: Fleet, port: int, **more: Any) -> dict[str, Any]:
    """A provider's configuration, pointed at a port of this machine."""
    return {
        **given, "driver": "libcloud", "state_dir": str(fleet.state_dir), "host": "127.0.0.1", "port": port,
        "secure": False, "timeout": 60, "patience": QUICK, **more,
    }  # fmt: skip


def make_cloud(
    given: Mapping[str, Any],
    fleet: Fleet,
    port: int,
    clock: QuickClock | None = None,
    environment: Mapping[str, str] = ENVIRONMENT,
    spoken: Dialect | None = None,
    **more: Any,
) -> Cloud:
    """A cloud as the driver makes it, with a clock that does not wait."""
    spoken = spoken or dialects.of(given["libcloud_provider"])
    config = provider(given, fleet, port, **more)
    read = settings.read("rented", config, spoken.secrets, spoken.options, environment)
    return Cloud(read, spoken, clock=clock or QuickClock())


def wanted(cloud: Cloud, name: str = "prod6", size: str = "small", **changes: str) -> cloud_module.Wanted:
    """A machine as the driver orders it, of what its provider says."""
    about = {"image": cloud.settings.image, "location": cloud.settings.location, "user_data": "", **changes}
    return cloud_module.Wanted(name, cloud.settings.size(size), **about, options=cloud.settings.options)


def keep_keys(fleet: Fleet) -> None:
    """Make what a master has for keys: salt-cloud's processes, side by side, race to make it."""
    for keys in ("minions", "minions_pre", "minions_rejected"):
        (fleet.pki / "master" / keys).mkdir(parents=True)
    (fleet.pki / "master" / "master.pub").write_text("the master's public key\n")


def load_driver(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        f"driver_{name}", REPOSITORY / "salt" / "_clouds" / f"{name}.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@dataclass
class Stand:
    """A driver with the names Salt injects.

    :ivar there: the names of the machines that the backend has
    :ivar half_make: begin a machine and die
    :ivar grown: what `memory=` asks for twice of the small size
    """

    driver: ModuleType
    fleet: Fleet
    there: Callable[[], list[str]]
    half_make: Callable[[str], None]
    small: int
    grown: int
    fired: list[tuple[str, dict]] = field(default_factory=list)

    def vm(self, name: str, **profile: Any) -> dict[str, Any]:
        """What salt-cloud hands to `create`; the minion's key is accepted by then."""
        self.driver.__opts__["profiles"]["by-role"] = {"size": "small", **profile}
        accepted = self.fleet.pki / "master" / "minions" / name
        accepted.parent.mkdir(parents=True, exist_ok=True)
        accepted.write_text("PUBLIC")
        return {
            "name": name, "profile": "by-role", "driver": self.driver.__active_provider_name__,
            "provider": self.driver.__active_provider_name__, "pub_key": "PUBLIC", "priv_key": "PRIVATE",
            "minion": {"master": "10.99.0.1"},
        }  # fmt: skip

    def create(self, name: str, **profile: Any) -> dict[str, Any]:
        return self.driver.create(self.vm(name, **profile))

    def key(self, name: str) -> bool:
        """Whether the master accepts a minion by this name."""
        return (self.fleet.pki / "master" / "minions" / name).exists()

    def tags(self) -> list[str]:
        return [tag for tag, _ in self.fired]


def dress(module: ModuleType, fleet: Fleet, alias: str, config: Mapping[str, Any], fired: list) -> None:
    """Inject what Salt injects."""
    (fleet.pki / "master").mkdir(parents=True, exist_ok=True)
    (fleet.pki / "master" / "master.pub").write_text("MASTER")
    name = module.__virtualname__
    module.__opts__ = {
        "providers": {alias: {name: dict(config)}}, "profiles": {}, "sock_dir": "/nowhere", "transport": "zeromq",
        "pki_dir": str(fleet.pki / "master"), "query.selection": ["id", "state"],
    }  # fmt: skip
    module.__active_provider_name__ = f"{alias}:{name}"
    module.__utils__ = {
        "cloud.fire_event": lambda kind, words, tag, args, **link: fired.append((tag, args)),
        "cloud.cache_node": lambda node, provider, opts: None,
    }


def local_stand(fleet: Fleet, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Stand:
    """The local cloud's driver; what would need root is replaced where it meets the kernel."""
    running: set[str] = set()

    def boot(of: Fleet, made: machine.Machine) -> None:
        running.add(machine.group(of, made.id))

    monkeypatch.setattr(machine, "_lay", lambda of, made, files: None)
    monkeypatch.setattr(machine, "_mount", lambda of, made: machine.folder(of, made.id))
    monkeypatch.setattr(machine, "_boot", boot)
    monkeypatch.setattr(machine, "_drop_link", lambda made: None)
    monkeypatch.setattr(cgroup, "processes", lambda group: [1] if group in running else [])
    monkeypatch.setattr(machine, "_process", lambda of, name, program: None)
    monkeypatch.setattr(cgroup, "kill", running.discard)
    monkeypatch.setattr(cgroup, "remove", lambda group: None)
    monkeypatch.setattr(cgroup, "limit", lambda group, limits: None)
    monkeypatch.setattr(cgroup, "usage", lambda group: {})
    monkeypatch.setattr(image, "ready", lambda: True)
    monkeypatch.setattr(image, "key", lambda: "0123456789ab")
    (tmp_path / "0123456789ab").mkdir()
    (tmp_path / "0123456789ab" / "image.json").write_text("{}")
    monkeypatch.setattr(image, "images", lambda: tmp_path)
    module = load_driver("nspawn")
    sizes = {"small": {"memory": 384, "cpus": 1}, "medium": {"memory": 768, "cpus": 2}}
    fired: list[tuple[str, dict]] = []
    dress(
        module, fleet, "local", {"driver": "nspawn", "state_dir": str(fleet.state_dir), "sizes": sizes}, fired
    )

    def there() -> list[str]:
        return sorted(name for name, about in fleet.inventory().items() if about["made"])

    return Stand(module, fleet, there, lambda name: machine.reserve(fleet, name) and None, 384, 768, fired)


def rented_stand(
    given: Mapping[str, Any],
    port: int,
    there: Callable[[], list[str]],
    fleet: Fleet,
    monkeypatch: pytest.MonkeyPatch,
) -> Stand:
    """The driver of rented machines, pointed at a port."""
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(cloud_module, "SystemClock", QuickClock)
    # Wheels of whoever runs the tests are none of theirs; a lock of one package is as good as the whole.
    monkeypatch.setenv("SALTERN_HOME", str(fleet.state_dir / "home"))
    module = load_driver("libcloud")
    monkeypatch.setattr(module, "_user_data", lambda vm_, index_url: "#cloud-config\n{}\n")
    fired: list[tuple[str, dict]] = []
    dress(module, fleet, "rented", provider(given, fleet, port), fired)

    def half_make(name: str) -> None:
        cloud = make_cloud(given, fleet, port)
        wanted = cloud_module.Wanted(
            name, cloud.settings.size("small"), cloud.settings.image, cloud.settings.location, ""
        )
        with monkeypatch.context() as patch:
            # As if the process had been killed: nothing is cleaned up.
            patch.setattr(cloud, "_await", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
            patch.setattr(cloud, "_give_back", lambda *args: None)
            with pytest.raises(KeyboardInterrupt):
                cloud.create(wanted)

    small, grown = (given["sizes"][name]["memory"] for name in ("small", "medium"))
    return Stand(module, fleet, there, half_make, small, grown, fired)


@contextmanager
def fake_of(kind: str, **about: Any) -> Iterator[Fake]:
    """A fake by the name of its cloud, serving."""
    with CLOUDS[kind][0](**about).serving() as fake:
        yield fake
