/*
Heatmaps of rows by positions. A click selects a cell, a double click pins its token. The tokens are
written only into the cells that are visible: Plotly needs 200 ms for 1,000 texts, this a few. Row
names, token rows and the colour key stay visible while the heatmap scrolls inside its panel.
*/
(function () {
  "use strict";

  const SVG = "http://www.w3.org/2000/svg";
  const DOUBLE_CLICK_MS = 1000;
  /* At this luminance black and white have the same contrast, 4.58: sqrt(1.05 * 0.05) - 0.05. */
  const EQUAL_CONTRAST = 0.179;
  const CHARACTER = 6.7; // pixels
  const WIDTH_OF_EM = 0.6; // width of a character of the font, in its size
  /* Texts whose characters stand side by side, each as wide as the others; no combining marks. */
  const EQUAL_WIDTHS = /^[!-~\u00a1-\u00ac\u00ae-\u02ff\u0370-\u0482\u048a-\u052f\u2010-\u2027\u2030-\u205e\u2190-\u2767]+$/;
  const { charts } = window.stratascope;
  const watched = new WeakSet();
  let lastClick = { chart: null, row: 0, pos: 0, time: -DOUBLE_CLICK_MS };

  function isHeatmap(chart) {
    return charts.meta(chart)?.view === "heatmap";
  }

  /* Plotly's computed layout; undefined before the first drawing. */
  function computedLayout(chart) {
    return chart._fullLayout?.xaxis && chart._fullLayout;
  }

  /* ------------------------------------------------------------ selecting and pinning */

  function onClick(chart, event) {
    const { rows, positions } = chart.layout.meta;
    const point = event.points[0];
    const row = rows[Math.round(point.y)];
    const pos = positions[Math.round(point.x)];
    if (row !== undefined && pos !== undefined) {
      lastClick = { chart, row, pos, time: event.event.timeStamp };
      window.stratascope.page.selectCell(row, pos);
    }
  }

  /* The cell at a pointer, as a target; empty for a key, and beside the cells. */
  function cellAt(box, { clientX, clientY, type }) {
    const chart = box.querySelector(".js-plotly-plot");
    const layout = type === "keydown" || !isHeatmap(chart) ? undefined : computedLayout(chart);
    if (!layout) {
      return "";
    }
    const { left, top } = chart.getBoundingClientRect();
    const at = (axis, pixel) => Math.round(axis.p2d(pixel - axis._offset));
    const row = chart.layout.meta.rows[at(layout.yaxis, clientY - top)];
    const pos = chart.layout.meta.positions[at(layout.xaxis, clientX - left)];
    const layer = Math.max(row - 1, 0);
    return row === undefined || pos === undefined ? "" : `row=${row}&pos=${pos}&layer=${layer}`;
  }

  /*
  A double click, as the browser counts it. Plotly can miss the second click while the page works on
  the first. The first click has set the cell.
  */
  function onMouseUp(event) {
    const { chart, row, pos, time } = lastClick;
    if (event.detail !== 2 || !isHeatmap(chart) || event.timeStamp - time >= DOUBLE_CLICK_MS) {
      return;
    }
    const { left, right, top, bottom } = chart.getBoundingClientRect();
    const { clientX: x, clientY: y } = event;
    if (x >= left && x <= right && y >= top && y <= bottom) {
      pinToken(chart.layout.meta, row, pos);
    }
  }

  /*
  Pins the token of a cell, or unpins it. The curves show the pinned tokens; without any they show
  the model's own choice, which then stays beside the new one. The first click may have changed the
  rows and positions that are drawn, so the cell is looked up by its row and position.
  */
  function pinToken(meta, row, pos) {
    const column = meta.positions.indexOf(pos);
    const token = meta.ids?.[meta.rows.indexOf(row)]?.[column];
    if (token === undefined || token < 0) {
      return;
    }
    const curves = charts.meta(charts.find("curves-graph"));
    const ownChoice = meta.ids.at(-1)[column];
    const shown = curves?.chosen ? curves.pins : [ownChoice].filter((id) => id >= 0);
    const verb = curves?.chosen && shown.includes(token) ? "without" : "with";
    window.stratascope.page.select(`${verb}=pins:${token}&shown=${shown.join(",") || "none"}`);
  }

  /* ------------------------------------------------------------ names that stay visible */

  /*
  A rectangle in the panel's colour behind names: it hides the cells that scroll below them. A click
  on it does not reach the hidden cells if its layer lies above Plotly's drag layer, as the info
  layer does.
  */
  function coverCells(layer, className, { x = 0, y, width, height }) {
    let cover = layer.querySelector(`:scope > .${className}`);
    if (!cover) {
      cover = document.createElementNS(SVG, "rect");
      cover.setAttribute("class", className);
      cover.style.fill = "var(--surface)";
      cover.style.pointerEvents = "all";
      layer.prepend(cover);
    }
    for (const [name, value] of Object.entries({ x, y, width, height })) {
      cover.setAttribute(name, value);
    }
    return cover;
  }

  /* Moves names and colour key by what the panel has scrolled. */
  function keepNamesVisible(chart, scroller) {
    const layout = computedLayout(chart);
    const rowNames = chart.querySelector(".yaxislayer-above");
    const info = chart.querySelector(".infolayer");
    if (!layout || !rowNames || !info) {
      return;
    }
    const across = scroller.scrollLeft;
    const down = scroller.scrollTop;
    const up = Math.max(0, scroller.scrollHeight - scroller.clientHeight) - down;
    const { t: top, h: height, b: bottom } = layout._size;
    moveRowNames(rowNames, layout, across);
    moveTokenRow(chart, ".x2tick", layout, { shift: down, y: 0, height: top });
    moveTokenRow(chart, ".xtick", layout, { shift: -up, y: top + height, height: bottom });
    catchClicks(info, layout, { across, down, up });
    coverCorners(info, layout, { across, down, up });
    const colourKey = chart.querySelector(".infolayer > [class^=cb]");
    if (colourKey) {
      colourKey.style.translate = `${across}px ${down}px`;
    }
  }

  function moveRowNames(layer, { _size: size }, across) {
    const width = across > 0 ? size.l - 1 : 0;
    coverCells(layer, "row-names-cover", { y: size.t, width, height: size.h });
    layer.style.translate = `${across}px`;
  }

  function moveTokenRow(chart, ticks, { _size: size }, { shift, y, height }) {
    const layer = chart.querySelector(ticks)?.parentNode;
    if (layer) {
      const width = shift === 0 ? 0 : size.l + size.w + size.r;
      coverCells(layer, "tokens-cover", { y, width, height });
      layer.style.translate = `0px ${shift}px`;
    }
  }

  /* The names' places above the drag layer: a click on a name selects no cell behind it. */
  function catchClicks(info, { _size: size }, { across, down, up }) {
    const whole = size.l + size.w + size.r;
    const places = [
      ["row-names-catch", { y: size.t, width: across > 0 ? size.l : 0, height: size.h }, across, 0],
      ["top-catch", { y: 0, width: down > 0 ? whole : 0, height: size.t }, 0, down],
      ["bottom-catch", { y: size.t + size.h, width: up ? whole : 0, height: size.b }, 0, -up],
    ];
    for (const [name, place, x, y] of places) {
      const cover = coverCells(info, name, place);
      cover.style.fill = "none";
      cover.style.translate = `${x}px ${y}px`;
    }
  }

  /* Where row names and token rows cross. */
  function coverCorners(info, { _size: size }, { across, down, up }) {
    const column = size.l - 1;
    const topWidth = across > 0 ? column : 0;
    const bottomWidth = across > 0 || up ? column : 0;
    const top = { y: 0, width: topWidth, height: size.t };
    const bottom = { y: size.t + size.h, width: bottomWidth, height: size.b };
    coverCells(info, "corner-top", top).style.translate = `${across}px ${down}px`;
    coverCells(info, "corner-bottom", bottom).style.translate = `${across}px ${-up}px`;
  }

  /* ------------------------------------------------------------ tokens in the cells */

  /* The relative luminance of [r, g, b], 0 to 1 (WCAG 2.2). */
  function luminance(rgb) {
    const [r, g, b] = rgb
      .map((value) => value / 255)
      .map((part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  }

  /* The colour of text with the most contrast on a background [r, g, b]. */
  function textColour(rgb) {
    return luminance(rgb) > EQUAL_CONTRAST ? "#000000" : "#ffffff";
  }

  function parseColour(colour) {
    const hex = /^#(..)(..)(..)$/.exec(colour);
    return hex ? hex.slice(1).map((part) => parseInt(part, 16)) : [128, 128, 128];
  }

  /* The [r, g, b] of a part, 0 to 1, of a Plotly colour scale. */
  function colourAt(scale, part) {
    const above = scale.findIndex((stop) => stop[0] >= part);
    const high = above < 0 ? scale.length - 1 : above;
    const [from, start] = scale[Math.max(0, high - 1)];
    const [to, end] = scale[high];
    const weight = to > from ? (part - from) / (to - from) : 0;
    const last = parseColour(end);
    return parseColour(start).map((value, index) => value + (last[index] - value) * weight);
  }

  /* The first index, and one past the last, of equal cells that a window shows. */
  function visibleRange(count, size, scrolled, room) {
    const first = Math.max(0, Math.floor(scrolled / size));
    return [first, Math.min(count, first + Math.ceil(room / size) + 2)];
  }

  /* Writes the tokens of the cells in view, unless they are written already. */
  function writeTokens(chart, scroller) {
    const layout = computedLayout(chart);
    const trace = chart._fullData?.[0];
    const layer = chart.querySelector(".heatmaplayer")?.parentNode;
    const { meta } = chart.layout;
    const before = layer?.querySelector(".cell-texts");
    if (!layout || !layer || !trace || !meta.labels[0]?.length) {
      before?.remove();
      return;
    }
    const { scrollLeft, scrollTop, clientWidth, clientHeight } = scroller;
    const { w: wide, h: tall, t: margin } = layout._size;
    const [rowCount, count] = [meta.rows.length, meta.positions.length];
    const columns = visibleRange(count, wide / count, scrollLeft, clientWidth);
    const lines = visibleRange(rowCount, tall / rowCount, scrollTop - margin, clientHeight);
    const shown = [trace.z, meta.labels, trace.colorscale, wide, tall, ...columns, ...lines];
    if (before && shown.every((value, at) => value === before.shown[at])) {
      return;
    }
    const group = groupOf(cellsIn(chart, trace, columns, lines), fontSize(layout, meta), true);
    group.shown = shown;
    before?.remove();
    layer.append(group);
  }

  function fontSize(layout, meta) {
    return Math.min(11, layout._size.h / meta.rows.length - 2);
  }

  /* The tokens of the cells of some columns and rows: {text, x, y, fill, name}. */
  function cellsIn(chart, trace, [first, last], [above, below]) {
    const layout = computedLayout(chart);
    const { meta } = chart.layout;
    const rowCount = meta.rows.length;
    const room = Math.max(2, Math.floor((layout._size.w / meta.positions.length - 4) / CHARACTER));
    const cells = [];
    for (let line = rowCount - 1 - above; line > rowCount - 1 - below; line -= 1) {
      for (let column = first; column < last; column += 1) {
        if (meta.labels[line][column]) {
          cells.push(cellText(trace, layout, meta, line, column, room));
        }
      }
    }
    return cells;
  }

  /* Texts of cells as an SVG group. Joined, all texts of one colour are one element. */
  function groupOf(cells, size, isJoined) {
    const group = document.createElementNS(SVG, "g");
    group.setAttribute("class", "cell-texts");
    group.style.fontSize = `${size}px`;
    const joined = new Map();
    for (const cell of cells) {
      const key = isJoined && EQUAL_WIDTHS.test(cell.text) ? `${cell.name} ${cell.fill}` : cell;
      joined.set(key, [...(joined.get(key) ?? []), cell]);
    }
    joined.forEach((some) => group.append(textElement(some, size)));
    return group;
  }

  /* One element for the texts of several cells: with a place for each character if there are many. */
  function textElement(cells, size) {
    const element = document.createElementNS(SVG, "text");
    const [{ name, fill }] = cells;
    const places = cells.length === 1 ? cells : cells.flatMap((cell) => letters(cell, size));
    element.setAttribute("class", ["cell-text", name].filter(Boolean).join(" "));
    element.setAttribute("x", places.map(({ x }) => Number(x.toFixed(1))).join(" "));
    element.setAttribute("y", places.map(({ y }) => Number(y.toFixed(1))).join(" "));
    element.style.fill = fill;
    element.textContent = cells.map(({ text }) => text).join("");
    return element;
  }

  /* The places of the characters of a text that is centred in its cell. */
  function letters({ text, x, y }, size) {
    const middle = (text.length - 1) / 2;
    return Array.from(text, (_, at) => ({ x: x + (at - middle) * WIDTH_OF_EM * size, y }));
  }

  /* The tokens of all cells of a heatmap on another colour scale; null for other charts. */
  function allTexts(chart, colorscale) {
    const { meta } = chart.layout;
    const layout = computedLayout(chart);
    if (!isHeatmap(chart) || !layout || !meta.labels?.[0]?.length) {
      return null;
    }
    const trace = { ...chart._fullData[0], colorscale };
    const cells = cellsIn(chart, trace, [0, meta.positions.length], [0, meta.rows.length]);
    return groupOf(cells, fontSize(layout, meta), false);
  }

  /* A text cut to a number of characters. */
  function cut(text, room) {
    const characters = [...text];
    return characters.length > room ? characters.slice(0, room - 1).join("") + "…" : text;
  }

  function cellText(trace, layout, meta, line, column, room) {
    const value = trace.z[line][column];
    const text = meta.labels[line][column];
    const x = layout.xaxis.c2p(column);
    const y = layout.yaxis.c2p(line) + Math.round(0.36 * fontSize(layout, meta));
    const cell = { text: cut(text, room), x, y, fill: "", name: "" };
    if (value === null || value === undefined || Number.isNaN(value)) {
      return { ...cell, name: text === meta.waiting ? "is-waiting" : "is-uncoloured" };
    }
    const part = (value - trace.zmin) / (trace.zmax - trace.zmin) || 0;
    return { ...cell, fill: textColour(colourAt(trace.colorscale, Math.max(0, Math.min(1, part)))) };
  }

  /* ------------------------------------------------------------ scrolling to the selected cell */

  /* Scrolls the panel so that it shows the first shape, which outlines the selected cell. */
  function scrollToSelected(chart, scroller) {
    const layout = computedLayout(chart);
    const outline = chart.layout.shapes?.[0];
    if (!layout || !outline || outline.visible === false) {
      return;
    }
    const { l: left, t: top, b: bottom } = layout._size;
    const x = left + layout.xaxis.c2p((outline.x0 + outline.x1) / 2);
    const y = top + layout.yaxis.c2p((outline.y0 + outline.y1) / 2);
    const half = layout._size.w / chart.layout.meta.positions.length / 2;
    const { scrollLeft, scrollTop, clientWidth, clientHeight } = scroller;
    const columns = [x - half - left - 8, x + half + 8];
    const lines = [y - top - 20, y + bottom + 20];
    scroller.scrollLeft = scrollTarget(scrollLeft, clientWidth, ...columns);
    scroller.scrollTop = scrollTarget(scrollTop, clientHeight, ...lines);
  }

  /* The scroll position nearest to the present one at which `from` to `to` is visible. */
  function scrollTarget(now, room, from, to) {
    if (from < now) {
      return from;
    }
    return to > now + room ? to - room : now;
  }

  function refresh(chart, scroller) {
    keepNamesVisible(chart, scroller);
    writeTokens(chart, scroller);
  }

  /* Gives the chart the room that it needs at least; in a smaller panel it scrolls. */
  function makeRoom(chart) {
    const [width, height] = charts.meta(chart)?.least ?? [0, 0];
    const host = chart.closest(".dash-graph");
    if (host) {
      host.style.minWidth = `${width}px`;
      host.style.minHeight = `${height}px`;
    }
  }

  function onDraw(chart) {
    makeRoom(chart);
    const scroller = chart.closest(".scroll-x");
    if (!scroller) {
      return;
    }
    scrollToSelected(chart, scroller);
    refresh(chart, scroller);
    if (!watched.has(chart)) {
      watched.add(chart);
      let frame = 0;
      const onScroll = () => {
        cancelAnimationFrame(frame);
        frame = requestAnimationFrame(() => isHeatmap(chart) && refresh(chart, scroller));
      };
      scroller.addEventListener("scroll", onScroll, { passive: true });
    }
  }

  document.addEventListener("mouseup", onMouseUp, true); // Plotly stops "dblclick" events
  charts.onDraw("heatmap", onDraw);
  charts.onClick("heatmap", onClick);
  // The strip of all positions: the window follows the chosen position.
  charts.onClick("overview", (_chart, event) => {
    window.stratascope.page.select(`pos=${Math.round(event.points[0].x)}&show=`);
  });
  window.stratascope.heatmap = {
    allTexts, textColour, colourAt, visibleRange, scrollTarget, cut, cellAt,
  };
  charts.onDraw("attention", makeRoom);
})();
