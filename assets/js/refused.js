/*
What a person sees when the server refuses a request: too many at once, too large, signed out.

Dash drops such answers silently. This looks at each on its way to Dash, and says in the page's
place for messages what the server says of it. One message a second: a page makes several requests
for one click.
*/
(function () {
  "use strict";

  const CALLBACKS = "_dash-update-component";
  const SELECTS = /"output":"[^"]*\bquery\.data/;
  const send = window.fetch;
  let told = 0;

  function element(type, props) {
    return { namespace: "dash_html_components", type, props };
  }

  function show(problem) {
    const hint = [problem.hint || ""];
    if (problem.status === 401) {
      const back = window.location.pathname + window.location.search;
      const href = "/login?next=" + encodeURIComponent(back);
      hint.push(" ", element("A", { children: "Sign in", href }));
    }
    if (problem.request) {
      const id = { children: `Request ${problem.request}`, className: "mono muted alert-id" };
      hint.push(" ", element("Span", id));
    }
    const lines = [
      element("Span", { children: problem.message, className: "alert-title" }),
      element("Span", { children: hint, className: "alert-hint" }),
    ];
    const box = { children: lines, className: "alert alert--error", role: "alert" };
    window.dash_clientside.set_props("alert", { children: [element("Div", box)] });
  }

  async function tell(response) {
    const now = performance.now();
    if (told && now - told < 1000) {
      return;
    }
    told = now;
    let said = {};
    try {
      said = (await response.json()).problem || {};
    } catch (error) {
      said = {};
    }
    const message = said.message || `The server refused this (status ${response.status}).`;
    show({ hint: "Try again in a minute.", ...said, message, status: response.status });
  }

  window.fetch = async function (...what) {
    const response = await send.apply(this, what);
    const address = typeof what[0] === "string" ? what[0] : what[0].url || "";
    if (address.includes(CALLBACKS) && response.status >= 400) {
      if (response.status < 500 && SELECTS.test(what[1]?.body)) {
        window.dash_clientside.stratascope.forget(); // what was done has had its answer
      }
      tell(response.clone());
    }
    return response;
  };
})();
