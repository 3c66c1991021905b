/** The symbols a person watches, kept in this browser. */

import { effect, signal } from "@preact/signals";

const KEY = "tidemark.watchlist";
const DEFAULTS = ["BTCUSDT", "ETHUSDT", "SOLUSDT", "BNBUSDT", "XRPUSDT"];
const MOST = 50;

export interface Storage {
  getItem(key: string): string | null;
  setItem(key: string, value: string): void;
}

export class Watchlist {
  readonly symbols = signal<readonly string[]>(DEFAULTS);

  constructor(storage: Storage) {
    this.symbols.value = restore(storage);
    effect(() => keep(storage, this.symbols.value));
  }

  add(symbol: string): void {
    if (symbol === "" || this.symbols.value.includes(symbol)) return;
    this.symbols.value = [...this.symbols.value, symbol].slice(-MOST);
  }

  remove(symbol: string): void {
    this.symbols.value = this.symbols.value.filter((other) => other !== symbol);
  }
}

function restore(storage: Storage): readonly string[] {
  try {
    const kept: unknown = JSON.parse(storage.getItem(KEY) ?? "null");
    return Array.isArray(kept) ? kept.filter((entry) => typeof entry === "string").slice(0, MOST) : DEFAULTS;
  } catch {
    // Blocked storage, or something else's text: the page works without.
    return DEFAULTS;
  }
}

function keep(storage: Storage, symbols: readonly string[]): void {
  try {
    storage.setItem(KEY, JSON.stringify(symbols));
  } catch {
    // Full or blocked: the list lasts as long as the page.
  }
}
