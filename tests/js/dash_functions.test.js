"use strict";

const assert = require("node:assert/strict");
const fs = require("node:fs");
const path = require("node:path");
const { test } = require("node:test");
const { openPage } = require("./browser");

/* All files below a folder. */
function files(folder) {
  return fs.readdirSync(folder, { withFileTypes: true }).flatMap((entry) => {
    const name = path.join(folder, entry.name);
    return entry.isDirectory() ? files(name) : [name];
  });
}

test("the scripts have exactly the functions that the callbacks of dash_app name", () => {
  const sources = files(path.join(__dirname, "..", "..", "dash_app"))
    .filter((name) => name.endsWith(".py"))
    .map((name) => fs.readFileSync(name, "utf8"));
  const calls = sources.flatMap((text) => [
    ...text.matchAll(/ClientsideFunction\([\w"]+, "(\w+)"/g),
  ]);
  const named = new Set(calls.map(([, name]) => name));
  assert.ok(named.size > 5);
  assert.deepEqual(Object.keys(openPage().dash).sort(), [...named].sort());
});
