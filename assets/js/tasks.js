/*
The tasks page. A click on a point or cell of its charts opens the prompt behind it. A reader who
opens a prompt here is taken to the page Explore, with the keyboard focus on the heatmap.
*/
(function () {
  "use strict";

  function showHeatmap() {
    window.stratascope.workspace.openPage("explore");
    document.getElementById("lens-graph-box")?.focus({ preventScroll: true });
  }

  window.stratascope.charts.onClick("tasks", (_chart, event) => {
    const target = event.points[0].customdata;
    if (target && typeof target === "string") {
      window.stratascope.page.select(target);
      showHeatmap();
    }
  });

  // page.js selects what the button names; this only shows the page.
  document.addEventListener("click", (event) => {
    if (event.target.closest(".panel-tasks [data-go]")) {
      showHeatmap();
    }
  });
})();
