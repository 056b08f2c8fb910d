/*
The only wrapper of `window.fetch`. It changes how Dash sends its callback requests:
  - each gets a number, so that the server knows the order in which the page sent them
    (dash_app/jobs/manager.py);
  - each is sent again while the server does not answer, or restarts, for ten minutes. Dash itself
    gives up at once, and would then show a running computation as running for ever;
  - the request of each background job is kept. If the server was restarted and does not know the
    job, the request is sent once more, under the job's old name (dash_app/jobs/job_and_draw.py).
    So nothing that waits is lost, and no request is repeated for ever;
  - the polls of a job that has just started wait for its result on the server. The first one does
    not: the page can stop a job only when it has its progress;
  - the polls of a job that takes long are sent less often, so that those who wait for a busy server
    don't keep it busy;
  - a refusal is shown. Dash ignores it silently.
All other requests pass unchanged.
*/
(function () {
  "use strict";

  const CALLBACK_PATH = "_dash-update-component";
  const WRITES_SELECTION = /"output":"[^"]*\bquery\.data/;
  const RETRY_DELAYS_MS = [250, 500, 1000, 2000];
  const RETRY_LIMIT_MS = 10 * 60 * 1000;
  const UNAVAILABLE = [502, 503]; // from a proxy without a server, and from a server that stops
  const LOST = 410;
  const MOST_KEPT = 64;
  const MOST_REPEATS = 3; // so many restarts may interrupt one job
  const PATIENT_AFTER_MS = 2000; // so long a job is polled as often as Dash likes,
  const PAUSE_SHARE = 0.1; // then with a pause of this part of the time that it takes,
  const LONGEST_PAUSE_MS = 1000; // and no longer
  const RETRYING = "Nothing you typed is lost. The page tries again by itself.";
  const STOPPED =
    "The page tried for ten minutes and has stopped. Copy what you typed and reload the page.";
  const originalFetch = window.fetch;
  let requests = 0;
  const jobs = new Map(); // a job's handle -> its request: {url, options, repeats, start, polls}
  let unanswered = 0; // requests that have failed at least once and wait to be sent again

  function isCallback(resource) {
    return typeof resource === "string" && resource.includes(CALLBACK_PATH);
  }

  /* Adds the request's number to its address. It keeps the number when it is sent again. */
  function withNumber(url) {
    requests += 1;
    return `${url}${url.includes("?") ? "&" : "?"}turn=${requests}`;
  }

  function sleep(milliseconds) {
    return new Promise((resolve) => setTimeout(resolve, milliseconds));
  }

  function retryDelay(failures) {
    return sleep(RETRY_DELAYS_MS[Math.min(failures, RETRY_DELAYS_MS.length) - 1]);
  }

  /* The handle of the job that a request polls; null if it polls none. */
  function polledJob(url) {
    return new URLSearchParams(url.split("?")[1]).get("cacheKey");
  }

  /* Delays a poll of a job that has taken long. */
  async function pauseBeforePoll(url) {
    const job = jobs.get(polledJob(url));
    const late = job ? performance.now() - job.start - PATIENT_AFTER_MS : 0;
    if (late > 0) {
      await sleep(Math.min(late * PAUSE_SHARE, LONGEST_PAUSE_MS));
    }
  }

  /* A request was answered, or was given up. */
  function settle(failures) {
    unanswered -= failures > 0 ? 1 : 0;
    return unanswered === 0;
  }

  /* What `send` brings: a response, or the error of a server that is not there. */
  async function answerOf(send) {
    try {
      const response = await send();
      return { response, isAnswer: !UNAVAILABLE.includes(response.status) };
    } catch (error) {
      return { error, isAnswer: false };
    }
  }

  /* Calls `send` until the server answers. A single failure is not shown. */
  async function retry(send) {
    const start = performance.now();
    for (let failures = 0; ; failures += 1) {
      const { response, error, isAnswer } = await answerOf(send);
      if (isAnswer) {
        if (settle(failures)) {
          window.stratascope.messages.hideOffline();
        }
        return response;
      }
      unanswered += failures === 0 ? 1 : 0;
      if (performance.now() - start > RETRY_LIMIT_MS) {
        if (settle(failures + 1)) {
          window.stratascope.messages.showOffline(STOPPED);
        }
        if (response) {
          return response;
        }
        throw error;
      }
      if (failures > 0) {
        window.stratascope.messages.showOffline(RETRYING);
      }
      await retryDelay(failures + 1);
    }
  }

  /* Keeps the request that started a job, by the handle with which Dash polls the job. */
  async function keep(response, url, options) {
    const { cacheKey } = await response.json();
    if (cacheKey && !jobs.has(cacheKey)) {
      jobs.set(cacheKey, { url, options, repeats: 0, start: performance.now(), polls: 0 });
    }
    if (jobs.size > MOST_KEPT) {
      jobs.delete(jobs.keys().next().value);
    }
  }

  /* Sends a callback request. A poll for a job that the server lost starts the job again. */
  async function ask(send, url, options) {
    const handle = polledJob(url);
    const job = jobs.get(handle);
    if (!job || job.repeats >= MOST_REPEATS) {
      return retry(() => send(url, options));
    }
    const isYoung = performance.now() - job.start < PATIENT_AFTER_MS;
    const wait = isYoung && job.polls > 0 ? "&wait=1" : "";
    job.polls += 1;
    const response = await retry(() => send(`${url}&repeatable=1${wait}`, options));
    if (response.status !== LOST) {
      return response;
    }
    job.repeats += 1;
    return retry(() => send(`${job.url}&again=${encodeURIComponent(handle)}`, job.options));
  }

  async function readProblem(response) {
    try {
      return (await response.json()).problem || {};
    } catch {
      return {}; // the answer is no JSON: a proxy sent it
    }
  }

  /* The page repeats each change of the selection until it is answered. A refusal is an answer. */
  async function handleRefusal(response, options) {
    if (response.status < 500 && WRITES_SELECTION.test(options?.body)) {
      window.stratascope.page.forgetReports();
    }
    window.stratascope.messages.showRefusal(response.status, await readProblem(response));
  }

  window.fetch = async function (resource, options) {
    if (!isCallback(resource)) {
      return originalFetch.call(this, resource, options);
    }
    await pauseBeforePoll(resource);
    const url = withNumber(resource);
    const response = await ask(originalFetch.bind(this), url, options);
    if (response.headers.has("X-Background-Job")) {
      await keep(response.clone(), url, options);
    }
    if (response.status >= 400) {
      handleRefusal(response.clone(), options);
    }
    return response;
  };
})();
