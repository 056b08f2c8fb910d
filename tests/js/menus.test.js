"use strict";

const assert = require("node:assert/strict");
const { test } = require("node:test");
const { openPage } = require("./browser");

/* A menu with one entry. */
function addMenu(page, id) {
  const entry = page.add("button", { "data-go": "norm=unit" });
  const list = page.add("div", { class: "menu-list" }, entry);
  const menu = page.add("details", { class: "menu", id }, page.add("summary"), list);
  return { menu, list, entry, summary: menu.children[0] };
}

function open(menu) {
  menu.open = true;
  menu.dispatch("toggle", { bubbles: false });
}

test("one menu is open at a time", () => {
  const page = openPage();
  const [one, two] = [addMenu(page, "one"), addMenu(page, "two")];
  open(one.menu);
  open(two.menu);
  assert.deepEqual([one.menu.open, two.menu.open], [false, true]);
});

test("a click elsewhere closes a menu, a click inside it does not", () => {
  const page = openPage();
  const { menu, list } = addMenu(page, "one");
  open(menu);
  list.click();
  assert.equal(menu.open, true);
  page.add("p").click();
  assert.equal(menu.open, false);
});

test("a choice closes the menu and selects", () => {
  const page = openPage();
  const { menu, entry, summary } = addMenu(page, "one");
  open(menu);
  entry.click();
  assert.equal(menu.open, false);
  assert.equal(page.document.activeElement, summary);
  assert.equal(page.layout.events.data.reports[0].to, "norm=unit");
});

test("the menu that replaces the chosen one gets the keyboard focus", async () => {
  const page = openPage();
  const { menu, entry } = addMenu(page, "one");
  entry.click();
  menu.remove();
  page.document.activeElement = page.document.body; // as a browser does
  const next = addMenu(page, "one");
  page.mutate();
  assert.equal(page.document.activeElement, next.summary);
});

test("the keyboard focus stays where the reader has moved it", () => {
  const page = openPage();
  const { menu, entry } = addMenu(page, "one");
  entry.click();
  menu.remove();
  const field = page.add("input");
  field.focus();
  addMenu(page, "one");
  page.mutate();
  assert.equal(page.document.activeElement, field);
});

test("a menu that is replaced much later does not take the focus", async () => {
  const page = openPage();
  const { menu, entry } = addMenu(page, "one");
  entry.click();
  menu.remove();
  page.document.activeElement = page.document.body;
  await page.clock.advance(5000);
  addMenu(page, "one");
  page.mutate();
  assert.equal(page.document.activeElement, page.document.body);
});

test("Escape closes the menu that has the focus, and not the side sheet around it", () => {
  const page = openPage();
  const { menu, entry } = addMenu(page, "one");
  open(menu);
  assert.equal(page.key("Escape").defaultPrevented, false);
  assert.equal(menu.open, true);
  assert.equal(page.key("Escape", {}, entry).defaultPrevented, true);
  assert.equal(menu.open, false);
  assert.equal(page.key("Escape", {}, entry).defaultPrevented, false);
});

