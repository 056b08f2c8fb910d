/*
The page as a whole: buttons that select, keys, the address, the theme.

A click on any element with `data-go="pos=4"` changes the selection. Dash's stores hold the
selection; this file reports changes to the store "events" and shows the result.

`note` is the content of the store "query": the page's address, and in `note.seen` the number of the
last report that the server has processed.
*/
(function () {
  "use strict";

  const ARROWS = { ArrowUp: [1, 0], ArrowDown: [-1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
  const BRANCH_KEYS = { "[": -1, "]": 1 };
  const USES_KEYS =
    "input, textarea, select, summary, [role=slider], [role=listbox], [role=option]";
  const COPY_FEEDBACK_MS = 1500;
  const MOVE_PATIENCE_MS = 400;
  const SCROLL_MARGIN = 150; // pixels that stay visible beside the selected token
  const { charts } = window.stratascope;

  /* ------------------------------------------------------------ reports to the server */

  let lastReport = 0;
  let pending = []; // reports that the server has not processed yet

  /*
  Dash may discard the answer to a report. Each report is therefore sent again with the next one,
  until the server has processed it or refused it (net.js). Without the second condition a report
  that is too large would block all later ones.
  */
  function report(data) {
    if (waitingMove) {
      sendMove(); // reports keep the order of the reader's actions
    }
    lastReport += 1;
    pending.push({ ...data, n: lastReport });
    window.dash_clientside.set_props("events", { data: { reports: pending } });
    return lastReport;
  }

  function select(to) {
    window.stratascope.workspace?.onSelect(to);
    return report({ to });
  }

  function forgetReports() {
    pending = [];
    window.stratascope.undo.resume();
  }

  /* Whether the server has yet to answer a report that may add an entry to the history. */
  function awaitsEntry() {
    return Boolean(waitingMove) || pending.some((each) => each.url === undefined);
  }

  /* ------------------------------------------------------------ clicks and keys */

  let link = ""; // the page's state as an address that does not depend on the server's defaults

  function onClick(event) {
    const button = event.target.closest("[data-go]");
    if (button) {
      select(button.dataset.go);
    } else if (event.target.closest("#run-button")) {
      // The form is read now: the reader may change it before the server answers.
      report({ form: window.stratascope.controls.readForm(), from: "run-button" });
    } else if (event.target.closest("[data-copy-address]")) {
      copyAddress(event.target.closest("[data-copy-address]"));
    }
  }

  function copyAddress(button) {
    const label = button.querySelector("span:last-child") ?? button;
    button.dataset.label ??= label.textContent; // at a second click the text is "Copied"
    const showResult = (text) => {
      label.textContent = text;
      setTimeout(() => (label.textContent = button.dataset.label), COPY_FEEDBACK_MS);
    };
    navigator.clipboard.writeText(new URL(link, window.location.href).href).then(
      () => showResult("Copied"),
      () => showResult("Not allowed")
    );
  }

  function onKey(event) {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      document.getElementById("run-button")?.click();
      return;
    }
    const arrow = ARROWS[event.key];
    const hasModifier = event.ctrlKey || event.metaKey || event.altKey;
    if (BRANCH_KEYS[event.key] && !event.target.closest(USES_KEYS)) {
      walkBranches(BRANCH_KEYS[event.key]);
    }
    if (arrow && !hasModifier && limits && !event.target.closest(USES_KEYS)) {
      event.preventDefault();
      moveCell(...arrow);
    }
  }

  /* Shows the answer before or after the shown one, in the token strip's list. */
  function walkBranches(step) {
    const buttons = [...document.querySelectorAll("[data-branch]")];
    const index = buttons.findIndex((button) => button.getAttribute("aria-pressed") === "true");
    buttons[index + step]?.click();
  }

  /* ------------------------------------------------------------ the selected cell */

  let cell = null; // {row, pos}
  let limits = null; // the run's last row and position, as {row, pos}; null without a run
  let lastMove = 0; // number of the report of the last move
  let lastMoveTime = 0;
  let waitingMove = false; // whether the cell was moved while the last move was not answered
  let drawn = {}; // the cell and run that the token strip shows

  function moveCell(rowStep, posStep) {
    const meta = charts.meta(charts.find("lens-graph"));
    selectCell(
      stepThrough(meta?.rows, cell.row, rowStep, limits.row),
      stepThrough(meta?.positions, cell.pos, posStep, limits.pos)
    );
  }

  /* The next value that the heatmap shows; beyond the last shown one, the next that exists. */
  function stepThrough(shown, value, step, max) {
    const index = shown ? shown.indexOf(value) : -1;
    const next = index < 0 ? undefined : shown[index + step];
    return next ?? Math.max(0, Math.min(max, value + step));
  }

  function selectCell(row, pos) {
    cell = { row, pos };
    moveOutlines();
    if (lastMove > answered() && performance.now() - lastMoveTime < MOVE_PATIENCE_MS) {
      // Dash would drop the answer to the last move, and the views would stand still while a key
      // is held.
      waitingMove = true;
      setTimeout(() => waitingMove && sendMove(), MOVE_PATIENCE_MS);
    } else {
      sendMove();
    }
  }

  /* Chooses a position, and a row unless it is null. */
  const choose = (row, pos) => cell && selectCell(row ?? cell.row, pos);

  /* The number of the last report that the server has processed or refused. */
  function answered() {
    return (pending[0]?.n ?? lastReport + 1) - 1;
  }

  function sendMove() {
    waitingMove = false;
    lastMoveTime = performance.now();
    lastMove = select(`row=${cell.row}&pos=${cell.pos}&layer=${Math.max(cell.row - 1, 0)}`);
  }

  /*
  The store "cell" holds the selected cell; null stands for the last row at the prompt's last token.
  A move that the server has not processed yet is newer than the store.
  */
  function followSelection(stored, run, note, status) {
    if (!run) {
      limits = null;
      return;
    }
    // A refused request leaves the views of an earlier run in the page.
    const isOld = Boolean(status?.problem) && status.attempt > run.attempt;
    document.documentElement.dataset.run = isOld ? "old" : "shown";
    limits = { row: run.layers, pos: run.token_ids.length - 1 };
    const isMoving = waitingMove || lastMove > (note?.seen ?? 0);
    const selected = isMoving ? cell : stored || {};
    cell = {
      row: Math.min(selected.row ?? run.layers, limits.row),
      pos: Math.min(selected.pos ?? run.opening ?? run.prompt_length - 1, limits.pos),
    };
    moveOutlines();
    if (drawn.cell !== stored || drawn.run !== run) {
      drawn = { cell: stored, run };
      requestAnimationFrame(scrollToToken);
      watchTokenStrip();
    }
  }

  /* ------------------------------------------------------------ outlines of the selected cell */

  /* Moves the outline in the heatmaps and the band in the curves, without a new figure. */
  function moveOutlines() {
    const { row, pos } = cell;
    for (const id of ["lens-graph", "disagreement-graph"]) {
      const meta = charts.meta(charts.find(id));
      if (meta?.rows && meta.positions) {
        charts.moveShapes(id, meta.view, cellBox(meta.positions.indexOf(pos), meta.rows.indexOf(row)));
      }
    }
    charts.moveShapes("curves-graph", "curves", { x0: row - 0.5, x1: row + 0.5 }, 1);
    const strip = charts.meta(charts.find("emergence-graph"));
    if (strip?.positions) {
      const column = strip.positions.indexOf(pos);
      const band = { x0: column - 0.5, x1: column + 0.5, visible: column >= 0 };
      charts.moveShapes("emergence-graph", "emergence", band, 1);
    }
  }

  /* The outline around a cell of a heatmap; invisible where the heatmap does not show the cell. */
  function cellBox(column, line) {
    const visible = column >= 0 && line >= 0;
    const box = { x0: column - 0.5, x1: column + 0.5, y0: line - 0.5, y1: line + 0.5 };
    return visible ? { ...box, visible } : { visible };
  }

  /* ------------------------------------------------------------ the token strip */

  let stripObserver = null;

  /* The server fills the strip after the selection has changed. */
  function watchTokenStrip() {
    const strip = document.getElementById("tokens-strip");
    if (strip && !stripObserver) {
      stripObserver = new MutationObserver(scrollToToken);
      stripObserver.observe(strip, { childList: true });
    }
  }

  /* Scrolls the strip only: the page itself must not move under the pointer. */
  function scrollToToken() {
    const strip = document.getElementById("tokens-strip");
    const token = strip?.querySelector(".is-selected");
    if (token) {
      const left = token.getBoundingClientRect().left - strip.getBoundingClientRect().left;
      strip.scrollLeft = scrollTarget(strip, strip.scrollLeft + left + token.offsetWidth / 2);
    }
  }

  function scrollTarget({ scrollLeft, clientWidth }, middle) {
    const isVisible =
      middle >= scrollLeft + SCROLL_MARGIN && middle <= scrollLeft + clientWidth - SCROLL_MARGIN;
    return isVisible ? scrollLeft : middle - clientWidth / 2;
  }

  /* ------------------------------------------------------------ address and theme */

  function showAddress(note) {
    if (!note) {
      return;
    }
    pending = pending.filter((each) => each.n > note.seen);
    window.stratascope.controls.fillForm(note);
    window.stratascope.undo.record(note);
    link = note.link;
    if (waitingMove && lastMove <= note.seen) {
      sendMove();
    }
    window.stratascope.undo.resume();
  }

  function applyTheme(data) {
    const wanted = data?.theme || "auto";
    const system = window.matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
    const theme = wanted === "auto" ? system : wanted;
    document.documentElement.dataset.theme = theme;
    document.documentElement.dataset.bsTheme = theme; // Bootstrap's colour mode
    // Not an output: the callback that answers every gesture reads the scheme and writes the theme,
    // and Dash refuses circles.
    window.dash_clientside.set_props("scheme", { data: theme });
  }

  // In the capture phase: Plotly stops clicks on its own elements.
  document.addEventListener("click", onClick, true);
  document.addEventListener("keydown", onKey);

  const address = () => link;
  window.stratascope.page = {
    report, select, selectCell, choose, followSelection, forgetReports, awaitsEntry, address,
  };
  window.dash_clientside ??= {};
  window.dash_clientside.stratascope = {
    ...window.dash_clientside.stratascope,
    followSelection,
    showAddress,
    applyTheme,
  };
})();
