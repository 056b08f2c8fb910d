/* A reporter for node's test runner: failed tests with their reasons, and one closing line. */
"use strict";

const path = require("node:path");

/* Each file is reported as a test of its own by some versions, and suites by all. */
function isTest({ details, name, file }) {
  return details?.type !== "suite" && path.resolve(name) !== file && name !== file;
}

function describe({ name, file, details }) {
  const cause = details.error.cause ?? details.error;
  return `FAILED ${file ? path.relative("", file) : ""} ${name}\n${cause.stack ?? cause}\n\n`;
}

module.exports = async function* report(events) {
  const started = Date.now();
  const count = { passed: 0, failed: 0, skipped: 0 };
  for await (const { type, data } of events) {
    if (type === "test:fail") {
      count.failed += 1;
      yield describe(data);
    } else if (type === "test:pass" && isTest(data)) {
      count[data.skip === undefined ? "passed" : "skipped"] += 1;
    } else if (type === "test:stderr" || type === "test:stdout") {
      yield data.message;
    }
  }
  const parts = Object.entries(count).map(([name, number]) => `${number} ${name}`);
  yield `JavaScript: ${parts.join(", ")} in ${((Date.now() - started) / 1000).toFixed(1)} s\n`;
};
