/*
Numbers what the page asks of the server, so that the server knows which of two was asked later
(dash_app/jobs/manager.py). Dash tells it only which jobs it has heard of: one that is replaced
before it is known would be worked on to its end, before the one that replaced it.
*/
(function () {
  "use strict";

  const CALLBACKS = "_dash-update-component";
  const send = window.fetch;
  let turn = 0;

  window.fetch = function (resource, ...more) {
    if (typeof resource !== "string" || !resource.includes(CALLBACKS)) {
      return send.call(this, resource, ...more);
    }
    turn += 1;
    return send.call(this, `${resource}${resource.includes("?") ? "&" : "?"}turn=${turn}`, ...more);
  };
})();
