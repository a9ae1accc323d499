"""The pillar: what an operator may set, checked before any machine gets it, and what each machine is told besides."""

from __future__ import annotations

import copy
import difflib
import hashlib
import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jsonschema
import yaml

from saltern import artifact, certificates, pressure, secrets, ssh_keys, workplace
from saltern.errors import SalternError
from saltern.fleet import REPOSITORY, ROLES, Fleet, role_of
from saltern.judge import Thresholds
from saltern.steps import Plan
from saltern.topology import Topology, access, topology

SCHEMA_FILE = Path(__file__).with_name("pillar_schema.json")
# The beacons that are ours; an operator may add any of Salt's own.
PRESSURES = ("cpu", "memory")
POOL_OF_ROLE = {"prod": "prod", "staging": "canary"}
# Which Redis users a role is given the passwords of.
REDIS_USERS_OF_ROLE = {
    "proxy": ("controller",),
    "prod": ("product", "flags-reader", "observer"),
    "staging": ("product", "flags-reader", "observer"),
    "ops": ("observer",),
    "redis": ("replica", "sentinel"),
}


def schema() -> dict:
    return json.loads(SCHEMA_FILE.read_text())


def faults(pillar: Mapping[str, Any]) -> Iterator[str]:
    """Everything that is wrong with a pillar, one line each: file, key, what, and what would be right.

    Keys that start with an underscore are somebody else's: Salt's own, or an operator's for states of their own.
    """
    ours = {key: value for key, value in pillar.items() if not str(key).startswith("_")}
    errors = sorted(jsonschema.Draft202012Validator(schema()).iter_errors(ours), key=_place)
    found = [line for error in errors for line in _lines(error)]
    named = {tuple(error.absolute_path) for error in errors}
    found += [_line(path, words) for path, words in _odd(ours, ()) if path not in named]
    # What holds between values can be asked only once each of them is right.
    yield from found or _contradictions(ours)


def _place(error: jsonschema.ValidationError) -> list[str]:
    return list(map(str, error.absolute_path))


def _lines(error: jsonschema.ValidationError) -> Iterator[str]:
    path = tuple(error.absolute_path)
    about = f" ({error.schema['description']})" if "description" in error.schema else ""
    if error.validator == "additionalProperties":
        known = sorted(error.schema["properties"])
        for key in sorted(map(str, set(error.instance) - set(known))):
            close = difflib.get_close_matches(key, known, 1)
            remedy = f"{close[0]} is meant?" if close else f"there are {', '.join(known)}"
            yield _line((*path, key), f"no such setting; {remedy}")
    elif error.validator == "required":
        for key in error.validator_value:
            if key not in error.instance and f"{key!r} is" in error.message:
                yield _line((*path, key), "missing; git shows its default")
    else:
        yield _line(path, f"{' '.join(error.message.split())}{about}")


def _line(path: Sequence[object], words: str) -> str:
    shown = (str(key) if str(key).isprintable() else ascii(str(key)) for key in path)
    return f"pillar/{path[0]}.sls: {'.'.join(shown)}: {words}"


def _odd(value: object, path: tuple) -> Iterator[tuple[tuple, str]]:
    """Values that pass a schema without being meant by it: `.nan` is beyond no limit, and a pattern's `$` lets a
    line feed through at the end.
    """
    if isinstance(value, float) and math.isnan(value):
        yield path, "not a number"
    elif isinstance(value, str) and not value.isprintable():
        yield path, f"{value!r} is not one printable line"
    elif isinstance(value, Mapping | list):
        for key, each in value.items() if isinstance(value, Mapping) else enumerate(value):
            yield from _odd(each, (*path, key))


# TCP ports of one machine: proxy1's, ops1's. No two may be the same.
PORTS_OF_A_MACHINE = (
    (("traffic", "listen", "port"), ("traffic", "metrics", "port"), ("admin", "port")),
    (
        ("ops", "alertmanager_port"),
        ("ops", "dashboard", "port"),
        ("ops", "mail", "sink_port"),
        ("pipeline", "port"),
    ),
    (("redis", "port"), ("redis", "sentinel", "port")),
)


