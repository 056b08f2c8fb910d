/*
The first minute. On the first visit, once a result is shown, the steps of `#tour` appear one after
the other beside the parts that they point at. A step without a visible target is left out. The
browser remembers that the tour was shown; a button with `data-tour="start"` shows it again.
A program that drives the browser is no first visitor, so it sees no tour unless it starts it.
*/
(function () {
  "use strict";

  const SEEN = "stratascope-tour";
  const GAP = 10; // pixels between a step and its target
  let current = -1;
  let before = null; // the element that had the focus

  function steps() {
    return [...document.querySelectorAll("#tour [data-tour-target]")];
  }

  function targetOf(step) {
    const target = document.querySelector(step.dataset.tourTarget);
    return target?.getClientRects().length ? target : null;
  }

  function show(index) {
    const all = steps();
    clear();
    current = all.findIndex((step, at) => at >= index && targetOf(step));
    if (current < 0) {
      end();
      return;
    }
    const step = all[current];
    const target = targetOf(step);
    target.scrollIntoView({ block: "nearest" });
    target.dataset.toured = ""; // a class would go when the picture is drawn
    step.hidden = false;
    place(step, target.getBoundingClientRect());
    step.focus({ preventScroll: true });
  }

  /* Where a step stands: below its target, right of it, left of it, above it, or in the corner. */
  function placeFor(target, { width, height }, room) {
    const within = (value, size, whole) => Math.max(GAP, Math.min(value, whole - size - GAP));
    const x = within(target.left, width, room.width);
    const y = within(target.top, height, room.height);
    const places = [
      [x, target.bottom + GAP],
      [target.right + GAP, y],
      [target.left - GAP - width, y],
      [x, target.top - GAP - height],
    ];
    const fits = ([left, top]) =>
      left >= 0 && top >= 0 && left + width <= room.width && top + height <= room.height;
    return places.find(fits) ?? [room.width - width - GAP, room.height - height - GAP];
  }

  function place(step, target) {
    const size = { width: step.offsetWidth, height: step.offsetHeight };
    const room = { width: window.innerWidth, height: window.innerHeight };
    const [left, top] = placeFor(target, size, room);
    step.style.left = `${left}px`;
    step.style.top = `${top}px`;
  }

  function clear() {
    document.querySelectorAll("[data-toured]").forEach((each) => delete each.dataset.toured);
    steps().forEach((step) => (step.hidden = true));
  }

  function start() {
    document.querySelector("#tour [data-later]")?.dispatchEvent(new CustomEvent("draw"));
    before = document.activeElement;
    show(0);
  }

  function end() {
    if (current >= 0) {
      before?.focus?.({ preventScroll: true });
    }
    clear();
    current = -1;
    remember();
  }

  /* A browser that stores nothing sees the tour at each visit, and can skip it. */
  function remember() {
    try {
      window.localStorage.setItem(SEEN, "yes");
    } catch {
      // The page works without it.
    }
  }

  function wasSeen() {
    try {
      return window.localStorage.getItem(SEEN) !== null;
    } catch {
      return false;
    }
  }

  function onClick(event) {
    const action = event.target.closest?.("[data-tour]")?.dataset.tour;
    if (action === "start") {
      start();
    } else if (action === "next") {
      show(current + 1);
    } else if (action === "end") {
      end();
    }
  }

  /* Escape ends the tour only. A maximised panel or a side sheet stays as it is. */
  function onKey(event) {
    if (current >= 0 && event.key === "Escape" && !event.defaultPrevented) {
      event.preventDefault();
      end();
    }
  }

  function startOnFirstVisit() {
    if (wasSeen() || navigator.webdriver) {
      return;
    }
    const root = document.documentElement;
    const observer = new MutationObserver(() => {
      if (root.dataset.run === "shown") {
        observer.disconnect();
        setTimeout(start, 800); // the pictures of the first result are drawn by then
      }
    });
    observer.observe(root, { attributes: true, attributeFilter: ["data-run"] });
  }

  document.addEventListener("click", onClick);
  // In the capture phase, so that the workspace and the side sheet see that the key is used.
  document.addEventListener("keydown", onKey, true);
  window.addEventListener("resize", () => {
    const step = steps()[current];
    const target = step && targetOf(step);
    if (target) {
      place(step, target.getBoundingClientRect());
    }
  });
  startOnFirstVisit();
  window.stratascope = { ...window.stratascope, tour: { placeFor } };
})();
