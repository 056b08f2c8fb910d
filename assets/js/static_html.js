/*
The React components of dash_app/page/thin_layout.py. Inert is a tree of plain HTML elements that Dash
does not track one by one. React escapes every text, so the tree cannot contain markup. Lazy draws
what it contains when it is first shown.
*/
(function () {
  "use strict";

  // React accepts markup only as an object. `style` is the only HTML attribute that is an object.
  function isSafe([name, value]) {
    return name === "style" || typeof value !== "object";
  }

  function render(part, index) {
    if (part === null || typeof part !== "object") {
      return part;
    }
    const props = Object.fromEntries(Object.entries(part.props).filter(isSafe));
    const children = part.children.map(render);
    return window.React.createElement(part.is, { key: index, ...props }, ...children);
  }

  function Inert({ tree }) {
    return window.React.createElement(window.React.Fragment, null, ...tree.map(render));
  }

  /* The script workspace.js sets `shown` when its element is first shown. */
  function Lazy({ shown, children }) {
    return shown ? window.React.createElement(window.React.Fragment, null, children) : null;
  }

  window.stratascope_components = { Inert, Lazy };
})();
