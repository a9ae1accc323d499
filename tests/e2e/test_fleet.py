"""The main job on a real fleet of eleven: it serves, it stays as it should be, it takes machines in and out."""

from __future__ import annotations

import collections
import json
import math
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from fleet_commands import REPOSITORY, Live, run, saltern, wait_for
from saltern.fleet import DEFAULT_MACHINES
from saltern.local import cgroup

# Normal quantile of a two-sided interval of 99.9 %.
Z_999 = 3.2905


def pools(live: Live, requests: int) -> collections.Counter:
    """Which pool answered, over one keep-alive connection from the public address."""
    urls = "\n".join(f'url = "{live.product}version"\noutput = "/dev/null"' for _ in range(requests))
    done = subprocess.run(
        ["curl", "-s", "-K", "-", "-w", "%{http_code} %header{x-saltern-pool}\n"]
        if _curl_writes_headers() else ["curl", "-s", "-K", "-", "-D", "-"],
        input=urls, capture_output=True, text=True, check=True, timeout=300,
    )  # fmt: skip
    lines = done.stdout.splitlines()
    if _curl_writes_headers():
        return collections.Counter(line.split()[1] for line in lines if line.startswith("200 "))
    return collections.Counter(
        line.split()[1] for line in lines if line.lower().startswith("x-saltern-pool:")
    )


def _curl_writes_headers() -> bool:
    """Whether this curl (7.83 or later) prints a header of the answer by itself."""
    version = run("curl", "--version").stdout.split()[1].split(".")
    return (int(version[0]), int(version[1])) >= (7, 83)


def failed_requests(text: str) -> int:
    """Requests that wrk saw fail."""
    errors = 0
    for line in text.splitlines():
        if "Socket errors" in line:
            errors += sum(int(word) for word in line.replace(",", "").split() if word.isdigit())
        if "Non-2xx" in line:
            errors += int(line.split()[-1])
    return errors


def split_is(live: Live, requests: int, share: int) -> bool:
    """Whether the canary answers its share, percent, of so many requests, as near as chance has it."""
    seen = pools(live, requests)
    assert seen["prod"] + seen["canary"] == requests
    allowed = Z_999 * math.sqrt(requests * share * (100 - share)) / 100
    return abs(seen["canary"] - requests * share / 100) <= allowed


def start_load(live: Live, seconds: int, connections: int = 16) -> subprocess.Popen:
    # wrk looks the port up by its name in /etc/services, which a machine may lack, if it is not written out.
    url = f"{live.product.rstrip('/')}:80/version"
    return subprocess.Popen(
        ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "10s", url],
        stdout=subprocess.PIPE,
        text=True,
    )


def test_status_lists_every_machine_with_its_release(live: Live) -> None:
    status = live.status()
    machines = {each["id"]: each for each in status["machines"]}
    assert set(DEFAULT_MACHINES) <= set(machines)
    assert {each["state"] for each in machines.values()} == {"running"}
    assert status["fleet"] == live.name
    assert set(status["urls"]) >= {"product", "admin", "dashboard"}
    for name, each in machines.items():
        assert each["role"] == name.rstrip("0123456789")
        assert bool(each["release"]) == (each["role"] in ("prod", "staging")), name


