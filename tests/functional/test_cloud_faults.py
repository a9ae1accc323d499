"""Rented machines while their cloud fails, refuses or falls silent, and while whoever makes them is killed."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from cloud_fakes import CUT, CUT_LATE, LATE, LIMITED, Answer, Azure, DigitalOcean, Fake, QuickClock, seeded
from cloud_moto import error
from cloud_stand import (
    AZURE,
    CLOUDS,
    DIGITALOCEAN,
    EC2,
    ENVIRONMENT,
    GCE,
    LINODE,
    OPENSTACK,
    VULTR,
    make_cloud,
    wanted,
)
from cloud_storm import storm
from fake_gce import Gce
from fake_linode import Linode
from fake_openstack import OpenStack
from fake_vultr import Vultr
from host import until
from saltern.clouds import ledger
from saltern.clouds.cloud import Cloud
from saltern.errors import SalternError

# moto knows no limits, no tokens and no waiting.
FAKED = {name: about for name, about in CLOUDS.items() if name != "ec2"}
# Where asking twice makes two machines.
UNREPEATABLE = {name: CLOUDS[name] for name in ("digitalocean", "openstack", "vultr")}
FIFTY = [f"prod{number}" for number in range(1, 51)]


def check(outcome, fleet) -> None:
    """Every machine is up and known, or gone without a trace."""
    assert outcome.orphans == []
    assert outcome.noted == []
    assert {name: about["address"] for name, about in fleet.inventory().items()} == outcome.up
    assert sorted([*outcome.up, *outcome.failed]) == sorted(FIFTY)
    assert len(set(outcome.up.values())) == len(outcome.up)


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize(("kind", "given"), CLOUDS.values(), ids=CLOUDS)
def test_fifty_machines_made_at_once_are_up_or_gone_though_a_fifth_of_all_requests_fails(
    bare, kind, given, seed
):
    with kind(plan=seeded(seed, 20)).serving() as fake:
        outcome = storm(fake, given, bare, FIFTY)
    check(outcome, bare)
    assert sum(outcome.wrong.values()) >= 0.1 * sum(outcome.requests.values())
    assert len(outcome.up) >= 45
    if kind is Azure:
        assert sorted(fake.nics) == sorted(f"{name}-nic" for name in outcome.up)
        assert sorted(fake.disks) == sorted(outcome.up)
    if kind is Gce:
        assert sorted(fake.disks) == sorted(f"test-{name}" for name in outcome.up)


FULL = re.compile("[Ee]xceed|Limit reached|reached the maximum")


@pytest.mark.parametrize(("kind", "given"), FAKED.values(), ids=FAKED)
def test_where_there_is_room_for_thirty_of_fifty_the_others_leave_nothing(bare, kind, given):
    with kind(limit=30, plan=seeded(3, 10)).serving() as fake:
        outcome = storm(fake, given, bare, FIFTY)
    check(outcome, bare)
    assert len(outcome.up) <= 30
    assert len(outcome.failed) >= 20
    assert all("\n" not in why for why in outcome.failed.values())
    assert sum(bool(FULL.search(why)) for why in outcome.failed.values()) >= 15


@pytest.mark.parametrize("wrong", [LATE, CUT_LATE])
@pytest.mark.parametrize(("kind", "given"), UNREPEATABLE.values(), ids=UNREPEATABLE)
def test_a_request_that_is_obeyed_and_never_answered_makes_one_machine(bare, kind, given, wrong):
    def plan(subject: str, kind: str, number: int) -> str | None:
        return wrong if kind == "create" else None

    with kind(plan=plan).serving() as fake:
        cloud = make_cloud(given, bare, fake.port)
        assert cloud.create(wanted(cloud)).state == "running"
        assert fake.names() == ["prod6"]
        assert fake.requests["create"] == 1


class Tardy(DigitalOcean):
    """The first request for a machine is cut off, and obeyed when the second one's machine has been looked at."""

    def handle(self, method, path, query, headers, body):
        answer = super().handle(method, path, query, headers, body)
        if path == "/v2/droplets" and method == "POST" and self.requests["create"] == 2:
            self.late = dict(self.droplets[max(self.droplets)])
        elif re.fullmatch(r"/v2/droplets/\d+", path) and getattr(self, "late", None):
            number = next(self._ids)
            self.droplets[number] = {**self.late, "id": number}
            self.late = None
        return answer


