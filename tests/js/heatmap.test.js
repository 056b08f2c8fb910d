"use strict";

const assert = require("node:assert/strict");
const { test } = require("node:test");
const { openPage } = require("./browser");

const META = {
  view: "heatmap",
  rows: [0, 10, 30],
  positions: [4, 5],
  ids: [
    [1, 2],
    [3, -1],
    [5, 6],
  ],
  labels: [
    ["a", "b"],
    ["c", ""],
    ["…", "d"],
  ],
  waiting: "…",
  column: 50,
};
const SIZE = { l: 60, r: 20, t: 30, b: 40, w: 100, h: 90 };
const SCALE = [
  [0, "#000000"],
  [0.5, "#204060"],
  [1, "#ffffff"],
];
const TRACE = {
  z: [
    [0, 1],
    [0.5, null],
    [null, NaN],
  ],
  zmin: 0,
  zmax: 1,
  colorscale: SCALE,
};

/* A heatmap as Plotly draws it, in a panel that scrolls. */
function openHeatmap(meta = META) {
  const page = openPage();
  const scroller = page.add("div", { class: "figure scroll-x" });
  Object.assign(scroller, { clientWidth: 400, clientHeight: 400 });
  const chart = page.chart("lens-graph", { meta }, scroller);
  const axis = (step) => ({ c2p: (value) => value * step });
  chart._fullLayout = { xaxis: axis(50), yaxis: axis(-30), _size: SIZE };
  chart._fullData = [TRACE];
  page.add("g", { class: "layers", parent: chart }, page.add("g", { class: "heatmaplayer" }));
  chart.rect = { left: 0, right: 200, top: 0, bottom: 100 };
  return { page, chart, scroller };
}

/* Clicks a cell, then presses the button again as the browser counts it. */
function doubleClick({ page, chart }, x, y, { detail = 2, delay = 200, clientX = 50 } = {}) {
  chart.emit("plotly_click", { points: [{ x, y }], event: { timeStamp: 1000 } });
  chart.dispatch("mouseup", { detail, timeStamp: 1000 + delay, clientX, clientY: 50 });
  return page.layout.events.data.reports.map((report) => report.to);
}

/* ---------------------------------------------------------------- selecting and pinning */

test("a click selects the cell under the pointer", () => {
  const { page, chart } = openHeatmap();
  chart.emit("plotly_click", { points: [{ x: 1.2, y: 0.9 }], event: { timeStamp: 0 } });
  assert.deepEqual(page.layout.events.data.reports, [{ to: "row=10&pos=5&layer=9", n: 1 }]);
});

test("a click outside the cells selects nothing", () => {
  const { page, chart } = openHeatmap();
  chart.emit("plotly_click", { points: [{ x: 7, y: 0 }], event: { timeStamp: 0 } });
  assert.deepEqual(page.sets, []);
});

test("a double click pins the cell's token beside the model's own choice", () => {
  const targets = doubleClick(openHeatmap(), 0, 1);
  assert.deepEqual(targets, ["row=10&pos=4&layer=9", "with=pins:3&shown=5"]);
});

test("a double click adds to the pinned tokens, and unpins one of them", () => {
  const heatmap = openHeatmap();
  heatmap.page.chart("curves-graph", { meta: { view: "curves", chosen: true, pins: [3, 9] } });
  assert.equal(doubleClick(heatmap, 0, 0).at(-1), "with=pins:1&shown=3,9");
  assert.equal(doubleClick(heatmap, 0, 1).at(-1), "without=pins:3&shown=3,9");
});

test("token 0 is a token like any other", () => {
  const heatmap = openHeatmap({
    ...META,
    ids: [
      [0, 2],
      [3, -1],
      [0, 6],
    ],
  });
  assert.equal(doubleClick(heatmap, 0, 0).at(-1), "with=pins:0&shown=0");
});

test("a cell without a token pins nothing", () => {
  assert.deepEqual(doubleClick(openHeatmap(), 1, 1), ["row=10&pos=5&layer=9"]);
});

