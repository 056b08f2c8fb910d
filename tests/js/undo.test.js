"use strict";

const assert = require("node:assert/strict");
const { test } = require("node:test");
const { openPage } = require("./browser");

function note(query, kind, push = true) {
  return { seen: 0, query, push, kind, link: `/?all=${query}` };
}

/* A page with buttons for undo and redo. */
function openWithButtons() {
  const page = openPage();
  page.undo = page.add("button", { "data-step": "-1" });
  page.redo = page.add("button", { "data-step": "1" });
  return page;
}

test("moves in quick succession are one entry, and a run is always one", async () => {
  const page = openPage();
  page.dash.showAddress(note("?row=1", "cell"));
  await page.clock.advance(300);
  page.dash.showAddress(note("?row=2", "cell"));
  page.dash.showAddress(note("?row=2&layer=7", "layer"));
  await page.clock.advance(2000);
  page.dash.showAddress(note("?row=3", "layer"));
  page.dash.showAddress(note("?prompt=a", "run"));
  page.dash.showAddress(note("?prompt=b", "run"));
  page.dash.showAddress(note("?prompt=b&theme=dark", "theme", false));
  assert.deepEqual(
    page.history.map(([name, address]) => [name, address]),
    [
      ["push", "/?row=1"],
      ["replace", "/?row=2"],
      ["push", "/?row=2&layer=7"],
      ["push", "/?row=3"],
      ["push", "/?prompt=a"],
      ["push", "/?prompt=b"],
      ["replace", "/?prompt=b&theme=dark"],
    ]
  );
});

test("undo and redo go through the entries of this page only", async () => {
  const page = openWithButtons();
  page.undo.click();
  page.key("z", { ctrlKey: true });
  assert.deepEqual(page.gone, []);
  page.dash.showAddress(note("?row=1", "cell"));
  assert.equal(page.undo.disabled, false);
  assert.equal(page.redo.disabled, true);
  page.key("Z", { ctrlKey: true, shiftKey: true });
  assert.deepEqual(page.gone, []);
  page.key("z", { ctrlKey: true });
  assert.deepEqual(page.gone, [-1]);
  page.window.history.state = { step: 0 };
  page.window.location.search = "";
  page.window.dispatch("popstate");
  assert.deepEqual(page.layout.events.data.reports, [{ url: "", undo: true, n: 1 }]);
  assert.equal(page.undo.disabled, true);
  page.redo.click();
  assert.deepEqual(page.gone, [-1, 1]);
});

test("Ctrl+Z in a text undoes the text", () => {
  const page = openPage();
  page.dash.showAddress(note("?row=1", "cell"));
  const field = page.add("textarea", { id: "run-prompt" });
  assert.equal(page.key("z", { ctrlKey: true }, field).defaultPrevented, false);
  assert.deepEqual(page.gone, []);
});

test("a reload keeps what was typed and scrolled, a visit does not", async () => {
  const before = openPage({ search: "?row=3" });
  before.layout["run-prompt"] = { value: "a draft" };
  before.layout["run-new"] = { value: 4 };
  const list = before.add("div", { id: "list" });
  list.scrollTop = 120;
  before.window.dispatch("pagehide");
  for (const [navigation, prompt, scrolled] of [
    ["reload", "a draft", 120],
    ["navigate", "The capital", 0],
  ]) {
    const after = openPage({ search: "?row=3", storage: before.storage, navigation });
    const same = after.add("div", { id: "list" });
    same.scrollTop = 0;
    after.dash.showAddress({ ...note("?row=3", "run", false), set: { "run-prompt": "The capital" } });
    await after.clock.advance(1000);
    assert.equal(after.layout["run-prompt"].value, prompt);
    assert.equal(same.scrollTop, scrolled);
  }
});

test("a page without storage works", () => {
  const page = openPage({ storage: null });
  page.dash.showAddress(note("?row=1", "cell"));
  page.window.dispatch("pagehide");
  assert.deepEqual(page.history, [["push", "/?row=1"]]);
});

test("undo waits for the entry of a selection that the server has not answered", () => {
  const page = openWithButtons();
  page.dash.showAddress(note("?row=1", "cell"));
  page.window.stratascope.page.select("row=2");
  page.key("z", { ctrlKey: true });
  assert.deepEqual(page.gone, []);
  page.dash.showAddress({ ...note("?row=2", "layer"), seen: 1 });
  assert.deepEqual(page.gone, [-1]);
  page.dash.showAddress({ ...note("?row=3", "cell"), seen: 1 });
  assert.deepEqual(page.gone, [-1]);
});

test("undo goes on after the server has refused a selection", () => {
  const page = openWithButtons();
  page.dash.showAddress(note("?row=1", "cell"));
  page.window.stratascope.page.select("row=2");
  page.key("z", { ctrlKey: true });
  page.window.stratascope.page.forgetReports();
  assert.deepEqual(page.gone, [-1]);
});
