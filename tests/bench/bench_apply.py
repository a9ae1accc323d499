"""How long `salt '*' state.apply` takes on eleven machines when there is nothing to do."""

from __future__ import annotations

import time
from typing import Any

from benching import Figure, main, median, report
from fleet_bench import fleet


def bench(runs: int) -> dict[str, Any]:
    """Apply the whole tree again and again to a fleet that is as it should be."""
    with fleet() as live:
        live.answer("*", "state.apply", "queue=True")
        seconds, changed = [], []
        for _ in range(runs):
            began = time.monotonic()
            answer = live.answer("*", "state.apply", "queue=True")
            seconds.append(time.monotonic() - began)
            if refused := {id_: said for id_, said in answer.items() if not isinstance(said, dict)}:
                raise RuntimeError(f"state.apply: {refused}")
            states = [state for machine in answer.values() for state in machine.values()]
            changed.append(float(sum(bool(s["changes"]) or s["result"] is not True for s in states)))
        pings = []
        for _ in range(runs):
            began = time.monotonic()
            live.answer("*", "test.ping")
            pings.append(time.monotonic() - began)
    return report("apply", [
        Figure("apply_nothing_to_do", median(seconds), "s", "<= 15", runs=seconds),
        Figure("apply_states_changed", max(changed), "states", "<= 0", runs=changed),
        Figure("ping", median(pings), "s", runs=pings),
    ])  # fmt: skip


if __name__ == "__main__":
    main(bench, runs=(int, 5, "how often to apply"))
