"use strict";

const assert = require("node:assert/strict");
const { test } = require("node:test");
const { openPage } = require("./browser");

const FIRST = { page: "explore", wide: "", folded: [], panes: [], order: [] };

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

test("two panels swap their places, and swap back", () => {
  const page = openWorkspace();
  const places = () => [page.curves, page.flow].map((each) => each.dataset.place);
  assert.deepEqual(places(), ["a", "b"]);
  const entry = page.add("button", { "data-swap": "curves:flow" });
  const menu = page.add("details", { class: "menu" }, page.add("summary"), entry);
  menu.open = true;
  entry.click();
  assert.deepEqual(places(), ["b", "a"]);
  assert.equal(menu.open, false);
  assert.equal(page.document.activeElement, menu.children[0]);
  entry.click();
  assert.deepEqual(places(), ["a", "b"]);
  assert.deepEqual(reported(page), ["order=flow%2Ccurves", "order="]);
});

test("an entry of the menu restores all places", () => {
  const page = openWorkspace();
  const entry = page.add("button", { "data-swap": "curves:flow" });
  const restore = page.add("button", { "data-swap": "" });
  page.add("details", { class: "menu" }, page.add("summary"), entry, restore);
  entry.click();
  restore.click();
  assert.deepEqual([page.curves, page.flow].map((each) => each.dataset.place), ["a", "b"]);
  assert.deepEqual(reported(page), ["order=flow%2Ccurves", "order="]);
});

test("an order that does not name each panel once is none", () => {
  const { placed } = openPage().window.stratascope.workspace;
  const names = ["lens", "flow", "curves"];
  assert.deepEqual(placed(names, ["curves", "flow", "lens"]), ["curves", "flow", "lens"]);
  for (const order of [[], ["lens"], ["lens", "flow", "flow"], ["lens", "flow", "other"]]) {
    assert.deepEqual(placed(names, order), names);
  }
});

test("a folded panel leaves its room to the others", () => {
  const { tracks } = openPage().window.stratascope.workspace;
  const [yes, no] = [true, false];
  const share = (number) => `minmax(0, ${number}fr)`;
  const columns = (...isFolded) => tracks(isFolded).gridTemplateColumns;
  assert.equal(columns(yes, no, no, no, no), ["31px", share(5), share(4), share(4)].join(" "));
  assert.equal(columns(no, no, yes, no, yes), [share(10), "31px", share(4), "31px"].join(" "));
  assert.equal(columns(no, no, yes, yes, yes), [share(10), "31px", "31px", share(4)].join(" "));
  assert.equal(tracks([no, yes, no, no, no]).gridTemplateRows, `31px ${share(1)}`);
  assert.equal(tracks([]).gridTemplateColumns, "");
});

test("the panes of a page that is drawn later are those of the link", () => {
  const page = openPage();
  const later = page.add("div", { id: "page-compare", class: "page", "data-lazy": "lazy-page-compare" });
  page.dash.showArrangement({ ...FIRST, page: "compare", panes: ["difference"] }, { seen: 0 });
  assert.deepEqual(page.sets.at(-1), ["lazy-page-compare", { shown: true }]);
  const tab = (name) => page.add("button", { "data-pane": name, "aria-controls": `pane-${name}` });
  const pane = (name) =>
    Object.assign(page.add("div", { id: `pane-${name}` }), { hidden: name !== "patching" });
  const tabs = page.add("div", { class: "nav" }, tab("patching"), tab("difference"));
  later.append(tabs, pane("patching"), pane("difference"));
  page.mutate();
  assert.deepEqual([hidden(page, "patching"), hidden(page, "difference")], [true, false]);
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
