"use strict";

const assert = require("node:assert/strict");
const { test } = require("node:test");
const { PICTURE, openFlow, targets } = require("./flow_page");

const SIZE = [400, 200]; // of the plot area of the test's picture

/* Where the graph lies, as {x, y, zoom}. */
function transform(page) {
  const text = page.canvas.querySelector(".flow-scene").getAttribute("transform");
  const [x, y, zoom] = text.match(/-?[\d.]+(e-?\d+)?/g).map(Number);
  return { x, y, zoom };
}

function button(page, action) {
  page.add("button", { "data-flow-zoom": action, parent: page.panel }).click();
}

function press(page, key, properties) {
  return page.key(key, properties, page.canvas);
}

/* Drags from one point to another and releases the button, as a browser reports it. */
function drag(page, [x0, y0], [x1, y1], target = page.canvas) {
  page.canvas.dispatch("pointerdown", { button: 0, clientX: x0, clientY: y0 });
  target.dispatch("pointermove", { clientX: x1, clientY: y1 });
  target.dispatch("pointerup");
}

/* ---------------------------------------------------------------- arithmetic */

test("zooming keeps the point under the pointer where it is", () => {
  const { zoomAbout } = openFlow().stratascope.flow;
  const at = ({ zoom, x, y }, [px, py]) => [(px - x) / zoom, (py - y) / zoom]; // graph's own pixels
  const point = [130, 70];
  for (const view of [
    { zoom: 1, x: 0, y: 0 },
    { zoom: 3, x: -210, y: -150 },
  ]) {
    const next = zoomAbout(view, 1.7, point);
    assert.ok(Math.abs(next.zoom - 1.7 * view.zoom) < 1e-12);
    at(next, point).forEach((value, axis) => {
      assert.ok(Math.abs(value - at(view, point)[axis]) < 1e-9);
    });
  }
});

test("the zoom stays between 1 and 8", () => {
  const { zoomAbout } = openFlow().stratascope.flow;
  const whole = { zoom: 1, x: 0, y: 0 };
  assert.deepEqual(zoomAbout(whole, 0.5, [100, 100]), whole);
  assert.deepEqual(zoomAbout(whole, 100, [100, 50]), { zoom: 8, x: -700, y: -350 });
});

test("zooming in and out by the same factor gives the same view", () => {
  const { zoomAbout } = openFlow().stratascope.flow;
  const view = { zoom: 2, x: -90, y: -40 };
  assert.deepEqual(zoomAbout(zoomAbout(view, 2, [30, 60]), 0.5, [30, 60]), view);
});

test("the graph always covers the plot area", () => {
  const { clampPan } = openFlow().stratascope.flow;
  const clamp = (zoom, x, y) => clampPan({ zoom, x, y }, SIZE);
  assert.deepEqual(clamp(2, 50, 60), { zoom: 2, x: 0, y: 0 });
  assert.deepEqual(clamp(2, -500, -300), { zoom: 2, x: -400, y: -200 });
  assert.deepEqual(clamp(2, -150, -80), { zoom: 2, x: -150, y: -80 });
  assert.deepEqual(clamp(1, -150, 80), { zoom: 1, x: 0, y: 0 });
});

/* ---------------------------------------------------------------- buttons, keys, wheel */

test("the buttons zoom about the middle, and reset", () => {
  const page = openFlow();
  button(page, "in");
  assert.deepEqual(transform(page), { x: -100, y: -50, zoom: 1.5 });
  const svg = page.canvas.querySelector("svg");
  assert.equal(svg.dataset.zoom, "1.50");
  assert.ok(svg.classList.contains("is-zoomed"));
  button(page, "out");
  assert.ok(!svg.classList.contains("is-zoomed"));
  assert.deepEqual(transform(page), { x: 0, y: 0, zoom: 1 });
  button(page, "in");
  button(page, "reset");
  assert.deepEqual(transform(page), { x: 0, y: 0, zoom: 1 });
});

test("the keys + - 0 zoom, Shift with arrows moves", () => {
  const page = openFlow();
  press(page, "+");
  press(page, "=");
  assert.deepEqual(transform(page), { x: -250, y: -125, zoom: 2.25 });
  press(page, "ArrowRight", { shiftKey: true });
  press(page, "ArrowUp", { shiftKey: true });
  assert.deepEqual(transform(page), { x: -330, y: -45, zoom: 2.25 });
  press(page, "-");
  assert.equal(transform(page).zoom, 1.5);
  press(page, "0");
  assert.deepEqual(transform(page), { x: 0, y: 0, zoom: 1 });
});

test("Shift with an arrow on the graph does not move the selected cell", () => {
  const page = openFlow();
  page.dash.followSelection(
    { row: 3, pos: 0 },
    { layers: 30, token_ids: [1, 2], prompt_length: 2 },
    null
  );
  const event = press(page, "ArrowUp", { shiftKey: true });
  assert.ok(event.defaultPrevented);
  assert.deepEqual(targets(page), []);
  press(page, "ArrowUp");
  assert.deepEqual(targets(page), ["row=4&pos=0&layer=3"]);
});

test("zoom keys are left to the browser with Ctrl, and to other elements", () => {
  const page = openFlow();
  assert.ok(!press(page, "+", { ctrlKey: true }).defaultPrevented);
  assert.ok(!page.key("+").defaultPrevented);
  assert.equal(transform(page).zoom, 1);
});

