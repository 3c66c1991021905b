/**
 * The server's clock, as far as the browser can know it.
 *
 * A sample says what the server's clock showed somewhere within a round trip; the
 * shortest round trip seen bounds the error best. Local time is monotonic, so a
 * corrected wall clock moves no age on the page.
 */

/** How much a sample loses against newer ones per millisecond: clocks drift apart. */
const DRIFT = 0.0001;

export class ServerClock {
  #offset: number | null = null;
  #roundTrip = Infinity;
  #sampledAt = 0;
  readonly #now: () => number;

  /** `now` is monotonic milliseconds. */
  constructor(now: () => number) {
    this.#now = now;
  }

  /** The server's time in Unix milliseconds, or null before the first sample. */
  get serverNow(): number | null {
    return this.#offset === null ? null : this.#now() + this.#offset;
  }

  /** The best round trip in milliseconds, or null where none was measured. */
  get roundTripMs(): number | null {
    return Number.isFinite(this.#roundTrip) ? this.#roundTrip : null;
  }

  /**
   * The server said `serverMs` between `sentAt` and now. Without `sentAt` (a
   * greeting answers nothing) it serves until a measured sample comes.
   */
  sample(serverMs: number, sentAt?: number): void {
    const receivedAt = this.#now();
    if (sentAt === undefined) {
      if (Number.isFinite(this.#roundTrip)) return;
      this.#offset = serverMs - receivedAt;
      return;
    }
    const roundTrip = receivedAt - sentAt;
    if (roundTrip > this.#roundTrip + (receivedAt - this.#sampledAt) * DRIFT) return;
    this.#offset = serverMs - (sentAt + receivedAt) / 2;
    this.#roundTrip = roundTrip;
    this.#sampledAt = receivedAt;
  }

  /** Another server may answer after this, with another clock. */
  reset(): void {
    this.#roundTrip = Infinity;
  }
}
