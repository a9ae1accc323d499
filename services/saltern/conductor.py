"""The conductor: hears what machines feel, decides what should be so, and has it made so, one thing at a time per pool.

It runs in the master's engine `conductor`, which reads the event bus, because the stock reactor manages some 34
reactions a second and a storm has a thousand. Three parts:

* `hear` takes events from the bus. Each is authenticated; of those a machine says about one metric only the newest is
  kept until `step` writes it into Redis (``saltern:felt``). So a storm is as large as the fleet, and none is lost.
* `step` decides: the scaling and healing policies over what is felt, registered and observed. A decision becomes an
  intent in the queue (see `intents`).
* workers carry intents out, step by step (see `provisioning`): what is urgent at once, else one for each pool.

Nothing is kept in this process that is not in Redis too: after a crash it goes on where it was.
"""

from __future__ import annotations

import json
import logging
import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import redis

from saltern import events, healing, rejections, scaling
from saltern.errors import SalternError
from saltern.fleet import MACHINE_ID, role_of
from saltern.intents import Intent, IntentError, Queue
from saltern.pillar import POOL_OF_ROLE
from saltern.provisioning import (
    ABSENT,
    KINDS,
    OBSERVED,
    SIZES,
    WHO,
    Alarm,
    Ended,
    Interrupted,
    Kind,
    Limits,
    Machine,
    Refused,
    Work,
    World,
    members,
    size_of,
)
from saltern.registry import FELT, PREFIX, Registry, RegistryError, State

log = logging.getLogger("saltern.conductor")

SCALE = PREFIX + "scale:"
"""JSON by pool: the scaling policy's memory and its last decision."""
HEALING = PREFIX + "healing"
"""JSON: the healing policy's memory."""
FAILED = PREFIX + "conductor:failed"
"""Set of kinds and pools whose last intent was given up, until one succeeds."""

FELT_TAG = re.compile(r"salt/beacon/([a-z]+[0-9]{1,4})/(cpu|memory)/(high|ok)\Z")
LISTEN_MS = 100
RESYNC_SECONDS = 2.0
TICK_SECONDS = 1.0
LEAST_TICK_SECONDS = 0.1
"""Between two decisions, however much is heard: what is heard meanwhile counts in the next."""
OUTAGE_SECONDS = 0.5
PROBE_SECONDS = 2.0
"""Between two questions to the minions of machines HAProxy cannot reach."""
PROBE_VALID_SECONDS = 30.0
"""How long such an answer counts: asking takes some six seconds, on a busy master more. Before anything is done about a
machine it is asked once more."""
ABSENT_SECONDS = 15.0
"""Between two questions to a minion that a person was told does not answer: its answer may only have been late."""
PROXY_METRIC = "proxy_cpu"


@dataclass(frozen=True)
class Settings:
    """What `pillar/scaling.sls` says."""

    pools: Mapping[str, scaling.Policy]
    """Those that are scaled by themselves."""
    floors: Mapping[str, int]
    """Every pool's `min`."""
    vertical: scaling.Vertical | None
    vertical_roles: tuple[str, ...]
    healing: healing.Policy | None
    limits: Limits
    stale_s: float
    """Seconds after which a machine that felt high and says nothing more counts as missing."""
    attempts: int
    retry_s: float
    retry_max_s: float

    @classmethod
    def from_pillar(cls, values: Mapping[str, Any]) -> Settings:
        """The section `scaling` of a pillar its schema has checked."""
        pools, memory, heal, own = (values[k] for k in ("pools", "memory", "healing", "conductor"))
        return cls(
            pools={n: scaling.Policy.from_pillar(p) for n, p in pools.items() if p["auto"]},
            floors={name: pool["min"] for name, pool in pools.items()},
            vertical=scaling.Vertical(
                memory["max_mib"], memory["cooldown_s"], memory["low_percent"], memory["low_s"]
            )
            if memory["auto"]
            else None,
            vertical_roles=tuple(memory["roles"]),
            healing=healing.Policy(heal["grace_s"], heal["flap_s"], heal["most_percent"])
            if heal["auto"]
            else None,
            limits=Limits(own["serve_s"], own["configure_s"], own["drain_s"]),
            stale_s=own["stale_s"],
            attempts=own["attempts"],
            retry_s=own["retry_s"],
            retry_max_s=own["retry_max_s"],
        )


