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

  const safe = (props) => Object.fromEntries(Object.entries(props).filter(isSafe));

  function render(part, index) {
    if (part === null || typeof part !== "object") {
      return part;
    }
    const { createElement } = window.React;
    if ("data-later" in part.props) {
      return createElement(Later, { key: index, part });
    }
    const children = part.children.map(render);
    return createElement(part.is, { key: index, ...safe(part.props) }, ...children);
  }

  /*
  An element with `data-later` draws what it contains when it first gets the event "draw": from
  menus.js when the menu around it opens, from tour.js when the tour starts.
  */
  function Later({ part }) {
    const { createElement, useLayoutEffect, useRef, useState } = window.React;
    const [isDrawn, setDrawn] = useState(false);
    const element = useRef(null);
    useLayoutEffect(() => {
      const draw = () => window.ReactDOM.flushSync(() => setDrawn(true));
      element.current.addEventListener("draw", draw);
    }, []);
    const children = isDrawn ? part.children.map(render) : [];
    return createElement(part.is, { ...safe(part.props), ref: element }, ...children);
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
