"use strict";

const assert = require("node:assert/strict");
const { test } = require("node:test");
const { openPage } = require("./browser");

test("the panes of an edited run are marked; the heatmap says which run it shows", () => {
  const page = openPage();
  const [lens, flow] = ["lens", "flow"].map((name) => page.add("span", { "data-edited": name }));
  page.dash.showEdited({ edits: ["cut:1:all:1:0"] }, { version: "difference" });
  assert.deepEqual([lens.hidden, flow.hidden], [false, false]);
  assert.deepEqual([lens.textContent, flow.textContent], ["Difference", "Edited run"]);
  page.dash.showEdited({ edits: [] }, { version: "difference" });
  assert.deepEqual([lens.hidden, flow.hidden], [true, true]);
  page.dash.showEdited(null, null);
  assert.equal(lens.hidden, true);
});
