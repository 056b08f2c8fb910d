/* A page with the flow panel, for the tests of the flow graph. */
"use strict";

const { openPage } = require("./browser");

/*
Three nodes: 0 and 1 belong to the same state, 2 feeds it. The plot area is 400 x 200 pixels.
dash_app/views/flow/picture.py documents the format.
*/
const PICTURE = {
  view: "flow",
  up: false,
  width: 500,
  height: 250,
  margin: { left: 60, right: 40, top: 20, bottom: 30 },
  lanes: [
    [0, "The", 0, false],
    [190, "cat", 1, true],
  ],
  rows: [
    [0, "row 0"],
    [400, "row 30"],
  ],
  nodes: [
    [400, 10, 40, 30, "block", "row=30&pos=1", ["row 30", "all of it"]],
    [300, 10, 40, 40, "middle", "row=30&pos=1", ["middle of layer 29"]],
    [0, 10, 20, 20, "block", "row=0&pos=1", ["row 0"]],
  ],
  links: [
    // source, target, x0, y0, x1, y1, width, kind, is main, selects, hover, is ribbon
    [2, 0, 0, 20, 400, 20, 2, "attention", false, "link=a", ["minor"], false],
    [2, 1, 0, 20, 300, 20, 8, "attention", true, "link=b", ["attention"], true],
    [2, 1, 0, 20, 300, 30, 4, "residual", true, "link=c", ["residual"], true],
    [2, 2, 0, 20, 0, 30, 12, "residual", true, "link=d", ["wide residual"], true],
  ],
  other: {
    outline: [
      [0, 4],
      [400, 8],
    ],
    top: 180,
    text: "other",
    hover: ["not drawn"],
  },
  labels: [
    [400, 10, "Paris", true, 1],
    [300, 10, "town", false, 2],
  ],
  key: [
    [60, "50 %"],
    [24, "20 %"],
    [12, "10 %"],
    [6, "5 %"],
  ],
  table: { columns: ["Kind", "Token", "Share"], rows: [["mlp", "cat", 0.5, "link=m"]] },
};

function openFlow(picture = PICTURE) {
  const page = openPage();
  const bar = page.add("span", { class: "flow-scale-bar" });
  const text = page.add("span", { class: "flow-scale-text" });
  const scale = page.add("span", { class: "flow-scale" }, bar, text);
  const canvas = page.add("div", { id: "flow-canvas" });
  const table = page.add("div", { id: "flow-table" });
  const list = page.add("div", { id: "pane-links", hidden: "" }, table);
  const panel = page.add("section", { class: "panel-flow" }, scale, canvas, list);
  Object.assign(page, { canvas, table, list, panel });
  page.dash.drawFlow(picture);
  return page;
}

function targets(page) {
  return (page.layout.events?.data.reports ?? []).map((report) => report.to);
}

module.exports = { PICTURE, openFlow, targets };
