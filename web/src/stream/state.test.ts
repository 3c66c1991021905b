import { describe, expect, it } from "vitest";

import { decode, type ServerMessage } from "./protocol";
import { type Effect, forget, INITIAL, isSynchronised, reduce, resuming, type StreamState } from "./state";

const HELLO = `{"type":"hello","protocol":1,"connection_id":"c1","user_id":"u1","server_time_ms":1700000000000,
 "session_expires_ms":1700003600000,"heartbeat_ms":15000,
 "limits":{"max_symbols":200,"max_message_bytes":4096,"max_messages_per_second":20,"max_hz":10},"max_hz":4,
 "feed":{"state":"live","source":"binance","age_ms":41}}`;

const SUBSCRIBED = `{"type":"subscribed","id":1,"channel":"prices","results":[{"symbol":"BTCUSDT","ok":true},
 {"symbol":"NOPE","ok":false,"code":"unknown_symbol"}]}`;

const PRICES = `{"type":"snapshot","channel":"prices","epoch":7,"seq":1041,"as_of_ms":1700000000100,"prices":[
 {"symbol":"BTCUSDT","price":"67000.15","bid":"67000.10","ask":"67000.20","last":"67000.20",
  "event_ms":1700000000050,"received_ms":1700000000080,"is_stale":false}]}`;

const PNL = `{"type":"snapshot","channel":"pnl","epoch":7,"seq":1041,"as_of_ms":1700000000100,"pnl":{
 "currency":"USDT","unrealized_pnl":"11.30","realized_pnl":"2.00","realized_pnl_gross":"2.00","fees":"0","funding":"0",
 "total_pnl":"13.30","day_pnl":"13.30","equity":"13.30","gross_exposure":"1000","net_exposure":"1000",
 "is_complete":true,"is_stale":false,"unpriced":[],"oldest_price_age_ms":20}}`;

const ROW = `{"position_id":"p1","account_id":"a1","symbol":"BTCUSDT","market":"spot","position_side":"net","side":"long",
 "quantity":"1","signed_qty":"1","entry_price":"66988.85","cost_basis":"66988.85","mark_price":"67000.15",
 "price_source":"mid","mark_age_ms":20,"is_stale":false,"market_value":"67000.15","unrealized_pnl":"11.30",
 "unrealized_pnl_pct":"0.000169","realized_pnl":"2.00","realized_pnl_gross":"2.00","fees":"0","funding":"0",
 "total_pnl":"13.30","settle_asset":"USDT","strategy":null,"status":"open","opened_at":"2023-11-14T22:13:20Z",
 "updated_at":"2023-11-14T22:13:20Z","closed_at":null,"version":4}`;

const POSITIONS = `{"type":"snapshot","channel":"positions","epoch":7,"seq":1041,"as_of_ms":1700000000100,"positions":[${ROW}]}`;

const UPDATE = `{"type":"update","epoch":7,"seq":1042,"as_of_ms":1700000000200,"event_ms":1700000000190,"merged":3,
 "prices":[{"symbol":"BTCUSDT","price":"67001.15","bid":"67001.10","ask":"67001.20","last":"67001.20","event_ms":1700000000190,"is_stale":false}],
 "pnl":{"unrealized_pnl":"12.30","realized_pnl":"2.00","total_pnl":"14.30","day_pnl":"14.30","equity":"14.30","is_complete":true,"is_stale":false,"unpriced":[]},
 "positions":[{"position_id":"p1","symbol":"BTCUSDT","mark_price":"67001.15","unrealized_pnl":"12.30","unrealized_pnl_pct":"0.000184","version":4}]}`;

function run(frames: (string | object)[], from: StreamState = INITIAL): { state: StreamState; effects: Effect[] } {
  const effects: Effect[] = [];
  let state = from;
  for (const frame of frames) {
    const message = typeof frame === "string" ? decode(frame) : (frame as ServerMessage);
    if (message === null) throw new Error("not a message");
    const step = reduce(state, message);
    state = step.state;
    effects.push(...step.effects);
  }
  return { state, effects };
}

const JOINED = [HELLO, SUBSCRIBED, PRICES, PNL, POSITIONS];
const joined = () => run(JOINED).state;
const changed = (text: string, patch: object) => ({ ...(JSON.parse(text) as object), ...patch });
const event = (seq: number, epoch = 1) => ({ type: "event", epoch, seq, kind: "fill", at_ms: 1, data: {} });

