import type { Listing } from "../stores/listing";

/** What stands below a list: that it is empty, loading, broken, or longer. */
export function ListingFoot<T>({ listing, empty }: { listing: Listing<T>; empty: string }) {
  const { items, status, error, nextCursor } = listing.state.value;
  if (status === "failed") {
    return (
      <p class="empty" role="alert">
        {error}{" "}
        <button type="button" class="button small" onClick={() => void listing.load()}>
          Try again
        </button>
      </p>
    );
  }
  if (items.length === 0) return <p class="empty">{status === "ready" ? empty : "Loading…"}</p>;
  if (nextCursor === null) return null;
  return (
    <button type="button" class="button plain wide" disabled={status === "loading"} onClick={() => void listing.more()}>
      {status === "loading" ? "Loading…" : "Load more"}
    </button>
  );
}
