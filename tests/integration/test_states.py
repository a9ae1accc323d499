"""Every state of every role, rendered by real minions with the real pillar, and judged by the programs it is for."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import pytest
import yaml
from host import PATIENCE
from product.config import load as load_product
from saltern import artifact, controller, pillar
from saltern.fleet import REPOSITORY

PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
ROLES = {
    "proxy1": ["common", "proxy"],
    "redis1": ["common", "redis"],
    "prod1": ["common", "product"],
    "staging1": ["common", "product"],
    "ops1": ["common", "ops", "pipeline"],
}


@dataclass(frozen=True)
class Rendered:
    """What a machine would do, and what its files would hold."""

    chunks: list[dict[str, Any]]
    files: dict[str, Path]

    def text(self, name: str) -> str:
        return self.files[name].read_text()


@pytest.fixture(scope="module")
def rendered(minions, home) -> Callable[[str], Rendered]:
    """Render all states of a machine, once."""
    kept: dict[str, Rendered] = {}

    def of(minion: str) -> Rendered:
        if minion not in kept:
            chunks = minions.call(minion, "state.show_lowstate")
            assert all(isinstance(chunk, dict) for chunk in chunks), chunks
            files = {}
            for chunk in chunks:
                if (chunk["state"], chunk["fun"]) == ("file", "managed"):
                    files[chunk["name"]] = lay(minion, chunk)
            kept[minion] = Rendered(chunks, files)
        return kept[minion]

    def lay(minion: str, chunk: dict[str, Any]) -> Path:
        """Write what a file would hold: to its own place where that is the tests', else to a folder of theirs."""
        name = chunk["name"]
        path = Path(name) if name.startswith(str(home)) else home / "files" / minion / name.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        if "source" in chunk:
            done = minions.call(
                minion, "cp.get_template", chunk["source"], str(path), chunk.get("template", ""),
                context=chunk.get("context") or {},
            ) if "template" in chunk else minions.call(minion, "cp.get_file", chunk["source"], str(path))  # fmt: skip
            assert done == str(path), f"{chunk['__id__']} of {minion}: {done}"
        elif "contents_pillar" in chunk:
            path.write_text(
                str(minions.call(minion, "pillar.get", chunk["contents_pillar"], unmask=True)) + "\n"
            )
        else:
            path.write_text(f"{chunk['contents']}\n" if chunk["contents"] else "")
        return path

    return of


def judge(command: str, path: Path) -> subprocess.CompletedProcess:
    program, *rest = shlex.split(command)
    return subprocess.run(
        [shutil.which(program, path=PATH), *rest, str(path)],
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )


@pytest.mark.parametrize("minion", ROLES)
def test_the_id_of_a_machine_alone_says_which_states_it_has(minions, minion):
    assert minions.call(minion, "state.show_top") == {"base": ROLES[minion]}


@pytest.mark.parametrize("minion", ROLES)
def test_every_requisite_names_a_state_that_is_there(rendered, minion):
    chunks = rendered(minion).chunks
    there = {(chunk["state"], chunk[key]) for chunk in chunks for key in ("__id__", "name")}
    asked = 0
    for chunk in chunks:
        for kind in ("require", "watch", "onchanges", "onfail", "prereq", "require_in", "watch_in"):
            for requisite in chunk.get(kind, []):
                ((state, name),) = requisite.items()
                assert (state, name) in there, f"{chunk['__id__']}: {kind} {state}: {name}"
                asked += 1
    assert asked >= 3


@pytest.mark.parametrize("minion", ROLES)
def test_every_file_has_its_values_filled_in(rendered, minion):
    files = rendered(minion).files
    assert len(files) >= 5
    for name, path in files.items():
        # Alertmanager has templates of its own, which it fills in itself.
        text = re.sub(r"\{\{.*?\}\}", "", path.read_text()) if "prometheus" in name else path.read_text()
        assert not re.search(r"\{\{|\{%|\*{10}|\bNone\b|Undefined", text), name


CHECKS = {
    "proxy1": {("haproxy", "haproxy.cfg"), ("python3", "controller.json")},
    "redis1": {("/usr/local/sbin/check-redis-conf", "redis.conf"), ("python3", "start.json")},
    "prod1": {("python3", "config.json")},
    "staging1": {("python3", "config.json")},
    "ops1": {
        ("amtool", "alertmanager.yml"),
        ("/usr/local/sbin/check-sshd-config", "sshd_config"),
        ("git", "config"),
        ("sh", "pre-receive"),
        ("python3", "pipeline.json"),
    },
}