describe("joining", () => {
  it("is synchronised once totals and positions have their snapshots", () => {
    expect(isSynchronised(run([HELLO, PRICES, PNL]).state)).toBe(false);
    expect(isSynchronised(joined())).toBe(true);
  });

  it("remembers which symbols the server does not know", () => {
    expect([...joined().unknownSymbols]).toEqual(["NOPE"]);
  });

  it("keeps open positions only", () => {
    const closed = changed(ROW, { position_id: "p2", status: "closed" });
    const { state } = run([HELLO, changed(POSITIONS, { positions: [JSON.parse(ROW), closed] })]);
    expect([...(state.rows?.keys() ?? [])]).toEqual(["p1"]);
  });

  it("adds a later snapshot of one symbol to the others", () => {
    const eth = { symbol: "ETHUSDT", price: "3000", bid: null, ask: null, last: "3000", event_ms: 1, is_stale: true };
    const { state } = run([changed(PRICES, { seq: 1050, prices: [eth] })], joined());
    expect([...state.prices.keys()]).toEqual(["BTCUSDT", "ETHUSDT"]);
  });
});

describe("updates", () => {
  it("changes prices, totals and rows of one frame together", () => {
    const { state, effects } = run([UPDATE], joined());
    expect(state.prices.get("BTCUSDT")?.price).toBe("67001.15");
    expect(state.totals).toMatchObject({ currency: "USDT", unrealized_pnl: "12.30", total_pnl: "14.30" });
    expect(state.rows?.get("p1")).toMatchObject({ mark_price: "67001.15", unrealized_pnl: "12.30", quantity: "1" });
    expect(effects).toEqual([]);
  });

  it("works out the exact value and total of a row from the figures that are sent", () => {
    const { state } = run([UPDATE], joined());
    expect(state.rows?.get("p1")).toMatchObject({ market_value: "67001.15", total_pnl: "14.3" });
  });

  it("leaves a row without a price without value and total", () => {
    const lost = { position_id: "p1", symbol: "BTCUSDT", mark_price: null, unrealized_pnl: null, unrealized_pnl_pct: null };
    const { state } = run([changed(UPDATE, { positions: [lost] })], joined());
    expect(state.rows?.get("p1")).toMatchObject({ market_value: null, total_pnl: null, mark_price: null });
  });

  it("applies none that is not newer", () => {
    const after = run([UPDATE], joined()).state;
    const late = changed(UPDATE, { pnl: { total_pnl: "-1" }, positions: [], prices: undefined });
    expect(run([late], after).state.totals?.total_pnl).toBe("14.30");
    expect(run([{ ...late, seq: 1040 }], after).state.totals?.total_pnl).toBe("14.30");
    expect(run([{ ...late, seq: 1043 }], after).state.totals?.total_pnl).toBe("-1");
  });

  it("applies none of an earlier epoch", () => {
    const old = changed(UPDATE, { epoch: 6, seq: 9999 });
    expect(run([old], joined()).state.totals?.total_pnl).toBe("13.30");
    expect(run([old], joined()).state.prices.get("BTCUSDT")?.price).toBe("67000.15");
  });

  it("skips over sequence numbers, for updates stand for several flushes", () => {
    expect(run([changed(UPDATE, { seq: 2000 })], joined()).state.totals?.total_pnl).toBe("14.30");
  });

  it("takes news of one symbol at the place where another's snapshot stands", () => {
    const eth = { symbol: "ETHUSDT", price: "3000", bid: null, ask: null, last: "3000", event_ms: 1, is_stale: true };
    const { state } = run([changed(PRICES, { seq: 1042, prices: [eth] }), UPDATE], joined());
    expect(state.prices.get("BTCUSDT")?.price).toBe("67001.15");
  });

  it("keeps a row at its newest version", () => {
    const older = { position_id: "p1", version: 3, unrealized_pnl: "0" };
    const { state } = run([changed(UPDATE, { positions: [older] })], joined());
    expect(state.rows?.get("p1")?.unrealized_pnl).toBe("11.30");
  });

  it("opens and closes rows", () => {
    const opened = changed(ROW, { position_id: "p2", symbol: "ETHUSDT" });
    const closed = changed(ROW, { status: "closed", version: 5 });
    const { state } = run([changed(UPDATE, { positions: [opened, closed] })], joined());
    expect([...(state.rows?.keys() ?? [])]).toEqual(["p2"]);
  });

  it("keeps rows that did not change as they are, so that they are not drawn again", () => {
    const before = joined();
    const { state } = run([changed(UPDATE, { positions: undefined })], before);
    expect(state.rows?.get("p1")).toBe(before.rows?.get("p1"));
  });

  it("leaves the given state untouched", () => {
    const before = joined();
    run([UPDATE], before);
    expect(before.totals?.total_pnl).toBe("13.30");
    expect(before.rows?.get("p1")?.mark_price).toBe("67000.15");
  });
});

