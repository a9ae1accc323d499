// The dashboard's page: keeps one document equal to the server's, and the page equal to the document.
// Whatever comes from the fleet reaches the page as text, never as markup.
"use strict";
(() => {
  const $ = (id) => document.getElementById(id);
  let picture = {};          // the document; never changed in place
  let drawn = {};            // the document as it was drawn last
  let guard = "";            // what every change must carry; empty: not signed in
  let chosen = null;         // the journal's answer for the chosen line: {id, causes, effects}
  let skew = 0;              // this clock minus the fleet's, seconds

  // --- a little DOM

  const SVG = "http://www.w3.org/2000/svg";
  function make(name, attributes, ...children) {
    const node = SVG_NAMES.has(name) ? document.createElementNS(SVG, name) : document.createElement(name);
    for (const [key, value] of Object.entries(attributes || {})) {
      if (key === "class") node.setAttribute("class", value);
      else if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
      else if (value === true) node.setAttribute(key, "");
      else if (value !== false && value !== undefined) node.setAttribute(key, value);
    }
    node.append(...children.filter((each) => each !== undefined && each !== null && each !== ""));
    return node;
  }
  const SVG_NAMES = new Set(["svg", "path", "text", "g", "circle", "line", "rect", "title"]);

  function say(node, text) { if (node.textContent !== text) node.textContent = text; }

  // Keeps a list of nodes equal to entries [key, value]; a node is drawn again only when its value is another one.
  function keyed(parent, entries, create, update) {
    const kept = parent.kept || (parent.kept = new Map());
    const wanted = new Set(entries.map(([key]) => key));
    for (const [key, node] of kept) if (!wanted.has(key)) { node.remove(); kept.delete(key); }
    let after = null;
    for (const [key, value] of entries) {
      let node = kept.get(key);
      if (!node) { node = create(key, value); kept.set(key, node); }
      if (node.shown !== value) { node.shown = value; update(node, value, key); }
      const place = after ? after.nextSibling : parent.firstChild;
      if (place !== node) parent.insertBefore(node, place);
      after = node;
    }
  }

  // Draws the inside of a node anew; what had the focus in it has it again, or what stands in its place.
  function refill(node, ...children) {
    const had = node.contains(document.activeElement) ? document.activeElement : null;
    node.replaceChildren(...children.filter((each) => each !== ""));
    if (!had) return;
    const name = had.getAttribute("aria-label") || had.textContent, all = [...node.querySelectorAll("button, select")];
    const again = all.find((each) => (each.getAttribute("aria-label") || each.textContent) === name) || all[0];
    if (again) again.focus();
  }

  const natural = new Intl.Collator("en", { numeric: true }).compare;
  const now = () => Date.now() / 1000 - skew;
  const pad = (n) => String(n).padStart(2, "0");
  function clock(at) { const d = new Date(at * 1000); return `${pad(d.getHours())}:${pad(d.getMinutes())}:${pad(d.getSeconds())}`; }
  function ago(at) {
    const s = Math.max(0, now() - at);
    if (s < 1.5) return "just now";
    if (s < 90) return `${Math.round(s)} s ago`;
    if (s < 5400) return `${Math.round(s / 60)} min ago`;
    if (s < 129600) return `${Math.round(s / 3600)} h ago`;
    return `${Math.round(s / 86400)} days ago`;
  }
  function took(ms) { return ms < 1000 ? `${ms} ms` : ms < 60000 ? `${(ms / 1000).toFixed(1)} s` : `${Math.round(ms / 60000)} min`; }
  const some = (value, unit = "") => (value === undefined ? "–" : `${value}${unit}`);

  const SHAPES = {
    good: ["well", "M8 1a7 7 0 1 0 0 14A7 7 0 0 0 8 1z"],
    warn: ["attention", "M8 1l7.5 14H.5z"],
    bad: ["not working", "M3 .5l5 5 5-5L15.5 3l-5 5 5 5-2.5 2.5-5-5-5 5L.5 13l5-5-5-5z"],
  };
  function shape(state) {
    const [word, path] = SHAPES[state] || SHAPES.warn;
    return make("svg", { class: "shape", viewBox: "0 0 16 16", role: "img", "aria-label": word }, make("path", { d: path }));
  }

  // --- the connection

  let source = null, heard = 0, waiting = 0, version = "";
  function connect() {
    clearTimeout(waiting);
    if (source) source.close();
    heard = Date.now();
    source = new EventSource("/events");
    source.addEventListener("state", (event) => { picture = JSON.parse(event.data); version = version || picture.version; alive(); draw(); });
    source.addEventListener("patch", (event) => { picture = merge(picture, JSON.parse(event.data)); alive(); draw(); });
    source.addEventListener("beat", alive);
    source.onerror = () => { lost(); if (source.readyState === EventSource.CLOSED) waiting = setTimeout(connect, 2000); };
  }
  function alive() { heard = Date.now(); $("live").classList.remove("lost"); say($("live-word"), "live"); }
  function lost() { $("live").classList.add("lost"); say($("live-word"), "connection lost, trying again"); }

  // RFC 7396; what did not change stays the same object, so that nothing is drawn twice.
  function merge(target, patch) {
    if (patch === null || typeof patch !== "object" || Array.isArray(patch)) return patch;
    const whole = target !== null && typeof target === "object" && !Array.isArray(target) ? { ...target } : {};
    for (const [key, value] of Object.entries(patch)) {
      if (value === null) delete whole[key]; else whole[key] = merge(whole[key], value);
    }
    return whole;
  }

  let pending = false;
  function draw() {
    if (pending) return;
    pending = true;
    requestAnimationFrame(() => {
      pending = false;
      const before = drawn;
      drawn = picture;
      const changed = (...names) => names.some((name) => before[name] !== picture[name]);
      if (changed("fleet")) { say($("fleet"), picture.fleet || ""); document.title = `Saltern ${picture.fleet || ""}`; }
      if (changed("revision")) say($("revision"), String(picture.revision || 0));
      if (changed("problems")) drawProblems(picture.problems || []);
      if (changed("machines")) { drawMachines(picture.machines || {}); announce(before.machines, picture.machines); }
      if (changed("split", "machines")) drawFlow(picture.split || {}, picture.machines || {});
      if (changed("traffic")) drawChart(picture.traffic || {});
      if (changed("split")) drawShare(picture.split || {});
      if (changed("steps")) drawSteps(picture.steps || {});
      if (changed("verdict")) drawVerdict(picture.verdict || {});
      if (changed("builds")) drawBuilds(picture.builds || {});
      if (changed("intents", "journal")) drawIntents(picture.intents || {}, picture.journal || {});
      if (changed("alerts", "silences")) drawAlerts(picture.alerts || {}, picture.silences || {});
      if (changed("flags")) drawFlags(picture.flags || {});
      if (changed("journal")) drawJournal(picture.journal || {});
    });
  }

  function drawProblems(problems) {
    $("problems").hidden = problems.length === 0;
    keyed($("problems").firstElementChild, problems.map((each) => [each, each]), () => make("li"), (node, each) => say(node, each));
  }

  // What a person who does not see the page must hear: machines whose state changed, at most a few at once.
  function announce(before, after) {
    if (!before || !after) return;
    const news = Object.keys(after).filter((id) => before[id] && before[id].state !== after[id].state)
      .map((id) => `${id}: ${after[id].word}`);
    const gone = Object.keys(before).filter((id) => !after[id]).map((id) => `${id} is gone`);
    const fresh = Object.keys(after).filter((id) => !before[id]).map((id) => `${id} is new`);
    const all = [...news, ...gone, ...fresh];
    if (all.length) say($("say"), all.length > 4 ? `${all.slice(0, 4).join("; ")} and ${all.length - 4} more` : all.join("; "));
  }

  // --- machines

  const GROUPS = [["prod", "Production"], ["staging", "Canary"], ["proxy", "Proxy"], ["redis", "Redis"], ["ops", "Operations"]];
  function drawMachines(machines) {
    const ids = Object.keys(machines).sort(natural);
    const counts = { good: 0, warn: 0, bad: 0 };
    for (const id of ids) counts[machines[id].state] += 1;
    keyed($("summary"), Object.entries(counts), (state) => {
      const node = make("span", { class: state }, shape(state), make("b"));
      node.title = SHAPES[state][0];
      return node;
    }, (node, count) => say(node.lastChild, String(count)));
    $("groups").classList.toggle("dense", ids.length > 48);
    const groups = GROUPS.map(([role, name]) => [role, ids.filter((id) => machines[id].role === role), name]).filter((each) => each[1].length);
    keyed($("groups"), groups.map((each) => [each[0], each]), ([role]) => make("div", {}, make("h3"), make("div", { class: "boxes", role: "list" })),
      (node, [role, members, name]) => {
        say(node.firstChild, `${name} · ${members.length}`);
        node.style.flex = `${members.length} 1 ${members.length * 12.2 + (members.length - 1) * 0.6}rem`;
        keyed(node.lastChild, members.map((id) => [id, machines[id]]), box, (each, row, id) => updateBox(each, row, id));
      });
  }

  function bar(name) {
    return make("div", { class: "bar" }, make("span", {}, name), make("i", { "aria-hidden": "true" }, make("b")), make("span"));
  }
  function box(id) {
    const node = make("div", { role: "listitem", "aria-label": id },
      make("div", { class: "top" }, make("span", { class: "mark" }), make("span", {}, id), make("span", { class: "rel mono" })),
      make("p", { class: "word" }), bar("CPU"), bar("memory"), make("p", { class: "facts" }),
      make("p", { class: "heard" }, make("span", { class: "dot", "aria-hidden": "true" }), make("span")),
      make("div", { class: "acts", hidden: true }));
    const [top, word, cpu, memory, facts, sign, acts] = node.children;
    Object.assign(node, { top, word, cpu, memory, facts, sign, acts });
    return node;
  }
  function updateBox(node, row, id) {
    node.setAttribute("class", `machine ${row.state}`);
    if (node.mark !== row.state) { node.mark = row.state; node.top.firstChild.replaceChildren(shape(row.state)); }
    say(node.top.lastChild, row.release || row.role);
    node.top.lastChild.title = row.release ? `release ${row.release}` : row.role;
    say(node.word, row.word);
    for (const [part, value] of [[node.cpu, row.cpu], [node.memory, row.memory]]) {
      say(part.lastChild, some(value, " %"));
      part.children[1].firstChild.style.transform = `scaleX(${Math.min(100, value || 0) / 100})`;
      part.classList.toggle("high", (value || 0) >= 50);
      part.hidden = row.cpu === undefined && row.memory === undefined;
    }
    const facts = row.pool
      ? [row.share === undefined ? "no requests yet" : `${row.share} % of requests`, row.rate === undefined ? "" : `${row.rate}/s`,
        row.response_ms === undefined ? "" : `${row.response_ms} ms`, row.sessions ? `${row.sessions} open` : ""]
      : [row.address || ""];
    say(node.facts, facts.filter(Boolean).join(" · "));
    beat(node);
    node.acts.hidden = !guard || !row.pool;
    if (guard && row.pool && node.want !== row.want) {
      node.want = row.want;
      const wants = row.want === "ready" ? [["drain", "Drain…"], ["maint", "Maintenance…"]] : [["ready", "Ready…"]];
      refill(node.acts, ...wants.map(([want, word]) => make("button", {
        type: "button", class: "quiet small", "aria-label": `${word.replace("…", "")} ${id}`,
        onclick: () => ask(`${word.replace("…", "")} ${id}?`, { do: "instance", id, want }),
      }, word)));
    }
  }
  function beat(node) {
    const at = node.shown.heard;
    say(node.sign.lastChild, at === undefined ? "not heard of" : `heard ${ago(at)}`);
    node.sign.classList.toggle("fresh", at !== undefined && now() - at < 15);
  }
  setInterval(() => {
    if (Date.now() - heard > 15000) { lost(); connect(); }
    // The service was renewed: its page may be another one. Nobody's half-written word is taken away for that.
    if (picture.version !== version && !document.querySelector("dialog[open]")) location.reload();
    for (const node of document.querySelectorAll(".machine")) beat(node);
    for (const node of document.querySelectorAll("time[data-ago]")) say(node, ago(Number(node.dataset.ago)));
  }, 1000);

  // --- traffic

  const flow = {};
  function pipe(pool, y) {
    const d = `M0 95 C 90 95 110 ${y} 200 ${y}`;
    flow[pool] = { pipe: make("path", { class: `pipe stroke-${pool}`, d }), run: make("path", { class: "run", d }) };
    return Object.values(flow[pool]);
  }
  function end(pool, name) {
    const parts = Object.assign(flow[pool], { share: make("b"), about: make("span"), release: make("span", { class: "mono" }) });
    return make("div", {}, parts.share, make("p", {}, make("strong", {}, name), parts.about, parts.release));
  }
  flow.svg = make("svg", { viewBox: "0 0 200 190", preserveAspectRatio: "none", role: "img" }, ...pipe("prod", 45), ...pipe("canary", 145));
  flow.sum = make("b");
  $("flow").append(make("div", { class: "sum" }, flow.sum, make("span", {}, "requests a second")), flow.svg,
    make("div", { class: "ends" }, end("prod", "production"), end("canary", "canary")));

  function drawFlow(split, machines) {
    const pools = split.pools || { prod: {}, canary: {} };
    const canary = split.effective === undefined ? split.measured || 0 : split.effective;
    const total = (pools.prod.rate || 0) + (pools.canary.rate || 0);
    for (const [pool, share] of [["prod", 100 - canary], ["canary", canary]]) {
      const held = Object.values(machines).filter((each) => each.pool === pool), up = held.filter((each) => each.state !== "bad").length;
      const part = flow[pool];
      part.pipe.style.strokeWidth = `${share === 0 ? 1.5 : 3 + share * 0.42}px`;
      part.pipe.classList.toggle("none", share === 0);
      part.run.classList.toggle("none", share === 0);
      say(part.share, `${share} %`);
      say(part.about, `${(pools[pool].rate || 0).toFixed(1)}/s${pools[pool].response_ms === undefined ? "" : ` · ${pools[pool].response_ms} ms`} · ${up} of ${held.length} up`);
      say(part.release, ((split.releases || {})[pool] || []).join(", "));
    }
    say(flow.sum, total >= 100 ? total.toFixed(0) : total.toFixed(1));
    flow.svg.classList.toggle("still", total === 0);
    flow.svg.setAttribute("aria-label", `Of all requests ${100 - canary} % go to production and ${canary} % to the canary; ${total.toFixed(1)} a second now.` +
      (split.measured === undefined ? "" : ` Measured over ten seconds: ${split.measured} % to the canary.`));
  }

  const chart = { most: make("span", { "aria-hidden": "true" }) };
  for (const part of ["prod", "canary", "errors"]) chart[part] = make("path", { class: `fill-${part}` });
  chart.svg = make("svg", { viewBox: "0 0 600 104", preserveAspectRatio: "none", role: "img" },
    make("line", { class: "grid", x1: 0, x2: 600, y1: 0.5, y2: 0.5 }), make("line", { class: "grid", x1: 0, x2: 600, y1: 98, y2: 98 }), chart.prod, chart.canary, chart.errors);
  $("chart").append(chart.most, chart.svg);

  function drawChart(traffic) {
    const times = Object.keys(traffic).sort((a, b) => a - b), last = times.length ? Number(times[times.length - 1]) : 0;
    const shown = times.filter((at) => last - at < 59.5), most = Math.max(4, ...shown.map((at) => traffic[at][0] + traffic[at][1]));
    const sums = [0, 0, 0], paths = ["", "", ""];
    for (const at of shown) {
      const [prod, canary, errors] = traffic[at], x = ((59 - (last - at)) * 10 + 1).toFixed(1);
      const p = (prod / most) * 96, c = (canary / most) * 96;
      if (prod) paths[0] += `M${x} 97v${(-p).toFixed(1)}h8v${p.toFixed(1)}z`;
      if (canary) paths[1] += `M${x} ${(97 - p).toFixed(1)}v${(-c).toFixed(1)}h8v${c.toFixed(1)}z`;
      if (errors) paths[2] += `M${x} 99h8v5h-8z`;
      [prod, canary, errors].forEach((count, index) => { sums[index] += count; });
    }
    [chart.prod, chart.canary, chart.errors].forEach((path, index) => path.setAttribute("d", paths[index]));
    say(chart.most, String(most));
    chart.svg.setAttribute("aria-label", `The last minute: ${sums[0]} requests to production, ${sums[1]} to the canary, ${sums[2]} errors.`);
  }

  // --- canary

  function drawShare(split) {
    const latch = split.latch;
    $("latch").hidden = !latch;
    if (latch) $("latch").replaceChildren(make("strong", {}, "The canary is off. "), `${latch.reason} (by ${latch.by}, `, when(latch.since), ")");
    const rows = [
      [`${some(split.share, " %")}`, "wanted"], [`${some(split.effective, " %")}`, "in effect"], [`${some(split.measured, " %")}`, "measured, 10 s"],
    ];
    keyed($("share"), [...rows.map(([value, name]) => [name, value]), ["why", split.why || ""]],
      (name) => (name === "why" ? make("span") : make("div", {}, make("b"), make("span", {}, name))),
      (node, value, name) => say(name === "why" ? node : node.firstChild, value));
    if (document.activeElement !== $("share-number") && document.activeElement !== $("share-range") && split.share !== undefined) {
      $("share-number").value = $("share-range").value = split.share;
    }
    say($("canary-switch"), latch ? "Turn on…" : "Turn off…");
    $("canary-switch").className = latch ? "quiet" : "danger";
  }
  const when = (at) => make("time", { "data-ago": String(at), datetime: new Date(at * 1000).toISOString() }, ago(at));

  const PHASES = { idle: "No release is on its way by steps.", stepping: "On its way", paused: "Paused: a person is asked", promoted: "Promoted", aborted: "Aborted" };
  function drawSteps(steps) {
    const busy = !["idle", "aborted", undefined].includes(steps.phase);
    keyed($("steps"), Object.keys(steps.shares || {}).sort(natural).map((share) => {
      const mark = !busy ? "" : Number(share) < steps.share ? "done" : Number(share) === steps.share ? "now" : "";
      return [share, mark];
    }), (share) => make("li", {}, `${share} %`), (node, mark) => {
      node.className = mark;
      if (mark === "now") node.setAttribute("aria-current", "step"); else node.removeAttribute("aria-current");
    });
    const words = [PHASES[steps.phase] || steps.phase || ""];
    if (steps.release) words.push(`release ${steps.release}`);
    if (steps.reason) words.push(steps.reason);
    say($("steps-word"), words.join(" · "));
    drawStepActs(steps.phase || "idle", steps.release || "");
  }

  // What a person may do with a release by steps, where it is.
  const STEP_ACTS = {
    idle: ["start"], aborted: ["start"], stepping: ["pause", "promote", "abort"], paused: ["resume", "promote", "abort"], promoted: ["abort"],
  };
  function drawStepActs(phase, release) {
    const node = $("step-acts"), key = `${guard !== ""} ${phase} ${release}`;
    node.hidden = !guard;
    if (!guard || node.drawn === key) { node.drawn = guard ? key : ""; return; }
    node.drawn = key;
    refill(node, ...(STEP_ACTS[phase] || []).map((command) => {
      const word = command[0].toUpperCase() + command.slice(1);
      return make("button", { type: "button", class: command === "abort" ? "danger" : "quiet",
        onclick: () => ask(`${word} ${command === "start" ? "the canary's release by steps" : release}?`, { do: "step", command, reason: "" }) }, `${word}…`);
    }));
  }

  const VERDICTS = { pass: "good", hold: "warn", fail: "bad" };
  function tag(state, word) { return make("span", { class: `tag ${state}` }, shape(state), word); }
  function drawVerdict(verdict) {
    $("verdict-table").hidden = !verdict.verdict;
    if (!verdict.verdict) { say($("verdict-word"), "Nothing to judge: in the last minutes no canary had a share."); return; }
    $("verdict-word").replaceChildren(tag(VERDICTS[verdict.verdict], verdict.verdict),
      ` ${verdict.reason} — over ${verdict.seconds} s: ${verdict.requests.canary} requests at the canary, ${verdict.requests.prod} at production.`);
    keyed($("verdict-table").querySelector("tbody"), Object.entries(verdict.metrics || {}),
      (name) => make("tr", {}, make("th", { scope: "row" }), make("td"), ...[0, 1, 2, 3, 4].map(() => make("td"))),
      (node, row, name) => {
        const [head, word, ...cells] = node.children;
        say(head, name);
        node.title = row.reason;
        word.replaceChildren(tag(VERDICTS[row.verdict], row.verdict));
        const unit = row.unit === "%" || row.unit === "percent" ? " %" : row.unit ? ` ${row.unit}` : "";
        [some(row.canary, row.canary === undefined ? "" : unit), some(row.prod, row.prod === undefined ? "" : unit), some(row.ratio), some(row.p), row.n]
          .forEach((text, at) => say(cells[at], text));
      });
  }

  // --- work, alerts, flags

  const STATES = { queued: ["warn", "waiting"], running: ["warn", "at work"], done: ["good", "done"], failed: ["bad", "failed"], refused: ["bad", "refused"] };
  function drawIntents(intents, journal) {
    const ids = Object.keys(intents).sort().reverse();
    $("no-intents").hidden = ids.length > 0;
    const caused = {};
    for (const [id, line] of Object.entries(journal)) (caused[line.cause] = caused[line.cause] || []).push([id, line]);
    keyed($("intents"), ids.map((id) => {
      const lines = (caused[intents[id].journal] || []).filter(([, line]) => !line.kind.startsWith("intent.")).sort();
      return [id, JSON.stringify({ ...intents[id], lines })];
    }), () => make("li"), (node, text) => {
      const each = JSON.parse(text);
      const [state, word] = STATES[each.state] || ["warn", each.state];
      node.className = state;
      const steps = each.lines.length
        ? each.lines.map(([, line]) => make("li", {}, `${clock(line.at)} ${line.kind} ${line.subject} ${line.what}`))
        : Object.entries(each.steps || {}).map(([name, facts]) => make("li", {}, `${name} ${facts}`));
      refill(node, make("div", { class: "head" }, tag(state, word), `${each.kind} ${each.pool}`),
        make("p", { class: "dim" }, `${each.args}${each.args ? " · " : ""}by ${each.by}, `, when(each.at), each.attempts ? ` · attempt ${each.attempts + 1}` : ""),
        each.error ? make("p", { class: "error" }, each.error) : "", steps.length ? make("ol", {}, ...steps) : "",
        each.journal ? make("button", { type: "button", class: "quiet small", onclick: () => why(each.journal) }, "Why?") : "");
    });
  }

  const ENDS = { queued: ["warn", "waiting"], running: ["warn", "at work"], passed: ["good", "passed"], failed: ["bad", "failed"], cancelled: ["warn", "cancelled"] };
  function drawBuilds(builds) {
    const ids = Object.keys(builds).sort((a, b) => builds[b].at - builds[a].at);
    $("no-builds").hidden = ids.length > 0;
    keyed($("build-list"), ids.map((id) => [id, builds[id]]), () => make("li"), (node, each, id) => {
      const [state, word] = ENDS[each.state] || ["warn", each.state];
      node.className = state;
      const facts = [each.tests.tests === undefined ? "" : `${each.tests.tests} tests`, each.coverage === undefined ? "" : `coverage ${each.coverage} %`,
        each.findings === undefined ? "" : `${each.findings} findings`, each.release ? `release ${each.release}` : "",
        each.target && each.state === "passed" ? `to ${each.target}${each.serving ? `, ${each.serving}` : ""}` : ""].filter(Boolean);
      const show = (part, name) => make("button", { type: "button", class: "quiet small", "aria-label": `${name} of build ${id}`, onclick: () => report(id, part, name) }, name);
      refill(node, make("div", { class: "head" }, tag(state, word), `${each.name} ${each.commit}`, each.state === "running" && each.stage ? make("span", { class: "dim" }, each.stage) : ""),
        make("p", { class: "dim" }, `${each.subject} · ${each.author}, `, when(each.at), each.took === undefined ? "" : ` · ${each.took} s`),
        facts.length ? make("p", {}, facts.join(" · ")) : "", each.why ? make("p", { class: "error" }, `${each.stage}: ${each.why}`) : "",
        Object.keys(each.stages).length ? make("ol", {}, ...Object.entries(each.stages).map(([name, words]) => make("li", {}, `${name}  ${words}`))) : "",
        make("div", { class: "acts" }, show("log", "Log"), each.tests.tests === undefined ? "" : show("tests", "Tests"), each.coverage === undefined ? "" : show("coverage", "Coverage")));
    });
  }

  function rows(heads, cells) {
    return make("table", {}, make("thead", {}, make("tr", {}, ...heads.map((head) => make("th", { scope: "col" }, head)))),
      make("tbody", {}, ...cells.map((row) => make("tr", {}, ...row.map((cell, at) => (at ? make("td", {}, String(cell)) : make("th", { scope: "row" }, String(cell))))))));
  }
  const REPORTS = {
    log: (found) => [found.whole ? "" : make("p", { class: "dim" }, "The end of it; the pipeline's own page has all."), make("pre", {}, found.log || "It said nothing.")],
    tests: (found) => [
      make("p", {}, `${found.counts.passed} passed, ${found.counts.failed} failed, ${found.counts.skipped} skipped.`),
      ...(found.failed.length ? [make("h3", {}, "Failed"), rows(["test", "why"], found.failed.map((each) => [each.name, each.why]))] : []),
      ...(found.slowest.length ? [make("h3", {}, "Slowest"), rows(["test", "seconds"], found.slowest.map((each) => [each.name, each.seconds.toFixed(2)]))] : []),
    ],
    coverage: (found) => [make("p", {}, `${found.percent} % of all lines; the least covered file first.`),
      rows(["file", "covered", "lines missing"], found.files.map((each) => [each.name, `${each.percent} %`, each.missing]))],
  };
  async function report(id, part, name) {
    const found = await call("GET", `/builds/${encodeURIComponent(id)}/${part}`);
    if (found.error) { toast(found.error); return; }
    say($("report-title"), `${name} of build ${id}`);
    $("report-body").replaceChildren(...REPORTS[part](found).filter(Boolean));
    $("report").showModal();
    $("report-body").scrollTop = part === "log" ? $("report-body").scrollHeight : 0;
  }

  function drawAlerts(alerts, silences) {
    const ids = Object.keys(alerts).sort((a, b) => (alerts[b].firing ? 1 : 0) - (alerts[a].firing ? 1 : 0) || alerts[b].since - alerts[a].since);
    $("no-alerts").hidden = ids.some((id) => alerts[id].firing);
    keyed($("alert-list"), ids.map((id) => [id, JSON.stringify([guard !== "", alerts[id]])]), () => make("li"), (node, text) => {
      const each = JSON.parse(text)[1];
      const state = !each.firing ? "good" : each.severity === "critical" ? "bad" : "warn";
      node.className = state;
      refill(node, make("div", { class: "head" }, tag(state, each.firing ? each.severity : "over"), each.summary),
        make("p", { class: "dim" }, `${each.name} · ${each.subject} · since `, when(each.since), each.value ? ` · ${each.value}` : "", each.limit ? `, limit ${each.limit}` : ""),
        each.details ? make("p", { class: "dim" }, each.details) : "",
        each.done ? make("p", {}, `The fleet: ${each.done}`) : "", each.undo ? make("p", { class: "mono" }, each.undo) : "",
        make("div", { class: "acts" }, each.journal ? make("button", { type: "button", class: "quiet small", onclick: () => why(each.journal) }, "Why?") : "",
          guard && each.firing ? make("button", { type: "button", class: "quiet small", "aria-label": `Silence ${each.name} of ${each.subject}`,
            onclick: () => ask(`Silence ${each.name} of ${each.subject}?`, { do: "silence", alert: each.name, machine: each.subject, hours: 2, reason: "" }) }, "Silence…") : ""));
    });
    $("silence-part").hidden = Object.keys(silences).length === 0;
    keyed($("silence-list"), Object.entries(silences).map(([id, each]) => [id, JSON.stringify([guard !== "", each])]), () => make("li"), (node, text, id) => {
      const each = JSON.parse(text)[1];
      refill(node, make("span", { class: "name" }, each.what), make("span", { class: "dim" }, `until ${each.until.slice(0, 16).replace("T", " ")} UTC, by ${each.by}: ${each.comment}`),
        guard ? make("span", { class: "end" }, make("button", { type: "button", class: "quiet small", "aria-label": `End the silence of ${each.what}`,
          onclick: () => ask(`End the silence of ${each.what}?`, { do: "unsilence", id }) }, "End…")) : "");
    });
  }

  function drawFlags(flags) {
    $("no-flags").hidden = Object.keys(flags).length > 0;
    keyed($("flag-list"), Object.entries(flags).map(([key, each]) => [key, JSON.stringify([guard !== "", each])]), () => make("li"), (node, text, key) => {
      const each = JSON.parse(text)[1];
      const value = (each.variants || {})[each.variant];
      const end = make("span", { class: "end" });
      if (guard) {
        const pick = make("select", { "aria-label": `Variant of ${key}` }, ...Object.entries(each.variants).map(([name, text]) =>
          make("option", { value: name, selected: name === each.variant }, text === name ? name : `${name} = ${text || "empty"}`)));
        pick.addEventListener("change", () => {
          const variant = pick.value;
          pick.value = each.variant;
          ask(`Set ${key} to ${variant}?`, { do: "flag", key, variant });
        });
        end.append(pick, make("button", { type: "button", class: "quiet small", "aria-label": `${each.on ? "Disable" : "Enable"} ${key}`,
          onclick: () => ask(`${each.on ? "Disable" : "Enable"} ${key}?`, { do: "flag.state", key, on: !each.on }) }, each.on ? "Disable…" : "Enable…"));
      } else end.append(make("span", {}, each.variant === undefined ? "the code's default" : value === each.variant ? each.variant : `${each.variant} = ${value || "empty"}`));
      refill(node, make("span", { class: "name" }, key), tag(each.on ? "good" : "warn", each.on ? "enabled" : "disabled"),
        each.targeted ? make("span", { class: "dim" }, "with targeting") : "", end);
    });
  }

  // --- journal

  const lineKey = (id) => id.split("-").map((each) => each.padStart(16, "0")).join("-");
  function drawJournal(journal) {
    const kinds = [...new Set(Object.values(journal).map((line) => line.kind.split(".")[0]))].sort();
    const pick = $("kind"), picked = pick.value;
    keyed(pick, [["", "everything"], ...kinds.map((kind) => [kind, kind])], (kind) => make("option", { value: kind }), (node, word) => say(node, word));
    const ids = Object.keys(journal).filter((id) => !picked || journal[id].kind.split(".")[0] === picked)
      .sort((a, b) => (lineKey(a) < lineKey(b) ? 1 : -1));
    keyed($("lines"), ids.map((id) => [id, journal[id]]), (id) => make("li", {},
      make("button", { type: "button", "aria-pressed": "false", onclick: () => why(id) }, make("time"), make("span", { class: "k" }), make("span", { class: "w" }), make("span", { class: "hidden" }))),
    (node, line) => {
      const [at, kind, what] = node.firstChild.children;
      say(at, clock(line.at));
      at.setAttribute("datetime", new Date(line.at * 1000).toISOString());
      say(kind, `${line.kind} ${line.subject}`);
      say(what, `${line.what}${line.who ? ` · by ${line.who}` : ""}`);
    });
    light();
  }
  $("kind").addEventListener("change", () => drawJournal(picture.journal || {}));

  // The causes of what is chosen light up, and what came of it is marked.
  function light() {
    for (const [id, node] of $("lines").kept || []) {
      const own = chosen !== null && id === chosen.id, cause = chosen !== null && chosen.causes.has(id), effect = chosen !== null && chosen.effects.has(id);
      node.classList.toggle("lit", cause && !own);
      node.classList.toggle("led", effect);
      node.firstChild.setAttribute("aria-pressed", String(own));
      say(node.firstChild.lastChild, own ? "" : cause ? "cause" : effect ? "effect" : "");
    }
  }

  async function why(question) {
    const shown = $("why-answer");
    $("why").querySelector(".empty").hidden = true;
    const answer = await call("GET", `/why?q=${encodeURIComponent(question)}`);
    if (answer.error) { chosen = null; light(); shown.replaceChildren(make("p", { class: "error" }, answer.error)); return; }
    const own = answer.chain[answer.chain.length - 1];
    chosen = { id: own.line, causes: new Set(answer.chain.map((each) => each.line)), effects: new Set(answer.effects.map((each) => each.line)) };
    const row = (each) => make("li", {},
      make("time", {}, each.at ? fine(stamp(each.at)) : ""), " ",
      each.after_ms === null || each.after_ms === undefined ? "" : make("span", { class: "took" }, `+${took(each.after_ms)} `),
      make("span", {}, each.what), each.who ? make("span", { class: "dim" }, ` by ${each.who}`) : "");
    const first = answer.chain.find((each) => each.at), spent = first && own.at ? stamp(own.at) - stamp(first.at) : 0;
    shown.replaceChildren(
      make("p", {}, answer.chain.length === 1 ? "Nothing led to it: it is where the chain begins." : `${answer.chain.length - 1} ${answer.chain.length === 2 ? "thing" : "things"} led to it, in ${took(Math.round(spent))} from the first to this.`),
      make("ol", { class: "chain" }, ...answer.chain.map(row)),
      ...(answer.effects.length ? [make("h3", {}, `${answer.effects.length} came of it`), make("ol", { class: "chain" }, ...answer.effects.slice(0, 20).map(row))] : []));
    light();
    const node = ($("lines").kept || new Map()).get(own.line);
    if (node) node.scrollIntoView({ block: "nearest" });
  }
  const fine = (ms) => `${clock(ms / 1000)}.${String(Math.round(ms) % 1000).padStart(3, "0")}`;
  const stamp = (text) => Date.parse(text.replace(" UTC", "Z").replace(" ", "T"));
  $("ask").addEventListener("submit", (event) => { event.preventDefault(); if ($("question").value.trim()) why($("question").value.trim()); });

  // --- changing something

  async function call(method, path, body) {
    const headers = guard ? { "X-CSRF-Token": guard } : {};
    if (body !== undefined) headers["Content-Type"] = "application/json";
    try {
      const answer = await fetch(path, { method, headers, body: body === undefined ? undefined : JSON.stringify(body) });
      const found = await answer.json();
      if (answer.status === 401 && path !== "/session") signed("");
      return answer.ok ? found : { error: found.error || `the server answered ${answer.status}` };
    } catch (error) {
      return { error: `the dashboard does not answer (${error.message})` };
    }
  }

  function signed(secret) {
    guard = secret;
    say($("sign"), guard ? "Sign out" : "Sign in to change");
    for (const node of document.querySelectorAll(".signed")) node.hidden = !guard;
    for (const node of document.querySelectorAll(".machine")) { node.want = undefined; updateBox(node, node.shown, node.getAttribute("aria-label")); }
    drawFlags(picture.flags || {});
    drawAlerts(picture.alerts || {}, picture.silences || {});
    drawSteps(picture.steps || {});
  }

  let toasting = 0;
  function toast(text) {
    $("toast").hidden = false;
    say($("toast"), text);
    clearTimeout(toasting);
    toasting = setTimeout(() => { $("toast").hidden = true; }, 6000);
  }

  $("sign").addEventListener("click", async () => {
    if (!guard) { say($("sign-error"), ""); $("sign-dialog").showModal(); return; }
    await call("DELETE", "/session", {});
    signed("");
    toast("Signed out.");
  });
  $("sign-dialog").querySelector("form").addEventListener("submit", async (event) => {
    event.preventDefault();
    const answer = await call("POST", "/session", { token: $("token").value.trim() });
    if (answer.error) { say($("sign-error"), answer.error); $("token").focus(); return; }
    $("token").value = "";
    signed(answer.csrf);
    $("sign-dialog").close();
    toast("Signed in. Every change is asked about first.");
  });
  for (const node of document.querySelectorAll("[data-close]")) node.addEventListener("click", () => node.closest("dialog").close());

  // Ask whether something shall be done, having said what will happen.
  let asked = null;
  async function ask(title, action) {
    asked = action;
    say($("confirm-title"), title);
    say($("confirm-error"), "");
    const needs = "reason" in action, lasts = "hours" in action;
    $("reason-part").hidden = !needs;
    $("reason").value = "";
    $("reason").required = needs;
    $("hours-part").hidden = !lasts;
    $("hours").value = lasts ? action.hours : "2";
    const plan = await call("POST", "/plan", needs ? { ...action, reason: "by hand" } : action);
    if (plan.error) { toast(plan.error); return; }
    $("confirm-will").replaceChildren(...plan.will.map((each) => make("li", {}, each)));
    $("confirm").showModal();
  }
  // Another number of hours is another thing that will happen.
  $("hours").addEventListener("change", async () => {
    asked = { ...asked, hours: Number($("hours").value) };
    const plan = await call("POST", "/plan", { ...asked, reason: "by hand" });
    say($("confirm-error"), plan.error || "");
    if (plan.will) $("confirm-will").replaceChildren(...plan.will.map((each) => make("li", {}, each)));
  });
  $("confirm").querySelector("form").addEventListener("submit", async (event) => {
    event.preventDefault();
    const action = { ...asked };
    if ("reason" in action) action.reason = $("reason").value.trim();
    $("confirm-go").disabled = true;
    const answer = await call("POST", "/actions", action);
    $("confirm-go").disabled = false;
    if (answer.error) { say($("confirm-error"), answer.error); return; }
    $("confirm").close();
    toast(answer.text || (answer.changed ? "Done." : "Nothing changed: it was so already."));
  });

  $("share-range").addEventListener("input", () => { $("share-number").value = $("share-range").value; });
  $("share-number").addEventListener("input", () => { $("share-range").value = $("share-number").value; });
  $("share-form").addEventListener("submit", (event) => {
    event.preventDefault();
    const share = Number($("share-number").value);
    ask(`Set the canary's share to ${share} %?`, { do: "share", share });
  });
  $("canary-switch").addEventListener("click", () => {
    if ((picture.split || {}).latch) ask("Turn the canary on?", { do: "canary.on" });
    else ask("Turn the canary off?", { do: "canary.off", reason: "" });
  });

  connect();
  call("GET", "/session").then((answer) => { if (answer.signed_in) signed(answer.csrf); });
})();
