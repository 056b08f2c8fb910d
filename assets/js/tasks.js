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

  const getProps = (id) => window.dash_component_api.getLayout(id)?.props ?? {};

  /*
  A suite runs on the model in the bar. From then on the page is about this model, so the address
  names it. A model that adds reads sums only, so its example replaces the prompt.
  */
  function useModel() {
    const model = getProps("run-model").value;
    if (model && model !== getProps("request").data?.model) {
      const example = document.querySelector("#tasks-sum [data-go]")?.dataset.go;
      const adds = getProps("tasks-digits").disabled;
      window.stratascope.page.select(
        adds && example ? example : `model=${encodeURIComponent(model)}`
      );
    }
  }

  // page.js selects what a button names; this only shows the page.
  document.addEventListener("click", (event) => {
    const wanted = event.target.closest("[data-report]")?.dataset.report;
    if (wanted) {
      window.dash_clientside.set_props("tasks-wanted", { data: { name: wanted, n: Date.now() } });
    } else if (event.target.closest(".panel-tasks [data-go]")) {
      showHeatmap();
    } else if (event.target.closest(".panel-tasks button")?.id?.endsWith("-run")) {
      useModel();
    }
  });
})();
