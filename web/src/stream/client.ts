/**
 * One live connection to the stream, kept up for as long as it is wanted.
 *
 * It owns the socket and the timers; what messages mean is in `state.ts`, what
 * closing means in `reconnect.ts`. The outside world comes in through `Ports`, so
 * that tests drive it by hand.
 */

import type { ServerClock } from "./clock";
import { decode, type EventMessage, type Request, type ServerMessage } from "./protocol";
import { delayMs, judge, type Verdict } from "./reconnect";
import { type Effect, forget, INITIAL, isSynchronised, reduce, resuming, type StreamState } from "./state";

const TICK_MS = 1_000;
const HANDSHAKE_MS = 10_000;
/** How long a snapshot that was asked for may take. */
const SNAPSHOT_MS = 5_000;
/** How soon an answer must come when there is reason to doubt the connection. */
const NUDGE_MS = 4_000;
/** How far wall and monotonic time may part before the machine must have slept. */
const SLEEP_MS = 5_000;
/** How often a symbol that the server does not know is asked for again. */
const UNKNOWN_MS = 10_000;
const DEFAULT_HEARTBEAT_MS = 15_000;
const SYMBOLS_PER_MESSAGE = 100;

export interface Socket {
  send(text: string): void;
  close(): void;
}

export interface SocketListener {
  onMessage(frame: unknown): void;
  onClose(code: number): void;
}

export interface Ports {
  connect(listener: SocketListener): Socket;
  /** Monotonic milliseconds. */
  now(): number;
  /** Wall clock milliseconds. */
  wallNow(): number;
  random(): number;
  isOnline(): boolean;
  /** Whether the session still holds; a refused handshake does not tell the browser why. */
  probe(): Promise<"authenticated" | "unauthenticated" | "unreachable">;
  /** Call back once after `ms`; the answer cancels it. */
  after(ms: number, callback: () => void): () => void;
}

export type Connection =
  | { kind: "connecting" }
  | { kind: "live" }
  /** `retryAt` is monotonic. */
  | { kind: "reconnecting"; retryAt: number; reason: string }
  | { kind: "offline"; retryAt: number }
  | { kind: "stopped"; reason: string };

export interface Listener {
  onState(state: StreamState): void;
  onConnection(connection: Connection): void;
  onEvent(event: EventMessage): void;
  /** Events may have been missed that cannot be replayed: read again what depends on them. */
  onReload(): void;
  onSessionLost(reason: string): void;
}

export class StreamClient {
  readonly #ports: Ports;
  readonly #clock: ServerClock;
  readonly #listener: Listener;

  #state: StreamState = INITIAL;
  #socket: Socket | null = null;
  /** Grows with each socket, so that a late callback of an earlier one is ignored. */
  #generation = 0;
  #isGreeted = false;
  #isLive = false;
  #hasBeenLive = false;
  #isStarted = false;
  #attempt = 0;
  #openedAt = 0;
  #heardAt = 0;
  #pingedAt = 0;
  /** Unanswered pings: request id → when it was sent. */
  #pings = new Map<number, number>();
  #mustHearBy = Infinity;
  #requestedAt = 0;
  #askedAgainAt = 0;
  #leaveAt: number | null = null;
  #nextId = 1;
  #wanted: ReadonlySet<string> = new Set();
  #subscribed = new Set<string>();
  #isVisible = true;
  #skew = 0;
  #cancelTick = () => {};
  #cancelRetry = () => {};

  constructor(ports: Ports, clock: ServerClock, listener: Listener) {
    this.#ports = ports;
    this.#clock = clock;
    this.#listener = listener;
  }

