/*
The heatmap when it is wider than its panel: the row names stay in sight while it scrolls, the
chosen column comes into view, and cells that plotly was not asked to write get their token when
they come into view (plotly takes 100 ms for 2,000 texts; these take a few).
*/
(function () {
  "use strict";

  const SVG = "http://www.w3.org/2000/svg";
  const watched = new WeakSet();

  function isHeatmap(plot) {
    return plot && plot.layout && plot.layout.meta && plot.layout.meta.view === "heatmap";
  }

  function axes(plot) {
    return plot._fullLayout && plot._fullLayout.xaxis && plot._fullLayout;
  }

  /* A strip of the panel's colour behind what stays in sight. */
  function strip(layer, name, width, top, height) {
    let back = layer.querySelector(`.${name}`);
    if (!back) {
      back = document.createElementNS(SVG, "rect");
      back.setAttribute("class", name);
      back.style.fill = "var(--surface)";
      layer.prepend(back);
    }
    for (const [key, value] of Object.entries({ x: 0, y: top, width, height })) {
      back.setAttribute(key, value);
    }
    return back;
  }

  /* Row names and colour key (SVG groups) move with the scroll, on a strip of the panel's colour. */
  function holdRowNames(plot, scroller) {
    const layer = plot.querySelector(".yaxislayer-above");
    const full = axes(plot);
    if (!layer || !full) {
      return;
    }
    const size = full._size;
    const wide = scroller.scrollLeft > 0 ? size.l - 1 : 0;
    const info = plot.querySelector(".infolayer");
    strip(layer, "row-names-back", wide, size.t, size.h);
    strip(info, "row-names-top", wide, 0, size.t).style.translate = `${scroller.scrollLeft}px`;
    strip(info, "row-names-bottom", wide, size.t + size.h, size.b).style.translate =
      `${scroller.scrollLeft}px`;
    const along = `${scroller.scrollLeft}px`;
    layer.style.translate = along;
    const bar = plot.querySelector(".infolayer > [class^=cb]");
    if (bar) {
      bar.style.translate = along;
    }
  }

  function contrast(rgb) {
    const [r, g, b] = rgb.map((value) => value / 255);
    return 0.299 * r + 0.587 * g + 0.114 * b > 0.56 ? "#17202b" : "#ffffff";
  }

  function parse(colour) {
    const hex = /^#(..)(..)(..)$/.exec(colour);
    return hex ? hex.slice(1).map((part) => parseInt(part, 16)) : [128, 128, 128];
  }

  function colourAt(scale, at) {
    const found = scale.findIndex((stop) => stop[0] >= at);
    const high = found < 0 ? scale.length - 1 : found;
    const low = Math.max(0, high - 1);
    const [from, a] = scale[low];
    const [to, b] = scale[high];
    const part = to > from ? (at - from) / (to - from) : 0;
    const [start, end] = [parse(a), parse(b)];
    return start.map((value, index) => value + (end[index] - value) * part);
  }

  /* Texts of the visible columns that plotly has not written. */
  function writeCells(plot, scroller) {
    const full = axes(plot);
    const trace = plot._fullData && plot._fullData[0];
    const labels = trace && trace.meta && trace.meta.labels;
    const base = plot.querySelector(".heatmaplayer")?.parentNode;
    if (!full || !base || !labels || !labels.length) {
      return;
    }
    base.querySelector(".cell-texts")?.remove();
    const column = plot.layout.meta.column;
    const first = Math.max(0, Math.floor((scroller.scrollLeft - full._size.l) / column));
    const last = Math.min(labels[0].length, first + Math.ceil(scroller.clientWidth / column) + 3);
    base.appendChild(written(trace, full, labels, first, last));
  }

  function written(trace, full, labels, first, last) {
    const group = document.createElementNS(SVG, "g");
    group.setAttribute("class", "cell-texts");
    for (let row = 0; row < labels.length; row += 1) {
      for (let index = first; index < last; index += 1) {
        if (labels[row][index] && !trace.text[row][index]) {
          group.appendChild(cell(trace, full, labels[row][index], row, index));
        }
      }
    }
    return group;
  }

  function cell(trace, full, text, row, index) {
    const element = document.createElementNS(SVG, "text");
    const part = (trace.z[row][index] - trace.zmin) / (trace.zmax - trace.zmin);
    element.setAttribute("class", "cell-text");
    element.setAttribute("x", full.xaxis.c2p(trace.x[index]));
    element.setAttribute("y", full.yaxis.c2p(trace.y[row]) + 4);
    element.style.fill = contrast(colourAt(trace.colorscale, Math.max(0, Math.min(1, part || 0))));
    element.textContent = unescape(text);
    return element;
  }

  const ENTITIES = { "&lt;": "<", "&gt;": ">", "&#36;": "$", "&amp;": "&" };

  function unescape(text) {
    return text.replace(/&(?:lt|gt|#36|amp);/g, (entity) => ENTITIES[entity]);
  }

  function chosen(plot) {
    const shapes = plot.layout.shapes || [];
    return shapes.length ? (shapes[0].x0 + shapes[0].x1) / 2 : null;
  }

  function showChosen(plot, scroller) {
    const full = axes(plot);
    const at = chosen(plot);
    if (!full || at === null || scroller.scrollWidth <= scroller.clientWidth) {
      return;
    }
    const half = plot.layout.meta.column / 2;
    const middle = full._size.l + full.xaxis.c2p(at);
    const left = scroller.scrollLeft + full._size.l;
    const right = scroller.scrollLeft + scroller.clientWidth;
    if (middle - half < left) {
      scroller.scrollLeft = middle - half - full._size.l - 8;
    } else if (middle + half > right) {
      scroller.scrollLeft = middle + half - scroller.clientWidth + 8;
    }
  }

  function refresh(plot, scroller) {
    holdRowNames(plot, scroller);
    writeCells(plot, scroller);
  }

  function onDrawn(plot) {
    const scroller = plot.closest(".scroll-x");
    if (!scroller) {
      return;
    }
    showChosen(plot, scroller);
    refresh(plot, scroller);
    if (!watched.has(plot)) {
      watched.add(plot);
      let frame = 0;
      const later = () => {
        cancelAnimationFrame(frame);
        frame = requestAnimationFrame(() => isHeatmap(plot) && refresh(plot, scroller));
      };
      scroller.addEventListener("scroll", later, { passive: true });
    }
  }

  window.stratascope_drawn("heatmap", onDrawn);
})();
