/*
Messages about the connection to the server: it does not answer, or it refused a request.

"The server does not answer" has an element of its own, which Dash leaves empty. In the shared place
for messages, a late answer from before the failure could remove it.
*/
(function () {
  "use strict";

  const REFUSAL_INTERVAL_MS = 1000; // one click makes several requests: show one refusal of them
  let offlineHint = "";
  let lastRefusal = -REFUSAL_INTERVAL_MS;

  function span(className, text) {
    const element = document.createElement("span");
    element.className = className;
    element.textContent = text;
    return element;
  }

  function showOffline(hint) {
    if (offlineHint !== hint) {
      offlineHint = hint;
      const alert = document.createElement("div");
      alert.className = "alert alert-danger";
      alert.append(span("alert-title", "The server does not answer."), span("alert-hint", hint));
      document.getElementById("offline")?.replaceChildren(alert);
    }
  }

  function hideOffline() {
    if (offlineHint) {
      offlineHint = "";
      document.getElementById("offline")?.replaceChildren();
    }
  }

  function component(type, props) {
    return { namespace: "dash_html_components", type, props };
  }

  function refusalAlert(status, problem) {
    const hint = [problem.hint ?? "Try again in a minute."];
    if (status === 401) {
      const next = encodeURIComponent(`/${window.location.search}`);
      hint.push(" ", component("A", { children: "Sign in", href: `login?next=${next}` }));
    }
    if (problem.request) {
      const props = { children: `Request ${problem.request}`, className: "mono muted alert-id" };
      hint.push(" ", component("Span", props));
    }
    const message = problem.message || `The server refused this (status ${status}).`;
    const children = [
      component("Span", { children: message, className: "alert-title" }),
      component("Span", { children: hint, className: "alert-hint" }),
    ];
    return component("Div", { children, className: "alert alert-danger", role: "alert" });
  }

  /* Shows a refusal: its status, and the problem that the server names in the answer. */
  function showRefusal(status, problem) {
    const now = performance.now();
    if (now - lastRefusal >= REFUSAL_INTERVAL_MS) {
      lastRefusal = now;
      const children = [refusalAlert(status, problem)];
      window.dash_clientside.set_props("alert", { children });
    }
  }

  window.stratascope ??= {};
  window.stratascope.messages = { showOffline, hideOffline, showRefusal };
})();
