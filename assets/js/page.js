/*
The page as a whole: buttons that select, arrow keys, the address, the theme.

Any element with `data-go="pos=4"` changes the selection when clicked. What is selected lives in
Dash's stores; this file only reports to the store "go" and mirrors the result.
*/
(function () {
  "use strict";

  const page = { cell: null, bounds: null, drawn: [], sequence: 0, moved: 0, unseen: [] };
  const STEPS = { ArrowUp: [1, 0], ArrowDown: [-1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
  const TAKES_KEYS = "input, textarea, select, summary, [role=slider], [role=listbox], [role=option]";

  /*
  Dash may drop the answer to a report, so each is repeated until "query" has its number, or the
  server has refused it (refused.js): repeated for ever, one that is too large would stop all others.
  */
  function report(data) {
    page.sequence += 1;
    page.unseen.push({ ...data, n: page.sequence });
    window.dash_clientside.set_props("go", { data: { reports: page.unseen } });
    return page.sequence;
  }

  function onClick(event) {
    const button = event.target.closest("[data-go]");
    if (button) {
      report({ to: button.dataset.go });
    } else if (event.target.closest("#run-button")) {
      // What the form holds now: by the time of an answer more may be typed.
      report({ form: window.dash_clientside.stratascope.form(), from: "run-button" });
    } else if (event.target.closest("[data-copy-address]")) {
      copyAddress(event.target.closest("[data-copy-address]"));
    }
  }

  function copyAddress(button) {
    button.dataset.said ??= button.textContent; // a second click finds "Copied"
    const done = (text) => {
      button.textContent = text;
      setTimeout(() => (button.textContent = button.dataset.said), 1500);
    };
    navigator.clipboard.writeText(window.location.href).then(
      () => done("Copied"),
      () => done("Not allowed")
    );
  }

  function onKey(event) {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      document.getElementById("run-button")?.click();
      return;
    }
    const step = STEPS[event.key];
    const plain = !event.ctrlKey && !event.metaKey && !event.altKey;
    if (step && plain && page.bounds && !event.target.closest(TAKES_KEYS)) {
      event.preventDefault();
      move(step);
    }
  }

  /* To the next row or position that is shown; past the last one shown, to the next there is. */
  function move([rows, positions]) {
    const shown = meta("lens-graph");
    choose(
      step(shown && shown.rows, page.cell.row, rows, page.bounds.row),
      step(shown && shown.positions, page.cell.pos, positions, page.bounds.pos)
    );
  }

  function step(shown, value, by, last) {
    const next = shown && shown.includes(value) ? shown[shown.indexOf(value) + by] : undefined;
    return next ?? Math.max(0, Math.min(last, value + by));
  }

  function choose(row, pos) {
    page.cell = { row, pos };
    outline();
    page.moved = report({ to: `row=${row}&pos=${pos}&layer=${Math.max(row - 1, 0)}` });
  }

  function meta(id) {
    const plot = document.querySelector(`#${id} .js-plotly-plot`);
    return plot && plot.layout && plot.layout.meta;
  }

  /* Moves the outline in heatmaps and the band in the curves: no figure is built anew. */
  function outline() {
    const { row, pos } = page.cell;
    for (const id of ["lens-graph", "readings-graph"]) {
      const shown = meta(id);
      if (shown && shown.rows && shown.positions) {
        moveShapes(id, shown.view, box(shown.positions.indexOf(pos), shown.rows.indexOf(row)));
      }
    }
    moveShapes("curves-graph", "curves", { x0: row - 0.5, x1: row + 0.5 }, 1);
    const strip = meta("emergence-graph");
    if (strip && strip.positions) {
      const at = strip.positions.indexOf(pos);
      const place = { x0: at - 0.5, x1: at + 0.5, visible: at >= 0 };
      moveShapes("emergence-graph", "emergence", place, 1);
    }
  }

  /* The outline's place by what is shown; nowhere where the cell is not shown. */
  function box(across, down) {
    const visible = across >= 0 && down >= 0;
    const at = { x0: across - 0.5, x1: across + 0.5, y0: down - 0.5, y1: down + 0.5 };
    return visible ? { ...at, visible } : { visible };
  }

  function moveShapes(id, view, place, count) {
    const plot = document.querySelector(`#${id} .js-plotly-plot`);
    const layout = plot && plot.layout;
    if (!layout || !layout.meta || layout.meta.view !== view || !layout.shapes) {
      return;
    }
    const change = {};
    layout.shapes.slice(0, count || layout.shapes.length).forEach((shape, index) => {
      for (const [name, value] of Object.entries(place)) {
        if (shape[name] !== value) {
          change[`shapes[${index}].${name}`] = value;
        }
      }
    });
    if (Object.keys(change).length) {
      window.Plotly.relayout(plot, change);
    }
  }

  /*
  The store "cell" holds what was chosen; null means the run's own last state. A move that is not
  answered yet is newer: the next key goes on from there.
  */
  function follow(cell, run, note) {
    if (!run) {
      page.bounds = null;
      return;
    }
    document.documentElement.dataset.run = "shown";
    page.bounds = { row: run.layers, pos: run.token_ids.length - 1 };
    const chosen = page.moved > (note?.seen ?? 0) ? page.cell : cell || {};
    page.cell = {
      row: Math.min(chosen.row ?? run.layers, page.bounds.row),
      pos: Math.min(chosen.pos ?? run.prompt_length - 1, page.bounds.pos),
    };
    outline();
    if (page.drawn[0] !== cell || page.drawn[1] !== run) {
      page.drawn = [cell, run];
      requestAnimationFrame(showChosenToken);
      watchStrip();
    }
  }

  /* The strip is filled after the run is adopted: the chosen token is shown when it is there. */
  function watchStrip() {
    const strip = document.getElementById("tokens-strip");
    if (strip && !page.watched) {
      page.watched = new MutationObserver(showChosenToken);
      page.watched.observe(strip, { childList: true });
    }
  }

  function showChosenToken() {
    const strip = document.getElementById("tokens-strip");
    const chosen = strip?.querySelector(".is-selected");
    if (chosen) {
      const from = chosen.getBoundingClientRect().left - strip.getBoundingClientRect().left;
      scrollAcross(strip, strip.scrollLeft + from + chosen.offsetWidth / 2);
    }
  }

  /* Sideways only: the page itself must not jump away from what was clicked. */
  function scrollAcross(box, at) {
    const margin = 150;
    if (at < box.scrollLeft + margin || at > box.scrollLeft + box.clientWidth - margin) {
      box.scrollLeft = at - box.clientWidth / 2;
    }
  }

  function address(note) {
    if (!note) {
      return;
    }
    page.unseen = page.unseen.filter((told) => told.n > note.seen);
    window.dash_clientside.stratascope.fill(note);
    const to = window.location.pathname + note.query;
    if (to === window.location.pathname + window.location.search) {
      return;
    }
    window.history[note.push ? "pushState" : "replaceState"](null, "", to);
  }

  function scheme(look) {
    const wanted = (look && look.theme) || "auto";
    const dark = window.matchMedia("(prefers-color-scheme: dark)").matches;
    const theme = wanted === "auto" ? (dark ? "dark" : "light") : wanted;
    document.documentElement.dataset.theme = theme;
    return theme;
  }

  /* In the capture phase: plotly keeps clicks on its nodes and links to itself. */
  document.addEventListener("click", onClick, true);
  document.addEventListener("keydown", onKey);
  window.addEventListener("popstate", () => report({ url: window.location.search }));

  const shared = (window.dash_clientside = window.dash_clientside || {});
  shared.stratascope = Object.assign(shared.stratascope || {}, {
    follow, address, scheme, outline, choose, report,
    go: (to) => report({ to }),
    forget: () => (page.unseen = []),
  });
})();
