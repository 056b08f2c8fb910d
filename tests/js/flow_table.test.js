"use strict";

const assert = require("node:assert/strict");
const { test } = require("node:test");
const { PICTURE, openFlow, targets } = require("./flow_page");

const TABLE = {
  columns: ["Kind", "Head", "Share"],
  rows: [
    ["mlp", "", 0.05, "link=m"],
    ["attention", "H10", 0.5, "link=a"],
    ["attention", "H9", 0.125, "link=b"],
  ],
  others: [["other", "by links not drawn", 0.2, ""]],
};

/* A page with the table open. */
function openTable(table = TABLE) {
  const page = openFlow({ ...PICTURE, table });
  page.list.removeAttribute("hidden");
  page.list.dispatch("pane");
  return page;
}

function column(page, index) {
  return page.table.querySelectorAll("tbody > tr").map((row) => row.children[index].textContent);
}

function sortBy(page, index) {
  page.table.querySelector(`[data-sort="${index}"]`).click();
}

function directions(page) {
  return page.table.querySelectorAll("th").map((cell) => cell.getAttribute("aria-sort"));
}

test("the table is built when its pane is shown", () => {
  const page = openFlow({ ...PICTURE, table: TABLE });
  assert.equal(page.table.children.length, 0);
  page.list.removeAttribute("hidden");
  page.list.dispatch("pane");
  assert.deepEqual(column(page, 0), ["mlp", "attention", "attention", "other"]);
  assert.deepEqual(column(page, 2), ["5.00 %", "50.00 %", "12.50 %", "20.00 %"]);
});

test("the columns of numbers are aligned as numbers", () => {
  const page = openTable();
  const classes = page.table.querySelectorAll("th").map((cell) => cell.className);
  assert.deepEqual(classes, ["", "", "num"]);
});

test("an open table follows the picture", () => {
  const page = openTable();
  page.dash.drawFlow(PICTURE);
  assert.deepEqual(column(page, 1), ["cat"]);
});

test("a number column sorts by value: largest first, then smallest first", () => {
  const page = openTable();
  sortBy(page, 2);
  assert.deepEqual(column(page, 2), ["50.00 %", "20.00 %", "12.50 %", "5.00 %"]);
  const labels = page.table.querySelectorAll("th").map((cell) => cell.textContent);
  assert.deepEqual(labels, ["Kind", "Head", "Share ▼"]);
  assert.deepEqual(directions(page), ["none", "none", "descending"]);
  sortBy(page, 2);
  assert.deepEqual(column(page, 2), ["5.00 %", "12.50 %", "20.00 %", "50.00 %"]);
  assert.deepEqual(directions(page), ["none", "none", "ascending"]);
});

test("a text column sorts numbers in texts by value", () => {
  const page = openTable({ ...TABLE, others: [] });
  sortBy(page, 1);
  sortBy(page, 1);
  assert.deepEqual(column(page, 1), ["", "H9", "H10"]);
});

test("another column starts with its largest values again", () => {
  const page = openTable();
  sortBy(page, 2);
  sortBy(page, 2);
  sortBy(page, 0);
  assert.deepEqual(column(page, 0), ["other", "mlp", "attention", "attention"]);
  assert.deepEqual(directions(page), ["descending", "none", "none"]);
});

test("the order stays when the picture changes, and so does the keyboard focus when sorting", () => {
  const page = openTable();
  sortBy(page, 2);
  assert.equal(page.document.activeElement.dataset.sort, "2");
  page.dash.drawFlow({ ...PICTURE, table: { ...TABLE, others: [] } });
  assert.deepEqual(column(page, 2), ["50.00 %", "12.50 %", "5.00 %"]);
});

test("sorting leaves the picture's own rows alone", () => {
  const { sortRows } = openFlow().stratascope.flow;
  const rows = [[1], [3], [2]];
  assert.deepEqual(sortRows(rows, { column: 0, ascending: true }), [[1], [2], [3]]);
  assert.deepEqual(sortRows(rows, { column: -1, ascending: true }), [[1], [3], [2]]);
  assert.deepEqual(rows, [[1], [3], [2]]);
});

test("shares are percent, logits have their sign, texts stay", () => {
  const { formatCell } = openFlow().stratascope.flow;
  assert.equal(formatCell(0.12345, "Share"), "12.35 %");
  assert.equal(formatCell(1.5, "Logits"), "+1.500");
  assert.equal(formatCell(-0.25, "Logits"), "-0.250");
  assert.equal(formatCell(0, "Logits"), "0.000");
  assert.equal(formatCell("H3", "Share"), "H3");
});

test("the first cell selects the link; a row without a link is plain text", () => {
  const page = openTable();
  const rows = page.table.querySelectorAll("tbody > tr");
  rows[1].querySelector("button").click();
  assert.deepEqual(targets(page), ["link=a"]);
  assert.equal(rows[3].querySelector("button"), null);
});

test("the links of signed flow are listed, and none while no flow is shown", () => {
  const page = openTable();
  page.dash.drawFlow(null);
  const meta = {
    view: "flow-signed",
    table: { columns: ["Kind", "Logits"], rows: [["mlp", -1, ""]] },
  };
  const chart = page.chart("flow-graph", { meta }, page.panel);
  assert.deepEqual(column(page, 1), ["-1.000"]);
  assert.equal(page.panel.dataset.flow, "flow-signed");
  chart.layout = {};
  chart.emit("plotly_afterplot");
  assert.deepEqual(column(page, 0), []);
  assert.equal(page.panel.dataset.flow, "none");
});

test("a chart that is drawn again behind a picture changes nothing", () => {
  const page = openTable();
  page.dash.drawFlow(null);
  const meta = {
    view: "flow-signed",
    table: { columns: ["Kind", "Logits"], rows: [["mlp", -1, ""]] },
  };
  const chart = page.chart("flow-graph", { meta }, page.panel);
  page.dash.drawFlow(PICTURE);
  chart.emit("plotly_afterplot");
  assert.equal(page.panel.dataset.flow, "flow");
  page.dash.drawFlow(null);
  assert.equal(page.panel.dataset.flow, "flow-signed");
});

test("charts of other panels do not change the table", () => {
  const page = openTable();
  page.dash.drawFlow(null);
  page.chart("curves-graph", {});
  assert.equal(page.panel.dataset.flow, "flow");
});
