/*
The component Inert (dash_app/page/thin_layout.py): a tree of plain HTML elements that Dash keeps
no record of. Texts are set as texts: nothing in a tree is ever read as markup.
*/
(function () {
  "use strict";

  // React takes markup in an object only; of all attributes, style alone is one.
  function harmless([name, value]) {
    return name === "style" || typeof value !== "object";
  }

  function drawn(part, place) {
    if (part === null || typeof part !== "object") {
      return part;
    }
    const props = Object.fromEntries(Object.entries(part.props).filter(harmless));
    const inside = part.children.map(drawn);
    return window.React.createElement(part.is, { key: place, ...props }, ...inside);
  }

  function Inert({ tree }) {
    return window.React.createElement(window.React.Fragment, null, ...tree.map(drawn));
  }

  window.stratascope_components = { Inert };
})();
