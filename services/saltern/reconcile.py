"""From the registry's desired state and what HAProxy runs, the smallest list of commands that makes them
equal.

Pure: plain values in, a plan out. A production server has a slot ``pN`` in both backends (the canary backend
lists it as a backup), a canary a slot ``cN`` in the canary backend. Who sits in which slot is written in
HAProxy's own maps, so the assignment is stable and survives the controller, and the response headers are
right by construction:

======================  ==========================================
``instances.map``       slot → minion id; no entry or ``-``: free
``releases.map``        slot → release
``split.acl``           the draws from 0 to 99 that mean canary, as a range: ``0:29`` is 30 percent
======================  ==========================================

A server leaves in steps: drain (no new requests), idle (none open), maint, slot freed. After its time limit,
what is still open is cut and reported. The last production server that can still answer is never taken away
unless its id is in the registry's ``forced`` set.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from .haproxy import Server
from .registry import Instance, State

FREE = "-"
MAPS = ("instances", "releases")
BACKENDS = {"prod": ("prod", "canary"), "canary": ("canary",)}
"""The backends in which a pool's slots exist."""
_LETTER = {"prod": "p", "canary": "c"}


@dataclass(frozen=True)
class Observed:
    """What HAProxy runs now."""

    servers: Mapping[tuple[str, str], Server]
    """By (backend, slot)."""
    maps: Mapping[str, Mapping[str, str]]
    """By map name, without the path."""
    split: frozenset[str] = frozenset()
    """The ranges in ``split.acl``."""
    sessions: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    """Open requests by slot, over all its backends. A slot that is not listed has none."""


@dataclass(frozen=True)
class Cut:
    """Requests that outlived their drain's limit."""

    instance: str
    slot: str
    sessions: int


@dataclass(frozen=True)
class Plan:
    """What to do, and what was decided on the way."""

    commands: tuple[str, ...] = ()
    slots: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    """Slot by instance id, for every registered instance that has one."""
    phases: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    """By instance id: ready, down, draining, idle, maint, leaving, kept, unplaced."""
    kept: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    """By instance id: why it stays although the registry says otherwise."""
    unplaced: tuple[str, ...] = ()
    """Registered instances for which there is no free slot."""
    cuts: tuple[Cut, ...] = ()
    drains: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    """Slot → when it began to leave (unix seconds): hand it to the next call."""


@dataclass(frozen=True)
class _Seat:
    """One occupied slot."""

    slot: str
    pool: str
    id: str
    instance: Instance | None
    """None when the registry has no such instance in this pool any more."""


