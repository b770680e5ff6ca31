"use strict";
(() => {
  const EVERY = 2000;
  const PATIENCE = 8000;
  const at = (id) => document.getElementById(id);
  const live = at("live");
  let paused = false;
  let refused = false;
  let timer = 0;
  let asking = null;

  // Changes `from` into `to` where they differ, so that focus, scrolling, selections and what has been
  // folded stay. What is marked `data-keep` belongs to this script.
  const sync = (from, to) => {
    if (from.nodeType !== Node.ELEMENT_NODE) {
      if (from.data !== to.data) from.data = to.data;
      return;
    }
    if (from.hasAttribute("data-keep")) return;
    const own = from.nodeName === "DETAILS" ? "open" : "";
    for (const { name, value } of to.attributes) {
      if (name !== own && from.getAttribute(name) !== value) from.setAttribute(name, value);
    }
    for (const { name } of [...from.attributes]) {
      if (name !== own && !to.hasAttribute(name)) from.removeAttribute(name);
    }
    children(from, to);
  };

  const keyOf = (node) => (node.dataset ? node.dataset.key || node.id : "") || "";

  const children = (from, to) => {
    const known = new Map();
    for (const child of from.children) {
      const key = keyOf(child);
      if (key && !known.has(key)) known.set(key, child);
    }
    let next = from.firstChild;
    for (const child of [...to.childNodes]) {
      const key = keyOf(child);
      let same = null;
      if (key) {
        same = known.get(key) || null;
        known.delete(key);
      } else if (next && !keyOf(next) && next.nodeName === child.nodeName) {
        same = next;
      }
      if (!same || same.nodeName !== child.nodeName) {
        from.insertBefore(child, next);
        continue;
      }
      if (same === next) next = next.nextSibling;
      else from.insertBefore(same, next);
      sync(same, child);
    }
    while (next) {
      const gone = next;
      next = next.nextSibling;
      gone.remove();
    }
  };

  const say = (state, word) => {
    at("state").className = "state " + state;
    at("said").textContent = word;
  };

  const lost = (why) => {
    // By the gateway's clock, as all that is shown.
    const since = live.querySelector(".pulse time").textContent;
    at("lost").textContent = why || "No answer since " + since + " UTC. What is shown is as of then.";
    at("lost").hidden = false;
    say("lost", "lost");
  };

  const filter = () => {
    const words = at("filter").querySelector("input").value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const pool of document.querySelectorAll(".pool")) {
      let here = 0;
      for (const row of pool.querySelectorAll("tbody tr")) {
        const text = row.textContent.toLowerCase() + " " + pool.querySelector("summary b").textContent.toLowerCase();
        const fits = words.every((word) => text.includes(word));
        row.hidden = !fits;
        if (fits) here += 1;
      }
      pool.hidden = words.length > 0 && here === 0;
      if (words.length > 0 && here > 0) pool.open = true;
      shown += here;
    }
    at("nobody").hidden = words.length === 0 || shown > 0;
  };

  const ask = async () => {
    clearTimeout(timer);
    if (paused || refused || document.hidden || asking) return;
    asking = new AbortController();
    const patience = setTimeout(() => asking.abort(), PATIENCE);
    try {
      // The address of the page may hold the key, and nothing can be fetched relative to such a one.
      const answer = await fetch(location.origin + "/console/live", { cache: "no-store", signal: asking.signal });
      if (answer.status === 401 || answer.status === 403) {
        // Asking on would have the browser ask for a key again and again.
        refused = true;
        lost("The gateway does not show this page any more: reload it.");
      } else if (!answer.ok) {
        throw new Error(String(answer.status));
      } else {
        const text = await answer.text();
        const parsed = new DOMParser().parseFromString("<!doctype html><div>" + text + "</div>", "text/html");
        children(live, parsed.body.firstElementChild);
        // The filter has hidden rows; it does so again.
        filter();
        document.title = live.querySelector("[data-title]").dataset.title;
        at("lost").hidden = true;
        if (!paused) say("", "live");
      }
    } catch {
      lost();
    } finally {
      clearTimeout(patience);
      asking = null;
      if (!paused && !refused && !document.hidden) timer = setTimeout(ask, EVERY);
    }
  };

  at("pause").addEventListener("click", () => {
    paused = !paused;
    at("pause").textContent = paused ? "Resume" : "Pause";
    say(paused ? "paused" : "", paused ? "paused" : "live");
    if (paused) clearTimeout(timer);
    else ask();
  });
  at("filter").addEventListener("input", filter);
  document.addEventListener("visibilitychange", () => (document.hidden ? clearTimeout(timer) : ask()));
  for (const id of ["state", "pause", "filter"]) at(id).hidden = false;
  timer = setTimeout(ask, EVERY);
})();
