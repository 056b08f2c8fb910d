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

  function watch(chart) {
    if (!watched.has(chart) && chart.on) {
      watched.add(chart);
      chart.on("plotly_afterplot", () => notify(drawCallbacks, chart));
      chart.on("plotly_click", (event) => notify(clickCallbacks, chart, event));
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

  /* A click on a cell of a patching sweep opens it (dash_app/views/compare/actions.py). */
  function pickCell(chart, event) {
    const { x, y, data } = event.points[0];
    const { layer, partners } = meta(chart);
    const part = typeof data.meta === "number" ? [data.meta] : [];
    const picked = { at: [y, ...part, x], partner: partners[x] ?? -1, layer };
    window.dash_clientside.set_props("compare-picked", { data: picked });
  }

  add(clickCallbacks, "patching", pickCell);

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

  window.stratascope ??= {};
  window.stratascope.charts = {
    NO_VIEW,
    find,
    meta,
    thinNames: (chart, root) => isSingle(chart) && thinNames(chart, root),
    onDraw: (view, callback) => add(drawCallbacks, view, callback),
    onClick: (view, callback) => add(clickCallbacks, view, callback),
  };
})();
