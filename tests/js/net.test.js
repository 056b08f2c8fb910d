"use strict";

const assert = require("node:assert/strict");
const { test } = require("node:test");
const { openPage, settled } = require("./browser");

const CALLBACK = "/_dash-update-component";
const SELECTION = { body: '{"output":"..cell.data...query.data..","outputs":[]}' };
const OTHER = { body: '{"output":"lens-graph.figure"}' };

/* A page whose server answers by `answer(url, options)`; `page.sent` has [time, url]. */
function openWith(answer) {
  const sent = [];
  const page = openPage({
    fetch: async (url, options) => {
      sent.push([page.clock.now, url]);
      return answer(url, options);
    },
  });
  page.sent = sent;
  page.offline = page.add("div", { id: "offline" });
  return page;
}

function unreachable() {
  throw new TypeError("Failed to fetch");
}

function refusal(status, problem) {
  return new Response(JSON.stringify({ problem }), { status });
}

/* The texts of the alert that was set last. */
function alertTexts(page) {
  const [id, { children }] = page.sets.at(-1);
  assert.equal(id, "alert");
  const texts = (part) => {
    if (typeof part === "string") {
      return [part];
    }
    return Array.isArray(part) ? part.flatMap(texts) : texts(part.props.children);
  };
  return texts(children);
}

test("callback requests are numbered in the order in which they are sent", async () => {
  const page = openWith(() => new Response("{}"));
  await page.window.fetch(CALLBACK);
  await page.window.fetch(`${CALLBACK}?endId=7`);
  await page.window.fetch(`${CALLBACK}`);
  const urls = page.sent.map(([, url]) => url);
  assert.deepEqual(urls, [
    `${CALLBACK}?turn=1`,
    `${CALLBACK}?endId=7&turn=2`,
    `${CALLBACK}?turn=3`,
  ]);
});

test("other requests pass unchanged and are not sent again", async () => {
  const page = openWith(unreachable);
  await assert.rejects(page.window.fetch("/_dash-layout"), /Failed to fetch/);
  const request = new Request(`https://example.test${CALLBACK}`);
  await assert.rejects(page.window.fetch(request), /Failed to fetch/);
  assert.deepEqual(page.sent, [
    [0, "/_dash-layout"],
    [0, request],
  ]);
});

test("Dash gets the server's answer itself, unread", async () => {
  const answer = refusal(400, {});
  const page = openWith(() => answer);
  assert.equal(await page.window.fetch(CALLBACK, OTHER), answer);
  await settled();
  assert.equal(answer.bodyUsed, false);
});

test("a request without an answer is sent again, with its number and growing delays", async () => {
  let failures = 6;
  const page = openWith(() => (failures-- > 0 ? unreachable() : new Response("late")));
  const response = page.window.fetch(CALLBACK);
  await page.clock.advance(60_000);
  assert.equal(await (await response).text(), "late");
  assert.deepEqual(
    page.sent.map(([time]) => time),
    [0, 250, 750, 1750, 3750, 5750, 7750]
  );
  assert.deepEqual(new Set(page.sent.map(([, url]) => url)), new Set([`${CALLBACK}?turn=1`]));
});

test("one failure shows no message, the second does", async () => {
  const page = openWith(unreachable);
  page.window.fetch(CALLBACK);
  await page.clock.advance(249);
  assert.equal(page.offline.textContent, "");
  await page.clock.advance(1);
  assert.match(page.offline.textContent, /does not answer\..*tries again by itself/);
});

test("the message stays until every request is answered", async () => {
  const reachable = new Set();
  const page = openWith((url) => (reachable.has(url) ? new Response("") : unreachable()));
  page.window.fetch(CALLBACK);
  page.window.fetch(CALLBACK);
  await page.clock.advance(1000);
  reachable.add(`${CALLBACK}?turn=1`);
  await page.clock.advance(2000);
  assert.match(page.offline.textContent, /does not answer/);
  reachable.add(`${CALLBACK}?turn=2`);
  await page.clock.advance(2000);
  assert.equal(page.offline.textContent, "");
});