  start(): void {
    if (this.#isStarted) return;
    this.#isStarted = true;
    this.#skew = this.#measureSkew();
    this.#tick();
    this.#connect();
  }

  /** Close for good; `start` begins anew. */
  stop(): void {
    this.#isStarted = false;
    this.#cancelTick();
    this.#cancelRetry();
    this.#abandonSocket();
    this.#hasBeenLive = false;
    this.#attempt = 0;
    this.#subscribed.clear();
    this.#state = INITIAL;
  }

  /** The symbols whose prices are wanted, most important first. */
  want(symbols: Iterable<string>): void {
    this.#wanted = new Set(symbols);
    this.#followWanted();
  }

  /** A hidden page needs no more than a slow summary. */
  setVisible(isVisible: boolean): void {
    if (isVisible === this.#isVisible) return;
    this.#isVisible = isVisible;
    if (this.#isGreeted) this.#request({ type: "configure", visible: isVisible });
    if (isVisible) this.nudge();
  }

  /** There is reason to doubt the connection, or to hope for one: find out now. */
  nudge(): void {
    if (!this.#isStarted) return;
    if (this.#socket === null) {
      this.#cancelRetry();
      this.#connect();
    } else if (this.#isGreeted) {
      this.#ping();
      this.#mustHearBy = Math.min(this.#mustHearBy, this.#ports.now() + NUDGE_MS);
    }
  }

  #connect(): void {
    const generation = ++this.#generation;
    const isMine = () => generation === this.#generation;
    this.#isGreeted = false;
    this.#isLive = false;
    this.#leaveAt = null;
    this.#mustHearBy = Infinity;
    this.#openedAt = this.#ports.now();
    this.#pings.clear();
    this.#subscribed.clear();
    this.#listener.onConnection({ kind: "connecting" });
    this.#socket = this.#ports.connect({
      onMessage: (frame) => isMine() && this.#onFrame(frame),
      onClose: (code) => isMine() && this.#onClose(code),
    });
  }

  #onFrame(frame: unknown): void {
    const message = decode(frame);
    if (message === null) return;
    this.#heardAt = this.#ports.now();
    this.#mustHearBy = Infinity;
    this.#onTime(message);
    const { state, effects } = reduce(this.#state, message);
    this.#state = state;
    if (message.type === "hello") this.#onHello();
    if (message.type === "going_away") this.#leaveAt = this.#ports.now() + message.reconnect_after_ms;
    for (const effect of effects) this.#perform(effect);
    this.#noticeLive();
    this.#listener.onState(this.#state);
  }

  #onTime(message: ServerMessage): void {
    if (message.type === "hello") {
      this.#clock.reset();
      this.#clock.sample(message.server_time_ms);
    } else if (message.type === "pong") {
      this.#clock.sample(message.server_time_ms, this.#pings.get(message.id));
      this.#pings.clear();
    }
  }

  #onHello(): void {
    this.#isGreeted = true;
    this.#requestedAt = this.#askedAgainAt = this.#ports.now();
    this.#request({ type: "subscribe", channel: "pnl" });
    this.#request({ type: "subscribe", channel: "positions" });
    this.#request({ type: "subscribe", channel: "events" });
    this.#followWanted();
    if (!this.#isVisible) this.#request({ type: "configure", visible: false });
    this.#catchUpEvents();
    this.#ping();
  }

