/*
A small DOM: what the scripts of assets/js use of elements, selectors and events, and no more.
Nothing is laid out. A test sets the sizes that matter: `rect`, `clientWidth`, `scrollLeft`, ...
*/
"use strict";

const ATTRIBUTE = /^\[([\w-]+)(?:(\^?=)"?([^"\]]*)"?)?\]/;
const SIMPLE = /^(?:([*\w-]+)|#([\w-]+)|\.([\w-]+))/;

/* Whether an element matches a compound selector, such as `path.flow-link[data-go]`. */
function matchesCompound(element, selector) {
  let rest = selector;
  while (rest) {
    const attribute = ATTRIBUTE.exec(rest);
    const simple = SIMPLE.exec(rest);
    if (attribute) {
      const [, name, operator, wanted] = attribute;
      const value = element.getAttribute(name);
      const isMatch = operator === "^=" ? value?.startsWith(wanted) : value === wanted;
      if (value === null || (operator && !isMatch)) {
        return false;
      }
    } else if (simple) {
      const [, tag, id, className] = simple;
      if (
        (tag && tag !== "*" && tag !== element.tagName) ||
        (id && id !== element.id) ||
        (className && !element.classList.contains(className))
      ) {
        return false;
      }
    } else {
      throw new Error(`tests/js/dom.js does not support the selector ${selector}`);
    }
    rest = rest.slice((attribute || simple)[0].length);
  }
  return true;
}

/* Whether an element matches the parts of a selector, `["#menu", ">", "summary"]`. */
function matchesParts(element, parts, scope) {
  const [last, ...before] = [...parts].reverse();
  const isMatch = last === ":scope" ? element === scope : matchesCompound(element, last);
  if (!isMatch || !before.length) {
    return isMatch;
  }
  const isChild = before[0] === ">";
  const outer = before.slice(isChild ? 1 : 0).reverse();
  for (let parent = element.parentNode; parent?.tagName; parent = parent.parentNode) {
    if (matchesParts(parent, outer, scope)) {
      return true;
    }
    if (isChild) {
      return false;
    }
  }
  return false;
}

function matches(element, selector, scope) {
  return selector.split(",").some((each) => matchesParts(element, each.trim().split(/\s+/), scope));
}

class ClassList {
  constructor(element) {
    this.element = element;
  }
  get names() {
    return new Set((this.element.getAttribute("class") || "").split(" ").filter(Boolean));
  }
  contains(name) {
    return this.names.has(name);
  }
  add(name) {
    this.toggle(name, true);
  }
  remove(name) {
    this.toggle(name, false);
  }
  toggle(name, wanted = !this.contains(name)) {
    const names = this.names;
    names[wanted ? "add" : "delete"](name);
    this.element.setAttribute("class", [...names].join(" "));
  }
}

/* What has listeners: elements, the document, the window. */
class Target {
  listeners = [];
  parentNode = null;

  addEventListener(type, callback, options) {
    const capture = options === true || Boolean(options?.capture);
    this.listeners.push({ type, callback, capture });
  }

  dispatchEvent(event) {
    return this.dispatch(event.type, event);
  }

  /* Sends an event through the capture and bubble phases; returns the event. */
  dispatch(type, { bubbles = true, ...properties } = {}) {
    const path = [];
    for (let each = this; each; each = each.parentNode) {
      path.push(each);
    }
    const event = {
      type,
      target: this,
      defaultPrevented: false,
      stopped: false,
      preventDefault() {
        event.defaultPrevented = true;
      },
      stopPropagation() {
        event.stopped = true;
      },
      stopImmediatePropagation() {
        event.stopped = event.stoppedAtOnce = true;
      },
      ...properties,
    };
    const phases = [...[...path].reverse().map((each) => [each, true])];
    phases.push(...(bubbles ? path : [this]).map((each) => [each, false]));
    for (const [each, capture] of phases) {
      if (!event.stopped) {
        each.listeners
          .filter((one) => one.type === type && one.capture === capture)
          .forEach((one) => event.stoppedAtOnce || one.callback(event));
      }
    }
    return event;
  }
}

class Element extends Target {
  children = [];
  attributes = {};
  style = {};
  classList = new ClassList(this);
  scrollLeft = 0;
  scrollTop = 0;
  scrollHeight = 0;
  clientWidth = 0;
  clientHeight = 0;
  offsetWidth = 0;
  offsetHeight = 0;
  rect = { left: 0, top: 0, right: 0, bottom: 0, width: 0, height: 0 };
  #text = "";

  constructor(tagName, ownerDocument) {
    super();
    this.tagName = tagName;
    this.ownerDocument = ownerDocument;
    const attribute = (key) =>
      `data-${key.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)}`;
    this.dataset = new Proxy(this, {
      get: (element, key) => element.getAttribute(attribute(key)) ?? undefined,
      set: (element, key, value) => element.setAttribute(attribute(key), value) ?? true,
      deleteProperty: (element, key) => element.removeAttribute(attribute(key)) ?? true,
    });
  }

  removeAttribute(name) {
    delete this.attributes[name];
  }
  getAttribute(name) {
    return this.attributes[name] ?? null;
  }
  setAttribute(name, value) {
    this.attributes[name] = String(value);
  }
  get id() {
    return this.getAttribute("id");
  }
  get className() {
    return this.getAttribute("class");
  }
  set className(value) {
    this.setAttribute("class", value);
  }
  get open() {
    return this.getAttribute("open") !== null;
  }
  set open(value) {
    delete this.attributes.open;
    if (value) {
      this.setAttribute("open", "");
    }
  }
  get textContent() {
    return this.#text + this.children.map((child) => child.textContent).join("");
  }
  set textContent(value) {
    this.replaceChildren();
    this.#text = String(value);
  }

  append(...children) {
    this.#insert(this.children.length, children);
  }
  prepend(...children) {
    this.#insert(0, children);
  }
  replaceChildren(...children) {
    this.children.forEach((child) => (child.parentNode = null));
    this.children = [];
    this.#text = "";
    this.append(...children);
  }
  remove() {
    const siblings = this.parentNode?.children;
    siblings?.splice(siblings.indexOf(this), 1);
    this.parentNode = null;
  }
  #insert(index, children) {
    children.forEach((child) => {
      child.remove();
      child.parentNode = this;
    });
    this.children.splice(Math.min(index, this.children.length), 0, ...children);
  }

  matches(selector) {
    return matches(this, selector);
  }
  closest(selector) {
    return this.matches(selector) ? this : (this.parentNode?.closest?.(selector) ?? null);
  }
  querySelectorAll(selector) {
    const inside = (element) => element.children.flatMap((child) => [child, ...inside(child)]);
    return inside(this).filter((element) => matches(element, selector, this));
  }
  querySelector(selector) {
    return this.querySelectorAll(selector)[0] ?? null;
  }

  getBoundingClientRect() {
    return this.rect;
  }
  focus() {
    this.ownerDocument.activeElement = this;
  }
  click() {
    this.dispatch("click", { detail: 1 });
  }
}

class Document extends Target {
  constructor(window) {
    super();
    this.parentNode = window;
    this.documentElement = new Element("html", this);
    this.documentElement.parentNode = this;
    this.body = new Element("body", this);
    this.documentElement.append(this.body);
    this.activeElement = this.body;
  }
  createElement(name) {
    return new Element(name, this);
  }
  createElementNS(_namespace, name) {
    return new Element(name, this);
  }
  getElementById(id) {
    return this.querySelector(`#${id}`);
  }
  querySelector(selector) {
    return this.documentElement.querySelector(selector);
  }
  querySelectorAll(selector) {
    return this.documentElement.querySelectorAll(selector);
  }
}

module.exports = { Document, Target };