for (const [name, options] of [
  ["a single click", { detail: 1 }],
  ["a second click after a second", { delay: 1000 }],
  ["a second click beside the heatmap", { clientX: 201 }],
]) {
  test(`${name} pins nothing`, () => {
    assert.equal(doubleClick(openHeatmap(), 0, 1, options).length, 1);
  });
}

test("the cell that was clicked is pinned, even if the first click moved the rows", () => {
  const heatmap = openHeatmap();
  heatmap.chart.emit("plotly_click", { points: [{ x: 0, y: 1 }], event: { timeStamp: 0 } });
  const [rows, ids] = [META.rows.slice(1), META.ids.slice(1)];
  heatmap.chart.layout = { meta: { ...META, rows, ids } };
  heatmap.chart.dispatch("mouseup", { detail: 2, timeStamp: 9, clientX: 50, clientY: 50 });
  assert.equal(heatmap.page.layout.events.data.reports.at(-1).to, "with=pins:3&shown=5");
});

/* ---------------------------------------------------------------- tokens in the cells */

/* The joined texts of a heatmap, as [text, xs, ys, colour or class]. */
function texts(chart) {
  const numbers = (text, name) => text.getAttribute(name).split(" ").map(Number);
  return chart
    .querySelectorAll(".cell-text")
    .map((text) => [
      text.textContent,
      numbers(text, "x"),
      numbers(text, "y"),
      text.style.fill || text.className,
    ]);
}

test("tokens are written at their cells, in a colour that contrasts with the cell", () => {
  const { chart } = openHeatmap();
  chart.emit("plotly_afterplot");
  assert.deepEqual(texts(chart), [
    ["…", [0], [-56], "cell-text is-waiting"],
    ["d", [50], [-56], "cell-text is-uncoloured"],
    ["ca", [0, 0], [-26, 4], "#ffffff"], // one element for all cells with white text
    ["b", [50], [4], "#000000"],
  ]);
});

test("each character of a token has its place, and the token is in the middle of its cell", () => {
  const labels = [
    ["abc", "de"],
    ["x y", "שלום"], // characters of other widths or scripts: a text of their own
    ["e\u0301a", ""],
  ];
  const z = labels.map((line) => line.map(() => 0));
  const { chart } = openHeatmap({ ...META, labels });
  chart._fullData = [{ ...TRACE, z }];
  chart.emit("plotly_afterplot");
  assert.deepEqual(texts(chart), [
    ["e\u0301a", [0], [-56], "#ffffff"],
    ["x y", [0], [-26], "#ffffff"],
    ["שלום", [50], [-26], "#ffffff"],
    ["abcde", [-6.6, 0, 6.6, 46.7, 53.3], [4, 4, 4, 4, 4], "#ffffff"],
  ]);
});

test("texts that are in place are not written again, and an export has one text a cell", () => {
  const { page, chart } = openHeatmap();
  chart.emit("plotly_afterplot");
  const group = chart.querySelector(".cell-texts");
  chart.emit("plotly_afterplot");
  assert.equal(chart.querySelector(".cell-texts"), group);
  const whole = page.stratascope.heatmap.allTexts(chart, SCALE);
  assert.deepEqual(
    whole.querySelectorAll(".cell-text").map((text) => text.textContent),
    ["…", "d", "c", "a", "b"]
  );
  chart._fullData = [{ ...TRACE, z: TRACE.z.map((line) => [...line]) }];
  chart.emit("plotly_afterplot");
  assert.notEqual(chart.querySelector(".cell-texts"), group);
});

test("only visible cells get a token, again after scrolling", () => {
  const rows = Array.from({ length: 3 }, (_, row) => row);
  const positions = Array.from({ length: 100 }, (_, position) => position);
  const letter = (position) => String.fromCharCode(0x100 + position);
  const labels = rows.map(() => positions.map(letter));
  const { page, chart, scroller } = openHeatmap({ ...META, rows, positions, labels });
  chart._fullData = [{ ...TRACE, z: rows.map(() => positions.map(() => 0)) }];
  chart._fullLayout._size = { ...SIZE, w: 5000 }; // 50 pixels a column
  chart.emit("plotly_afterplot");
  const columns = () => [...new Set(texts(chart).flatMap(([text]) => [...text]))];
  assert.deepEqual(columns(), positions.slice(0, 10).map(letter)); // 400 / 50, and two more
  scroller.scrollLeft = 1000;
  scroller.dispatch("scroll", { bubbles: false });
  page.frame();
  assert.deepEqual(columns(), positions.slice(20, 30).map(letter));
});

