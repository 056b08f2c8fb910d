/*
The links of the flow graph as a table, for screen readers and for readers who prefer numbers. The
browser builds it from the data of the picture or chart when the pane is shown, and sorts it
without a request. The first cell of a row is a button that selects the link.
*/
(function () {
  "use strict";

  const { charts, flow } = window.stratascope;
  const EMPTY = { columns: [], rows: [] };
  let order = { column: -1, ascending: false };
  let source = null; // the data that `table` was made of
  let table = EMPTY;

  function element(name, text, attributes = {}) {
    const made = document.createElement(name);
    made.textContent = text;
    for (const [key, value] of Object.entries(attributes)) {
      made.setAttribute(key, value);
    }
    return made;
  }

  /* Logits have a sign. All other numbers are shares, shown in percent. */
  function formatCell(value, column) {
    if (typeof value !== "number") {
      return value;
    }
    if (/logits$/i.test(column)) {
      return (value > 0 ? "+" : "") + value.toFixed(3);
    }
    return (100 * value).toFixed(2) + " %";
  }

  function sortRows(rows, { column, ascending }) {
    const compare = (a, b) =>
      typeof a === "number"
        ? a - b
        : String(a).localeCompare(String(b), undefined, { numeric: true });
    const sign = ascending ? 1 : -1;
    return column < 0 ? rows : [...rows].sort((a, b) => sign * compare(a[column], b[column]));
  }

  /* A click on the sorted column reverses it; any other column starts with its largest values. */
  function nextOrder({ column, ascending }, clicked) {
    return { column: clicked, ascending: column === clicked ? !ascending : false };
  }

  function headerCell(name, index) {
    const isSorted = index === order.column;
    const [direction, arrow] = order.ascending ? ["ascending", " ▲"] : ["descending", " ▼"];
    const cell = element("th", "", { scope: "col", "aria-sort": isSorted ? direction : "none" });
    cell.className = typeof table.rows[0]?.[index] === "number" ? "num" : "";
    const label = isSorted ? name + arrow : name;
    cell.append(element("button", label, { type: "button", "data-sort": index }));
    return cell;
  }

  function bodyRow(values) {
    const target = values.at(-1); // after the cells: what a click selects, or nothing
    const row = element("tr", "");
    table.columns.forEach((name, index) => {
      const cell = element("td", "");
      if (index === 0 && target) {
        cell.append(element("button", values[0], { type: "button", "data-go": target }));
      } else {
        cell.textContent = formatCell(values[index], name);
        const wraps = name === "Heads" ? " text-wrap" : ""; // so that the shares stay in view
        cell.className = typeof values[index] === "number" ? "num" : `mono${wraps}`;
      }
      row.append(cell);
    });
    return row;
  }

  function render() {
    const host = document.getElementById("flow-table");
    if (!source || !host || host.closest("[hidden]")) {
      return;
    }
    const header = element("tr", "");
    header.append(...table.columns.map(headerCell));
    const head = element("thead", "");
    head.append(header);
    const body = element("tbody", "");
    body.append(...sortRows(table.rows, order).map(bodyRow));
    const label = { class: "table table-sm ledger-table", "aria-label": "Links of the flow" };
    const whole = element("table", "", label);
    whole.append(head, body);
    host.replaceChildren(whole);
  }

  /* Lists the links of what the view shows: the picture, the bars of signed flow, or nothing. */
  function showTable(view, data) {
    if (data !== source) {
      source = data;
      table = { columns: data.columns, rows: [...data.rows, ...(data.others || [])] };
      render();
    }
    document.querySelector(".panel-flow").dataset.flow = view;
  }

  /* The links of the chart, unless a picture is shown: a hidden chart is drawn again sometimes. */
  function showChart(chart) {
    if (!chart || flow.picture) {
      return;
    }
    const meta = charts.meta(chart);
    if (meta?.view === "flow-signed") {
      showTable("flow-signed", meta.table);
    } else {
      showTable("none", EMPTY);
    }
  }

  function onDraw(chart) {
    if (chart.closest("#flow-graph")) {
      showChart(chart);
    }
  }

  function onClick(event) {
    const button = event.target.closest?.("[data-sort]");
    if (button) {
      order = nextOrder(order, Number(button.dataset.sort));
      render();
      document.querySelector(`#flow-table [data-sort="${order.column}"]`).focus();
    }
  }

  document.addEventListener("pane", (event) => event.target.id === "pane-links" && render());
  document.addEventListener("click", onClick);
  charts.onDraw("flow-signed", onDraw);
  charts.onDraw(charts.NO_VIEW, onDraw);
  Object.assign(flow, { showTable, showChart, formatCell, sortRows, nextOrder });
})();
