/*
Makes files of pictures (export.js): an SVG with its fonts and its recipe, a PNG with its recipe, a
page to print or to save as PDF, and the dialog of a figure for a paper.
*/
(function () {
  "use strict";

  const SVG = "http://www.w3.org/2000/svg";
  const MOST_PIXELS = 16_000; // of a side of a PNG: browsers draw no larger canvas
  const TITLE = { high: 30, x: 10, y: 20, size: 14 }; // pixels
  const PER_INCH = 300; // pixels of a PNG for a paper
  const MM_PER_INCH = 25.4;
  const RECIPE = "stratascope-recipe"; // as dash_app/pictures/documents.py reads it
  const { collect } = window.stratascope;

  async function base64Of(url) {
    const bytes = new Uint8Array(await (await fetch(url)).arrayBuffer());
    return btoa(bytes.reduce((all, byte) => all + String.fromCharCode(byte), ""));
  }

  /* The page's fonts as rules, for the families that a text names; with their data to embed them. */
  async function fontsFor(text, isEmbedded) {
    const rules = [...document.styleSheets].flatMap((sheet) => [...sheet.cssRules]);
    const named = rules.filter(
      (rule) =>
        rule instanceof CSSFontFaceRule &&
        text.includes(rule.style.getPropertyValue("font-family").replace(/["']/g, "")) &&
        !rule.cssText.includes("latin-ext") // as large as all others together
    );
    const embedded = named.map(async (rule) => {
      const [, source] = rule.style.getPropertyValue("src").match(/url\("?([^")]+)/);
      const url = new URL(source, rule.parentStyleSheet.href);
      const family = rule.style.getPropertyValue("font-family");
      const from = isEmbedded ? `data:font/woff2;base64,${await base64Of(url)}` : url.href;
      return `@font-face{font-family:${family};src:url("${from}") format("woff2");font-weight:100 900}`;
    });
    return (await Promise.all(embedded)).join("");
  }

  function add(parent, name, values, text) {
    const made = parent.appendChild(document.createElementNS(SVG, name));
    Object.entries(values).forEach(([key, value]) => made.setAttribute(key, value));
    made.textContent = text ?? "";
    return made;
  }

  /*
  One SVG of several pictures on a background: {wide, high, text, mm, recipe}. `titled` sets the
  title above them, `mm` is the width on paper.
  */
  async function stacked(parts, title, recipe, { background = "#fff", titled = false, mm = 0 }) {
    const wide = Math.ceil(Math.max(...parts.map((part) => part.wide)));
    let y = titled ? TITLE.high : 0;
    const high = Math.ceil(parts.reduce((sum, part) => sum + part.high, y));
    const root = document.createElementNS(SVG, "svg");
    root.setAttribute("width", mm ? `${mm}mm` : wide);
    root.setAttribute("height", mm ? `${((mm * high) / wide).toFixed(2)}mm` : high);
    root.setAttribute("viewBox", `0 0 ${wide} ${high}`);
    add(root, "title", {}, title);
    add(root, "metadata", { id: RECIPE }, JSON.stringify(recipe));
    const white = add(root, "rect", { width: wide, height: high, fill: background });
    if (titled) {
      const font = { "font-family": "Inter, sans-serif", "font-size": TITLE.size };
      add(root, "text", { ...font, "font-weight": 600, x: TITLE.x, y: TITLE.y, fill: "#17202b" }, title);
    }
    for (const part of parts) {
      const inner = root.appendChild(document.importNode(part.svg, true));
      const place = { x: 0, y, width: part.wide, height: part.high };
      Object.entries(place).forEach(([name, value]) => inner.setAttribute(name, value));
      y += part.high;
    }
    const named = new XMLSerializer().serializeToString(root);
    const style = add(root, "style", {}, await fontsFor(named, true));
    root.insertBefore(style, white);
    return { wide, high, mm, recipe, text: new XMLSerializer().serializeToString(root) };
  }

  function asSvg({ text }) {
    return new Blob([`<?xml version="1.0" encoding="UTF-8"?>\n${text}`], { type: "image/svg+xml" });
  }

  async function asPng({ wide, high, text, recipe }, wanted) {
    const image = new Image();
    image.src = collect.dataUrl(text);
    await image.decode();
    const canvas = document.createElement("canvas");
    const scale = Math.min(wanted, MOST_PIXELS / Math.max(wide, high));
    canvas.width = Math.floor(wide * scale);
    canvas.height = Math.floor(high * scale);
    canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
    return withRecipe(await new Promise((resolve) => canvas.toBlob(resolve, "image/png")), recipe);
  }

  /* A PNG with the recipe as an iTXt chunk before its last chunk. */
  async function withRecipe(blob, recipe) {
    const bytes = new Uint8Array(await blob.arrayBuffer());
    const encode = (text) => new TextEncoder().encode(text);
    const body = encode(`iTXt${RECIPE}\0\0\0\0\0${JSON.stringify(recipe)}`);
    const chunk = new Uint8Array(body.length + 8);
    const view = new DataView(chunk.buffer);
    view.setUint32(0, body.length - 4);
    chunk.set(body, 4);
    view.setUint32(body.length + 4, checksum(body));
    const end = bytes.length - 12;
    return new Blob([bytes.subarray(0, end), chunk, bytes.subarray(end)], { type: "image/png" });
  }

  /* CRC-32 (PNG, third edition, annex D). */
  function checksum(bytes) {
    let rest = ~0;
    for (const byte of bytes) {
      rest ^= byte;
      for (let bit = 0; bit < 8; bit += 1) {
        rest = rest & 1 ? (rest >>> 1) ^ 0xedb88320 : rest >>> 1;
      }
    }
    return ~rest >>> 0;
  }

  /* Prints a picture on a page of its size; the browser's dialog can save it as PDF. */
  async function print({ wide, high, mm, text }) {
    document.getElementById("printed-picture")?.remove();
    const frame = document.createElement("iframe");
    frame.id = "printed-picture";
    frame.title = "The picture to print";
    frame.setAttribute("aria-hidden", "true");
    frame.style.cssText = "position:fixed;width:0;height:0;border:0;visibility:hidden";
    document.body.append(frame);
    const page = frame.contentDocument;
    const root = new DOMParser().parseFromString(text, "image/svg+xml").documentElement;
    root.querySelector("style")?.remove(); // the page's policy allows fonts from its own address only
    const size = mm ? [`${mm}mm`, `${(mm * high) / wide}mm`] : [`${wide}px`, `${high}px`];
    const style = page.createElement("style");
    style.textContent =
      `@page{size:${size.join(" ")};margin:0}html,body{margin:0}` +
      `body>svg{display:block;width:${size[0]};height:${size[1]}}${await fontsFor(text, false)}`;
    page.head.append(style);
    page.body.append(page.importNode(root, true));
    await page.fonts.ready;
    frame.contentWindow.print();
  }

  /* ------------------------------------------------------------ a figure for a paper */

  const FORM = `
    <form method="dialog" class="d-flex flex-column gap-2">
      <h2 class="panel-title">Figure for a paper</h2>
      <label>Width in millimetres
        <input class="form-control" name="width" type="number" min="20" max="400" value="120" required>
      </label>
      <label>Format
        <select class="form-select" name="format">
          <option value="svg">SVG</option><option value="png">PNG, 300 dpi</option>
          <option value="pdf">PDF (print)</option>
        </select>
      </label>
      <label><input type="checkbox" name="titled" class="form-check-input"> Title above the figure</label>
      <label>Caption
        <textarea class="form-control" name="caption" rows="4" readonly></textarea>
      </label>
      <div class="d-flex gap-2">
        <button class="btn btn-primary" value="save">Save</button>
        <button class="btn btn-outline-secondary" type="button" name="copy">Copy caption</button>
        <button class="btn btn-outline-secondary" value="close" formnovalidate>Close</button>
      </div>
    </form>`;

  /* The caption of a pane. Its parts stand apart on the page, and have a space between them here. */
  function captionOf(pane) {
    const parts = [...(pane.querySelector(".panel-caption")?.childNodes ?? [])];
    const isSpan = (node) => node?.nodeName === "SPAN";
    const gap = (at) => (isSpan(parts[at - 1]) && isSpan(parts[at]) ? " " : "");
    return parts.map((part, at) => gap(at) + (part.innerText ?? part.textContent)).join("");
  }

  /* Opens the dialog; `work` gets {mm, titled, format, scale}. */
  function openPaper(pane, work) {
    const dialog = document.createElement("dialog");
    dialog.className = "border rounded p-3 bg-body text-body";
    dialog.setAttribute("aria-label", "Figure for a paper");
    const form = new DOMParser().parseFromString(FORM, "text/html").body.firstElementChild;
    dialog.append(document.adoptNode(form));
    const fields = form.elements;
    fields.caption.value = captionOf(pane);
    fields.copy.addEventListener("click", () =>
      navigator.clipboard.writeText(fields.caption.value).then(
        () => (fields.copy.textContent = "Copied"),
        () => (fields.copy.textContent = "Not allowed")
      )
    );
    dialog.addEventListener("close", () => {
      const mm = Number(fields.width.value);
      const scale = ({ wide }) => ((mm / MM_PER_INCH) * PER_INCH) / wide;
      const paper = { mm, titled: fields.titled.checked, format: fields.format.value };
      dialog.remove();
      if (dialog.returnValue === "save") {
        work({ ...paper, scale }).catch((error) => console.error(error));
      }
    });
    document.body.append(dialog);
    dialog.showModal();
  }

  window.stratascope = {
    ...window.stratascope,
    pictures: { stacked, asPng, asSvg, print, openPaper, captionOf },
  };
})();