test("the first row is at the bottom: scrolled down, the last rows get no token", () => {
  const rows = Array.from({ length: 90 }, (_, row) => row);
  const labels = rows.map((row) => [String.fromCharCode(0x100 + row)]);
  const { chart, scroller } = openHeatmap({ ...META, rows, positions: [0], labels });
  chart._fullLayout._size = { ...SIZE, h: 1800 }; // 20 pixels a row
  chart._fullData = [{ ...TRACE, z: rows.map(() => [0]) }];
  Object.assign(scroller, { scrollTop: 1030, clientHeight: 200 }); // 30 pixels lie above the cells
  chart.emit("plotly_afterplot");
  const lines = [...texts(chart)[0][0]].map((letter) => letter.charCodeAt(0) - 0x100);
  assert.deepEqual(lines, [39, 38, 37, 36, 35, 34, 33, 32, 31, 30, 29, 28]);
});

test("a colour is interpolated between the stops of the scale", () => {
  const { colourAt } = openPage().stratascope.heatmap;
  assert.deepEqual(colourAt(SCALE, 0), [0, 0, 0]);
  assert.deepEqual(colourAt(SCALE, 0.25), [16, 32, 48]);
  assert.deepEqual(colourAt(SCALE, 0.5), [32, 64, 96]);
  assert.deepEqual(colourAt(SCALE, 0.75), [143.5, 159.5, 175.5]);
  assert.deepEqual(colourAt(SCALE, 1), [255, 255, 255]);
});

/* The contrast of black or white text on a colour, by the definition of WCAG 2.2. */
function contrastOn(rgb, text) {
  const [r, g, b] = rgb.map((value) => {
    const part = value / 255;
    return part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
  });
  const light = 0.2126 * r + 0.7152 * g + 0.0722 * b;
  return text === "#ffffff" ? 1.05 / (light + 0.05) : (light + 0.05) / 0.05;
}

test("text is dark on light cells and light on dark ones", () => {
  const { textColour } = openPage().stratascope.heatmap;
  const colours = [
    [255, 255, 255],
    [0, 255, 0],
    [0, 0, 255],
    [0, 0, 0],
  ].map(textColour);
  assert.deepEqual(colours, ["#000000", "#000000", "#ffffff", "#ffffff"]);
});

test("the text of a cell has a contrast of at least 4.5 on every colour", () => {
  const { textColour } = openPage().stratascope.heatmap;
  const steps = Array.from({ length: 18 }, (_, step) => step * 15);
  const worst = Math.min(
    ...steps.flatMap((r) =>
      steps.flatMap((g) => steps.map((b) => contrastOn([r, g, b], textColour([r, g, b]))))
    )
  );
  assert.ok(worst >= 4.5, `worst contrast ${worst}`);
});

test("the visible range covers the window and stays within the cells", () => {
  const { visibleRange } = openPage().stratascope.heatmap;
  assert.deepEqual(visibleRange(100, 50, 0, 400), [0, 10]);
  assert.deepEqual(visibleRange(100, 50, 1010, 400), [20, 30]);
  assert.deepEqual(visibleRange(100, 50, 4900, 400), [98, 100]);
  assert.deepEqual(visibleRange(3, 50, -80, 400), [0, 3]);
});

test("a cell's colour is its value's place between the scale's ends", () => {
  const { page, chart } = openHeatmap();
  chart._fullData = [
    {
      ...TRACE,
      zmin: 10,
      zmax: 20,
      z: [
        [10, 20],
        [30, 0],
        [12, 19],
      ],
    },
  ];
  chart.emit("plotly_afterplot");
  const whole = page.stratascope.heatmap.allTexts(chart, SCALE).querySelectorAll(".cell-text");
  const colours = whole.map((text) => [text.textContent, text.style.fill]);
  assert.deepEqual(colours, [
    ["…", "#ffffff"], // 12
    ["d", "#000000"], // 19
    ["c", "#000000"], // above the scale
    ["a", "#ffffff"],
    ["b", "#000000"],
  ]);
});