@dataclass(frozen=True)
class Felt:
    """The newest that a machine said about a metric.

    :ivar since: since when it has been on this side, :ivar at: when it last said so; unix seconds by our clock
    """

    high: bool
    percent: float
    since: float
    at: float


# Keeps what is newest by the machine's own counter, which is signed: a replay is never newer.
_FEEL = """
local old = redis.call('HGET', KEYS[1], ARGV[1])
local new = cjson.decode(ARGV[2])
if old then
  old = cjson.decode(old)
  if #old.counter > #new.counter or (#old.counter == #new.counter and old.counter >= new.counter) then return 0 end
  if old.high == new.high then new.since = old.since end
end
redis.call('HSET', KEYS[1], ARGV[1], cjson.encode(new))
return 1
"""


class Conductor:
    """One fleet's conductor. `hear` from any thread; `run`, or `step` over and over, in one.

    :param client: Redis, replies decoded to text
    :param secret: the fleet's event secret, hex
    :param settings: read anew before every decision
    :param fire: puts an event on the bus: tag, data
    :param alarm: takes what a person should know; called at least once for each
    :param hook: called with the name of each point between looking, acting and recording; tests break off there
    :param leads: whether this master may act now; while it may not, it hears
    :param fence: tells the lease that it acts under (see `intents.Queue`)
    """

    def __init__(
        self,
        client: redis.Redis,
        world: World,
        secret: str,
        settings: Callable[[], Settings],
        *,
        fire: Callable[[str, Mapping[str, Any]], None],
        alarm: Callable[[Alarm], None],
        kinds: Mapping[str, Kind] = KINDS,
        now: Callable[[], float] = time.time,
        hook: Callable[[str], None] = lambda point: None,
        leads: Callable[[], bool] = lambda: True,
        fence: Callable[[], str] = lambda: "",
    ) -> None:
        self.client = client
        self.world = world
        self.secret = secret
        self.settings = settings
        self.fire = fire
        self.alarm = alarm
        self.kinds = kinds
        self.now = now
        self.hook = hook
        self.leads = leads
        self.queue = Queue(client, WHO, fence)
        self.registry = Registry(client)
        self.wake = threading.Event()
        self._feel = client.register_script(_FEEL)
        self._lock = threading.Lock()
        self._heard: dict[str, dict[str, Any]] = {}
        self._rejected: dict[tuple[str, str], int] = {}
        self._stopping = threading.Event()
        self._fault: BaseException | None = None
        self._known: dict[str, Intent] = {}
        self._later: dict[str, float] = {}
        self._working: dict[str, str] = {}
        self._synced = self._ticked = float("-inf")
        self._problem = ""
        self._news = True
        self._prepared = False
        self._presence: dict[str, tuple[bool, float]] = {}
        self._probing: threading.Thread | None = None

    # -- from the bus

    def hear(self, tag: str, data: Mapping[str, Any]) -> bool:
        """Take an event from the bus; whether it is one for the conductor and is believed. Never blocks."""
        found = FELT_TAG.match(tag)
        if not found:
            return False
        try:
            event = events.authenticate(self.secret, tag, data.get("id"), data, time.time_ns())
            percent = event.values.get("percent")
            if isinstance(percent, bool) or not isinstance(percent, int | float) or not 0 <= percent <= 1e6:
                raise events.Rejected(f"event {tag!r}: percent {percent!r} is not a number from 0")
        except events.Rejected as rejected:
            log.warning("%s", rejected)
            if not self.leads():
                return False  # the leader hears it too, and tells
            with self._lock:
                # Forged tags are many; what is kept of them is not.
                if len(self._rejected) < 100 or (found[1], str(rejected)) in self._rejected:
                    key = (found[1], str(rejected))
                    self._rejected[key] = self._rejected.get(key, 0) + 1
            return False
        at = self.now()
        new = {
            "high": found[3] == "high", "percent": percent, "since": at, "at": at, "counter": str(event.counter),
        }  # fmt: skip
        with self._lock:
            key = f"{found[1]}/{found[2]}"
            if key not in self._heard or int(self._heard[key]["counter"]) < event.counter:
                self._heard[key] = new
        self.wake.set()
        return True

    # -- the loop

    def run(self) -> None:
        """Work until `stop`; raises what a worker could not deal with."""
        while not self._stopping.is_set():
            self.step(LISTEN_MS)

    def stop(self) -> None:
        """End `run` soon; intents at work stay where they are."""
        self._stopping.set()
        self.wake.set()

    def step(self, block_ms: int | None = None) -> None:
        """One round: write down what was heard, decide, begin with what can be begun with."""
        if self._fault:
            raise self._fault
        if not self.leads():
            self._stopping.wait((block_ms or 0) / 1000)
            return
        if self.wake.is_set():
            # Before writing: what is heard from here on is written, and decided on, in the next round.
            self.wake.clear()
            self._news = True
        try:
            self._write_heard()
            self._collect(block_ms)
            self._begin()
            pause = LEAST_TICK_SECONDS if self._news else TICK_SECONDS
            if time.monotonic() - self._ticked >= pause:
                self._news = False
                self._ticked = time.monotonic()
                self.decide()
            self._problem = ""
        except (redis.RedisError, SalternError) as error:
            # Said once, however long it lasts.
            if str(error) != self._problem:
                log.error("nothing is decided until this is over: %s", error)
            self._problem = str(error)
            self._stopping.wait(OUTAGE_SECONDS)

    def _write_heard(self) -> None:
        with self._lock:
            heard, rejected = dict(self._heard), dict(self._rejected)
        for key, new in heard.items():
            self._feel(keys=[FELT], args=[key, json.dumps(new)])
            with self._lock:
                if self._heard[key] is new:
                    del self._heard[key]
        for (machine, why), count in rejected.items():
            subject = machine if MACHINE_ID.match(machine) else "?"
            self.registry.note("event.rejected", subject, {"why": why, "count": count}, by=WHO)
            rejections.report(self.client, f"{count} events", machine, why)
            with self._lock:
                del self._rejected[machine, why]

    def _collect(self, block_ms: int | None) -> None:
        if not self._prepared:
            self.queue.prepare()
            self._prepared = True
        ids = self.queue.fresh(block_ms)
        if time.monotonic() - self._synced >= RESYNC_SECONDS:
            # What was handed out before a crash, and what a failover may have turned round.
            ids += self.queue.mine()
            self._synced = time.monotonic()
        for id_ in ids:
            if id_ not in self._known and id_ not in tuple(self._working.values()):
                self._take(id_)

    def _take(self, id_: str) -> None:
        try:
            intent = self.queue.load(id_)
        except IntentError as error:
            log.error("%s", error)
            intent = None
        if intent is None or intent.kind not in self.kinds or intent.state not in ("queued", "running"):
            known = ", ".join(sorted(self.kinds))
            why = f"kind {intent.kind!r} is none of {known}" if intent else "it cannot be read"
            if self.queue.finish(id_, "failed", {}, why):
                self.alarm(Alarm("IntentFailed", id_, f"intent {id_} was given up: {why}"))
            return
        self._known[id_] = intent

    def _begin(self) -> None:
        """Start a worker for each lane that is free: what ranks first of what may begin now."""
        now = self.now()
        known = sorted(self._known.copy().values(), key=lambda i: (i.at, i.id))
        # Of the same wish only the oldest: a later one is decided on what that leaves.
        oldest: dict[str, str] = {}
        for intent in known:
            oldest.setdefault(intent.key, intent.id)
        ready = [
            i for i in known if oldest[i.key] == i.id and max(i.not_before, self._later.get(i.id, 0.0)) <= now
        ]
        # What is half done comes before what is not begun with: its pool must not stay in between.
        ready.sort(key=lambda i: (i.state != "running", self.kinds[i.kind].priority, i.at))
        for intent in ready:
            lane = intent.kind if self.kinds[intent.kind].urgent else intent.pool
            if lane in self._working:
                continue
            if self._fault:
                return  # its lane is free because of that: nobody goes on before all starts afresh
            self._working[lane] = intent.id
            self._later.pop(intent.id, None)
            threading.Thread(
                target=self._work, args=(lane, intent.id), name=f"conductor {lane}", daemon=True
            ).start()

    # -- workers

    def _work(self, lane: str, id_: str) -> None:
        try:
            again = self._carry_out(id_)
            if again is None:
                self._known.pop(id_, None)
            else:
                self._known[id_] = again
        except redis.RedisError as error:
            log.warning("intent %s waits for Redis: %s", id_, error)
            self._later[id_] = self.now() + OUTAGE_SECONDS
        except BaseException as error:  # noqa: BLE001 - raised again by the loop, so that all starts afresh
            self._fault = error
        finally:
            self._working.pop(lane, None)

    def _carry_out(self, id_: str) -> Intent | None:
        """Go on with an intent; returns it when there is more to do later."""
        settings = self.settings()
        intent = self.queue.begin(id_)
        kind = self.kinds[intent.kind]
        work = Work(
            intent=intent, world=self.world, registry=self.registry, client=self.client, limits=settings.limits,
            fire=self.fire, alarm=self.alarm, stopping=self._stopping.is_set, facts=dict(intent.steps),
            floor=lambda pool: settings.floors.get(pool, 1),
        )  # fmt: skip
        try:
            for name, act in kind.each(work):
                last = name
                if name in work.facts:
                    continue
                if not self.leads():
                    return intent
                self.hook(f"{intent.kind}.{name}:before")
                found = act(work)
                self.hook(f"{intent.kind}.{name}:acted")
                subject, _, what = name.rpartition("/")
                # A step that found nothing to do is no news.
                line = f"{intent.kind}.{what.partition('#')[0]}" if any(found.values()) else ""
                try:
                    work.facts[name] = self.queue.record(
                        id_, name, found, kind=line, subject=subject or intent.pool
                    )
                except IntentError as error:
                    # Another conductor that was given the same entry has brought it to its end meanwhile.
                    log.warning("%s", error)
                    return None
                self.hook(f"{intent.kind}.{name}:recorded")
        except Interrupted:
            return intent
        except Ended as ended:
            self.queue.finish(id_, "failed", {}, str(ended))
            return None
        except Refused as refused:
            self._undo(kind, work, str(refused))
            self.queue.finish(id_, "refused", {}, str(refused))
            log.warning("%s %s: refused: %s", intent.kind, intent.pool, refused)
            return None
        except (SalternError, RegistryError) as error:
            return self._failed(kind, work, settings, str(error))
        self._remember(intent, scaling.Memory.succeeded)
        if self.queue.finish(id_, "done", work.facts[last]) and self.client.srem(FAILED, self._name(intent)):
            self.alarm(
                Alarm("IntentFailed", self._name(intent), f"{self._name(intent)} works again", firing=False)
            )
        return None

    def _failed(self, kind: Kind, work: Work, settings: Settings, error: str) -> Intent | None:
        intent = work.intent
        attempts = intent.attempts + 1
        log.warning("%s: attempt %d: %s", self._name(intent), attempts, error)
        if attempts < settings.attempts:
            pause = min(settings.retry_s * 2 ** (attempts - 1), settings.retry_max_s)
            self.queue.retry(intent.id, attempts, pause, error)
            return self.queue.load(intent.id)
        error = self._undo(kind, work, error)
        self._remember(intent, lambda memory: memory.failed(self.now()))
        self.client.sadd(FAILED, self._name(intent))
        # The alarm before the end: a crash in between gives it twice, which is one alarm, rather than never.
        self.alarm(
            Alarm(
                "IntentFailed",
                self._name(intent),
                f"{self._name(intent)} was given up after {attempts} attempts: {error}",
                severity="critical",
                done=kind.undone,
                cause=intent.journal,
            )
        )
        failed = {"kind": intent.kind, "pool": intent.pool, "error": error}
        self.fire(kind.failed_tag, {**failed, "intent": intent.id, "cause": intent.journal})
        self.queue.finish(intent.id, "failed", {}, error)
        return None

    def _undo(self, kind: Kind, work: Work, error: str) -> str:
        """Take back what was begun; the error, with what went wrong in that too."""
        if kind.undo is None:
            return error
        try:
            kind.undo(work, error)
        except (SalternError, RegistryError) as second:
            return f"{error}; and taking it back failed: {second}"
        return error

    def _name(self, intent: Intent) -> str:
        return f"{intent.kind} {intent.args.get('machine', intent.pool)}"

    def _remember(self, intent: Intent, change: Callable[[scaling.Memory], scaling.Memory]) -> None:
        """Let the scaling policy know how making machines went."""
        if intent.kind != "scale":
            return
        with self._lock:
            kept = self._load(SCALE + intent.pool) or {}
            memory = change(scaling_memory(kept))
            self.client.set(SCALE + intent.pool, json.dumps({**kept, "memory": memory.to_data()}))

    # -- deciding

    def decide(self) -> None:
        """Look at everything and queue what should be done about it."""
        settings = self.settings()
        state, machines, felt = self.registry.snapshot(), self.world.machines(), self.felt()
        observed = self._load(OBSERVED)
        unfinished = self.queue.unfinished()
        for pool, policy in settings.pools.items():
            self._scale(pool, policy, settings, machines, state, observed, felt, unfinished)
        if settings.vertical:
            self._resize(settings, machines, felt, unfinished)
        suspects = self._absent(machines, unfinished)
        if settings.healing:
            suspects += self._heal(settings.healing, machines, state, observed, unfinished)
        self._probe(suspects)
        for key in felt:
            if key.split("/")[0] not in machines:
                self.client.hdel(FELT, key)

    def felt(self) -> dict[str, Felt]:
        """What machines feel, by ``<machine>/<metric>``."""
        stored = {key: json.loads(text) for key, text in self.client.hgetall(FELT).items()}
        return {key: Felt(v["high"], v["percent"], v["since"], v["at"]) for key, v in stored.items()}

    def _load(self, key: str) -> dict[str, Any] | None:
        text = self.client.get(key)
        return json.loads(text) if text else None

    def _scale(
        self,
        pool: str,
        policy: scaling.Policy,
        settings: Settings,
        machines: Mapping[str, Machine],
        state: State,
        observed: Mapping[str, Any] | None,
        felt: Mapping[str, Felt],
        unfinished: list[Intent],
    ) -> None:
        now = self.now()
        with self._lock:
            kept = self._load(SCALE + pool) or {}
            there, current, decision = considered(
                pool,
                policy,
                settings.stale_s,
                machines,
                state,
                observed,
                felt,
                unfinished,
                scaling_memory(kept),
                now,
            )
            memory = decision.memory
            if decision.desired != current:
                cause = _cause(felt, policy.targets, decision.desired > current)
                intent = Intent("scale", pool, {"to": decision.desired}, cause=cause, by=WHO)
                self.hook("decide.scale:before")
                self.queue.put(intent)
                self.hook("decide.scale:queued")
                log.info("%s: %d → %d: %s", pool, current, decision.desired, "; ".join(decision.why))
                memory = memory.changed(decision.desired - current, now)
            told = {
                "at": now, "there": len(there), "serving": sum(m.serving for m in there), "current": current,
                "desired": decision.desired, "proposals": dict(decision.proposals), "why": list(decision.why),
            }  # fmt: skip
            self.client.set(SCALE + pool, json.dumps({"memory": memory.to_data(), "decision": told}))

    def _resize(
        self,
        settings: Settings,
        machines: Mapping[str, Machine],
        felt: Mapping[str, Felt],
        unfinished: list[Intent],
    ) -> None:
        assert settings.vertical is not None
        busy = {i.args.get("machine") for i in unfinished if i.kind == "resize"}
        for id_, machine in machines.items():
            feels = felt.get(f"{id_}/memory")
            if (
                feels is None
                or id_ in busy
                or not machine.made
                or role_of(id_) not in settings.vertical_roles
            ):
                continue
            now = self.now()
            if feels.high and now - feels.at > settings.stale_s:
                continue
            kept = size_of(self.client, machine)
            wish = scaling.resize(
                settings.vertical, scaling.Size(machine.memory, kept["base"], kept["changed"]),
                high=feels.high, percent=feels.percent, since=feels.since, now=now,
            )  # fmt: skip
            if wish is None:
                continue
            cause = _edge(id_, "memory", feels)
            pool = POOL_OF_ROLE.get(role_of(id_), role_of(id_))
            if wish.to is not None:
                args = {"machine": id_, "to": wish.to, "why": wish.why}
                self.queue.put(Intent("resize", pool, args, f"resize:{id_}", cause, WHO))
            elif self.client.hsetnx(SIZES, id_ + "/told", f"{feels.since:.3f}") == 1:
                # Said once for as long as it lasts.
                about = asdict(Alarm("MemoryAtMaximum", id_, f"{id_}: {wish.why}", "critical"))
                about.pop("cause")
                self.queue.put(Intent("alert", pool, about, f"alert:memory:{id_}", cause, WHO))
        for id_ in machines:
            feels = felt.get(f"{id_}/memory")
            if feels and not feels.high:
                self.client.hdel(SIZES, id_ + "/told")

    def _heal(
        self,
        policy: healing.Policy,
        machines: Mapping[str, Machine],
        state: State,
        observed: Mapping[str, Any] | None,
        unfinished: list[Intent],
    ) -> list[str]:
        """Have a machine replaced that is gone; the machines whose minions must be asked."""
        now = self.now()
        healed = {i.args.get("machine") for i in unfinished if i.kind == "heal"}
        going = {id_ for i in unfinished for id_ in _names(i)}
        servers = (observed or {}).get("servers", {})
        sights = {}
        for id_, instance in state.instances.items():
            if instance.want != "ready" or id_ in healed | going:
                continue
            up = servers[id_]["up"] if id_ in servers else None
            present, at = self._presence.get(id_, (False, float("-inf")))
            fresh = now - at <= PROBE_VALID_SECONDS
            sights[id_] = healing.Sight(instance.pool, up, present if fresh else None)
        kept = self._load(HEALING)
        memory = healing.Memory.from_data(kept) if kept else healing.Memory()
        decision = healing.decide(policy, sights, memory, now, busy=bool(healed))
        if id_ := decision.replace:
            pool = state.instances[id_].pool
            self.hook("decide.heal:before")
            cause = self.registry.note("machine.lost", id_, {"grace_s": policy.grace_s}, by=WHO)
            self.queue.put(Intent("heal", pool, {"machine": id_}, f"heal:{id_}", cause, WHO))
            about = asdict(
                Alarm("MachineLost", id_, f"{id_} is gone", "critical", done=f"{id_} is made anew")
            )
            about.pop("cause")
            self.queue.put(Intent("alert", pool, about, f"alert:lost:{id_}", cause, WHO))
            self.hook("decide.heal:queued")
        for id_, why in decision.alerts.items():
            about = asdict(
                Alarm("MachineLost", id_, f"{id_} is {why}", "critical", undo="salt-run scale.status")
            )
            about.pop("cause")
            self.queue.put(Intent("alert", state.instances[id_].pool, about, f"alert:lost:{id_}", "", WHO))
        for id_ in decision.back:
            about = asdict(Alarm("MachineLost", id_, f"{id_} serves again", firing=False))
            about.pop("cause")
            self.queue.put(Intent("alert", state.instances[id_].pool, about, f"alert:back:{id_}", "", WHO))
        if decision.memory != memory:
            # After the queue: what is queued twice is one, what is not queued would be forgotten.
            self.client.set(HEALING, json.dumps(decision.memory.to_data()))
        return healing.suspects(sights)

    def _absent(self, machines: Mapping[str, Machine], unfinished: list[Intent]) -> list[str]:
        """Have it told that an absent minion is back; the machines whose minions must be asked."""
        told = self.client.smembers(ABSENT)
        if not told or any(intent.kind == "absent" for intent in unfinished):
            return []
        now = self.now()
        back = {id_ for id_ in told if id_ not in machines or self._presence.get(id_, (False, 0.0))[0]}
        if back:
            # Asked once more before it is told: what is remembered may be from before it was missed.
            for id_ in back:
                self._presence.pop(id_, None)
            self.queue.put(Intent("absent", "fleet", by=WHO))
        waiting = told - back
        return sorted(
            id_ for id_ in waiting if now - self._presence.get(id_, (False, 0.0))[1] >= ABSENT_SECONDS
        )

    def _probe(self, ids: list[str]) -> None:
        """Ask minions whether they answer, beside everything else: it takes seconds."""
        busy = self._probing is not None and self._probing.is_alive()
        oldest = min((self._presence.get(id_, (False, 0.0))[1] for id_ in ids), default=self.now())
        if busy or not ids or self.now() - oldest < PROBE_SECONDS:
            return

        def ask() -> None:
            try:
                answered = self.world.present(ids)
            except SalternError as error:
                log.warning("presence is unknown: %s", error)
                return
            at = self.now()
            self._presence.update({id_: (id_ in answered, at) for id_ in ids})
            self.wake.set()

        self._probing = threading.Thread(target=ask, name="conductor presence", daemon=True)
        self._probing.start()


