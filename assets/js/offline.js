/*
What a person sees while the server does not answer: it is restarted, or the network is away.

Dash gives a request up at once, and a run that it was asking after would be shown as running for
ever. Here each request is made again until somebody answers, for ten minutes, and the page says so.
A run that the server has forgotten by then is answered with what to do.
The place is its own, which Dash leaves empty: in the place of other messages, an answer that came
before the server went, and was applied after, took the message away for good.
*/
(function () {
  "use strict";

  const CALLBACKS = "_dash-update-component";
  const WAITS_MS = [250, 500, 1000, 2000];
  const PATIENCE_MS = 10 * 60 * 1000;
  const TRYING = "Nothing you typed is lost. The page tries again by itself.";
  const OVER =
    "The page asked for ten minutes and has stopped. Copy what you typed, and reload the page.";
  const send = window.fetch;
  let missing = 0;
  let shown = "";

  function line(name, text) {
    const made = document.createElement("span");
    made.className = name;
    made.textContent = text;
    return made;
  }

  function show(hint) {
    if (shown === hint) {
      return;
    }
    const box = document.createElement("div");
    box.className = "alert alert--error";
    box.append(
      line("alert-title", "The server does not answer."),
      line("alert-hint", hint),
    );
    document.getElementById("offline")?.replaceChildren(box);
    shown = hint;
  }

  function answered(tries) {
    if (tries > 0) {
      missing -= 1;
    }
    if (shown && missing === 0) {
      shown = "";
      document.getElementById("offline")?.replaceChildren();
    }
  }

  function wait(tries) {
    const ms = WAITS_MS[Math.min(tries, WAITS_MS.length - 1)];
    return new Promise((resolve) => setTimeout(resolve, ms));
  }

  async function insist(page, what) {
    const since = performance.now();
    for (let tries = 0; ; tries += 1) {
      try {
        const response = await send.apply(page, what);
        answered(tries);
        return response;
      } catch (error) {
        missing += tries === 0 ? 1 : 0;
        if (performance.now() - since > PATIENCE_MS) {
          missing -= 1;
          if (missing === 0) {
            show(OVER);
          }
          throw error;
        }
        if (tries > 0) {
          show(TRYING);
        }
        await wait(tries);
      }
    }
  }

  window.fetch = function (...what) {
    const address = typeof what[0] === "string" ? what[0] : what[0].url || "";
    return address.includes(CALLBACKS) ? insist(this, what) : send.apply(this, what);
  };
})();
