/*
Zoom and pan of the flow graph: Ctrl and the wheel (or a pinch), dragging, the buttons, and, when
the graph has the keyboard focus, + - 0 and Shift with the arrow keys. The graph is scaled. Texts
keep their size, and labels that need more room appear as the reader zooms in.
*/
(function () {
  "use strict";

  const { flow } = window.stratascope;
  const MAX_ZOOM = 8;
  const ZOOM_STEP = 1.5;
  const PAN_STEP = 80; // pixels
  const WHEEL_PER_E = 300; // pixels of the wheel that multiply the zoom by e
  const DRAG_THRESHOLD = 4; // pixels; a shorter movement is a click
  const WHOLE = { zoom: 1, x: 0, y: 0 };
  let view = WHOLE; // the zoom, and where the graph's origin lies in the plot area
  let drag = null;

  /* Width and height of the plot area. */
  function plotSize() {
    const { width, height, margin } = flow.picture;
    return [width - margin.left - margin.right, height - margin.top - margin.bottom];
  }

  /* The same view, moved so that the graph covers the plot area. */
  function clampPan({ zoom, x, y }, [width, height]) {
    const clamp = (value, size) => Math.min(0, Math.max(size * (1 - zoom), value));
    return { zoom, x: clamp(x, width), y: clamp(y, height) };
  }

  /* Zooms by a factor, about a point of the plot area that stays where it is. */
  function zoomAbout(from, factor, [x, y]) {
    const zoom = Math.min(MAX_ZOOM, Math.max(1, from.zoom * factor));
    const scale = zoom / from.zoom;
    return { zoom, x: x - (x - from.x) * scale, y: y - (y - from.y) * scale };
  }

  function show(next) {
    view = clampPan(next, plotSize());
    const { zoom, x, y } = view;
    const scene = flow.svg.querySelector(".flow-scene");
    scene.setAttribute("transform", `translate(${x} ${y}) scale(${zoom})`);
    placeNames(view);
    placeLabels(view);
    flow.showScale(zoom);
    flow.svg.classList.toggle("is-zoomed", zoom > 1);
    flow.svg.dataset.zoom = zoom.toFixed(2);
  }

  /* Moves the names of tokens and rows beside their lanes and columns; hides those outside. */
  function placeNames({ zoom, x, y }) {
    const { left, top, bottom } = flow.picture.margin;
    const place = (name, axis, value, min, max) => {
      name.setAttribute(axis, value);
      name.setAttribute("visibility", value < min || value > max ? "hidden" : "visible");
    };
    for (const name of flow.svg.querySelectorAll(".flow-lanes text")) {
      place(name, "y", top + y + zoom * Number(name.dataset.y), top, flow.picture.height - bottom);
    }
    const rows = [...flow.svg.querySelectorAll(".flow-rows text")];
    for (const name of rows) {
      place(name, "x", left + x + zoom * Number(name.dataset.x), left, left + plotSize()[0] + 30);
    }
    hideOverlaps([...rows.slice(-1), ...rows], (name) => ({ x: Number(name.getAttribute("x")), y: 0 }));
    const lanes = [...flow.svg.querySelectorAll(".flow-lanes text")];
    const important = lanes.sort((a, b) => Number(b.dataset.rank) - Number(a.dataset.rank));
    hideOverlaps(important, (name) => ({ x: 0, y: Number(name.getAttribute("y")) }), flow.NAME_LINE);
  }

  /* Hides names that would overlap a name before them. */
  function hideOverlaps(names, place, line) {
    const shown = names.filter((name) => name.getAttribute("visibility") === "visible");
    const ordered = [...new Set(shown)];
    const boxes = ordered.map((name) => ({ ...place(name), length: name.textContent.length + 1 }));
    flow.clearOf(boxes, line).forEach((isClear, index) => {
      ordered[index].setAttribute("visibility", isClear ? "visible" : "hidden");
    });
  }

  /* Writes the labels that have room at this zoom. */
  function placeLabels({ zoom, x, y }) {
    const labels = flow.picture.labels
      .filter(([, , , , least]) => least <= zoom)
      .map(([atX, atY, text, beside]) => ({
        x: x + zoom * atX + (beside ? 10 : 0),
        y: y + zoom * atY - (beside ? 0 : 8),
        text,
        length: text.length,
        isBeside: Boolean(beside),
      }));
    const isClear = flow.clearOf(labels);
    flow.writeLabels(labels.filter((_, index) => isClear[index]));
  }

  /* The place of a pointer in the picture's own pixels, from the corner of the plot area. */
  function placeOf({ clientX, clientY }) {
    const frame = flow.svg.getBoundingClientRect();
    const { left, top } = flow.picture.margin;
    const { zoom, x, y } = view;
    return [(clientX - frame.left - left - x) / zoom, (clientY - frame.top - top - y) / zoom];
  }

  function zoomBy(factor, point = plotSize().map((size) => size / 2)) {
    show(zoomAbout(view, factor, point));
  }

  function panBy(x, y) {
    show({ ...view, x: view.x + x, y: view.y + y });
  }

  function resetZoom() {
    show(WHOLE);
  }

  /* Draws the same picture at another size. The reader keeps the zoom and the part in view. */
  function keepView(draw) {
    const { zoom, x, y } = view;
    const [width, height] = plotSize();
    draw();
    const [newWidth, newHeight] = plotSize();
    show({ zoom, x: (x * newWidth) / width, y: (y * newHeight) / height });
  }

  const ACTIONS = {
    in: () => zoomBy(ZOOM_STEP),
    out: () => zoomBy(1 / ZOOM_STEP),
    reset: resetZoom,
    left: () => panBy(PAN_STEP, 0),
    right: () => panBy(-PAN_STEP, 0),
    up: () => panBy(0, PAN_STEP),
    down: () => panBy(0, -PAN_STEP),
  };
  const KEYS = { "+": "in", "=": "in", "-": "out", 0: "reset" };
  const ARROWS = { ArrowLeft: "left", ArrowRight: "right", ArrowUp: "up", ArrowDown: "down" };

  function isOnGraph(event) {
    return Boolean(flow.svg && event.target.closest?.("#flow-canvas"));
  }

  function onKey(event) {
    const action = KEYS[event.key] ?? (event.shiftKey ? ARROWS[event.key] : undefined);
    const hasModifier = event.ctrlKey || event.metaKey || event.altKey;
    if (action && !hasModifier && isOnGraph(event)) {
      event.preventDefault();
      event.stopPropagation();
      ACTIONS[action]();
    }
  }

  function onWheel(event) {
    if (isOnGraph(event) && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      const frame = flow.svg.getBoundingClientRect();
      const { left, top } = flow.picture.margin;
      const point = [event.clientX - frame.left - left, event.clientY - frame.top - top];
      zoomBy(Math.exp(-event.deltaY / WHEEL_PER_E), point);
    }
  }

  function onDown(event) {
    if (isOnGraph(event) && event.button === 0 && view.zoom > 1) {
      drag = { x: event.clientX, y: event.clientY, moved: false };
    }
  }

  function onMove(event) {
    if (!drag || !flow.svg) {
      return;
    }
    const [x, y] = [event.clientX - drag.x, event.clientY - drag.y];
    drag.moved ||= Math.hypot(x, y) > DRAG_THRESHOLD;
    if (drag.moved) {
      panBy(x, y);
      Object.assign(drag, { x: event.clientX, y: event.clientY });
    }
  }

  /* A drag that ends on the graph waits for its click, which must not select anything. */
  function onUp(event) {
    if (!drag?.moved || !isOnGraph(event)) {
      drag = null;
    }
  }

  function onClick(event) {
    const moved = drag?.moved;
    drag = null;
    if (moved) {
      event.stopPropagation();
      event.preventDefault();
      return;
    }
    const button = event.target.closest?.("[data-flow-zoom]");
    if (button && flow.svg) {
      ACTIONS[button.dataset.flowZoom]();
    }
  }

  document.addEventListener("keydown", onKey, true);
  document.addEventListener("wheel", onWheel, { passive: false });
  document.addEventListener("pointerdown", onDown);
  document.addEventListener("pointermove", onMove);
  document.addEventListener("pointerup", onUp);
  window.addEventListener("click", onClick, true); // on the window: before page.js hears the click
  Object.assign(flow, { resetZoom, keepView, placeOf, zoomAbout, clampPan });
})();
