"""How long a cloud is asked again, and what its errors mean: decided without a cloud."""

from __future__ import annotations

import itertools

import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st
from libcloud.common.exceptions import BaseHTTPError, exception_from_message
from libcloud.common.types import InvalidCredsError, LibcloudError, MalformedResponseError
from saltern.clouds import faults
from saltern.clouds.faults import BUSY, GONE, LIMIT, LOST, QUOTA, REFUSED, TOKEN, CloudError, Fault
from saltern.clouds.patience import Asking, Patience, draw, pause

ERRORS = [
    # what libcloud raises, which kind it is
    (InvalidCredsError("Unable to authenticate you"), TOKEN),
    (BaseHTTPError(401, "Invalid client secret"), TOKEN),
    (BaseHTTPError(403, "[AuthorizationFailed] The client does not have authorization"), TOKEN),
    (BaseHTTPError(403, "UnauthorizedOperation: You are not authorized"), TOKEN),
    (exception_from_message(429, "Too many", {"retry-after": "7"}), LIMIT),
    (BaseHTTPError(503, "RequestLimitExceeded: Request limit exceeded."), LIMIT),
    (BaseHTTPError(422, "creating this/these droplet(s) will exceed your droplet limit (code: 422)"), QUOTA),
    (BaseHTTPError(400, "InstanceLimitExceeded: You have requested more"), QUOTA),
    (BaseHTTPError(409, "[OperationNotAllowed] results in exceeding approved Total Regional Cores quota."), QUOTA),
    (BaseHTTPError(422, "Droplet already has a pending event. (code: 422)"), BUSY),
    (BaseHTTPError(400, "IncorrectInstanceState: The instance is not in a state"), BUSY),
    (BaseHTTPError(400, "[NicInUse] Network Interface is used by existing resource"), BUSY),
    (BaseHTTPError(404, "not found"), GONE),
    (BaseHTTPError(400, "InvalidInstanceID.NotFound: The instance ID does not exist"), GONE),
    (BaseHTTPError(500, "oops"), LOST),
    (BaseHTTPError(502, "Bad gateway"), LOST),
    (MalformedResponseError("Failed to parse JSON", body="<html>"), LOST),
    (requests.exceptions.ReadTimeout("timed out"), LOST),
    (requests.exceptions.ConnectionError("reset"), LOST),
    (TimeoutError(), LOST),
    (BaseHTTPError(422, "You specified an invalid size for Droplet creation. (code: 422)"), REFUSED),
    (BaseHTTPError(400, "[InvalidParameter] not valid"), REFUSED),
    (LibcloudError("something libcloud itself refuses"), REFUSED),
]  # fmt: skip


@pytest.mark.parametrize(("error", "kind"), ERRORS, ids=[f"{kind}-{n}" for n, (_, kind) in enumerate(ERRORS)])
def test_an_error_is_of_one_kind_and_one_line(error, kind):
    fault = faults.read(error)
    assert fault.kind == kind
    assert fault.words
    assert "\n" not in fault.words


def test_what_no_cloud_can_have_caused_is_a_defect():
    assert faults.read(KeyError("name")) is None
    with pytest.raises(KeyError):
        Asking(Patience(), Clock(), "").ask("list", lambda: {}["name"])


def test_a_page_of_html_is_one_short_line():
    page = "<html>\n<body><h1>Bad gateway</h1>\n" + "nginx " * 200 + "</body></html>"
    words = faults.read(BaseHTTPError(502, page)).words
    assert words.startswith("Bad gateway nginx")
    assert len(words) <= 300


kinds = st.sampled_from([TOKEN, LIMIT, QUOTA, BUSY, LOST, GONE, REFUSED])
FORLORN = (TOKEN, GONE, REFUSED)


@given(
    kind=kinds,
    tries=st.integers(1, 10**6),
    elapsed=st.floats(0, 10**4),
    chance=st.floats(0, 1, exclude_max=True),
    after=st.floats(0, 10**4),
)
def test_a_pause_is_long_enough_for_the_cloud_and_ends_before_the_patience_does(
    kind, tries, elapsed, chance, after
):
    patience = Patience()
    wait = pause(patience, Fault(kind, "", after), tries, elapsed, chance)
    whole = patience.quota if kind == QUOTA else patience.whole
    if kind in FORLORN:
        assert wait is None
    elif wait is not None:
        assert wait >= after
        assert min(patience.base, patience.most) / 2 <= wait <= max(patience.most, after)
        assert elapsed + wait <= whole
    else:
        assert elapsed + max(patience.most, after) > whole


@given(tries=st.integers(1, 40), chance=st.floats(0, 1, exclude_max=True))
def test_waits_double_until_the_longest(tries, chance):
    patience = Patience(whole=10**6)
    wait, following = (pause(patience, Fault(LOST, ""), each, 0, chance) for each in (tries, tries + 1))
    assert following >= wait
    assert following == pytest.approx(min(2 * wait, patience.most * (0.5 + chance / 2)))


def test_chance_is_the_same_for_the_same_seed_and_spread_evenly():
    drawn = [draw("a", number) for number in range(1000)]
    assert drawn == [draw("a", number) for number in range(1000)]
    assert drawn != [draw("b", number) for number in range(1000)]
    assert all(0 <= each < 1 for each in drawn)
    assert 0.45 < sum(drawn) / len(drawn) < 0.55


class Clock:
    """Seconds pass as they are slept."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def now(self) -> float:
        return self.seconds

    def sleep(self, seconds: float) -> None:
        self.seconds += seconds


def failing(errors: list[Exception]):
    """A request that fails so often, then answers."""

    def request() -> str:
        if errors:
            raise errors.pop(0)
        return "answer"

    return request


def test_it_asks_again_until_there_is_an_answer():
    asking = Asking(Patience(), Clock(), "seed")
    errors = [BaseHTTPError(500, "oops"), BaseHTTPError(429, "slow down"), TimeoutError("late")]
    assert asking.ask("list", failing(errors)) == "answer"
    assert asking.calls == 4


def test_what_an_unanswered_request_came_to_is_an_answer_too():
    asking = Asking(Patience(), Clock(), "seed")
    assert asking.ask("create", failing([TimeoutError()]), lambda: "there it is") == "there it is"
    assert asking.calls == 1


def test_it_gives_up_with_the_clouds_words_and_how_often_it_asked():
    clock = Clock()
    with pytest.raises(CloudError, match=r"list: oops \(\d+ times\)") as failure:
        Asking(Patience(whole=60), clock, "seed").ask("list", failing([BaseHTTPError(500, "oops")] * 99))
    assert failure.value.fault.kind == LOST
    assert 30 <= clock.seconds <= 60


def test_what_will_never_be_granted_is_asked_for_once():
    asking = Asking(Patience(), Clock(), "seed")
    with pytest.raises(CloudError, match=r"create: no such size$"):
        asking.ask("create", failing([BaseHTTPError(422, "no such size")]))
    assert asking.calls == 1


def test_it_looks_less_and_less_often_and_not_for_ever():
    clock, seen = Clock(), []
    asking = Asking(Patience(), clock, "seed")
    with pytest.raises(CloudError, match="prod6 to run: not within 60 s"):
        asking.until(lambda: seen.append(clock.seconds), 60, "prod6 to run")
    gaps = [after - before for before, after in itertools.pairwise(seen)]
    assert gaps == sorted(gaps)
    assert seen[0] == 1
    assert gaps[-1] == Patience().poll
