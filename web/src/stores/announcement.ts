/** What an event is worth saying to a person. */

import { formatMoney, formatPrice, formatQuantity } from "../decimal";
import type { EventMessage } from "../stream/protocol";

type Data = Record<string, unknown>;

/** One line for a toast, or null where the screen shows it already. */
export function announcement({ kind, data }: EventMessage): string | null {
  switch (kind) {
    case "fill":
      return fillLine(isData(data["trade"]) ? data["trade"] : data) + closedSuffix(data["positions"]);
    case "position":
      return positionLine(isData(data["position"]) ? data["position"] : data);
    case "alert":
      return textOf(data, "message") ?? textOf(data, "title") ?? "An alert was triggered.";
    case "correction":
      return "A past entry was corrected; figures were recomputed.";
    case "account":
      return textOf(data, "message");
    default:
      return null;
  }
}

function fillLine(trade: Data): string {
  const side = textOf(trade, "side") === "sell" ? "Sold" : "Bought";
  const symbol = textOf(trade, "symbol") ?? "";
  const quantity = written(trade, "quantity", formatQuantity);
  const price = written(trade, "price", formatPrice);
  if (quantity === null || price === null) return `Fill recorded ${symbol}`.trim();
  return `${side} ${quantity} ${symbol} at ${price}`;
}

/** What a fill closed, it realised. */
function closedSuffix(positions: unknown): string {
  const list: unknown[] = Array.isArray(positions) ? positions : [];
  const closed = list.filter(isData).find((position) => textOf(position, "status") === "closed");
  if (closed === undefined) return "";
  const realized = written(closed, "realized_pnl", (text) => formatMoney(text, { signed: true }));
  return ` · position closed${realized === null ? "" : `, realised ${realized} ${textOf(closed, "settle_asset") ?? ""}`.trimEnd()}`;
}

function positionLine(position: Data): string | null {
  const symbol = textOf(position, "symbol");
  return symbol !== null && textOf(position, "status") === "closed" ? `${symbol} position closed` : null;
}

function written(data: Data, field: string, write: (text: string) => string): string | null {
  const value = textOf(data, field);
  if (value === null) return null;
  try {
    return write(value);
  } catch (error) {
    if (error instanceof RangeError) return null;
    throw error;
  }
}

function textOf(data: Data, field: string): string | null {
  const value = data[field];
  return typeof value === "string" ? value : null;
}

function isData(value: unknown): value is Data {
  return typeof value === "object" && value !== null;
}
