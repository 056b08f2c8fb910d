/*
Fits the picture of the flow to its panel. The server computes places in pixels for one size. They
are stretched here along both axes, so texts keep their size; labels that would overlap wait until
the reader zooms in (flow_zoom.js).
*/
(function () {
  "use strict";

  const { flow } = window.stratascope;
  const LEAST_LANE = 8; // pixels; with more lanes than fit, the panel scrolls
  const LEAST_PLOT = 200;
  const CHARACTER = 6.7;
  const LINE = 13;
  const NAME_LINE = 10.5; // names of lanes may touch
  let source = null; // the picture as the server sent it
  let frame = 0;

  /* The picture for a panel of a size, in pixels. */
  function stretched(picture, width, height) {
    const { left, right, top, bottom } = picture.margin;
    const [inner, tall] = [picture.width - left - right, picture.height - top - bottom];
    const lanes = picture.lanes.length * LEAST_LANE;
    const sx = Math.max(width - left - right, LEAST_PLOT) / inner;
    const sy = Math.max(height - top - bottom, lanes) / tall;
    const { other } = picture;
    return {
      ...picture,
      width: inner * sx + left + right,
      height: tall * sy + top + bottom,
      lanes: picture.lanes.map(([y, ...rest]) => [y * sy, ...rest]),
      rows: picture.rows.map(([x, ...rest]) => [x * sx, ...rest]),
      nodes: picture.nodes.map(([x, y, size, covered, ...rest]) => [
        x * sx, y * sy, size * sy, covered * sy, ...rest,
      ]),
      links: picture.links.map(([from, to, x0, y0, x1, y1, size, ...rest]) => [
        from, to, x0 * sx, y0 * sy, x1 * sx, y1 * sy, size * sy, ...rest,
      ]),
      other: other && {
        ...other,
        top: other.top * sy,
        outline: other.outline.map(([x, size]) => [x * sx, size * sy]),
      },
      labels: picture.labels.map(([x, y, ...rest]) => [x * sx, y * sy, ...rest]),
      key: picture.key.map(([size, part]) => [size * sy, part]),
    };
  }

  function fit(picture) {
    source = picture;
    const canvas = document.getElementById("flow-canvas");
    const [width, height] = [canvas?.clientWidth, canvas?.clientHeight];
    return width && height ? stretched(picture, width, height) : picture;
  }

  /* How much a lane matters: the height of its largest node. Where names overlap, it stays. */
  function laneRanks(picture) {
    const ranks = picture.lanes.map(([, , , isAnswer]) => (isAnswer ? Infinity : 0));
    for (const [, y, height] of picture.nodes) {
      const away = picture.lanes.map(([lane]) => Math.abs(lane - y - height / 2));
      const nearest = away.indexOf(Math.min(...away));
      ranks[nearest] = Math.max(ranks[nearest], height);
    }
    return ranks;
  }

  /* Which of some texts, the most important first, stand clear of all before them. */
  function clearOf(texts, line = LINE) {
    const kept = [];
    return texts.map(({ x, y, length, isBeside }) => {
      const half = (length * CHARACTER) / 2;
      const box = { x: isBeside ? x + half : x, y, half };
      const isClear = kept.every(
        (each) => Math.abs(each.x - box.x) > each.half + box.half + 3 || Math.abs(each.y - y) > line
      );
      if (isClear) {
        kept.push(box);
      }
      return isClear;
    });
  }

  /* Draws the picture again when its panel has another size. */
  function watch() {
    const canvas = document.getElementById("flow-canvas");
    if (canvas && window.ResizeObserver && !canvas.dataset.watched) {
      canvas.dataset.watched = "yes";
      new ResizeObserver(() => {
        cancelAnimationFrame(frame);
        frame = requestAnimationFrame(() => {
          if (flow.svg && isResized()) {
            flow.keepView(() => flow.draw(source));
          }
        });
      }).observe(canvas);
    }
  }

  function isResized() {
    const canvas = document.getElementById("flow-canvas");
    const { width, height } = stretched(source, canvas.clientWidth, canvas.clientHeight);
    const differs = (a, b) => Math.abs(a - b) > 1;
    const { picture } = flow;
    return canvas.clientWidth > 0 && (differs(width, picture.width) || differs(height, picture.height));
  }

  Object.assign(flow, { fit, watch, stretched, clearOf, laneRanks, NAME_LINE });
})();