@pytest.mark.parametrize("minion", ROLES)
def test_every_check_of_a_file_is_passed_by_what_is_rendered(rendered, minion):
    """The check_cmd of each file, run as the state runs it: by the program the file is for."""
    made = rendered(minion)
    own = {
        "/usr/local/sbin/check-redis-conf": str(REPOSITORY / "salt" / "redis" / "check-redis-conf"),
        "/usr/local/sbin/check-sshd-config": str(REPOSITORY / "salt" / "pipeline" / "check-sshd-config"),
    }
    checked = set()
    for chunk in made.chunks:
        if not (command := chunk.get("check_cmd")):
            continue
        program = command.split()[0]
        checked.add((program, Path(chunk["name"]).name))
        if not shutil.which(own.get(program, program), path=PATH):
            continue
        path = made.files[chunk["name"]]
        if program.endswith("redis-conf"):
            text = path.read_text().replace("/etc/redis/users.acl", str(made.files["/etc/redis/users.acl"]))
            path = path.with_suffix(".here")
            path.write_text(text)
        done = judge(command.replace(program, own.get(program, program)), path)
        assert done.returncode == 0, f"{command} {chunk['name']}: {done.stdout}{done.stderr}"
    assert CHECKS[minion] <= checked


@pytest.mark.parametrize(
    ("minion", "name", "command", "old", "new"),
    [
        ("proxy1", "/etc/haproxy/haproxy.cfg", "haproxy -c -f", "balance ", "ballance "),
        ("proxy1", "/etc/saltern/controller.json", "python3 -m json.tool", "{", "{,"),
        (
            "redis1",
            "/etc/redis/redis.conf",
            f"{REPOSITORY}/salt/redis/check-redis-conf",
            "maxmemory ",
            "maxmemorry ",
        ),
        (
            "redis1",
            "/etc/redis/redis.conf",
            f"{REPOSITORY}/salt/redis/check-redis-conf",
            "aclfile ",
            "aclfile /no",
        ),
        (
            "ops1",
            "/etc/ssh/sshd_config",
            f"{REPOSITORY}/salt/pipeline/check-sshd-config",
            "PermitTunnel",
            "PermitTunnl",
        ),
        ("ops1", "/srv/git/product.git/config", "git config --list -f", "[receive]", "[receive"),
    ],
)
def test_a_file_that_is_wrong_fails_its_check(rendered, tmp_path, minion, name, command, old, new):
    text = rendered(minion).text(name)
    assert old in text
    (tmp_path / "wrong").write_text(text.replace(old, new, 1))
    done = judge(command, tmp_path / "wrong")
    assert done.returncode != 0
    assert done.stdout + done.stderr


def test_users_of_redis_that_are_wrong_fail_the_check_of_its_configuration(rendered, tmp_path):
    made = rendered("redis1")
    (tmp_path / "users.acl").write_text(
        made.text("/etc/redis/users.acl").replace("+psync", "+no-such-command")
    )
    conf = made.text("/etc/redis/redis.conf").replace("/etc/redis/users.acl", str(tmp_path / "users.acl"))
    (tmp_path / "redis.conf").write_text(conf)
    done = judge(f"{REPOSITORY}/salt/redis/check-redis-conf", tmp_path / "redis.conf")
    assert done.returncode != 0
    assert "no-such-command" in done.stderr


