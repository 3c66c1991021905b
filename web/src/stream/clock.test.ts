import { expect, it } from "vitest";

import { ServerClock } from "./clock";

it("knows nothing before the first sample", () => {
  const clock = new ServerClock(() => 5);
  expect(clock.serverNow).toBeNull();
  expect(clock.roundTripMs).toBeNull();
});

it("takes the middle of a round trip", () => {
  let now = 1_100;
  const clock = new ServerClock(() => now);
  clock.sample(50_000, 1_000);
  expect(clock.serverNow).toBe(50_050);
  now = 2_100;
  expect(clock.serverNow).toBe(51_050);
});

it("prefers the shorter round trip", () => {
  let now = 1_020;
  const clock = new ServerClock(() => now);
  clock.sample(50_000, 1_000);
  now = 3_000;
  clock.sample(99_999, 2_000);
  expect(clock.serverNow).toBe(51_990);
  expect(clock.roundTripMs).toBe(20);
});

it("lets a longer round trip replace one from long ago, for clocks drift", () => {
  let now = 1_020;
  const clock = new ServerClock(() => now);
  clock.sample(50_000, 1_000);
  now = 1_000_040;
  clock.sample(1_050_100, 1_000_000);
  expect(clock.serverNow).toBe(1_050_120);
});

it("uses a greeting only until a round trip is measured, and again after a reset", () => {
  let now = 1_000;
  const clock = new ServerClock(() => now);
  clock.sample(50_000);
  expect(clock.serverNow).toBe(50_000);
  clock.sample(50_010, 1_000);
  clock.sample(99_999);
  expect(clock.serverNow).toBe(50_010);
  clock.reset();
  clock.sample(60_000);
  expect(clock.serverNow).toBe(60_000);
  now += 1;
  expect(clock.serverNow).toBe(60_001);
});
