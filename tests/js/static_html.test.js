"use strict";

const assert = require("node:assert/strict");
const { test } = require("node:test");
const { openPage } = require("./browser");

/* The tree that the component gives to React, as [tag, props, children]. */
function render(tree) {
  const page = openPage();
  const createElement = (tag, props, ...children) => [tag, props, children];
  page.window.React = { createElement, Fragment: "fragment" };
  return page.window.stratascope_components.Inert({ tree })[2];
}

test("elements keep their tags, attributes and texts", () => {
  const bold = { is: "b", props: {}, children: ["deep"] };
  const tree = [
    { is: "p", props: { className: "muted", style: { width: 3 } }, children: [bold, 7] },
    "text",
  ];
  assert.deepEqual(render(tree), [
    ["p", { key: 0, className: "muted", style: { width: 3 } }, [["b", { key: 0 }, ["deep"]], 7]],
    "text",
  ]);
});

test("texts stay texts, and no attribute can hold markup", () => {
  const attack = { dangerouslySetInnerHTML: { __html: "<img src=x>" }, title: "<b>" };
  const tree = [{ is: "p", props: attack, children: ["<script>"] }];
  assert.deepEqual(render(tree), [["p", { key: 0, title: "<b>" }, ["<script>"]]]);
});

test("an element with `data-later` draws what it contains when it gets the event \"draw\"", () => {
  const page = openPage();
  const host = page.add("div", {});
  const states = [];
  let effect;
  page.window.ReactDOM = { flushSync: (work) => work() };
  page.window.React = {
    createElement: (tag, props, ...children) => [tag, props, children],
    Fragment: "fragment",
    useState: (initial) => [states[0] ?? initial, (value) => (states[0] = value)],
    useRef: () => ({ current: host }),
    useLayoutEffect: (work) => (effect = work),
  };
  const inside = { is: "button", props: {}, children: ["PNG"] };
  const tree = [{ is: "div", props: { "data-later": "", role: "group" }, children: [inside] }];
  const [Later, { part }] = page.window.stratascope_components.Inert({ tree })[2][0];
  assert.deepEqual(Later({ part })[2], []);
  effect();
  host.dispatch("draw");
  assert.deepEqual(Later({ part })[2], [["button", { key: 0 }, ["PNG"]]]);
});
