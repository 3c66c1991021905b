import { expect, it } from "vitest";

import { Problem } from "../api/problem";
import type { Page } from "../api/resources";
import { Listing } from "./listing";

const page = (items: string[], next_cursor: string | null = null): Page<string> => ({ items, next_cursor });

it("reads page after page", async () => {
  const listing = new Listing(async (cursor) => (cursor === null ? page(["a"], "c1") : page(["b"])));
  await listing.load();
  await listing.more();
  await listing.more();
  expect(listing.state.value).toMatchObject({ items: ["a", "b"], nextCursor: null, status: "ready" });
});

it("keeps what it shows when reading fails, and says why", async () => {
  let isBroken = false;
  const listing = new Listing(async () => {
    if (isBroken) throw new Problem(503, "unavailable", "Not available", "");
    return page(["a"]);
  });
  await listing.load();
  isBroken = true;
  await listing.load();
  expect(listing.state.value).toMatchObject({ items: ["a"], status: "failed", error: "Not available." });
});

it("is not read again before it was read at all", async () => {
  let reads = 0;
  const listing = new Listing(async () => {
    reads += 1;
    return page([]);
  });
  await listing.refresh();
  expect(reads).toBe(0);
});

it("ignores an answer that a later reading overtook", async () => {
  const answers: ((answer: Page<string>) => void)[] = [];
  const listing = new Listing(() => new Promise<Page<string>>((resolve) => answers.push(resolve)));
  const first = listing.load();
  const second = listing.load();
  answers[1]?.(page(["new"]));
  answers[0]?.(page(["old"]));
  await Promise.all([first, second]);
  expect(listing.state.value.items).toEqual(["new"]);
});