test("a heatmap without tokens, or before Plotly has drawn it, gets no texts", () => {
  const { chart } = openHeatmap({ ...META, labels: [] });
  chart.emit("plotly_afterplot");
  assert.equal(chart.querySelector(".cell-texts"), null);
  const early = openHeatmap().chart;
  delete early._fullLayout;
  early.emit("plotly_afterplot");
  assert.equal(early.querySelector(".cell-texts"), null);
});

/* ---------------------------------------------------------------- scrolling */

test("the panel scrolls as little as it must", () => {
  const { scrollTarget } = openPage().stratascope.heatmap;
  assert.equal(scrollTarget(100, 400, 150, 300), 100); // visible
  assert.equal(scrollTarget(100, 400, 40, 90), 40); // left of the window
  assert.equal(scrollTarget(100, 400, 480, 530), 130); // beyond its right edge
});

test("the selected cell comes into view when the heatmap is drawn", () => {
  const { chart, scroller } = openHeatmap();
  chart.layout.shapes = [{ x0: 19.5, x1: 20.5, y0: -20.5, y1: -19.5 }]; // x 1060, y 630
  chart.emit("plotly_afterplot");
  assert.deepEqual([scroller.scrollLeft, scroller.scrollTop], [1093 - 400, 690 - 400]);
});

test("row names and token rows move by what the panel has scrolled", () => {
  const { page, chart, scroller } = openHeatmap();
  const rowNames = page.add("g", { class: "yaxislayer-above", parent: chart });
  const info = page.add("g", { class: "infolayer", parent: chart });
  const answers = page.add("g", { parent: chart }, page.add("g", { class: "x2tick" }));
  const tokens = page.add("g", { parent: chart }, page.add("g", { class: "xtick" }));
  const colourKey = page.add("g", { class: "cbabc", parent: info });
  Object.assign(scroller, { scrollLeft: 70, scrollTop: 15, scrollHeight: 440 });
  chart.emit("plotly_afterplot");
  assert.equal(rowNames.style.translate, "70px");
  assert.equal(tokens.style.translate, "0px -25px"); // 40 pixels can scroll, 15 have
  assert.equal(colourKey.style.translate, "70px 15px");
  assert.equal(answers.style.translate, "0px 15px");
  const cover = (layer, name) => {
    const { x, y, width, height } = layer.querySelector(`.${name}`).attributes;
    return [x, y, width, height].map(Number);
  };
  assert.deepEqual(cover(rowNames, "row-names-cover"), [0, 30, 59, 90]);
  assert.deepEqual(cover(tokens, "tokens-cover"), [0, 120, 180, 40]);
  assert.deepEqual(cover(answers, "tokens-cover"), [0, 0, 180, 30]);
  assert.deepEqual(cover(info, "corner-top"), [0, 0, 59, 30]);
  assert.deepEqual(cover(info, "corner-bottom"), [0, 120, 59, 40]);
  assert.equal(info.querySelector(".corner-bottom").style.translate, "70px -25px");
});

test("nothing is covered while the panel is not scrolled", () => {
  const { page, chart } = openHeatmap();
  const rowNames = page.add("g", { class: "yaxislayer-above", parent: chart });
  const info = page.add("g", { class: "infolayer", parent: chart });
  chart.emit("plotly_afterplot");
  const widths = [rowNames, info].flatMap((layer) =>
    layer.querySelectorAll("rect").map((cover) => cover.getAttribute("width"))
  );
  assert.deepEqual([...new Set(widths)], ["0"]);
});