def test_a_request_that_is_obeyed_when_another_was_made_long_since_leaves_one_machine(bare):
    def plan(subject: str, kind: str, number: int) -> str | None:
        return CUT if kind == "create" and number == 1 else None

    with Tardy(plan=plan).serving() as fake:
        cloud = make_cloud(DIGITALOCEAN, bare, fake.port)
        node = cloud.create(wanted(cloud))
        assert fake.requests["create"] == 2 and fake.late is None
        assert [str(number) for number in fake.droplets] == [node.id]
        assert bare.inventory()["prod6"]["address"] == node.address


def test_what_stands_beside_a_machine_of_the_same_order_is_swept_and_the_machine_stays(bare):
    with DigitalOcean().serving() as fake:
        cloud = make_cloud(DIGITALOCEAN, bare, fake.port)
        cloud.create(wanted(cloud, "prod1"))
        node = cloud.create(wanted(cloud, "prod6"))
        fake.droplets[2001] = {**fake.droplets[int(node.id)], "id": 2001}
        assert cloud.sweep() == ["prod6"]
        assert fake.names() == ["prod1", "prod6"] and int(node.id) in fake.droplets
        assert cloud.sweep() == []
        # With neither at the address it had, nobody can say which one it is.
        fake.droplets[2001] = {**fake.droplets[int(node.id)], "id": 2001}
        fake.droplets[2002] = {**fake.droplets.pop(int(node.id)), "id": 2002}
        assert cloud.sweep() == []
        assert fake.names() == ["prod1", "prod6", "prod6"]


def test_a_rate_limit_is_waited_for_as_long_as_the_cloud_asks(bare):
    def plan(subject: str, kind: str, number: int) -> str | None:
        return LIMITED if kind == "create" and number <= 3 else None

    clock = QuickClock()
    with DigitalOcean(plan=plan).serving() as fake:
        cloud = make_cloud(DIGITALOCEAN, bare, fake.port, clock)
        cloud.create(wanted(cloud))
        assert fake.requests["create"] == 4
    assert clock.slept >= 3 * 2


def test_what_cannot_be_removed_now_stays_written_down_and_is_swept_later(bare):
    silent = True

    def plan(subject: str, kind: str, number: int) -> str | None:
        # Made, but never seen to run, and then not a word.
        return CUT if silent and kind in ("look", "destroy") else None

    with DigitalOcean(plan=plan).serving() as fake:
        cloud = make_cloud(DIGITALOCEAN, bare, fake.port)
        with pytest.raises(
            SalternError, match=r"could not be removed.*salt-cloud -f sweep rented"
        ) as failure:
            cloud.create(wanted(cloud))
        assert "\n" not in str(failure.value)
        assert fake.names() == ["prod6"]
        assert cloud.made() == {}
        silent = False
        assert make_cloud(DIGITALOCEAN, bare, fake.port).sweep() == ["prod6"]
        assert fake.names() == []
    assert ledger.entries(bare) == []


def test_nothing_is_swept_that_somebody_is_at_work_on_or_that_is_whole(bare):
    with DigitalOcean().serving() as fake:
        cloud = make_cloud(DIGITALOCEAN, bare, fake.port)
        cloud.create(wanted(cloud, "prod1"))
        ledger.begin(bare, "prod2", "rented", "0123456789abcdef")
        with bare.locked("machine-prod2"):
            assert cloud.sweep() == []
        assert cloud.sweep() == ["prod2"]
        assert fake.names() == ["prod1"]


