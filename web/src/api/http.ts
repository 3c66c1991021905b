/** One request to the server: JSON both ways, a deadline, and failures as `Problem` or `Unreachable`. */

import { Problem, problemFrom, Unreachable } from "./problem";

const BASE = "/api/v1";
const DEADLINE_MS = 10_000;

export interface Options {
  body?: unknown;
  idempotencyKey?: string;
  signal?: AbortSignal;
}

export type Send = <T>(method: string, path: string, options?: Options) => Promise<T>;

/** A `Send` that reports each 401 that is not the answer to a wrong password. */
export function sender(onUnauthenticated: () => void): Send {
  return async <T>(method: string, path: string, options: Options = {}) => {
    try {
      return await send<T>(method, path, options);
    } catch (error) {
      if (error instanceof Problem && error.status === 401 && error.code !== "wrong_credentials") onUnauthenticated();
      throw error;
    }
  };
}

async function send<T>(method: string, path: string, { body, idempotencyKey, signal }: Options): Promise<T> {
  const headers: Record<string, string> = { Accept: "application/json" };
  if (body !== undefined) headers["Content-Type"] = "application/json";
  if (idempotencyKey !== undefined) headers["Idempotency-Key"] = idempotencyKey;
  const deadline = AbortSignal.timeout(DEADLINE_MS);
  const response = await reach(`${BASE}${path}`, {
    method,
    headers,
    body: body === undefined ? null : JSON.stringify(body),
    credentials: "same-origin",
    cache: "no-store",
    signal: signal === undefined ? deadline : AbortSignal.any([deadline, signal]),
  });
  if (response.status === 204) return undefined as T;
  const answer = await read(response);
  if (!response.ok) throw problemFrom(response.status, answer);
  return answer as T;
}

async function reach(url: string, init: RequestInit): Promise<Response> {
  try {
    return await fetch(url, init);
  } catch (error) {
    throw new Unreachable("no answer", { cause: error });
  }
}

/** The JSON of an answer; an error's body may be anything, for proxies answer too. */
async function read(response: Response): Promise<unknown> {
  try {
    return await response.json();
  } catch (error) {
    if (!response.ok) return null;
    throw new Unreachable("the answer broke off", { cause: error });
  }
}
