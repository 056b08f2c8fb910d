"use strict";

const assert = require("node:assert/strict");
const { test } = require("node:test");
const { PICTURE, openFlow, targets } = require("./flow_page");

const RUN = { layers: 30 };

function point(page, element, properties) {
  (element ?? page.document.body).dispatch("mouseover", properties);
}

/* Points at a place of the picture, in its own pixels, where a node is. */
function pointAtNode(page, [x, y], event = "mouseover") {
  const { left, top } = PICTURE.margin;
  const properties = { clientX: x + left, clientY: y + top };
  return page.canvas.querySelector(".flow-nodes").dispatch(event, properties);
}

function highlighted(page) {
  return page.canvas.querySelectorAll(".is-highlighted").map((link) => link.dataset.go);
}

/* ---------------------------------------------------------------- drawing */

test("a picture is drawn as one SVG, which replaces the one before", () => {
  const page = openFlow();
  assert.equal(page.dash.drawFlow(PICTURE), "flow");
  assert.equal(page.canvas.querySelectorAll("svg").length, 1);
  const hit = page.canvas.querySelector(".flow-nodes").getAttribute("d");
  assert.equal(hit, "M397 8h6v44h-6zM297 8h6v44h-6zM-3 8h6v24h-6z");
  assert.equal(page.canvas.querySelectorAll("path.flow-link").length, 3); // not the minor one
  assert.equal(page.panel.dataset.flow, "flow");
});

test("without a picture the SVG goes", () => {
  const page = openFlow();
  assert.equal(page.dash.drawFlow(undefined), "none"); // before the first answer
  assert.deepEqual(page.layout["lazy-flow-graph"], undefined);
  assert.equal(page.dash.drawFlow(null), "none");
  assert.deepEqual(page.layout["lazy-flow-graph"], { shown: true });
  assert.equal(page.canvas.querySelector("svg"), null);
});

test("wide links are drawn below narrow ones, minor links on top while a node has the pointer", () => {
  const page = openFlow();
  pointAtNode(page, [400, 20]);
  const order = page.canvas.querySelectorAll("path.flow-link").map((link) => link.dataset.go);
  assert.deepEqual(order, ["link=d", "link=c", "link=b", "link=a"]);
});

test("links of equal width lie in the order of their kinds", () => {
  const kinds = ["attention", "mlp", "sink", "residual"];
  const links = kinds.map((kind) => [0, 1, 0, 0, 9, 9, 3, kind, true, kind, [], true]);
  const order = openFlow()
    .stratascope.flow.drawingOrder(links)
    .map((link) => link[7]);
  assert.deepEqual(order, ["residual", "sink", "mlp", "attention"]);
});

test("each token has a guide across the plot area, and the graph is clipped to it", () => {
  const page = openFlow();
  const guides = page.canvas.querySelector(".flow-guide").getAttribute("d");
  assert.equal(guides, "M0 0H400M0 190H400");
  const { x, y, width, height } = page.canvas.querySelector("clipPath > rect").attributes;
  assert.deepEqual([x, y, width, height], ["0", "-20", "440", "220"]);
});

test("a link's classes say its kind, whether it is minor and whether it is a line", () => {
  const page = openFlow();
  pointAtNode(page, [400, 20]);
  const classes = page.canvas.querySelectorAll("path.flow-link").map((link) => link.className);
  assert.deepEqual(classes.slice(2), [
    "flow-link is-attention is-highlighted",
    "flow-link is-attention is-minor is-line is-highlighted",
  ]);
});

test("a ribbon has its width from top to bottom, a line as its stroke", () => {
  const page = openFlow();
  pointAtNode(page, [400, 20]);
  const [, , ribbon, line] = page.canvas.querySelectorAll("path.flow-link");
  assert.equal(ribbon.getAttribute("d"), "M0 16C150 16 150 16 300 16V24C150 24 150 24 0 24Z");
  assert.equal(ribbon.getAttribute("stroke-width"), "0");
  assert.equal(line.getAttribute("d"), "M0 20C200 20 200 20 400 20");
  assert.equal(line.getAttribute("stroke-width"), "2");
});

test("nodes show what drawn links account for, and below it the rest, in three paths", () => {
  const page = openFlow();
  const masses = page.canvas.querySelectorAll(".flow-mass");
  assert.deepEqual(
    masses.map((mass) => [mass.className.replace("flow-mass ", ""), mass.getAttribute("d")]),
    [
      ["is-other", "M397.5 40h5v10h-5z"],
      ["is-covered", "M297.5 10h5v40h-5z"],
      ["is-covered is-block", "M397.5 10h5v30h-5zM-2.5 10h5v20h-5z"],
    ]
  );
});

test("the link of all that is not drawn has the outline's height at each end", () => {
  const page = openFlow();
  const other = page.canvas.querySelector("polygon");
  assert.equal(other.getAttribute("points"), "0,184 400,188 400,180 0,180");
  assert.equal(other.dataset.go, undefined);
});

test("the scale is the tallest bar that fits, and names its part of the flow", () => {
  const page = openFlow();
  const text = page.panel.querySelector(".flow-scale-text");
  const bar = page.panel.querySelector(".flow-scale-bar");
  assert.deepEqual([bar.style.height, text.textContent], ["12px", "10 % of the flow"]);
  page.stratascope.flow.showScale(1.5);
  assert.deepEqual([bar.style.height, text.textContent], ["18px", "10 % of the flow"]);
  page.stratascope.flow.showScale(2);
  assert.deepEqual([bar.style.height, text.textContent], ["12px", "5 % of the flow"]);
  page.stratascope.flow.showScale(8); // none fits: the smallest
  assert.deepEqual([bar.style.height, text.textContent], ["48px", "5 % of the flow"]);
  page.dash.drawFlow({ ...PICTURE, up: true });
  assert.equal(text.textContent, "10 % of the state it enters");
});

