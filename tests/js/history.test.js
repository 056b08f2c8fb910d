"use strict";

const assert = require("node:assert/strict");
const { test } = require("node:test");
const { openPage } = require("./browser");

/* A page that shows the history, with a button that deletes run 7. */
function openHistory() {
  const page = openPage();
  const button = page.add(
    "button",
    { "data-history": "delete-run", "data-history-id": "7", "data-history-sure": "Sure?" },
    "Delete"
  );
  page.document.documentElement.dataset.page = "history";
  page.mutate();
  return { page, button };
}

function acts(page) {
  const reported = page.sets.filter(([id]) => id === "history-act");
  return reported.map(([, { data }]) => [data.do, data.id]);
}

test("a second click deletes a run, and leaving the button cancels the question", () => {
  const { page, button } = openHistory();
  button.dispatch("click");
  assert.equal(button.textContent, "Sure?");
  button.dispatch("blur");
  assert.equal(button.textContent, "Delete");
  button.dispatch("click");
  button.dispatch("click");
  assert.deepEqual(acts(page), [
    ["list", 0],
    ["delete-run", 7],
  ]);
});

test("a new run redraws the list only when no question is open", () => {
  const { page, button } = openHistory();
  button.dispatch("click");
  page.dash.historyGrew();
  assert.deepEqual(acts(page), [["list", 0]]);
  button.dispatch("blur");
  assert.deepEqual(acts(page), [
    ["list", 0],
    ["list", 0],
  ]);
});

test("a question about one run is not answered for another one", () => {
  const { page, button } = openHistory();
  button.dispatch("click");
  button.dataset.historyId = "8"; // a redraw gives the button to another run
  button.dispatch("click");
  assert.equal(button.textContent, "Sure?");
  assert.deepEqual(acts(page), [["list", 0]]);
  button.dispatch("click");
  assert.deepEqual(acts(page).at(-1), ["delete-run", 8]);
});