MAKER = """
import sys
from cloud_stand import DIGITALOCEAN, make_cloud
from saltern.clouds.cloud import Wanted
from saltern.clouds.patience import SystemClock
from saltern.fleet import Fleet
cloud = make_cloud(DIGITALOCEAN, Fleet.load(sys.argv[1]), int(sys.argv[2]), SystemClock())
cloud.create(Wanted("prod6", cloud.settings.size("small"), "debian-12-x64", "fra1", ""))
"""


def test_a_maker_that_is_killed_in_the_middle_leaves_what_the_next_command_finds(bare):
    with DigitalOcean(looks=10**9).serving() as fake:
        command = [sys.executable, "-c", MAKER, str(bare.state_dir), str(fake.port)]
        path = os.pathsep.join(each for each in sys.path if each)
        maker = subprocess.Popen(command, env={**os.environ, **ENVIRONMENT, "PYTHONPATH": path})
        try:
            until(lambda: fake.droplets or maker.poll() is not None, "a droplet")
            assert maker.poll() is None
        finally:
            maker.send_signal(signal.SIGKILL)
            maker.wait()
        assert [entry.name for entry in ledger.entries(bare)] == ["prod6"]
        assert bare.inventory() == {}
        fake.looks = 1
        cloud = make_cloud(DIGITALOCEAN, bare, fake.port)
        assert cloud.made() == {}
        node = cloud.create(wanted(cloud))
        assert [(each["name"], str(each["id"])) for each in fake.droplets.values()] == [("prod6", node.id)]


def test_an_interrupted_maker_removes_what_it_began(bare, monkeypatch: pytest.MonkeyPatch):
    with DigitalOcean().serving() as fake:
        cloud = make_cloud(DIGITALOCEAN, bare, fake.port)

        def interrupt(seconds: float) -> None:
            monkeypatch.undo()
            raise KeyboardInterrupt

        monkeypatch.setattr(cloud.asking.clock, "sleep", interrupt)
        with pytest.raises(KeyboardInterrupt):
            cloud.create(wanted(cloud))
        assert fake.names() == []
    assert ledger.entries(bare) == []


def test_another_fleets_machines_are_none_of_ours(make_fleet):
    ours, theirs = make_fleet(machines={}, name="ours"), make_fleet(machines={}, name="theirs")
    with DigitalOcean().serving() as fake:
        first, second = (make_cloud(DIGITALOCEAN, fleet, fake.port) for fleet in (ours, theirs))
        first.create(wanted(first))
        second.create(wanted(second))
        assert list(first.made()) == ["prod6"]
        first.destroy("prod6")
        assert fake.names() == ["prod6"]
        assert list(second.made()) == ["prod6"]


def test_two_hundred_and_more_machines_are_all_listed(bare):
    with DigitalOcean(looks=1).serving() as fake:
        cloud = make_cloud(DIGITALOCEAN, bare, fake.port)
        cloud.create(wanted(cloud))
        first = next(iter(fake.droplets.values()))
        for number in range(2, 402):
            fake.droplets[number] = {**first, "id": number, "name": f"prod{number}"}
        assert len(cloud.nodes()) == 401


