/*
The links of the flow as a table, made here from what the picture or figure carries: for
those who don't read such pictures, and for screen readers. It is made when it is opened, and sorts
without the server. The first cell of a row is a button that selects the link.
*/
(function () {
  "use strict";

  const flow = window.stratascope_flow;
  const sorted = { column: -1, up: false };
  let table = null;
  let source = null;

  function host() {
    return document.getElementById("flow-table");
  }

  function isOpen() {
    const box = host();
    return Boolean(box && box.closest("details").open);
  }

  function element(name, text, attributes) {
    const made = document.createElement(name);
    made.textContent = text;
    for (const [key, value] of Object.entries(attributes || {})) {
      made.setAttribute(key, value);
    }
    return made;
  }

  /* Shares are parts of a whole; logits have a sign. */
  function written(value, name) {
    if (typeof value !== "number") {
      return value;
    }
    if (name === "Logits") {
      return (value > 0 ? "+" : "") + value.toFixed(3);
    }
    return (100 * value).toFixed(2) + " %";
  }

  function head(columns) {
    const row = document.createElement("tr");
    columns.forEach((name, index) => {
      const here = index === sorted.column;
      const order = here ? (sorted.up ? "ascending" : "descending") : "none";
      const number = table.rows.length > 0 && typeof table.rows[0][index] === "number";
      const cell = element("th", "", { scope: "col", "aria-sort": order });
      cell.className = number ? "num" : "";
      const mark = here ? (sorted.up ? " ▲" : " ▼") : "";
      const button = element("button", name + mark, { type: "button", "data-sort": index });
      cell.append(button);
      row.append(cell);
    });
    return row;
  }

  function line(values, columns) {
    const row = document.createElement("tr");
    columns.forEach((name, index) => {
      const value = values[index];
      const cell = document.createElement("td");
      if (index === 0 && values.at(-1)) {
        cell.append(element("button", value, { type: "button", "data-go": values.at(-1) }));
      } else {
        cell.textContent = written(value, name);
        cell.className = typeof value === "number" ? "num" : "mono";
      }
      row.append(cell);
    });
    return row;
  }

  function compare(one, other) {
    const [a, b] = [one[sorted.column], other[sorted.column]];
    const order =
      typeof a === "number"
        ? a - b
        : String(a).localeCompare(String(b), undefined, { numeric: true });
    return sorted.up ? order : -order;
  }

  function fill() {
    const box = host();
    if (!box || !table || !isOpen()) {
      return;
    }
    const rows = table.rows.slice();
    if (sorted.column >= 0) {
      rows.sort(compare);
    }
    const top = document.createElement("thead");
    top.append(head(table.columns));
    const body = document.createElement("tbody");
    body.append(...rows.map((values) => line(values, table.columns)));
    const whole = element("table", "", { class: "ledger-table", "aria-label": "Links of the flow" });
    whole.append(top, body);
    box.replaceChildren(whole);
  }

  /* The links of whatever is shown now: of the picture, of signed bars, or none. */
  flow.list = (view, next) => {
    if (next !== source) {
      source = next;
      table = { columns: next.columns, rows: [...next.rows, ...(next.others || [])] };
      fill();
    }
    document.querySelector(".panel-flow").dataset.flow = view;
  };

  function drawn(plot) {
    if (!plot.closest("#flow-graph")) {
      return;
    }
    const meta = plot.layout && plot.layout.meta;
    if (meta && meta.view === "flow-signed") {
      flow.list("flow-signed", meta.table);
    } else if (!flow.picture) {
      flow.list("none", { columns: [], rows: [] });
    }
  }

  document.addEventListener("toggle", (event) => event.target.matches(".flow-list") && fill(), true);
  document.addEventListener("click", (event) => {
    const button = event.target.closest && event.target.closest("[data-sort]");
    if (!button) {
      return;
    }
    const column = Number(button.dataset.sort);
    sorted.up = sorted.column === column ? !sorted.up : false;
    sorted.column = column;
    fill();
    host().querySelector(`[data-sort="${column}"]`).focus();
  });
  ["flow-signed", "none"].forEach((view) => window.stratascope_drawn(view, drawn));
})();
