/*
The emergence strip: a click selects the position and the row at which its token emerges.
A click in an attention pattern selects a link (dash_app/views/attention/__init__.py), so the inspector
shows it.
*/
(function () {
  "use strict";

  window.stratascope.charts.onClick("emergence", (chart, event) => {
    const { values, positions, last } = chart.layout.meta;
    const point = event.points[0];
    const column = Math.round(point.x);
    const row = values[Math.round(point.y)][column] ?? last;
    window.stratascope.page.selectCell(row, positions[column]);
  });

  window.stratascope.charts.onClick("attention", () => {
    window.stratascope.workspace.onSelect("link=attention");
  });
})();