FAKES = {given["libcloud_provider"]: kind for kind, given in CLOUDS.values()}
BAD = [
    # what is wrong, the cloud, what is changed about the request, what the one line says
    ("an unknown size", DIGITALOCEAN, {"size": "unknown"}, "size s-99.*invalid size for Droplet creation"),
    ("an unknown size", AZURE, {"size": "unknown"}, "Standard_Z9 provided for the VM size is not valid"),
    ("an unknown size", EC2, {"size": "unknown"}, r"t9\.huge"),
    ("a region without the image", DIGITALOCEAN, {"image": "debian-13-x64"}, "not available in the selected region"),
    ("an image there is not", AZURE, {"image": "Debian:debian-99:99:latest"}, "platform image .* is not available"),
    ("an image there is not", EC2, {"image": "ami-nothing"}, "ami-nothing"),
    ("an image of another form", AZURE, {"image": "debian"}, "publisher:offer:sku:version"),
    ("a location there is not", DIGITALOCEAN, {"location": "moon1"}, "invalid region"),
    ("a location there is not", AZURE, {"location": "moon"}, "moon is not available"),
    ("too much user data", DIGITALOCEAN, {"user_data": "x" * 65_537}, "65537 bytes .* takes 65536"),
    ("too much user data", EC2, {"user_data": "x" * 16_385}, "16385 bytes .* takes 16384"),
    ("an unknown size", OPENSTACK, {"size": "unknown"}, "Flavor f-99 could not be found"),
    ("an image there is not", OPENSTACK, {"image": "debian"}, "Can not find requested image debian"),
    ("a location there is not", OPENSTACK, {"location": "moon"}, "provider rented is the region RegionOne"),
    ("an unknown size", LINODE, {"size": "unknown"}, "type: A valid plan type by that ID was not found"),
    ("an image there is not", LINODE, {"image": "linode/debian99"}, "image: image is not valid"),
    ("a location there is not", LINODE, {"location": "moon"}, "region: region is not valid"),
    ("too much user data", LINODE, {"user_data": "x" * 65_536}, "65536 bytes .* takes 65535"),
    ("an unknown size", VULTR, {"size": "unknown"}, "Invalid plan"),
    ("an image there is not", VULTR, {"image": "99"}, "Invalid os_id"),
    ("a location there is not", VULTR, {"location": "moon"}, "Invalid region"),
    ("an unknown size", GCE, {"size": "unknown"}, "resource.machineType.*'e9-huge'"),
    ("an image there is not", GCE, {"image": "debian-cloud/debian-99"}, "family/debian-99' was not found"),
    ("an image of another form", GCE, {"image": "debian"}, "PROJECT/FAMILY, such as debian-cloud/debian-12"),
    ("a location there is not", GCE, {"location": "moon"}, "provider rented is the zone europe-west3-a"),
    ("too much user data", OPENSTACK, {"user_data": "x" * 49_150}, "49150 bytes .* takes 49149"),
]  # fmt: skip


@pytest.mark.parametrize(("what", "given", "changes", "words"), BAD)
def test_a_machine_that_cannot_be_is_refused_in_one_line_and_leaves_nothing(
    bare, what, given, changes, words
):
    with FAKES[given["libcloud_provider"]]().serving() as fake:
        _refused(make_cloud(given, bare, fake.port), changes, words)
        assert fake.names() == []
        assert getattr(fake, "nics", {}) == {}


def _refused(cloud: Cloud, changes: dict[str, str], words: str) -> None:
    with pytest.raises(SalternError, match=words) as failure:
        cloud.create(wanted(cloud, **changes))
    assert "\n" not in str(failure.value)
    assert cloud.nodes() == []
    assert ledger.entries(cloud.fleet) == []
    assert cloud.fleet.inventory() == {}


@pytest.mark.parametrize(
    ("kind", "given", "secret", "words"),
    [
        (DigitalOcean, DIGITALOCEAN, "DO_TOKEN", "Unable to authenticate you"),
        (Azure, AZURE, "AZ_SECRET", "Invalid client secret"),
        (OpenStack, OPENSTACK, "OS_SECRET", "Invalid credentials"),
        (Linode, LINODE, "LINODE_KEY", "Invalid Token"),
        (Vultr, VULTR, "VULTR_KEY", "Invalid API token"),
    ],
)
def test_a_wrong_token_is_said_at_once_and_not_tried_again(bare, kind, given, secret, words):
    with kind().serving() as fake:
        with pytest.raises(SalternError, match=words) as failure:
            make_cloud(given, bare, fake.port, environment={**ENVIRONMENT, secret: "wrong"}).nodes()
        assert sum(fake.requests.values()) == 1
    assert "wrong" not in str(failure.value)
    assert "\n" not in str(failure.value)


class Ec2Says(Fake):
    """EC2, answering every request with one of the errors of its API reference."""

    def __init__(self, said: Answer) -> None:
        super().__init__()
        self.said = said

    def subject(self, method: str, target: str, body: bytes) -> tuple[str, str]:
        return "", "any"

    def handle(self, *request: object) -> Answer:
        return self.said


