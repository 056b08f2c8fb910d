"use strict";

const assert = require("node:assert/strict");
const { test } = require("node:test");
const { openPage } = require("./browser");

const RUN = { layers: 30, token_ids: [1, 2], prompt_length: 2 };
const SLIDER = "attention-layer";

/* A page whose slider shows layer 4, as the reader sees it before the first change. */
function openSlider() {
  const page = openPage();
  page.layout[SLIDER] = { value: 29, max: 29 };
  page.dash.showAttentionLayer({ layer: 4 }, RUN, { seen: 0 });
  return page;
}

/* Moves the slider, as the reader does: Dash sets the value and calls the script. */
function move(page, value) {
  page.layout[SLIDER].value = value;
  page.dash.reportAttentionLayer(value);
}

function targets(page) {
  return (page.layout.events?.data.reports ?? []).map((report) => [report.to, report.from]);
}

test("a slider shows the selected layer and the model's last one", () => {
  const page = openPage();
  page.layout[SLIDER] = { value: 9, max: 9 };
  page.dash.showAttentionLayer({ layer: 4 }, RUN, null);
  assert.deepEqual(page.sets, [[SLIDER, { max: 29, value: 4 }]]);
});

test("without a selected layer the last one is shown, and none above the model's last", () => {
  const page = openPage();
  page.layout[SLIDER] = { value: 0, max: 29 };
  page.dash.showAttentionLayer(null, RUN, null);
  page.dash.showAttentionLayer({ layer: 50 }, RUN, null);
  assert.deepEqual(page.layout[SLIDER], { value: 29, max: 29 });
  page.dash.showAttentionLayer({ layer: 3 }, null, null);
  assert.equal(page.layout[SLIDER].value, 29);
});

test("a change by the reader is reported once", () => {
  const page = openSlider();
  move(page, 7);
  move(page, 7);
  assert.deepEqual(targets(page), [["layer=7", SLIDER]]);
});

test("a slider that is set to the selected layer reports nothing", () => {
  const page = openSlider();
  page.dash.reportAttentionLayer(4); // Dash calls the script for its own change as well
  assert.deepEqual(targets(page), []);
});

test("a slider reports nothing before it has shown a layer", () => {
  const page = openPage();
  page.dash.reportAttentionLayer(12);
  assert.deepEqual(page.sets, []);
});

test("a late answer does not move the slider back", () => {
  const page = openSlider();
  move(page, 7); // report 1
  page.dash.showAttentionLayer({ layer: 4 }, RUN, { seen: 0 });
  assert.equal(page.layout[SLIDER].value, 7);
  page.dash.showAttentionLayer({ layer: 9 }, RUN, { seen: 1 });
  assert.equal(page.layout[SLIDER].value, 9);
});

test("a change that Dash has not passed on yet stays too", () => {
  const page = openSlider();
  page.layout[SLIDER].value = 11; // the reader moves it; Dash waits
  page.dash.showAttentionLayer({ layer: 5 }, RUN, { seen: 0 });
  assert.equal(page.layout[SLIDER].value, 11);
});

test("bounds follow the model even where the value stays", () => {
  const page = openSlider();
  move(page, 7);
  page.dash.showAttentionLayer({ layer: 4 }, { ...RUN, layers: 12 }, { seen: 0 });
  assert.deepEqual(page.layout[SLIDER], { value: 7, max: 11 });
});

test("the text to find is shown, empty where none is selected", () => {
  const page = openPage();
  page.layout["lens-find"] = { value: "" };
  page.dash.showFindText({ find: "Paris" }, null);
  assert.equal(page.layout["lens-find"].value, "Paris");
  page.dash.showFindText(null, null);
  assert.equal(page.layout["lens-find"].value, "");
});

test("the text to find is reported in a form that an address can hold", () => {
  const page = openPage();
  page.layout["lens-find"] = { value: "" };
  page.dash.showFindText({ find: "" }, { seen: 0 });
  assert.equal(page.layout["lens-find"].value, "");
  page.dash.reportFindText("a&b =");
  page.dash.reportFindText(null);
  const expected = [
    ["find=a%26b%20%3D", "lens-find"],
    ["find=", "lens-find"],
  ];
  assert.deepEqual(targets(page), expected);
});

/* ---------------------------------------------------------------- the form of the page Tasks */

const TASKS = { suite: "facts", prompts: 20, digits: 3 };

function openTasks(digits = {}) {
  const page = openPage();
  Object.assign(page.layout, { "tasks-suite": {}, "tasks-size": {}, "tasks-digits": digits });
  page.dash.showTasks(TASKS, { seen: 0 });
  return page;
}

