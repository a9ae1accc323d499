"""A bucket that keeps every artifact besides, at Amazon's S3 or what speaks as it does; for when the disks are lost.

What is fetched from it is checked against the hash that the catalogue has: a bucket is somebody else's disk. It is
optional: without `pipeline.bucket.name` nothing here is used, and boto3 need not be there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

from saltern import artifact, pillar
from saltern.artifact import Artifact
from saltern.errors import SalternError
from saltern.fleet import Fleet

REMEDY = (
    "`.venv/bin/pip install --require-hashes -r requirements/bucket.txt` brings it; then restart the master"
)
CONNECT_S, READ_S, ATTEMPTS = 10, 60, 3


class Bucket:
    """One bucket.

    :param settings: `pipeline.bucket` of a pillar its schema has checked
    :raises SalternError: boto3 is not there, or cannot be told so
    """

    def __init__(self, settings: Mapping[str, str]) -> None:
        try:
            import boto3
            import botocore.config
            import botocore.exceptions
        except ImportError as error:
            raise SalternError(f"pipeline.bucket: {error}; {REMEDY}") from error
        self._errors = (botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError)
        self.name, self.prefix = settings["name"], settings["prefix"]
        options = botocore.config.Config(
            connect_timeout=CONNECT_S,
            read_timeout=READ_S,
            retries={"max_attempts": ATTEMPTS, "mode": "standard"},
        )
        try:
            session = boto3.session.Session(
                profile_name=settings["profile"] or None, region_name=settings["region"] or None
            )
            self._client = session.client("s3", endpoint_url=settings["endpoint"] or None, config=options)
        except (*self._errors, ValueError) as error:
            raise SalternError(f"pipeline.bucket: {error}") from error

    def _key(self, one: Artifact) -> str:
        return f"{self.prefix}{one.id}.tar.gz"

    def has(self, one: Artifact) -> bool:
        """Whether it is there whole.

        :raises SalternError: the bucket does not say
        """
        try:
            found = self._client.head_object(Bucket=self.name, Key=self._key(one))
        except self._errors as error:
            if _missing(error):
                return False
            raise self._fault(one, error) from error
        return found["Metadata"].get("sha256") == one.sha256

    def put(self, one: Artifact, content: bytes) -> bool:
        """Have it there; whether it was not.

        :raises SalternError: it cannot be
        """
        if self.has(one):
            return False
        try:
            self._client.put_object(
                Bucket=self.name, Key=self._key(one), Body=content, ContentType="application/gzip",
                Metadata={"sha256": one.sha256, "platform": one.platform},
            )  # fmt: skip
        except self._errors as error:
            raise self._fault(one, error) from error
        return True

    def get(self, one: Artifact) -> bytes:
        """What it holds, which is what it should be.

        :raises SalternError: it is not there, cannot be had, or is something else
        """
        try:
            content: bytes = self._client.get_object(Bucket=self.name, Key=self._key(one))["Body"].read()
        except self._errors as error:
            raise self._fault(one, error) from error
        if (found := hashlib.sha256(content).hexdigest()) != one.sha256:
            raise SalternError(f"bucket {self.name}: {self._key(one)} has sha256 {found}, not {one.sha256}")
        return content

    def _fault(self, one: Artifact, error: Exception) -> SalternError:
        return SalternError(f"bucket {self.name}: {self._key(one)}: {' '.join(str(error).split())}")


def _missing(error: Exception) -> bool:
    response: Mapping[str, Any] = getattr(error, "response", {})
    return response.get("Error", {}).get("Code") in ("404", "NoSuchKey", "NotFound")


def of(fleet: Fleet) -> Bucket | None:
    """The fleet's bucket; None when it has none.

    :raises SalternError: it cannot be used
    """
    settings = pillar.load(fleet.pillar_dir)["pipeline"]["bucket"]
    return Bucket(settings) if settings["name"] else None


def keep(fleet: Fleet, artifacts: Iterable[Artifact]) -> list[str]:
    """Have artifacts in the bucket too, those of them that the master has; which were not there.

    :raises SalternError: one cannot be put there
    """
    bucket = of(fleet)
    put = []
    for one in dict.fromkeys(artifacts) if bucket else ():
        path = fleet.files / one.file
        if path.exists() and bucket.put(one, path.read_bytes()):
            put.append(one.id)
    return put


def restore(fleet: Fleet, one: Artifact) -> bool:
    """Have an artifact where the master serves it, from the bucket if it is not there; whether it was not.

    :raises SalternError: nobody has it
    """
    if (fleet.files / one.file).exists():
        return False
    bucket = of(fleet)
    if bucket is None:
        raise SalternError(
            f"release {one.id}: {fleet.files / one.file} is gone, and pipeline.bucket names no bucket that kept it"
        )
    artifact.store(fleet, one, bucket.get(one))
    return True
