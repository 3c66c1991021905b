/** How old what is shown is, and when it may no longer pass for live. Times are the server's clock. */

import type { Price, Row } from "./state";

/** What the server uses unless it says otherwise. */
export const STALE_AFTER_MS = 5_000;
/** The way from server to browser, and the error of the clock estimate. */
const MARGIN_MS = 500;

export interface Moment {
  /** Null before the server's clock is known. */
  readonly serverNow: number | null;
  /** Whether the connection delivers; without it nothing is live. */
  readonly isConnected: boolean;
  readonly staleAfterMs: number;
}

export function ageMs(freshMs: number | null, { serverNow }: Moment): number | null {
  return freshMs === null || serverNow === null ? null : Math.max(0, serverNow - freshMs);
}

/** Whether a price must not be shown as live, by the server's word or the browser's own. */
export function isStale(isFlagged: boolean, freshMs: number | null, moment: Moment): boolean {
  if (isFlagged || !moment.isConnected) return true;
  const age = ageMs(freshMs, moment);
  return age !== null && age > moment.staleAfterMs + MARGIN_MS;
}

/** When a row's mark was fresh: a price of the same symbol and value speaks for it, and is renewed more often. */
export function rowFreshMs(row: Row, price: Price | undefined): number | null {
  if (price === undefined || price.price === null || price.price !== row.mark_price) return row.freshMs;
  return Math.max(price.freshMs, row.freshMs ?? price.freshMs);
}

/** `0.3 s`, `12 s`, `3 m 05 s`, `2 h 03 m`, `4 d`. */
export function formatAge(ms: number): string {
  const seconds = Math.floor(ms / 1000);
  if (seconds < 10) return `${(Math.floor(ms / 100) / 10).toFixed(1)} s`;
  if (seconds < 60) return `${seconds} s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return `${minutes} m ${pad(seconds % 60)} s`;
  const hours = Math.floor(minutes / 60);
  return hours < 48 ? `${hours} h ${pad(minutes % 60)} m` : `${Math.floor(hours / 24)} d`;
}

function pad(value: number): string {
  return value.toString().padStart(2, "0");
}
