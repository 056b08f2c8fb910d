"use strict";

const assert = require("node:assert/strict");
const { test } = require("node:test");
const { openPage, settled } = require("./browser");

const RUN = { layers: 30, token_ids: [1, 2, 3, 4, 5, 6], prompt_length: 4 };

/* A page that shows a run, with the cell that the store "cell" holds. */
function openRun(cell = { row: 20, pos: 3 }) {
  const page = openPage();
  page.dash.followSelection(cell, RUN, { seen: 0 });
  return page;
}

/* The reports that the page sends now. */
function reports(page) {
  return page.layout.events.data.reports;
}

function lastTarget(page) {
  return reports(page).at(-1).to;
}

/* The server has processed all reports. */
function answer(page) {
  page.dash.showAddress({ seen: reports(page).at(-1).n, query: "" });
}

/* A heatmap that shows some rows and positions. */
function addHeatmap(page, rows, positions) {
  const shape = { x0: 0, x1: 0, y0: 0, y1: 0, visible: true };
  const meta = { view: "heatmap", rows, positions, labels: [], ids: [] };
  return page.chart("lens-graph", { meta, shapes: [shape] });
}

/* ---------------------------------------------------------------- reports */

test("a click on a button reports what it selects", () => {
  const page = openPage();
  const button = page.add("button", { "data-go": "pos=4" }, page.add("b", {}, "4"));
  button.children[0].click();
  assert.deepEqual(page.sets, [["events", { data: { reports: [{ to: "pos=4", n: 1 }] } }]]);
});

test("a report is repeated until the server has processed it", () => {
  const page = openPage();
  page.stratascope.page.select("row=1");
  page.stratascope.page.select("row=2");
  assert.deepEqual(
    reports(page).map((report) => report.n),
    [1, 2]
  );
  page.dash.showAddress({ seen: 1, query: "" });
  page.stratascope.page.select("row=3");
  assert.deepEqual(reports(page), [
    { to: "row=2", n: 2 },
    { to: "row=3", n: 3 },
  ]);
});

test("Run reports what the form holds at that moment", () => {
  const page = openPage();
  page.layout["run-prompt"] = { value: "5 + 5 =" };
  page.layout["run-new"] = { value: 3 };
  page.add("button", { id: "run-button" }).click();
  const sampling = { sampling: "", temperature: "", nucleus: "", seed: "" };
  const form = { model: "", prompt: "5 + 5 =", new: "3", template: "", ...sampling };
  assert.deepEqual(reports(page), [{ form, from: "run-button", n: 1 }]);
});

test("a click is reported even where an element keeps its clicks to itself", () => {
  const page = openPage();
  const button = page.add("button", { "data-go": "pos=4" });
  button.addEventListener("click", (event) => event.stopPropagation());
  button.click();
  assert.equal(lastTarget(page), "pos=4");
});

test("the browser's back button reports the address", () => {
  const page = openPage({ search: "?row=7" });
  page.window.dispatch("popstate");
  assert.deepEqual(reports(page), [{ url: "?row=7", n: 1 }]);
});

test("a click elsewhere reports nothing", () => {
  const page = openPage();
  page.add("p", {}).click();
  assert.deepEqual(page.sets, []);
});

/* ---------------------------------------------------------------- keys */

for (const [key, target] of [
  ["ArrowUp", "row=21&pos=3&layer=20"],
  ["ArrowDown", "row=19&pos=3&layer=18"],
  ["ArrowLeft", "row=20&pos=2&layer=19"],
  ["ArrowRight", "row=20&pos=4&layer=19"],
]) {
  test(`${key} moves the selected cell`, () => {
    const page = openRun();
    const event = page.key(key);
    assert.equal(lastTarget(page), target);
    assert.ok(event.defaultPrevented);
  });
}

test("the selected cell stays within the run", () => {
  const first = openRun({ row: 0, pos: 0 });
  first.key("ArrowDown");
  first.key("ArrowLeft");
  assert.equal(lastTarget(first), "row=0&pos=0&layer=0");
  const last = openRun({ row: 30, pos: 5 });
  last.key("ArrowUp");
  last.key("ArrowRight");
  assert.equal(lastTarget(last), "row=30&pos=5&layer=29");
});

test("arrows move through the rows and positions that the heatmap shows", () => {
  const page = openRun({ row: 20, pos: 1 });
  addHeatmap(page, [10, 20, 24], [0, 1, 5]);
  page.key("ArrowUp");
  assert.equal(lastTarget(page), "row=24&pos=1&layer=23");
  answer(page);
  page.key("ArrowRight");
  assert.equal(lastTarget(page), "row=24&pos=5&layer=23");
});