def plan(
    state: State,
    observed: Observed,
    *,
    share: int,
    map_dir: str,
    now: float,
    drains: Mapping[str, float] = MappingProxyType({}),
    drain_limit_s: float = 60.0,
) -> Plan:
    """Decide what makes HAProxy equal to ``state``.

    ``share`` is the effective share in percent (see ``canary.decide``), ``now`` unix seconds, ``drains`` the
    ``drains`` of the previous plan, ``drain_limit_s`` the limit for instances without one of their own.
    """
    slots = {pool: _slots_of(observed, pool) for pool in _LETTER}
    seats = _seats(state, observed, slots)
    taken = {seat.slot for seat in seats}
    seated = {seat.id for seat in seats if seat.instance is not None}
    unseated = [i for i in state.instances.values() if i.id not in seated]
    unplaced = []
    fresh: list[_Seat] = []
    for instance in sorted(unseated, key=lambda i: _natural(i.id)):
        free = next((slot for slot in slots[instance.pool] if slot not in taken), None)
        if free is None:
            unplaced.append(instance.id)
            continue
        taken.add(free)
        fresh.append(_Seat(free, instance.pool, instance.id, instance))

    kept = dict(_kept_by_registry(state, seats))
    kept.update(_last_live(seats, observed, state.forced, kept))

    fill: list[str] = []
    enter: list[str] = []
    leave: list[str] = []
    cuts: list[Cut] = []
    new_drains: dict[str, float] = {}
    phases: dict[str, str] = {}

    for seat in fresh:
        fill += _fill(seat, observed, map_dir)
        if seat.instance is not None and seat.instance.want != "maint":
            enter += _admin(seat, observed, seat.instance.want)
        phases[seat.id] = "maint" if seat.instance is not None and seat.instance.want == "maint" else "down"

    for seat in seats:
        if seat.instance is not None:
            fill += _fill(seat, observed, map_dir)
        if seat.id in kept:
            phases[seat.id] = "kept"
            continue
        want = "maint" if seat.instance is None else seat.instance.want
        if want == "ready":
            enter += _admin(seat, observed, "ready")
            phases[seat.id] = "ready" if _live(seat.slot, seat.pool, observed) else "down"
            continue
        open_now = observed.sessions.get(seat.slot, 0)
        began = min(drains.get(seat.slot, now), now)
        new_drains[seat.slot] = began
        own = seat.instance.limit_s if seat.instance is not None else None
        limit = drain_limit_s if own is None else own
        settled = all(s.admin_state != "ready" for s in _servers(seat, observed))
        if open_now and settled and now - began >= limit:
            cuts.append(Cut(seat.id, seat.slot, open_now))
            leave += [f"shutdown sessions server {b}/{seat.slot}" for b in BACKENDS[seat.pool]]
        idle = settled and not open_now
        if want == "drain":
            leave += _admin(seat, observed, "drain")
            phases[seat.id] = "idle" if idle else "draining"
        elif not idle:
            # Already in maintenance is further than drain: leave it there.
            leave += [] if settled else _admin(seat, observed, "drain")
            phases[seat.id] = "leaving" if seat.instance is None else "draining"
        else:
            leave += _admin(seat, observed, "maint")
            phases[seat.id] = "leaving" if seat.instance is None else "maint"
            if seat.instance is None and all(s.admin_state == "maint" for s in _servers(seat, observed)):
                leave += _map_set(observed, map_dir, "instances", seat.slot, FREE)
                leave += _map_set(observed, map_dir, "releases", seat.slot, FREE)
                del new_drains[seat.slot]

    for pool, names in slots.items():
        for slot in names:
            if slot not in taken:
                leave += _admin(_Seat(slot, pool, FREE, None), observed, "maint")

    split = _split(observed, map_dir, share)
    # The safe direction first: less for the canary before anything else, more only once everybody is in
    # place.
    lowers = max((_end(entry) for entry in observed.split), default=0) > share
    commands = [*split, *fill, *enter, *leave] if lowers else [*fill, *enter, *split, *leave]
    return Plan(
        commands=tuple(commands),
        slots=MappingProxyType({s.id: s.slot for s in [*seats, *fresh] if s.instance is not None}),
        phases=MappingProxyType({**phases, **dict.fromkeys(unplaced, "unplaced")}),
        kept=MappingProxyType(kept),
        unplaced=tuple(unplaced),
        cuts=tuple(cuts),
        drains=MappingProxyType(new_drains),
    )


def remember(floor: State, read: State) -> State:
    """Guard against a registry that lost its memory (wiped, or a failover that lost the last writes).

    When ``read`` is older than ``floor``, the newest state ever seen, instances it does not know are kept as
    they are until they register again, are forgotten by force, or its revision has caught up; a split nobody
    has set again stays too. Otherwise ``read`` is taken as it is.
    """
    if read.revision >= floor.revision:
        return read
    reason = f"the registry went back from revision {floor.revision} to {read.revision} and does not know it"
    lost = {
        id_: reason
        for id_ in [*floor.instances, *floor.rejected]
        if id_ not in read.instances and id_ not in read.rejected and id_ not in read.forced
    }
    return replace(
        read,
        split=read.split if read.split.since else floor.split,
        rejected=MappingProxyType({**lost, **read.rejected}),
    )


def _slots_of(observed: Observed, pool: str) -> list[str]:
    letter = _LETTER[pool]
    names = {
        name for backend, name in observed.servers if backend == BACKENDS[pool][0] and name[:1] == letter
    }
    return sorted(names, key=_natural)


def _natural(name: str) -> tuple[str, int]:
    head = name.rstrip("0123456789")
    return head, int(name[len(head) :] or 0)


def _seats(state: State, observed: Observed, slots: Mapping[str, list[str]]) -> list[_Seat]:
    """Who sits where: what the map says, and failing that, whom the address belongs to."""
    by_address = {(i.pool, i.addr, i.port): i for i in state.instances.values()}
    seats: list[_Seat] = []
    seated: set[tuple[str, str]] = set()
    nameless: list[tuple[str, str]] = []
    for pool, names in slots.items():
        for slot in names:
            id_ = observed.maps["instances"].get(slot, FREE)
            if id_ == FREE:
                nameless.append((pool, slot))
                continue
            instance = state.instances.get(id_)
            if instance is not None and (instance.pool != pool or (pool, id_) in seated):
                instance = None
            seated.add((pool, id_))
            seats.append(_Seat(slot, pool, id_, instance))
    for pool, slot in nameless:
        server = observed.servers[BACKENDS[pool][0], slot]
        instance = by_address.get((pool, server.addr, server.port))
        if instance is not None and server.admin_state != "maint" and (pool, instance.id) not in seated:
            seated.add((pool, instance.id))
            seats.append(_Seat(slot, pool, instance.id, instance))
    return seats


