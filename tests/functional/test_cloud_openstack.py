"""What only OpenStack does: catalogs, two ways to log in, sizes that wait to be confirmed, machines that fail later."""

from __future__ import annotations

import pytest
from cloud_fakes import CUT_LATE
from cloud_stand import ENVIRONMENT, OPENSTACK, make_cloud, wanted
from fake_openstack import OpenStack
from saltern.clouds import dialects, settings
from saltern.clouds.cloud import Cloud
from saltern.errors import SalternError


def test_a_users_name_and_password_serve_where_a_project_is_named(bare):
    with OpenStack().serving() as fake:
        given = {**OPENSTACK, "options": {"project": "saltern", "network": "net-1"}}
        assert make_cloud(given, bare, fake.port).nodes() == []


def test_keystone_may_be_named_with_its_version_and_below_a_path(bare):
    class Below(OpenStack):
        def answer(self, method, target, headers, body):
            return super().answer(method, target.removeprefix("/identity"), headers, body)

    with Below().serving() as fake:
        root = f"http://127.0.0.1:{fake.port}/identity/v3"
        cloud = make_cloud({**OPENSTACK, "api_root": root}, bare, 1)
        assert cloud.create(wanted(cloud)).state == "running"


def test_without_an_address_of_keystone_the_line_says_where_it_belongs(bare):
    spoken = dialects.of("openstack")
    given = {**OPENSTACK, "state_dir": str(bare.state_dir)}
    read = settings.read("openstack", given, spoken.secrets, spoken.options, ENVIRONMENT)
    with pytest.raises(
        SalternError, match=r"^provider openstack: api_root is missing; .* pillar/clouds\.sls, [^\n]*$"
    ):
        Cloud(read, spoken)


def test_a_region_that_the_catalog_has_not_is_named_with_those_it_has(bare):
    with OpenStack().serving() as fake:
        cloud = make_cloud({**OPENSTACK, "location": "moon"}, bare, fake.port)
        with pytest.raises(SalternError, match=r"location 'moon'.*regions RegionOne, RegionTwo$"):
            cloud.nodes()
        assert list(make_cloud(OPENSTACK, bare, fake.port).locations()) == ["RegionOne", "RegionTwo"]


def test_what_has_to_be_chosen_is_said_in_novas_own_words(bare):
    with OpenStack().serving() as fake:
        cloud = make_cloud({**OPENSTACK, "options": {"network": "net-9"}}, bare, fake.port)
        with pytest.raises(SalternError, match="Network net-9 could not be found"):
            cloud.create(wanted(cloud))
        assert fake.names() == []


def test_a_machine_that_nova_accepts_and_cannot_place_is_removed_and_the_reason_said(bare):
    words = "No valid host was found. There are not enough hosts available."
    with OpenStack(faulty={"prod6": words}).serving() as fake:
        cloud = make_cloud(OPENSTACK, bare, fake.port)
        with pytest.raises(SalternError, match=f"^prod6: rented says it is failed: {words}$"):
            cloud.create(wanted(cloud))
        assert fake.names() == []
    assert bare.inventory() == {}


def test_a_fixed_private_address_is_preferred_to_a_floating_one_and_to_ipv6(bare):
    with OpenStack().serving() as fake:
        cloud = make_cloud(OPENSTACK, bare, fake.port)
        node = cloud.create(wanted(cloud))
    assert (node.private_ips, node.public_ips) == (("10.30.0.2",), ("10.200.0.2",))
    assert node.address == "10.30.0.2"


def test_all_pages_of_servers_are_listed(bare):
    with OpenStack(page=2, looks=1).serving() as fake:
        cloud = make_cloud(OPENSTACK, bare, fake.port)
        for number in range(1, 6):
            cloud.create(wanted(cloud, f"prod{number}"))
        assert len(cloud.nodes()) == 5


@pytest.mark.parametrize("action", ["stop", "start", "resize"])
def test_what_nova_did_without_saying_so_is_done(bare, action):
    numbers = {"stop": (1,), "start": (2,), "resize": (2, 3)}[action]

    def plan(subject: str, kind: str, number: int) -> str | None:
        return CUT_LATE if kind == "action" and number in numbers else None

    with OpenStack(plan=plan, looks=1).serving() as fake:
        cloud = make_cloud(OPENSTACK, bare, fake.port)
        cloud.create(wanted(cloud))
        if action == "resize":
            cloud.resize("prod6", cloud.settings.size("medium"))
            assert cloud.find("prod6").size == "3"
        else:
            cloud.stop("prod6")
            if action == "start":
                cloud.start("prod6")
        assert cloud.find("prod6").state == ("stopped" if action == "stop" else "running")
        assert fake.failed


def test_a_size_that_a_killed_command_left_to_be_confirmed_is_confirmed_by_the_next(bare):
    with OpenStack(looks=1).serving() as fake:
        cloud = make_cloud(OPENSTACK, bare, fake.port)
        cloud.create(wanted(cloud))
        (server,) = fake.servers.values()
        server.update(status="VERIFY_RESIZE", before="SHUTOFF", size="3")
        assert cloud.find("prod6").state == "resized"
        cloud.start("prod6")
        assert (cloud.find("prod6").state, server["status"]) == ("running", "ACTIVE")