@pytest.mark.skipif(not shutil.which("systemd-analyze", path=PATH), reason="systemd-analyze is not installed")
@pytest.mark.parametrize("minion", ROLES)
def test_systemd_accepts_every_unit(rendered, tmp_path, minion):
    units = [path for name, path in rendered(minion).files.items() if name.endswith(".service")]
    for unit in units:
        # Programs of a machine are not this host's: systemd is asked about everything else.
        text = re.sub(r"(?m)^(ExecStart|ExecReload)=\S+", r"\1=/bin/true", unit.read_text())
        (tmp_path / unit.name).write_text(text)
        done = subprocess.run(
            ["systemd-analyze", "verify", "--man=no", str(tmp_path / unit.name)],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        complaints = [line for line in done.stderr.splitlines() if unit.name in line]
        assert complaints == [], complaints
    assert len(units) >= 1


def test_the_controller_takes_the_configuration_it_is_given(rendered, fleet):
    config = controller.parse_config(json.loads(rendered("proxy1").text("/etc/saltern/controller.json")))
    assert config.redis["redis"]["username"] == "controller"
    assert config.redis["redis"]["addresses"][0].startswith("127.0.0.1:")
    assert (config.poll_s, config.resync_s, config.drain_limit_s) == (0.3, 2, 60)
    assert config.canary.settle_s == 10


@pytest.mark.parametrize(("minion", "pool"), [("prod1", "prod"), ("staging1", "canary")])
def test_the_product_takes_the_configuration_it_is_given(rendered, minion, pool):
    path = rendered(minion).files["/etc/product/config.json"]
    config = load_product({"PRODUCT_CONFIG": str(path)})
    assert (config.instance, config.pool) == (minion, pool)
    values = json.loads(path.read_text())
    assert values["redis"]["addresses"][0].startswith("127.0.0.1:")  # the primary comes first
    assert len(values["redis"]["addresses"]) == 2
    assert (config.flags.username, config.flags.addresses) == ("flags-reader", config.redis.addresses)


def test_the_flags_of_a_new_fleet_are_seeded_by_the_proxy_and_asked_about_in_a_dry_run(
    rendered, minions, registry_empty, home
):
    seeding = next(chunk for chunk in rendered("proxy1").chunks if chunk["__id__"] == "first flags")
    files = rendered("proxy1").files
    (dry,) = seeding["stateful"]
    path = os.pathsep.join([str(REPOSITORY / "services"), str(REPOSITORY / "services" / "flags" / "src")])
    for command, said in (
        (dry["test_name"], "changed=yes comment='the first flags would be written'"),
        (seeding["name"], "changed=yes comment='the first flags written'"),
        (seeding["name"], "changed=no comment='there is, or was, a flag set'"),
        (dry["test_name"], "changed=no comment='there is, or was, a flag set'"),
    ):
        for name in ("/etc/saltern/admin.json", "/etc/saltern/flags.json"):
            command = command.replace(name, str(files[name]))
        command = command.replace("/usr/bin/python3", sys.executable)
        done = subprocess.run(
            shlex.split(command),
            env={"PYTHONPATH": path},
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert done.stdout.splitlines()[-1:] == [said], done.stderr
    assert json.loads(registry_empty.get("saltern:flags")) == json.loads(
        files["/etc/saltern/flags.json"].read_text()
    )


@pytest.mark.parametrize(
    ("role", "key", "state"),
    [("agent", "agent", "Python for the agent"), ("product", "release", "Python for the product")],
)
@pytest.mark.parametrize("platform", ["any", artifact.SOABI, "cpython-27-vax"])
def test_an_artifact_for_another_python_is_refused_before_it_is_unpacked(told, role, key, state, platform):
    values = told("prod1" if role == "product" else "proxy1")
    values[key] = {**values[key], "platform": platform}
    loader = jinja2.FileSystemLoader(REPOSITORY / "salt")
    text = jinja2.Environment(loader=loader).get_template(f"{role}/init.sls").render(pillar=values)
    states = yaml.safe_load(text)
    (unpacked,) = [each["archive.extracted"] for each in states.values() if "archive.extracted" in each]
    required = [each["require"] for each in unpacked if "require" in each]
    if platform == "any":
        assert state not in states and required == []
        return
    assert {"cmd": state} in required[0]
    check = {key: value for each in states[state]["cmd.run"] for key, value in each.items()}
    assert check["creates"].endswith(f"/{values[key]['id']}/RELEASE")
    done = subprocess.run(["sh", "-c", check["name"]], capture_output=True, text=True, check=False)
    words = (
        f"{values[key]['id']} is for {platform}, and this machine has {artifact.SOABI}; "
        "build it on a host of this machine's release\n"
    )
    assert (done.returncode, done.stderr) == ((0, "") if platform == artifact.SOABI else (1, words))


def test_no_file_of_salts_says_who_is_primary_now(rendered, told):
    made = rendered("redis1")
    assert "replicaof" not in made.text("/etc/redis/redis.conf")
    assert not any(name.startswith("/var/lib/redis") for name in made.files)
    start = json.loads(made.text("/etc/redis/start.json"))
    assert start["first"] == start["me"] == f"127.0.0.1:{told('redis1')['redis']['port']}"
    # Two machines elect nobody: Sentinel is for three.
    assert "sentinel" not in start["link"]
    assert {chunk["name"] for chunk in made.chunks if chunk["state"] == "service"} >= {
        "redis-server",
        "redis-backup.timer",
    }


@pytest.mark.parametrize("tls", [False, True])
def test_three_redis_machines_get_a_sentinel_that_redis_accepts(make_fleet, tmp_path, shipped_pillar, tls):
    """Rendered here, not by a minion: the fleet of the other tests has two."""
    folder = shutil.copytree(shipped_pillar, tmp_path / "pillar")
    values = yaml.safe_load((folder / "redis.sls").read_text())
    values["redis"]["tls"] = tls
    (folder / "redis.sls").write_text(yaml.safe_dump(values))
    made = make_fleet({f"redis{n}": f"127.0.0.{n}" for n in (1, 2, 3)}, pillar_dir=folder)
    told = {**pillar.load(folder), **pillar.for_machine(made, "redis2")}
    environment = jinja2.Environment(extensions=["jinja2.ext.do"])
    for name in ("users.acl", "sentinel-users.acl", "redis.conf", "sentinel.conf"):
        text = (REPOSITORY / "salt" / "redis" / f"{name}.j2").read_text()
        text = environment.from_string(text).render(pillar=told).replace("/etc/redis", str(tmp_path))
        (tmp_path / name).write_text(text + "\n")
    if tls:
        (tmp_path / "tls").mkdir()
        for name, secret in (("ca.crt", "ca"), ("server.crt", "certificate"), ("server.key", "key")):
            (tmp_path / "tls" / name).write_text(told["secrets"]["tls"][secret])
    check = f"{REPOSITORY}/salt/redis/check-redis-conf"
    before = (tmp_path / "sentinel.conf").read_text()
    for command, name, old, new in (
        (check, "redis.conf", "min-replicas-to-write 1", "min-replicas-to-write many"),
        (f"{check} --sentinel", "sentinel.conf", "down-after-milliseconds", "down-after"),
    ):
        done = judge(command, tmp_path / name)
        assert done.returncode == 0, done.stderr
        text = (tmp_path / name).read_text()
        assert old in text
        (tmp_path / "wrong").write_text(text.replace(old, new))
        done = judge(command, tmp_path / "wrong")
        assert done.returncode != 0
        assert new.split()[0] in done.stderr
    assert (tmp_path / "sentinel.conf").read_text() == before, "Sentinel was given a copy"
    if tls:
        (tmp_path / "tls" / "server.key").write_text("no key")
        assert judge(check, tmp_path / "redis.conf").returncode != 0


def test_files_with_secrets_are_kept_from_the_output_and_from_other_users(rendered, fleet):
    from saltern import secrets

    kept = secrets.load(fleet)
    words = {kept["events"], *kept["redis"].values(), *kept["admin"].values()}
    found = 0
    for minion in ROLES:
        for chunk in rendered(minion).chunks:
            path = rendered(minion).files.get(chunk["name"]) if chunk["fun"] == "managed" else None
            if path and any(word in path.read_text() for word in words):
                assert chunk.get("show_changes") is False, chunk["__id__"]
                assert str(chunk["mode"])[-1] == "0", chunk["__id__"]
                found += 1
    assert found >= 4


def test_operators_get_their_keys_and_sudo(minions, home):
    """The one part of `common` the shipped pillar leaves out."""
    users = {
        "common": {**minions.call("ops1", "pillar.raw", "common"), "users": {"joe": ["ssh-ed25519 AAAA joe"]}}
    }
    chunks = minions.call("ops1", "state.show_low_sls", "common", pillar=users)
    by_id = {(chunk["state"], chunk["__id__"]): chunk for chunk in chunks}
    assert by_id["file", "operator joe"]["contents"] == "ssh-ed25519 AAAA joe"
    assert by_id["user", "operator joe"]["groups"] == ["operators"]
    sudoers = by_id["file", "operators may use sudo"]
    if shutil.which("visudo", path=PATH):
        path = home / "sudoers"
        path.write_text(f"{sudoers['contents']}\n")
        path.chmod(0o440)
        assert judge(sudoers["check_cmd"], path).returncode == 0