def test_plain_salt_commands_work_with_no_flags(live: Live) -> None:
    everybody = dict.fromkeys(DEFAULT_MACHINES, True)
    wait_for(lambda: live.answer("*", "test.ping") == everybody, 30, "everybody answers")
    keys = json.loads(live.salt("salt-key", "-L", "--out=json").stdout)
    assert keys["minions"] == sorted(DEFAULT_MACHINES)
    assert keys["minions_pre"] == []
    wait_for(
        lambda: (
            sorted(json.loads(live.salt("salt-run", "manage.up", "--out=json").stdout))
            == sorted(DEFAULT_MACHINES)
        ),
        30,
        "everybody is up",
    )
    listed = json.loads(live.salt("salt-cloud", "-Q", "--out=json").stdout)["local"]["nspawn"]
    assert set(listed) == set(DEFAULT_MACHINES)
    events = subprocess.Popen(
        [str(REPOSITORY / ".venv/bin/salt-run"), "state.event", "pretty=True", "count=1", "salt/job/*/ret/prod1"],
        cwd=live.workplace, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:

        def heard() -> bool:
            live.answer("prod1", "test.ping")
            return events.poll() is not None

        wait_for(heard, 30, "salt-run state.event prints an event")
        assert '"fun": "test.ping"' in events.stdout.read()
    finally:
        events.kill()
        events.wait()


def test_a_second_state_apply_changes_nothing(live: Live) -> None:
    live.answer("*", "state.apply", "queue=True")
    again = live.answer("*", "state.apply", "queue=True")
    assert set(again) == set(DEFAULT_MACHINES)
    wrong = {
        (machine, state["__id__"]): state["changes"] or state["comment"]
        for machine, states in again.items()
        for state in states.values()
        if state["changes"] or state["result"] is not True
    }
    assert wrong == {}


def test_up_again_finds_nothing_to_do(live: Live) -> None:
    done = saltern("up", "--fleet", live.name)
    assert done.returncode == 0, done.stderr
    assert "0 states changed" in done.stdout


def test_the_split_is_what_was_asked_for(live: Live) -> None:
    wait_for(lambda: live.headers().get(":status") == "200", 30, "the product answers")
    wait_for(lambda: "staging1" in live.instances_seen(), 30, "the canary has settled and gets requests")
    # Again if a busy host had the canary fail a check meanwhile.
    wait_for(lambda: split_is(live, 10_000, 30), 30, "30 % of the requests")


def test_the_answer_names_who_gave_it(live: Live) -> None:
    by_pool: dict[str, set[str]] = {}

    def all_six() -> bool:
        headers = live.headers()
        by_pool.setdefault(headers["x-saltern-pool"], set()).add(headers["x-saltern-instance"])
        assert headers["x-saltern-release"].startswith("r")
        return sum(map(len, by_pool.values())) == 6

    wait_for(all_six, 30, "each answers once")
    assert by_pool["canary"] == {"staging1"}
    assert by_pool["prod"] == {"prod1", "prod2", "prod3", "prod4", "prod5"}


def test_every_instance_shows_the_same_list(live: Live) -> None:
    title = "See the salt flats at dawn"
    done = run("curl", "-s", "-X", "POST", "-H", "content-type: application/json", "-d", json.dumps({"title": title}),
               f"{live.product}api/items")  # fmt: skip
    item = json.loads(done.stdout)
    for name, address in addresses(live).items():
        if name.startswith(("prod", "staging")):
            url = f"http://{address}:8080/api/items"
            wait_for(lambda url=url: title in run("curl", "-s", url).stdout, 5, f"the item from {name}")
    run("curl", "-s", "-X", "DELETE", f"{live.product}api/items/{item.get('id') or item['item']['id']}")


def addresses(live: Live) -> dict[str, str]:
    return {each["id"]: each["address"] for each in live.status()["machines"]}


def test_redis_gives_each_consumer_its_own_rights_and_replicas_refuse_writes(live: Live) -> None:
    passwords = json.loads((live.state_dir / "secrets.json").read_text())["redis"]
    where = addresses(live)

    def ask(machine: str, user: str, *command: str) -> str:
        done = run(
            "redis-cli",
            "-h",
            where[machine],
            "--user",
            user,
            "--pass",
            passwords[user],
            "--no-auth-warning",
            *command,
        )
        return done.stdout + done.stderr

    assert "NOPERM" in ask("redis1", "product", "set", "saltern:split", "1")
    assert "NOPERM" in ask("redis1", "observer", "set", "saltern:split", "1")
    assert "NOPERM" in ask("redis1", "controller", "config", "set", "maxmemory", "1")
    assert "NOAUTH" in run("redis-cli", "-h", where["redis1"], "get", "saltern:split").stdout
    assert ask("redis1", "admin", "set", "product:probe", "1").strip() == "OK"
    wait_for(lambda: ask("redis2", "admin", "get", "product:probe").strip() == "1", 5, "redis2 follows")
    assert "READONLY" in ask("redis3", "admin", "set", "product:probe", "2")
    ask("redis1", "admin", "del", "product:probe")


def test_a_killed_product_process_costs_no_request(live: Live) -> None:
    wait_for(lambda: len(live.instances_seen()) == 6, 90, "all six instances serve")
    load = start_load(live, 10)
    for name in ("prod2", "staging1", "prod4"):
        kill = ("systemctl", "kill", "--signal=SIGKILL", "product.service")
        answer = run("nsenter", "-t", str(leader(live, name)), "-a", *kill)
        assert answer.returncode == 0, answer.stderr
    text = load.communicate(timeout=200)[0]
    assert failed_requests(text) == 0, text
    assert "requests in" in text
    wait_for(lambda: len(live.instances_seen()) == 6, 90, "systemd has started them again, and they serve")


def test_a_killed_machine_costs_at_most_the_requests_it_had_and_up_brings_it_back(live: Live) -> None:
    wait_for(lambda: len(live.instances_seen()) == 6, 90, "all six instances serve")
    connections = 16
    load = start_load(live, 10, connections)
    wait_for(lambda: load.poll() is None and live.headers().get(":status") == "200", 5, "the load runs")
    cgroup.kill(live.group("prod3"))
    text = load.communicate(timeout=200)[0]
    assert failed_requests(text) <= connections, text
    assert "prod3" not in live.instances_seen()
    assert {m["id"]: m["state"] for m in live.status()["machines"]}["prod3"] == "stopped"
    done = saltern("up", "--fleet", live.name)
    assert done.returncode == 0, done.stderr
    wait_for(lambda: "prod3" in live.instances_seen(), 30, "prod3 serves again")


def test_the_product_is_served_with_master_redis_and_ops_gone(live: Live) -> None:
    before = {"staging1", "prod1", "prod2", "prod3", "prod4", "prod5"}
    wait_for(lambda: live.instances_seen() == before, 90, "all six instances serve")
    for machine in ("_master", "redis1", "redis2", "redis3", "ops1"):
        cgroup.kill(live.group(machine))
    try:
        wait_for(lambda: split_is(live, 1000, 30), 30, "the last split is kept")
        wait_for(lambda: live.instances_seen() == before, 30, "all of them serve")
        # Health checks go on: an instance that dies is left out, one that returns is taken in.
        answer = run("nsenter", "-t", str(leader(live, "prod5")), "-a", "systemctl", "stop", "product")
        assert answer.returncode == 0, answer.stderr
        wait_for(lambda: "prod5" not in live.instances_seen(), 15, "prod5 is left out")
        run("nsenter", "-t", str(leader(live, "prod5")), "-a", "systemctl", "start", "product")
        wait_for(lambda: "prod5" in live.instances_seen(), 20, "prod5 is taken in")
        page = run("curl", "-s", live.product).stdout
        assert "<html" in page
    finally:
        done = saltern("up", "--fleet", live.name)
    assert done.returncode == 0, done.stderr
    everybody = dict.fromkeys(DEFAULT_MACHINES, True)
    wait_for(lambda: live.answer("*", "test.ping") == everybody, 30, "everybody answers")


def leader(live: Live, machine: str) -> int:
    """The machine's own init, as a process of this host."""
    for pid in cgroup.processes(live.group(machine)):
        if Path(f"/proc/{pid}/comm").read_text().strip() == "systemd":
            return pid
    raise AssertionError(f"{machine} has no init")


def test_a_new_machine_joins_by_itself_and_leaves_without_a_trace(live: Live) -> None:
    made = live.salt("salt-cloud", "-p", "prod", "prod6", "--out=json")
    assert made.returncode == 0, made.stderr
    about = json.loads(made.stdout)["prod6"]
    assert about["state"] == "running"
    wait_for(lambda: "prod6" in live.instances_seen(), 60, "prod6 serves through the proxy")
    # Limits change while it runs.
    changed = json.loads(
        live.salt("salt-cloud", "-y", "-a", "resize", "prod6", "memory=640", "cpus=0.5", "--out=json").stdout
    )
    assert changed["local"]["nspawn"]["prod6"] == {"memory": 640, "cpus": 0.5}
    seen = live.answer(
        "prod6",
        "cmd.run",
        "cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max 2>/dev/null",
    )
    assert str(640 * 1024 * 1024) in seen["prod6"]
    shown = json.loads(live.salt("salt-cloud", "-a", "show_instance", "-y", "prod6", "--out=json").stdout)
    assert shown["local"]["nspawn"]["prod6"]["memory"] == 640
    # It stops, starts and reboots, and serves again each time.
    for action in ("stop", "start", "reboot"):
        done = live.salt("salt-cloud", "-y", "-a", action, "prod6", "--out=json")
        assert json.loads(done.stdout)["local"]["nspawn"]["prod6"] == {"Success": True}, done.stderr
        expected = "stopped" if action == "stop" else "running"
        assert {m["id"]: m["state"] for m in live.status()["machines"]}["prod6"] == expected
    wait_for(lambda: "prod6" in live.instances_seen(), 60, "prod6 serves after a reboot")
    # The name is taken.
    again = live.salt("salt-cloud", "-p", "prod", "prod6")
    assert "prod6" in again.stdout + again.stderr
    assert "already" in again.stdout + again.stderr
    wait_for(lambda: "prod6" in live.instances_seen(), 20, "the refusal left the machine alone")
    gone = live.salt("salt-cloud", "-y", "-d", "prod6", "--out=json")
    assert json.loads(gone.stdout)["local"]["nspawn"]["prod6"] == {"Success": True}
    wait_for(lambda: "prod6" not in registered(live), 15, "the registry strikes prod6 off")
    wait_for(lambda: "prod6" not in live.instances_seen(), 15, "the proxy sends prod6 nothing")
    assert not (live.state_dir / "machines" / "prod6").exists()
    assert "prod6" not in json.loads(live.salt("salt-key", "-L", "--out=json").stdout)["minions"]
    assert cgroup.processes(live.group("prod6")) == []


def registered(live: Live) -> set[str]:
    passwords = json.loads((live.state_dir / "secrets.json").read_text())["redis"]
    done = run("redis-cli", "-h", addresses(live)["redis1"], "--user", "observer", "--pass", passwords["observer"],
               "--no-auth-warning", "smembers", "saltern:instances")  # fmt: skip
    return set(done.stdout.split())


def test_two_creates_at_once_get_two_addresses_and_a_map_makes_machines_side_by_side(
    live: Live, tmp_path: Path
) -> None:
    (tmp_path / "more.map").write_text("prod:\n  - prod8\n  - prod9\n")
    first = subprocess.Popen(
        [str(REPOSITORY / ".venv/bin/salt-cloud"), "-p", "prod", "prod7"],
        cwd=live.workplace, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    second = live.salt("salt-cloud", "-y", "-P", "-m", str(tmp_path / "more.map"))
    assert first.wait(timeout=400) == 0, first.stdout.read()
    assert second.returncode == 0, second.stderr
    try:
        where = addresses(live)
        assert {"prod7", "prod8", "prod9"} <= set(where)
        assert len(set(where.values())) == len(where)
        wait_for(lambda: {"prod7", "prod8", "prod9"} <= registered(live), 90, "all three register")
    finally:
        live.salt("salt-cloud", "-y", "-P", "-d", "prod7", "prod8", "prod9")
    wait_for(lambda: not {"prod7", "prod8", "prod9"} & registered(live), 20, "all three are struck off")


def test_a_machine_that_died_half_made_is_cleared_away_by_the_next_create(live: Live) -> None:
    creating = subprocess.Popen(
        [sys.executable, "-c", HALF_MADE, str(live.state_dir)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=REPOSITORY,
    )
    assert creating.stdout.readline().strip() == "booted"
    creating.send_signal(signal.SIGKILL)
    creating.wait()
    assert {m["id"]: m["state"] for m in live.status()["machines"]}["prod7"] == "half-made"
    assert "prod7" not in json.loads(live.salt("salt-cloud", "-Q", "--out=json").stdout)["local"]["nspawn"]
    try:
        made = live.salt("salt-cloud", "-p", "prod", "prod7", "--out=json")
        assert json.loads(made.stdout)["prod7"]["state"] == "running", made.stderr
        wait_for(lambda: "prod7" in registered(live), 60, "it joins")
    finally:
        live.salt("salt-cloud", "-y", "-d", "prod7")


# Makes a machine as the driver does, up to the moment before it is written down as made.
HALF_MADE = """
import sys, time
sys.path.insert(0, "services")
from saltern.fleet import Fleet
from saltern.local import machine
from saltern.local.cgroup import Limits
keep = machine._keep
def stop_before_made(fleet, m, **changes):
    if changes.get("made"):
        print("booted", flush=True)
        time.sleep(600)
    return keep(fleet, m, **changes)
machine._keep = stop_before_made
machine.create(Fleet.load(sys.argv[1]), "prod7", Limits(256, 1), "prod", {})
"""


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("-p", "prod", "web1"), "web1"),
        (("-p", "nonsense", "prod7"), "nonsense"),
        (("-y", "-a", "resize", "prod1", "memory=lots"), "lots"),
        (("-y", "-a", "resize", "prod1", "memory=1"), "128"),
        (("-y", "-d", "prod77"), "No machines were found"),
    ],
    ids=[
        "id of no role",
        "unknown profile",
        "memory that is no number",
        "memory too small",
        "unknown machine",
    ],
)
def test_bad_input_to_salt_cloud_is_named_and_changes_nothing(
    live: Live, arguments: tuple[str, ...], words: str
) -> None:
    before = addresses(live)
    done = live.salt("salt-cloud", *arguments)
    assert words in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert addresses(live) == before


def test_the_mail_sink_and_alertmanager_answer(live: Live) -> None:
    ops = addresses(live)["ops1"]
    assert "OK" in run("curl", "-s", f"http://{ops}:9093/-/ready").stdout
    sent = run(sys.executable, "-c", SEND_MAIL, ops)
    assert sent.returncode == 0, sent.stderr
    found = live.answer(
        "ops1",
        "cmd.run",
        "grep -rl 'e2e probe' /var/mail/sink | wc -l; grep -rl 'e2e probe' /var/mail/sink | xargs rm",
    )
    assert found["ops1"].strip() == "1"


SEND_MAIL = """
import smtplib, sys
with smtplib.SMTP(sys.argv[1], 1025, timeout=10) as link:
    link.sendmail("a@fleet.test", ["b@fleet.test"], "Subject: e2e probe\\r\\n\\r\\nhello")
"""
