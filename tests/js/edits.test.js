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

test("an edit of the sheet takes the place of the card's that opened it, once", () => {
  const page = openPage();
  const [card, sheet] = [page.add("details", {}), page.add("div", { id: "sheet-change" })];
  const kind = page.add("button", { "data-replaces": "cut:1:all:1:0", "data-change": "row=2", parent: card });
  const zero = page.add("button", { "data-go": "with=edits:cut:2:all:1:0", parent: sheet });
  const sent = () => page.layout.events.data.reports.map(({ to }) => new URLSearchParams(to));
  kind.click();
  assert.equal(sent().at(-1).get("row"), "2");
  zero.click();
  assert.equal(sent().at(-1).get("swap"), "edits:cut:1:all:1:0,cut:2:all:1:0");
  page.dash.reportEdit({ edit: "cut:3:all:1:0" });
  assert.equal(sent().at(-1).get("with"), "edits:cut:3:all:1:0");
  kind.click();
  page.add("p", {}).click(); // outside the sheet
  page.dash.reportEdit({ edit: "cut:4:all:1:0" });
  assert.equal(sent().at(-1).get("swap"), null);
});
