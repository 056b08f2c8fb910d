/*
Adds a panel's view to a collection. A button with `data-add-view` stands in a panel. It takes a
picture of the panel's content as it is drawn (an SVG with the HTML elements and their computed
styles), and opens a dialog that asks for the collection and a note.
*/
(function () {
  "use strict";

  const XHTML = "http://www.w3.org/1999/xhtml";
  const SVG = "http://www.w3.org/2000/svg";
  const MOST_BYTES = 1_100_000; // a third more as base64; the server takes 1.5 million
  /* What a picture of a panel needs of its elements' styles. */
  const STYLES = [
    "display", "position", "left", "top", "right", "bottom", "width", "height", "min-width",
    "max-width", "box-sizing", "margin", "padding", "border-top", "border-right", "border-bottom",
    "border-left", "border-radius", "border-collapse", "border-spacing", "background-color",
    "background-image", "background-position", "background-size", "background-repeat", "color", "font-family",
    "font-size", "font-weight", "font-style", "font-variant-numeric", "font-variant-ligatures",
    "line-height", "letter-spacing", "text-align", "text-decoration-line", "text-transform", "text-indent",
    "vertical-align", "white-space", "opacity", "visibility", "z-index", "transform", "translate",
    "transform-origin", "flex", "flex-direction", "flex-wrap", "align-items", "align-self",
    "justify-content", "gap", "grid-template-columns", "grid-template-rows", "grid-column", "grid-row",
    "list-style-type", "table-layout", "box-shadow", "direction", "unicode-bidi",
  ];
  const DRAWN = [
    "fill", "fill-opacity", "stroke", "stroke-width", "stroke-opacity", "stroke-dasharray",
    "stroke-linecap", "paint-order", "text-anchor", "dominant-baseline", "opacity", "visibility", "display", "font-family",
    "font-size", "font-weight", "font-variant-ligatures", "clip-path", "translate", "transform", "overflow",
  ];

  let pending = null; // the view that the dialog is about

  /* The styles of an element that differ from those of a plain one of its kind, as CSS. */
  function styleOf(element, plain) {
    const style = getComputedStyle(element);
    const names = element.namespaceURI === SVG && element.localName !== "svg" ? DRAWN : STYLES;
    const parts = [];
    for (const name of names) {
      const value = style.getPropertyValue(name);
      if (value && value !== plain[name]) {
        parts.push(`${name}:${value}`);
      }
    }
    return parts.join(";");
  }

  /* Initial values of the styles, by the kind of element. */
  function plainStyles() {
    const known = new Map();
    const frame = document.createElement("iframe");
    frame.hidden = false;
    frame.style.cssText = "position:absolute;width:0;height:0;border:0;visibility:hidden";
    frame.setAttribute("aria-hidden", "true");
    document.body.append(frame);
    const inside = frame.contentDocument;
    return {
      of(element) {
        const key = `${element.namespaceURI} ${element.localName}`;
        if (!known.has(key)) {
          const plain = inside.createElementNS(element.namespaceURI, element.localName);
          inside.body.append(plain);
          const style = frame.contentWindow.getComputedStyle(plain);
          const names = [...STYLES, ...DRAWN].filter((name) => !["width", "height"].includes(name));
          known.set(key, Object.fromEntries(names.map((name) => [name, style.getPropertyValue(name)])));
          plain.remove();
        }
        return known.get(key);
      },
      end: () => frame.remove(),
    };
  }

  const LEFT_OUT = "script, style, link, iframe, .modebar-container, [data-add-view]";
  const ATTRIBUTES = /^(on|data-|aria-|id$|class$|href$|title$|tabindex$|role$)/i;

  /* A copy of an element with its styles as rules for class names; hidden parts are left out. */
  function copyOf(element, plain, rules) {
    if (element.matches(LEFT_OUT) || getComputedStyle(element).display === "none") {
      return null;
    }
    const copy = element.cloneNode(false);
    for (const { name } of [...copy.attributes]) {
      const isReference = element.namespaceURI === SVG && (name === "id" || name === "href");
      if (ATTRIBUTES.test(name) && !isReference) {
        copy.removeAttribute(name);
      }
    }
    copy.removeAttribute("style");
    const css = styleOf(element, plain.of(element));
    if (css) {
      if (!rules.has(css)) {
        rules.set(css, `s${rules.size.toString(36)}`);
      }
      copy.setAttribute("class", rules.get(css));
    }
    for (const child of element.childNodes) {
      if (child.nodeType === Node.TEXT_NODE) {
        copy.append(child.cloneNode());
      } else if (child.nodeType === Node.ELEMENT_NODE) {
        const inner = copyOf(child, plain, rules);
        if (inner) {
          copy.append(inner);
        }
      }
    }
    return copy;
  }

  function base64(text) {
    const bytes = new TextEncoder().encode(text);
    let binary = "";
    for (let at = 0; at < bytes.length; at += 32768) {
      binary += String.fromCharCode(...bytes.subarray(at, at + 32768));
    }
    return btoa(binary);
  }

  /* An element as an SVG with its size: {wide, high, text}; null if nothing of it is visible. */
  function svgOf(element) {
    const plain = plainStyles();
    const rules = new Map();
    const copy = copyOf(element, plain, rules);
    plain.end();
    if (!copy) {
      return null;
    }
    const wide = Math.ceil(Math.max(element.scrollWidth, ...[...element.querySelectorAll(".scroll-x")].map((box) => box.scrollWidth)));
    const high = Math.ceil(element.scrollHeight);
    const style = document.createElementNS(XHTML, "style");
    const background = getComputedStyle(element.closest(".panel") ?? document.body).backgroundColor;
    style.textContent = [...rules].map(([css, name]) => `.${name}{${css}}`).join("\n");
    const root = document.createElementNS(XHTML, "div");
    root.append(style, copy);
    root.style.cssText = `width:${wide}px;height:${high}px;background:${background}`;
    const inner = new XMLSerializer().serializeToString(root);
    return {
      wide,
      high,
      text:
      `<svg xmlns="${SVG}" width="${wide}" height="${high}" viewBox="0 0 ${wide} ${high}">` +
      `<foreignObject width="100%" height="100%">${inner}</foreignObject></svg>`,
    };
  }

  function dataUrl(text) {
    return `data:image/svg+xml;base64,${base64(text)}`;
  }

  /* The same as a data URL; empty if it would be too large. */
  function pictureOf(element) {
    const text = svgOf(element)?.text ?? "";
    return !text || text.length > MOST_BYTES ? "" : dataUrl(text);
  }

  /* ------------------------------------------------------------ the dialog */

  function begin(button) {
    const pane = button.closest(".panel").querySelector(".pane:not([hidden])");
    const title = pane.getAttribute("aria-label") ?? pane.closest(".panel").ariaLabel;
    pending = { title, picture: pictureOf(pane.querySelector(".pane-body")) };
    window.dash_clientside.set_props("add-dialog", { is_open: true });
  }

  function valueOf(id) {
    return document.getElementById(id)?.value ?? "";
  }

  function save() {
    const target = valueOf("add-target");
    const view = {
      ...pending,
      note: valueOf("add-note"),
      collection: target ? Number(target) : null,
      new: target ? "" : valueOf("add-title").trim() || "My views",
    };
    window.dash_clientside.set_props("history-add", { data: view });
    close();
  }

  function close() {
    pending = null;
    window.dash_clientside.set_props("add-dialog", { is_open: false });
    window.dash_clientside.set_props("add-note", { value: "" });
  }

  document.addEventListener("click", ({ target }) => {
    const button = target.closest("[data-add-view]");
    if (button) {
      begin(button);
    } else if (target.closest("[data-add-save]")) {
      save();
    } else if (target.closest("[data-add-cancel]")) {
      close();
    }
  });

  window.stratascope = { ...window.stratascope, collect: { pictureOf, svgOf, copyOf, plainStyles, dataUrl } };
})();
