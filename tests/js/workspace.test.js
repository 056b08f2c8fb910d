"use strict";

const assert = require("node:assert/strict");
const { test } = require("node:test");
const { openPage } = require("./browser");

const FIRST = { page: "explore", wide: "", folded: [], panes: [] };

/* A workspace with a panel of two panes and a panel of one. */
function openWorkspace() {
  const page = openPage();
  const tab = (name) => page.add("button", { role: "tab", "data-pane": name, "aria-controls": `pane-${name}` });
  const pane = (name) =>
    Object.assign(page.add("div", { id: `pane-${name}` }), { hidden: name !== "curves" });
  const tabs = page.add("div", { class: "nav", role: "tablist" }, tab("curves"), tab("contributions"));
  const fold = page.add("button", { "data-fold": "curves", "data-title": "Curves" });
  const widen = page.add("button", { "data-widen": "curves", "data-title": "Curves" });
  const curves = page.add(
    "section", { class: "panel", "data-panel": "curves" },
    tabs, fold, widen, pane("curves"), pane("contributions")
  );
  const flow = page.add("section", { class: "panel", "data-panel": "flow" });
  page.add("div", { id: "workspace", class: "workspace" }, curves, flow);
  page.dash.showArrangement(FIRST, { seen: 0 });
  return Object.assign(page, { curves, flow, fold, widen, tabs: tabs.children });
}

const reported = (page) => (page.layout.events?.data.reports ?? []).map((each) => each.to);
const hidden = (page, name) => page.document.getElementById(`pane-${name}`).hidden;

test("a panel is maximised at once, and the change is reported", () => {
  const page = openWorkspace();
  page.widen.click();
  assert.equal(page.curves.classList.contains("is-wide"), true);
  assert.equal(page.widen.getAttribute("aria-label"), "Restore Curves");
  page.widen.click();
  assert.equal(page.curves.classList.contains("is-wide"), false);
  assert.deepEqual(reported(page), ["wide=curves", "wide="]);
});

test("a folded panel is reported with the others, in order", () => {
  const page = openWorkspace();
  page.dash.showArrangement({ ...FIRST, folded: ["flow"] }, { seen: 0 });
  page.fold.click();
  assert.equal(page.curves.classList.contains("is-folded"), true);
  assert.equal(page.flow.classList.contains("is-folded"), true);
  assert.deepEqual(reported(page), ["folded=curves%2Cflow"]);
  page.fold.click();
  assert.equal(page.curves.classList.contains("is-folded"), false);
});

test("the first pane is on top until another is chosen", () => {
  const page = openWorkspace();
  assert.deepEqual([hidden(page, "curves"), hidden(page, "contributions")], [false, true]);
  page.tabs[1].click();
  assert.deepEqual([hidden(page, "curves"), hidden(page, "contributions")], [true, false]);
  assert.equal(page.tabs[1].getAttribute("aria-selected"), "true");
  page.tabs[0].click();
  assert.deepEqual(reported(page), ["panes=contributions", "panes="]);
});

test("an answer from before a change does not undo it, a later one does", () => {
  const page = openWorkspace();
  page.widen.click(); // report 1
  page.dash.showArrangement(FIRST, { seen: 0 });
  assert.equal(page.curves.classList.contains("is-wide"), true);
  page.dash.showArrangement(FIRST, { seen: 1 });
  assert.equal(page.curves.classList.contains("is-wide"), false);
});

test("options that differ from their default are chips that reset them", () => {
  const page = openPage();
  const chips = page.add("div", { "data-chips": "lens" });
  const attributes = { "data-reset": "norm=full", "data-value": "Norm: Unit" };
  const menu = { type: "Details", props: { id: "menu-norm", children: "Unit", ...attributes } };
  const inert = { type: "Inert", props: { tree: [{ is: "div", props: {}, children: ["a"] }] } };
  page.window.dash_clientside.callback_context = { inputs_list: [{ id: "lens-options" }] };
  page.dash.showChips([{ type: "Section", props: { children: [menu, inert, null] } }]);
  assert.deepEqual(chips.children.map((chip) => chip.textContent), ["Norm: Unit ×"]);
  chips.children[0].click();
  assert.deepEqual(reported(page), ["norm=full"]);
  page.dash.showChips([inert]);
  assert.equal(chips.children.length, 0);
});

test("the inspector shows the kind of what was clicked last", () => {
  const { inspectorPane } = openPage().window.stratascope.workspace;
  assert.equal(inspectorPane("row=3&pos=1&layer=2"), "cell");
  assert.equal(inspectorPane("layer=2&heads=1&link=attention:2:0:1:1"), "link");
  assert.equal(inspectorPane("adds=mlp_output"), "promoted");
  assert.equal(inspectorPane("layer=2&heads=1&pos=3"), "head");
  assert.equal(inspectorPane("with=heads:1&shown=none"), "head");
  assert.equal(inspectorPane("heads=none"), "");
  assert.equal(inspectorPane("norm=unit"), "");
});
