/*
Exports the pane on top of a panel. Buttons with `data-export` stand in the panel's menu
(dash_app/page/panes.py).

The server writes CSV, JSON and the script (dash_app/export.py) for the link of the page. Pictures
are made here, for a white page: plotly figures from what the server draws for a light page, the
flow's own SVG and tables from the elements of the page, with their styles. Each picture holds its
recipe as metadata. A pane whose numbers the server does not export keeps the colours of the page.
A picture has the whole content of a pane, also what is scrolled out of sight. The inspector exports
the tab on top.
*/
(function () {
  "use strict";

  const SVG = "http://www.w3.org/2000/svg";
  const FEEDBACK_MS = 1600;
  const SCALES = { png: 2, png3: 3 }; // pixels of a PNG for each pixel of the screen
  const SMALLEST = 100; // pixels: a smaller SVG is an icon
  const NOTE = { size: 11, line: 15, letter: 6, edge: 10 }; // pixels of the caption's text
  /* What the style sheet gives a text in a cell. */
  const CELL_TEXT = "text-anchor:middle;font-family:'JetBrains Mono','DejaVu Sans Mono',monospace";
  const { collect } = window.stratascope;

  class Refused extends Error {}

  /* What the server has for the page's link; a refusal is shown in the page. */
  async function ask(pane, kind) {
    const query = window.stratascope.page.address().replace(/^[^?]*/, "");
    const response = await fetch(`export/${pane}.${kind}${query}`, {
      headers: { Accept: "application/json" },
    });
    if (!response.ok) {
      const problem = await response.json().then((body) => body.problem ?? {}, () => ({}));
      window.stratascope.messages.showRefusal(response.status, problem);
      throw new Refused();
    }
    return response.text();
  }

  function save(name, blob) {
    const anchor = document.createElement("a");
    anchor.href = URL.createObjectURL(blob);
    anchor.download = name;
    anchor.click();
    setTimeout(() => URL.revokeObjectURL(anchor.href), 60_000);
  }

  /* The chosen tab of the inspector. */
  function tabOf(pane) {
    return pane.querySelector("[data-inspect].active");
  }

  /* ------------------------------------------------------------ pictures */

  function isVisible(element) {
    return element.getClientRects().length > 0;
  }

  /* A colour that changes slowly would still be the dark one. */
  function withoutTransitions() {
    const sheet = new CSSStyleSheet();
    sheet.replaceSync("*, *::before, *::after { transition: none !important; }");
    return sheet;
  }

  /* Calls `work` while the page has its light colours; the browser paints nothing meanwhile. */
  function inLight(work) {
    const { theme, bsTheme } = document.documentElement.dataset;
    const sheets = document.adoptedStyleSheets;
    document.adoptedStyleSheets = [...sheets, withoutTransitions()];
    Object.assign(document.documentElement.dataset, { theme: "light", bsTheme: "light" });
    try {
      return work();
    } finally {
      Object.assign(document.documentElement.dataset, { theme, bsTheme });
      document.body.getBoundingClientRect(); // takes the colours back before they move again
      document.adoptedStyleSheets = sheets;
    }
  }

  /* A plotly figure as an SVG element, in the size of the chart on the page. */
  async function chartPicture(chart, figure) {
    const { data, layout } = figure ?? chart;
    const wide = chart.clientWidth;
    const high = chart.clientHeight;
    const sized = { ...layout, width: wide, height: high, autosize: false };
    const image = await window.Plotly.toImage(
      { data, layout: sized },
      { format: "svg", width: wide, height: high, imageDataOnly: true }
    );
    const svg = new DOMParser().parseFromString(image, "image/svg+xml").documentElement;
    window.stratascope.charts.thinNames(chart, svg);
    const texts = window.stratascope.heatmap.allTexts(chart, data[0]?.colorscale);
    if (texts) {
      texts.setAttribute("style", `${texts.getAttribute("style")};${CELL_TEXT}`);
      svg.querySelector(".heatmaplayer").parentNode.append(document.importNode(texts, true));
    }
    return { svg, wide, high };
  }

  /* The picture that a view draws itself, with its styles. */
  function ownPicture(element) {
    const rules = new Map();
    const plain = collect.plainStyles();
    const svg = collect.copyOf(element, plain, rules);
    plain.end();
    const style = document.createElementNS(SVG, "style");
    style.textContent = [...rules].map(([css, name]) => `.${name}{${css}}`).join("\n");
    svg.prepend(style);
    svg.removeAttribute("class");
    const { width, height } = element.getBoundingClientRect();
    return { svg, wide: width, high: height };
  }

  /* Calls `work` while nothing in an element is scrolled out of sight. */
  function unfolded(body, work) {
    const inside = [...body.querySelectorAll("*")].filter(
      (box) =>
        isVisible(box) &&
        /auto|scroll/.test(getComputedStyle(box).overflow) &&
        (box.scrollHeight > box.clientHeight || box.scrollWidth > box.clientWidth)
    );
    const wide = Math.max(
      body.scrollWidth,
      ...inside.map((box) => box.scrollWidth + body.clientWidth - box.clientWidth)
    );
    const before = [body, ...inside].map((box) => [
      box, box.getAttribute("style"), box.scrollLeft, box.scrollTop,
    ]);
    const whole = ";flex:none;height:max-content;max-height:none;overflow:visible";
    for (const [box, style] of before) {
      box.setAttribute("style", (style ?? "") + whole + (box === body ? `;width:${wide}px` : ""));
    }
    try {
      return work();
    } finally {
      for (const [box, style, left, top] of before) {
        style === null ? box.removeAttribute("style") : box.setAttribute("style", style);
        Object.assign(box, { scrollLeft: left, scrollTop: top });
      }
    }
  }

  function pagePicture(body) {
    const { text, wide, high } = unfolded(body, () => collect.svgOf(body));
    return { svg: new DOMParser().parseFromString(text, "image/svg+xml").documentElement, wide, high };
  }

  /* Words in lines of at most `most` letters. */
  function wrapped(text, most) {
    const lines = [];
    for (const word of text.split(/\s+/).filter(Boolean)) {
      const longer = lines.length ? `${lines.at(-1)} ${word}` : word;
      longer.length <= most && lines.length ? (lines[lines.length - 1] = longer) : lines.push(word);
    }
    return lines;
  }

  /* The legends, and the caption if wanted, below the pictures of a pane. */
  function notes(pane, wide, hasCaption) {
    const svg = document.createElementNS(SVG, "svg");
    const add = (name, values, text = "") => {
      const made = svg.appendChild(document.createElementNS(SVG, name));
      Object.entries(values).forEach(([key, value]) => made.setAttribute(key, value));
      made.textContent = text;
    };
    const { size, line, letter, edge } = NOTE;
    const font = { "font-family": "sans-serif", "font-size": size };
    const fill = getComputedStyle(pane).color;
    let [x, y] = [edge, line];
    const items = [...pane.querySelectorAll(".pane-body .legend-item")].filter(isVisible);
    for (const item of items) {
      const mark = item.firstElementChild;
      const { width, height } = mark?.getBoundingClientRect() ?? { width: 0, height: 0 };
      const text = item.textContent.trim();
      const own = width + 6 + text.length * letter + edge;
      if (x > edge && x + own > wide) {
        [x, y] = [edge, y + line];
      }
      const colour = mark ? getComputedStyle(mark).backgroundColor : "none";
      add("rect", { x, y: y - 4 - height / 2, width, height, fill: colour });
      add("text", { ...font, x: x + width + 6, y, fill }, text);
      x += own;
    }
    y += items.length ? line : 0;
    const caption = hasCaption ? window.stratascope.pictures.captionOf(pane) : "";
    for (const text of wrapped(caption, Math.floor((wide - 2 * edge) / letter))) {
      add("text", { ...font, x: edge, y, fill }, text);
      y += line;
    }
    return svg.childElementCount ? [{ svg, wide, high: y }] : [];
  }

  /* The pictures of a pane, from top to bottom. */
  async function pictures(pane, figures, inOwnColours, hasCaption) {
    const body = pane.querySelector(".pane-body");
    const charts = [...body.querySelectorAll(".js-plotly-plot")].filter(isVisible);
    const light = (work) => (inOwnColours ? work() : inLight(work));
    if (charts.length) {
      const made = await Promise.all(charts.map((chart, at) => chartPicture(chart, figures[at])));
      return [...made, ...light(() => notes(pane, Math.max(...made.map((one) => one.wide)), hasCaption))];
    }
    const own = [...body.querySelectorAll("svg")].filter(
      (svg) => isVisible(svg) && svg.clientWidth > SMALLEST && svg.clientHeight > SMALLEST
    );
    return light(() => {
      const made = own.length ? own.map(ownPicture) : [pagePicture(body)];
      return own.length ? [...made, ...notes(pane, Math.max(...made.map((one) => one.wide)), hasCaption)] : made;
    });
  }

  /* The picture of a pane: {wide, high, text, recipe}; `paper` says how it is set on paper. */
  async function picture(pane, name, hasNumbers, paper = {}) {
    const found = hasNumbers ? JSON.parse(await ask(name, "figures")) : { figures: [], recipe: {} };
    const title =
      pane.getAttribute("aria-label") ?? tabOf(pane)?.textContent ?? pane.closest(".panel").ariaLabel ?? name;
    const own = getComputedStyle(pane.closest(".panel")).backgroundColor;
    const background = hasNumbers ? "#fff" : own;
    const parts = await pictures(pane, found.figures, !hasNumbers, !paper.mm);
    return window.stratascope.pictures.stacked(parts, title, found.recipe, { background, ...paper });
  }

  /* Saves or prints a picture. */
  async function savePicture(whole, name, kind, scale) {
    const { asPng, asSvg, print } = window.stratascope.pictures;
    if (kind === "pdf") {
      return print(whole);
    }
    const ending = kind.replace("3", "");
    const content = ending === "png" ? await asPng(whole, scale) : asSvg(whole);
    save(`stratascope-${name}${kind === "png3" ? "-3x" : ""}.${ending}`, content);
  }

  /* ------------------------------------------------------------ the menu */

  function say(button, text) {
    button.dataset.label ??= button.textContent; // at a second click the text is that of the first
    button.textContent = text;
    setTimeout(() => (button.textContent = button.dataset.label), FEEDBACK_MS);
  }

  async function run(button) {
    const kind = button.dataset.export;
    const pane = button.closest(".panel").querySelector(":scope > .pane:not([hidden])");
    const name = tabOf(pane)?.dataset.inspect ?? pane.id.replace("pane-", "");
    const hasNumbers = button.parentElement.querySelector('[data-export="json"]') !== null;
    if (kind === "py") {
      await navigator.clipboard.writeText(await ask(name, kind));
      say(button, "Copied");
      return;
    }
    if (kind === "paper") {
      const opened = button.closest("details");
      opened.open = false;
      opened.querySelector("summary").focus(); // the dialog gives the focus back
      window.stratascope.pictures.openPaper(pane, (paper) =>
        picture(pane, name, hasNumbers, paper).then((whole) =>
          savePicture(whole, name, paper.format, paper.scale?.(whole))
        )
      );
      return;
    }
    if (["csv", "json", "html"].includes(kind)) {
      save(`stratascope-${name}.${kind}`, new Blob([await ask(name, kind)]));
    } else {
      await savePicture(await picture(pane, name, hasNumbers), name, kind, SCALES[kind]);
    }
    say(button, kind === "pdf" ? "Printed" : "Saved");
  }

  /* A menu ends above the lower edge of the window; it scrolls. */
  document.addEventListener(
    "toggle",
    ({ target }) => {
      const list = target.matches?.("[data-export-menu][open]") && target.querySelector(".dropdown-menu");
      if (list) {
        list.style.maxHeight = `${window.innerHeight - list.getBoundingClientRect().top - 8}px`;
      }
    },
    true // this event does not bubble
  );

  document.addEventListener("click", ({ target }) => {
    const button = target.closest("[data-export]");
    if (button) {
      run(button).catch((error) => {
        say(button, error.name === "NotAllowedError" ? "Not allowed" : "Not exported");
        if (!(error instanceof Refused)) {
          console.error(error);
        }
      });
    }
  });
})();
