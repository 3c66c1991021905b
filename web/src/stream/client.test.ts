import { beforeEach, describe, expect, it } from "vitest";

import { type Connection, type Ports, type Socket, type SocketListener, StreamClient } from "./client";
import { ServerClock } from "./clock";

/** A socket whose other side is the test. */
class FakeSocket implements Socket {
  readonly sent: { type: string; id: number; [key: string]: unknown }[] = [];
  isClosed = false;

  constructor(readonly listener: SocketListener) {}

  send(text: string): void {
    this.sent.push(JSON.parse(text));
  }

  close(): void {
    this.isClosed = true;
  }

  say(message: object): void {
    this.listener.onMessage(JSON.stringify(message));
  }

  of(type: string) {
    return this.sent.filter((request) => request.type === type);
  }
}

/** A world in which time passes only when told. */
class World implements Ports {
  readonly sockets: FakeSocket[] = [];
  time = 100_000;
  sleptMs = 0;
  online = true;
  session: "authenticated" | "unauthenticated" | "unreachable" = "unreachable";
  #timers = new Set<{ at: number; callback: () => void }>();

  connect = (listener: SocketListener) => {
    const socket = new FakeSocket(listener);
    this.sockets.push(socket);
    return socket;
  };
  now = () => this.time;
  wallNow = () => this.time + this.sleptMs;
  random = () => 0.5;
  isOnline = () => this.online;
  probe = () => Promise.resolve(this.session);
  after = (ms: number, callback: () => void) => {
    const timer = { at: this.time + ms, callback };
    this.#timers.add(timer);
    return () => void this.#timers.delete(timer);
  };