test("Ctrl and the wheel zoom about the pointer, the wheel alone scrolls the page", () => {
  const page = openFlow();
  page.canvas.querySelector("svg").rect = { left: 1000, top: 100 };
  // 60 and 20 pixels are the margin: the pointer is at 100, 50 of the plot area.
  const wheel = { deltaY: -300 * Math.log(2), clientX: 1160, clientY: 170 };
  assert.ok(!page.canvas.dispatch("wheel", wheel).defaultPrevented);
  assert.equal(transform(page).zoom, 1);
  assert.ok(page.canvas.dispatch("wheel", { ...wheel, ctrlKey: true }).defaultPrevented);
  const { x, y, zoom } = transform(page);
  assert.deepEqual([x, y, zoom].map(Math.round), [-100, -50, 2]);
});

test("a pointer is at the same place of the picture at every zoom", () => {
  const page = openFlow();
  page.canvas.querySelector("svg").rect = { left: 1000, top: 100 };
  const at = (clientX, clientY) => page.stratascope.flow.placeOf({ clientX, clientY });
  assert.deepEqual(at(1060 + 200, 120 + 100), [200, 100]); // the middle; 60 and 20 are the margin
  button(page, "in"); // -100, -50
  assert.deepEqual(at(1060 + 200, 120 + 100), [200, 100]);
  assert.deepEqual(at(1060 - 100, 120 - 50), [0, 0]);
});

/* ---------------------------------------------------------------- another size or picture */

test("a panel of another size keeps the zoom and the part in view", () => {
  const page = openFlow();
  button(page, "in"); // -100, -50
  Object.assign(page.canvas, { clientWidth: 900, clientHeight: 150 }); // a plot of 800 x 100
  page.resize();
  page.frame();
  assert.equal(page.canvas.querySelector("svg").getAttribute("width"), "900");
  assert.deepEqual(transform(page), { x: -200, y: -25, zoom: 1.5 });
  assert.equal(page.canvas.querySelector("svg").dataset.zoom, "1.50");
});

test("a new picture is shown whole", () => {
  const page = openFlow();
  button(page, "in");
  page.dash.drawFlow({ ...PICTURE });
  assert.deepEqual(transform(page), { x: 0, y: 0, zoom: 1 });
});

/* ---------------------------------------------------------------- dragging */

test("dragging moves the zoomed graph, and the click that ends it selects nothing", () => {
  const page = openFlow();
  button(page, "in"); // -100, -50
  const link = page.canvas.querySelector("path.flow-link");
  drag(page, [200, 100], [170, 90], link);
  link.click();
  assert.deepEqual(transform(page), { x: -130, y: -60, zoom: 1.5 });
  assert.deepEqual(targets(page), []);
  link.click();
  assert.deepEqual(targets(page), ["link=d"]);
});

test("a movement of a few pixels is a click", () => {
  const page = openFlow();
  button(page, "in");
  const link = page.canvas.querySelector("path.flow-link");
  drag(page, [200, 100], [203, 102], link);
  link.click();
  assert.deepEqual(transform(page), { x: -100, y: -50, zoom: 1.5 });
  assert.deepEqual(targets(page), ["link=d"]);
});

test("after a drag that ends outside, the next click selects", () => {
  const page = openFlow();
  button(page, "in");
  drag(page, [200, 100], [100, 100], page.document.body);
  page.canvas.querySelector("path.flow-link").click();
  assert.deepEqual(targets(page), ["link=d"]);
});

test("the whole graph cannot be dragged", () => {
  const page = openFlow();
  drag(page, [200, 100], [100, 50]);
  page.canvas.querySelector("path.flow-link").click();
  assert.deepEqual(transform(page), { x: 0, y: 0, zoom: 1 });
  assert.deepEqual(targets(page), ["link=d"]);
});

/* ---------------------------------------------------------------- names and labels */

test("names stay beside what they name, and hide outside the plot area", () => {
  const page = openFlow();
  const places = (name, axis) =>
    page.canvas
      .querySelectorAll(`${name} text`)
      .map((text) => [text.getAttribute(axis), text.getAttribute("visibility")]);
  assert.deepEqual(places(".flow-rows", "x"), [
    ["60", "visible"],
    ["460", "visible"],
  ]);
  assert.deepEqual(places(".flow-rows", "y"), [
    ["238", "visible"],
    ["238", "visible"],
  ]);
  button(page, "in"); // -100, -50
  assert.deepEqual(places(".flow-rows", "x"), [
    ["-40", "hidden"],
    ["560", "hidden"],
  ]);
  assert.deepEqual(places(".flow-lanes", "y"), [
    ["-30", "hidden"], // The
    ["255", "hidden"], // cat
    ["247.5", "hidden"], // other
  ]);
  press(page, "ArrowLeft", { shiftKey: true });
  press(page, "ArrowLeft", { shiftKey: true });
  assert.deepEqual(places(".flow-rows", "x"), [
    ["60", "visible"],
    ["660", "hidden"],
  ]);
});

test("labels that need room appear as the reader zooms in", () => {
  const page = openFlow();
  const labels = () =>
    page.canvas
      .querySelectorAll(".flow-labels text")
      .map((text) => [text.textContent, ...["x", "y"].map((name) => text.getAttribute(name))]);
  assert.deepEqual(labels(), [["Paris", "410", "10"]]);
  button(page, "in");
  button(page, "in"); // 2.25, -250, -125
  assert.deepEqual(labels()[1], ["town", String(300 * 2.25 - 250), String(10 * 2.25 - 125 - 8)]);
  button(page, "reset");
  assert.equal(labels().length, 1);
});
