import { expect, it } from "vitest";

import { Intention } from "./idempotency";

it("keeps a key while the outcome of the same request is unknown", () => {
  const intention = new Intention();
  const key = intention.keyFor({ quantity: "1" });
  expect(key).toMatch(/^[0-9a-f]{32}$/);
  expect(intention.keyFor({ quantity: "1" })).toBe(key);
});

it("takes a new key for another request, and after an answer", () => {
  const intention = new Intention();
  const key = intention.keyFor({ quantity: "1" });
  const other = intention.keyFor({ quantity: "2" });
  expect(other).not.toBe(key);
  intention.settle();
  expect(intention.keyFor({ quantity: "2" })).not.toBe(other);
});
