/** Who is logged in, as far as the page knows. */

import { signal } from "@preact/signals";

import type { Api, User } from "../api/resources";
import { Problem } from "../api/problem";

export type SessionState =
  | { kind: "loading" }
  | { kind: "unreachable" }
  | { kind: "anonymous"; notice: string | null }
  | { kind: "user"; user: User };

/** The password was right, but the next request was not known: browsers keep secure cookies on HTTPS only. */
export class CookieRefused extends Problem {
  constructor() {
    super(401, "cookie_refused", "Your browser did not keep the session", "Open the page over HTTPS, or at localhost.");
  }
}

export class Session {
  readonly state = signal<SessionState>({ kind: "loading" });
  readonly #api: Api;

  constructor(api: Api) {
    this.#api = api;
  }

  /** Ask the server who this is. */
  async resume(): Promise<void> {
    this.state.value = { kind: "loading" };
    try {
      this.state.value = { kind: "user", user: await this.#api.me() };
    } catch (error) {
      const isAnonymous = error instanceof Problem && error.status === 401;
      this.state.value = isAnonymous ? { kind: "anonymous", notice: null } : { kind: "unreachable" };
    }
  }

  async login(username: string, password: string): Promise<void> {
    await this.#api.login(username, password);
    await this.#enter();
  }

  async register(username: string, password: string): Promise<void> {
    await this.#api.register(username, password);
    await this.#enter();
  }

  /** Raises CookieRefused where the browser does not keep the session's cookie. */
  async #enter(): Promise<void> {
    try {
      this.state.value = { kind: "user", user: await this.#api.me() };
    } catch (error) {
      if (error instanceof Problem && error.status === 401) throw new CookieRefused();
      throw error;
    }
  }

  /** The page forgets the user only when the server has: else the cookie would log in again. */
  async logout(): Promise<void> {
    await this.#api.logout();
    this.state.value = { kind: "anonymous", notice: null };
  }

  /** The session is over, by the server's word. */
  lose(notice: string | null): void {
    if (this.state.value.kind === "user") this.state.value = { kind: "anonymous", notice };
  }

  /** For the stream: whether a refused handshake means that the session is over. */
  async probe(): Promise<"authenticated" | "unauthenticated" | "unreachable"> {
    try {
      await this.#api.me();
      return "authenticated";
    } catch (error) {
      return error instanceof Problem && error.status === 401 ? "unauthenticated" : "unreachable";
    }
  }
}
