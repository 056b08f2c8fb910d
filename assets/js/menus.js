/*
Menus (<details class="menu">), whose lists open in place. At most one is open. A choice, Escape or a
click elsewhere closes it. The entries are ordinary buttons with `data-go` (page.js).
*/
(function () {
  "use strict";

  const FOCUS_TIMEOUT_MS = 4000;

  function closeOthers(menu) {
    document.querySelectorAll("details.menu[open]").forEach((each) => {
      if (each !== menu) {
        each.open = false;
      }
    });
  }

  function close(menu) {
    menu.open = false;
    menu.querySelector("summary").focus();
  }

  /* The server replaces the menus after a choice: moves the keyboard focus to the new one. */
  function keepFocus(id) {
    const observer = new MutationObserver(() => {
      const summary = document.querySelector(`#${id} > summary`);
      if (summary && document.activeElement === document.body) {
        summary.focus({ preventScroll: true });
        observer.disconnect();
      }
    });
    observer.observe(document.body, { childList: true, subtree: true });
    setTimeout(() => observer.disconnect(), FOCUS_TIMEOUT_MS);
  }

  document.addEventListener("click", (event) => {
    const menu = event.target.closest("details.menu");
    if (event.target.closest(".menu-list [data-go]")) {
      close(menu);
      keepFocus(menu.id);
    } else {
      closeOthers(menu);
    }
  });

  /* Escape closes the menu only. The side sheet around it stays open. */
  function onKey(event) {
    const menu = event.key === "Escape" && event.target.closest?.("details.menu[open]");
    if (menu) {
      event.preventDefault();
      close(menu);
    }
  }

  // In the capture phase, so that the side sheet sees that the key is used.
  document.addEventListener("keydown", onKey, true);

  // "toggle" events do not bubble, so they are caught in the capture phase.
  document.addEventListener(
    "toggle",
    ({ target }) => {
      if (target.matches?.("details.menu") && target.open) {
        closeOthers(target);
        const later = target.querySelectorAll("[data-later]");
        later.forEach((each) => each.dispatchEvent(new CustomEvent("draw")));
      }
    },
    true
  );
})();