  pass(ms: number): void {
    const end = this.time + ms;
    for (;;) {
      const due = [...this.#timers].filter(({ at }) => at <= end).sort((a, b) => a.at - b.at)[0];
      if (due === undefined) break;
      this.#timers.delete(due);
      this.time = Math.max(this.time, due.at);
      due.callback();
    }
    this.time = end;
  }

  get socket(): FakeSocket {
    const last = this.sockets.at(-1);
    if (last === undefined) throw new Error("nothing has connected");
    return last;
  }
}

const hello = {
  type: "hello",
  protocol: 1,
  connection_id: "c",
  user_id: "u",
  server_time_ms: 1_700_000_000_000,
  session_expires_ms: 1_700_003_600_000,
  heartbeat_ms: 15_000,
  limits: { max_symbols: 3, max_message_bytes: 4096, max_messages_per_second: 20, max_hz: 10 },
  max_hz: 10,
  feed: { state: "live", source: "binance", age_ms: 1 },
};
const place = { epoch: 7, seq: 1, as_of_ms: 1_700_000_000_000 };
const totals = { currency: "USDT", unrealized_pnl: "0", realized_pnl: "0", total_pnl: "0", day_pnl: null, equity: "0", is_complete: true, is_stale: false, unpriced: [] };

let world: World;
let client: StreamClient;
let clock: ServerClock;
let connections: Connection[];
let lost: string[];
let reloads: number;

beforeEach(() => {
  world = new World();
  clock = new ServerClock(world.now);
  connections = [];
  lost = [];
  reloads = 0;
  client = new StreamClient(world, clock, {
    onState: () => {},
    onConnection: (connection) => connections.push(connection),
    onEvent: () => {},
    onReload: () => void (reloads += 1),
    onSessionLost: (reason) => lost.push(reason),
  });
});

function greet(): void {
  world.socket.say(hello);
  world.socket.say({ type: "snapshot", channel: "pnl", ...place, pnl: totals });
  world.socket.say({ type: "snapshot", channel: "positions", ...place, positions: [] });
}

function answerPing(): void {
  const ping = world.socket.of("ping").at(-1);
  world.socket.say({ type: "pong", id: ping?.id, server_time_ms: 1_700_000_000_000 });
}

const kind = () => connections.at(-1)?.kind;

describe("joining", () => {
  it("subscribes on hello and is live when the snapshots have come", () => {
    client.want(["BTCUSDT"]);
    client.start();
    world.socket.say(hello);
    expect(kind()).toBe("connecting");
    expect(world.socket.of("subscribe").map(({ channel, symbols }) => [channel, symbols])).toEqual([
      ["pnl", undefined],
      ["positions", undefined],
      ["events", undefined],
      ["prices", ["BTCUSDT"]],
    ]);
    greet();
    expect(kind()).toBe("live");
  });

  it("gives every request its own id", () => {
    client.start();
    greet();
    const ids = world.socket.sent.map(({ id }) => id);
    expect(new Set(ids).size).toBe(ids.length);
  });

  it("knows the server's clock from ping and pong", () => {
    client.start();
    greet();
    world.pass(40);
    const ping = world.socket.of("ping").at(-1);
    world.socket.say({ type: "pong", id: ping?.id, server_time_ms: 1_700_000_000_100 });
    expect(clock.serverNow).toBe(1_700_000_000_120);
  });

  it("gives up a server that never greets", () => {
    client.start();
    world.pass(11_000);
    expect(world.sockets[0]?.isClosed).toBe(true);
    world.pass(1_000);
    expect(world.sockets.length).toBe(2);
  });

  it("reconnects when snapshots do not come", () => {
    client.start();
    world.socket.say(hello);
    world.pass(8_000);
    expect(world.sockets.length).toBe(2);
  });
});

describe("symbols", () => {
  it("follows what is wanted by differences, up to the server's limit", () => {
    client.start();
    greet();
    client.want(["A", "B"]);
    client.want(["B", "C", "D", "E"]);
    expect(world.socket.of("subscribe").filter(({ channel }) => channel === "prices").map(({ symbols }) => symbols)).toEqual([
      ["A", "B"],
      ["C", "D"],
    ]);
    expect(world.socket.of("unsubscribe").map(({ symbols }) => symbols)).toEqual([["A"]]);
  });

  it("asks again, now and then, for what the server does not know yet", () => {
    client.want(["A"]);
    client.start();
    greet();
    const asked = () => world.socket.of("subscribe").filter(({ channel }) => channel === "prices").length;
    world.socket.say({ type: "subscribed", id: 4, channel: "prices", results: [{ symbol: "A", ok: false }] });
    world.socket.say({ type: "snapshot", channel: "prices", ...place, prices: [] });
    world.pass(12_000);
    expect(asked()).toBe(2);
    world.socket.say({ type: "subscribed", id: 9, channel: "prices", results: [{ symbol: "A", ok: true }] });
    world.pass(12_000);
    expect(asked()).toBe(2);
  });

  it("subscribes again after a reconnect", () => {
    client.start();
    greet();
    client.want(["A"]);
    world.socket.listener.onClose(1012);
    world.pass(2_000);
    greet();
    expect(world.socket.of("subscribe").at(-1)).toMatchObject({ channel: "prices", symbols: ["A"] });
  });
});

describe("heartbeats", () => {
  it("pings each interval and stays while pongs come", () => {
    client.start();
    greet();
    for (let i = 0; i < 10; i++) {
      world.pass(15_000);
      answerPing();
    }
    expect(world.sockets.length).toBe(1);
    expect(world.socket.of("ping").length).toBeGreaterThanOrEqual(9);
    expect(kind()).toBe("live");
  });

  it("takes a connection for dead after two silent heartbeats", () => {
    client.start();
    greet();
    answerPing();
    world.pass(29_000);
    expect(kind()).toBe("live");
    world.pass(4_000);
    expect(world.sockets[0]?.isClosed).toBe(true);
    expect(connections.some((connection) => connection.kind === "reconnecting")).toBe(true);
  });

  it("ignores what a dead connection still says", () => {
    client.start();
    greet();
    answerPing();
    world.pass(40_000);
    const before = connections.length;
    world.sockets[0]?.say(hello);
    world.sockets[0]?.listener.onClose(4004);
    expect(connections.length).toBe(before);
    expect(lost).toEqual([]);
  });

  it("finds out within seconds whether a doubtful connection lives", () => {
    client.start();
    greet();
    answerPing();
    client.nudge();
    world.pass(6_000);
    expect(world.sockets.length).toBe(2);
  });

  it("stays when a doubtful connection answers", () => {
    client.start();
    greet();
    client.nudge();
    answerPing();
    world.pass(6_000);
    expect(world.sockets.length).toBe(1);
  });

  it("reconnects after the machine slept, for monotonic time may not have passed", () => {
    client.start();
    greet();
    world.sleptMs = 3_600_000;
    world.pass(3_000);
    expect(world.sockets.length).toBe(2);
  });
});

describe("closing", () => {
  it.each([4001, 4004])("%d leads to the login screen and no retry", (code) => {
    client.start();
    greet();
    world.socket.listener.onClose(code);
    world.pass(120_000);
    expect(lost.length).toBe(1);
    expect(world.sockets.length).toBe(1);
  });

  it("4003 stops", () => {
    client.start();
    greet();
    world.socket.listener.onClose(4003);
    world.pass(120_000);
    expect(kind()).toBe("stopped");
    expect(world.sockets.length).toBe(1);
  });

  it("draining is followed by a new connection after the announced delay", () => {
    client.start();
    greet();
    world.socket.say({ type: "going_away", reconnect_after_ms: 2_000 });
    world.socket.listener.onClose(4200);
    world.pass(1_900);
    expect(world.sockets.length).toBe(1);
    world.pass(1_200);
    expect(world.sockets.length).toBe(2);
  });

  it("leaves a draining server that does not close by itself", () => {
    client.start();
    greet();
    world.socket.say({ type: "going_away", reconnect_after_ms: 2_000 });
    world.pass(5_000);
    expect(world.sockets[0]?.isClosed).toBe(true);
    expect(world.sockets.length).toBe(2);
  });

  it("backs off further with each failure and starts over only after data", async () => {
    client.start();
    const waits: number[] = [];
    for (let i = 0; i < 5; i++) {
      world.socket.say(hello);
      world.socket.listener.onClose(1011);
      const last = connections.at(-1);
      if (last?.kind !== "reconnecting") throw new Error("not reconnecting");
      waits.push(last.retryAt - world.time);
      world.pass(waits[i] ?? 0);
    }
    expect(waits).toEqual([250, 500, 1000, 2000, 4000]);
    greet();
    world.socket.listener.onClose(1011);
    expect(connections.at(-1)).toMatchObject({ retryAt: world.time + 250 });
  });

  it("asks why a handshake failed, for the browser is not told", async () => {
    world.session = "unauthenticated";
    client.start();
    world.socket.listener.onClose(1006);
    await Promise.resolve();
    await Promise.resolve();
    expect(lost.length).toBe(1);
  });

  it("says that it is offline, and comes back when nudged", async () => {
    client.start();
    greet();
    world.online = false;
    world.socket.listener.onClose(1006);
    expect(kind()).toBe("offline");
    world.online = true;
    client.nudge();
    expect(world.sockets.length).toBe(2);
  });

  it("stops for good when told", () => {
    client.start();
    greet();
    client.stop();
    world.pass(120_000);
    expect(world.sockets.length).toBe(1);
    expect(world.socket.isClosed).toBe(true);
  });
});

describe("events over a reconnect", () => {
  const reconnect = () => {
    world.socket.listener.onClose(1012);
    world.pass(2_000);
    greet();
  };

  it("resumes after the last one", () => {
    client.start();
    greet();
    world.socket.say({ type: "event", epoch: 1, seq: 58, kind: "fill", at_ms: 1, data: {} });
    reconnect();
    expect(world.socket.of("resume")).toMatchObject([{ events: { epoch: 1, seq: 58 } }]);
    const order = world.socket.sent.map(({ type, channel }) => `${type} ${channel ?? ""}`.trim());
    expect(order.indexOf("resume")).toBeGreaterThan(order.indexOf("subscribe events"));
  });

  it("reads the lists again where there is no place to resume from", () => {
    client.start();
    greet();
    expect(reloads).toBe(0);
    reconnect();
    expect(reloads).toBe(1);
  });
});

describe("visibility", () => {
  it("is told to the server, and again after a reconnect", () => {
    client.start();
    greet();
    client.setVisible(false);
    expect(world.socket.of("configure")).toMatchObject([{ visible: false }]);
    world.socket.listener.onClose(1012);
    world.pass(2_000);
    greet();
    expect(world.socket.of("configure")).toMatchObject([{ visible: false }]);
  });
});
