/*
Undo and redo: each change of the selection is an entry of the browser's history. Changes of the same
kind in quick succession, such as moves by an arrow key, are one entry.

A reload keeps what the reader typed but did not run, and what was scrolled.
*/
(function () {
  "use strict";

  const TOGETHER_MS = 1000;
  const [LAST_STEP, DRAFT] = ["stratascope.last-step", "stratascope.draft"];
  const SCROLL_DELAYS_MS = [0, 500, 1500]; // the views are drawn meanwhile
  let last = { kind: "", time: -TOGETHER_MS };
  let waiting = 0; // steps to go when the server has answered what the reader did before

  function step() {
    return window.history.state?.step ?? 0;
  }

  function read(name) {
    try {
      return JSON.parse(window.sessionStorage.getItem(name));
    } catch {
      return null; // the reader allows no storage
    }
  }

  function write(name, value) {
    try {
      window.sessionStorage.setItem(name, JSON.stringify(value));
    } catch {
      // the reader allows no storage
    }
  }

  /* Puts the address of the selection into the browser's history. */
  function record({ query, push, kind }) {
    const { pathname, search } = window.location;
    if (query === search) {
      return;
    }
    const now = performance.now();
    const isSame = kind !== "run" && kind === last.kind && now - last.time <= TOGETHER_MS;
    const isNew = push && !isSame;
    if (isNew) {
      write(LAST_STEP, step() + 1);
      window.history.pushState({ step: step() + 1 }, "", pathname + query);
    } else {
      window.history.replaceState({ step: step() }, "", pathname + query);
    }
    last = { kind: push ? kind : "", time: now };
    showButtons();
  }

  /*
  Goes to the entry before (-1) or after (1), if it belongs to this page. A selection gets its entry
  when the server answers; until then the step waits.
  */
  function go(direction) {
    if (window.stratascope.page.awaitsEntry()) {
      waiting += direction;
      return;
    }
    const target = step() + direction;
    if (target >= 0 && target <= (read(LAST_STEP) ?? 0)) {
      last = { kind: "", time: -TOGETHER_MS };
      window.history.go(direction);
    }
  }

  /* Makes the step that waited. */
  function resume() {
    if (waiting !== 0 && !window.stratascope.page.awaitsEntry()) {
      const direction = Math.sign(waiting);
      waiting = 0;
      go(direction);
    }
  }

  function showButtons() {
    const able = { "-1": step() > 0, 1: step() < (read(LAST_STEP) ?? 0) };
    for (const button of document.querySelectorAll("[data-step]")) {
      button.disabled = !able[button.dataset.step];
    }
  }

  function onKey(event) {
    const isUndo = (event.ctrlKey || event.metaKey) && !event.altKey && /^[zZ]$/.test(event.key);
    if (isUndo && !event.target.closest("input, textarea")) {
      event.preventDefault();
      go(event.shiftKey ? 1 : -1);
    }
  }

  function onClick(event) {
    const button = event.target.closest("[data-step]");
    if (button && !button.disabled) {
      go(Number(button.dataset.step));
    }
  }

  function onPopState() {
    last = { kind: "", time: -TOGETHER_MS };
    const url = window.location.search;
    const isOwn = window.history.state?.step !== undefined;
    window.stratascope.page.report(isOwn ? { url, undo: true } : { url });
    showButtons();
  }

  /* ------------------------------------------------------------ reloads */

  function keepDraft() {
    const scrolled = [...document.querySelectorAll("[id]")]
      .filter((each) => each.scrollTop > 0 || each.scrollLeft > 0)
      .map((each) => [each.id, each.scrollLeft, each.scrollTop]);
    const { readForm } = window.stratascope.controls;
    write(DRAFT, { search: window.location.search, form: readForm(), scrolled });
  }

  /* What was kept of this page, if it was reloaded. */
  function takeDraft() {
    const draft = read(DRAFT);
    const [navigation] = performance.getEntriesByType("navigation");
    if (navigation?.type !== "reload" || draft?.search !== window.location.search) {
      return {};
    }
    for (const delay of SCROLL_DELAYS_MS) {
      setTimeout(() => draft.scrolled.forEach(scroll), delay);
    }
    return draft.form;
  }

  function scroll([id, left, top]) {
    Object.assign(document.getElementById(id) ?? {}, { scrollLeft: left, scrollTop: top });
  }

  document.addEventListener("keydown", onKey);
  document.addEventListener("click", onClick, true);
  window.addEventListener("popstate", onPopState);
  window.addEventListener("pagehide", keepDraft);

  window.stratascope.undo = { record, resume, takeDraft };
})();