test("names that cover cells catch the clicks on them", () => {
  const { page, chart, scroller } = openHeatmap();
  page.add("g", { class: "yaxislayer-above", parent: chart });
  const info = page.add("g", { class: "infolayer", parent: chart });
  Object.assign(scroller, { scrollLeft: 70, scrollTop: 15, scrollHeight: 440 });
  chart.emit("plotly_afterplot");
  const names = ["row-names-catch", "top-catch", "bottom-catch"];
  const caught = names.map((name) => {
    const { style, attributes } = info.querySelector(`.${name}`);
    const { x, y, width, height } = attributes;
    return [[x, y, width, height].map(Number), style.translate, style.pointerEvents];
  });
  assert.deepEqual(caught, [
    [[0, 30, 60, 90], "70px 0px", "all"],
    [[0, 0, 180, 30], "0px 15px", "all"],
    [[0, 120, 180, 40], "0px -25px", "all"],
  ]);
});

test("a click on the strip of all positions goes there and lets the window follow", () => {
  const { page } = openHeatmap();
  const strip = page.chart("lens-overview", { meta: { view: "overview" } });
  strip.emit("plotly_click", { points: [{ x: 140 }] });
  assert.equal(page.layout.events.data.reports.at(-1).to, "pos=140&show=");
});

/* ---------------------------------------------------------------- the search */

const HITS = { text: "a", columns: [4, 90], cells: [[0, 4], [30, 5]] }; // prettier-ignore

function openSearch() {
  const opened = openHeatmap({ ...META, hits: HITS });
  const { page, chart } = opened;
  const count = page.add("div", { "data-find-count": "" });
  const input = page.add("input", { id: "lens-find" });
  input.value = "a";
  const stored = { row: 10, pos: 5 };
  const run = { layers: 30, token_ids: new Array(100).fill(0), prompt_length: 100, attempt: 1 };
  page.dash.followSelection(stored, run, { seen: 0 }, null);
  chart.emit("plotly_afterplot");
  const press = (shiftKey = false) => page.key("Enter", { shiftKey }, input);
  return { ...opened, press, count, input };
}

test("matches are outlined where they are drawn, and nothing without a search", () => {
  const { chart } = openSearch();
  const [halo, line] = chart.querySelectorAll(".find-marks path");
  assert.equal(halo.getAttribute("d"), line.getAttribute("d"));
  assert.equal(line.getAttribute("d").split("M").length - 1, 3); // position 90 is not drawn
  const plain = openHeatmap({ ...META, hits: { text: "", columns: [], cells: [] } });
  plain.chart.emit("plotly_afterplot");
  assert.equal(plain.chart.querySelector(".find-marks"), null);
});

test("Enter goes through the matches by position, Shift and Enter goes back", async () => {
  const { page, press, count } = openSearch();
  const chosen = [];
  for (const back of [false, false, false, false, false, true]) {
    press(back);
    await page.clock.advance(1000);
    chosen.push([page.layout.events.data.reports.at(-1).to, count.textContent]);
  }
  assert.deepEqual(chosen, [
    ["row=10&pos=4&layer=9", "1 of 4"], // a column keeps the row
    ["row=0&pos=4&layer=0", "2 of 4"],
    ["row=30&pos=5&layer=29", "3 of 4"],
    ["row=30&pos=90&layer=29", "4 of 4"], // outside the drawn columns
    ["row=30&pos=4&layer=29", "1 of 4"], // round the end
    ["row=30&pos=90&layer=29", "4 of 4"],
  ]);
});

test("a new text chooses its first match once the matches are drawn", () => {
  const { page, press, chart, input, count } = openSearch();
  input.value = "b";
  press();
  assert.equal(page.layout.events, undefined);
  chart.layout.meta = { ...META, hits: { text: "b", columns: [], cells: [[10, 5]] } };
  chart.emit("plotly_afterplot");
  assert.equal(page.layout.events.data.reports.at(-1).to, "row=10&pos=5&layer=9");
  assert.equal(count.textContent, "1 of 1");
  input.value = "c";
  press();
  chart.layout.meta = { ...META, hits: { text: "c", columns: [], cells: [] } };
  chart.emit("plotly_afterplot");
  assert.equal(count.textContent, "No match");
});
