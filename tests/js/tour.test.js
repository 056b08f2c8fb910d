"use strict";

const assert = require("node:assert/strict");
const { test } = require("node:test");
const { openPage } = require("./browser");

const ROOM = { width: 1000, height: 700 };
const STEP = { width: 300, height: 150 };

function box(left, top, width, height) {
  return { left, top, right: left + width, bottom: top + height };
}

/* Whether a step at [left, top] is in the window and does not cover its target. */
function standsClear([left, top], target) {
  const inside =
    left >= 0 && top >= 0 && left + STEP.width <= ROOM.width && top + STEP.height <= ROOM.height;
  const apart =
    left >= target.right ||
    left + STEP.width <= target.left ||
    top >= target.bottom ||
    top + STEP.height <= target.top;
  return inside && apart;
}

test("a step of the tour stands in the window, beside its target", () => {
  const { placeFor } = openPage().stratascope.tour;
  const targets = [
    box(20, 60, 900, 40), // a sentence: below it
    box(10, 150, 450, 540), // the heatmap: right of it
    box(540, 150, 450, 540), // left of it
    box(20, 400, 960, 290), // above it
  ];
  for (const target of targets) {
    assert.ok(standsClear(placeFor(target, STEP, ROOM), target), JSON.stringify(target));
  }
});

test("a step whose target fills the window stands in the corner", () => {
  const { placeFor } = openPage().stratascope.tour;
  assert.deepEqual(placeFor(box(0, 0, 1000, 700), STEP, ROOM), [690, 540]);
});

test("Escape ends the tour and nothing else", () => {
  const page = openPage();
  const step = page.add("div", { "data-tour-target": "#lens" });
  page.add("div", { id: "tour" }, step);
  const shown = page.add("div", { id: "lens" });
  shown.getClientRects = () => [shown.rect];
  shown.scrollIntoView = () => {};
  page.add("button", { "data-tour": "start" }).click();
  assert.equal(step.hidden, false);
  const first = page.key("Escape");
  assert.deepEqual([first.defaultPrevented, step.hidden], [true, true]);
  assert.ok(!page.key("Escape").defaultPrevented);
});
