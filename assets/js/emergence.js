/* The strip of positions: a click chooses the position and the row at which its token emerges. */
(function () {
  "use strict";

  const watched = new WeakSet();

  function onClick(plot, event) {
    const meta = plot.layout.meta;
    const point = event.points[0];
    const column = Math.round(point.x);
    const row = meta.values[Math.round(point.y)][column] ?? meta.last;
    window.dash_clientside.stratascope.choose(row, meta.positions[column]);
  }

  window.stratascope_drawn("emergence", (plot) => {
    if (!watched.has(plot)) {
      watched.add(plot);
      plot.on("plotly_click", (event) => onClick(plot, event));
    }
  });
})();
