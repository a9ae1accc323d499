"""What only Google does: tokens for a service account, operations that fail later, names that are a zone's."""

from __future__ import annotations

import pytest
from cloud_fakes import CUT_LATE, LATE
from cloud_stand import ENVIRONMENT, GCE, make_cloud, wanted
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from fake_gce import Gce, key_file
from saltern.clouds import gce, ledger
from saltern.errors import SalternError


def test_another_accounts_key_is_refused_at_once_and_not_tried_again(bare):
    others = key_file(generate_private_key(public_exponent=65537, key_size=2048))
    with Gce().serving() as fake:
        cloud = make_cloud(GCE, bare, fake.port, environment={**ENVIRONMENT, "GCE_KEY": others})
        with pytest.raises(SalternError, match="invalid_grant: Invalid JWT Signature") as said:
            cloud.nodes()
        assert sum(fake.requests.values()) == 1
    assert "PRIVATE KEY" not in str(said.value)


@pytest.mark.parametrize(
    ("given", "lacks"),
    [("/root/ours.json", "JSON"), ("[]", "JSON"), ('{"client_email": "a@b"}', "private_key")],
)
def test_what_is_no_key_file_is_said_with_how_it_is_given(bare, given, lacks):
    with pytest.raises(SalternError, match=rf"\(no {lacks}\); `export GOOGLE_CREDENTIALS=") as said:
        make_cloud(GCE, bare, 1, environment={**ENVIRONMENT, "GCE_KEY": given})
    assert given not in str(said.value)


def test_one_token_serves_as_long_as_it_is_good_and_then_a_new_one_is_had(bare, monkeypatch):
    with Gce().serving() as fake:
        cloud = make_cloud(GCE, bare, fake.port)
        cloud.create(wanted(cloud))
        assert fake.requests["/token"] == 1
        now = gce.time.time()
        monkeypatch.setattr(gce.time, "time", lambda: now + 3600)
        cloud.nodes()
        assert fake.requests["/token"] == 2


@pytest.mark.parametrize("wrong", [LATE, CUT_LATE])
@pytest.mark.parametrize("kind", ["create", "wait"])
def test_a_request_without_an_answer_is_made_again_and_finds_what_the_first_one_made(bare, kind, wrong):
    def plan(subject: str, which: str, number: int) -> str | None:
        return wrong if which == kind and number == 1 else None

    with Gce(plan=plan).serving() as fake:
        cloud = make_cloud(GCE, bare, fake.port)
        node = cloud.create(wanted(cloud))
        assert fake.requests["create"] == 2
        assert fake.names() == ["prod6"]
    assert node.labels["saltern-order"] == ledger.entry(bare, "prod6").token


def test_a_machine_that_google_accepts_and_cannot_make_is_said_and_its_disk_removed(bare):
    with Gce(exhausted={"test-prod6"}).serving() as fake:
        cloud = make_cloud(GCE, bare, fake.port)
        with pytest.raises(SalternError, match=r"ZONE_RESOURCE_POOL_EXHAUSTED: The zone .* not have enough"):
            cloud.create(wanted(cloud))
        assert (fake.names(), fake.disks) == ([], {})
        assert fake.requests["create"] > 1
    assert ledger.entries(bare) == []


def test_a_name_that_somebody_else_has_is_left_alone(bare):
    with Gce().serving() as fake:
        cloud = make_cloud(GCE, bare, fake.port)
        cloud.create(wanted(cloud))
        theirs = fake.machines["test-prod6"]
        theirs["labels"] = {}
        fake.disks["test-prod6"] = {}
        ledger.forget(bare, "prod6")
        with pytest.raises(SalternError, match=r"alreadyExists: .* already exists") as said:
            cloud.create(wanted(cloud))
        assert "\n" not in str(said.value)
        assert (fake.machines, list(fake.disks)) == ({"test-prod6": theirs}, ["test-prod6"])
    assert ledger.entries(bare) == []


def test_two_fleets_of_one_project_may_have_machines_of_the_same_name(make_fleet):
    ours, theirs = make_fleet(machines={}, name="ours"), make_fleet(machines={}, name="theirs")
    with Gce().serving() as fake:
        first, second = (make_cloud(GCE, fleet, fake.port) for fleet in (ours, theirs))
        first.create(wanted(first))
        second.create(wanted(second))
        assert sorted(fake.machines) == ["ours-prod6", "theirs-prod6"]
        assert (list(first.made()), list(second.made())) == (["prod6"], ["prod6"])


@pytest.mark.parametrize(
    ("options", "public"), [({}, ("203.0.113.2",)), ({"public_address": False, "subnetwork": "s"}, ())]
)
def test_a_machine_has_a_way_out_of_its_own_unless_there_is_another(bare, options, public):
    with Gce().serving() as fake:
        cloud = make_cloud({**GCE, "options": options}, bare, fake.port)
        node = cloud.create(wanted(cloud))
    assert (node.address, node.public_ips) == ("10.156.0.2", public)


def test_an_image_without_cloud_init_is_told_to_install_it_and_firewall_rules_find_the_role(bare):
    with Gce().serving() as fake:
        cloud = make_cloud(GCE, bare, fake.port)
        cloud.create(wanted(cloud, user_data="#cloud-config\n{}\n"))
        machine = fake.machines["test-prod6"]
    told = {item["key"]: item["value"] for item in machine["metadata"]["items"]}
    assert set(told) == {"user-data", "startup-script", "saltern-image"}
    assert told["startup-script"].startswith("#!/bin/sh\n")
    assert machine["tags"] == {"items": ["saltern", "saltern-prod"]}


def test_all_pages_of_machines_are_listed(bare):
    with Gce(page=2, looks=1).serving() as fake:
        cloud = make_cloud(GCE, bare, fake.port)
        for number in range(1, 6):
            cloud.create(wanted(cloud, f"prod{number}"))
        assert len(cloud.nodes()) == 5


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("debian-cloud/debian-12", "projects/debian-cloud/global/images/family/debian-12"),
        ("projects/mine/global/images/ours-1", "projects/mine/global/images/ours-1"),
    ],
)
def test_an_image_is_a_family_or_the_very_one(name, path):
    assert gce.image(name) == path
