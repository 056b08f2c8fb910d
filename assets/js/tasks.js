/*
The tasks panel. A click on a point or cell of its charts opens the prompt behind it. A reader who
opens a prompt here is taken to the top of the page, with the keyboard focus on the heatmap.
*/
(function () {
  "use strict";

  function showHeatmap() {
    const reduced = window.matchMedia("(prefers-reduced-motion: reduce)").matches;
    window.scrollTo({ top: 0, behavior: reduced ? "auto" : "smooth" });
    document.getElementById("lens-graph-box")?.focus({ preventScroll: true });
  }

  window.stratascope.charts.onClick("tasks", (_chart, event) => {
    const target = event.points[0].customdata;
    if (target && typeof target === "string") {
      window.stratascope.page.select(target);
      showHeatmap();
    }
  });

  // page.js selects what the button names; this only scrolls.
  document.addEventListener("click", (event) => {
    if (event.target.closest(".panel-tasks [data-go]")) {
      showHeatmap();
    }
  });
})();
