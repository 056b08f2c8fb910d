/*
Tells the other files when a plot of their view has been drawn, anew or for the first time:
`stratascope_drawn(view, callback)`. Plots come and go with the page; each is watched once.
*/
(function () {
  "use strict";

  const callbacks = {};
  const watched = new WeakSet();

  function tell(plot) {
    const view = plot.layout && plot.layout.meta && plot.layout.meta.view;
    (callbacks[view || "none"] || []).forEach((callback) => callback(plot));
  }

  function watch(plot) {
    if (!watched.has(plot) && plot.on) {
      watched.add(plot);
      plot.on("plotly_afterplot", () => tell(plot));
      tell(plot);
    }
  }

  let waiting = 0;
  new MutationObserver((changes) => {
    if (!waiting && changes.some((change) => change.addedNodes.length)) {
      waiting = requestAnimationFrame(() => {
        waiting = 0;
        document.querySelectorAll(".js-plotly-plot").forEach(watch);
      });
    }
  }).observe(document.documentElement, { childList: true, subtree: true });

  window.stratascope_drawn = (view, callback) => {
    (callbacks[view] = callbacks[view] || []).push(callback);
  };
})();
