import { useComputed, useSignal } from "@preact/signals";

import { Age } from "./Age";
import { ClosePanel } from "./ClosePanel";
import { useDesk } from "./context";
import { Gain, GainPercent, Money, PriceFigure, Quantity } from "./Figure";
import { Moment } from "./Moment";
import { SideTag } from "./SideTag";

/** One open position. It follows its own row only, so the others' news do not draw it. */
export function PositionRow({ positionId }: { positionId: string }) {
  const { live } = useDesk();
  const row = useComputed(() => live.row(positionId)).value;
  const isStale = useComputed(() => {
    const current = live.row(positionId);
    return current !== undefined && live.rowIsStale(current);
  }).value;
  const isForeign = useComputed(() => {
    const { totals } = live.state.value;
    return totals !== null && live.row(positionId)?.settle_asset !== totals.currency;
  }).value;
  const isClosing = useSignal(false);
  if (row === undefined) return null;

  const ageMs = () => {
    const current = live.row(positionId);
    return current === undefined || current.mark_price === null ? null : live.rowAgeMs(current);
  };
  return (
    <>
      <tr
        role="row"
        class={isStale ? "is-stale" : ""}
        data-testid="position-row"
        data-symbol={row.symbol}
        data-side={row.side}
        data-position-id={row.position_id}
        data-stale={isStale}
      >
        <td role="cell" class="c-symbol">
          <span class="symbol">{row.symbol}</span>
          <SideTag side={row.side} />
          {row.strategy !== null && <span class="tag">{row.strategy}</span>}
        </td>
        <td role="cell" class="number c-quantity" data-label="Quantity">
          <Quantity value={row.quantity} />
        </td>
        <td role="cell" class="number c-entry" data-label="Entry">
          <PriceFigure value={row.entry_price} />
        </td>
        <td role="cell" class="number c-mark" data-label="Mark">
          <PriceFigure value={row.mark_price} testId="row-mark" flashes />
          <span class="under">
            {row.mark_price === null ? (
              <span class="badge warn">No price</span>
            ) : (
              <>
                {isStale && <span class="badge warn">Stale</span>}
                <Age ageMs={ageMs} testId="row-age" />
              </>
            )}
          </span>
        </td>
        <td role="cell" class="number c-value" data-label="Value">
          <Money value={row.market_value} testId="row-value" />
          {isForeign && <span class="under quiet">{row.settle_asset}</span>}
        </td>
        <td role="cell" class="number c-unrealized" data-label="Unrealised">
          <Gain value={row.unrealized_pnl} testId="row-unrealized" />
          <span class="under">
            <GainPercent value={row.unrealized_pnl_pct} testId="row-percent" />
          </span>
        </td>
        <td role="cell" class="number c-realized" data-label="Realised">
          <Gain value={row.realized_pnl} testId="row-realized" />
        </td>
        <td role="cell" class="number c-opened" data-label="Opened">
          <Moment at={row.opened_at} />
        </td>
        <td role="cell" class="number c-action">
          <button
            type="button"
            class="button small"
            data-testid="close-position"
            aria-expanded={isClosing}
            onClick={() => (isClosing.value = !isClosing.value)}
          >
            {isClosing.value ? "Cancel" : "Close"}
            <span class="visually-hidden"> {row.symbol}</span>
          </button>
        </td>
      </tr>
      {isClosing.value && <ClosePanel row={row} onDone={() => (isClosing.value = false)} />}
    </>
  );
}
