"use strict";

const assert = require("node:assert/strict");
const { test } = require("node:test");
const { openPage } = require("./browser");

test("a new chart is announced to its view only, and again at each drawing", () => {
  const page = openPage();
  const drawn = [];
  page.stratascope.charts.onDraw("curves", (chart) => drawn.push(chart));
  const curves = page.chart("a", { meta: { view: "curves" } });
  const other = page.chart("b", { meta: { view: "other" } });
  const later = page.chart("c", { meta: { view: "curves" } });
  assert.deepEqual(drawn, [curves, later]);
  other.emit("plotly_afterplot");
  curves.emit("plotly_afterplot");
  assert.deepEqual(drawn, [curves, later, curves]);
});

test("a chart is watched once, however often the page changes", () => {
  const page = openPage();
  const drawn = [];
  const clicked = [];
  page.stratascope.charts.onDraw("curves", (chart) => drawn.push(chart));
  page.stratascope.charts.onClick("curves", (_chart, event) => clicked.push(event));
  const chart = page.chart("a", { meta: { view: "curves" } });
  page.mutate();
  page.frame();
  chart.emit("plotly_click", "click");
  assert.deepEqual([drawn.length, clicked], [1, ["click"]]);
});

test("a click goes to the view that the chart shows now", () => {
  const page = openPage();
  const clicked = [];
  for (const view of ["one", "two"]) {
    page.stratascope.charts.onClick(view, () => clicked.push(view));
  }
  const chart = page.chart("a", { meta: { view: "one" } });
  chart.layout = { meta: { view: "two" } };
  chart.emit("plotly_click", {});
  assert.deepEqual(clicked, ["two"]);
});

test("a chart without a view is announced as such", () => {
  const page = openPage();
  const drawn = [];
  page.stratascope.charts.onDraw(page.stratascope.charts.NO_VIEW, (chart) => drawn.push(chart));
  const chart = page.chart("a", {});
  assert.deepEqual(drawn, [chart]);
});

test("the emergence strip selects the row at which the token emerges, else the last", () => {
  const page = openPage();
  const meta = { view: "emergence", values: [[12, null]], positions: [3, 4], last: 30 };
  const chart = page.chart("emergence-graph", { meta });
  chart.emit("plotly_click", { points: [{ x: 0.2, y: 0.1 }] });
  const [first] = page.layout.events.data.reports;
  page.dash.showAddress({ seen: first.n, query: "" });
  chart.emit("plotly_click", { points: [{ x: 1, y: 0 }] });
  const [second] = page.layout.events.data.reports;
  assert.deepEqual([first.to, second.to], ["row=12&pos=3&layer=11", "row=30&pos=4&layer=29"]);
});

test("a point of the tasks panel opens its prompt and brings the reader to the heatmap", () => {
  const page = openPage();
  const heatmap = page.add("div", { id: "lens-graph-box" });
  const chart = page.chart("tasks-graph", { meta: { view: "tasks" } });
  chart.emit("plotly_click", { points: [{ customdata: ["no prompt"] }] });
  chart.emit("plotly_click", { points: [{}] });
  assert.deepEqual(page.sets, []);
  page.dash.showArrangement({ page: "tasks", wide: "", folded: [], panes: [] }, { seen: 0 });
  chart.emit("plotly_click", { points: [{ customdata: "prompt=5%2B5%3D" }] });
  const targets = page.layout.events.data.reports.map((report) => report.to);
  assert.deepEqual(targets, ["prompt=5%2B5%3D", "page=explore"]);
  assert.equal(page.document.activeElement, heatmap);
});

test("a button of the tasks panel brings the reader to the heatmap, others do not", () => {
  const page = openPage();
  const button = page.add("button", { "data-go": "prompt=a" });
  page.dash.showArrangement({ page: "tasks", wide: "", folded: [], panes: [] }, { seen: 0 });
  const shown = () => page.document.documentElement.dataset.page;
  button.click();
  assert.equal(shown(), "tasks");
  page.add("section", { class: "panel panel-tasks" }, button);
  button.click();
  assert.equal(shown(), "explore");
});