test("beyond the last shown row and position the next one that exists is selected", () => {
  const page = openRun({ row: 24, pos: 2 });
  addHeatmap(page, [10, 20, 24], [2, 3]);
  page.key("ArrowUp");
  answer(page);
  page.key("ArrowLeft");
  assert.equal(lastTarget(page), "row=25&pos=1&layer=24");
});

test("arrows are left to fields, sliders and menus", () => {
  const page = openRun();
  for (const attributes of [
    ["textarea", {}],
    ["div", { role: "slider" }],
    ["summary", {}],
  ]) {
    const event = page.key("ArrowUp", {}, page.add(...attributes));
    assert.equal(event.defaultPrevented, false);
  }
  assert.deepEqual(page.sets, []);
});

test("arrows with a modifier key, and arrows without a run, do nothing", () => {
  const page = openRun();
  page.key("ArrowUp", { altKey: true });
  page.key("ArrowUp", { ctrlKey: true });
  page.dash.followSelection(null, null, null);
  page.key("ArrowUp");
  assert.deepEqual(page.sets, []);
});

test("Ctrl and Enter press Run", () => {
  const page = openPage();
  page.add("button", { id: "run-button" });
  page.key("Enter");
  assert.deepEqual(page.sets, []);
  page.key("Enter", { ctrlKey: true });
  page.key("Enter", { metaKey: true });
  assert.equal(reports(page).length, 2);
});

/* ---------------------------------------------------------------- the selected cell */

test("the page's root says that a run is shown", () => {
  const page = openPage();
  page.dash.followSelection(null, null, null);
  assert.equal(page.document.documentElement.dataset.run, undefined);
  page.dash.followSelection(null, RUN, null);
  assert.equal(page.document.documentElement.dataset.run, "shown");
});

test("without a selected cell the last row at the prompt's last token is selected", () => {
  const page = openRun(null);
  page.key("ArrowLeft");
  assert.equal(lastTarget(page), "row=30&pos=2&layer=29");
});

test("a cell outside the run is moved into it", () => {
  const page = openRun({ row: 99, pos: 99 });
  page.key("ArrowDown");
  assert.equal(lastTarget(page), "row=29&pos=5&layer=28");
});

test("a move that the server has not processed is newer than the stored cell", () => {
  const page = openRun({ row: 20, pos: 3 });
  page.key("ArrowUp");
  page.dash.followSelection({ row: 20, pos: 3 }, RUN, { seen: 0 });
  page.key("ArrowUp"); // it waits for the answer to the first move
  page.dash.followSelection({ row: 20, pos: 3 }, RUN, { seen: 1 });
  answer(page);
  assert.equal(lastTarget(page), "row=22&pos=3&layer=21");
  answer(page);
  page.dash.followSelection({ row: 5, pos: 0 }, RUN, { seen: 2 });
  page.key("ArrowUp");
  assert.equal(lastTarget(page), "row=6&pos=0&layer=5");
});

test("the heatmap's outline moves to the selected cell, and hides where the cell is not shown", () => {
  const page = openRun({ row: 20, pos: 1 });
  const chart = addHeatmap(page, [10, 20, 24], [0, 1, 5]);
  page.key("ArrowUp");
  assert.deepEqual(page.window.relayouts, [
    [
      chart,
      {
        "shapes[0].x0": 0.5,
        "shapes[0].x1": 1.5,
        "shapes[0].y0": 1.5,
        "shapes[0].y1": 2.5,
      },
    ],
  ]);
  page.key("ArrowUp"); // row 25: not shown
  assert.deepEqual(page.window.relayouts[1], [chart, { "shapes[0].visible": false }]);
});

test("the outline moves to the first row and the first position too", () => {
  const page = openRun({ row: 10, pos: 1 });
  addHeatmap(page, [10, 20], [0, 1]);
  page.key("ArrowLeft");
  const [, changes] = page.window.relayouts.at(-1);
  assert.deepEqual(changes, {
    "shapes[0].x0": -0.5,
    "shapes[0].x1": 0.5,
    "shapes[0].y0": -0.5,
    "shapes[0].y1": 0.5,
  });
});

/* A chart that Plotly drew: 10 pixels for each unit of both axes, with a path for each shape. */
function addDrawn(page, id, layout, paths) {
  const chart = page.chart(id, layout);
  const elements = paths.map((d, index) => page.add("path", { "data-index": `${index}`, d }));
  chart.append(page.add("g", { class: "shapelayer" }, ...elements));
  const axis = { c2p: (value) => 10 * value };
  const shapes = layout.shapes.map((shape) => ({ xref: "x", yref: "y", ...shape }));
  chart._fullLayout = { xaxis: axis, yaxis: axis, shapes };
  return { chart, shapes, drawn: () => elements.map((element) => element.getAttribute("d")) };
}

