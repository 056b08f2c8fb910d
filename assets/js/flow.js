/*
The flow graph: an SVG made from the store "flow-picture" (dash_app/views/flow/picture.py says what is in
it). Pointing at a node brings its own links out and dims the others; nothing here asks the server.
Zoom and pan are in flow_zoom.js, the list of links in flow_table.js.
*/
(function () {
  "use strict";

  const SVG = "http://www.w3.org/2000/svg";
  const ORDER = { residual: 0, sink: 1, mlp: 2, attention: 3 };
  const flow = (window.stratascope_flow = { picture: null, svg: null });

  function make(name, attributes, parent, text) {
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

  /* A click selects what `go` says (page.js); the hover box has `lines`. */
  function alive(element, go, lines) {
    if (go) {
      element.dataset.go = go;
    }
    element.flowLines = lines;
    return element;
  }

  /* A ribbon has its width from top to bottom, a line across itself. */
  function shape([, , x0, y0, x1, y1, width, , , , , ribbon]) {
    const middle = (x0 + x1) / 2;
    if (!ribbon) {
      const d = `M${x0} ${y0}C${middle} ${y0} ${middle} ${y1} ${x1} ${y1}`;
      return { d, "stroke-width": width };
    }
    const [a, b, c, d] = [y0 - width / 2, y1 - width / 2, y1 + width / 2, y0 + width / 2];
    const over = `M${x0} ${a}C${middle} ${a} ${middle} ${b} ${x1} ${b}`;
    return { d: `${over}V${c}C${middle} ${c} ${middle} ${d} ${x0} ${d}Z`, "stroke-width": 0 };
  }

  function drawLink(link, number, parent) {
    const [source, target] = link;
    const [kind, main, go, lines] = link.slice(7);
    const name = `flow-link is-${kind}${main ? "" : " is-quiet"}${link[11] ? "" : " is-line"}`;
    const path = make("path", { class: name, ...shape(link) }, parent);
    path.flowEnds = [source, target];
    path.flowNumber = number;
    alive(path, go, lines);
  }

  /* Wide bands first, so that thin ones lie on them; what comes on hover on top. */
  function inOrder(links) {
    const rank = (link) => (link[8] ? 0 : 10) + (ORDER[link[7]] ?? 1);
    const numbers = links.map((_, number) => number);
    return numbers.sort((a, b) => rank(links[a]) - rank(links[b]) || links[b][6] - links[a][6]);
  }

  /* A node: what drawn links bring it, and below that what they don't. */
  function drawNode(node, number, parent) {
    const [x, top, height, covered, kind, go, lines] = node;
    const group = make("g", { class: `flow-node is-${kind}` }, parent);
    const box = { x: x - 2.5, width: 5 };
    if (height > 0) {
      make("rect", { ...box, y: top, height: Math.max(covered, 0.6), class: "is-brought" }, group);
    }
    if (height - covered > 0.4) {
      make("rect", { ...box, y: top + covered, height: height - covered, class: "is-other" }, group);
    }
    make("rect", { x: x - 3, width: 6, y: top - 2, height: height + 4, class: "flow-hit" }, group);
    group.flowNode = number;
    alive(group, go, lines);
  }

  function drawOther(other, parent) {
    if (!other) {
      return;
    }
    const top = other.top;
    const points = other.outline.map(([x, height]) => `${x},${top + height}`);
    const ends = [other.outline.at(-1)[0], other.outline[0][0]].map((x) => `${x},${top}`);
    const shape = { class: "flow-link is-other", points: [...points, ...ends].join(" ") };
    alive(make("polygon", shape, parent), "", other.hover);
  }

  function drawNames(picture, svg) {
    const { left, top, bottom } = picture.margin;
    const names = make("g", { class: "flow-lanes" }, svg);
    for (const [y, token, position, answer] of picture.lanes) {
      const at = { x: left - 8, y: top + y, "data-y": y };
      const text = make("text", { ...at, class: answer ? "is-answer" : "" }, names);
      make("tspan", {}, text, token);
      make("tspan", { class: "flow-number", dx: 6 }, text, position);
    }
    if (picture.other) {
      const y = picture.other.top + 5;
      make("text", { x: left - 8, y: top + y, "data-y": y }, names, picture.other.text);
    }
    const rows = make("g", { class: "flow-rows" }, svg);
    for (const [x, name] of picture.rows) {
      const y = picture.height - bottom + 18;
      make("text", { x: left + x, y, "data-x": x }, rows, name);
    }
  }

  function drawLabels(picture, parent) {
    const group = make("g", { class: "flow-labels" }, parent);
    for (const [x, y, text, beside, zoom] of picture.labels) {
      const kind = beside ? "is-beside" : "";
      make("text", { class: kind, "data-x": x, "data-y": y, "data-zoom": zoom }, group, text);
    }
  }

  function drawScene(picture, svg) {
    const { left, top, bottom } = picture.margin;
    const [width, height] = [picture.width, picture.height];
    const clip = make("clipPath", { id: "flow-clip" }, make("defs", {}, svg));
    make("rect", { x: 0, y: -top, width: width - left, height: height - bottom }, clip);
    const window_ = make("g", { transform: `translate(${left} ${top})` }, svg);
    const inside = make("g", { "clip-path": "url(#flow-clip)" }, window_);
    const scene = make("g", { class: "flow-scene" }, inside);
    for (const [y] of picture.lanes) {
      make("path", { class: "flow-guide", d: `M0 ${y}H${width - left - picture.margin.right}` }, scene);
    }
    drawOther(picture.other, scene);
    inOrder(picture.links).forEach((number) => drawLink(picture.links[number], number, scene));
    picture.nodes.forEach((node, number) => drawNode(node, number, scene));
    drawLabels(picture, inside);
  }

  /* The scale: a bar, and the part of the flow that is as tall at this zoom. */
  flow.key = (zoom) => {
    const key = document.querySelector(".flow-scale");
    const fits = flow.picture.key.find(([height]) => height * zoom <= 28);
    const [height, part] = fits || flow.picture.key.at(-1);
    key.querySelector(".flow-scale-bar").style.height = `${height * zoom}px`;
    const what = flow.picture.up ? "of the state it enters" : "of the flow";
    key.querySelector(".flow-scale-text").textContent = `${part} ${what}`;
  };

  /* Dash calls this with the store's data: a picture, or nothing where another figure is shown. */
  function draw(picture) {
    const host = document.getElementById("flow-canvas");
    const started = performance.now();
    flow.picture = picture || null;
    flow.svg = null;
    host.querySelector("svg")?.remove();
    hideBox(host);
    if (!picture) {
      return "none";
    }
    const svg = make("svg", { width: picture.width, height: picture.height, class: "flow-svg" });
    drawScene(picture, svg);
    drawNames(picture, svg);
    host.prepend(svg);
    flow.svg = svg;
    flow.place(true);
    flow.list("flow", picture.table);
    host.dataset.drawn = String(Math.round(10 * (performance.now() - started)) / 10);
    return "flow";
  }

  /* ---- under the pointer ---- */

  let hovered = null;

  /* All nodes of one state, a block and its layer's middle, select the same. */
  function state(number) {
    const go = flow.picture.nodes[number][5];
    return new Set(
      flow.picture.nodes.flatMap((node, index) => (node[5] === go ? [index] : []))
    );
  }

  function bringOut(ends) {
    flow.svg.classList.add("is-focused");
    for (const path of flow.svg.querySelectorAll("path.flow-link")) {
      path.classList.toggle("is-out", path.flowEnds.some((end) => ends.has(end)));
    }
  }

  function restore() {
    if (hovered && flow.svg) {
      flow.svg.classList.remove("is-focused");
      flow.svg.querySelectorAll(".is-out").forEach((path) => path.classList.remove("is-out"));
    }
    hovered = null;
  }

  function hideBox(host) {
    host.querySelector(".flow-box")?.remove();
    hovered = null;
  }

  function showBox(host, lines, event) {
    const box = host.querySelector(".flow-box") || document.createElement("div");
    box.className = "flow-box";
    box.replaceChildren(
      ...lines.map((line, index) => {
        const row = document.createElement(index ? "div" : "b");
        row.textContent = line;
        return row;
      })
    );
    host.append(box);
    const frame = host.getBoundingClientRect();
    const [x, y] = [event.clientX - frame.left, event.clientY - frame.top];
    const left = x + 16 + box.offsetWidth > frame.width ? x - 16 - box.offsetWidth : x + 16;
    box.style.left = `${Math.max(left, 0) + host.scrollLeft}px`;
    box.style.top = `${Math.max(y - box.offsetHeight - 8, 0)}px`;
  }

  function onOver(event) {
    const host = document.getElementById("flow-canvas");
    const target = event.target.closest?.("#flow-canvas .flow-node, #flow-canvas .flow-link");
    if (!flow.svg || target === hovered) {
      return;
    }
    restore();
    if (!target) {
      hideBox(host);
      return;
    }
    hovered = target;
    if (target.flowNode !== undefined) {
      bringOut(state(target.flowNode));
    }
  }

  function onMove(event) {
    if (hovered && flow.svg) {
      showBox(document.getElementById("flow-canvas"), hovered.flowLines, event);
    }
  }

  /* Selects as a click on a button would (page.js): for what is no button. */
  flow.select = (to) => {
    const button = document.createElement("button");
    button.hidden = true;
    button.dataset.go = to;
    document.body.append(button);
    button.click();
    button.remove();
  };

  let most = null;

  /* The layers' slider was moved; an end at the edge means all layers there, whatever the model. */
  function layers(value) {
    if (value && most !== null) {
      const end = (number, edge) => (number === edge ? "none" : number);
      const to = `first=${end(value[0], 0)}&last=${end(value[1], most)}`;
      window.dash_clientside.stratascope.hears("flow-layers", value, to);
    }
  }

  /* The slider shows what is selected (controls.js). */
  function range(method, run, note) {
    if (run) {
      most = run.layers - 1;
      const first = Math.min(method?.first ?? 0, most);
      const last = Math.max(first, Math.min(method?.last ?? most, most));
      window.dash_clientside.stratascope.shows("flow-layers", note, [first, last], { max: most });
    }
  }

  document.addEventListener("mouseover", onOver);
  document.addEventListener("mousemove", onMove);
  const shared = (window.dash_clientside = window.dash_clientside || {});
  shared.stratascope_flow = { draw, layers, range };
})();
