"use strict";
// The page works without this file: every change is a plain form. With it, forms are sent in the background, focus
// stays where it was, what is being typed is never touched, and other people's changes appear by themselves.
(() => {
  const byId = (id) => document.getElementById(id);
  const REFRESH = 5000; // milliseconds
  let busy = false;

  function say(text) {
    const line = document.createElement("p");
    line.className = "notice problem";
    line.textContent = text;
    byId("notice").replaceChildren(line);
  }

  function show(html) {
    const next = new DOMParser().parseFromString(html, "text/html");
    if (!next.getElementById("list")) throw new Error("not the list");
    // Focus is set below; the attribute is for browsers without script.
    for (const field of next.querySelectorAll("[autofocus]")) field.removeAttribute("autofocus");
    const focused = document.activeElement && document.activeElement.id;
    for (const id of ["top", "notice", "picture", "list", "served"]) {
      const fresh = next.getElementById(id);
      byId(id).replaceChildren(...fresh.childNodes);
      Object.assign(byId(id).dataset, fresh.dataset);
    }
    // What the flags say of the whole page. The text being typed is never touched.
    document.title = next.title;
    document.body.className = next.body.className;
    for (const scheme of ["light", "dark"]) {
      document.documentElement.style.setProperty("--ink-" + scheme, next.body.getAttribute("data-ink-" + scheme));
    }
    byId("title").readOnly = next.getElementById("title").readOnly;
    byId("save").disabled = next.getElementById("save").disabled;
    const editor = document.querySelector(".editing input[name=title]");
    const target = editor || byId("undo") || byId(focused);
    if (target) target.focus();
    return next;
  }

  async function load(url) {
    const response = await fetch(url, { headers: { Accept: "text/html" }, cache: "no-store" });
    return show(await response.text());
  }

  async function send(form) {
    const body = new URLSearchParams(new FormData(form));
    const response = await fetch(form.action, { method: "POST", body, headers: { Accept: "text/html" } });
    const next = show(await response.text());
    if (form.id !== "add") {
      // The server puts a text back here when the item it was meant for is gone.
      const rescued = next.getElementById("title").value;
      if (rescued) byId("title").value = rescued;
      const item = new URL(form.action).pathname.split("/")[2];
      if (document.activeElement === document.body && byId("edit-" + item)) byId("edit-" + item).focus();
      return;
    }
    if (!response.ok) return;
    if (form.elements.title.value === body.get("title")) form.elements.title.value = "";
    form.elements.key.value = next.querySelector("#add [name=key]").value;
    form.elements.title.focus();
  }

  async function alone(work) {
    if (busy) return;
    busy = true;
    try {
      await work();
    } catch {
      say("No answer from the server. What you typed is still here; try again in a moment.");
    } finally {
      busy = false;
    }
  }

  document.addEventListener("submit", (event) => {
    event.preventDefault();
    alone(() => send(event.target));
  });

  document.addEventListener("click", (event) => {
    const link = event.target.closest("#list a");
    if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    const item = link.closest("li").id.replace("item-", "edit-");
    alone(async () => {
      await load(link.href);
      if (link.id === "cancel" && byId(item)) byId(item).focus();
    });
  });

  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && byId("cancel")) byId("cancel").click();
  });

  async function refresh() {
    if (busy || document.hidden || document.querySelector(".editing") || byId("undo")) return;
    const mark = byId("list").dataset.mark;
    try {
      const response = await fetch("/api/items", { headers: { "If-None-Match": mark } });
      if (response.status !== 304 && response.headers.get("ETag") !== mark && !busy) await load("/");
    } catch {
      // The page keeps what it shows; the next round or the next action tells.
    }
  }

  // Told of changes while a stream is open; where there is none, it is asked for them now and then. What was heard while
  // an item was being edited or something was being sent is looked at again once that is over.
  let stream = null;
  let heard = null;
  function listen() {
    if (stream && stream.readyState !== EventSource.CLOSED) return;
    stream = new EventSource("/api/changes");
    stream.addEventListener("change", (event) => {
      heard = event.data;
      look();
    });
  }

  function look() {
    if (document.hidden) {
      // A page that nobody sees keeps no place that another could have.
      if (stream) stream.close();
      return;
    }
    listen();
    if (stream.readyState !== EventSource.OPEN || heard !== byId("list").dataset.mark) refresh();
  }

  if (location.search) history.replaceState(null, "", "/");
  if (!document.hidden) listen();
  setInterval(look, REFRESH);
  document.addEventListener("visibilitychange", look);
})();
