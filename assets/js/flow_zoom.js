/*
Zoom and pan in the flow graph: Ctrl and the wheel (or a pinch), dragging, the buttons, and when the
picture has the focus + - 0 and Shift with the arrow keys. The scene is scaled; texts keep their
size, and labels that have room only when zoomed in come then.
*/
(function () {
  "use strict";

  const flow = window.stratascope_flow;
  const MOST = 8;
  const view = { zoom: 1, x: 0, y: 0 };
  let drag = null;

  function size() {
    const { width, height, margin } = flow.picture;
    return [width - margin.left - margin.right, height - margin.top - margin.bottom];
  }

  function within(value, room) {
    return Math.min(0, Math.max(room * (1 - view.zoom), value));
  }

  /* Puts everything where the view says; `anew` starts from the whole picture. */
  flow.place = (anew) => {
    if (anew) {
      Object.assign(view, { zoom: 1, x: 0, y: 0 });
    }
    const [width, height] = size();
    const { left, top, bottom } = flow.picture.margin;
    view.x = within(view.x, width);
    view.y = within(view.y, height);
    const { zoom, x, y } = view;
    const scene = flow.svg.querySelector(".flow-scene");
    scene.setAttribute("transform", `translate(${x} ${y}) scale(${zoom})`);
    const beyond = (at, least, most) => (at < least || at > most ? "hidden" : "visible");
    for (const name of flow.svg.querySelectorAll(".flow-lanes text")) {
      const at = top + y + zoom * Number(name.dataset.y);
      name.setAttribute("y", at);
      name.setAttribute("visibility", beyond(at, top, flow.picture.height - bottom));
    }
    for (const name of flow.svg.querySelectorAll(".flow-rows text")) {
      const at = left + x + zoom * Number(name.dataset.x);
      name.setAttribute("x", at);
      name.setAttribute("visibility", beyond(at, left, left + width + 30));
    }
    for (const label of flow.svg.querySelectorAll(".flow-labels text")) {
      const beside = label.classList.contains("is-beside");
      label.setAttribute("x", x + zoom * Number(label.dataset.x) + (beside ? 10 : 0));
      label.setAttribute("y", y + zoom * Number(label.dataset.y) - (beside ? 0 : 8));
      label.setAttribute("visibility", Number(label.dataset.zoom) <= zoom ? "visible" : "hidden");
    }
    flow.key(zoom);
    flow.svg.classList.toggle("is-zoomed", zoom > 1);
    flow.svg.dataset.zoom = zoom.toFixed(2);
  };

  /* Zooms by a factor about a point of the plot area, its middle unless told. */
  function zoomBy(factor, at) {
    const [width, height] = size();
    const [x, y] = at || [width / 2, height / 2];
    const next = Math.min(MOST, Math.max(1, view.zoom * factor));
    view.x = x - ((x - view.x) * next) / view.zoom;
    view.y = y - ((y - view.y) * next) / view.zoom;
    view.zoom = next;
    flow.place();
  }

  function panBy(x, y) {
    view.x += x;
    view.y += y;
    flow.place();
  }

  const DOES = {
    in: () => zoomBy(1.5),
    out: () => zoomBy(1 / 1.5),
    reset: () => flow.place(true),
    left: () => panBy(80, 0),
    right: () => panBy(-80, 0),
    up: () => panBy(0, 80),
    down: () => panBy(0, -80),
  };
  const KEYS = { "+": "in", "=": "in", "-": "out", 0: "reset" };
  const ARROWS = { ArrowLeft: "left", ArrowRight: "right", ArrowUp: "up", ArrowDown: "down" };

  function canvas(event) {
    return flow.svg && event.target.closest?.("#flow-canvas");
  }

  function onKey(event) {
    const wanted = event.shiftKey ? ARROWS[event.key] ?? KEYS[event.key] : KEYS[event.key];
    if (canvas(event) && wanted && !event.ctrlKey && !event.metaKey && !event.altKey) {
      event.preventDefault();
      event.stopPropagation();
      DOES[wanted]();
    }
  }

  function onWheel(event) {
    if (canvas(event) && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      const frame = flow.svg.getBoundingClientRect();
      const { left, top } = flow.picture.margin;
      const at = [event.clientX - frame.left - left, event.clientY - frame.top - top];
      zoomBy(Math.exp(-event.deltaY / 300), at);
    }
  }

  function onDown(event) {
    if (canvas(event) && event.button === 0 && view.zoom > 1) {
      drag = { x: event.clientX, y: event.clientY, moved: false };
    }
  }

  function onMove(event) {
    if (!drag || !flow.svg) {
      return;
    }
    const [x, y] = [event.clientX - drag.x, event.clientY - drag.y];
    drag.moved ||= Math.hypot(x, y) > 4;
    if (drag.moved) {
      panBy(x, y);
      Object.assign(drag, { x: event.clientX, y: event.clientY });
    }
  }

  /* The click that ends a drag selects nothing. In the window, before page.js hears it. */
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
      DOES[button.dataset.flowZoom]();
    }
  }

  document.addEventListener("keydown", onKey, true);
  document.addEventListener("wheel", onWheel, { passive: false });
  document.addEventListener("pointerdown", onDown);
  document.addEventListener("pointermove", onMove);
  document.addEventListener("pointerup", (event) => {
    if (drag && !drag.moved) {
      drag = null;
    } else if (drag && !canvas(event)) {
      drag = null; // no click follows on what was left
    }
  });
  window.addEventListener("click", onClick, true);
})();
