"""How soon the dashboard's page shows what happened, and what fifty pages cost."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import redis
from benching import Figure, main, median, percentile, report
from playwright.sync_api import Page, sync_playwright

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [
    str(TESTS / "functional"),
    *(str(TESTS.parent / each) for each in ("services", "services/flags/src")),
]

from dashboard_stand import DashboardStand, Painter, Viewer  # noqa: E402
from host import until  # noqa: E402
from traffic_stand import redis_server  # noqa: E402

AXE = TESTS / "browser/axe"
MACHINES = 200
# Notes when the wanted share on the page becomes another one, on the page's own clock, which is the host's.
WATCH = """() => {
  window.seen = {};
  const where = document.querySelector('#share');
  const look = () => {
    const is = where.querySelector('b').textContent;
    if (!(is in window.seen)) window.seen[is] = performance.timeOrigin + performance.now();
  };
  new MutationObserver(look).observe(where, {subtree: true, childList: true, characterData: true});
}"""


class World:
    """Two hundred machines that go on by themselves, and the dashboard before them."""

    def __init__(self, folder: Path) -> None:
        self.redis, port = redis_server(folder / "redis")
        self.client = redis.Redis(port=port, decode_responses=True)
        machines = {f"prod{n}": ("prod", "r1") for n in range(1, MACHINES)} | {"staging1": ("canary", "r2")}
        self.painter = Painter(self.client, machines)
        self.painter.begin()
        for ago in range(300, 0, -1):
            self.painter.second(400, ago_s=float(ago))
        self.stand = DashboardStand(folder, port).start()
        self._end = threading.Event()
        self._clock = threading.Thread(target=self._run, daemon=True)
        self._clock.start()

    def _run(self) -> None:
        while not self._end.wait(1.0):
            self.painter.second(300 + random.randrange(200))

    def close(self) -> None:
        self._end.set()
        self._clock.join()
        self.stand.process.end()
        self.redis.end()

    def processes(self) -> list[int]:
        """The dashboard's processes."""
        first = self.stand.process.pid
        children = Path(f"/proc/{first}/task/{first}/children").read_text().split()
        return [first, *map(int, children)]

    def cpu_s(self) -> float:
        """Processor time they have used, seconds."""
        used = 0.0
        for pid in self.processes():
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            used += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        return used

    def memory_mib(self) -> float:
        """Their memory, each shared page counted once (PSS), MiB."""
        total = 0
        for pid in self.processes():
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
            total += next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
        return total / 1024


def delays(world: World, page: Page, changes: int) -> list[float]:
    """Milliseconds from a write into Redis to the page showing it."""
    page.evaluate(WATCH)
    written = {}
    for share in random.sample(range(101), changes):
        time.sleep(random.uniform(0.6, 1.4))
        word = f"{share} %"
        if page.evaluate("document.querySelector('#share b').textContent") == word:
            continue
        written[word] = time.time() * 1000
        world.painter.registry.set_share(share, by="bench")
    time.sleep(2)
    seen = page.evaluate("window.seen")
    missing = [word for word in written if word not in seen]
    assert not missing, f"the page never showed {', '.join(missing)}"
    return sorted(seen[word] - at for word, at in written.items())


def watched(world: World, viewers: int, seconds: float) -> tuple[float, float]:
    """Per cent of a core and MiB that so many viewers cost."""
    ready = threading.Barrier(viewers + 1, timeout=60)
    over = threading.Event()

    def view() -> None:
        with Viewer(world.stand.port, 60) as viewer:
            for at, _ in enumerate(viewer.events()):
                if at == 0:
                    ready.wait()
                if over.is_set():
                    return

    threads = [threading.Thread(target=view, daemon=True) for _ in range(viewers)]
    for thread in threads:
        thread.start()
    ready.wait()
    used, began = world.cpu_s(), time.monotonic()
    time.sleep(seconds)
    cpu = 100 * (world.cpu_s() - used) / (time.monotonic() - began)
    memory = world.memory_mib()
    over.set()
    for thread in threads:
        thread.join(20)
    return cpu, memory


def bench(changes: int, viewers: int, seconds: int) -> dict[str, Any]:
    """Measure the dashboard before a fleet of 200 machines."""
    folder = Path(tempfile.mkdtemp(prefix="bench-dashboard"))
    world = World(folder)
    try:
        until(lambda: world.stand.picture().get("verdict", {}).get("verdict"), "the first verdict", 30)
        idle, _ = watched(world, 1, seconds)
        cpu, memory = watched(world, viewers, seconds)
        with sync_playwright() as playwright:
            chromium = playwright.chromium.launch(
                executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
            )
            context = chromium.new_context(bypass_csp=True)
            page = context.new_page()
            paints, drawn = [], []
            for _ in range(5):
                page.goto(world.stand.url)
                page.locator(".machine").nth(MACHINES - 1).wait_for(timeout=20_000)
                drawn.append(page.evaluate("performance.now()"))
                paints.append(
                    page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")
                )
            files = sum(
                len(world.stand.ask("GET", path).text.encode())
                for path in ("/", "/app.js", "/style.css", "/icon.svg")
            )
            state = len(world.stand.ask("GET", "/state").text.encode())
            seen = delays(world, page, changes)
            source = AXE / "node_modules/axe-core/axe.min.js"
            if not source.exists():
                subprocess.run(
                    ["npm", "ci", "--no-audit", "--no-fund"], cwd=AXE, check=True, capture_output=True
                )
            page.evaluate(source.read_text())
            faults = page.evaluate(
                "axe.run(document, {resultTypes: ['violations']}).then(found => found.violations.length)"
            )
            chromium.close()
    finally:
        world.close()
        shutil.rmtree(folder, ignore_errors=True)
    figures = [
        Figure("world to page p95", round(percentile(seen, 95)), "ms", "<= 1000", runs=_whole(seen)),
        Figure("world to page median", round(median(seen)), "ms"),
        Figure(f"{viewers} viewers, processor", round(cpu, 1), "% of a core", "<= 10"),
        Figure("one viewer, processor", round(idle, 1), "% of a core"),
        Figure(f"{viewers} viewers, memory", round(memory, 1), "MiB", "<= 120"),
        Figure("page weight", round(files / 1024, 1), "KiB", "<= 150"),
        Figure(f"first picture of {MACHINES} machines", round(state / 1024, 1), "KiB"),
        Figure("first paint", round(median(paints)), "ms", "<= 1000", runs=_whole(paints)),
        Figure(f"{MACHINES} machines drawn", round(median(drawn)), "ms", runs=_whole(drawn)),
        Figure("accessibility violations", faults, "", "<= 0"),
    ]  # fmt: skip
    return report("dashboard", figures)


def _whole(values: list[float]) -> list[float]:
    return [round(each) for each in values]


if __name__ == "__main__":
    main(
        bench,
        changes=(int, 40, "how many changes are timed"),
        viewers=(int, 50, "how many pages listen"),
        seconds=(int, 20, "how long they are watched"),
    )
