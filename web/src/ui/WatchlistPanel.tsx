import { useComputed, useSignal } from "@preact/signals";
import { useId } from "preact/hooks";

import { formatPrice } from "../decimal";
import { ageMs, isStale } from "../stream/freshness";
import { Age } from "./Age";
import { useDesk } from "./context";
import { PriceFigure } from "./Figure";
import { SymbolField } from "./SymbolField";

export function WatchlistPanel() {
  const { watchlist } = useDesk();
  const typed = useSignal("");
  const fieldId = useId();
  const symbols = watchlist.symbols.value;
  return (
    <section class="panel watchlist" aria-label="Watchlist">
      <h2>Watchlist</h2>
      {symbols.length === 0 && <p class="empty">Add a symbol to follow its price.</p>}
      <ul class="watch-rows">
        {symbols.map((symbol) => (
          <WatchRow key={symbol} symbol={symbol} />
        ))}
      </ul>
      <label class="visually-hidden" for={fieldId}>
        Add a symbol to the watchlist
      </label>
      <SymbolField
        attributes={{ id: fieldId }}
        testId="watchlist-add"
        placeholder="Add a symbol"
        text={typed}
        onChoose={(symbol) => {
          watchlist.add(symbol);
          typed.value = "";
        }}
      />
    </section>
  );
}

function WatchRow({ symbol }: { symbol: string }) {
  const { live, watchlist, ticketSymbol } = useDesk();
  const price = useComputed(() => live.price(symbol)).value;
  const isUnlisted = useComputed(() => {
    const { unknownSymbols, feed } = live.state.value;
    // Without the exchange nothing is known to be listed.
    return unknownSymbols.has(symbol) && feed?.state !== "down";
  }).value;
  const isOld = useComputed(() => {
    const current = live.price(symbol);
    return current !== undefined && isStale(current.isStale, current.freshMs, live.moment());
  }).value;
  return (
    <li class={isOld ? "is-stale" : ""} data-testid="watchlist-row" data-symbol={symbol} data-stale={isOld}>
      <button
        type="button"
        class="watch-symbol"
        title={`Put ${symbol} in the ticket`}
        onClick={() => (ticketSymbol.value = symbol)}
      >
        {symbol}
      </button>
      <span class="number watch-price">
        <PriceFigure value={price?.price ?? null} testId="watchlist-price" flashes />
      </span>
      <span class="under watch-quote number quiet">
        {isUnlisted
          ? "not listed"
          : price?.bid && price.ask
            ? `${formatPrice(price.bid)} / ${formatPrice(price.ask)}`
            : ""}
      </span>
      <span class="under watch-age">
        {isOld && <span class="badge warn">Stale</span>}
        <Age
          ageMs={() => {
            const current = live.price(symbol);
            return current === undefined ? null : ageMs(current.freshMs, live.moment());
          }}
          testId="watchlist-age"
        />
      </span>
      <button type="button" class="icon" aria-label={`Remove ${symbol}`} onClick={() => watchlist.remove(symbol)}>
        ×
      </button>
    </li>
  );
}
