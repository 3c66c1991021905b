import { useComputed, useSignal } from "@preact/signals";

import { explain } from "../api/problem";
import type { User } from "../api/resources";
import type { Connection } from "../stream/client";
import { formatAge } from "../stream/freshness";
import type { FeedState } from "../stream/protocol";
import { useDesk } from "./context";
import { Wordmark } from "./Wordmark";

export function Header({ user }: { user: User }) {
  return (
    <header class="top">
      <Wordmark />
      <div class="states">
        <FeedChip />
        <ConnectionChip />
        <DegradedChip />
      </div>
      <div class="account">
        <span class="who" title={user.username}>
          {user.username}
        </span>
        <LogoutButton />
      </div>
    </header>
  );
}

const CONNECTION_TONES: Record<Connection["kind"], string> = {
  connecting: "wait",
  live: "good",
  reconnecting: "warn",
  offline: "bad",
  stopped: "bad",
};

function ConnectionChip() {
  const { live } = useDesk();
  const connection = live.connection.value;
  const { kind } = connection;
  return (
    <span
      class={`chip ${CONNECTION_TONES[kind]}`}
      role="status"
      data-testid="connection-state"
      data-state={kind}
      title={"reason" in connection ? connection.reason : "Connection to the server"}
    >
      <span class="dot" aria-hidden="true" />
      {kind === "live" && "Connected"}
      {kind === "connecting" && "Connecting…"}
      {kind === "stopped" && connection.reason}
      {(kind === "reconnecting" || kind === "offline") && (
        <Countdown label={kind === "offline" ? "Offline" : "Reconnecting"} retryAt={connection.retryAt} />
      )}
    </span>
  );
}

/** Screen readers hear the label once; the seconds only tick for the eye. */
function Countdown({ label, retryAt }: { label: string; retryAt: number }) {
  const { live } = useDesk();
  return (
    <span>
      {label}
      <span aria-hidden="true"> in {live.secondsUntil(retryAt)} s</span>
    </span>
  );
}

const FEED_TONES: Record<FeedState, string> = { live: "good", simulated: "sim", stale: "warn", down: "bad" };
const FEED_WORDS: Record<FeedState, string> = {
  live: "Live prices",
  simulated: "Simulated prices",
  stale: "Stale prices",
  down: "No prices",
};

/** The feed as the server says, but never live while nothing is heard from the server. */
function FeedChip() {
  const { live } = useDesk();
  const state = useComputed((): FeedState | "unknown" => {
    const { feed } = live.state.value;
    return feed === null ? "unknown" : live.isConnected.value || feed.state === "down" ? feed.state : "stale";
  });
  const source = useComputed(() => live.state.value.feed?.source ?? "");
  const age = useComputed(() => {
    const { feedFreshMs } = live.state.value;
    const { serverNow } = live.moment();
    return feedFreshMs === null || serverNow === null ? "" : formatAge(Math.max(0, serverNow - feedFreshMs));
  });
  const feed = state.value;
  if (feed === "unknown") return null;
  return (
    <span
      class={`chip ${FEED_TONES[feed]}`}
      role="status"
      data-testid="feed-state"
      data-state={feed}
      title={`Price source: ${source.value}. The newest price is so old.`}
    >
      <span class="dot" aria-hidden="true" />
      {FEED_WORDS[feed]}
      <span class="age" aria-hidden="true">
        {age}
      </span>
    </span>
  );
}

function DegradedChip() {
  const { live } = useDesk();
  const degraded = useComputed(() => live.state.value.degraded.join(", "));
  if (degraded.value === "") return null;
  return (
    <span class="chip warn" role="status" data-testid="degraded">
      <span class="dot" aria-hidden="true" />
      Degraded: {degraded}
    </span>
  );
}

function LogoutButton() {
  const { session, toasts } = useDesk();
  const isBusy = useSignal(false);
  async function logout(): Promise<void> {
    isBusy.value = true;
    try {
      await session.logout();
    } catch (error) {
      toasts.fail(`Still logged in. ${explain(error)}`);
      isBusy.value = false;
    }
  }
  return (
    <button type="button" class="button plain small" data-testid="logout" disabled={isBusy} onClick={() => void logout()}>
      Log out
    </button>
  );
}
