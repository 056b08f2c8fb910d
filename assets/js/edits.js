/*
Edits of the run: reports those of the forms, and marks the panes that show the edited run. The
heatmap can show the baseline or the difference.
*/
(function () {
  "use strict";

  const HEATMAP = { baseline: "Baseline", edited: "Edited run", difference: "Difference" };

  function showEdited(run, edits) {
    const isEdited = Boolean(run?.edits?.length);
    for (const mark of document.querySelectorAll("[data-edited]")) {
      mark.hidden = !isEdited;
      const version = mark.dataset.edited === "lens" ? edits?.version : "edited";
      mark.textContent = HEATMAP[version] ?? HEATMAP.edited;
    }
  }

  function reportEdit(made) {
    if (made?.edit) {
      window.stratascope.page.select(new URLSearchParams({ with: `edits:${made.edit}` }).toString());
    }
  }

  window.dash_clientside ??= {};
  window.dash_clientside.stratascope = {
    ...window.dash_clientside.stratascope,
    showEdited,
    reportEdit,
  };
})();
