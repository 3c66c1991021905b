/**
 * What the stream has said, as a value: a message and a state give the next state.
 *
 * Nothing here reads a clock or touches a socket. The rules it keeps:
 * a frame applies only if it is newer than what it changes; a change applies
 * only to a base known from a snapshot of the same connection and epoch; where
 * that fails the answer is to ask for a snapshot, never to guess.
 */

import { add, parse, toPlain } from "../decimal";
import type {
  Channel,
  EventMessage,
  Feed,
  Hello,
  Place,
  Position,
  PositionChange,
  PriceFields,
  ServerMessage,
  Snapshot,
  Subscribed,
  Totals,
  Update,
} from "./protocol";

export interface Price {
  readonly symbol: string;
  readonly price: string | null;
  readonly bid: string | null;
  readonly ask: string | null;
  readonly last: string | null;
  /** The moment, by the server's clock, when the price was certainly right. */
  readonly freshMs: number;
  readonly isStale: boolean;
  /** The frame it came in. Prices arrive whole, one by one, so each has its own. */
  readonly place: Place;
}

export interface Row extends Position {
  /** As `Price.freshMs`, for the mark; null where it is not known. */
  readonly freshMs: number | null;
}

export interface StreamState {
  readonly hello: Hello | null;
  readonly feed: Feed | null;
  /** When, by the server's clock, the newest price of the feed was fresh. */
  readonly feedFreshMs: number | null;
  readonly isSimulated: boolean;
  readonly degraded: readonly string[];
  readonly prices: ReadonlyMap<string, Price>;
  readonly unknownSymbols: ReadonlySet<string>;
  readonly totals: Totals | null;
  /** Open positions; null until the first snapshot. */
  readonly rows: ReadonlyMap<string, Row> | null;
  readonly bases: Bases;
  readonly events: EventProgress;
}

/** Where each state channel stands on this connection; null before its snapshot. */
interface Bases {
  readonly prices: Place | null;
  readonly pnl: Place | null;
  readonly positions: Place | null;
}

interface EventProgress {
  /** The last event without a hole before it. Survives reconnecting, to resume from. */
  readonly last: Place | null;
  /** Where events stood when this connection subscribed: the place to go on from after a resync. */
  readonly head: Place | null;
  readonly isResuming: boolean;
  /** An event was dropped because of a hole while another resume was under way. */
  readonly hasHole: boolean;
}

/** What the owner of the socket has to do after a message. */
export type Effect =
  | { kind: "resync"; channel: Exclude<Channel, "events"> }
  | { kind: "resume"; from: Place }
  | { kind: "announce"; event: EventMessage }
  | { kind: "reload" };

export interface Step {
  readonly state: StreamState;
  readonly effects: readonly Effect[];
}

type Frame = Place & { as_of_ms: number };

/** Before every frame: what is left of an earlier connection. */
const NOWHERE: Place = { epoch: -1, seq: -1 };

const NO_BASES: Bases = { prices: null, pnl: null, positions: null };

export const INITIAL: StreamState = {
  hello: null,
  feed: null,
  feedFreshMs: null,
  isSimulated: false,
  degraded: [],
  prices: new Map(),
  unknownSymbols: new Set(),
  totals: null,
  rows: null,
  bases: NO_BASES,
  events: { last: null, head: null, isResuming: false, hasHole: false },
};

export function reduce(state: StreamState, message: ServerMessage): Step {
  switch (message.type) {
    case "hello":
      return only(onHello(state, message));
    case "status":
      return only({ ...withFeed(state, message.feed, null), degraded: message.degraded ?? [] });
    case "subscribed":
      return only(onSubscribed(state, message));
    case "snapshot":
      return only(onSnapshot(state, message));
    case "update":
      return onUpdate(state, message);
    case "event":
      return onEvent(state, message);
    case "resumed":
      return onResumed(state);
    case "resync":
      return {
        state: { ...state, events: { ...state.events, last: state.events.head, isResuming: false, hasHole: false } },
        effects: [{ kind: "reload" }],
      };
    default:
      return only(state);
  }
}

/** A resume was sent: holes are expected until it is answered. */
export function resuming(state: StreamState): StreamState {
  return { ...state, events: { ...state.events, isResuming: true, hasHole: false } };
}

/** Symbols nobody looks at any more. */
export function forget(state: StreamState, symbols: Iterable<string>): StreamState {
  const prices = new Map(state.prices);
  const unknownSymbols = new Set(state.unknownSymbols);
  for (const symbol of symbols) {
    prices.delete(symbol);
    unknownSymbols.delete(symbol);
  }
  return { ...state, prices, unknownSymbols };
}

/** Whether everything shown rests on a snapshot of the present connection. */
export function isSynchronised(state: StreamState): boolean {
  return state.bases.pnl !== null && state.bases.positions !== null;
}