test("a drawn outline is moved without Plotly, and Plotly draws it there the next time", () => {
  const page = openRun({ row: 20, pos: 1 });
  const shape = { x0: 0.5, x1: 1.5, y0: 0.5, y1: 1.5, visible: true };
  const meta = { view: "heatmap", rows: [10, 20, 24], positions: [0, 1], labels: [], ids: [] };
  const layout = { meta, shapes: [{ ...shape }, { ...shape }] };
  const square = "M105,205H115V215H105Z";
  const { shapes, drawn } = addDrawn(page, "lens-graph", layout, [square, square]);
  page.key("ArrowUp");
  assert.deepEqual(drawn(), Array(2).fill("M105,215H115V225H105Z"));
  page.key("ArrowLeft");
  assert.deepEqual(drawn(), Array(2).fill("M95,215H105V225H95Z"));
  assert.deepEqual(page.window.relayouts, []);
  const moved = { x0: -0.5, x1: 0.5, y0: 1.5, y1: 2.5, visible: true };
  assert.deepEqual(layout.shapes, [moved, moved]);
  assert.deepEqual(shapes[1], { xref: "x", yref: "y", ...moved });
});

test("Plotly moves an outline that appears, and a path that is no rectangle", () => {
  const page = openRun({ row: 10, pos: 1 });
  const hidden = { x0: 0, x1: 1, y0: 0, y1: 1, visible: false };
  const meta = { view: "heatmap", rows: [10, 20], positions: [0, 1], labels: [], ids: [] };
  const { drawn } = addDrawn(page, "lens-graph", { meta, shapes: [hidden] }, ["M0,0H1V1H0Z"]);
  const band = { x0: 9.5, x1: 10.5 };
  const curves = { meta: { view: "curves" }, shapes: [band] };
  const other = addDrawn(page, "curves-graph", curves, ["M0,0L9,9"]);
  page.key("ArrowUp");
  assert.deepEqual(drawn(), ["M0,0H1V1H0Z"]);
  assert.deepEqual(other.drawn(), ["M0,0L9,9"]);
  const [[, first], [, second]] = page.window.relayouts;
  assert.equal(first["shapes[0].visible"], true);
  assert.deepEqual(second, { "shapes[0].x0": 19.5, "shapes[0].x1": 20.5 });
});

test("the band in the curves moves to the selected row", () => {
  const page = openRun({ row: 20, pos: 1 });
  const shapes = [
    { x0: 19.5, x1: 20.5 },
    { x0: 3, x1: 3 },
  ]; // the band, and another shape
  const chart = page.chart("curves-graph", { meta: { view: "curves" }, shapes });
  page.key("ArrowUp");
  const moved = { "shapes[0].x0": 20.5, "shapes[0].x1": 21.5 };
  assert.deepEqual(page.window.relayouts, [[chart, moved]]);
});

test("the band in the emergence strip moves to the selected position, or hides", () => {
  const page = openRun({ row: 20, pos: 1 });
  const meta = { view: "emergence", positions: [0, 1], values: [], last: 30 };
  page.chart("emergence-graph", { meta, shapes: [{ x0: 0.5, x1: 1.5, visible: true }] });
  const changes = () => page.window.relayouts.at(-1)[1];
  page.key("ArrowLeft");
  assert.deepEqual(changes(), { "shapes[0].x0": -0.5, "shapes[0].x1": 0.5 });
  page.key("ArrowRight");
  page.key("ArrowRight");
  assert.equal(changes()["shapes[0].visible"], false);
});

test("a chart that shows another view keeps its shapes", () => {
  const page = openRun({ row: 20, pos: 1 });
  page.chart("curves-graph", { meta: { view: "none" }, shapes: [{ x0: 0, x1: 0 }] });
  page.key("ArrowUp");
  assert.deepEqual(page.window.relayouts, []);
});

test("the token strip scrolls only where the selected token is near its edge", () => {
  const page = openPage();
  const token = page.add("button", { class: "token is-selected" });
  const strip = page.add("div", { id: "tokens-strip" }, token);
  Object.assign(strip, { clientWidth: 1000, scrollLeft: 1000 });
  token.offsetWidth = 40;
  strip.rect = { left: 20 };
  const scrolledTo = (left) => {
    strip.scrollLeft = 1000;
    token.rect = { left };
    page.mutate();
    return strip.scrollLeft;
  };
  token.rect = { left: 900 };
  page.dash.followSelection(null, RUN, null);
  page.frame();
  assert.equal(strip.scrollLeft, 1400); // the token's middle, 1900, is in the strip's middle
  assert.equal(scrolledTo(150), 1000); // its middle is 150 pixels from the left edge
  assert.equal(scrolledTo(149), 1000 + 149 - 500);
  assert.equal(scrolledTo(850), 1000);
  assert.equal(scrolledTo(851), 1000 + 851 - 500);
});

