/** A list read page by page over REST, and read again when something happened. */

import { signal } from "@preact/signals";

import { explain } from "../api/problem";
import type { Page } from "../api/resources";

export interface ListingState<T> {
  readonly items: readonly T[];
  readonly nextCursor: string | null;
  readonly status: "idle" | "loading" | "ready" | "failed";
  readonly error: string | null;
}

export class Listing<T> {
  readonly state = signal<ListingState<T>>(empty());
  readonly #read: (cursor: string | null) => Promise<Page<T>>;
  /** Grows with each reading from the start, so that a slower earlier one is ignored. */
  #reading = 0;

  constructor(read: (cursor: string | null) => Promise<Page<T>>) {
    this.#read = read;
  }

  /** Read the first page; what is shown stays until it comes. */
  load(): Promise<void> {
    return this.#fetch(null);
  }

  /** Read the page after those shown. */
  async more(): Promise<void> {
    const { nextCursor, status } = this.state.value;
    if (nextCursor !== null && status !== "loading") await this.#fetch(nextCursor);
  }

  /** Read again only what was read before. */
  async refresh(): Promise<void> {
    if (this.state.value.status !== "idle") await this.load();
  }

  clear(): void {
    this.#reading += 1;
    this.state.value = empty();
  }

  async #fetch(cursor: string | null): Promise<void> {
    const reading = ++this.#reading;
    this.state.value = { ...this.state.value, status: "loading", error: null };
    try {
      const page = await this.#read(cursor);
      if (reading !== this.#reading) return;
      const items = cursor === null ? page.items : [...this.state.value.items, ...page.items];
      this.state.value = { items, nextCursor: page.next_cursor, status: "ready", error: null };
    } catch (error) {
      if (reading !== this.#reading) return;
      this.state.value = { ...this.state.value, status: "failed", error: explain(error) };
    }
  }
}

function empty(): ListingState<never> {
  return { items: [], nextCursor: null, status: "idle", error: null };
}
