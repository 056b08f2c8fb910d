/*
A page for the tests: a small DOM (dom.js), a clock that the test moves, and the scripts of
assets/js, in the order in which Dash loads them. Each page starts anew, so tests share no state.
*/
"use strict";

const fs = require("node:fs");
const path = require("node:path");
const vm = require("node:vm");
const { Document, Target } = require("./dom");

const FOLDER = path.join(__dirname, "..", "..", "assets", "js");
const SCRIPTS = fs
  .readdirSync(FOLDER)
  .sort()
  .map((name) => {
    const filename = path.join(FOLDER, name);
    return { filename, source: fs.readFileSync(filename, "utf8") };
  });

class Clock {
  now = 0;
  timers = [];

  setTimeout = (callback, delay) => {
    this.timers.push({ callback, time: this.now + delay });
  };

  /* Lets time pass: runs the timers that are due, in their order. */
  async advance(milliseconds) {
    const end = this.now + milliseconds;
    await settled();
    for (;;) {
      const [next] = this.timers.sort((a, b) => a.time - b.time);
      if (!next || next.time > end) {
        break;
      }
      this.timers.shift();
      this.now = next.time;
      next.callback();
      await settled();
    }
    this.now = end;
  }
}

/* Waits until all promises that can be resolved are. */
function settled() {
  return new Promise((resolve) => setImmediate(resolve));
}

/*
Opens a page. The result has:
  window, document, stratascope, clock, dash (the functions that Dash calls)
  add(tag, attributes, ...children)   makes an element; in the body if `parent` is not given
  sets                 all calls of Dash's set_props, as [id, props]
  layout               props of Dash components by id, as Dash's getLayout gives them
  history              calls of history.pushState and replaceState, as [name, address]
  gone, storage        calls of history.go, and what the session storage holds
  chart(id, layout)    a Plotly chart in the element `id`, already drawn once
  frame()              runs what waits for the next frame
  mutate()             reports new elements to all MutationObservers
  resize()             reports another size to all ResizeObservers
  key(name, properties, target)       presses a key; returns the event
*/
function openPage({ search = "", fetch, storage = new Map(), navigation = "navigate" } = {}) {
  const clock = new Clock();
  const frames = [];
  const observers = [];
  const window = Object.assign(new Target(), {
    fetch,
    location: { pathname: "/", search, href: `https://example.test/${search}` },
    matchMedia: () => ({ matches: false }),
    scrolls: [],
    scrollTo: (options) => window.scrolls.push(options),
    relayouts: [],
    resized: [],
    Plotly: {
      relayout: (chart, changes) => window.relayouts.push([chart, changes]),
      Plots: { resize: async (chart) => window.resized.push(chart) },
    },
  });
  const document = new Document(window);
  const page = { window, document, clock, sets: [], layout: {}, history: [], clipboard: [] };
  Object.assign(page, { storage, gone: [] });
  const remember = (name) => (state, _title, address) => {
    window.history.state = state;
    page.history.push([name, address]);
  };
  window.history = {
    state: null,
    pushState: remember("push"),
    replaceState: remember("replace"),
    go: (steps) => page.gone.push(steps),
  };
  window.sessionStorage = {
    getItem: (name) => storage.get(name) ?? null,
    setItem: (name, value) => storage.set(name, value),
  };
  window.dash_component_api = { getLayout: (id) => page.layout[id] && { props: page.layout[id] } };
  window.dash_clientside = {
    set_props: (id, props) => {
      page.sets.push([id, props]);
      page.layout[id] = { ...page.layout[id], ...props };
    },
  };
  class MutationObserver {
    constructor(callback) {
      this.callback = callback;
    }
    observe() {
      observers.push(this);
    }
    disconnect() {
      observers.splice(observers.indexOf(this), 1);
    }
  }
  /* The size of the element that is watched is what the test sets on it. */
  const sizes = [];
  window.ResizeObserver = class ResizeObserver {
    constructor(callback) {
      this.callback = callback;
    }
    observe() {
      sizes.push(this);
    }
  };
  const globals = {
    window,
    document,
    MutationObserver,
    ResizeObserver: window.ResizeObserver,
    CustomEvent: class CustomEvent {
      constructor(type, options) {
        Object.assign(this, { type, ...options });
      }
    },
    navigator: { clipboard: { writeText: async (text) => page.clipboard.push(text) } },
    performance: { now: () => clock.now, getEntriesByType: () => [{ type: navigation }] },
    setTimeout: clock.setTimeout,
    requestAnimationFrame: (callback) => frames.push(callback),
    cancelAnimationFrame: (frame) => (frames[frame - 1] = () => {}),
    getComputedStyle: (element) => element.computed ?? {},
  };
  for (const { filename, source } of SCRIPTS) {
    vm.compileFunction(source, Object.keys(globals), { filename })(...Object.values(globals));
  }
  page.stratascope = window.stratascope;
  page.dash = window.dash_clientside.stratascope;
  page.frame = () => frames.splice(0).forEach((callback) => callback());
  page.resize = () => sizes.forEach((each) => each.callback());
  page.mutate = () => [...observers].forEach((each) => each.callback([{ addedNodes: [1] }]));
  page.key = (key, properties = {}, target = document.body) =>
    target.dispatch("keydown", { key, ...properties });
  page.add = (tag, attributes = {}, ...children) => add(page, tag, attributes, children);
  page.chart = (id, layout, parent) => addChart(page, id, layout, parent);
  return page;
}

/* An element with attributes and children (elements or one text), at the end of `parent`. */
function add(page, tag, { parent = page.document.body, ...attributes }, children) {
  const element = page.document.createElement(tag);
  Object.entries(attributes).forEach(([name, value]) => element.setAttribute(name, value));
  children.forEach((child) =>
    typeof child === "string" ? (element.textContent = child) : element.append(child)
  );
  parent?.append(element);
  return element;
}

/* What the scripts use of a Plotly chart: its layout, its events, the elements around it. */
function addChart(page, id, layout, parent) {
  const chart = add(page, "div", { class: "js-plotly-plot", parent: null }, []);
  const callbacks = { plotly_afterplot: [], plotly_click: [] };
  Object.assign(chart, {
    layout,
    on: (name, callback) => callbacks[name].push(callback),
    emit: (name, event) => callbacks[name].forEach((callback) => callback(event)),
  });
  add(page, "div", { id, ...(parent && { parent }) }, [chart]);
  page.mutate();
  page.frame();
  return chart;
}

module.exports = { openPage, settled };