function only(state: StreamState): Step {
  return { state, effects: [] };
}

/** A new connection: figures stay to be looked at, but nothing may be built on them. */
function onHello(state: StreamState, hello: Hello): StreamState {
  const prices = new Map([...state.prices].map(([symbol, price]) => [symbol, { ...price, place: NOWHERE }]));
  const events = { ...state.events, head: null, isResuming: false, hasHole: false };
  const next = { ...state, hello, prices, bases: NO_BASES, events, degraded: [], feedFreshMs: null };
  return withFeed(next, hello.feed, hello.server_time_ms);
}

function withFeed(state: StreamState, feed: Feed | undefined, atMs: number | null): StreamState {
  if (feed === undefined) return state;
  const freshMs = atMs === null || feed.age_ms === null ? null : atMs - feed.age_ms;
  return {
    ...state,
    feed,
    feedFreshMs: newest(state.feedFreshMs, freshMs),
    isSimulated: feedIsSimulated(feed, state.isSimulated),
  };
}

/** Only a live feed that does not say it is simulated takes the mark away. */
function feedIsSimulated(feed: Feed, before: boolean): boolean {
  if (feed.state === "simulated") return true;
  return feed.simulated ?? (before && feed.state !== "live");
}

function onSubscribed(state: StreamState, subscribed: Subscribed): StreamState {
  const { channel, epoch, seq, results } = subscribed;
  if (channel === "events" && epoch !== undefined && seq !== undefined) return withEventHead(state, { epoch, seq });
  if (results === undefined) return state;
  const unknownSymbols = new Set(state.unknownSymbols);
  for (const { symbol, ok } of results) {
    if (ok) unknownSymbols.delete(symbol);
    else unknownSymbols.add(symbol);
  }
  return { ...state, unknownSymbols };
}

/** Where events stand now: the place to start from, unless an earlier one is to be resumed. */
function withEventHead(state: StreamState, head: Place): StreamState {
  return { ...state, events: { ...state.events, head, last: state.events.last ?? head } };
}

function onSnapshot(state: StreamState, snapshot: Snapshot): StreamState {
  const base = state.bases[snapshot.channel];
  if (base !== null && isBefore(snapshot, base)) return state;
  const bases = { ...state.bases, [snapshot.channel]: placeOf(snapshot) };
  switch (snapshot.channel) {
    case "prices":
      // It holds the symbols of one subscription, so it adds to the others.
      return withPrices({ ...state, bases }, snapshot.prices, snapshot);
    case "pnl":
      return { ...state, bases, totals: snapshot.pnl };
    case "positions": {
      const open = snapshot.positions.filter((position) => position.status === "open");
      const rows = new Map(open.map((position) => [position.position_id, toRow(position, snapshot.as_of_ms)]));
      return { ...state, bases, rows };
    }
  }
}

function onUpdate(state: StreamState, update: Update): Step {
  const effects: Effect[] = [];
  let next = state;

  /** Whether a part applies; asks for a snapshot where its base is of another epoch. */
  const applies = (channel: keyof Bases): boolean => {
    const base = state.bases[channel];
    if (base === null) return false;
    if (update.epoch > base.epoch) {
      effects.push({ kind: "resync", channel });
      next = { ...next, bases: { ...next.bases, [channel]: null } };
      return false;
    }
    // A snapshot of one symbol may share its place with an update that has news of others.
    if (channel === "prices" ? isBefore(update, base) : !isBefore(base, update)) return false;
    next = { ...next, bases: { ...next.bases, [channel]: placeOf(update) } };
    return true;
  };

  if (update.prices && applies("prices")) next = withPrices(next, update.prices, update);
  if (update.pnl && applies("pnl") && next.totals) next = { ...next, totals: { ...next.totals, ...update.pnl } };
  if (update.positions && applies("positions")) {
    const rows = changeRows(next.rows ?? new Map(), update.positions, update.as_of_ms);
    if (rows === null) {
      next = { ...next, bases: { ...next.bases, positions: null } };
      effects.push({ kind: "resync", channel: "positions" });
    } else {
      next = { ...next, rows };
    }
  }
  if (next !== state) next = { ...next, feedFreshMs: newest(next.feedFreshMs, newestFreshMs(update)) };
  return { state: next, effects };
}

/** When the newest price behind an update was fresh; `event_ms` is the exchange's clock, and 0 before any price. */
function newestFreshMs({ prices, event_ms, as_of_ms }: Update): number | null {
  if (prices !== undefined && prices.length > 0) {
    return prices.map((price) => freshMsOf(price, as_of_ms)).reduce((a, b) => Math.max(a, b));
  }
  return event_ms === undefined || event_ms === 0 ? null : Math.min(event_ms, as_of_ms);
}

