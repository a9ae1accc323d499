"""What a person does beside traffic and flags, on the admin API: a release's steps, and silences of alerts."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any

import redis

from . import registry, stepping
from .admin_routes import CAUSE, REASON, TEXT, Answer, Call, Problem, Route, Schema, body_of, whole
from .alertmanager import Alertmanager
from .errors import SalternError
from .steps import COMMANDS, StepsError

if TYPE_CHECKING:
    from .admin import Admin

log = logging.getLogger("saltern.admin")

MOST_HOURS = 24 * 366
COMMAND: Schema = {"enum": list(COMMANDS)}
RELEASE: Schema = {
    "type": "string",
    "pattern": r"^[a-z0-9][a-z0-9._-]{0,63}$",
    "description": "a release's id: 1 to 64 of a-z 0-9 . _ -, a letter or digit first",
}
NAME: Schema = {
    "type": "string",
    "pattern": r"^([A-Za-z0-9][A-Za-z0-9._-]{0,63}|\*)$",
    "description": "a name of 1 to 64 of A-Z a-z 0-9 . _ -, a letter or digit first; or * for every one",
}
HOURS: Schema = {
    "type": "number",
    "minimum": 0.01,
    "maximum": MOST_HOURS,
    "description": f"a number of hours from 0.01 to {MOST_HOURS}",
}
SILENCE: Schema = {
    "type": "string",
    "pattern": r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$",
    "description": "a silence's id, as Alertmanager gave it",
}


def routes(admin: Admin) -> list[Route]:
    """The routes of this."""
    found = Operations(admin)
    not_now = {409: ("It is not possible now; the text says why.", "Error")}
    return [
        Route("POST", "/canary/steps", "Start, pause, resume, promote or abort a release by steps.", found.step,
              {200: ("Where the steps are now.", "Moved"), **not_now}, scope="write", body_required=True,
              body=body_of(["do"], do=COMMAND, release=RELEASE, reason=TEXT, cause=CAUSE),
              description="Without a release: the one that the canary runs, to start; the one under way, otherwise."),
        Route("POST", "/silences", "Have nobody mailed about an alert for a while. The alert and the reflexes go on.",
              found.silence, {200: ("The silence.", "Silence"), 404: ("This fleet has no Alertmanager.", "Error")},
              scope="write", body_required=True,
              body=body_of(["alert", "machine", "hours", "reason"], alert=NAME, machine=NAME, hours=HOURS,
                           reason=REASON, cause=CAUSE),
              description="* is every alert, or every machine; not both."),
        Route("DELETE", "/silences/{id}", "End a silence before its time.", found.unsilence,
              {200: ("It is over.", "Silence")}, scope="write", params={"id": SILENCE}),
    ]  # fmt: skip


class Operations:
    """What the routes do."""

    def __init__(self, admin: Admin) -> None:
        self.admin = admin

    def step(self, call: Call) -> Answer:
        """Carry out what a person wants of a release by steps."""
        try:
            moved = stepping.give(
                self.admin.registry,
                self.admin.config.plan,
                call.body["do"],
                call.body.get("release", ""),
                by=call.who,
                reason=call.body.get("reason", ""),
                cause=call.cause,
            )
        except StepsError as error:
            raise Problem(409, str(error)) from None
        data = moved.to_data()
        self._note(
            "admin.write", call.what, {"do": call.body["do"], **data}, call, data["journal"] or call.cause
        )
        return Answer(200, data)

    def silence(self, call: Call) -> Answer:
        """Have Alertmanager mail nothing about an alert for a while."""
        name, machine = call.body["alert"], call.body["machine"]
        if name == machine == "*":
            raise Problem(400, "body: everything at once is too much; name an alert or a machine")
        hours = float(call.body["hours"])
        asked = {"alertname": name, "machine": machine}
        try:
            id_ = self._alertmanager().silence(
                asked, time.time(), hours * 3600, call.who, call.body["reason"]
            )
        except SalternError as error:
            raise Problem(503, str(error)) from None
        about = {"alert": name, "hours": whole(hours), "reason": call.body["reason"], "silence": id_}
        self._note("alert.silence", machine, about, call, call.cause)
        return Answer(200, {"changed": True, "silence": id_})

    def unsilence(self, call: Call) -> Answer:
        """End a silence."""
        id_ = call.params["id"]
        link = self._alertmanager()
        try:
            if id_ not in {each["id"] for each in link.silences()}:
                raise Problem(
                    404,
                    f"silence {id_}: there is none that is not over; GET /silences of Alertmanager lists them",
                )
            link.unsilence(id_)
        except SalternError as error:
            raise Problem(503, str(error)) from None
        self._note("alert.unsilence", id_, {}, call, call.cause)
        return Answer(200, {"changed": True, "silence": id_})

    def _alertmanager(self) -> Alertmanager:
        if not self.admin.config.alertmanager:
            raise Problem(404, "silences: this proxy knows of no Alertmanager; its fleet has no ops machine")
        return Alertmanager(self.admin.config.alertmanager)

    def _note(self, kind: str, subject: str, fields: dict[str, Any], call: Call, cause: str) -> None:
        """A line of the journal on what was done, which is not undone because it cannot be written."""
        self.admin.log(call, 200, fields)
        try:
            self.admin.registry.note(kind, subject, fields, by=call.who, cause=cause)
        except (redis.RedisError, registry.RegistryError) as error:
            log.error("the journal misses %s by %s: %s", call.what, call.who, error)
