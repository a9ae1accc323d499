from __future__ import annotations

import pytest
from traffic_stand import Stand

pytestmark = pytest.mark.functional


def test_the_share_of_the_canary_is_what_the_registry_says(stand: Stand) -> None:
    for id_ in ("prod1", "prod2", "staging1"):
        stand.add(id_)
    stand.await_share(30)
    stand.await_servers({"prod1": "ready/up", "prod2": "ready/up", "staging1": "ready/up"})
    load = stand.load(3000)
    assert not load.failures
    assert load.count(status=200) == 3000
    print(load.answers, stand.status())
    assert 800 < load.count(pool="canary") < 1000