def _kept_by_registry(state: State, seats: list[_Seat]) -> Mapping[str, str]:
    return {seat.id: state.rejected[seat.id] for seat in seats if seat.id in state.rejected}


def _last_live(
    seats: list[_Seat], observed: Observed, forced: frozenset[str], kept: Mapping[str, str]
) -> Mapping[str, str]:
    """Which production server must stay so that one can still answer."""
    prod = [seat for seat in seats if seat.pool == "prod"]
    stay = [s for s in prod if s.id in kept or (s.instance is not None and s.instance.want == "ready")]
    if any(_live(s.slot, "prod", observed) for s in stay):
        return {}
    staying = {s.slot for s in stay}
    go = [s for s in prod if s.slot not in staying and s.id not in forced]
    serving = [s for s in go if observed.servers["prod", s.slot].admin_state == "ready"]
    live = [s for s in serving if _live(s.slot, "prod", observed)]
    # With nobody live at all, one that may come back is still better than none.
    candidates = live or ([] if stay else serving)
    if not candidates:
        return {}
    reason = "it is the last live production server; bring another up first, or force it"
    return {min(candidates, key=lambda s: _natural(s.slot)).id: reason}


def _live(slot: str, pool: str, observed: Observed) -> bool:
    server = observed.servers[BACKENDS[pool][0], slot]
    return server.up and server.admin_state == "ready"


def _servers(seat: _Seat, observed: Observed) -> list[Server]:
    return [observed.servers[b, seat.slot] for b in BACKENDS[seat.pool] if (b, seat.slot) in observed.servers]


def _fill(seat: _Seat, observed: Observed, map_dir: str) -> list[str]:
    assert seat.instance is not None
    it = seat.instance
    commands = []
    for server in _servers(seat, observed):
        name = f"{server.backend}/{server.name}"
        if (server.addr, server.port) != (it.addr, it.port):
            commands.append(f"set server {name} addr {it.addr} port {it.port}")
    commands += _map_set(observed, map_dir, "instances", seat.slot, it.id)
    commands += _map_set(observed, map_dir, "releases", seat.slot, it.release)
    return commands


def _admin(seat: _Seat, observed: Observed, want: str) -> list[str]:
    """Commands that bring a slot into an administrative state.

    A server that comes out of maintenance counts as up in HAProxy until a check fails; here it has to pass
    one first. A canary is chosen by name, which HAProxy does even while it drains: its weight says whether
    to. And to any server the weight that checks tell it says whether anybody new comes.
    """
    commands = []
    for server in _servers(seat, observed):
        name = f"{server.backend}/{server.name}"
        if server.admin_state != want:
            commands.append(f"set server {name} state {want}")
            if server.admin_state == "maint":
                commands.append(f"set server {name} health down")
        weight = 0 if want == "drain" else 1
        if want != "maint" and server.weight != weight:
            commands.append(f"set server {name} weight {weight}")
    return commands


def _map_set(observed: Observed, map_dir: str, name: str, key: str, value: str) -> list[str]:
    entries = observed.maps[name]
    if entries.get(key) == value or (value == FREE and key not in entries):
        return []
    return [f"{'set' if key in entries else 'add'} map {map_dir}/{name}.map {key} {value}"]


def share_range(share: int) -> frozenset[str]:
    """What ``split.acl`` holds for a share in percent."""
    return frozenset({f"0:{share - 1}"}) if share else frozenset()


def _split(observed: Observed, map_dir: str, share: int) -> list[str]:
    """Add the new range before the old one goes: meanwhile the larger counts, and there is no moment without
    any.
    """
    wanted, path = share_range(share), f"{map_dir}/split.acl"
    adds = [f"add acl {path} {entry}" for entry in sorted(wanted - observed.split)]
    return adds + [f"del acl {path} {entry}" for entry in sorted(observed.split - wanted)]


def _end(entry: str) -> int:
    """The share a range stands for; one that cannot be read counts as all."""
    end = entry.partition(":")[2]
    return int(end) + 1 if end.isascii() and end.isdigit() else 100
