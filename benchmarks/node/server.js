// The same frames by the ws library: node server.js PORT HZ BYTES, until killed.
"use strict";

const { WebSocketServer } = require("ws");

const [port, hz, bytes] = process.argv.slice(2).map(Number);
const server = new WebSocketServer({
  host: "127.0.0.1",
  port,
  backlog: 4096,
  perMessageDeflate: false,
  handleProtocols: () => "tidemark.v1.json",
});

/** An update of about that size, made now. */
function frameText() {
  const now = Date.now();
  const head = `{"type":"update","epoch":1,"seq":1,"as_of_ms":${now},"event_ms":${now},"merged":1,"pad":"`;
  return head + "x".repeat(Math.max(0, bytes - head.length - 6)) + '"}';
}

let due = performance.now();

function broadcast() {
  const payload = Buffer.from(frameText());
  for (const client of server.clients) {
    client.send(payload, { binary: false });
  }
  due = Math.max(due + 1000 / hz, performance.now());
  setTimeout(broadcast, due - performance.now());
}

broadcast();
