import { expect, it } from "vitest";

import type { Row } from "../stream/state";
import { NEWEST_FIRST, nextOrder, sortedIds } from "./sorting";

const row = (position_id: string, fields: Partial<Row>) =>
  ({ position_id, symbol: "A", opened_at: "", market_value: "0", unrealized_pnl: "0", realized_pnl: "0", ...fields }) as Row;

it("shows the newest position first", () => {
  const rows = [row("a", { opened_at: "2024-01-01T00:00:00Z" }), row("b", { opened_at: "2025-01-01T00:00:00Z" })];
  expect(sortedIds(rows, NEWEST_FIRST)).toEqual(["b", "a"]);
});

it("orders amounts by value, and what has no price last of the descending", () => {
  const rows = [row("a", { unrealized_pnl: "9" }), row("b", { unrealized_pnl: null }), row("c", { unrealized_pnl: "10" })];
  expect(sortedIds(rows, { key: "unrealized", isDescending: true })).toEqual(["c", "a", "b"]);
});

it("keeps equal rows where they are, whichever way the order goes", () => {
  const rows = [row("b", {}), row("a", {})];
  expect(sortedIds(rows, { key: "value", isDescending: true })).toEqual(["a", "b"]);
  expect(sortedIds(rows, { key: "value", isDescending: false })).toEqual(["a", "b"]);
});

it("turns round when the same column is chosen again", () => {
  const once = nextOrder(NEWEST_FIRST, "value");
  expect(once).toEqual({ key: "value", isDescending: true });
  expect(nextOrder(once, "value").isDescending).toBe(false);
  expect(nextOrder(once, "symbol")).toEqual({ key: "symbol", isDescending: false });
});