test("a new answer for the same cell does not scroll the token strip again", () => {
  const page = openPage();
  const token = page.add("button", { class: "token is-selected" });
  const strip = page.add("div", { id: "tokens-strip" }, token);
  strip.clientWidth = 1000;
  token.rect = { left: 900 };
  const cell = { row: 1, pos: 1 };
  page.dash.followSelection(cell, RUN, null);
  page.frame();
  strip.scrollLeft = 0; // the reader scrolls back
  page.dash.followSelection(cell, RUN, { seen: 0 });
  page.frame();
  assert.equal(strip.scrollLeft, 0);
  page.dash.followSelection({ row: 2, pos: 1 }, RUN, { seen: 0 });
  page.frame();
  assert.equal(strip.scrollLeft, 400);
});

/* ---------------------------------------------------------------- address and theme */

test("views of an earlier run are marked when a request is refused", () => {
  const page = openPage();
  const { dataset } = page.document.documentElement;
  const run = { ...RUN, attempt: 1 };
  const refused = { attempt: 2, problem: ["The prompt is empty.", "", ""] };
  page.dash.followSelection({}, run, { seen: 0 }, null);
  assert.equal(dataset.run, "shown");
  page.dash.followSelection({}, run, { seen: 0 }, refused);
  assert.equal(dataset.run, "old");
  page.dash.followSelection({}, { ...run, attempt: 3 }, { seen: 0 }, refused);
  assert.equal(dataset.run, "shown");
});

test("while a move is not answered, only the last of the next moves is sent", async () => {
  const page = openRun();
  page.stratascope.page.selectCell(5, 1);
  page.stratascope.page.selectCell(6, 1);
  page.stratascope.page.selectCell(7, 1);
  assert.deepEqual(
    reports(page).map((report) => report.to),
    ["row=5&pos=1&layer=4"]
  );
  page.dash.showAddress({ seen: 1, query: "" });
  assert.equal(lastTarget(page), "row=7&pos=1&layer=6");
  page.stratascope.page.selectCell(8, 1);
  page.stratascope.page.select("curve=rank");
  assert.deepEqual(
    reports(page).map((report) => report.to),
    ["row=7&pos=1&layer=6", "row=8&pos=1&layer=7", "curve=rank"]
  );
  page.stratascope.page.selectCell(9, 1);
  await page.clock.advance(1000); // the answer may have been dropped
  assert.equal(lastTarget(page), "row=9&pos=1&layer=8");
});

test("the address follows the selection, and a new run adds a history entry", () => {
  const page = openPage({ search: "?row=3" });
  page.dash.showAddress({ seen: 0, query: "?row=3", push: true });
  assert.deepEqual(page.history, []);
  page.dash.showAddress({ seen: 0, query: "?row=4", push: false });
  page.dash.showAddress({ seen: 0, query: "?prompt=a", push: true });
  assert.deepEqual(page.history, [
    ["replace", "/?row=4"],
    ["push", "/?prompt=a"],
  ]);
});

test("the form shows what was requested by other means", () => {
  const page = openPage();
  page.dash.showAddress({ seen: 0, query: "", set: { "run-prompt": "a b" } });
  assert.deepEqual(page.sets, [["run-prompt", { value: "a b" }]]);
});

test("the theme is the chosen one, else the system's", () => {
  const page = openPage();
  const scheme = () => page.layout.scheme.data;
  page.dash.applyTheme({ theme: "dark" });
  assert.equal(scheme(), "dark");
  assert.equal(page.document.documentElement.dataset.theme, "dark");
  page.dash.applyTheme(null);
  assert.equal(scheme(), "light");
  page.window.matchMedia = () => ({ matches: true });
  page.dash.applyTheme({ theme: "auto" });
  assert.equal(scheme(), "dark");
});

test("Copy link copies the address and says so for a moment", async () => {
  const page = openPage({ search: "?row=3" });
  page.dash.showAddress({ seen: 0, query: "?row=3", link: "?prompt=a&row=3" });
  const button = page.add("button", { "data-copy-address": "" }, "Copy link");
  button.click();
  await settled();
  button.click();
  await settled();
  assert.deepEqual(page.clipboard, Array(2).fill("https://example.test/?prompt=a&row=3"));
  assert.equal(button.textContent, "Copied");
  await page.clock.advance(2000);
  assert.equal(button.textContent, "Copy link");
});

test("until a cell is chosen, the run's own opening position is shown", () => {
  const page = openPage();
  page.dash.followSelection(null, { ...RUN, opening: 4 }, { seen: 0 });
  page.key("ArrowLeft");
  assert.equal(lastTarget(page), "row=30&pos=3&layer=29");
});
