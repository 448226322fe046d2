// Times in the viewer's zone, pages that read themselves anew when they hear of a change, their link, and the theme.
"use strict";

(() => {
  const root = document.documentElement;
  const lamp = document.getElementById("lamp");

  function tellTimes(within) {
    for (const time of within.querySelectorAll("time[datetime]")) {
      const at = new Date(time.dateTime);
      if (Number.isNaN(at.getTime())) continue;
      time.textContent = at.toLocaleString(undefined, { dateStyle: "medium", timeStyle: "medium" });
      time.title = time.dateTime;
    }
  }

  // Addresses have times in UTC, and without scripts so has the form that makes them.
  for (const input of document.querySelectorAll("input[type=datetime-local]")) {
    const at = new Date(`${input.defaultValue}Z`);
    if (!Number.isNaN(at.getTime())) {
      input.value = new Date(at - at.getTimezoneOffset() * 60000).toISOString().slice(0, -1);
    }
    input.parentElement.querySelector(".utc").hidden = true;
    input.form.addEventListener("formdata", ({ formData }) => {
      if (input.value) formData.set(input.name, new Date(input.value).toISOString().slice(0, input.value.length));
    });
  }

  // The theme: that of the system, unless the viewer has chosen.
  const theme = document.getElementById("theme");
  const themes = ["system", "light", "dark"];
  function kept() {
    try { return localStorage.getItem("theme") || "system"; } catch { return "system"; }
  }
  function wear(name) {
    if (name === "system") delete root.dataset.theme; else root.dataset.theme = name;
    if (theme) theme.textContent = `Theme: ${name}`;
  }
  wear(kept());
  if (theme) {
    theme.hidden = false;
    theme.addEventListener("click", () => {
      const next = themes[(themes.indexOf(kept()) + 1) % themes.length];
      try { localStorage.setItem("theme", next); } catch { /* it lasts as long as the page */ }
      wear(next);
    });
  }

  // The address is that of what is seen: filters are in it, and what was opened stands behind its #.
  const share = document.getElementById("share");
  if (share && navigator.clipboard) {
    const word = share.textContent;
    share.hidden = false;
    share.addEventListener("click", async () => {
      try {
        await navigator.clipboard.writeText(location.href);
        share.textContent = "Copied";
        setTimeout(() => { share.textContent = word; }, 2000);
      } catch {
        prompt("The link of this page:", location.href);
      }
    });
  }
  const pointed = document.getElementById(location.hash.slice(1));
  if (pointed instanceof HTMLDetailsElement) pointed.open = true;
  document.addEventListener("toggle", (event) => {
    const { id, open } = event.target;
    if (id && open) history.replaceState(null, "", `#${id}`);
    else if (id && location.hash === `#${id}`) history.replaceState(null, "", location.pathname + location.search);
  }, true);

  // What was chosen, opened, focused and scrolled to stays so when a part of the page is replaced.
  function keep(old, fresh) {
    for (const box of old.querySelectorAll("input[type=checkbox]:checked")) {
      const same = fresh.querySelector(`input[type=checkbox][value="${CSS.escape(box.value)}"]`);
      if (same) same.checked = true;
    }
    for (const open of old.querySelectorAll("details[open][id]")) {
      const same = fresh.querySelector(`#${CSS.escape(open.id)}`);
      if (same) same.open = true;
    }
  }

  function place(old, fresh) {
    const scrolled = [...old.querySelectorAll(".wide")].map((part) => part.scrollLeft);
    const focusable = "a, button, input, summary, [tabindex]";
    const focused = [...old.querySelectorAll(focusable)].indexOf(document.activeElement);
    keep(old, fresh);
    old.replaceWith(fresh);
    fresh.querySelectorAll(".wide").forEach((part, index) => { part.scrollLeft = scrolled[index] || 0; });
    if (focused >= 0) fresh.querySelectorAll(focusable)[focused]?.focus({ preventScroll: true });
  }

  // Nothing is replaced under a finger or a button that is held down: the click would be lost.
  let released = null;
  let release = () => {};
  addEventListener("pointerdown", () => { released ??= new Promise((done) => { release = done; }); }, true);
  for (const end of ["pointerup", "pointercancel", "dragend"]) {
    addEventListener(end, () => setTimeout(() => { release(); released = null; }), true);
  }

  // Nor is text that is selected, so that it can be copied: its part is read anew when nothing is selected any more.
  let held = false;
  function isSelected(part) {
    const selection = getSelection();
    return !selection.isCollapsed && selection.getRangeAt(0).intersectsNode(part);
  }
  document.addEventListener("selectionchange", () => {
    if (!held || !getSelection().isCollapsed) return;
    held = false;
    refresh();
  });

  let reading = false;
  let again = false;
  let hurried = false;
  let hurry = () => {};
  async function refresh(isLast = false) {
    if (isLast) { hurried = true; hurry(); }
    if (reading) { again = true; return; }
    reading = true;
    hurried = false;
    try {
      const begun = performance.now();
      const answer = await fetch(location.href, { headers: { accept: "text/html" } });
      if (answer.ok) {
        const page = new DOMParser().parseFromString(await answer.text(), "text/html");
        await Promise.race([released, new Promise((done) => setTimeout(done, 2000, released))]);
        for (const old of document.querySelectorAll("[data-live][id]")) {
          const fresh = page.getElementById(old.id);
          if (!fresh) continue;
          tellTimes(fresh);
          if (fresh.outerHTML === old.outerHTML) continue;
          if (isSelected(old)) held = true; else place(old, document.adoptNode(fresh));
        }
        document.title = page.title;
      } else if (answer.status === 401 || answer.status === 404) {
        location.reload();
      }
      // A page that takes long to make is made less often, so that making it takes a twentieth of the time; a run's end
      // is shown at once.
      const rest = Math.min(5000, 19 * (performance.now() - begun));
      if (!hurried) await new Promise((done) => { hurry = done; setTimeout(done, rest); });
    } catch {
      shine(false);
    } finally {
      reading = false;
      if (again) { again = false; refresh(); }
    }
  }

  function shine(isLive) {
    if (!lamp) return;
    lamp.hidden = false;
    lamp.classList.toggle("away", !isLive);
    lamp.textContent = isLive ? "live" : "not connected";
  }

  const stream = document.body.dataset.stream;
  if (stream && "EventSource" in window) {
    let lost = false;
    let source;
    const listen = () => {
      source?.close();
      if (document.hidden) return;
      source = new EventSource(stream);
      source.addEventListener("open", () => {
        shine(true);
        if (lost) refresh();
        lost = false;
      });
      source.addEventListener("error", () => {
        lost = true;
        shine(false);
        // After an answer that is an error the browser does not ask again.
        if (source.readyState === EventSource.CLOSED) setTimeout(listen, 5000);
      });
      source.addEventListener("away", () => { lost = true; shine(false); });
      source.addEventListener("change", (event) => { shine(true); refresh(JSON.parse(event.data).what === "run.ended"); });
    };
    listen();
    // What goes on takes longer and longer, without an event.
    setInterval(() => {
      const goesOn = document.querySelector(".state-running, .state-open, .state-pending, .bar-running");
      if (goesOn && !document.hidden && !lost) refresh();
    }, 5000);
    // A browser has six connections to a server: a page that nobody sees leaves its own to the others.
    document.addEventListener("visibilitychange", () => { lost = true; listen(); });
    addEventListener("pagehide", () => source?.close());
    addEventListener("pageshow", (event) => { if (event.persisted) location.reload(); });
  }

  // Forms that end something ask first.
  document.addEventListener("submit", (event) => {
    const question = event.submitter?.dataset.ask || event.target.dataset.confirm;
    if (question && !confirm(question)) event.preventDefault();
  });

  const all = document.getElementById("all");
  if (all) {
    all.closest("[hidden]").hidden = false;
    all.addEventListener("change", () => {
      for (const box of document.querySelectorAll("input[name=run]")) box.checked = all.checked;
    });
  }

  tellTimes(document);
})();