function withPrices(state: StreamState, fields: readonly PriceFields[], frame: Frame): StreamState {
  const prices = new Map(state.prices);
  const place = placeOf(frame);
  for (const price of fields) {
    const { symbol, bid, ask, last, is_stale: isStale } = price;
    const known = prices.get(symbol);
    if (known !== undefined && isBefore(frame, known.place)) continue;
    const freshMs = freshMsOf(price, frame.as_of_ms);
    prices.set(symbol, { symbol, price: price.price, bid, ask, last, isStale, freshMs, place });
  }
  return { ...state, prices };
}

/**
 * The server's own judgement where it is sent. Else the receive time: the exchange's
 * clock may differ from the server's, and what arrives late is flagged by the server.
 */
function freshMsOf({ fresh_ms, age_ms, event_ms, received_ms }: PriceFields, asOfMs: number): number {
  if (fresh_ms !== undefined) return fresh_ms;
  if (age_ms !== undefined) return asOfMs - age_ms;
  return Math.min(received_ms ?? event_ms, asOfMs);
}

function toRow(position: Position, asOfMs: number): Row {
  return { ...position, freshMs: position.mark_age_ms === null ? null : asOfMs - position.mark_age_ms };
}

/** The rows after some changes, or null where one cannot be placed without a snapshot. */
function changeRows(
  rows: ReadonlyMap<string, Row>,
  changes: readonly PositionChange[],
  asOfMs: number,
): ReadonlyMap<string, Row> | null {
  const next = new Map(rows);
  for (const change of changes) {
    const row = next.get(change.position_id);
    if (row !== undefined && (change.version ?? row.version) < row.version) continue;
    if (change.status === "closed") {
      next.delete(change.position_id);
    } else if (row !== undefined) {
      next.set(change.position_id, changeRow(row, change, asOfMs));
    } else if (isWhole(change)) {
      next.set(change.position_id, toRow(change, asOfMs));
    } else {
      return null;
    }
  }
  return next;
}

function changeRow(row: Row, change: PositionChange, asOfMs: number): Row {
  const next = { ...row, ...change };
  return { ...next, ...derived(next, change), freshMs: markFreshMs(row, change, asOfMs) };
}

/**
 * The figures that a short change leaves out. Published leaves add up exactly:
 * market value = cost basis + unrealised, total = realised + unrealised.
 */
function derived(row: Position, change: PositionChange): Partial<Position> {
  if (change.unrealized_pnl === undefined || change.market_value !== undefined) return {};
  if (change.unrealized_pnl === null) return { market_value: null, total_pnl: null };
  const unrealized = parse(change.unrealized_pnl);
  return {
    market_value: toPlain(add(parse(row.cost_basis), unrealized)),
    total_pnl: toPlain(add(parse(row.realized_pnl), unrealized)),
  };
}

/** A new mark that comes without its age has none here; the symbol's own price may tell it. */
function markFreshMs(row: Row, change: PositionChange, asOfMs: number): number | null {
  if (change.mark_age_ms !== undefined) return change.mark_age_ms === null ? null : asOfMs - change.mark_age_ms;
  const isSameMark = change.mark_price === undefined || change.mark_price === row.mark_price;
  return isSameMark ? row.freshMs : null;
}

function isWhole(change: PositionChange): change is Position {
  return change.symbol !== undefined && change.quantity !== undefined && change.status !== undefined;
}

function onEvent(state: StreamState, event: EventMessage): Step {
  const { last, isResuming } = state.events;
  const announce: Effect = { kind: "announce", event };
  const accepted: StreamState = { ...state, events: { ...state.events, last: placeOf(event) } };
  if (last === null || event.epoch > last.epoch) return { state: accepted, effects: [announce] };
  if (!isBefore(last, event)) return only(state);
  if (event.seq === last.seq + 1) return { state: accepted, effects: [announce] };
  // Something is missing before it. It is dropped, for the replay brings it again.
  if (isResuming) return only({ ...state, events: { ...state.events, hasHole: true } });
  return { state: resuming(state), effects: [{ kind: "resume", from: last }] };
}

function onResumed(state: StreamState): Step {
  const { last, hasHole } = state.events;
  if (hasHole && last !== null) return { state: resuming(state), effects: [{ kind: "resume", from: last }] };
  return only({ ...state, events: { ...state.events, isResuming: false, hasHole: false } });
}

function isBefore(a: Place, b: Place): boolean {
  return a.epoch < b.epoch || (a.epoch === b.epoch && a.seq < b.seq);
}

function placeOf({ epoch, seq }: Place): Place {
  return { epoch, seq };
}

function newest(a: number | null, b: number | null): number | null {
  return a === null ? b : b === null ? a : Math.max(a, b);
}
