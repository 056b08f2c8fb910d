/*
The tasks panel: a click on a point or cell opens the prompt that it stands for, and whoever opens
one is brought to it: the page's top, with the keyboard on the heatmap.
*/
(function () {
  "use strict";

  const HEATMAP = "lens-graph-box";
  const watched = new WeakSet();

  function opens(point) {
    return typeof point.customdata === "string" ? point.customdata : "";
  }

  function bringUp() {
    const calm = window.matchMedia("(prefers-reduced-motion: reduce)").matches;
    window.scrollTo({ top: 0, behavior: calm ? "auto" : "smooth" });
    document.getElementById(HEATMAP)?.focus({ preventScroll: true });
  }

  function open(event) {
    const link = opens(event.points[0]);
    if (link) {
      window.dash_clientside.stratascope.go(link);
      bringUp();
    }
  }

  function watch(plot) {
    if (!watched.has(plot)) {
      watched.add(plot);
      plot.on("plotly_click", open);
    }
  }

  /* page.js has reported the button by now; here only the way to it. */
  document.addEventListener("click", (event) => {
    if (event.target.closest(".panel-tasks [data-go]")) {
      bringUp();
    }
  });
  window.stratascope_drawn("tasks", watch);
})();
