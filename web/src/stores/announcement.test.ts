import { expect, it } from "vitest";

import type { EventKind } from "../stream/protocol";
import { announcement } from "./announcement";

const say = (kind: EventKind, data: Record<string, unknown>) =>
  announcement({ type: "event", epoch: 1, seq: 1, kind, at_ms: 0, data });

it("says what was filled", () => {
  const fill = { symbol: "BTCUSDT", side: "sell", quantity: "0.50", price: "67000.1" };
  expect(say("fill", fill)).toBe("Sold 0.5 BTCUSDT at 67,000.10");
  expect(say("fill", { trade: { ...fill, side: "buy" } })).toBe("Bought 0.5 BTCUSDT at 67,000.10");
});

it("says what a fill that closed a position realised", () => {
  const trade = { symbol: "BTCUSDT", side: "sell", quantity: "1", price: "67000" };
  const closed = { symbol: "BTCUSDT", status: "closed", realized_pnl: "-11.1", settle_asset: "USDT" };
  expect(say("fill", { trade, positions: [closed] })).toBe(
    "Sold 1 BTCUSDT at 67,000.00 · position closed, realised \u221211.10 USDT",
  );
});

it("says when a position was closed, and leaves the rest to the screen", () => {
  expect(say("position", { symbol: "BTCUSDT", status: "closed" })).toBe("BTCUSDT position closed");
  expect(say("position", { symbol: "BTCUSDT", status: "open" })).toBeNull();
});

it.each([{}, { quantity: 1 }, { quantity: "NaN", price: "1" }, { trade: null }])("survives a fill like %j", (data) =>
  expect(say("fill", data)).toContain("Fill recorded"),
);