@pytest.mark.parametrize(
    ("status", "code", "words", "often"),
    [
        (401, "AuthFailure", "AWS was not able to validate the provided access credentials", False),
        (403, "UnauthorizedOperation", "You are not authorized to perform this operation.", False),
        (400, "InvalidParameterValue", "Invalid value 't9.huge' for InstanceType.", False),
        (503, "RequestLimitExceeded", "Request limit exceeded.", True),
        (
            400,
            "InstanceLimitExceeded",
            "You have requested more instances than your current limit allows.",
            True,
        ),
        (500, "InsufficientInstanceCapacity", "We currently do not have sufficient capacity.", True),
        (500, "InternalError", "An internal error has occurred", True),
    ],
)
def test_what_ec2_says_is_said_in_one_line_and_asked_again_only_where_that_may_help(
    bare, status, code, words, often
):
    with Ec2Says(error(status, code, words)).serving() as fake:
        with pytest.raises(SalternError, match=f"rented: list machines: .*{re.escape(words)}") as failure:
            make_cloud(EC2, bare, fake.port).nodes()
        assert (fake.requests["any"] > 1) is often
    assert "\n" not in str(failure.value)


def test_a_cloud_that_does_not_answer_at_all_is_said_after_the_patience_is_over(bare):
    with DigitalOcean(plan=lambda *about: CUT).serving() as fake:
        clock = QuickClock()
        with pytest.raises(SalternError, match=r"rented: list machines: .*times"):
            make_cloud(DIGITALOCEAN, bare, fake.port, clock).nodes()
    assert 200 < clock.slept <= 300


@pytest.mark.parametrize(("kind", "given"), FAKED.values(), ids=FAKED)
def test_a_machine_whose_size_cannot_be_changed_runs_again_as_it_was(bare, kind, given):
    with kind().serving() as fake:
        cloud = make_cloud(given, bare, fake.port)
        cloud.create(wanted(cloud))
        before = bare.inventory()
        with pytest.raises(SalternError, match=f"prod6: rented: size {given['sizes']['unknown']['id']}"):
            cloud.resize("prod6", cloud.settings.size("unknown"))
        assert cloud.find("prod6").state == "running"
        assert cloud.find("prod6").size == given["sizes"]["small"]["id"]
        assert bare.inventory() == before


@pytest.mark.parametrize(("kind", "given"), FAKED.values(), ids=FAKED)
def test_a_machine_takes_its_user_data_and_marks_with_it(bare, kind, given):
    with kind().serving() as fake:
        cloud = make_cloud(given, bare, fake.port)
        node = cloud.create(wanted(cloud, user_data="#cloud-config\n{}\n"))
        assert fake.user_data() == ["#cloud-config\n{}\n"]
    assert node.labels == {
        "saltern-fleet": "test", "saltern-role": "prod", "saltern-order": ledger.entry(bare, "prod6").token,
    }  # fmt: skip


def test_an_api_may_lie_below_a_path(bare):
    class Below(DigitalOcean):
        def answer(self, method, target, headers, body):
            assert target.startswith("/cloud/v2/"), target
            return super().answer(method, target.removeprefix("/cloud"), headers, body)

    with Below().serving() as fake:
        root = f"http://127.0.0.1:{fake.port}/cloud"
        cloud = make_cloud({**DIGITALOCEAN, "api_root": root}, bare, 1)
        assert cloud.create(wanted(cloud)).state == "running"


def test_secrets_are_written_nowhere(bare):
    with DigitalOcean().serving() as fake:
        cloud = make_cloud(DIGITALOCEAN, bare, fake.port)
        cloud.create(wanted(cloud, user_data="PRIVATE KEY"))
        assert "a token" not in repr(cloud.settings)
    for path in Path(bare.state_dir).rglob("*"):
        if path.is_file() and path != bare.secrets_file:
            text = path.read_text(errors="replace")
            assert "a token" not in text, path
            assert "PRIVATE KEY" not in text, path
