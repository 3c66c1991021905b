/** The order of open positions. */

import { compare } from "../decimal";
import type { Row } from "../stream/state";

export type SortKey = "symbol" | "value" | "unrealized" | "realized" | "opened";

export interface Order {
  readonly key: SortKey;
  readonly isDescending: boolean;
}

export const NEWEST_FIRST: Order = { key: "opened", isDescending: true };

const COMPARISONS: Record<SortKey, (a: Row, b: Row) => number> = {
  symbol: (a, b) => compareText(a.symbol, b.symbol),
  value: (a, b) => compareAmount(a.market_value, b.market_value),
  unrealized: (a, b) => compareAmount(a.unrealized_pnl, b.unrealized_pnl),
  realized: (a, b) => compareAmount(a.realized_pnl, b.realized_pnl),
  opened: (a, b) => compareText(a.opened_at, b.opened_at),
};

/** The same column again turns the order round; amounts start with the largest. */
export function nextOrder(order: Order, key: SortKey): Order {
  return order.key === key ? { key, isDescending: !order.isDescending } : { key, isDescending: key !== "symbol" };
}

/** Position ids in order; equal rows stay in a stable order of their own. */
export function sortedIds(rows: Iterable<Row>, { key, isDescending }: Order): string[] {
  const direction = isDescending ? -1 : 1;
  return [...rows]
    .sort((a, b) => direction * COMPARISONS[key](a, b) || compareText(a.position_id, b.position_id))
    .map((row) => row.position_id);
}

function compareText(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0;
}

/** What has no price is less than everything. */
function compareAmount(a: string | null, b: string | null): number {
  if (a === null || b === null) return Number(a !== null) - Number(b !== null);
  return compare(a, b);
}