describe("gaps heal by snapshot", () => {
  it("builds nothing on a base that no snapshot gave", () => {
    const { state, effects } = run([HELLO, UPDATE]);
    expect(state.totals).toBeNull();
    expect(state.prices.size).toBe(0);
    expect(effects).toEqual([]);
  });

  it("asks for snapshots when an update starts a new epoch, once", () => {
    const next = changed(UPDATE, { epoch: 8, seq: 1 });
    const { state, effects } = run([next, { ...next, seq: 2 }], joined());
    expect(effects).toEqual([
      { kind: "resync", channel: "prices" },
      { kind: "resync", channel: "pnl" },
      { kind: "resync", channel: "positions" },
    ]);
    expect(isSynchronised(state)).toBe(false);
    expect(state.totals?.total_pnl).toBe("13.30");
  });

  it("goes on from the snapshots of a new epoch", () => {
    const { state } = run(
      [
        changed(PNL, { epoch: 8, seq: 1 }),
        changed(POSITIONS, { epoch: 8, seq: 1 }),
        changed(PRICES, { epoch: 8, seq: 1 }),
        changed(UPDATE, { epoch: 8, seq: 2 }),
      ],
      joined(),
    );
    expect(state.totals?.total_pnl).toBe("14.30");
    expect(isSynchronised(state)).toBe(true);
  });

  it("ignores a snapshot older than what it has", () => {
    const after = run([UPDATE], joined()).state;
    expect(run([PNL], after).state.totals?.total_pnl).toBe("14.30");
    expect(run([changed(PNL, { epoch: 6, seq: 5000 })], after).state.totals?.total_pnl).toBe("14.30");
  });

  it("asks for positions when a change names one it cannot place", () => {
    const stranger = { position_id: "p9", symbol: "ETHUSDT", mark_price: "1", version: 1 };
    const { state, effects } = run([changed(UPDATE, { positions: [stranger] })], joined());
    expect(effects).toEqual([{ kind: "resync", channel: "positions" }]);
    expect(state.rows?.get("p1")?.unrealized_pnl).toBe("11.30");
    expect(isSynchronised(state)).toBe(false);
  });

  it("after reconnecting trusts nothing until new snapshots come, whatever their epoch", () => {
    const again = run([HELLO, UPDATE], joined()).state;
    expect(isSynchronised(again)).toBe(false);
    expect(again.totals?.total_pnl).toBe("13.30");
    const wiped = run([changed(PNL, { epoch: 1, seq: 1 }), changed(PRICES, { epoch: 1, seq: 1, prices: [
      { symbol: "BTCUSDT", price: "1", bid: null, ask: null, last: null, event_ms: 1, is_stale: false },
    ] })], again).state;
    expect(wiped.bases.pnl).toEqual({ epoch: 1, seq: 1 });
    expect(wiped.prices.get("BTCUSDT")?.price).toBe("1");
  });
});

describe("ages", () => {
  const fresh = (price: object) =>
    run([HELLO, changed(PRICES, { prices: [{ ...JSON.parse(PRICES).prices[0], ...price }] })]).state.prices.get("BTCUSDT")
      ?.freshMs;

  it("counts a price's age from what the server says", () => {
    expect(fresh({ fresh_ms: 1_700_000_000_010 })).toBe(1_700_000_000_010);
    expect(fresh({ age_ms: 30 })).toBe(1_700_000_000_070);
  });

  it("counts from the receive time where the server says nothing", () => {
    expect(fresh({})).toBe(1_700_000_000_080);
  });

  it("never takes a price to be from the future", () => {
    expect(fresh({ received_ms: 1_700_000_900_000 })).toBe(1_700_000_000_100);
  });

  it("does not know the age of a new mark that comes without one", () => {
    expect(run([UPDATE], joined()).state.rows?.get("p1")?.freshMs).toBeNull();
  });

  it("keeps the age of a mark that did not change", () => {
    const flagged = { position_id: "p1", mark_price: "67000.15", is_stale: true, version: 4 };
    const { state } = run([changed(UPDATE, { positions: [flagged] })], joined());
    expect(state.rows?.get("p1")).toMatchObject({ freshMs: 1_700_000_000_080, is_stale: true });
  });

  it("knows how fresh the feed is from frames between status messages", () => {
    expect(joined().feedFreshMs).toBe(1_699_999_999_959);
    expect(run([UPDATE], joined()).state.feedFreshMs).toBe(1_700_000_000_190);
    const withoutPrices = changed(UPDATE, { prices: undefined, event_ms: 1_700_000_000_150 });
    expect(run([withoutPrices], joined()).state.feedFreshMs).toBe(1_700_000_000_150);
  });

  it("knows no freshness of a feed that has brought no price", () => {
    const silent = changed(HELLO, { feed: { state: "down", source: "binance", age_ms: null } });
    const update = changed(UPDATE, { prices: undefined, event_ms: 0 });
    expect(run([silent, PNL, POSITIONS, update]).state.feedFreshMs).toBeNull();
  });
});

