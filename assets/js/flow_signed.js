/*
A click on a bar of signed flow selects its layer, head and link, like a click on any link. Plotly
lays a sheet over its bars, so the click comes from plotly and is handed to page.js as a button's.
*/
(function () {
  "use strict";

  const listening = new WeakSet();

  function select(event) {
    const point = event.points[0];
    const [, kind, layer, source, target, head] = point.customdata;
    const heads = head < 0 ? "" : `&heads=${head}`;
    window.stratascope_flow.select(
      `layer=${layer}${heads}&link=${kind}:${layer}:${source}:${target}:${head}`
    );
  }

  window.stratascope_drawn("flow-signed", (plot) => {
    if (!listening.has(plot)) {
      listening.add(plot);
      plot.on("plotly_click", (event) => {
        if (plot.layout.meta && plot.layout.meta.view === "flow-signed") {
          select(event);
        }
      });
    }
  });
})();
