"""Artifacts in a bucket, at a server that speaks as S3 does: put there, fetched back, and all that can be wrong."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
import yaml
from moto.server import ThreadedMotoServer
from saltern import artifact, bucket
from saltern.artifact import Artifact
from saltern.errors import SalternError
from saltern.fleet import REPOSITORY, Fleet

CONTENT = artifact.archive({"thing/__init__.py": b"answer = 42\n"})
ONE = artifact.described(CONTENT, "r", "any")
KEY = f"saltern/{ONE.id}.tar.gz"


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def settings(endpoint: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, str]:
    """An empty bucket, and what the pillar says of it; the profile is the only one there is."""
    for name in (
        "AWS_PROFILE",
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN",
        "AWS_CONFIG_FILE",
    ):
        monkeypatch.delenv(name, raising=False)
    credentials = tmp_path / "credentials"
    credentials.write_text("[fleet]\naws_access_key_id = me\naws_secret_access_key = mine\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(credentials))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    client = raw(endpoint)
    client.create_bucket(Bucket="artifacts")
    for each in client.list_objects_v2(Bucket="artifacts").get("Contents", ()):
        client.delete_object(Bucket="artifacts", Key=each["Key"])
    return {
        "name": "artifacts", "prefix": "saltern/", "endpoint": endpoint, "region": "us-east-1", "profile": "fleet",
    }  # fmt: skip


def raw(endpoint: str) -> Any:
    """The bucket as anybody with a key has it."""
    return boto3.session.Session(aws_access_key_id="x", aws_secret_access_key="x").client(
        "s3", endpoint_url=endpoint, region_name="us-east-1"
    )


def keys(endpoint: str) -> list[str]:
    return [each["Key"] for each in raw(endpoint).list_objects_v2(Bucket="artifacts").get("Contents", ())]


@pytest.fixture
def fleet(make_fleet: Any, tmp_path: Path, settings: dict[str, str]) -> Fleet:
    """A fleet with this bucket, whose master has the artifact."""
    import shutil

    folder = Path(shutil.copytree(REPOSITORY / "pillar", tmp_path / "pillar"))
    values = yaml.safe_load((folder / "pipeline.sls").read_text())
    values["pipeline"]["bucket"] = settings
    (folder / "pipeline.sls").write_text(yaml.safe_dump(values))
    made = make_fleet({"ops1": "127.0.0.1"}, pillar_dir=folder)
    artifact.store(made, ONE, CONTENT)
    return made


def test_an_artifact_is_put_once_and_comes_back_as_it_was(settings, endpoint):
    there = bucket.Bucket(settings)
    assert not there.has(ONE)
    assert there.put(ONE, CONTENT) is True
    assert (there.has(ONE), there.put(ONE, CONTENT), keys(endpoint)) == (True, False, [KEY])
    assert there.get(ONE) == CONTENT


def test_half_of_one_or_another_under_its_name_is_put_again(settings, endpoint):
    there = bucket.Bucket(settings)
    raw(endpoint).put_object(Bucket="artifacts", Key=KEY, Body=b"half")
    assert not there.has(ONE) and there.put(ONE, CONTENT) is True
    assert there.get(ONE) == CONTENT


def test_what_somebody_changed_in_the_bucket_is_refused_by_its_hash(settings, endpoint):
    there = bucket.Bucket(settings)
    raw(endpoint).put_object(Bucket="artifacts", Key=KEY, Body=b"other", Metadata={"sha256": ONE.sha256})
    with pytest.raises(SalternError, match=f"{KEY} has sha256 .*, not {ONE.sha256}"):
        there.get(ONE)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"name": "no-such-bucket"}, "bucket no-such-bucket: "),
        ({"endpoint": "http://127.0.0.1:9"}, "Could not connect to the endpoint URL"),
        ({"profile": "nobody"}, "pipeline.bucket: The config profile (nobody) could not be found"),
    ],
)
def test_a_bucket_that_cannot_be_used_is_said_in_one_line(settings, change, words, monkeypatch):
    monkeypatch.setattr(bucket, "ATTEMPTS", 1)
    with pytest.raises(SalternError) as refused:
        bucket.Bucket({**settings, **change}).get(ONE)
    assert words in str(refused.value) and "\n" not in str(refused.value)


def test_without_boto3_it_is_said_how_to_get_it(settings, monkeypatch):
    monkeypatch.setitem(sys.modules, "boto3", None)
    with pytest.raises(SalternError, match=r"requirements/bucket\.txt"):
        bucket.Bucket(settings)


def test_what_the_master_lost_is_had_back_and_what_nobody_has_is_said(fleet, endpoint):
    assert bucket.keep(fleet, [ONE]) == [ONE.id] and bucket.keep(fleet, [ONE]) == []
    assert bucket.restore(fleet, ONE) is False
    (fleet.files / ONE.file).unlink()
    assert bucket.restore(fleet, ONE) is True
    assert (fleet.files / ONE.file).read_bytes() == CONTENT
    other = Artifact("r000000000000", "0" * 64, "artifacts/r000000000000.tar.gz")
    with pytest.raises(SalternError, match="r000000000000"):
        bucket.restore(fleet, other)
    # What the master lost is no reason to keep the others nowhere else.
    raw(endpoint).delete_object(Bucket="artifacts", Key=KEY)
    assert bucket.keep(fleet, [other, ONE, ONE]) == [ONE.id]


def test_a_fleet_without_a_bucket_keeps_nothing_there_and_says_so_when_one_is_needed(make_fleet, monkeypatch):
    monkeypatch.setitem(sys.modules, "boto3", None)
    made = make_fleet({"ops1": "127.0.0.1"})
    artifact.store(made, ONE, CONTENT)
    assert bucket.keep(made, [ONE]) == [] and bucket.restore(made, ONE) is False
    (made.files / ONE.file).unlink()
    with pytest.raises(SalternError, match=r"pipeline\.bucket names no bucket"):
        bucket.restore(made, ONE)