test("the form of the tasks shows the address and reports what the reader changes", () => {
  const page = openTasks();
  const values = ["tasks-suite", "tasks-size", "tasks-digits"].map((id) => page.layout[id].value);
  assert.deepEqual(values, ["facts", 20, 3]);
  page.dash.reportTasks(...values);
  assert.deepEqual(targets(page), []);
  page.dash.reportTasks("facts", 40, 3);
  assert.deepEqual(targets(page), [["prompts=40", "tasks-size"]]);
});

test("an uploaded list, an empty field and fixed digits are not reported", () => {
  const page = openTasks({ value: 5, disabled: true });
  assert.equal(page.layout["tasks-digits"].value, 5);
  page.dash.reportTasks("own", null, 5);
  assert.deepEqual(targets(page), []);
});

test("a suite that runs on another model makes it the page's model", () => {
  const page = openTasks();
  const run = page.add("button", { id: "tasks-run" });
  page.add("section", { class: "panel panel-tasks" }, run);
  Object.assign(page.layout, { "run-model": { value: "a" }, request: { data: { model: "a" } } });
  run.click();
  assert.deepEqual(targets(page), []);
  page.layout["run-model"].value = "b/c";
  run.click();
  assert.deepEqual(targets(page), [["model=b%2Fc", undefined]]);
});

test("a model that adds runs its example beside the suite", () => {
  const page = openTasks({ value: 5, disabled: true });
  const run = page.add("button", { id: "tasks-failure-run" });
  page.add("section", { class: "panel panel-tasks" }, run);
  page.add("div", { id: "tasks-sum" }, page.add("button", { "data-go": "model=adder&prompt=1" }));
  Object.assign(page.layout, { "run-model": { value: "adder" }, request: { data: {} } });
  run.click();
  assert.deepEqual(targets(page), [["model=adder&prompt=1", undefined]]);
});

/* ---------------------------------------------------------------- the menu of models */

/* A page that is about the model "a", with its menu. */
function openMenu(name) {
  const page = openPage();
  page.menu = page.add("select", { id: "run-model" });
  Object.assign(page.layout, { "run-model": { value: "a" }, request: { data: { model: "a" } } });
  const arrangement = { page: name, wide: "", folded: [], panes: [], order: [] };
  page.dash.showArrangement(arrangement, { seen: 0 });
  return page;
}

function chooseModel(page, value) {
  page.menu.value = value;
  page.layout["run-model"].value = value;
  page.menu.dispatch("change");
}

const answerOf = (seen, model, name, set = {}) => ({
  seen,
  set,
  query: "",
  link: `?model=${model}&page=${name}`,
});

test("the menu acts at once on the pages Model and Compare only", () => {
  for (const name of ["model", "compare"]) {
    const page = openMenu(name);
    chooseModel(page, "b/c");
    assert.deepEqual(targets(page), [["model=b%2Fc", "run-model"]]);
  }
  for (const name of ["explore", "tasks"]) {
    const page = openMenu(name);
    chooseModel(page, "b/c");
    assert.deepEqual(targets(page), []);
  }
});

test("a page that the menu acts on adopts a model that was chosen before", () => {
  const page = openMenu("explore");
  const link = (name) => page.add("a", { "data-page-link": name });
  const [tasks, compare] = [link("tasks"), link("compare")];
  chooseModel(page, "b/c");
  tasks.click();
  compare.click();
  assert.deepEqual(targets(page), [
    ["page=tasks", undefined],
    ["page=compare&model=b%2Fc", "run-model"],
  ]);
});

test("the menu shows the model of the address, unless a newer choice waits", () => {
  const page = openMenu("model");
  chooseModel(page, "b");
  page.dash.showAddress(answerOf(0, "a", "model", { "run-model": "a" }));
  assert.equal(page.layout["run-model"].value, "b");
  page.dash.showAddress(answerOf(1, "b", "model"));
  assert.equal(page.layout["run-model"].value, "b");
  page.dash.showAddress(answerOf(1, "a", "compare"));
  assert.equal(page.layout["run-model"].value, "a");
  page.layout["run-model"].value = "c";
  page.dash.showAddress(answerOf(1, "a", "explore"));
  assert.equal(page.layout["run-model"].value, "c");
});

test("the slider of the component graph shows the selected size, and reports a new one", () => {
  const page = openPage();
  page.layout["components-size"] = { value: 30 };
  page.dash.showCircuit({ circuit: 80 }, { seen: 0 });
  assert.equal(page.layout["components-size"].value, 80);
  page.layout["components-size"].value = 90;
  page.dash.reportCircuit(90);
  page.dash.reportCircuit(90);
  assert.deepEqual(targets(page), [["circuit=90", "components-size"]]);
});
