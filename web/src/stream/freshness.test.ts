import { expect, it } from "vitest";

import { ageMs, formatAge, isStale, type Moment, rowFreshMs } from "./freshness";
import type { Price, Row } from "./state";

const at = (serverNow: number | null, isConnected = true): Moment => ({ serverNow, isConnected, staleAfterMs: 5_000 });

it.each([
  [0, "0.0 s"],
  [349, "0.3 s"],
  [9_999, "9.9 s"],
  [10_000, "10 s"],
  [59_999, "59 s"],
  [60_000, "1 m 00 s"],
  [185_000, "3 m 05 s"],
  [7_380_000, "2 h 03 m"],
  [4 * 86_400_000, "4 d"],
])("an age of %d ms reads %s", (ms, text) => expect(formatAge(ms)).toBe(text));

it("never rounds an age down to live nor shows one below zero", () => {
  expect(ageMs(1_000, at(900))).toBe(0);
  expect(ageMs(1_000, at(null))).toBeNull();
  expect(ageMs(null, at(1_000))).toBeNull();
});

it("calls stale what the server calls stale, what is old, and all of it without a connection", () => {
  expect(isStale(false, 1_000, at(2_000))).toBe(false);
  expect(isStale(true, 1_000, at(2_000))).toBe(true);
  expect(isStale(false, 1_000, at(6_501))).toBe(true);
  expect(isStale(false, 1_000, at(2_000, false))).toBe(true);
});

const row = (mark_price: string | null, freshMs: number | null) => ({ mark_price, freshMs }) as Row;
const price = (value: string, freshMs: number) => ({ price: value, freshMs }) as Price;

it("takes a row's age from the price it is marked at, where that is known", () => {
  expect(rowFreshMs(row("10", 1_000), price("10", 1_500))).toBe(1_500);
  expect(rowFreshMs(row("10", null), price("10", 1_500))).toBe(1_500);
  expect(rowFreshMs(row("10", 1_000), price("11", 1_500))).toBe(1_000);
  expect(rowFreshMs(row("10", null), undefined)).toBeNull();
});
