import { expect, it } from "vitest";

import { Problem, Unreachable } from "../api/problem";
import type { Api, User } from "../api/resources";
import { Session } from "./session";

const USER: User = { user_id: "u", username: "ann", settings: { stale_after_ms: 5_000 } };
const refused = (status: number, code = "not_authenticated") => Promise.reject(new Problem(status, code, "No", ""));

function session(calls: Partial<Record<"me" | "login" | "logout", () => Promise<unknown>>>): Session {
  const answers = { me: async () => USER, login: async () => {}, logout: async () => {}, ...calls };
  return new Session(answers as unknown as Api);
}

it("goes on where the cookie still holds", async () => {
  const mine = session({});
  await mine.resume();
  expect(mine.state.value).toEqual({ kind: "user", user: USER });
});

it("asks to log in only when the server says so, not when it cannot be reached", async () => {
  const anonymous = session({ me: () => refused(401) });
  await anonymous.resume();
  expect(anonymous.state.value.kind).toBe("anonymous");
  const away = session({ me: () => Promise.reject(new Unreachable()) });
  await away.resume();
  expect(away.state.value.kind).toBe("unreachable");
});

it("says so when the browser does not keep the cookie", async () => {
  await expect(session({ me: () => refused(401) }).login("ann", "x")).rejects.toMatchObject({ code: "cookie_refused" });
});

it("stays logged in when logging out fails", async () => {
  const mine = session({ logout: () => Promise.reject(new Unreachable()) });
  await mine.resume();
  await expect(mine.logout()).rejects.toThrow();
  expect(mine.state.value.kind).toBe("user");
});

it("logs out without a notice, though the stream may have told of the end first", async () => {
  const mine = session({});
  await mine.resume();
  mine.lose("Your session has ended.");
  await mine.logout();
  expect(mine.state.value).toEqual({ kind: "anonymous", notice: null });
});

it("tells the stream why a handshake failed", async () => {
  expect(await session({}).probe()).toBe("authenticated");
  expect(await session({ me: () => refused(401) }).probe()).toBe("unauthenticated");
  expect(await session({ me: () => refused(503, "unavailable") }).probe()).toBe("unreachable");
});
