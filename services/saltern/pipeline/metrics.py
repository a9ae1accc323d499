"""What the pipeline tells Prometheus of its builds, in its text format 0.0.4. Pure."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable

from saltern import admin_metrics
from saltern.pipeline.records import FINISHED, UNFINISHED, Build

STATES = (*UNFINISHED, *FINISHED)


def metrics(builds: Iterable[Build], now: float) -> str:
    """The builds that are kept, as metrics. None of these is a count since ever: old builds are forgotten.

    :param builds: oldest first
    :param now: unix seconds
    """
    known = list(builds)
    states = Counter(build.state for build in known)
    waiting = [build for build in known if build.state == "queued"]
    branches = {build.name: build for build in known if build.finished and build.state != "cancelled"}
    seconds: dict[str, float] = defaultdict(float)
    times: Counter[str] = Counter()
    for build in known:
        for stage in build.stages:
            seconds[stage["name"]] += stage["seconds"]
            times[stage["name"]] += 1
    metric = admin_metrics.metric
    return admin_metrics.text([
        *metric("saltern_builds", "gauge", "Builds that are kept, by how they are.",
                [({"state": state}, states[state]) for state in STATES]),
        *metric("saltern_build_waiting_seconds", "gauge", "How long the first of the queue has waited.",
                [({}, max((now - build.created for build in waiting), default=0.0))]),
        *metric("saltern_build_passed", "gauge", "1 if the last build of the branch or tag passed.",
                [({"branch": name}, int(build.state == "passed")) for name, build in sorted(branches.items())]),
        *metric("saltern_build_took_seconds", "gauge", "How long the last build of the branch or tag took.",
                [({"branch": name}, build.ended - build.began) for name, build in sorted(branches.items())]),
        *metric("saltern_build_coverage_percent", "gauge", "Coverage of the last build of the branch or tag.",
                [({"branch": name}, build.coverage) for name, build in sorted(branches.items())
                 if build.coverage is not None]),
        *metric("saltern_build_tests", "gauge", "Tests of the last build of the branch or tag, by how they ended.",
                [({"branch": name, "result": result}, number) for name, build in sorted(branches.items())
                 for result, number in sorted(build.tests.items())]),
        *metric("saltern_build_stage_seconds", "gauge", "Time the kept builds spent in a stage.",
                [({"stage": stage}, total) for stage, total in sorted(seconds.items())]),
        *metric("saltern_build_stages", "gauge", "How often the kept builds went through a stage.",
                [({"stage": stage}, times[stage]) for stage in sorted(times)]),
    ])  # fmt: skip
