/** What the stream says, as signals: published once per animation frame, however often messages come. */

import { computed, type ReadonlySignal, signal } from "@preact/signals";

import { type Connection, type Ports, StreamClient } from "../stream/client";
import { ServerClock } from "../stream/clock";
import { ageMs, isStale, type Moment, rowFreshMs, STALE_AFTER_MS } from "../stream/freshness";
import type { EventMessage } from "../stream/protocol";
import { INITIAL, type Price, type Row, type StreamState } from "../stream/state";

const BEAT_MS = 250;
/** Hidden pages get no animation frames, but their title still shows the total. */
const HIDDEN_PUBLISH_MS = 1_000;

export interface Happenings {
  onEvent(event: EventMessage): void;
  onReload(): void;
  onSessionLost(reason: string): void;
}

export class Live {
  readonly state = signal<StreamState>(INITIAL);
  readonly connection = signal<Connection>({ kind: "connecting" });
  readonly isConnected = computed(() => this.connection.value.kind === "live");
  readonly clock: ServerClock;

  readonly #client: StreamClient;
  readonly #now: () => number;
  readonly #beat = signal(0);
  readonly #staleAfterMs = signal(STALE_AFTER_MS);
  #newest: StreamState = INITIAL;
  #isScheduled = false;
  #timer: ReturnType<typeof setInterval> | undefined;

  constructor(ports: Ports, happenings: Happenings) {
    this.#now = ports.now;
    this.clock = new ServerClock(ports.now);
    this.#client = new StreamClient(ports, this.clock, {
      ...happenings,
      onState: (state) => this.#publishSoon(state),
      onConnection: (connection) => {
        this.connection.value = connection;
      },
    });
  }

  /** `staleAfterMs` is the age at which the server calls a price stale. */
  start(staleAfterMs: number): void {
    this.#staleAfterMs.value = staleAfterMs;
    this.#timer ??= setInterval(() => {
      this.#beat.value += 1;
    }, BEAT_MS);
    this.#client.start();
  }

  stop(): void {
    clearInterval(this.#timer);
    this.#timer = undefined;
    this.#client.stop();
    this.#newest = INITIAL;
    this.state.value = INITIAL;
    this.connection.value = { kind: "connecting" };
  }

  want(symbols: Iterable<string>): void {
    this.#client.want(symbols);
  }

  setVisible(isVisible: boolean): void {
    this.#client.setVisible(isVisible);
  }

  nudge(): void {
    this.#client.nudge();
  }

  /** The present, to those who count in it: reading it follows the beat. */
  moment(): Moment {
    void this.#beat.value;
    return {
      serverNow: this.clock.serverNow,
      isConnected: this.isConnected.value,
      staleAfterMs: this.#staleAfterMs.value,
    };
  }

  /** Seconds until a moment of the page's monotonic clock, rounded up; follows the beat. */
  secondsUntil(at: number): number {
    void this.#beat.value;
    return Math.max(0, Math.ceil((at - this.#now()) / 1000));
  }

  price(symbol: string): Price | undefined {
    return this.state.value.prices.get(symbol);
  }

  row(positionId: string): Row | undefined {
    return this.state.value.rows?.get(positionId);
  }

  rowAgeMs(row: Row): number | null {
    return ageMs(rowFreshMs(row, this.price(row.symbol)), this.moment());
  }

  rowIsStale(row: Row): boolean {
    if (row.mark_price === null) return false;
    return isStale(row.is_stale, rowFreshMs(row, this.price(row.symbol)), this.moment());
  }

  /** Whether any figure that the totals are made of may not pass for live. */
  readonly totalsAreStale: ReadonlySignal<boolean> = computed(() => {
    const { totals, rows } = this.state.value;
    if (!this.isConnected.value || totals === null || totals.is_stale) return true;
    return [...(rows?.values() ?? [])].some((row) => this.rowIsStale(row));
  });

  /** The age of the oldest price in the totals, or null where there is none. */
  readonly oldestAgeMs: ReadonlySignal<number | null> = computed(() => {
    const ages = [...(this.state.value.rows?.values() ?? [])].map((row) => this.rowAgeMs(row));
    const known = ages.filter((age) => age !== null);
    return known.length === 0 ? null : known.reduce((oldest, age) => Math.max(oldest, age), 0);
  });

  #publishSoon(state: StreamState): void {
    this.#newest = state;
    if (this.#isScheduled) return;
    this.#isScheduled = true;
    const publish = () => {
      this.#isScheduled = false;
      this.state.value = this.#newest;
    };
    if (document.hidden) setTimeout(publish, HIDDEN_PUBLISH_MS);
    else requestAnimationFrame(publish);
  }
}