/* ---------------------------------------------------------------- under the pointer */

test("pointing at a node highlights the links of all nodes of its state", () => {
  const page = openFlow();
  pointAtNode(page, [400, 20]);
  assert.deepEqual(highlighted(page), ["link=c", "link=b", "link=a"]);
  assert.ok(page.stratascope.flow.svg.classList.contains("is-focused"));
  assert.equal(page.canvas.querySelector(".flow-mark").getAttribute("d"), "M397 8h6v44h-6z");
  pointAtNode(page, [1, 20], "mousemove"); // on the same path
  assert.equal(page.canvas.querySelector(".flow-box").textContent, "row 0");
  assert.deepEqual(highlighted(page), ["link=d", "link=c", "link=b", "link=a"]);
});

test("pointing elsewhere ends the highlight and removes the box", () => {
  const page = openFlow();
  pointAtNode(page, [400, 20]);
  pointAtNode(page, [400, 20], "mousemove");
  assert.ok(page.canvas.querySelector(".flow-box"));
  point(page);
  assert.equal(page.canvas.querySelector(".flow-mark").getAttribute("d"), null);
  assert.deepEqual(highlighted(page), []);
  assert.ok(!page.stratascope.flow.svg.classList.contains("is-focused"));
  assert.equal(page.canvas.querySelector(".is-minor"), null);
  assert.equal(page.canvas.querySelector(".flow-box"), null);
});

test("pointing at a link highlights nothing and shows its lines as text", () => {
  const page = openFlow({
    ...PICTURE,
    links: [[...PICTURE.links[1].slice(0, 10), ["<b>x</b>", "2"], true]],
  });
  const link = page.canvas.querySelector("path.flow-link");
  point(page, link);
  link.dispatch("mousemove", { clientX: 10, clientY: 10 });
  assert.deepEqual(highlighted(page), []);
  const lines = page.canvas.querySelector(".flow-box").children;
  assert.deepEqual(
    lines.map((line) => [line.tagName, line.textContent]),
    [
      ["b", "<b>x</b>"],
      ["div", "2"],
    ]
  );
});

test("the box stands right of the pointer, left of it where the right has no room", () => {
  const page = openFlow();
  page.canvas.rect = { left: 100, top: 50, width: 500, height: 250 };
  page.canvas.scrollLeft = 30;
  const link = page.canvas.querySelector("path.flow-link");
  point(page, link);
  link.dispatch("mousemove", { clientX: 200, clientY: 150 });
  const box = page.canvas.querySelector(".flow-box");
  Object.assign(box, { offsetWidth: 120, offsetHeight: 40 });
  const place = (clientX, clientY) => {
    link.dispatch("mousemove", { clientX, clientY });
    return [box.style.left, box.style.top];
  };
  assert.deepEqual(place(200, 150), ["146px", "52px"]);
  assert.deepEqual(place(580, 150), ["374px", "52px"]);
  assert.deepEqual(place(580, 60), ["374px", "0px"]);
});

test("a click on a link or a node selects", () => {
  const page = openFlow();
  page.canvas.querySelector("path.flow-link").click();
  pointAtNode(page, [302.5, 20], "click"); // at the edge of the second node
  page.canvas.querySelector("polygon").click();
  assert.deepEqual(targets(page), ["link=d", "row=30&pos=1"]);
});

/* ---------------------------------------------------------------- signed flow and layers */

test("a bar of signed flow selects its layer, head and link", () => {
  const page = openFlow(null);
  const meta = { view: "flow-signed", table: { columns: [], rows: [] } };
  const chart = page.chart("flow-graph", { meta }, page.panel);
  for (const customdata of [
    ["", "attention", 7, 2, 4, 3],
    ["", "attention", 0, 2, 4, 0],
    ["", "mlp", 7, 4, 4, -1],
  ]) {
    chart.emit("plotly_click", { points: [{ customdata }] });
  }
  assert.deepEqual(targets(page), [
    "layer=7&heads=3&link=attention:7:2:4:3",
    "layer=0&heads=0&link=attention:0:2:4:0",
    "layer=7&link=mlp:7:4:4:-1",
  ]);
});

test("the layer slider shows the selected range, within the model", () => {
  const page = openFlow();
  page.dash.showFlowLayers({ first: 3, last: null }, RUN, null);
  assert.deepEqual(page.layout["flow-layers"], { max: 29, value: [3, 29] });
  page.dash.showFlowLayers({ first: null, last: 9 }, RUN, null);
  assert.deepEqual(page.layout["flow-layers"].value, [0, 9]);
  page.dash.showFlowLayers({ first: 50, last: 2 }, RUN, null);
  assert.deepEqual(page.layout["flow-layers"].value, [29, 29]);
});

test("the layer slider reports a range; an end at the edge is no limit", () => {
  const page = openFlow();
  page.dash.reportFlowLayers([1, 2]); // before it has shown a model
  page.dash.showFlowLayers(null, RUN, { seen: 0 });
  for (const range of [
    [3, 29],
    [0, 28],
    [3, 9],
    [0, 29],
  ]) {
    page.dash.reportFlowLayers(range);
  }
  assert.deepEqual(targets(page), [
    "first=3&last=none",
    "first=none&last=28",
    "first=3&last=9",
    "first=none&last=none",
  ]);
});
