import { useSignal } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";

import { Intention } from "../api/idempotency";
import { explain, explainField, isAboutFields, Problem } from "../api/problem";
import type { Closing } from "../api/resources";
import { compare, explainInvalid, formatQuantity, multiply, parse, toPlain, truncate } from "../decimal";
import type { Row } from "../stream/state";
import { useDesk } from "./context";
import { Field } from "./Field";

const PARTS = [25, 50, 75, 100] as const;

/** Close all or part of a position. The button says how much before it is pressed. */
export function ClosePanel({ row, onDone }: { row: Row; onDone(): void }) {
  const { api } = useDesk();
  const quantity = useSignal(row.quantity);
  const price = useSignal("");
  const isBusy = useSignal(false);
  const failure = useSignal<unknown>(null);
  const intention = useRef(new Intention()).current;
  const confirm = useRef<HTMLButtonElement>(null);
  useEffect(() => confirm.current?.focus(), []);

  const quantityError = explainInvalid(quantity.value) ?? explainExcess(quantity.value, row.quantity);
  const priceError = price.value === "" ? null : explainInvalid(price.value);
  const isAll = quantityError === null && compare(quantity.value, row.quantity) === 0;

  async function submit(event: Event): Promise<void> {
    event.preventDefault();
    if (isBusy.value || quantityError !== null || priceError !== null) return;
    // Without a quantity all of it is closed, also what a fill adds meanwhile; so the quantity is always said.
    const closing: Closing = { quantity: quantity.value, ...(price.value !== "" && { price: price.value }) };
    isBusy.value = true;
    failure.value = null;
    try {
      await api.closePosition(row.position_id, closing, intention.keyFor(closing));
      intention.settle();
      onDone();
    } catch (error) {
      if (error instanceof Problem && !error.isOutcomeUnknown) intention.settle();
      failure.value = error;
    } finally {
      isBusy.value = false;
    }
  }

  return (
    <tr role="row" class="close-row">
      <td role="cell" colSpan={9}>
        <form
          class="close-panel"
          aria-label={`Close ${row.symbol}`}
          onSubmit={submit}
          onKeyDown={(event) => event.key === "Escape" && onDone()}
        >
          <Field label="Quantity to close" error={quantityError ?? explainField(failure.value, "quantity")}>
            {(attributes) => (
              <input
                {...attributes}
                class="number"
                data-testid="close-quantity"
                inputMode="decimal"
                autocomplete="off"
                value={quantity}
                onInput={(event) => (quantity.value = event.currentTarget.value.trim())}
              />
            )}
          </Field>
          <div class="parts" role="group" aria-label="Part of the position">
            {PARTS.map((part) => (
              <button
                key={part}
                type="button"
                class="button small"
                onClick={() => (quantity.value = partOf(row.quantity, part))}
              >
                {part}%
              </button>
            ))}
          </div>
          <Field label="Price" hint="optional" error={priceError ?? explainField(failure.value, "price")}>
            {(attributes) => (
              <input
                {...attributes}
                class="number"
                data-testid="close-price"
                inputMode="decimal"
                autocomplete="off"
                placeholder="current"
                value={price}
                onInput={(event) => (price.value = event.currentTarget.value.trim())}
              />
            )}
          </Field>
          <button
            ref={confirm}
            type="submit"
            class="button danger"
            data-testid="close-confirm"
            disabled={isBusy.value || quantityError !== null || priceError !== null}
          >
            {isBusy.value
              ? "Closing…"
              : quantityError !== null
                ? "Close"
                : `Close ${isAll ? "all " : ""}${formatQuantity(quantity.value)}${isAll ? "" : ` of ${formatQuantity(row.quantity)}`}`}
          </button>
          {failure.value !== null && !isAboutFields(failure.value, ["quantity", "price"]) && (
            <p class="note bad" role="alert" data-testid="close-error">
              {explainOutcome(failure.value)}
            </p>
          )}
        </form>
      </td>
    </tr>
  );
}

function explainExcess(quantity: string, open: string): string | null {
  return compare(quantity, open) > 0 ? `Only ${formatQuantity(open)} is open.` : null;
}

/** A part of a quantity, with no more decimals than the server takes. */
function partOf(quantity: string, percent: number): string {
  if (percent === 100) return quantity;
  return toPlain(truncate(multiply(parse(quantity), { units: BigInt(percent), scale: 2 }), 18));
}

/** No answer is not a refusal: say so, and that asking again is safe. */
export function explainOutcome(error: unknown): string {
  const isUnknown = !(error instanceof Problem) || error.isOutcomeUnknown;
  return isUnknown ? `${explain(error)} It may have been carried out. Pressing again is safe: it is never done twice.` : explain(error);
}
