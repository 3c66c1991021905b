import { expect, it } from "vitest";

import { type Storage, Watchlist } from "./watchlist";

function memory(text: string | null = null): Storage & { text: string | null } {
  return {
    text,
    getItem() {
      return this.text;
    },
    setItem(_key: string, value: string) {
      this.text = value;
    },
  };
}

it("starts with a few majors and keeps what is added and removed", () => {
  const storage = memory();
  const list = new Watchlist(storage);
  expect(list.symbols.value).toContain("BTCUSDT");
  list.add("DOGEUSDT");
  list.add("DOGEUSDT");
  list.remove("BTCUSDT");
  const again = new Watchlist(storage).symbols.value;
  expect(again.filter((symbol) => symbol === "DOGEUSDT")).toHaveLength(1);
  expect(again).not.toContain("BTCUSDT");
});

it("keeps an emptied list empty", () => {
  expect(new Watchlist(memory("[]")).symbols.value).toEqual([]);
});

it.each(["{", "3", '"x"', "null"])("falls back to the majors over %j", (text) =>
  expect(new Watchlist(memory(text)).symbols.value).toContain("BTCUSDT"),
);

it("drops what is no symbol", () => {
  expect(new Watchlist(memory('["A",1,null]')).symbols.value).toEqual(["A"]);
});

it("works where storage is blocked", () => {
  const blocked: Storage = {
    getItem: () => {
      throw new Error("denied");
    },
    setItem: () => {
      throw new Error("denied");
    },
  };
  const list = new Watchlist(blocked);
  list.add("DOGEUSDT");
  expect(list.symbols.value).toContain("DOGEUSDT");
});