test("a request that failed once counts no longer when it is answered", async () => {
  let failures = { 1: 1, 2: 3 };
  const page = openWith((url) => (failures[url.at(-1)]-- > 0 ? unreachable() : new Response("")));
  page.window.fetch(CALLBACK);
  page.window.fetch(CALLBACK);
  await page.clock.advance(1000);
  assert.match(page.offline.textContent, /does not answer/);
  await page.clock.advance(1000);
  assert.equal(page.offline.textContent, "");
});

test("a second failure of the server is shown like the first", async () => {
  let isReachable = false;
  const page = openWith(() => (isReachable ? new Response("") : unreachable()));
  for (let outage = 0; outage < 2; outage += 1) {
    isReachable = false;
    page.window.fetch(CALLBACK);
    await page.clock.advance(1000);
    assert.match(page.offline.textContent, /does not answer/);
    isReachable = true;
    await page.clock.advance(1000);
    assert.equal(page.offline.textContent, "");
  }
});

test("after ten minutes the page stops, says so, and Dash gets the error", async () => {
  const page = openWith(unreachable);
  const response = assert.rejects(page.window.fetch(CALLBACK), /Failed to fetch/);
  await page.clock.advance(10 * 60_000 - 3000);
  assert.match(page.offline.textContent, /tries again/);
  await page.clock.advance(6000);
  await response;
  assert.match(page.offline.textContent, /tried for ten minutes and has stopped/);
  const count = page.sent.length;
  await page.clock.advance(60_000);
  assert.equal(page.sent.length, count);
});

test("an answer after the page has stopped takes the message away", async () => {
  let isReachable = false;
  const page = openWith(() => (isReachable ? new Response("") : unreachable()));
  const response = assert.rejects(page.window.fetch(CALLBACK));
  await page.clock.advance(11 * 60_000);
  await response;
  isReachable = true;
  await page.window.fetch(CALLBACK);
  assert.equal(page.offline.textContent, "");
});

test("a refusal is shown with the server's message, hint and request", async () => {
  const problem = { message: "Too many requests.", hint: "Wait a little.", request: "ab12" };
  const page = openWith(() => refusal(429, problem));
  await page.window.fetch(CALLBACK, OTHER);
  await settled();
  const texts = ["Too many requests.", "Wait a little.", " ", "Request ab12"];
  assert.deepEqual(alertTexts(page), texts);
});

test("a refusal that is no JSON is shown with its status", async () => {
  const page = openWith(() => new Response("<html>", { status: 504 }));
  await page.window.fetch(CALLBACK, OTHER);
  await settled();
  const texts = ["The server refused this (status 504).", "Try again in a minute."];
  assert.deepEqual(alertTexts(page), texts);
});

test("a reader who is signed out gets a link that leads back to the page", async () => {
  const page = openWith(() => refusal(401, { message: "Sign in first.", hint: "" }));
  page.window.location.search = "?row=3";
  await page.window.fetch(CALLBACK, OTHER);
  await settled();
  assert.match(JSON.stringify(page.sets), /"href":"login\?next=%2F%3Frow%3D3"/);
});

test("of several refusals one a second is shown", async () => {
  const page = openWith(() => refusal(429, { message: "Too many requests." }));
  await page.window.fetch(CALLBACK, OTHER);
  await page.window.fetch(CALLBACK, OTHER);
  await page.clock.advance(999);
  await page.window.fetch(CALLBACK, OTHER);
  await settled();
  assert.equal(page.sets.length, 1);
  await page.clock.advance(1);
  await page.window.fetch(CALLBACK, OTHER);
  await settled();
  assert.equal(page.sets.length, 2);
});

for (const [name, status, options, isRepeated] of [
  ["a refused selection is not reported again", 413, SELECTION, false],
  ["a selection that the server failed to process is reported again", 500, SELECTION, true],
  ["the refusal of another callback leaves the selection's reports alone", 413, OTHER, true],
]) {
  test(name, async () => {
    const page = openWith(() => refusal(status, {}));
    page.stratascope.page.select("row=1");
    await page.window.fetch(CALLBACK, options);
    await settled();
    page.stratascope.page.select("row=2");
    const reports = page.layout.events.data.reports.map((report) => report.to);
    assert.deepEqual(reports, isRepeated ? ["row=1", "row=2"] : ["row=2"]);
  });
}

