/** The calls of the contract that the page makes. */

import type { Position } from "../stream/protocol";
import type { Send } from "./http";

export interface User {
  user_id: string;
  username: string;
  settings: { stale_after_ms: number };
}

export interface SymbolInfo {
  symbol: string;
  market?: string;
  base?: string;
  quote?: string;
}

export interface Trade {
  fill_id: string;
  trade_id: string | null;
  symbol: string;
  side: "buy" | "sell";
  quantity: string;
  price: string;
  fee: string;
  fee_asset: string | null;
  strategy: string | null;
  executed_at: string;
}

export interface Page<T> {
  items: T[];
  next_cursor: string | null;
}

export interface NewPosition {
  symbol: string;
  side: "long" | "short";
  quantity: string;
  price?: string;
  fee?: string;
  strategy?: string;
}

export interface Closing {
  quantity?: string;
  price?: string;
}

export class Api {
  readonly #send: Send;

  constructor(send: Send) {
    this.#send = send;
  }

  register(username: string, password: string): Promise<void> {
    return this.#send("POST", "/auth/register", { body: { username, password } });
  }

  login(username: string, password: string): Promise<void> {
    return this.#send("POST", "/auth/login", { body: { username, password } });
  }

  logout(): Promise<void> {
    return this.#send("POST", "/auth/logout");
  }

  me(): Promise<User> {
    return this.#send("GET", "/me");
  }

  async symbols(query: string, signal: AbortSignal): Promise<SymbolInfo[]> {
    const page = await this.#send<Page<SymbolInfo>>("GET", `/symbols?${params({ q: query, limit: "12" })}`, { signal });
    return page.items;
  }

  openPosition(position: NewPosition, idempotencyKey: string): Promise<Position> {
    return this.#send("POST", "/positions", { body: position, idempotencyKey });
  }

  closePosition(positionId: string, closing: Closing, idempotencyKey: string): Promise<Position> {
    const path = `/positions/${encodeURIComponent(positionId)}/close`;
    return this.#send("POST", path, { body: closing, idempotencyKey });
  }

  closedPositions(cursor: string | null): Promise<Page<Position>> {
    return this.#send("GET", `/positions?${params({ status: "closed", limit: "50", cursor })}`);
  }

  trades(cursor: string | null): Promise<Page<Trade>> {
    return this.#send("GET", `/trades?${params({ limit: "50", cursor })}`);
  }
}

function params(values: Record<string, string | null>): URLSearchParams {
  const search = new URLSearchParams();
  for (const [name, value] of Object.entries(values)) {
    if (value !== null) search.set(name, value);
  }
  return search;
}
