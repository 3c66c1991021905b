import { useComputed, useSignal, useSignalEffect } from "@preact/signals";
import { useRef } from "preact/hooks";

import { Intention } from "../api/idempotency";
import { explainField, isAboutFields, Problem } from "../api/problem";
import type { NewPosition } from "../api/resources";
import { explainInvalid, format, formatPrice, formatQuantity, multiply, parse } from "../decimal";
import { ageMs, isStale } from "../stream/freshness";
import { Age } from "./Age";
import { explainOutcome } from "./ClosePanel";
import { useDesk } from "./context";
import { Field } from "./Field";
import { SymbolField } from "./SymbolField";

type Side = NewPosition["side"];
const SIDES: readonly Side[] = ["long", "short"];

/** Open a position, or add to one that stands. */
export function Ticket() {
  const { api, ticketSymbol } = useDesk();
  const symbol = useSignal("");
  const side = useSignal<Side>("long");
  const quantity = useSignal("");
  const price = useSignal("");
  const fee = useSignal("");
  const strategy = useSignal("");
  const isBusy = useSignal(false);
  const isChecked = useSignal(false);
  const failure = useSignal<unknown>(null);
  const done = useSignal<string | null>(null);
  const intention = useRef(new Intention()).current;
  // A click in the watchlist fills the ticket.
  useSignalEffect(() => {
    if (ticketSymbol.value !== "") symbol.value = ticketSymbol.value;
  });

  const invalid = {
    symbol: symbol.value === "" ? "Choose a symbol." : null,
    quantity: explainInvalid(quantity.value),
    price: price.value === "" ? null : explainInvalid(price.value),
    fee: fee.value === "" ? null : explainInvalidFee(fee.value),
  };
  const errorOf = (field: keyof typeof invalid): string | null =>
    (isChecked.value ? invalid[field] : null) ?? explainField(failure.value, field);

  function edit(change: () => void): void {
    change();
    failure.value = null;
    done.value = null;
  }

  async function submit(event: Event): Promise<void> {
    event.preventDefault();
    isChecked.value = true;
    if (isBusy.value || Object.values(invalid).some((error) => error !== null)) return;
    const position: NewPosition = {
      symbol: symbol.value,
      side: side.value,
      quantity: quantity.value,
      ...(price.value !== "" && { price: price.value }),
      ...(fee.value !== "" && { fee: fee.value }),
      ...(strategy.value !== "" && { strategy: strategy.value }),
    };
    isBusy.value = true;
    failure.value = null;
    done.value = null;
    try {
      await api.openPosition(position, intention.keyFor(position));
      intention.settle();
      done.value = `Recorded: ${position.side} ${formatQuantity(position.quantity)} ${position.symbol}.`;
      quantity.value = price.value = fee.value = "";
      isChecked.value = false;
    } catch (error) {
      if (error instanceof Problem && !error.isOutcomeUnknown) intention.settle();
      failure.value = error;
    } finally {
      isBusy.value = false;
    }
  }

  return (
    <section class="panel ticket" aria-label="Open a position">
      <h2>Open a position</h2>
      <form onSubmit={submit} noValidate data-testid="open-form">
        <Field label="Symbol" error={errorOf("symbol")}>
          {(attributes) => (
            <SymbolField
              attributes={attributes}
              testId="open-symbol"
              placeholder="Search, e.g. BTC"
              text={symbol}
              onChoose={(chosen) => edit(() => (ticketSymbol.value = chosen))}
              onType={() => edit(() => (ticketSymbol.value = ""))}
            />
          )}
        </Field>
        <fieldset class="sides" data-testid="open-side">
          <legend class="visually-hidden">Side</legend>
          {SIDES.map((option) => (
            <label key={option} class={`side-option ${option}`}>
              <input
                type="radio"
                name="side"
                value={option}
                data-testid={`open-side-${option}`}
                checked={side.value === option}
                onChange={() => edit(() => (side.value = option))}
              />
              <span>{option === "long" ? "Long" : "Short"}</span>
            </label>
          ))}
        </fieldset>
        <div class="pair">
          <Field label="Quantity" error={errorOf("quantity")}>
            {(attributes) => (
              <input
                {...attributes}
                class="number"
                data-testid="open-quantity"
                inputMode="decimal"
                autocomplete="off"
                placeholder="0.00"
                value={quantity}
                onInput={(event) => edit(() => (quantity.value = event.currentTarget.value.trim()))}
              />
            )}
          </Field>
          <Field label="Price" hint="optional" error={errorOf("price")}>
            {(attributes) => (
              <input
                {...attributes}
                class="number"
                data-testid="open-price"
                inputMode="decimal"
                autocomplete="off"
                placeholder="current"
                value={price}
                onInput={(event) => edit(() => (price.value = event.currentTarget.value.trim()))}
              />
            )}
          </Field>
        </div>
        <details>
          <summary>Fee and strategy</summary>
          <div class="pair">
            <Field label="Fee" hint="optional" error={errorOf("fee")}>
              {(attributes) => (
                <input
                  {...attributes}
                  class="number"
                  data-testid="open-fee"
                  inputMode="decimal"
                  autocomplete="off"
                  placeholder="0.00"
                  value={fee}
                  onInput={(event) => edit(() => (fee.value = event.currentTarget.value.trim()))}
                />
              )}
            </Field>
            <Field label="Strategy" hint="optional" error={explainField(failure.value, "strategy")}>
              {(attributes) => (
                <input
                  {...attributes}
                  data-testid="open-strategy"
                  autocomplete="off"
                  maxLength={64}
                  value={strategy}
                  onInput={(event) => edit(() => (strategy.value = event.currentTarget.value.trim()))}
                />
              )}
            </Field>
          </div>
        </details>
        <Estimate quantity={quantity.value} price={price.value} />
        <button type="submit" class={`button wide ${side.value}`} data-testid="open-submit" disabled={isBusy}>
          {isBusy.value ? "Recording…" : side.value === "long" ? "Open long" : "Open short"}
        </button>
        <div aria-live="polite">
          {done.value !== null && (
            <p class="note good" data-testid="open-done">
              {done.value}
            </p>
          )}
        </div>
        {failure.value !== null && !isAboutFields(failure.value, ["symbol", "quantity", "price", "fee", "strategy"]) && (
          <p class="note bad" role="alert" data-testid="open-error">
            {explainOutcome(failure.value)}
          </p>
        )}
      </form>
    </section>
  );
}