test("a job that takes long is polled with a growing pause, of at most a second", async () => {
  const started = { headers: { "X-Background-Job": "1" } };
  const page = openWith((url) =>
    url.includes("cacheKey=") ? new Response("{}") : new Response('{"cacheKey":"job~1"}', started)
  );
  await page.window.fetch(CALLBACK, OTHER);
  const poll = () => page.window.fetch(`${CALLBACK}?cacheKey=job~1`, OTHER);
  for (const [after, pause] of [[1000, 0], [1000, 0], [3000, 300], [4700, 800], [60_000, 1000]]) {
    await page.clock.advance(after);
    const count = page.sent.length;
    const asked = page.clock.now;
    const answered = poll();
    await page.clock.advance(pause);
    await answered;
    assert.deepEqual(page.sent.slice(count).map(([time]) => time - asked), [pause]);
  }
});

test("polls of a young job wait on the server, but not the first one", async () => {
  const started = { headers: { "X-Background-Job": "1" } };
  const page = openWith((url) =>
    url.includes("cacheKey=") ? new Response("{}") : new Response('{"cacheKey":"job~1"}', started)
  );
  await page.window.fetch(CALLBACK, OTHER);
  const waits = [];
  for (const after of [0, 150, 1000, 1000]) {
    await page.clock.advance(after);
    const answered = page.window.fetch(`${CALLBACK}?cacheKey=job~1`, OTHER);
    await page.clock.advance(1000);
    await answered;
    waits.push(new URLSearchParams(page.sent.at(-1)[1].split("?")[1]).get("wait"));
  }
  assert.deepEqual(waits, [null, "1", null, null]);
});

/* A server that starts one job, forgets it in every restart, and starts it again when asked. */
function jobServer() {
  const server = { knows: false, started: [] };
  server.answer = (url, options) => {
    const query = new URLSearchParams(url.split("?")[1]);
    if (!query.has("cacheKey")) {
      server.knows = true;
      server.started.push([url, options]);
      return new Response('{"cacheKey":"job~1","job":"job~1"}', {
        headers: { "X-Background-Job": "started" },
      });
    }
    return server.knows || !query.has("repeatable")
      ? new Response(server.knows ? "{}" : '{"response":"it is lost"}')
      : new Response("", { status: 410 });
  };
  return server;
}

const POLL = `${CALLBACK}?cacheKey=job~1&job=job~1`;

test("a job that the server lost is started again, with its first request and old name", async () => {
  const server = jobServer();
  const page = openWith(server.answer);
  await page.window.fetch(CALLBACK, OTHER);
  server.knows = false;
  const response = await page.window.fetch(POLL, { body: "emptied" });
  assert.equal(response.status, 200);
  assert.deepEqual(server.started, [
    [`${CALLBACK}?turn=1`, OTHER],
    [`${CALLBACK}?turn=1&again=job~1`, OTHER],
  ]);
  assert.equal(await (await page.window.fetch(POLL)).text(), "{}");
  assert.equal(server.started.length, 2);
});

test("a job is started again three times at most", async () => {
  const server = jobServer();
  const page = openWith(server.answer);
  await page.window.fetch(CALLBACK, OTHER);
  for (let restart = 0; restart < 3; restart += 1) {
    server.knows = false;
    await page.window.fetch(POLL);
  }
  server.knows = false;
  assert.match(await (await page.window.fetch(POLL)).text(), /it is lost/);
  assert.equal(server.started.length, 4);
});

test("a poll for a job that this page did not start is sent as it is", async () => {
  const page = openWith(() => new Response("{}"));
  await page.window.fetch(POLL);
  assert.deepEqual(page.sent[0][1], `${POLL}&turn=1`);
});

for (const status of [502, 503]) {
  test(`a request that gets status ${status} is sent again`, async () => {
    let failures = 2;
    const page = openWith(() => (failures-- > 0 ? refusal(status, {}) : new Response("late")));
    const response = page.window.fetch(CALLBACK);
    await page.clock.advance(250);
    assert.match(page.offline.textContent, /does not answer/);
    await page.clock.advance(1000);
    assert.equal(await (await response).text(), "late");
    assert.equal(page.offline.textContent, "");
    assert.equal(page.sets.length, 0);
  });
}
