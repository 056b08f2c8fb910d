/*
Menus (<details class="menu">): one is open at a time; a choice, Escape or a click elsewhere closes
it. What is chosen in one is an ordinary button with data-go (page.js).
*/
(function () {
  "use strict";

  function close(except) {
    document.querySelectorAll("details.menu[open]").forEach((menu) => {
      if (menu !== except) {
        menu.open = false;
      }
    });
  }

  /* Kept inside the window: a menu at its right edge opens to the left. */
  function place(menu) {
    const list = menu.querySelector(".menu-list");
    list.classList.toggle("is-left", false);
    const over = list.getBoundingClientRect().right > document.documentElement.clientWidth - 8;
    list.classList.toggle("is-left", over);
  }

  /* The menus are made anew after a choice: the new one takes the focus of the old. */
  function keepFocus(id) {
    const watcher = new MutationObserver(() => {
      const summary = document.querySelector(`#${id} > summary`);
      if (summary && document.activeElement === document.body) {
        summary.focus({ preventScroll: true });
        watcher.disconnect();
      }
    });
    watcher.observe(document.body, { childList: true, subtree: true });
    setTimeout(() => watcher.disconnect(), 4000);
  }

  document.addEventListener("click", (event) => {
    const chosen = event.target.closest(".menu-list [data-go]");
    const menu = event.target.closest("details.menu");
    if (chosen) {
      menu.open = false;
      menu.querySelector("summary").focus();
      keepFocus(menu.id);
    } else {
      close(menu);
    }
  });

  document.addEventListener("keydown", (event) => {
    const menu = event.key === "Escape" && event.target.closest("details.menu[open]");
    if (menu) {
      menu.open = false;
      menu.querySelector("summary").focus();
    }
  });

  /* "toggle" does not bubble: it is heard on its way down. */
  document.addEventListener(
    "toggle",
    (event) => {
      if (event.target.matches?.("details.menu") && event.target.open) {
        close(event.target);
        place(event.target);
      }
    },
    true
  );
})();