def considered(
    pool: str,
    policy: scaling.Policy,
    stale_s: float,
    machines: Mapping[str, Machine],
    state: State,
    observed: Mapping[str, Any] | None,
    felt: Mapping[str, Felt],
    unfinished: list[Intent],
    memory: scaling.Memory,
    now: float,
) -> tuple[list[scaling.Member], int, scaling.Decision]:
    """What the policy makes of everything: the machines it is about, how many are wanted by now, and the decision."""
    there = members(pool, machines, state, observed)
    current = wanted_number(pool, len(there), unfinished)
    if current < len(there):
        # Some are about to go: what is decided is about those that stay.
        there = scaling.youngest_first(there)[len(there) - current :]
    metrics = metrics_of(policy, felt, now, stale_s)
    return there, current, scaling.decide(policy, there, current, metrics, memory, now)


def metrics_of(
    policy: scaling.Policy, felt: Mapping[str, Felt], now: float, stale_s: float
) -> list[scaling.Metric]:
    """What is felt, as the policy's metrics.

    A machine that feels high says so again and again: one that stopped is missing. One that said ok is not above its
    mark until it says so; the value it said stands for it.
    """
    known = {key: f.percent for key, f in felt.items() if not f.high or now - f.at <= stale_s}
    found = []
    for name, target in policy.targets.items():
        if name == PROXY_METRIC:
            values = [v for key, v in known.items() if re.fullmatch(r"proxy[0-9]+/cpu", key)]
            found.append(scaling.Metric(name, target, whole=max(values, default=None), is_whole=True))
        else:
            samples = {key.split("/")[0]: v for key, v in known.items() if key.endswith(f"/{name}")}
            found.append(scaling.Metric(name, target, samples))
    return found


