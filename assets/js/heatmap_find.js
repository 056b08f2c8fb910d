/*
The search in the heatmap. Columns whose token contains the text, and cells whose best token
contains it, are outlined. In the search field Enter chooses the next match, Shift + Enter the one
before. The server finds the matches (`layout.meta.hits`), also in columns that are not drawn.
*/
(function () {
  "use strict";

  const SVG = "http://www.w3.org/2000/svg";
  const GRAPH = "lens-graph";
  const { charts } = window.stratascope;
  let last = null; // the match that was chosen last, as [row, position]
  let waiting = null; // {text, step}: a step to take once the matches of a new text are drawn

  /* Matches by position, as [row, position]; a column has the row null and precedes its cells. */
  function inOrder({ columns, cells }) {
    return [...columns.map((pos) => [null, pos]), ...cells].sort(compare);
  }

  function compare([row, pos], [otherRow, otherPos]) {
    return pos - otherPos || (row ?? -1) - (otherRow ?? -1);
  }

  /* The index of the match after (step 1) or before (step -1) the last one, round the end. */
  function nextIndex(matches, from, step) {
    const forward = step > 0;
    if (!from) {
      return forward ? 0 : matches.length - 1;
    }
    const isBeyond = (each) => compare(each, from) * step > 0;
    const found = forward ? matches.findIndex(isBeyond) : matches.findLastIndex(isBeyond);
    return found >= 0 ? found : nextIndex(matches, null, step);
  }

  function take(step, hits) {
    const matches = inOrder(hits);
    const index = matches.length ? nextIndex(matches, last, step) : -1;
    if (index >= 0) {
      last = matches[index];
      window.stratascope.page.choose(...last);
    }
    showCount(matches, index);
  }

  function showCount(matches, index) {
    const count = document.querySelector("[data-find-count]");
    if (count) {
      count.textContent = matches.length ? `${index + 1} of ${matches.length}` : "No match";
    }
  }

  function onKey(event) {
    if (event.key !== "Enter" || !event.target.closest?.("#lens-find")) {
      return;
    }
    const { value } = event.target;
    const step = event.shiftKey ? -1 : 1;
    const hits = charts.meta(charts.find(GRAPH))?.hits;
    if (value && hits?.text === value) {
      take(step, hits);
    } else {
      last = null;
      waiting = value ? { text: value, step } : null;
    }
  }

  /* The outlines of boxes around the matches, as one path. */
  function outlines({ rows, positions, hits }, { xaxis, yaxis, _size: size }) {
    const width = size.w / positions.length;
    const height = size.h / rows.length;
    const columns = hits.columns.map((pos) => [positions.indexOf(pos), size.h, size.h / 2]);
    const cells = hits.cells.map(([row, pos]) => {
      return [positions.indexOf(pos), height, yaxis.c2p(rows.indexOf(row))];
    });
    return [...columns, ...cells]
      .filter(([column]) => column >= 0)
      .map(([column, tall, middle]) => {
        const [x, y] = [xaxis.c2p(column) - width / 2 + 1, middle - tall / 2 + 1];
        return `M${x} ${y}h${width - 2}v${tall - 2}h${2 - width}z`;
      })
      .join("");
  }

  function mark(chart) {
    const meta = charts.meta(chart);
    const layout = chart._fullLayout;
    const layer = chart.querySelector(".heatmaplayer")?.parentNode;
    layer?.querySelector(".find-marks")?.remove();
    if (!layer || !layout?.xaxis || !meta.hits?.text) {
      return;
    }
    const group = document.createElementNS(SVG, "g");
    group.setAttribute("class", "find-marks");
    group.style.pointerEvents = "none";
    for (const [colour, width] of [
      ["var(--surface)", 4],
      ["var(--ink)", 1.5],
    ]) {
      const path = document.createElementNS(SVG, "path");
      path.setAttribute("d", outlines(meta, layout));
      Object.assign(path.style, { fill: "none", stroke: colour, strokeWidth: `${width}px` });
      group.append(path);
    }
    layer.append(group);
  }

  function onDraw(chart) {
    if (chart !== charts.find(GRAPH)) {
      return;
    }
    mark(chart);
    const { hits } = charts.meta(chart);
    if (waiting && hits?.text === waiting.text) {
      const { step } = waiting;
      waiting = null;
      take(step, hits);
    }
  }

  document.addEventListener("keydown", onKey, true);
  charts.onDraw("heatmap", onDraw);
  window.stratascope.find = { inOrder, nextIndex };
})();
