/** What a closed connection asks for, and how long to wait before the next. */

const BASE_MS = 500;
const CAP_MS = 30_000;
const SOON_MS = 1_000;
const POLICY_MS = 5_000;

export type Verdict =
  /** The session is gone: only logging in helps. */
  | { kind: "login"; reason: string }
  /** Trying the same again cannot work. */
  | { kind: "stop"; reason: string }
  | { kind: "retry"; pace: "soon" | "backoff" | "policy"; reason: string };

/** The contract's reading of a close code. */
export function judge(code: number): Verdict {
  switch (code) {
    case 1000:
    case 1001:
    case 1012:
      return { kind: "retry", pace: "soon", reason: "The server is restarting." };
    case 1008:
      return { kind: "retry", pace: "policy", reason: "The server refused a message." };
    case 1009:
      return { kind: "retry", pace: "policy", reason: "A message was too large." };
    case 4001:
      return { kind: "login", reason: "Please log in." };
    case 4003:
      return { kind: "stop", reason: "The server refuses this page. Reload it from the server's own address." };
    case 4004:
      return { kind: "login", reason: "Your session has ended." };
    case 4100:
      return { kind: "retry", pace: "backoff", reason: "This connection was too slow." };
    case 4101:
      return { kind: "retry", pace: "backoff", reason: "Too many requests." };
    case 4102:
      return { kind: "retry", pace: "backoff", reason: "Too many connections are open." };
  }
  if (code >= 4000 && code < 4100) return { kind: "stop", reason: `The server refuses this connection (${code}).` };
  if (code >= 4200 && code < 4300) return { kind: "retry", pace: "soon", reason: "The server is restarting." };
  return { kind: "retry", pace: "backoff", reason: "The connection was lost." };
}

/**
 * Milliseconds before attempt number `attempt` (from 0) with full jitter:
 * anywhere up to a bound that doubles. `random` gives [0, 1). `announcedMs` is
 * when a leaving server said to come back; those it leaves spread out after it.
 */
export function delayMs(
  pace: "soon" | "backoff" | "policy",
  attempt: number,
  random: () => number,
  announcedMs = 0,
): number {
  const bound = Math.min(CAP_MS, BASE_MS * 2 ** Math.min(attempt, 16));
  // However soon the first attempt may be, repeated failure is a failure.
  if (pace === "soon" && attempt === 0) return announcedMs + random() * SOON_MS;
  if (pace === "policy") return POLICY_MS + random() * bound;
  return random() * bound;
}