def wanted_number(pool: str, there: int, unfinished: list[Intent]) -> int:
    """How many machines the pool is to have when all that is queued is done."""
    wishes = [i for i in unfinished if i.kind == "scale" and i.pool == pool]
    return int(wishes[-1].args["to"]) if wishes else there


def scaling_memory(kept: Mapping[str, Any]) -> scaling.Memory:
    """The policy's memory, of what is kept under `SCALE`."""
    return scaling.Memory.from_data(kept["memory"]) if "memory" in kept else scaling.Memory()


def _names(intent: Intent) -> list[str]:
    chosen = intent.steps.get("choose", {})
    return [*chosen.get("add", ()), *(id_ for id_, _ in chosen.get("remove", ()))]


def _cause(felt: Mapping[str, Felt], targets: Mapping[str, float], out: bool) -> str:
    """The newest edge that speaks for a decision."""
    names = {name.removeprefix("proxy_") for name in targets}
    edges = [(f.at, key) for key, f in felt.items() if f.high == out and key.split("/")[1] in names]
    if not edges:
        return ""
    key = max(edges)[1]
    machine, metric = key.split("/")
    return _edge(machine, metric, felt[key])


def _edge(machine: str, metric: str, felt: Felt) -> str:
    tag = f"salt/beacon/{machine}/{metric}/{'high' if felt.high else 'ok'}"
    return events.cause(tag, int(felt.since * 1e9))
