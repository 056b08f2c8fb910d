/*
Heatmaps of rows by positions: clicks choose a cell, a double click pins its token; the tokens are
written into the cells that are in sight (plotly takes 200 ms for 1,000 texts, this a few); row
names, token rows and colour key stay in sight while the picture scrolls inside its panel.
*/
(function () {
  "use strict";

  const SVG = "http://www.w3.org/2000/svg";
  const DOUBLE_MS = 1000;
  const watched = new WeakSet();
  const page = () => window.dash_clientside.stratascope;
  let last = { plot: null, row: 0, pos: 0, at: -DOUBLE_MS };

  function isHeatmap(plot) {
    return plot && plot.layout && plot.layout.meta && plot.layout.meta.view === "heatmap";
  }

  function drawnAxes(plot) {
    return plot._fullLayout && plot._fullLayout.xaxis && plot._fullLayout;
  }

  /* ------------------------------------------------------------ choosing and pinning */

  function onClick(plot, event) {
    const meta = plot.layout.meta;
    const point = event.points[0];
    const row = meta.rows[Math.round(point.y)];
    const pos = meta.positions[Math.round(point.x)];
    if (row === undefined || pos === undefined) {
      return;
    }
    last = { plot, row, pos, at: event.event.timeStamp };
    page().choose(row, pos);
  }

  /*
  The browser's own count of clicks, by the time of the presses: plotly counts from when it comes
  to hear of them, and may miss the second where the first set the page to work. Where it was,
  the first click said.
  */
  function onDoubleClick(event) {
    const box = event.detail === 2 && isHeatmap(last.plot) && last.plot.getBoundingClientRect();
    const inside =
      box &&
      event.clientX >= box.left &&
      event.clientX <= box.right &&
      event.clientY >= box.top &&
      event.clientY <= box.bottom;
    if (inside && event.timeStamp - last.at < DOUBLE_MS) {
      pin(last.plot.layout.meta, last.row, last.pos);
    }
  }

  /*
  Beside what is pinned; where nothing was pinned by hand, beside the model's own choice. The first
  click may have had other rows and positions drawn since: the cell is found again by its own.
  */
  function pin(meta, row, pos) {
    const column = meta.positions.indexOf(pos);
    const token = meta.ids?.[meta.rows.indexOf(row)]?.[column];
    if (token === undefined || token < 0) {
      return;
    }
    const curves = document.querySelector("#curves-graph .js-plotly-plot")?.layout?.meta;
    const own = meta.ids[meta.ids.length - 1][column];
    const pins = curves && curves.chosen ? curves.pins : [own].filter((id) => id >= 0);
    const verb = curves?.chosen && pins.includes(token) ? "without" : "with";
    page().go(`${verb}=pins:${token}&shown=${pins.join(",") || "none"}`);
  }

  /* ------------------------------------------------------------ what stays in sight */

  /* A strip of the panel's colour behind what stays in sight. */
  function strip(layer, name, width, top, height, left) {
    let back = layer.querySelector(`:scope > .${name}`);
    if (!back) {
      back = document.createElementNS(SVG, "rect");
      back.setAttribute("class", name);
      back.style.fill = "var(--surface)";
      layer.prepend(back);
    }
    for (const [key, value] of Object.entries({ x: left || 0, y: top, width, height })) {
      back.setAttribute(key, value);
    }
    return back;
  }

  function hold(plot, scroller) {
    const full = drawnAxes(plot);
    const rows = plot.querySelector(".yaxislayer-above");
    const info = plot.querySelector(".infolayer");
    if (!full || !rows || !info) {
      return;
    }
    const across = scroller.scrollLeft;
    const down = scroller.scrollTop;
    const up = Math.max(0, scroller.scrollHeight - scroller.clientHeight) - down;
    holdRows(rows, full, across);
    holdTokens(plot, ".x2tick", full, down, 0, full._size.t);
    holdTokens(plot, ".xtick", full, -up, full._size.t + full._size.h, full._size.b);
    holdCorners(info, full, across, down, up);
    const key = plot.querySelector(".infolayer > [class^=cb]");
    if (key) {
      key.style.translate = `${across}px ${down}px`;
    }
  }

  function holdRows(layer, full, across) {
    strip(layer, "row-names-back", across > 0 ? full._size.l - 1 : 0, full._size.t, full._size.h);
    layer.style.translate = `${across}px`;
  }

  function holdTokens(plot, ticks, full, shift, top, height) {
    const layer = plot.querySelector(ticks)?.parentNode;
    if (layer) {
      const wide = shift === 0 ? 0 : full._size.l + full._size.w + full._size.r;
      strip(layer, "tokens-back", wide, top, height);
      layer.style.translate = `0px ${shift}px`;
    }
  }

  function holdCorners(info, full, across, down, up) {
    const wide = across > 0 ? full._size.l - 1 : 0;
    const top = strip(info, "row-names-top", wide, 0, full._size.t);
    top.style.translate = `${across}px ${down}px`;
    const bottom = full._size.t + full._size.h;
    const low = strip(info, "row-names-bottom", wide || (up ? full._size.l - 1 : 0), bottom, full._size.b);
    low.style.translate = `${across}px ${-up}px`;
  }

  /* ------------------------------------------------------------ tokens in the cells */

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

  /* Index of the first and one past the last that lie between two edges. */
  function between(count, size, start, room) {
    const first = Math.max(0, Math.floor(start / size));
    return [first, Math.min(count, first + Math.ceil(room / size) + 2)];
  }

  function writeCells(plot, scroller) {
    const full = drawnAxes(plot);
    const trace = plot._fullData && plot._fullData[0];
    const base = plot.querySelector(".heatmaplayer")?.parentNode;
    const meta = plot.layout.meta;
    base?.querySelector(".cell-texts")?.remove();
    if (!full || !base || !trace || !meta.labels.length || !meta.labels[0].length) {
      return;
    }
    const high = full._size.h / meta.rows.length;
    const columns = between(
      meta.positions.length, meta.column, scroller.scrollLeft, scroller.clientWidth
    );
    const above = between(
      meta.rows.length, high, scroller.scrollTop - full._size.t, scroller.clientHeight
    );
    base.appendChild(written(trace, full, meta, columns, above));
  }

  function written(trace, full, meta, [first, last], [top, bottom]) {
    const group = document.createElementNS(SVG, "g");
    group.setAttribute("class", "cell-texts");
    const count = meta.rows.length;
    for (let place = top; place < bottom; place += 1) {
      const row = count - 1 - place;
      for (let index = first; index < last; index += 1) {
        if (meta.labels[row][index]) {
          group.appendChild(cell(trace, full, meta, row, index));
        }
      }
    }
    return group;
  }

  function cell(trace, full, meta, row, index) {
    const element = document.createElementNS(SVG, "text");
    const value = trace.z[row][index];
    const text = meta.labels[row][index];
    element.setAttribute("class", "cell-text");
    element.setAttribute("x", full.xaxis.c2p(index));
    element.setAttribute("y", full.yaxis.c2p(row) + 4);
    if (value === null || value === undefined || Number.isNaN(value)) {
      element.classList.add(text === meta.waiting ? "is-waiting" : "is-bare");
    } else {
      const part = (value - trace.zmin) / (trace.zmax - trace.zmin);
      const at = Math.max(0, Math.min(1, part || 0));
      element.style.fill = contrast(colourAt(trace.colorscale, at));
    }
    element.textContent = text;
    return element;
  }

  /* ------------------------------------------------------------ the chosen cell comes into view */

  function showChosen(plot, scroller) {
    const full = drawnAxes(plot);
    const shape = (plot.layout.shapes || [])[0];
    if (!full || !shape || shape.visible === false) {
      return;
    }
    const middle = full._size.l + full.xaxis.c2p((shape.x0 + shape.x1) / 2);
    const half = plot.layout.meta.column / 2;
    scroller.scrollLeft = nearest(
      scroller.scrollLeft, scroller.clientWidth, middle - half - full._size.l - 8, middle + half + 8
    );
    const height = full._size.t + full.yaxis.c2p((shape.y0 + shape.y1) / 2);
    scroller.scrollTop = nearest(
      scroller.scrollTop,
      scroller.clientHeight,
      height - full._size.t - 20,
      height + full._size.b + 20
    );
  }

  /* The scroll position, as near as may be, at which `from` to `to` is in sight. */
  function nearest(now, room, from, to) {
    if (from < now) {
      return from;
    }
    return to > now + room ? to - room : now;
  }

  function refresh(plot, scroller) {
    hold(plot, scroller);
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
      plot.on("plotly_click", (event) => isHeatmap(plot) && onClick(plot, event));
    }
  }

  document.addEventListener("mouseup", onDoubleClick, true); // plotly keeps "dblclick" to itself
  window.stratascope_drawn("heatmap", onDrawn);
})();