test("names of an attention pattern that would overlap are hidden, but not the chosen query's", () => {
  const page = openPage();
  const layout = { meta: { view: "attention", least: [90, 90], named: [200, 200] } };
  const chart = page.chart("a", { ...layout, shapes: [{ y0: 3.5 }] });
  const names = ["x", "y"].flatMap((axis) =>
    Array.from({ length: 7 }, () => {
      const name = page.add("text", {});
      page.add("g", { class: `${axis}tick`, parent: chart }, name);
      return name;
    })
  );
  const shown = () => names.map((name) => name.style.visibility !== "hidden").map(Number).join("");
  chart._fullLayout = { xaxis: { _length: 35 }, yaxis: { _length: 63 } }; // 5 and 9 pixels a name
  chart.emit("plotly_afterplot");
  assert.equal(shown(), "1010101" + "1111111"); // the query is at 4
  chart._fullLayout = { xaxis: { _length: 80 }, yaxis: { _length: 80 } };
  chart.emit("plotly_afterplot");
  assert.equal(shown(), "11111111111111");
  const several = { view: "attention", least: [200, 200], named: [200, 200] }; // has a size of its own
  chart.layout = { meta: several };
  chart._fullLayout.xaxis._length = 35;
  chart.emit("plotly_afterplot");
  assert.equal(shown(), "11111111111111");
});

/* A sweep of 3 rows and 4 positions, 10 pixels a cell, whose columns have these partners. */
function sweep(page, partners, across = "position") {
  const chart = page.chart("compare-graph", { meta: { view: "patching", layer: -1, partners } });
  const axis = (p2d, count) => ({ p2d, _offset: 0, range: [-0.5, count - 0.5] });
  chart.data = [{ meta: across }];
  chart._fullLayout = {
    xaxis: axis((pixel) => pixel / 10 - 0.5, 4),
    yaxis: axis((pixel) => 2.5 - pixel / 10, 3),
  };
  chart.rect = { left: 0, top: 0, right: 40, bottom: 30 };
  return chart;
}

function dragCell(chart, [x, y], ...moves) {
  chart.dispatch("mousedown", { button: 0, clientX: x, clientY: y });
  for (const [clientX, clientY] of moves) {
    chart.dispatch("mousemove", { clientX, clientY });
  }
  const [clientX, clientY] = moves.at(-1);
  chart.dispatch("mouseup", { clientX, clientY });
}

test("a cell that is dragged to another position is patched there, in its own row", () => {
  const page = openPage();
  const chart = sweep(page, [0, 2, -1, 3]);
  dragCell(chart, [15, 5], [25, 5], [35, 25]);
  assert.deepEqual(page.sets.at(-1), [
    "compare-picked",
    { data: { at: [2, 3], partner: 2, layer: -1 } },
  ]);
  assert.equal(page.document.querySelectorAll(".badge").length, 0);
});

test("a drag within a cell, from a cell without a partner, or outside does nothing", () => {
  const page = openPage();
  const chart = sweep(page, [0, 2, -1, 3]);
  dragCell(chart, [15, 5], [19, 5]);
  dragCell(chart, [15, 5], [15, 25]); // another row
  dragCell(chart, [25, 5], [35, 5]); // no partner
  dragCell(chart, [15, 5], [55, 5]);
  dragCell(sweep(page, [0, 2, -1, 3], "head"), [15, 5], [35, 5]);
  assert.deepEqual(page.sets, []);
});

test("the next figure is drawn in the panel's size of that time", () => {
  const page = openPage();
  const chart = page.chart("curves-graph", { meta: { view: "curves" } });
  chart._fullLayout = { _initialAutoSizeIsDone: true };
  chart.emit("plotly_afterplot");
  assert.equal(chart._fullLayout._initialAutoSizeIsDone, false);
});

test("a chart is drawn again by Dash only if the size of its element differs", async () => {
  const page = openPage();
  const chart = page.chart("curves-graph", { meta: { view: "curves" } });
  page.chart("attention-graph", { meta: { view: "attention" } }); // the second wraps nothing again
  const { resize } = page.window.Plotly.Plots;
  await resize(chart); // not drawn yet
  chart._fullLayout = { width: 300.5, height: 200 };
  assert.deepEqual(page.window.resized, [chart]);
  chart.computed = { width: "300.5px", height: "200px" };
  assert.equal(await resize(chart), chart);
  assert.deepEqual(page.window.resized, [chart]);
  for (const computed of [
    { width: "302px", height: "200px" },
    { width: "300.5px", height: "190px" },
    { width: "auto", height: "auto" }, // hidden
  ]) {
    chart.computed = computed;
    await resize(chart);
  }
  assert.equal(page.window.resized.length, 4);
});
