/*
The flow graph as an SVG. dash_app/views/flow/picture.py computes the picture and documents its
format (the store "flow-picture"). Pointing at a node highlights its links, without a request.

flow_table.js lists the links, flow_zoom.js zooms and pans. They share `stratascope.flow`.
*/
(function () {
  "use strict";

  const SVG = "http://www.w3.org/2000/svg";
  const KIND_ORDER = { residual: 0, sink: 1, mlp: 2, attention: 3 };
  const NODE_WIDTH = 5;
  const HIT = 3; // pixels at each side of a node's middle
  const MIN_HEIGHT = 0.6; // pixels: the drawn part of a node stays visible
  const MAX_SCALE_BAR = 20; // pixels: the height of the buttons beside it, so the row never grows
  const { charts, controls } = window.stratascope;
  const flow = (window.stratascope.flow = { picture: null, svg: null });
  const canvas = () => document.getElementById("flow-canvas");

  function append(parent, name, attributes, text) {
    const element = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) {
      element.setAttribute(key, value);
    }
    if (text !== undefined) {
      element.textContent = text;
    }
    parent?.append(element);
    return element;
  }

  /* A click selects `target` (page.js); pointing at the element shows `lines`. */
  function makeInteractive(element, target, lines) {
    if (target) {
      element.dataset.go = target;
    }
    element.flowLines = lines;
  }

  /* ------------------------------------------------------------ drawing */

  /* A ribbon's width is vertical, so it is an area; a line's width is a stroke. */
  function linkShape([, , x0, y0, x1, y1, width, , , , , isRibbon]) {
    const middle = (x0 + x1) / 2;
    if (!isRibbon) {
      const d = `M${x0} ${y0}C${middle} ${y0} ${middle} ${y1} ${x1} ${y1}`;
      return { d, "stroke-width": width };
    }
    const half = width / 2;
    const [top0, bottom0, top1, bottom1] = [y0 - half, y0 + half, y1 - half, y1 + half];
    const top = `M${x0} ${top0}C${middle} ${top0} ${middle} ${top1} ${x1} ${top1}`;
    const bottom = `V${bottom1}C${middle} ${bottom1} ${middle} ${bottom0} ${x0} ${bottom0}Z`;
    return { d: top + bottom, "stroke-width": 0 };
  }

  const isMain = (link) => Boolean(link[8]);

  /* A minor link is drawn while the reader points at one of its nodes. */
  function drawLink(link, parent) {
    const [source, target, , , , , , kind, , select, hover, isRibbon] = link;
    const minor = isMain(link) ? "" : "is-minor";
    const names = ["flow-link", `is-${kind}`, minor, isRibbon ? "" : "is-line"];
    const path = append(parent, "path", {
      class: names.filter(Boolean).join(" "),
      ...linkShape(link),
    });
    path.flowEnds = [source, target];
    makeInteractive(path, select, hover);
  }

  /* Wide links first, so that narrow ones stay visible; minor links last. */
  function drawingOrder(links) {
    const rank = (link) => (isMain(link) ? 0 : 10) + (KIND_ORDER[link[7]] ?? 1);
    return [...links].sort((a, b) => rank(a) - rank(b) || b[6] - a[6]);
  }

  /*
  What the nodes show, as three paths: above the part of a node that drawn links account for, below
  it the rest.
  */
  function drawMasses(nodes, parent) {
    const box = (x, y, height) =>
      `M${x - NODE_WIDTH / 2} ${y}h${NODE_WIDTH}v${height}h${-NODE_WIDTH}z`;
    const covered = ([x, top, height, part]) =>
      height > 0 ? box(x, top, Math.max(part, MIN_HEIGHT)) : "";
    const rest = ([x, top, height, part]) =>
      height - part > 0.4 ? box(x, top + part, height - part) : "";
    const draw = (name, shown, shape) =>
      append(parent, "path", { class: `flow-mass ${name}`, d: shown.map(shape).join("") });
    const isBlock = (node) => node[4] === "block";
    draw("is-other", nodes, rest);
    draw("is-covered", nodes.filter((node) => !isBlock(node)), covered);
    draw("is-covered is-block", nodes.filter(isBlock), covered);
  }

  /* What the pointer meets of a node is a little larger than the node. */
  function hitBox([x, top, height]) {
    return `M${x - HIT} ${top - 2}h${2 * HIT}v${height + 4}h${-2 * HIT}z`;
  }

  /* One transparent path for all nodes. What it selects follows the pointer (`aim`). */
  function drawNodes(nodes, parent) {
    append(parent, "path", { class: "flow-mark" }); // around the node under the pointer
    append(parent, "path", { class: "flow-nodes", d: nodes.map(hitBox).join("") });
  }

  /* The index of the node at a pointer on that path. Of nodes that overlap, the last one. */
  function nodeAt(event) {
    const [px, py] = flow.placeOf(event);
    const away = ([x, top, height]) =>
      Math.max(Math.abs(px - x) - HIT, top - 2 - py, py - top - height - 2, 0);
    const distances = flow.picture.nodes.map(away);
    return distances.lastIndexOf(Math.min(...distances));
  }

  /* Before the page hears an event on the nodes, their path selects what the node there selects. */
  function aim(event) {
    if (flow.svg && event.target.matches?.(".flow-nodes")) {
      event.target.dataset.go = flow.picture.nodes[nodeAt(event)][5];
    }
  }

  /* The one link that stands for all links that are not drawn. */
  function drawOther(other, parent) {
    if (other) {
      const { top, outline } = other;
      const edge = outline.map(([x, height]) => `${x},${top + height}`);
      const corners = [outline.at(-1)[0], outline[0][0]].map((x) => `${x},${top}`);
      const points = [...edge, ...corners].join(" ");
      const polygon = append(parent, "polygon", { class: "flow-link is-other", points });
      makeInteractive(polygon, "", other.hover);
    }
  }

  /* Token names at the left, row names below. They stay where they are while the graph moves. */
  function drawNames(picture, svg) {
    const { left, top, bottom } = picture.margin;
    const tokens = append(svg, "g", { class: "flow-lanes" });
    const ranks = flow.laneRanks(picture);
    picture.lanes.forEach(([y, token, position, isAnswer], lane) => {
      const place = { x: left - 8, y: top + y, "data-y": y, "data-rank": ranks[lane] };
      const text = append(tokens, "text", { ...place, class: isAnswer ? "is-answer" : "" });
      append(text, "tspan", {}, token);
      append(text, "tspan", { class: "flow-number", dx: 6 }, position);
    });
    if (picture.other) {
      const y = picture.other.top + 5;
      const place = { x: left - 8, y: top + y, "data-y": y, "data-rank": Infinity };
      append(tokens, "text", place, picture.other.text);
    }
    const rows = append(svg, "g", { class: "flow-rows" });
    for (const [x, name] of picture.rows) {
      append(rows, "text", { x: left + x, y: picture.height - bottom + 18, "data-x": x }, name);
    }
  }

  /* Replaces the labels of nodes; flow_zoom.js knows which ones fit, and where. */
  function writeLabels(labels) {
    const group = flow.svg.querySelector(".flow-labels");
    group.replaceChildren();
    for (const { x, y, text, isBeside } of labels) {
      append(group, "text", { x, y, class: isBeside ? "is-beside" : "" }, text);
    }
  }

  function drawGraph(picture, svg) {
    const { left, top, right, bottom } = picture.margin;
    const { width, height } = picture;
    const clip = append(append(svg, "defs", {}), "clipPath", { id: "flow-clip" });
    append(clip, "rect", { x: 0, y: -top, width: width - left, height: height - bottom });
    const area = append(svg, "g", { transform: `translate(${left} ${top})` });
    const clipped = append(area, "g", { "clip-path": "url(#flow-clip)" });
    const scene = append(clipped, "g", { class: "flow-scene" });
    const guides = picture.lanes.map(([y]) => `M0 ${y}H${width - left - right}`);
    append(scene, "path", { class: "flow-guide", d: guides.join("") });
    drawOther(picture.other, scene);
    drawingOrder(picture.links.filter(isMain)).forEach((link) => drawLink(link, scene));
    append(scene, "g", { class: "flow-minor" });
    drawMasses(picture.nodes, scene);
    drawNodes(picture.nodes, scene);
    append(clipped, "g", { class: "flow-labels" });
  }

  /* The scale: a bar, and the part of the flow that has its height at this zoom. */
  function showScale(zoom) {
    const { key, up } = flow.picture;
    const [height, part] = key.find(([each]) => each * zoom <= MAX_SCALE_BAR) || key.at(-1);
    const scale = document.querySelector(".flow-scale");
    scale.querySelector(".flow-scale-bar").style.height = `${height * zoom}px`;
    const whole = up ? "of the state it enters" : "of the flow";
    scale.querySelector(".flow-scale-text").textContent = `${part} ${whole}`;
  }

  /* Draws the store's picture. It is empty where the view shows a Plotly chart instead. */
  function drawFlow(received) {
    const started = performance.now();
    const picture = received ? flow.fit(received) : null;
    flow.picture = picture;
    flow.svg = null;
    canvas().querySelector("svg")?.remove();
    hideBox();
    if (!picture) {
      if (received === null) {
        window.dash_clientside.set_props("lazy-flow-graph", { shown: true });
      }
      flow.showChart(charts.find("flow-graph")); // it may have been drawn while there was a picture
      return "none";
    }
    const svg = append(null, "svg", {
      width: picture.width,
      height: picture.height,
      class: "flow-svg",
    });
    drawGraph(picture, svg);
    drawNames(picture, svg);
    canvas().prepend(svg);
    flow.svg = svg;
    flow.resetZoom();
    flow.showTable("flow", picture.table);
    canvas().dataset.drawn = (performance.now() - started).toFixed(1);
    flow.watch();
    return "flow";
  }

  /* ------------------------------------------------------------ under the pointer */

  let hovered = null; // the element of the link, or the index of the node, under the pointer

  /* The nodes of one state: they select the same cell. */
  function nodesOfState(index) {
    const target = flow.picture.nodes[index][5];
    const indices = flow.picture.nodes.map((node, each) => (node[5] === target ? each : -1));
    return new Set(indices.filter((each) => each >= 0));
  }

  function highlightLinks(nodes) {
    const minor = flow.picture.links.filter(
      (link) => !isMain(link) && (nodes.has(link[0]) || nodes.has(link[1]))
    );
    const group = flow.svg.querySelector(".flow-minor");
    drawingOrder(minor).forEach((link) => drawLink(link, group));
    flow.svg.classList.add("is-focused");
    for (const path of flow.svg.querySelectorAll("path.flow-link")) {
      path.classList.toggle(
        "is-highlighted",
        path.flowEnds.some((end) => nodes.has(end))
      );
    }
  }

  function clearHighlight() {
    flow.svg.classList.remove("is-focused");
    flow.svg.querySelector(".flow-minor").replaceChildren();
    flow.svg.querySelector(".flow-mark").removeAttribute("d");
    for (const path of flow.svg.querySelectorAll(".is-highlighted")) {
      path.classList.remove("is-highlighted");
    }
  }

  function hideBox() {
    canvas().querySelector(".flow-box")?.remove();
    hovered = null;
  }

  function boxLine(text, index) {
    const line = document.createElement(index ? "div" : "b");
    line.textContent = text;
    return line;
  }

  /* Shows lines beside the pointer, at its left where the right has no room. */
  function showBox(lines, event) {
    const host = canvas();
    const box = host.querySelector(".flow-box") || document.createElement("div");
    box.className = "flow-box";
    box.replaceChildren(...lines.map(boxLine));
    host.append(box);
    const frame = host.getBoundingClientRect();
    const [x, y] = [event.clientX - frame.left, event.clientY - frame.top];
    const fits = x + 16 + box.offsetWidth <= frame.width;
    const left = fits ? x + 16 : x - 16 - box.offsetWidth;
    box.style.left = `${Math.max(left, 0) + host.scrollLeft}px`;
    box.style.top = `${Math.max(y - box.offsetHeight - 8, 0)}px`;
  }

  function onOver(event) {
    const element = event.target.closest?.("#flow-canvas .flow-nodes, #flow-canvas .flow-link");
    const isNode = flow.svg && element?.matches(".flow-nodes");
    const target = isNode ? nodeAt(event) : (element ?? null);
    if (!flow.svg || target === hovered) {
      return;
    }
    clearHighlight();
    hideBox();
    hovered = target;
    if (isNode) {
      highlightLinks(nodesOfState(target));
      flow.svg.querySelector(".flow-mark").setAttribute("d", hitBox(flow.picture.nodes[target]));
    }
  }

  function onMove(event) {
    onOver(event); // from one node to the next the pointer stays on the same path
    if (hovered !== null && flow.svg) {
      const node = flow.picture.nodes[hovered];
      showBox(node ? node[6] : hovered.flowLines, event);
    }
  }

  /* ------------------------------------------------------------ signed flow */

  /* A bar (dash_app/views/flow/signed_picture.py) selects its layer, head and link. */
  function selectBar(_chart, event) {
    const [, kind, layer, source, target, head] = event.points[0].customdata;
    const heads = head < 0 ? "" : `&heads=${head}`;
    const link = `${kind}:${layer}:${source}:${target}:${head}`;
    window.stratascope.page.select(`layer=${layer}${heads}&link=${link}`);
  }

  /* ------------------------------------------------------------ the layer slider */

  let lastLayer = null;

  /* Reports the slider's range. An end at the edge means "no limit", whatever the model. */
  function reportFlowLayers(value) {
    if (value && lastLayer !== null) {
      const limit = (layer, edge) => (layer === edge ? "none" : layer);
      const to = `first=${limit(value[0], 0)}&last=${limit(value[1], lastLayer)}`;
      controls.reportChange("flow-layers", value, to);
    }
  }

  function showFlowLayers(method, run, note) {
    if (run) {
      lastLayer = run.layers - 1;
      const first = Math.min(method?.first ?? 0, lastLayer);
      const last = Math.max(first, Math.min(method?.last ?? lastLayer, lastLayer));
      controls.showValue("flow-layers", note, [first, last], { max: lastLayer });
    }
  }

  document.addEventListener("mouseover", onOver);
  document.addEventListener("mousemove", onMove);
  for (const name of ["pointerdown", "click", "contextmenu"]) {
    window.addEventListener(name, aim, true);
  }
  charts.onClick("flow-signed", selectBar);
  Object.assign(flow, { showScale, drawingOrder, writeLabels, draw: drawFlow });
  window.dash_clientside ??= {};
  window.dash_clientside.stratascope = {
    ...window.dash_clientside.stratascope,
    drawFlow,
    reportFlowLayers,
    showFlowLayers,
  };
})();