def _contradictions(pillar: Mapping[str, Any]) -> Iterator[str]:
    """Values that are right each by itself and not together."""
    for first, second in (pair for ports in PORTS_OF_A_MACHINE for pair in itertools.combinations(ports, 2)):
        if (port := _at(pillar, first)) == _at(pillar, second):
            yield _line(second, f"{port} is {'.'.join(first)} already; another port is right")
    for name, pool in pillar["scaling"]["pools"].items():
        if pool["min"] > pool["max"]:
            yield _line(("scaling", "pools", name, "min"), f"{pool['min']} is above max, {pool['max']}")
    mail = pillar["ops"]["mail"]
    if mail["username"] and not mail["password_file"]:
        yield _line(("ops", "mail", "password_file"), f"empty, and {mail['username']} needs a password")
    if mail["username"] and not mail["require_tls"]:
        yield _line(
            ("ops", "mail", "require_tls"), "false, and a password goes over TLS alone; true is right"
        )
    for section, read in (("judge", Thresholds().with_values), ("steps", Plan.from_data)):
        try:
            read(pillar["canary"].get(section, {}))
        except ValueError as error:
            yield _line(("canary", section), str(error).removeprefix(f"{section}: "))
    for name in PRESSURES:
        for role in ROLES:
            try:
                pressure.settings(pillar["beacons"][name], role)
            except ValueError as error:
                yield _line(("beacons", name), f"for {role}: {error}")
                break


def _at(pillar: Any, path: Sequence[str]) -> Any:
    for key in path:
        pillar = pillar[key]
    return pillar


def check(pillar: Mapping[str, Any]) -> None:
    """Refuse a pillar with any fault.

    :raises SalternError: the first fault, and how many more there are
    """
    found = list(faults(pillar))
    if found:
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        raise SalternError(f"{found[0]}{more}")


def load(folder: Path) -> dict[str, Any]:
    """The pillar as its files say, before any machine is asked: plain YAML, one top key a file.

    What was read and found right is kept until a file changes: a reflex has no time to read it all again.

    :raises SalternError: a file is missing, is not YAML, or has a value of the wrong kind
    """
    files = tuple((path.name, _version(path)) for path in sorted(folder.glob("*.sls")))
    kept = _LOADED.get(folder)
    if kept is None or kept[0] != files:
        _LOADED[folder] = kept = (files, _load(folder))
    return copy.deepcopy(kept[1])


_LOADED: dict[Path, tuple[tuple, dict[str, Any]]] = {}


def _version(path: Path) -> tuple[int, ...]:
    try:
        about = path.stat()
    except FileNotFoundError:
        return ()  # replaced while we looked; reading it says more
    return about.st_mtime_ns, about.st_ctime_ns, about.st_size, about.st_ino


def _load(folder: Path) -> dict[str, Any]:
    top = _yaml(folder / "top.sls")
    try:
        names = [name for names in top["base"].values() for name in names]
    except (KeyError, TypeError, AttributeError) as error:
        raise SalternError(
            f"{folder}/top.sls: no `base:` with lists of files; compare it with git"
        ) from error
    merged: dict[str, Any] = {}
    for name in dict.fromkeys(names):
        content = _yaml(folder / f"{name}.sls")
        if not isinstance(content, dict):
            raise SalternError(
                f"{folder}/{name}.sls: holds {type(content).__name__}; a table of settings is right"
            )
        for key in content:
            if key != name and not str(key).startswith("_"):
                raise SalternError(
                    f"{folder}/{name}.sls: {key}: not a setting of this file; it holds {name} alone"
                )
        merged.update(content)
    check(merged)
    return merged


def _yaml(path: Path) -> Any:
    try:
        return yaml.safe_load(path.read_text())
    except FileNotFoundError as error:
        raise SalternError(f"{path}: missing; `git checkout {path.parent.name}` brings it back") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SalternError(f"{path}: not YAML: {' '.join(str(error).split())}") from error


def own_at_clouds(folder: Path) -> dict[str, dict[str, Any]]:
    """What the operator has set at each cloud (clouds.sls), or nothing where the pillar has no such file.

    :raises SalternError: it cannot be read, or has a value of the wrong kind
    """
    path = folder / "clouds.sls"
    if not path.exists():
        return {}
    found = _yaml(path)
    try:
        clouds = found["clouds"]
    except (KeyError, TypeError) as error:
        raise SalternError(f"{path}: no table `clouds:`; compare it with git") from error
    whole = schema()
    judge = jsonschema.Draft202012Validator(
        {"properties": {"clouds": whole["properties"]["clouds"]}, "$defs": whole["$defs"]}
    )
    for error in judge.iter_errors({"clouds": clouds}):
        raise SalternError(next(_lines(error)))
    return clouds


