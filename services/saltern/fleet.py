"""A fleet: its name, its network, its folder. Everything that belongs to one is found through this value."""

from __future__ import annotations

import dataclasses
import ipaddress
import json
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fcntl import LOCK_EX, LOCK_NB, flock
from pathlib import Path

from saltern.errors import SalternError

REPOSITORY = Path(__file__).resolve().parents[2]
DEFAULT_NAME = "saltern"
DEFAULT_SUBNET = "10.213.0.0/24"
DEFAULT_MACHINES = (
    "proxy1", "redis1", "redis2", "redis3", "prod1", "prod2", "prod3", "prod4", "prod5", "staging1", "ops1",
)  # fmt: skip
ROLES = ("proxy", "redis", "prod", "staging", "ops")
MACHINE_ID = re.compile(rf"^({'|'.join(ROLES)})[0-9]{{1,4}}\Z")
FLEET_NAME = re.compile(r"^[a-z][a-z0-9]{0,9}\Z")
# Unix socket paths end at 107 bytes; Salt's longest name below the run folder takes 40 of them.
LONGEST_STATE_DIR = 60
FIRST_HOST = 10
LOCAL, NO_CLOUD = "local", "none"
# Where a fleet's machines come from: made on this host, rented, or there already.
CLOUDS = (LOCAL, "digitalocean", "ec2", "azure", "openstack", "linode", "vultr", "gce", NO_CLOUD)
# What a master that this host's systemd runs is called there, and the user it is run as.
SERVICE, SERVICE_USER = "saltern-master", "salt"
HOST_NAME = re.compile(r"^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?\Z")
# RFC 1918.
PRIVATE = tuple(map(ipaddress.IPv4Network, ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16")))


def home() -> Path:
    """The folder that holds every fleet and the image; `SALTERN_HOME` moves it."""
    return Path(os.environ.get("SALTERN_HOME", "/var/lib/saltern"))


def role_of(machine: str) -> str:
    """The role of a machine, taken from its id alone.

    :raises SalternError: the id names no role
    """
    if not MACHINE_ID.match(machine):
        raise SalternError(
            f"machine {machine!r}: not a role ({', '.join(ROLES)}) followed by a number, such as prod6"
        )
    return machine.rstrip("0123456789")


@dataclass(frozen=True)
class Fleet:
    """One fleet on this host.

    :ivar name: 1 to 10 lower-case letters and digits; names the bridge, the nftables table and the cgroup
    :ivar subnet: IPv4 network of its machines; the host is its first address
    :ivar state_dir: everything the fleet keeps on this host
    :ivar pillar_dir: the pillar its master serves
    :ivar cloud: where its machines come from, one of CLOUDS
    :ivar address: where the master listens, if not at the first address of the subnet
    :ivar known_as: what machines are told their master is called, if not its address
    :ivar installed: whether this host's systemd runs the master, as a user of its own
    :ivar peers: addresses of its other masters
    """

    name: str
    subnet: str
    state_dir: Path
    pillar_dir: Path = REPOSITORY / "pillar"
    cloud: str = LOCAL
    address: str = ""
    known_as: str = ""
    installed: bool = False
    peers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not FLEET_NAME.match(self.name):
            raise SalternError(
                f"fleet {self.name!r}: a name is 1 to 10 lower-case letters and digits, a letter first"
            )
        try:
            network = ipaddress.IPv4Network(self.subnet)
        except ValueError as error:
            raise SalternError(
                f"subnet {self.subnet!r}: {error}; an IPv4 network such as {DEFAULT_SUBNET} is right"
            ) from error
        if not any(map(network.subnet_of, PRIVATE)) or not 16 <= network.prefixlen <= 26:
            raise SalternError(
                f"subnet {self.subnet}: not a private IPv4 network between /16 and /26, such as {DEFAULT_SUBNET}"
            )
        if self.cloud not in CLOUDS:
            raise SalternError(f"cloud {self.cloud!r}: not one of {', '.join(CLOUDS)}")
        if self.address and not _within(self.address, network):
            raise SalternError(f"address {self.address!r}: not an IPv4 address of {self.subnet}")
        for peer in self.peers:
            if not _within(peer, network) or peer == self.gateway:
                raise SalternError(f"peer {peer!r}: not the IPv4 address of another machine in {self.subnet}")
        if self.peers and self.known_as:
            raise SalternError(
                f"name {self.known_as!r}: machines know several masters by their addresses; say --name '' with --peer"
            )
        if self.known_as and not HOST_NAME.match(self.known_as):
            raise SalternError(
                f"name {self.known_as!r}: not a host's name or address, such as salt.example.org"
            )
        if len(str(self.state_dir)) > LONGEST_STATE_DIR:
            raise SalternError(
                f"state folder {self.state_dir}: longer than {LONGEST_STATE_DIR} characters, and the sockets in it "
                "must stay under 107; choose a shorter one with --state-dir"
            )

    @property
    def bridge(self) -> str:
        return f"sal-{self.name}"

    @property
    def table(self) -> str:
        return f"saltern_{self.name}"

    @property
    def cgroup(self) -> str:
        return f"saltern-{self.name}"

    @property
    def network(self) -> ipaddress.IPv4Network:
        return ipaddress.IPv4Network(self.subnet)

    @property
    def gateway(self) -> str:
        """The host's own address in the fleet: the master listens here."""
        return self.address or str(next(self.network.hosts()))

    @property
    def master(self) -> str:
        """What machines are told their master is: a name that another machine can take over, or its address."""
        return self.known_as or self.gateway

    @property
    def masters(self) -> tuple[str, ...]:
        """Every master that machines are told of, this one first."""
        return (self.master, *self.peers)

    @property
    def user(self) -> str:
        """Whom the master runs as. The local cloud makes machines, which only root can."""
        return SERVICE_USER if self.installed else "root"

    @property
    def machines_dir(self) -> Path:
        return self.state_dir / "machines"

    @property
    def etc(self) -> Path:
        """Salt's configuration, generated: what the Saltfile's link points to."""
        return self.state_dir / "etc"

    @property
    def secrets_file(self) -> Path:
        return self.state_dir / "secrets.json"

    @property
    def files(self) -> Path:
        """What the master's file server offers beyond the repository: release artifacts."""
        return self.state_dir / "files"

    @property
    def pki(self) -> Path:
        return self.state_dir / "pki"

    def exists(self) -> bool:
        return (self.state_dir / "fleet.json").exists()

    def save(self) -> None:
        self.state_dir.mkdir(parents=True, exist_ok=True, mode=0o750)
        values = {k: str(v) if isinstance(v, Path) else v for k, v in dataclasses.asdict(self).items()}
        write_atomically(self.state_dir / "fleet.json", json.dumps(values, indent=1) + "\n")

    @classmethod
    def load(cls, state_dir: Path | str) -> Fleet:
        """The fleet kept in `state_dir`.

        :raises SalternError: there is none, or its description cannot be read
        """
        path = Path(state_dir) / "fleet.json"
        try:
            values = json.loads(path.read_text())
            return cls(
                values["name"], values["subnet"], Path(values["state_dir"]), Path(values["pillar_dir"]),
                values.get("cloud", LOCAL), values.get("address", ""), values.get("known_as", ""),
                bool(values.get("installed", False)), tuple(values.get("peers", ())),
            )  # fmt: skip
        except FileNotFoundError as error:
            raise SalternError(f"{state_dir}: no fleet is kept here; `./saltern up` makes one") from error
        except (ValueError, KeyError, TypeError) as error:
            raise SalternError(
                f"{path}: not a fleet's description ({error!r}); `./saltern down` and `up` make it anew"
            ) from error

    def inventory(self) -> dict[str, dict]:
        """Every machine whose making was finished or is under way, by id, as its driver wrote it down."""
        found = {}
        for path in sorted(self.machines_dir.glob("*/machine.json")):
            if not MACHINE_ID.match(path.parent.name):
                continue  # no machine of ours has such a name
            try:
                about = json.loads(path.read_text())
                ipaddress.IPv4Address(about["address"])
                found[path.parent.name] = about
            except FileNotFoundError:
                continue  # destroyed while we looked
            except (ValueError, KeyError, TypeError) as error:
                raise SalternError(
                    f"{path}: not a machine's description ({error}); `salt-cloud -d {path.parent.name}` clears it"
                ) from error
        return found

    def addresses(self) -> dict[str, str]:
        """The address of every machine, by id."""
        return {name: machine["address"] for name, machine in self.inventory().items()}

    def mean(self, machines: Iterable[str]) -> None:
        """Write down how many Redis machines the fleet shall have, so that one being replaced changes nothing."""
        count = sum(role_of(name) == "redis" for name in machines)
        write_atomically(self.state_dir / "redis-machines", f"{count}\n")

    def redis_machines(self) -> int:
        """How many Redis machines the fleet shall have; 0 while nobody has said."""
        try:
            return int((self.state_dir / "redis-machines").read_text())
        except FileNotFoundError:
            return 0

    @contextmanager
    def locked(self, name: str, *, wait: bool = True) -> Iterator[None]:
        """Hold one of the fleet's locks; two processes never do the named thing at once.

        :raises SalternError: somebody holds it and `wait` is false
        """
        folder = self.state_dir / "locks"
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / name).open("w") as handle:
            try:
                flock(handle, LOCK_EX if wait else LOCK_EX | LOCK_NB)
            except BlockingIOError as error:
                raise SalternError(
                    f"fleet {self.name}: another command is at work on {name!r}; wait for it to end"
                ) from error
            yield


def _within(address: str, network: ipaddress.IPv4Network) -> bool:
    try:
        return ipaddress.IPv4Address(address) in network
    except ValueError:
        return False


def write_atomically(path: Path, text: str, mode: int = 0o644) -> None:
    """Put `text` at `path` whole or not at all: readers never see half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_name(f".{path.name}.{os.getpid()}")
    half.touch(mode=mode)
    half.chmod(mode)
    half.write_text(text)
    half.replace(path)


def choose(name: str | None = None, state_dir: str | None = None, subnet: str | None = None,
           pillar_dir: str | None = None, cloud: str | None = None) -> Fleet:  # fmt: skip
    """The fleet a command means: the kept one where there is one, else one with these settings.

    :raises SalternError: a setting contradicts the fleet that is kept there, or is not valid
    """
    name = name or os.environ.get("SALTERN_FLEET")
    folder = Path(state_dir).resolve() if state_dir else home() / (name or DEFAULT_NAME)
    wanted = Fleet(
        name or DEFAULT_NAME,
        subnet or DEFAULT_SUBNET,
        folder,
        Path(pillar_dir).resolve() if pillar_dir else REPOSITORY / "pillar",
        cloud or LOCAL,
    )
    if not wanted.exists():
        return wanted
    kept = Fleet.load(folder)
    if cloud and cloud != kept.cloud:
        if kept.cloud != NO_CLOUD and kept.inventory():
            raise SalternError(
                f"fleet in {folder}: its machines are at {kept.cloud}, not {cloud}; "
                f"`./saltern down --fleet {kept.name}` first, or take another --fleet"
            )
        kept = dataclasses.replace(kept, cloud=cloud)
    for field, given, has in (("name", name, kept.name), ("subnet", subnet, kept.subnet)):
        if given and given != has:
            raise SalternError(
                f"fleet in {folder}: its {field} is {has}, not {given}; `./saltern down --fleet {kept.name}` first"
            )
    return dataclasses.replace(kept, pillar_dir=wanted.pillar_dir) if pillar_dir else kept
