"""The OpenFeature provider."""

from __future__ import annotations

import logging
import os
import ssl
import threading
import time
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from openfeature.evaluation_context import EvaluationContext
from openfeature.event import ProviderEvent, ProviderEventDetails
from openfeature.exception import GeneralError, TypeMismatchError
from openfeature.flag_evaluation import FlagResolutionDetails, FlagValueType
from openfeature.provider import AbstractProvider, Metadata

from openfeature_redis import health, sdk, snapshot
from openfeature_redis.follower import RECHECK, Follower
from openfeature_redis.health import Fault, Health, State
from openfeature_redis.held import Held, NotAFlagSet, Reading
from openfeature_redis.source import Source
from openfeature_redis.wire import Address, Login

log = logging.getLogger("openfeature_redis")

# Held while a flag set is swapped or an event is emitted, and around every fork: a child must not inherit a
# lock that one of our threads held at that moment. One for the process, because a fork concerns all
# providers.
_quiet = threading.RLock()
_providers: weakref.WeakSet[RedisProvider] = weakref.WeakSet()

# Seconds until the next look while the SDK has not yet recorded how `initialize` ended.
_UNANNOUNCED = 0.02
# Seconds to wait for the thread at shutdown. It is a daemon, so one stuck in connecting holds nothing up.
_PATIENCE = 2.0


