/*
Edits of the run: reports those of the forms and cards, opens the sheet "Change this" where an edit
is made or replaced by one of another kind, and marks the panes that show the edited run. The heatmap can show the baseline or the
difference.
*/
(function () {
  "use strict";

  const HEATMAP = { baseline: "Baseline", edited: "Edited run", difference: "Difference" };
  const SHEET = "sheet-change";
  const KEY_PATIENCE_MS = 500;
  let lastKey = -KEY_PATIENCE_MS; // when a key opened the sheet

  function showEdited(run, edits) {
    const isEdited = Boolean(run?.edits?.length);
    for (const mark of document.querySelectorAll("[data-edited]")) {
      mark.hidden = !isEdited;
      const version = mark.dataset.edited === "lens" ? edits?.version : "edited";
      mark.textContent = HEATMAP[version] ?? HEATMAP.edited;
    }
  }

  function reportEdit(made) {
    if (made?.edit) {
      const old = made.old || replaced;
      const to = old ? { swap: `edits:${old},${made.edit}` } : { with: `edits:${made.edit}` };
      window.stratascope.page.select(new URLSearchParams(to).toString());
      replace(null);
      for (const menu of document.querySelectorAll("#edits-cards details[open]")) {
        menu.open = false;
      }
    }
  }

  /* ------------------------------------------------------------ a card's own fields */

  let presses = 0;

  /* Sends the values of a card's fields to the server, which answers with an edit or a problem. */
  function onApply(event) {
    const button = event.target.closest?.("[data-apply-card]");
    if (button) {
      const fields = button.closest("details").querySelectorAll("input, select");
      presses += 1;
      const values = Array.from(fields, ({ value }) => value);
      const data = { card: Number(button.dataset.applyCard), values, press: presses };
      window.dash_clientside.set_props("edits-typed", { data });
    }
  }

  function showRefused(answer) {
    const button = document.querySelector(`[data-apply-card="${answer?.card}"]`);
    const alert = button?.closest("details").querySelector("[role=alert]");
    if (alert) {
      alert.textContent = answer.problem;
    }
  }

  /* ------------------------------------------------------------ another kind of edit */

  let replaced = null; // the edit that the next one of the sheet replaces
  let title = null; // of the sheet

  function replace(edit, name = "Change this") {
    replaced = edit;
    if (title !== name && (title || edit)) {
      title = name;
      window.dash_clientside.set_props(`${SHEET}-title`, { children: name });
    }
  }

  /* A card opens the sheet at its edit's place. A click outside the sheet ends the replacement. */
  function onReplace(event) {
    const button = event.target.closest?.("[data-replaces]");
    if (button) {
      button.closest("details").open = false;
      showSheet(button.dataset.change);
      replace(button.dataset.replaces, button.title);
    } else if (replaced && !event.target.closest?.(`#${SHEET}`)) {
      replace(null);
    }
  }

  /* The sheet's buttons add an edit at once; here theirs takes the place of the card's. */
  function onChoose(event) {
    const button = replaced && event.target.closest?.("[data-go]");
    const to = button?.closest(`#${SHEET}`) ? button.dataset.go : "";
    const [set, edit] = /^edits:(.*)$/s.exec(new URLSearchParams(to).get("with")) ?? [];
    if (set) {
      event.stopImmediatePropagation(); // page.js would add it
      reportEdit({ edit });
    }
  }

  /* ------------------------------------------------------------ where an edit is made */

  /*
  What is chosen before the sheet opens: a cell of the heatmap, a head, or a link or node of the
  flow. Empty: what is already chosen. Null: nothing that can be changed.
  */
  function changeTarget(event) {
    const button = event.target.closest?.("[data-change], [data-go]");
    if (button?.dataset.change) {
      return button.dataset.change;
    }
    const names = new URLSearchParams(button?.dataset.go ?? "");
    if (["row", "link"].some((name) => names.get(name))) {
      return button.dataset.go;
    }
    const box = event.target.closest?.("#lens-graph-box");
    return box ? window.stratascope.heatmap.cellAt(box, event) : null;
  }

  function openChange(event) {
    const to = changeTarget(event);
    if (to === null) {
      return false;
    }
    event.preventDefault();
    replace(null);
    showSheet(to);
    return true;
  }

  function showSheet(to) {
    if (to) {
      window.stratascope.page.select(to);
    }
    window.dash_clientside.set_props(SHEET, { is_open: true });
  }

  /* The keyboard's menu key may also report "contextmenu", at a place that nobody pointed at. */
  function onMenu(event) {
    if (performance.now() - lastKey < KEY_PATIENCE_MS) {
      event.preventDefault();
    } else {
      openChange(event);
    }
  }

  function onKey(event) {
    const isMenuKey = event.key === "ContextMenu" || (event.key === "F10" && event.shiftKey);
    if (isMenuKey && openChange(event)) {
      lastKey = performance.now();
    }
  }

  /* What the two fields of steering hold: tokens, prompts, or the name of a saved direction. */
  function steerBy(kind) {
    return kind === "direction"
      ? ["name of the direction", "edits-saved", "not needed", true]
      : [" London", "", " Paris", false];
  }

  /* A slider does not show its value. */
  function onSlide({ target }) {
    if (target.matches?.(`#${SHEET} input[type=range]`)) {
      const text = target.closest("label").querySelector(".control-label");
      text.textContent = `Strength: ${target.value}`;
    }
  }

  document.addEventListener("click", onApply);
  document.addEventListener("click", onReplace);
  document.addEventListener("click", onChoose, true);
  document.addEventListener("input", onSlide);
  document.addEventListener("contextmenu", onMenu);
  document.addEventListener("keydown", onKey);
  window.dash_clientside ??= {};
  window.dash_clientside.stratascope = {
    ...window.dash_clientside.stratascope,
    showEdited,
    reportEdit,
    steerBy,
    showRefused,
  };
})();
