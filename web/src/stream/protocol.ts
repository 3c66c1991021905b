/** The messages of `tidemark.v1.json`, as the contract spells them. Amounts are decimal strings. */

export const SUBPROTOCOL = "tidemark.v1.json";

export type Channel = "prices" | "pnl" | "positions" | "events";
export type FeedState = "live" | "stale" | "down" | "simulated";
export type EventKind = "fill" | "position" | "alert" | "correction" | "account";

export interface Feed {
  state: FeedState;
  source: string;
  age_ms: number | null;
  /** Kept apart from `state`, for a simulated feed can be stale or down like any other. */
  simulated?: boolean;
}

export interface PriceFields {
  symbol: string;
  price: string | null;
  bid: string | null;
  ask: string | null;
  last: string | null;
  event_ms: number;
  received_ms?: number;
  /** When the price was certainly right, by the server's clock; or how long before `as_of_ms`. */
  fresh_ms?: number;
  age_ms?: number;
  is_stale: boolean;
}

export interface Totals {
  currency: string;
  unrealized_pnl: string;
  realized_pnl: string;
  total_pnl: string;
  day_pnl: string | null;
  equity: string;
  is_complete: boolean;
  is_stale: boolean;
  unpriced: readonly string[];
  oldest_price_age_ms?: number | null;
}

export interface Position {
  position_id: string;
  account_id: string;
  symbol: string;
  market: string;
  side: "long" | "short" | "flat";
  quantity: string;
  signed_qty: string;
  entry_price: string | null;
  cost_basis: string;
  mark_price: string | null;
  mark_age_ms: number | null;
  is_stale: boolean;
  market_value: string | null;
  unrealized_pnl: string | null;
  unrealized_pnl_pct: string | null;
  realized_pnl: string;
  fees: string;
  total_pnl: string | null;
  settle_asset: string;
  strategy: string | null;
  status: "open" | "closed";
  opened_at: string;
  closed_at: string | null;
  version: number;
}

export type PositionChange = Partial<Position> & Pick<Position, "position_id">;

/** A place in a numbered stream. Numbers compare only within an epoch; epochs only grow. */
export interface Place {
  epoch: number;
  seq: number;
}

interface Framed extends Place {
  as_of_ms: number;
}

export interface Limits {
  max_symbols: number;
  max_message_bytes: number;
  max_messages_per_second: number;
  max_hz: number;
}

export interface Hello {
  type: "hello";
  protocol: number;
  connection_id: string;
  user_id: string;
  server_time_ms: number;
  session_expires_ms: number;
  heartbeat_ms: number;
  limits: Limits;
  max_hz: number;
  feed: Feed;
}

export interface Subscribed {
  type: "subscribed";
  id: number;
  channel: Channel;
  results?: { symbol: string; ok: boolean; code?: string }[];
  /** For `events`: the place to resume from. */
  epoch?: number;
  seq?: number;
}

export type Snapshot = Framed & { type: "snapshot" } & (
    | { channel: "prices"; prices: PriceFields[] }
    | { channel: "pnl"; pnl: Totals }
    | { channel: "positions"; positions: Position[] }
  );

export interface Update extends Framed {
  type: "update";
  event_ms?: number;
  merged?: number;
  prices?: PriceFields[];
  pnl?: Partial<Totals>;
  positions?: PositionChange[];
}

export interface EventMessage extends Place {
  type: "event";
  kind: EventKind;
  at_ms: number;
  data: Record<string, unknown>;
}

export interface Status {
  type: "status";
  feed?: Feed;
  degraded?: string[];
}

export interface ErrorMessage {
  type: "error";
  id?: number;
  code: string;
  title: string;
  detail?: string;
}

export type ServerMessage =
  | Hello
  | Subscribed
  | { type: "unsubscribed"; id: number; channel: Channel }
  | { type: "configured"; id: number; max_hz: number; visible: boolean }
  | Snapshot
  | Update
  | EventMessage
  | Status
  | ErrorMessage
  | { type: "resumed"; id: number }
  | { type: "resync"; id: number }
  | { type: "pong"; id: number; server_time_ms: number }
  | { type: "going_away"; reconnect_after_ms: number };

export type Request =
  | { type: "subscribe" | "unsubscribe"; channel: Channel; symbols?: string[] }
  | { type: "configure"; max_hz?: number; visible?: boolean }
  | { type: "resume"; events: Place }
  | { type: "ping" };

/** The message in a frame, or null where it is none. Unknown types pass: newer servers may send them. */
export function decode(frame: unknown): ServerMessage | null {
  if (typeof frame !== "string") return null;
  try {
    const message: unknown = JSON.parse(frame);
    return isMessage(message) ? message : null;
  } catch (error) {
    if (error instanceof SyntaxError) return null;
    throw error;
  }
}

function isMessage(value: unknown): value is ServerMessage {
  return typeof value === "object" && value !== null && "type" in value && typeof value.type === "string";
}
