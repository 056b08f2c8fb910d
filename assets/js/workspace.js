/*
The arrangement of the page: which page is shown, which panel fills the workspace, which panels are
folded, and which pane of a panel is on top. The selection holds it (the store "arrangement"), so a
link contains it. The browser applies a change at once and reports it.

Options of a panel are in a side sheet (Bootstrap's offcanvas). Options that differ from their
default are listed in the panel as chips; a click on a chip resets its option.
*/
(function () {
  "use strict";

  const REMEMBERED = "stratascope.arrangement";
  const NAMES = ["page", "wide", "folded", "panes", "order"];
  const PLACES = "abcde"; // page.css says where they are
  const FOLDED = "31px"; // the size of a folded panel
  const PAGE = "explore";
  const root = document.documentElement;
  let shown = { page: PAGE, wide: "", folded: [], panes: [], order: [] };
  let lastReport = 0;
  const drawn = new WeakSet(); // elements whose content is drawn

  /* ------------------------------------------------------------ arrangement */

  function change(next) {
    const to = NAMES.filter((name) => String(next[name]) !== String(shown[name])).map(
      (name) => `${name}=${encodeURIComponent(next[name].toString())}`
    );
    if (to.length) {
      const opened = next.page === shown.page ? "" : next.page;
      shown = next;
      apply();
      remember();
      lastReport = window.stratascope.controls.reportArrangement(to.join("&"), opened);
    }
  }

  /* Shows the arrangement of the store, unless the reader has changed it since. */
  function showArrangement(stored, note) {
    if (stored && lastReport <= (note?.seen ?? 0)) {
      const { page, wide, folded, panes, order = [] } = stored;
      shown = { page, wide, folded, panes, order };
      apply();
    }
  }

  function apply() {
    root.dataset.page = shown.page;
    for (const page of document.querySelectorAll(".page")) {
      page.hidden = page.id !== `page-${shown.page}`;
    }
    for (const link of document.querySelectorAll("[data-page-link]")) {
      const isCurrent = link.dataset.pageLink === shown.page;
      link.classList.toggle("active", isCurrent);
      link.setAttribute("aria-current", isCurrent ? "page" : "false");
    }
    const workspace = document.getElementById("workspace");
    if (workspace) {
      workspace.classList.toggle("has-wide", Boolean(shown.wide));
      workspace.querySelectorAll(".panel").forEach(applyToPanel);
      applyPlaces(workspace);
    }
    document.querySelectorAll("[data-pane]").forEach(applyToTab);
    document.querySelectorAll("[data-lazy]").forEach(draw);
  }

  /* Draws what an element contains (static_html.js), once it is shown; its tabs exist from then. */
  function draw(element) {
    if (!element.hidden && !drawn.has(element)) {
      drawn.add(element);
      const observer = new MutationObserver(() => {
        observer.disconnect();
        element.querySelectorAll("[data-pane]").forEach(applyToTab);
        element.querySelectorAll("[data-lazy]").forEach(draw);
      });
      observer.observe(element, { childList: true });
      window.dash_clientside.set_props(element.dataset.lazy, { shown: true });
    }
  }

  function applyToPanel(panel) {
    const name = panel.dataset.panel;
    const isWide = shown.wide === name;
    const isFolded = !isWide && shown.folded.includes(name);
    panel.classList.toggle("is-wide", isWide);
    panel.classList.toggle("is-folded", isFolded);
    setPressed(panel.querySelector("[data-widen]"), isWide, ["Maximise", "Restore"]);
    setPressed(panel.querySelector("[data-fold]"), isFolded, ["Collapse", "Expand"]);
  }

  /* ------------------------------------------------------------ places of panels */

  /* The panels by place. An order that does not name each panel once is none. */
  function placed(names, order) {
    const isWhole = [...names].sort().join() === [...order].sort().join();
    return isWhole ? order : names;
  }

  function panelNames() {
    return [...document.querySelectorAll("#workspace > .panel")].map((each) => each.dataset.panel);
  }

  function applyPlaces(workspace) {
    const order = placed(panelNames(), shown.order);
    for (const panel of workspace.querySelectorAll(".panel")) {
      const index = order.indexOf(panel.dataset.panel);
      panel.dataset.place = PLACES[index];
      panel.style.gridArea = PLACES[index];
      panel.style.order = index; // of panels that are stacked
    }
    const isFolded = order.map((name) => shown.folded.includes(name));
    Object.assign(workspace.style, isFolded.includes(true) ? tracks(isFolded) : tracks([]));
  }

  /* The columns and rows of the workspace while panels are folded, by place. */
  function tracks([left, top, ...below]) {
    if (below.length === 0) {
      return { gridTemplateColumns: "", gridTemplateRows: "" };
    }
    const size = (isFolded, share) => (isFolded ? FOLDED : `minmax(0, ${share}fr)`);
    const areAllFolded = below.every(Boolean); // then the last column keeps the wide panel wide
    const columns = below.map((isFolded, index) => {
      return size(isFolded && !(areAllFolded && index === 2), [5, 4, 4][index]);
    });
    return {
      gridTemplateColumns: [size(left, 10), ...columns].join(" "),
      gridTemplateRows: `${size(top, 1)} minmax(0, 1fr)`,
    };
  }

  function swap(name, other) {
    const names = panelNames();
    const partner = { [name]: other, [other]: name };
    const order = placed(names, shown.order).map((each) => partner[each] ?? each);
    change({ ...shown, order: order.join() === names.join() ? [] : order });
  }

  function setPressed(button, isOn, [off, on]) {
    if (button) {
      const text = `${isOn ? on : off} ${button.dataset.title}`;
      button.setAttribute("aria-pressed", String(isOn));
      button.setAttribute("aria-label", text);
      button.title = text;
    }
  }

  /* A tab is on top if it is chosen, or if it is the first of its panel and no other is chosen. */
  function applyToTab(tab) {
    const siblings = [...tab.closest(".nav").querySelectorAll("[data-pane]")];
    const chosen = siblings.find((each) => shown.panes.includes(each.dataset.pane)) || siblings[0];
    const isOn = tab === chosen;
    tab.classList.toggle("active", isOn);
    tab.setAttribute("aria-selected", String(isOn));
    tab.tabIndex = isOn ? 0 : -1;
    const pane = document.getElementById(tab.getAttribute("aria-controls"));
    if (pane && pane.hidden === isOn) {
      pane.hidden = !isOn;
      pane.dispatchEvent(new CustomEvent("pane", { bubbles: true, detail: isOn }));
    }
  }

  function openPane(tab) {
    const siblings = [...tab.closest(".nav").querySelectorAll("[data-pane]")];
    const others = siblings.map((each) => each.dataset.pane);
    const kept = shown.panes.filter((name) => !others.includes(name));
    const panes = tab === siblings[0] ? kept : [...kept, tab.dataset.pane].sort();
    change({ ...shown, panes });
  }

  function openPage(page) {
    change({ ...shown, page, wide: "" });
  }

  function toggleFolded(name) {
    const isFolded = shown.folded.includes(name);
    const folded = isFolded
      ? shown.folded.filter((each) => each !== name)
      : [...shown.folded, name].sort();
    change({ ...shown, wide: shown.wide === name ? "" : shown.wide, folded });
  }

  /* ------------------------------------------------------------ remembering */

  /* Folded panels and panes are kept for the next visit; a link that names its own wins. */
  function remember() {
    const { folded, panes, order } = shown;
    try {
      window.localStorage.setItem(REMEMBERED, JSON.stringify({ folded, panes, order }));
    } catch {
      // Storage can be full or forbidden. Then nothing is remembered.
    }
  }

  function restore() {
    const named = new URLSearchParams(window.location.search);
    if (NAMES.some((name) => named.has(name))) {
      return;
    }
    try {
      const kept = JSON.parse(window.localStorage.getItem(REMEMBERED) || "{}");
      const { folded = [], panes = [], order = [] } = kept;
      change({
        ...shown,
        folded: folded.map(String),
        panes: panes.map(String),
        order: order.map(String),
      });
    } catch {
      // What is stored is not ours.
    }
  }

  /* ------------------------------------------------------------ options in a side sheet */

  const openSheet = () => document.querySelector(".offcanvas.show");

  function setOpen(id, isOpen) {
    window.dash_clientside.set_props(id, { is_open: isOpen });
  }

  /* Opens a sheet and closes the one that is open; a click on the same button closes it. */
  function toggleSheet(id) {
    const open = openSheet()?.id;
    closeSheet();
    if (open !== id) {
      setOpen(id, true);
    }
  }

  function closeSheet() {
    const sheet = openSheet();
    if (sheet) {
      setOpen(sheet.id, false);
    }
  }

  /* ------------------------------------------------------------ chips */

  /* The options in a tree of components whose value is not the default: [target, text]. */
  function changedOptions(node) {
    if (Array.isArray(node)) {
      return node.flatMap(changedOptions);
    }
    if (node === null || typeof node !== "object") {
      return [];
    }
    const { props = {}, children = [] } = node;
    const own = props["data-reset"] ? [[props["data-reset"], props["data-value"]]] : [];
    return [...own, ...[children, props.children, props.tree].flatMap(changedOptions)];
  }

  /* Lists the changed options of each panel; the arguments are the options of the side sheets. */
  function showChips(...options) {
    const inputs = window.dash_clientside.callback_context.inputs_list;
    inputs.forEach(({ id }, index) => {
      const host = document.querySelector(`[data-chips="${id.split("-")[0]}"]`);
      host?.replaceChildren(...changedOptions(options[index]).map(chip));
    });
    return window.dash_clientside.no_update;
  }

  function chip([target, text]) {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "chip";
    button.dataset.go = target;
    button.title = `Reset: ${text}`;
    button.setAttribute("aria-label", `Reset ${text}`);
    button.textContent = `${text} ×`;
    return button;
  }

  /* ------------------------------------------------------------ the inspector */

  /* The inspector shows what was clicked last: a link, a head or a cell. */
  function inspectorPane(target) {
    const names = new URLSearchParams(target);
    if (names.get("link")) {
      return "link";
    }
    if (names.get("adds") || names.get("adder")) {
      return "promoted";
    }
    const heads = names.get("heads") ?? "none";
    if (heads !== "none" || names.get("with")?.startsWith("heads:")) {
      return "head";
    }
    return names.has("row") || names.has("pos") ? "cell" : "";
  }

  function inspect(name) {
    for (const tab of document.querySelectorAll("[data-inspect]")) {
      const isOn = tab.dataset.inspect === name;
      tab.classList.toggle("active", isOn);
      tab.setAttribute("aria-selected", String(isOn));
      tab.tabIndex = isOn ? 0 : -1;
      document.getElementById(tab.getAttribute("aria-controls")).hidden = !isOn;
    }
  }

  function onSelect(target) {
    const name = inspectorPane(target);
    if (name) {
      inspect(name);
    }
  }

  /* ------------------------------------------------------------ clicks and keys */

  function onClick(event) {
    const at = (selector) => event.target.closest?.(selector);
    const page = at("[data-page-link]");
    const [widen, fold] = [at("[data-widen]"), at("[data-fold], .is-folded > .panel-header")];
    const swapped = at("[data-swap]");
    const [tab, inspected, sheet] = [at("[data-pane]"), at("[data-inspect]"), at("[data-sheet]")];
    if (page) {
      event.preventDefault();
      closeSheet();
      openPage(page.dataset.pageLink);
    } else if (widen) {
      const name = widen.dataset.widen;
      change({ ...shown, wide: shown.wide === name ? "" : name });
    } else if (swapped) {
      const menu = swapped.closest("details");
      menu.open = false;
      menu.querySelector("summary").focus();
      const names = swapped.dataset.swap;
      if (names) {
        swap(...names.split(":"));
      } else {
        change({ ...shown, wide: "", folded: [], order: [] });
      }
    } else if (fold) {
      toggleFolded(fold.closest(".panel").dataset.panel);
    } else if (tab) {
      openPane(tab);
    } else if (inspected) {
      inspect(inspected.dataset.inspect);
    } else if (sheet) {
      toggleSheet(sheet.dataset.sheet);
    } else if (openSheet() && !at(".offcanvas, [data-go], [data-replaces]")) {
      closeSheet();
    }
  }

  function onKey(event) {
    const isEscape = event.key === "Escape" && !event.defaultPrevented; // not used by a menu
    if (isEscape && shown.wide && !openSheet()) {
      change({ ...shown, wide: "" });
    } else if (event.target.matches?.("[role=tab]")) {
      moveAmongTabs(event);
    }
  }

  function moveAmongTabs(event) {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (step) {
      const tabs = [...event.target.closest("[role=tablist]").querySelectorAll("[role=tab]")];
      const next = tabs[(tabs.indexOf(event.target) + step + tabs.length) % tabs.length];
      event.preventDefault();
      event.stopPropagation();
      next.focus();
      next.click();
    }
  }

  /* A caption has one line; its whole text is its tooltip. */
  function onOver(event) {
    const caption = event.target.closest?.(".panel-caption");
    if (caption) {
      caption.title = caption.textContent;
    }
  }

  let started = false;

  /* Called for each answer of the store; the first one finds the page drawn. */
  function follow(stored, note) {
    showArrangement(stored, note);
    if (stored && !started) {
      started = true;
      restore();
    }
  }

  document.addEventListener("click", onClick);
  document.addEventListener("keydown", onKey, true);
  document.addEventListener("mouseover", onOver);
  window.stratascope.workspace = { tracks, placed, onSelect, inspectorPane, openPage, changedOptions };
  window.dash_clientside ??= {};
  window.dash_clientside.stratascope = {
    ...window.dash_clientside.stratascope,
    showArrangement: follow,
    showChips,
  };
})();
