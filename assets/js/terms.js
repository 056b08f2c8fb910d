/*
Definitions of terms. An element with `data-definition` shows it in one shared tooltip while the
pointer is over it or over the tooltip, or while it has the keyboard focus. Escape hides it.
*/
(function () {
  "use strict";

  const HIDE_DELAY_MS = 150; // time to move the pointer from the term to the tooltip
  let tooltip = null;
  let shownFor = null;
  let timer = 0;

  function makeTooltip() {
    tooltip = document.createElement("div");
    tooltip.id = "definition";
    tooltip.className = "definition";
    tooltip.setAttribute("role", "tooltip");
    tooltip.hidden = true;
    tooltip.addEventListener("mouseenter", () => clearTimeout(timer));
    tooltip.addEventListener("mouseleave", hideSoon);
    document.body.append(tooltip);
  }

  function show(term) {
    clearTimeout(timer);
    if (!tooltip) {
      makeTooltip();
    }
    shownFor?.removeAttribute("aria-describedby");
    shownFor = term;
    tooltip.textContent = term.dataset.definition;
    term.setAttribute("aria-describedby", tooltip.id);
    tooltip.hidden = false;
    place(term.getBoundingClientRect());
  }

  /* Below the term, or above it if there is no room; never outside the window. */
  function place({ left, top, bottom }) {
    const { offsetWidth: width, offsetHeight: height } = tooltip;
    const x = Math.max(8, Math.min(left, window.innerWidth - width - 8));
    const below = bottom + 6;
    const y = below + height > window.innerHeight - 8 ? Math.max(8, top - height - 6) : below;
    tooltip.style.left = `${x}px`;
    tooltip.style.top = `${y}px`;
  }

  function hide() {
    clearTimeout(timer);
    shownFor?.removeAttribute("aria-describedby");
    shownFor = null;
    if (tooltip) {
      tooltip.hidden = true;
    }
  }

  function hideSoon() {
    clearTimeout(timer);
    timer = setTimeout(hide, HIDE_DELAY_MS);
  }

  function termOf(event) {
    return event.target.closest?.("[data-definition]");
  }

  document.addEventListener("mouseover", (event) => {
    const term = termOf(event);
    if (term) {
      show(term);
    } else if (shownFor && event.target !== tooltip && document.activeElement !== shownFor) {
      hideSoon();
    }
  });
  document.addEventListener("focusin", (event) => (termOf(event) ? show(termOf(event)) : hide()));
  document.addEventListener("focusout", hide);
  document.addEventListener("scroll", hide, true);

  /* Escape hides the definition only. The side sheet around the term stays open. */
  function onKey(event) {
    if (event.key === "Escape" && shownFor) {
      event.preventDefault();
      hide();
    }
  }

  // In the capture phase, so that the side sheet sees that the key is used.
  document.addEventListener("keydown", onKey, true);
})();
