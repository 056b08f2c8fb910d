/*
Events of the Plotly charts. Dash creates and replaces charts as the page changes, so the other
scripts register by view, which is `layout.meta.view` of a chart:
  onDraw(view, callback)    callback(chart) after each drawing
  onClick(view, callback)   callback(chart, event) after a click on a point

Dash loads scripts in alphabetical order. This one comes first, before those that register.
*/
(function () {
  "use strict";

  const NO_VIEW = "none"; // a chart without a view: the placeholder before the first result
  const drawCallbacks = {};
  const clickCallbacks = {};
  const watched = new WeakSet();
  let scheduled = false;

  function find(id) {
    return document.querySelector(`#${id} .js-plotly-plot`);
  }

  function meta(chart) {
    return chart?.layout?.meta;
  }

  function add(callbacks, view, callback) {
    (callbacks[view] ??= []).push(callback);
  }

  function notify(callbacks, chart, event) {
    const view = meta(chart)?.view || NO_VIEW;
    (callbacks[view] || []).forEach((callback) => callback(chart, event));
  }

  /*
  Lets the next figure be drawn in the panel's size of that time. Plotly would draw it in the last
  figure's size first, and a second time when Dash reports the other size.
  */
  function measureAgain(chart) {
    if (chart._fullLayout) {
      chart._fullLayout._initialAutoSizeIsDone = false;
    }
  }

  /* Whether a chart is drawn in the size of its element. */
  function fits(chart) {
    const drawn = chart?._fullLayout;
    const { width, height } = drawn ? getComputedStyle(chart) : {};
    return (
      Math.abs(parseFloat(width) - drawn?.width) < 1 &&
      Math.abs(parseFloat(height) - drawn?.height) < 1
    );
  }

  /*
  Dash draws a chart again after the size of its element has changed. A new figure is drawn in that
  size already, so it stays as it is.
  */
  function drawOnceInASize(plots) {
    const { resize } = plots;
    if (!plots.resizesOnce) {
      plots.resizesOnce = true;
      plots.resize = (chart) => (fits(chart) ? Promise.resolve(chart) : resize(chart));
    }
  }

  function watch(chart) {
    if (!watched.has(chart) && chart.on) {
      watched.add(chart);
      drawOnceInASize(window.Plotly.Plots);
      chart.on("plotly_afterplot", () => {
        measureAgain(chart);
        notify(drawCallbacks, chart);
      });
      chart.on("plotly_click", (event) => notify(clickCallbacks, chart, event));
      measureAgain(chart);
      notify(drawCallbacks, chart);
    }
  }

  function watchNewCharts(changes) {
    if (!scheduled && changes.some((change) => change.addedNodes.length)) {
      scheduled = true;
      requestAnimationFrame(() => {
        scheduled = false;
        document.querySelectorAll(".js-plotly-plot").forEach(watch);
      });
    }
  }

  new MutationObserver(watchNewCharts).observe(document.documentElement, {
    childList: true,
    subtree: true,
  });

  let isDragged = false; // whether the last press of the button dragged a cell

  /* A click on a cell of a patching sweep opens it (dash_app/views/compare/actions.py). */
  function pickCell(chart, event) {
    if (isDragged) {
      return; // Plotly reports the end of a drag as a click
    }
    const { x, y, data } = event.points[0];
    const { layer, partners } = meta(chart);
    const part = typeof data.meta === "number" ? [data.meta] : [];
    const picked = { at: [y, ...part, x], partner: partners[x] ?? -1, layer };
    window.dash_clientside.set_props("compare-picked", { data: picked });
  }

  add(clickCallbacks, "patching", pickCell);

  /* ------------------------------------------------------------ shapes that move */

  const RECTANGLE = /^M([-\d.]+),([-\d.]+)H([-\d.]+)V([-\d.]+)H[-\d.]+Z$/; // as Plotly draws it

  /*
  Moves the first `count` shapes of a chart, or all, without a new figure. Plotly needs 60 ms to move
  one shape, and Dash then draws the figure again; so a drawn rectangle is moved here.
  */
  function moveShapes(id, view, place, count) {
    const chart = find(id);
    const shapes = chart?.layout?.shapes;
    if (!shapes || meta(chart)?.view !== view) {
      return;
    }
    const moves = shapes.slice(0, count ?? shapes.length).map((shape) => changesOf(shape, place));
    if (!moves.some((changes) => Object.keys(changes).length)) {
      return;
    }
    const paths = moves.map((changes, index) => movedPath(chart, index, changes));
    if (paths.every(Boolean)) {
      paths.forEach(([element, path], index) => {
        element.setAttribute("d", path);
        // Plotly draws it from here the next time.
        Object.assign(shapes[index], moves[index]);
        Object.assign(chart._fullLayout.shapes[index], moves[index]);
      });
      notify(drawCallbacks, chart);
    } else {
      window.Plotly.relayout(chart, Object.assign({}, ...moves.map(named)));
    }
  }

  function changesOf(shape, place) {
    return Object.fromEntries(
      Object.entries(place).filter(([name, value]) => shape[name] !== value)
    );
  }

  function named(changes, index) {
    const names = Object.entries(changes);
    return Object.fromEntries(names.map(([name, value]) => [`shapes[${index}].${name}`, value]));
  }

  /* The element of a rectangle and its path after a move; null if it is not drawn, or appears. */
  function movedPath(chart, index, changes) {
    const element = chart.querySelector(`.shapelayer path[data-index="${index}"]`);
    const shape = chart._fullLayout?.shapes?.[index];
    const sides = RECTANGLE.exec(element?.getAttribute("d"))?.slice(1).map(Number);
    if (!sides || !shape || "visible" in changes) {
      return null;
    }
    const moved = (name, at) => {
      const axis = chart._fullLayout[shape[`${name[0]}ref`].replace(/^[xy]/, "$&axis")];
      const by = name in changes ? axis.c2p(changes[name]) - axis.c2p(shape[name]) : 0;
      return sides[at] + by;
    };
    const [left, top, right, bottom] = ["x0", "y0", "x1", "y1"].map(moved);
    return [element, `M${left},${top}H${right}V${bottom}H${left}Z`];
  }

  const LINE = 9; // pixels: the least distance of two names along an axis

  /*
  Hides names along the axes of an attention pattern where they would overlap; the chosen query keeps
  its name. `root` has the chart's elements: the chart, or a picture of it in the same size.
  */
  function thinNames(chart, root = chart) {
    const layout = chart._fullLayout;
    const chosen = Math.round((chart.layout.shapes?.[0]?.y0 ?? -0.5) + 0.5);
    for (const [axis, ticks] of [[layout?.xaxis, ".xtick text"], [layout?.yaxis, ".ytick text"]]) {
      const names = [...root.querySelectorAll(ticks)];
      const step = Math.ceil((LINE * names.length) / (axis?._length || Infinity));
      names.forEach((name, at) => {
        const isShown = step <= 1 || (at - chosen) % step === 0;
        name.style.visibility = isShown ? "" : "hidden";
      });
    }
  }

  /* Whether a chart may be drawn smaller than all its names need. */
  function isSingle(chart) {
    const { least, named } = meta(chart) ?? {};
    return Boolean(named) && named[0] > least[0];
  }

  add(drawCallbacks, "attention", (chart) => isSingle(chart) && thinNames(chart));

  /* ------------------------------------------------------------ a cell is dragged */

  const LEAST_DRAG = 8; // pixels; Plotly takes less for a click
  let drag = null; // the chart and cell of the other prompt's state, and where the pointer was

  /* The row or head, and the position, at a pointer; null outside sweeps over positions. */
  function sweepCell(chart, { clientX, clientY }) {
    const full = chart?._fullLayout;
    if (meta(chart)?.view !== "patching" || chart.data[0]?.meta !== "position" || !full?.xaxis) {
      return null;
    }
    const { left, top } = chart.getBoundingClientRect();
    const at = (axis, pixel) => Math.round(axis.p2d(pixel - axis._offset));
    const [x, y] = [at(full.xaxis, clientX - left), at(full.yaxis, clientY - top)];
    const isCell = x >= 0 && x < meta(chart).partners.length && y >= 0 && y < full.yaxis.range[1];
    return isCell ? { x, y } : null;
  }

  /* Where a drag would put its state: in its own row, at another position than its partner's. */
  function dropped(event) {
    const cell = sweepCell(drag.chart, event);
    const far = Math.abs(event.clientX - drag.from) >= LEAST_DRAG;
    return far && cell && cell.x !== drag.cell.x ? [drag.cell.y, cell.x] : null;
  }

  function onDown(event) {
    const chart = event.button ? null : event.target.closest?.(".js-plotly-plot");
    const cell = sweepCell(chart, event);
    const partner = cell ? meta(chart).partners[cell.x] : -1;
    drag = partner >= 0 ? { chart, cell, partner, from: event.clientX, label: null } : null;
  }

  function onMove(event) {
    if (!drag) {
      return;
    }
    const to = dropped(event);
    if (to && !drag.label) {
      drag.label = document.createElement("span");
      drag.label.className = "badge text-bg-dark position-fixed z-3 pe-none";
      document.body.append(drag.label);
    }
    if (drag.label) {
      drag.label.hidden = !to;
      drag.label.textContent = to ? `patch position ${to[1]} from ${drag.partner}` : "";
      drag.label.style.left = `${event.clientX + 12}px`;
      drag.label.style.top = `${event.clientY + 12}px`;
    }
  }

  /* It opens the patch as a click on a cell does, from the dragged cell's partner. */
  function onUp(event) {
    const at = drag && dropped(event);
    drag?.label?.remove();
    isDragged = Boolean(at);
    if (at) {
      const picked = { at, partner: drag.partner, layer: meta(drag.chart).layer };
      window.dash_clientside.set_props("compare-picked", { data: picked });
    }
    drag = null;
  }

  // In the capture phase: Plotly covers the page while a button is down.
  document.addEventListener("mousedown", onDown, true);
  document.addEventListener("mousemove", onMove, true);
  document.addEventListener("mouseup", onUp, true);

  window.stratascope ??= {};
  window.stratascope.charts = {
    NO_VIEW,
    find,
    meta,
    moveShapes,
    thinNames: (chart, root) => isSingle(chart) && thinNames(chart, root),
    onDraw: (view, callback) => add(drawCallbacks, view, callback),
    onClick: (view, callback) => add(clickCallbacks, view, callback),
  };
})();
