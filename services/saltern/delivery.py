"""From a build on ops1 to the deploy: what the master does when ops1 says how a build ended.

`deliver` is what the reactor calls: it checks the signature, writes down what was said, and queues the rest. Fetching
the artifact takes its time, so the conductor does it (intent `fetch`): fetch, compare with the signed hash, keep, and
ask for the rollout.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import re
import time
import urllib.request
from collections.abc import Mapping
from functools import partial
from typing import Any

import redis

from saltern import artifact, bucket, events, pillar, rejections, rollouts
from saltern.artifact import Artifact
from saltern.builds import BUILDS
from saltern.errors import SalternError
from saltern.fleet import Fleet, role_of
from saltern.intents import Intent, Queue
from saltern.members import link
from saltern.pipeline import refs
from saltern.pipeline.records import ID
from saltern.provisioning import Facts, Kind, Refused, Work
from saltern.registry import Registry

KIND, POOL = "fetch", "build"
UPLOAD, BUCKET = "upload", "bucket"
"""The kind of intent that puts an artifact into the bucket, and the lane they have: a bucket that is away holds up none
of what is built."""
RESULTS = ("queued", "passed", "failed", "cancelled")
FETCH_S = 60.0
LARGEST = 256 * 1024 * 1024
REMEMBERED = 300
"""Builds that are written down in Redis; ops1 has more of each, and the journal all."""

_PATTERNS = {
    "build": ID, "result": re.compile(f"({'|'.join(RESULTS)})\\Z"), "commit": refs.COMMIT,
    "release": re.compile(r"(r[0-9a-f]{12})?\Z"), "sha256": re.compile(r"([0-9a-f]{64})?\Z"),
    "platform": re.compile(r"[A-Za-z0-9_.-]{0,64}\Z"),
}  # fmt: skip
_TEXTS = ("author", "pusher", "why", "ref")
FIELDS = {*_PATTERNS, *_TEXTS, "size"}


def checked(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """What ops1 says of a build, if it is as it should be; its word is signed, and what a pusher wrote is in it.

    :raises ValueError: something about it is not; the text names it
    """
    if set(values) != FIELDS:
        raise ValueError(f"it has {sorted(map(str, values))}, not {sorted(FIELDS)}")
    for name, pattern in _PATTERNS.items():
        if not isinstance(values[name], str) or not pattern.match(values[name]):
            raise ValueError(f"{name} {str(values[name])[:80]!r} is none")
    for name in _TEXTS:
        if not isinstance(values[name], str) or len(values[name]) > 200 or not values[name].isprintable():
            raise ValueError(f"{name} is not one printable line of at most 200 characters")
    size = values["size"]
    if isinstance(size, bool) or not isinstance(size, int) or not 0 <= size <= LARGEST:
        raise ValueError(f"size {size!r} is not a number of bytes up to {LARGEST}")
    refs.name_of(values["ref"])
    if values["result"] == "passed":
        if not values["release"] or not values["platform"] or not size:
            raise ValueError("it passed, and has no artifact")
        if values["release"] != f"r{values['sha256'][:12]}":
            raise ValueError(f"release {values['release']} is not that of {values['sha256'] or 'no hash'}")
    return values


def short(ref: str) -> str:
    """The branch or tag of a ref, as a person says it."""
    return ref.removeprefix(refs.HEADS).removeprefix(refs.TAGS)


def deliver(fleet: Fleet, tag: str, minion_id: object, payload: object) -> dict[str, Any]:
    """Write down how a build ended, and have what passed on a mapped branch fetched and rolled out.

    Where it goes is the pillar's to say, not ops1's. ops1 says it again until it is written down; what was written
    down before causes nothing.

    :raises events.Rejected: the event proves nothing, or says something that cannot be
    """
    client = link(fleet)
    with rejections.reported(client, tag, minion_id):
        event = events.check(fleet, client, tag, minion_id, payload, time.time_ns())
        try:
            said = checked(event.values)
        except ValueError as error:
            raise events.Rejected(f"event {tag!r} from {event.machine}: {error}") from error
        result = said["result"]
        if role_of(event.machine) != "ops" or tag != f"salt/beacon/{event.machine}/build/{result}":
            raise events.Rejected(
                f"event {tag!r} from {event.machine}: it is no word of a build machine on {result}"
            )
    kept = client.hget(BUILDS, said["build"])
    if kept and json.loads(kept)["result"] in (result, *(RESULTS[1:] if result == "queued" else ())):
        return {"build": said["build"], "result": result, "again": True}
    name = short(said["ref"])
    about = {k: said[k] for k in ("build", "ref", "commit", "release", "author", "pusher", "why") if said[k]}
    line = Registry(client).note(f"build.{result}", name, about, by=event.machine, cause=event.cause)
    target = refs.target_of(said["ref"], pillar.load(fleet.pillar_dir)["pipeline"]["branches"])
    answer = {"build": said["build"], "result": result, "target": target, "journal": line}
    if result == "passed" and (target or refs.is_tag(said["ref"])):
        args = {
            name: said[name] for name in ("build", "ref", "commit", "release", "sha256", "platform", "author")
        }
        args |= {"from": event.machine, "target": target}
        intent = Intent(KIND, POOL, args, f"{KIND}:{said['build']}", line, event.machine)
        answer["intent"] = Queue(client).put(intent)[0]
    # Last: until this is there ops1 says it again, and an intent that is queued twice is one.
    remember(client, said)
    return answer


def remember(client: redis.Redis, said: Mapping[str, Any]) -> None:
    """Write down what was heard of a build, and forget the oldest beyond what is remembered."""
    client.hset(BUILDS, said["build"], json.dumps({**said, "at": round(time.time(), 3)}))
    old = sorted(client.hkeys(BUILDS))[:-REMEMBERED]
    if old:
        client.hdel(BUILDS, *old)


def kinds(fleet: Fleet) -> dict[str, Kind]:
    """What the conductor is to do for `deliver`."""
    steps = (("fetch", partial(fetch, fleet)), ("keep", partial(keep, fleet)), ("roll", partial(roll, fleet)))
    upload_step = (("upload", partial(upload, fleet)),)
    return {
        KIND: Kind(6, steps, undone="what ran before runs on"),
        UPLOAD: Kind(8, upload_step, undone="the master has it, and the bucket has not"),
    }


def _artifact(args: Mapping[str, Any]) -> Artifact:
    release = args["release"]
    return Artifact(release, args["sha256"], f"artifacts/{release}.tar.gz", args["platform"])


def fetch(fleet: Fleet, work: Work) -> Facts:
    """Bring the artifact to the master's file server; it is what ops1 signed, or nothing.

    :raises SalternError: it cannot be had, or is something else
    """
    args = work.intent.args
    wanted = _artifact(args)
    if (fleet.files / wanted.file).exists():
        return {"release": wanted.id, "bytes": (fleet.files / wanted.file).stat().st_size, "fetched": False}
    address = fleet.addresses().get(args["from"])
    if address is None:
        raise SalternError(
            f"release {wanted.id}: fleet {fleet.name} has no machine {args['from']} to fetch it from"
        )
    port = pillar.load(fleet.pillar_dir)["pipeline"]["port"]
    content = download(f"http://{address}:{port}/artifacts/{wanted.id}.tar.gz")
    if (found := hashlib.sha256(content).hexdigest()) != wanted.sha256:
        raise SalternError(
            f"release {wanted.id}: {args['from']} signed sha256 {wanted.sha256} and serves {found}"
        )
    artifact.store(fleet, wanted, content)
    return {"release": wanted.id, "bytes": len(content), "fetched": True}


def download(url: str) -> bytes:
    """:raises SalternError: it cannot be had whole in time, or is too large"""
    # Straight to the machine: a proxy for the outside knows none of the fleet.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=FETCH_S) as answer:
            content: bytes = answer.read(LARGEST + 1)
    except (OSError, http.client.HTTPException) as error:
        raise SalternError(f"{url}: {error}") from error
    if len(content) > LARGEST:
        raise SalternError(f"{url}: larger than {LARGEST} bytes")
    return content


def upload(fleet: Fleet, work: Work) -> Facts:
    """Put it into the bucket, and whatever else the bucket has not: what the fleet began with, what a bucket lost.

    :raises SalternError: it cannot be; it is tried again
    """
    one = _artifact(work.intent.args)
    return {"release": one.id, "uploaded": bucket.keep(fleet, [one, *artifact.known(fleet).values()])}


def keep(fleet: Fleet, work: Work) -> Facts:
    """Put it into the catalogue of releases, and have it put into the bucket if there is one; forget old ones."""
    args = work.intent.args
    values = pillar.load(fleet.pillar_dir)
    if values["pipeline"]["bucket"]["name"]:
        wanted = {name: args[name] for name in ("release", "sha256", "platform")}
        Queue(work.client, work.intent.by).put(
            Intent(UPLOAD, BUCKET, wanted, f"{UPLOAD}:{args['release']}", work.intent.journal, work.intent.by)
        )
    artifact.keep(
        fleet, _artifact(args), branch=short(args["ref"]), commit=args["commit"], author=args["author"],
        pinned=refs.is_tag(args["ref"]),
    )  # fmt: skip
    asked = [str(each.args.get("release", "")) for each in Queue(work.client).unfinished()]
    gone = artifact.collect(fleet, values["pipeline"]["keep"], values["rollout"]["keep"], asked)
    return {"kept": args["release"], "forgotten": gone}


def roll(fleet: Fleet, work: Work) -> Facts:
    """Ask for the rollout, and tell the bus; a tag is kept, and rolled out by whoever wants it.

    :raises Refused: nothing is rolled now, such as in a freeze window
    """
    args = work.intent.args
    rollout = ""
    if args["target"]:
        by = args["author"] or args["from"]
        try:
            rollout = rollouts.request(
                fleet, args["target"], args["release"], by=by, cause=work.intent.journal
            )
        except SalternError as error:
            _note(work.client, args["build"], refused=str(error))
            raise Refused(str(error)) from error
        _note(work.client, args["build"], rollout=rollout)
    work.fire("saltern/build/passed", {**args, "rollout": rollout, "cause": work.intent.journal})
    return {"rollout": rollout, "release": args["release"]}


def _note(client: redis.Redis, id_: str, **more: str) -> None:
    """Add to what is written down of a build; its worker tells whoever pushed it."""
    kept = client.hget(BUILDS, id_)
    if kept:
        client.hset(BUILDS, id_, json.dumps({**json.loads(kept), **more}))
