import { expect, it } from "vitest";

import { delayMs, judge } from "./reconnect";

it.each([
  [4001, "login"],
  [4004, "login"],
  [4003, "stop"],
  [4000, "stop"],
  [4099, "stop"],
])("%d is not retried: %s", (code, kind) => expect(judge(code).kind).toBe(kind));

it.each([
  [4100, "backoff"],
  [4101, "backoff"],
  [4102, "backoff"],
  [4199, "backoff"],
  [4200, "soon"],
  [4299, "soon"],
  [1001, "soon"],
  [1012, "soon"],
  [1006, "backoff"],
  [1011, "backoff"],
  [1008, "policy"],
  [1009, "policy"],
  [4999, "backoff"],
])("%d is retried: %s", (code, pace) => expect(judge(code)).toMatchObject({ kind: "retry", pace }));

const nearlyOne = () => 0.999999;

it("spreads attempts from nothing up to a bound that doubles", () => {
  expect(delayMs("backoff", 0, () => 0)).toBe(0);
  expect([0, 1, 2, 3].map((attempt) => Math.round(delayMs("backoff", attempt, nearlyOne)))).toEqual([500, 1000, 2000, 4000]);
});

it("never waits longer than half a minute", () => {
  expect(delayMs("backoff", 1000, nearlyOne)).toBeLessThanOrEqual(30_000);
});

it("comes back when a leaving server said, not all at one moment", () => {
  expect(delayMs("soon", 0, () => 0, 2_000)).toBe(2_000);
  expect(delayMs("soon", 0, nearlyOne, 2_000)).toBeLessThanOrEqual(3_000);
});

it("backs off when coming back soon does not work", () => {
  expect(delayMs("soon", 5, nearlyOne)).toBeGreaterThan(10_000);
});

it("leaves a server that refused a message in peace for a while", () => {
  expect(delayMs("policy", 0, () => 0)).toBeGreaterThanOrEqual(5_000);
});