  #catchUpEvents(): void {
    const { last } = this.#state.events;
    if (last !== null) {
      this.#state = resuming(this.#state);
      this.#request({ type: "resume", events: last });
    } else if (this.#hasBeenLive) {
      this.#listener.onReload();
    }
  }

  #perform(effect: Effect): void {
    switch (effect.kind) {
      case "resync":
        this.#requestedAt = this.#ports.now();
        if (effect.channel === "prices") this.#resubscribePrices();
        else this.#request({ type: "subscribe", channel: effect.channel });
        break;
      case "resume":
        this.#request({ type: "resume", events: effect.from });
        break;
      case "announce":
        this.#listener.onEvent(effect.event);
        break;
      case "reload":
        this.#listener.onReload();
        break;
    }
  }

  #noticeLive(): void {
    const isLive = this.#isGreeted && isSynchronised(this.#state);
    if (isLive === this.#isLive) return;
    this.#isLive = isLive;
    if (isLive) {
      // Only data proves a connection: one that greets and dies would hammer the server.
      this.#attempt = 0;
      this.#hasBeenLive = true;
    }
    this.#listener.onConnection({ kind: isLive ? "live" : "connecting" });
  }

  #onClose(code: number): void {
    const wasGreeted = this.#isGreeted;
    const announcedMs = this.#leaveAt === null ? 0 : Math.max(0, this.#leaveAt - this.#ports.now());
    this.#abandonSocket();
    const verdict = judge(code);
    if (wasGreeted || verdict.kind !== "retry") this.#follow(verdict, announcedMs);
    else void this.#askWhy(verdict);
  }

  /** A handshake failed without a word: it may be the network, or the session. */
  async #askWhy(verdict: Verdict): Promise<void> {
    const generation = this.#generation;
    const session = await this.#ports.probe();
    if (!this.#isStarted || generation !== this.#generation) return;
    if (session === "unauthenticated") this.#follow({ kind: "login", reason: "Your session has ended." }, 0);
    else this.#follow(verdict, 0);
  }

  #follow(verdict: Verdict, announcedMs: number): void {
    switch (verdict.kind) {
      case "login":
        this.stop();
        this.#listener.onSessionLost(verdict.reason);
        break;
      case "stop":
        this.#listener.onConnection({ kind: "stopped", reason: verdict.reason });
        break;
      case "retry":
        this.#retryAfter(delayMs(verdict.pace, this.#attempt, this.#ports.random, announcedMs), verdict.reason);
        break;
    }
  }

  #retryAfter(ms: number, reason: string): void {
    this.#attempt += 1;
    const retryAt = this.#ports.now() + ms;
    this.#cancelRetry();
    this.#cancelRetry = this.#ports.after(ms, () => this.#connect());
    this.#listener.onConnection(
      this.#ports.isOnline() ? { kind: "reconnecting", retryAt, reason } : { kind: "offline", retryAt },
    );
  }

  /** Give the socket up without waiting for the other side, which may be gone. */
  #abandonSocket(): void {
    this.#generation += 1;
    this.#isGreeted = false;
    this.#isLive = false;
    const socket = this.#socket;
    this.#socket = null;
    socket?.close();
  }

  #tick(): void {
    this.#cancelTick = this.#ports.after(TICK_MS, () => this.#tick());
    const skew = this.#measureSkew();
    const hasSlept = skew - this.#skew > SLEEP_MS;
    this.#skew = skew;
    if (this.#socket === null) return;
    if (hasSlept) this.#replace("The computer was asleep.");
    else if (!this.#isGreeted) this.#checkHandshake();
    else this.#checkHealth();
  }

  #measureSkew(): number {
    return this.#ports.wallNow() - this.#ports.now();
  }

  #checkHandshake(): void {
    if (this.#ports.now() - this.#openedAt < HANDSHAKE_MS) return;
    this.#abandonSocket();
    this.#follow({ kind: "retry", pace: "backoff", reason: "The server does not answer." }, 0);
  }

  #checkHealth(): void {
    const now = this.#ports.now();
    const heartbeat = this.#state.hello?.heartbeat_ms ?? DEFAULT_HEARTBEAT_MS;
    const isUnanswered = this.#pings.size > 0 && now - Math.min(...this.#pings.values()) >= heartbeat;
    if (now >= this.#mustHearBy || (isUnanswered && now - this.#heardAt >= 2 * heartbeat)) {
      this.#abandonSocket();
      this.#follow({ kind: "retry", pace: "soon", reason: "The server fell silent." }, 0);
    } else if (this.#leaveAt !== null && now >= this.#leaveAt) {
      this.#replace("The server is restarting.");
    } else if (!isSynchronised(this.#state) && now - this.#requestedAt > SNAPSHOT_MS) {
      this.#abandonSocket();
      this.#follow({ kind: "retry", pace: "backoff", reason: "The server sent no figures." }, 0);
    } else if (now - this.#pingedAt >= heartbeat) {
      this.#ping();
    }
    this.#healPrices(now);
    this.#askAgainForUnknown(now);
  }

  #healPrices(now: number): void {
    const isWaiting = this.#state.bases.prices === null && this.#subscribed.size > 0;
    if (!this.#isGreeted || !isWaiting || now - this.#requestedAt <= SNAPSHOT_MS) return;
    this.#requestedAt = now;
    this.#resubscribePrices();
  }

  /** The exchange may list a symbol later, or the server learn only later what it lists. */
  #askAgainForUnknown(now: number): void {
    const unknown = [...this.#state.unknownSymbols].filter((symbol) => this.#subscribed.has(symbol));
    if (!this.#isGreeted || unknown.length === 0 || now - this.#askedAgainAt < UNKNOWN_MS) return;
    this.#askedAgainAt = now;
    this.#requestSymbols("subscribe", unknown);
  }

  /** Leave a connection that is known to end, or to be dead, for a new one. */
  #replace(reason: string): void {
    this.#abandonSocket();
    this.#follow({ kind: "retry", pace: "soon", reason }, 0);
  }

  #ping(): void {
    const now = this.#ports.now();
    this.#pingedAt = now;
    this.#pings.set(this.#nextId, now);
    this.#request({ type: "ping" });
  }

  #followWanted(): void {
    if (!this.#isGreeted) return;
    const limit = this.#state.hello?.limits.max_symbols ?? SYMBOLS_PER_MESSAGE;
    const wanted = new Set([...this.#wanted].slice(0, limit));
    const dropped = [...this.#subscribed].filter((symbol) => !wanted.has(symbol));
    const added = [...wanted].filter((symbol) => !this.#subscribed.has(symbol));
    this.#subscribed = wanted;
    this.#requestSymbols("unsubscribe", dropped);
    this.#requestSymbols("subscribe", added);
    if (dropped.length > 0) this.#state = forget(this.#state, dropped);
  }

  #resubscribePrices(): void {
    this.#requestSymbols("subscribe", [...this.#subscribed]);
  }

  #requestSymbols(type: "subscribe" | "unsubscribe", symbols: string[]): void {
    for (let start = 0; start < symbols.length; start += SYMBOLS_PER_MESSAGE) {
      this.#request({ type, channel: "prices", symbols: symbols.slice(start, start + SYMBOLS_PER_MESSAGE) });
    }
  }

  #request(request: Request): void {
    this.#socket?.send(JSON.stringify({ ...request, id: this.#nextId++ }));
  }
}