/** What the position would be worth: at the typed price, or at the current one and its age. */
function Estimate({ quantity, price }: { quantity: string; price: string }) {
  const { live, ticketSymbol } = useDesk();
  const current = useComputed(() => live.price(ticketSymbol.value)).value;
  const isOld = useComputed(() => {
    const now = live.price(ticketSymbol.value);
    return now !== undefined && isStale(now.isStale, now.freshMs, live.moment());
  }).value;
  const isOwnPrice = price !== "" && explainInvalid(price) === null;
  const used = isOwnPrice ? price : (current?.price ?? null);
  if (used === null || (!isOwnPrice && ticketSymbol.value === "")) return null;
  const value = explainInvalid(quantity) === null ? multiply(parse(quantity), parse(used)) : null;
  return (
    <p class="estimate">
      <span class="quiet">{isOwnPrice ? "At your price" : "At the current price"}</span>
      <span class="number">
        {formatPrice(used)}
        {!isOwnPrice && (
          <>
            {" "}
            {isOld && <span class="badge warn">Stale</span>}{" "}
            <Age
              ageMs={() => {
                const now = live.price(ticketSymbol.value);
                return now === undefined ? null : ageMs(now.freshMs, live.moment());
              }}
            />
          </>
        )}
      </span>
      {value !== null && (
        <>
          <span class="quiet">Value</span>
          <span class="number" data-testid="open-value">
            {format(value, { places: 2 })}
          </span>
        </>
      )}
    </p>
  );
}

/** A fee may be zero, or less than that where the exchange pays one. */
function explainInvalidFee(text: string): string | null {
  return /^-?0+(\.0+)?$/.test(text) ? null : explainInvalid(text.replace(/^-/, ""));
}