def for_machine(fleet: Fleet, minion_id: str) -> dict[str, Any]:
    """What this machine alone is told: who and where it is, its secrets, what it shall run.

    :raises SalternError: the id names no role, or the fleet has no such machine
    """
    role = role_of(minion_id)
    addresses = fleet.addresses()
    if minion_id not in addresses:
        raise SalternError(
            f"machine {minion_id}: fleet {fleet.name} has none by this name; salt-cloud makes one"
        )
    kept = secrets.load(fleet)
    settings = load(fleet.pillar_dir)["redis"]
    users = REDIS_USERS_OF_ROLE[role]
    told: dict[str, Any] = {
        "fleet": {
            "name": fleet.name,
            "subnet": fleet.subnet,
            # In the same order whichever of them tells it.
            "masters": sorted((fleet.master, *fleet.peers)),
            "master": min((fleet.gateway, *fleet.peers)),
            "modules": modules_revision(),
            # Machines of a pool come and go; who needs those asks the registry.
            "hosts": {i: a for i, a in addresses.items() if role_of(i) not in POOL_OF_ROLE},
        },
        "machine": {
            "id": minion_id,
            "role": role,
            "address": addresses[minion_id],
            "key": secrets.event_key(kept["events"], minion_id),
        },
        "secrets": {"redis": {user: kept["redis"][user] for user in users}},
        "links": {},
    }
    ca = certificates.authority(kept["tls"]) if settings["tls"] else ""
    if found := redis_topology(fleet, settings):
        told["fleet"]["redis"] = found.as_pillar()
        told["links"] = {user: access(found, settings, user, kept, ca) for user in users}
    if role == "redis":
        # A Redis machine checks passwords; it need not know them.
        told["secrets"]["redis_sha256"] = _hashes(kept["redis"])
        # A Sentinel speaks to the others, and checks who speaks to it.
        told["secrets"]["sentinel"] = {"peer": kept["sentinel"]["peer"]}
        told["secrets"]["sentinel_sha256"] = _hashes(kept["sentinel"])
        if settings["tls"]:
            certificate, key = certificates.server(kept["tls"], minion_id, addresses[minion_id])
            told["secrets"]["tls"] = {"ca": ca, "certificate": certificate, "key": key}
    if role == "proxy":
        told["secrets"]["admin"] = kept["admin"]
    wanted = artifact.releases(fleet)
    if pool := POOL_OF_ROLE.get(role):
        told["machine"]["pool"] = pool
        # While a release is rolled over a pool, a machine has one of its own.
        told["release"] = _as_pillar(wanted, minion_id if minion_id in wanted else pool)
    if role == "ops":
        told["pipeline_parts"] = _pipeline(fleet, kept["pipeline"])
    if role == "ops" and (path := load(fleet.pillar_dir)["ops"]["mail"]["password_file"]):
        told["secrets"]["smarthost"] = _password(Path(path))
    if role in ("proxy", "ops", "redis"):
        told["agent"] = _as_pillar(wanted, "agent")
    return told


def _pipeline(fleet: Fleet, kept: Mapping[str, str]) -> dict[str, Any]:
    """What ops1 alone is told of the pipeline: keys, and where its parts are."""
    parts = {
        name: {"id": part.id, "sha256": part.sha256, "source": f"salt://{part.file}"}
        for name, part in workplace.parts(fleet).items()
    }
    key = ssh_keys.public(kept["push_key"])
    return {**parts, "host_key": kept["host_key"], "push_key": key, "token": kept["token"]}


def _password(path: Path) -> str:
    try:
        return path.read_text().rstrip("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise SalternError(
            f"pillar/ops.sls: ops.mail.password_file: {path} cannot be read ({error}); put the password there"
        ) from error


def _hashes(passwords: Mapping[str, str]) -> dict[str, str]:
    return {user: hashlib.sha256(password.encode()).hexdigest() for user, password in passwords.items()}


def redis_topology(fleet: Fleet, settings: Mapping[str, Any]) -> Topology | None:
    """The fleet's Redis machines as they are now, None where there is none.

    :param settings: the pillar's `redis`
    """
    addresses = {name: at for name, at in fleet.addresses().items() if role_of(name) == "redis"}
    if not addresses:
        return None
    return topology(addresses, settings["primary"], fleet.redis_machines())


def modules_revision(root: Path = REPOSITORY / "salt") -> str:
    """A hash over the modules that machines load: they are fetched anew when it changes."""
    digest = hashlib.sha256()
    for folder in ("_beacons", "_modules", "_states", "_utils"):
        for path in sorted((root / folder).glob("*.py")):
            digest.update(f"{folder}/{path.name}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def _as_pillar(wanted: Mapping[str, artifact.Artifact], name: str) -> dict[str, str]:
    if name not in wanted:
        raise SalternError(f"release of {name!r}: none was built; `./saltern up` builds it")
    chosen = wanted[name]
    source = f"salt://{chosen.file}"
    return {"id": chosen.id, "sha256": chosen.sha256, "source": source, "platform": chosen.platform}
