"""Who leads: of a fleet's masters one alone decides and carries out, and another takes over when it is gone.

All masters hear everything. What a machine signed counts once in Redis whoever hears it (see `events`), so reflexes act
on any of them; what counts, waits or takes long is the conductor's, and only the leader conducts.

Leading is a lease in Redis: it is renewed while its holder lives, and ends by itself. A holder stops believing in it
before Redis gives it to another, by a clock that no one sets (Gray and Cheriton, Leases, SOSP 1989). Each lease has a
number above all before it, its fence: what still comes from an earlier one is refused where it is written (see
`intents`), however long its sender was asleep.

====================  =======  ===================================================================================
``saltern:leader``    hash     holder: the master's address; token: the lease's number. Gone when the lease is over
``saltern:leaders``   integer  the highest number there was
====================  =======  ===================================================================================
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import redis

from saltern.errors import SalternError
from saltern.fleet import Fleet
from saltern.intents import LEASE
from saltern.members import link
from saltern.registry import PREFIX

log = logging.getLogger("saltern.leading")

TOKEN = PREFIX + "leaders"
LEASE_S = 10.0
"""How long a lease lasts: so long, and a renewal, the fleet is without a leader when its leader is lost."""
RENEW_S = 2.0
MARGIN_S = 1.0
"""A holder stops so long before its lease ends: whatever it began by then reaches Redis before another leads."""


@dataclass(frozen=True)
class Answer:
    """What Redis says of the lease. :ivar holder: a master's address; :ivar token: the lease's number"""

    holder: str
    token: int


@dataclass(frozen=True)
class Held:
    """What a master knows of the lease.

    :ivar token: of its own, 0 while it has none
    :ivar until: when it stops believing in that, by the monotonic clock
    :ivar leader: who holds it; empty while nobody is known to
    """

    token: int = 0
    until: float = 0.0
    leader: str = ""

    def leads(self, now: float) -> bool:
        return self.token > 0 and now < self.until


class Lost(SalternError):
    """Another leads now, or the lease was another's meanwhile: all that was begun starts afresh."""


def heard(held: Held, me: str, answer: Answer, asked: float) -> Held:
    """What a master knows once Redis has answered.

    A lease that ended while Redis was away goes on as the next one, if nobody had one in between.

    :param asked: when it asked, by the monotonic clock: the lease lasts from then on at least
    :raises Lost: it led, and this lease is not the one that it had
    """
    mine = answer.holder == me
    if held.token and not (mine and answer.token in (held.token, held.token + 1)):
        who = f"{answer.holder} leads" if not mine else "another led since"
        raise Lost(f"{who} (lease {answer.token} after {held.token})")
    if not mine:
        return Held(leader=answer.holder)
    return Held(answer.token, asked + LEASE_S - MARGIN_S, me)


# A lease goes on for its holder, begins anew for whoever asks when there is none, and again for a holder that started
# again: on one host a lock lets in one at a time, so its earlier process is gone.
_ASK = """
local now = redis.call('HMGET', KEYS[1], 'holder', 'token')
if now[1] and now[1] ~= ARGV[1] then return now end
local token = now[2]
if not now[1] or token ~= ARGV[2] then
  token = redis.call('INCR', KEYS[2])
  redis.call('HSET', KEYS[1], 'holder', ARGV[1], 'token', token)
end
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return {ARGV[1], tostring(token)}
"""


class Lease:
    """One master's hand on the lease. `renew` in one thread, the rest from any.

    :param client: Redis, replies decoded to text
    :param me: the master's address
    """

    def __init__(self, client: redis.Redis, me: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.me = me
        self.held = Held()
        self._client = client
        self._clock = clock
        self._ask = client.register_script(_ASK)

    def renew(self) -> Held:
        """Ask for the lease, or for more of it.

        :raises Lost: this master led, and does not any more
        :raises redis.RedisError: Redis does not answer; a lease that is held goes on until it ends
        """
        asked = self._clock()
        holder, token = self._ask(
            keys=(LEASE, TOKEN), args=(self.me, str(self.held.token), int(LEASE_S * 1000))
        )
        before = self.held
        try:
            self.held = heard(before, self.me, Answer(holder, int(token)), asked)
        except Lost:
            self.held = Held(leader=holder)
            raise
        return self.held

    def leads(self) -> bool:
        """Whether this master may act now."""
        return self.held.leads(self._clock())

    def fence(self) -> str:
        """What proves to Redis which lease a write is made under."""
        return f"{self.me} {self.held.token}"


class Keeper:
    """Renews a lease in a thread of its own, until it is lost or `stop`."""

    def __init__(self, lease: Lease) -> None:
        self.lease = lease
        self.lost: Lost | None = None
        self._stopping = threading.Event()
        self._problem = ""
        self._thread = threading.Thread(target=self._run, name="lease", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End. The lease is given to nobody: a master that only starts again goes on leading."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join()

    def alive(self) -> bool:
        return self._thread.is_alive()

    def _run(self) -> None:
        while not self._stopping.is_set():
            leader = self.lease.held.leader
            try:
                held = self.lease.renew()
                self._problem = ""
                if held.leader != leader:
                    log.warning(
                        "%s leads%s",
                        held.leader,
                        f" (lease {held.token})" if held.token else ", not this master",
                    )
            except Lost as lost:
                self.lost = lost
                return
            except redis.RedisError as error:
                # Said once, however long it lasts.
                if str(error) != self._problem:
                    log.warning("the lease is not renewed: %s", error)
                self._problem = str(error)
            self._stopping.wait(RENEW_S)


def leader(client: redis.Redis) -> Answer | None:
    """Who leads; None while nobody does.

    :raises redis.RedisError: Redis does not answer
    """
    holder, token = client.hmget(LEASE, "holder", "token")
    return Answer(holder, int(token)) if holder else None


def follows(fleet: Fleet) -> bool:
    """Whether another master of the fleet leads, so that this one leaves alone what is to be done once.

    Where nobody can tell, this one does it: twice is better than never.
    """
    if not fleet.peers:
        return False
    try:
        found = leader(link(fleet))
    except (redis.RedisError, SalternError) as error:
        log.warning("who leads is not known: %s", error)
        return False
    return found is not None and found.holder != fleet.gateway


def need(fleet: Fleet, what: str) -> None:
    """Refuse what changes the fleet's inventory or keys where another master leads: its own would be put in the place.

    :raises SalternError: another leads
    """
    if follows(fleet):
        raise SalternError(f"{what}: another master leads (`saltern status` says which); do it there")
