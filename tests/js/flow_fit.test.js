"use strict";

const assert = require("node:assert/strict");
const { test } = require("node:test");
const { PICTURE, openFlow } = require("./flow_page");

const { flow } = openFlow().window.stratascope;

test("a picture is stretched to its panel; its margins keep their size", () => {
  const { margin } = PICTURE; // the plot is 400 x 200 pixels
  const wide = flow.stretched(PICTURE, 800 + margin.left + margin.right, 100 + margin.top + margin.bottom);
  assert.deepEqual([wide.width, wide.height, wide.margin], [900, 150, margin]);
  assert.deepEqual(wide.rows, [[0, "row 0"], [800, "row 30"]]);
  assert.deepEqual(wide.nodes[0].slice(0, 4), [800, 5, 20, 15]);
  assert.deepEqual(wide.links[1].slice(2, 7), [0, 10, 600, 10, 4]);
  assert.equal(wide.other.top, 90);
  assert.deepEqual(wide.key[0], [30, "50 %"]);
});

test("shares stay in proportion: heights and the key have one scale", () => {
  const tall = flow.stretched(PICTURE, 500, 450);
  const before = PICTURE.nodes[0][2] / PICTURE.key[0][0];
  assert.equal(tall.nodes[0][2] / tall.key[0][0], before);
});

test("with many lanes the picture is taller than its panel", () => {
  const lanes = Array.from({ length: 40 }, (_, index) => [index * 5, "a", index, false]);
  assert.equal(flow.stretched({ ...PICTURE, lanes }, 500, 100).height, 40 * 8 + 50);
});

test("of texts that overlap, only the first is shown", () => {
  const text = (x, y, isBeside = false) => ({ x, y, length: 4, isBeside });
  assert.deepEqual(flow.clearOf([text(0, 0), text(20, 5), text(20, 20), text(40, 0)]), [
    true, false, true, true,
  ]);
});

test("where names of lanes overlap, the answer's and those of the largest nodes stay", () => {
  const lanes = [[0, "a", 0, false], [10, "b", 1, false], [20, "c", 2, true], [30, "d", 3, false]];
  const nodes = [[0, -1, 2, 1], [0, 7, 6, 1], [9, 28, 4, 1]];
  assert.deepEqual(flow.laneRanks({ lanes, nodes }), [2, 6, Infinity, 4]);
});
