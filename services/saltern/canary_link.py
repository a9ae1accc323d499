"""Turning the canary off when Redis cannot be asked: every proxy is told through its own admin API."""

from __future__ import annotations

import http.client
import json
from typing import Any

from saltern import pillar, secrets
from saltern.errors import SalternError
from saltern.fleet import Fleet, role_of

PATH = "/canary/off"
DEFAULT_PORT = 8081
TIMEOUT_S = 5.0


def off_without_redis(fleet: Fleet, reason: str, *, cause: str, by: str, problem: str) -> dict[str, Any]:
    """Tell every proxy; each tells HAProxy at once and the registry when that is back.

    :param problem: what is wrong with Redis
    :raises SalternError: no proxy took it
    """
    settings = pillar.load(fleet.pillar_dir)
    port = settings.get("admin", {}).get("port", DEFAULT_PORT)
    token = secrets.load(fleet)["admin"]["write"]
    body = json.dumps({"reason": f"{by}: {reason}"[:200], "cause": cause})
    answers, faults = {}, []
    for name, address in fleet.addresses().items():
        if role_of(name) != "proxy":
            continue
        try:
            answers[name] = _post(address, port, token, body)
        except (OSError, http.client.HTTPException, ValueError) as error:
            faults.append(f"{name}: {error}")
    if not answers:
        said = "; ".join(faults) or f"fleet {fleet.name} has no proxy"
        raise SalternError(f"canary: not turned off: Redis does not answer ({problem}), nor a proxy ({said})")
    return {"canary": "off", "reason": reason, "redis": problem, "proxies": answers, "faults": faults}


def _post(address: str, port: int, token: str, body: str) -> dict[str, Any]:
    link = http.client.HTTPConnection(address, port, timeout=TIMEOUT_S)
    try:
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        link.request("POST", PATH, body, headers)
        answer = link.getresponse()
        said = json.loads(answer.read())
        if not 200 <= answer.status < 300:
            raise ValueError(f"answers {answer.status}: {said.get('error', said)}")
        return {"status": answer.status, "text": said.get("text", "")}
    finally:
        link.close()