class RedisProvider(AbstractProvider):
    """Feature flags from one Redis key that holds a flagd document.

    Evaluation is flagd-core's, in memory, without any network. A thread follows the key; it starts with
    `initialize` and again in every forked child. While Redis is away the last set stays in force.
    """

    def __init__(
        self,
        addresses: str | Sequence[str],
        *,
        sentinel: str | None = None,
        username: str | None = None,
        password: str | None = None,
        sentinel_username: str | None = None,
        sentinel_password: str | None = None,
        tls: ssl.SSLContext | bool = False,
        key: str = "saltern:flags",
        revision_key: str | None = "saltern:revision",
        snapshot: str | os.PathLike[str] | None = None,
        resync: float = 1.0,
        grace: float = 5.0,
        timeout: float = 1.0,
    ) -> None:
        """Nothing is opened or started here.

        addresses: `host:port`, `[v6]:port` or a Unix socket's `/path`; the primary first, then replicas,
        which are
            preferred for reading. With `sentinel`, the addresses of the Sentinels.
        sentinel: name of the primary in Sentinel.
        username, password: ACL user of the Redis servers; the `sentinel_` pair is for the Sentinels.
        tls: True for the system's certificate authorities, or a context; applies to Redis and Sentinel.
        key: where the document is. revision_key: the counter that grows with every write, None when there is
        none;
            with it a lagging replica cannot turn flags back.
        snapshot: file to keep the last set in.
        resync: seconds between reads when nothing is announced; the most a lost announcement costs.
        grace: seconds from STALE to ERROR. timeout: seconds for connecting and for every answer.

        Raises ValueError for a malformed address or duration.
        """
        super().__init__()
        for name, seconds in (("resync", resync), ("grace", grace)):
            if not seconds > 0:
                raise ValueError(f"{name} {seconds!r} is not a number of seconds above 0")
        context = ssl.create_default_context() if tls is True else tls or None
        texts = [addresses] if isinstance(addresses, str) else addresses
        self._source = Source(
            addresses=[Address.parse(text) for text in texts],
            login=Login(username, password, context),
            service=sentinel,
            sentinel_login=Login(sentinel_username, sentinel_password, context),
            timeout=timeout,
        )
        self._key = key
        self._revision_key = revision_key
        self._snapshot = Path(snapshot) if snapshot is not None else None
        self._resync = resync
        self._grace = grace
        self._held = Held()
        self._unsaved = False  # the snapshot is older than the set in force
        self._health = Health()
        self._follower: Follower | None = None
        self._wanted = False  # between attach or initialize and shutdown: a forked child goes on
        self._awaiting_sdk = False  # the SDK runs initialize and will announce how it ended
        self._metadata = Metadata(name="redis")
        _providers.add(self)

    @classmethod
    def from_config(cls, config: Mapping[str, Any], **options: Any) -> RedisProvider:
        """Make a provider from `{"redis": {"addresses", "username", "password", "tls"}, "sentinel": {...
        "service"}}`.

        `sentinel` is optional and then its addresses are used; so is `tls`, `{"ca": "<PEM>"}`, the authority
        whose certificates the servers must show. Options are those of the constructor.
        Raises ValueError naming what is missing.
        """
        redis = config.get("redis", {})
        login = {"username": redis.get("username"), "password": redis.get("password")}
        if redis.get("tls") is not None:
            options = {"tls": _trusting(redis["tls"].get("ca")), **options}
        sentinel = config.get("sentinel")
        where = "redis" if sentinel is None else "sentinel"
        addresses = config.get(where, {}).get("addresses")
        if not addresses:
            raise ValueError(f'configuration: "{where}" has no "addresses"; give a list of host:port')
        if sentinel is None:
            return cls(addresses, **login, **options)
        if not sentinel.get("service"):
            raise ValueError(
                'configuration: "sentinel" has no "service"; give the primary\'s name in Sentinel'
            )
        return cls(
            addresses,
            sentinel=sentinel["service"],
            sentinel_username=sentinel.get("username"),
            sentinel_password=sentinel.get("password"),
            **login,
            **options,
        )

    # -- evaluation: flagd-core's, with nothing added

    def resolve_boolean_details(
        self, flag_key: str, default_value: bool, evaluation_context: EvaluationContext | None = None
    ) -> FlagResolutionDetails[bool]:
        return self._held.evaluator.resolve_boolean_value(flag_key, default_value, evaluation_context)

    def resolve_string_details(
        self, flag_key: str, default_value: str, evaluation_context: EvaluationContext | None = None
    ) -> FlagResolutionDetails[str]:
        return self._held.evaluator.resolve_string_value(flag_key, default_value, evaluation_context)

    def resolve_integer_details(
        self, flag_key: str, default_value: int, evaluation_context: EvaluationContext | None = None
    ) -> FlagResolutionDetails[int]:
        return self._held.evaluator.resolve_integer_value(flag_key, default_value, evaluation_context)

    def resolve_float_details(
        self, flag_key: str, default_value: float, evaluation_context: EvaluationContext | None = None
    ) -> FlagResolutionDetails[float]:
        found = self._held.evaluator.resolve_float_value(flag_key, default_value, evaluation_context)
        if found.variant is not None and flag_key in self._held.booleans:
            # flagd-core makes 1.0 of true, as bool is an int in Python; the specification (1.3.4) does not
            raise TypeMismatchError("Expected type float but got bool")
        return found

    def resolve_object_details(
        self,
        flag_key: str,
        default_value: Sequence[FlagValueType] | Mapping[str, FlagValueType],
        evaluation_context: EvaluationContext | None = None,
    ) -> FlagResolutionDetails[Sequence[FlagValueType] | Mapping[str, FlagValueType]]:
        return self._held.evaluator.resolve_object_value(flag_key, default_value, evaluation_context)

    # The async variants are AbstractProvider's: they call the above, which never wait for anything.

    def get_metadata(self) -> Metadata:
        return self._metadata

    # -- life

    def attach(self, on_emit: Any) -> None:
        super().attach(on_emit)
        self._wanted = True
        self._awaiting_sdk = True

    def initialize(self, evaluation_context: EvaluationContext) -> None:
        """Read the flag set, from the snapshot when Redis cannot be reached, and start following it.

        Raises GeneralError when there is no set at all; the provider keeps trying and becomes READY by
        itself.
        """
        self._wanted = True
        self._health = Health()
        follower = self._start()
        follower.settled.wait()  # the first round over all candidates, each of them bounded by `timeout`
        fault = follower.last_fault
        if self.has_flags():
            self._health = Health(State.READY)
            return
        self._health = Health(State.ERROR, time.monotonic())
        raise GeneralError(fault.message if fault else "shut down while starting")

    def shutdown(self) -> None:
        """Stop following and forget the flags. Doing it twice is the same as once."""
        self._wanted = False
        follower, self._follower = self._follower, None
        if follower is not None:
            follower.stop(timeout=_PATIENCE)
            follower.settled.set()
        if self._unsaved:
            self._save_snapshot()
        self._held = Held()
        self._health = Health()

    def _start(self) -> Follower:
        previous = self._follower
        if previous is not None:
            previous.stop(timeout=_PATIENCE)
        self._follower = Follower(self._source, self._key, self._revision_key, self._resync, self)
        self._follower.start()
        return self._follower

    def _continue_in_child(self) -> None:
        """A forked child has the flags but not the thread."""
        inherited = self._follower
        self._follower = None
        if inherited is not None:
            inherited.abandon()
        if not self._wanted:
            return
        self._held.renew()
        if self._awaiting_sdk and not sdk.announced(self):
            self._health = Health()  # the thread that ran initialize is not here to announce anything
        self._awaiting_sdk = False
        self._start()

    # -- what the follower tells us

    def has_flags(self) -> bool:
        return self._held.document is not None

    def take(self, reading: Reading) -> Fault | None:
        if reading.document is None and not self.has_flags():
            self._load_snapshot()
        with _quiet:
            outcome = self._held.offer(reading, time.monotonic())
            if outcome.changed and self._may_emit() and self._health.state is not State.NEW:
                self._emit(ProviderEvent.PROVIDER_CONFIGURATION_CHANGED, flags_changed=list(outcome.changed))
        # Written at the next look, not now: the machine's other processes are waiting for their turn to see the
        # flip. Only the first set of all is written at once.
        if outcome.changed is not None:
            self._unsaved = True
        if self._unsaved and (outcome.changed is None or self._health.state is State.NEW):
            self._save_snapshot()
        return outcome.fault

    def report(self, fault: Fault | None) -> float:
        if fault is not None and not self.has_flags():
            self._load_snapshot()
        if fault is not None and self._unsaved:
            self._save_snapshot()  # there may be no next look
        with _quiet:
            if not self._may_emit():
                return _UNANNOUNCED
            now = time.monotonic()
            before = self._health
            self._health, event = health.step(before, fault, now, self._grace, self.has_flags())
            if event is ProviderEvent.PROVIDER_READY:
                self._emit(event)
            elif event is not None and fault is not None:
                log.warning("flags %s: %s", self._health.state.value, fault.message)
                code = fault.code if event is ProviderEvent.PROVIDER_ERROR else None
                self._emit(event, message=fault.message, error_code=code)
            if before.state is State.NEW and fault:
                return 0.0
            look = health.next_look(self._health, now, self._grace)
            return min(look, RECHECK) if self._unsaved else look

    def _may_emit(self) -> bool:
        """Not before the SDK has recorded how initialize ended, or it would overwrite what we say."""
        if self._awaiting_sdk and sdk.announced(self):
            self._awaiting_sdk = False
        return not self._awaiting_sdk

    def _emit(self, event: ProviderEvent, **details: Any) -> None:
        if self._wanted:
            self.emit(event, ProviderEventDetails(**details))

    def _load_snapshot(self) -> None:
        if self._snapshot is None:
            return
        try:
            document = snapshot.load(self._snapshot)
            if document is not None:
                with _quiet:
                    self._held.load(document)
                log.warning("flags: answering from the snapshot %s", self._snapshot)
        except (OSError, UnicodeDecodeError, NotAFlagSet) as error:
            log.warning("flags: the snapshot %s is of no use: %s", self._snapshot, error)

    def _save_snapshot(self) -> None:
        self._unsaved = False
        if self._snapshot is None or self._held.document is None:
            return
        try:
            snapshot.save(self._snapshot, self._held.document)
        except OSError as error:
            log.warning("flags: the snapshot %s could not be written: %s", self._snapshot, error)


def _trusting(ca: str | None) -> ssl.SSLContext:
    if not ca:
        raise ValueError(
            'configuration: "redis.tls" has no "ca"; give the certificate of an authority, in PEM'
        )
    return ssl.create_default_context(cadata=ca)


def _after_fork_in_child() -> None:
    global _quiet
    _quiet = threading.RLock()
    living = [provider for provider in _providers if provider._wanted]
    if living:
        sdk.mend_after_fork()
    for provider in living:
        provider._continue_in_child()


os.register_at_fork(
    before=lambda: _quiet.acquire(),
    after_in_parent=lambda: _quiet.release(),
    after_in_child=_after_fork_in_child,
)
