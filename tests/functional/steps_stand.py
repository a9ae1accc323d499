"""The progressive steps on a real Redis: what the controller and the machines would tell is written second by second,
at a time of the test's own."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
import redis
from saltern import stepping
from saltern.judge import Thresholds
from saltern.observed import WINDOWS
from saltern.provisioning import Alarm
from saltern.registry import JOURNAL, Registry
from saltern.samples import SAMPLES, Recorder
from saltern.stepping import Settings, Stepper
from saltern.steps import Plan
from saltern.steps import State as Steps

SECRET = "5a" * 32
PLAN = Plan(step_seconds=30, hold_seconds=60)


class Fleet:
    """A canary that runs r2 and two production servers that run r1, their traffic, and one stepper after the other."""

    def __init__(self, client: redis.Redis, patch: pytest.MonkeyPatch, plan: Plan = PLAN) -> None:
        self.client = client
        self.registry = Registry(client)
        self.settings = Settings(plan, Thresholds(), 30)
        self.time = 1_000_000.0
        self.fired: list[tuple[str, dict[str, Any]]] = []
        self.alarms: list[Alarm] = []
        patch.setattr(stepping, "_now", lambda client: self.time)
        self.registry.register("prod1", "10.0.0.1", 80, "r1", "prod")
        self.registry.register("prod2", "10.0.0.2", 80, "r1", "prod")
        self.registry.register("staging1", "10.0.0.3", 80, "r2", "canary")
        self.registry.set_share(30)
        self.stepper = self.restart()

    def restart(self) -> Stepper:
        """A stepper that knows nothing but what is in Redis."""
        self.stepper = Stepper(
            self.client, lambda: self.settings, recorder=Recorder(self.client, SECRET),
            fire=lambda tag, data: self.fired.append((tag, dict(data))), alarm=self.alarms.append,
        )  # fmt: skip
        return self.stepper

    @property
    def steps(self) -> Steps:
        return stepping.look(self.registry).steps

    @property
    def share(self) -> int:
        return self.registry.snapshot().split.share

    def give(self, kind: str, release: str = "", **named: Any) -> stepping.Moved:
        """What a person types."""
        return stepping.give(self.registry, self.settings.plan, kind, release, by="salt-run", **named)

    def pass_by(
        self, seconds: int, *, requests: int = 60, errors: int = 0, latency: float = 10.0, cpu: float = 20.0,
        healthy: bool = True, tick: bool = True,
    ) -> None:  # fmt: skip
        """Let seconds pass in which the canary is like this and production is well; the stepper looks at each."""
        for _ in range(seconds):
            self.time += 1
            self._tell(requests, errors, latency, cpu, healthy)
            if tick:
                self.stepper.tick()

    def _tell(self, requests: int, errors: int, latency: float, cpu: float, healthy: bool) -> None:
        state = self.registry.snapshot()
        share = state.split.share if healthy and "canary" not in state.latches else 0
        # As good as independent from second to second, and the same in every run.
        ms, wave = round(self.time * 1000), round(self.time) * 7919 % 101 / 20
        mine = {
            "requests": requests if share else 0,
            "errors": errors if share else 0,
            "response_ms": latency + wave,
        }
        theirs = {"requests": 0 if share == 100 else 100, "errors": 0, "response_ms": 10.0 + wave}
        servers = {
            id_: {"pool": i.pool, "release": i.release, **(mine if i.pool == "canary" else theirs)}
            for id_, i in state.instances.items()
        }
        pools = {"canary": mine, "prod": theirs}
        second = {"ts": self.time, "seconds": 1.0, "share": share, "pools": pools, "servers": servers}
        pipe = self.client.pipeline()
        pipe.xadd(WINDOWS, {"data": json.dumps(second)}, id=f"{ms}-0")
        for number, id_ in enumerate(state.instances):
            used = cpu if id_.startswith("staging") else 20.0
            told = {"seconds": 1.0, "cpu": [used + wave], "memory": [30.0]}
            fields = {"machine": id_, "age": "0", "data": json.dumps(told)}
            pipe.xadd(SAMPLES, fields, id=f"{ms}-{number}")
        pipe.execute()

    def journal(self, *kinds: str) -> list[Mapping[str, str]]:
        lines = [{**fields, "id": id_} for id_, fields in self.client.xrange(JOURNAL)]
        return [line for line in lines if not kinds or line["kind"] in kinds]

    def told(self) -> list[str]:
        return [tag.removeprefix("saltern/canary/") for tag, _ in self.fired]
