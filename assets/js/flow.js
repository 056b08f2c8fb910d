/*
The flow graph under the pointer: a node brings its own links out and dims the others, at once and
without the server. Works on the link elements (a restyle of 300 links takes 360 ms, this one), and
listens on the document, so a figure drawn anew needs nothing.
*/
(function () {
  "use strict";

  const DIMMED = 0.07;
  let hovered = null;

  function node(element) {
    return element.__data__ && element.__data__.node;
  }

  function link(element) {
    return element.__data__ && element.__data__.link;
  }

  function endOf(side) {
    return side && (side.pointNumber ?? side.node?.pointNumber);
  }

  /* Row and position of the state that a node belongs to: a layer's inside belongs to its output. */
  function place(data) {
    const [, depth, pos, kind] = (data && data.customdata) || [];
    return [kind === "block" ? depth : depth + 1, pos];
  }

  /* All nodes of the state that `target` belongs to: a block and its layer's middle. */
  function state(plot, target) {
    const numbers = new Set([node(target).pointNumber]);
    const [row, pos] = place(node(target));
    for (const group of plot.querySelectorAll(".sankey-node")) {
      const data = node(group);
      const [itsRow, itsPos] = place(data);
      if (itsRow === row && itsPos === pos) {
        numbers.add(data.pointNumber);
      }
    }
    return numbers;
  }

  function touches(data, numbers) {
    return numbers.has(endOf(data.source)) || numbers.has(endOf(data.target));
  }

  /* Opacity and colour that the figure gives an element; plotly.js 3 and 4 name them differently. */
  function own(element) {
    const data = element.__data__;
    return String(data.alpha ?? data.tinyColorAlpha ?? 0);
  }

  function show(element, opacity) {
    element.style.fillOpacity = String(opacity);
    element.style.strokeOpacity = String(opacity);
  }

  function hue(element) {
    const data = element.__data__;
    return data.rgb ?? data.tinyColorHue;
  }

  function bringOut(target) {
    const plot = target.closest(".js-plotly-plot");
    const meta = plot && plot.layout && plot.layout.meta;
    if (!meta || meta.view !== "flow" || hovered === target) {
      return;
    }
    restore();
    hovered = target;
    const numbers = state(plot, target);
    const ends = new Set(numbers);
    for (const element of plot.querySelectorAll(".sankey-link")) {
      const data = link(element);
      if (!data || data.pointNumber >= meta.links) {
        continue;
      }
      const mine = touches(data, numbers);
      if (mine) {
        ends.add(endOf(data.source)).add(endOf(data.target));
      }
      const opacity = mine
        ? Math.max(Number(own(element)), meta.broughtOut)
        : Math.min(Number(own(element)), DIMMED);
      element.style.fill = hue(element);
      show(element, opacity);
    }
    for (const group of plot.querySelectorAll(".sankey-node")) {
      const data = node(group);
      const rect = group.querySelector(".node-rect");
      if (rect && data && ends.has(data.pointNumber) && data.pointNumber < meta.nodes) {
        rect.style.fillOpacity = "0.9";
      }
    }
  }

  function restore() {
    const plot = hovered && hovered.closest(".js-plotly-plot");
    hovered = null;
    if (!plot) {
      return;
    }
    for (const element of plot.querySelectorAll(".sankey-link")) {
      if (element.__data__) {
        show(element, own(element));
      }
    }
    for (const group of plot.querySelectorAll(".sankey-node")) {
      const rect = group.querySelector(".node-rect");
      if (rect && group.__data__) {
        rect.style.fillOpacity = own(group);
      }
    }
  }

  /*
  What a click selects, for the handler in page.js: a node its state, a link its layer, its strongest
  head, and itself (the table's rows are the links, in order). (Dash leaves lists out of its click data, and so what plotly says of a node.)
  */
  function makeClickable(plot) {
    const { nodes, links } = plot.layout.meta;
    for (const group of plot.querySelectorAll(".sankey-node")) {
      const data = node(group);
      if (data && data.pointNumber < nodes) {
        const [row, pos] = place(data);
        group.dataset.go = `row=${row}&pos=${pos}&layer=${Math.max(row - 1, 0)}`;
      }
    }
    for (const element of plot.querySelectorAll(".sankey-link")) {
      const data = link(element);
      if (data && data.pointNumber < links) {
        element.dataset.go = plot.layout.meta.table.rows[data.pointNumber].at(-1);
      }
    }
  }

  /*
  Plotly's bands have their width across the page, not across themselves: where one crosses lanes
  steeply it looks thinner than it is. An outline in its own colour gives the width back.
  */
  function giveWidth(plot) {
    const widths = plot.layout.meta.outlines || [];
    for (const element of plot.querySelectorAll(".sankey-link")) {
      const data = link(element);
      if (data && widths[data.pointNumber] > 0) {
        element.style.stroke = hue(element);
        element.style.strokeOpacity = own(element);
        element.style.strokeWidth = `${widths[data.pointNumber]}px`;
      }
    }
  }

  function onOver(event) {
    const target = event.target.closest && event.target.closest(".sankey-node");
    if (target && node(target)) {
      bringOut(target);
    } else if (hovered && !(event.target.closest && event.target.closest(".hoverlayer"))) {
      restore();
    }
  }

  document.addEventListener("mouseover", onOver);
  window.stratascope_drawn("flow", giveWidth);
  window.stratascope_drawn("flow", makeClickable);
})();