describe("feed", () => {
  const status = (feed: object, degraded: string[] = []) => ({ type: "status", feed: { source: "s", age_ms: 1, ...feed }, degraded });

  it("is simulated when either field says so", () => {
    expect(run([status({ state: "simulated" })]).state.isSimulated).toBe(true);
    expect(run([status({ state: "stale", simulated: true })]).state.isSimulated).toBe(true);
    expect(joined().isSimulated).toBe(false);
  });

  it("stays simulated when it goes stale and does not say what it is", () => {
    const simulated = run([status({ state: "simulated" })]).state;
    expect(run([status({ state: "stale" })], simulated).state.isSimulated).toBe(true);
    expect(run([status({ state: "live" })], simulated).state.isSimulated).toBe(false);
  });

  it("tells what the server does without", () => {
    expect(run([status({ state: "live" }, ["redis"])]).state.degraded).toEqual(["redis"]);
  });
});

describe("events", () => {
  const SUBSCRIBED_EVENTS = { type: "subscribed", id: 4, channel: "events", epoch: 1, seq: 57 };

  it("are announced in order and once", () => {
    const { state, effects } = run([SUBSCRIBED_EVENTS, event(58), event(58), event(59)]);
    expect(effects.map((effect) => effect.kind)).toEqual(["announce", "announce"]);
    expect(state.events.last).toEqual({ epoch: 1, seq: 59 });
  });

  it("are asked for again from the last one before a hole", () => {
    const { effects } = run([SUBSCRIBED_EVENTS, event(58), event(61)]);
    expect(effects).toEqual([
      { kind: "announce", event: event(58) },
      { kind: "resume", from: { epoch: 1, seq: 58 } },
    ]);
  });

  it("heal a hole that opened while others were replayed", () => {
    const start = resuming(run([SUBSCRIBED_EVENTS, event(58)]).state);
    const { effects } = run([event(62), event(59), event(60), { type: "resumed", id: 1 }], start);
    expect(effects.at(-1)).toEqual({ kind: "resume", from: { epoch: 1, seq: 60 } });
  });

  it("go on from the head after a resync, and the lists are read again", () => {
    const before = run([SUBSCRIBED_EVENTS, event(58)]).state;
    const head = { ...SUBSCRIBED_EVENTS, seq: 500 };
    const { state, effects } = run([HELLO, head, { type: "resync", id: 7 }], before);
    expect(effects).toEqual([{ kind: "reload" }]);
    expect(state.events.last).toEqual({ epoch: 1, seq: 500 });
  });

  it("keep their place over a reconnect, whatever the head", () => {
    const { state } = run([HELLO, { ...SUBSCRIBED_EVENTS, seq: 60 }], run([SUBSCRIBED_EVENTS, event(58)]).state);
    expect(state.events.last).toEqual({ epoch: 1, seq: 58 });
  });

  it("do not count with state updates", () => {
    const { state } = run([SUBSCRIBED_EVENTS, event(58), UPDATE], joined());
    expect(state.totals?.total_pnl).toBe("14.30");
  });
});

describe("decoding", () => {
  it.each(["", "{", "[]", "null", "1", '"x"', '{"type":1}', "{}"])("takes %j for no message", (text) =>
    expect(decode(text)).toBeNull(),
  );

  it("takes binary frames for no message", () => expect(decode(new ArrayBuffer(2))).toBeNull());

  it("lets messages of newer servers pass without effect", () => {
    const state = joined();
    expect(run(['{"type":"novelty"}'], state).state).toBe(state);
  });
});

it("forgets symbols nobody looks at", () => {
  const state = forget(joined(), ["BTCUSDT", "NOPE"]);
  expect([state.prices.size, state.unknownSymbols.size]).toEqual([0, 0]);
});
